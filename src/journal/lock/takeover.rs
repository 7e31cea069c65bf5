//! How a lock changes hands, and why it never has two holders. Knows nothing of beats and of who wants to know.
//!
//! The name changes hands in three ways: an exclusive link while there is none; its removal by the holder; and a
//! takeover, for which a contender
//!
//! 1. gives its own, finished lock file the name of the *guard* (`.NAME.break`), by an exclusive link,
//! 2. sees that the lock still is the stale one, untouched,
//! 3. renames the guard to the lock, and
//! 4. has won when that rename succeeded *and* the lock is its own file.
//!
//! The rename is the only step that displaces anything, and it takes along whatever the guard is by then. A file leaves
//! the guard's name once and never returns there. So whoever finds step 4 fulfilled knows that its file was moved by
//! its own rename and had been the guard since before step 2: nobody else's takeover came between its look and its
//! rename. Two contenders cannot both find that of one stale lock. A guard may therefore be removed by anyone at any
//! time, which only makes its owner's rename fail: one that a crash has left is removed by the rule for stale locks.
//!
//! A contender that was stopped for very long before its rename may move another one's guard, even over a lock that is
//! held by now. Then the owner of that guard holds the lock without having renamed anything. It cannot know whom it has
//! displaced, so it steps back: it makes its file anonymous, and the lock is free again only when that has become
//! stale, by which time any displaced holder has noticed.
//!
//! A holder that was stopped, and wakes while it is being displaced: its `Lock::beat` first touches the lock and then
//! removes any guard. A contender that took the guard later sees the touch in step 2; one that had it before cannot
//! rename any more, or has done so already, which the beat sees last. Each writes before it reads; one must see the
//! other. For the same reason the winner of the exclusive link removes any guard, too: on NFS a rename over a file that
//! is open leaves the name to nobody for a moment, and a contender may be in that moment.
//!
//! What is left to trust is that nobody stops for `STALE_AFTER` between the touch and the removal in
//! `Lock::release`, and that the server's clock makes no such jump.
//!
//! # Crashes
//!
//! The lock file is complete, flocked and on the server before it gets its name, and every step above is one system
//! call that has been done or not. What a crash can leave is a stale lock, a stale guard and a temporary file; the next
//! holder removes all three.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::CWD;
use rustix::io::{Errno, retry_on_intr};

use super::claim::{self, Claim, Found, Sight, Stale, touch};
use super::{Holder, Lock, LockError};
use crate::journal::publish::{companion, remove_if_there};

/// How one attempt to take a lock ended.
#[derive(Debug)]
pub(super) enum Attempt {
    /// It is ours.
    Won(Lock),
    /// It is another's.
    Held(Sight),
    /// Others changed the lock meanwhile; this one of them was seen.
    Again(Sight),
}

/// Tries once to make the lock at `path` that of `me`.
pub(super) fn attempt(path: &Path, me: &Holder) -> Result<Attempt, LockError> {
    let claim = Claim::write(path, me)?;
    if claim.take(path)? {
        let lock = Lock::new(path, me, claim);
        lock.refuse_takeovers()?;
        return Ok(if lock.is_ours()? { Attempt::Won(lock) } else { Attempt::Again(Sight::default()) });
    }
    let now = claim.server_time()?;
    match claim::look(path, me, now)? {
        Found::Absent => Ok(Attempt::Again(Sight::default())),
        Found::Live(sight) => Ok(Attempt::Held(sight)),
        Found::Stale(stale) => {
            let guard = guard_of(path)?;
            if !claim.take(&guard)? {
                return Ok(Attempt::Again(remove_if_stale(&guard, me, now)?));
            }
            take_over(path, me, claim, stale)
        }
    }
}

/// Steps 2 to 4 of those at the head of this file.
pub(super) fn take_over(path: &Path, me: &Holder, claim: Claim, stale: Stale) -> Result<Attempt, LockError> {
    let guard = guard_of(path)?;
    let rename = || {
        if !stale.is_untouched_at(path)? {
            return Ok(false);
        }
        // What is still open here NFS moves out of the way first, and the name would be nobody's for a moment.
        drop(stale);
        match retry_on_intr(|| rustix::fs::renameat(CWD, &guard, CWD, path)) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(LockError::at("take over", path)(error.into())),
        }
    };
    let renamed = rename();
    if !matches!(renamed, Ok(true)) {
        remove_if_there(&guard).map_err(LockError::at("remove", &guard))?;
    }
    match (renamed?, claim.is_at(path)?) {
        (true, true) => Ok(Attempt::Won(Lock::new(path, me, claim))),
        (false, true) => step_back(path, &claim),
        (_, false) => Ok(Attempt::Again(Sight::default())),
    }
}

/// Makes nobody's lock of ours: without a name it is stale only by its age.
fn step_back(path: &Path, claim: &Claim) -> Result<Attempt, LockError> {
    claim.file.set_len(0).and_then(|()| touch(&claim.file)).map_err(LockError::at("step back from", path))?;
    Ok(Attempt::Held(Sight::default()))
}

/// Removes the lock file at `path` if its owner is dead; otherwise tells who that is.
pub(super) fn remove_if_stale(path: &Path, me: &Holder, now: SystemTime) -> Result<Sight, LockError> {
    match claim::look(path, me, now)? {
        Found::Absent => Ok(Sight::default()),
        Found::Live(sight) => Ok(sight),
        Found::Stale(stale) => {
            if stale.is_untouched_at(path)? {
                remove_if_there(path).map_err(LockError::at("remove", path))?;
            }
            Ok(Sight::default())
        }
    }
}

/// The name that only one contender at a time has.
pub(super) fn guard_of(path: &Path) -> Result<PathBuf, LockError> {
    companion(path, "break").map_err(LockError::at("name the guard of", path))
}
