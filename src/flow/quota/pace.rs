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
