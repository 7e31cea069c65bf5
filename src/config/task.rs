//! What a command line asks for: a run, or work on journals, which needs no service and no configuration.

use std::path::PathBuf;

use super::{Config, Separator, Verbosity};
use crate::line::Format;

/// What a command line asks for.
#[derive(Debug)]
pub enum Task {
    /// The filter, or one of the commands that talk to the service.
    Run(Box<Config>),
    /// Look into a journal.
    Journal(JournalTask),
    /// Put the outputs of shards together.
    Merge(MergeTask),
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
