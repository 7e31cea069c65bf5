//! The quotas of the service: so many requests within each stretch of time, whoever sends them. Pure: time comes in.
//! Invariant: a request is admitted by all quotas or counts towards none.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::time::Duration;

use crate::head::Field;

/// So many requests within a window that slides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    requests: NonZeroUsize,
    window: Duration,
}

impl Quota {
    /// Reads `60/500ms`, `1000/30s` or `60/min`.
    pub fn parse(text: &str) -> Result<Quota, String> {
        let bad = || format!("quota `{text}`: want REQUESTS/TIME, such as 60/500ms");
        let (requests, window) = text.split_once('/').ok_or_else(bad)?;
        let one = if window.starts_with(|first: char| first.is_ascii_digit()) { "" } else { "1" };
        let window = humantime::parse_duration(&[one, window].concat()).map_err(|_| bad())?;
        Ok(Quota { requests: requests.parse().map_err(|_| bad())?, window })
    }
}

/// The quotas and what was admitted under each.
#[derive(Debug)]
pub struct Quotas(Vec<Window>);

#[derive(Debug)]
struct Window {
    quota: Quota,
    /// When each request was admitted that still counts, oldest first
    admitted: VecDeque<Duration>,
}

impl Quotas {
    /// Quotas of which nothing is used.
    pub fn new(quotas: &[Quota]) -> Quotas {
        Quotas(quotas.iter().map(|&quota| Window { quota, admitted: VecDeque::new() }).collect())
    }

    /// Admits a request at this time since the start, or says how long the service has no room.
    pub fn admit(&mut self, now: Duration) -> Result<(), Duration> {
        self.0.iter_mut().for_each(|window| window.forget(now));
        let full = self.0.iter().filter(|window| window.left() == 0);
        if let Some(wait) = full.map(|window| window.reset(now)).max() {
            return Err(wait);
        }
        self.0.iter_mut().for_each(|window| window.admitted.push_back(now));
        Ok(())
    }

    /// The header fields that tell how the quota stands of which the least is left.
    pub fn fields(&self, now: Duration) -> Vec<Field> {
        let Some(window) = self.0.iter().min_by_key(|window| (window.left(), std::cmp::Reverse(window.reset(now))))
        else {
            return Vec::new();
        };
        vec![
            ("x-ratelimit-limit-requests", window.quota.requests.to_string()),
            ("x-ratelimit-remaining-requests", window.left().to_string()),
            ("x-ratelimit-reset-requests", format!("{:.3}s", window.reset(now).as_secs_f64())),
        ]
    }
}

impl Window {
    fn forget(&mut self, now: Duration) {
        while self.admitted.front().is_some_and(|&at| now >= at + self.quota.window) {
            self.admitted.pop_front();
        }
    }

    fn left(&self) -> usize {
        self.quota.requests.get().saturating_sub(self.admitted.len())
    }

    /// Time until the oldest request no longer counts.
    fn reset(&self, now: Duration) -> Duration {
        self.admitted.front().map_or(Duration::ZERO, |&at| (at + self.quota.window).saturating_sub(now))
    }
}
