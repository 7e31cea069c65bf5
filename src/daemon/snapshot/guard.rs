//! Opens a file in a folder where anybody may have put anything. Never waits, never follows a link, and gives out nothing
//! that fails a rule.
//!
//! Invariant: what is judged last is the open descriptor itself, so that no swap of names can come between.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::{Errno, retry_on_intr};

use super::super::stamp::Stamp;
use super::writers::{Writers, writers_of};

/// Where the kernel tells whether anybody may make links to files of others (proc_sys_fs(5)).
const PROTECTED_HARDLINKS: &str = "/proc/sys/fs/protected_hardlinks";

/// What a file must be like.
pub struct Rule<'a> {
    /// Whether a file of the user with this id may be read.
    pub owner_allowed: &'a dyn Fn(u32) -> bool,
    /// The most bytes that it may have.
    pub bytes_max: u64,
}

/// A file that passed.
#[derive(Debug)]
pub struct Opened {
    /// Open for reading only, at its beginning.
    pub file: File,
    /// As it was when it was opened.
    pub stamp: Stamp,
}

/// Why a file is not given out.
#[derive(Debug)]
pub enum Fault {
    /// It is this instead of a regular file.
    NotRegular(&'static str),
    /// It belongs to this user.
    WrongOwner(u32),
    /// It has so many bytes.
    TooLarge(u64),
    /// It has several names, and may have got them from anybody.
    HardLinked,
    /// We may not read it.
    Unreadable(Errno),
    /// Somebody has it open for writing.
    BeingWritten,
    /// There is no such file.
    Gone,
    /// Something failed that says nothing about the file.
    Io(io::Error),
}

/// Opens the file of this name, when it is as the rule wants it.
pub fn open(folder: BorrowedFd<'_>, name: &OsStr, rule: &Rule<'_>) -> Result<Opened, Fault> {
    must_be_a_name(name)?;
    // Looked at before it is opened, for the opening of a device may do things.
    judge(&stat_of(folder, name).map_err(fault)?, rule, links_are_protected)?;
    open_and_judge(folder, name, rule)
}

/// Opens what has this name now, whatever had it a moment ago.
fn open_and_judge(folder: BorrowedFd<'_>, name: &OsStr, rule: &Rule<'_>) -> Result<Opened, Fault> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(retry_on_intr(|| openat(folder, name, flags, Mode::empty())).map_err(fault)?);
    let stat = fstat(&file).map_err(fault)?;
    judge(&stat, rule, links_are_protected)?;
    match writers_of(&file) {
        Writers::Some => Err(Fault::BeingWritten),
        Writers::None | Writers::Unknown => Ok(Opened { file, stamp: stamp_of(&stat) }),
    }
}

/// What has this name in the folder; a symbolic link is not followed.
pub fn stat_of(folder: BorrowedFd<'_>, name: &OsStr) -> Result<Stat, Errno> {
    retry_on_intr(|| statat(folder, name, AtFlags::SYMLINK_NOFOLLOW))
}

/// The stamp in a stat.
pub fn stamp_of(stat: &Stat) -> Stamp {
    let nanoseconds = |seconds: i64, part: u64| {
        seconds.saturating_mul(1_000_000_000).saturating_add(i64::try_from(part).unwrap_or_default())
    };
    Stamp {
        inode: stat.st_ino,
        bytes: bytes_of(stat),
        modified_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
        changed_ns: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
        owner: stat.st_uid,
    }
}

fn bytes_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}

/// A name of several parts would lead out of the folder.
fn must_be_a_name(name: &OsStr) -> Result<(), Fault> {
    match name.as_bytes() {
        b"" | b"." | b".." => Err(Fault::NotRegular("a folder")),
        bytes if bytes.contains(&b'/') => {
            Err(Fault::Io(io::Error::new(io::ErrorKind::InvalidInput, "the name is a path")))
        }
        _ => Ok(()),
    }
}

fn judge(stat: &Stat, rule: &Rule<'_>, links_are_protected: impl Fn() -> bool) -> Result<(), Fault> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::RegularFile {
        return Err(Fault::NotRegular(name_of(kind)));
    }
    if !(rule.owner_allowed)(stat.st_uid) {
        return Err(Fault::WrongOwner(stat.st_uid));
    }
    match stat.st_nlink {
        // Some FUSE file systems count none.
        0 | 1 => {}
        // Where links are protected, whoever made one could write to the file or owns it (proc_sys_fs(5)); elsewhere it
        // may have been made to have a file read out that its owner keeps closed.
        _ if links_are_protected() => {}
        _ => return Err(Fault::HardLinked),
    }
    if bytes_of(stat) > rule.bytes_max {
        return Err(Fault::TooLarge(bytes_of(stat)));
    }
    Ok(())
}

fn name_of(kind: FileType) -> &'static str {
    match kind {
        FileType::Symlink => "a symbolic link",
        FileType::Directory => "a folder",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "no regular file",
    }
}

fn links_are_protected() -> bool {
    fs::read(PROTECTED_HARDLINKS).is_ok_and(|bytes| bytes.trim_ascii() == b"1")
}

/// What a failed look or opening says about the file.
fn fault(error: Errno) -> Fault {
    match error {
        Errno::NOENT => Fault::Gone,
        // It was swapped since the look before: so O_NOFOLLOW speaks of links, and the kernel of sockets.
        Errno::LOOP => Fault::NotRegular("a symbolic link"),
        Errno::NXIO | Errno::NODEV => Fault::NotRegular("a socket or a device"),
        Errno::ACCESS | Errno::PERM => Fault::Unreadable(error),
        // Somebody holds a lease for writing, as file servers do for their clients (open(2), O_NONBLOCK).
        Errno::AGAIN => Fault::BeingWritten,
        error => Fault::Io(error.into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::{chown, symlink};
    use std::sync::mpsc;
    use std::time::Duration;

    use rustix::fs::{CWD, mknodat};

    use super::*;

    #[test]
    fn a_second_name_counts_only_where_links_are_protected() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "x").unwrap();
        fs::hard_link(folder.path().join("a"), folder.path().join("b")).unwrap();
        let stat = stat_of(File::open(folder.path()).unwrap().as_fd(), OsStr::new("a")).unwrap();
        let rule = Rule { owner_allowed: &|_| true, bytes_max: 1 };
        assert!(matches!(judge(&stat, &rule, || false), Err(Fault::HardLinked)));
        judge(&stat, &rule, || true).unwrap();
        let strict = Rule { owner_allowed: &|_| false, bytes_max: 1 };
        assert!(matches!(judge(&stat, &strict, || true), Err(Fault::WrongOwner(_))));
    }

    #[test]
    fn what_takes_the_name_after_the_look_is_judged_again_and_never_waited_for() {
        const NOBODY: u32 = 65534;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["own", "foreign"] {
            fs::write(at(name), "x").unwrap();
        }
        symlink(at("own"), at("link")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let mut names = vec!["link", "folder", "pipe"];
        if chown(at("foreign"), Some(NOBODY), None).is_ok() {
            fs::hard_link(at("foreign"), at("hard")).unwrap();
            names.push("hard");
        }
        let open = File::open(folder.path()).unwrap();
        let (tell, told) = mpsc::channel();
        // A thread that would wait for a pipe is left behind.
        std::thread::spawn(move || {
            let own = rustix::process::geteuid().as_raw();
            let rule = Rule { owner_allowed: &|owner| owner == own, bytes_max: 1 };
            for name in ["own"].iter().chain(&names) {
                let passed = open_and_judge(open.as_fd(), OsStr::new(name), &rule).map(drop);
                tell.send((*name, passed)).unwrap();
            }
        });
        while let Ok((name, passed)) = told.recv_timeout(Duration::from_secs(20)).map_err(|error| {
            assert_eq!(error, mpsc::RecvTimeoutError::Disconnected, "it waits");
        }) {
            match name {
                "own" => assert!(passed.is_ok()),
                "hard" => assert!(matches!(passed, Err(Fault::WrongOwner(NOBODY)))),
                _ => assert!(matches!(passed, Err(Fault::NotRegular(_))), "{name}: {passed:?}"),
            }
        }
    }

    #[test]
    fn a_stamp_is_the_same_from_whichever_look() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "four").unwrap();
        let stat = stat_of(File::open(folder.path()).unwrap().as_fd(), OsStr::new("a")).unwrap();
        assert_eq!(stamp_of(&stat), Stamp::of(&fs::metadata(&path).unwrap()));
    }

    #[test]
    fn only_what_speaks_of_the_file_is_held_against_it() {
        for error in [Errno::IO, Errno::MFILE, Errno::NFILE, Errno::STALE, Errno::NOMEM, Errno::TIMEDOUT] {
            assert!(matches!(fault(error), Fault::Io(own) if own.raw_os_error() == Some(error.raw_os_error())));
        }
        assert!(matches!(fault(Errno::AGAIN), Fault::BeingWritten));
    }
}
