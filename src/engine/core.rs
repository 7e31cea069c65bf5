//! The core loop: every cause of change is one [`Happening`], and one function handles it.
//!
//! Invariants: what is in flight never exceeds the limit; a ticket is in exactly one place (in flight, waiting for a
//! retry, or asking); after a halt or a signal nothing new is sent.

use std::collections::BinaryHeap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};

use super::attempt::{Plan, Seen};
use super::errand::{self, Report};
use super::lanes::Lanes;
use super::policy::Record;
use super::ticket::Ticket;
use super::{Delta, Ended, Event, Halt, HaltCause, Mode, Settings, Slot};
use crate::api::Dialect;
use crate::api::transport::{Page, Transport};
use crate::flow::{Endpoint, Permit};
use crate::shutdown::{Level, Shutdown};

mod asking;
mod sending;
mod timing;

/// Deltas that wait for the mode; an attempt that finds the channel full waits as well.
const DELTAS_MAX: usize = 1024;
/// A request whose model is being probed by another looks again after this time.
const MODEL_LOOK: Duration = Duration::from_millis(100);
/// What is left of the time before a deadline when what is in flight is given up: a twentieth, and never more than this.
const CLOSING_MAX: Duration = Duration::from_secs(1);
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

type Job = (Box<Ticket>, Flight, Bytes, Plan);
type Finished = (Box<Ticket>, Flight, Seen);

/// What the engine remembers of an attempt under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
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
    Reported(Report),
    Due(Box<Ticket>),
    Pulled(Box<Ticket>),
    SourceEnded,
    Tick,
    Over,
}

/// Runs until the source is exhausted, or something ends the run early.
pub async fn run<T: Transport, M: Mode>(settings: Settings, transport: &T, mode: &mut M, shutdown: &Shutdown) -> Ended {
    let mut core = Core::new(settings, transport, shutdown);
    loop {
        let happening = poll_fn(|cx| core.poll(mode, cx)).await;
        if let Some(ended) = core.handle(happening, mode) {
            return ended;
        }
    }
}

struct Core<'a, T: Transport> {
    settings: Settings,
    transport: &'a T,
    shutdown: &'a Shutdown,
    endpoint: Endpoint,
    record: Record,
    dialect: Option<Dialect>,
    dialect_failures: u32,
    dialect_at: Duration,
    in_flight: Lanes<'a, Job, Finished>,
    /// Slots of settled requests whose outcome is not yet durable.
    held: usize,
    /// The first request, which waits until the dialect is known.
    first: Option<Box<Ticket>>,
    retries: BinaryHeap<Box<Ticket>>,
    budget_at: Duration,
    errand: Option<Pin<Box<dyn Future<Output = Report> + 'a>>>,
    asking: asking::Asking,
    source_ended: bool,
    level: Level,
    halt: Option<Halt>,
    drain_until: Option<Duration>,
    paused: bool,
    last_trouble: String,
    deltas: Option<(mpsc::Sender<Delta>, mpsc::Receiver<Delta>)>,
    start: Instant,
    timer: Pin<Box<Sleep>>,
    yielded: bool,
    /// Ticks in a row.
    ticks: u32,
}

impl<'a, T: Transport> Core<'a, T> {
    fn new(settings: Settings, transport: &'a T, shutdown: &'a Shutdown) -> Self {
        let start = Instant::now();
        Self {
            endpoint: Endpoint::new(settings.concurrency, settings.retry_delay_max),
            // One reply that was another is enough to clear the address.
            record: Record { not_found: 0, other: u64::from(settings.endless) },
            dialect: settings.dialect,
            dialect_failures: 0,
            dialect_at: Duration::ZERO,
            in_flight: Lanes::new(),
            held: 0,
            first: None,
            retries: BinaryHeap::new(),
            budget_at: Duration::ZERO,
            errand: None,
            asking: asking::Asking::default(),
            source_ended: false,
            level: Level::Running,
            halt: None,
            drain_until: None,
            paused: false,
            last_trouble: String::new(),
            deltas: settings.deltas.then(|| mpsc::channel(DELTAS_MAX)),
            start,
            timer: Box::pin(sleep_until(start + FAR)),
            yielded: false,
            ticks: 0,
            settings,
            transport,
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
            self.endpoint.limit.set_ceiling(concurrency);
        }
        if mode.take_renewal() {
            self.renew_token();
        }
        if let Some((_, receiver)) = self.deltas.as_mut().filter(|_| mode.has_room())
            && let Poll::Ready(Some(delta)) = receiver.poll_recv(cx)
        {
            return Poll::Ready(Happening::Delta(delta));
        }
        if let Poll::Ready(finished) = self.in_flight.poll_next(cx) {
            return Poll::Ready(Happening::Finished(finished));
        }
        if let Some(Poll::Ready(report)) = self.errand.as_mut().map(|errand| errand.as_mut().poll(cx)) {
            self.errand = None;
            return Poll::Ready(Happening::Reported(report));
        }
        if self.is_over() && mode.is_done() {
            return Poll::Ready(Happening::Over);
        }
        if self.sends() {
            mode.look_ahead(cx);
        }
        let now = self.now();
        if self.may_send(now)
            && let Poll::Ready(happening) = self.poll_next_request(now, mode, cx)
        {
            return Poll::Ready(happening);
        }
        self.poll_timer(now, cx)
    }

    /// Whether a slot, the gate and the breaker are free.
    fn may_send(&self, now: Duration) -> bool {
        self.sends()
            && !self.asking.holds_sends()
            && self.has_slot()
            && matches!(self.endpoint.permit(now), Permit::Free | Permit::Probe)
    }

    /// Whether fewer requests are in flight, or not yet durable, than may be.
    fn has_slot(&self) -> bool {
        self.in_flight.occupied() + self.held < self.endpoint.limit.current()
    }

    fn sends(&self) -> bool {
        self.level == Level::Running && self.halt.is_none()
    }

    fn poll_next_request<M: Mode>(&mut self, now: Duration, mode: &mut M, cx: &mut Context<'_>) -> Poll<Happening> {
        if self.first.is_some() {
            // One request is enough to know that the dialect is needed; the others can wait where they are.
            let first = if self.dialect.is_some() { self.first.take() } else { None };
            return first.map_or(Poll::Pending, |ticket| Poll::Ready(Happening::Due(ticket)));
        }
        // A fresh line makes the better probe: if the line that failed last is itself the trouble, the outage ends.
        let probe = self.endpoint.permit(now) == Permit::Probe;
        if !probe && let Some(ticket) = self.pop_due(now) {
            return Poll::Ready(Happening::Due(ticket));
        }
        if !self.source_ended {
            match mode.poll_pull(cx) {
                Poll::Ready(Some(work)) => {
                    return Poll::Ready(Happening::Pulled(Box::new(Ticket::new(work.key, work.request))));
                }
                Poll::Ready(None) => return Poll::Ready(Happening::SourceEnded),
                Poll::Pending => {}
            }
        }
        match probe.then(|| self.pop_probe(now)).flatten() {
            Some(ticket) => Poll::Ready(Happening::Due(ticket)),
            None => Poll::Pending,
        }
    }

    /// The retry that is due first, due or not, of those whose model may be asked.
    fn pop_probe(&mut self, now: Duration) -> Option<Box<Ticket>> {
        let mut tickets = std::mem::take(&mut self.retries).into_sorted_vec();
        let may = |ticket: &Ticket| {
            matches!(self.endpoint.permit_model(&ticket.request.model, now), Permit::Free | Permit::Probe)
        };
        let found = tickets.iter().rposition(|ticket| may(ticket)).map(|index| tickets.remove(index));
        self.retries = tickets.into();
        found
    }

    /// The retry that is due, if the budget has a token for it.
    fn pop_due(&mut self, now: Duration) -> Option<Box<Ticket>> {
        let first = self.retries.peek().filter(|ticket| ticket.due <= now)?;
        if !first.unspent
            && let Err(until) = self.endpoint.budget.take(now)
        {
            self.budget_at = until;
            return None;
        }
        self.retries.pop()
    }

    fn wants_dialect(&self) -> bool {
        self.dialect.is_none() && self.errand.is_none() && (self.settings.asks_at_once || self.first.is_some())
    }

    fn is_over(&self) -> bool {
        self.in_flight.is_empty() && self.held == 0 && (!self.sends() || self.is_complete())
    }

    fn is_complete(&self) -> bool {
        let none_waits = self.first.is_none() && self.retries.is_empty() && self.asking.is_empty();
        self.source_ended && self.in_flight.is_empty() && self.held == 0 && none_waits
    }

    fn handle<M: Mode>(&mut self, happening: Happening, mode: &mut M) -> Option<Ended> {
        match happening {
            Happening::Level(Level::Aborting) | Happening::MustStop => return Some(Ended::Aborted),
            Happening::Level(level) => self.drain(level, mode),
            Happening::Delta(delta) => mode.delta(delta),
            Happening::Finished(finished) => self.finished(finished, mode),
            Happening::Reported(report) => self.reported(report, mode),
            Happening::Due(ticket) => self.send(ticket, mode),
            Happening::Pulled(ticket) if self.dialect.is_none() => self.first = Some(ticket),
            Happening::Pulled(ticket) => self.send(ticket, mode),
            Happening::SourceEnded => self.source_ended = true,
            Happening::Tick => return self.tick(mode),
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

    fn start_errand(&mut self, page: Page) {
        self.errand = Some(Box::pin(errand::run(self.transport, page)));
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
