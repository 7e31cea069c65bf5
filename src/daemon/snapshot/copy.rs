//! Copies a large input into a private folder. Invariant: under its final name the copy is whole, durable, and as its
//! source was throughout the copying.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::super::stamp::Stamp;
use super::{Refused, lines_in};
use crate::journal::publish::sync_folder;

/// What the copy is called in its folder.
pub const COPY_NAME: &str = "input";
/// What it is called while it is made.
const DRAFT_NAME: &str = "input.tmp";
/// How much is read at a time, and between two questions whether to go on.
const CHUNK_BYTES: usize = 1 << 20;

/// A copy that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Its length, in bytes.
    pub bytes: u64,
    /// The hash of its contents.
    pub sha256: [u8; 32],
    /// Its lines, blank ones included; the last one may lack its line feed.
    pub lines: u64,
}

/// Copies `source`, which looked like `stamp` when it was opened, into the private folder `into` as [`COPY_NAME`];
/// replaces an older copy there. The folder has no other writer.
///
/// `go_on` is asked before each MiB, and ends the copying by a `false`. Fails with `NotYet` then, and when the source
/// changed meanwhile; with `Io` when reading or writing failed. Leaves no part of a copy behind, except when killed:
/// the next copy into the same folder removes that.
pub fn copy(source: &File, stamp: &Stamp, into: &Path, go_on: &mut dyn FnMut() -> bool) -> Result<Copied, Refused> {
    let draft = into.join(DRAFT_NAME);
    let result = write_draft(source, stamp, &draft, go_on)
        .and_then(|copied| fs::rename(&draft, into.join(COPY_NAME)).map(|()| copied).map_err(Refused::Io));
    if result.is_err() {
        // What cannot be removed now is removed by the next copy.
        let _ = fs::remove_file(&draft);
    }
    let copied = result?;
    sync_folder(into).map_err(Refused::Io)?;
    Ok(copied)
}

fn write_draft(source: &File, stamp: &Stamp, draft: &Path, go_on: &mut dyn FnMut() -> bool) -> Result<Copied, Refused> {
    let mut target = create_draft(draft).map_err(Refused::Io)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut hash = Sha256::new();
    let (mut offset, mut lines, mut last) = (0, 0, b'\n');
    while offset < stamp.bytes {
        if !go_on() {
            return Err(Refused::NotYet);
        }
        let wanted = usize::try_from(stamp.bytes - offset).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let part = &mut chunk[..wanted];
        source.read_exact_at(part, offset).map_err(cut_short)?;
        target.write_all(part).map_err(Refused::Io)?;
        hash.update(&*part);
        lines += memchr::memchr_iter(b'\n', part).count() as u64;
        last = part.last().copied().unwrap_or(last);
        offset += wanted as u64;
    }
    must_be_unchanged(source, stamp)?;
    target.sync_all().map_err(Refused::Io)?;
    Ok(Copied { bytes: offset, sha256: hash.finalize().into(), lines: lines + u64::from(last != b'\n') })
}

fn create_draft(draft: &Path) -> io::Result<File> {
    match fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)
}

/// The whole of a small file, which looked like `stamp` when it was opened, and the number of its lines. Fails as
/// [`copy`] does.
pub(super) fn read_whole(source: &File, stamp: &Stamp) -> Result<(Vec<u8>, usize), Refused> {
    let length = usize::try_from(stamp.bytes).map_err(|_| Refused::Io(io::ErrorKind::OutOfMemory.into()))?;
    let mut bytes = vec![0; length];
    source.read_exact_at(&mut bytes, 0).map_err(cut_short)?;
    must_be_unchanged(source, stamp)?;
    let lines = lines_in(&bytes);
    Ok((bytes, lines))
}

fn must_be_unchanged(source: &File, stamp: &Stamp) -> Result<(), Refused> {
    match source.metadata() {
        Ok(metadata) if Stamp::of(&metadata) == *stamp => Ok(()),
        Ok(_) => Err(Refused::NotYet),
        Err(error) => Err(Refused::Io(error)),
    }
}

/// A file that ends before its length was cut since.
fn cut_short(error: io::Error) -> Refused {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Refused::NotYet,
        _ => Refused::Io(error),
    }
}
