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
use crate::flow::endpoint::{At, Trouble};
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

    /// Nobody will be answered any more.
    pub fn give_up(&mut self) -> impl Iterator<Item = (Box<Ticket>, Flight)> {
        self.token_wait = None;
        std::mem::take(&mut self.askers).into_iter().map(|asker| (asker.ticket, asker.flight))
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

    fn new_token_tried(&mut self, reply: &Result<(u16, Bytes), TransportError>, now: Duration) {
        // Unless it was refused as well, let the lines find out.
        self.token_wait = self.token_wait.take().filter(|_| matches!(reply, Ok((401 | 403, _))));
        if let Some(wait) = &mut self.token_wait {
            (wait.trying, wait.look_at) = (false, now + TOKEN_LOOK);
        }
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
        let (now, at) = (self.now(), flight.backend);
        let backend = &mut self.backends[at];
        let is_of_old = matches!(question, Question::Token(_)) && flight.token_generation != backend.asking.generation;
        if is_of_old || backend.retired.is_some() {
            // It was sent with the token before, or nobody asks this endpoint any more.
            ticket.unspent = true;
            self.void_probe(&ticket, flight);
            return self.put_off(ticket, now);
        }
        let asking = &mut backend.asking;
        asking.askers.push(Asker { ticket, question, flight });
        match asking.fresh.take().filter(|fresh| now < fresh.until && fresh.generation == asking.generation) {
            Some(fresh) => {
                let (status, body) = (fresh.status, fresh.body.clone());
                asking.fresh = Some(fresh);
                self.answer_askers(at, Ok((status, body)), mode);
            }
            None if backend.errand.is_none() => backend.start_errand(Page::Models),
            None => {}
        }
    }

    pub(super) fn reported<M: Mode>(&mut self, at: usize, report: Report, mode: &mut M) {
        match (report.page, report.reply) {
            (_, Err(TransportError::Misconfigured(message))) => {
                let way_out =
                    "check --base-url, --ca-cert and the proxy variables; `anvil-filter check` walks them one by one"
                        .to_owned();
                self.retire(at, Halt { cause: HaltCause::Misconfigured, message, way_out }, mode);
            }
            (Page::Version, reply) => self.version_reported(at, reply, mode),
            (Page::Models, reply) => self.models_reported(at, reply, mode),
        }
    }

    fn version_reported<M: Mode>(&mut self, at: usize, reply: Result<(u16, Bytes), TransportError>, mode: &mut M) {
        let (now, retry_delay_max) = (self.now(), self.settings.retry_delay_max);
        let backend = &mut self.backends[at];
        match reply {
            Ok((status, body)) if status < 500 && status != 429 => {
                let dialect = Dialect::of_version_reply(status, &body);
                backend.dialect = Some(dialect);
                backend.endpoint.probe_void(None, now);
                mode.event(Event::DialectFound(dialect));
            }
            failed => {
                let why = failed.map_or_else(|error| error.to_string(), |(status, _)| format!("HTTP {status}"));
                backend.last_trouble = format!("asking for its version: {why}");
                backend.dialect_failures += 1;
                let circumstances = At { now, was_probe: backend.endpoint.is_open(), unit: fastrand::f64() };
                backend.endpoint.trouble(Trouble::Endpoint, u64::MAX, None, circumstances);
                let delay = backoff::full_jitter(backend.dialect_failures, retry_delay_max, fastrand::f64());
                backend.dialect_at = now + delay;
                mode.event(Event::Retry { reason: backend.last_trouble.clone(), delay });
            }
        }
    }

    fn models_reported<M: Mode>(&mut self, at: usize, reply: Result<(u16, Bytes), TransportError>, mode: &mut M) {
        let now = self.now();
        let asking = &mut self.backends[at].asking;
        if let Ok((status, body)) = &reply {
            let (status, body, generation) = (*status, body.clone(), asking.generation);
            asking.fresh = (status < 500).then_some(Fresh { until: now + LIST_FRESH, generation, status, body });
        }
        if asking.token_wait.as_ref().is_some_and(|wait| wait.trying) {
            asking.new_token_tried(&reply, now);
        }
        self.answer_askers(at, reply, mode);
    }

    fn answer_askers<M: Mode>(&mut self, at: usize, reply: Result<(u16, Bytes), TransportError>, mode: &mut M) {
        for asker in std::mem::take(&mut self.backends[at].asking.askers) {
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
                self.token_rejected(flight.backend, text.clone(), mode);
                None
            }
            (Question::Token(text), Ok((status, _))) if *status < 500 && *status != 429 => {
                self.void_probe(ticket, flight);
                self.backends[flight.backend].asking.token_accepted();
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
        let asking = &mut self.backends[flight.backend].asking;
        asking.nothing_listed = names.is_empty();
        asking.token_was_accepted |= !names.is_empty();
        if names.is_empty() {
            self.trouble(ticket, flight, Trouble::Endpoint);
            return self.uncharged(ticket, format!("{text}; the service lists no model"));
        }
        self.void_probe(ticket, flight);
        if models::contains(&names, &ticket.request.model) {
            return self.uncharged(ticket, format!("{text}, though it is listed"));
        }
        let message = format!("{text}; the service has: {}", models::few(&names));
        Step::Settle(Err(Failure::new(ErrorCode::ModelNotFound, message).with_status(400)))
    }

    fn uncharged(&mut self, ticket: &mut Ticket, reason: String) -> Step {
        let endpoint = &self.backends[ticket.backend].endpoint;
        let culprit = ticket.is_culprit(endpoint, false);
        match culprit.then(|| ticket.charge(Charge::Culprit, endpoint.stamp(), &reason, None)).flatten() {
            Some(failure) => Step::Settle(Err(failure)),
            None => Step::Retry { reason, at_least: Duration::ZERO, takes_budget: true },
        }
    }

    fn trouble(&mut self, ticket: &Ticket, flight: Flight, trouble: Trouble) {
        let circumstances = At { now: self.now(), was_probe: flight.was_probe, unit: fastrand::f64() };
        self.backends[flight.backend].endpoint.trouble(trouble, ticket.key.0, Some(ticket.model), circumstances);
    }

    pub(super) fn void_probe(&mut self, ticket: &Ticket, flight: Flight) {
        if flight.was_probe {
            let now = self.now();
            self.backends[flight.backend].endpoint.probe_void(Some(ticket.model), now);
        }
    }

    fn token_rejected<M: Mode>(&mut self, at: usize, message: String, mode: &mut M) {
        let (now, endless) = (self.now(), self.settings.endless);
        let backend = &mut self.backends[at];
        if (backend.asking.token_was_accepted || endless) && backend.transport.can_renew_token() {
            let wait = TokenWait { since: now, look_at: now, message, trying: false };
            backend.asking.token_wait.get_or_insert(wait);
            return;
        }
        self.retire(at, token_halt(&message), mode);
    }

    /// Reads the key again. Requests that were refused with the old one say nothing of the new one.
    pub(super) fn renew_token(&mut self, at: usize) {
        let backend = &mut self.backends[at];
        let is_another = backend.transport.renew_token() == Ok(true);
        backend.revive();
        let asking = &mut backend.asking;
        asking.generation += u32::from(is_another);
        // Whoever asks for this may have mended the service's side.
        asking.renewed = asking.token_wait.is_some();
    }

    pub(super) fn look_after_token<M: Mode>(&mut self, at: usize, now: Duration, mode: &mut M) {
        let backend = &mut self.backends[at];
        let free = backend.errand.is_none();
        let Some(wait) = backend.asking.token_wait.as_mut().filter(|wait| !wait.trying && now >= wait.look_at) else {
            return;
        };
        if now.saturating_sub(wait.since) >= self.settings.auth_wait {
            let message =
                format!("{}, and no new one came within {}", wait.message, format_seconds(self.settings.auth_wait));
            return self.retire(at, token_halt(&message), mode);
        }
        wait.look_at = now + TOKEN_LOOK;
        // A file that cannot be read just now is being replaced.
        if free && (backend.asking.renewed || backend.transport.renew_token() == Ok(true)) {
            backend.asking.renewed = false;
            wait.trying = true;
            backend.asking.generation += 1;
            backend.forget_lacks();
            backend.start_errand(Page::Models);
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
