//! Finds out whether somebody on this machine has a file open for writing. Never waits.
//!
//! Only a lease (fcntl(2), `F_SETLEASE`) tells, and no safe wrapper of it exists: hence the unsafe code, which is two
//! calls that take no pointers.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use rustix::io::Errno;

/// Chooses the signal by which the kernel speaks to the owner of a descriptor (`asm-generic/fcntl.h`).
const F_SETSIG: libc::c_int = 10;

/// Who has a file open for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// Nobody on this machine.
    None,
    /// Somebody.
    Some,
    /// The file system has no leases, or the file is another's and we may not lease it.
    Unknown,
}

/// Who has this file open for writing; `file` must be open for reading only.
///
/// Whoever opens it for writing at this very moment waits until the lease is given back, some microseconds later; with
/// `O_NONBLOCK` that one sees `EWOULDBLOCK`.
pub fn writers_of(file: &File) -> Writers {
    // The kernel tells the holder of a lease by a signal when somebody waits for it, and the usual one, SIGIO, would end
    // the process. SIGURG is ignored unless somebody asks for it.
    if set(file, F_SETSIG, libc::SIGURG).is_err() {
        return Writers::Unknown;
    }
    match set(file, libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => {
            // When this fails the lease ends with the descriptor.
            let _ = set(file, libc::F_SETLEASE, libc::F_UNLCK);
            Writers::None
        }
        Err(Errno::AGAIN) => Writers::Some,
        Err(_) => Writers::Unknown,
    }
}

fn set(file: &File, command: libc::c_int, argument: libc::c_int) -> Result<(), Errno> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed; both commands take an int by value (fcntl(2))
    // and touch no memory of this process.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, argument) } {
        -1 => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::OpenOptions;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_writer_is_seen_while_it_has_the_file_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let writer = File::create(&path).unwrap();
        let file = File::open(&path).unwrap();
        // Where there are no leases nothing can be told, before and after.
        let seen = writers_of(&file);
        assert_ne!(seen, Writers::None);
        drop(writer);
        assert_eq!(writers_of(&file) == Writers::None, seen == Writers::Some);
        let _reader = File::open(&path).unwrap();
        assert_eq!(writers_of(&file) == Writers::None, seen == Writers::Some, "a reader is no writer");
    }

    #[test]
    fn a_writer_that_comes_while_we_look_neither_fails_nor_ends_us() {
        const LOOKS: usize = 20_000;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "x").unwrap();
        let file = File::open(&path).unwrap();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    OpenOptions::new().append(true).open(&path).unwrap();
                }
            });
            for _ in 0..LOOKS {
                writers_of(&file);
            }
            over.store(true, Ordering::Relaxed);
        });
    }
}
