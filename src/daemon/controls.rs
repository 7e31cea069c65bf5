//! The files by which people steer their prompt files: `X.cancel` and `X.retry`. Only whose file `X` is may do so, and
//! whoever could do anything to it anyway. Refuses to know what they ask for.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, unlinkat};
use rustix::io::{Errno, retry_on_intr};

use super::snapshot::guard::stat_of;

/// Whether the control file of this name is there and to be obeyed: a regular file of the prompt file's owner, of root
/// or of the daemon's own user. Its contents mean nothing and are not read.
///
/// A file with several names is nobody's word: anyone might have linked the owner's file to this name.
pub fn honoured(folder: BorrowedFd<'_>, control_name: &OsStr, input_owner: u32) -> io::Result<bool> {
    let stat = match stat_of(folder, control_name) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let is_plain = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink <= 1;
    let own = rustix::process::geteuid().as_raw();
    Ok(is_plain && [input_owner, 0, own].contains(&stat.st_uid))
}

/// Removes a control file that was obeyed; that it is not there any more is no error.
///
/// To be called once what it asked for is durable: after a crash it may be there again.
pub fn consume(folder: BorrowedFd<'_>, control_name: &OsStr) -> io::Result<()> {
    match retry_on_intr(|| unlinkat(folder, control_name, AtFlags::empty())) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::{chown, symlink};
    use std::path::Path;

    use super::*;

    const NOBODY: u32 = 65534;
    const SOMEBODY: u32 = 65533;

    fn is_honoured(folder: &Path, name: &str, owner: u32) -> bool {
        honoured(File::open(folder).unwrap().as_fd(), OsStr::new(name), owner).unwrap()
    }

    #[test]
    fn a_control_is_obeyed_when_its_owner_may_ask() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl.cancel");
        assert!(!is_honoured(folder.path(), "a.jsonl.cancel", NOBODY));
        fs::write(&path, "").unwrap();
        assert!(is_honoured(folder.path(), "a.jsonl.cancel", NOBODY), "the daemon's own user may always ask");
        if chown(&path, Some(SOMEBODY), None).is_ok() {
            assert!(!is_honoured(folder.path(), "a.jsonl.cancel", NOBODY));
            assert!(is_honoured(folder.path(), "a.jsonl.cancel", SOMEBODY));
        }
    }

    #[test]
    fn only_a_plain_file_with_one_name_is_a_control() {
        let folder = tempfile::tempdir().unwrap();
        let own = rustix::process::geteuid().as_raw();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "").unwrap();
        symlink(at("file"), at("link.cancel")).unwrap();
        fs::create_dir(at("folder.cancel")).unwrap();
        assert!(is_honoured(folder.path(), "file", own));
        fs::hard_link(at("file"), at("hard.cancel")).unwrap();
        for name in ["link.cancel", "folder.cancel", "hard.cancel"] {
            assert!(!is_honoured(folder.path(), name, own), "{name}");
        }
    }

    #[test]
    fn a_control_is_removed_once_and_twice() {
        let folder = tempfile::tempdir().unwrap();
        let open = File::open(folder.path()).unwrap();
        fs::write(folder.path().join("a.retry"), "").unwrap();
        consume(open.as_fd(), OsStr::new("a.retry")).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        consume(open.as_fd(), OsStr::new("a.retry")).unwrap();
        fs::create_dir(folder.path().join("b.retry")).unwrap();
        assert!(consume(open.as_fd(), OsStr::new("b.retry")).is_err());
    }
}
