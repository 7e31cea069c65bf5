//! What to do about a signal, given the run so far. Pure: the retry policy, and the one place that knows it.
//!
//! Invariant: trouble upstream is never charged to a line unless others were answered meanwhile, or the line was all
//! there was. Numbers bound attempts, not retries.

use std::time::Duration;

use super::ticket::{Charge, Ticket};
use super::{Halt, HaltCause};
use crate::api::Signal;
use crate::flow::Endpoint;
use crate::flow::endpoint::{At, Trouble};
use crate::line::completion::Flags;
use crate::line::escape;
use crate::line::{Answer, ErrorCode, Failure};

/// After a reply that came too slowly the server may still be working on it: leave it that much time.
const SLOW_WAIT: Duration = Duration::from_secs(30);
/// So many lines must be answered 404, and nothing else ever, to blame the address.
const NOT_FOUND_HALTS_AT: u64 = 3;

/// What to do with a request now.
#[derive(Debug)]
pub enum Step {
    /// It is settled.
    Settle(Result<Answer, Failure>),
    /// Try again, not before so long from now.
    Retry {
        /// Why.
        reason: String,
        /// The least wait.
        at_least: Duration,
        /// Whether it takes a token of the retry budget: not where the endpoint as a whole is held back.
        takes_budget: bool,
    },
    /// Ask the service for its models first: that decides.
    Ask(Question),
    /// Stop the run.
    Halt(Halt),
}

/// What the list of models will decide.
#[derive(Clone, Debug)]
pub enum Question {
    /// Is the model there?
    Model(String),
    /// Is the token good?
    Token(String),
}

/// What the run has seen so far, beside the endpoint's own history.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record {
    /// Replies that were 404.
    pub not_found: u64,
    /// Replies that were anything else.
    pub other: u64,
}

/// Oddities of an answer that make it a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Integrity {
    /// Another model answered than the one that was asked for.
    pub require_model: bool,
    /// The token limit cut the answer, twice.
    pub retry_truncated: bool,
}

/// The circumstances of one attempt.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// When it was sent.
    pub sent_at: Duration,
    /// When it ended.
    pub now: Duration,
    /// Whether the reply said how long to wait.
    pub asked_to_wait: bool,
    /// HTTP status of the reply, if one came.
    pub status: Option<u16>,
    /// Whether it was sent to find out if an outage is over.
    pub was_probe: bool,
    /// Whether nothing else was in flight.
    pub alone: bool,
    /// Uniform in 0..1.
    pub unit: f64,
    /// Oddities that are failures.
    pub integrity: Integrity,
}

/// Decides, and books the failure with ticket and endpoint.
pub fn decide(
    signal: Signal,
    ticket: &mut Ticket,
    endpoint: &mut Endpoint,
    record: &mut Record,
    at: Circumstances,
) -> Step {
    note(&signal, at.status, record);
    let mut desk = Desk { ticket, endpoint, at };
    match signal {
        Signal::Answer(answer) => desk.answer(*answer),
        Signal::Rejected(failure) => desk.reject(failure),
        Signal::TooLarge(text) => {
            desk.reject(Failure { code: ErrorCode::ReplyTooLarge, message: text, status: at.status })
        }
        Signal::Misconfigured(text) => halt(
            HaltCause::Misconfigured,
            text,
            "check --base-url, --ca-cert and the proxy variables; `anvil-filter check` walks them one by one",
        ),
        Signal::WrongPath(text) => halt(
            HaltCause::ServiceRefuses,
            format!("the service does not take chat requests here ({text})"),
            "check --base-url: for Open WebUI it ends in /api, for most others in /v1",
        ),
        Signal::NotFound(text) => desk.not_found(text, record),
        Signal::Redirect(target) => desk.elsewhere(
            format!("the service redirects to {target}, which is never followed"),
            "give the address it points to as --base-url, if it is yours to use",
        ),
        Signal::Html(text) => desk.elsewhere(text, "check --base-url: for Open WebUI it ends in /api"),
        Signal::ModelNotFound(text) => Step::Ask(Question::Model(text)),
        Signal::Unauthorized(text) => Step::Ask(Question::Token(text)),
        Signal::NotSent(text) => desk.outage(Trouble::Endpoint, text),
        Signal::Unavailable(text) => desk.outage(Trouble::Model, text),
        Signal::RateLimited(text) => desk.rate_limited(text),
        Signal::FirstTokenTimeout(text) => desk.first_token(text),
        Signal::Lost(text) => desk.ambiguous(Charge::Lost, text),
        Signal::Null(text) => desk.ambiguous(Charge::Invalid, text),
        Signal::Failing(text) if at.status.is_some_and(|status| status >= 500 || status == 400) => {
            desk.ambiguous(Charge::Failing, text)
        }
        Signal::Slow(text) if at.status.is_some_and(|status| status >= 400) => desk.slow_gateway(text),
        Signal::Failing(text) => desk.answered_badly(Charge::Failing, text, Duration::ZERO),
        Signal::Slow(text) => desk.answered_badly(Charge::Slow, text, SLOW_WAIT),
        Signal::Invalid(text) => desk.answered_badly(Charge::Invalid, text, Duration::ZERO),
    }
}

fn note(signal: &Signal, status: Option<u16>, record: &mut Record) {
    match (signal, status) {
        (Signal::NotFound(_), _) => record.not_found += 1,
        (_, Some(_)) => record.other += 1,
        (_, None) => {}
    }
}

fn halt(cause: HaltCause, message: impl Into<String>, way_out: impl Into<String>) -> Step {
    Step::Halt(Halt { cause, message: message.into(), way_out: way_out.into() })
}

/// One failed attempt on the desk.
struct Desk<'d> {
    ticket: &'d mut Ticket,
    endpoint: &'d mut Endpoint,
    at: Circumstances,
}

impl Desk<'_> {
    /// An answer that holds up, but may still not be what was wanted.
    fn answer(&mut self, answer: Answer) -> Step {
        let Integrity { require_model, retry_truncated } = self.at.integrity;
        if !require_model && !retry_truncated {
            return Step::Settle(Ok(answer));
        }
        let flags = Flags::of(&answer, &self.ticket.request);
        if require_model && flags.other_model {
            let served = answer.model().unwrap_or_default();
            let message =
                format!("the answer is from {}, and --require-model is set", escape::for_people(&served, 200));
            return self.reject(Failure { code: ErrorCode::OtherModel, message, status: self.at.status });
        }
        if retry_truncated && flags.truncated {
            let text = "the token limit cut the answer (--retry-truncated); a larger max_tokens may help".to_owned();
            return self.answered_badly(Charge::Truncated, text, Duration::ZERO);
        }
        Step::Settle(Ok(answer))
    }

    /// The endpoint answered; it only does not want this request. So it is no probe's failure.
    fn reject(&mut self, failure: Failure) -> Step {
        self.void_probe();
        Step::Settle(Err(failure))
    }

    /// The attempt says nothing about an outage: if it was a probe, another may go at once.
    fn void_probe(&mut self) {
        if self.at.was_probe {
            self.endpoint.probe_void(Some(self.ticket.model), self.at.now);
        }
    }

    fn not_found(&mut self, text: String, record: &Record) -> Step {
        if record.not_found >= NOT_FOUND_HALTS_AT && record.other == 0 && self.endpoint.successes() == 0 {
            return halt(
                HaltCause::ServiceRefuses,
                format!("the first {NOT_FOUND_HALTS_AT} requests were all answered {text}"),
                "check --base-url: for Open WebUI it ends in /api, for most others in /v1",
            );
        }
        self.reject(Failure { code: ErrorCode::ModelNotFound, message: text, status: self.at.status })
    }

    /// A page or a redirect: a wrong address before the first success, an outage after it.
    fn elsewhere(&mut self, text: String, way_out: &str) -> Step {
        if self.endpoint.successes() == 0 {
            return halt(HaltCause::ServiceRefuses, text, way_out);
        }
        self.outage(Trouble::Endpoint, text)
    }

    fn outage(&mut self, trouble: Trouble, text: String) -> Step {
        self.trouble(trouble);
        self.endpoint.cut(self.ticket.model, self.at.now);
        self.uncharged(text, false)
    }

    fn trouble(&mut self, trouble: Trouble) {
        let Circumstances { now, was_probe, unit, .. } = self.at;
        self.endpoint.trouble(trouble, self.ticket.key.0, Some(self.ticket.model), At { now, was_probe, unit });
    }

    fn rate_limited(&mut self, text: String) -> Step {
        self.endpoint.refused(self.at.now);
        self.endpoint.cut(self.ticket.model, self.at.now);
        if !self.at.asked_to_wait {
            self.endpoint.back_off(self.ticket.model, self.at.sent_at, self.at.now, self.at.unit);
        }
        self.void_probe();
        match self.uncharged(text, true) {
            Step::Retry { reason, at_least, .. } => Step::Retry { reason, at_least, takes_budget: false },
            step => step,
        }
    }

    fn first_token(&mut self, text: String) -> Step {
        self.endpoint.refused(self.at.now);
        self.endpoint.one(self.ticket.model);
        self.void_probe();
        if self.at.alone { self.charged(Charge::FirstToken, text, Duration::ZERO) } else { self.uncharged(text, true) }
    }

    /// Could be the service or the line. The breaker hears of it first: when it opens, the charge is void.
    fn ambiguous(&mut self, charge: Charge, text: String) -> Step {
        self.trouble(Trouble::Ambiguous);
        self.charged(charge, text, Duration::ZERO)
    }

    /// The endpoint lives, the answer is no good.
    fn answered_badly(&mut self, charge: Charge, text: String, at_least: Duration) -> Step {
        self.void_probe();
        self.charged(charge, text, at_least)
    }

    fn slow_gateway(&mut self, text: String) -> Step {
        self.trouble(Trouble::Ambiguous);
        self.charged(Charge::Slow, text, SLOW_WAIT)
    }

    fn charged(&mut self, charge: Charge, text: String, at_least: Duration) -> Step {
        if self.at.was_probe {
            return self.uncharged(text, false);
        }
        match self.ticket.charge(charge, self.endpoint.stamp(), &text, self.at.status) {
            Some(failure) => Step::Settle(Err(failure)),
            None => Step::Retry { reason: text, at_least, takes_budget: true },
        }
    }

    fn uncharged(&mut self, text: String, shared_refusals: bool) -> Step {
        if self.ticket.is_culprit(self.endpoint, shared_refusals)
            && let Some(failure) = self.ticket.charge(Charge::Culprit, self.endpoint.stamp(), &text, self.at.status)
        {
            return Step::Settle(Err(failure));
        }
        Step::Retry { reason: text, at_least: Duration::ZERO, takes_budget: true }
    }
}
