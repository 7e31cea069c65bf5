//! What a command line asks for: a run, or work on files, which needs no service and no configuration.

use std::ffi::OsString;
use std::path::PathBuf;

use super::{Config, InputFile, Separator, Verbosity};
use crate::line::Format;

/// What a command line asks for.
#[derive(Debug)]
pub enum Task {
    /// The filter, the daemon, or one of the commands that talk to the service.
    Run(Box<Config>),
    /// Look into a journal.
    Journal(JournalTask),
    /// Put the outputs of shards together.
    Merge(MergeTask),
    /// Say how a daemon and its prompt files stand.
    Status(StatusTask),
    /// Drop prompt files into a daemon's folder.
    Submit(SubmitTask),
}

/// Look into a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalTask {
    /// The journal.
    pub path: PathBuf,
    /// What to do with it.
    pub action: JournalAction,
    /// How much is told to people.
    pub verbosity: Verbosity,
}

/// What to do with a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalAction {
    /// Write its answers to stdout.
    Print {
        /// The form of a line, never events; `None` leaves it to the form of the request line.
        format: Option<Format>,
        /// What ends a record of text output.
        separator: Separator,
    },
    /// Say whether it is whole.
    Check,
    /// Copy every valid record into this file.
    Salvage(PathBuf),
}

/// Put the outputs of shards together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeTask {
    /// What each shard left; at least one, no two of them the same file.
    pub shards: Vec<PathBuf>,
    /// The file that takes the lines, none of the shards; `None` is stdout.
    pub output: Option<PathBuf>,
    /// The form of a line, never events; `None` leaves it to the form of the request line.
    pub format: Option<Format>,
    /// What ends a record of text output.
    pub separator: Separator,
    /// Whether `output` may replace a file that is not ours.
    pub force: bool,
    /// How much is told to people.
    pub verbosity: Verbosity,
}

/// Say how a daemon and its prompt files stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusTask {
    /// The folders; at least one.
    pub spools: Vec<PathBuf>,
    /// For whom it is said.
    pub form: StatusForm,
    /// Whether to say it again and again.
    pub watch: bool,
}

/// For whom a status is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusForm {
    /// For people.
    Human,
    /// For programs: one JSON object a folder.
    Json,
}

/// Drop prompt files into a daemon's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubmitTask {
    /// The folder.
    pub spool: PathBuf,
    /// The files; at least one, and only one when there is a name or when one of them is stdin.
    pub files: Vec<InputFile>,
    /// The name in the folder; `None` leaves each file its own.
    pub name: Option<OsString>,
    /// Whether to wait for the results.
    pub wait: bool,
    /// How much is told to people.
    pub verbosity: Verbosity,
}
