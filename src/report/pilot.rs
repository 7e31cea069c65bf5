//! The pilot: what a few lines took, and what that says of all of them.
//!
//! Invariant: only answered lines speak for the others; what a journal answers speaks as well as what was just asked.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::Counts;
use super::outlook::Ends;
use super::quotas::AllQuotas;
use crate::config::Config;
use crate::flow::forecast::Plan;
use crate::flow::forecast::pilot::{Projection, Sample, project};
use crate::flow::people::thousands;
use crate::line::{Answer, Outcome};

/// Requests that are in flight at each endpoint before anything is known of it.
const IN_FLIGHT_AT_FIRST: usize = 4;

/// What a pilot is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pilot {
    /// Lines that are tried.
    pub tried: u64,
    /// Lines that can be sent.
    pub lines: u64,
    /// Lines that cannot.
    pub bad: u64,
}

/// What the lines of a pilot took.
#[derive(Debug)]
pub struct Samples {
    pilot: Pilot,
    taken: Mutex<Vec<Sample>>,
}

impl Samples {
    /// None so far.
    pub fn new(pilot: Pilot) -> Self {
        Self { pilot, taken: Mutex::default() }
    }

    /// What the pilot is about.
    pub fn pilot(&self) -> &Pilot {
        &self.pilot
    }

    /// Takes note of a line that is settled.
    pub fn add(&self, outcome: &Outcome) {
        if let Ok(answer) = &outcome.result {
            self.taken.lock().unwrap_or_else(PoisonError::into_inner).push(sample(answer, outcome.seconds));
        }
    }

    /// What is said of all lines; nothing when no line was answered.
    pub fn projected(&self, config: &Config, counts: &Counts, quotas: Option<&AllQuotas>) -> Option<Projected> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = self.pilot.lines;
        let time_for = |lines: u64, tokens_each: f64, speed: f64| match quotas {
            Some(quotas) => quotas.time_for(Duration::ZERO, lines, tokens_each, Some(speed)),
            None => Duration::try_from_secs_f64(lines as f64 / speed).unwrap_or(Duration::MAX),
        };
        let left = lines.saturating_sub(taken.len() as u64);
        let concurrency = concurrency(config, counts);
        let quota_for = |tokens_each: f64| quotas.and_then(|quotas| quotas.decisive(left, tokens_each));
        // Which quota decides depends on the tokens, which the projection finds out.
        let tokens_each = project(&taken, lines, concurrency, None, time_for)?.tokens_each().unwrap_or(0.0);
        let quota = quota_for(tokens_each);
        let projection = project(&taken, lines, concurrency, quota.as_deref(), time_for)?;
        let seconds: f64 = taken.iter().map(|sample| sample.seconds).sum();
        let speed = concurrency as f64 * taken.len() as f64 / seconds.max(1e-3);
        let ends = Ends::of(config, SystemTime::now()).now();
        let forecast = Plan { lines: left, quota, lines_per_second: Some(speed), ends }
            .forecast(|lines| time_for(lines, tokens_each, speed));
        let warning = forecast.is_warning().then(|| forecast.to_string());
        Some(Projected { pilot: self.pilot, projection, warning })
    }
}

/// What all lines will take, as far as a pilot tells.
#[derive(Debug)]
pub struct Projected {
    pilot: Pilot,
    projection: Projection,
    warning: Option<String>,
}

impl Projected {
    /// What people are told, line by line.
    pub fn told(&self) -> Vec<String> {
        let mut told: Vec<String> = self.projection.to_string().lines().map(str::to_owned).collect();
        if self.pilot.bad > 0 {
            let noun = if self.pilot.bad == 1 { "line is" } else { "lines are" };
            told.push(format!(
                "{} {noun} left out, which cannot be sent: --dry-run says why",
                thousands(self.pilot.bad)
            ));
        }
        told.extend(self.warning.clone());
        told
    }

    /// The same for programs. Times are those of the lines that were not tried.
    pub fn to_json(&self) -> Value {
        let range = |[low, mean, high]: [f64; 3]| json!({ "low": low, "mean": mean, "high": high });
        let tokens = self.projection.tokens().map(|spread| range([spread.low, spread.mean, spread.high]));
        json!({
            "tokens": tokens,
            "seconds_left": range(self.projection.time().map(|time| time.as_secs_f64())),
        })
    }
}

fn sample(answer: &Answer, seconds: f64) -> Sample {
    let told = answer.usage.is_some();
    let tokens = |count: u64| Some(count).filter(|_| told);
    Sample { seconds, prompt_tokens: tokens(answer.tokens.prompt), completion_tokens: tokens(answer.tokens.completion) }
}

/// How many were in flight at most. Where a journal answered everything nobody knows, but how many there are at first.
fn concurrency(config: &Config, counts: &Counts) -> usize {
    let ceiling = config.limits.concurrency.get();
    let at_first = IN_FLIGHT_AT_FIRST * config.service.endpoints.len();
    match counts.in_flight_max() as usize {
        0 if config.limits.fixed => ceiling,
        0 => ceiling.min(at_first),
        reached => reached,
    }
}
