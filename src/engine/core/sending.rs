//! One request from its slot to its settlement: sending, judging what came of it, trying again.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::super::attempt::{Plan, Seen, attempt, take_end};
use super::super::policy::{Circumstances, Step, decide};
use super::super::ticket::Ticket;
use super::{Booking, Core, Event, Finished, Flight, Mode, Slot};
use crate::api::body::{render, streams};
use crate::api::transport::Transport;
use crate::api::{Dialect, Signal};
use crate::flow::limit::{Answered, ServerTimes};
use crate::flow::{Model, backoff};
use crate::line::{Answer, ErrorCode, Failure, Outcome};

impl<T: Transport> Core<'_, T> {
    /// Sends one request, unless nothing can take it now, or its line cannot be sent at all.
    pub(super) fn send<M: Mode>(&mut self, mut ticket: Box<Ticket>, mode: &mut M) {
        let now = self.now();
        let Some(at) = ticket.chosen.take().or_else(|| self.choose(&ticket, now)) else {
            return self.wait_for_room(ticket, mode);
        };
        let backend = &self.backends[at];
        let dialect = backend.dialect.expect("nothing is sent before the dialect is known");
        if let Some(field) = ticket.request.chat.background_field.filter(|_| dialect == Dialect::OpenWebUi) {
            let message = format!(
                "the field \"{field}\" would make a background task of the request, whose answer never comes here; leave it out"
            );
            return self.settle(ticket, Err(Failure::new(ErrorCode::BackgroundTask, message)), mode);
        }
        let streams = streams(&ticket.request.chat, self.settings.upstream);
        let body = body_of(&mut ticket, dialect, streams, self.backends.len() > 1);
        let booking = match self.book(at, &ticket, &body, now) {
            Ok(booking) => booking,
            Err(ready_at) => {
                self.backends[at].endpoint.is_short(ready_at);
                ticket.unspent = true;
                return self.due.push_front(ticket);
            }
        };
        ticket.attempts += 1;
        ticket.began.get_or_insert(now);
        ticket.backend = at;
        let began_alone = self.in_flight.is_empty();
        let backend = &mut self.backends[at];
        let pulse = backend.pulse(ticket.model);
        let flight = Flight {
            backend: at,
            sent_at: now,
            body_bytes: body.len(),
            booking,
            was_probe: backend.endpoint.sent(ticket.model, now),
            began_alone,
            token_generation: backend.asking.token_generation(),
        };
        let plan = Plan {
            key: ticket.key,
            attempt: ticket.attempts,
            streams,
            clocks: self.settings.clocks,
            reply_bytes_max: self.settings.reply_bytes_max,
            deltas: self.deltas.as_ref().map(|(sender, _)| sender.clone()),
            pulse,
        };
        let transport = backend.transport;
        self.in_flight.start(
            (transport, ticket, flight, body, plan),
            move |(transport, ticket, flight, body, plan)| async move {
                let (seen, ending) = attempt(transport, body, plan).await;
                ((ticket, flight, seen), take_end(ending))
            },
        );
        mode.event(Event::Sent { in_flight: self.in_flight.len() });
    }

    /// Books an attempt with the endpoint's quotas; or says when they let it pass.
    fn book(
        &mut self,
        at: usize,
        ticket: &Ticket,
        body: &Bytes,
        now: Duration,
    ) -> Result<Option<(Booking, u64)>, Duration> {
        let backend = &mut self.backends[at];
        if backend.endpoint.quotas.is_empty() {
            return Ok(None);
        }
        let tokens = backend.estimate_tokens(body.len(), ticket.request.chat.tokens_max);
        let ready_at = backend.endpoint.quotas.ready_at(now, tokens);
        if ready_at > now { Err(ready_at) } else { Ok(Some((backend.endpoint.quotas.take(now, tokens), tokens))) }
    }

    /// No endpoint takes it now. What was paid for sending it stays paid.
    fn wait_for_room<M: Mode>(&mut self, mut ticket: Box<Ticket>, mode: &mut M) {
        let now = self.now();
        if self.is_hopeless(&ticket, now)
            && let Some(failure) = ticket.refusal.take()
        {
            return self.settle(ticket, Err(failure), mode);
        }
        ticket.unspent = true;
        self.due.push_front(ticket);
    }

    /// It can go later. What was paid for sending it stays paid.
    pub(super) fn hold_back(&mut self, mut ticket: Box<Ticket>, due: Duration) {
        ticket.unspent = true;
        self.put_off(ticket, due);
    }

    pub(super) fn put_off(&mut self, mut ticket: Box<Ticket>, due: Duration) {
        ticket.due = due;
        self.retries.push(ticket);
    }

    pub(super) fn finished<M: Mode>(&mut self, (mut ticket, flight, seen): Finished, mode: &mut M) {
        // Deltas of this attempt may still lie in the channel; they come before its outcome.
        while let Some(Ok(delta)) = self.deltas.as_mut().map(|(_, receiver)| receiver.try_recv()) {
            mode.delta(delta);
        }
        mode.event(Event::Ended { in_flight: self.in_flight.len() });
        let now = self.now();
        let answered = self.book_end(&ticket, flight, &seen, now, mode);
        let backend = &mut self.backends[flight.backend];
        let at = Circumstances {
            sent_at: flight.sent_at,
            now,
            asked_to_wait: seen.wait.is_some(),
            status: seen.status,
            was_probe: flight.was_probe,
            alone: flight.began_alone && self.in_flight.is_empty(),
            unit: fastrand::f64(),
            integrity: self.settings.integrity,
        };
        let step = decide(seen.signal, &mut ticket, &mut backend.endpoint, &mut backend.record, at);
        if matches!(step, Step::Settle(Ok(_))) {
            backend.asking.token_accepted();
            backend.endpoint.success(ticket.model, answered.as_ref());
            backend.note_answer(ticket.model);
            backend.revived_at = None;
        }
        self.apply(step, ticket, flight, mode);
        if let Some(wait) = seen.wait {
            self.gate(flight.backend, wait, mode);
        }
    }

    /// Books the end of an attempt with limits and quotas. Returns what an answer shows of the server's queue.
    fn book_end<M: Mode>(
        &mut self,
        ticket: &Ticket,
        flight: Flight,
        seen: &Seen,
        now: Duration,
        mode: &mut M,
    ) -> Option<Answered> {
        let start = self.start;
        let backend = &mut self.backends[flight.backend];
        let in_flight = backend.endpoint.ended(ticket.model);
        let answer = if let Signal::Answer(answer) = &seen.signal { Some(answer) } else { None };
        if let Some((booking, estimate)) = flight.booking {
            let tokens = backend.settle_quotas(booking, estimate, flight.body_bytes, &seen.signal);
            mode.event(Event::Spent { endpoint: flight.backend, tokens });
        }
        if let Some(news) = &seen.quota {
            let others = backend.endpoint.in_flight();
            backend.endpoint.quotas.learn(now, news, others);
        }
        let since_start = |at: Instant| at.saturating_duration_since(start);
        answer.map(|answer| Answered {
            sent_at: flight.sent_at,
            first_token_at: seen.first_token.map(since_start),
            ended_at: now,
            request_bytes: flight.body_bytes,
            served: answer.times.map(server_times),
            in_flight,
            silence: backend.silence(ticket.model).map(|(from, until)| (since_start(from), since_start(until))),
        })
    }

    pub(super) fn apply<M: Mode>(&mut self, step: Step, mut ticket: Box<Ticket>, flight: Flight, mode: &mut M) {
        match step {
            Step::Settle(Err(failure)) if self.others_may_serve(&mut ticket, flight.backend, &failure, mode) => {
                ticket.unspent = true;
                self.due.push_back(ticket);
            }
            Step::Settle(result) => self.settle(ticket, result, mode),
            Step::Retry { reason, at_least, takes_budget } => {
                ticket.unspent = !takes_budget;
                self.retry(ticket, reason, at_least, mode);
            }
            Step::Ask(question) => self.ask(ticket, question, flight, mode),
            Step::Halt(halt) => {
                // Another probe may go, should the endpoint be tried again.
                self.void_probe(&ticket, flight);
                // Its line is not settled, and so the run is not complete.
                let now = self.now();
                self.hold_back(ticket, now);
                self.retire(flight.backend, halt, mode);
            }
        }
    }

    /// Whether a line that this endpoint does not serve may still be served by another one.
    fn others_may_serve<M: Mode>(&mut self, ticket: &mut Ticket, at: usize, failure: &Failure, mode: &mut M) -> bool {
        if self.backends.len() < 2 || !matches!(failure.code, ErrorCode::ModelNotFound | ErrorCode::NotAllowed) {
            return false;
        }
        let now = self.now();
        // What is not allowed may be the line's own affair; a model that is not there concerns them all.
        let is_lack = failure.code == ErrorCode::ModelNotFound && ticket.model != Model::REST;
        if is_lack && self.backends[at].note_lack(ticket.model, now) {
            let (name, model) = (self.backends[at].name.clone(), ticket.request.model.to_string());
            mode.event(Event::Lacks { name, model, reason: failure.message.clone() });
        }
        ticket.refused_at.push(at);
        ticket.refusal = Some(failure.clone());
        !self.is_hopeless(ticket, now)
    }

    pub(super) fn settle<M: Mode>(&mut self, ticket: Box<Ticket>, result: Result<Answer, Failure>, mode: &mut M) {
        let seconds = ticket.began.map_or(0.0, |began| self.now().saturating_sub(began).as_secs_f64());
        let outcome = Outcome { result, attempts: ticket.attempts, seconds };
        if mode.settle(ticket.key, &ticket.request, outcome) == Slot::Held {
            self.held += 1;
        }
    }

    pub(super) fn retry<M: Mode>(&mut self, mut ticket: Box<Ticket>, reason: String, at_least: Duration, mode: &mut M) {
        ticket.failures += 1;
        ticket.failed_at = Some(ticket.backend);
        let cap = self.settings.retry_delay_max;
        let delay = backoff::full_jitter(ticket.failures, cap, fastrand::f64()).max(at_least.min(cap));
        mode.event(Event::Retry { reason: reason.clone(), delay });
        self.backends[ticket.backend].last_trouble = reason;
        let due = self.now() + delay;
        self.put_off(ticket, due);
    }
}

/// The request's body, made once; where there are `several` endpoints, once for each dialect.
fn body_of(ticket: &mut Ticket, dialect: Dialect, streams: bool, several: bool) -> Bytes {
    if let Some((_, body)) = ticket.body.as_ref().filter(|(made_for, _)| *made_for == dialect) {
        return body.clone();
    }
    // Making a body takes the request apart.
    let body: Bytes = match several {
        true => render(&mut ticket.request.chat.clone(), dialect, streams).into(),
        false => render(&mut ticket.request.chat, dialect, streams).into(),
    };
    ticket.body = Some((dialect, body.clone()));
    body
}

fn server_times(times: crate::line::Times) -> ServerTimes {
    let of = Duration::from_nanos;
    ServerTimes {
        total: of(times.total_nanoseconds),
        load: of(times.load_nanoseconds),
        prompt_evaluation: of(times.prompt_evaluation_nanoseconds),
        evaluation: of(times.evaluation_nanoseconds),
    }
}
