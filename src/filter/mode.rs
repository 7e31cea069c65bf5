//! The filter as the engine sees it: pulls requests out of the input, turns outcomes into records, keeps their order.
//!
//! Invariant (conservation): every record of the input that is not blank is admitted to the window once, and leaves it
//! once, as a completion or an error, or is counted as unsettled when the run ends early.

use std::task::{Context, Poll};

use tokio::sync::mpsc;

use super::failed::FailedLines;
use super::reader::{End, Found, Input};
use super::window::{Left, Pending, Window};
use super::writer::{Amount, Writer};
use crate::config::Allowance;
use crate::engine::{Delta, Event, Key, Mode, Work};
use crate::line::completion::{About, Flags, Style};
use crate::line::{BadLine, Defaults, ErrorCode, Failure, Form, Format, InputForm, Outcome, Request};
use crate::report::Reporter;
use crate::shutdown::{Level, Shutdown};

const SPARE_MAX: usize = 64;
const SPARE_BYTES_MAX: usize = 16 << 10;

/// What the reader's thread makes of records.
#[derive(Debug)]
pub struct Understanding {
    /// How records are to be read.
    pub form: InputForm,
    /// What lines get that do not say so themselves.
    pub defaults: Defaults,
    /// The longest record, for the error message.
    pub line_bytes_max: usize,
    /// Whether records are kept until their lines have left.
    pub keep_records: bool,
}

/// One record, understood.
#[derive(Debug)]
pub struct Understood {
    line: u64,
    weight_bytes: usize,
    record: Option<Box<[u8]>>,
    request: Result<Request, BadLine>,
}

impl Understanding {
    /// Makes a request of one record, or says why there is none.
    pub fn of(&self, line: u64, found: Found<'_>) -> Understood {
        match found {
            Found::Record(content) => Understood {
                line,
                weight_bytes: content.len(),
                record: self.keep_records.then(|| content.into()),
                request: Request::parse(content, self.form, &self.defaults),
            },
            Found::TooLong(length) => {
                let failure = too_long(length, self.line_bytes_max);
                let request = Err(BadLine { form: None, correlation: None, failure, looks_like_text: false });
                Understood { line, weight_bytes: 0, record: None, request }
            }
        }
    }
}

/// What the mode needs to know.
#[derive(Debug)]
pub struct Settings {
    /// How completion lines look.
    pub style: Style,
    /// How many failures end the run.
    pub max_failed: Option<Allowance>,
    /// Whether text errors go to stderr, since the format has no place for them.
    pub text_errors: bool,
}

/// Why the mode wants the run to end.
#[derive(Debug)]
pub enum Why {
    /// stdout cannot be written.
    Stdout(std::io::Error),
    /// The first line has no model, and there is no default.
    NoModel,
    /// More lines failed than are allowed.
    TooManyFailed,
}

/// The filter's side of a run.
#[derive(Debug)]
pub struct Filter<'r> {
    settings: Settings,
    input: mpsc::Receiver<Input<Understood>>,
    block: std::vec::IntoIter<Understood>,
    end: Option<End>,
    window: Window,
    writer: Writer,
    failed_lines: Option<FailedLines>,
    reporter: &'r Reporter,
    shutdown: Shutdown,
    why: Option<Why>,
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
    /// What the reader said at the end, if it came to it.
    pub end: Option<End>,
    /// Why the mode ended the run, if it did.
    pub why: Option<Why>,
    /// Lines that were let in and not settled.
    pub unsettled: u64,
    /// The input that was not let in.
    pub unread: Unread,
}

/// Input that never became requests.
#[derive(Debug)]
pub struct Unread {
    block: std::vec::IntoIter<Understood>,
    input: mpsc::Receiver<Input<Understood>>,
}

impl<'r> Filter<'r> {
    /// Joins the parts.
    pub fn new(
        settings: Settings,
        input: mpsc::Receiver<Input<Understood>>,
        window: Window,
        writer: Writer,
        failed_lines: Option<FailedLines>,
        reporter: &'r Reporter,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            settings,
            input,
            window,
            writer,
            failed_lines,
            reporter,
            shutdown,
            block: Vec::new().into_iter(),
            end: None,
            why: None,
            parsed_any: false,
            spare: Vec::new(),
        }
    }

    /// Ends the mode: what is settled goes to the writer, with gaps; what is not is counted.
    pub fn finish(mut self) -> Rest {
        let mut unsettled = 0;
        let window = std::mem::replace(&mut self.window, Window::new(super::Order::Input, 0, 0));
        for entry in window.give_up() {
            match entry {
                Ok(left) => drop(leave(left, &mut self.writer, &mut self.failed_lines)),
                Err(pending) => {
                    unsettled += 1;
                    keep_failed(&mut self.failed_lines, &pending);
                }
            }
        }
        let unread = Unread { block: self.block, input: self.input };
        Rest { writer: self.writer, failed_lines: self.failed_lines, end: self.end, why: self.why, unsettled, unread }
    }

    /// Lets a record in: its request, unless it settles as an error at once.
    fn take(&mut self, understood: Understood) -> Option<Work> {
        let Understood { line, weight_bytes, record, request } = understood;
        if !self.parsed_any && matches!(&request, Err(bad) if bad.failure.code == ErrorCode::NoModel) {
            self.stop(Why::NoModel);
            return None;
        }
        let first = !std::mem::replace(&mut self.parsed_any, true);
        let events = self.settings.style.format == Some(Format::Events);
        let correlation = request.as_ref().ok().filter(|_| events).and_then(|request| request.correlation.clone());
        let key = self.window.admit(Pending { line, weight_bytes, record, correlation });
        match request {
            Ok(request) => Some(Work { key: Key(key), request }),
            Err(bad) => {
                self.reporter.left_out_of_failed(
                    line,
                    self.failed_lines.is_some() && bad.failure.code == ErrorCode::LineTooLong,
                );
                self.bad_line(key, line, if first { with_hint(bad) } else { bad });
                None
            }
        }
    }

    fn bad_line(&mut self, key: u64, line: u64, bad: BadLine) {
        let outcome = Outcome { result: Err(bad.failure), attempts: 0, seconds: 0.0 };
        let record = self.window.pending(key).and_then(|pending| pending.record.as_deref());
        let about =
            About { line, form: bad.form, correlation: bad.correlation.as_ref(), model: None, chat: None, record };
        let mut output = self.spare.pop().unwrap_or_default();
        self.settings.style.render(&about, &outcome, &mut output);
        self.book(line, &outcome, Flags::default());
        self.leave_window(key, output, true);
    }

    fn leave_window(&mut self, key: u64, output: Vec<u8>, failed: bool) {
        let (writer, failed_lines, spare) = (&mut self.writer, &mut self.failed_lines, &mut self.spare);
        self.window.settle(key, output, failed, &mut |left| {
            let mut output = leave(left, writer, failed_lines);
            if spare.len() < SPARE_MAX && output.capacity() <= SPARE_BYTES_MAX {
                output.clear();
                spare.push(output);
            }
        });
    }

    fn book(&mut self, line: u64, outcome: &Outcome, flags: Flags) {
        self.reporter.settled(outcome, flags);
        if let (Err(failure), true) = (&outcome.result, self.settings.text_errors) {
            self.reporter.line_failed(line, failure);
        }
        let counts = self.reporter.counts();
        let (failed, settled) = (counts.failed(), counts.settled());
        if outcome.result.is_err()
            && self.settings.max_failed.is_some_and(|allowance| exceeds(allowance, failed, settled))
        {
            self.stop_gently(Why::TooManyFailed);
        }
    }

    fn stop(&mut self, why: Why) {
        self.why.get_or_insert(why);
        self.shutdown.raise(Level::Aborting);
    }

    fn stop_gently(&mut self, why: Why) {
        self.why.get_or_insert(why);
        self.shutdown.raise(Level::Draining);
    }
}

/// A first line that is no JSON at all may be meant as text.
fn with_hint(mut bad: BadLine) -> BadLine {
    if bad.looks_like_text {
        bad.failure.message.push_str("; if every line is a prompt, use --input text");
    }
    bad
}

/// A share of few lines says little: percentages count from the hundredth line on.
fn exceeds(allowance: Allowance, failed: u64, settled: u64) -> bool {
    const LINES_MIN: u64 = 100;
    let enough = matches!(allowance, Allowance::Lines(_)) || settled >= LINES_MIN;
    enough && !allowance.permits(failed, settled)
}

fn too_long(length: u64, line_bytes_max: usize) -> Failure {
    Failure::new(
        ErrorCode::LineTooLong,
        format!("the line has {length} bytes, more than --max-line-bytes {line_bytes_max}"),
    )
}

fn leave(left: Left, writer: &mut Writer, failed_lines: &mut Option<FailedLines>) -> Vec<u8> {
    writer.push(&left.output, Amount { lines: 1, bytes: left.output.len() + left.pending.kept_bytes() });
    if left.failed {
        keep_failed(failed_lines, &left.pending);
    }
    left.output
}

fn keep_failed(failed_lines: &mut Option<FailedLines>, pending: &Pending) {
    if let (Some(file), Some(record)) = (failed_lines, &pending.record) {
        file.push(record);
    }
}

impl Mode for Filter<'_> {
    fn poll_pull(&mut self, cx: &mut Context<'_>) -> Poll<Option<Work>> {
        while self.window.has_room() && self.writer.has_room() && self.why.is_none() {
            if let Some(understood) = self.block.next() {
                if let Some(work) = self.take(understood) {
                    return Poll::Ready(Some(work));
                }
                continue;
            }
            if self.end.is_some() {
                return Poll::Ready(None);
            }
            match self.input.poll_recv(cx) {
                Poll::Ready(Some(Input::Block(block))) => self.block = block.into_iter(),
                Poll::Ready(Some(Input::End(end))) => self.end = Some(end),
                Poll::Ready(None) => {
                    let error = Some("the reading thread ended early".to_owned());
                    self.end = Some(End { lines: 0, sha256: None, error });
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Pending
    }

    fn settle(&mut self, key: Key, request: &Request, outcome: Outcome) {
        let Some(pending) = self.window.pending(key.0) else { return };
        let line = pending.line;
        let about = About {
            line,
            form: Some(request.form),
            correlation: request.correlation.as_ref(),
            model: Some(&request.model),
            chat: Some(&request.chat),
            record: pending.record.as_deref(),
        };
        let flags = outcome.result.as_ref().map_or_else(|_| Flags::default(), |answer| Flags::of(answer, &about));
        let mut output = self.spare.pop().unwrap_or_default();
        self.settings.style.render(&about, &outcome, &mut output);
        self.book(line, &outcome, flags);
        self.leave_window(key.0, output, outcome.result.is_err());
    }

    fn delta(&mut self, delta: Delta) {
        let Some(pending) = self.window.pending(delta.key.0) else { return };
        let about = About {
            line: pending.line,
            form: Some(Form::Chat),
            correlation: pending.correlation.as_ref(),
            model: None,
            chat: None,
            record: None,
        };
        let output = self.settings.style.render_delta(&about, delta.attempt, delta.index, &delta.delta);
        self.window.add_bytes(output.len());
        self.writer.push(&output, Amount { lines: 0, bytes: output.len() });
    }

    fn has_room(&self) -> bool {
        self.window.has_byte_room() && self.writer.has_room()
    }

    fn event(&mut self, event: Event) {
        self.reporter.event(&event);
    }

    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Poll::Ready(result) = self.writer.poll_written(cx) {
            match result {
                Ok(amount) => self.window.written(amount.lines, amount.bytes),
                Err(error) => {
                    self.why = Some(Why::Stdout(error));
                    return Poll::Ready(());
                }
            }
        }
        Poll::Pending
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

impl Unread {
    /// Hands every record that never became a request to `each`; waits for the reader only when `wait` says so.
    pub async fn for_each(mut self, wait: bool, mut each: impl FnMut(&[u8])) {
        loop {
            for understood in self.block.by_ref() {
                if let Some(record) = &understood.record {
                    each(record);
                }
            }
            let next = if wait { self.input.recv().await } else { self.input.try_recv().ok() };
            match next {
                Some(Input::Block(block)) => self.block = block.into_iter(),
                Some(Input::End(_)) | None => return,
            }
        }
    }
}
