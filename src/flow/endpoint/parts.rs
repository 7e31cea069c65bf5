//! What an endpoint's state is made of, and what it hears.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::super::{Breaker, Limit, Quotas};

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

/// The part of the endpoint's history that a charge belongs to: from one success to the next.
#[derive(Clone, Debug, Default)]
pub struct Stamp(pub(super) Rc<Cell<bool>>);

impl Stamp {
    /// Whether its charges were given back.
    pub fn is_void(&self) -> bool {
        self.0.get()
    }
}

/// What is known of an endpoint beforehand.
#[derive(Debug)]
pub struct Setup {
    /// Most requests in flight.
    pub ceiling: usize,
    /// Whether the limit below that adapts to the server's queue.
    pub adapts: bool,
    /// Caps waits between retries, and scales those between probes.
    pub retry_wait_max: Duration,
    /// What may be sent in what time.
    pub quotas: Quotas,
}

/// What is known of one model at one endpoint.
#[derive(Debug)]
pub(super) struct ModelState {
    pub(super) breaker: Breaker,
    pub(super) limit: Limit,
    pub(super) in_flight: usize,
    /// Whether anything was ever sent for it.
    pub(super) is_known: bool,
}

/// The circumstances of a failure.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// When it came.
    pub now: Duration,
    /// Whether the request was sent to find out if an outage is over.
    pub was_probe: bool,
    /// Uniform in 0..1.
    pub unit: f64,
}
