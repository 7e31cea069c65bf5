//! What the service itself says is left of its quota, and what that permits. Pure.
//!
//! Invariant: it never stalls. A hold ends at the reset that was told, and while something is left one attempt may
//! always be in flight.

use std::time::Duration;

use super::window::{Moment, moment};
use crate::flow::people::thousands;

/// After a reset no more than the whole quota is sent before the next news, for as long as the last reset took, but
/// for this long at most: the service may have ceased to tell.
const RENEWED_MAX: Duration = Duration::from_secs(60);

/// What a reply's head says about quotas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaNews {
    /// Of requests.
    pub requests: Option<Left>,
    /// Of tokens.
    pub tokens: Option<Left>,
}

impl QuotaNews {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.requests.is_none() && self.tokens.is_none()
    }
}

/// What is left of one quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// The whole quota, where it is told.
    pub limit: Option<u64>,
    /// What is left of it, as the service counts.
    pub remaining: u64,
    /// How long until there is more.
    pub resets_in: Duration,
}

/// What the last news about one quota permits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    told: Left,
    left: u64,
    until: Moment,
}

impl Allowance {
    /// What is left, less what the service may not have counted yet.
    pub(super) fn new(now: Duration, told: Left, uncounted: u64) -> Self {
        let until = moment(now.saturating_add(told.resets_in));
        Self { told, left: told.remaining.saturating_sub(uncounted), until }
    }

    /// From when on `amount` more may be used.
    pub(super) fn ready_at(&self, amount: u64, in_flight: u64) -> Moment {
        // With nothing in flight no reply would ever bring better news.
        let only_one = in_flight == 0 && self.told.remaining > 0;
        if amount <= self.left || only_one { 0 } else { self.until }
    }

    /// Counts what is used at that moment. The first use after the reset has the whole quota before it, less what is in
    /// flight: a quota that fills up little by little, as OpenAI's do, is told as if nothing more were sent.
    pub(super) fn take(&mut self, at: Moment, amount: u64, in_flight: u64) {
        if at >= self.until
            && let Some(limit) = self.told.limit
        {
            self.told.remaining = limit;
            self.left = limit.saturating_sub(in_flight);
            self.until = at.saturating_add(self.told.resets_in.min(RENEWED_MAX).as_nanos() as u64);
        }
        self.left = self.left.saturating_sub(amount);
    }

    /// What holds back, for people.
    pub(super) fn told(&self, unit: &str) -> String {
        match self.told.limit {
            Some(limit) => format!("the service's own quota of {} {unit}", thousands(limit)),
            None => format!("the service's own quota of {unit}"),
        }
    }
}
