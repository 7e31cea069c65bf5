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

use super::attempt::{Plan, Seen, attempt, take_end};
use super::errand::{self, Report};
use super::lanes::Lanes;
use super::policy::{Circumstances, Record, Step, decide};
use super::ticket::Ticket;
use super::{Delta, Ended, Event, Halt, HaltCause, Mode, Settings};
use crate::api::Dialect;
use crate::api::body::{render, streams};
use crate::api::transport::{Page, Transport};
use crate::flow::{Endpoint, Permit, backoff};
use crate::line::{Answer, ErrorCode, Failure, Outcome};
use crate::shutdown::{Level, Shutdown};

mod asking;
mod timing;

/// Deltas that wait for the mode; an attempt that finds the channel full waits as well.
const DELTAS_MAX: usize = 1024;
/// A request whose model is being probed by another looks again after this time.
const MODEL_LOOK: Duration = Duration::from_millis(100);
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
            record: Record::default(),
            dialect: settings.dialect,
            dialect_failures: 0,
            dialect_at: Duration::ZERO,
            in_flight: Lanes::new(),
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
        if self.is_over() {
            return Poll::Ready(Happening::Over);
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
            && self.dialect.is_some()
            && !self.asking.holds_sends()
            && self.in_flight.occupied() < self.endpoint.limit.current()
            && matches!(self.endpoint.permit(now), Permit::Free | Permit::Probe)
    }

    fn sends(&self) -> bool {
        self.level == Level::Running && self.halt.is_none()
    }

    fn poll_next_request<M: Mode>(&mut self, now: Duration, mode: &mut M, cx: &mut Context<'_>) -> Poll<Happening> {
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
        self.dialect.is_none() && self.errand.is_none()
    }

    fn is_over(&self) -> bool {
        self.in_flight.is_empty() && (!self.sends() || self.is_complete())
    }

    fn is_complete(&self) -> bool {
        self.source_ended && self.in_flight.is_empty() && self.retries.is_empty() && self.asking.is_empty()
    }

    fn handle<M: Mode>(&mut self, happening: Happening, mode: &mut M) -> Option<Ended> {
        match happening {
            Happening::Level(Level::Aborting) | Happening::MustStop => return Some(Ended::Aborted),
            Happening::Level(level) => self.drain(level, mode),
            Happening::Delta(delta) => mode.delta(delta),
            Happening::Finished(finished) => self.finished(finished, mode),
            Happening::Reported(report) => self.reported(report, mode),
            Happening::Due(ticket) => self.send(ticket, mode),
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
            self.drain_until = Some(self.now() + self.settings.drain);
            mode.event(Event::Draining { in_flight: self.in_flight.len() });
        }
    }

    fn halt_run<M: Mode>(&mut self, halt: Halt, mode: &mut M) {
        self.halt.get_or_insert(halt);
        self.begin_drain(mode);
    }

    /// Sends one request, unless its model is held back or its line cannot be sent to this dialect.
    fn send<M: Mode>(&mut self, mut ticket: Box<Ticket>, mode: &mut M) {
        let now = self.now();
        match self.endpoint.permit_model(&ticket.request.model, now) {
            Permit::Free | Permit::Probe => {}
            Permit::Wait(at) => return self.hold_back(ticket, at),
            Permit::Probing => return self.hold_back(ticket, now + MODEL_LOOK),
        }
        let dialect = self.dialect.expect("nothing is sent before the dialect is known");
        if let Some(field) = ticket.request.chat.background_field.filter(|_| dialect == Dialect::OpenWebUi) {
            let message = format!(
                "the field \"{field}\" would make a background task of the request, whose answer never comes here; leave it out"
            );
            return self.settle(ticket, Err(Failure::new(ErrorCode::BackgroundTask, message)), mode);
        }
        ticket.attempts += 1;
        ticket.began.get_or_insert(now);
        let flight = Flight {
            was_probe: self.endpoint.sent(&ticket.request.model, now),
            began_alone: self.in_flight.is_empty(),
            token_generation: self.asking.token_generation(),
        };
        let streams = streams(&ticket.request.chat, self.settings.upstream);
        let body = ticket.body.get_or_insert_with(|| render(&mut ticket.request.chat, dialect, streams).into()).clone();
        let plan = Plan {
            key: ticket.key,
            attempt: ticket.attempts,
            streams,
            clocks: self.settings.clocks,
            reply_bytes_max: self.settings.reply_bytes_max,
            deltas: self.deltas.as_ref().map(|(sender, _)| sender.clone()),
        };
        let transport = self.transport;
        self.in_flight.start((ticket, flight, body, plan), move |(ticket, flight, body, plan)| async move {
            let (seen, ending) = attempt(transport, body, plan).await;
            ((ticket, flight, seen), take_end(ending))
        });
        mode.event(Event::Sent { in_flight: self.in_flight.len() });
    }

    /// Its model is out. What was paid for sending it stays paid.
    fn hold_back(&mut self, mut ticket: Box<Ticket>, due: Duration) {
        ticket.unspent = true;
        self.put_off(ticket, due);
    }

    fn put_off(&mut self, mut ticket: Box<Ticket>, due: Duration) {
        ticket.due = due;
        self.retries.push(ticket);
    }

    fn finished<M: Mode>(&mut self, (mut ticket, flight, seen): Finished, mode: &mut M) {
        // Deltas of this attempt may still lie in the channel; they come before its outcome.
        while let Some(Ok(delta)) = self.deltas.as_mut().map(|(_, receiver)| receiver.try_recv()) {
            mode.delta(delta);
        }
        mode.event(Event::Ended { in_flight: self.in_flight.len() });
        let now = self.now();
        let at = Circumstances {
            now,
            status: seen.status,
            was_probe: flight.was_probe,
            alone: flight.began_alone && self.in_flight.is_empty(),
            unit: fastrand::f64(),
        };
        let step = decide(seen.signal, &mut ticket, &mut self.endpoint, &mut self.record, at);
        if let Some(wait) = seen.wait {
            self.gate(wait, mode);
        }
        self.apply(step, ticket, flight, mode);
    }

    fn apply<M: Mode>(&mut self, step: Step, ticket: Box<Ticket>, flight: Flight, mode: &mut M) {
        match step {
            Step::Settle(result) => self.settle(ticket, result, mode),
            Step::Retry { reason, at_least } => self.retry(ticket, reason, at_least, mode),
            Step::Ask(question) => self.ask(ticket, question, flight, mode),
            Step::Halt(halt) => {
                // Its line is not settled, and so the run is not complete.
                self.put_off(ticket, FAR);
                self.halt_run(halt, mode);
            }
        }
    }

    fn settle<M: Mode>(&mut self, ticket: Box<Ticket>, result: Result<Answer, Failure>, mode: &mut M) {
        if result.is_ok() {
            self.asking.token_accepted();
            self.endpoint.success(&ticket.request.model);
        }
        let seconds = ticket.began.map_or(0.0, |began| self.now().saturating_sub(began).as_secs_f64());
        mode.settle(ticket.key, &ticket.request, Outcome { result, attempts: ticket.attempts, seconds });
    }

    fn retry<M: Mode>(&mut self, mut ticket: Box<Ticket>, reason: String, at_least: Duration, mode: &mut M) {
        ticket.failures += 1;
        ticket.unspent = false;
        let cap = self.settings.retry_delay_max;
        let delay = backoff::full_jitter(ticket.failures, cap, fastrand::f64()).max(at_least.min(cap));
        mode.event(Event::Retry { reason: reason.clone(), delay });
        self.last_trouble = reason;
        let due = self.now() + delay;
        self.put_off(ticket, due);
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

/// A duration in whole seconds (tenths below ten), for people.
fn format_seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 10.0 {
        format!("{seconds:.1}s")
    } else {
        humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
    }
}
