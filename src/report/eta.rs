//! When the lines will be done, as far as the run so far tells. Pure: time is an argument.
//!
//! Invariant: knows the quotas by a mirror of its own, fed with how many attempts were counted, so that the engine pays
//! nothing for it.

use std::time::Duration;

use super::Counts;
use super::quotas::AllQuotas;

/// Rates are those of about so many seconds.
const RATE_SECONDS: f64 = 10.0;
/// So long after a quota has held the lines back, their rate is the quota's and not the service's.
const HELD_SECONDS: f64 = 2.0 * RATE_SECONDS;
/// Quotas are played forward no more often than this.
const EVERY: Duration = Duration::from_secs(1);
/// What lies farther ahead is not told.
const LEFT_MAX: Duration = Duration::from_secs(100_000_000);

/// Looks at a run's counts again and again.
#[derive(Debug)]
pub struct Eta {
    rates: Rates,
    quotas: Option<AllQuotas>,
    /// Attempts that the mirror knows.
    sent: u64,
    /// When the quotas were last seen to let nothing pass.
    held_at: Option<Duration>,
    /// What kept everything back at the last look.
    held_by: Option<String>,
    /// What was found out last, and when.
    last: Option<(Duration, Option<Duration>)>,
}

impl Eta {
    /// Nothing is known yet.
    pub fn new(quotas: Option<AllQuotas>) -> Self {
        Self { rates: Rates::default(), quotas, sent: 0, held_at: None, held_by: None, last: None }
    }

    /// Whether it wants to look often, whatever is shown.
    pub fn looks_often(&self) -> bool {
        self.quotas.is_some()
    }

    /// Lines that the service settles a second, and tokens that it generates.
    pub fn rates(&self) -> (f64, f64) {
        (self.rates.lines, self.rates.tokens)
    }

    /// Looks at the counts.
    pub fn look(&mut self, now: Duration, counts: &Counts) {
        // What a journal answers says nothing of the service.
        let settled = counts.settled().saturating_sub(counts.replayed());
        self.rates.update(now.as_secs_f64(), settled, counts.tokens().1);
        let Some(quotas) = &mut self.quotas else { return };
        let sent = counts.attempts();
        quotas.take(now, sent - self.sent, counts.tokens_each());
        self.sent = sent;
        self.held_by = quotas.holding(now);
        if self.held_by.is_some() {
            self.held_at = Some(now);
        }
    }

    /// What keeps everything back, for people.
    pub fn held_by(&self) -> Option<&str> {
        self.held_by.as_deref()
    }

    /// How long until the last of `total` lines is settled; `None` when nothing tells.
    pub fn left(&mut self, now: Duration, total: u64, counts: &Counts) -> Option<Duration> {
        let unsettled = total.saturating_sub(counts.settled());
        if unsettled == 0 {
            return None;
        }
        if self.quotas.is_none() {
            let left = Duration::try_from_secs_f64(unsettled as f64 / self.rates.lines).ok()?;
            return Some(left).filter(|left| *left < LEFT_MAX);
        }
        match self.last {
            Some((at, left)) if now.saturating_sub(at) < EVERY => left.map(|left| left.saturating_sub(now - at)),
            _ => {
                let left = self.left_by_quotas(now, unsettled, counts);
                self.last = Some((now, left));
                left
            }
        }
    }

    fn left_by_quotas(&self, now: Duration, unsettled: u64, counts: &Counts) -> Option<Duration> {
        let quotas = self.quotas.as_ref()?;
        let seconds_each = counts.seconds_each()?;
        let unsent = unsettled.saturating_sub(counts.in_flight());
        let held = self.held_at.is_some_and(|at| now.saturating_sub(at).as_secs_f64() < HELD_SECONDS);
        let speed = if held {
            counts.lines_per_second(seconds_each)
        } else {
            Some(self.rates.lines).filter(|speed| *speed > 0.0)
        };
        let sending = quotas.time_for(now, unsent, counts.tokens_each(), Some(speed?));
        let left = sending.saturating_add(Duration::from_secs_f64(seconds_each));
        Some(left).filter(|left| *left < LEFT_MAX)
    }
}

/// Rates that forget: an exponential mean over about [`RATE_SECONDS`].
#[derive(Debug, Default)]
struct Rates {
    seconds: f64,
    settled: u64,
    generated: u64,
    lines: f64,
    tokens: f64,
}

impl Rates {
    fn update(&mut self, seconds: f64, settled: u64, generated: u64) {
        let passed = seconds - self.seconds;
        if passed <= 0.0 {
            return;
        }
        // Until the window is full, the mean since the start is the best estimate.
        let weight = (passed / RATE_SECONDS.min(seconds)).min(1.0);
        self.lines += weight * (settled.saturating_sub(self.settled) as f64 / passed - self.lines);
        self.tokens += weight * (generated.saturating_sub(self.generated) as f64 / passed - self.tokens);
        (self.seconds, self.settled, self.generated) = (seconds, settled, generated);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::engine::Event;
    use crate::flow::Quotas;
    use crate::line::completion::Flags;
    use crate::line::{Answer, Outcome};

    const LOOK: Duration = Duration::from_millis(200);

    fn outcome() -> Outcome {
        let body = r#"{"choices":[{"index":0,"message":{"content":"a"},"finish_reason":"stop"}]}"#;
        let answer = Answer::parse(bytes::Bytes::from_static(body.as_bytes())).unwrap();
        Outcome { result: Ok(answer), attempts: 1, seconds: 0.5 }
    }

    fn quotas(rate: &str) -> Option<AllQuotas> {
        AllQuotas::from_each(vec![Quotas::new(&[rate.parse().unwrap()], None)])
    }

    /// Looks until then, as often as the display does.
    fn look_until(eta: &mut Eta, counts: &Counts, from: f64, until: f64) -> Duration {
        let mut now = Duration::from_secs_f64(from);
        while now.as_secs_f64() < until {
            now += LOOK;
            eta.look(now, counts);
        }
        now
    }

    fn ask(counts: &Counts, lines: u64) {
        (1..=lines).for_each(|line| counts.event(&Event::Sent { in_flight: line as usize }));
        (0..lines).for_each(|_| counts.settled_one(&outcome(), Flags::default()));
        counts.event(&Event::Ended { in_flight: 0 });
    }

    #[test]
    fn while_a_quota_waits_what_is_left_falls_with_the_clock() {
        let (mut eta, counts) = (Eta::new(quotas("60/10s")), Counts::default());
        eta.look(LOOK, &counts);
        assert_eq!((eta.left(LOOK, 400, &counts), eta.held_by()), (None, None));
        ask(&counts, 60);
        // Sixty more at 10, 20, 30, 40 and 50 s, the last forty at 60 s, each a little later than that.
        let mut left_at = |from, until| {
            let now = look_until(&mut eta, &counts, from, until);
            assert_eq!(eta.held_by(), Some("the quota of 60 per 10 s"));
            eta.left(now, 400, &counts).unwrap().as_secs_f64()
        };
        let (early, late) = (left_at(0.2, 2.0), left_at(2.0, 9.0));
        assert!((58.0..63.0).contains(&early), "{early}");
        assert!((early - late - 7.0).abs() < 0.5, "{early} and {late}");
    }

    #[test]
    fn without_quotas_the_rate_of_the_service_tells() {
        let (mut eta, counts) = (Eta::new(None), Counts::default());
        // What a journal answers is no speed.
        (0..1000).for_each(|_| counts.replayed_one(&outcome(), Flags::default()));
        let mut now = Duration::ZERO;
        for _ in 0..100 {
            ask(&counts, 2);
            now += LOOK;
            eta.look(now, &counts);
        }
        let left = eta.left(now, 1600, &counts).unwrap().as_secs_f64();
        assert!((39.9..40.1).contains(&left), "{left}");
        assert_eq!(eta.left(now, 1200, &counts), None);
    }

    #[test]
    fn a_service_that_is_slower_than_its_quota_decides() {
        let (mut eta, counts) = (Eta::new(quotas("1000/s")), Counts::default());
        let mut now = Duration::ZERO;
        for _ in 0..100 {
            ask(&counts, 1);
            now += LOOK;
            eta.look(now, &counts);
        }
        let left = eta.left(now, 600, &counts).unwrap().as_secs_f64();
        assert!((99.0..102.0).contains(&left), "{left}");
    }
}
