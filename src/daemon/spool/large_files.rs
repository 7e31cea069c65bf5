//! Large files: copied, run by a journal of their own, ended.

use std::sync::Arc;

use super::super::claim::{LargeFile, Reply, no_model};
use super::super::job::Body;
use super::super::large::{self, LargeMode};
use super::super::log::{Bytes, Claim, Done, End, Held, JobId, Note};
use super::super::snapshot::{Copied, Refused};
use super::asking::token;
use super::parts::{Queued, Wanted};
use super::telling::now_seconds;
use super::{CLAIM, LARGE_MAX, Occurrence, Spool};
use crate::journal;
use crate::report::Counts;

use super::taking::{booked, new_job};

impl Spool {
    pub(super) fn begin_large(&mut self, queued: Queued, file: LargeFile) {
        if self.large_count() >= LARGE_MAX {
            // Its turn comes when another large one has ended; small ones may pass.
            self.give_share_back(booked(&queued));
            self.queued.insert(Arc::clone(&queued.path));
            self.waiting_large.push_back(queued);
            return;
        }
        let id = self.new_job();
        let folder = file.folder.or_else(|| self.folder_of_open(file.from)).unwrap_or(id);
        let retry_failed = matches!(queued.how, Wanted::Fresh { retry_failed: true, .. });
        let plan = Arc::new(file.plan.clone());
        let mut job = new_job(id, &queued, file.stamp, String::new(), plan, file.replaces.clone(), Body::Opening);
        (job.folder, job.retry_failed, job.from) = (Some(folder), retry_failed, file.from);
        job.seeds = file.answers.values().cloned().collect();
        job.before.clone_from(&file.before);
        let slot = self.place(job);
        let (tell, shutdown) = (self.tell(), self.shared.shutdown.clone());
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || {
            let made = store.make_job(folder).map_err(Refused::Io);
            let go_on = || shutdown.level() == crate::shutdown::Level::Running;
            let copied = made.and_then(|into| large::copy(&file, &into, go_on));
            tell(Occurrence::Copied(slot, id, copied));
        });
    }

    /// The folder of a job that was large when its file changed.
    pub(super) fn folder_of_open(&self, from: Option<JobId>) -> Option<JobId> {
        let from = from?;
        let folder = self.folders.get(&from).copied().unwrap_or(from);
        self.store.job(folder).is_dir().then_some(folder)
    }

    /// A large file was copied: its claim is written down, and then its journal opened.
    pub(super) fn copied(&mut self, slot: u32, id: JobId, copied: Result<Copied, Refused>) {
        let Some(job) = self.job(slot, id).filter(|job| job.given_up.is_none()) else { return };
        let path = Arc::clone(&job.path);
        match copied {
            Ok(Copied { sha256, lines, .. }) => {
                let sha256 = journal::key::hex(&sha256);
                if let Some(before) = job.before.take().filter(|before| before.sha256 == sha256) {
                    let done = Done { stamp: job.stamp, ..*before };
                    self.drop_job(slot);
                    self.stale.remove(&path);
                    let stamp = done.stamp;
                    self.note_done(done);
                    return self.look_at_dirty(&path, stamp);
                }
                job.lines = Some(lines);
                job.share.lines = lines;
                job.sha256.clone_from(&sha256);
                let owner = job.share.owner;
                let claim = Claim {
                    job: id,
                    path: Bytes::of_path(&job.path),
                    stamp: job.stamp,
                    sha256,
                    kind: job.kind,
                    plan: (*job.plan).clone(),
                    from: job.from,
                    retry_failed: job.retry_failed,
                    at_seconds: super::telling::now_seconds(),
                    held: Held::Folder(job.folder.unwrap_or(id)),
                };
                self.shares.entry(owner).or_default().lines += lines;
                if let Some(log) = &mut self.log {
                    self.pipe[slot as usize] += 1;
                    log.append(Some(token(slot, CLAIM, None)), |record| Note::Claim(claim).push(record));
                }
            }
            Err(Refused::NotYet) => {
                let (stamp, kind) = (job.stamp, job.kind);
                let how = Wanted::Fresh { from: job.origin, retry_failed: job.retry_failed };
                self.drop_job(slot);
                self.unripe.insert(Arc::clone(&path), Queued { path, kind, stamp, how });
            }
            Err(Refused::Gone) => self.drop_job(slot),
            Err(Refused::Reject { code, message, way_out }) => {
                let stamp = job.stamp;
                self.drop_job(slot);
                self.reject(&path, stamp, code, message, way_out);
            }
            Err(Refused::Io(error)) => {
                let (stamp, kind) = (job.stamp, job.kind);
                let how = Wanted::Fresh { from: job.origin, retry_failed: job.retry_failed };
                self.drop_job(slot);
                self.put_off_queued(Queued { path, kind, stamp, how }, format!("copy the file: {error}"));
            }
        }
    }

    /// Opens the journal of a large job.
    pub(super) fn open_large(&mut self, slot: u32) {
        let config = self.shared.config();
        let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        job.counts = Arc::new(Counts::default());
        let opening = large::Opening {
            folder: self.store.job(job.folder.unwrap_or(job.id)),
            plan: Arc::clone(&job.plan),
            base_url: config.service.first().base_url.as_str().to_owned(),
            retry_failed: job.retry_failed,
            seeds: std::mem::take(&mut job.seeds),
            line_bytes_max: config.limits.line_bytes_max,
            counts: Arc::clone(&job.counts),
        };
        let id = job.id;
        let tell = self.tell();
        tokio::spawn(async move {
            tell(Occurrence::Opened(slot, id, large::open(opening).await));
        });
    }

    pub(super) fn opened(&mut self, slot: u32, id: JobId, opened: Result<Box<LargeMode>, String>) {
        let path = match self.job(slot, id) {
            Some(job) => Arc::clone(&job.path),
            None => return,
        };
        match opened {
            Ok(large) => {
                if let Some(job) = self.job(slot, id) {
                    job.body = Body::Large(large);
                }
            }
            Err(message) => {
                // What is there is kept: the job is gone on with when the trouble is over.
                let _ = path;
                self.put_off(slot, message);
            }
        }
    }

    /// Large jobs whose runs are over.
    pub(super) fn end_larges(&mut self) {
        if self.trouble.is_some() || self.doubtful {
            return;
        }
        for slot in 0..self.jobs.len() {
            let Some(job) = self.jobs[slot].as_mut() else { continue };
            let given_up = job.given_up.is_some();
            match &mut job.body {
                Body::Large(large) if !large.is_asked() && (given_up || large.is_over()) => {}
                _ => continue,
            }
            self.end_large(slot as u32, !given_up);
        }
    }

    /// Ends the run of a large job: with its result, or to be gone on with.
    pub(super) fn end_large(&mut self, slot: u32, publishes: bool) {
        let config = self.shared.config();
        let tell = self.tell();
        let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        let Body::Large(mut mode) = std::mem::replace(&mut job.body, Body::Ending) else { return };
        *self.freed.entry(job.account).or_default() += mode.take_freed();
        // What it still holds comes free when its journal was closed.
        job.held = mode.held();
        let ending = large::Ending {
            mode,
            root: self.root.clone(),
            path: Arc::clone(&job.path),
            stamp: job.stamp,
            plan: Arc::clone(&job.plan),
            replaces: job.replaces.clone(),
            counts: Arc::clone(&job.counts),
            how: self.how,
            line_bytes_max: config.limits.line_bytes_max,
            shutdown: self.shared.shutdown.clone(),
            drain: config.clocks.drain,
            publishes,
        };
        let id = job.id;
        tokio::spawn(async move {
            let ended = large::end(ending).await;
            tell(Occurrence::Ended(slot, id, Box::new(ended)));
        });
    }

    /// A large job came to its end.
    pub(super) fn ended(&mut self, slot: u32, id: JobId, ended: large::Ended) {
        let Some(job) = self.job(slot, id) else { return };
        let (account, held) = (job.account, std::mem::take(&mut job.held));
        *self.freed.entry(account).or_default() += held;
        let Some(job) = self.job(slot, id) else { return };
        let (path, stamp, folder) = (Arc::clone(&job.path), job.stamp, job.folder);
        match ended {
            large::Ended::Published { result, lines, failed } => {
                let done =
                    Done { result: Some(result), ..job.done(End::Published, lines, failed, folder, now_seconds()) };
                self.note_done(done);
            }
            large::Ended::PutAway if job.given_up.is_some() => self.end_given_up(slot),
            large::Ended::PutAway => self.requeue(slot),
            large::Ended::NoModel => {
                self.drop_job(slot);
                if let Reply::Rejected { code, message, way_out } = no_model() {
                    self.reject(&path, stamp, code, message, way_out);
                }
            }
            large::Ended::Hindered(hindrance) => self.hindered((slot, id), hindrance),
        }
    }

    /// Puts the runs of large jobs away, for the daemon's end.
    pub fn put_large_ones_away(&mut self) {
        for slot in 0..self.jobs.len() as u32 {
            if self.jobs[slot as usize].as_ref().is_some_and(|job| matches!(job.body, Body::Large(_))) {
                self.end_large(slot, false);
            }
        }
    }
}
