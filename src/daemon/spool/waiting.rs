//! Files that wait for something other than their turn: for a writer, for a name, for trouble to pass.

use super::super::folder::Folder;
use super::Spool;
use super::parts::Queued;
use crate::line::escape::shown;
use std::collections::VecDeque;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

/// A file that is still being written is looked at again after this time.
const RIPEN: Duration = Duration::from_secs(1);
/// A file that is not there is a matter of its folder's absence only if that is known after this time.
const MISSED: Duration = Duration::from_secs(3);
/// A file that met trouble of its own is tried again after this time, at first and at most.
const PUT_OFF_MIN: Duration = Duration::from_secs(2);
const PUT_OFF_MAX: Duration = Duration::from_secs(120);
/// How often it is looked whether a result's name has become free.
const BLOCKED_LOOK: Duration = Duration::from_secs(1);

impl Spool {
    /// Files that were not there: had their folder gone, it would be known by now.
    pub(super) fn forget_missing(&mut self, now: Instant) {
        if self.trouble.is_none() {
            self.missing.retain(|_, (_, since)| now.duration_since(*since) < MISSED);
        }
    }

    /// Files that were being written to: whether they still are is seen when they are taken.
    pub(super) fn look_at_unripe(&mut self, now: Instant) {
        if self.unripe.is_empty() || self.unripe_looked.is_some_and(|at| now.duration_since(at) < RIPEN) {
            return;
        }
        self.unripe_looked = Some(now);
        for queued in std::mem::take(&mut self.unripe).into_values() {
            self.enqueue(queued);
        }
    }

    /// Files whose results' names were taken: those that are free now are run, or go on.
    pub(super) fn look_at_blocked(&mut self, now: Instant) {
        if self.blocked.is_empty() || self.blocked_looked.is_some_and(|at| now.duration_since(at) < BLOCKED_LOOK) {
            return;
        }
        self.blocked_looked = Some(now);
        let is_free = |target: &Path| {
            let Some(name) = target.file_name() else { return false };
            Folder::of(&self.root, target).is_ok_and(|folder| folder.is_free(name))
        };
        let freed: Vec<_> =
            self.blocked.iter().filter(|(_, (_, target))| is_free(target)).map(|(path, _)| Arc::clone(path)).collect();
        for path in freed {
            self.remove_status(&path);
            if let Some((queued, _)) = self.blocked.remove(&path) {
                self.enqueue(queued);
            }
        }
    }

    /// A job that has its answers, and no name for its result, waits outside.
    pub(super) fn requeue_blocked(&mut self, slot: u32) {
        if let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::take) {
            self.suspended.insert(job.path.as_os_str().as_bytes().into(), job.id);
            self.put_away(slot, job);
        }
    }

    /// A job met trouble that is its own: it is tried again, later each time, and its status says so.
    pub(super) fn put_off(&mut self, slot: u32, message: String) {
        if let Some(queued) = self.take_back(slot) {
            self.put_off_queued(queued, message);
        }
    }

    /// The same for one that was not begun.
    pub(super) fn put_off_queued(&mut self, queued: Queued, message: String) {
        let before = self.put_off_waits.get(&queued.path).copied();
        let wait = before.map_or(PUT_OFF_MIN, |wait| (wait * 2).min(PUT_OFF_MAX));
        self.put_off_waits.insert(Arc::clone(&queued.path), wait);
        tracing::warn!(file = shown(&queued.path), "{message}; tried again in {} s", wait.as_secs());
        let way_out = format!("it is tried again every {} s, until the cause is mended", wait.as_secs());
        self.tell_hindered(&queued.path, queued.stamp.owner, message, way_out);
        self.queued.insert(Arc::clone(&queued.path));
        self.put_off.push((Instant::now() + wait, queued));
    }

    pub(super) fn look_at_put_off(&mut self, now: Instant) {
        let (due, later) = std::mem::take(&mut self.put_off).into_iter().partition(|(at, _)| *at <= now);
        self.put_off = later;
        let due: Vec<(Instant, Queued)> = due;
        due.into_iter().for_each(|(_, queued)| self.enqueue(queued));
    }

    /// Nothing of this spool runs, until the cause is mended.
    pub(super) fn pause(&mut self, reason: String) {
        if self.trouble.as_ref() != Some(&reason) {
            tracing::warn!("paused: {reason}");
        }
        self.trouble = Some(reason);
    }

    pub(super) fn resume(&mut self) {
        if self.trouble.take().is_some() {
            tracing::info!("going on");
        }
    }

    /// Whether a file waits anywhere.
    pub(super) fn is_waiting(&self, path: &Arc<Path>) -> bool {
        let is_own = |queued: &Queued| queued.path == *path;
        let is_aside = self.unripe.contains_key(path) || self.missing.contains_key(path);
        let is_queued = || {
            self.queue.any(is_own)
                || self.put_off.iter().any(|(_, queued)| is_own(queued))
                || self.waiting_large.iter().any(is_own)
        };
        is_aside || self.blocked.contains_key(path) || (self.queued.contains(path) && is_queued())
    }

    /// Takes a file away from wherever it waits: of several entries the one that has answers to use.
    pub(super) fn take_waiting(&mut self, path: &Arc<Path>) -> Option<Queued> {
        let mut taken = Vec::new();
        if self.queued.remove(path) {
            taken = self.take_queued(path);
        }
        taken.extend(self.unripe.remove(path));
        taken.extend(self.missing.remove(path).map(|(queued, _)| queued));
        taken.extend(self.blocked.remove(path).map(|(queued, _)| queued));
        taken.into_iter().max_by_key(|queued| queued.source().0)
    }

    fn take_queued(&mut self, path: &Arc<Path>) -> Vec<Queued> {
        let mut taken: Vec<Queued> = self.queue.take_out(|queued| queued.path == *path);
        let is_other = |queued: &Queued| queued.path != *path;
        let (put_off, own) = std::mem::take(&mut self.put_off).into_iter().partition(|(_, queued)| is_other(queued));
        self.put_off = put_off;
        let own: Vec<(Instant, Queued)> = own;
        taken.extend(own.into_iter().map(|(_, queued)| queued));
        let (waiting, own) = std::mem::take(&mut self.waiting_large).into_iter().partition(is_other);
        self.waiting_large = waiting;
        let own: VecDeque<Queued> = own;
        taken.extend(own);
        taken
    }
}
