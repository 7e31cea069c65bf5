//! The command line: the only room that knows flag names.
//!
//! Turns arguments into [`Flags`] for the configuration, and misuse into status 64. Invariant: no error repeats anything
//! that looks like a key. Reads no file and no variable, and prints nothing: texts go back to `main`.

mod arguments;
mod refusals;
#[cfg(test)]
mod tests;

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser};

use crate::config::{Action, Config, Environment, Flags, Layer, Order, Separator, build, parse_base_url};
use crate::exit::{Stop, help_text};
use arguments::{Command, InputArgs, LimitArgs, OutputArgs, ReportArgs, ServiceArgs};
use refusals::{refuse_keys, refuse_strays};

/// What `--help` shows before the exit table.
const EXAMPLES: &str = "\
Examples:
  Ask one question:
    echo 'Why is the sky blue?' | anvil-filter -m llama3.1:latest --input text --format text
  Answer a file of prompts, keep what failed, and run it again:
    anvil-filter -m llama3.1:latest --failed again.jsonl prompts.jsonl > completions.jsonl
  Check the set-up, then every line, and send nothing:
    anvil-filter check && anvil-filter --dry-run -m llama3.1:latest prompts.jsonl";

const USAGE: &str = "\
anvil-filter [OPTIONS] [FILE]...
       anvil-filter check|models [OPTIONS]";

const SHORT_USAGE: &str = "\
anvil-filter sends one prompt per input line and writes one completion per line.

  anvil-filter -m MODEL prompts.jsonl > completions.jsonl
  echo 'Why is the sky blue?' | anvil-filter -m MODEL --input text --format text

Try the set-up with `anvil-filter check`, list models with `anvil-filter models`;
`anvil-filter --help` says the rest.";

/// Prompts in, completions out, through AnvilGPT or any OpenAI-compatible chat API
#[derive(Debug, Parser)]
#[command(name = "anvil-filter", bin_name = "anvil-filter", version, max_term_width = 100)]
#[command(override_usage = USAGE)]
#[command(after_help = help_text(), after_long_help = format!("{EXAMPLES}\n\n{}", help_text()))]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten, next_help_heading = "Input")]
    input: InputArgs,
    #[command(flatten, next_help_heading = "Output")]
    output: OutputArgs,
    #[command(flatten, next_help_heading = "Service")]
    service: ServiceArgs,
    #[command(flatten, next_help_heading = "Limits and clocks")]
    limits: LimitArgs,
    #[command(flatten, next_help_heading = "Reporting")]
    report: ReportArgs,
}

/// Why there is nothing to run.
#[derive(Debug)]
pub enum CliExit {
    /// Help or version was asked for: print this to stdout as it is, and leave with 0.
    Help(String),
    /// The command line makes no sense: tell it on stderr, and leave with its status, 64.
    Usage(Stop),
}

/// About six lines for somebody who started the program on a terminal with nothing to read.
pub fn short_usage() -> &'static str {
    SHORT_USAGE
}

/// Parses the arguments, of which the first is the program's name.
pub fn parse<I>(arguments: I) -> Result<Cli, CliExit>
where
    I: IntoIterator,
    I::Item: Into<OsString>,
{
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    refuse_keys(&arguments).map_err(CliExit::Usage)?;
    let mut command = Cli::command();
    let matches = command.try_get_matches_from_mut(arguments).map_err(cli_exit)?;
    let cli = Cli::from_arg_matches(&matches).map_err(cli_exit)?;
    refuse_strays(&command, &matches).map_err(CliExit::Usage)?;
    cli.refuse_contradictions().map_err(CliExit::Usage)?;
    Ok(cli)
}

fn cli_exit(error: clap::Error) -> CliExit {
    let text = error.render().to_string();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return CliExit::Help(text);
    }
    // What somebody pasted must not steer the terminal.
    let text: String = text
        .chars()
        .map(|character| if character.is_control() && character != '\n' { '?' } else { character })
        .collect();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let (message, advice) = text.split_once("\n\n").unwrap_or((text, ""));
    let tips = advice.lines().map(str::trim).filter(|line| line.starts_with("tip:"));
    let mut way_out: String = tips.map(|tip| format!("{tip}\n")).collect();
    if error.kind() == ErrorKind::ArgumentConflict {
        way_out.push_str("leave one of the two out\n");
    }
    way_out.push_str("`anvil-filter --help` lists every option");
    CliExit::Usage(Stop::usage(message.trim_end()).way_out(way_out))
}

impl Cli {
    /// Whether request lines would be read from stdin because nothing else was named.
    pub fn reads_stdin_unasked(&self) -> bool {
        self.command.is_none() && self.input.files.is_empty()
    }

    /// The configuration of this run: files and environment with these flags on top.
    pub fn into_config(self, environment: &Environment) -> Result<Config, Stop> {
        build(self.into_flags()?, environment)
    }

    fn action(&self) -> Action {
        match self.command {
            Some(Command::Check) => Action::Check,
            Some(Command::Models) => Action::Models,
            None if self.input.dry_run => Action::DryRun,
            None => Action::Filter,
        }
    }

    fn into_flags(mut self) -> Result<Flags, Stop> {
        Ok(Flags {
            action: self.action(),
            report: self.report.report(),
            config_file: self.service.config.take(),
            files: std::mem::take(&mut self.input.files),
            separator: if self.input.null { Separator::Nul } else { Separator::Newline },
            merge: self.output.merge.take(),
            failed: self.output.failed.take(),
            meta: self.output.meta.take(),
            order: if self.output.unordered { Order::Completion } else { Order::Input },
            allow_failed: self.output.allow_failed,
            max_failed: self.output.max_failed,
            layer: self.into_layer()?,
            ..Flags::default()
        })
    }

    fn into_layer(self) -> Result<Layer, Stop> {
        let Cli { input, output, service, limits, .. } = self;
        let base_url = service.base_url.map(|text| parse_base_url(&text)).transpose();
        let named = |stop: Stop| Stop { message: format!("--base-url: {}", stop.message), ..stop };
        Ok(Layer {
            base_url: base_url.map_err(named)?,
            model: service.model,
            system: input.system,
            dialect: service.dialect,
            upstream: service.upstream,
            concurrency: limits.concurrency,
            api_key_file: service.api_key_file,
            ca_cert: Some(service.ca_cert).filter(|files| !files.is_empty()),
            format: output.format,
            input: input.input,
            max_line_bytes: limits.max_line_bytes,
            window_bytes: limits.window_bytes,
            max_reply_bytes: limits.max_reply_bytes,
            max_outage: limits.max_outage,
            auth_wait: limits.auth_wait,
            max_retry_delay: limits.max_retry_delay,
            params: input.params,
            timeouts: limits.timeouts(),
            ..Layer::default()
        })
    }
}
