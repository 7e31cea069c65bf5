//! How many requests are settled a second.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Requests settled a second, over the last minute.
#[derive(Debug, Default)]
pub struct Rate {
    marks: VecDeque<(Instant, u64)>,
}

impl Rate {
    const OVER: Duration = Duration::from_secs(60);
    const MARK_EVERY: Duration = Duration::from_secs(2);

    /// So many are settled now.
    pub fn note(&mut self, now: Instant, settled: u64) {
        if self.marks.back().is_none_or(|(at, _)| now.duration_since(*at) >= Self::MARK_EVERY) {
            self.marks.push_back((now, settled));
        }
        while self.marks.len() > 1 && self.marks.front().is_some_and(|(at, _)| now.duration_since(*at) > Self::OVER) {
            self.marks.pop_front();
        }
    }

    /// How many a second.
    pub fn per_second(&self, now: Instant, settled: u64) -> f64 {
        let Some((since, before)) = self.marks.front() else { return 0.0 };
        let seconds = now.duration_since(*since).as_secs_f64();
        if seconds < 0.5 { 0.0 } else { ((settled - before) as f64 / seconds * 10.0).round() / 10.0 }
    }
}
