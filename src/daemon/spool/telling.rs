//! What a spool tells of itself: status files, log lines, and the rows of the spool's own status.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::super::folder::Folder;
use super::super::job::{Body, Job};
use super::super::log::{Done, End};
use super::super::status::{DaemonState, FileCounts, JobState, JobStatus, RequestCounts, SpoolStatus};
use super::super::{names, status};
use super::{Occurrence, Spool};
use crate::line::escape::shown;
use crate::report::Counts;

/// Jobs that take less get no status file.
const STATUS_AFTER: Duration = Duration::from_secs(2);
/// Status files are written anew after this time.
const STATUS_EVERY: Duration = Duration::from_secs(2);
/// Rows of the spool's own status.
const ROWS_MAX: usize = 100;

/// Now, in seconds since 1970.
pub fn now_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Now, as people write it.
pub fn rfc3339() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

impl Spool {
    /// Notes a file that needs somebody's attention.
    pub(super) fn attend(
        &mut self,
        path: &Path,
        owner: u32,
        state: JobState,
        message: Option<String>,
        way_out: Option<String>,
    ) {
        let shown = path.to_string_lossy().into_owned();
        self.attention.retain(|row| row.path != shown);
        self.attention.push_front(JobStatus { message, way_out, ..row(shown, owner, state) });
        self.attention.truncate(ROWS_MAX);
    }

    /// A file's result has no name: says so, once.
    pub(super) fn tell_blocked(&mut self, path: &Path, owner: u32, target: &Path) {
        let message = format!("{} exists, and is not what was published before", shown(target));
        let way_out = "move it away: the result takes its place then".to_owned();
        tracing::warn!(file = shown(path), "blocked: {message}");
        self.tell_hindered(path, owner, message, way_out);
    }

    /// A job has ended: its status file tells of failures, and goes away after success.
    pub(super) fn tell_end(&mut self, job: &Job, done: &Done) {
        let path = job.path.to_string_lossy().into_owned();
        self.attention.retain(|row| row.path != path);
        // Whatever was said of it before does not hold any more.
        self.remove_status(&job.path);
        let state = match done.end {
            End::Cancelled => JobState::Cancelled,
            End::Published if done.failed == 0 => {
                return;
            }
            End::Published | End::Failed => JobState::Failed,
        };
        let message = match done.end {
            End::Cancelled => "its owner gave it up".to_owned(),
            End::Failed => "the prompt failed, and there is no result".to_owned(),
            End::Published => format!("{} of {} lines failed; the result says why", done.failed, done.lines),
        };
        let retry = job.path.file_name().map(names::retry_name).unwrap_or_default();
        let way_out = format!("make a file {} beside it: failed lines alone are asked again", shown(retry.as_ref()));
        let row = JobStatus {
            done: done.lines,
            total: Some(done.lines),
            failed: done.failed,
            codes: codes(&job.counts),
            message: Some(message),
            way_out: Some(way_out),
            settings: Some(settings(job)),
            ..row(path, job.stamp.owner, state)
        };
        self.attention.push_front(row.clone());
        self.attention.truncate(ROWS_MAX);
        self.write_status(&job.path, row);
    }

    fn write_status(&self, path: &Path, status: JobStatus) {
        let Some(name) = path.file_name() else { return };
        self.write_beside(path.with_file_name(names::status_name(name)), status);
    }

    /// Writes a companion of a prompt file; its path is seen from the spool's folder.
    pub(super) fn write_beside(&self, path: PathBuf, value: impl serde::Serialize + Send + 'static) {
        let root = self.root.clone();
        self.clerk.ask(move || {
            let name = path.file_name().unwrap_or_default();
            let written = Folder::of(&root, &path).and_then(|folder| status::write(&folder.join(name), &value, 0o644));
            if let Err(error) = written.or_else(|error| if Folder::is_gone(&error) { Ok(()) } else { Err(error) }) {
                tracing::warn!("{} cannot be written: {error}", shown(&path));
            }
        });
    }

    /// A file's trouble: says so.
    pub(super) fn tell_hindered(&mut self, path: &Path, owner: u32, message: String, way_out: String) {
        let row = row(path.to_string_lossy().into_owned(), owner, JobState::Blocked);
        let status = JobStatus { message: Some(message), way_out: Some(way_out), ..row };
        self.attention.retain(|row| row.path != status.path);
        self.attention.push_front(status.clone());
        self.attention.truncate(ROWS_MAX);
        self.write_status(path, status);
    }

    /// A file was given up that had no job.
    pub(super) fn tell_cancelled(&mut self, done: &Done) {
        let path = done.path.path();
        let row = JobStatus {
            message: Some("its owner gave it up".to_owned()),
            ..row(path.to_string_lossy().into_owned(), done.stamp.owner, JobState::Cancelled)
        };
        self.attention.retain(|other| other.path != row.path);
        self.attention.push_front(row.clone());
        self.attention.truncate(ROWS_MAX);
        self.write_status(&path, row);
    }

    /// Removes what a crash has left of status files that were being written.
    pub(super) fn sweep(&self) {
        let root = self.root.clone();
        self.clerk.ask(move || {
            let Ok(entries) = std::fs::read_dir(&root) else { return };
            let is_left = |name: &std::ffi::OsStr| {
                let name = name.as_encoded_bytes();
                name.starts_with(b".") && name.ends_with(status::TEMP_ENDING.as_bytes())
            };
            for entry in entries.flatten().filter(|entry| is_left(&entry.file_name())) {
                // What is not ours to remove stays.
                let _ = std::fs::remove_file(entry.path());
            }
        });
    }

    /// Removes the status and reject files that an earlier end may have left.
    pub(super) fn remove_status(&self, path: &Path) {
        let Some(name) = path.file_name() else { return };
        let companions = [names::status_name(name), names::reject_name(name)];
        let (root, path) = (self.root.clone(), path.to_owned());
        self.clerk.ask(move || {
            if let Ok(folder) = Folder::of(&root, &path) {
                companions.iter().for_each(|companion| drop(std::fs::remove_file(folder.join(companion))));
            }
        });
    }

    /// Writes the status files that are due.
    pub(super) fn write_statuses(&mut self, now: Instant) {
        if self.doubtful || self.trouble.is_some() {
            return;
        }
        let mut due = Vec::new();
        for job in self.jobs.iter_mut().flatten() {
            let is_old = now.duration_since(job.began) >= STATUS_AFTER;
            let is_due = job.status_at.is_none_or(|at| now.duration_since(at) >= STATUS_EVERY);
            if is_old && is_due && !matches!(job.body, Body::Ending) {
                job.status_at = Some(now);
                due.push((job.path.clone(), running(job, now)));
            }
        }
        due.into_iter().for_each(|(path, status)| self.write_status(&path, status));
        if self.told_at.is_none_or(|at| now.duration_since(at) >= STATUS_EVERY) {
            self.told_at = Some(now);
            self.write_own(DaemonState::Running, None);
        }
    }

    /// Writes the spool's own status.
    pub fn write_own(&self, state: DaemonState, paused: Option<String>) {
        let status = self.status(state, paused);
        let target = self.store.status();
        self.clerk.ask(move || {
            if let Err(error) = status::write(&target, &status, 0o644) {
                tracing::warn!("{} cannot be written: {error}", shown(&target));
            }
        });
    }

    /// Writes the spool's own status for the last time.
    pub fn write_last(&mut self) {
        self.clerk.finish();
        let _ = status::write(&self.store.status(), &self.status(DaemonState::Stopped, None), 0o644);
    }

    /// The spool as it stands.
    pub fn status(&self, state: DaemonState, paused: Option<String>) -> SpoolStatus {
        let now = Instant::now();
        let counts = &self.shared.counts;
        let (prompt_tokens, completion_tokens) = counts.tokens();
        let mut running: Vec<(u64, JobStatus)> =
            self.jobs.iter().flatten().map(|job| (job.id, self::running(job, now))).collect();
        running.sort_unstable_by_key(|(id, _)| *id);
        let paused = paused.or_else(|| self.trouble.clone()).or_else(|| self.shared.pause_reason());
        SpoolStatus {
            version: 1,
            at: rfc3339(),
            holder: self.holder.clone(),
            generation: self.generation,
            state,
            paused,
            files: self.counts(),
            requests: RequestCounts {
                in_flight: counts.in_flight(),
                answered: counts.answered(),
                failed: counts.failed(),
                retries: counts.retries(),
                prompt_tokens,
                completion_tokens,
                rate: self.shared.rate.borrow().per_second(now, counts.settled()),
            },
            running: running.into_iter().map(|(_, row)| row).take(ROWS_MAX).collect(),
            attention: self.attention.iter().cloned().collect(),
            archive: self.archive_path().map(|path| path.to_string_lossy().into_owned()),
        }
    }

    fn archive_path(&self) -> Option<PathBuf> {
        self.shared.config().daemon.as_ref()?.archive.clone()
    }

    /// Files by how they stand.
    pub fn counts(&self) -> FileCounts {
        FileCounts {
            queued: (self.queue.len() + self.claiming.len() + self.unripe.len() + self.waiting_large.len()) as u64,
            running: self.by_path.len() as u64,
            stale: self.stale.len() as u64,
            blocked: self.blocked.len() as u64,
            rejected: self.refused.len() as u64,
            ..self.files
        }
    }

    /// Has the log's thread show that it lives; how often it has.
    pub fn ask_alive(&mut self) -> u64 {
        if self.asked_alive <= self.alive {
            let tell = self.tell();
            if let Some(log) = &mut self.log
                && log.hand_over(move |_| tell(Occurrence::Alive)).is_ok()
            {
                self.asked_alive = self.alive + 1;
            }
        }
        self.alive
    }
}

fn row(path: String, owner: u32, state: JobState) -> JobStatus {
    JobStatus {
        path,
        state,
        at: rfc3339(),
        owner,
        done: 0,
        total: None,
        failed: 0,
        rate: 0.0,
        eta_seconds: None,
        codes: BTreeMap::new(),
        message: None,
        way_out: None,
        settings: None,
    }
}

fn running(job: &Job, now: Instant) -> JobStatus {
    let (done, failed) = (job.counts.settled(), job.counts.failed());
    let total = match &job.body {
        Body::Small(small) => Some(small.len() as u64),
        _ => job.lines,
    };
    let seconds = now.duration_since(job.began).as_secs_f64();
    let rate = if seconds > 0.0 { (done - job.counts.replayed().min(done)) as f64 / seconds } else { 0.0 };
    let left = total.map(|total| total.saturating_sub(done));
    JobStatus {
        done,
        total,
        failed,
        rate: (rate * 1000.0).round() / 1000.0,
        eta_seconds: left.filter(|_| rate > 0.0).map(|left| (left as f64 / rate).ceil() as u64),
        codes: codes(&job.counts),
        settings: Some(settings(job)),
        ..row(job.path.to_string_lossy().into_owned(), job.stamp.owner, JobState::Running)
    }
}

fn codes(counts: &Counts) -> BTreeMap<String, u64> {
    counts.codes().into_iter().map(|(code, count)| (code.as_str().to_owned(), count)).collect()
}

/// The settings of a job, for whoever may read its status: of a system prompt its length.
fn settings(job: &Job) -> serde_json::Value {
    let plan = &job.plan;
    serde_json::json!({
        "model": plan.model,
        "system_chars": plan.system.as_ref().map(|system| system.chars().count()),
        "params": plan.params.iter().cloned().collect::<BTreeMap<String, String>>(),
        "format": plan.format,
        "merge": plan.merge,
    })
}
