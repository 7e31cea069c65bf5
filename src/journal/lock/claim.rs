//! Lock files, one at a time: writing one under a name of its own, giving it another, looking at one that is there.
//!
//! Invariant: a lock file is flocked, complete and on the server before it gets a name that others look at. Knows what
//! makes a lock stale, but not what to do about it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags, Timespec, Timestamps, UTIME_NOW};
use rustix::io::{Errno, retry_on_intr};
use sha2::{Digest as _, Sha256};

use super::holder::{Entry, nonce};
use super::{Holder, LockError, STALE_AFTER, boot_clock};
use crate::journal::publish::{
    Exclusive, ProbeError, companion, companion_stem, create_exclusively, folder_of, is_refusal, remove_if_there,
};

/// More than any lock file has.
const ENTRY_BYTES_MAX: u64 = 64 << 10;
const TEMP_ENDING: &str = ".tmp";

/// An own lock file, under a name of its own at first. Dropping it removes that name only.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) file: File,
    /// When it was last known to be untouched.
    pub(super) begun: Duration,
    temp: PathBuf,
}

impl Claim {
    /// Writes a lock file for `holder`, in the folder of the lock at `path`.
    pub(super) fn write(path: &Path, holder: &Holder) -> Result<Claim, LockError> {
        let begun = boot_clock();
        let temp = temp_name(path, holder).map_err(LockError::at("name a file for", path))?;
        let file = create_exclusively(&temp, 0o666).map_err(LockError::at("create", &temp))?;
        let claim = Claim { file, begun, temp };
        claim.fill(holder).map_err(LockError::at("write", &claim.temp))?;
        Ok(claim)
    }

    fn fill(&self, holder: &Holder) -> io::Result<()> {
        let flock = match self.file.try_lock() {
            Ok(()) => true,
            // Whoever looks for leftovers holds it for a moment.
            Err(TryLockError::WouldBlock) => self.file.lock().is_ok(),
            Err(TryLockError::Error(_)) => false,
        };
        (&self.file).write_all(&Entry { holder: holder.clone(), flock }.line()?)?;
        // Other nodes of a network file system see only what has reached the server.
        self.file.sync_all()
    }

    /// Gives the file this name as well (or, where links are refused, instead). Returns whether nobody had it.
    pub(super) fn take(&self, name: &Path) -> Result<bool, LockError> {
        let mut result = Exclusive::Link.take(&self.temp, name);
        if result.is_err_and(is_refusal) {
            result = Exclusive::Rename.take(&self.temp, name);
        }
        match result {
            Ok(()) => Ok(true),
            // The reply of a network file system may have been lost: then the name is taken, and by us.
            Err(_) if self.is_at(name)? => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) if is_refusal(error) => {
                Err(LockError::Folder(ProbeError::NoExclusive { folder: folder_of(name).to_owned() }))
            }
            Err(error) => Err(LockError::at("take", name)(error.into())),
        }
    }

    /// The time now by the clock of the file server, which may differ from ours by hours.
    pub(super) fn server_time(&self) -> Result<SystemTime, LockError> {
        touch(&self.file).and_then(|()| self.file.metadata()?.modified()).map_err(LockError::at("touch", &self.temp))
    }

    /// Whether `path` is a name of this file.
    pub(super) fn is_at(&self, path: &Path) -> Result<bool, LockError> {
        let look = || match open(path)? {
            Some(file) => Ok(identity(&file)? == identity(&self.file)?),
            None => Ok(false),
        };
        look().map_err(LockError::at("look at", path))
    }

    /// Whether `path` is a name of this file, which `holder` wrote.
    ///
    /// A server may give the number of a removed inode to the next one, hence the nonce.
    pub(super) fn is_at_as(&self, path: &Path, holder: &Holder) -> Result<bool, LockError> {
        let look = || match open(path)? {
            Some(file) if identity(&file)? == identity(&self.file)? => read(&file),
            _ => Ok(None),
        };
        let entry = look().map_err(LockError::at("look at", path))?;
        Ok(entry.is_some_and(|entry| entry.holder.nonce == holder.nonce))
    }

    /// Removes the name that the file was written under. Whoever gets the lock next does it otherwise.
    pub(super) fn forget_temp(&self) {
        let _ = remove_if_there(&self.temp);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.forget_temp();
    }
}

/// What is under the name of a lock.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing.
    Absent,
    /// A lock that somebody may still hold.
    Live(Sight),
    /// A lock that nobody holds any more.
    Stale(Stale),
}

/// Who was seen, and how long ago that one was alive for sure.
#[derive(Clone, Debug, Default)]
pub(super) struct Sight {
    pub(super) holder: Option<Box<Holder>>,
    pub(super) age: Duration,
}

/// A lock that nobody holds. As long as this is kept, its flock is ours, if its holder had one and is dead.
#[derive(Debug)]
pub(super) struct Stale {
    file: File,
    modified: SystemTime,
}

impl Stale {
    /// Whether `path` still is this very file, and nobody has touched it since.
    pub(super) fn is_untouched_at(&self, path: &Path) -> Result<bool, LockError> {
        // By opening it: that is when a network file system asks its server.
        let Some(file) = open(path).map_err(LockError::at("open", path))? else { return Ok(false) };
        let same = || Ok(identity(&file)? == identity(&self.file)? && file.metadata()?.modified()? == self.modified);
        same().map_err(LockError::at("look at", path))
    }
}

/// Looks at the lock at `path` on behalf of `me`. `now` is the server's time, taken before.
pub(super) fn look(path: &Path, me: &Holder, now: SystemTime) -> Result<Found, LockError> {
    let Some(file) = open(path).map_err(LockError::at("open", path))? else { return Ok(Found::Absent) };
    let entry = read(&file).map_err(LockError::at("read", path))?;
    // A dead holder on this node is known at once. While we look its flock is ours, so that others look later.
    let abandoned =
        entry.as_ref().is_some_and(|entry| entry.flock && entry.holder.same_boot(me)) && file.try_lock().is_ok();
    let modified = file.metadata().and_then(|metadata| metadata.modified()).map_err(LockError::at("look at", path))?;
    let age = now.duration_since(modified).unwrap_or_default();
    if abandoned || age >= STALE_AFTER {
        return Ok(Found::Stale(Stale { file, modified }));
    }
    Ok(Found::Live(Sight { holder: entry.map(|entry| Box::new(entry.holder)), age }))
}

/// Opens a lock file; `None` when there is none.
pub(super) fn open(path: &Path) -> io::Result<Option<File>> {
    // NFS grants an flock, which it makes of a record lock, only on what is open for writing.
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let open = |flags| retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()));
    let opened = match open(flags) {
        Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => open(flags.difference(OFlags::RDWR)),
        result => result,
    };
    let file = match opened {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::STALE) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if file.metadata()?.is_file() { Ok(Some(file)) } else { Err(io::Error::other("is not a regular file")) }
}

/// The entry of a lock file; `None` when it holds none.
pub(super) fn read(file: &File) -> io::Result<Option<Entry>> {
    let mut bytes = Vec::new();
    file.take(ENTRY_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Entry::parse(&bytes))
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Sets both times of a file to the server's now.
pub(super) fn touch(file: &File) -> io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    Ok(retry_on_intr(|| rustix::fs::futimens(file, &Timestamps { last_access: now, last_modification: now }))?)
}

/// Removes the temporary files that dead processes have left beside the lock at `path`. What fails is left to the next.
pub(super) fn sweep(path: &Path, me: &Holder, now: SystemTime) {
    let Ok(stem) = companion_stem(path) else { return };
    let Ok(entries) = fs::read_dir(folder_of(path)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().into_vec();
        let middle = name.strip_prefix(&*stem).and_then(|rest| rest.strip_suffix(TEMP_ENDING.as_bytes()));
        if middle.is_some_and(|middle| is_leftover(&entry.path(), middle, me, now)) {
            let _ = remove_if_there(&entry.path());
        }
    }
}

/// Whether the file `HOST.PID.NONCE.tmp` is a dead process's, or so old that it must be.
fn is_leftover(path: &Path, name: &[u8], me: &Holder, now: SystemTime) -> bool {
    let parts: Vec<&str> = str::from_utf8(name).unwrap_or_default().split('.').collect();
    let [host, pid, _nonce] = *parts else { return false };
    let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) else { return false };
    let dead =
        host == boot_hash(me) && rustix::process::test_kill_process(pid).is_err_and(|error| error == Errno::SRCH);
    let Ok(Some(file)) = open(path) else { return false };
    let old = file
        .metadata()
        .and_then(|metadata| metadata.modified())
        .is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age >= STALE_AFTER));
    // In another container on this node the pid may be somebody else's.
    (dead || old) && !matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

/// A name beside the lock at `path` that tells whose it is.
pub(super) fn temp_name(path: &Path, holder: &Holder) -> io::Result<PathBuf> {
    let nonce = nonce()?;
    companion(path, &format!("{}.{}.{}{TEMP_ENDING}", boot_hash(holder), std::process::id(), &nonce[..12]))
}

fn boot_hash(holder: &Holder) -> String {
    format!("{:x}", Sha256::digest(format!("{} {}", holder.host, holder.boot)))[..12].to_owned()
}
