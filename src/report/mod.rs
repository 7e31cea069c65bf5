//! The report: what people see on stderr. Only hears events; decides nothing.
//!
//! Invariants: nothing here writes stdout; text from outside is escaped before it is shown; no prompt, answer or key is
//! ever shown.

mod counting;
pub mod counts;
mod eta;
pub mod log;
pub mod meta;
mod outlook;
mod pilot;
mod progress;
mod quotas;
mod summary;

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use crate::config::{Config, Verbosity};
use crate::engine::Event;
use crate::exit::Exit;
use crate::line::completion::Flags;
use crate::line::escape::{self, for_people};
use crate::line::{Failure, Outcome};

pub use counting::count as count_lines;
pub use counts::Counts;
pub use outlook::Lines;
use outlook::Outlook;
pub use pilot::Pilot;
use pilot::{Projected, Samples};
use progress::Progress;

/// Who hears how a run goes.
pub trait Audience {
    /// A line is settled.
    fn settled(&self, outcome: &Outcome, flags: Flags);

    /// A line was settled before this run, and its journal says how.
    fn replayed(&self, outcome: &Outcome, flags: Flags);

    /// A line failed, in a format that has no place for the reason.
    fn line_failed(&self, line: u64, failure: &Failure);

    /// A record that is too long cannot be kept for `--failed`, if that is `wanted`.
    fn left_out_of_failed(&self, line: u64, wanted: bool);

    /// Something happened in the engine.
    fn event(&self, event: &Event);
}

/// Tells people how a run goes.
#[derive(Debug)]
pub struct Reporter {
    verbosity: Verbosity,
    counts: Arc<Counts>,
    progress: Progress,
    outlook: Outlook,
    /// What the lines of a pilot took, when this is one.
    samples: OnceLock<Samples>,
    began: Instant,
    began_at: SystemTime,
    left_out: AtomicBool,
}

impl Reporter {
    /// Begins to report a run: a bar on a terminal, lines where `--progress` asks for them. A bar would tear answers that
    /// go to the terminal too.
    pub fn start(config: &Config, answers_on_terminal: bool) -> Self {
        let counts = Arc::new(Counts::default());
        let progress = Progress::start(config, &counts, answers_on_terminal);
        let reporter = Self {
            verbosity: config.report.verbosity,
            counts,
            progress,
            outlook: Outlook::default(),
            samples: OnceLock::new(),
            began: Instant::now(),
            began_at: SystemTime::now(),
            left_out: AtomicBool::new(false),
        };
        config.warnings.iter().for_each(|warning| reporter.warn(warning));
        reporter
    }

    /// From here on the run is a pilot.
    pub fn begin_pilot(&self, pilot: Pilot) {
        let _ = self.samples.set(Samples::new(pilot));
    }

    /// What the run is a pilot of, if it is one.
    pub fn pilot(&self) -> Option<&Pilot> {
        self.samples.get().map(Samples::pilot)
    }

    /// What has been counted so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// When the run began.
    pub fn began_at(&self) -> SystemTime {
        self.began_at
    }

    /// Seconds since the run began.
    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Tells a warning, unless that is not wanted.
    pub fn warn(&self, message: &str) {
        if self.verbosity > Verbosity::Quiet {
            self.say(&format!("anvil-filter: {message}"));
        }
    }

    /// The end: takes the bar away and tells the summary, and of a pilot what it says of all lines.
    pub fn finish(&self, config: &Config, unsettled: u64, complete: bool, input_ended: bool, exit: Exit) {
        self.outlook.end();
        self.progress.finish();
        if self.verbosity > Verbosity::Quiet && exit != Exit::ReaderGone {
            self.say(&summary::line(self, unsettled, complete, input_ended));
            let told = self.projected(config).map_or_else(Vec::new, |projected| projected.told());
            told.iter().for_each(|told| self.say(&format!("anvil-filter: {told}")));
        }
    }

    /// What a pilot says of all lines, if this is one and any line was answered.
    fn projected(&self, config: &Config) -> Option<Projected> {
        self.samples.get()?.projected(config, &self.counts, self.progress.quotas().get())
    }

    fn say(&self, message: &str) {
        self.progress.voice().say(message);
    }
}

impl Audience for &Reporter {
    fn settled(&self, outcome: &Outcome, flags: Flags) {
        self.counts.settled_one(outcome, flags);
        self.samples.get().into_iter().for_each(|samples| samples.add(outcome));
    }

    fn replayed(&self, outcome: &Outcome, flags: Flags) {
        self.counts.replayed_one(outcome, flags);
        self.samples.get().into_iter().for_each(|samples| samples.add(outcome));
    }

    fn line_failed(&self, line: u64, failure: &Failure) {
        self.say(&format!("line {line}: {failure}"));
    }

    fn left_out_of_failed(&self, line: u64, wanted: bool) {
        if wanted && !self.left_out.swap(true, Ordering::Relaxed) {
            self.warn(&format!("line {line} is too long to be kept: --failed leaves such lines out"));
        }
    }

    fn event(&self, event: &Event) {
        self.counts.event(event);
        match event {
            Event::Sent { .. } | Event::Ended { .. } | Event::Spent { .. } => {}
            Event::DialectFound(dialect) => tracing::info!(dialect = dialect.name(), "dialect found"),
            Event::Retry { reason, delay } => {
                tracing::info!(delay_seconds = delay.as_secs_f64(), reason = for_people(reason, 300), "retry")
            }
            Event::Paused { reason } => self.warn(&format!("paused: {reason}")),
            Event::Resumed => self.warn("the service answers again: going on"),
            Event::Lacks { name, model, reason } => self.warn(&format!(
                "{name} does not serve {}, the others are asked: {}",
                for_people(model, 100),
                for_people(reason, 300)
            )),
            Event::Endpoint { name, reason: Some(reason) } => {
                self.warn(&format!("{name} is out, the others go on: {reason}"))
            }
            Event::Endpoint { name, reason: None } => self.warn(&format!("{name} is back")),
            Event::Draining { in_flight: 0 } => {}
            Event::Draining { in_flight } => {
                self.warn(&format!("stopping: waiting for {in_flight} requests in flight"))
            }
        }
    }
}

/// Counts alone: who asks for them tells people.
impl Audience for Arc<Counts> {
    fn settled(&self, outcome: &Outcome, flags: Flags) {
        self.settled_one(outcome, flags);
    }

    fn replayed(&self, outcome: &Outcome, flags: Flags) {
        self.replayed_one(outcome, flags);
    }

    fn line_failed(&self, _: u64, _: &Failure) {}

    fn left_out_of_failed(&self, _: u64, _: bool) {}

    fn event(&self, event: &Event) {
        Counts::event(self, event);
    }
}

/// Writes one message to stderr, whatever is quoted in it made harmless. That it could not be told is no reason to stop.
pub fn say(message: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", escape::message(message));
}

/// Whether stderr is a terminal.
fn stderr_is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Sends the program's log to stderr when `-v` asks for it.
pub fn start_log(verbosity: Verbosity) {
    let level = match verbosity {
        Verbosity::Quiet | Verbosity::Normal => return,
        Verbosity::Verbose => tracing::Level::INFO,
        Verbosity::Debug => tracing::Level::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(stderr_is_terminal())
        .init();
}
