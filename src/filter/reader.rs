//! The input: named files in order, split into records on a thread of its own. What a record means is said by the
//! function that takes it there, so that understanding lines costs the engine's thread nothing. What cannot be read a
//! second time is copied on the way, when a second reading will be needed.
//!
//! Invariants: holds at most a few blocks, whatever comes in; a record that is too long is skipped to its end and
//! reported with its number; a partial block goes out as soon as the source pauses, so that `tail -f` is live.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::splitter::Splitter;
pub use super::splitter::{Found, Split};
use crate::line::escape::shown;

const BLOCK_BYTES: usize = 256 << 10;
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

/// Starts the reading thread. `take` makes something of each record, given its number in the whole input, from 1, blank
/// ones counted. Every byte that is read goes into `copy`, too.
pub fn spawn<T, F>(
    sources: Vec<Source>,
    split: Split,
    copy: Option<Copy>,
    take: F,
) -> io::Result<mpsc::Receiver<Input<T>>>
where
    T: Send + 'static,
    F: FnMut(u64, Found<'_>) -> T + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(BLOCKS_MAX);
    std::thread::Builder::new().name("reader".to_owned()).spawn(move || {
        let hash = split.hash.then(Sha256::new);
        let mut reader = Reader { splitter: Splitter::new(split), hash, copy, take, sender };
        let end = reader.read_all(sources);
        // When nobody listens any more, nobody wants to know.
        let _ = reader.sender.blocking_send(Input::End(end));
    })?;
    Ok(receiver)
}

/// Where a copy of the input goes.
#[derive(Debug)]
pub struct Copy {
    /// What to call it.
    pub name: String,
    /// The file, empty.
    pub file: File,
}

struct Reader<T, F> {
    splitter: Splitter,
    hash: Option<Sha256>,
    copy: Option<Copy>,
    take: F,
    sender: mpsc::Sender<Input<T>>,
}

impl<T, F: FnMut(u64, Found<'_>) -> T> Reader<T, F> {
    fn read_all(&mut self, sources: Vec<Source>) -> End {
        let (mut error, mut source_bytes) = (None, Vec::new());
        for source in sources {
            let mut bytes = 0;
            let read = self.read_one(&source, &mut bytes);
            source_bytes.push(bytes);
            match read {
                Ok(true) => {}
                Ok(false) => break,
                Err(Trouble::Read(cause)) => {
                    error = Some(format!("read {} after line {}: {cause}", source.name, self.splitter.lines));
                    break;
                }
                Err(Trouble::Copy(name, cause)) => {
                    error = Some(format!("write {name}: {cause}"));
                    break;
                }
            }
        }
        let sha256 = self.hash.take().map(|hash| format!("{:x}", hash.finalize()));
        End { lines: self.splitter.lines, sha256, source_bytes, error }
    }

    /// Reads one source to its end, and counts its bytes; whether anybody still listens.
    fn read_one(&mut self, source: &Source, bytes: &mut u64) -> Result<bool, Trouble> {
        let mut input = (&source.file).take(source.bytes.unwrap_or(u64::MAX));
        let mut buffer = vec![0; BLOCK_BYTES];
        self.splitter.at_start = true;
        loop {
            let length = match input.read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Trouble::Read(error)),
            };
            *bytes += length as u64;
            let block = if length == 0 { self.splitter.finish() } else { self.splitter.feed(&buffer[..length]) };
            self.keep(&buffer[..length])?;
            if !block.is_empty() {
                let taken = block.take(&mut self.take);
                if self.sender.blocking_send(Input::Block(taken)).is_err() {
                    return Ok(false);
                }
            }
            if length == 0 {
                return Ok(true);
            }
            if self.sender.is_closed() {
                return Ok(false);
            }
        }
    }

    /// Hashes and copies what was read, before anybody hears of it.
    fn keep(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        match &mut self.copy {
            Some(copy) => copy.file.write_all(bytes).map_err(|error| Trouble::Copy(copy.name.clone(), error)),
            None => Ok(()),
        }
    }
}

/// What can go wrong with a source.
enum Trouble {
    Read(io::Error),
    Copy(String, io::Error),
}
