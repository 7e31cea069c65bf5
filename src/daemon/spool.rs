//! One spool: what was found in it, what runs, what is on its way to its end. Everything that happens to it comes in as an
//! [`Occurrence`] on one task; threads do the waiting.
//!
//! Invariants: a file has at most one job; a job's answer is told to nobody before it is durable; a job ends by its
//! record in the log, after its result has its name; memory is bounded by the jobs that are open, beside a few hundred
//! bytes a file.

mod asking;
mod controlling;
mod ending;
mod finding;
mod keeping;
mod large_files;
mod parts;
mod taking;
mod telling;
mod waiting;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::claim::{Claimer, Rulebook};
use super::clerk::Clerk;
use super::history::{Ended, History};
use super::job::{GivenUp, Job};
use super::log::JobId;
use super::names::Kind;
use super::render::Ready;
use super::rota::Rota;
use super::scan;
use super::stamp::Stamp;
use super::status::{FileCounts, JobStatus};
use super::store::Store;
use crate::config::Config;
use crate::exit::Exit;
use crate::journal::lock::Holder;
use crate::journal::publish::Exclusive;
use crate::journal::{self, Committed, Journal, Past};

/// Threads that render results side by side: a sync waits most of its time, and several are one to the disk.
const HANDS_MAX: usize = 8;
/// Small files that are open at the same time have no more bytes together, but for one that has more alone.
const OPEN_BYTES_MAX: u64 = 64 << 20;
/// Jobs that one of them takes at once.
const RENDERED_AT_ONCE: usize = 16;
/// Large jobs that are open side by side: each has two threads and a journal.
const LARGE_MAX: usize = 8;
/// A log that is longer, and twice as long as it has to be, is written anew when nothing runs.
const RENEW_BYTES_MIN: u64 = 64 << 20;
/// Spools that can be told apart by the keys of requests.
const SERIALS: usize = 256;
/// The line number, in the log's tokens, that stands for the claim.
const CLAIM: u32 = u32::MAX;

pub use asking::named_by;
pub use parts::{Booked, Occurrence, Shared};
use parts::{Claiming, Queued, Share};

/// A spool.
#[derive(Debug)]
pub struct Spool {
    /// Its number.
    index: usize,
    /// Its folder.
    root: PathBuf,
    store: Store,
    shared: Rc<Shared>,
    /// The log, until it is closed.
    log: Option<Journal>,
    log_path: PathBuf,
    holder: Holder,
    generation: u64,
    how: Exclusive,
    claimer: Claimer,
    scanner: Option<scan::Scanner>,
    clerk: Clerk,
    committed: Vec<Committed>,
    /// Slots that came free, by account.
    freed: BTreeMap<usize, usize>,
    next_job: JobId,
    next_ticket: u64,
    done: HashMap<Box<[u8]>, Ended>,
    strikes: HashMap<Box<[u8]>, (Stamp, u32)>,
    /// Results whose names would make them inputs.
    own_results: HashSet<Box<[u8]>>,
    /// What the log said of what was sent, until it is asked for.
    past: HashMap<String, Past>,
    /// Files that were taken and then went away: the jobs that have their answers.
    suspended: HashMap<Box<[u8]>, JobId>,
    /// Files that cannot be taken as they are.
    refused: HashMap<Box<[u8]>, Stamp>,
    /// Files whose results' names are taken.
    blocked: HashMap<Arc<Path>, (Queued, PathBuf)>,
    /// Files that are still being written to.
    unripe: HashMap<Arc<Path>, Queued>,
    unripe_looked: Option<Instant>,
    /// Files that were told of while something was done for them: what they are now.
    dirty: HashMap<Arc<Path>, (Kind, Stamp)>,
    /// Files that were not there when they should be taken, until the scanner says that they are gone, or that the
    /// folder is back.
    missing: HashMap<Arc<Path>, (Queued, Instant)>,
    /// Controls that cannot be honoured yet.
    controls: HashSet<PathBuf>,
    controls_looked: Option<Instant>,
    /// Files that are to be run because of a `.retry`.
    retrying: HashSet<Arc<Path>>,
    blocked_looked: Option<Instant>,
    /// Files that met trouble of their own, and when they are tried again; how long each has waited last.
    put_off: Vec<(Instant, Queued)>,
    put_off_waits: HashMap<Arc<Path>, Duration>,
    stale: HashSet<Arc<Path>>,
    /// Where the contents and answers of large jobs are, when it is not the folder of their own number.
    folders: HashMap<JobId, JobId>,
    /// Large files for which there is no room among the large ones.
    waiting_large: VecDeque<Queued>,
    queue: Rota<Queued>,
    /// Files that stand in the queue, are put off, or wait among the large ones; perhaps some that did.
    queued: HashSet<Arc<Path>>,
    shares: HashMap<u32, Share>,
    /// Bytes of files that are open, of large ones as much as of the largest small one.
    open_bytes: u64,
    claiming: HashMap<u64, Claiming>,
    jobs: Vec<Option<Job>>,
    free: Vec<u32>,
    /// Records of each place that are on their way into the log.
    pipe: Vec<u32>,
    /// Places without a job that have such records.
    damp: HashSet<u32>,
    by_path: HashMap<Arc<Path>, u32>,
    turns: Rota<u32>,
    settled: VecDeque<(u32, JobId)>,
    hands: usize,
    ready: Vec<Ready>,
    publishing: bool,
    /// Whether the log is being written anew, and when it was that long that it should be.
    renewing: bool,
    renew_at_bytes: u64,
    /// How long the log is, as far as is known.
    log_bytes: u64,
    /// Failed lines of the files that this process has ended.
    failed_lines: u64,
    attention: VecDeque<JobStatus>,
    files: FileCounts,
    /// Why nothing of this spool runs.
    trouble: Option<String>,
    /// Whether the process stood still for so long that the lease may be another's.
    doubtful: bool,
    /// Whether a whole scan has ended, and whether anything it saw is not yet settled.
    scanned: Option<u64>,
    told_at: Option<Instant>,
    alive: u64,
    asked_alive: u64,
    failed: Option<journal::Error>,
}

/// What a spool is opened with.
#[derive(Debug)]
pub struct Opened {
    /// Its folder.
    pub root: PathBuf,
    /// The service's own folder in it.
    pub store: Store,
    /// The log.
    pub log: Journal,
    /// Where it is.
    pub log_path: PathBuf,
    /// What it says.
    pub history: History,
    /// Who this process is.
    pub holder: Holder,
    /// How names are taken.
    pub how: Exclusive,
}

impl Spool {
    /// A spool whose lease is ours. What its log says was begun goes on.
    pub fn new(opened: Opened, shared: Rc<Shared>) -> std::io::Result<Self> {
        // One that is opened again is another one: what threads and engine still know of the old one is void.
        let index = (shared.serial.get() + 1) % SERIALS;
        shared.serial.set(index);
        let Opened { root, store, log, log_path, history, holder, how } = opened;
        let tell = shared.tell.clone();
        let config = shared.config();
        let left_behind = super::claim::left_behind(&store.reading());
        let claimer =
            Claimer::start(&root, &log_path, &store.reading(), Rulebook::of(&config), move |ticket, reply| {
                let _ = tell.send((index, Occurrence::Claimed(ticket, reply)));
            })?;
        let History { generation, next_job, open, done, strikes, own_results, past, .. } = history;
        let mut spool = Self {
            index,
            root,
            store,
            shared,
            log: Some(log),
            log_path,
            holder,
            generation,
            how,
            claimer,
            scanner: None,
            clerk: Clerk::start()?,
            committed: Vec::new(),
            freed: BTreeMap::new(),
            next_job,
            next_ticket: 0,
            done,
            strikes,
            own_results,
            past,
            suspended: HashMap::new(),
            refused: HashMap::new(),
            blocked: HashMap::new(),
            unripe: HashMap::new(),
            unripe_looked: None,
            dirty: HashMap::new(),
            missing: HashMap::new(),
            controls: HashSet::new(),
            controls_looked: None,
            retrying: HashSet::new(),
            blocked_looked: None,
            put_off: Vec::new(),
            put_off_waits: HashMap::new(),
            stale: HashSet::new(),
            folders: HashMap::new(),
            waiting_large: VecDeque::new(),
            queue: Rota::default(),
            queued: HashSet::new(),
            shares: HashMap::new(),
            open_bytes: 0,
            claiming: HashMap::new(),
            jobs: Vec::new(),
            free: Vec::new(),
            pipe: Vec::new(),
            damp: HashSet::new(),
            by_path: HashMap::new(),
            turns: Rota::default(),
            settled: VecDeque::new(),
            hands: 0,
            ready: Vec::new(),
            publishing: false,
            renewing: false,
            renew_at_bytes: RENEW_BYTES_MIN,
            log_bytes: 0,
            failed_lines: 0,
            attention: VecDeque::new(),
            files: FileCounts::default(),
            trouble: None,
            doubtful: false,
            scanned: None,
            told_at: None,
            alive: 0,
            asked_alive: 0,
            failed: None,
        };
        spool.remember_ends();
        spool.sweep();
        spool.note_strike(left_behind);
        spool.go_on_with(open);
        spool.scanner = Some(spool.start_scanner(&config)?);
        Ok(spool)
    }

    fn start_scanner(&self, config: &Config) -> std::io::Result<scan::Scanner> {
        let daemon = config.daemon.clone().unwrap_or_default();
        let settings = scan::Settings {
            root: self.root.clone(),
            recursive: daemon.recursive,
            settle: daemon.settle,
            scan_every: daemon.scan_every,
            keep_out: daemon.archive.into_iter().collect(),
        };
        let (tell, index) = (self.shared.tell.clone(), self.index);
        scan::Scanner::start(settings, move |told| {
            let _ = tell.send((index, Occurrence::Told(told)));
        })
    }

    /// Takes in what happened.
    pub fn handle(&mut self, occurrence: Occurrence) {
        match occurrence {
            Occurrence::Told(told) => self.told(told),
            Occurrence::Claimed(ticket, reply) => self.claimed(ticket, reply),
            Occurrence::Copied(slot, job, copied) => self.copied(slot, job, copied),
            Occurrence::Opened(slot, job, opened) => self.opened(slot, job, opened),
            Occurrence::Rendered(rendered) => self.rendered(rendered),
            Occurrence::Published(published) => self.published(published),
            Occurrence::Ended(slot, job, ended) => self.ended(slot, job, *ended),
            Occurrence::Renewed(renewed) => self.renewed(renewed),
            Occurrence::Noted(noted) => self.noted(noted),
            Occurrence::Confirmed(Ok(())) => self.doubtful = false,
            Occurrence::Confirmed(Err(error)) => self.fail(error),
            Occurrence::Alive => self.alive += 1,
        }
        self.go_on();
    }

    /// Starts whatever can be started.
    pub fn go_on(&mut self) {
        if self.trouble.is_none() && self.failed.is_none() && !self.renewing && !self.doubtful {
            self.claim_more();
            self.render_more();
            self.publish_more();
        }
    }

    /// Its number.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Why the spool cannot be used any more: the lease was lost, or the log cannot be written.
    pub fn failure(&mut self) -> Option<journal::Error> {
        self.failed.take()
    }

    /// Whether nothing is left to do, as far as the last scan saw.
    pub fn is_drained(&self) -> bool {
        self.scanned == Some(0)
            && self.queue.is_empty()
            && self.claiming.is_empty()
            && self.unripe.is_empty()
            && self.waiting_large.is_empty()
            && self.missing.is_empty()
            && self.is_still()
    }

    /// How a run that was to drain the spool ends, as far as this one's files say.
    pub fn exit_of_once(&self) -> Exit {
        let is_refused = !self.refused.is_empty() || !self.blocked.is_empty();
        match () {
            () if !self.put_off.is_empty() => Exit::Resumable,
            () if is_refused || self.failed_lines > 0 => Exit::SomeFailed,
            () => Exit::Answered,
        }
    }

    /// Whether no job is open.
    fn is_still(&self) -> bool {
        self.jobs.iter().all(Option::is_none) && self.ready.is_empty() && !self.publishing && self.hands == 0
    }

    /// The configuration was read anew.
    pub fn reload(&self) {
        self.claimer.set_rules(Rulebook::of(&self.shared.config()));
    }

    fn job(&mut self, slot: u32, id: JobId) -> Option<&mut Job> {
        self.jobs.get_mut(slot as usize)?.as_mut().filter(|job| job.id == id)
    }

    fn tell(&self) -> impl Fn(Occurrence) + Send + 'static {
        let (tell, index) = (self.shared.tell.clone(), self.index);
        move |occurrence| {
            let _ = tell.send((index, occurrence));
        }
    }

    /// The log has failed, and with it the spool.
    fn fail(&mut self, error: journal::Error) {
        self.failed.get_or_insert(error);
    }

    fn absolute(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    /// No more of a job is asked.
    fn give_up(&mut self, slot: u32, why: GivenUp) {
        if let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::as_mut) {
            job.given_up.get_or_insert(why);
        }
        self.end_if_settled(slot);
    }
}
