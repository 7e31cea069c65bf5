//! The doorbell: what the kernel tells of the watched folders, as far as it matters, and where it tells nothing.
//!
//! Rings on creation, rename, removal, writing and the close after it; reading rings nothing, so that our own looks do not
//! ring. Invariant: a ring says where to look and why, never how it stands there. What the kernel could not deliver
//! becomes [`Ring::Overflow`]. Knows nothing of files that settle.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::io;
use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode, CreateKind, Event, EventKind, Flag, ModifyKind, RenameMode};
use notify::{Config, ErrorKind, INotifyWatcher, RecursiveMode, Watcher as _};

use super::names::{Name, classify};
use super::settle::Sight;
use crate::line::escape::shown;

/// Where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ring {
    /// At this name, relative to the root, and why; an empty path is the root itself.
    At(PathBuf, Sight),
    /// Everywhere: the kernel's queue has overflowed.
    Overflow,
}

/// Why a folder is not watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The kernel allows no more.
    #[error(
        "watch {}: the kernel's limit is reached, so changes there are found by scanning alone; raise it: sysctl -w \
         fs.inotify.{limit}={example}",
        shown(path)
    )]
    Limit {
        /// The folder.
        path: PathBuf,
        /// The last part of the limit's name.
        limit: &'static str,
        /// A value that would do.
        example: u32,
    },
    /// There is no such folder any more.
    #[error("watch {}: it is gone", shown(path))]
    Gone {
        /// The folder.
        path: PathBuf,
    },
    /// Something else: the folder may not be read.
    #[error("watch {}: {reason}, so changes there are found by scanning alone", shown(path))]
    Other {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        reason: String,
    },
}

/// The watched folders of one root.
#[derive(Debug)]
pub struct Watch {
    watcher: INotifyWatcher,
    root: PathBuf,
}

impl Watch {
    /// A watch of no folder yet, below the absolute path `root`; `ring` is called on a thread of its own and must not
    /// wait. Events of folders are passed on when `recursive`.
    pub fn new(root: &Path, recursive: bool, ring: impl Fn(Ring) + Send + 'static) -> Result<Watch, WatchError> {
        let mut bell = Bell { root: root.to_owned(), recursive, creations: Creations::default(), ring };
        let handler = move |event| bell.hear(event);
        let watcher = INotifyWatcher::new(handler, Config::default()).map_err(|error| told(root, error))?;
        Ok(Watch { watcher, root: root.to_owned() })
    }

    /// Watches the folder at `relative`; one that is watched already, and still the same, stays watched.
    pub fn add(&mut self, relative: &Path) -> Result<(), WatchError> {
        let path = if relative.as_os_str().is_empty() { self.root.clone() } else { self.root.join(relative) };
        self.watcher.watch(&path, RecursiveMode::NonRecursive).map_err(|error| told(&path, error))
    }

    /// Watches the folder at `relative` no more.
    pub fn remove(&mut self, relative: &Path) {
        // The kernel ends a watch by itself when the folder is removed, and then there is none to end.
        let _ = self.watcher.unwatch(&self.root.join(relative));
    }
}

fn told(path: &Path, error: notify::Error) -> WatchError {
    let path = path.to_owned();
    match error.kind {
        ErrorKind::MaxFilesWatch => WatchError::Limit { path, limit: "max_user_watches", example: 1_048_576 },
        ErrorKind::Io(error) if error.raw_os_error() == Some(libc::EMFILE) => {
            WatchError::Limit { path, limit: "max_user_instances", example: 1024 }
        }
        ErrorKind::Io(error) if error.kind() != io::ErrorKind::NotFound => {
            WatchError::Other { path, reason: error.to_string() }
        }
        ErrorKind::Io(_) | ErrorKind::PathNotFound => WatchError::Gone { path },
        other => WatchError::Other { path, reason: format!("{other:?}") },
    }
}

/// Lives on the thread that hears the kernel.
struct Bell<R> {
    root: PathBuf,
    recursive: bool,
    creations: Creations,
    ring: R,
}

impl<R: Fn(Ring)> Bell<R> {
    fn hear(&mut self, event: notify::Result<Event>) {
        match event {
            Ok(event) if event.attrs.flag() == Some(Flag::Rescan) => (self.ring)(Ring::Overflow),
            Ok(event) => self.pass_on(&event),
            // Events were lost, however many.
            Err(_) => (self.ring)(Ring::Overflow),
        }
    }

    fn pass_on(&mut self, event: &Event) {
        let Some(path) = event.paths.first().and_then(|path| path.strip_prefix(&self.root).ok()) else { return };
        let Some(sight) = self.creations.sight(event.kind, path) else { return };
        if self.matters(path, event.kind) {
            (self.ring)(Ring::At(path.to_owned(), sight));
        }
    }

    fn matters(&self, path: &Path, kind: EventKind) -> bool {
        let Some(name) = path.file_name() else {
            // The root itself: only that it goes away matters.
            return matches!(kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
        };
        // By a rename nobody sees whether it was a folder's.
        let may_be_folder = match kind {
            EventKind::Create(kind) => kind == CreateKind::Folder,
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => true,
            _ => false,
        };
        classify(name) != Name::Ignored || self.recursive && may_be_folder && !is_hidden(path)
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// The names that were created last: an opening matters right after a creation only, when it tells a copy from a link.
struct Creations {
    hashes: [u64; Creations::KEPT],
    next: usize,
    hasher: RandomState,
}

impl Default for Creations {
    fn default() -> Creations {
        Creations { hashes: [0; Creations::KEPT], next: 0, hasher: RandomState::new() }
    }
}

impl Creations {
    /// As many creations may come between that of a file and its opening, which one system call does.
    const KEPT: usize = 64;

    /// What an event means for the file at `path`; `None` when nothing has to be looked at.
    fn sight(&mut self, kind: EventKind, path: &Path) -> Option<Sight> {
        match kind {
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(Sight::Moved),
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) | EventKind::Remove(_) => Some(Sight::Scanned),
            EventKind::Create(_) => {
                self.hashes[self.next] = self.hasher.hash_one(path);
                self.next = (self.next + 1) % Self::KEPT;
                Some(Sight::Created)
            }
            EventKind::Modify(ModifyKind::Data(_)) => Some(Sight::Written),
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Sight::Closed),
            EventKind::Access(AccessKind::Open(_)) => self.take(path).then_some(Sight::Written),
            _ => None,
        }
    }

    fn take(&mut self, path: &Path) -> bool {
        let hash = self.hasher.hash_one(path);
        let kept = self.hashes.iter_mut().find(|kept| **kept == hash);
        kept.map(|kept| *kept = 0).is_some()
    }
}

/// Whether other machines can change a file system of this type (statfs(2), `f_type`) without our kernel's knowledge, so
/// that nothing rings. An overlay is not among them, though writes below it are not heard either.
pub fn is_unheard(file_system: u64) -> bool {
    const TYPES: [u64; 20] = [
        0x0000_6969, // NFS
        0x0000_517B, // SMB
        0xFE53_4D42, // SMB2
        0xFF53_4D42, // CIFS
        0x6573_5546, // FUSE, virtiofs
        0x0102_1997, // 9p
        0x5346_414F, // AFS
        0x6B41_4653, // kAFS
        0x00C3_6400, // Ceph
        0x0BD0_0BD0, // Lustre
        0x4750_4653, // GPFS
        0x1983_0326, // BeeGFS
        0x7375_7245, // Coda
        0x0116_1970, // GFS2
        0x7461_636F, // OCFS2
        0xAAD7_AAEA, // PanFS
        0x2003_0528, // OrangeFS
        0x786F_4256, // VirtualBox's shared folders
        0xBACB_ACBC, // VMware's shared folders
        0x0000_564C, // NCP
    ];
    TYPES.contains(&(file_system & 0xFFFF_FFFF))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::sync::mpsc;
    use std::time::Duration;

    use notify::event::{DataChange, MetadataKind, RemoveKind};

    use super::*;

    fn rings(recursive: bool, events: &[(EventKind, &str)]) -> Vec<Ring> {
        let (ring, rung) = mpsc::channel();
        let ring = move |heard| ring.send(heard).unwrap();
        let mut bell = Bell { root: "/spool".into(), recursive, creations: Creations::default(), ring };
        for (kind, path) in events {
            bell.hear(Ok(Event::new(*kind).add_path(Path::new("/spool").join(path))));
        }
        rung.try_iter().collect()
    }

    fn at(path: &str, sight: Sight) -> Ring {
        Ring::At(path.into(), sight)
    }

    const CREATE: EventKind = EventKind::Create(CreateKind::File);
    const OPEN: EventKind = EventKind::Access(AccessKind::Open(AccessMode::Any));
    const TO: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::To));

    #[test]
    fn only_what_tells_of_an_input_rings() {
        let write = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let close = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let attributes = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));
        let events =
            [(OPEN, "p.txt"), (TO, "p.jsonl"), (attributes, "p.txt"), (write, "p.txt"), (close, "p.md.cancel")];
        let events = events.into_iter().chain([(close, "p.out.jsonl"), (TO, ".p.tmp"), (write, ".anvil"), (OPEN, "")]);
        let heard = rings(false, &events.collect::<Vec<_>>());
        let expected = [at("p.jsonl", Sight::Moved), at("p.txt", Sight::Written), at("p.md.cancel", Sight::Closed)];
        assert_eq!(heard, expected);
    }

    #[test]
    fn an_opening_rings_only_right_after_a_creation() {
        let events = [(CREATE, "a.txt"), (CREATE, "b.txt"), (OPEN, "a.txt"), (OPEN, "a.txt"), (OPEN, "c.txt")];
        let expected = [at("a.txt", Sight::Created), at("b.txt", Sight::Created), at("a.txt", Sight::Written)];
        assert_eq!(rings(false, &events), expected);
    }

    #[test]
    fn folders_ring_when_they_are_entered() {
        let folder = EventKind::Create(CreateKind::Folder);
        let remove = EventKind::Remove(RemoveKind::Folder);
        let events = [(folder, "a"), (folder, ".anvil"), (CREATE, "p.csv"), (TO, "b"), (remove, "c"), (remove, "")];
        assert_eq!(rings(false, &events), [at("", Sight::Scanned)]);
        let expected =
            [at("a", Sight::Created), at("b", Sight::Moved), at("c", Sight::Scanned), at("", Sight::Scanned)];
        assert_eq!(rings(true, &events), expected);
    }

    #[test]
    fn what_was_lost_rings_everywhere() {
        let (ring, rung) = mpsc::channel();
        let ring = move |heard| ring.send(heard).unwrap();
        let mut bell = Bell { root: "/spool".into(), recursive: false, creations: Creations::default(), ring };
        bell.hear(Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)));
        bell.hear(Err(notify::Error::generic("lost")));
        assert_eq!(rung.try_iter().collect::<Vec<_>>(), [Ring::Overflow, Ring::Overflow]);
    }

    #[test]
    fn the_kernel_is_heard_until_the_folder_is_let_go() {
        let root = tempfile::tempdir().unwrap();
        let (ring, rung) = mpsc::channel();
        let mut watch = Watch::new(root.path(), false, move |heard| ring.send(heard).unwrap()).unwrap();
        watch.add(Path::new("")).unwrap();
        fs::write(root.path().join("p.tmp"), "{}").unwrap();
        fs::rename(root.path().join("p.tmp"), root.path().join("p.json")).unwrap();
        assert_eq!(rung.recv_timeout(Duration::from_secs(10)).unwrap(), at("p.json", Sight::Moved));
        watch.remove(Path::new(""));
        fs::remove_file(root.path().join("p.json")).unwrap();
        assert_eq!(rung.recv_timeout(Duration::from_millis(50)), Err(mpsc::RecvTimeoutError::Timeout));
        let error = watch.add(Path::new("absent")).unwrap_err();
        assert!(error.to_string().ends_with("/absent: it is gone"), "{error}");
    }

    #[test]
    fn a_limit_says_how_it_is_raised() {
        let error = told(Path::new("/spool/\u{1b}"), notify::Error::new(ErrorKind::MaxFilesWatch)).to_string();
        assert!(
            error.contains("/spool/\\u{1b}: ") && error.contains("sysctl -w fs.inotify.max_user_watches="),
            "{error}"
        );
        let instances = notify::Error::io(io::Error::from_raw_os_error(libc::EMFILE));
        assert!(told(Path::new("/spool"), instances).to_string().contains("max_user_instances"));
    }

    #[test]
    fn network_file_systems_are_not_heard() {
        assert!(is_unheard(0x6969) && is_unheard(0x6573_5546) && is_unheard(0xFFFF_FFFF_FF53_4D42));
        // ext4, tmpfs, overlay, XFS, Btrfs
        assert!(
            [0xEF53, 0x0102_1994, 0x794C_7630, 0x5846_5342, 0x9123_683E].into_iter().all(|local| !is_unheard(local))
        );
    }
}
