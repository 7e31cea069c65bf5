//! What the service counted, for tests and benchmarks. Pure bookkeeping.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::VecDeque;

use bytes::Bytes;
use serde::Serialize;

use crate::ask::Ask;
use crate::tally::{Summary, Tally, Time};

/// Requests that `/requests` remembers.
const RECORDS_MAX: usize = 1000;
/// Bytes of theirs that are kept.
const RECORD_BYTES_MAX: usize = 256 << 20;

/// The counters, as `/stats` shows them.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Counts {
    /// Chat requests whose token was accepted
    pub requests: u64,
    /// Completions delivered whole
    pub ok: u64,
    /// Requests whose identity was seen before
    pub repeats: u64,
    /// Requests whose identity had been answered already
    pub repeats_after_ok: u64,
    /// Different prompts
    pub identities: u64,
    /// Requests between their arrival and the end of their reply
    pub in_flight: u64,
    /// Most of them at a time
    pub in_flight_max: u64,
    /// Requests that wait for a slot
    pub queued: u64,
    /// Most of them at a time
    pub queued_max: u64,
    /// Their mean over time
    pub queued_mean: f64,
    /// Seconds that slots were taken, all slots together
    pub busy_seconds: f64,
    /// Models that were loaded
    pub loads: u64,
    /// Requests of any kind that a proxy answered while the service was down
    pub pages: u64,
    /// Open connections
    pub connections: u64,
    /// Most of them at a time
    pub connections_max: u64,
    /// Connections ever accepted
    pub connections_total: u64,
    /// GETs of the model list
    pub models_requests: u64,
    /// GETs of the version
    pub version_requests: u64,
    /// Requests refused for their token
    pub auth_refused: u64,
    /// Requests under /redirected: redirects that were followed
    pub redirect_hits: u64,
    /// Clients that left before the end
    pub cancelled: u64,
    /// Completions delivered whole, by the model asked for
    pub completions_by_model: BTreeMap<String, u64>,
    /// How long requests took, and what quotas refused
    pub all: Summary,
    /// The same for each token of the list, by its index
    pub by_token: BTreeMap<usize, Summary>,
}

/// A chat request as received.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its head
    pub head: Bytes,
    /// Its body
    pub body: Bytes,
    /// Which token of the list it carried
    pub token: Option<usize>,
    /// When it had arrived whole, in microseconds since 1970
    pub arrived_us: u64,
}

impl Record {
    fn size(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

/// How often a prompt came, and whether it was answered.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    attempts: u64,
    ok: bool,
}

/// The counters and what they are counted from.
#[derive(Debug, Default)]
pub struct Stats {
    /// The counters
    pub counts: Counts,
    seen: HashMap<u64, Seen>,
    all: Tally,
    by_token: BTreeMap<usize, Tally>,
    records: VecDeque<Record>,
    record_bytes: usize,
}

impl Stats {
    /// Counts a chat request; returns its number and its prompt's attempt, both from 1.
    pub fn arrive(&mut self, identity: u64, token: Option<usize>) -> (u64, u64) {
        self.tallies(token, Tally::arrive);
        let seen = self.seen.entry(identity).or_default();
        seen.attempts += 1;
        self.counts.requests += 1;
        self.counts.repeats += u64::from(seen.attempts > 1);
        self.counts.repeats_after_ok += u64::from(seen.ok);
        (self.counts.requests, seen.attempts)
    }

    /// Counts a completion that was delivered whole.
    pub fn answer(&mut self, ask: &Ask<'_>, token: Option<usize>, time: Time) {
        self.counts.ok += 1;
        self.seen.entry(ask.identity).or_default().ok = true;
        if let Some(count) = self.counts.completions_by_model.get_mut(&*ask.model) {
            *count += 1;
        } else {
            self.counts.completions_by_model.insert(ask.model.clone().into_owned(), 1);
        }
        self.tallies(token, |tally| tally.answer(time));
    }

    /// Counts a request that a quota refused.
    pub fn refuse(&mut self, token: Option<usize>) {
        self.tallies(token, Tally::refuse);
    }

    fn tallies(&mut self, token: Option<usize>, count: impl Fn(&mut Tally)) {
        count(&mut self.all);
        if let Some(index) = token {
            count(self.by_token.entry(index).or_default());
        }
    }

    /// Remembers a request, forgetting the oldest.
    pub fn record(&mut self, record: Record) {
        self.record_bytes += record.size();
        self.records.push_back(record);
        while self.records.len() > RECORDS_MAX || self.record_bytes > RECORD_BYTES_MAX {
            let Some(oldest) = self.records.pop_front() else {
                return;
            };
            self.record_bytes -= oldest.size();
        }
    }

    /// The requests remembered, oldest first.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.iter()
    }

    /// The counters with what is reckoned when it is asked for.
    pub fn snapshot(&self) -> Counts {
        let by_token = self.by_token.iter().map(|(&index, tally)| (index, tally.summary())).collect();
        Counts { identities: self.seen.len() as u64, all: self.all.summary(), by_token, ..self.counts.clone() }
    }

    /// Starts anew; what is going on stays counted.
    pub fn reset(&mut self) {
        let (in_flight, connections) = (self.counts.in_flight, self.counts.connections);
        let counts = Counts {
            in_flight,
            in_flight_max: in_flight,
            connections,
            connections_max: connections,
            ..Counts::default()
        };
        *self = Stats { counts, ..Stats::default() };
    }
}
