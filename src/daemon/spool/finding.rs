//! From what the scanner says to files that wait for their turn.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::super::claim::poison;
use super::super::history::{Ended, Open};
use super::super::job::{Body, GivenUp};
use super::super::log::{Bytes, End, Held, JobId, Note};
use super::super::names::{Kind, Name};
use super::super::scan::{Found, Told};
use super::super::stamp::Stamp;
use super::super::status::FileCounts;
use super::Spool;
use super::parts::{Queued, Wanted};
use crate::journal::Past;

/// So often in a row may reading a file end the daemon.
pub(super) const STRIKES_MAX: u32 = 3;

impl Spool {
    /// Counts what is done.
    pub(super) fn remember_ends(&mut self) {
        for ended in self.done.values() {
            count(&mut self.files, ended, 1);
        }
    }

    /// Has the file in mind whose reading ended the process before.
    pub(super) fn note_strike(&mut self, left_behind: Option<PathBuf>) {
        let Some(path) = left_behind else { return };
        let key: Box<[u8]> = path.as_os_str().as_bytes().into();
        let Ok(metadata) = self.absolute(&path).symlink_metadata() else { return };
        let stamp = Stamp::of(&metadata);
        let before = self.strikes.get(&key).filter(|(of, _)| *of == stamp).map_or(0, |(_, count)| *count);
        self.strike(&key, stamp, before + 1);
    }

    pub(super) fn strike(&mut self, path: &[u8], stamp: Stamp, count: u32) {
        self.strikes.insert(path.into(), (stamp, count));
        self.append_note(&Note::Strike { path: Bytes(path.to_vec()), stamp, count });
    }

    /// What its log said at the start of what was sent. Given once.
    pub fn take_past(&mut self) -> HashMap<String, Past> {
        std::mem::take(&mut self.past)
    }

    /// Writes a note into the log, behind what is there already.
    pub fn append_note(&mut self, note: &Note) {
        if let Some(log) = &mut self.log {
            log.append(None, |record| note.push(record));
        }
    }

    /// Puts jobs that the log says are open to the front of what waits.
    pub(super) fn go_on_with(&mut self, open: BTreeMap<JobId, Open>) {
        self.look_for_cancels(open.values());
        for (_, Open { claim, claim_at, answers }) in open {
            let path: Arc<Path> = claim.path.path().into();
            if let Held::Folder(folder) = claim.held {
                self.folders.insert(claim.job, folder);
            }
            if self.absolute(&path).symlink_metadata().is_err() {
                // Should it come back, its answers are used.
                self.suspended.insert(path.as_os_str().as_bytes().into(), claim.job);
                continue;
            }
            let key = path.as_os_str().as_bytes();
            if self.strikes.get(key).is_some_and(|(of, count)| *of == claim.stamp && *count >= STRIKES_MAX) {
                self.suspended.insert(key.into(), claim.job);
                self.replied_rejected(&path, claim.stamp, poison(&path));
                continue;
            }
            let answers = answers.into_iter().map(|(line, (offset, _))| (line, offset)).collect();
            let how = Wanted::Resume { job: claim.job, claim_at, answers, retry_failed: claim.retry_failed };
            if claim.retry_failed {
                self.retrying.insert(Arc::clone(&path));
            }
            self.enqueue(Queued { path, kind: claim.kind, stamp: claim.stamp, how });
        }
    }

    pub(super) fn enqueue(&mut self, queued: Queued) {
        self.queued.insert(Arc::clone(&queued.path));
        self.queue.add(queued.stamp.owner, queued);
    }

    /// Takes in what the scanner says.
    pub(super) fn told(&mut self, told: Told) {
        match told {
            Told::Found(found) => found.into_iter().for_each(|found| self.found(found)),
            Told::Gone(paths) => paths.iter().for_each(|path| self.gone(path)),
            Told::Scanned { files, unsettled, took } => {
                tracing::debug!(files, unsettled, took_seconds = took.as_secs_f64(), "scanned");
                self.scanned = Some(unsettled);
            }
            Told::Lost(reason) => self.pause(reason),
            Told::Back => {
                self.resume();
                for (queued, _) in std::mem::take(&mut self.missing).into_values() {
                    self.enqueue(queued);
                }
            }
            Told::Warning(message) => tracing::warn!("{message}"),
        }
    }

    pub(super) fn found(&mut self, found: Found) {
        let Found { path, name, stamp, regular, .. } = found;
        let path: Arc<Path> = path.into();
        let key = path.as_os_str().as_bytes();
        match name {
            Name::Ignored => {}
            Name::Cancel | Name::Retry => self.control(&path, name),
            Name::Input(_) if self.own_results.contains(key) => {}
            Name::Input(_) if !regular => {
                let way_out = "put a regular file there: a copy of what is meant".to_owned();
                self.reject(&path, stamp, "not_regular", "it is no regular file".to_owned(), way_out);
            }
            Name::Input(kind) => self.input(path, kind, stamp),
        }
    }

    pub(super) fn input(&mut self, path: Arc<Path>, kind: Kind, stamp: Stamp) {
        let key = path.as_os_str().as_bytes();
        if let Some(slot) = self.by_path.get(&path).copied() {
            return self.job_file_found(slot, &path, kind, stamp);
        }
        let is_done = self.done.get(key).is_some_and(|ended| ended.stamp == stamp);
        let is_refused = self.refused.get(key) == Some(&stamp);
        if let Some(ended) = self.done.get(key).filter(|ended| is_done && ended.end == End::Published).copied() {
            self.archive_again(&ended);
        }
        if is_done || is_refused {
            return;
        }
        if self.strikes.get(key).is_some_and(|(of, count)| *of == stamp && *count >= STRIKES_MAX) {
            return self.replied_rejected(&path, stamp, poison(&path));
        }
        if self.done.get(key).is_some_and(|ended| ended.end == End::Published) {
            self.stale.insert(Arc::clone(&path));
        }
        let waited = self.take_waiting(&path);
        let (from, retry_failed) = waited.map_or((None, false), |queued| queued.source());
        let from = from.or_else(|| self.suspended.get(path.as_os_str().as_bytes()).copied());
        self.enqueue(Queued { path, kind, stamp, how: Wanted::Fresh { from, retry_failed } });
    }

    /// What was told of a file while something was done for it, unless that was done for just this.
    pub(super) fn look_at_dirty(&mut self, path: &Arc<Path>, handled: Stamp) {
        if let Some((kind, stamp)) = self.dirty.remove(path)
            && stamp != handled
        {
            self.input(Arc::clone(path), kind, stamp);
        }
    }

    /// A file that has a job was found again: changed, or back.
    pub(super) fn job_file_found(&mut self, slot: u32, path: &Arc<Path>, kind: Kind, stamp: Stamp) {
        let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        job.gone_since = None;
        let is_waiting = matches!(job.body, Body::Waiting);
        if job.stamp == stamp && job.given_up == Some(GivenUp::Gone) && !matches!(job.body, Body::Ending) {
            // It is back before the last answer came.
            job.given_up = None;
        }
        if job.stamp == stamp && !is_waiting && job.given_up.is_none() {
            self.dirty.remove(path);
        } else {
            self.dirty.insert(Arc::clone(path), (kind, stamp));
            if is_waiting {
                self.take_again(slot, path);
            }
        }
    }

    /// A job's file has changed, and is stable again: what is new in it is asked.
    pub(super) fn take_again(&mut self, slot: u32, path: &Arc<Path>) {
        let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::take) else { return };
        self.by_path.remove(path);
        self.free_place(slot);
        self.give_share_back(job.share);
        let stamp = self.dirty.remove(path).map_or(job.stamp, |(_, stamp)| stamp);
        self.enqueue(Queued::fresh(Arc::clone(path), job.kind, stamp, Some(job.id)));
    }

    pub(super) fn gone(&mut self, path: &Path) {
        let key = path.as_os_str().as_bytes();
        self.refused.remove(key);
        self.blocked.remove(path);
        self.unripe.remove(path);
        self.stale.remove(path);
        self.missing.remove(path);
        self.dirty.remove(path);
        self.put_off_waits.remove(path);
        if let Some(job) = self.by_path.get(path).and_then(|slot| self.jobs[*slot as usize].as_mut()) {
            job.gone_since.get_or_insert_with(Instant::now);
        }
    }
}

/// Counts a file that has ended, or takes it off.
pub(super) fn count(files: &mut FileCounts, ended: &Ended, by: i64) {
    let add = |number: &mut u64| *number = number.saturating_add_signed(by);
    match ended.end {
        End::Cancelled => add(&mut files.cancelled),
        End::Published | End::Failed => {
            add(&mut files.done);
            if ended.has_failures {
                add(&mut files.failed);
            }
        }
    }
}
