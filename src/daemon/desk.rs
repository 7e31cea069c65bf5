//! The daemon as the engine sees it: requests come from the jobs of all spools, outcomes go back to them. Also hears of
//! everything else that happens: signals, the clock, the threads.
//!
//! Invariant: one task owns all of it; whatever waits for a disk or a name server does so on a thread.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::spool::{Shared, Spool, parts};
use super::status::DaemonState;
use super::supervision::{Supervision, Watchdog};
use super::{Inbox, Reload};
use crate::api::Dialect;
use crate::api::client::ApiClient;
use crate::api::transport::Transport as _;
use crate::engine::{Delta, Event, Halt, Key, Mode, Slot, Work};
use crate::exit::{Exit, Stop};
use crate::line::{Outcome, Request};

/// How often what has its time is looked after.
const TICK: Duration = Duration::from_millis(250);
/// So many occurrences are handled before the engine gets its turn.
const HANDLED_AT_ONCE: usize = 256;

/// The engine's source and sink.
pub struct Desk {
    spools: Vec<Spool>,
    shared: Rc<Shared>,
    inbox: Inbox,
    ticks: Interval,
    hangups: Signal,
    supervision: Supervision,
    watchdog: Watchdog,
    client: Rc<ApiClient>,
    reload: Reload,
    turns: u64,
    next: usize,
    concurrency: Option<usize>,
    dialect: Option<Dialect>,
    /// Why the daemon must end.
    stop: Option<Stop>,
    once: bool,
    reloaded: bool,
}

impl Desk {
    /// Joins the parts.
    pub fn new(
        spools: Vec<Spool>,
        shared: Rc<Shared>,
        inbox: Inbox,
        supervision: Supervision,
        client: Rc<ApiClient>,
        reload: Reload,
    ) -> Result<Self, Stop> {
        let hangups = signal(SignalKind::hangup())
            .map_err(|error| Stop::new(Exit::Io, format!("listen for signals: {error}")))?;
        let watchdog = supervision.watchdog();
        let mut ticks = interval(watchdog.interval().map_or(TICK, |interval| TICK.min(interval / 2)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let once = shared.config().daemon.as_ref().is_some_and(|daemon| daemon.once);
        Ok(Self {
            spools,
            shared,
            inbox,
            ticks,
            hangups,
            supervision,
            watchdog,
            client,
            reload,
            turns: 0,
            next: 0,
            concurrency: None,
            dialect: None,
            stop: None,
            once,
            reloaded: false,
        })
    }

    /// The service's dialect, once it was found.
    pub fn dialect(&self) -> Option<Dialect> {
        self.dialect
    }

    /// Hears of everything that happened; whether anything did.
    fn poll_all(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        for _ in 0..HANDLED_AT_ONCE {
            let Poll::Ready(Some((spool, occurrence))) = self.inbox.poll_recv(cx) else {
                break;
            };
            any = true;
            if let Some(spool) = self.spools.get_mut(spool) {
                spool.handle(occurrence);
            }
        }
        while self.hangups.poll_recv(cx).is_ready() {
            self.read_configuration();
            any = true;
        }
        while self.ticks.poll_tick(cx).is_ready() {
            self.tick();
        }
        for spool in &mut self.spools {
            spool.poll(cx);
            if let Some(stop) = spool.failure() {
                self.stop.get_or_insert(stop);
            }
        }
        any
    }

    fn tick(&mut self) {
        self.turns += 1;
        let now = Instant::now();
        self.shared.rate.borrow_mut().note(now, self.shared.counts.settled());
        self.spools.iter_mut().for_each(|spool| spool.tick(now));
        // The log's threads and this task: whoever of them hangs is the end of the daemon.
        let mut counters: Vec<u64> = self.spools.iter_mut().map(Spool::ask_alive).collect();
        counters.push(self.turns);
        self.watchdog.beat(&counters);
        let status = self.status_line();
        self.supervision.status(&status);
    }

    fn status_line(&self) -> String {
        let (mut queued, mut running, mut done) = (0, 0, 0);
        for counts in self.spools.iter().map(Spool::counts) {
            queued += counts.queued;
            running += counts.running;
            done += counts.done;
        }
        let in_flight = self.shared.counts.in_flight();
        let numbers = format!("{running} running, {queued} queued, {done} done, {in_flight} requests in flight");
        match self.shared.paused.borrow().as_ref() {
            Some(reason) => format!("paused: {reason}; {numbers}"),
            None => numbers,
        }
    }

    /// SIGHUP: the configuration is read anew. What is wrong with it is told, and the old one stays.
    fn read_configuration(&mut self) {
        self.supervision.reloading();
        match (self.reload)() {
            Ok(config) => {
                if let Err(error) = self.client.renew_token() {
                    tracing::error!("the key cannot be read anew, and the old one stays: {error}");
                }
                let before = self.shared.config();
                if config.service.base_url != before.service.base_url {
                    tracing::warn!("another base URL is used only after a restart");
                }
                self.concurrency = Some(config.limits.concurrency.get());
                *self.shared.config.borrow_mut() = Rc::new(config);
                self.spools.iter().for_each(Spool::reload);
                tracing::info!("the configuration was read anew");
            }
            Err(stop) => tracing::error!("the configuration was read anew and is wrong; the old one stays: {stop}"),
        }
        self.reloaded = true;
        let status = self.status_line();
        self.supervision.ready(&status);
    }

    /// The engine halted: everything that it had goes on from the logs, later.
    pub fn suspend(&mut self, halt: &Halt) {
        tracing::error!("paused: {}; {}", halt.message, halt.way_out);
        *self.shared.paused.borrow_mut() = Some(halt.message.clone());
        self.spools.iter_mut().for_each(Spool::suspend_all);
    }

    /// Waits for the next thing to happen, while nothing is sent; whether the configuration was read anew.
    pub async fn next_change(&mut self) -> bool {
        std::future::poll_fn(|cx| {
            let any = self.poll_all(cx);
            self.spools.iter_mut().for_each(|spool| spool.idle(cx));
            if any || self.stop.is_some() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        std::mem::take(&mut self.reloaded)
    }

    /// Waits until nothing is nearly at its end any more.
    pub async fn end(&mut self) {
        self.spools.iter_mut().for_each(Spool::put_large_ones_away);
        std::future::poll_fn(|cx| {
            self.poll_all(cx);
            self.spools.iter_mut().for_each(|spool| spool.idle(cx));
            let is_ending = self.spools.iter().any(Spool::is_ending);
            if is_ending && self.stop.is_none() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// Says that the end has begun.
    pub fn stopping(&mut self, state: DaemonState) {
        self.supervision.stopping();
        self.spools.iter().for_each(|spool| spool.write_own(state, None));
    }

    /// Gives the spools back.
    pub async fn close(&mut self) -> Result<(), Stop> {
        let mut result = Ok(());
        for spool in &mut self.spools {
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
    pub fn exit_of_once(&self) -> Exit {
        if self.shared.counts.failed() > 0 { Exit::SomeFailed } else { Exit::Answered }
    }
}

impl Mode for Desk {
    fn poll_pull(&mut self, cx: &mut Context<'_>) -> Poll<Option<Work>> {
        let spools = self.spools.len();
        for offset in 0..spools {
            let index = (self.next + offset) % spools;
            if let Some(work) = self.spools[index].pull(cx) {
                self.next = index + 1;
                return Poll::Ready(Some(work));
            }
        }
        if self.once && self.spools.iter().all(Spool::is_drained) { Poll::Ready(None) } else { Poll::Pending }
    }

    fn look_ahead(&mut self, cx: &mut Context<'_>) {
        self.spools.iter_mut().for_each(|spool| spool.look_ahead(cx));
    }

    fn settle(&mut self, key: Key, request: &Request, outcome: Outcome) -> Slot {
        let (spool, slot, line) = parts(key);
        self.spools.get_mut(spool).map_or(Slot::Free, |spool| spool.settle(slot, line, request, outcome))
    }

    fn take_freed(&mut self) -> usize {
        self.spools.iter_mut().map(Spool::take_freed).sum()
    }

    fn take_concurrency(&mut self) -> Option<usize> {
        self.concurrency.take()
    }

    fn delta(&mut self, _: Delta) {}

    fn has_room(&self) -> bool {
        true
    }

    fn event(&mut self, event: Event) {
        self.shared.counts.event(&event);
        match event {
            Event::DialectFound(dialect) => {
                self.dialect = Some(dialect);
                tracing::info!(dialect = dialect.name(), "dialect found");
            }
            Event::Paused { reason } => {
                tracing::warn!("paused: {reason}");
                *self.shared.paused.borrow_mut() = Some(reason);
            }
            Event::Resumed => {
                tracing::info!("the service answers again: going on");
                self.shared.paused.borrow_mut().take();
            }
            Event::Retry { reason, delay } => {
                tracing::debug!(delay_seconds = delay.as_secs_f64(), "retry: {reason}");
            }
            Event::Draining { in_flight } => tracing::info!(in_flight, "draining"),
            Event::Sent { .. } => {
                // After a halt the first request that goes out ends the pause.
                if self.shared.paused.borrow().is_some() && self.shared.counts.in_flight() > 1 {
                    self.shared.paused.borrow_mut().take();
                }
            }
            Event::Ended { .. } => {}
        }
    }

    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_all(cx) {
            // What was handled may have made work for others, and more may wait.
            cx.waker().wake_by_ref();
        }
        if self.stop.is_some() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn idle(&mut self, cx: &mut Context<'_>) {
        self.spools.iter_mut().for_each(|spool| spool.idle(cx));
    }
}

/// Requests settled a second, over the last minute.
#[derive(Debug, Default)]
pub struct Rate {
    marks: std::collections::VecDeque<(Instant, u64)>,
}

impl Rate {
    const OVER: Duration = Duration::from_secs(60);
    const MARK_EVERY: Duration = Duration::from_secs(2);

    /// So many are settled now.
    pub fn note(&mut self, now: Instant, settled: u64) {
        if self.marks.back().is_none_or(|(at, _)| now.duration_since(*at) >= Self::MARK_EVERY) {
            self.marks.push_back((now, settled));
        }
        while self.marks.len() > 1 && self.marks.front().is_some_and(|(at, _)| now.duration_since(*at) > Self::OVER) {
            self.marks.pop_front();
        }
    }

    /// How many a second.
    pub fn per_second(&self, now: Instant, settled: u64) -> f64 {
        let Some((since, before)) = self.marks.front() else { return 0.0 };
        let seconds = now.duration_since(*since).as_secs_f64();
        if seconds < 0.5 { 0.0 } else { ((settled - before) as f64 / seconds * 10.0).round() / 10.0 }
    }
}
