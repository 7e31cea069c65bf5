//! A pipe in which little comes, read by the engine's own task: a line that comes alone wakes one thread and not two.
//! Where more comes than a task should understand on the side, or the kernel cannot say whether a read would wait, a
//! thread goes on where this one stopped, for good.
//!
//! Invariants: no read waits; the flags of the pipe, which others share, are never changed; between two pauses no more is
//! taken in than [`LITTLE_BYTES`].

use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::fs::FileTypeExt as _;
use std::task::{Context, Poll, ready};

use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Input, Reader, Source};

/// What may come between two pauses: as much as a pipe holds unless told otherwise (pipe(7)), so that whatever fills one
/// is read by a thread.
const LITTLE_BYTES: usize = 64 << 10;

/// The reader of a pipe, on the task that wants its records.
#[derive(Debug)]
pub struct Live<T> {
    reader: Reader<T>,
    pipe: AsyncFd<File>,
    buffer: Vec<u8>,
    /// Bytes read since the pipe was empty behind a whole record.
    since_pause: usize,
}

/// What comes of reading without waiting.
pub enum Now<T> {
    Read(Input<T>),
    /// The pipe is empty.
    Empty,
    /// It is for a thread to go on.
    ForThread,
}

impl<T> Live<T> {
    /// Takes the reader on, if it reads but a pipe or a socket; otherwise gives it back.
    pub fn new(reader: Reader<T>) -> Result<Self, Box<Reader<T>>> {
        let only = reader.sources.front().filter(|_| reader.sources.len() == 1);
        // A disk makes whoever writes a copy wait.
        match only.filter(|_| reader.copy.is_none()).and_then(watched) {
            Some(pipe) => Ok(Self { reader, pipe, buffer: vec![0; LITTLE_BYTES], since_pause: 0 }),
            None => Err(Box::new(reader)),
        }
    }

    /// The reader, for a thread.
    pub fn into_reader(self) -> Reader<T> {
        self.reader
    }

    /// What comes next; `None` when it is for a thread to go on.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Input<T>>> {
        loop {
            let Ok(mut readiness) = ready!(self.pipe.poll_read_ready(cx)) else { return Poll::Ready(None) };
            match read(&mut self.reader, &mut self.buffer, &mut self.since_pause) {
                Now::Read(input) => return Poll::Ready(Some(input)),
                Now::Empty => readiness.clear_ready(),
                Now::ForThread => return Poll::Ready(None),
            }
        }
    }

    /// What is there already.
    pub fn next_now(&mut self) -> Now<T> {
        read(&mut self.reader, &mut self.buffer, &mut self.since_pause)
    }
}

/// A source whose next bytes the runtime can announce. A named pipe, a terminal or an old kernel may still refuse to be
/// read without waiting, which is found out by the first read.
fn watched(source: &Source) -> Option<AsyncFd<File>> {
    let kind = source.file.metadata().ok()?.file_type();
    let is_whole = source.bytes.is_none();
    if !is_whole || !(kind.is_fifo() || kind.is_socket()) || tokio::runtime::Handle::try_current().is_err() {
        return None;
    }
    #[allow(deprecated, reason = "a File keeps its descriptor for as long as it lives, which is all that is asked")]
    AsyncFd::with_interest(source.file.try_clone().ok()?, Interest::READABLE).ok()
}

/// Reads on until there are records, the end, or nothing to read. preadv2(2): with `RWF_NOWAIT` an empty pipe says so.
/// Any other error is left to the thread, which meets it again.
fn read<T>(reader: &mut Reader<T>, buffer: &mut [u8], since_pause: &mut usize) -> Now<T> {
    loop {
        let Some(source) = reader.sources.front() else { return Now::Read(Input::End(reader.end(None))) };
        let room = LITTLE_BYTES.saturating_sub(*since_pause);
        if room == 0 {
            return Now::ForThread;
        }
        // The offset -1 stands for the file's own.
        let length = match preadv2(
            &source.file,
            &mut [IoSliceMut::new(&mut buffer[..room])],
            u64::MAX,
            ReadWriteFlags::NOWAIT,
        ) {
            Ok(length) => length,
            Err(Errno::AGAIN) => {
                // A long record that comes bit by bit is as much work at its end as one that comes at once.
                if reader.splitter.is_between_records() {
                    *since_pause = 0;
                }
                return Now::Empty;
            }
            Err(Errno::INTR) => continue,
            Err(_) => return Now::ForThread,
        };
        *since_pause += length;
        if let Some(input) = reader.take_in(&buffer[..length]) {
            return Now::Read(input);
        }
    }
}
