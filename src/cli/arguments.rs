//! The options: names, help texts, and how a single value is read.
//!
//! Invariant: nothing here looks at two options at once. Refuses to know what a run makes of them.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::{NonEmptyStringValueParser, PathBufValueParser, PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::value::RawValue;

use super::deferred::Deferred;
use super::spool::{DaemonArgs, StatusArgs, SubmitArgs};
use crate::config::{
    Allowance, Deadline, JournalAction, JournalTask, MergeTask, Report, Separator, ShardChoice, Verbosity,
    parse_allowance, parse_deadline, parse_param, parse_shard,
};
use crate::line::{Format, InputForm};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Try configuration, connection, token and model, and say at the first failure what to do
    Check,
    /// List the models that the token may use
    Models,
    /// Print the answers that a journal holds, check it, or salvage them
    Journal(Deferred<JournalArgs>),
    /// Put the outputs of all shards together, in the order of the whole input
    Merge(Deferred<MergeArgs>),
    /// Run every prompt file that is dropped into a folder, and write its results beside it
    // Not deferred: some options of every subcommand are its own here, and must be there when those are handed down.
    Daemon(Box<DaemonArgs>),
    /// Say how a daemon and its prompt files stand
    Status(Deferred<StatusArgs>),
    /// Drop prompt files into a daemon's folder, and print where their results will be
    Submit(Deferred<SubmitArgs>),
}

#[derive(Debug, Args)]
pub(super) struct JournalArgs {
    /// The journal: the file of --journal, or FILE.journal beside the FILE of --output
    #[arg(value_name = "JOURNAL", value_parser = file_name())]
    pub(super) journal: PathBuf,
    /// Form of an output line [default: completion, and batch for a batch line]
    #[arg(long, value_name = "FORMAT", value_parser = whole_format(), conflicts_with_all = ["check", "salvage"])]
    pub(super) format: Option<Format>,
    /// Records of text output end with NUL instead of a line feed
    #[arg(short = '0', long, conflicts_with_all = ["check", "salvage"])]
    pub(super) null: bool,
    /// Say whether the journal is whole, and print nothing of it
    #[arg(long, conflicts_with = "salvage")]
    pub(super) check: bool,
    /// Copy every record that is still valid into OUT, which must be new
    #[arg(long, value_name = "OUT", value_parser = file_name())]
    pub(super) salvage: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct MergeArgs {
    /// What the shards left, one name for each of them
    #[arg(value_name = "SHARD", required = true, value_parser = file_name())]
    pub(super) shards: Vec<PathBuf>,
    /// File for the lines, which appears whole at the end [default: standard output]
    #[arg(short, long, value_name = "FILE", value_parser = file_name())]
    pub(super) output: Option<PathBuf>,
    /// Form of an output line [default: completion, and batch for a batch line]
    #[arg(long, value_name = "FORMAT", value_parser = whole_format())]
    pub(super) format: Option<Format>,
    /// Records of text output end with NUL instead of a line feed
    #[arg(short = '0', long)]
    pub(super) null: bool,
    /// Replace the file of --output even when no earlier run wrote it
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Args)]
pub(super) struct InputArgs {
    /// Files of request lines, read in order; - is standard input [default: -]
    #[arg(value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    /// What a line is: JSON, or plain text as one prompt [default: json]
    #[arg(long, value_name = "FORM")]
    pub(super) input: Option<InputForm>,
    /// Records end with NUL instead of a line feed, in input and in text output
    #[arg(short = '0', long)]
    pub(super) null: bool,
    /// System prompt for lines that have none
    #[arg(short, long, value_name = "TEXT")]
    pub(super) system: Option<String>,
    /// Parameter for lines that do not set it, for example temperature=0.2; repeatable
    #[arg(short = 'p', long = "param", value_name = "KEY=JSON", value_parser = parse_param)]
    pub(super) params: Vec<(String, Box<RawValue>)>,
    /// Validate every line and show what would be sent; send nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Try N lines first, and say what time and tokens all of them will take
    #[arg(long, value_name = "N")]
    pub(super) pilot: Option<NonZeroUsize>,
}

#[derive(Debug, Args)]
pub(super) struct OutputArgs {
    /// Form of an output line [default: completion, and batch for a batch line]
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<Format>,
    /// Write the input object with the answer in FIELD [default FIELD: completion]
    #[arg(long, value_name = "FIELD", num_args = 0..=1, require_equals = true, default_missing_value = "completion")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(super) merge: Option<String>,
    /// Collect the input lines that failed, ready to be piped in again
    #[arg(long, value_name = "FILE")]
    pub(super) failed: Option<PathBuf>,
    /// Write completions as they come, not in input order
    #[arg(long)]
    pub(super) unordered: bool,
    /// Write the summary of the run as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) meta: Option<PathBuf>,
    /// Exit with 0 although up to so many lines, or a share such as 5%, failed
    #[arg(long, value_name = "N|P%", value_parser = parse_allowance)]
    pub(super) allow_failed: Option<Allowance>,
    /// Stop early when more lines, or a larger share, failed
    #[arg(long, value_name = "N|P%", value_parser = parse_allowance)]
    pub(super) max_failed: Option<Allowance>,
}

#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    /// Completions go to FILE, which appears whole at the end; until then, run the same command again to go on
    #[arg(short, long, value_name = "FILE", value_parser = file_name())]
    pub(super) output: Option<PathBuf>,
    /// Keep the answers in JOURNAL, and take from there what was answered before
    #[arg(long, value_name = "JOURNAL", value_parser = file_name())]
    pub(super) journal: Option<PathBuf>,
    /// Ask again for the lines that failed before
    #[arg(long)]
    pub(super) retry_failed: bool,
    /// Ignore the answers that the journal holds; none is deleted
    #[arg(long, hide_short_help = true)]
    pub(super) fresh: bool,
    /// Replace the file of --output even when no earlier run wrote it
    #[arg(long, hide_short_help = true)]
    pub(super) force: bool,
    /// Remove the journal of --output once that file is there; then every answer has to be paid for again
    #[arg(long, hide_short_help = true)]
    pub(super) discard_journal: bool,
    /// Be over by then: in 55m, at 14:30, or at 2026-11-23T14:30:00 as squeue prints it
    #[arg(long, value_name = "WHEN", value_parser = parse_deadline)]
    pub(super) deadline: Option<Deadline>,
    /// Take every Nth line only, from the Ith on; slurm/N takes I from the job array
    #[arg(long, value_name = "I/N", value_parser = parse_shard)]
    pub(super) shard: Option<ShardChoice>,
}

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Report progress even when stderr is not a terminal
    #[arg(long, conflicts_with = "quiet")]
    pub(super) progress: bool,
    /// Report errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// Report more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}

/// The name of a file that cannot be a stream; here `-` would be a file of that name, which nobody means.
pub(super) fn file_name() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| match path.as_os_str() == "-" {
        true => Err("a file is needed here, not a stream; for a file that is called -, write ./-"),
        false => Ok(path),
    })
}

/// The forms of whole answers: a journal, and a daemon, hold no deltas to tell.
pub(super) fn whole_format() -> impl TypedValueParser<Value = Format> {
    let whole = Format::value_variants().iter().filter(|format| **format != Format::Events);
    let names: Vec<_> = whole.filter_map(Format::to_possible_value).collect();
    PossibleValuesParser::new(names).try_map(|name| Format::from_str(&name, false))
}

impl JournalArgs {
    pub(super) fn into_task(self, verbosity: Verbosity) -> JournalTask {
        let action = match self.salvage {
            Some(path) => JournalAction::Salvage(path),
            None if self.check => JournalAction::Check,
            None => JournalAction::Print { format: self.format, separator: separator(self.null) },
        };
        JournalTask { path: self.journal, action, verbosity }
    }
}

impl MergeArgs {
    pub(super) fn into_task(self, verbosity: Verbosity) -> MergeTask {
        MergeTask {
            shards: self.shards,
            output: self.output,
            format: self.format,
            separator: separator(self.null),
            force: self.force,
            verbosity,
        }
    }
}

/// What `-0` means.
pub(super) fn separator(null: bool) -> Separator {
    if null { Separator::Nul } else { Separator::Newline }
}

impl ReportArgs {
    pub(super) fn report(&self) -> Report {
        let verbosity = match self.verbose {
            0 if self.quiet => Verbosity::Quiet,
            0 => Verbosity::Normal,
            1 => Verbosity::Verbose,
            _ => Verbosity::Debug,
        };
        Report { verbosity, progress: self.progress }
    }
}
