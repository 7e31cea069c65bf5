//! F.input: a copy of an input that cannot be read a second time, made while it is read, gone when F is there.
//!
//! Invariant: what is written to and removed is a file that this or an earlier run has made. That stands in the journal:
//! before the file is made, that it will be; then its inode and birth.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::UNIX_EPOCH;

use crate::exit::{Exit, Stop};
use crate::journal::publish::{folder_of, sync_folder};
use crate::journal::{Copy, Keeper, Note};
use crate::line::escape::shown;

/// Opens the copy, empty: a new file, or the one that an earlier run has left, of which the journal says `before`.
pub fn open(keeper: &mut Keeper, path: &Path, before: Option<Option<Copy>>) -> Result<(File, Copy), Stop> {
    let failed = |error: io::Error| Stop::new(Exit::Io, format!("write {}: {error}", shown(path)));
    let found = found(path).map_err(failed)?;
    let is_ours = |found: &Metadata| match before {
        Some(Some(copy)) => found.is_file() && identity(found) == copy,
        Some(None) => found.is_file() && found.len() == 0,
        None => false,
    };
    if found.as_ref().is_some_and(|found| !is_ours(found)) {
        return Err(Stop::usage(format!("{} exists, and a copy of the input must be kept there", shown(path)))
            .way_out("move it away, or name another output"));
    }
    if found.is_none() {
        keeper.note(&[Note::Copy(None)])?;
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(found.is_none()).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(path).map_err(failed)?;
    file.set_len(0).map_err(failed)?;
    let made = identity(&file.metadata().map_err(failed)?);
    if before != Some(Some(made)) {
        keeper.note(&[Note::Copy(Some(made))])?;
    }
    Ok((file, made))
}

/// Removes the copy, if it still is what lies there; durably, since the journal forgets it next.
pub fn remove(path: &Path, copy: Copy) -> io::Result<()> {
    match found(path)? {
        Some(found) if found.is_file() && identity(&found) == copy => {
            std::fs::remove_file(path)?;
            sync_folder(folder_of(path))
        }
        _ => Ok(()),
    }
}

fn found(path: &Path) -> io::Result<Option<Metadata>> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

fn identity(metadata: &Metadata) -> Copy {
    let born = metadata.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
    Copy { inode: metadata.ino(), born_ns: born.and_then(|born| u64::try_from(born.as_nanos()).ok()) }
}
