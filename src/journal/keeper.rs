//! The open journal: its file, its lock, its durable writes. Lives on the journal's thread and nowhere else.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::error::Error;
use super::frame;
use super::handle::Options;
use super::index::JOURNAL_BYTES_MAX;
use super::known::Known;
use super::lock::{BEAT_EVERY, FENCE_AFTER, Lock, LockError};
use super::note::{Note, Settings};
use super::publish::{self, Draft};
use super::records::Records;
use super::scan::{Interrupted, Tail, scan};
use crate::line::escape::shown;

const BEAT_RETRY: Duration = Duration::from_secs(1);

/// What a journal said when it was opened.
#[derive(Debug)]
pub(super) struct Findings {
    pub(super) known: Known,
    /// Bytes of an unfinished record that were cut off its end.
    pub(super) cut_bytes: u64,
    /// Whether this run is the first to use no answer from before.
    pub(super) begins_afresh: bool,
}

/// An open journal that this process owns.
#[derive(Debug)]
pub struct Keeper {
    path: PathBuf,
    file: File,
    bytes: u64,
    lock: Lock,
}

impl Keeper {
    /// Takes the lock, opens or makes the file, reads it, cuts a torn tail, and writes down who opened it.
    pub(super) fn open(options: &Options, is_stopped: &dyn Fn() -> bool) -> Result<(Self, Findings), Error> {
        let path = &options.path;
        let mut lock = Lock::acquire(&lock_path(path), &options.holder)?;
        publish::remove_leftovers(path).map_err(Error::io("remove what a crash has left beside", path))?;
        let file = open_or_create(path)?;
        let mut known = Known::new(options.retry_failed);
        let tail = read(&file, path, &mut known, || match is_stopped() {
            true => Err(Error::Stopped),
            // To read a large journal takes its time, and others must see that somebody is there.
            false => beat(&mut lock),
        })?;
        let mut keeper = Self { path: path.clone(), file, bytes: tail.valid_bytes, lock };
        if tail.torn_bytes() > 0 {
            keeper.cut()?;
        }
        keeper.begin(options, &known)?;
        let begins_afresh = options.fresh && !known.fresh_unfinished && known.answers + known.failures > 0;
        if begins_afresh {
            known.begin_afresh();
        }
        Ok((keeper, Findings { known, cut_bytes: tail.torn_bytes(), begins_afresh }))
    }

    /// A new file of records, which begins with these frames and appears with them in it; under a lock that its owner
    /// holds already. Only this user can read it.
    pub fn create(path: &Path, lock: Lock, write: impl FnOnce(&mut Draft) -> io::Result<()>) -> Result<Self, Error> {
        let (file, bytes) = create_whole(path, write)?;
        Ok(Self { path: path.to_owned(), file, bytes, lock })
    }

    /// Goes on in a new file of records, which is made as by [`Keeper::create`]. The old one stays.
    pub fn move_on(&mut self, path: &Path, write: impl FnOnce(&mut Draft) -> io::Result<()>) -> Result<(), Error> {
        self.confirm()?;
        (self.file, self.bytes) = create_whole(path, write)?;
        self.path = path.to_owned();
        Ok(())
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives the whole records that stand before a torn tail their end back.
    fn cut(&mut self) -> Result<(), Error> {
        let cut = self.file.set_len(self.bytes).and_then(|()| self.file.sync_all());
        cut.map_err(Error::io("cut the unfinished end of", &self.path))
    }

    fn begin(&mut self, options: &Options, known: &Known) -> Result<(), Error> {
        if let Some(before) = known.settings.as_ref().filter(|before| before.shard != options.settings.shard) {
            let reason = format!("it is about {}, and this run about {}", about(before), about(&options.settings));
            return Err(Error::NoJournal { path: self.path.clone(), reason });
        }
        let mut notes = Vec::new();
        if known.records == 0 {
            // Somebody made an empty file for us.
            notes.push(Note::header());
        }
        let at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        notes.push(Note::Owner { holder: options.holder.clone(), at });
        self.note(&notes).map(|_| ())
    }

    /// The journal's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A second descriptor of the file, for reading records.
    pub fn records(&self) -> Result<Records, Error> {
        let file = self.file.try_clone().map_err(Error::io("read", &self.path))?;
        Ok(Records::new(file, &self.path))
    }

    /// Writes notes down, durably; returns where the first begins.
    pub fn note(&mut self, notes: &[Note]) -> Result<u64, Error> {
        let mut frames = Vec::new();
        for note in notes {
            frame::push(&mut frames, |record| note.push(record));
        }
        self.commit(&frames)
    }

    /// Appends whole frames and makes them durable; returns where they begin.
    pub fn commit(&mut self, frames: &[u8]) -> Result<u64, Error> {
        self.beat_if_due()?;
        let start = self.bytes;
        if start + frames.len() as u64 > JOURNAL_BYTES_MAX {
            return Err(Error::NoJournal { path: self.path.clone(), reason: "it has grown to a tebibyte".to_owned() });
        }
        self.file.write_all(frames).map_err(Error::io("write to", &self.path))?;
        self.file.sync_data().map_err(Error::io("make durable what was written to", &self.path))?;
        self.bytes += frames.len() as u64;
        Ok(start)
    }

    /// How long the lock may go without a sign of life.
    pub(super) fn until_beat(&self) -> Duration {
        let since = self.lock.since_beat();
        // A beat that has failed is tried again soon, but not at once.
        if since < BEAT_EVERY { BEAT_EVERY - since } else { BEAT_RETRY }
    }

    /// A sign of life, when one is due. A process that was stopped for long finds out here, before it writes, whether
    /// another has taken its place.
    pub fn beat_if_due(&mut self) -> Result<(), Error> {
        beat(&mut self.lock)
    }

    /// Makes sure that the journal still is ours, whenever that was last known.
    pub fn confirm(&mut self) -> Result<(), Error> {
        Ok(self.lock.beat()?)
    }

    /// Gives the lock back. With `discard`, the journal is removed first. By now all is done that the lock was for; one
    /// that cannot be given back is stale when this process has ended, and says nothing about the run.
    pub(super) fn close(self, discard: bool) -> Result<(), Error> {
        if discard {
            let mut lock = self.lock;
            // What another has taken over is not ours to remove.
            lock.beat()?;
            let removed =
                std::fs::remove_file(&self.path).and_then(|()| publish::sync_folder(publish::folder_of(&self.path)));
            let _ = lock.release();
            return removed.map_err(Error::io("remove", &self.path));
        }
        let _ = self.lock.release();
        Ok(())
    }
}

fn create_whole(path: &Path, write: impl FnOnce(&mut Draft) -> io::Result<()>) -> Result<(File, u64), Error> {
    let how = publish::probe(path)?;
    let private = Permissions::from_mode(0o600);
    let mut draft = Draft::create_with(path, private).map_err(Error::io("create a file beside", path))?;
    write(&mut draft).map_err(Error::io("write a file beside", path))?;
    let sealed = draft.seal().map_err(Error::io("make durable a file beside", path))?;
    sealed.publish(how)?;
    let file = open_for_append(path).map_err(Error::io("open", path))?;
    let bytes = file.metadata().map_err(Error::io("look at", path))?.len();
    Ok((file, bytes))
}

fn about(settings: &Settings) -> String {
    settings.shard.map_or("all lines".to_owned(), |shard| format!("shard {}/{}", shard.index, shard.count))
}

fn beat(lock: &mut Lock) -> Result<(), Error> {
    if !lock.beat_due() {
        return Ok(());
    }
    match lock.beat() {
        // Whether the lock is still ours is not known; for a while nobody may take it.
        Err(LockError::Io { .. }) if lock.since_beat() < FENCE_AFTER => Ok(()),
        beaten => Ok(beaten?),
    }
}

/// The lock beside a journal.
pub fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Opens a journal for appending. A new one appears with its first record in it, never empty.
fn open_or_create(path: &Path) -> Result<File, Error> {
    match open_for_append(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(path)?;
            open_for_append(path)
        }
        opened => opened,
    }
    .map_err(Error::io("open", path))
    .and_then(|file| must_be_regular(file, path))
}

fn open_for_append(path: &Path) -> io::Result<File> {
    // A FIFO must not keep us waiting for its other end.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    OpenOptions::new().read(true).append(true).custom_flags(flags).open(path)
}

fn create(path: &Path) -> Result<(), Error> {
    let how = publish::probe(path)?;
    let mut first = Vec::new();
    frame::push(&mut first, |record| Note::header().push(record));
    let mut draft = Draft::create(path).map_err(Error::io("create a file beside", path))?;
    draft.write_all(&first).map_err(Error::io("write a file beside", path))?;
    let sealed = draft.seal().map_err(Error::io("make durable a file beside", path))?;
    Ok(sealed.publish(how)?)
}

/// Reads all records of a file; `between` is called now and then. Damage is an error, a torn tail is not.
fn read(
    file: &File,
    path: &Path,
    known: &mut Known,
    mut between: impl FnMut() -> Result<(), Error>,
) -> Result<Tail, Error> {
    const BETWEEN_RECORDS: u64 = 1024;
    let no_journal = |reason| Error::NoJournal { path: path.to_owned(), reason };
    let tail = scan(file, 0, |offset, payload| {
        if known.records.is_multiple_of(BETWEEN_RECORDS) {
            between()?;
        }
        known.apply(offset, payload).map_err(|reason| match offset {
            0 => no_journal(reason),
            offset => Error::not_understood(path, offset, &reason),
        })
    });
    let tail = tail.map_err(|interrupted| match interrupted {
        Interrupted::Read(source) => Error::io("read", path)(source),
        Interrupted::Visitor(error) => error,
    })?;
    match tail.next_valid {
        _ if tail.valid_bytes == 0 && tail.file_bytes > 0 => {
            Err(no_journal("it does not begin as a journal does".to_owned()))
        }
        Some(next) => Err(Error::Damaged { path: path.to_owned(), at: tail.valid_bytes, next }),
        None => Ok(tail),
    }
}

/// Opens what should be a journal, or a file of completions, without waiting for the other end of a pipe.
pub fn open_to_read(path: &Path) -> Result<File, Error> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    must_be_regular(opened.map_err(Error::io("read", path))?, path)
}

fn must_be_regular(file: File, path: &Path) -> Result<File, Error> {
    match file.metadata().map_err(Error::io("look at", path))?.is_file() {
        true => Ok(file),
        false => Err(Error::NoJournal { path: path.to_owned(), reason: "it is no regular file".to_owned() }),
    }
}

/// Reads a journal without owning it, a running one too.
pub fn look(path: &Path) -> Result<(File, Known, Tail), Error> {
    let file = open_to_read(path)?;
    let mut known = Known::new(false);
    let tail = read(&file, path, &mut known, || Ok(()))?;
    if known.records == 0 {
        return Err(Error::NoJournal { path: path.to_owned(), reason: format!("{} is empty", shown(path)) });
    }
    Ok((file, known, tail))
}
