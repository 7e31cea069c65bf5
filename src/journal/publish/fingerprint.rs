//! By which a file is known again: its bytes, hashed. Never follows a link and never waits for a pipe.

use std::fs::{File, Metadata};
use std::io::{self, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

const BUFFER_BYTES: usize = 256 << 10;

/// What is remembered of a published file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Its inode; copies and restored backups have another and are still what was published.
    pub inode: u64,
    /// Its length.
    pub bytes: u64,
    /// The hash of all its bytes, in hexadecimal digits.
    pub sha256: String,
}

impl Fingerprint {
    /// Whether both are of the same bytes.
    pub fn same_content(&self, other: &Fingerprint) -> bool {
        self.bytes == other.bytes && self.sha256 == other.sha256
    }
}

/// The fingerprint of the regular file at `path`; `None` when there is nothing.
///
/// Reads all of it. Fails (`InvalidInput`) when something else is there, a symbolic link included, and when the file
/// grew or shrank meanwhile.
pub fn fingerprint(path: &Path) -> io::Result<Option<Fingerprint>> {
    Ok(Inspected::open(path)?.map(|file| file.fingerprint))
}

/// Whether `path` holds the very bytes that `expected` is of, and is a regular file.
///
/// The length is compared first, so that only a file that may be the one is read. That the inode is the same proves
/// nothing: editors and `>>` keep it.
pub fn is_still(path: &Path, expected: &Fingerprint) -> io::Result<bool> {
    let file = match open_regular(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(false),
        result => result?,
    };
    let Some(file) = file else { return Ok(false) };
    if file.metadata()?.len() != expected.bytes {
        return Ok(false);
    }
    Ok(Inspected::read(file)?.fingerprint.same_content(expected))
}

/// A file that was read to its end, and is kept open so that its inode belongs to no other.
#[derive(Debug)]
pub(super) struct Inspected {
    pub(super) fingerprint: Fingerprint,
    pub(super) metadata: Metadata,
    _file: File,
}

impl Inspected {
    /// Reads the regular file at `path`; `None` when there is nothing.
    pub(super) fn open(path: &Path) -> io::Result<Option<Inspected>> {
        open_regular(path)?.map(Inspected::read).transpose()
    }

    fn read(file: File) -> io::Result<Inspected> {
        let mut hash = Sha256::new();
        let bytes = io::copy(&mut BufReader::with_capacity(BUFFER_BYTES, &file), &mut hash)?;
        let metadata = file.metadata()?;
        if metadata.len() != bytes {
            return Err(io::Error::other(format!("{} bytes of {} could be read", bytes, metadata.len())));
        }
        let fingerprint = Fingerprint { inode: metadata.ino(), bytes, sha256: format!("{:x}", hash.finalize()) };
        Ok(Inspected { fingerprint, metadata, _file: file })
    }

    /// Whether this very file is what `found` describes, and has not been written since it was read.
    pub(super) fn is_unchanged(&self, found: &Metadata) -> bool {
        let identity = |file: &Metadata| (file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec());
        identity(&self.metadata) == identity(found)
    }
}

/// Opens a regular file for reading; `None` when there is nothing, `InvalidInput` when there is something else.
fn open_regular(path: &Path) -> io::Result<Option<File>> {
    let refused = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    // Without O_NONBLOCK the open of a FIFO would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty())) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return refused("is a symbolic link"),
        Err(Errno::NXIO) => return refused("is not a regular file"),
        Err(error) => return Err(error.into()),
    };
    if file.metadata()?.is_file() { Ok(Some(file)) } else { refused("is not a regular file") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_is_known_by_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        assert_eq!(fingerprint(&path).unwrap(), None);
        fs::write(&path, "abc").unwrap();
        let known = fingerprint(&path).unwrap().unwrap();
        assert_eq!(known.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!((known.bytes, known.inode), (3, fs::metadata(&path).unwrap().ino()));
        assert!(is_still(&path, &known).unwrap());
        // A copy is the same; one byte in place, one more, or one less is not.
        fs::rename(&path, folder.path().join("moved")).unwrap();
        assert!(!is_still(&path, &known).unwrap());
        fs::copy(folder.path().join("moved"), &path).unwrap();
        assert!(is_still(&path, &known).unwrap());
        for other in ["abd", "abcd", "ab", ""] {
            File::options().write(true).truncate(true).open(&path).unwrap().write_all(other.as_bytes()).unwrap();
            assert!(!is_still(&path, &known).unwrap(), "{other}");
        }
    }

    #[test]
    fn what_is_no_regular_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "abc").unwrap();
        let known = fingerprint(&at("file")).unwrap().unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for name in ["link", "folder", "fifo", "socket"] {
            let error = fingerprint(&at(name)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}: {error}");
            assert!(!is_still(&at(name), &known).unwrap(), "{name}");
        }
    }

    #[test]
    fn its_form_in_the_journal_is_fixed() {
        let known = Fingerprint { inode: 7, bytes: 3, sha256: "ba".to_owned() };
        let text = serde_json::to_string(&known).unwrap();
        assert_eq!(text, r#"{"inode":7,"bytes":3,"sha256":"ba"}"#);
        assert_eq!(serde_json::from_str::<Fingerprint>(&text).unwrap(), known);
    }
}
