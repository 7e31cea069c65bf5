//! The options of `daemon`, `status` and `submit`: all that is about folders of prompt files.
//!
//! Refuses to know whether such a folder exists, and what lies in it.

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::builder::{NonEmptyStringValueParser, OsStringValueParser, TypedValueParser};
use serde_json::value::RawValue;

use super::arguments::{file_name, whole_format};
use super::refusals::refuse_if;
use super::service::{BoundArgs, ClockArgs, UpstreamArgs};
use super::{Cli, switch};
use crate::config::{
    DaemonLayer, InputFile, LogFormat, StatusForm, StatusTask, SubmitTask, Verbosity, parse_bytes, parse_duration,
    parse_param,
};
use crate::exit::Stop;
use crate::line::Format;

#[derive(Debug, Args)]
pub(super) struct DaemonArgs {
    /// Folder whose prompt files are run; repeatable
    #[arg(long = "spool", value_name = "DIR", num_args = 1.., value_parser = file_name())]
    spools: Vec<PathBuf>,
    /// Run what is in the folders below, too
    #[arg(long)]
    recursive: bool,
    /// Move finished prompt files and their results there
    #[arg(long, value_name = "DIR", value_parser = file_name())]
    archive: Option<PathBuf>,
    /// End when everything that is there was run
    #[arg(long)]
    once: bool,
    /// Wait for a folder that another daemon holds, and take over when that one is gone
    #[arg(long)]
    standby: bool,
    /// How long a file stays unchanged before it is taken [default: 2s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    settle: Option<Duration>,
    /// How often the folders are looked through, whatever the kernel tells [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    scan_every: Option<Duration>,
    /// Prompt files that run at the same time [default: 64]
    #[arg(long, value_name = "N", hide_short_help = true)]
    max_open_files: Option<NonZeroUsize>,
    /// Largest prompt file [default: 16G]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, hide_short_help = true)]
    max_file_bytes: Option<usize>,
    /// Prompt files that one owner may have queued and running; the others wait [default: 1000000]
    #[arg(long, value_name = "N", hide_short_help = true)]
    max_owner_files: Option<NonZeroU64>,
    /// Bytes of prompt files that one owner may have queued and running [default: 1024G]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, hide_short_help = true)]
    max_owner_bytes: Option<usize>,
    /// Lines of running prompt files that one owner may have [default: 100000000]
    #[arg(long, value_name = "N", hide_short_help = true)]
    max_owner_lines: Option<NonZeroU64>,
    /// How long answers are kept, so that a changed file pays for what is new alone [default: 14d]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    retain: Option<Duration>,
    /// How the log looks [default: human]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    #[command(flatten, next_help_heading = "Defaults of every folder")]
    defaults: FolderArgs,
    #[command(flatten, next_help_heading = "Limits and clocks")]
    bounds: BoundArgs,
    #[command(flatten, next_help_heading = "Limits and clocks")]
    clocks: ClockArgs,
    #[command(flatten, next_help_heading = "Service")]
    how: UpstreamArgs,
}

/// What the `anvil.toml` of a folder may say otherwise.
#[derive(Debug, Args)]
struct FolderArgs {
    /// System prompt for lines that have none
    #[arg(short, long, value_name = "TEXT")]
    system: Option<String>,
    /// Parameter for lines that do not set it, for example temperature=0.2; repeatable
    #[arg(short = 'p', long = "param", value_name = "KEY=JSON", value_parser = parse_param)]
    params: Vec<(String, Box<RawValue>)>,
    /// Form of a result's line [default: completion, and batch for a batch line]
    #[arg(long, value_name = "FORMAT", value_parser = whole_format())]
    format: Option<Format>,
    /// Write the input object with the answer in FIELD [default FIELD: completion]
    #[arg(long, value_name = "FIELD", num_args = 0..=1, require_equals = true, default_missing_value = "completion")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    merge: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Folder whose daemon and files are asked about; repeatable
    #[arg(long = "spool", value_name = "DIR", num_args = 1.., required = true, value_parser = file_name())]
    spools: Vec<PathBuf>,
    /// Print one JSON object a folder
    #[arg(long)]
    json: bool,
    /// Show it again every two seconds, until interrupted
    #[arg(long)]
    watch: bool,
}

#[derive(Debug, Args)]
pub(super) struct SubmitArgs {
    /// Folder of the daemon
    #[arg(long, value_name = "DIR", required = true, value_parser = file_name())]
    spool: PathBuf,
    /// Prompt files; - is standard input, and needs --name
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Name in the folder, where it is not the file's own
    #[arg(long, value_name = "NAME", value_parser = plain_name())]
    name: Option<OsString>,
    /// Wait for the results, and exit as a run of these prompts would
    #[arg(long)]
    wait: bool,
}

/// A name without a folder.
fn plain_name() -> impl TypedValueParser<Value = OsString> {
    OsStringValueParser::new().try_map(|name| match Path::new(&name).file_name() == Some(&name) {
        true => Ok(name),
        false => Err("a name is needed here, without a folder"),
    })
}

impl DaemonArgs {
    pub(super) fn refuse_contradictions(&self) -> Result<(), Stop> {
        let FolderArgs { format, merge, .. } = &self.defaults;
        refuse_if(
            merge.is_some() && format.is_some_and(|format| format != Format::Completion),
            "--merge writes the input object, so --format cannot choose another form",
            "leave one of the two out",
        )
    }

    /// Puts what every run knows where every run has it, and gives what only a daemon has.
    pub(super) fn split(self, cli: &mut Cli) -> DaemonLayer {
        let FolderArgs { system, params, format, merge } = self.defaults;
        (cli.run.input.system, cli.run.input.params) = (system, params);
        (cli.run.output.format, cli.run.output.merge) = (format, merge);
        let ClockArgs { max_retry_delay, drain_timeout, .. } = self.clocks;
        (cli.run.limits.clocks.max_retry_delay, cli.run.limits.clocks.drain_timeout) = (max_retry_delay, drain_timeout);
        (cli.run.limits.bounds, cli.run.service.how) = (self.bounds, self.how);
        DaemonLayer {
            spool: Some(self.spools).filter(|spools| !spools.is_empty()),
            recursive: switch(self.recursive),
            archive: self.archive,
            once: switch(self.once),
            standby: switch(self.standby),
            settle: self.settle,
            scan_every: self.scan_every,
            max_open_files: self.max_open_files,
            max_file_bytes: self.max_file_bytes,
            max_owner_files: self.max_owner_files,
            max_owner_bytes: self.max_owner_bytes,
            max_owner_lines: self.max_owner_lines,
            retain: self.retain,
            log_format: self.log_format,
        }
    }
}

impl StatusArgs {
    pub(super) fn into_task(self) -> StatusTask {
        let form = if self.json { StatusForm::Json } else { StatusForm::Human };
        StatusTask { spools: self.spools, form, watch: self.watch }
    }
}

impl SubmitArgs {
    pub(super) fn refuse_contradictions(&self) -> Result<(), Stop> {
        refuse_if(
            self.name.is_some() && self.files.len() > 1,
            "--name names one file, and there are several",
            "submit them one by one, or leave --name out",
        )?;
        refuse_if(
            self.name.is_none() && self.files.iter().any(|file| file == Path::new("-")),
            "standard input has no name, and a prompt file needs one",
            "add --name NAME, for example --name prompts.jsonl",
        )
    }

    pub(super) fn into_task(self, verbosity: Verbosity) -> SubmitTask {
        let file = |path: PathBuf| if path == Path::new("-") { InputFile::Stdin } else { InputFile::Path(path) };
        SubmitTask {
            spool: self.spool,
            files: self.files.into_iter().map(file).collect(),
            name: self.name,
            wait: self.wait,
            verbosity,
        }
    }
}
