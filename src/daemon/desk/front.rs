//! The desk as an account's engine sees it: where requests come from, and where outcomes and events go.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::super::spool::named_by;
use super::Desk;
use crate::engine::{Delta, Event, Fit, Key, Mode, Room, Slot, Work};
use crate::line::{Outcome, Request};

/// For so long after a change of the model, requests for that model go first: loading one takes about as long.
const STAY: Duration = Duration::from_secs(30);

/// The engine's source and sink for one account.
pub struct Front<'d> {
    /// What all accounts share.
    pub desk: &'d RefCell<Desk>,
    /// Whose key pays, by its place.
    pub account: usize,
}

impl Mode for Front<'_> {
    fn poll_pull(&mut self, room: &Room<'_>, cx: &mut Context<'_>) -> Poll<Option<Work>> {
        let mut desk = self.desk.borrow_mut();
        let work = match desk.is_full() {
            true => None,
            false => desk.pull(self.account, room, cx),
        };
        match work {
            None if desk.has_drained() => Poll::Ready(None),
            None => Poll::Pending,
            work => Poll::Ready(work),
        }
    }

    fn look_ahead(&mut self, cx: &mut Context<'_>) {
        self.desk.borrow_mut().spools().for_each(|spool| spool.look_ahead(cx));
    }

    fn settle(&mut self, key: Key, request: &Request, outcome: Outcome) -> Slot {
        let (spool, slot, line) = named_by(key);
        let mut desk = self.desk.borrow_mut();
        let Some(seat) = desk.seats.iter_mut().find(|seat| seat.is(spool)) else { return Slot::Free };
        seat.settle(self.account, (slot, line), request, outcome)
    }

    fn take_freed(&mut self) -> usize {
        let account = self.account;
        self.desk.borrow_mut().seats.iter_mut().map(|seat| seat.take_freed(account)).sum()
    }

    fn take_concurrency(&mut self) -> Option<usize> {
        self.desk.borrow_mut().concurrency[self.account].take()
    }

    fn take_renewal(&mut self) -> bool {
        std::mem::take(&mut self.desk.borrow_mut().renewals[self.account])
    }

    fn delta(&mut self, _: Delta) {}

    fn has_room(&self) -> bool {
        true
    }

    fn event(&mut self, event: Event) {
        self.desk.borrow_mut().event(self.account, event);
    }

    fn poll_stop(&mut self, _: &mut Context<'_>) -> Poll<()> {
        if self.desk.borrow().must_stop() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn idle(&mut self, cx: &mut Context<'_>) {
        self.desk.borrow_mut().flush(cx);
    }
}

impl Desk {
    /// Each account's engine keeps to the limit; what all of them have together does, too.
    fn is_full(&self) -> bool {
        self.in_flight.iter().sum::<usize>() >= self.shared.config().limits.concurrency.get()
    }

    /// The next request of an account, from the spool and the job whose turn it is; those whose model need not be loaded
    /// come before the others for a while.
    fn pull(&mut self, account: usize, room: &Room<'_>, cx: &mut Context<'_>) -> Option<Work> {
        let stays = self.swapped.is_some_and(|swapped| swapped.elapsed() < STAY);
        if stays && let Some(work) = self.pull_fitting(account, room, Fit::Here, cx) {
            return Some(work);
        }
        // Later than that, whoever waits has its turn, whatever model has to be put away.
        let waiting = if stays { self.waiting_models(account) } else { HashSet::new() };
        let look = |model: &str, _: &dyn Fn(&str) -> bool| room.beside(model, &|loaded| waiting.contains(loaded));
        let work = self.pull_fitting(account, &Room::new(&look), Fit::Swap, cx)?;
        if room.for_model(&work.request.model) == Fit::Swap {
            self.swapped = Some(Instant::now());
        }
        Some(work)
    }

    /// Models for which requests of an account wait.
    fn waiting_models(&mut self, account: usize) -> HashSet<String> {
        self.spools().flat_map(|spool| spool.waiting_models(account)).collect()
    }

    fn pull_fitting(&mut self, account: usize, room: &Room<'_>, wanted: Fit, cx: &mut Context<'_>) -> Option<Work> {
        let seats = self.seats.len();
        for offset in 0..seats {
            let index = (self.next + offset) % seats;
            let spool = self.seats[index].spool();
            if let Some(work) = spool.and_then(|spool| spool.pull(account, room, wanted, cx)) {
                self.next = index + 1;
                return Some(work);
            }
        }
        None
    }

    fn event(&mut self, account: usize, event: Event) {
        if let Event::Sent { in_flight } | Event::Ended { in_flight } = event {
            self.in_flight[account] = in_flight;
        }
        let all: usize = self.in_flight.iter().sum();
        let shared = Rc::clone(&self.shared);
        match event {
            Event::Sent { .. } => shared.counts.event(&Event::Sent { in_flight: all }),
            Event::Ended { .. } => shared.counts.event(&Event::Ended { in_flight: all }),
            Event::DialectFound(dialect) => {
                self.dialect = Some(dialect);
                tracing::info!(dialect = dialect.name(), "dialect found");
            }
            Event::Spent { endpoint, tokens } => self.spendings.add(account, endpoint, tokens),
            Event::Paused { reason } => {
                let whose = self.accounts[account].name().map_or(String::new(), |name| format!("owner {name}: "));
                tracing::warn!("paused: {whose}{reason}");
                shared.paused.borrow_mut().insert(account, format!("{whose}{reason}"));
            }
            Event::Resumed => {
                tracing::info!("the service answers again: going on");
                shared.paused.borrow_mut().remove(&account);
            }
            Event::Retry { ref reason, delay } => {
                tracing::debug!(delay_seconds = delay.as_secs_f64(), "retry: {reason}");
                shared.counts.event(&event);
            }
            Event::Lacks { name, model, reason } => {
                tracing::warn!("{name} does not serve {model}, the others are asked: {reason}");
            }
            Event::Endpoint { name, reason: Some(reason) } => {
                tracing::warn!("{name} is out, the others go on: {reason}")
            }
            Event::Endpoint { name, reason: None } => tracing::info!("{name} is back"),
            Event::Draining { in_flight } => tracing::info!(in_flight, "draining"),
        }
    }
}
