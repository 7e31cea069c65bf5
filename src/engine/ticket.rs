//! A request on its way: attempts made, charges against it, and when it may be tried again.

use std::cmp::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::Key;
use crate::api::Dialect;
use crate::flow::endpoint::Stamp;
use crate::flow::{Endpoint, Model};
use crate::line::{ErrorCode, Failure, Request};

/// What can be charged to a line, each with its own bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// The connection ended after the request had gone out.
    Lost,
    /// No first token, with nothing else in flight.
    FirstToken,
    /// The reply stalled, or a gateway gave up.
    Slow,
    /// A success that is no completion.
    Invalid,
    /// The service failed on the request.
    Failing,
    /// Uncharged failures that alternate with others' successes.
    Culprit,
    /// The token limit cut the answer.
    Truncated,
}

impl Charge {
    /// Attempts that may end this way before the line fails.
    fn attempts_max(self) -> usize {
        match self {
            Self::FirstToken | Self::Slow | Self::Truncated => 2,
            Self::Lost | Self::Invalid => 3,
            Self::Culprit => 5,
            Self::Failing => 10,
        }
    }

    fn code(self) -> ErrorCode {
        match self {
            Self::Lost => ErrorCode::ConnectionLost,
            Self::FirstToken | Self::Slow => ErrorCode::Timeout,
            Self::Invalid => ErrorCode::UpstreamInvalid,
            Self::Failing => ErrorCode::UpstreamError,
            Self::Culprit => ErrorCode::UpstreamUnavailable,
            Self::Truncated => ErrorCode::Truncated,
        }
    }
}

/// The endpoint's history at a line's last uncharged failure.
#[derive(Clone, Copy, Debug)]
struct Mark {
    backend: usize,
    successes: u64,
    refusals: u64,
}

/// A request on its way.
#[derive(Debug)]
pub struct Ticket {
    /// Comes back with the outcome.
    pub key: Key,
    /// What to ask.
    pub request: Request,
    /// Its model's number.
    pub model: Model,
    /// The body as it is sent, once it was made, and the dialect that it was made for.
    pub body: Option<(Dialect, Bytes)>,
    /// The endpoint that it was sent to last, by its place.
    pub backend: usize,
    /// The endpoint that failed it last.
    pub failed_at: Option<usize>,
    /// The endpoints that will not serve it.
    pub refused_at: Vec<usize>,
    /// What the last of them said.
    pub refusal: Option<Failure>,
    /// The endpoint whose budget has paid for sending it again.
    pub chosen: Option<usize>,
    /// Attempts sent.
    pub attempts: u32,
    /// Attempts that failed, for the backoff.
    pub failures: u32,
    /// When the first attempt was sent.
    pub began: Option<Duration>,
    /// Not to be sent before.
    pub due: Duration,
    /// Whether sending it again takes no token of the retry budget: it has not failed.
    pub unspent: bool,
    charges: Vec<(Charge, Stamp)>,
    mark: Option<Mark>,
}

impl Ticket {
    /// A request that was just pulled.
    pub fn new(key: Key, request: Request, model: Model) -> Self {
        Self {
            key,
            request,
            model,
            body: None,
            backend: 0,
            failed_at: None,
            refused_at: Vec::new(),
            refusal: None,
            chosen: None,
            attempts: 0,
            failures: 0,
            began: None,
            due: Duration::ZERO,
            unspent: true,
            charges: Vec::new(),
            mark: None,
        }
    }

    /// Charges one failure; the line's own failure when that was the last one it had.
    pub fn charge(&mut self, charge: Charge, stamp: Stamp, message: &str, status: Option<u16>) -> Option<Failure> {
        self.charges.push((charge, stamp));
        // The culprit's charges stay: it is others' successes that convict it.
        let stays = |own: Charge, stamp: &Stamp| own == charge && (charge == Charge::Culprit || !stamp.is_void());
        let count = self.charges.iter().filter(|(own, stamp)| stays(*own, stamp)).count();
        (count >= charge.attempts_max()).then(|| Failure { code: charge.code(), message: message.to_owned(), status })
    }

    /// Notes a failure that costs nothing, and says whether it makes the line a culprit: others were answered since its
    /// last one. `shared_refusals` tells a quota, which refuses anybody, from a line that alone is refused.
    pub fn is_culprit(&mut self, endpoint: &Endpoint, shared_refusals: bool) -> bool {
        const SUCCESSES_PER_REFUSAL_MIN: u64 = 8;
        let now = Mark { backend: self.backend, successes: endpoint.successes(), refusals: endpoint.refusals() };
        let Some(before) = self.mark.replace(now).filter(|before| before.backend == now.backend) else { return false };
        let successes = now.successes - before.successes;
        let others_refused = (now.refusals - before.refusals).saturating_sub(1);
        successes > if shared_refusals { SUCCESSES_PER_REFUSAL_MIN * (others_refused + 1) } else { 0 }
    }
}

impl PartialEq for Ticket {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ticket {}

impl PartialOrd for Ticket {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ticket {
    /// The greatest is the one due first, as a max-heap wants it; among equals, the earlier line.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.key).cmp(&(self.due, self.key))
    }
}
