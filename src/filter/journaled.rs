//! The filter with a journal, as the engine sees it: what the journal answers is not asked; what is asked leaves its
//! slot only when the answer is durable.
//!
//! Invariants: nothing is shown of a line before its record is committed; the window holds where records lie, not the
//! records; a record that is read is compared with the whole key before it is used.

mod leaving;
mod parts;

use std::collections::VecDeque;
use std::future::Future;
use std::task::{Context, Poll};
use std::time::SystemTime;

use super::intake::Intake;
use super::ledger::{Ledger, Why};
use super::settings_guard::{Guard, Judgement};
use super::shelf::Shelf;
use super::understanding::{Understood, with_hint};
use super::window::{Left, Weight, Window};
use super::writer;
use crate::engine::{Delta, Event, Fit, Key, Mode, Room, Slot, Work};
use crate::exit::{Exit, Stop};
use crate::journal::{self, Committed, Journal, Known, Line, Note, Records, Settings, Spending};
use crate::line::completion::Flags;
use crate::line::{BadLine, Correlation, ErrorCode, Form, Outcome, Request};
use crate::report::Audience;

pub use parts::{Parts, Rest, Sink, Unsettled};

/// So many lines are replayed before others get their turn.
const REPLAYED_AT_ONCE: usize = 64;

/// An input line that has been let in and not yet gone out.
#[derive(Debug)]
pub struct Pending {
    line: u64,
    key: journal::Key,
    form: Option<Form>,
    correlation: Option<Correlation>,
    /// The input record, when it may be needed again.
    record: Option<Box<[u8]>>,
    /// Whether the outcome was in the journal before.
    replayed: bool,
    /// Whether its slot is held until the outcome is durable.
    holds_slot: bool,
}

/// The filter's side of a run with a journal.
#[derive(Debug)]
pub struct Journaled<A> {
    intake: Intake,
    guard: Guard,
    window: Window<Pending, u64>,
    journal: Journal,
    known: Known,
    settings: Settings,
    spending: Spending,
    records: Records,
    sink: Sink,
    ledger: Ledger<A>,
    committed: Vec<Committed>,
    freed: usize,
    /// Lines that have left the window, until the output has room for them.
    ready: VecDeque<Left<Pending, u64>>,
    /// Requests whose lines were met before there was room.
    shelf: Shelf,
    /// Whether the input has no further line.
    exhausted: bool,
    journal_failed: bool,
    parsed_any: bool,
    /// Whether this run has recorded anything about a line.
    recorded: bool,
    /// The line that is being rendered.
    line: Vec<u8>,
}

impl<A: Audience> Journaled<A> {
    /// Joins the parts.
    pub fn new(parts: Parts, ledger: Ledger<A>) -> Self {
        let Parts { intake, guard, window, mut journal, known, settings, spending, records, sink } = parts;
        if settings.differ_from(known.settings.as_ref()) {
            journal.preface(Note::Settings(settings.clone()));
        }
        let shelf = Shelf::new(window.lines_max());
        Self {
            intake,
            guard,
            window,
            journal,
            known,
            settings,
            spending,
            records,
            sink,
            ledger,
            committed: Vec::new(),
            freed: 0,
            ready: VecDeque::new(),
            shelf,
            exhausted: false,
            journal_failed: false,
            parsed_any: false,
            recorded: false,
            line: Vec::new(),
        }
    }

    /// Ends the mode. What waits to be committed is waited for, unless the journal has failed; then the output is waited
    /// for, for as long as there is `patience`.
    pub async fn finish(mut self, patience: impl Future<Output = ()>) -> Rest {
        for spent in self.spending.take(SystemTime::now(), true) {
            self.journal.append(None, |record| Note::Spent(spent).push(record));
        }
        while !self.journal.is_settled() && !self.journal_failed {
            self.journal.flush();
            std::future::poll_fn(|cx| self.poll_journal(cx)).await;
        }
        let (mut lines, mut records) = (0, Vec::new());
        for entry in self.window.give_up() {
            match entry {
                Ok(left) => self.ready.push_back(left),
                Err(pending) => {
                    lines += 1;
                    records.extend(pending.record);
                }
            }
        }
        let shown = tokio::select! {
            biased;
            () = self.show_rest() => true,
            () = patience => false,
        };
        if !shown {
            self.ledger.fail(Why::Stdout(writer::out_of_patience()));
        }
        let (seen, intake, journal_records) = (self.guard.into_seen(), self.intake, self.records);
        Rest {
            journal: self.journal,
            known: self.known,
            sink: self.sink,
            why: self.ledger.into_why(),
            recorded: self.recorded,
            unsettled: Unsettled { lines, records, seen, intake, journal_records },
        }
    }

    /// Whether every line of the input is settled, and durably so.
    pub fn is_complete(&self) -> bool {
        self.exhausted && self.shelf.is_empty() && self.window.is_empty() && self.journal.is_settled()
    }

    /// Models for which requests wait.
    pub fn waiting_models(&self) -> impl Iterator<Item = &str> {
        self.shelf.models()
    }

    /// Whether the mode itself has ended the run: the journal failed, or its first line has no model.
    pub fn has_ended(&self) -> bool {
        self.ledger.ends()
    }

    fn has_failed(&self) -> bool {
        self.ledger.has_stopped()
    }

    fn fail(&mut self, stop: impl Into<Stop>) {
        self.ledger.fail(Why::Stop(stop.into()));
    }

    /// Lets a record in: its request, unless the journal answers it or it settles as an error at once.
    fn take(&mut self, understood: Understood) -> Option<Work> {
        let Understood { line, weight_bytes, record, hash, request } = understood;
        if !self.parsed_any && matches!(&request, Err(bad) if bad.failure.code == ErrorCode::NoModel) {
            self.ledger.stop(Why::NoModel);
            return None;
        }
        let first = !std::mem::replace(&mut self.parsed_any, true);
        let (key, found) = match self.known.index.claim(&hash) {
            Ok(claimed) => claimed,
            Err(error) => {
                self.fail(Stop::new(Exit::Input, format!("line {line}: {error}")));
                return None;
            }
        };
        let (form, correlation) = match &request {
            Ok(request) => (Some(request.form), request.correlation.clone()),
            Err(bad) => (bad.form, bad.correlation.clone()),
        };
        let kept_bytes = record.as_ref().map_or(0, |record| record.len());
        let holds_slot = request.is_ok() && found.is_none();
        let pending = Pending { line, key, form, correlation, record, replayed: found.is_some(), holds_slot };
        let request_bytes = if holds_slot { weight_bytes } else { 0 };
        let token = self.window.admit(pending, Weight { request_bytes, kept_bytes });
        match (found, request) {
            (Some(offset), _) => {
                self.leave_window(token, offset);
                None
            }
            (None, Ok(request)) => Some(Work { key: Key(token), request }),
            (None, Err(bad)) => {
                self.bad_line(token, if first { with_hint(bad) } else { bad });
                None
            }
        }
    }

    fn bad_line(&mut self, token: u64, bad: BadLine) {
        let outcome = Outcome { result: Err(bad.failure), attempts: 0, seconds: 0.0 };
        self.record(token, None, Flags::default(), &outcome);
    }

    /// Appends the outcome of a line, and books it; its slot comes free when the record is durable.
    fn record(&mut self, token: u64, model: Option<&str>, flags: Flags, outcome: &Outcome) -> Slot {
        let Some(pending) = self.window.pending(token) else { return Slot::Free };
        let line = Line {
            line: pending.line,
            key: pending.key,
            form: pending.form,
            correlation: pending.correlation.as_ref(),
        };
        if self.spending.is_pending() {
            let spent = self.spending.take(SystemTime::now(), false);
            spent.into_iter().for_each(|spent| self.journal.preface(Note::Spent(spent)));
        }
        self.journal.append(Some(token), |record| line.push_outcome(record, model, flags, outcome));
        self.recorded = true;
        let number = line.line;
        self.ledger.book(number, outcome, flags);
        Slot::Held
    }

    fn committed(&mut self, committed: Committed) {
        let Some(pending) = self.window.pending(committed.token) else { return };
        self.freed += usize::from(pending.holds_slot);
        self.known.index.insert(&pending.key, committed.offset);
        self.known.places.set_met(pending.line, committed.offset);
        self.leave_window(committed.token, committed.offset);
    }

    /// Ready when something was committed, or the journal has failed.
    fn poll_journal(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.journal_failed {
            return Poll::Pending;
        }
        let mut committed = std::mem::take(&mut self.committed);
        let Poll::Ready(result) = self.journal.poll_committed(cx, &mut committed) else {
            self.committed = committed;
            return Poll::Pending;
        };
        match result {
            Ok(()) => committed.drain(..).for_each(|record| self.committed(record)),
            Err(error) => {
                self.journal_failed = true;
                self.fail(error);
            }
        }
        self.committed = committed;
        Poll::Ready(())
    }

    /// Whether another line may be let in: memory is bounded, whatever is slow.
    fn has_room_ahead(&self) -> bool {
        self.window.has_room() && self.sink.has_room() && self.journal.has_room() && !self.ledger.ends()
    }

    /// Lets the next line in, as far as there is room: its request, unless it needs none.
    fn read_on(&mut self, cx: &mut Context<'_>) -> Poll<Option<Work>> {
        if self.exhausted || !self.has_room_ahead() {
            return Poll::Pending;
        }
        match self.poll_understood(cx) {
            Poll::Ready(Some(understood)) => Poll::Ready(self.take(understood)),
            Poll::Ready(None) => {
                self.exhausted = true;
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// The next record, behind the guard over the settings.
    fn poll_understood(&mut self, cx: &mut Context<'_>) -> Poll<Option<Understood>> {
        let index = &self.known.index;
        match self.guard.poll_next(
            &mut self.intake,
            |hash| index.get(&journal::Key { hash: *hash, nth: 0 }).is_some(),
            cx,
        ) {
            Poll::Ready(Judgement::Next(understood)) => Poll::Ready(understood.map(|understood| *understood)),
            Poll::Ready(Judgement::Refuse(stop)) => {
                self.ledger.stop(Why::Stop(stop));
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<A: Audience> Mode for Journaled<A> {
    fn poll_pull(&mut self, room: &Room<'_>, cx: &mut Context<'_>) -> Poll<Option<Work>> {
        if let Some(work) = self.shelf.take(room, Fit::Here) {
            return Poll::Ready(Some(work));
        }
        let mut reads = 0;
        // Nothing on the shelf means that whoever looks ahead found nothing either.
        while self.shelf.has_room() && !self.shelf.is_empty() {
            if reads == REPLAYED_AT_ONCE {
                // There may be more, once others have had their turn.
                cx.waker().wake_by_ref();
                break;
            }
            reads += 1;
            match self.read_on(cx) {
                Poll::Ready(Some(work)) if room.for_model(&work.request.model) == Fit::Here => {
                    return Poll::Ready(Some(work));
                }
                Poll::Ready(Some(work)) => self.shelf.push(work),
                Poll::Ready(None) => {}
                Poll::Pending => break,
            }
        }
        match self.shelf.take(room, Fit::Swap) {
            None if self.exhausted && self.shelf.is_empty() => Poll::Ready(None),
            None => Poll::Pending,
            work => Poll::Ready(work),
        }
    }

    /// Replays what the journal answers, up to the first line that it does not: that needs neither slot nor service.
    fn look_ahead(&mut self, cx: &mut Context<'_>) {
        for _ in 0..REPLAYED_AT_ONCE {
            if !self.shelf.is_empty() {
                return;
            }
            match self.read_on(cx) {
                Poll::Ready(Some(work)) => self.shelf.push(work),
                Poll::Ready(None) => {}
                Poll::Pending => return,
            }
            if self.has_failed() {
                // Nobody else would call for the end of the run.
                break;
            }
        }
        cx.waker().wake_by_ref();
    }

    fn settle(&mut self, key: Key, request: &Request, outcome: Outcome) -> Slot {
        let flags = outcome.result.as_ref().map_or_else(|_| Flags::default(), |answer| Flags::of(answer, request));
        self.record(key.0, Some(&request.model), flags, &outcome)
    }

    fn take_freed(&mut self) -> usize {
        std::mem::take(&mut self.freed)
    }

    fn delta(&mut self, _: Delta) {}

    fn has_room(&self) -> bool {
        true
    }

    fn event(&mut self, event: Event) {
        match &event {
            Event::DialectFound(dialect) => {
                self.settings.dialect = Some(dialect.name().to_owned());
                self.journal.preface(Note::Settings(self.settings.clone()));
            }
            Event::Spent { endpoint, tokens } => self.spending.add(*endpoint, *tokens),
            _ => {}
        }
        self.ledger.audience().event(&event);
    }

    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.poll_journal(cx).is_ready() && !self.has_failed() {}
        let failed = self.poll_writer(cx).is_ready();
        self.show_ready();
        if failed || self.has_failed() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn is_done(&self) -> bool {
        self.ready.is_empty()
    }

    fn idle(&mut self, cx: &mut Context<'_>) {
        self.journal.flush();
        if self.flush_writer() {
            cx.waker().wake_by_ref();
        }
    }
}
