//! One spool: what was found in it, what runs, what is on its way to its end. Everything that happens to it comes in as an
//! [`Occurrence`] on one task; threads do the waiting.
//!
//! Invariants: a file has at most one job; a job's answer is told to nobody before it is durable; a job ends by its
//! record in the log, after its result has its name; memory is bounded by the jobs that are open, beside a few hundred
//! bytes a file.

mod ending;
mod taking;
mod telling;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::claim::{Claimer, Reply, Rulebook};
use super::clerk::Clerk;
use super::history::{Ended, History};
use super::job::{Body, GivenUp, Job};
use super::large::{self, LargeMode};
use super::log::{JobId, push_line};
use super::names::Kind;
use super::render::{self, Outcomes, Ready};
use super::rota::Rota;
use super::scan;
use super::snapshot::{Copied, Refused};
use super::stamp::Stamp;
use super::status::{FileCounts, JobStatus};
use super::store::Store;
use crate::config::Config;
use crate::engine::{Key, Mode as _, Slot, Work};
use crate::journal::lock::Holder;
use crate::journal::publish::Exclusive;
use crate::journal::{self, Committed, Journal, Line};
use crate::line::completion::Flags;
use crate::line::{Outcome, Request};
use crate::report::{Audience as _, Counts};
use crate::shutdown::Shutdown;

/// Threads that render results side by side: a sync waits most of its time, and several are one to the disk.
const HANDS_MAX: usize = 8;
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

/// What can happen to a spool, from any thread.
#[derive(Debug)]
pub enum Occurrence {
    /// The scanner tells something.
    Told(scan::Told),
    /// A file was taken, or not.
    Claimed(u64, Reply),
    /// A large file was copied.
    Copied(u32, JobId, Result<Copied, Refused>),
    /// A large job's journal is open.
    Opened(u32, JobId, Result<Box<LargeMode>, String>),
    /// Small jobs were rendered.
    Rendered(Outcomes<Ready>),
    /// Results have their names.
    Published(Result<Outcomes<render::Ended>, journal::Error>),
    /// A large job came to its end.
    Ended(u32, JobId, Box<large::Ended>),
    /// The log was written anew, and says this; it is so many bytes long.
    Renewed(Result<Box<(History, u64)>, journal::Error>),
    /// A note was written down.
    Noted(Box<super::log::Done>, Result<u64, journal::Error>),
    /// The log's thread has done what it was asked before.
    Alive,
}

/// What all spools share.
#[derive(Debug)]
pub struct Shared {
    /// The configuration; replaced when it is read anew.
    pub config: std::cell::RefCell<Rc<Config>>,
    /// Counts of all requests.
    pub counts: Arc<Counts>,
    /// Where occurrences go, with the number of the spool.
    pub tell: UnboundedSender<(usize, Occurrence)>,
    /// How the daemon comes to its end.
    pub shutdown: Shutdown,
    /// Why nothing of an account is sent, when nothing is.
    pub paused: std::cell::RefCell<BTreeMap<usize, String>>,
    /// Spools that cannot be used just now, and why.
    pub broken: std::cell::RefCell<BTreeMap<PathBuf, String>>,
    /// The number of the spool that was opened last.
    pub serial: std::cell::Cell<usize>,
    /// How fast requests are settled.
    pub rate: std::cell::RefCell<super::desk::Rate>,
}

impl Shared {
    /// The configuration as it is now.
    pub fn config(&self) -> Rc<Config> {
        Rc::clone(&self.config.borrow())
    }

    /// Whose key pays for files of this owner: 0 is the daemon's own, others follow the configuration's owners.
    fn account_of(&self, owner: u32) -> usize {
        let config = self.config();
        let owners = config.daemon.iter().flat_map(|daemon| &daemon.owners);
        owners.map(|own| own.id).position(|id| id == owner).map_or(0, |place| place + 1)
    }

    /// Why nothing is sent, when that is so.
    pub fn pause_reason(&self) -> Option<String> {
        let paused = self.paused.borrow();
        let broken = self.broken.borrow();
        let reasons: Vec<&str> = broken.values().chain(paused.values()).map(String::as_str).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}

/// A file that waits for its turn.
#[derive(Debug)]
struct Queued {
    path: Arc<Path>,
    kind: Kind,
    bytes: u64,
    how: Wanted,
}

/// How a queued file is wanted.
#[derive(Debug)]
enum Wanted {
    /// As it is found.
    Fresh { from: Option<JobId>, retry_failed: bool },
    /// As the log has it: where its claim begins, and its answers.
    Resume { job: JobId, claim_at: u64, answers: HashMap<u64, u64> },
}

/// A file that is being taken.
#[derive(Debug)]
struct Claiming {
    queued: Queued,
    owner: u32,
}

/// What one owner has open.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    files: u64,
    bytes: u64,
    lines: u64,
}

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
    /// Files that were taken and then went away: the jobs that have their answers.
    suspended: HashMap<Box<[u8]>, JobId>,
    /// Files that cannot be taken as they are.
    refused: HashMap<Box<[u8]>, Stamp>,
    /// Files whose results' names are taken.
    blocked: HashMap<Arc<Path>, (u32, Kind, PathBuf)>,
    /// Files that are still being written to.
    unripe: HashMap<Arc<Path>, (u32, Kind, Instant)>,
    blocked_looked: Option<Instant>,
    /// Files that met trouble of their own, and when they are tried again; how long each has waited last.
    put_off: Vec<(Instant, u32, Queued)>,
    put_off_waits: HashMap<Arc<Path>, Duration>,
    stale: HashSet<Arc<Path>>,
    /// Where the contents and answers of large jobs are, when it is not the folder of their own number.
    folders: HashMap<JobId, JobId>,
    /// Large files for which there is no room among the large ones.
    waiting_large: VecDeque<(u32, Queued)>,
    queue: Rota<Queued>,
    shares: HashMap<u32, Share>,
    claiming: HashMap<u64, Claiming>,
    jobs: Vec<Option<Job>>,
    free: Vec<u32>,
    /// Records of each place that are on their way into the log.
    pipe: Vec<u32>,
    /// Places without a job that have such records.
    damp: HashSet<u32>,
    by_path: HashMap<Arc<Path>, u32>,
    turns: Rota<u32>,
    settled: VecDeque<u32>,
    hands: usize,
    ready: Vec<Ready>,
    publishing: bool,
    /// Whether the log is being written anew, and when it was that long that it should be.
    renewing: bool,
    renew_at_bytes: u64,
    /// How long the log is, as far as is known.
    log_bytes: u64,
    attention: VecDeque<JobStatus>,
    files: FileCounts,
    /// Why nothing of this spool runs.
    trouble: Option<String>,
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
        let History { generation, next_job, open, done, strikes, own_results, .. } = history;
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
            suspended: HashMap::new(),
            refused: HashMap::new(),
            blocked: HashMap::new(),
            unripe: HashMap::new(),
            blocked_looked: None,
            put_off: Vec::new(),
            put_off_waits: HashMap::new(),
            stale: HashSet::new(),
            folders: HashMap::new(),
            waiting_large: VecDeque::new(),
            queue: Rota::default(),
            shares: HashMap::new(),
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
            attention: VecDeque::new(),
            files: FileCounts::default(),
            trouble: None,
            scanned: None,
            told_at: None,
            alive: 0,
            asked_alive: 0,
            failed: None,
        };
        spool.remember_ends();
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
            Occurrence::Noted(done, at) => self.noted(&done, at),
            Occurrence::Alive => self.alive += 1,
        }
        self.go_on();
    }

    /// Starts whatever can be started.
    pub fn go_on(&mut self) {
        if self.trouble.is_none() && self.failed.is_none() && !self.renewing {
            self.claim_more();
            self.render_more();
            self.publish_more();
        }
    }

    /// The next request of an account, from the job whose turn it is.
    pub fn pull(&mut self, account: usize, cx: &mut Context<'_>) -> Option<Work> {
        if self.trouble.is_some() {
            return None;
        }
        let (jobs, spool) = (&mut self.jobs, self.index);
        self.turns.serve(|slot| {
            let job = jobs.get_mut(*slot as usize)?.as_mut()?;
            if job.account != account || job.given_up.is_some() {
                return None;
            }
            match &mut job.body {
                Body::Small(small) => {
                    let (line, request) = small.take()?;
                    Some(Work { key: key(spool, *slot, line as u32), request })
                }
                Body::Large(large) => {
                    let work = large.pull(cx)?;
                    Some(Work { key: key(spool, *slot, work.key.0 as u32), request: work.request })
                }
                Body::Opening | Body::Ending | Body::Waiting => None,
            }
        })
    }

    /// Lets large jobs read on, and replay what their journals answer.
    pub fn look_ahead(&mut self, cx: &mut Context<'_>) {
        for large in larges(&mut self.jobs) {
            large.mode().look_ahead(cx);
        }
    }

    /// A request of this spool is settled.
    pub fn settle(&mut self, slot: u32, line: u32, request: &Request, outcome: Outcome) -> Slot {
        let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::as_mut) else { return Slot::Free };
        let flags = outcome.result.as_ref().map_or_else(|_| Flags::default(), |answer| Flags::of(answer, request));
        self.shared.counts.settled(&outcome, flags);
        match &mut job.body {
            Body::Small(small) => {
                small.asked -= 1;
                let (Some((number, line_key)), Some(log)) = (small.line(line as usize), self.log.as_mut()) else {
                    return Slot::Free;
                };
                job.counts.settled(&outcome, flags);
                let about = Line {
                    line: number,
                    key: line_key,
                    form: Some(request.form),
                    correlation: request.correlation.as_ref(),
                };
                let id = job.id;
                self.pipe[slot as usize] += 1;
                log.append(Some(token(slot, line, Some(job.account))), |record| {
                    push_line(record, id, |record| about.push_outcome(record, Some(&request.model), flags, &outcome));
                });
                Slot::Held
            }
            Body::Large(large) => large.settle(Key(u64::from(line)), request, outcome),
            Body::Opening | Body::Ending | Body::Waiting => Slot::Free,
        }
    }

    /// Slots of an account that came free since the last call.
    pub fn take_freed(&mut self, account: usize) -> usize {
        let own = self.jobs.iter_mut().flatten().filter(|job| job.account == account);
        let large: usize = own.filter_map(Job::large).map(LargeMode::take_freed).sum();
        self.freed.remove(&account).unwrap_or_default() + large
    }

    /// Hears of commits. Must be called whenever the task is polled.
    pub fn poll(&mut self, cx: &mut Context<'_>) {
        while self.poll_log(cx).is_ready() {}
        for large in larges(&mut self.jobs) {
            // What has failed there is found below.
            let _ = large.mode().poll_stop(cx);
        }
        self.end_larges();
    }

    fn poll_log(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(log) = self.log.as_mut().filter(|_| self.failed.is_none()) else { return Poll::Pending };
        let mut committed = std::mem::take(&mut self.committed);
        let polled = log.poll_committed(cx, &mut committed);
        if let Poll::Ready(result) = polled {
            match result {
                Ok(()) => committed.drain(..).for_each(|record| self.record_committed(record)),
                Err(error) => self.failed = Some(error),
            }
            self.committed = committed;
            self.go_on();
            return Poll::Ready(());
        }
        self.committed = committed;
        Poll::Pending
    }

    fn record_committed(&mut self, record: Committed) {
        let (slot, line, account) = token_parts(record.token);
        if let Some(account) = account {
            // Whatever has become of the job meanwhile.
            *self.freed.entry(account).or_default() += 1;
        }
        self.pipe[slot as usize] -= 1;
        self.dry(slot);
        let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        if line == CLAIM {
            job.claim_at = record.offset;
            if let Body::Opening = job.body {
                self.open_large(slot);
            } else {
                self.end_if_settled(slot);
            }
            return;
        }
        if let Body::Small(small) = &mut job.body {
            small.settle(line as usize, record.offset);
        }
        self.end_if_settled(slot);
    }

    fn large_count(&self) -> usize {
        self.jobs.iter().flatten().filter(|job| job.folder.is_some()).count()
    }

    /// A place is free again, as soon as no record of its last job is on its way.
    fn free_place(&mut self, slot: u32) {
        self.turns.retain(|other| *other != slot);
        if self.large_count() < LARGE_MAX
            && let Some((owner, queued)) = self.waiting_large.pop_front()
        {
            self.queue.add(owner, queued);
        }
        self.damp.insert(slot);
        self.dry(slot);
    }

    fn dry(&mut self, slot: u32) {
        if self.pipe[slot as usize] == 0 && self.damp.remove(&slot) {
            self.free.push(slot);
        }
    }

    /// Nothing further is ready: what waits for the disk goes there.
    pub fn idle(&mut self, cx: &mut Context<'_>) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
        for large in larges(&mut self.jobs) {
            large.mode().idle(cx);
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

    /// Whether another record may be added to the log: what waits for the disk is bounded.
    pub fn has_room(&self) -> bool {
        self.log.as_ref().is_some_and(Journal::has_room)
    }

    /// Whether nothing is left to do, as far as the last scan saw.
    pub fn is_drained(&self) -> bool {
        self.scanned == Some(0)
            && self.queue.is_empty()
            && self.claiming.is_empty()
            && self.unripe.is_empty()
            && self.waiting_large.is_empty()
            && self.put_off.is_empty()
            && self.is_still()
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

/// Names a request: its spool, its job's place, its line.
fn key(spool: usize, slot: u32, line: u32) -> Key {
    Key((spool as u64) << 56 | u64::from(slot) << 32 | u64::from(line))
}

/// What a key names.
pub fn parts(key: Key) -> (usize, u32, u32) {
    ((key.0 >> 56) as usize, (key.0 >> 32) as u32 & 0x00ff_ffff, key.0 as u32)
}

/// Names a record on its way into the log: its job's place, its line, and the account whose slot it holds, if it does.
fn token(slot: u32, line: u32, holds: Option<usize>) -> u64 {
    let account = holds.map_or(0, |account| account as u64 + 1);
    account << 48 | u64::from(slot) << 32 | u64::from(line)
}

fn token_parts(token: u64) -> (u32, u32, Option<usize>) {
    ((token >> 32) as u32 & 0xffff, token as u32, (token >> 48).checked_sub(1).map(|account| account as usize))
}

fn larges(jobs: &mut [Option<Job>]) -> impl Iterator<Item = &mut LargeMode> {
    jobs.iter_mut().flatten().filter_map(Job::large)
}
