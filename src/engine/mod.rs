//! The engine: turns requests into outcomes through one endpoint or several. Knows no line, file, spool or stdout.
//!
//! It pulls one request at a time from the mode's source when a slot, the gate and the breaker are free; it holds no
//! queue of fresh work, only retries in a timer heap, whose number the mode bounds by what it lets out. A request
//! travels with an opaque key, which comes back with its outcome: the mode owns policy, the engine owns mechanism.
//! One task owns all state; there is no lock.

mod attempt;
mod core;
mod costs;
mod errand;
mod lanes;
mod policy;
#[cfg(test)]
mod tests;
mod ticket;

use std::task::{Context, Poll};
use std::time::Duration;

use crate::api::{Dialect, Transport, Upstream};
use crate::flow::Quotas;
use crate::line::{Outcome, Request};

pub use self::core::run;
pub use policy::Integrity;

/// Names a request to the mode that handed it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub u64);

/// A request and the key it travels with.
#[derive(Debug)]
pub struct Work {
    /// Comes back with the outcome.
    pub key: Key,
    /// What to ask.
    pub request: Request,
}

/// What a mode gives to the engine and takes from it. All calls come from one task.
pub trait Mode {
    /// The next request, for a model that has `room`; `None` when there will be none any more. Of several the mode best
    /// takes one whose model need not be loaded.
    fn poll_pull(&mut self, room: &Room<'_>, cx: &mut Context<'_>) -> Poll<Option<Work>>;

    /// Called before every look for a slot, while requests are sent: what needs no slot may be done here.
    fn look_ahead(&mut self, _: &mut Context<'_>) {}

    /// A request is settled. What is returned says whether its slot is free at once.
    fn settle(&mut self, key: Key, request: &Request, outcome: Outcome) -> Slot;

    /// How many of the slots that were held by [`Mode::settle`] came free since the last call. Asked after
    /// [`Mode::poll_stop`], which is where a mode hears of its own commits.
    fn take_freed(&mut self) -> usize {
        0
    }

    /// The most requests that may be in flight from now on, when that has changed.
    fn take_concurrency(&mut self) -> Option<usize> {
        None
    }

    /// Whether the key should be read again now, because somebody says so.
    fn take_renewal(&mut self) -> bool {
        false
    }

    /// A part of an answer, as it arrives. Asked for by [`Settings::deltas`].
    fn delta(&mut self, delta: Delta);

    /// Whether there is room for further deltas.
    fn has_room(&self) -> bool;

    /// Something happened that people may want to know.
    fn event(&mut self, event: Event);

    /// Lets the mode hear of its own output. Ready only when the run must stop at once.
    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether everything that was settled is on its way, so that the run may end.
    fn is_done(&self) -> bool {
        true
    }

    /// Nothing further is ready: what was settled should go out now. Wakes the task when that makes room.
    fn idle(&mut self, cx: &mut Context<'_>);
}

/// Whether a request for some model could be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Not now.
    None,
    /// Yes, but another model was sent for last: a server that holds one at a time has to load it.
    Swap,
    /// Yes.
    Here,
}

impl Fit {
    /// Whether this is as good as what is wanted: no load, or any room at all.
    pub fn is_at_least(self, wanted: Fit) -> bool {
        self == Fit::Here || self == Fit::Swap && wanted == Fit::Swap
    }
}

/// Which models have room.
pub struct Room<'r> {
    look: &'r Look<'r>,
}

/// Says of a model's name whether a request for it could be sent now, given which models have requests that wait.
pub type Look<'r> = dyn Fn(&str, &dyn Fn(&str) -> bool) -> Fit + 'r;

impl<'r> Room<'r> {
    /// What `look` says of a model's name.
    pub fn new(look: &'r Look<'r>) -> Self {
        Self { look }
    }

    /// Whether a request for this model could be sent now, whatever model it makes a server put away.
    pub fn for_model(&self, name: &str) -> Fit {
        self.beside(name, &|_| false)
    }

    /// The same, but no model for which something `waits` is to be put away for this one.
    pub fn beside(&self, name: &str, waits: &dyn Fn(&str) -> bool) -> Fit {
        (self.look)(name, waits)
    }
}

/// One endpoint of a run.
#[derive(Debug)]
pub struct Endpoint<'a, T: Transport> {
    /// The way there.
    pub transport: &'a T,
    /// What people call it.
    pub name: String,
    /// Its dialect; without one, it is asked.
    pub dialect: Option<Dialect>,
    /// Most requests in flight there, when that is less than the run's own.
    pub concurrency: Option<usize>,
    /// What may be sent there in what time.
    pub quotas: Quotas,
}

/// What becomes of the slot of a settled request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Another request may take it.
    Free,
    /// It stays taken until the mode has made the outcome durable.
    Held,
}

/// A part of an answer.
#[derive(Debug)]
pub struct Delta {
    /// The request.
    pub key: Key,
    /// Its attempt, from 1; a higher one voids the deltas of the earlier.
    pub attempt: u32,
    /// The choice.
    pub index: u64,
    /// The API's delta, a JSON object.
    pub delta: Box<str>,
}

/// Clocks of one attempt.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// From sending to the first event of a stream.
    pub first_token: Duration,
    /// From one event of a stream to the next.
    pub between_chunks: Duration,
    /// From sending to the end, when the reply is not streamed.
    pub whole_reply: Duration,
}

/// How the engine is to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Most requests in flight, at all endpoints together.
    pub concurrency: usize,
    /// Whether fewer are sent when the server queues them.
    pub adapts: bool,
    /// How replies are asked for.
    pub upstream: Upstream,
    /// Oddities of an answer that make it a failure.
    pub integrity: Integrity,
    /// Whether the dialect is asked for at once, rather than when the source has brought its first request.
    pub asks_at_once: bool,
    /// Clocks of one attempt.
    pub clocks: Clocks,
    /// Largest reply.
    pub reply_bytes_max: usize,
    /// How long a service may be out before the run ends; without one, for ever.
    pub outage_max: Option<Duration>,
    /// How long a rejected token may take to be replaced.
    pub auth_wait: Duration,
    /// Longest wait between two attempts of a line.
    pub retry_delay_max: Duration,
    /// How long what is in flight may take once the run is stopping.
    pub drain: Duration,
    /// When the run must have ended, counted from its start.
    pub deadline: Option<Duration>,
    /// Whether the run serves many and is to go on: then replies of 404 say nothing of the address, and a token that was
    /// never accepted is waited for as any other.
    pub endless: bool,
    /// Whether the mode wants to see deltas.
    pub deltas: bool,
}

/// What people may want to know while the engine runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The endpoint's dialect was found out.
    DialectFound(Dialect),
    /// An attempt was sent; so many are now in flight.
    Sent {
        /// Requests in flight, this one included.
        in_flight: usize,
    },
    /// An attempt ended; so many are still in flight.
    Ended {
        /// Requests in flight.
        in_flight: usize,
    },
    /// An attempt ended that counts against a quota.
    Spent {
        /// The endpoint, by its place.
        endpoint: usize,
        /// The tokens that it cost, as far as that is known.
        tokens: u64,
    },
    /// A line will be tried again.
    Retry {
        /// Why.
        reason: String,
        /// When, from now.
        delay: Duration,
    },
    /// Nothing is sent for a while.
    Paused {
        /// Why, and what ends it.
        reason: String,
    },
    /// Requests are sent again.
    Resumed,
    /// One of several endpoints does not serve a model that others may serve.
    Lacks {
        /// What people call the endpoint.
        name: String,
        /// The model.
        model: String,
        /// What it said.
        reason: String,
    },
    /// One of several endpoints is out, and the others go on; or it is back.
    Endpoint {
        /// What people call it.
        name: String,
        /// Why nothing is sent there; `None` when it is back.
        reason: Option<String>,
    },
    /// Nothing new is sent; what is in flight may end.
    Draining {
        /// How many that are.
        in_flight: usize,
    },
}

/// Why the engine stopped before its source was exhausted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HaltCause {
    /// The service refuses this kind of request outright.
    ServiceRefuses,
    /// Certificate, proxy or the like: no request will ever pass.
    Misconfigured,
    /// The token is rejected and will not be replaced.
    TokenRejected,
    /// The service was out for too long, or asks for too long a wait.
    Outage,
    /// The time is over.
    Deadline,
}

/// Why and how the engine stopped early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halt {
    /// The kind of cause.
    pub cause: HaltCause,
    /// What happened.
    pub message: String,
    /// What to do about it.
    pub way_out: String,
}

/// How the engine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every request of the source is settled.
    Complete,
    /// Stopped early by its own judgement, after a drain.
    Halted(Halt),
    /// Stopped early from outside, after a drain.
    Drained,
    /// Stopped at once.
    Aborted,
}
