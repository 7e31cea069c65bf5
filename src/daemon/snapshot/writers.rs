//! Finds out whether somebody on this machine has a file open for writing. Never waits.
//!
//! Only a lease (fcntl(2), `F_SETLEASE`) tells, and no library wraps it: hence the unsafe code, which is one call that
//! takes no pointers.
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
    match Lease::take(file) {
        Ok(_) => Writers::None,
        Err(Errno::AGAIN) => Writers::Some,
        Err(_) => Writers::Unknown,
    }
}

/// A lease for reading, which nobody can have while somebody writes. Given back on drop.
struct Lease<'a>(&'a File);

impl Lease<'_> {
    fn take(file: &File) -> Result<Lease<'_>, Errno> {
        // The kernel tells the holder of a lease by a signal when somebody waits for it, and the usual one, SIGIO, would
        // end the process. SIGURG is ignored unless somebody asks for it.
        set(file, F_SETSIG, libc::SIGURG)?;
        set(file, libc::F_SETLEASE, libc::F_RDLCK)?;
        Ok(Lease(file))
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // When this fails the lease ends with the descriptor.
        let _ = set(self.0, libc::F_SETLEASE, libc::F_UNLCK);
    }
}

fn set(file: &File, command: libc::c_int, argument: libc::c_int) -> Result<(), Errno> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed; the commands take an int by value (fcntl(2))
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
    use std::os::unix::fs::OpenOptionsExt as _;

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
    fn a_writer_that_comes_while_we_look_does_not_end_us_and_gets_the_file_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "x").unwrap();
        let file = File::open(&path).unwrap();
        let open = || {
            let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
            OpenOptions::new().append(true).custom_flags(nonblocking).open(&path)
        };
        if let Ok(lease) = Lease::take(&file) {
            // By this the kernel sends the signal.
            assert_eq!(open().unwrap_err().kind(), io::ErrorKind::WouldBlock);
            drop(lease);
        }
        open().unwrap();
        assert_ne!(writers_of(&file), Writers::Some);
    }
}
