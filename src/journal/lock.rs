//! One owner per journal: a lock file beside it, taken by an exclusive link and touched while its holder lives.
//!
//! A lock is *stale* when its holder is dead, which is known at once when it ran under this very boot and its flock is
//! free, or when it has not been touched for [`STALE_AFTER`] on the file server's clock. A holder that has not touched
//! it for [`FENCE_AFTER`] must itself stop to use what it guards. Where flock does not work (some Lustre and NFS mounts)
//! only the time decides.
//!
//! How it changes hands, and why never to two, is told in `lock/takeover.rs`.

mod claim;
mod holder;
mod takeover;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::io::Errno;

use claim::{Claim, Sight, touch};
pub use holder::Holder;
use takeover::{Attempt, attempt, guard_of, remove_if_stale};

use super::publish::{ProbeError, create_exclusively, remove_if_there};
use crate::line::escape::shown;

/// How often a holder touches its lock.
pub const BEAT_EVERY: Duration = Duration::from_secs(30);
/// A holder that has not touched its lock for so long stops to use what it guards.
pub const FENCE_AFTER: Duration = Duration::from_secs(60);
/// A lock that was not touched for so long is nobody's.
pub const STALE_AFTER: Duration = Duration::from_secs(90);

/// How often a contender looks again while others change the lock, and how long it waits between: 2 s in all, where a
/// change takes a few milliseconds.
const TRIES_MAX: u32 = 80;
const TRY_WAIT: Duration = Duration::from_millis(25);

/// Why a lock is not held.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else holds it, or is about to.
    #[error("{} is held by {}, seen alive {} s ago", shown(path), named(holder), age.as_secs())]
    Held {
        /// The lock.
        path: PathBuf,
        /// Who holds it, when the file says so.
        holder: Option<Box<Holder>>,
        /// When that was known for sure, by the file server's clock.
        age: Duration,
    },
    /// It was ours, and is no longer.
    #[error("{} was lost {}", shown(path), lost_to(holder))]
    Lost {
        /// The lock.
        path: PathBuf,
        /// Who holds it now, when the file says so.
        holder: Option<Box<Holder>>,
    },
    /// No name can be taken exclusively in this folder.
    #[error(transparent)]
    Folder(ProbeError),
    /// An operation failed, which says nothing about who holds the lock.
    #[error("{action}: {source}")]
    Io {
        /// What was attempted, on which path.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl LockError {
    fn at(action: &str, path: &Path) -> impl FnOnce(io::Error) -> LockError {
        move |source| LockError::Io { action: format!("{action} {}", shown(path)), source }
    }

    fn held(path: &Path, sight: Sight) -> LockError {
        LockError::Held { path: path.to_owned(), holder: sight.holder, age: sight.age }
    }
}

fn named(holder: &Option<Box<Holder>>) -> String {
    holder.as_ref().map_or_else(|| "a process that left no name".to_owned(), ToString::to_string)
}

fn lost_to(holder: &Option<Box<Holder>>) -> String {
    holder.as_ref().map_or_else(|| "(somebody removed it)".to_owned(), |holder| format!("to {holder}"))
}

/// A lock that we hold. Dropping it gives it back as well as that goes; [`Lock::release`] tells how it went.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    me: Holder,
    claim: Claim,
    beat_at: Duration,
    given_back: bool,
}

impl Lock {
    /// Takes the lock at `path` for `me`.
    ///
    /// Fails with `Held` when somebody else holds it or just takes it, and with `Io` when the folder cannot be used.
    /// Waits two seconds at most for others to finish.
    pub fn acquire(path: &Path, me: &Holder) -> Result<Lock, LockError> {
        let mut seen = Sight::default();
        for _ in 0..TRIES_MAX {
            match attempt(path, me)? {
                Attempt::Won(lock) => return lock.begin(),
                Attempt::Held(sight) => return Err(LockError::held(path, sight)),
                Attempt::Again(sight) => seen = sight,
            }
            std::thread::sleep(TRY_WAIT);
        }
        Err(LockError::held(path, seen))
    }

    fn new(path: &Path, me: &Holder, claim: Claim) -> Lock {
        claim.forget_temp();
        Lock { path: path.to_owned(), me: me.clone(), beat_at: claim.begun, claim, given_back: false }
    }

    fn begin(mut self) -> Result<Lock, LockError> {
        // A contender that was stopped on its way wins with an old file.
        if self.beat_due() {
            self.beat()?;
        }
        let now = self.claim.server_time()?;
        claim::sweep(&self.path, &self.me, now);
        // A guard that cannot be looked at is the concern of those who need it.
        let _ = remove_if_stale(&guard_of(&self.path)?, &self.me, now);
        Ok(self)
    }

    /// Touches the lock, after which it is ours for another while: to be called every [`BEAT_EVERY`].
    ///
    /// Fails with `Lost` when it is another's or gone; `Io` leaves open whose it is, and may pass. A process that was
    /// stopped for however long keeps the lock by this, if nobody took it.
    pub fn beat(&mut self) -> Result<(), LockError> {
        let begun = boot_clock();
        match touch(&self.claim.file) {
            Ok(()) => {}
            // The server has forgotten our file: somebody removed it.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::STALE) => return Err(self.lost()),
            Err(error) => return Err(LockError::at("touch", &self.path)(error)),
        }
        // Only of a lock that was untouched for long before this touch can a takeover be under way.
        if self.since_beat() >= FENCE_AFTER {
            self.refuse_takeovers()?;
        }
        if !self.is_ours()? {
            return Err(self.lost());
        }
        self.beat_at = begun;
        Ok(())
    }

    /// Whether it is time for the next beat.
    pub fn beat_due(&self) -> bool {
        self.since_beat() >= BEAT_EVERY
    }

    /// How long ago the lock was known to be ours, by a clock that goes on while the machine sleeps.
    pub fn since_beat(&self) -> Duration {
        boot_clock().saturating_sub(self.beat_at)
    }

    /// Gives the lock back.
    ///
    /// Fails with `Lost` when it was not ours any more, and with `Io` when it could not be removed; it is stale then.
    pub fn release(mut self) -> Result<(), LockError> {
        self.give_back()
    }

    fn give_back(&mut self) -> Result<(), LockError> {
        self.given_back = true;
        // For as long as this keeps others away, the file under the name is ours to remove.
        self.beat()?;
        fs::remove_file(&self.path).map_err(LockError::at("remove", &self.path))
    }

    /// Takes the guard from whoever has it. Creating one first makes a network file system ask its server whether there
    /// is one, where a removal might trust its memory.
    fn refuse_takeovers(&self) -> Result<(), LockError> {
        let guard = guard_of(&self.path)?;
        Claim::write(&self.path, &self.me)?.take(&guard)?;
        remove_if_there(&guard).map_err(LockError::at("remove", &guard))
    }

    fn is_ours(&self) -> Result<bool, LockError> {
        self.claim.is_at_as(&self.path, &self.me)
    }

    fn lost(&self) -> LockError {
        let entry = claim::open(&self.path).ok().flatten().and_then(|file| claim::read(&file).ok().flatten());
        LockError::Lost { path: self.path.clone(), holder: entry.map(|entry| Box::new(entry.holder)) }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.given_back {
            let _ = self.give_back();
        }
    }
}

/// Who holds the lock at `path`, and how long ago that one was alive for sure; `None` when there is no lock.
///
/// Fails with `InvalidData` when the file tells no holder. Changes nothing but for a file that comes and goes, by which
/// the server tells its time; where that is not allowed our own clock has to do.
pub fn holder(path: &Path) -> io::Result<Option<(Holder, Duration)>> {
    let me = Holder::this_process(None)?;
    let now = match time_in_folder_of(path, &me) {
        Err(error) if is_read_only(&error) => SystemTime::now(),
        result => result?,
    };
    let Some(file) = claim::open(path)? else { return Ok(None) };
    let entry = claim::read(&file)?.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "names no holder"))?;
    let age = now.duration_since(file.metadata()?.modified()?).unwrap_or_default();
    Ok(Some((entry.holder, age)))
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

fn time_in_folder_of(path: &Path, me: &Holder) -> io::Result<SystemTime> {
    let temp = claim::temp_name(path, me)?;
    let modified = create_exclusively(&temp, 0o600)?.metadata().and_then(|metadata| metadata.modified());
    remove_if_there(&temp)?;
    modified
}

/// Time since this boot, sleep included.
fn boot_clock() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

#[cfg(test)]
mod race;
#[cfg(test)]
mod tests;
