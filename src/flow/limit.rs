//! How many requests may be in flight. Pure: it hears how requests ended and answers with a number.
//!
//! The number is `-j N` and falls below it only when the service asks for that: after a 429, an outage, or a first
//! token that never came. It then grows back by one a success. An adaptive controller fits behind the same calls.

use std::time::Duration;

const CUT_FACTOR: f64 = 0.7;
const CUT_INTERVAL: Duration = Duration::from_secs(2);

/// The limit of one endpoint.
#[derive(Debug)]
pub struct Limit {
    ceiling: usize,
    current: usize,
    cut_at: Option<Duration>,
}

impl Limit {
    /// A limit that never exceeds `ceiling`.
    pub fn new(ceiling: usize) -> Self {
        Self { ceiling, current: ceiling, cut_at: None }
    }

    /// How many requests may be in flight now; at least 1.
    pub fn current(&self) -> usize {
        self.current
    }

    /// From now on the limit never exceeds `ceiling`; where it was not lowered, it is the ceiling.
    pub fn set_ceiling(&mut self, ceiling: usize) {
        let was_lowered = self.current < self.ceiling;
        self.ceiling = ceiling;
        self.current = if was_lowered { self.current.min(ceiling) } else { ceiling };
    }

    /// A request was answered.
    pub fn success(&mut self) {
        self.current = (self.current + 1).min(self.ceiling);
    }

    /// The service asked for less (429): 0.7 of the limit, at most once in two seconds.
    pub fn cut(&mut self, now: Duration) {
        if self.cut_at.is_none_or(|cut_at| now.saturating_sub(cut_at) >= CUT_INTERVAL) {
            self.current = ((self.current as f64 * CUT_FACTOR) as usize).max(1);
            self.cut_at = Some(now);
        }
    }

    /// An outage is over: begin at half.
    pub fn resume(&mut self) {
        self.current = (self.ceiling / 2).max(1);
    }

    /// The service is overloaded: one at a time.
    pub fn one(&mut self) {
        self.current = 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_one_cut_and_successes_grow_it_back() {
        let mut limit = Limit::new(10);
        (0..5).for_each(|_| limit.cut(Duration::from_secs(9)));
        assert_eq!(limit.current(), 7);
        limit.cut(Duration::from_secs(11));
        assert_eq!(limit.current(), 4);
        (0..99).for_each(|_| limit.success());
        assert_eq!(limit.current(), 10);
        limit.set_ceiling(20);
        assert_eq!(limit.current(), 20);
        limit.one();
        limit.cut(Duration::from_secs(99));
        assert_eq!(limit.current(), 1);
        limit.set_ceiling(30);
        assert_eq!(limit.current(), 1, "a lowered limit grows with successes");
    }
}
