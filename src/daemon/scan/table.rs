//! The folders and files that are known: as small as they can be, for there may be 100,000.
//!
//! Decides nothing: a file's state says when it has settled.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Found;
use super::look::{Identity, Seen};
use crate::daemon::names::Name;
use crate::daemon::settle::{Next, Settling, Sight, Times};

/// Every folder that was found, by its path from the root.
#[derive(Debug, Default)]
pub(super) struct Table {
    folders: BTreeMap<PathBuf, Folder>,
    due: Due,
}

/// A folder, and the inputs and controls in it.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) identity: Identity,
    /// Whether the kernel rings when something happens here.
    pub(super) watched: bool,
    /// Whether others can change it unheard.
    pub(super) remote: bool,
    /// The whole scan that met it last.
    pub(super) scan: u32,
    files: HashMap<Box<OsStr>, File>,
}

#[derive(Debug)]
struct File {
    settling: Settling,
    /// Whether the last reading of its folder has shown it.
    listed: bool,
    /// Whether it waits in `Due`.
    queued: bool,
}

/// Looks that were asked for, the next first. A file is in it once at most.
pub(super) type Due = BinaryHeap<Reverse<(Duration, PathBuf)>>;

impl Folder {
    pub(super) fn new(identity: Identity, remote: bool) -> Folder {
        Folder { identity, watched: false, remote, scan: 0, files: HashMap::new() }
    }
}

/// A look at a file: where, and what there was to see.
pub(super) struct Look<'a> {
    pub(super) folder: &'a Path,
    pub(super) file: &'a OsStr,
    pub(super) name: Name,
    pub(super) seen: Seen,
    pub(super) sight: Sight,
}

impl Look<'_> {
    /// What has nothing to be written to settles at once, whatever rang; so does a link to what has another name.
    fn sight(&self) -> Sight {
        match (self.name, self.sight) {
            _ if !self.seen.regular => Sight::Moved,
            (Name::Cancel | Name::Retry, _) => Sight::Moved,
            (_, Sight::Created) if self.seen.linked => Sight::Moved,
            (_, sight) => sight,
        }
    }
}

impl Folder {
    /// Notes a look, and gives what has settled by it.
    pub(super) fn observe(&mut self, look: &Look<'_>, now: Duration, times: &Times, due: &mut Due) -> Option<Found> {
        let (stamp, sight) = (look.seen.stamp, look.sight());
        let (file, next) = match self.files.get_mut(look.file) {
            Some(file) => {
                file.listed = true;
                let next = file.settling.observe(stamp, sight, now, times);
                (file, next)
            }
            None => {
                let (settling, next) = Settling::first(stamp, sight, now, times);
                let file = File { settling, listed: true, queued: false };
                (self.files.entry(look.file.into()).or_insert(file), next)
            }
        };
        match next {
            Next::LookAt(until) if !file.queued => {
                file.queued = true;
                due.push(Reverse((until, look.folder.join(look.file))));
                None
            }
            Next::LookAt(_) | Next::Scan | Next::Known => None,
            Next::Ready => {
                let path = look.folder.join(look.file).into_boxed_path();
                Some(Found { path, name: look.name, stamp, regular: look.seen.regular })
            }
        }
    }

    /// Begins a reading: nothing has been listed yet.
    pub(super) fn begin_reading(&mut self) {
        self.files.values_mut().for_each(|file| file.listed = false);
    }

    /// The files that a reading has not shown.
    pub(super) fn unlisted(&self) -> Vec<Box<OsStr>> {
        self.files.iter().filter(|(_, file)| !file.listed).map(|(name, _)| name.clone()).collect()
    }

    /// Gives room back that many files have left.
    pub(super) fn shrink(&mut self) {
        if self.files.len() < self.files.capacity() / 4 {
            self.files.shrink_to_fit();
        }
    }

    /// Forgets a file; whether it was told.
    pub(super) fn forget(&mut self, file: &OsStr) -> bool {
        self.files.remove(file).is_some_and(|file| file.settling.was_ever_told())
    }
}

impl Table {
    pub(super) fn has(&self, folder: &Path) -> bool {
        self.folders.contains_key(folder)
    }

    /// A folder together with the looks that are due everywhere.
    pub(super) fn folder(&mut self, folder: &Path) -> Option<(&mut Folder, &mut Due)> {
        self.folders.get_mut(folder).map(|folder| (folder, &mut self.due))
    }

    /// The folder at `path`, out of the table until it is put back.
    pub(super) fn take(&mut self, path: &Path) -> Option<Folder> {
        self.folders.remove(path)
    }

    pub(super) fn put(&mut self, path: PathBuf, folder: Folder) {
        self.folders.insert(path, folder);
    }

    pub(super) fn due(&mut self) -> &mut Due {
        &mut self.due
    }

    /// When the next look is due.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.due.peek().map(|Reverse((until, _))| *until)
    }

    /// Takes up to `files_max` looks that are due at `now`.
    pub(super) fn take_due(&mut self, now: Duration, files_max: usize) -> Vec<PathBuf> {
        let mut taken = Vec::new();
        while taken.len() < files_max && self.next_due().is_some_and(|until| until <= now) {
            let Some(Reverse((_, path))) = self.due.pop() else { break };
            let folder = path.parent().and_then(|folder| self.folders.get_mut(folder));
            let file = folder.zip(path.file_name()).and_then(|(folder, name)| folder.files.get_mut(name));
            if let Some(file) = file {
                file.queued = false;
                taken.push(path);
            }
        }
        taken
    }

    /// Forgets the folder at `path` and those in it; gives the paths of them, and of the files that were told.
    pub(super) fn forget_below(&mut self, path: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let below = self.folders.range(path.to_owned()..).take_while(|(folder, _)| folder.starts_with(path));
        let folders: Vec<PathBuf> = below.map(|(folder, _)| folder.clone()).collect();
        let forgotten: Vec<_> = folders.iter().filter_map(|folder| self.folders.remove_entry(folder)).collect();
        let told = forgotten.iter().flat_map(|(path, folder)| {
            let told = folder.files.iter().filter(|(_, file)| file.settling.was_ever_told());
            told.map(move |(name, _)| path.join(&**name))
        });
        (folders, told.collect())
    }

    /// The folders that the whole scan `scan` has not met.
    pub(super) fn unmet(&self, scan: u32) -> Vec<PathBuf> {
        self.folders.iter().filter(|(_, folder)| folder.scan != scan).map(|(path, _)| path.clone()).collect()
    }

    /// Says that this scan has met the folder and those in it, though it could not read them.
    pub(super) fn keep_below(&mut self, path: &Path, scan: u32) {
        let below = self.folders.range_mut(path.to_owned()..).take_while(|(folder, _)| folder.starts_with(path));
        below.for_each(|(_, folder)| folder.scan = scan);
    }

    /// Says that no folder is watched any more.
    pub(super) fn unwatch_all(&mut self) {
        self.folders.values_mut().for_each(|folder| folder.watched = false);
    }

    /// Whether the kernel rings for every folder.
    pub(super) fn is_all_watched(&self) -> bool {
        self.folders.values().all(|folder| folder.watched)
    }

    pub(super) fn folders_count(&self) -> usize {
        self.folders.len()
    }

    /// How many files there are, and how many of them have not settled.
    pub(super) fn counts(&self) -> (u64, u64) {
        let files = || self.folders.values().flat_map(|folder| folder.files.values());
        let unsettled = files().filter(|file| !file.settling.is_told()).count();
        (files().count() as u64, unsettled as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_thousand_files_fit() {
        // The map has room for 114,688 in 131,072 places of one byte more; a name of 24 bytes takes 32.
        let bytes = 131_072 * (size_of::<(Box<OsStr>, File)>() + 1) + 100_000 * 32;
        assert!(bytes <= 9 << 20, "{bytes}");
    }
}
