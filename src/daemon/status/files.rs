//! How a status file is replaced, and how it is read: whole or not at all, however many look on.
//!
//! Invariant: what has the name is a whole file. Nothing is synced: after a power failure an old status, or none, is no
//! loss. Neither side follows a link, nor waits for a pipe, that somebody has put there.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use crate::journal::publish::folder_of;

/// The longest status file that is read, in bytes: a hundred running files and a hundred others need far less.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How the names of status files end that are being written.
pub const TEMP_ENDING: &str = ".anvil-status";

/// Replaces the status at `path` by this value, as one line of JSON, readable for whom `mode` allows whatever the umask.
///
/// Only one thread writes a status. An error leaves the old one, and nothing beside it.
pub fn write(path: &Path, value: &impl Serialize, mode: u32) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(value)?;
    bytes.push(b'\n');
    let temp = temp_path(path)?;
    remove_if_there(&temp)?;
    let replaced = write_new(&temp, &bytes, mode).and_then(|()| fs::rename(&temp, path));
    if replaced.is_err() {
        // What cannot be removed now is removed by the next write.
        let _ = remove_if_there(&temp);
    }
    replaced
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.set_permissions(Permissions::from_mode(mode))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// A dot name beside `path`, always the same for one path: what a crash has left is found by the next write. It is short,
/// where the status's own name may have as many bytes as a name can have.
fn temp_path(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "there is no file name"))?;
    let hash = format!("{:x}", Sha256::digest(name.as_bytes()));
    Ok(folder_of(path).join(format!(".{}{TEMP_ENDING}", &hash[..16])))
}

/// The status at `path`; `None` when there is none.
///
/// Fails with `InvalidData` when it is no regular file, too long, or no status of this kind.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let wrong = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    // Without O_NONBLOCK the open of a FIFO would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty())) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return wrong("it is a symbolic link"),
        Err(Errno::NXIO) => return wrong("it is no regular file"),
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return wrong("it is no regular file");
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return wrong("it is longer than 1 MiB");
    }
    serde_json::from_slice(&bytes).map(Some).or_else(|error| wrong(&format!("it is no status: {error}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::SpoolStatus;
    use super::super::tests::SPOOL;
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn what_is_written_is_read_and_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status.json");
        assert!(read::<SpoolStatus>(&path).unwrap().is_none());
        let mut status: SpoolStatus = serde_json::from_str(SPOOL).unwrap();
        write(&path, &status, 0o644).unwrap();
        let old = File::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        // What a crash has left is no obstacle.
        fs::write(temp_path(&path).unwrap(), "torn").unwrap();
        (status.generation, status.archive) = (4, Some("done".to_owned()));
        write(&path, &status, 0o600).unwrap();
        assert_eq!(read::<SpoolStatus>(&path).unwrap(), Some(status));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        // Whoever had the old one open still sees the old one, whole.
        assert!(io::read_to_string(old).unwrap().contains(r#""generation":3,"#));
        assert_eq!(names(folder.path()), ["status.json"]);
    }

    #[test]
    fn a_write_that_fails_leaves_nothing_and_a_long_name_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let taken = folder.path().join("taken");
        fs::create_dir(&taken).unwrap();
        write(&taken, &1, 0o644).unwrap_err();
        assert_eq!(names(folder.path()), ["taken"]);
        let long = folder.path().join("n".repeat(255));
        write(&long, &1, 0o644).unwrap();
        assert_eq!(read::<u8>(&long).unwrap(), Some(1));
    }

    #[test]
    fn what_is_no_status_is_refused_and_never_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("good"), "7").unwrap();
        std::os::unix::fs::symlink("good", at("link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        fs::create_dir(at("folder")).unwrap();
        fs::write(at("text"), "seven").unwrap();
        fs::write(at("long"), " ".repeat(1 << 20) + "7").unwrap();
        assert_eq!(read::<u8>(&at("good")).unwrap(), Some(7));
        for name in ["link", "fifo", "folder", "text", "long"] {
            let error = read::<u8>(&at(name)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{name}: {error}");
        }
    }
}
