//! Takes a name that nobody else has, and finds out before anything is sent whether a folder can do that.
//!
//! Invariant: no name that exists is ever overwritten here. Knows nothing of what the files hold.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags, linkat, renameat_with};
use rustix::io::{Errno, retry_on_intr};
use sha2::{Digest as _, Sha256};

use crate::line::escape::shown;

/// Names of up to this many bytes are kept in the names of their companions; with every ending that is used here the
/// whole stays below the 255 bytes that file systems allow.
const STEM_BYTES_MAX: usize = 180;

/// How a name is taken exclusively in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusive {
    /// By a hard link, as every local and network file system of Unix can (link(2)).
    Link,
    /// By `RENAME_NOREPLACE`, where links are refused: FAT and some FUSE file systems (renameat2(2)).
    Rename,
}

impl Exclusive {
    /// Gives the file `from` the name `to`. With `Link` it keeps its old name as well.
    ///
    /// `EEXIST` when there is such a name; a network file system whose reply was lost may say so even though the name
    /// was taken just now, so the caller has to compare inodes.
    pub fn take(self, from: &Path, to: &Path) -> Result<(), Errno> {
        retry_on_intr(|| match self {
            Exclusive::Link => linkat(CWD, from, CWD, to, AtFlags::empty()),
            Exclusive::Rename => renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE),
        })
    }
}

/// Whether a file system says by this error that it has no such operation, rather than that it failed.
pub fn is_refusal(error: Errno) -> bool {
    matches!(error, Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::MLINK)
}

/// Why results cannot be published into a folder.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The folder has no way to take a name exclusively: a matter of configuration.
    #[error("neither hard links nor renameat2(RENAME_NOREPLACE) work in {}: choose another folder", shown(folder))]
    NoExclusive {
        /// The folder that was probed.
        folder: PathBuf,
    },
    /// Something else failed: the folder is missing, full or not ours to write.
    #[error("{action}: {source}")]
    Io {
        /// What was attempted, on which path.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// Finds out how a result can be published as `target`, by publishing an empty one under other names.
///
/// Leaves nothing behind; what a killed probe of the same target left is removed first. The caller holds a lock, so
/// that no two probes of one target run at once.
pub fn probe(target: &Path) -> Result<Exclusive, ProbeError> {
    let failed = |action: &str, path: &Path| {
        let action = format!("{action} {}", shown(path));
        move |source| ProbeError::Io { action, source }
    };
    // A name that is too long, or one below a file, is better found now than when every answer has been paid for.
    match fs::symlink_metadata(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("look at", target)(error)),
        _ => {}
    }
    let folder = folder_of(target);
    let from = companion(target, PROBE).map_err(failed("probe", target))?;
    let to = companion(target, PROBE_TAKEN).map_err(failed("probe", target))?;
    let clean = || remove_if_there(&from).and_then(|()| remove_if_there(&to));
    clean().map_err(failed("remove the probe of", target))?;
    let taken = write_probe(&from).map_err(failed("write", &from)).and_then(|()| {
        let refused = match Exclusive::Link.take(&from, &to) {
            Ok(()) => return Ok(Exclusive::Link),
            Err(error) => error,
        };
        if !is_refusal(refused) {
            return Err(failed("link", &to)(refused.into()));
        }
        match Exclusive::Rename.take(&from, &to) {
            Ok(()) => Ok(Exclusive::Rename),
            Err(error) if is_refusal(error) => Err(ProbeError::NoExclusive { folder: folder.to_owned() }),
            Err(error) => Err(failed("rename", &to)(error.into())),
        }
    });
    let cleaned = clean().map_err(failed("remove the probe of", target));
    let how = taken?;
    cleaned?;
    sync_folder(folder).map_err(failed("sync", folder))?;
    Ok(how)
}

/// Removes what a crash may have left beside `target`: its draft and its probes. The caller holds a lock.
pub fn remove_leftovers(target: &Path) -> io::Result<()> {
    COMPANIONS.iter().try_for_each(|ending| remove_if_there(&companion(target, ending)?))
}

fn write_probe(path: &Path) -> io::Result<()> {
    let mut file = create_exclusively(path, 0o600)?;
    // One block: an empty file would fit on a full disk.
    file.write_all(&[b'\n'; 4096])?;
    file.sync_all()?;
    close(file)
}

/// Creates a file that is not there yet, for writing, with these permissions (less the umask).
pub fn create_exclusively(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

/// Closes a file and says what close(2) says: over quota (`EDQUOT`), or lost data (`EIO`), on network file systems.
pub fn close(file: File) -> io::Result<()> {
    match nix::unistd::close(file) {
        // On Linux the descriptor is closed all the same; that data arrived is what fsync has said before.
        Ok(()) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Makes the names in `folder` durable: created, linked, renamed and removed ones.
///
/// A file system that has no such operation (`EINVAL`, `ENOSYS`, `EOPNOTSUPP`) is as durable as it gets.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = File::open(folder)?;
    match retry_on_intr(|| rustix::fs::fsync(&folder)) {
        Ok(()) | Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What a draft is called.
pub const DRAFT: &str = "anvil-draft";
const PROBE: &str = "anvil-probe";
const PROBE_TAKEN: &str = "anvil-probe-taken";
const COMPANIONS: [&str; 3] = [DRAFT, PROBE, PROBE_TAKEN];

/// The folder that `path` is in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `.NAME.ENDING` beside `path`. Fails when `path` has no name.
pub fn companion(path: &Path, ending: &str) -> io::Result<PathBuf> {
    let mut name = companion_stem(path)?;
    name.extend_from_slice(ending.as_bytes());
    Ok(folder_of(path).join(std::ffi::OsStr::from_bytes(&name)))
}

/// `.NAME.`, with which the names of all companions of `path` begin; a hash stands for the end of a long name.
pub fn companion_stem(path: &Path) -> io::Result<Vec<u8>> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "there is no file name"))?;
    if name.len() <= STEM_BYTES_MAX {
        return Ok([b".", name.as_bytes(), b"."].concat());
    }
    let start: String = name.to_string_lossy().chars().take(STEM_BYTES_MAX / 6).collect();
    let hash = format!("{:x}", Sha256::digest(name.as_bytes()));
    Ok(format!(".{start}-{}.", &hash[..16]).into_bytes())
}

/// Removes a file; that it is not there is no error.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_probe_finds_links_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out.jsonl");
        // What a killed probe left is no obstacle.
        fs::write(folder.path().join(".out.jsonl.anvil-probe"), "").unwrap();
        fs::write(folder.path().join(".out.jsonl.anvil-probe-taken"), "").unwrap();
        assert_eq!(probe(&target).unwrap(), Exclusive::Link);
        assert_eq!(names(folder.path()), Vec::<String>::new());
    }

    #[test]
    fn a_probe_refuses_what_could_not_be_published_later() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["absent/out.jsonl", &"n".repeat(256), "file/out.jsonl"] {
            fs::write(folder.path().join("file"), "").unwrap();
            let error = probe(&folder.path().join(name)).unwrap_err();
            assert!(matches!(error, ProbeError::Io { .. }), "{name}: {error}");
            assert_eq!(names(folder.path()), ["file"], "{name}");
        }
        assert!(probe(Path::new("..")).unwrap_err().to_string().contains("no file name"));
    }

    #[test]
    fn a_folder_that_can_neither_says_what_to_do() {
        let text = ProbeError::NoExclusive { folder: "/mnt/usb".into() }.to_string();
        assert_eq!(text, "neither hard links nor renameat2(RENAME_NOREPLACE) work in /mnt/usb: choose another folder");
        assert!([Errno::PERM, Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL, Errno::MLINK].into_iter().all(is_refusal));
        assert!([Errno::EXIST, Errno::IO, Errno::NOSPC, Errno::ACCESS].into_iter().all(|error| !is_refusal(error)));
    }

    #[test]
    fn neither_way_overwrites() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        for how in [Exclusive::Link, Exclusive::Rename] {
            fs::write(&from, "new").unwrap();
            fs::write(&to, "old").unwrap();
            assert_eq!(how.take(&from, &to), Err(Errno::EXIST));
            assert_eq!(fs::read_to_string(&to).unwrap(), "old");
            fs::remove_file(&to).unwrap();
            how.take(&from, &to).unwrap();
            assert_eq!(fs::read_to_string(&to).unwrap(), "new");
            assert_eq!(from.exists(), how == Exclusive::Link);
            fs::remove_file(&to).unwrap();
        }
    }

    #[test]
    fn a_companion_lies_beside_and_fits() {
        assert_eq!(companion(Path::new("a/out"), "x").unwrap(), Path::new("a/.out.x"));
        assert_eq!(companion(Path::new("out"), "x").unwrap(), Path::new("./.out.x"));
        let (one, other) = ("ü".repeat(127), "ü".repeat(126) + "u");
        let names = [one, other].map(|name| companion(Path::new(&name), "x").unwrap().into_os_string());
        assert_ne!(names[0], names[1]);
        assert!(names.iter().all(|name| name.len() < 200 && name.to_str().is_some()), "{names:?}");
    }
}
