//! From a job whose lines are settled to a result that has its name, and a record that says so.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::job::{Body, GivenUp, Job};
use super::super::log::{Done, End, JobId};
use super::super::render::{self, Hindrance, Outcomes, Ready, Rendering, Source, Ticket};
use super::super::status::{JobState, Reject};
use super::super::{large, names};
use super::finding::count;
use super::parts::Queued;
use super::telling::{now_seconds, rfc3339};
use super::{HANDS_MAX, Occurrence, RENDERED_AT_ONCE, Spool};
use crate::journal;
use crate::line::escape::shown;

/// How often it is looked whether controls that waited can be honoured.
const CONTROLS_LOOK: Duration = Duration::from_millis(500);
/// A file that went away is given up after this time: some editors take the old file away before the new one is there.
const GONE_FOR_GOOD: Duration = Duration::from_secs(2);

impl Spool {
    /// Looks whether a small job's last line was settled, or nothing of a job that was given up is under way any more.
    pub(super) fn end_if_settled(&mut self, slot: u32) {
        let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        if job.given_up.is_some() && !matches!(job.body, Body::Large(_) | Body::Ending) {
            // What is answered is written down, too.
            if !job.is_asked() && self.pipe[slot as usize] == 0 {
                self.end_given_up(slot);
            }
            return;
        }
        let Body::Small(small) = &job.body else { return };
        if small.is_settled() && job.claim_at != 0 {
            self.settled.push_back((slot, job.id));
        }
    }

    /// Hands small jobs to the threads that render.
    pub(super) fn render_more(&mut self) {
        let config = self.shared.config();
        while self.hands < HANDS_MAX && !self.settled.is_empty() {
            let mut jobs = Vec::new();
            // Few are shared out, so that their syncs go side by side.
            let share = self.settled.len().div_ceil(HANDS_MAX - self.hands).min(RENDERED_AT_ONCE);
            while jobs.len() < share {
                let Some((slot, id)) = self.settled.pop_front() else { break };
                jobs.extend(self.rendering(slot, id));
            }
            if jobs.is_empty() {
                continue;
            }
            self.hands += 1;
            let (log, root) = (self.log_path.clone(), self.root.clone());
            let source = Source { log, root, line_bytes_max: config.limits.line_bytes_max };
            let tell = self.tell();
            tokio::task::spawn_blocking(move || tell(Occurrence::Rendered(render::render_caught(&source, jobs))));
        }
    }

    pub(super) fn rendering(&mut self, slot: u32, id: JobId) -> Option<Rendering> {
        let job = self.job(slot, id).filter(|job| job.given_up.is_none() && job.claim_at != 0)?;
        let Body::Small(small) = &job.body else { return None };
        if !small.is_settled() {
            return None;
        }
        let (lines, count) = (small.records(), small.len() as u64);
        let done = job.done(End::Published, count, 0, None, now_seconds());
        job.answers = small.answers();
        job.body = Body::Ending;
        Some(Rendering {
            ticket: (slot, job.id),
            job: job.id,
            path: Arc::clone(&job.path),
            stamp: job.stamp,
            plan: Arc::clone(&job.plan),
            claim_at: job.claim_at,
            lines,
            done,
            replaces: job.replaces.clone(),
        })
    }

    pub(super) fn rendered(&mut self, rendered: Outcomes<Ready>) {
        self.hands -= 1;
        for (ticket, result) in rendered {
            match result {
                Ok(ready) => self.ready.push(ready),
                Err(hindrance) => self.hindered(ticket, hindrance),
            }
        }
    }

    /// Has results named, all that are ready at once.
    pub(super) fn publish_more(&mut self) {
        if self.publishing || self.ready.is_empty() {
            return;
        }
        let Some(log) = &mut self.log else { return };
        let (batch, how) = (std::mem::take(&mut self.ready), self.how);
        let (tell, index) = (self.shared.tell.clone(), self.index);
        let handed = log.hand_over(move |keeper| {
            let published = render::publish_all(keeper, batch, how);
            let _ = tell.send((index, Occurrence::Published(published)));
        });
        match handed {
            Ok(()) => self.publishing = true,
            Err(error) => self.fail(error),
        }
    }

    pub(super) fn published(&mut self, published: Result<Outcomes<render::Ended>, journal::Error>) {
        self.publishing = false;
        match published {
            Ok(jobs) => {
                for (ticket, result) in jobs {
                    match result {
                        Ok((done, at)) => self.finished(ticket.0, &done, at),
                        Err(hindrance) => self.hindered(ticket, hindrance),
                    }
                }
            }
            Err(error) => self.fail(error),
        }
    }

    /// A note of an end is durable.
    pub(super) fn noted(&mut self, noted: Result<Box<render::Ended>, journal::Error>) {
        let (done, at) = match noted {
            Ok(noted) => *noted,
            Err(error) => return self.fail(error),
        };
        let path: Arc<Path> = done.path.path().into();
        let own = self.by_path.get(&path).copied().filter(|slot| self.job(*slot, done.job).is_some());
        match own {
            Some(slot) => self.finished(slot, &done, at),
            None => {
                self.remember(&done, at);
                if done.end == End::Cancelled {
                    self.tell_cancelled(&done);
                }
            }
        }
    }

    pub(super) fn remember(&mut self, done: &Done, at: u64) {
        let mut history = super::History::default();
        history.done(at, done);
        let before = history.done.iter().next().and_then(|(path, _)| self.done.get(path)).copied();
        if let Some(before) = before {
            count(&mut self.files, &before, -1);
        }
        history.done.values().for_each(|ended| count(&mut self.files, ended, 1));
        self.done.extend(history.done);
    }

    /// A job has ended durably.
    pub(super) fn finished(&mut self, slot: u32, done: &Done, at: u64) {
        self.log_bytes = self.log_bytes.max(at);
        self.failed_lines += done.failed;
        self.remember(done, at);
        if self.job(slot, done.job).is_none() {
            return;
        }
        let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::take) else { return };
        if let Some(folder) = job.folder.filter(|_| done.end == End::Published) {
            let folder = self.store.job(folder);
            self.clerk.ask(move || {
                if let Err(error) = large::forget_copy(&folder) {
                    tracing::warn!("a private copy cannot be removed: {error}");
                }
            });
        }
        let lines = done.lines;
        let seconds = job.began.elapsed().as_secs_f64();
        tracing::info!(file = shown(&job.path), lines, failed = done.failed, seconds, "{}", what(done.end));
        self.strikes.remove(job.path.as_os_str().as_bytes());
        self.put_off_waits.remove(&job.path);
        self.stale.remove(&job.path);
        self.tell_end(&job, done);
        if let Some(name) = job.path.file_name() {
            if done.end == End::Cancelled {
                self.use_up(&job.path, &names::cancel_name(name));
            }
            if self.retrying.remove(&job.path) {
                self.use_up(&job.path, &names::retry_name(name));
            }
        }
        let (path, stamp) = (Arc::clone(&job.path), job.stamp);
        self.put_away(slot, job);
        self.archive(done);
        self.look_at_dirty(&path, stamp);
    }

    /// Frees a job's place.
    pub(super) fn put_away(&mut self, slot: u32, job: Job) {
        self.by_path.remove(&job.path);
        self.free_place(slot);
        self.give_share_back(job.share);
    }

    /// Forgets a job that has no end.
    pub(super) fn drop_job(&mut self, slot: u32) {
        if let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::take) {
            self.put_away(slot, job);
        }
    }

    pub(super) fn end_given_up(&mut self, slot: u32) {
        let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        match job.given_up {
            Some(GivenUp::Cancelled) => {
                let (lines, failed) = (job.counts.settled(), job.counts.failed());
                let done = job.done(End::Cancelled, lines, failed, job.folder, now_seconds());
                // What was published before is still ours.
                let done = Done { result: job.replaces.clone(), ..done };
                job.body = Body::Ending;
                self.note_done(done);
            }
            Some(GivenUp::Gone) => {
                let (path, id) = (Arc::clone(&job.path), job.id);
                tracing::info!(file = shown(&path), "gone: no more of it is asked");
                self.remove_status(&path);
                self.drop_job(slot);
                self.suspended.insert(path.as_os_str().as_bytes().into(), id);
                if let Some((kind, stamp)) = self.dirty.remove(&path) {
                    // It came back meanwhile.
                    self.input(path, kind, stamp);
                }
            }
            None => {}
        }
    }

    /// Something stands between a job and its end.
    pub(super) fn hindered(&mut self, (slot, id): Ticket, hindrance: Hindrance) {
        let Some(job) = self.job(slot, id) else { return };
        let (path, stamp, kind) = (Arc::clone(&job.path), job.stamp, job.kind);
        if job.given_up.is_some() && !matches!(hindrance, Hindrance::Gone) {
            // It was given up while its result was made.
            return self.end_given_up(slot);
        }
        match hindrance {
            Hindrance::Changed => {
                // The scanner has told what it is now, or does so when it is stable.
                job.body = Body::Waiting;
                if self.dirty.contains_key(&path) {
                    self.take_again(slot, &path);
                }
            }
            Hindrance::Taken => {
                let target = path.with_file_name(job.plan.result_name.path());
                self.tell_blocked(&path, stamp.owner, &target);
                self.requeue_blocked(slot);
                let queued = Queued::fresh(Arc::clone(&path), kind, stamp, Some(id));
                self.blocked.insert(Arc::clone(&path), (queued, target));
                self.look_at_dirty(&path, stamp);
            }
            Hindrance::Gone => {
                job.given_up = Some(GivenUp::Gone);
                self.end_given_up(slot);
                if !self.is_waiting(&path) && !self.by_path.contains_key(&path) {
                    // Should it be the spool's folder that is gone, it is taken again when that is back.
                    let queued = Queued::fresh(Arc::clone(&path), kind, stamp, Some(id));
                    self.missing.insert(path, (queued, Instant::now()));
                }
            }
            Hindrance::Failed(message) => self.put_off(slot, message),
        }
    }

    /// Looks after what has its time: to be called a few times a second.
    pub fn tick(&mut self, now: Instant) {
        let gone: Vec<u32> = self
            .by_path
            .values()
            .copied()
            .filter(|slot| {
                let job = self.jobs[*slot as usize].as_ref();
                job.and_then(|job| job.gone_since).is_some_and(|since| now.duration_since(since) >= GONE_FOR_GOOD)
            })
            .collect();
        for slot in gone {
            let is_waiting =
                self.jobs[slot as usize].as_ref().is_some_and(|job| matches!(job.body, Body::Waiting | Body::Small(_)));
            if is_waiting || self.jobs[slot as usize].as_ref().is_some_and(|job| matches!(job.body, Body::Large(_))) {
                self.give_up(slot, GivenUp::Gone);
            }
        }
        self.look_at_unripe(now);
        self.forget_missing(now);
        if !self.renewing && self.controls_looked.is_none_or(|at| now.duration_since(at) >= CONTROLS_LOOK) {
            self.controls_looked = Some(now);
            self.look_at_controls();
        }
        self.look_at_blocked(now);
        self.look_at_put_off(now);
        self.renew_log();
        self.write_statuses(now);
        self.go_on();
    }

    /// Writes down why a file is not taken.
    pub(super) fn reject(
        &mut self,
        path: &Path,
        stamp: super::Stamp,
        code: &'static str,
        message: String,
        way_out: String,
    ) {
        tracing::warn!(file = shown(path), code, "rejected: {message}");
        self.refused.insert(path.as_os_str().as_bytes().into(), stamp);
        let reject = Reject {
            path: path.to_string_lossy().into_owned(),
            at: rfc3339(),
            code: code.to_owned(),
            message: message.clone(),
            way_out: way_out.clone(),
        };
        self.attend(path, stamp.owner, JobState::Rejected, Some(message), Some(way_out));
        let Some(name) = path.file_name() else { return };
        self.write_beside(path.with_file_name(names::reject_name(name)), reject);
    }
}

fn what(end: End) -> &'static str {
    match end {
        End::Published => "done",
        End::Failed => "failed",
        End::Cancelled => "cancelled",
    }
}
