//! The one place that writes stdout. What a pipe takes at once is written by the engine's task; all else is written by a
//! thread in whole buffers, while the engine's task fills the next one.
//!
//! Invariants: one buffer is under way at a time, so memory is bounded by what the window lets in; every failed write
//! is reported, and after one nothing more is written. The engine's task never waits for whoever reads stdout. One
//! wake-up serves many lines.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc as thread_channel;
use std::task::{Context, Poll};

use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use tokio::sync::mpsc;

/// The size of a buffer; one that is full goes out without waiting for a pause.
const BUFFER_BYTES: usize = 256 << 10;
/// Buffers that may wait before no further lines should be let in. More would only take memory: whoever reads stdout
/// has enough to go on with.
const WAITING_MAX: usize = 8;
/// What takes less time to write than to hand on.
const AT_ONCE_BYTES_MAX: usize = 16 << 10;
/// File systems (statfs(2) magic numbers) that report a full disk or quota only when the file is synced or closed:
/// NFS, SMB, SMB2, Lustre, GPFS, FUSE, Ceph.
const LATE_REPORTERS: [u64; 7] = [0x6969, 0x517b, 0xfe53_4d42, 0x0bd0_0bd0, 0x4750_4653, 0x6573_5546, 0x00c3_6400];

/// Whether stdout is a terminal.
pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Why a run ends although lines wait to be written.
pub fn out_of_patience() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "its reader did not take the rest in time")
}

/// Whether stdout is this very file.
pub fn stdout_is(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let stdout = io::stdout().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
    match (stdout, path.metadata()) {
        (Ok(stdout), Ok(file)) => (stdout.dev(), stdout.ino()) == (file.dev(), file.ino()),
        _ => false,
    }
}

/// Lines and bytes of one buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Lines whose window room it holds.
    pub lines: usize,
    /// Bytes of window room it holds.
    pub bytes: usize,
}

/// The engine's side of the writer.
#[derive(Debug)]
pub struct Writer {
    file: Arc<File>,
    /// Whether the kernel can tell that a write would wait.
    writes_at_once: bool,
    /// What the thread needs, until there is work for one.
    unstarted: Option<ThreadSide>,
    to_thread: Option<thread_channel::SyncSender<Vec<u8>>>,
    from_thread: mpsc::UnboundedReceiver<io::Result<Vec<u8>>>,
    thread: Option<std::thread::JoinHandle<()>>,
    buffer: Vec<u8>,
    /// The buffer that was written last, to be filled again.
    spare: Vec<u8>,
    buffered: Amount,
    /// Full buffers, in order.
    waiting: VecDeque<(Vec<u8>, Amount)>,
    under_way: Option<Amount>,
}

/// The thread's side of the writer.
#[derive(Debug)]
struct ThreadSide {
    file: Arc<File>,
    work: thread_channel::Receiver<Vec<u8>>,
    done: mpsc::UnboundedSender<io::Result<Vec<u8>>>,
}

impl ThreadSide {
    fn run(self) {
        for mut buffer in self.work {
            let result = (&*self.file).write_all(&buffer);
            buffer.clear();
            let failed = result.is_err();
            if self.done.send(result.map(|()| buffer)).is_err() || failed {
                return;
            }
        }
        if let Err(error) = settle(&self.file) {
            let _ = self.done.send(Err(error));
        }
    }
}

impl Writer {
    /// A writer on stdout.
    pub fn to_stdout() -> io::Result<Self> {
        if !crate::stdout_probe::was_open() {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        Ok(Self::new(File::from(io::stdout().as_fd().try_clone_to_owned()?)))
    }

    fn new(file: File) -> Self {
        let (to_thread, work) = thread_channel::sync_channel::<Vec<u8>>(1);
        let (done, from_thread) = mpsc::unbounded_channel();
        let file = Arc::new(file);
        Self {
            file: Arc::clone(&file),
            writes_at_once: true,
            unstarted: Some(ThreadSide { file, work, done }),
            to_thread: Some(to_thread),
            from_thread,
            thread: None,
            buffer: Vec::new(),
            spare: Vec::new(),
            buffered: Amount::default(),
            waiting: VecDeque::new(),
            under_way: None,
        }
    }

    /// Whether the reader of stdout keeps up well enough for further lines to be let in.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < WAITING_MAX
    }

    /// Takes one record and the window room it holds.
    pub fn push(&mut self, record: &[u8], amount: Amount) {
        // A full buffer is put aside rather than grown: a large one would be copied again and again.
        if self.buffer.len() + record.len() > BUFFER_BYTES {
            self.put_aside();
            self.send();
        }
        self.buffer.extend_from_slice(record);
        self.buffered.lines += amount.lines;
        self.buffered.bytes += amount.bytes;
    }

    /// Writes the buffer if that is done at once, or hands it on, behind those that wait already. Returns what was
    /// written.
    #[must_use]
    pub fn flush(&mut self) -> Amount {
        if self.under_way.is_some() {
            return Amount::default();
        }
        if self.waiting.is_empty() && self.write_at_once() {
            return std::mem::take(&mut self.buffered);
        }
        self.put_aside();
        self.send();
        Amount::default()
    }

    /// Writes as much of the buffer as needs no waiting; whether that was all of it. pwritev2(2): with `RWF_NOWAIT` a
    /// pipe takes what it has room for. What cannot be written this way is left to the thread, and so is any error.
    fn write_at_once(&mut self) -> bool {
        if !self.writes_at_once || self.buffer.is_empty() || self.buffer.len() > AT_ONCE_BYTES_MAX {
            return false;
        }
        // The offset -1 stands for the file's own.
        match pwritev2(&self.file, &[IoSlice::new(&self.buffer)], u64::MAX, ReadWriteFlags::NOWAIT) {
            Ok(length) => drop(self.buffer.drain(..length)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.writes_at_once = false,
        }
        self.buffer.is_empty()
    }

    fn put_aside(&mut self) {
        if self.buffered != Amount::default() {
            let buffer = std::mem::replace(&mut self.buffer, std::mem::take(&mut self.spare));
            self.waiting.push_back((buffer, std::mem::take(&mut self.buffered)));
        }
    }

    fn send(&mut self) {
        if self.under_way.is_some() {
            return;
        }
        let Some((buffer, amount)) = self.waiting.pop_front() else { return };
        self.under_way = Some(amount);
        self.start_thread();
        // A thread that is gone has left its error behind.
        if let Some(sender) = &self.to_thread {
            let _ = sender.send(buffer);
        }
    }

    fn start_thread(&mut self) {
        let Some(side) = self.unstarted.take() else { return };
        let done = side.done.clone();
        match std::thread::Builder::new().name("writer".to_owned()).spawn(move || side.run()) {
            Ok(thread) => self.thread = Some(thread),
            Err(error) => drop(done.send(Err(error))),
        }
    }

    /// Ready when a buffer was written (with its room), or could not be.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Amount>> {
        let Poll::Ready(Some(result)) = self.from_thread.poll_recv(cx) else { return Poll::Pending };
        Poll::Ready(result.map(|buffer| {
            if buffer.capacity() <= 2 * BUFFER_BYTES {
                self.spare = buffer;
            }
            let amount = self.under_way.take().unwrap_or_default();
            self.send();
            amount
        }))
    }

    /// Hands the room of everything that was written to `each`; ready when something could not be.
    pub fn poll_failure(&mut self, cx: &mut Context<'_>, mut each: impl FnMut(Amount)) -> Poll<io::Error> {
        loop {
            match std::task::ready!(self.poll_written(cx)) {
                Ok(amount) => each(amount),
                Err(error) => return Poll::Ready(error),
            }
        }
    }

    /// Writes what is left, and waits until all of it is out. Called once, outside the engine.
    pub async fn finish(mut self) -> io::Result<()> {
        while self.under_way.is_some() || !self.waiting.is_empty() || self.buffered != Amount::default() {
            let _ = self.flush();
            if self.under_way.is_some() {
                std::future::poll_fn(|cx| self.poll_written_or_gone(cx)).await?;
            }
        }
        self.to_thread = None;
        self.unstarted = None;
        if let Some(Err(error)) = self.from_thread.recv().await {
            return Err(error);
        }
        match self.thread.take().map(std::thread::JoinHandle::join) {
            Some(Err(_)) => Err(io::Error::other("the writing thread panicked")),
            _ => Ok(()),
        }
    }

    fn poll_written_or_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.from_thread.is_closed() && self.from_thread.is_empty() {
            return Poll::Ready(Err(io::Error::other("the writing thread ended early")));
        }
        self.poll_written(cx).map_ok(|_| ())
    }
}

/// Lets file systems that report errors late report them now.
fn settle(file: &File) -> io::Result<()> {
    let regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
    let reports_late =
        rustix::fs::fstatfs(file).is_ok_and(|fs| LATE_REPORTERS.contains(&(fs.f_type as u64 & 0xffff_ffff)));
    if regular && reports_late { file.sync_data() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Read as _;

    #[test]
    fn nobody_waits_for_a_full_pipe_and_the_order_stays() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (mut reader, pipe) = std::io::pipe().unwrap();
        let mut writer = Writer::new(File::from(std::os::fd::OwnedFd::from(pipe)));
        let (mut expected, mut lines_at_once) = (Vec::new(), 0);
        // More than any pipe holds, in records that do not fit its pages; nobody reads meanwhile.
        for number in 0..400 {
            let record = format!("{number} {}\n", "x".repeat(number * 7 % 9001));
            expected.extend_from_slice(record.as_bytes());
            writer.push(record.as_bytes(), Amount { lines: 1, bytes: record.len() });
            lines_at_once += writer.flush().lines;
        }
        assert!(lines_at_once < 400, "the pipe must be full");
        let reading = std::thread::spawn(move || {
            let mut found = Vec::new();
            reader.read_to_end(&mut found).map(|_| found)
        });
        runtime.block_on(writer.finish()).unwrap();
        assert!(reading.join().unwrap().unwrap() == expected, "the bytes or their order changed");
    }
}
