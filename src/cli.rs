//! The command line: the only file that knows flag names.
//!
//! Turns arguments into [`Flags`] for the configuration, and misuse into status 64. Invariant: no error repeats anything
//! that looks like a key. Reads no file and no variable, and prints nothing: texts go back to `main`.

use std::ffi::OsString;
use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use serde_json::value::RawValue;

use crate::api::Upstream;
use crate::api::token::looks_like_key;
use crate::config::{
    Action, Allowance, Config, DialectChoice, Environment, Flags, Layer, Order, Report, Separator, Timeouts, Verbosity,
    build, parse_allowance, parse_base_url, parse_bytes, parse_duration, parse_param,
};
use crate::exit::{Stop, help_text};
use crate::line::escape::shown;
use crate::line::{Format, InputForm};

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

/// What to do about a key on the command line.
const KEY_WAYS: &str = "\
every user of this machine can read it there; treat it as known and have a new one made. Instead:
  export ANVILGPT_API_KEY=…
  --api-key-file FILE, with the key in a file of mode 0600, or in a pipe";

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

#[derive(Clone, Copy, Debug, Subcommand)]
enum Command {
    /// Try configuration, connection, token and model, and say at the first failure what to do
    Check,
    /// List the models that the token may use
    Models,
}

#[derive(Debug, Args)]
struct InputArgs {
    /// Files of request lines, read in order; - is standard input [default: -]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// What a line is: JSON, or plain text as one prompt [default: json]
    #[arg(long, value_name = "FORM")]
    input: Option<InputForm>,
    /// Records end with NUL instead of a line feed, in input and in text output
    #[arg(short = '0', long)]
    null: bool,
    /// System prompt for lines that have none
    #[arg(short, long, value_name = "TEXT")]
    system: Option<String>,
    /// Parameter for lines that do not set it, for example temperature=0.2; repeatable
    #[arg(short = 'p', long = "param", value_name = "KEY=JSON", value_parser = parse_param)]
    params: Vec<(String, Box<RawValue>)>,
    /// Validate every line and show what would be sent; send nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct OutputArgs {
    /// Form of an output line [default: completion, and batch for a batch line]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Write the input object with the answer in FIELD [default FIELD: completion]
    #[arg(long, value_name = "FIELD", num_args = 0..=1, require_equals = true, default_missing_value = "completion")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    merge: Option<String>,
    /// Collect the input lines that failed, ready to be piped in again
    #[arg(long, value_name = "FILE")]
    failed: Option<PathBuf>,
    /// Write completions as they come, not in input order
    #[arg(long)]
    unordered: bool,
    /// Write the summary of the run as JSON
    #[arg(long, value_name = "FILE")]
    meta: Option<PathBuf>,
    /// Exit with 0 although up to so many lines, or a share such as 5%, failed
    #[arg(long, value_name = "N|P%", value_parser = parse_allowance)]
    allow_failed: Option<Allowance>,
    /// Stop early when more lines, or a larger share, failed
    #[arg(long, value_name = "N|P%", value_parser = parse_allowance)]
    max_failed: Option<Allowance>,
}

#[derive(Debug, Args)]
struct ServiceArgs {
    /// Model for lines that name none [env: ANVILGPT_MODEL]
    #[arg(short, long, value_name = "NAME", global = true, value_parser = NonEmptyStringValueParser::new())]
    model: Option<String>,
    /// Base URL of the API [env: ANVILGPT_BASE_URL] [default: AnvilGPT's]
    #[arg(long, value_name = "URL", global = true)]
    base_url: Option<String>,
    /// File or pipe with the key; the key itself may stand in ANVILGPT_API_KEY, never here
    #[arg(long, value_name = "FILE", global = true)]
    api_key_file: Option<PathBuf>,
    /// PEM file with further certificates to trust; repeatable
    #[arg(long, value_name = "FILE", global = true)]
    ca_cert: Vec<PathBuf>,
    /// What the service speaks; auto asks it [default: auto]
    #[arg(long, value_name = "DIALECT", global = true)]
    dialect: Option<DialectChoice>,
    /// Whether replies come as a stream or whole [default: stream]
    #[arg(long, value_name = "HOW")]
    upstream: Option<Upstream>,
    /// Read this configuration file, too
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct LimitArgs {
    /// Requests in flight at once [default: 4]
    #[arg(short = 'j', long, value_name = "N")]
    concurrency: Option<NonZeroUsize>,
    /// Longest input line [default: 16M]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, hide_short_help = true)]
    max_line_bytes: Option<usize>,
    /// Most that waits to be written in order [default: 64M]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, hide_short_help = true)]
    window_bytes: Option<usize>,
    /// Longest reply [default: 64M]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, hide_short_help = true)]
    max_reply_bytes: Option<usize>,
    /// How long an outage is waited out [default: 30m]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    max_outage: Option<Duration>,
    /// How long to wait for a new key when the old one is refused [default: 30m]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, hide_short_help = true)]
    auth_wait: Option<Duration>,
    /// Longest pause between two attempts [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, hide_short_help = true)]
    max_retry_delay: Option<Duration>,
    /// Time to connect [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, hide_short_help = true, global = true)]
    connect_timeout: Option<Duration>,
    /// Time until a reply begins: queues and cold loads are in it [default: 900s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, hide_short_help = true, global = true)]
    first_token_timeout: Option<Duration>,
    /// Time between two chunks of a reply [default: 120s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, hide_short_help = true, global = true)]
    chunk_timeout: Option<Duration>,
    /// Time for a whole reply that is not streamed [default: 900s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, hide_short_help = true, global = true)]
    reply_timeout: Option<Duration>,
    /// Time for requests in flight to finish after a signal [default: 25s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, hide_short_help = true)]
    drain_timeout: Option<Duration>,
}

#[derive(Debug, Args)]
struct ReportArgs {
    /// Report progress even when stderr is not a terminal
    #[arg(long, conflicts_with = "quiet")]
    progress: bool,
    /// Report errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Report more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
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

/// Refuses keys before the parser sees them, so that it cannot quote them.
fn refuse_keys(arguments: &[OsString]) -> Result<(), Stop> {
    for argument in arguments.iter().skip(1) {
        let text = argument.to_string_lossy();
        let (name, value) = text.split_once('=').unwrap_or((&text, &text));
        let plain = name.replace(['-', '_'], "").to_ascii_lowercase();
        let asks_for_key = name.starts_with("--")
            && name != "--api-key-file"
            && (plain.starts_with("apikey")
                || ["key", "token", "bearer", "auth", "apitoken"].contains(&plain.as_str()));
        if asks_for_key || looks_like_key(value) || looks_like_key(&text) {
            return Err(Stop::usage("never put a key on the command line").way_out(KEY_WAYS));
        }
    }
    Ok(())
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

/// `check` and `models` send no lines: options about lines beside them are a mistake.
fn refuse_strays(command: &clap::Command, matches: &ArgMatches) -> Result<(), Stop> {
    let Some(subcommand) = matches.subcommand_name() else {
        return Ok(());
    };
    let is_stray = |argument: &&clap::Arg| {
        let id = argument.get_id().as_str();
        !argument.is_global_set() && matches.value_source(id) == Some(ValueSource::CommandLine)
    };
    match command.get_arguments().find(is_stray) {
        None => Ok(()),
        Some(stray) => {
            let name = stray.get_long().map_or("FILE".to_owned(), |long| format!("--{long}"));
            Err(Stop::usage(format!("`{subcommand}` takes no {name}"))
                .way_out(format!("leave {name} out; a file named {subcommand} is written ./{subcommand}")))
        }
    }
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

    fn refuse_contradictions(&self) -> Result<(), Stop> {
        if let (Some(_), Some(format)) = (&self.output.merge, self.output.format)
            && format != Format::Completion
        {
            return Err(Stop::usage("--merge writes the input object, so --format cannot choose another form")
                .way_out("leave one of the two out"));
        }
        self.refuse_overwriting("--failed", self.output.failed.as_deref())?;
        self.refuse_overwriting("--meta", self.output.meta.as_deref())?;
        match (&self.output.failed, &self.output.meta) {
            (Some(failed), Some(meta)) if is_same_file(failed, meta) => {
                Err(Stop::usage(format!("--failed and --meta both name {}", shown(failed)))
                    .way_out("name two different files"))
            }
            _ => Ok(()),
        }
    }

    fn refuse_overwriting(&self, flag: &str, output: Option<&Path>) -> Result<(), Stop> {
        let stdin = Path::new("/dev/stdin");
        let named = self.input.files.iter().map(PathBuf::as_path);
        let unasked = self.reads_stdin_unasked().then_some(stdin);
        let mut inputs = named.map(|file| if file == Path::new("-") { stdin } else { file }).chain(unasked);
        match output {
            Some(output) if inputs.any(|input| is_same_file(input, output)) => {
                Err(Stop::usage(format!("{flag} {} is an input, and would overwrite it", shown(output)))
                    .way_out(format!("name another file after {flag}")))
            }
            _ => Ok(()),
        }
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

impl LimitArgs {
    fn timeouts(&self) -> Timeouts {
        Timeouts {
            connect: self.connect_timeout,
            first_token: self.first_token_timeout,
            chunk: self.chunk_timeout,
            reply: self.reply_timeout,
            drain: self.drain_timeout,
        }
    }
}

impl ReportArgs {
    fn report(&self) -> Report {
        let verbosity = match self.verbose {
            0 if self.quiet => Verbosity::Quiet,
            0 => Verbosity::Normal,
            1 => Verbosity::Verbose,
            _ => Verbosity::Debug,
        };
        Report { verbosity, progress: self.progress }
    }
}

/// Whether two names mean one file: the same name, or the same inode of a regular file.
fn is_same_file(left: &Path, right: &Path) -> bool {
    let identity = |path: &Path| {
        let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        Some((metadata.dev(), metadata.ino()))
    };
    left == right || identity(left).is_some_and(|left| Some(left) == identity(right))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::{Clocks, InputFile, Limits};
    use crate::exit::{EXITS, Exit};
    use std::collections::HashMap;

    fn parsed(line: &[&str]) -> Result<Cli, CliExit> {
        parse([&["anvil-filter"], line].concat())
    }

    fn config(line: &[&str]) -> Config {
        let environment = Environment::new(HashMap::new(), PathBuf::from("/nonexistent/config.toml"));
        let line = [&["--base-url=http://localhost:1"], line].concat();
        parsed(&line).unwrap().into_config(&environment).unwrap()
    }

    fn refused(line: &[&str]) -> String {
        match parsed(line) {
            Err(CliExit::Usage(stop)) => {
                assert_eq!(stop.exit, Exit::Usage);
                assert!(stop.way_out.is_some(), "{line:?} has no way out");
                stop.to_string()
            }
            other => panic!("{line:?} was not refused: {other:?}"),
        }
    }

    fn help(flag: &str) -> String {
        match parsed(&[flag]) {
            Err(CliExit::Help(text)) => text,
            other => panic!("{flag}: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_arrives() {
        let config = config(&[
            "-m",
            "llama",
            "-s",
            "short",
            "-p",
            "seed=1",
            "-p",
            "stop=\"a\"",
            "--dialect",
            "open-webui",
            "--upstream",
            "whole",
            "-j",
            "9",
            "--input",
            "text",
            "-0",
            "--format",
            "raw",
            "--failed",
            "f",
            "--unordered",
            "--max-line-bytes",
            "1M",
            "--window-bytes",
            "2k",
            "--max-reply-bytes",
            "3",
            "--max-outage",
            "1s",
            "--auth-wait",
            "2s",
            "--connect-timeout",
            "3s",
            "--first-token-timeout",
            "4s",
            "--chunk-timeout",
            "5s",
            "--reply-timeout",
            "6s",
            "--drain-timeout",
            "7s",
            "--max-retry-delay",
            "8s",
            "--allow-failed",
            "1",
            "--max-failed",
            "5%",
            "--meta",
            "m",
            "--progress",
            "-vv",
            "a",
            "-",
            "b",
        ]);
        let seconds = Duration::from_secs;
        assert_eq!(config.action, Action::Filter);
        assert_eq!(config.defaults.model.as_deref(), Some("llama"));
        assert_eq!(config.defaults.system.as_deref(), Some("short"));
        let params: Vec<_> = config.defaults.params.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(params, ["seed=1", "stop=\"a\""]);
        assert_eq!(config.service.dialect, Some(crate::api::Dialect::OpenWebUi));
        assert_eq!(config.service.upstream, Upstream::Whole);
        assert_eq!(
            config.limits,
            Limits {
                concurrency: NonZeroUsize::new(9).unwrap(),
                line_bytes_max: 1 << 20,
                window_bytes_max: 2048,
                reply_bytes_max: 3,
            }
        );
        assert_eq!(
            config.clocks,
            Clocks {
                outage_max: seconds(1),
                auth_wait: seconds(2),
                connect: seconds(3),
                first_token: seconds(4),
                between_chunks: seconds(5),
                whole_reply: seconds(6),
                drain: seconds(7),
                retry_delay_max: seconds(8),
            }
        );
        let path = |name: &str| InputFile::Path(PathBuf::from(name));
        assert_eq!(config.input.files, [path("a"), InputFile::Stdin, path("b")]);
        assert_eq!((config.input.form, config.input.separator), (InputForm::Text, Separator::Nul));
        let output = config.output;
        assert_eq!((output.format, output.order), (Some(Format::Raw), Order::Completion));
        assert_eq!((output.failed, output.meta), (Some("f".into()), Some("m".into())));
        assert_eq!(output.allow_failed, Some(Allowance::Lines(1)));
        assert_eq!(output.max_failed, Some(Allowance::Percent(5.0)));
        assert_eq!(config.report, Report { verbosity: Verbosity::Debug, progress: true });
    }

    #[test]
    fn without_flags_the_documented_defaults_hold() {
        let config = config(&[]);
        assert_eq!((config.limits, config.clocks), (Limits::default(), Clocks::default()));
        assert_eq!(config.input.files, [InputFile::Stdin]);
        assert_eq!(config.output, Default::default());
        assert!(parsed(&[]).unwrap().reads_stdin_unasked());
        assert!(!parsed(&["-"]).unwrap().reads_stdin_unasked());
        assert!(!parsed(&["check"]).unwrap().reads_stdin_unasked());
    }

    #[test]
    fn merge_takes_its_field_after_an_equals_sign_only() {
        assert_eq!(config(&["--merge"]).output.merge.as_deref(), Some("completion"));
        assert_eq!(config(&["--merge=answer"]).output.merge.as_deref(), Some("answer"));
        let config = config(&["--merge", "file"]);
        assert_eq!(config.input.files, [InputFile::Path("file".into())]);
        refused(&["--merge="]);
        parsed(&["--merge", "--format", "completion"]).unwrap();
        for format in ["raw", "batch", "text", "events"] {
            assert!(refused(&["--merge", "--format", format]).contains("leave one of the two out"));
        }
    }

    #[test]
    fn events_come_as_they_happen() {
        assert_eq!(config(&["--format", "events"]).output.order, Order::Completion);
        assert_eq!(config(&["--format", "raw"]).output.order, Order::Input);
    }

    #[test]
    fn misuse_is_refused_with_64_and_a_way_out() {
        for line in [
            &["--nonsense"][..],
            &["-j", "0"],
            &["-j", "many"],
            &["--max-outage", "0s"],
            &["--max-outage", "30"],
            &["--chunk-timeout", "0ms"],
            &["--max-line-bytes", "0"],
            &["--max-line-bytes", "1T"],
            &["--format", "xml"],
            &["--allow-failed", "101%"],
            &["-m", ""],
            &["-p", "temperature"],
            &["-q", "--progress"],
            &["-q", "-v"],
            &["check", "--dry-run"],
            &["--dry-run", "check"],
            &["-j", "2", "models"],
        ] {
            refused(line);
        }
        let shown = refused(&["-p", "stop=end"]);
        assert!(shown.contains("-p 'stop=\"text\"'"), "{shown}");
        let shown = refused(&["--modle", "x"]);
        assert!(shown.contains("--model"), "{shown}");
        assert!(!refused(&["--a\u{1b}[31mb"]).contains('\u{1b}'));
    }

    #[test]
    fn a_key_on_the_command_line_is_refused_and_not_repeated() {
        let jwt = "eyJhbGciOi.hidden.c2ln";
        for line in [
            &["--api-key=hidden"][..],
            &["--api-key", "hidden"],
            &["--api_key=hidden"],
            &["--apikey", "hidden"],
            &["--token=hidden"],
            &["--token", "hidden"],
            &["--api-key-fil=hidden"],
            &["--api-key-file", "sk-hidden"],
            &["--api-key-file=sk-hidden"],
            &["--api-key-file", jwt],
            &["sk-hidden"],
            &["check", "--api-key=hidden"],
            &["--nonsense=sk-hidden"],
        ] {
            let shown = refused(line);
            assert!(shown.contains("never put a key on the command line"), "{line:?}: {shown}");
            assert!(!shown.contains("hidden"), "{shown}");
            assert!(shown.contains("ANVILGPT_API_KEY") && shown.contains("--api-key-file FILE"), "{shown}");
        }
        parsed(&["--api-key-file", "./sk-file", "--auth-wait", "1s"]).unwrap();
    }

    #[test]
    fn failed_lines_never_overwrite_an_input_or_the_summary() {
        let folder = tempfile::tempdir().unwrap();
        let (input, link) = (folder.path().join("in"), folder.path().join("link"));
        fs::write(&input, "").unwrap();
        fs::hard_link(&input, &link).unwrap();
        let (input, link) = (input.to_str().unwrap(), link.to_str().unwrap());
        assert!(refused(&["--failed", input, input]).contains("is an input,"));
        assert!(refused(&["--failed", link, "-", input]).contains("is an input,"));
        assert!(refused(&["--failed", "new", "new"]).contains("is an input,"));
        assert!(refused(&["--meta", link, input]).contains("--meta"));
        assert!(refused(&["--failed", "new", "--meta", "new"]).contains("both name"));
        parsed(&["--failed", "other", input]).unwrap();
    }

    #[test]
    fn check_and_models_take_the_connection_options_on_either_side() {
        for line in [
            &["check", "-m", "x", "--connect-timeout", "1s", "-v"][..],
            &["-m", "x", "--connect-timeout", "1s", "-v", "check"],
        ] {
            let config = config(line);
            assert_eq!((config.action, config.defaults.model.as_deref()), (Action::Check, Some("x")));
            assert_eq!((config.clocks.connect, config.report.verbosity), (Duration::from_secs(1), Verbosity::Verbose));
        }
        assert_eq!(config(&["models", "-q"]).report.verbosity, Verbosity::Quiet);
        assert_eq!(config(&["--dry-run"]).action, Action::DryRun);
    }

    #[test]
    fn a_bad_base_url_is_a_matter_of_configuration() {
        let environment = Environment::new(HashMap::new(), PathBuf::from("/nonexistent/config.toml"));
        let stop = parsed(&["--base-url", "http://host.example"]).unwrap().into_config(&environment).unwrap_err();
        assert_eq!(stop.exit, Exit::Config);
        assert!(stop.message.starts_with("--base-url: "), "{stop}");
    }

    #[test]
    fn help_has_its_headings_examples_and_ends_with_the_exit_table() {
        let (long, short) = (help("--help"), help("-h"));
        for heading in
            ["Input:", "Output:", "Service:", "Limits and clocks:", "Reporting:", "Examples:", "Exit status:"]
        {
            assert!(long.contains(heading), "{heading}");
        }
        let last = EXITS.last().unwrap().1;
        assert!(long.trim_end().ends_with(last) && short.trim_end().ends_with(last));
        assert!(short.len() < long.len() && !short.contains("--chunk-timeout"));
        assert!(!long.contains("--api-key ") && !long.contains("--api-key="));
        assert!(help("--version").starts_with("anvil-filter "));
        assert!((5..=7).contains(&short_usage().lines().count()));
    }

    #[test]
    fn help_states_the_real_defaults() {
        let (limits, clocks) = (Limits::default(), Clocks::default());
        let long = help("--help").split_whitespace().collect::<Vec<_>>().join(" ");
        let has = |flag: &str, value: String| {
            let text = long.split(&format!("--{flag} <")).nth(1).unwrap();
            let stated = text.split("[default: ").nth(1).unwrap().split(']').next().unwrap();
            assert_eq!(stated, value, "--{flag}");
        };
        has("concurrency", limits.concurrency.to_string());
        has("max-line-bytes", format!("{}M", limits.line_bytes_max >> 20));
        has("window-bytes", format!("{}M", limits.window_bytes_max >> 20));
        has("max-reply-bytes", format!("{}M", limits.reply_bytes_max >> 20));
        has("max-outage", format!("{}m", clocks.outage_max.as_secs() / 60));
        has("auth-wait", format!("{}m", clocks.auth_wait.as_secs() / 60));
        has("max-retry-delay", format!("{}s", clocks.retry_delay_max.as_secs()));
        has("connect-timeout", format!("{}s", clocks.connect.as_secs()));
        has("first-token-timeout", format!("{}s", clocks.first_token.as_secs()));
        has("chunk-timeout", format!("{}s", clocks.between_chunks.as_secs()));
        has("reply-timeout", format!("{}s", clocks.whole_reply.as_secs()));
        has("drain-timeout", format!("{}s", clocks.drain.as_secs()));
    }
}
