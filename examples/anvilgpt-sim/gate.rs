//! The slots of the model server: so many requests at a time, the others queue first in, first out.
//! Invariant: a slot is given back when its guard drops, and a waiter that left never holds one.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::oneshot;

/// The gate; clones share it.
#[derive(Clone)]
pub struct Gate(Rc<RefCell<State>>);

struct State {
    limit: usize,
    busy: usize,
    waiters: VecDeque<oneshot::Sender<Slot>>,
    queue: Queue,
}

/// How long the queue was.
#[derive(Debug, Default, Clone, Copy)]
pub struct Queue {
    /// Requests that wait now
    pub now: u64,
    /// Most that ever waited
    pub max: u64,
    area: f64,
    busy_area: f64,
    span: f64,
    since: Option<Instant>,
}

impl Queue {
    /// Mean length over the time since the first request.
    pub fn mean(&self) -> f64 {
        if self.span > 0.0 { self.area / self.span } else { 0.0 }
    }

    /// Seconds that slots were taken, all slots together.
    pub fn busy_seconds(&self) -> f64 {
        self.busy_area
    }

    /// Accounts for the time since the last change, with `busy` slots taken. Called before each change and look.
    fn advance(&mut self, busy: usize) {
        let now = Instant::now();
        if let Some(since) = self.since.replace(now) {
            let span = now.duration_since(since).as_secs_f64();
            self.span += span;
            self.area += span * self.now as f64;
            self.busy_area += span * busy as f64;
        }
    }
}

/// A slot; dropping it lets the next request in.
pub struct Slot {
    gate: Option<Gate>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.0.borrow_mut().leave();
            gate.pump();
        }
    }
}

/// Counts a waiter for as long as it waits.
struct Waiting(Gate);

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.0.0.borrow_mut();
        state.advance();
        state.queue.now -= 1;
    }
}

impl State {
    fn advance(&mut self) {
        self.queue.advance(self.busy);
    }

    fn enter(&mut self) {
        self.advance();
        self.busy += 1;
    }

    fn leave(&mut self) {
        self.advance();
        self.busy -= 1;
    }
}

impl Gate {
    /// A gate with so many slots; `None` means no limit.
    pub fn new(limit: Option<usize>) -> Gate {
        let state =
            State { limit: limit.unwrap_or(usize::MAX), busy: 0, waiters: VecDeque::new(), queue: Queue::default() };
        Gate(Rc::new(RefCell::new(state)))
    }

    /// Changes the number of slots; those that are taken stay so.
    pub fn set_limit(&self, limit: Option<usize>) {
        self.0.borrow_mut().limit = limit.unwrap_or(usize::MAX);
        self.pump();
    }

    /// The queue's statistics up to now.
    pub fn queue(&self) -> Queue {
        let mut state = self.0.borrow_mut();
        // Time in which nothing happens at all is not counted.
        if state.busy > 0 || state.queue.now > 0 {
            state.advance();
        }
        state.queue
    }

    /// Forgets the statistics, not the waiters.
    pub fn reset_queue(&self) {
        let mut state = self.0.borrow_mut();
        let now = state.queue.now;
        let since = state.queue.since.map(|_| Instant::now());
        state.queue = Queue { now, max: now, since, ..Queue::default() };
    }

    /// Waits for a slot.
    pub async fn enter(&self) -> Slot {
        let waiter = {
            let mut state = self.0.borrow_mut();
            if state.busy < state.limit && state.waiters.is_empty() {
                state.enter();
                return Slot { gate: Some(self.clone()) };
            }
            state.advance();
            let (sender, waiter) = oneshot::channel();
            state.waiters.push_back(sender);
            state.queue.now += 1;
            state.queue.max = state.queue.max.max(state.queue.now);
            waiter
        };
        let _waiting = Waiting(self.clone());
        waiter.await.expect("the gate keeps the sender until it sends")
    }

    /// Hands free slots to the waiters, oldest first.
    fn pump(&self) {
        loop {
            let sender = {
                let mut state = self.0.borrow_mut();
                if state.busy >= state.limit {
                    return;
                }
                let Some(sender) = state.waiters.pop_front() else {
                    return;
                };
                state.enter();
                sender
            };
            if let Err(mut slot) = sender.send(Slot { gate: Some(self.clone()) }) {
                // Disarmed here: dropping it would pump again, one stack frame a dead waiter.
                slot.gate = None;
                self.0.borrow_mut().leave();
            }
        }
    }
}
