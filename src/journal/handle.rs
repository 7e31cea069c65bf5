//! The engine's side of the journal's thread: batches of records go out, commits come back, one wake-up a group.
//!
//! Invariants: one group is under way at a time, so memory is bounded by what the mode lets in; an outcome is reported
//! as committed only after its group's `fdatasync` returned; after an error there are no more reports.

use std::path::{Path, PathBuf};
use std::sync::mpsc as thread_channel;
use std::task::{Context, Poll, ready};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use super::error::Error;
use super::frame;
use super::keeper::{Findings, Keeper};
use super::known::Known;
use super::lock::Holder;
use super::note::{Note, Settings};

/// A group that is so large goes out without waiting for a pause.
const GROUP_BYTES: usize = 1 << 20;

/// How a journal is to be opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file; made when it is not there.
    pub path: PathBuf,
    /// Who opens it.
    pub holder: Holder,
    /// What this run's lines get that do not say so themselves. Not written down here, but with the first record.
    pub settings: Settings,
    /// Use no answer that was there before; a run that began so and did not end goes on.
    pub fresh: bool,
    /// Use no error that was there before.
    pub retry_failed: bool,
}

/// An open journal and what it says.
#[derive(Debug)]
pub struct Opened {
    /// The journal.
    pub journal: Journal,
    /// What it said when it was opened.
    pub known: Known,
    /// Bytes of an unfinished record that were cut off its end.
    pub cut_bytes: u64,
}

/// A record that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// What it was appended under.
    pub token: u64,
    /// Where it begins in the journal.
    pub offset: u64,
}

#[derive(Debug, Default)]
struct Group {
    frames: Vec<u8>,
    /// Offsets are relative to the group until it is written.
    records: Vec<Committed>,
}

type Job = Box<dyn FnOnce(&mut Keeper) + Send>;

enum Work {
    Group(Group),
    Job(Job),
    Close { discard: bool, done: oneshot::Sender<Result<(), Error>> },
}

/// An open journal, as the engine's task sees it.
#[derive(Debug)]
pub struct Journal {
    work: thread_channel::Sender<Work>,
    reports: mpsc::UnboundedReceiver<Result<Group, Error>>,
    thread: Option<JoinHandle<()>>,
    group: Group,
    spare: Group,
    under_way: bool,
    /// Notes to be written down before the next record of a line, and not without one.
    preface: Vec<Note>,
}

impl Journal {
    /// Opens a journal on a thread of its own, and reads it until `is_stopped` says that nobody wants it any more.
    pub async fn open(options: Options, is_stopped: impl Fn() -> bool + Send + 'static) -> Result<Opened, Error> {
        let path = options.path.clone();
        let (mut journal, findings) = Self::start(&path, move || Keeper::open(&options, &is_stopped)).await?;
        let Findings { known, cut_bytes, begins_afresh } = findings;
        if begins_afresh {
            journal.preface.push(Note::Fresh {});
        }
        Ok(Opened { journal, known, cut_bytes })
    }

    /// Starts the thread of a file of records, which `open` opens there; what `open` has found comes back. `path` is for
    /// the error message.
    pub async fn start<T: Send + 'static>(
        path: &Path,
        open: impl FnOnce() -> Result<(Keeper, T), Error> + Send + 'static,
    ) -> Result<(Self, T), Error> {
        let (work, queue) = thread_channel::channel();
        let (report, reports) = mpsc::unbounded_channel();
        let (opened, is_open) = oneshot::channel();
        let thread = std::thread::Builder::new().name("journal".to_owned()).spawn(move || match open() {
            Ok((keeper, found)) => {
                if opened.send(Ok(found)).is_ok() {
                    keep(keeper, &queue, &report);
                }
            }
            Err(error) => drop(opened.send(Err(error))),
        });
        let thread = thread.map_err(Error::io("start a thread for", path))?;
        let found = is_open.await.map_err(|_| Error::Gone)??;
        let (group, spare) = (Group::default(), Group::default());
        let journal = Self { work, reports, thread: Some(thread), group, spare, under_way: false, preface: Vec::new() };
        Ok((journal, found))
    }

    /// Adds a record to the next group; its token comes back when it is durable.
    pub fn append(&mut self, token: Option<u64>, write: impl FnOnce(&mut Vec<u8>)) {
        for note in std::mem::take(&mut self.preface) {
            frame::push(&mut self.group.frames, |record| note.push(record));
        }
        let offset = self.group.frames.len() as u64;
        frame::push(&mut self.group.frames, write);
        self.group.records.extend(token.map(|token| Committed { token, offset }));
        if self.group.frames.len() >= GROUP_BYTES {
            self.flush();
        }
    }

    /// Has a note written down before the next record of a line: a run that records nothing has changed nothing. Of
    /// settings only the last ones count.
    pub fn preface(&mut self, note: Note) {
        if matches!(note, Note::Settings(_)) {
            self.preface.retain(|other| !matches!(other, Note::Settings(_)));
        }
        self.preface.push(note);
    }

    /// Takes back what was to be written down before a record.
    pub fn take_preface(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.preface)
    }

    /// Hands the group on, unless one is under way: then it goes when that one is durable.
    pub fn flush(&mut self) {
        if self.under_way || self.group.frames.is_empty() {
            return;
        }
        let group = std::mem::replace(&mut self.group, std::mem::take(&mut self.spare));
        // A thread that is gone has left its error behind.
        self.under_way = self.work.send(Work::Group(group)).is_ok();
    }

    /// Ready with the records that have become durable: takes them out of a list that is to be given back.
    pub fn poll_committed(&mut self, cx: &mut Context<'_>, committed: &mut Vec<Committed>) -> Poll<Result<(), Error>> {
        let report = ready!(self.reports.poll_recv(cx)).unwrap_or(Err(Error::Gone));
        Poll::Ready(report.map(|mut group| {
            self.under_way = false;
            committed.clear();
            committed.append(&mut group.records);
            group.frames.clear();
            group.frames.shrink_to(2 * GROUP_BYTES);
            self.spare = group;
        }))
    }

    /// Whether further records may be added: the next group waits for its turn, and should not grow without a bound.
    pub fn has_room(&self) -> bool {
        !self.under_way || self.group.frames.len() < GROUP_BYTES
    }

    /// Whether everything that was added is durable.
    pub fn is_settled(&self) -> bool {
        !self.under_way && self.group.frames.is_empty()
    }

    /// Does something on the journal's thread, behind everything that was handed on before.
    pub async fn run<T, E>(&mut self, job: impl FnOnce(&mut Keeper) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let (done, result) = oneshot::channel();
        let job: Job = Box::new(move |keeper| drop(done.send(job(keeper))));
        match self.send(Work::Job(job)) {
            Ok(()) => result.await.unwrap_or_else(|_| Err(E::from(self.last_error()))),
            Err(error) => Err(E::from(error)),
        }
    }

    /// Has something done on the journal's thread, behind everything that was handed on before; it tells itself what came
    /// of it. It is dropped undone when the journal has failed.
    pub fn hand_over(&mut self, job: impl FnOnce(&mut Keeper) + Send + 'static) -> Result<(), Error> {
        self.send(Work::Job(Box::new(job)))
    }

    /// Hands work to the thread. What it does not take is dropped before anybody waits for its result.
    fn send(&mut self, work: Work) -> Result<(), Error> {
        if self.work.send(work).is_ok() { Ok(()) } else { Err(self.last_error()) }
    }

    /// Gives the journal up: lock and thread. With `discard`, its file is removed.
    pub async fn close(mut self, discard: bool) -> Result<(), Error> {
        let (done, result) = oneshot::channel();
        let closed = match self.send(Work::Close { discard, done }) {
            Ok(()) => result.await.unwrap_or_else(|_| Err(self.last_error())),
            Err(error) => Err(error),
        };
        // The thread has nothing left to do but to end.
        drop(self.thread.take().map(JoinHandle::join));
        closed
    }

    /// Why the thread has ended.
    fn last_error(&mut self) -> Error {
        while let Ok(report) = self.reports.try_recv() {
            if let Err(error) = report {
                return error;
            }
        }
        Error::Gone
    }
}

/// The journal's thread.
fn keep(
    mut keeper: Keeper,
    queue: &thread_channel::Receiver<Work>,
    report: &mpsc::UnboundedSender<Result<Group, Error>>,
) {
    loop {
        let done = match queue.recv_timeout(keeper.until_beat()) {
            Ok(Work::Group(group)) => commit(&mut keeper, group).map(|group| drop(report.send(Ok(group)))),
            Ok(Work::Job(job)) => {
                job(&mut keeper);
                Ok(())
            }
            Ok(Work::Close { discard, done }) => return drop(done.send(keeper.close(discard))),
            Err(thread_channel::RecvTimeoutError::Timeout) => keeper.beat_if_due(),
            // Whoever drops the handle without closing is in no state to hear of an error.
            Err(thread_channel::RecvTimeoutError::Disconnected) => return drop(keeper.close(false)),
        };
        if let Err(error) = done {
            let _ = report.send(Err(error));
            // Neither written to nor synced again. The lock goes with the process, or now if that is possible.
            return drop(keeper.close(false));
        }
    }
}

fn commit(keeper: &mut Keeper, mut group: Group) -> Result<Group, Error> {
    let start = keeper.commit(&group.frames)?;
    group.records.iter_mut().for_each(|record| record.offset += start);
    Ok(group)
}
