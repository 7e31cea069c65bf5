//! The only place where a scan touches the file system: folders are opened, read and looked at from their descriptors.
//!
//! Invariant: no file is ever opened and no link below the root is followed, so that nothing here can wait for a FIFO or
//! leave the tree.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat, fstat, fstatfs, openat, statat};
use rustix::io::{Errno, retry_on_intr};

use crate::daemon::stamp::Stamp;
use crate::daemon::watch::is_unheard;

/// Where the daemon keeps its own state, in the root.
const STATE: &str = ".anvil";

/// Which folder it is, whatever its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// What one look showed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Of what is no regular file only inode and owner: the times of a folder or a FIFO change with their use.
    pub(super) stamp: Stamp,
    pub(super) regular: bool,
    pub(super) folder: bool,
    /// Whether it has another name as well.
    pub(super) linked: bool,
}

impl Seen {
    fn of(stat: &Stat) -> Seen {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let regular = kind == FileType::RegularFile;
        let inode = Stamp { inode: stat.st_ino, bytes: 0, modified_ns: 0, changed_ns: 0, owner: stat.st_uid };
        let stamp = match regular {
            false => inode,
            true => Stamp {
                bytes: u64::try_from(stat.st_size).unwrap_or(0),
                modified_ns: nanoseconds(stat.st_mtime, i64::try_from(stat.st_mtime_nsec)),
                changed_ns: nanoseconds(stat.st_ctime, i64::try_from(stat.st_ctime_nsec)),
                ..inode
            },
        };
        Seen { stamp, regular, folder: kind == FileType::Directory, linked: regular && stat.st_nlink > 1 }
    }
}

fn nanoseconds<E>(seconds: i64, part: Result<i64, E>) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(part.unwrap_or(0))
}

/// Opens the root, which may be a link, to look from; it cannot be read by this.
pub(super) fn open_root(root: &Path) -> Result<(OwnedFd, Identity), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = retry_on_intr(|| openat(CWD, root, flags, Mode::empty()))?;
    let identity = identity(&root)?;
    Ok((root, identity))
}

/// Opens the folder at `relative` below `root`, to look from. `LOOP` or `NOTDIR` when a link is on the way.
pub(super) fn open_folder(root: impl AsFd, relative: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut folder = retry_on_intr(|| openat(&root, ".", flags, Mode::empty()))?;
    for component in relative.components() {
        let Component::Normal(name) = component else { return Err(Errno::INVAL) };
        folder = retry_on_intr(|| openat(&folder, name, flags, Mode::empty()))?;
    }
    Ok(folder)
}

/// The identity of an open folder.
pub(super) fn identity(folder: impl AsFd) -> Result<Identity, Errno> {
    fstat(folder).map(|stat| Identity { device: stat.st_dev, inode: stat.st_ino })
}

/// The identity of the folder at `path`, links followed; `None` when there is none.
pub(super) fn identity_at(path: &Path) -> Option<Identity> {
    open_root(path).ok().map(|(_, identity)| identity)
}

/// Whether other machines change files there without our kernel's knowledge.
pub(super) fn is_remote(folder: impl AsFd) -> bool {
    // The type's sign is lost on purpose: magic numbers have 32 bits.
    fstatfs(folder).is_ok_and(|statfs| is_unheard(statfs.f_type.cast_unsigned()))
}

/// Whether a daemon's state lies in the root.
pub(super) fn has_state(root: impl AsFd) -> bool {
    look(root, OsStr::new(STATE)).is_ok_and(|seen| seen.is_some_and(|seen| seen.folder))
}

/// Looks at a name in `folder`; `None` when there is none.
pub(super) fn look(folder: impl AsFd, name: &OsStr) -> Result<Option<Seen>, Errno> {
    match retry_on_intr(|| statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)) {
        Ok(stat) => Ok(Some(Seen::of(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What an error says about a folder: that it is none any more.
pub(super) fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

/// Reads the names in `folder`, with whether each is a folder as far as the listing tells, until `each` has had enough
/// and says `false`.
pub(super) fn read(
    folder: impl AsFd,
    buffer: &mut Vec<u8>,
    mut each: impl FnMut(&OsStr, Option<bool>) -> bool,
) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let folder = retry_on_intr(|| openat(&folder, ".", flags, Mode::empty()))?;
    let mut entries = RawDir::new(folder, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Err(Errno::INTR) => continue,
            entry => entry?,
        };
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        let is_folder = match entry.file_type() {
            FileType::Unknown => None,
            kind => Some(kind == FileType::Directory),
        };
        if name != "." && name != ".." && !each(name, is_folder) {
            break;
        }
    }
    Ok(())
}
