//! The command line: the only room that knows flag names.
//!
//! Turns arguments into [`Flags`] for the configuration, and misuse into status 64. Invariant: no error repeats anything
//! that looks like a key. Reads no file and no variable, and prints nothing: texts go back to `main`.

mod arguments;
mod refusals;
mod service;
mod spool;
#[cfg(test)]
mod tests;

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser};
use url::Url;

use crate::config::{Action, Environment, Flags, Layer, Order, Task, build, parse_base_url};
use crate::exit::{Stop, help_text};
use arguments::{Command, InputArgs, OutputArgs, ReportArgs, ResumeArgs, separator};
use refusals::{SERVICELESS, daemon_refuses, is_stray, refuse_keys, refuse_strays};
use service::{LimitArgs, ServiceArgs};
use spool::DaemonArgs;

/// Arguments that may name a subcommand.
const SUBCOMMANDS: [&str; 8] = ["check", "models", "journal", "merge", "daemon", "status", "submit", "help"];

/// What `--help` shows before the exit table.
const EXAMPLES: &str = "\
Examples:
  Ask one question:
    echo 'Why is the sky blue?' | anvil-filter -m llama3.1:latest --input text --format text
  Answer a file of prompts; whatever stops it, the same line goes on where it was:
    anvil-filter -m llama3.1:latest -o completions.jsonl prompts.jsonl
  Answer what comes through a pipe, and keep what failed:
    head prompts.jsonl | anvil-filter -m llama3.1:latest --failed again.jsonl > completions.jsonl
  Check the set-up, then every line, and send nothing:
    anvil-filter check && anvil-filter --dry-run -m llama3.1:latest prompts.jsonl";

const USAGE: &str = "\
anvil-filter [OPTIONS] [FILE]...
       anvil-filter check|models [OPTIONS]
       anvil-filter journal JOURNAL [OPTIONS]
       anvil-filter merge SHARD... [OPTIONS]
       anvil-filter daemon|status --spool DIR... [OPTIONS]
       anvil-filter submit --spool DIR FILE... [OPTIONS]";

const SHORT_USAGE: &str = "\
anvil-filter sends one prompt per input line and writes one completion per line.

  anvil-filter -m MODEL -o completions.jsonl prompts.jsonl
  echo 'Why is the sky blue?' | anvil-filter -m MODEL --input text --format text

The first one, run again after a stop, goes on where it was. `anvil-filter check`
tries the set-up, `anvil-filter models` lists models, `anvil-filter --help` says the rest.";

/// Prompts in, completions out, through AnvilGPT or any OpenAI-compatible chat API
#[derive(Debug, Parser)]
#[command(name = "anvil-filter", bin_name = "anvil-filter", version, max_term_width = 100)]
#[command(override_usage = USAGE)]
#[command(after_help = help_text(), after_long_help = format!("{EXAMPLES}\n\n{}", help_text()))]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

/// Every option of a run.
#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten, next_help_heading = "Input")]
    input: InputArgs,
    #[command(flatten, next_help_heading = "Output")]
    output: OutputArgs,
    #[command(flatten, next_help_heading = "Resuming")]
    resume: ResumeArgs,
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
    if let Some(cli) = parse_run(&arguments) {
        cli.refuse_contradictions().map_err(CliExit::Usage)?;
        return Ok(cli);
    }
    let mut command = command(&arguments);
    let is_daemon = arguments.iter().any(|argument| argument == "daemon");
    let told = |error: clap::Error| match daemon_refuses(&error).filter(|_| is_daemon) {
        Some(stop) => CliExit::Usage(stop),
        None => cli_exit(error),
    };
    let matches = command.try_get_matches_from_mut(arguments).map_err(told)?;
    let cli = Cli::from_arg_matches(&matches).map_err(cli_exit)?;
    refuse_strays(&command, &matches).map_err(CliExit::Usage)?;
    cli.refuse_contradictions().map_err(CliExit::Usage)?;
    Ok(cli)
}

/// Parses the command line of a run that is right and asks for no help. To define the subcommands, with the options that
/// all of them have, takes longer than a short run; whatever is not plainly a run goes that way.
fn parse_run(arguments: &[OsString]) -> Option<Cli> {
    let asks_for_help = |argument: &OsString| argument == "--help" || argument == "-h";
    if names_subcommand(arguments) || arguments.iter().any(asks_for_help) {
        return None;
    }
    let command = RunArgs::augment_args(clap::Command::new("anvil-filter").disable_help_flag(true));
    let matches = command.try_get_matches_from(arguments).ok()?;
    Some(Cli { command: None, run: RunArgs::from_arg_matches(&matches).ok()? })
}

fn names_subcommand(arguments: &[OsString]) -> bool {
    arguments.iter().skip(1).any(|argument| SUBCOMMANDS.iter().any(|name| argument == name))
}

/// The definition of the command line, as it is parsed and shown.
fn command(arguments: &[OsString]) -> clap::Command {
    let mut command = Cli::command();
    if !names_subcommand(arguments) {
        return command;
    }
    command.build();
    // What these subcommands do not take is refused when it is there; their own help need not tell of it.
    SERVICELESS.iter().fold(command, |command, name| {
        let is_hidden = |argument: &clap::Arg| argument.is_global_set() && is_stray(name, argument);
        let hide = |argument: clap::Arg| if is_hidden(&argument) { argument.hide(true) } else { argument };
        command.mut_subcommand(name, |subcommand| subcommand.mut_args(hide))
    })
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
        self.command.is_none() && self.run.input.files.is_empty()
    }

    /// What is asked for. A run has its configuration: files and environment with these flags on top; what works on
    /// journals alone needs neither and reads neither.
    pub fn into_task(mut self, environment: &Environment) -> Result<Task, Stop> {
        let verbosity = self.run.report.report().verbosity;
        let action = match self.command.take() {
            Some(Command::Journal(arguments)) => return Ok(Task::Journal(arguments.into_task(verbosity))),
            Some(Command::Merge(arguments)) => return Ok(Task::Merge(arguments.into_task(verbosity))),
            Some(Command::Status(arguments)) => return Ok(Task::Status(arguments.into_task())),
            Some(Command::Submit(arguments)) => return Ok(Task::Submit(arguments.into_task(verbosity))),
            Some(Command::Daemon(arguments)) => return self.into_daemon(*arguments, environment),
            Some(Command::Check) => Action::Check,
            Some(Command::Models) => Action::Models,
            None if self.run.input.dry_run => Action::DryRun,
            None => Action::Filter,
        };
        let config = build(self.into_flags(action)?, environment)?;
        Ok(Task::Run(Box::new(config)))
    }

    fn into_daemon(mut self, arguments: DaemonArgs, environment: &Environment) -> Result<Task, Stop> {
        let daemon = arguments.split(&mut self);
        let mut flags = self.into_flags(Action::Daemon)?;
        flags.layer.daemon = daemon;
        Ok(Task::Run(Box::new(build(flags, environment)?)))
    }

    fn into_flags(mut self, action: Action) -> Result<Flags, Stop> {
        Ok(Flags {
            action,
            report: self.run.report.report(),
            config_file: self.run.service.config.take(),
            files: std::mem::take(&mut self.run.input.files),
            separator: separator(self.run.input.null),
            merge: self.run.output.merge.take(),
            failed: self.run.output.failed.take(),
            meta: self.run.output.meta.take(),
            order: if self.run.output.unordered { Order::Completion } else { Order::Input },
            allow_failed: self.run.output.allow_failed,
            max_failed: self.run.output.max_failed,
            output: self.run.resume.output.take(),
            journal: self.run.resume.journal.take(),
            fresh: self.run.resume.fresh,
            retry_failed: self.run.resume.retry_failed,
            force: self.run.resume.force,
            discard_journal: self.run.resume.discard_journal,
            deadline: self.run.resume.deadline.take(),
            shard: self.run.resume.shard,
            pilot: self.run.input.pilot,
            base_urls: base_urls(&self.run.service.base_url)?,
            api_key_files: std::mem::take(&mut self.run.service.api_key_file),
            api_key_command: self.run.service.api_key_command.take(),
            layer: self.into_layer(),
        })
    }

    fn into_layer(self) -> Layer {
        let RunArgs { input, output, service, limits, .. } = self.run;
        Layer {
            model: service.model,
            system: input.system,
            dialect: service.dialect,
            upstream: service.how.upstream,
            concurrency: limits.bounds.concurrency,
            fixed: switch(limits.bounds.fixed),
            rate: Some(limits.bounds.rate).filter(|rates| !rates.is_empty()),
            tokens_per_min: limits.bounds.tokens_per_min,
            require_model: switch(service.how.require_model),
            retry_truncated: switch(service.how.retry_truncated),
            ca_cert: Some(service.ca_cert).filter(|files| !files.is_empty()),
            format: output.format,
            input: input.input,
            max_line_bytes: limits.bounds.max_line_bytes,
            window_bytes: limits.bounds.window_bytes,
            max_reply_bytes: limits.bounds.max_reply_bytes,
            max_outage: limits.max_outage,
            auth_wait: limits.auth_wait,
            max_retry_delay: limits.clocks.max_retry_delay,
            params: input.params,
            timeouts: limits.clocks.timeouts(),
            ..Layer::default()
        }
    }
}

/// A switch can be set and not unset: where it is not given, the configuration files decide.
fn switch(given: bool) -> Option<bool> {
    given.then_some(true)
}

fn base_urls(texts: &[String]) -> Result<Vec<Url>, Stop> {
    let named = |stop: Stop| Stop { message: format!("--base-url: {}", stop.message), ..stop };
    texts.iter().map(|text| parse_base_url(text).map_err(named)).collect()
}
