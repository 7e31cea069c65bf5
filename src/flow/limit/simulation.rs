//! Clients that follow a [`Limit`], and a server that queues without bound, on a simulated clock. Only for tests.
//!
//! Deterministic: all chance comes from the scenario's seed, and the i-th request of a client is the same request
//! whatever the limit.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::{Answered, Limit, ServerTimes};

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
    /// Sends what its limit allows, from a time on.
    Ours { adaptive: bool, ceiling: usize, from_seconds: f64, requests_max: usize },
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

/// What one request met.
#[derive(Clone, Copy, Debug)]
pub struct Met {
    pub client: usize,
    pub sent: f64,
    pub ended: f64,
    pub waited: f64,
    /// The limit afterwards, and what was in flight.
    pub limit: usize,
}

/// All that happened.
#[derive(Debug, Default)]
pub struct History {
    pub met: Vec<Met>,
    /// When the server's queue became how long.
    pub queue: Vec<(f64, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Starts(usize),
    Arrives(usize),
    Served(usize),
    FirstToken(usize),
    Ended(usize),
    Thought(usize),
    SlotsChange,
}

#[derive(Clone, Debug)]
struct Request {
    client: usize,
    bytes: usize,
    prompt: f64,
    generation: f64,
    late: [f64; 3],
    sent: f64,
    arrived: f64,
    started: f64,
    loading: f64,
    first_token: f64,
}

struct Sender {
    plan: Client,
    limit: Option<Limit>,
    in_flight: usize,
    sent: usize,
    chance: Chance,
    speaking: usize,
    silent_since: f64,
    silence: Option<(Duration, Duration)>,
}

/// Runs a scenario to its end.
pub fn run(scenario: &Scenario) -> History {
    let mut world = World::new(scenario);
    while let Some(Reverse((at, _, event))) = world.events.pop() {
        let now = at as f64 / 1e9;
        if now > scenario.until {
            break;
        }
        world.happens(now, EVENTS[event.0 as usize](event.1));
    }
    world.history
}

const EVENTS: [fn(usize) -> Event; 7] =
    [Event::Starts, Event::Arrives, Event::Served, Event::FirstToken, Event::Ended, Event::Thought, |_| {
        Event::SlotsChange
    }];

struct World<'s> {
    scenario: &'s Scenario,
    events: BinaryHeap<Reverse<(u64, u64, (u8, usize))>>,
    order: u64,
    senders: Vec<Sender>,
    requests: Vec<Request>,
    queue: VecDeque<usize>,
    busy: usize,
    history: History,
}

impl<'s> World<'s> {
    fn new(scenario: &'s Scenario) -> Self {
        let senders = scenario.clients.iter().enumerate().map(|(at, plan)| Sender {
            plan: plan.clone(),
            limit: match *plan {
                Client::Ours { adaptive: true, ceiling, .. } => Some(Limit::adaptive(ceiling)),
                Client::Ours { adaptive: false, ceiling, .. } => Some(Limit::fixed(ceiling)),
                Client::Interactive => None,
            },
            in_flight: 0,
            sent: 0,
            chance: Chance(scenario.seed * 1000 + at as u64),
            speaking: 0,
            silent_since: 0.0,
            silence: None,
        });
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
        let coded = match event {
            Event::Starts(who) => (0, who),
            Event::Arrives(which) => (1, which),
            Event::Served(which) => (2, which),
            Event::FirstToken(which) => (3, which),
            Event::Ended(which) => (4, which),
            Event::Thought(who) => (5, who),
            Event::SlotsChange => (6, 0),
        };
        self.order += 1;
        self.events.push(Reverse(((at * 1e9) as u64, self.order, coded)));
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
        while self.senders[who].may_send() {
            let request = self.senders[who].request(self.scenario, who, now);
            let arrives = now + self.scenario.round_trip_seconds / 2.0 + request.late[0];
            self.senders[who].in_flight += 1;
            self.senders[who].sent += 1;
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

impl Sender {
    fn may_send(&self) -> bool {
        match (&self.plan, &self.limit) {
            (Client::Ours { requests_max, .. }, Some(limit)) => {
                self.in_flight < limit.current() && self.sent < *requests_max
            }
            _ => self.in_flight == 0,
        }
    }

    fn request(&mut self, scenario: &Scenario, who: usize, now: f64) -> Request {
        let chance = &mut self.chance;
        let length = scenario.prompt_spread.powf(chance.uniform() - 0.5);
        let prompt = scenario.service_seconds * scenario.prompt_share * length;
        let mean = scenario.service_seconds * (1.0 - scenario.prompt_share);
        let generation = match scenario.service {
            Service::Deterministic => mean,
            Service::Exponential => -mean * (1.0 - chance.uniform()).ln(),
            // Sigma is 0.6, so that the mean is exp(0.18) of the median.
            Service::Lognormal => mean * (0.6 * chance.normal() - 0.18).exp(),
        };
        let (from, to) = scenario.jitter_seconds;
        let late = [(); 3].map(|()| from + (to - from) * chance.uniform());
        Request {
            client: who,
            bytes: (2000.0 * length) as usize,
            prompt,
            generation,
            late,
            sent: now,
            arrived: 0.0,
            started: 0.0,
            loading: 0.0,
            first_token: 0.0,
        }
    }
}

impl Request {
    fn answered(&self, sight: Sight, now: f64, sender: &Sender) -> Answered {
        let served = ServerTimes {
            total: seconds(self.started - self.arrived + self.prompt + self.generation),
            load: seconds(self.loading),
            prompt_evaluation: seconds(self.prompt),
            evaluation: seconds(self.generation),
        };
        Answered {
            sent_at: seconds(self.sent),
            first_token_at: (sight != Sight::Nothing).then(|| seconds(self.first_token)),
            ended_at: seconds(now),
            request_bytes: self.bytes,
            served: (sight == Sight::ServerTimes).then_some(served),
            in_flight: sender.in_flight,
            silence: sender.silence,
        }
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.max(0.0))
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in 0..1.
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal (Box and Muller, 1958).
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

impl History {
    /// Answers a second of clients for which `of` holds, between two times.
    pub fn throughput(&self, from: f64, until: f64, of: impl Fn(usize) -> bool) -> f64 {
        let met = self.met.iter().filter(|met| of(met.client) && (from..until).contains(&met.ended));
        met.count() as f64 / (until - from)
    }

    /// Mean length of the server's queue between two times.
    pub fn queued(&self, from: f64, until: f64) -> f64 {
        let ends = self.queue.iter().skip(1).map(|(at, _)| *at).chain([until]);
        let parts = self.queue.iter().zip(ends);
        let part =
            |((at, length), end): (&(f64, usize), f64)| *length as f64 * (end.min(until) - at.max(from)).max(0.0);
        parts.map(part).sum::<f64>() / (until - from)
    }

    /// Median time from sending to the end over what it were without waiting.
    pub fn slowdown(&self, from: f64, until: f64) -> f64 {
        let met = || self.met.iter().filter(|met| met.client == 0 && (from..until).contains(&met.ended));
        median(met().map(|met| met.ended - met.sent)) / median(met().map(|met| met.ended - met.sent - met.waited))
    }

    /// Mean time of a client's answers over what it were without waiting.
    pub fn mean_slowdown(&self, client: usize, from: f64, until: f64) -> f64 {
        let met = || self.met.iter().filter(|met| met.client == client && (from..until).contains(&met.ended));
        let loaded: f64 = met().map(|met| met.ended - met.sent).sum();
        let alone: f64 = met().map(|met| met.ended - met.sent - met.waited).sum();
        loaded / alone
    }

    /// When the `count`-th answer after `from` came.
    pub fn time_after(&self, from: f64, count: usize) -> f64 {
        self.met.iter().filter(|met| met.ended >= from).nth(count - 1).map_or(f64::INFINITY, |met| met.ended)
    }

    /// The mean limit of client 0 at its answers between two times.
    pub fn mean_limit(&self, from: f64, until: f64) -> f64 {
        let met: Vec<_> = self.met.iter().filter(|met| met.client == 0 && (from..until).contains(&met.ended)).collect();
        met.iter().map(|met| met.limit as f64).sum::<f64>() / met.len() as f64
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
