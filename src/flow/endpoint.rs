//! Everything that one endpoint's past says about its next request: breaker, gate, limit, budget, charges. Pure.
//!
//! Invariant: a charge counts only until a breaker opens with no success since; then it is void. Every map has a bound.

use std::collections::HashMap;
use std::time::Duration;

use super::{Breaker, Budget, Limit, Permit};

/// Models that are told apart; the rest share one breaker.
const MODELS_MAX: usize = 256;
/// So many different lines must fail in a row, with failures that could be the line's own fault, to be an outage.
const SUSPECTS_MIN: usize = 4;

/// Which failures speak for an outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody can be served: every one counts.
    Endpoint,
    /// The model's server cannot serve: every one counts, for this model.
    Model,
    /// The service or the line: only different lines count.
    Ambiguous,
}

/// A point in the endpoint's history that a charge belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(u64);

/// One endpoint's state.
#[derive(Debug)]
pub struct Endpoint {
    breaker: Breaker,
    models: HashMap<Box<str>, Breaker>,
    probe_wait_max: Duration,
    gate_until: Duration,
    /// How much may be in flight.
    pub limit: Limit,
    /// How many retries may go.
    pub budget: Budget,
    successes: u64,
    refusals: u64,
    voided: Vec<u64>,
    suspects: Vec<u64>,
    stalled_since: Option<Duration>,
}

impl Endpoint {
    /// A new endpoint; `retry_wait_max` caps waits between retries, and scales those between probes.
    pub fn new(concurrency: usize, retry_wait_max: Duration) -> Self {
        Self {
            breaker: Breaker::new(retry_wait_max),
            models: HashMap::new(),
            probe_wait_max: retry_wait_max,
            gate_until: Duration::ZERO,
            limit: Limit::new(concurrency),
            budget: Budget::new(concurrency),
            successes: 0,
            refusals: 0,
            voided: Vec::new(),
            suspects: Vec::new(),
            stalled_since: None,
        }
    }

    /// What may be sent now, whatever the model.
    pub fn permit(&self, now: Duration) -> Permit {
        if now < self.gate_until {
            return Permit::Wait(self.gate_until);
        }
        match self.breaker.permit(now) {
            Permit::Free => self.permit_of_models(now),
            other => other,
        }
    }

    /// When every model seen so far is broken, sending waits for the first probe that may go.
    fn permit_of_models(&self, now: Duration) -> Permit {
        let mut soonest: Option<Duration> = None;
        for breaker in self.models.values() {
            match breaker.permit(now) {
                Permit::Free | Permit::Probe => return Permit::Free,
                Permit::Wait(at) => soonest = Some(soonest.map_or(at, |soonest| soonest.min(at))),
                Permit::Probing => {}
            }
        }
        match soonest {
            _ if self.models.is_empty() => Permit::Free,
            Some(at) => Permit::Wait(at),
            None => Permit::Probing,
        }
    }

    /// What may be sent to this model now, when [`Endpoint::permit`] lets something pass.
    pub fn permit_model(&self, model: &str, now: Duration) -> Permit {
        self.models.get(model).map_or(Permit::Free, |breaker| breaker.permit(now))
    }

    /// A request is being sent. Returns whether it is a probe, of the endpoint or of its model.
    pub fn sent(&mut self, model: &str, now: Duration) -> bool {
        let endpoint_probe = self.breaker.permit(now) == Permit::Probe;
        if endpoint_probe {
            self.breaker.probe_sent();
        }
        let Some(breaker) = self.models.get_mut(model) else { return endpoint_probe };
        let model_probe = breaker.permit(now) == Permit::Probe;
        if model_probe {
            breaker.probe_sent();
        }
        endpoint_probe || model_probe
    }

    /// A line was answered. Returns whether that ended an outage.
    pub fn success(&mut self, model: &str) -> bool {
        self.successes += 1;
        self.stalled_since = None;
        self.suspects.clear();
        self.budget.success();
        let mut resumed = self.breaker.success();
        if let Some(breaker) = self.models.get_mut(model) {
            resumed |= breaker.success();
            if !resumed {
                // Nothing to remember of a model that works.
                self.models.remove(model);
            }
        }
        if resumed {
            self.limit.resume();
        } else {
            self.limit.success();
        }
        resumed
    }

    /// A line failed in a way that may be an outage. Returns whether the breaker opened by it.
    pub fn trouble(
        &mut self,
        trouble: Trouble,
        key: u64,
        model: &str,
        now: Duration,
        was_probe: bool,
        unit: f64,
    ) -> bool {
        self.stalled_since.get_or_insert(now);
        let limit = self.limit.current();
        let opened = match trouble {
            Trouble::Endpoint => self.breaker.failure(now, limit, was_probe, unit),
            Trouble::Model => self.model_breaker(model).failure(now, limit, was_probe, unit),
            Trouble::Ambiguous if self.suspects.contains(&key) && !was_probe => false,
            Trouble::Ambiguous => {
                self.suspects.push(key);
                self.breaker.failure(now, limit.max(SUSPECTS_MIN), was_probe, unit)
            }
        };
        if was_probe
            && trouble != Trouble::Model
            && let Some(own) = self.models.get_mut(model)
        {
            // It was the model's probe as well, and taught nothing good of it.
            if own.permit(now) == Permit::Probing {
                own.failure(now, limit, true, unit);
            }
        }
        if was_probe && trouble == Trouble::Model {
            // It was this endpoint's probe as well, and the endpoint did answer.
            self.breaker.probe_void(now);
        }
        if opened {
            self.suspects.clear();
            if self.voided.last() != Some(&self.successes) {
                self.voided.push(self.successes);
            }
        }
        opened
    }

    fn model_breaker(&mut self, model: &str) -> &mut Breaker {
        let name = if self.models.len() < MODELS_MAX || self.models.contains_key(model) { model } else { "" };
        let wait_max = self.probe_wait_max;
        self.models.entry(name.into()).or_insert_with(|| Breaker::new(wait_max))
    }

    /// A request was refused for now without speaking for an outage (429, no first token).
    pub fn refused(&mut self, now: Duration) {
        self.refusals += 1;
        self.stalled_since.get_or_insert(now);
    }

    /// A probe ended without saying anything about the endpoint.
    pub fn probe_void(&mut self, model: &str, now: Duration) {
        self.breaker.probe_void(now);
        if let Some(breaker) = self.models.get_mut(model) {
            breaker.probe_void(now);
        }
    }

    /// Nothing is to be sent before `until`.
    pub fn gate(&mut self, until: Duration) {
        self.gate_until = self.gate_until.max(until);
    }

    /// Lines answered so far.
    pub fn successes(&self) -> u64 {
        self.successes
    }

    /// Refusals ([`Endpoint::refused`]) so far.
    pub fn refusals(&self) -> u64 {
        self.refusals
    }

    /// The stamp of a charge that is made now.
    pub fn stamp(&self) -> Stamp {
        Stamp(self.successes)
    }

    /// Whether charges of this stamp were given back.
    pub fn is_void(&self, stamp: Stamp) -> bool {
        self.voided.contains(&stamp.0)
    }

    /// Since when failures have come without a success between them.
    pub fn stalled_since(&self) -> Option<Duration> {
        self.stalled_since
    }

    /// Whether a breaker holds requests back.
    pub fn is_open(&self) -> bool {
        self.breaker.open_since().is_some() || self.models.values().any(|breaker| breaker.open_since().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const NOW: Duration = Duration::from_secs(1);

    fn endpoint(concurrency: usize) -> Endpoint {
        Endpoint::new(concurrency, Duration::from_secs(60))
    }

    #[test]
    fn one_poisonous_line_is_no_outage() {
        let mut endpoint = endpoint(1);
        assert!((0..50).all(|_| !endpoint.trouble(Trouble::Ambiguous, 7, "m", NOW, false, 1.0)));
        assert!((0..4).any(|key| endpoint.trouble(Trouble::Ambiguous, key, "m", NOW, false, 1.0)));
    }

    #[test]
    fn charges_since_the_last_success_are_void_when_the_breaker_opens() {
        let mut endpoint = endpoint(1);
        let before = endpoint.stamp();
        endpoint.success("m");
        let since = endpoint.stamp();
        assert!(!endpoint.trouble(Trouble::Endpoint, 1, "m", NOW, false, 1.0) && !endpoint.is_void(since));
        assert!(endpoint.trouble(Trouble::Endpoint, 1, "m", NOW, false, 1.0));
        assert!(endpoint.is_void(since) && !endpoint.is_void(before));
    }

    #[test]
    fn a_model_that_is_down_leaves_the_others_alone() {
        let mut endpoint = endpoint(1);
        (0..2).for_each(|_| {
            endpoint.trouble(Trouble::Model, 1, "down", NOW, false, 1.0);
        });
        assert!(matches!(endpoint.permit(NOW), Permit::Wait(_)), "it is the only model known so far");
        endpoint.trouble(Trouble::Model, 2, "up", NOW, false, 1.0);
        assert_eq!(endpoint.permit(NOW), Permit::Free);
        assert!(matches!(endpoint.permit_model("down", NOW), Permit::Wait(_)));
        assert!(endpoint.sent("down", Duration::from_secs(99)), "a probe");
        assert!(endpoint.success("down") && endpoint.permit_model("down", NOW) == Permit::Free);
    }

    #[test]
    fn an_outage_ends_at_half_the_limit() {
        let mut endpoint = endpoint(8);
        (0..9).for_each(|key| {
            endpoint.trouble(Trouble::Endpoint, key, "m", NOW, false, 1.0);
        });
        assert!(endpoint.is_open() && endpoint.success("m"));
        assert_eq!(endpoint.limit.current(), 4);
    }
}
