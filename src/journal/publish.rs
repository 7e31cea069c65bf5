//! A file that exists is whole: results are written under a dot name, made durable, and only then given their name.
//!
//! ```text
//! Draft::create   open(.NAME.anvil-draft, O_EXCL, 0600)
//! write           write…
//! Draft::seal     fchmod, fsync, fstat (all bytes there?), close of a duplicate (checked)
//! Sealed::publish linkat(draft → NAME) or renameat2(NOREPLACE), unlink(draft), fsync(folder)
//! ```
//!
//! Invariants: nothing that exists is overwritten but by [`Sealed::replace`], which replaces only what was published
//! before, and by [`Sealed::replace_anything`]. What is published is the very inode that was written: the link is made
//! from the open file, so that a process that was stopped for long, and has lost its lock meanwhile, cannot publish the
//! unfinished draft of its successor.
//!
//! The folder is synced once, last. A power failure before may keep any part of link and unlink: the draft, the result,
//! both or neither. None of them is a file in part, and what is lost is made again from the journal, which nobody has
//! discarded yet.
//!
//! The caller holds a lock: a draft that is there already is one that a crash has left.

mod exclusive;
mod fingerprint;

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, BufWriter, IntoInnerError, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags, linkat, renameat, renameat_with};
use rustix::io::{Errno, retry_on_intr};
use sha2::{Digest as _, Sha256};

pub use exclusive::{Exclusive, ProbeError, folder_of, probe, remove_leftovers, sync_folder};
pub(super) use exclusive::{companion, companion_stem, create_exclusively, is_refusal, remove_if_there};
use fingerprint::Inspected;
pub use fingerprint::{Fingerprint, fingerprint, is_still};

use crate::line::escape::shown;

const BUFFER_BYTES: usize = 256 << 10;

/// Why a sealed draft did not become the result.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The name belongs to something that we did not publish; it was left as it is.
    #[error("{} exists, and is not what was published before", shown(path))]
    Taken {
        /// The name.
        path: PathBuf,
    },
    /// An operation failed. The result may have its name already, whole, but not durably.
    #[error("{action} {}: {source}", shown(path))]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// A result under construction. Dropping it removes it.
#[derive(Debug)]
pub struct Draft {
    out: BufWriter<Counted>,
    permissions: Permissions,
    target: PathBuf,
}

impl Draft {
    /// Starts an empty draft beside `target`, removing one that a crash has left there. Until it is sealed only its
    /// owner can read it.
    pub fn create(target: &Path) -> io::Result<Draft> {
        Draft::create_with(target, usual_permissions(target)?)
    }

    /// The same with permissions that are known: those of [`usual_permissions`], when many drafts go into one folder.
    pub fn create_with(target: &Path, permissions: Permissions) -> io::Result<Draft> {
        let path = companion(target, exclusive::DRAFT)?;
        remove_if_there(&path)?;
        let scratch = Scratch { file: exclusive::create_exclusively(&path, 0o600)?, path };
        let counted = Counted { scratch, hash: Sha256::new(), bytes: 0 };
        Ok(Draft { out: BufWriter::with_capacity(BUFFER_BYTES, counted), permissions, target: target.to_owned() })
    }

    /// Makes what was written durable, and readable for whom the umask allows.
    ///
    /// Any error means that the draft must not be used, and it is removed: what a failed fsync has lost no second one
    /// brings back.
    pub fn seal(self) -> io::Result<Sealed> {
        let Counted { scratch, hash, bytes } = self.out.into_inner().map_err(IntoInnerError::into_error)?;
        scratch.set_permissions(self.permissions)?;
        scratch.file.sync_all()?;
        let metadata = scratch.file.metadata()?;
        if metadata.len() != bytes {
            return Err(io::Error::other(format!("{bytes} bytes were written, {} are there", metadata.len())));
        }
        // Network file systems report at a close, of any descriptor, what they could not store. The file itself stays
        // open: it is published from there, and its inode is ours as long as it is.
        exclusive::close(scratch.file.try_clone()?)?;
        let fingerprint = Fingerprint { inode: metadata.ino(), bytes, sha256: format!("{:x}", hash.finalize()) };
        Ok(Sealed { scratch, target: self.target, fingerprint })
    }
}

impl Write for Draft {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.out.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Hashes and counts the bytes that the file has taken, which after a short write are fewer than those offered.
#[derive(Debug)]
struct Counted {
    scratch: Scratch,
    hash: Sha256,
    bytes: u64,
}

impl Write for Counted {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = self.scratch.file.write(data)?;
        self.hash.update(&data[..taken]);
        self.bytes += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A draft that is whole and durable, and has everything but its name. Dropping it removes it.
#[derive(Debug)]
pub struct Sealed {
    scratch: Scratch,
    target: PathBuf,
    fingerprint: Fingerprint,
}

impl Sealed {
    /// What will be published. Remembered before, it tells after a crash whether the file under the name is ours.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// Gives the draft its name, unless anything has that name.
    ///
    /// Fails with `Taken` when something has. After `Io` the name may be taken, by the whole result: compare it with
    /// the fingerprint.
    pub fn publish(self, how: Exclusive) -> Result<(), PublishError> {
        let target = self.target.clone();
        self.publish_unsynced(how)?;
        sync_folder_of(&target)
    }

    /// The same, but for the last step: the caller syncs the folder, once for many results.
    pub fn publish_unsynced(self, how: Exclusive) -> Result<(), PublishError> {
        let taken = match how {
            Exclusive::Link => self.link(),
            // There is no rename of an open file; only the moment between look and rename is left to a successor.
            Exclusive::Rename => self.must_be_in_place().and_then(|()| how.take(&self.scratch.path, &self.target)),
        };
        if let Err(error) = taken {
            // On a network file system the operation may have been done although its reply was lost.
            let ours = self.scratch.is_at(&self.target).map_err(|source| self.failed("look at", source))?;
            match error {
                _ if ours => {}
                Errno::EXIST => return Err(self.taken()),
                error => return Err(self.failed("publish", error.into())),
            }
        }
        self.forget_draft()
    }

    /// Replaces the target, as long as it still is what `expected` is of; its permissions stay.
    ///
    /// Fails with `Taken` when it is not, and with `Io` (`NotFound`) when there is nothing to replace. The files are
    /// exchanged, and exchanged back when what came out was not what had been read just before; a file system that
    /// cannot exchange leaves a moment in which a change of the target goes unseen.
    pub fn replace(self, expected: &Fingerprint) -> Result<(), PublishError> {
        let old = match Inspected::open(&self.target) {
            Ok(Some(old)) if old.fingerprint.same_content(expected) => old,
            Ok(Some(_)) => return Err(self.taken()),
            Ok(None) => return Err(self.failed("replace", io::ErrorKind::NotFound.into())),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(self.taken()),
            Err(source) => return Err(self.failed("read", source)),
        };
        self.inherit_permissions(&old.metadata).map_err(|source| self.failed("change the permissions for", source))?;
        self.must_be_in_place().map_err(|error| self.failed("replace", error.into()))?;
        match self.exchange() {
            Ok(()) => self.keep_or_undo_exchange(&old)?,
            Err(error) if exclusive::is_refusal(error) => {
                self.rename_over().map_err(|error| self.failed("replace", error.into()))?;
            }
            Err(error) => return Err(self.failed("replace", error.into())),
        }
        self.finish()
    }

    /// Replaces whatever file has the name; a symbolic link is replaced itself. For those who asked for it by `--force`.
    ///
    /// Fails with `Taken` when the name is a folder's, a device's or a pipe's.
    pub fn replace_anything(self) -> Result<(), PublishError> {
        match found_at(&self.target).map_err(|source| self.failed("look at", source))? {
            Some(found) if !found.is_file() && !found.is_symlink() => return Err(self.taken()),
            _ => {}
        }
        self.must_be_in_place()
            .and_then(|()| self.rename_over())
            .map_err(|error| self.failed("replace", error.into()))?;
        self.finish()
    }

    /// Links the open file itself to the target (linkat(2), `AT_SYMLINK_FOLLOW`).
    fn link(&self) -> Result<(), Errno> {
        let open = format!("/proc/self/fd/{}", self.scratch.file.as_raw_fd());
        match retry_on_intr(|| linkat(CWD, &*open, CWD, &self.target, AtFlags::SYMLINK_FOLLOW)) {
            // Either there is no /proc here, or a successor has removed our draft: then it is not in its place.
            Err(Errno::NOENT | Errno::ACCESS) => {
                self.must_be_in_place()?;
                Exclusive::Link.take(&self.scratch.path, &self.target)
            }
            result => result,
        }
    }

    /// After an exchange: whether the right files changed places. Otherwise they change back.
    fn keep_or_undo_exchange(&self, old: &Inspected) -> Result<(), PublishError> {
        let kept = || -> io::Result<bool> {
            let came_out = found_at(&self.scratch.path)?;
            Ok(self.scratch.is_at(&self.target)? && came_out.is_some_and(|found| old.is_unchanged(&found)))
        };
        let error = match kept() {
            Ok(true) => {
                return remove_if_there(&self.scratch.path).map_err(|source| self.failed("remove the old", source));
            }
            Ok(false) => self.taken(),
            Err(source) => self.failed("look at", source),
        };
        self.exchange().map_err(|error| self.failed("put back", error.into()))?;
        Err(error)
    }

    fn exchange(&self) -> Result<(), Errno> {
        retry_on_intr(|| renameat_with(CWD, &self.scratch.path, CWD, &self.target, RenameFlags::EXCHANGE))
    }

    fn rename_over(&self) -> Result<(), Errno> {
        retry_on_intr(|| renameat(CWD, &self.scratch.path, CWD, &self.target))
    }

    /// `ESTALE` when the draft's name is not the draft's any more: the lock was lost.
    fn must_be_in_place(&self) -> Result<(), Errno> {
        match self.scratch.is_at(&self.scratch.path) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Errno::STALE),
            Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }

    /// Who has closed the result to others finds the next one closed, too.
    fn inherit_permissions(&self, old: &Metadata) -> io::Result<()> {
        let changed = self.scratch.set_permissions(Permissions::from_mode(old.mode() & 0o777))?;
        if changed { self.scratch.file.sync_all() } else { Ok(()) }
    }

    /// Removes the draft's own name, then makes both names' change durable.
    fn finish(self) -> Result<(), PublishError> {
        let target = self.target.clone();
        self.forget_draft()?;
        sync_folder_of(&target)
    }

    fn forget_draft(self) -> Result<(), PublishError> {
        self.scratch.remove().map_err(|source| self.failed("remove the draft of", source))
    }

    fn taken(&self) -> PublishError {
        PublishError::Taken { path: self.target.clone() }
    }

    fn failed(&self, action: &'static str, source: io::Error) -> PublishError {
        PublishError::Io { action, path: self.target.clone(), source }
    }
}

/// A file under a dot name, which goes away with it unless another file has taken its place.
#[derive(Debug)]
struct Scratch {
    file: File,
    path: PathBuf,
}

impl Scratch {
    /// Whether `path` is a name of this file.
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        let own = self.file.metadata()?;
        Ok(found_at(path)?.is_some_and(|found| (found.dev(), found.ino()) == (own.dev(), own.ino())))
    }

    /// Returns whether that was a change.
    fn set_permissions(&self, permissions: Permissions) -> io::Result<bool> {
        // File systems without permissions refuse even the change to what is there.
        if self.file.metadata()?.mode() & 0o777 == permissions.mode() {
            return Ok(false);
        }
        self.file.set_permissions(permissions).map(|()| true)
    }

    fn remove(&self) -> io::Result<()> {
        if self.is_at(&self.path)? { fs::remove_file(&self.path) } else { Ok(()) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is removed when the next draft is made.
        let _ = self.remove();
    }
}

/// Makes durable that a name changed.
fn sync_folder_of(target: &Path) -> Result<(), PublishError> {
    let failed = |source| PublishError::Io { action: "sync the folder of", path: target.to_owned(), source };
    sync_folder(folder_of(target)).map_err(failed)
}

/// What the umask and the folder's default ACL leave to a new file, as the kernel tells by creating one beside `target`.
///
/// It cannot be the draft: whoever opened that before its permissions were narrowed could read all that is written
/// later. Hence an empty file, which goes away at once.
pub fn usual_permissions(target: &Path) -> io::Result<Permissions> {
    let path = companion(target, exclusive::DRAFT)?;
    remove_if_there(&path)?;
    let usual = exclusive::create_exclusively(&path, 0o666)?.metadata();
    remove_if_there(&path)?;
    Ok(Permissions::from_mode(usual?.mode() & 0o777))
}

/// What has this name; a symbolic link is not followed.
fn found_at(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

#[cfg(test)]
mod tests;
