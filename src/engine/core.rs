//! The core loop: every cause of change is one [`Happening`], and one function handles it.
//!
//! Invariants: what is in flight never exceeds the limit; a ticket is in exactly one place (in flight, waiting for a
//! retry, or asking); after a halt or a signal nothing new is sent.

use std::collections::BinaryHeap;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};

use super::attempt::{Plan, Seen};
use super::errand::Report;
use super::lanes::Lanes;
use super::ticket::Ticket;
use super::{Delta, Ended, Endpoint, Event, Halt, HaltCause, Mode, Settings, Slot};
use crate::api::transport::Transport;
use crate::flow::Models;
use crate::flow::quota::Booking;
use crate::shutdown::{Level, Shutdown};
use backend::{Backend, Cause};

mod asking;
mod backend;
mod choosing;
mod sending;
mod timing;

/// Deltas that wait for the mode; an attempt that finds the channel full waits as well.
const DELTAS_MAX: usize = 1024;
/// What is left of the time before a deadline when what is in flight is given up: a twentieth, and never more than this.
const CLOSING_MAX: Duration = Duration::from_secs(1);
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

type Job<'a, T> = (&'a T, Box<Ticket>, Flight, Bytes, Plan);
type Finished = (Box<Ticket>, Flight, Seen);

/// What the engine remembers of an attempt under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    backend: usize,
    sent_at: Duration,
    body_bytes: usize,
    /// Its place in the endpoint's quotas, and the tokens that it is thought to cost.
    booking: Option<(Booking, u64)>,
    was_probe: bool,
    began_alone: bool,
    token_generation: u32,
}

/// One cause of change.
enum Happening {
    Level(Level),
    MustStop,
    Delta(Delta),
    Finished(Finished),
    Reported(usize, Report),
    /// A request that may be sent.
    Ready(Box<Ticket>),
    SourceEnded,
    Tick,
    /// All that is left needs an endpoint that has halted.
    Stranded,
    /// Nothing can be sent before the deadline any more.
    OutOfTime,
    Over,
}

/// Runs until the source is exhausted, or something ends the run early. There must be at least one endpoint.
pub async fn run<T: Transport, M: Mode>(
    settings: Settings,
    endpoints: Vec<Endpoint<'_, T>>,
    mode: &mut M,
    shutdown: &Shutdown,
) -> Ended {
    let mut core = Core::new(settings, endpoints, shutdown);
    // An endpoint may be held back from the beginning, by what earlier runs sent.
    core.announce(mode);
    loop {
        let happening = poll_fn(|cx| core.poll(mode, cx)).await;
        if let Some(ended) = core.handle(happening, mode) {
            return ended;
        }
    }
}

struct Core<'a, T: Transport> {
    settings: Settings,
    shutdown: &'a Shutdown,
    backends: Vec<Backend<'a, T>>,
    models: Models,
    /// Most requests in flight.
    concurrency: usize,
    in_flight: Lanes<'a, Job<'a, T>, Finished>,
    /// Slots of settled requests whose outcome is not yet durable.
    held: usize,
    /// The first request, which waits until a dialect is known.
    first: Option<Box<Ticket>>,
    /// Retries that wait for their time.
    retries: BinaryHeap<Box<Ticket>>,
    /// Retries that wait for room.
    due: choosing::Due,
    source_ended: bool,
    level: Level,
    halt: Option<Halt>,
    drain_until: Option<Duration>,
    /// What people were told of why nothing at all is sent.
    paused: Option<Cause>,
    deltas: Option<(mpsc::Sender<Delta>, mpsc::Receiver<Delta>)>,
    start: Instant,
    timer: Pin<Box<Sleep>>,
    yielded: bool,
    /// Ticks in a row.
    ticks: u32,
}

impl<'a, T: Transport> Core<'a, T> {
    fn new(settings: Settings, endpoints: Vec<Endpoint<'a, T>>, shutdown: &'a Shutdown) -> Self {
        let start = Instant::now();
        let several = endpoints.len() > 1;
        Self {
            backends: endpoints.into_iter().map(|endpoint| Backend::new(endpoint, &settings, several)).collect(),
            models: Models::default(),
            concurrency: settings.concurrency,
            in_flight: Lanes::new(),
            held: 0,
            first: None,
            retries: BinaryHeap::new(),
            due: choosing::Due::new(),
            source_ended: false,
            level: Level::Running,
            halt: None,
            drain_until: None,
            paused: None,
            deltas: settings.deltas.then(|| mpsc::channel(DELTAS_MAX)),
            start,
            timer: Box::pin(sleep_until(start + FAR)),
            yielded: false,
            ticks: 0,
            settings,
            shutdown,
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn poll<M: Mode>(&mut self, mode: &mut M, cx: &mut Context<'_>) -> Poll<Happening> {
        if let Poll::Ready(happening) = self.poll_causes(mode, cx) {
            self.yielded = false;
            if !matches!(happening, Happening::Tick) {
                self.ticks = 0;
            }
            return Poll::Ready(happening);
        }
        // Let the sockets be read once more before the output is handed on: that makes one write of many lines.
        if !self.yielded {
            self.yielded = true;
            cx.waker().wake_by_ref();
        } else {
            mode.idle(cx);
        }
        Poll::Pending
    }

    fn poll_causes<M: Mode>(&mut self, mode: &mut M, cx: &mut Context<'_>) -> Poll<Happening> {
        if let Poll::Ready(level) = self.shutdown.poll_above(self.level, cx) {
            return Poll::Ready(Happening::Level(level));
        }
        if mode.poll_stop(cx).is_ready() {
            return Poll::Ready(Happening::MustStop);
        }
        self.held -= mode.take_freed();
        if let Some(concurrency) = mode.take_concurrency() {
            self.set_concurrency(concurrency);
        }
        if mode.take_renewal() {
            (0..self.backends.len()).for_each(|at| self.renew_token(at));
        }
        if let Some((_, receiver)) = self.deltas.as_mut().filter(|_| mode.has_room())
            && let Poll::Ready(Some(delta)) = receiver.poll_recv(cx)
        {
            return Poll::Ready(Happening::Delta(delta));
        }
        if let Poll::Ready(finished) = self.in_flight.poll_next(cx) {
            return Poll::Ready(Happening::Finished(finished));
        }
        for (at, backend) in self.backends.iter_mut().enumerate() {
            if let Some(Poll::Ready(report)) = backend.errand.as_mut().map(|errand| errand.as_mut().poll(cx)) {
                backend.errand = None;
                return Poll::Ready(Happening::Reported(at, report));
            }
        }
        if self.is_over() && mode.is_done() {
            return Poll::Ready(Happening::Over);
        }
        if self.sends() {
            mode.look_ahead(cx);
        }
        let now = self.now();
        self.collect_due(now);
        if let Some(ticket) = self.pop_hopeless() {
            return Poll::Ready(Happening::Ready(ticket));
        }
        if self.is_stranded() {
            return Poll::Ready(Happening::Stranded);
        }
        if self.is_out_of_time() {
            return Poll::Ready(Happening::OutOfTime);
        }
        let happening = match self.sends() {
            true if self.may_send(now) => self.poll_next_request(now, mode, cx),
            true => self.poll_while_held(mode, cx),
            false => Poll::Pending,
        };
        if happening.is_ready() { happening } else { self.poll_timer(now, cx) }
    }

    fn sends(&self) -> bool {
        self.level == Level::Running && self.halt.is_none()
    }

    fn set_concurrency(&mut self, concurrency: usize) {
        self.concurrency = concurrency;
        self.backends.iter_mut().for_each(|backend| backend.set_ceiling(concurrency));
    }

    fn is_over(&self) -> bool {
        self.in_flight.is_empty() && self.held == 0 && (!self.sends() || self.is_complete())
    }

    fn is_complete(&self) -> bool {
        self.source_ended && self.has_nothing()
    }

    /// Whether the run would be over, if only the source had ended.
    fn waits_for_source_alone(&self) -> bool {
        !self.source_ended && self.has_nothing()
    }

    /// Whether every request that was pulled is settled, and durably so.
    fn has_nothing(&self) -> bool {
        let none_asks = self.backends.iter().all(|backend| backend.asking.is_empty());
        let none_waits = self.first.is_none() && self.retries.is_empty() && self.due.is_empty() && none_asks;
        self.in_flight.is_empty() && self.held == 0 && none_waits
    }

    fn handle<M: Mode>(&mut self, happening: Happening, mode: &mut M) -> Option<Ended> {
        match happening {
            Happening::Level(Level::Aborting) | Happening::MustStop => return Some(Ended::Aborted),
            Happening::Level(level) => self.drain(level, mode),
            Happening::Delta(delta) => mode.delta(delta),
            Happening::Finished(finished) => self.finished(finished, mode),
            Happening::Reported(at, report) => self.reported(at, report, mode),
            Happening::Ready(ticket) => self.send(ticket, mode),
            Happening::SourceEnded => self.source_ended = true,
            Happening::Tick => return self.tick(mode),
            Happening::Stranded => {
                let halt = self.backends.iter().find_map(|backend| backend.retired.clone());
                halt.into_iter().for_each(|halt| self.halt_run(halt, mode));
            }
            Happening::OutOfTime => {
                let message = "no quota lets anything pass before the deadline".to_owned();
                self.halt_run(out_of_time(message), mode);
            }
            Happening::Over => return Some(self.ended()),
        }
        self.announce(mode);
        None
    }

    fn ended(&mut self) -> Ended {
        if self.is_complete() {
            return Ended::Complete;
        }
        self.halt.take().map_or(Ended::Drained, Ended::Halted)
    }

    fn drain<M: Mode>(&mut self, level: Level, mode: &mut M) {
        self.level = level;
        self.begin_drain(mode);
    }

    fn begin_drain<M: Mode>(&mut self, mode: &mut M) {
        if self.drain_until.is_none() {
            let until = self.now() + self.settings.drain;
            // Behind the drain, outcomes are made durable and files are closed.
            let deadline = self.settings.deadline.map(|deadline| deadline - (deadline / 20).min(CLOSING_MAX));
            self.drain_until = Some(deadline.map_or(until, |deadline| until.min(deadline)));
            mode.event(Event::Draining { in_flight: self.in_flight.len() });
        }
    }

    fn halt_run<M: Mode>(&mut self, halt: Halt, mode: &mut M) {
        self.halt.get_or_insert(halt);
        self.begin_drain(mode);
    }

    /// An endpoint will never serve again. The run goes on while there is another.
    fn retire<M: Mode>(&mut self, at: usize, halt: Halt, mode: &mut M) {
        if self.backends[at].retired.is_some() {
            return;
        }
        let others = self.backends.iter().enumerate().any(|(index, backend)| index != at && backend.retired.is_none());
        if !others {
            return self.halt_run(halt, mode);
        }
        let now = self.now();
        let backend = &mut self.backends[at];
        let reason = format!("{}; {}", halt.message, halt.way_out);
        mode.event(Event::Endpoint { name: backend.name.clone(), reason: Some(reason) });
        backend.retire(halt, now, self.settings.endless);
        let askers: Vec<_> = backend.asking.give_up().collect();
        for (ticket, flight) in askers {
            self.void_probe(&ticket, flight);
            self.hold_back(ticket, now);
        }
    }
}

fn outage(message: String) -> Halt {
    Halt {
        cause: HaltCause::Outage,
        message,
        way_out: "run the same command again later; --failed FILE keeps the lines that are left".to_owned(),
    }
}

/// The time is over, or would be before anything could be sent.
fn out_of_time(message: String) -> Halt {
    Halt {
        cause: HaltCause::Deadline,
        message,
        way_out: "run the same command again; with --output or --journal it goes on where it stopped".to_owned(),
    }
}

/// A duration in whole seconds (tenths below ten), for people.
fn format_seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 10.0 {
        format!("{seconds:.1}s")
    } else {
        humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
    }
}
