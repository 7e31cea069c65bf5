//! Takes a private copy of an input file, wherever it lies and whatever others do to it meanwhile.
//!
//! Invariant: what is taken are the contents of one regular file of an allowed owner as they were at one moment, or
//! nothing. No name is followed and no open waits. Knows nothing of what the contents mean.

mod copy;
pub(super) mod guard;
#[cfg(test)]
mod tests;
mod writers;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use self::guard::{Fault, Opened, Rule};
use super::stamp::Stamp;
use crate::line::escape::shown;

pub use self::copy::{COPY_NAME, Copied, copy};

/// Which files are taken, and which of them are small.
pub struct Rules<'a> {
    /// Whether files of the user with this id are taken.
    pub owner_allowed: &'a dyn Fn(u32) -> bool,
    /// The largest file that is taken, in bytes.
    pub file_bytes_max: u64,
    /// The most bytes of a small file.
    pub small_bytes_max: u64,
    /// The most lines of a small file, blank ones included.
    pub small_lines_max: usize,
}

/// A file that is taken.
#[derive(Debug)]
pub enum Taken {
    /// A small one, in whole.
    Small {
        /// Its contents.
        bytes: Vec<u8>,
        /// As it looked before and after it was read.
        stamp: Stamp,
        /// The hash of its contents.
        sha256: [u8; 32],
    },
    /// Any other, for [`copy`].
    Large {
        /// Open for reading, at its beginning.
        file: File,
        /// As it looked when it was opened.
        stamp: Stamp,
    },
}

impl Taken {
    /// What the file was when it was taken.
    pub fn stamp(&self) -> Stamp {
        match self {
            Self::Small { stamp, .. } | Self::Large { stamp, .. } => *stamp,
        }
    }
}

/// Why nothing was taken.
#[derive(Debug)]
pub enum Refused {
    /// The file is not one that is taken; that holds until somebody changes it.
    Reject {
        /// The kind of reason, as in a reject file.
        code: &'static str,
        /// The reason, for a person.
        message: String,
        /// What to do about it.
        way_out: String,
    },
    /// It is being written, or was changed meanwhile: look again later.
    NotYet,
    /// There is no such file any more.
    Gone,
    /// Reading or writing failed on our side (`EIO`, `EMFILE`, `ESTALE`, `ENOSPC`): nothing is known of the file.
    Io(io::Error),
}

/// Takes the file `name` of `folder`, or opens it for [`copy`] when it is large.
///
/// Never waits for a writer or a pipe, follows no link, and reads nothing of a file that fails a rule.
pub fn take(folder: BorrowedFd<'_>, name: &OsStr, rules: &Rules<'_>) -> Result<Taken, Refused> {
    let rule = Rule { owner_allowed: rules.owner_allowed, bytes_max: rules.file_bytes_max };
    let Opened { file, stamp } = guard::open(folder, name, &rule).map_err(|fault| refusal(fault, name, &rule))?;
    if stamp.bytes > rules.small_bytes_max {
        return Ok(Taken::Large { file, stamp });
    }
    let (bytes, lines) = copy::read_whole(&file, &stamp)?;
    if lines > rules.small_lines_max {
        return Ok(Taken::Large { file, stamp });
    }
    let sha256 = Sha256::digest(&bytes).into();
    Ok(Taken::Small { bytes, stamp, sha256 })
}

/// What has become of a file that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It is what it was.
    Same,
    /// Something about it changed, or another file has its name; perhaps its contents are the same all the same.
    Changed(Stamp),
    /// Nothing has its name.
    Gone,
}

/// Whether the file under the name still is the one with this stamp; opens nothing.
///
/// Whoever sets back the time of the last write after writing (`touch -d`, `rsync -t`) is still found out, by the time
/// of the last change: hence a new link or mode counts as a change, too.
pub fn look(folder: BorrowedFd<'_>, name: &OsStr, stamp: &Stamp) -> io::Result<Look> {
    match guard::stat_of(folder, name).map(|stat| guard::stamp_of(&stat)) {
        Ok(now) if now == *stamp => Ok(Look::Same),
        Ok(now) => Ok(Look::Changed(now)),
        Err(Errno::NOENT) => Ok(Look::Gone),
        Err(error) => Err(error.into()),
    }
}

/// The lines of a text, blank ones included; the last one may lack its line feed.
fn lines_in(bytes: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', bytes).count() + usize::from(bytes.last().is_some_and(|last| *last != b'\n'))
}

fn refusal(fault: Fault, name: &OsStr, rule: &Rule<'_>) -> Refused {
    let name = shown(Path::new(name));
    let (code, message, way_out) = match fault {
        Fault::NotRegular(what) => (
            "not_regular",
            format!("{name} is {what}, and only regular files are run"),
            "put a copy of the file itself in its place, made by cp -L for example".to_owned(),
        ),
        Fault::WrongOwner(owner) => (
            "wrong_owner",
            format!("{name} belongs to the user with id {owner}, whose files are not run in this folder"),
            "copy it instead of moving it: a copy belongs to whoever makes it".to_owned(),
        ),
        Fault::TooLarge(bytes) => (
            "too_large",
            format!("{name} has {bytes} bytes, and files of at most {} bytes are run", rule.bytes_max),
            format!("split it, for example by split -C 1G; or start the daemon with --max-file-bytes {bytes}"),
        ),
        Fault::HardLinked => (
            "hard_linked",
            format!("{name} has several hard links, and on this machine anybody can link the files of others"),
            "copy it instead of linking it; or let the administrator run: sysctl fs.protected_hardlinks=1".to_owned(),
        ),
        Fault::Unreadable(error) => {
            let own = rustix::process::geteuid().as_raw();
            let cause = io::Error::from(error);
            (
                "unreadable",
                format!("open {name}: {cause}"),
                format!("let the daemon read it (its user id is {own}): chmod a+r, or setfacl -m u:{own}:r"),
            )
        }
        Fault::BeingWritten => return Refused::NotYet,
        Fault::Gone => return Refused::Gone,
        Fault::Io(error) => return Refused::Io(error),
    };
    Refused::Reject { code, message, way_out }
}
