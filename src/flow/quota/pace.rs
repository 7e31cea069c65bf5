//! How long a number of requests takes under the quotas: plays the windows forward in batches, then extrapolates. Pure.

use std::time::Duration;

use super::window::{Moment, Window, moment, since_begin};
use super::{Quotas, tokens_told};

/// So many batches are played; what is left then goes on at the long-run rate. Bounds the cost to some milliseconds.
const BATCHES_MAX: usize = 8192;
/// A window that sending at full speed would fill is filled in so many batches, when the speed is known.
const BATCHES_PER_WINDOW: f64 = 64.0;

impl Quotas {
    /// How long from now until so many more requests are sent, as soon as the quotas allow, each of `tokens_each`
    /// tokens, and no more than `requests_per_second_max`.
    ///
    /// What others use of the same quotas is not known here, and what the service told counts for the first one only.
    pub fn time_for(
        &self,
        now: Duration,
        requests: u64,
        tokens_each: f64,
        requests_per_second_max: Option<f64>,
    ) -> Duration {
        if requests == 0 {
            return Duration::ZERO;
        }
        let speed = requests_per_second_max.filter(|speed| *speed > 0.0).unwrap_or(f64::INFINITY);
        let fills = |window: &&Window, speed: f64| speed * window.kept_seconds() > window.amount_max() as f64;
        let requests_windows = self.requests.iter().map(|(_, window)| window);
        let mut play = Play {
            // What that speed cannot fill holds nothing back but the first request.
            requests: requests_windows.filter(|window| fills(window, speed)).cloned().collect(),
            tokens: self.tokens.as_ref().filter(|window| fills(window, speed * tokens_each)).cloned(),
            tokens_each,
            speed,
            at: moment(self.ready_at(now, tokens_each.max(0.0) as u64).max(now)),
        };
        let left = play.run(requests);
        let rest = left as f64 / play.long_run_per_second();
        since_begin(play.at)
            .saturating_sub(now)
            .saturating_add(Duration::try_from_secs_f64(rest).unwrap_or(Duration::MAX))
    }

    /// Which quota decides how long so many requests take from nothing used, for people. None when all fit at once.
    pub fn decisive(&self, requests: u64, tokens_each: f64) -> Option<String> {
        let waits = |amount: f64, window: &Window| {
            let rounds = (amount / window.amount_max() as f64).ceil() - 1.0;
            rounds.max(0.0) * window.kept_seconds()
        };
        let amount = requests as f64;
        let stack = self.requests.iter().map(|(rate, window)| (waits(amount, window), rate.to_string()));
        let tokens = self.tokens.iter().map(|window| (waits(amount * tokens_each, window), tokens_told(window)));
        let last = stack.chain(tokens).max_by(|one, other| one.0.total_cmp(&other.0))?;
        (last.0 > 0.0).then_some(last.1)
    }

    /// The whole stack, for people: `60 per min, 1,000 per h and 2,000 tokens per min`. None without a quota.
    pub fn told(&self) -> Option<String> {
        let mut parts: Vec<String> = self.requests.iter().map(|(rate, _)| rate.to_string()).collect();
        parts.extend(self.tokens.iter().map(tokens_told));
        let last = parts.pop()?;
        Some(if parts.is_empty() { last } else { format!("{} and {last}", parts.join(", ")) })
    }
}

/// The windows as they will be.
struct Play {
    requests: Vec<Window>,
    tokens: Option<Window>,
    tokens_each: f64,
    speed: f64,
    at: Moment,
}

impl Play {
    /// Sends so many, as soon as they may go. Returns how many are left when enough batches were played.
    fn run(&mut self, requests: u64) -> u64 {
        let speed_batch = self.speed_batch();
        let mut left = requests;
        for _ in 0..BATCHES_MAX {
            if left == 0 {
                break;
            }
            self.wait();
            let batch = self.room().min(speed_batch).clamp(1, left);
            self.send(batch);
            left -= batch;
        }
        left
    }

    /// Goes on to when one more may be sent.
    fn wait(&mut self) {
        let each = self.tokens_each.ceil() as u64;
        let requests = self.requests.iter().map(|window| window.ready_at(1));
        let tokens = self.tokens.iter().map(|window| window.ready_at(each));
        self.at = requests.chain(tokens).fold(self.at, Moment::max);
    }

    fn room(&mut self) -> u64 {
        let at = self.at;
        let requests = self.requests.iter_mut().map(|window| window.room(at)).min().unwrap_or(u64::MAX);
        let tokens = self.tokens.as_mut().map_or(f64::INFINITY, |window| window.room(at) as f64 / self.tokens_each);
        requests.min(tokens as u64)
    }

    fn send(&mut self, batch: u64) {
        // All count from the batch's begin: then the next batch in their place keeps the same distances.
        let at = self.at;
        self.requests.iter_mut().for_each(|window| window.add(at, batch));
        if let Some(window) = &mut self.tokens {
            window.add(at, (batch as f64 * self.tokens_each).ceil() as u64);
        }
        let takes_seconds = batch as f64 / self.speed;
        self.at = at.saturating_add((takes_seconds * 1e9) as u64);
    }

    /// The most that is sent as if at one moment: a small part of every window.
    fn speed_batch(&self) -> u64 {
        let kept = self.requests.iter().chain(&self.tokens).map(Window::kept_seconds);
        (self.speed * kept.fold(f64::INFINITY, f64::min) / BATCHES_PER_WINDOW).max(1.0) as u64
    }

    fn long_run_per_second(&self) -> f64 {
        let requests = self.requests.iter().map(|window| window.amount_max() as f64 / window.kept_seconds());
        let tokens =
            self.tokens.iter().map(|window| window.amount_max() as f64 / window.kept_seconds() / self.tokens_each);
        requests.chain(tokens).fold(self.speed, f64::min)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::{BEGIN, SCALED, TARGETS, quotas, rates, send_greedily};
    use super::*;

    #[test]
    fn the_time_that_is_forecast_is_the_time_that_it_takes() {
        let cases: [(&[&str], usize); 6] = [
            (TARGETS, 50),
            (TARGETS, 61),
            (TARGETS, 7_500),
            (SCALED, 4_000),
            (&["10/s"], 3_000),
            (&["5000/min"], 40_000),
        ];
        for (texts, requests) in cases {
            let mut quotas = quotas(texts);
            let begun = send_greedily(&mut quotas, BEGIN, 25);
            let forecast = quotas.time_for(begun[24], requests as u64, 0.0, None).as_secs_f64();
            let takes = (send_greedily(&mut quotas, begun[24], requests).pop().unwrap() - begun[24]).as_secs_f64();
            assert!((forecast - takes).abs() <= takes * 0.002, "{texts:?}, {requests}: {forecast} s, not {takes} s");
        }
    }

    #[test]
    fn the_forecast_knows_the_speed_the_tokens_and_what_is_far_away() {
        let day = 86_400.0;
        let stack = quotas(TARGETS);
        let days = stack.time_for(BEGIN, 100_000, 0.0, None).as_secs_f64() / day;
        assert!((6.1..6.3).contains(&days), "{days}");
        let slow = stack.time_for(BEGIN, 100_000, 0.0, Some(0.1)).as_secs_f64();
        assert!((slow - 1e6).abs() < 10.0, "nothing binds at that speed: {slow}");
        let paced = quotas(&["60/min"]).time_for(BEGIN, 600, 0.0, Some(4.0)).as_secs_f64();
        assert!((9.0 * 60.6 + 14.0..9.0 * 60.6 + 16.0).contains(&paced), "{paced}");
        let far = quotas(&["1/s"]).time_for(BEGIN, 1_000_000_000, 0.0, None).as_secs_f64();
        assert!((far / 1.025e9 - 1.0).abs() < 1e-3, "{far}");
        let tokens = Quotas::new(&[], Some(10_000));
        let minutes = tokens.time_for(BEGIN, 1_000, 400.0, None).as_secs_f64() / 60.6;
        assert!((39.0..40.1).contains(&minutes), "25 a minute: {minutes}");
        let large = tokens.time_for(BEGIN, 3, 20_000.0, None).as_secs_f64();
        assert!((large / 60.6 - 2.0).abs() < 0.01, "one a minute: {large}");
    }

    #[test]
    fn the_quota_that_decides_is_named() {
        let decides = |requests| quotas(TARGETS).decisive(requests, 0.0);
        assert_eq!(decides(60), None);
        assert_eq!(decides(900).as_deref(), Some("60 per min"));
        assert_eq!(decides(1_500).as_deref(), Some("1,000 per h"));
        assert_eq!(decides(100_000).as_deref(), Some("2,000 per 3 h"));
        let both = Quotas::new(&rates(&["60/min"]), Some(6_000));
        assert_eq!(both.decisive(600, 1_000.0).as_deref(), Some("6,000 tokens per min"));
    }

    #[test]
    fn the_forecast_of_a_slow_sender_is_the_time_that_he_takes() {
        let cases: [(&[&str], f64, usize); 4] =
            [(SCALED, 50.0, 4_000), (SCALED, 25.0, 4_000), (TARGETS, 0.3, 9_000), (&["10/s"], 12.0, 500)];
        for (texts, per_second, requests) in cases {
            let forecast = quotas(texts).time_for(BEGIN, requests as u64, 0.0, Some(per_second)).as_secs_f64();
            let mut quotas = quotas(texts);
            let mut now = BEGIN;
            for _ in 0..requests {
                now = now.max(quotas.ready_at(now, 0));
                let booking = quotas.take(now, 0);
                quotas.settle(booking, 0);
                now += Duration::from_secs_f64(1.0 / per_second);
            }
            let takes = now.as_secs_f64();
            assert!((forecast - takes).abs() < takes * 0.01, "{texts:?} at {per_second}: {forecast} s, not {takes} s");
        }
    }
}
