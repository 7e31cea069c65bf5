//! Which request goes where: retries before fresh lines, and among endpoints the one with the shortest queue.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::Duration;

use super::super::ticket::Ticket;
use super::super::{Fit, Mode, Room, Work};
use super::backend::Backend;
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
    pub(super) fn choose(&self, ticket: &Ticket, now: Duration) -> Option<usize> {
        self.choose_among(ticket, now, |_| true)
    }

    fn choose_among(&self, ticket: &Ticket, now: Duration, may: impl Fn(&Backend<'_, T>) -> bool) -> Option<usize> {
        let model = ticket.model;
        if let [only] = &self.backends[..] {
            return (only.has_room_for(Some(model), now) && may(only)).then_some(0);
        }
        let candidates = self.backends.iter().enumerate().filter(|(index, backend)| {
            backend.has_room_for(Some(model), now)
                && may(backend)
                && !ticket.refused_at.contains(index)
                && !self.is_passed_over(backend, model, now)
        });
        let rank = |index: usize| {
            let endpoint = &self.backends[index].endpoint;
            let is_cold = endpoint.loaded().is_some_and(|loaded| loaded != model);
            let busy = if is_cold { endpoint.in_flight() as f64 } else { endpoint.load(model) };
            let probes = endpoint.permit(now) == Permit::Probe || endpoint.permit_model(model, now) == Permit::Probe;
            (!probes, is_cold, ticket.failed_at == Some(index), busy)
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
            return Poll::Ready(Happening::Ready(ticket));
        }
        if let Some(ticket) = self.pop_due(now) {
            return Poll::Ready(Happening::Ready(ticket));
        }
        if !self.source_ended {
            match mode.poll_pull(&Room::new(&|name, waits| self.fit(name, waits, now)), cx) {
                Poll::Ready(Some(work)) => return Poll::Ready(Happening::Ready(self.ticket(work))),
                Poll::Ready(None) => return Poll::Ready(Happening::SourceEnded),
                Poll::Pending => {}
            }
        }
        self.pop_probe(now).map_or(Poll::Pending, |ticket| Poll::Ready(Happening::Ready(ticket)))
    }

    /// Whether a request for this model could be sent now, without putting away a model for which others wait.
    fn fit(&self, name: &str, waits: &dyn Fn(&str) -> bool, now: Duration) -> Fit {
        let model = self.models.get(name);
        let mut best = Fit::None;
        let is_passed_over = |backend| model.is_some_and(|model| self.is_passed_over(backend, model, now));
        for backend in self.backends.iter().filter(|backend| backend.has_room_for(model, now)) {
            if is_passed_over(backend) {
                continue;
            }
            match backend.endpoint.loaded() {
                Some(loaded) if Some(loaded) == model => return Fit::Here,
                None => return Fit::Here,
                Some(loaded) if !self.models.name(loaded).is_some_and(waits) => best = Fit::Swap,
                Some(_) => {}
            }
        }
        best
    }

    /// Whether an endpoint is not asked for a model that it lacked lately, since another one may have it, be it one that
    /// has halted.
    fn is_passed_over(&self, backend: &Backend<'_, T>, model: Model, now: Duration) -> bool {
        backend.lacks(model, now) && self.backends.iter().any(|other| !other.lacks(model, now))
    }

    /// Whether an endpoint that has not halted may serve a request, sooner or later.
    fn may_serve(&self, index: usize, ticket: &Ticket, now: Duration) -> bool {
        let backend = &self.backends[index];
        backend.retired.is_none()
            && !ticket.refused_at.contains(&index)
            && !self.is_passed_over(backend, ticket.model, now)
    }

    /// The endpoints that may serve what waits; all that have not halted, when nothing does.
    pub(super) fn wanted(&self, now: Duration) -> impl Iterator<Item = &Backend<'_, T>> {
        let several = self.backends.len() > 1;
        let is_wanted = move |index: usize| {
            let mut waiting = self.due.iter().chain(self.retries.iter()).chain(self.first.iter()).peekable();
            waiting.peek().is_none() || waiting.any(|ticket| self.may_serve(index, ticket, now))
        };
        let live = self.backends.iter().enumerate().filter(|(_, backend)| backend.retired.is_none());
        live.filter(move |(index, _)| !several || is_wanted(*index)).map(|(_, backend)| backend)
    }

    /// Whether everything that is left waits for endpoints that have halted, for ever.
    pub(super) fn is_stranded(&self) -> bool {
        let is_still = self.sends() && self.in_flight.is_empty() && self.held == 0 && self.first.is_none();
        if !is_still || self.settings.endless || self.backends.iter().all(|backend| backend.retired.is_none()) {
            return false;
        }
        let now = self.now();
        let nobody_asks = self.backends.iter().all(|backend| backend.errand.is_none() && backend.asking.is_empty());
        let waits = !(self.due.is_empty() && self.retries.is_empty());
        let has_none = |ticket: &Ticket| (0..self.backends.len()).all(|index| !self.may_serve(index, ticket, now));
        nobody_asks && waits && self.due.iter().chain(self.retries.iter()).all(|ticket| has_none(ticket))
    }

    /// A retry that no endpoint can ever take: it is to fail, whether or not anything may be sent.
    pub(super) fn pop_hopeless(&mut self) -> Option<Box<Ticket>> {
        if self.backends.len() < 2 || !self.sends() {
            return None;
        }
        let now = self.now();
        let index = self.due.iter().position(|ticket| self.is_hopeless(ticket, now))?;
        self.due.remove(index)
    }

    /// Whether a request was refused, and no endpoint is left that may serve it.
    pub(super) fn is_hopeless(&self, ticket: &Ticket, now: Duration) -> bool {
        // One that has halted may be mended before the next run.
        let cannot = |(index, backend): (usize, &Backend<'_, T>)| {
            ticket.refused_at.contains(&index)
                || backend.retired.is_none() && self.is_passed_over(backend, ticket.model, now)
        };
        ticket.refusal.is_some() && self.backends.iter().enumerate().all(cannot)
    }

    /// What can be heard of the source while nothing may be sent.
    pub(super) fn poll_while_held<M: Mode>(&mut self, mode: &mut M, cx: &mut Context<'_>) -> Poll<Happening> {
        let happening = self.poll_first(mode, cx);
        if happening.is_ready() || !self.waits_for_source_alone() {
            return happening;
        }
        // There may be nothing left to wait for.
        match mode.poll_pull(&Room::new(&|_, _| Fit::None), cx) {
            Poll::Ready(Some(work)) => Poll::Ready(Happening::Ready(self.ticket(work))),
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
        match mode.poll_pull(&Room::new(&|_, _| Fit::Here), cx) {
            Poll::Ready(Some(work)) => {
                self.first = Some(self.ticket(work));
                Poll::Pending
            }
            Poll::Ready(None) => Poll::Ready(Happening::SourceEnded),
            Poll::Pending => Poll::Pending,
        }
    }

    /// What a request that was just pulled travels with.
    fn ticket(&mut self, work: Work) -> Box<Ticket> {
        let model = self.models.of(&work.request.model);
        Box::new(Ticket::new(work.key, work.request, model))
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
            if blocked == Some(ticket.model) {
                continue;
            }
            let is_free = |backend: &Backend<'_, T>| backend.endpoint.permit(now) != Permit::Probe;
            let has_token = |backend: &Backend<'_, T>| ticket.unspent || backend.endpoint.budget.has_token(now);
            match self.choose_among(ticket, now, |backend| is_free(backend) && has_token(backend)) {
                Some(chosen) => return self.take_due(index, chosen, now),
                // Another one of this model can go only where this one could, unless it has paid already.
                None if ticket.unspent && ticket.refused_at.is_empty() => blocked = Some(ticket.model),
                None => {}
            }
        }
        None
    }

    fn take_due(&mut self, index: usize, chosen: usize, now: Duration) -> Option<Box<Ticket>> {
        let mut ticket = self.due.remove(index)?;
        if !ticket.unspent {
            // There is one: that was just asked.
            let _ = self.backends[chosen].endpoint.budget.take(now);
        }
        ticket.chosen = Some(chosen);
        Some(ticket)
    }

    /// The retry that is due first, due or not, of those that an endpoint in doubt may be asked.
    fn pop_probe(&mut self, now: Duration) -> Option<Box<Ticket>> {
        let probed = |backend: &Backend<'_, T>| backend.has_room(now) && backend.endpoint.permit(now) == Permit::Probe;
        let doubtful: Vec<usize> = (0..self.backends.len()).filter(|index| probed(&self.backends[*index])).collect();
        if doubtful.is_empty() {
            return None;
        }
        let may = |ticket: &Ticket| {
            let mut doubtful = doubtful.iter();
            doubtful.any(|index| {
                self.may_serve(*index, ticket, now) && self.backends[*index].has_room_for(Some(ticket.model), now)
            })
        };
        if let Some(index) = self.due.iter().position(|ticket| may(ticket)) {
            return self.due.remove(index);
        }
        let key = self.retries.iter().filter(|ticket| may(ticket)).max().map(|ticket| ticket.key)?;
        let mut tickets = std::mem::take(&mut self.retries).into_vec();
        let found = tickets.iter().position(|ticket| ticket.key == key).map(|index| tickets.swap_remove(index));
        self.retries = tickets.into();
        found
    }

    /// When time alone lets a retry go.
    pub(super) fn retry_at(&self, now: Duration) -> Option<Duration> {
        if !self.has_slot() {
            return None;
        }
        let heap = self.retries.peek().map(|ticket| ticket.due);
        if self.due.iter().all(|ticket| ticket.unspent) {
            return heap;
        }
        let free = self.backends.iter().filter(|backend| backend.serves());
        let budget = free.map(|backend| backend.endpoint.budget.token_at(now)).filter(|at| *at > now).min();
        heap.into_iter().chain(budget).min()
    }
}
