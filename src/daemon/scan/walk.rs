//! The scan of a tree, and when the next one is due.
//!
//! Every folder is watched before it is read, so that nothing falls between the two. A name that a listing has not shown
//! is looked at before it is taken for gone: a listing may miss what is renamed while it is read (readdir(3)).

use std::collections::HashSet;
use std::ffi::OsStr;
use std::mem;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use super::Told;
use super::look::{self, Identity};
use super::table::{Folder, Look};
use super::worker::{Worker, times_of, unread};
use crate::daemon::names::{Name, classify};
use crate::daemon::settle::Sight;
use crate::line::escape::shown;

/// How deep folders may lie in each other.
const DEPTH_MAX: usize = 64;

/// A scan may take one part of so many of the time where the kernel rings: an idle daemon takes a hundredth of a
/// processor in all.
const PARTS_RUNG: u32 = 200;

/// The same where nothing rings, or something has not settled.
const PARTS_POLLED: u32 = 10;

/// Folders that a scan watches anew: a watch may have ended unheard, by an unmount for one.
const REWATCHED_MAX: usize = 256;

/// Names between two signs of life.
const NAMES_A_SIGN: usize = 1024;

const LISTING_BYTES: usize = 64 << 10;

/// What the scans share.
#[derive(Debug, Default)]
pub(super) struct Walking {
    /// The number of the last whole scan.
    scan: u32,
    ended_at: Duration,
    took: Duration,
    /// Folders that the scan has met.
    met: usize,
    kept_out: Vec<Identity>,
    /// Folders that could not be read; it was told.
    unread: HashSet<PathBuf>,
    /// Whether this scan has met the kernel's limit: then it tries no further.
    limit_reached: bool,
    /// Whether every folder has to be watched anew.
    rewatch: bool,
    buffer: Vec<u8>,
}

impl Walking {
    /// Events were lost, maybe the one by which a folder was replaced. Returns when to scan for what they told of.
    pub(super) fn overflowed(&mut self) -> Duration {
        self.rewatch = true;
        self.ended_at + self.took * PARTS_POLLED
    }

    pub(super) fn limit_reached(&mut self) {
        self.limit_reached = true;
    }
}

impl<T: Fn(Told)> Worker<T> {
    /// Looks at everything.
    pub(super) fn scan(&mut self, root: &OwnedFd) {
        let begun = self.now();
        self.walking.scan = self.walking.scan.wrapping_add(1);
        (self.walking.met, self.walking.limit_reached) = (0, false);
        if !self.walk(root, PathBuf::new()) {
            return;
        }
        self.walking.rewatch = false;
        for folder in self.table.unmet(self.walking.scan) {
            self.forget_below(&folder);
        }
        let (files, unsettled) = self.table.counts();
        let ended_at = self.now();
        (self.walking.ended_at, self.walking.took) = (ended_at, ended_at - begun);
        self.out.tell(Told::Scanned { files, unsettled, took: self.walking.took });
        self.scan_at = ended_at + self.period(unsettled > 0);
    }

    /// How long until the next scan; between the looks of two scans at a file lies as much at least.
    fn period(&self, unsettled: bool) -> Duration {
        let took = self.walking.took;
        let parts = if self.table.is_all_watched() { PARTS_RUNG } else { PARTS_POLLED };
        let period = self.settings.scan_every.max(took * parts);
        if unsettled { period.min(self.blind.local.max(took * PARTS_POLLED)) } else { period }
    }

    /// Looks at a folder that rang, and at those in it.
    pub(super) fn scan_below(&mut self, root: &OwnedFd, path: &Path) {
        let rewatch = mem::replace(&mut self.walking.rewatch, true);
        self.walk(root, path.to_owned());
        self.walking.rewatch = rewatch;
    }

    /// Looks at the folder `start` and those in it; `false` when it has to end before its time.
    fn walk(&mut self, root: &OwnedFd, start: PathBuf) -> bool {
        self.walking.kept_out = self.settings.keep_out.iter().filter_map(|path| look::identity_at(path)).collect();
        self.walking.buffer.reserve_exact(LISTING_BYTES);
        let mut waiting = vec![start];
        while let Some(path) = waiting.pop() {
            if self.ringer.gauge.is_stopped() {
                return false;
            }
            self.ringer.gauge.advance();
            match self.read_folder(root, &path, &mut waiting) {
                Ok(()) => drop(self.walking.unread.remove(&path)),
                Err(error) if path.as_os_str().is_empty() => {
                    self.lose(&std::io::Error::from(error).to_string());
                    return false;
                }
                Err(error) => self.miss_folder(&path, error),
            }
        }
        self.out.flush();
        true
    }

    /// Reads one folder, and adds those in it to `waiting`.
    fn read_folder(&mut self, root: &OwnedFd, path: &Path, waiting: &mut Vec<PathBuf>) -> Result<(), Errno> {
        let opened = look::open_folder(root, path)?;
        let identity = look::identity(&opened)?;
        if self.walking.kept_out.contains(&identity) || !self.is_shallow(path) {
            self.forget_below(path);
            return Ok(());
        }
        let known = self.table.take(path);
        let is_same = known.as_ref().is_some_and(|folder| folder.identity == identity);
        let mut folder = known.unwrap_or_else(|| Folder::new(identity, look::is_remote(&opened)));
        if !is_same {
            (folder.identity, folder.watched, folder.remote) = (identity, false, look::is_remote(&opened));
        }
        folder.scan = self.walking.scan;
        self.watch_folder(path, &mut folder);
        let result = self.read_names(&opened, path, &mut folder, waiting);
        self.table.put(path.to_owned(), folder);
        result
    }

    fn is_shallow(&mut self, path: &Path) -> bool {
        let is_shallow = path.components().count() <= DEPTH_MAX;
        if !is_shallow && !mem::replace(&mut self.warned.depth, true) {
            let path = shown(&self.settings.root.join(path));
            let text = format!("read the folder {path}: it lies more than {DEPTH_MAX} deep, so nothing in it is run");
            self.out.tell(Told::Warning(format!("{text}; move it up")));
        }
        is_shallow
    }

    fn watch_folder(&mut self, path: &Path, folder: &mut Folder) {
        self.walking.met += 1;
        let turns = self.table.folders_count() / REWATCHED_MAX + 1;
        let is_its_turn = (self.walking.met + self.walking.scan as usize).is_multiple_of(turns);
        let is_due = !folder.watched || is_its_turn || self.walking.rewatch;
        if !folder.remote && is_due && !self.walking.limit_reached {
            folder.watched = self.watch(path);
        }
    }

    fn read_names(
        &mut self,
        opened: &OwnedFd,
        path: &Path,
        folder: &mut Folder,
        waiting: &mut Vec<PathBuf>,
    ) -> Result<(), Errno> {
        let mut buffer = mem::take(&mut self.walking.buffer);
        let mut names = 0usize;
        folder.begin_reading();
        let read = look::read(opened, &mut buffer, |file, is_folder| {
            names += 1;
            if names.is_multiple_of(NAMES_A_SIGN) {
                self.ringer.gauge.advance();
            }
            let name = classify(file);
            if name != Name::Ignored {
                self.look_at_listed(opened, path, folder, (file, name));
            } else if self.settings.recursive && may_enter(file) && is_folder != Some(false) {
                let known = is_folder.is_some()
                    || look::look(opened, file).is_ok_and(|seen| seen.is_some_and(|seen| seen.folder));
                waiting.extend(known.then(|| path.join(file)));
            }
            !self.ringer.gauge.is_stopped()
        });
        self.walking.buffer = buffer;
        read?;
        for file in folder.unlisted() {
            self.look_at_listed(opened, path, folder, (&file, classify(&file)));
        }
        folder.shrink();
        Ok(())
    }

    fn look_at_listed(&mut self, opened: &OwnedFd, path: &Path, folder: &mut Folder, (file, name): (&OsStr, Name)) {
        let now = self.now();
        match look::look(opened, file) {
            Ok(Some(seen)) => {
                let times = times_of(&self.settings, &self.blind, folder);
                let look = Look { folder: path, file, name, seen, sight: Sight::Scanned };
                if let Some(found) = folder.observe(&look, now, &times, self.table.due()) {
                    self.out.found(found);
                }
            }
            Ok(None) if folder.forget(file) => self.out.gone(&path.join(file)),
            // What cannot be looked at is left to the next scan.
            Ok(None) | Err(_) => {}
        }
    }

    /// A folder could not be read: it is gone, or nobody knows what is in it.
    fn miss_folder(&mut self, path: &Path, error: Errno) {
        if look::is_gone(error) {
            self.walking.unread.remove(path);
            return self.forget_below(path);
        }
        self.table.keep_below(path, self.walking.scan);
        if self.walking.unread.insert(path.to_owned()) {
            self.out.tell(Told::Warning(unread(&self.settings.root.join(path), error)));
        }
    }
}

fn may_enter(folder: &OsStr) -> bool {
    !folder.as_encoded_bytes().starts_with(b".")
}
