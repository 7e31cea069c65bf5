//! What can be wrong with a journal, and what the user can do about it.

use std::io;
use std::path::{Path, PathBuf};

use super::lock::LockError;
use super::publish::{ProbeError, PublishError};
use crate::exit::{Exit, Stop};
use crate::line::escape::shown;

/// Why a journal cannot be used, or not any longer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading, writing or syncing failed.
    #[error("{action}: {source}")]
    Io {
        /// What was attempted, on which file.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Bytes in the middle are no record.
    #[error("{} is damaged at byte {at}; the next whole record begins at byte {next}", shown(path))]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// Where whole records end.
        at: u64,
        /// Where they go on.
        next: u64,
    },
    /// The file is not one of ours, or of another version.
    #[error("{} cannot be used as a journal: {reason}", shown(path))]
    NoJournal {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another run has it, or has taken it.
    #[error(transparent)]
    Lock(Box<LockError>),
    /// The folder does not let files appear whole.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// A result could not be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// It was not read to its end, because the run is to end.
    #[error("stopped while the journal was read")]
    Stopped,
    /// The journal's thread is gone.
    #[error("the journal's thread ended early; this is a defect of the program")]
    Gone,
}

impl Error {
    /// An error of reading or writing.
    pub fn io(action: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let action = format!("{action} {}", shown(path));
        move |source| Self::Io { action, source }
    }

    /// A whole record that says nothing we know.
    pub fn not_understood(path: &Path, offset: u64, reason: &str) -> Self {
        let reason = format!("the record at byte {offset} is not understood: {reason}");
        Self::NoJournal { path: path.to_owned(), reason }
    }
}

impl From<LockError> for Error {
    fn from(error: LockError) -> Self {
        Self::Lock(Box::new(error))
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        let kept = "mend the cause and run the same command again: what was answered is kept";
        match error {
            Error::Io { .. } | Error::Gone | Error::Probe(ProbeError::Io { .. }) | Error::Publish(PublishError::Io { .. }) => {
                Self::new(Exit::Io, message).way_out(kept)
            }
            Error::Lock(lock) => match *lock {
                LockError::Io { .. } => Self::new(Exit::Io, message).way_out(kept),
                LockError::Folder(_) => Self::config(message),
                LockError::Held { .. } => {
                    Self::new(Exit::Resumable, message).way_out("wait until that run has ended, or name another journal")
                }
                LockError::Lost { .. } => Self::new(Exit::Resumable, message)
                    .way_out("another run goes on with this journal; leave it to that one"),
            },
            Error::Damaged { path, .. } => Self::new(Exit::Input, message).way_out(format!(
                "copy every whole record with `anvil-filter journal {0} --salvage NEW`, and put NEW in the place of {0}",
                shown(&path)
            )),
            Error::Stopped => Self::new(Exit::Resumable, message).way_out("run the same command to go on"),
            Error::NoJournal { .. } => Self::new(Exit::Input, message).way_out("name another file, or move this one away"),
            Error::Probe(ProbeError::NoExclusive { .. }) => Self::config(message),
            Error::Publish(PublishError::Taken { .. }) => {
                Self::usage(message).way_out("move that file away, or let --force replace it; what was answered is kept")
            }
        }
    }
}
