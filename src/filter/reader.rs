//! The input: named files in order, split into records. What a record means is said by the function that takes it, on a
//! thread of its own, so that understanding lines costs the engine's thread nothing; only a pipe in which little comes
//! is read by the engine's task (`live`), and a small file before it begins: a thread takes longer to start. What cannot be read a second time is copied on the way, when a second reading
//! will be needed.
//!
//! Invariants: holds at most a few blocks, whatever comes in; a record that is too long is skipped to its end and
//! reported with its number; a partial block goes out as soon as the source pauses, so that `tail -f` is live; who reads
//! changes nothing about what is read.

mod live;

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::task::{Context, Poll};

use rustix::event::{PollFd, PollFlags, poll};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::splitter::Splitter;
pub use super::splitter::{Found, Split};
use crate::line::escape::shown;
use live::{Live, Now};

const BLOCK_BYTES: usize = 256 << 10;
/// Files that are no larger than this together are read at once.
const SMALL_BYTES: usize = 64 << 10;
/// Blocks that may wait for the engine.
const BLOCKS_MAX: usize = 2;

/// One source of the input.
#[derive(Debug)]
pub struct Source {
    /// What to call it.
    pub name: String,
    /// Where it comes from.
    pub file: File,
    /// How much of it is meant; all there is, when nothing is said.
    pub bytes: Option<u64>,
}

impl Source {
    /// All of a file.
    pub fn whole(name: String, file: File) -> Self {
        Self { name, file, bytes: None }
    }

    /// The same source for a second reading, from where the file stands now; `None` when it is no regular file.
    pub fn again(&self) -> io::Result<Option<Again>> {
        if !self.file.metadata()?.is_file() {
            return Ok(None);
        }
        let mut file = self.file.try_clone()?;
        let start = file.stream_position()?;
        Ok(Some(Again { name: self.name.clone(), file, start }))
    }
}

/// A file that can be read a second time.
#[derive(Debug)]
pub struct Again {
    name: String,
    file: File,
    start: u64,
}

impl Again {
    /// The source from its beginning. It shares its place with the first one, whose reading must have ended.
    pub fn rewind(mut self) -> io::Result<Source> {
        self.file.seek(SeekFrom::Start(self.start))?;
        Ok(Source::whole(self.name, self.file))
    }
}

/// A copy of what was read: a file that holds the sources one after another.
pub fn sources_of_copy(file: &File, name: &str, lengths: &[u64]) -> io::Result<Vec<Source>> {
    // All of them share one place in the file, and are read one after another.
    (&*file).seek(SeekFrom::Start(0))?;
    let source = |bytes: &u64| Ok(Source { name: name.to_owned(), file: file.try_clone()?, bytes: Some(*bytes) });
    lengths.iter().map(source).collect()
}

/// What the reader says at the end.
#[derive(Clone, Debug, Default)]
pub struct End {
    /// Records read, blank ones included.
    pub lines: u64,
    /// The hash of all bytes, when it was asked for.
    pub sha256: Option<String>,
    /// Bytes read of each source.
    pub source_bytes: Vec<u64>,
    /// What went wrong, with file and line.
    pub error: Option<String>,
}

/// What comes out of the reader.
#[derive(Debug)]
pub enum Input<T> {
    /// What was made of the next records; blank ones are left out.
    Block(Vec<T>),
    /// There is no more.
    End(End),
}

/// Opens a named file for reading; a folder is refused here rather than at the first read.
pub fn open(path: &Path) -> io::Result<Source> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
    }
    Ok(Source::whole(shown(path), file))
}

/// Begins to read. `take` makes something of each record, given its number in the whole input, from 1, blank ones
/// counted. Every byte that is read goes into `copy`, too. The error is that of a thread that could not be started.
pub fn start<T, F>(sources: Vec<Source>, split: Split, copy: Option<Copy>, take: F) -> io::Result<Reading<T>>
where
    T: Send + 'static,
    F: FnMut(u64, Found<'_>) -> T + Send + 'static,
{
    let (sender, blocks) = mpsc::channel(BLOCKS_MAX);
    let mut reader = Reader {
        splitter: Splitter::new(split),
        hash: split.hash.then(Sha256::new),
        copy,
        take: Box::new(take),
        sources: sources.into(),
        bytes: 0,
        source_bytes: Vec::new(),
    };
    let mut ready = VecDeque::new();
    if reader.is_small() && reader.read_small(&mut ready) {
        return Ok(Reading { ready, live: None, sender: None, blocks });
    }
    let live = match Live::new(reader) {
        Ok(live) => Some(Box::new(live)),
        Err(reader) => {
            spawn(*reader, sender.clone())?;
            None
        }
    };
    Ok(Reading { ready, sender: live.is_some().then_some(sender), live, blocks })
}

/// An input that is being read.
#[derive(Debug)]
pub struct Reading<T> {
    /// What was read before it began.
    ready: VecDeque<Input<T>>,
    /// The reader, while the caller's task reads.
    live: Option<Box<Live<T>>>,
    /// For the thread, should there be need of one.
    sender: Option<mpsc::Sender<Input<T>>>,
    blocks: mpsc::Receiver<Input<T>>,
}

impl<T: Send + 'static> Reading<T> {
    /// What comes next; nothing after the end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Input<T>>> {
        if let Some(input) = self.ready.pop_front() {
            return Poll::Ready(Some(input));
        }
        match self.live.as_mut().map(|live| live.poll_next(cx)) {
            Some(Poll::Pending) => return Poll::Pending,
            Some(Poll::Ready(Some(input))) => return Poll::Ready(Some(self.noted(input))),
            Some(Poll::Ready(None)) => self.hand_over(),
            None => {}
        }
        self.blocks.poll_recv(cx)
    }

    /// What comes next; nothing after the end.
    pub async fn next(&mut self) -> Option<Input<T>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// What comes next, for a thread that may wait.
    pub fn next_blocking(&mut self) -> Option<Input<T>> {
        if let Some(input) = self.ready.pop_front() {
            return Some(input);
        }
        self.hand_over();
        self.blocks.blocking_recv()
    }

    /// What is there already.
    pub fn next_now(&mut self) -> Option<Input<T>> {
        if let Some(input) = self.ready.pop_front() {
            return Some(input);
        }
        match &mut self.live {
            Some(live) => match live.next_now() {
                Now::Read(input) => Some(self.noted(input)),
                Now::Empty | Now::ForThread => None,
            },
            None => self.blocks.try_recv().ok(),
        }
    }

    /// Behind the end there is nothing to read, and nobody who would.
    fn noted(&mut self, input: Input<T>) -> Input<T> {
        if matches!(input, Input::End(_)) {
            (self.live, self.sender) = (None, None);
        }
        input
    }

    fn hand_over(&mut self) {
        let (Some(live), Some(sender)) = (self.live.take(), self.sender.take()) else { return };
        if let Err(error) = spawn(live.into_reader(), sender.clone()) {
            let error = Some(format!("start the reading thread: {error}"));
            // Nothing was sent before, so there is room.
            let _ = sender.try_send(Input::End(End { error, ..End::default() }));
        }
    }
}

/// Starts the reading thread.
fn spawn<T: Send + 'static>(mut reader: Reader<T>, sender: mpsc::Sender<Input<T>>) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("reader".to_owned());
    thread.spawn(move || reader.read_all(&sender)).map(drop)
}

/// Where a copy of the input goes.
#[derive(Debug)]
pub struct Copy {
    /// What to call it.
    pub name: String,
    /// The file, empty.
    pub file: File,
}

/// What has been read, and what there is to read; whoever reads hands it the bytes.
struct Reader<T> {
    splitter: Splitter,
    hash: Option<Sha256>,
    copy: Option<Copy>,
    take: Box<dyn FnMut(u64, Found<'_>) -> T + Send>,
    /// What is left, the one that is being read first.
    sources: VecDeque<Source>,
    /// Bytes read of the first of them.
    bytes: u64,
    /// Bytes read of each that has ended.
    source_bytes: Vec<u64>,
}

impl<T> fmt::Debug for Reader<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Reader").field("sources", &self.sources).finish_non_exhaustive()
    }
}

impl<T> Reader<T> {
    /// Whether all there is can be read at once.
    fn is_small(&self) -> bool {
        let length = |source: &Source| source.file.metadata().ok().filter(|file| file.is_file()).map(|file| file.len());
        let bytes: Option<u64> = self.sources.iter().map(length).sum();
        bytes.is_some_and(|bytes| bytes <= SMALL_BYTES as u64)
    }

    /// Reads everything there is, as long as it stays small; whether that was all.
    fn read_small(&mut self, ready: &mut VecDeque<Input<T>>) -> bool {
        let mut buffer = vec![0; SMALL_BYTES];
        // A file may grow as it is read, and a read may be short.
        for _ in 0..self.sources.len() * 2 + 2 {
            let (input, is_end) = self.read_on(&mut buffer);
            ready.extend(input);
            if is_end {
                return true;
            }
        }
        false
    }

    /// Reads once, waiting for it: what came of it, and whether it was the end.
    fn read_on(&mut self, buffer: &mut [u8]) -> (Option<Input<T>>, bool) {
        let next = match self.read(buffer) {
            Ok(Some(length)) => self.take_in(&buffer[..length]),
            Ok(None) => Some(Input::End(self.end(None))),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
            Err(error) => Some(Input::End(self.end(Some(self.told(&error))))),
        };
        let is_end = matches!(next, Some(Input::End(_)));
        (next, is_end)
    }

    /// Reads everything there is, waiting for it, until nobody listens.
    fn read_all(&mut self, sender: &mpsc::Sender<Input<T>>) {
        let mut buffer = vec![0; BLOCK_BYTES];
        while !sender.is_closed() {
            let (next, is_end) = self.read_on(&mut buffer);
            let Some(next) = next else { continue };
            if sender.blocking_send(next).is_err() || is_end {
                return;
            }
        }
    }

    /// Reads once; nothing when no source is left.
    fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(source) = self.sources.front() else { return Ok(None) };
        let left = source.bytes.map_or(u64::MAX, |bytes| bytes - self.bytes);
        match (&source.file).take(left).read(buffer) {
            // Somebody who shares it has made it one that never waits.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(&source.file, PollFlags::IN)], None)?;
                Err(io::ErrorKind::Interrupted.into())
            }
            result => result.map(Some),
        }
    }

    /// Takes in what was read of the current source, nothing at its end. What the records that it completes come to.
    fn take_in(&mut self, bytes: &[u8]) -> Option<Input<T>> {
        self.bytes += bytes.len() as u64;
        let block = if bytes.is_empty() { self.splitter.finish() } else { self.splitter.feed(bytes) };
        if let Err(error) = self.keep(bytes) {
            return Some(Input::End(self.end(Some(error))));
        }
        if bytes.is_empty() {
            self.leave_source();
            self.splitter.at_start = true;
        }
        (!block.is_empty()).then(|| Input::Block(block.take(&mut self.take)))
    }

    /// Hashes and copies what was read, before anybody hears of it; the error says what could not be written.
    fn keep(&mut self, bytes: &[u8]) -> Result<(), String> {
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        match &mut self.copy {
            Some(copy) => copy.file.write_all(bytes).map_err(|error| format!("write {}: {error}", copy.name)),
            None => Ok(()),
        }
    }

    fn leave_source(&mut self) {
        if self.sources.pop_front().is_some() {
            self.source_bytes.push(std::mem::take(&mut self.bytes));
        }
    }

    /// What is said of a read that failed.
    fn told(&self, error: &io::Error) -> String {
        let name = self.sources.front().map_or("", |source| &source.name);
        format!("read {name} after line {}: {error}", self.splitter.lines)
    }

    /// What is said at the end.
    fn end(&mut self, error: Option<String>) -> End {
        self.leave_source();
        let sha256 = self.hash.take().map(|hash| format!("{:x}", hash.finalize()));
        End { lines: self.splitter.lines, sha256, source_bytes: std::mem::take(&mut self.source_bytes), error }
    }
}

#[cfg(test)]
mod tests;
