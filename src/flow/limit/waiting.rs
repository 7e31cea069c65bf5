//! How long an answered request waited at the server. Pure.
//!
//! The server's own times say it; otherwise it is what the first token took beyond the floor and some slack. Waiting
//! for the model itself, while it is loaded, is no evidence of a queue.

use std::time::Duration;

use super::floors::Floors;
use super::{Answered, ServerTimes};

/// The most and the least that a first token may come after the floor without having waited: networks, schedulers.
const SLACK_SECONDS_MAX: f64 = 0.02;
const SLACK_SECONDS_MIN: f64 = 0.003;
/// Between those, the slack is so many times the lateness that this share of first tokens stays below: of those that
/// never waited there are more, so it measures the noise and not the queue.
const SLACK_FACTOR: f64 = 4.0;
const SLACK_QUANTILE: f64 = 0.1;
const SLACK_WEIGHT: f64 = 0.1;
/// A silence is a stall, or a model being loaded, when it is longer than this part of the usual service time and than
/// so many usual silences: where few slots serve many clients, silences belong to the queue.
const STALL_SERVICE_PART: f64 = 0.5;
const STALL_SILENCES: f64 = 3.0;
const SILENCE_WEIGHT: f64 = 0.25;
/// Least weight of a new answer in the usual service time; the first ones count alike.
const SERVICE_WEIGHT_MIN: f64 = 0.05;

/// What an answer says of the queue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Evidence {
    /// The request waited so long.
    Waited {
        /// Time in the server's queue, in seconds.
        queue_seconds: f64,
    },
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
    service_seconds: f64,
    answers: u32,
    first_token_at: Option<Duration>,
    silence: (Duration, Duration),
    silence_seconds: f64,
    is_stall: bool,
}

impl Default for Waiting {
    fn default() -> Self {
        Self {
            floors: Floors::default(),
            slack_seconds: SLACK_SECONDS_MAX,
            service_seconds: 0.0,
            answers: 0,
            first_token_at: None,
            silence: (Duration::ZERO, Duration::ZERO),
            silence_seconds: 0.0,
            is_stall: false,
        }
    }
}

impl Waiting {
    /// Reads one answer.
    pub fn read(&mut self, answered: &Answered) -> Evidence {
        // A server that fills in no times is none that tells them.
        let served = answered.served.filter(|served| !served.total.is_zero());
        let queue_seconds = match (served, answered.first_token_at) {
            (Some(served), _) => Some(served.waiting().as_secs_f64()),
            (None, Some(first_token_at)) => self.beyond_floor(answered, first_token_at),
            (None, None) => return Evidence::Blind,
        };
        let waited_for_model = self.waited_for_model(answered, served.is_some());
        let Some(queue_seconds) = queue_seconds.filter(|_| !waited_for_model) else { return Evidence::None };
        let wall_seconds = answered.ended_at.saturating_sub(answered.sent_at).as_secs_f64();
        self.hear_service((wall_seconds - queue_seconds).max(0.0));
        Evidence::Waited { queue_seconds }
    }

    /// How long requests usually take, waiting aside, in seconds.
    pub fn service_seconds(&self) -> f64 {
        self.service_seconds
    }

    fn hear_service(&mut self, seconds: f64) {
        self.answers = self.answers.saturating_add(1);
        let weight = SERVICE_WEIGHT_MIN.max(1.0 / f64::from(self.answers));
        self.service_seconds += weight * (seconds - self.service_seconds);
    }

    fn beyond_floor(&mut self, answered: &Answered, first_token_at: Duration) -> Option<f64> {
        let seconds = first_token_at.saturating_sub(answered.sent_at).as_secs_f64();
        let late = seconds - self.floors.heard(answered.request_bytes, seconds)?;
        // Ups and downs balance where a quantile's share of all is below.
        let is_below = SLACK_FACTOR * late < self.slack_seconds;
        let change = SLACK_QUANTILE - f64::from(u8::from(is_below));
        let slack_seconds = self.slack_seconds * (1.0 + SLACK_WEIGHT * change);
        self.slack_seconds = slack_seconds.clamp(SLACK_SECONDS_MIN, SLACK_SECONDS_MAX);
        Some((late - self.slack_seconds).max(0.0))
    }

    /// Whether the request waited for the model itself: it is among the first, or a stall lies in its waiting.
    fn waited_for_model(&mut self, answered: &Answered, load_is_told: bool) -> bool {
        let token_at = answered.first_token_at.unwrap_or(answered.ended_at);
        let first_token_at = *self.first_token_at.get_or_insert(token_at);
        if let Some(silence) = answered.silence.filter(|silence| *silence != self.silence) {
            self.hear_silence(silence);
        }
        let (from, until) = self.silence;
        let met_stall = self.is_stall && answered.sent_at < until && from < token_at;
        met_stall || !load_is_told && answered.sent_at < first_token_at
    }

    fn hear_silence(&mut self, (from, until): (Duration, Duration)) {
        self.silence = (from, until);
        if self.answers > 0 {
            let seconds = until.saturating_sub(from).as_secs_f64();
            let usual_max = (STALL_SERVICE_PART * self.service_seconds).max(STALL_SILENCES * self.silence_seconds);
            self.is_stall = seconds > usual_max;
            self.silence_seconds += SILENCE_WEIGHT * (seconds.min(usual_max) - self.silence_seconds);
        }
    }
}

impl ServerTimes {
    /// What the parts leave of the total.
    fn waiting(&self) -> Duration {
        let busy = self.load.saturating_add(self.prompt_evaluation).saturating_add(self.evaluation);
        self.total.saturating_sub(busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// A streamed answer: its first token came after `token`, its end a second after that.
    fn streamed(sent: f64, token: f64, request_bytes: usize) -> Answered {
        Answered {
            sent_at: at(sent),
            first_token_at: Some(at(sent + token)),
            ended_at: at(sent + token + 1.0),
            request_bytes,
            served: None,
            in_flight: 4,
            silence: None,
        }
    }

    fn queue_seconds(evidence: Evidence) -> f64 {
        match evidence {
            Evidence::Waited { queue_seconds } => queue_seconds,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_servers_own_times_tell_waiting_from_loading() {
        let [load, prompt_evaluation, evaluation] = [3.0, 0.5, 4.0].map(at);
        let served = ServerTimes { total: at(9.5), load, prompt_evaluation, evaluation };
        let answered = Answered { served: Some(served), ..streamed(0.0, 5.5, 100) };
        assert_eq!(Waiting::default().read(&answered), Evidence::Waited { queue_seconds: 2.0 });
        let nothing = ServerTimes { total: at(0.0), ..served };
        let blind = Answered { served: Some(nothing), first_token_at: None, ..answered };
        assert_eq!(Waiting::default().read(&blind), Evidence::Blind);
    }

    #[test]
    fn a_first_token_is_compared_with_those_of_as_long_requests() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.read(&streamed(0.0, 0.2, 1000)), Evidence::None, "the first of all");
        assert_eq!(queue_seconds(waiting.read(&streamed(5.0, 0.2, 1000))), 0.0);
        assert!((queue_seconds(waiting.read(&streamed(6.0, 0.7, 1000))) - 0.48).abs() < 0.01);
        assert_eq!(waiting.read(&streamed(7.0, 9.0, 50_000)), Evidence::None, "the first of this length");
        assert_eq!(queue_seconds(waiting.read(&streamed(20.0, 9.0, 50_000))), 0.0);
    }

    #[test]
    fn what_was_sent_before_the_first_token_waited_for_the_model() {
        let mut waiting = Waiting::default();
        for sent in [0.0, 1.0, 2.0, 31.0] {
            assert_eq!(waiting.read(&streamed(sent, 31.5 - sent, 1000)), Evidence::None);
        }
        assert_eq!(queue_seconds(waiting.read(&streamed(32.0, 0.5, 1000))), 0.0);
    }

    #[test]
    fn a_stall_is_told_from_the_silences_of_a_short_queue() {
        let mut waiting = Waiting::default();
        (0..9).for_each(|sent| {
            waiting.read(&streamed(f64::from(sent), 0.5, 1000));
        });
        let stalled = Answered { silence: Some((at(10.5), at(40.0))), ..streamed(10.0, 30.0, 1000) };
        assert_eq!(waiting.read(&stalled), Evidence::None);
        let later = Answered { silence: stalled.silence, ..streamed(41.0, 1.5, 1000) };
        assert!(queue_seconds(waiting.read(&later)) > 0.9, "it was over");
        let evidence = (0..9).map(|round| {
            let sent = 50.0 + 4.0 * f64::from(round);
            let silence = Some((at(sent), at(sent + 3.0)));
            waiting.read(&Answered { silence, ..streamed(sent, 3.0, 1000) })
        });
        assert!(evidence.skip(6).all(|evidence| queue_seconds(evidence) > 2.0), "others are served in between");
    }
}
