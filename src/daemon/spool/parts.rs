//! What a spool is made of, beside jobs.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;

use super::super::claim::Reply;
use super::super::history::History;
use super::super::large::{self, LargeMode};
use super::super::log::JobId;
use super::super::names::Kind;
use super::super::render::{self, Outcomes, Ready};
use super::super::scan;
use super::super::snapshot::{Copied, Refused};
use super::super::stamp::Stamp;
use crate::config::Config;
use crate::journal;
use crate::report::Counts;
use crate::shutdown::Shutdown;

/// What can happen to a spool, from any thread.
#[derive(Debug)]
pub enum Occurrence {
    /// The scanner tells something.
    Told(scan::Told),
    /// A file was taken, or not.
    Claimed(u64, Reply),
    /// A large file was copied.
    Copied(u32, JobId, Result<Copied, Refused>),
    /// A large job's journal is open.
    Opened(u32, JobId, Result<Box<LargeMode>, String>),
    /// Small jobs were rendered.
    Rendered(Outcomes<Ready>),
    /// Results have their names.
    Published(Result<Outcomes<render::Ended>, journal::Error>),
    /// A large job came to its end.
    Ended(u32, JobId, Box<large::Ended>),
    /// The log was written anew, and says this; it is so many bytes long.
    Renewed(Result<Box<(History, u64)>, journal::Error>),
    /// A note was written down.
    Noted(Result<Box<render::Ended>, journal::Error>),
    /// The lease was looked at: whether it is ours.
    Confirmed(Result<(), journal::Error>),
    /// The log's thread has done what it was asked before.
    Alive,
}

/// What all spools share.
#[derive(Debug)]
pub struct Shared {
    /// The configuration; replaced when it is read anew.
    pub config: std::cell::RefCell<Rc<Config>>,
    /// Counts of all requests.
    pub counts: Arc<Counts>,
    /// Where occurrences go, with the number of the spool.
    pub tell: UnboundedSender<(usize, Occurrence)>,
    /// How the daemon comes to its end.
    pub shutdown: Shutdown,
    /// Why nothing of an account is sent, when nothing is.
    pub paused: std::cell::RefCell<BTreeMap<usize, String>>,
    /// Spools that cannot be used just now, and why.
    pub broken: std::cell::RefCell<BTreeMap<PathBuf, String>>,
    /// The number of the spool that was opened last.
    pub serial: std::cell::Cell<usize>,
    /// How fast requests are settled.
    pub rate: std::cell::RefCell<super::super::desk::Rate>,
}

impl Shared {
    /// The configuration as it is now.
    pub fn config(&self) -> Rc<Config> {
        Rc::clone(&self.config.borrow())
    }

    /// Whose key pays for files of this owner: 0 is the daemon's own, others follow the configuration's owners.
    pub fn account_of(&self, owner: u32) -> usize {
        let config = self.config();
        let owners = config.daemon.iter().flat_map(|daemon| &daemon.owners);
        owners.map(|own| own.id).position(|id| id == owner).map_or(0, |place| place + 1)
    }

    /// Why nothing is sent, when that is so.
    pub fn pause_reason(&self) -> Option<String> {
        let paused = self.paused.borrow();
        let broken = self.broken.borrow();
        let reasons: Vec<&str> = broken.values().chain(paused.values()).map(String::as_str).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}

/// A file that waits for its turn.
#[derive(Debug)]
pub struct Queued {
    pub(super) path: Arc<Path>,
    pub(super) kind: Kind,
    /// What it was when it was told of.
    pub(super) stamp: Stamp,
    pub(super) how: Wanted,
}

impl Queued {
    /// As it is found.
    pub fn fresh(path: Arc<Path>, kind: Kind, stamp: Stamp, from: Option<JobId>) -> Self {
        Self { path, kind, stamp, how: Wanted::Fresh { from, retry_failed: false } }
    }

    /// The job whose answers it uses, and whether errors are asked again.
    pub fn source(&self) -> (Option<JobId>, bool) {
        match self.how {
            Wanted::Fresh { from, retry_failed } => (from, retry_failed),
            Wanted::Resume { job, retry_failed, .. } => (Some(job), retry_failed),
        }
    }
}

/// How a queued file is wanted.
#[derive(Debug)]
pub enum Wanted {
    /// As it is found.
    Fresh { from: Option<JobId>, retry_failed: bool },
    /// As the log has it: where its claim begins, and its answers.
    Resume { job: JobId, claim_at: u64, answers: HashMap<u64, u64>, retry_failed: bool },
}

/// A file that is being taken.
#[derive(Debug)]
pub struct Claiming {
    pub(super) queued: Queued,
}

/// What one owner has open.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) lines: u64,
}

/// What a file takes of its owner's share.
#[derive(Clone, Copy, Debug)]
pub struct Booked {
    pub(super) owner: u32,
    pub(super) bytes: u64,
    pub(super) lines: u64,
}
