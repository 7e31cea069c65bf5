//! One request from its slot to its settlement: sending, judging what came of it, trying again.

use std::time::Duration;

use super::super::attempt::{Plan, attempt, take_end};
use super::super::policy::{Circumstances, Step, decide};
use super::super::ticket::Ticket;
use super::{Core, Event, FAR, Finished, Flight, MODEL_LOOK, Mode, Slot};
use crate::api::Dialect;
use crate::api::body::{render, streams};
use crate::api::transport::Transport;
use crate::flow::{Permit, backoff};
use crate::line::{Answer, ErrorCode, Failure, Outcome};

impl<T: Transport> Core<'_, T> {
    /// Sends one request, unless its model is held back or its line cannot be sent to this dialect.
    pub(super) fn send<M: Mode>(&mut self, mut ticket: Box<Ticket>, mode: &mut M) {
        let now = self.now();
        match self.endpoint.permit_model(&ticket.request.model, now) {
            Permit::Free | Permit::Probe => {}
            Permit::Wait(at) => return self.hold_back(ticket, at),
            Permit::Probing => return self.hold_back(ticket, now + MODEL_LOOK),
        }
        let dialect = self.dialect.expect("nothing is sent before the dialect is known");
        if let Some(field) = ticket.request.chat.background_field.filter(|_| dialect == Dialect::OpenWebUi) {
            let message = format!(
                "the field \"{field}\" would make a background task of the request, whose answer never comes here; leave it out"
            );
            return self.settle(ticket, Err(Failure::new(ErrorCode::BackgroundTask, message)), mode);
        }
        ticket.attempts += 1;
        ticket.began.get_or_insert(now);
        let flight = Flight {
            was_probe: self.endpoint.sent(&ticket.request.model, now),
            began_alone: self.in_flight.is_empty(),
            token_generation: self.asking.token_generation(),
        };
        let streams = streams(&ticket.request.chat, self.settings.upstream);
        let body = ticket.body.get_or_insert_with(|| render(&mut ticket.request.chat, dialect, streams).into()).clone();
        let plan = Plan {
            key: ticket.key,
            attempt: ticket.attempts,
            streams,
            clocks: self.settings.clocks,
            reply_bytes_max: self.settings.reply_bytes_max,
            deltas: self.deltas.as_ref().map(|(sender, _)| sender.clone()),
        };
        let transport = self.transport;
        self.in_flight.start((ticket, flight, body, plan), move |(ticket, flight, body, plan)| async move {
            let (seen, ending) = attempt(transport, body, plan).await;
            ((ticket, flight, seen), take_end(ending))
        });
        mode.event(Event::Sent { in_flight: self.in_flight.len() });
    }

    /// Its model is out. What was paid for sending it stays paid.
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
        let at = Circumstances {
            now,
            status: seen.status,
            was_probe: flight.was_probe,
            alone: flight.began_alone && self.in_flight.is_empty(),
            unit: fastrand::f64(),
        };
        let step = decide(seen.signal, &mut ticket, &mut self.endpoint, &mut self.record, at);
        if let Some(wait) = seen.wait {
            self.gate(wait, mode);
        }
        self.apply(step, ticket, flight, mode);
    }

    pub(super) fn apply<M: Mode>(&mut self, step: Step, ticket: Box<Ticket>, flight: Flight, mode: &mut M) {
        match step {
            Step::Settle(result) => self.settle(ticket, result, mode),
            Step::Retry { reason, at_least } => self.retry(ticket, reason, at_least, mode),
            Step::Ask(question) => self.ask(ticket, question, flight, mode),
            Step::Halt(halt) => {
                // Its line is not settled, and so the run is not complete.
                self.put_off(ticket, FAR);
                self.halt_run(halt, mode);
            }
        }
    }

    pub(super) fn settle<M: Mode>(&mut self, ticket: Box<Ticket>, result: Result<Answer, Failure>, mode: &mut M) {
        if result.is_ok() {
            self.asking.token_accepted();
            self.endpoint.success(&ticket.request.model);
        }
        let seconds = ticket.began.map_or(0.0, |began| self.now().saturating_sub(began).as_secs_f64());
        let outcome = Outcome { result, attempts: ticket.attempts, seconds };
        if mode.settle(ticket.key, &ticket.request, outcome) == Slot::Held {
            self.held += 1;
        }
    }

    pub(super) fn retry<M: Mode>(&mut self, mut ticket: Box<Ticket>, reason: String, at_least: Duration, mode: &mut M) {
        ticket.failures += 1;
        ticket.unspent = false;
        let cap = self.settings.retry_delay_max;
        let delay = backoff::full_jitter(ticket.failures, cap, fastrand::f64()).max(at_least.min(cap));
        mode.event(Event::Retry { reason: reason.clone(), delay });
        self.last_trouble = reason;
        let due = self.now() + delay;
        self.put_off(ticket, due);
    }
}
