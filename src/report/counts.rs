//! What is counted in a run. One writer, the engine's task; read by the progress display from its own thread.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::engine::Event;
use crate::line::completion::Flags;
use crate::line::{ErrorCode, Outcome};

/// Models that are counted by name; the rest are counted together.
const MODELS_MAX: usize = 64;
/// No answer is taken to be faster: clocks are not that fine.
const SECONDS_EACH_MIN: f64 = 1e-3;

/// The counters of a run.
#[derive(Debug, Default)]
pub struct Counts {
    answered: AtomicU64,
    failed: AtomicU64,
    replayed: AtomicU64,
    truncated: AtomicU64,
    empty: AtomicU64,
    other_model: AtomicU64,
    whitespace: AtomicU64,
    attempts: AtomicU64,
    retries: AtomicU64,
    in_flight: AtomicU64,
    in_flight_max: AtomicU64,
    /// Lines that this run asked and that were answered, and the time that they took together.
    answered_here: AtomicU64,
    answered_microseconds: AtomicU64,
    tokens_prompt: AtomicU64,
    tokens_completion: AtomicU64,
    names: Mutex<Names>,
}

#[derive(Debug, Default)]
struct Names {
    codes: BTreeMap<ErrorCode, u64>,
    models: Vec<(Box<str>, u64)>,
    further_models: u64,
}

/// With one writer a load and a store are an addition, without the cost of a locked instruction.
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed) + amount, Relaxed);
}

impl Counts {
    /// Lines that have their completion.
    pub fn answered(&self) -> u64 {
        self.answered.load(Relaxed)
    }

    /// Lines that have an error.
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// Lines that have either.
    pub fn settled(&self) -> u64 {
        self.answered() + self.failed()
    }

    /// Those of them that were settled before this run.
    pub fn replayed(&self) -> u64 {
        self.replayed.load(Relaxed)
    }

    /// HTTP calls for lines.
    pub fn attempts(&self) -> u64 {
        self.attempts.load(Relaxed)
    }

    /// Attempts that will be repeated.
    pub fn retries(&self) -> u64 {
        self.retries.load(Relaxed)
    }

    /// Requests in flight now.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    /// The most requests that were in flight at one time.
    pub fn in_flight_max(&self) -> u64 {
        self.in_flight_max.load(Relaxed)
    }

    /// Lines that this run asked and that were answered.
    pub fn answered_here(&self) -> u64 {
        self.answered_here.load(Relaxed)
    }

    /// The time from the first attempt to the answer of all those lines together, in seconds.
    pub fn seconds_answered(&self) -> f64 {
        self.answered_microseconds.load(Relaxed) as f64 / 1e6
    }

    /// The mean of those times, in seconds; nothing before the first answer of this run.
    pub fn seconds_each(&self) -> Option<f64> {
        let answered = Some(self.answered_here()).filter(|answered| *answered > 0)?;
        Some(self.seconds_answered() / answered as f64)
    }

    /// How many lines a second the service answers when no quota holds them back: as many as are in flight, in the time
    /// that each takes on average (Little's law).
    pub fn lines_per_second(&self, seconds_each: f64) -> Option<f64> {
        Some(self.in_flight_max() as f64 / seconds_each.max(SECONDS_EACH_MIN)).filter(|speed| *speed > 0.0)
    }

    /// Tokens of prompts and completions that one line of this run took on average; 0 where the service tells none.
    pub fn tokens_each(&self) -> f64 {
        let (prompt, completion) = self.tokens();
        (prompt + completion) as f64 / self.answered_here().max(1) as f64
    }

    /// Tokens of prompts and of completions, as the service counts them.
    pub fn tokens(&self) -> (u64, u64) {
        (self.tokens_prompt.load(Relaxed), self.tokens_completion.load(Relaxed))
    }

    /// Flagged answers: truncated, empty, from another model.
    pub fn flags(&self) -> [(&'static str, u64); 4] {
        [
            ("truncated", self.truncated.load(Relaxed)),
            ("empty", self.empty.load(Relaxed)),
            ("other_model", self.other_model.load(Relaxed)),
            ("whitespace", self.whitespace.load(Relaxed)),
        ]
    }

    /// Failed lines by their code.
    pub fn codes(&self) -> Vec<(ErrorCode, u64)> {
        self.names().codes.iter().map(|(code, count)| (*code, *count)).collect()
    }

    /// Answers by the model that the service says gave them.
    pub fn models(&self) -> Vec<(String, u64)> {
        let names = self.names();
        let further = (names.further_models > 0).then(|| ("(others)".to_owned(), names.further_models));
        names.models.iter().map(|(name, count)| (name.to_string(), *count)).chain(further).collect()
    }

    fn names(&self) -> std::sync::MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Books one outcome.
    pub fn settled_one(&self, outcome: &Outcome, flags: Flags) {
        if let Ok(answer) = &outcome.result {
            add(&self.tokens_prompt, answer.tokens.prompt);
            add(&self.tokens_completion, answer.tokens.completion);
            add(&self.answered_here, 1);
            add(&self.answered_microseconds, (outcome.seconds * 1e6) as u64);
        }
        self.any_one(outcome, flags);
    }

    /// Books one outcome that was paid for before this run.
    pub fn replayed_one(&self, outcome: &Outcome, flags: Flags) {
        add(&self.replayed, 1);
        self.any_one(outcome, flags);
    }

    fn any_one(&self, outcome: &Outcome, flags: Flags) {
        match &outcome.result {
            Ok(answer) => {
                add(&self.answered, 1);
                for (counter, set) in [
                    (&self.truncated, flags.truncated),
                    (&self.empty, flags.empty),
                    (&self.other_model, flags.other_model),
                    (&self.whitespace, flags.whitespace),
                ] {
                    add(counter, u64::from(set));
                }
                self.names().served(answer.model().as_deref().unwrap_or("(not said)"));
            }
            Err(failure) => {
                add(&self.failed, 1);
                *self.names().codes.entry(failure.code).or_default() += 1;
            }
        }
    }

    /// Books one event.
    pub fn event(&self, event: &Event) {
        match event {
            Event::Sent { in_flight } => {
                add(&self.attempts, 1);
                self.in_flight.store(*in_flight as u64, Relaxed);
                if *in_flight as u64 > self.in_flight_max() {
                    self.in_flight_max.store(*in_flight as u64, Relaxed);
                }
            }
            Event::Ended { in_flight } => self.in_flight.store(*in_flight as u64, Relaxed),
            Event::Retry { .. } => add(&self.retries, 1),
            _ => {}
        }
    }
}

impl Names {
    fn served(&mut self, model: &str) {
        if let Some((_, count)) = self.models.iter_mut().find(|(name, _)| name.as_ref() == model) {
            *count += 1;
        } else if self.models.len() < MODELS_MAX {
            self.models.push((model.into(), 1));
        } else {
            self.further_models += 1;
        }
    }
}
