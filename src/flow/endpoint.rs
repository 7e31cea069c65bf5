//! Everything that one endpoint's past says about its next request: breaker, gate, quotas, limits, budget, charges. Pure.
//!
//! Invariant: a charge counts only until a breaker opens with no success since; then it is void. Every list has a bound.

mod parts;
#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::time::Duration;

use super::limit::Answered;
use super::{Breaker, Budget, Limit, Model, Permit, Quotas};
use parts::ModelState;
pub use parts::{At, Setup, Stamp, Trouble};

/// So many different lines must fail in a row, with failures that could be the line's own fault, to be an outage.
const SUSPECTS_MIN: usize = 4;

/// One endpoint's state.
#[derive(Debug)]
pub struct Endpoint {
    breaker: Breaker,
    models: Vec<ModelState>,
    /// The model that was sent for last: another may have to be loaded.
    loaded: Option<Model>,
    in_flight: usize,
    ceiling: usize,
    adapts: bool,
    probe_wait_max: Duration,
    gate_until: Duration,
    /// What may be sent in what time.
    pub quotas: Quotas,
    /// How many retries may go.
    pub budget: Budget,
    successes: u64,
    refusals: u64,
    /// What charges of now belong to.
    stamp: Stamp,
    suspects: Vec<u64>,
    stalled_since: Option<Duration>,
    /// Refusals without a time to wait, those of one burst counted once, since the last success.
    backoffs: u32,
    /// When the last of these gated the endpoint.
    backed_off_at: Option<Duration>,
}

impl Endpoint {
    /// An endpoint of which nothing was heard yet.
    pub fn new(setup: Setup) -> Self {
        let Setup { ceiling, adapts, retry_wait_max, quotas } = setup;
        Self {
            breaker: Breaker::new(retry_wait_max),
            models: Vec::new(),
            loaded: None,
            in_flight: 0,
            ceiling,
            adapts,
            probe_wait_max: retry_wait_max,
            gate_until: Duration::ZERO,
            quotas,
            budget: Budget::new(ceiling),
            successes: 0,
            refusals: 0,
            stamp: Stamp::default(),
            suspects: Vec::new(),
            stalled_since: None,
            backoffs: 0,
            backed_off_at: None,
        }
    }

    /// What may be sent now, whatever the model.
    pub fn permit(&self, now: Duration) -> Permit {
        let open_at = self.opens_at(now);
        if now < open_at {
            return Permit::Wait(open_at);
        }
        match self.breaker.permit(now) {
            Permit::Free => self.permit_of_models(now),
            other => other,
        }
    }

    /// When gate and quotas let something pass.
    fn opens_at(&self, now: Duration) -> Duration {
        if self.quotas.is_empty() { self.gate_until } else { self.gate_until.max(self.quotas.ready_at(now, 0)) }
    }

    /// When every model seen so far is broken, sending waits for the first probe that may go.
    fn permit_of_models(&self, now: Duration) -> Permit {
        let mut soonest: Option<Duration> = None;
        let mut any = false;
        for state in self.models.iter().filter(|state| state.is_known) {
            any = true;
            match state.breaker.permit(now) {
                Permit::Free | Permit::Probe => return Permit::Free,
                Permit::Wait(at) => soonest = Some(soonest.map_or(at, |soonest| soonest.min(at))),
                Permit::Probing => {}
            }
        }
        match soonest {
            _ if !any => Permit::Free,
            Some(at) => Permit::Wait(at),
            None => Permit::Probing,
        }
    }

    /// What may be sent to this model now, when [`Endpoint::permit`] lets something pass.
    pub fn permit_model(&self, model: Model, now: Duration) -> Permit {
        self.models.get(model.index()).map_or(Permit::Free, |state| state.breaker.permit(now))
    }

    /// Whether less is in flight than may be, for some model or other.
    pub fn has_room(&self) -> bool {
        self.in_flight < self.ceiling
    }

    /// Whether less is in flight for this model than may be.
    pub fn has_room_for(&self, model: Model) -> bool {
        self.has_room() && self.models.get(model.index()).is_none_or(|state| state.in_flight < state.limit.current())
    }

    /// How much of what may be in flight for this model is, 0 to 1.
    pub fn load(&self, model: Model) -> f64 {
        let Some(state) = self.models.get(model.index()) else { return 0.0 };
        state.in_flight as f64 / state.limit.current() as f64
    }

    /// The model that was sent for last: any other one may have to be loaded.
    pub fn loaded(&self) -> Option<Model> {
        self.loaded
    }

    /// When the first of the models that are out may be tried again.
    pub fn model_probe_at(&self, now: Duration) -> Option<Duration> {
        let waits = self.models.iter().filter_map(|state| match state.breaker.permit(now) {
            Permit::Wait(at) => Some(at),
            Permit::Free | Permit::Probe | Permit::Probing => None,
        });
        waits.min()
    }

    /// How many requests for this model may be in flight.
    pub fn limit_of(&self, model: Model) -> usize {
        self.models.get(model.index()).map_or(self.ceiling, |state| state.limit.current())
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// From now on no more than `ceiling` may be in flight.
    pub fn set_ceiling(&mut self, ceiling: usize) {
        self.ceiling = ceiling;
        self.models.iter_mut().for_each(|state| state.limit.set_ceiling(ceiling));
    }

    fn state(&mut self, model: Model) -> &mut ModelState {
        let (adapts, ceiling, wait_max) = (self.adapts, self.ceiling, self.probe_wait_max);
        if self.models.len() <= model.index() {
            self.models.resize_with(model.index() + 1, || ModelState {
                breaker: Breaker::new(wait_max),
                limit: if adapts { Limit::adaptive(ceiling) } else { Limit::fixed(ceiling) },
                in_flight: 0,
                is_known: false,
            });
        }
        &mut self.models[model.index()]
    }

    /// A question of the engine's own is being sent, which takes no slot.
    pub fn asked(&mut self, now: Duration) {
        if self.breaker.permit(now) == Permit::Probe {
            self.breaker.probe_sent();
        }
    }

    /// A request is being sent. Returns whether it is a probe, of the endpoint or of its model.
    pub fn sent(&mut self, model: Model, now: Duration) -> bool {
        let endpoint_probe = self.breaker.permit(now) == Permit::Probe;
        if endpoint_probe {
            self.breaker.probe_sent();
        }
        self.in_flight += 1;
        self.loaded = Some(model);
        let state = self.state(model);
        (state.in_flight, state.is_known) = (state.in_flight + 1, true);
        let model_probe = state.breaker.permit(now) == Permit::Probe;
        if model_probe {
            state.breaker.probe_sent();
        }
        endpoint_probe || model_probe
    }

    /// A request that was sent has ended, well or badly. Returns how many were in flight for its model, itself included.
    pub fn ended(&mut self, model: Model) -> usize {
        self.in_flight -= 1;
        let state = self.state(model);
        state.in_flight -= 1;
        state.in_flight + 1
    }

    /// A line was answered; what that shows of the server's queue adapts the limit. Returns whether it ended an outage.
    pub fn success(&mut self, model: Model, answered: Option<&Answered>) -> bool {
        self.successes += 1;
        if Rc::strong_count(&self.stamp.0) > 1 || self.stamp.is_void() {
            self.stamp = Stamp::default();
        }
        (self.stalled_since, self.backoffs) = (None, 0);
        self.suspects.clear();
        self.budget.success();
        let endpoint_resumed = self.breaker.success();
        let state = self.state(model);
        let resumed = state.breaker.success() || endpoint_resumed;
        if endpoint_resumed {
            self.models.iter_mut().for_each(|state| state.limit.resume());
        } else if resumed {
            state.limit.resume();
        } else if let Some(answered) = answered {
            state.limit.answered(answered);
        }
        resumed
    }

    /// The service asks for less of this model.
    pub fn cut(&mut self, model: Model, now: Duration) {
        self.state(model).limit.cut(now);
    }

    /// The service is overloaded: one request at a time for this model.
    pub fn one(&mut self, model: Model) {
        self.state(model).limit.one();
    }

    /// A line failed in a way that may be an outage. Returns whether the breaker opened by it.
    pub fn trouble(&mut self, trouble: Trouble, line: u64, model: Option<Model>, at: At) -> bool {
        let At { now, was_probe, unit } = at;
        self.stalled_since.get_or_insert(now);
        let limit = model.map_or(1, |model| self.limit_of(model));
        let opened = match (trouble, model) {
            (Trouble::Model, Some(model)) => self.state(model).breaker.failure(now, limit, was_probe, unit),
            (Trouble::Endpoint | Trouble::Model, _) => self.breaker.failure(now, limit, was_probe, unit),
            (Trouble::Ambiguous, _) if self.suspects.contains(&line) && !was_probe => false,
            (Trouble::Ambiguous, _) => {
                self.suspects.push(line);
                self.breaker.failure(now, limit.max(SUSPECTS_MIN), was_probe, unit)
            }
        };
        if was_probe {
            self.probe_failed(trouble, model, limit, at);
        }
        if opened {
            self.suspects.clear();
            self.stamp.0.set(true);
        }
        opened
    }

    /// A probe may be one of both breakers; only one of them has heard of its failure.
    fn probe_failed(&mut self, trouble: Trouble, model: Option<Model>, limit: usize, at: At) {
        if trouble == Trouble::Model {
            // The endpoint did answer.
            self.breaker.probe_void(at.now);
        } else if let Some(state) = model.and_then(|model| self.models.get_mut(model.index()))
            && state.breaker.permit(at.now) == Permit::Probing
        {
            // It taught nothing good of its model.
            state.breaker.failure(at.now, limit, true, at.unit);
        }
    }

    /// A request was refused for now without speaking for an outage (429, no first token).
    pub fn refused(&mut self, now: Duration) {
        self.refusals += 1;
        self.stalled_since.get_or_insert(now);
    }

    /// A request that was sent at `sent_at` was refused, and nobody said for how long: the whole endpoint waits, for
    /// U(½, 1) · min(cap, 2^k) seconds at the k-th time, and from the second time on one request goes before the others.
    pub fn back_off(&mut self, model: Model, sent_at: Duration, now: Duration, unit: f64) {
        if self.backed_off_at.is_some_and(|at| sent_at < at) {
            // It was under way when another one was refused: the same burst.
            return;
        }
        if self.backoffs > 0 {
            self.one(model);
        }
        let ceiling = 2f64.powi(self.backoffs.min(30) as i32).min(self.probe_wait_max.as_secs_f64());
        self.backoffs += 1;
        self.backed_off_at = Some(now);
        self.gate(now + Duration::from_secs_f64(ceiling * (0.5 + 0.5 * unit)));
    }

    /// A probe ended without saying anything about the endpoint.
    pub fn probe_void(&mut self, model: Option<Model>, now: Duration) {
        self.breaker.probe_void(now);
        if let Some(state) = model.and_then(|model| self.models.get_mut(model.index())) {
            state.breaker.probe_void(now);
        }
    }

    /// Nothing is to be sent before `until`.
    pub fn gate(&mut self, until: Duration) {
        self.gate_until = self.gate_until.max(until);
    }

    /// Until when the service wants nothing.
    pub fn gate_until(&self) -> Duration {
        self.gate_until
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
        self.stamp.clone()
    }

    /// Since when failures have come without a success between them.
    pub fn stalled_since(&self) -> Option<Duration> {
        self.stalled_since
    }

    /// Whether a breaker holds requests back.
    pub fn is_open(&self) -> bool {
        self.breaker.open_since().is_some() || self.models.iter().any(|state| state.breaker.open_since().is_some())
    }
}
