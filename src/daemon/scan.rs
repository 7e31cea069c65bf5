//! Finds the files of a spool that may be taken, and tells of those that go away.
//!
//! A thread of its own looks: at single names when the kernel rings, at everything from time to time. Invariants: the scan
//! is the truth and the bell only makes it quick, so a file is found though nothing rang; a stamp that has settled is told
//! once; whoever listens is told in batches, never for every event. Nothing is opened but folders, and no link below the
//! root is followed. Knows nothing of what is in the files, nor what becomes of them.
//!
//! | file | job |
//! |---|---|
//! | `worker` | the thread: waits, looks where it rang or where it is time, keeps watch over the root |
//! | `walk` | the scan of a tree |
//! | `table` | the folders and files that are known |
//! | `look` | the system calls |
//! | `told` | batches what is told |

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use super::names::Name;
use super::stamp::Stamp;
use super::watch::Ring;
use crate::line::escape::shown;

mod look;
mod table;
mod told;
mod walk;
mod worker;

/// What is looked at, and how often.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The spool's folder. It may be a link; nothing below it may.
    pub root: PathBuf,
    /// Whether the folders in it are looked at, too: those whose names begin with a dot never are, nor those whose names
    /// look like inputs, nor those more than 64 deep.
    pub recursive: bool,
    /// How long a file that was closed must stay unchanged.
    pub settle: Duration,
    /// How often everything is looked at. Less often where that would take more than a two-hundredth of the time, or a
    /// tenth where nothing rings.
    pub scan_every: Duration,
    /// Folders that are never entered, like that of the archive.
    pub keep_out: Vec<PathBuf>,
}

/// What is told of a spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Files and controls that have settled; at most some hundreds at a time. One that was told before has changed since.
    Found(Vec<Found>),
    /// Files that were told before and are gone, seen from the root.
    Gone(Vec<PathBuf>),
    /// Everything was looked at.
    Scanned {
        /// How many inputs and controls there are.
        files: u64,
        /// How many of them have not settled yet.
        unsettled: u64,
        /// How long it took.
        took: Duration,
    },
    /// The root cannot be read: why, and what to do. Told once, and nothing else until [`Told::Back`]; what was told
    /// before neither is gone nor stays.
    Lost(String),
    /// The root can be read again, though it may be another folder; a scan follows, and tells what is gone.
    Back,
    /// Something is worth a line in the log: what, and what to do.
    Warning(String),
}

/// A file that has settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it lies, seen from the root.
    pub path: Box<Path>,
    /// What its name says: an input or a control.
    pub name: Name,
    /// How it looked. Of what is no regular file only inode and owner are told, the rest is 0.
    pub stamp: Stamp,
    /// Whether it is a regular file; a link, a folder, a FIFO or a device is not.
    pub regular: bool,
}

/// The thread that looks. Dropping it ends the thread soon, without waiting for that.
#[derive(Debug)]
pub struct Scanner {
    messages: Sender<Message>,
    gauge: Arc<Gauge>,
}

impl Scanner {
    /// Begins with a scan. `tell` is called on the thread, and may wait: nothing is lost but time.
    ///
    /// Fails when the root cannot be opened, or no thread be had.
    pub fn start(settings: Settings, tell: impl Fn(Told) + Send + 'static) -> io::Result<Scanner> {
        Scanner::start_with(settings, Blind::default(), tell)
    }

    fn start_with(mut settings: Settings, blind: Blind, tell: impl Fn(Told) + Send + 'static) -> io::Result<Scanner> {
        settings.root = std::path::absolute(&settings.root)?;
        let (_, identity) = look::open_root(&settings.root).map_err(|error| {
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("open the folder {}: {error}", shown(&settings.root)))
        })?;
        let (sender, messages) = channel();
        let ringer = Ringer { messages: sender.clone(), gauge: Arc::default() };
        let scanner = Scanner { messages: sender, gauge: Arc::clone(&ringer.gauge) };
        let worker = worker::Worker::new(settings, blind, identity, messages, ringer, tell);
        std::thread::Builder::new().name("scan".to_owned()).spawn(move || worker.run())?;
        Ok(scanner)
    }

    /// Looks at everything now, instead of when it would be time.
    pub fn scan_now(&self) {
        // Without the thread there is nobody to scan, and `advanced` stands still.
        let _ = self.messages.send(Message::ScanNow);
    }

    /// A counter that grows at least once a second while the thread lives and neither a file system nor `tell` holds it.
    pub fn advanced(&self) -> u64 {
        self.gauge.advanced.load(Ordering::Relaxed)
    }
}

impl Drop for Scanner {
    fn drop(&mut self) {
        self.gauge.stopped.store(true, Ordering::Relaxed);
        let _ = self.messages.send(Message::Stop);
    }
}

/// How long files must stay unchanged of which no event tells.
#[derive(Clone, Copy, Debug)]
struct Blind {
    /// Where every writer is on this machine.
    local: Duration,
    /// Where others' writes show late.
    remote: Duration,
}

impl Default for Blind {
    fn default() -> Blind {
        Blind { local: Duration::from_secs(10), remote: Duration::from_secs(30) }
    }
}

/// What the thread is told.
#[derive(Debug)]
enum Message {
    Ring(Ring),
    ScanNow,
    Stop,
}

/// What the thread and its handle both see.
#[derive(Debug, Default)]
struct Gauge {
    advanced: AtomicU64,
    stopped: AtomicBool,
    /// Rings that wait.
    rings: AtomicUsize,
    /// Whether one of those says that others were left out.
    overflowed: AtomicBool,
}

impl Gauge {
    fn advance(&self) {
        self.advanced.fetch_add(1, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

/// Passes rings on to the thread, as many as may wait.
#[derive(Clone, Debug)]
struct Ringer {
    messages: Sender<Message>,
    gauge: Arc<Gauge>,
}

impl Ringer {
    /// Bounds the memory of a burst to some megabytes; beyond it a scan finds what it has to.
    const RINGS_MAX: usize = 65_536;

    fn ring(&self, ring: Ring) {
        let is_full = self.gauge.rings.load(Ordering::Relaxed) >= Self::RINGS_MAX;
        let ring = if is_full { Ring::Overflow } else { ring };
        if ring == Ring::Overflow && self.gauge.overflowed.swap(true, Ordering::Relaxed) {
            return;
        }
        self.gauge.rings.fetch_add(1, Ordering::Relaxed);
        // Without the thread nobody listens any more.
        let _ = self.messages.send(Message::Ring(ring));
    }

    /// A ring was heard: there is room for another.
    fn heard(&self, ring: &Ring) {
        self.gauge.rings.fetch_sub(1, Ordering::Relaxed);
        if *ring == Ring::Overflow {
            self.gauge.overflowed.store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
