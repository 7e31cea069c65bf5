//! A line's way out of the window: its record is durable, is read back, and is shown, or kept for the second pass.

use std::task::{Context, Poll};

use super::super::ledger::Why;
use super::super::window::Left;
use super::super::writer::Amount;
use super::{Journaled, Pending, Sink};
use crate::journal::{Line, Settled};
use crate::line::Outcome;
use crate::line::completion::About;
use crate::report::Audience;

impl<A: Audience> Journaled<A> {
    pub(super) fn leave_window(&mut self, token: u64, offset: u64) {
        let ready = &mut self.ready;
        self.window.settle(token, offset, 0, &mut |left| ready.push_back(left));
        self.show_ready();
    }

    /// Shows what is ready, as far as the output has room: a record takes memory only from here on.
    pub(super) fn show_ready(&mut self) {
        while self.sink.has_room() && self.window.has_byte_room() {
            let Some(left) = self.ready.pop_front() else { return };
            self.leave(left);
        }
    }

    /// Shows all that is ready, waiting for the output.
    pub(super) async fn show_rest(&mut self) {
        loop {
            self.show_ready();
            if self.ready.is_empty() || self.has_failed() {
                return;
            }
            self.flush_writer();
            std::future::poll_fn(|cx| {
                let failed = self.poll_writer(cx).is_ready();
                let has_room = self.sink.has_room() && self.window.has_byte_room();
                if failed || has_room { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    }

    /// Ready when stdout cannot be written.
    pub(super) fn poll_writer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (Sink::Stdout { writer, .. }, window) = (&mut self.sink, &mut self.window) else { return Poll::Pending };
        let failure = writer.poll_failure(cx, |amount| window.written(amount.lines, amount.bytes));
        failure.map(|error| self.ledger.fail(Why::Stdout(error)))
    }

    /// Hands the output on; whether that has made room for more.
    pub(super) fn flush_writer(&mut self) -> bool {
        let Sink::Stdout { writer, .. } = &mut self.sink else { return false };
        let had_room = self.window.has_room();
        let written = writer.flush();
        self.window.written(written.lines, written.bytes);
        (!had_room && self.window.has_room()) || (written.lines > 0 && !self.ready.is_empty())
    }

    /// A line's turn has come: its record is durable.
    fn leave(&mut self, left: Left<Pending, u64>) {
        let Left { item: pending, output: offset, bytes } = left;
        if self.has_failed() {
            return;
        }
        if !pending.replayed && matches!(self.sink, Sink::Later { failed_lines: None }) {
            // Nothing is shown of it now, and all is known of it.
            return self.window.written(1, bytes);
        }
        match self.records.outcome(offset, &pending.key) {
            Ok((settled, outcome)) => {
                if pending.replayed {
                    self.ledger.book_replayed(pending.line, &outcome, settled.flags);
                    self.place(&pending, &settled, offset);
                }
                self.show(&pending, &settled, &outcome, bytes);
            }
            Err(error) => self.fail(error),
        }
    }

    /// Writes down that an answer is another line's now, if no record says so yet.
    fn place(&mut self, pending: &Pending, settled: &Settled, offset: u64) {
        let same_id = |recorded: &Settled| recorded.is_about(pending.form, pending.correlation.as_ref());
        let told = match self.known.places.get(pending.line) {
            Some(place) if place == offset => same_id(settled),
            Some(place) => {
                let placed = self.records.settled(place);
                placed.is_ok_and(|placed| placed.head.key == pending.key && same_id(&placed))
            }
            None => false,
        };
        if told {
            return self.known.places.meet(pending.line);
        }
        let correlation = pending.correlation.as_ref();
        let line = Line { line: pending.line, key: pending.key, form: pending.form, correlation };
        self.journal.append(None, |record| line.push_placed(record));
        self.known.places.set_met(pending.line, offset);
        self.recorded = true;
    }

    fn show(&mut self, pending: &Pending, settled: &Settled, outcome: &Outcome, bytes: usize) {
        if let (Err(failure), Some(file)) = (&outcome.result, self.sink.failed_lines()) {
            self.ledger.note_left_out(pending.line, failure, true);
            pending.record.iter().for_each(|record| file.push(record));
        }
        let Sink::Stdout { writer, style, .. } = &mut self.sink else {
            return self.window.written(1, bytes);
        };
        let about = About {
            line: pending.line,
            form: pending.form,
            correlation: pending.correlation.as_ref(),
            model: settled.model.as_deref(),
            flags: settled.flags,
            record: pending.record.as_deref(),
        };
        self.line.clear();
        style.render(&about, outcome, &mut self.line);
        self.window.add_bytes(self.line.len());
        writer.push(&self.line, Amount { lines: 1, bytes: bytes + self.line.len() });
    }
}
