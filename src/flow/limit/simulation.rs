//! Clients that follow a [`Limit`], and a server that queues without bound, on a simulated clock. Only for tests.
//!
//! Deterministic: all chance comes from the scenario's seed, and the i-th request of a client is the same request
//! whatever the limit.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::{Answered, Limit, ServerTimes};
use client::{Request, Sender, seconds};
pub use history::{History, Met};

mod chance;
mod client;
mod history;

/// How long answers take.
#[derive(Clone, Copy, Debug)]
pub enum Service {
    Lognormal,
    Exponential,
    Deterministic,
}

/// What clients get to see.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sight {
    ServerTimes,
    FirstToken,
    Nothing,
}

#[derive(Clone, Debug)]
pub enum Client {
    /// Sends what its limit allows, from a time on; later requests are few.
    Ours { adaptive: bool, ceiling: usize, from_seconds: f64, plenty_until: f64 },
    /// Sends one request at a time, and thinks for up to two service times between.
    Interactive,
}

/// A server, its clients and their requests; times in seconds.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    /// From when on there are how many slots.
    pub slots: Vec<(f64, usize)>,
    /// When the model is not there.
    pub loading: Vec<(f64, f64)>,
    pub clients: Vec<Client>,
    pub service: Service,
    pub service_seconds: f64,
    pub prompt_share: f64,
    /// The longest prompt over the shortest.
    pub prompt_spread: f64,
    pub round_trip_seconds: f64,
    /// What each message may be late, from and to.
    pub jitter_seconds: (f64, f64),
    pub sight: Sight,
    pub until: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Starts(usize),
    Arrives(usize),
    Served(usize),
    FirstToken(usize),
    Ended(usize),
    Thought(usize),
    SlotsChange,
}

/// Runs a scenario to its end.
pub fn run(scenario: &Scenario) -> History {
    let mut world = World::new(scenario);
    while let Some(Reverse((at, _, event))) = world.events.pop() {
        let now = at as f64 / 1e9;
        if now > scenario.until {
            break;
        }
        world.happens(now, event);
    }
    world.history
}

struct World<'s> {
    scenario: &'s Scenario,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    order: u64,
    senders: Vec<Sender>,
    requests: Vec<Request>,
    queue: VecDeque<usize>,
    busy: usize,
    history: History,
}

impl<'s> World<'s> {
    fn new(scenario: &'s Scenario) -> Self {
        let senders =
            scenario.clients.iter().enumerate().map(|(at, plan)| Sender::new(plan, scenario.seed * 1000 + at as u64));
        let mut world = Self {
            scenario,
            events: BinaryHeap::new(),
            order: 0,
            senders: senders.collect(),
            requests: Vec::new(),
            queue: VecDeque::new(),
            busy: 0,
            history: History::default(),
        };
        for (at, plan) in scenario.clients.iter().enumerate() {
            let from = if let Client::Ours { from_seconds, .. } = plan { *from_seconds } else { 0.0 };
            world.later(from, Event::Starts(at));
        }
        scenario.slots.iter().for_each(|(at, _)| world.later(*at, Event::SlotsChange));
        scenario.loading.iter().for_each(|(_, until)| world.later(*until, Event::SlotsChange));
        world
    }

    fn later(&mut self, at: f64, event: Event) {
        self.order += 1;
        self.events.push(Reverse(((at * 1e9) as u64, self.order, event)));
    }

    fn happens(&mut self, now: f64, event: Event) {
        match event {
            Event::Starts(who) | Event::Thought(who) => self.send(who, now),
            Event::Arrives(which) => {
                self.requests[which].arrived = now;
                self.queue.push_back(which);
                self.serve(now);
            }
            Event::SlotsChange => self.serve(now),
            Event::Served(_) => {
                self.busy -= 1;
                self.serve(now);
            }
            Event::FirstToken(which) => self.first_token(which, now),
            Event::Ended(which) => self.ended(which, now),
        }
    }

    fn send(&mut self, who: usize, now: f64) {
        while self.senders[who].may_send(now) {
            let request = self.senders[who].request(self.scenario, who, now);
            let arrives = now + self.scenario.round_trip_seconds / 2.0 + request.late[0];
            self.senders[who].in_flight += 1;
            self.requests.push(request);
            self.later(arrives, Event::Arrives(self.requests.len() - 1));
        }
    }

    fn serve(&mut self, now: f64) {
        let slots = self.scenario.slots.iter().rev().find(|(at, _)| *at <= now).map_or(0, |(_, slots)| *slots);
        let is_loading = self.scenario.loading.iter().any(|(from, until)| (*from..*until).contains(&now));
        while self.busy < slots && !is_loading {
            let Some(which) = self.queue.pop_front() else { break };
            self.busy += 1;
            let back = self.scenario.round_trip_seconds / 2.0;
            let request = &mut self.requests[which];
            request.started = now;
            let overlap = |(from, until): &(f64, f64)| (until.min(now) - from.max(request.arrived)).max(0.0);
            request.loading = self.scenario.loading.iter().map(overlap).sum();
            let token = now + request.prompt;
            let served = token + request.generation;
            let first_token = token + back + request.late[1];
            let ended = (served + back + request.late[2]).max(first_token);
            self.later(served, Event::Served(which));
            self.later(first_token, Event::FirstToken(which));
            self.later(ended, Event::Ended(which));
        }
        let length = self.queue.len();
        if self.history.queue.last().is_none_or(|(_, last)| *last != length) {
            self.history.queue.push((now, length));
        }
    }

    fn first_token(&mut self, which: usize, now: f64) {
        let request = &mut self.requests[which];
        request.first_token = now;
        let sender = &mut self.senders[request.client];
        if sender.speaking == 0 && now - sender.silent_since > 1.0 {
            sender.silence = Some((seconds(sender.silent_since), seconds(now)));
        }
        sender.speaking += 1;
    }

    fn ended(&mut self, which: usize, now: f64) {
        let request = &self.requests[which];
        let who = request.client;
        let sender = &mut self.senders[who];
        let answered = request.answered(self.scenario.sight, now, sender);
        sender.speaking -= 1;
        sender.silent_since = now;
        if let Some(limit) = &mut sender.limit {
            limit.answered(&answered);
        }
        sender.in_flight -= 1;
        let limit = sender.limit.as_ref().map_or(1, Limit::current);
        let waited = request.started - request.arrived;
        self.history.met.push(Met { client: who, sent: request.sent, ended: now, waited, limit });
        if let Client::Interactive = sender.plan {
            let thinking = sender.chance.uniform() * 2.0 * self.scenario.service_seconds;
            self.later(now + thinking, Event::Thought(who));
        } else {
            self.send(who, now);
        }
    }
}
