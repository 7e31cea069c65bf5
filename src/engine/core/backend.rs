//! One of the run's endpoints, with everything that the engine knows of it.
//!
//! Invariant: what happens at one endpoint says nothing of another one.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::attempt::Pulse;
use super::super::costs::Costs;
use super::super::errand::{self, Report};
use super::super::policy::Record;
use super::super::{Endpoint as Given, Halt, Settings};
use super::asking::Asking;
use super::format_seconds;
use crate::api::transport::{Page, Transport};
use crate::api::{Dialect, Signal};
use crate::flow::endpoint::Setup;
use crate::flow::quota::Booking;
use crate::flow::{Endpoint, Model, Permit};

/// For so long nothing is asked of an endpoint that said it lacks the model, while another may have it: models come and
/// go, and so do pages of proxies.
const LACK_BELIEVED: Duration = Duration::from_secs(60);
/// An endpoint that halted is left alone for so long, in a run that goes on without an end.
const REVIVED_MIN: Duration = Duration::from_secs(5);
const REVIVED_MAX: Duration = Duration::from_secs(300);
/// A gate that opens sooner is not worth a message.
const GATE_MENTIONED: Duration = Duration::from_secs(2);
/// Nor is a quota that was asked for, when there is more of it soon.
const QUOTA_MENTIONED: Duration = Duration::from_secs(120);

/// Whether an endpoint is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// No.
    Free,
    /// Not for long.
    Briefly,
    /// So that people want to know, by this.
    Long(Cause),
}

/// What holds an endpoint back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its key is refused.
    Key,
    /// A breaker is open.
    Outage,
    /// It asked to wait.
    Gate,
    /// A quota is used up.
    Quota,
}

/// One endpoint of a run.
pub struct Backend<'a, T: Transport> {
    pub transport: &'a T,
    /// What people call it.
    pub name: String,
    own_ceiling: Option<usize>,
    pub endpoint: Endpoint,
    pub record: Record,
    pub dialect: Option<Dialect>,
    pub dialect_failures: u32,
    pub dialect_at: Duration,
    pub errand: Option<Pin<Box<dyn Future<Output = Report> + 'a>>>,
    pub asking: Asking,
    /// Why nothing is sent there any more.
    pub retired: Option<Halt>,
    /// When it is tried again, in a run without an end, and how long it was left alone before.
    pub revived_at: Option<(Duration, Duration)>,
    pub last_trouble: String,
    /// What people were told of why nothing is sent there.
    pub told: Option<Cause>,
    /// Models that it said it does not have, and until when it is believed.
    lacks: Vec<(Model, Duration)>,
    /// Models of which people were told that it lacks them.
    told_lacks: Vec<Model>,
    pulses: Vec<Rc<Pulse>>,
    costs: Costs,
}

impl<'a, T: Transport> Backend<'a, T> {
    /// `is_one_of_several` says that other endpoints may have what this one has not.
    pub fn new(given: Given<'a, T>, settings: &Settings, is_one_of_several: bool) -> Self {
        let setup = Setup {
            ceiling: given.concurrency.unwrap_or(settings.concurrency).min(settings.concurrency),
            adapts: settings.adapts,
            retry_wait_max: settings.retry_delay_max,
            quotas: given.quotas,
        };
        Self {
            transport: given.transport,
            name: given.name,
            own_ceiling: given.concurrency,
            endpoint: Endpoint::new(setup),
            // One reply that was another than 404 is enough to clear the address. In an endless run, and where others may
            // have the model, 404 says nothing of it.
            record: Record { not_found: 0, other: u64::from(settings.endless || is_one_of_several) },
            dialect: given.dialect,
            dialect_failures: 0,
            dialect_at: Duration::ZERO,
            errand: None,
            asking: Asking::default(),
            retired: None,
            revived_at: None,
            last_trouble: String::new(),
            told: None,
            lacks: Vec::new(),
            told_lacks: Vec::new(),
            pulses: Vec::new(),
            costs: Costs::default(),
        }
    }

    /// The run may have so many requests in flight from now on.
    pub fn set_ceiling(&mut self, concurrency: usize) {
        self.endpoint.set_ceiling(self.own_ceiling.map_or(concurrency, |own| own.min(concurrency)));
    }

    /// It is to be left alone, for ever; in a run without an end for a while, ever longer.
    pub fn retire(&mut self, halt: Halt, now: Duration, is_endless: bool) {
        self.retired = Some(halt);
        self.errand = None;
        let before = self.revived_at.map_or(REVIVED_MIN / 2, |(_, before)| before);
        let wait = (before * 2).min(REVIVED_MAX);
        self.revived_at = is_endless.then_some((now + wait, wait));
    }

    /// It is tried again.
    pub fn revive(&mut self) {
        self.retired = None;
        self.forget_lacks();
    }

    /// Whether lines may be sent there, as far as dialect and token go.
    pub fn serves(&self) -> bool {
        self.retired.is_none() && self.dialect.is_some() && !self.asking.holds_sends()
    }

    /// Whether it lets a request pass now, model or no model.
    pub fn is_permitted(&self, now: Duration) -> bool {
        matches!(self.endpoint.permit(now), Permit::Free | Permit::Probe)
    }

    /// Whether it could take a request for some model.
    pub fn has_room(&self, now: Duration) -> bool {
        self.serves() && self.endpoint.has_room() && self.is_permitted(now)
    }

    /// Whether it could take a request for this model; one that was never sent for has no number yet.
    pub fn has_room_for(&self, model: Option<Model>, now: Duration) -> bool {
        let may = |model| {
            self.endpoint.has_room_for(model)
                && matches!(self.endpoint.permit_model(model, now), Permit::Free | Permit::Probe)
        };
        self.has_room(now) && model.is_none_or(may)
    }

    /// It does not have this model now; whether that is news.
    pub fn note_lack(&mut self, model: Model, now: Duration) -> bool {
        self.lacks.retain(|(own, _)| *own != model);
        self.lacks.push((model, now + LACK_BELIEVED));
        let is_news = !self.told_lacks.contains(&model);
        if is_news {
            self.told_lacks.push(model);
        }
        is_news
    }

    /// Whether it said lately that it does not have this model.
    pub fn lacks(&self, model: Model, now: Duration) -> bool {
        self.lacks.iter().any(|(own, until)| *own == model && now < *until)
    }

    /// It has answered for this model.
    pub fn note_answer(&mut self, model: Model) {
        if !self.lacks.is_empty() {
            self.lacks.retain(|(own, _)| *own != model);
        }
    }

    /// Another token may change what it has.
    pub fn forget_lacks(&mut self) {
        self.lacks.clear();
    }

    /// What hears of every event in this model's replies.
    pub fn pulse(&mut self, model: Model) -> Rc<Pulse> {
        let now = Instant::now();
        let is_idle = self.endpoint.load(model) == 0.0;
        if self.pulses.len() <= model.index() {
            self.pulses.resize_with(model.index() + 1, || Rc::new(Pulse::new(now)));
        }
        let pulse = &self.pulses[model.index()];
        if is_idle {
            pulse.restart(now);
        }
        Rc::clone(pulse)
    }

    /// The latest time in which no reply of this model showed life.
    pub fn silence(&self, model: Model) -> Option<(Instant, Instant)> {
        self.pulses.get(model.index())?.silence()
    }

    /// Tokens that a request is likely to cost.
    pub fn estimate_tokens(&self, body_bytes: usize, tokens_max: Option<u64>) -> u64 {
        self.costs.estimate(body_bytes, tokens_max)
    }

    /// The cost of an attempt in tokens is known: what an answer says; nothing, when nothing was computed. Returns it.
    pub fn settle_quotas(&mut self, booking: Booking, estimate: u64, body_bytes: usize, signal: &Signal) -> u64 {
        let cost = match signal {
            Signal::Answer(answer) if answer.tokens.completion > 0 => {
                self.costs.learn(body_bytes, answer.tokens);
                answer.tokens.prompt.saturating_add(answer.tokens.completion)
            }
            Signal::NotSent(_) | Signal::RateLimited(_) | Signal::Unauthorized(_) => 0,
            // It may have been computed, or the server does not count.
            _ => estimate,
        };
        self.endpoint.settle_quotas(booking, cost);
        cost
    }

    /// Whether nothing is sent there now, and for long.
    pub fn held(&self, now: Duration) -> Held {
        if self.asking.awaits_token() {
            return Held::Long(Cause::Key);
        }
        if self.endpoint.is_open() {
            return Held::Long(Cause::Outage);
        }
        let Permit::Wait(at) = self.endpoint.permit(now) else { return Held::Free };
        let (cause, mentioned) = match self.endpoint.gate_until() > now {
            true => (Cause::Gate, GATE_MENTIONED),
            false => (Cause::Quota, QUOTA_MENTIONED),
        };
        if at.saturating_sub(now) >= mentioned { Held::Long(cause) } else { Held::Briefly }
    }

    /// Why nothing is sent there now.
    pub fn hold_reason(&self, now: Duration) -> String {
        if let Some(reason) = self.asking.pause_reason() {
            return reason;
        }
        if self.endpoint.is_open() {
            return format!("the service is out ({}); probing until it answers", self.last_trouble);
        }
        let until = if let Permit::Wait(at) = self.endpoint.permit(now) { at } else { now };
        let wait = format_seconds(until.saturating_sub(now));
        match self.endpoint.quotas.binding(now).filter(|_| self.endpoint.gate_until() <= now) {
            Some(quota) => format!("the quota of {quota} is used up: waiting {wait}"),
            None => format!("the service asks to wait {wait}"),
        }
    }

    pub fn start_errand(&mut self, page: Page) {
        self.errand = Some(Box::pin(errand::run(self.transport, page)));
    }
}
