//! How long an answered request waited at the server. Pure.
//!
//! The server's own times say it; otherwise it is what the first token took beyond the floor. What a model's loading
//! took is no waiting.

use std::time::Duration;

use super::floors::Floors;
use super::{Answered, ServerTimes};

/// What a first token may at most come later than the floor for other reasons than waiting.
const SLACK_SECONDS_MAX: f64 = 0.02;
/// The least of that: clocks and schedulers.
const SLACK_SECONDS_MIN: f64 = 0.003;
/// Share of first tokens that come within a quarter of the slack.
const SLACK_QUANTILE: f64 = 0.1;
const SLACK_WEIGHT: f64 = 0.1;
/// A silence that is longer than such a part of the usual service time ...
const STALL_SERVICE_TIMES: f64 = 0.5;
/// ... and than so many usual silences is no queue but a model that is being loaded, or a stall.
const STALL_SILENCES: f64 = 3.0;
/// Weight of a new silence in the usual silence.
const SILENCE_WEIGHT: f64 = 0.25;
/// Weight of a new answer in the usual service time.
const SERVICE_WEIGHT: f64 = 0.05;

/// What an answer says of the queue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Evidence {
    /// The request waited so long, of so much between sending and the end.
    Waited { queue_seconds: f64 },
    /// It says nothing of the queue, while others may.
    None,
    /// Answers of this kind can never say anything.
    Blind,
}

/// What is remembered to read answers.
#[derive(Debug)]
pub struct Waiting {
    floors: Floors,
    slack_seconds: f64,
    first_token_at: Option<Duration>,
    service_seconds: Option<f64>,
    silence_seconds: f64,
    silence: (Duration, Duration),
    is_stall: bool,
    answers: u32,
}

impl Default for Waiting {
    fn default() -> Self {
        Self {
            floors: Floors::default(),
            slack_seconds: SLACK_SECONDS_MAX,
            first_token_at: None,
            service_seconds: None,
            silence_seconds: 0.0,
            silence: Default::default(),
            is_stall: false,
            answers: 0,
        }
    }
}

impl Waiting {
    /// Reads one answer.
    pub fn read(&mut self, answered: &Answered) -> Evidence {
        let wall_seconds = answered.ended_at.saturating_sub(answered.sent_at).as_secs_f64();
        let queue_seconds = match (answered.served, answered.first_token_at) {
            (Some(served), _) => Some(served.waiting().as_secs_f64()),
            (None, Some(first_token_at)) => self.beyond_floor(answered, first_token_at),
            (None, None) => return Evidence::Blind,
        };
        let was_loading = self.was_loading(answered);
        let Some(queue_seconds) = queue_seconds else { return Evidence::None };
        if was_loading {
            return Evidence::None;
        }
        let service_seconds = (wall_seconds - queue_seconds).max(0.0);
        let usual = self.service_seconds.get_or_insert(service_seconds);
        self.answers = self.answers.saturating_add(1);
        *usual += SERVICE_WEIGHT.max(1.0 / f64::from(self.answers)) * (service_seconds - *usual);
        Evidence::Waited { queue_seconds }
    }

    /// How long requests take that need not wait.
    pub fn service_seconds(&self) -> f64 {
        self.service_seconds.unwrap_or(0.0)
    }

    fn beyond_floor(&mut self, answered: &Answered, first_token_at: Duration) -> Option<f64> {
        let seconds = first_token_at.saturating_sub(answered.sent_at).as_secs_f64();
        let floor = self.floors.heard(answered.request_bytes, seconds)?;
        let late = seconds - floor;
        let is_low = 4.0 * late < self.slack_seconds;
        let change = if is_low { SLACK_QUANTILE - 1.0 } else { SLACK_QUANTILE };
        self.slack_seconds =
            (self.slack_seconds * (1.0 + SLACK_WEIGHT * change)).clamp(SLACK_SECONDS_MIN, SLACK_SECONDS_MAX);
        Some((late - self.slack_seconds).max(0.0))
    }

    /// Whether the request waited, at least in part, for the model itself.
    fn was_loading(&mut self, answered: &Answered) -> bool {
        let token_at = answered.first_token_at.unwrap_or(answered.ended_at);
        let first_token_at = *self.first_token_at.get_or_insert(token_at);
        let is_among_first = answered.served.is_none() && answered.sent_at < first_token_at;
        if let Some(silence) = answered.silence {
            self.hear_silence(silence);
        }
        let in_stall = self.is_stall && answered.sent_at < self.silence.1 && self.silence.0 < token_at;
        is_among_first || in_stall
    }

    fn hear_silence(&mut self, silence: (Duration, Duration)) {
        if silence == self.silence {
            return;
        }
        self.silence = silence;
        let Some(usual) = self.service_seconds else { return };
        let seconds = silence.1.saturating_sub(silence.0).as_secs_f64();
        let stall_seconds = (STALL_SERVICE_TIMES * usual).max(STALL_SILENCES * self.silence_seconds);
        self.is_stall = seconds > stall_seconds;
        self.silence_seconds += SILENCE_WEIGHT * (seconds.min(stall_seconds) - self.silence_seconds);
    }
}

impl ServerTimes {
    /// What is left of the total.
    fn waiting(&self) -> Duration {
        let busy = self.load.saturating_add(self.prompt_evaluation).saturating_add(self.evaluation);
        self.total.saturating_sub(busy)
    }
}
