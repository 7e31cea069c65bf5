//! Which request goes where: retries before fresh lines, and among endpoints the one with the shortest queue.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::Duration;

use super::super::ticket::Ticket;
use super::super::{Fit, Mode, Room};
use super::{Core, Happening};
use crate::api::transport::Transport;
use crate::flow::{Model, Permit};

/// Retries whose time has come, the one that is due longest first.
pub type Due = VecDeque<Box<Ticket>>;

impl<T: Transport> Core<'_, T> {
    /// Whether a slot, the gate and the breaker of some endpoint are free.
    pub(super) fn may_send(&self, now: Duration) -> bool {
        self.sends() && self.has_slot() && self.backends.iter().any(|backend| backend.has_room(now))
    }

    /// Whether fewer requests are in flight, or not yet durable, than may be.
    pub(super) fn has_slot(&self) -> bool {
        self.in_flight.occupied() + self.held < self.concurrency
    }

    /// The endpoint for a request: one that need not load its model, that did not fail it just now, and of those the
    /// least busy. A probe is worth more than all of that.
    pub(super) fn choose(&self, model: Model, now: Duration, failed_at: Option<usize>) -> Option<usize> {
        if let [only] = &self.backends[..] {
            return only.has_room_for(Some(model), now).then_some(0);
        }
        let candidates = self.backends.iter().enumerate().filter(|(_, backend)| backend.has_room_for(Some(model), now));
        let rank = |index: usize| {
            let endpoint = &self.backends[index].endpoint;
            let probes = endpoint.permit(now) == Permit::Probe || endpoint.permit_model(model, now) == Permit::Probe;
            (!probes, endpoint.is_cold(Some(model)), failed_at == Some(index), endpoint.load(model))
        };
        candidates.map(|(index, _)| index).min_by(|a, b| rank(*a).partial_cmp(&rank(*b)).unwrap_or(Ordering::Equal))
    }

    /// The next request to be sent. A fresh line makes the better probe: if the line that failed last is itself the
    /// trouble, the outage ends.
    pub(super) fn poll_next_request<M: Mode>(
        &mut self,
        now: Duration,
        mode: &mut M,
        cx: &mut Context<'_>,
    ) -> Poll<Happening> {
        if let Some(ticket) = self.first.take() {
            // It waited for a dialect.
            return Poll::Ready(Happening::Due(ticket));
        }
        if let Some(ticket) = self.pop_due(now) {
            return Poll::Ready(Happening::Due(ticket));
        }
        if !self.source_ended {
            match mode.poll_pull(&Room::new(&|name| self.fit(name, now)), cx) {
                Poll::Ready(Some(work)) => {
                    let model = self.models.of(&work.request.model);
                    return Poll::Ready(Happening::Pulled(Box::new(Ticket::new(work.key, work.request, model))));
                }
                Poll::Ready(None) => return Poll::Ready(Happening::SourceEnded),
                Poll::Pending => {}
            }
        }
        self.pop_probe(now).map_or(Poll::Pending, |ticket| Poll::Ready(Happening::Due(ticket)))
    }

    /// Whether a request for this model could be sent now.
    fn fit(&self, name: &str, now: Duration) -> Fit {
        let model = self.models.get(name);
        let mut fits = self.backends.iter().filter(|backend| backend.has_room_for(model, now)).peekable();
        if fits.peek().is_none() {
            // What can never be sent is to fail, not to wait.
            return if model.is_some_and(|model| self.is_hopeless(model)) { Fit::Here } else { Fit::None };
        }
        if fits.all(|backend| backend.endpoint.is_cold(model)) { Fit::Swap } else { Fit::Here }
    }

    /// A retry that no endpoint can ever take: it is to fail, whether or not anything may be sent.
    pub(super) fn pop_hopeless(&mut self) -> Option<Box<Ticket>> {
        if self.backends.len() < 2 || !self.sends() {
            return None;
        }
        let index = self.due.iter().position(|ticket| self.is_hopeless(ticket.model))?;
        self.due.remove(index)
    }

    /// Whether no endpoint is left that may have this model.
    pub(super) fn is_hopeless(&self, model: Model) -> bool {
        self.backends.iter().all(|backend| backend.is_hopeless_for(model))
    }

    /// What can be heard of the source while nothing may be sent.
    pub(super) fn poll_while_held<M: Mode>(&mut self, mode: &mut M, cx: &mut Context<'_>) -> Poll<Happening> {
        let happening = self.poll_first(mode, cx);
        if happening.is_ready() || !self.waits_for_source_alone() {
            return happening;
        }
        // There may be nothing left to wait for.
        match mode.poll_pull(&Room::new(&|_| Fit::None), cx) {
            Poll::Ready(Some(work)) => {
                let model = self.models.of(&work.request.model);
                Poll::Ready(Happening::Pulled(Box::new(Ticket::new(work.key, work.request, model))))
            }
            Poll::Ready(None) => Poll::Ready(Happening::SourceEnded),
            Poll::Pending => Poll::Pending,
        }
    }

    /// One request is enough to know that a dialect is needed; the others can wait where they are.
    fn poll_first<M: Mode>(&mut self, mode: &mut M, cx: &mut Context<'_>) -> Poll<Happening> {
        let knows = self.backends.iter().any(|backend| backend.dialect.is_some());
        let may = self.backends.iter().any(|backend| backend.is_permitted(self.now()));
        if knows || self.first.is_some() || self.source_ended || !may || !self.has_slot() {
            return Poll::Pending;
        }
        match mode.poll_pull(&Room::new(&|_| Fit::Here), cx) {
            Poll::Ready(Some(work)) => {
                let model = self.models.of(&work.request.model);
                self.first = Some(Box::new(Ticket::new(work.key, work.request, model)));
                Poll::Pending
            }
            Poll::Ready(None) => Poll::Ready(Happening::SourceEnded),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Takes the retries whose time has come out of the heap.
    pub(super) fn collect_due(&mut self, now: Duration) {
        while self.retries.peek().is_some_and(|ticket| ticket.due <= now) {
            self.due.extend(self.retries.pop());
        }
    }

    /// The retry that was due first and can be sent, if the budget has a token for it.
    fn pop_due(&mut self, now: Duration) -> Option<Box<Ticket>> {
        let mut blocked: Option<Model> = None;
        for index in 0..self.due.len() {
            let ticket = &self.due[index];
            let (model, unspent) = (ticket.model, ticket.unspent);
            if blocked == Some(model) {
                continue;
            }
            let Some(chosen) = self.choose(model, now, ticket.failed_at) else {
                blocked = Some(model);
                continue;
            };
            let backend = &mut self.backends[chosen];
            if backend.endpoint.permit(now) == Permit::Probe {
                continue;
            }
            if !unspent && let Err(until) = backend.endpoint.budget.take(now) {
                backend.budget_at = until;
                continue;
            }
            return self.due.remove(index);
        }
        None
    }

    /// The retry that is due first, due or not, of those that an endpoint in doubt may be asked.
    fn pop_probe(&mut self, now: Duration) -> Option<Box<Ticket>> {
        let probed = self
            .backends
            .iter()
            .position(|backend| backend.has_room(now) && backend.endpoint.permit(now) == Permit::Probe)?;
        let backend = &self.backends[probed];
        let may = |ticket: &Ticket| backend.has_room_for(Some(ticket.model), now);
        if let Some(index) = self.due.iter().position(|ticket| may(ticket)) {
            return self.due.remove(index);
        }
        let mut tickets = std::mem::take(&mut self.retries).into_sorted_vec();
        let found = tickets.iter().rposition(|ticket| may(ticket)).map(|index| tickets.remove(index));
        self.retries = tickets.into();
        found
    }

    /// When time alone lets a retry go.
    pub(super) fn retry_at(&self, now: Duration) -> Option<Duration> {
        if !self.has_slot() {
            return None;
        }
        let free = |backend: &&super::Backend<'_, T>| backend.serves() && backend.endpoint.permit(now) == Permit::Free;
        let budget = self.backends.iter().filter(free).map(|backend| backend.budget_at).min()?;
        let waits_for_budget = self.due.iter().any(|ticket| !ticket.unspent) && budget > now;
        let heap = self.retries.peek().map(|ticket| ticket.due);
        heap.into_iter().chain(waits_for_budget.then_some(budget)).min()
    }
}
