//! Requests that only the list of models can decide, and the token that may have to be waited for.

use std::time::Duration;

use bytes::Bytes;

use super::super::errand::Report;
use super::super::policy::{Question, Step};
use super::super::ticket::{Charge, Ticket};
use super::{Core, Event, Flight, Halt, HaltCause, Mode, format_seconds};
use crate::api::Dialect;
use crate::api::models;
use crate::api::transport::{Page, Transport, TransportError};
use crate::flow::backoff;
use crate::flow::endpoint::Trouble;
use crate::line::{ErrorCode, Failure};

/// The key file is read again this often while the token is rejected.
const TOKEN_LOOK: Duration = Duration::from_secs(1);
/// One list of models serves all who ask within this time.
const LIST_FRESH: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Asker {
    ticket: Box<Ticket>,
    question: Question,
    flight: Flight,
}

#[derive(Debug)]
struct TokenWait {
    since: Duration,
    look_at: Duration,
    message: String,
    /// A new token was read and is being tried.
    trying: bool,
}

#[derive(Debug)]
struct Fresh {
    until: Duration,
    generation: u32,
    status: u16,
    body: Bytes,
}

/// Who asks, and what is known of the token.
#[derive(Debug, Default)]
pub struct Asking {
    askers: Vec<Asker>,
    token_wait: Option<TokenWait>,
    token_was_accepted: bool,
    generation: u32,
    /// A new token was read while the old one was waited out, and has yet to be tried.
    renewed: bool,
    fresh: Option<Fresh>,
    nothing_listed: bool,
}

impl Asking {
    pub fn is_empty(&self) -> bool {
        self.askers.is_empty()
    }

    pub fn token_generation(&self) -> u32 {
        self.generation
    }

    pub fn token_accepted(&mut self) {
        self.token_was_accepted = true;
        self.nothing_listed = false;
    }

    pub fn awaits_token(&self) -> bool {
        self.token_wait.is_some()
    }

    /// With a doubtful token every further request would only add to the doubt.
    pub fn holds_sends(&self) -> bool {
        self.token_wait.is_some() || self.askers.iter().any(|asker| matches!(asker.question, Question::Token(_)))
    }

    pub fn wake_at(&self) -> Option<Duration> {
        self.token_wait.as_ref().filter(|wait| !wait.trying).map(|wait| wait.look_at)
    }

    pub fn pause_reason(&self) -> Option<String> {
        let wait = self.token_wait.as_ref()?;
        Some(format!("the token is rejected ({}); its file is read again every second", wait.message))
    }

    /// On an account without models, an outage of the model server and a missing permission look the same.
    pub fn explain_outage(&self, message: &str) -> Option<Halt> {
        self.nothing_listed.then(|| Halt {
            cause: HaltCause::ServiceRefuses,
            message: format!("{message}; the service lists no model at all"),
            way_out: "either its model servers are down, or no model is shared with your account: look at the web page, or ask the administrators".to_owned(),
        })
    }
}

impl<T: Transport> Core<'_, T> {
    pub(super) fn ask<M: Mode>(&mut self, mut ticket: Box<Ticket>, question: Question, flight: Flight, mode: &mut M) {
        let now = self.now();
        if matches!(question, Question::Token(_)) && flight.token_generation != self.asking.generation {
            // It was sent with the token before.
            ticket.unspent = true;
            self.void_probe(&ticket, flight);
            return self.put_off(ticket, now);
        }
        self.asking.askers.push(Asker { ticket, question, flight });
        match self.asking.fresh.take().filter(|fresh| now < fresh.until && fresh.generation == self.asking.generation) {
            Some(fresh) => {
                let (status, body) = (fresh.status, fresh.body.clone());
                self.asking.fresh = Some(fresh);
                self.answer_askers(Ok((status, body)), mode);
            }
            None if self.errand.is_none() => self.start_errand(Page::Models),
            None => {}
        }
    }

    pub(super) fn reported<M: Mode>(&mut self, report: Report, mode: &mut M) {
        match (report.page, report.reply) {
            (_, Err(TransportError::Misconfigured(message))) => {
                let way_out =
                    "check --base-url, --ca-cert and the proxy variables; `anvil-filter check` walks them one by one"
                        .to_owned();
                self.halt_run(Halt { cause: HaltCause::Misconfigured, message, way_out }, mode);
            }
            (Page::Version, reply) => self.version_reported(reply, mode),
            (Page::Models, reply) => self.models_reported(reply, mode),
        }
    }

    fn version_reported<M: Mode>(&mut self, reply: Result<(u16, Bytes), TransportError>, mode: &mut M) {
        let now = self.now();
        match reply {
            Ok((status, body)) if status < 500 && status != 429 => {
                let dialect = Dialect::of_version_reply(status, &body);
                self.dialect = Some(dialect);
                self.endpoint.probe_void("", now);
                mode.event(Event::DialectFound(dialect));
            }
            failed => {
                let why = failed.map_or_else(|error| error.to_string(), |(status, _)| format!("HTTP {status}"));
                self.last_trouble = format!("asking for its version: {why}");
                self.dialect_failures += 1;
                let probe = self.endpoint.is_open();
                self.endpoint.trouble(Trouble::Endpoint, u64::MAX, "", now, probe, fastrand::f64());
                let delay = backoff::full_jitter(self.dialect_failures, self.settings.retry_delay_max, fastrand::f64());
                self.dialect_at = now + delay;
                mode.event(Event::Retry { reason: self.last_trouble.clone(), delay });
            }
        }
    }

    fn models_reported<M: Mode>(&mut self, reply: Result<(u16, Bytes), TransportError>, mode: &mut M) {
        let now = self.now();
        if let Ok((status, body)) = &reply {
            let (status, body, generation) = (*status, body.clone(), self.asking.generation);
            self.asking.fresh = (status < 500).then_some(Fresh { until: now + LIST_FRESH, generation, status, body });
        }
        if self.asking.token_wait.as_ref().is_some_and(|wait| wait.trying) {
            self.new_token_tried(&reply, now);
        }
        self.answer_askers(reply, mode);
    }

    fn answer_askers<M: Mode>(&mut self, reply: Result<(u16, Bytes), TransportError>, mode: &mut M) {
        for asker in std::mem::take(&mut self.asking.askers) {
            let Asker { mut ticket, question, flight } = asker;
            match self.answer_one(&mut ticket, &question, flight, &reply, mode) {
                Some(step) => self.apply(step, ticket, flight, mode),
                None => {
                    ticket.unspent = true;
                    let now = self.now();
                    self.put_off(ticket, now);
                }
            }
        }
    }

    /// What to do with one who asked; `None` when it waits for a new token.
    fn answer_one<M: Mode>(
        &mut self,
        ticket: &mut Ticket,
        question: &Question,
        flight: Flight,
        reply: &Result<(u16, Bytes), TransportError>,
        mode: &mut M,
    ) -> Option<Step> {
        let refused = matches!(reply, Ok((401 | 403, _)));
        match (question, reply) {
            (Question::Token(text), _) if refused => {
                self.void_probe(ticket, flight);
                self.token_rejected(text.clone(), mode);
                None
            }
            (Question::Token(text), Ok((status, _))) if *status < 500 && *status != 429 => {
                self.void_probe(ticket, flight);
                self.asking.token_accepted();
                let message = format!("the token is good, but not for this request ({text})");
                Some(Step::Settle(Err(Failure::new(ErrorCode::NotAllowed, message).with_status(status_of(text)))))
            }
            (Question::Model(text), Ok((200..=299, body))) => Some(self.judge_model(ticket, text, flight, body)),
            (Question::Model(text) | Question::Token(text), _) => {
                self.trouble(ticket, flight, Trouble::Endpoint);
                Some(self.uncharged(ticket, text.clone()))
            }
        }
    }

    fn judge_model(&mut self, ticket: &mut Ticket, text: &str, flight: Flight, body: &[u8]) -> Step {
        let names = models::parse(body).unwrap_or_default();
        self.asking.nothing_listed = names.is_empty();
        if names.is_empty() {
            self.trouble(ticket, flight, Trouble::Endpoint);
            return self.uncharged(ticket, format!("{text}; the service lists no model"));
        }
        self.asking.token_was_accepted = true;
        self.void_probe(ticket, flight);
        if models::contains(&names, &ticket.request.model) {
            return self.uncharged(ticket, format!("{text}, though it is listed"));
        }
        let message = format!("{text}; the service has: {}", models::few(&names));
        Step::Settle(Err(Failure::new(ErrorCode::ModelNotFound, message).with_status(400)))
    }

    fn uncharged(&mut self, ticket: &mut Ticket, reason: String) -> Step {
        let culprit = ticket.is_culprit(&self.endpoint, false);
        match culprit.then(|| ticket.charge(Charge::Culprit, &self.endpoint, &reason, None)).flatten() {
            Some(failure) => Step::Settle(Err(failure)),
            None => Step::Retry { reason, at_least: Duration::ZERO },
        }
    }

    fn trouble(&mut self, ticket: &Ticket, flight: Flight, trouble: Trouble) {
        let now = self.now();
        self.endpoint.trouble(trouble, ticket.key.0, &ticket.request.model, now, flight.was_probe, fastrand::f64());
    }

    fn void_probe(&mut self, ticket: &Ticket, flight: Flight) {
        if flight.was_probe {
            let now = self.now();
            self.endpoint.probe_void(&ticket.request.model, now);
        }
    }

    fn token_rejected<M: Mode>(&mut self, message: String, mode: &mut M) {
        let now = self.now();
        if (self.asking.token_was_accepted || self.settings.endless) && self.transport.can_renew_token() {
            let wait = TokenWait { since: now, look_at: now, message, trying: false };
            self.asking.token_wait.get_or_insert(wait);
            return;
        }
        self.halt_run(token_halt(&message), mode);
    }

    /// Reads the key again. Requests that were refused with the old one say nothing of the new one.
    pub(super) fn renew_token(&mut self) {
        let is_another = self.transport.renew_token() == Ok(true);
        self.asking.generation += u32::from(is_another);
        // Whoever asks for this may have mended the service's side.
        self.asking.renewed = self.asking.token_wait.is_some();
    }

    pub(super) fn look_after_token<M: Mode>(&mut self, now: Duration, mode: &mut M) {
        let free = self.errand.is_none();
        let Some(wait) = self.asking.token_wait.as_mut().filter(|wait| !wait.trying && now >= wait.look_at) else {
            return;
        };
        if now.saturating_sub(wait.since) >= self.settings.auth_wait {
            let message =
                format!("{}, and no new one came within {}", wait.message, format_seconds(self.settings.auth_wait));
            return self.halt_run(token_halt(&message), mode);
        }
        wait.look_at = now + TOKEN_LOOK;
        // A file that cannot be read just now is being replaced.
        if free && (self.asking.renewed || self.transport.renew_token() == Ok(true)) {
            self.asking.renewed = false;
            wait.trying = true;
            self.asking.generation += 1;
            self.start_errand(Page::Models);
        }
    }

    fn new_token_tried(&mut self, reply: &Result<(u16, Bytes), TransportError>, now: Duration) {
        // Unless it was refused as well, let the lines find out.
        self.asking.token_wait = self.asking.token_wait.take().filter(|_| matches!(reply, Ok((401 | 403, _))));
        if let Some(wait) = &mut self.asking.token_wait {
            (wait.trying, wait.look_at) = (false, now + TOKEN_LOOK);
        }
    }
}

fn token_halt(message: &str) -> Halt {
    Halt {
        cause: HaltCause::TokenRejected,
        message: format!("the service rejects the token ({message})"),
        way_out: "get a new key from the web page of the service (Settings, Account), and put it into the key file or ANVILGPT_API_KEY; then run the same command again".to_owned(),
    }
}

/// The status that a signal's text begins with.
fn status_of(text: &str) -> u16 {
    text.strip_prefix("HTTP ").and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or(403)
}
