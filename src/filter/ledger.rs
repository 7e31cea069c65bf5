//! What the filter books of each line, whichever way it was settled; and why the filter wants a run to end.

use crate::config::Allowance;
use crate::exit::Stop;
use crate::line::completion::Flags;
use crate::line::{ErrorCode, Failure, Outcome};
use crate::report::Audience;
use crate::shutdown::{Level, Shutdown};

/// Why the mode wants the run to end.
#[derive(Debug)]
pub enum Why {
    /// stdout cannot be written.
    Stdout(std::io::Error),
    /// The first line has no model, and there is no default.
    NoModel,
    /// More lines failed than are allowed.
    TooManyFailed,
    /// Something else, which says itself what it is.
    Stop(Stop),
}

/// Counts outcomes and watches over what is allowed.
#[derive(Debug)]
pub struct Ledger<A> {
    audience: A,
    shutdown: Shutdown,
    max_failed: Option<Allowance>,
    /// Whether text errors go to stderr, since the format has no place for them.
    text_errors: bool,
    /// Lines that this run has settled, and those of them that failed.
    settled: u64,
    failed: u64,
    why: Option<Why>,
}

impl<A: Audience> Ledger<A> {
    /// An empty ledger.
    pub fn new(audience: A, shutdown: Shutdown, max_failed: Option<Allowance>, text_errors: bool) -> Self {
        Self { audience, shutdown, max_failed, text_errors, settled: 0, failed: 0, why: None }
    }

    /// Who hears of the run.
    pub fn audience(&self) -> &A {
        &self.audience
    }

    /// Whether the mode has said that the run must end.
    pub fn ends(&self) -> bool {
        self.why.is_some()
    }

    /// Whether the output or the journal has failed.
    pub fn has_stopped(&self) -> bool {
        matches!(self.why, Some(Why::Stdout(_) | Why::Stop(_)))
    }

    /// Why the mode ended the run, if it did.
    pub fn into_why(self) -> Option<Why> {
        self.why
    }

    /// Books an outcome of this run.
    pub fn book(&mut self, line: u64, outcome: &Outcome, flags: Flags) {
        self.audience.settled(outcome, flags);
        self.tell_failure(line, outcome);
        self.settled += 1;
        self.failed += u64::from(outcome.result.is_err());
        let too_many = self.max_failed.is_some_and(|allowance| exceeds(allowance, self.failed, self.settled));
        if outcome.result.is_err() && too_many {
            self.why.get_or_insert(Why::TooManyFailed);
            self.shutdown.raise(Level::Draining);
        }
    }

    /// Books an outcome that a journal holds. Failures of earlier runs do not end this one: it could never go on.
    pub fn book_replayed(&mut self, line: u64, outcome: &Outcome, flags: Flags) {
        self.audience.replayed(outcome, flags);
        self.tell_failure(line, outcome);
    }

    fn tell_failure(&self, line: u64, outcome: &Outcome) {
        if let (Err(failure), true) = (&outcome.result, self.text_errors) {
            self.audience.line_failed(line, failure);
        }
    }

    /// A record that is too long cannot be kept for `--failed`.
    pub fn note_left_out(&self, line: u64, failure: &Failure, wanted: bool) {
        self.audience.left_out_of_failed(line, wanted && failure.code == ErrorCode::LineTooLong);
    }

    /// The run must end at once.
    pub fn stop(&mut self, why: Why) {
        self.why.get_or_insert(why);
        self.shutdown.raise(Level::Aborting);
    }

    /// The output or the journal has failed: the run ends, and this is why. What failed first is told.
    pub fn fail(&mut self, why: Why) {
        if !self.has_stopped() {
            self.why = Some(why);
        }
    }
}

/// A share of few lines says little: percentages count from the hundredth line on.
fn exceeds(allowance: Allowance, failed: u64, settled: u64) -> bool {
    const LINES_MIN: u64 = 100;
    let enough = matches!(allowance, Allowance::Lines(_)) || settled >= LINES_MIN;
    enough && !allowance.permits(failed, settled)
}
