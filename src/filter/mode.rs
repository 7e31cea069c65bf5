//! The filter without a journal, as the engine sees it: pulls requests out of the input, turns outcomes into records,
//! keeps their order.
//!
//! Invariant (conservation): every record of the input that is not blank is admitted to the window once, and leaves it
//! once, as a completion or an error, or is counted as unsettled when the run ends early.

use std::task::{Context, Poll, ready};

use super::failed::FailedLines;
use super::intake::Intake;
use super::ledger::{Ledger, Why};
use super::shelf::Shelf;
use super::understanding::{Understood, with_hint};
use super::window::{Left, Weight, Window};
use super::writer::{Amount, Writer};
use crate::engine::{Delta, Event, Fit, Key, Mode, Room, Slot, Work};
use crate::line::completion::{About, Flags, Style};
use crate::line::{BadLine, Correlation, ErrorCode, Form, Format, Outcome, Request};
use crate::report::{Audience as _, Reporter};

const SPARE_MAX: usize = 64;
const SPARE_BYTES_MAX: usize = 16 << 10;

/// An input line that has been let in and not yet gone out.
#[derive(Debug)]
pub struct Pending {
    /// Its number in the whole input.
    line: u64,
    /// The input record, when it may be needed again.
    record: Option<Box<[u8]>>,
    /// The line's own id, when its deltas are to bear it.
    correlation: Option<Correlation>,
}

/// A line of output, and whether it tells a failure.
type Output = (Vec<u8>, bool);

/// The filter's side of a run.
#[derive(Debug)]
pub struct Filter<'r> {
    style: Style,
    intake: Intake,
    window: Window<Pending, Output>,
    writer: Writer,
    failed_lines: Option<FailedLines>,
    ledger: Ledger<&'r Reporter>,
    /// Requests that were let in and wait for room.
    shelf: Shelf,
    parsed_any: bool,
    /// Buffers of records that have left, to be filled again.
    spare: Vec<Vec<u8>>,
}

/// What is left when the engine has ended.
#[derive(Debug)]
pub struct Rest {
    /// The writer, to be finished.
    pub writer: Writer,
    /// The failed lines, to be published.
    pub failed_lines: Option<FailedLines>,
    /// Why the mode ended the run, if it did.
    pub why: Option<Why>,
    /// Lines that were let in and not settled.
    pub unsettled: u64,
    /// The input that was not let in, and its end.
    pub intake: Intake,
}

impl<'r> Filter<'r> {
    /// Joins the parts.
    pub fn new(
        style: Style,
        intake: Intake,
        window: Window<Pending, Output>,
        writer: Writer,
        failed_lines: Option<FailedLines>,
        ledger: Ledger<&'r Reporter>,
    ) -> Self {
        let shelf = Shelf::new(window.lines_max());
        Self { style, intake, window, writer, failed_lines, ledger, shelf, parsed_any: false, spare: Vec::new() }
    }

    /// Ends the mode: what is settled goes to the writer, with gaps; what is not is counted.
    pub fn finish(mut self) -> Rest {
        let mut unsettled = 0;
        for entry in self.window.give_up() {
            match entry {
                Ok(left) => drop(leave(left, &mut self.writer, &mut self.failed_lines)),
                Err(pending) => {
                    unsettled += 1;
                    keep_failed(&mut self.failed_lines, &pending);
                }
            }
        }
        let (writer, failed_lines, intake) = (self.writer, self.failed_lines, self.intake);
        Rest { writer, failed_lines, why: self.ledger.into_why(), unsettled, intake }
    }

    /// Lets a record in: its request, unless it settles as an error at once.
    fn take(&mut self, understood: Understood) -> Option<Work> {
        let Understood { line, weight_bytes, record, request, .. } = understood;
        if !self.parsed_any && matches!(&request, Err(bad) if bad.failure.code == ErrorCode::NoModel) {
            self.ledger.stop(Why::NoModel);
            return None;
        }
        let first = !std::mem::replace(&mut self.parsed_any, true);
        let events = self.style.format == Some(Format::Events);
        let correlation = request.as_ref().ok().filter(|_| events).and_then(|request| request.correlation.clone());
        let kept_bytes = record.as_ref().map_or(0, |record| record.len());
        let weight = Weight { request_bytes: weight_bytes, kept_bytes };
        let key = self.window.admit(Pending { line, record, correlation }, weight);
        match request {
            Ok(request) => Some(Work { key: Key(key), request }),
            Err(bad) => {
                self.ledger.note_left_out(line, &bad.failure, self.failed_lines.is_some());
                self.bad_line(key, line, if first { with_hint(bad) } else { bad });
                None
            }
        }
    }

    /// The next request of the input, as far as there is room to let it in.
    fn poll_fresh(&mut self, cx: &mut Context<'_>) -> Poll<Option<Work>> {
        while self.window.has_room() && self.writer.has_room() && !self.ledger.ends() {
            let Some(understood) = ready!(self.intake.poll_next(cx)) else { return Poll::Ready(None) };
            if let Some(work) = self.take(understood) {
                return Poll::Ready(Some(work));
            }
        }
        Poll::Pending
    }

    fn bad_line(&mut self, key: u64, line: u64, bad: BadLine) {
        let outcome = Outcome { result: Err(bad.failure), attempts: 0, seconds: 0.0 };
        let record = self.window.pending(key).and_then(|pending| pending.record.as_deref());
        let (correlation, flags) = (bad.correlation.as_ref(), Flags::default());
        let about = About { line, form: bad.form, correlation, model: None, flags, record };
        let mut output = self.spare.pop().unwrap_or_default();
        self.style.render(&about, &outcome, &mut output);
        self.ledger.book(line, &outcome, flags);
        self.leave_window(key, output, true);
    }

    fn leave_window(&mut self, key: u64, output: Vec<u8>, failed: bool) {
        let (writer, failed_lines, spare) = (&mut self.writer, &mut self.failed_lines, &mut self.spare);
        let bytes = output.len();
        self.window.settle(key, (output, failed), bytes, &mut |left| {
            let mut output = leave(left, writer, failed_lines);
            if spare.len() < SPARE_MAX && output.capacity() <= SPARE_BYTES_MAX {
                output.clear();
                spare.push(output);
            }
        });
    }
}

fn leave(left: Left<Pending, Output>, writer: &mut Writer, failed_lines: &mut Option<FailedLines>) -> Vec<u8> {
    let (output, failed) = left.output;
    writer.push(&output, Amount { lines: 1, bytes: left.bytes });
    if failed {
        keep_failed(failed_lines, &left.item);
    }
    output
}

fn keep_failed(failed_lines: &mut Option<FailedLines>, pending: &Pending) {
    if let (Some(file), Some(record)) = (failed_lines, &pending.record) {
        file.push(record);
    }
}

impl Mode for Filter<'_> {
    fn poll_pull(&mut self, room: &Room<'_>, cx: &mut Context<'_>) -> Poll<Option<Work>> {
        if let Some(work) = self.shelf.take(room, Fit::Here) {
            return Poll::Ready(Some(work));
        }
        let mut is_exhausted = false;
        while self.shelf.has_room() && !is_exhausted {
            match self.poll_fresh(cx) {
                Poll::Ready(Some(work)) if room.for_model(&work.request.model) == Fit::Here => {
                    return Poll::Ready(Some(work));
                }
                Poll::Ready(Some(work)) => self.shelf.push(work),
                Poll::Ready(None) => is_exhausted = true,
                Poll::Pending => break,
            }
        }
        match self.shelf.take(room, Fit::Swap) {
            None if is_exhausted && self.shelf.is_empty() => Poll::Ready(None),
            None => Poll::Pending,
            work => Poll::Ready(work),
        }
    }

    fn settle(&mut self, key: Key, request: &Request, outcome: Outcome) -> Slot {
        let Some(pending) = self.window.pending(key.0) else { return Slot::Free };
        let line = pending.line;
        let flags = outcome.result.as_ref().map_or_else(|_| Flags::default(), |answer| Flags::of(answer, request));
        let about = About {
            line,
            form: Some(request.form),
            correlation: request.correlation.as_ref(),
            model: Some(&request.model),
            flags,
            record: pending.record.as_deref(),
        };
        let mut output = self.spare.pop().unwrap_or_default();
        self.style.render(&about, &outcome, &mut output);
        self.ledger.book(line, &outcome, flags);
        self.leave_window(key.0, output, outcome.result.is_err());
        Slot::Free
    }

    fn delta(&mut self, delta: Delta) {
        let Some(pending) = self.window.pending(delta.key.0) else { return };
        let about = About {
            line: pending.line,
            form: Some(Form::Chat),
            correlation: pending.correlation.as_ref(),
            model: None,
            flags: Flags::default(),
            record: None,
        };
        let output = self.style.render_delta(&about, delta.attempt, delta.index, &delta.delta);
        self.window.add_bytes(output.len());
        self.writer.push(&output, Amount { lines: 0, bytes: output.len() });
    }

    fn has_room(&self) -> bool {
        self.window.has_byte_room() && self.writer.has_room()
    }

    fn event(&mut self, event: Event) {
        self.ledger.audience().event(&event);
    }

    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let window = &mut self.window;
        let failure = self.writer.poll_failure(cx, |amount| window.written(amount.lines, amount.bytes));
        failure.map(|error| self.ledger.fail(Why::Stdout(error)))
    }

    fn idle(&mut self, cx: &mut Context<'_>) {
        let had_room = self.window.has_room();
        let written = self.writer.flush();
        self.window.written(written.lines, written.bytes);
        if !had_room && self.window.has_room() {
            cx.waker().wake_by_ref();
        }
    }
}
