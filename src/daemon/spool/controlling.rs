//! `.cancel` and `.retry`: what their owners want of files, whatever is being done for these.
//!
//! Invariant: a control stays in its folder until what it asks for is durable; until then it is looked at again, so that
//! no moment is the wrong one for it and a crash forgets none.

use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use super::super::answers::Answers;
use super::super::controls;
use super::super::folder::Folder;
use super::super::history::Open;
use super::super::job::{Body, GivenUp};
use super::super::log::{Bytes, Done, End, JobId, Note};
use super::super::names::{Name, cancel_name, classify, controlled};
use super::super::stamp::Stamp;
use super::parts::{Queued, Wanted};
use super::{Occurrence, Spool};
use crate::journal::{Error, Keeper, frame};

/// What came of a look at a control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// What it asks for is durable, or was so before.
    Done,
    /// Not yet.
    Later,
}

impl Spool {
    /// Takes in a control that was found.
    pub(super) fn control(&mut self, path: &Path, name: Name) {
        self.controls.remove(path);
        let Some(file_name) = path.file_name() else { return };
        let Some(input_name) = controlled(file_name) else { return };
        let input: Arc<Path> = path.with_file_name(input_name).into();
        let Ok(folder) = Folder::of(&self.root, path) else { return };
        if folder.is_free(file_name) {
            return;
        }
        let Ok(metadata) = folder.join(input_name).symlink_metadata() else {
            // It may come before its file.
            self.controls.insert(path.to_owned());
            return;
        };
        let stamp = Stamp::of(&metadata);
        match controls::honoured(folder.as_fd(), file_name, stamp.owner) {
            Ok(true) => {}
            Ok(false) => {
                return tracing::warn!("a control file that does not belong to the owner of its file is ignored");
            }
            Err(error) => return tracing::warn!("a control file cannot be looked at: {error}"),
        }
        let used = if name == Name::Cancel { self.cancel(&input, stamp) } else { self.retry(&input, stamp) };
        if used == Use::Later {
            self.controls.insert(path.to_owned());
        } else if let Err(error) = controls::consume(folder.as_fd(), file_name) {
            tracing::warn!("a control file cannot be removed: {error}");
        }
    }

    /// Controls that could not be honoured when they were looked at last.
    pub(super) fn look_at_controls(&mut self) {
        for path in std::mem::take(&mut self.controls) {
            let name = path.file_name().map_or(Name::Ignored, classify);
            self.control(&path, name);
        }
    }

    /// Jobs that were cancelled while no daemon ran are not gone on with.
    pub(super) fn look_for_cancels<'o>(&mut self, open: impl Iterator<Item = &'o Open>) {
        for open in open {
            let path = open.claim.path.path();
            if let Some(name) = path.file_name() {
                self.controls.insert(path.with_file_name(cancel_name(name)));
            }
        }
    }

    fn cancel(&mut self, input: &Arc<Path>, stamp: Stamp) -> Use {
        let key = input.as_os_str().as_bytes();
        if let Some(slot) = self.by_path.get(input).copied() {
            let is_ending = self.jobs[slot as usize].as_ref().is_none_or(|job| matches!(job.body, Body::Ending));
            if !is_ending {
                self.give_up(slot, GivenUp::Cancelled);
            }
            return Use::Later;
        }
        if self.is_claiming(input) {
            return Use::Later;
        }
        if let Some(queued) = self.take_waiting(input) {
            self.note_cancelled(input, stamp, queued.source().0);
            return Use::Later;
        }
        // There is nothing to give up any more, or there never was.
        let is_over = self.done.get(key).is_some_and(|ended| ended.stamp == stamp);
        if is_over || self.refused.contains_key(key) { Use::Done } else { Use::Later }
    }

    /// A file that is not open is given up.
    fn note_cancelled(&mut self, input: &Path, stamp: Stamp, source: Option<JobId>) {
        let key = input.as_os_str().as_bytes();
        // Answers of a job that was under way are found by its number.
        let source = source.or_else(|| self.suspended.remove(key));
        let folder = self.folder_of_open(source);
        let own = Done {
            job: source.unwrap_or_else(|| self.new_job()),
            path: Bytes::of_path(input),
            stamp,
            sha256: String::new(),
            end: End::Cancelled,
            lines: 0,
            failed: 0,
            result: None,
            result_name: Bytes(Vec::new()),
            folder,
            at_seconds: super::telling::now_seconds(),
        };
        let (before, log_path) = (self.done.get(key).copied(), self.log_path.clone());
        self.note(move |keeper| {
            // What was answered and published before is remembered.
            let done = match before {
                Some(before) => {
                    let before = Answers::open(&log_path)?.done(before.done_at)?;
                    let (job, folder) = match source {
                        // It has what was answered before, too.
                        Some(job) => (job, own.folder.or(before.folder)),
                        None => (before.job, before.folder),
                    };
                    Done { job, folder, stamp, end: End::Cancelled, at_seconds: own.at_seconds, ..before }
                }
                None => own,
            };
            commit(keeper, done)
        });
    }

    /// Writes down an end that needs no result.
    pub(super) fn note_done(&mut self, done: Done) {
        self.note(move |keeper| commit(keeper, done));
    }

    fn note(&mut self, write: impl FnOnce(&mut Keeper) -> Result<(Done, u64), Error> + Send + 'static) {
        let tell = self.tell();
        let Some(log) = &mut self.log else { return };
        if let Err(error) = log.hand_over(move |keeper| tell(Occurrence::Noted(write(keeper).map(Box::new)))) {
            self.fail(error);
        }
    }

    fn retry(&mut self, input: &Arc<Path>, stamp: Stamp) -> Use {
        let key = input.as_os_str().as_bytes();
        if let Some(job) = self.by_path.get(input).and_then(|slot| self.jobs[*slot as usize].as_ref()) {
            let is_begun = job.retry_failed && job.claim_at != 0;
            return if is_begun { Use::Done } else { Use::Later };
        }
        if self.refused.contains_key(key) && self.retrying.remove(input) {
            return Use::Done;
        }
        if self.retrying.contains(input) && (self.is_claiming(input) || self.is_waiting(input)) {
            return Use::Later;
        }
        let Name::Input(kind) = input.file_name().map_or(Name::Ignored, classify) else { return Use::Done };
        if self.is_claiming(input) {
            return Use::Later;
        }
        let waited = self.take_waiting(input).and_then(|queued| queued.source().0);
        self.refused.remove(key);
        self.strikes.remove(key);
        self.retrying.insert(Arc::clone(input));
        let from = waited.or_else(|| self.suspended.get(key).copied());
        let how = Wanted::Fresh { from, retry_failed: true };
        self.enqueue(Queued { path: Arc::clone(input), kind, stamp, how });
        Use::Later
    }

    /// A job has ended for which there was a control: that is used up.
    pub(super) fn use_up(&mut self, path: &Arc<Path>, control: &std::ffi::OsStr) {
        let control = path.with_file_name(control);
        self.controls.remove(&control);
        let root = self.root.clone();
        self.clerk.ask(move || {
            let Some(name) = control.file_name() else { return };
            if let Ok(folder) = Folder::of(&root, &control)
                && let Err(error) = controls::consume(folder.as_fd(), name)
            {
                tracing::warn!("a control file cannot be removed: {error}");
            }
        });
    }
}

fn commit(keeper: &mut Keeper, done: Done) -> Result<(Done, u64), Error> {
    let mut frames = Vec::new();
    frame::push(&mut frames, |record| Note::Done(done.clone()).push(record));
    let at = keeper.commit(&frames)?;
    Ok((done, at))
}
