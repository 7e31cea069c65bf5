//! How long requests took, all in all and for each token. Pure bookkeeping; holds the last few thousand times.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

/// Times that are remembered, the last ones.
const TIMES_MAX: usize = 10_000;

/// What the requests of one client came to.
#[derive(Debug, Default)]
pub struct Tally {
    requests: u64,
    ok: u64,
    over_quota: u64,
    times: VecDeque<Time>,
}

/// What one answered request took.
#[derive(Debug, Clone, Copy)]
pub struct Time {
    /// From its arrival to the end of its reply
    pub whole: Duration,
    /// The part of it in the queue
    pub queued: Duration,
}

/// A tally as `/stats` shows it; times are in seconds.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Summary {
    /// Chat requests whose token was accepted
    pub requests: u64,
    /// Completions delivered whole
    pub ok: u64,
    /// Requests refused because a quota was used up
    pub over_quota: u64,
    /// Mean from the arrival of a request to the end of its reply
    pub seconds_mean: f64,
    /// Their median
    pub seconds_p50: f64,
    /// Their 95th percentile
    pub seconds_p95: f64,
    /// The median without the time in the queue
    pub service_seconds_p50: f64,
    /// Mean time in the queue
    pub queued_seconds_mean: f64,
}

impl Tally {
    /// A request arrived.
    pub fn arrive(&mut self) {
        self.requests += 1;
    }

    /// It was refused because a quota was used up.
    pub fn refuse(&mut self) {
        self.over_quota += 1;
    }

    /// It was answered.
    pub fn answer(&mut self, time: Time) {
        self.ok += 1;
        self.times.push_back(time);
        if self.times.len() > TIMES_MAX {
            self.times.pop_front();
        }
    }

    /// The figures up to now.
    pub fn summary(&self) -> Summary {
        let whole: Vec<f64> = self.times.iter().map(|time| time.whole.as_secs_f64()).collect();
        let queued: Vec<f64> = self.times.iter().map(|time| time.queued.as_secs_f64()).collect();
        let service = whole.iter().zip(&queued).map(|(whole, queued)| whole - queued).collect();
        Summary {
            requests: self.requests,
            ok: self.ok,
            over_quota: self.over_quota,
            seconds_mean: mean(&whole),
            queued_seconds_mean: mean(&queued),
            service_seconds_p50: quantile(service, 0.5),
            seconds_p50: quantile(whole.clone(), 0.5),
            seconds_p95: quantile(whole, 0.95),
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The value below which this share of the others lies; 0 of nothing.
fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let rank = (share * (values.len() - 1) as f64).round() as usize;
    *values.select_nth_unstable_by(rank, f64::total_cmp).1
}
