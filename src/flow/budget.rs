//! The retry budget: bounds how much retries may add to the load. Pure.
//!
//! A retry takes one token, a success gives half a one, and the clock gives one every five seconds: without the clock
//! an outage that outlasts the tokens would stall for ever.

use std::time::Duration;

const TOKENS_AT_START: f64 = 10.0;
const TOKENS_PER_SUCCESS: f64 = 0.5;
const SECONDS_PER_TOKEN: f64 = 5.0;
const TOKENS_MAX_AT_LEAST: f64 = 100.0;
/// Sums of fractions are not exact: a token that is waited for is there a little later.
const SLACK: Duration = Duration::from_millis(1);

/// Tokens for retries.
#[derive(Debug)]
pub struct Budget {
    tokens: f64,
    tokens_max: f64,
    counted_until: Duration,
}

impl Budget {
    /// A budget for runs of up to `concurrency` requests in flight.
    pub fn new(concurrency: usize) -> Self {
        let tokens_max = TOKENS_MAX_AT_LEAST.max(2.0 * concurrency as f64);
        Self { tokens: TOKENS_AT_START, tokens_max, counted_until: Duration::ZERO }
    }

    /// A line was answered.
    pub fn success(&mut self) {
        self.add(TOKENS_PER_SUCCESS);
    }

    /// When there is a token for one retry: now, or later if nothing is answered.
    pub fn token_at(&self, now: Duration) -> Duration {
        let since = now.saturating_sub(self.counted_until).as_secs_f64();
        let missing = 1.0 - self.tokens - since / SECONDS_PER_TOKEN;
        if missing <= 0.0 { now } else { now + Duration::from_secs_f64(missing * SECONDS_PER_TOKEN) + SLACK }
    }

    /// Whether there is a token for one retry.
    pub fn has_token(&self, now: Duration) -> bool {
        self.token_at(now) <= now
    }

    /// Takes a token for one retry, or says when there will be one.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        self.add(now.saturating_sub(self.counted_until).as_secs_f64() / SECONDS_PER_TOKEN);
        self.counted_until = self.counted_until.max(now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(self.token_at(now))
    }

    fn add(&mut self, tokens: f64) {
        self.tokens = (self.tokens + tokens).min(self.tokens_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_budget_fills_by_the_clock_alone() {
        let mut budget = Budget::new(4);
        for _ in 0..10 {
            assert!(budget.take(Duration::ZERO).is_ok());
        }
        let ready = budget.take(Duration::ZERO).expect_err("the budget is empty");
        assert!(!budget.has_token(Duration::ZERO) && budget.has_token(ready));
        assert!(ready > Duration::from_secs(5) && ready < Duration::from_secs(6));
        assert!(budget.take(ready).is_ok());
    }

    #[test]
    fn successes_pay_and_the_store_is_bounded() {
        let mut budget = Budget::new(200);
        (0..10_000).for_each(|_| budget.success());
        let taken = (0..10_000).take_while(|_| budget.take(Duration::ZERO).is_ok()).count();
        assert_eq!(taken, 400);
    }
}
