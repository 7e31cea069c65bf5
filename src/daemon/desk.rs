//! The daemon as the engine sees it: requests come from the jobs of all spools, outcomes go back to them. Also hears of
//! everything else that happens: signals, the clock, the threads.
//!
//! Invariant: one task owns all of it; whatever waits for a disk or a name server does so on a thread.

mod front;
mod rate;

use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::signal::unix::Signal;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::account::Account;
use super::seat::Seat;
use super::spending::Spendings;
use super::spool::{Shared, Spool};
use super::status::DaemonState;
use super::supervision::{Supervision, Watchdog};
use super::{Inbox, Outside};
use crate::api::Dialect;
use crate::config::{Config, Daemon, EndpointConfig, OwnerCaps};
use crate::engine::Halt;
use crate::exit::{Exit, Stop};
use crate::journal::Past;
pub use front::Front;
pub use rate::Rate;

/// How often what has its time is looked after.
const TICK: Duration = Duration::from_millis(250);
/// A tick that is so late tells that the process was stopped.
const STOOD_STILL: Duration = Duration::from_secs(2);
/// So many occurrences are handled before the engine gets its turn.
const HANDLED_AT_ONCE: usize = 256;

/// All spools, and everything that happens.
pub struct Desk {
    seats: Vec<Seat>,
    shared: Rc<Shared>,
    inbox: Inbox,
    ticks: Interval,
    hangups: Signal,
    supervision: Supervision,
    watchdog: Watchdog,
    outside: Outside,
    accounts: Rc<[Account]>,
    turns: u64,
    ticked: Option<Instant>,
    /// How long the machine has slept, as far as is known.
    slept: Duration,
    /// Requests in flight, by account.
    in_flight: Vec<usize>,
    /// The spool that is asked for work first.
    next: usize,
    /// When a request was sent last that made a server change its model.
    swapped: Option<Instant>,
    /// Which accounts have not heard of another concurrency.
    concurrency: Vec<Option<usize>>,
    /// Which accounts' keys are to be read again.
    renewals: Vec<bool>,
    dialect: Option<Dialect>,
    spendings: Spendings,
    /// Why the daemon must end.
    stop: Option<Stop>,
    once: bool,
    /// How often the configuration was read anew.
    reloads: u64,
}

impl Desk {
    /// Joins the parts.
    pub fn new(
        mut seats: Vec<Seat>,
        shared: Rc<Shared>,
        inbox: Inbox,
        supervision: Supervision,
        outside: Outside,
        accounts: Rc<[Account]>,
        hangups: Signal,
    ) -> Self {
        let watchdog = supervision.watchdog();
        let mut ticks = interval(watchdog.interval().map_or(TICK, |interval| TICK.min(interval / 2)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut past: HashMap<String, Past> = HashMap::new();
        for (account, own) in seats.iter_mut().filter_map(Seat::spool).flat_map(Spool::take_past) {
            let all = past.entry(account).or_default();
            all.join_in(own);
        }
        let endpoints = &shared.config().service.endpoints;
        let base_urls = endpoints.iter().map(|endpoint| endpoint.base_url.as_str().to_owned()).collect();
        let spendings = Spendings::new(&accounts, base_urls, past, shared.config().limits.concurrency.get());
        let once = shared.config().daemon.as_ref().is_some_and(|daemon| daemon.once);
        Self {
            seats,
            shared,
            inbox,
            ticks,
            hangups,
            supervision,
            watchdog,
            outside,
            turns: 0,
            ticked: None,
            slept: slept(),
            in_flight: vec![0; accounts.len()],
            next: 0,
            swapped: None,
            concurrency: vec![None; accounts.len()],
            renewals: vec![false; accounts.len()],
            accounts,
            dialect: None,
            spendings,
            stop: None,
            once,
            reloads: 0,
        }
    }

    /// The service's dialect, once it was found.
    pub fn dialect(&self) -> Option<Dialect> {
        self.dialect
    }

    /// Hears of everything that happened; whether anything did, and more may wait.
    pub fn poll_all(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        // First, because it finds out whether the process stood still.
        while self.ticks.poll_tick(cx).is_ready() {
            self.tick();
        }
        for _ in 0..HANDLED_AT_ONCE {
            let Poll::Ready(Some((spool, occurrence))) = self.inbox.poll_recv(cx) else {
                break;
            };
            any = true;
            // What comes from a spool that broke is void.
            if let Some(spool) = self.spools().find(|open| open.index() == spool) {
                spool.handle(occurrence);
            }
        }
        while self.hangups.poll_recv(cx).is_ready() {
            self.read_configuration();
            any = true;
        }
        for seat in &mut self.seats {
            if let Err(stop) = seat.poll(&self.shared, cx) {
                self.stop.get_or_insert(stop);
            }
        }
        any
    }

    fn spools(&mut self) -> impl Iterator<Item = &mut Spool> {
        self.seats.iter_mut().filter_map(Seat::spool)
    }

    fn tick(&mut self) {
        self.turns += 1;
        let now = Instant::now();
        // Whoever was stopped, or slept, may have lost what he holds.
        let stood_still = self.ticked.replace(now).is_some_and(|before| now.duration_since(before) >= STOOD_STILL);
        if stood_still || self.has_slept() {
            self.spools().for_each(Spool::doubt);
        }
        self.shared.rate.borrow_mut().note(now, self.shared.counts.settled());
        self.spools().for_each(|spool| spool.tick(now));
        self.note_spent(false);
        // The log's threads and this task: whoever of them hangs is the end of the daemon.
        let mut counters: Vec<u64> = self.spools().map(Spool::ask_alive).collect();
        counters.push(self.turns);
        self.watchdog.beat(&counters);
        let status = self.status_line();
        self.supervision.status(&status);
    }

    fn has_slept(&mut self) -> bool {
        let before = std::mem::replace(&mut self.slept, slept());
        self.slept.saturating_sub(before) >= STOOD_STILL
    }

    fn status_line(&mut self) -> String {
        let (mut queued, mut running, mut done) = (0, 0, 0);
        for counts in self.spools().map(|spool| spool.counts()) {
            queued += counts.queued;
            running += counts.running;
            done += counts.done;
        }
        let in_flight = self.shared.counts.in_flight();
        let numbers = format!("{running} running, {queued} queued, {done} done, {in_flight} requests in flight");
        match self.shared.pause_reason() {
            Some(reason) => format!("paused: {reason}; {numbers}"),
            None => numbers,
        }
    }

    /// SIGHUP: the configuration is read anew. What is wrong with it is told, and the old one stays.
    fn read_configuration(&mut self) {
        self.supervision.reloading();
        match (self.outside.read)() {
            Ok(mut config) => {
                let before = self.shared.config();
                if places(&config) != places(&before) || lasting(&config) != lasting(&before) {
                    tracing::warn!("endpoints, owners, spools and how these are scanned change only by a restart");
                }
                // A key belongs to one service and to one owner.
                config.service.endpoints = before.service.endpoints.clone();
                config.daemon = config.daemon.as_ref().zip(before.daemon.as_ref()).map(|(now, before)| Daemon {
                    open_files_max: now.open_files_max,
                    file_bytes_max: now.file_bytes_max,
                    owner_caps: now.owner_caps,
                    retain: now.retain,
                    ..before.clone()
                });
                let concurrency = config.limits.concurrency.get();
                self.renewals.fill(true);
                self.concurrency.iter_mut().for_each(|told| *told = Some(concurrency));
                (self.outside.set_level)(config.report.verbosity);
                *self.shared.config.borrow_mut() = Rc::new(config);
                self.spools().for_each(|spool| spool.reload());
                tracing::info!("the configuration was read anew");
            }
            Err(stop) => tracing::error!("the configuration was read anew and is wrong; the old one stays: {stop}"),
        }
        self.reloads += 1;
        let status = self.status_line();
        self.supervision.ready(&status);
    }

    /// Whether the daemon was to end when everything was run, and everything was.
    pub fn has_drained(&mut self) -> bool {
        self.once && self.seats.iter_mut().all(Seat::is_drained)
    }

    fn note_spent(&mut self, last: bool) {
        if let Some(spool) = self.seats.iter_mut().find_map(Seat::spool) {
            self.spendings.take(last).iter().for_each(|note| spool.append_note(note));
        }
    }

    /// What each account has sent, for the quotas of its next engine.
    pub fn spendings(&mut self) -> &Spendings {
        self.note_spent(true);
        &self.spendings
    }

    /// How often the configuration was read anew.
    pub fn reloads(&self) -> u64 {
        self.reloads
    }

    /// An account's engine halted: everything that it had goes on from the logs, later.
    pub fn suspend(&mut self, account: usize, name: Option<&str>, halt: &Halt) {
        self.pause(account, name, &halt.message, &halt.way_out);
        self.in_flight[account] = 0;
        self.seats.iter_mut().for_each(|seat| seat.forget_held(account));
        self.spools().for_each(|spool| spool.suspend(account));
    }

    /// Nothing of an account is sent.
    pub fn pause(&mut self, account: usize, name: Option<&str>, message: &str, way_out: &str) {
        let whose = name.map_or(String::new(), |name| format!("owner {name}: "));
        tracing::error!("paused: {whose}{message}; {way_out}");
        self.shared.paused.borrow_mut().insert(account, format!("{whose}{message}"));
    }

    /// An account begins to send.
    pub fn begin(&mut self, account: usize) {
        self.shared.paused.borrow_mut().remove(&account);
    }

    /// Hands on what waits for the disk.
    pub fn flush(&mut self, cx: &mut Context<'_>) {
        self.spools().for_each(|spool| spool.idle(cx));
    }

    /// Whether the daemon must end.
    pub fn must_stop(&self) -> bool {
        self.stop.is_some()
    }

    /// Waits until nothing is nearly at its end any more.
    pub async fn end(&mut self) {
        self.spools().for_each(Spool::put_large_ones_away);
        std::future::poll_fn(|cx| {
            self.poll_all(cx);
            self.spools().for_each(|spool| spool.idle(cx));
            let is_ending = self.spools().any(|spool| spool.is_ending());
            if is_ending && self.stop.is_none() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// Says that the end has begun.
    pub fn stopping(&mut self, state: DaemonState) {
        self.supervision.stopping();
        if let Some(spool) = self.seats.iter_mut().find_map(Seat::spool) {
            self.spendings.close().iter().for_each(|note| spool.append_note(note));
        }
        self.spools().for_each(|spool| spool.write_own(state, None));
    }

    /// Gives the spools back.
    pub async fn close(&mut self) -> Result<(), Stop> {
        let mut result = Ok(());
        for spool in self.spools() {
            spool.write_last();
            if let Err(error) = spool.close().await {
                result = result.and(Err(error.into()));
            }
        }
        result
    }

    /// Why the daemon must end, if it must.
    pub fn take_stop(&mut self) -> Option<Stop> {
        self.stop.take()
    }

    /// The status of a run that drained its spools: whether anything failed.
    pub fn exit_of_once(&mut self) -> Exit {
        let failed = self.shared.counts.failed() > 0;
        let left: Vec<Exit> = self.spools().map(|spool| spool.exit_of_once()).collect();
        match () {
            () if left.contains(&Exit::Resumable) => Exit::Resumable,
            () if failed || left.contains(&Exit::SomeFailed) => Exit::SomeFailed,
            () => Exit::Answered,
        }
    }
}

/// How long the machine has slept since it was started: the clocks differ by that.
fn slept() -> Duration {
    let clock = |id| {
        let now = clock_gettime(id);
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
    };
    clock(ClockId::Boottime).saturating_sub(clock(ClockId::Monotonic))
}

/// The endpoints, and what holds there; fixed for as long as the daemon runs, too.
fn places(config: &Config) -> Vec<impl PartialEq> {
    let place = |endpoint: &EndpointConfig| {
        let EndpointConfig { base_url, dialect, concurrency, rates, tokens_per_minute, .. } = endpoint.clone();
        (base_url, dialect, concurrency, rates, tokens_per_minute)
    };
    config.service.endpoints.iter().map(place).collect()
}

/// What is fixed for as long as the daemon runs.
fn lasting(config: &Config) -> Option<Daemon> {
    let fixed = |daemon: &Daemon| Daemon {
        open_files_max: 0,
        file_bytes_max: 0,
        owner_caps: OwnerCaps { files: 0, bytes: 0, lines: 0 },
        retain: Duration::ZERO,
        ..daemon.clone()
    };
    config.daemon.as_ref().map(fixed)
}
