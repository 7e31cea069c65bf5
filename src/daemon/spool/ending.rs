//! From a job whose lines are settled to a result that has its name, and a record that says so.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::claim::{Reply, no_model};
use super::super::folder::Folder;
use super::super::job::{Body, GivenUp, Job};
use super::super::large;
use super::super::log::{Done, End, JobId};
use super::super::names;
use super::super::render::{self, Hindrance, Outcomes, Ready, Rendering, Source};
use super::super::status::{JobState, Reject};
use super::telling::{now_seconds, rfc3339};
use super::{HANDS_MAX, Occurrence, Queued, RENDERED_AT_ONCE, Spool, Wanted};
use crate::journal;
use crate::line::escape::shown;

/// A file that went away is given up after this time: some editors take the old file away before the new one is there.
const GONE_FOR_GOOD: Duration = Duration::from_secs(2);
/// A file that met trouble of its own is tried again after this time, at first and at most.
const PUT_OFF_MIN: Duration = Duration::from_secs(2);
const PUT_OFF_MAX: Duration = Duration::from_secs(120);
/// How often it is looked whether a result's name has become free.
const BLOCKED_LOOK: Duration = Duration::from_secs(1);

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
            self.settled.push_back(slot);
        }
    }

    /// Large jobs whose runs are over.
    pub(super) fn end_larges(&mut self) {
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

    /// Hands small jobs to the threads that render.
    pub(super) fn render_more(&mut self) {
        let config = self.shared.config();
        while self.hands < HANDS_MAX && !self.settled.is_empty() {
            let mut jobs = Vec::new();
            // Few are shared out, so that their syncs go side by side.
            let share = self.settled.len().div_ceil(HANDS_MAX - self.hands).min(RENDERED_AT_ONCE);
            while jobs.len() < share {
                let Some(slot) = self.settled.pop_front() else { break };
                jobs.extend(self.rendering(slot));
            }
            if jobs.is_empty() {
                continue;
            }
            self.hands += 1;
            let (log, root) = (self.log_path.clone(), self.root.clone());
            let source = Source { log, root, line_bytes_max: config.limits.line_bytes_max };
            let tell = self.tell();
            tokio::task::spawn_blocking(move || tell(Occurrence::Rendered(render::render(&source, jobs))));
        }
    }

    fn rendering(&mut self, slot: u32) -> Option<Rendering> {
        let job = self.jobs.get_mut(slot as usize)?.as_mut()?;
        let Body::Small(small) = &job.body else { return None };
        let (lines, count) = (small.records(), small.len() as u64);
        let done = job.done(End::Published, count, 0, None, now_seconds());
        job.body = Body::Ending;
        Some(Rendering {
            ticket: ticket(slot, job.id),
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
                        Ok((done, at)) => self.finished(slot_of(ticket), &done, at),
                        Err(hindrance) => self.hindered(ticket, hindrance),
                    }
                }
            }
            Err(error) => self.fail(error),
        }
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
            large::Ended::Hindered(hindrance) => self.hindered(ticket(slot, id), hindrance),
        }
    }

    /// A note of an end is durable.
    pub(super) fn noted(&mut self, done: &Done, at: Result<u64, journal::Error>) {
        let at = match at {
            Ok(at) => at,
            Err(error) => return self.fail(error),
        };
        let path: Arc<Path> = done.path.path().into();
        match self.by_path.get(&path).copied() {
            Some(slot) => self.finished(slot, done, at),
            None => self.remember(done, at),
        }
    }

    fn remember(&mut self, done: &Done, at: u64) {
        let mut history = super::History::default();
        history.done(at, done);
        let before = history.done.iter().next().and_then(|(path, _)| self.done.get(path)).copied();
        if let Some(before) = before {
            self.files.done -= 1;
            self.files.failed -= u64::from(before.has_failures);
        }
        self.files.done += 1;
        self.files.failed += u64::from(done.failed > 0);
        self.done.extend(history.done);
    }

    /// A job has ended durably.
    fn finished(&mut self, slot: u32, done: &Done, at: u64) {
        self.log_bytes = self.log_bytes.max(at);
        self.remember(done, at);
        let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::take) else { return };
        if let Some(folder) = job.folder.filter(|_| done.end == End::Published)
            && let Err(error) = large::forget_copy(&self.store.job(folder))
        {
            tracing::warn!("a private copy cannot be removed: {error}");
        }
        let lines = done.lines;
        let seconds = job.began.elapsed().as_secs_f64();
        tracing::info!(file = shown(&job.path), lines, failed = done.failed, seconds, "{}", what(done.end));
        self.strikes.remove(job.path.as_os_str().as_bytes());
        self.put_off_waits.remove(&job.path);
        self.stale.remove(&job.path);
        self.tell_end(&job, done);
        self.put_away(slot, job);
        self.archive(done);
    }

    /// Frees a job's place.
    fn put_away(&mut self, slot: u32, job: Job) {
        self.by_path.remove(&job.path);
        self.free_place(slot);
        self.give_share_back(job.stamp.owner, job.stamp.bytes);
    }

    /// Forgets a job that has no end.
    pub(super) fn drop_job(&mut self, slot: u32) {
        if let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::take) {
            self.put_away(slot, job);
        }
    }

    fn end_given_up(&mut self, slot: u32) {
        let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        match job.given_up {
            Some(GivenUp::Cancelled) => {
                let (lines, failed) = (job.counts.settled(), job.counts.failed());
                let done = job.done(End::Cancelled, lines, failed, job.folder, now_seconds());
                job.body = Body::Ending;
                self.note_done(done);
            }
            Some(GivenUp::Gone) => {
                let (path, id) = (Arc::clone(&job.path), job.id);
                tracing::info!(file = shown(&path), "gone: no more of it is asked");
                self.remove_status(&path);
                self.drop_job(slot);
                self.suspended.insert(path.as_os_str().as_bytes().into(), id);
            }
            None => {}
        }
    }

    /// Something stands between a job and its end.
    fn hindered(&mut self, ticket: u64, hindrance: Hindrance) {
        let slot = slot_of(ticket);
        let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        let (path, owner, kind) = (Arc::clone(&job.path), job.stamp.owner, job.kind);
        match hindrance {
            Hindrance::Changed if job.changed => self.take_again(slot, &path),
            // The scanner tells when it is stable.
            Hindrance::Changed => job.body = Body::Waiting,
            Hindrance::Taken => {
                let target = path.with_file_name(job.plan.result_name.path());
                self.tell_blocked(&path, owner, &target);
                self.requeue_blocked(slot);
                self.blocked.insert(path, (owner, kind, target));
            }
            Hindrance::Gone => {
                job.given_up = Some(GivenUp::Gone);
                self.end_given_up(slot);
            }
            Hindrance::Failed(message) => self.put_off(slot, message),
        }
    }

    /// A job that has its answers, and no name for its result, waits outside.
    fn requeue_blocked(&mut self, slot: u32) {
        if let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::take) {
            self.suspended.insert(job.path.as_os_str().as_bytes().into(), job.id);
            self.put_away(slot, job);
        }
    }

    /// Files whose results' names were taken: those that are free now are run, or go on.
    fn look_at_blocked(&mut self, now: Instant) {
        if self.blocked.is_empty() || self.blocked_looked.is_some_and(|at| now.duration_since(at) < BLOCKED_LOOK) {
            return;
        }
        self.blocked_looked = Some(now);
        let is_free = |target: &Path| {
            let Some(name) = target.file_name() else { return false };
            Folder::of(&self.root, target).is_ok_and(|folder| folder.is_free(name))
        };
        let freed: Vec<_> = self
            .blocked
            .iter()
            .filter(|(_, (_, _, target))| is_free(target))
            .map(|(path, (owner, kind, _))| (Arc::clone(path), *owner, *kind))
            .collect();
        for (path, owner, kind) in freed {
            self.blocked.remove(&path);
            self.remove_status(&path);
            let from = self.suspended.get(path.as_os_str().as_bytes()).copied();
            let how = Wanted::Fresh { from, retry_failed: false };
            self.queue.add(owner, Queued { path, kind, bytes: 0, how });
        }
    }

    /// A job met trouble that is its own: it is tried again, later each time, and its status says so.
    pub(super) fn put_off(&mut self, slot: u32, message: String) {
        if let Some((owner, queued)) = self.take_back(slot) {
            self.put_off_queued(owner, queued, message);
        }
    }

    /// The same for one that was not begun.
    pub(super) fn put_off_queued(&mut self, owner: u32, queued: Queued, message: String) {
        let before = self.put_off_waits.get(&queued.path).copied();
        let wait = before.map_or(PUT_OFF_MIN, |wait| (wait * 2).min(PUT_OFF_MAX));
        self.put_off_waits.insert(Arc::clone(&queued.path), wait);
        tracing::warn!(file = shown(&queued.path), "{message}; tried again in {} s", wait.as_secs());
        let way_out = format!("it is tried again every {} s, until the cause is mended", wait.as_secs());
        self.tell_hindered(&queued.path, owner, message, way_out);
        self.put_off.push((Instant::now() + wait, owner, queued));
    }

    fn look_at_put_off(&mut self, now: Instant) {
        let (due, later) = std::mem::take(&mut self.put_off).into_iter().partition(|(at, ..)| *at <= now);
        self.put_off = later;
        let due: Vec<(Instant, u32, Queued)> = due;
        due.into_iter().for_each(|(_, owner, queued)| self.queue.add(owner, queued));
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
        self.look_at_blocked(now);
        self.look_at_put_off(now);
        self.renew_log();
        self.write_statuses(now);
        self.go_on();
    }

    /// Has a log that has grown written anew, when nothing runs that has its places in it.
    fn renew_log(&mut self) {
        let has_grown = self.log_bytes >= self.renew_at_bytes;
        let is_still = self.is_still() && self.claiming.is_empty() && !self.renewing;
        let Some(log) = self.log.as_mut().filter(|log| has_grown && is_still && log.is_settled()) else { return };
        let (store, holder) = (self.store.clone(), self.holder.clone());
        let config = self.shared.config();
        let retain = config.daemon.as_ref().map_or(Duration::ZERO, |daemon| daemon.retain);
        let (tell, index) = (self.shared.tell.clone(), self.index);
        let handed = log.hand_over(move |keeper| {
            let renewed = store.renew(keeper, &holder, retain).map(|history| Box::new((history, keeper.bytes())));
            let _ = tell.send((index, Occurrence::Renewed(renewed)));
        });
        match handed {
            Ok(()) => self.renewing = true,
            Err(error) => self.fail(error),
        }
    }

    pub(super) fn renewed(&mut self, renewed: Result<Box<(super::History, u64)>, journal::Error>) {
        self.renewing = false;
        match renewed {
            Ok(renewed) => {
                let (history, bytes) = *renewed;
                tracing::info!(bytes, "the log was written anew");
                self.log_bytes = bytes;
                self.renew_at_bytes = super::RENEW_BYTES_MIN.max(2 * bytes);
                self.log_path = self.store.log(history.generation);
                self.generation = history.generation;
                self.done = history.done;
                self.claimer.set_log(self.log_path.clone());
            }
            Err(error) => self.fail(error),
        }
    }

    /// Moves a finished input and its result away, where that is wished.
    fn archive(&mut self, done: &Done) {
        let config = self.shared.config();
        let Some(archive) = config.daemon.as_ref().and_then(|daemon| daemon.archive.as_ref()) else { return };
        if done.end == End::Cancelled {
            return;
        }
        let path = done.path.path();
        let result = path.with_file_name(done.result_name.path());
        let pairs: Vec<(PathBuf, PathBuf)> = [result, path]
            .into_iter()
            .filter(|path| !path.as_os_str().is_empty())
            .map(|path| (path.clone(), archive.join(&path)))
            .collect();
        let root = self.root.clone();
        self.clerk.ask(move || {
            for (from, to) in pairs {
                if let Err(error) = move_away(&root, &from, &to) {
                    tracing::warn!("{} cannot be archived: {error}", shown(&from));
                }
            }
        });
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

    /// Gives everything up for now: what is settled is in the log, and the next start goes on.
    pub async fn close(&mut self) -> Result<(), journal::Error> {
        self.scanner = None;
        match self.log.take() {
            Some(log) => log.close(false).await,
            None => Ok(()),
        }
    }

    /// Puts away what the engine has forgotten: after a halt every job of the account goes on from the log.
    pub fn suspend(&mut self, account: usize) {
        for slot in 0..self.jobs.len() as u32 {
            let Some(job) = self.jobs[slot as usize].as_mut().filter(|job| job.account == account) else { continue };
            match &mut job.body {
                Body::Small(small) if small.asked > 0 => self.requeue(slot),
                Body::Large(large) => {
                    large.forget_asked();
                    self.end_large(slot, false);
                }
                _ => {}
            }
        }
    }

    /// Ends the run of a large job: with its result, or to be gone on with.
    fn end_large(&mut self, slot: u32, publishes: bool) {
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

    /// Puts the runs of large jobs away, for the daemon's end.
    pub fn put_large_ones_away(&mut self) {
        for slot in 0..self.jobs.len() as u32 {
            if self.jobs[slot as usize].as_ref().is_some_and(|job| matches!(job.body, Body::Large(_))) {
                self.end_large(slot, false);
            }
        }
    }

    /// Whether anything is on its way that a short wait brings to its end.
    pub fn is_ending(&self) -> bool {
        let ending = |job: &Job| matches!(job.body, Body::Ending | Body::Opening);
        self.hands > 0 || self.publishing || self.jobs.iter().flatten().any(ending)
    }
}

fn move_away(root: &Path, path: &Path, to: &Path) -> std::io::Result<()> {
    let from = Folder::of(root, path)?;
    let from = from.join(path.file_name().unwrap_or_default());
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // What is there already is not overwritten.
    let moved =
        rustix::fs::renameat_with(rustix::fs::CWD, &from, rustix::fs::CWD, to, rustix::fs::RenameFlags::NOREPLACE);
    match moved {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        moved => Ok(moved?),
    }
}

fn what(end: End) -> &'static str {
    match end {
        End::Published => "done",
        End::Failed => "failed",
        End::Cancelled => "cancelled",
    }
}

fn ticket(slot: u32, job: JobId) -> u64 {
    // The job's number tells a place from its next tenant.
    u64::from(slot) | (job & 0xffff_ffff) << 32
}

fn slot_of(ticket: u64) -> u32 {
    ticket as u32
}
