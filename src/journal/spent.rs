//! What was sent, and when, as far as quotas that outlast a run need to know it. Pure.
//!
//! Invariant: what is read back is never less than what was written down, nor later than it was.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// No quota looks further back than that.
const REMEMBERED_MAX: Duration = Duration::from_secs(31 * 24 * 3600);
/// Stretches that are told apart; beyond it, neighbours become one.
const STRETCHES_MAX: usize = 1 << 14;
/// Between two records of what was sent.
const NOTED_EVERY: Duration = Duration::from_secs(1);

/// What was sent to one endpoint in a stretch of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// The end of the stretch, in milliseconds since 1970.
    pub at_ms: u64,
    /// The endpoint's base URL.
    pub endpoint: String,
    /// Attempts that ended in this stretch.
    pub requests: u64,
    /// Tokens that they cost, as far as that is known.
    pub tokens: u64,
}

impl Spent {
    /// Tells that nothing is under way any more.
    pub fn end(now: SystemTime) -> Self {
        let at_ms = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        Self { at_ms, endpoint: String::new(), requests: 0, tokens: 0 }
    }

    /// How long ago that was.
    pub fn age(&self, now: SystemTime) -> Duration {
        let at = UNIX_EPOCH + Duration::from_millis(self.at_ms);
        now.duration_since(at).unwrap_or_default()
    }
}

/// Adds up what is sent until it is worth a record.
#[derive(Debug, Default)]
pub struct Spending {
    /// Base URLs, in the engine's order.
    endpoints: Vec<String>,
    pending: Vec<(u64, u64)>,
    noted: Option<SystemTime>,
}

impl Spending {
    /// Of endpoints with these base URLs.
    pub fn new(endpoints: Vec<String>) -> Self {
        let pending = vec![(0, 0); endpoints.len()];
        Self { endpoints, pending, noted: None }
    }

    /// An attempt ended.
    pub fn add(&mut self, endpoint: usize, tokens: u64) {
        if let Some(pending) = self.pending.get_mut(endpoint) {
            *pending = (pending.0 + 1, pending.1 + tokens);
        }
    }

    /// Whether anything was sent since the last record.
    pub fn is_pending(&self) -> bool {
        self.pending.iter().any(|pending| pending.0 > 0)
    }

    /// What is to be written down now: everything, when the last time is long enough ago or this is the `last` time.
    pub fn take(&mut self, now: SystemTime, last: bool) -> Vec<Spent> {
        let is_due = self.noted.is_none_or(|noted| now.duration_since(noted).is_ok_and(|since| since >= NOTED_EVERY));
        if !(is_due || last) || !self.is_pending() {
            return Vec::new();
        }
        self.noted = Some(now);
        let at_ms = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let spent = self.endpoints.iter().zip(&mut self.pending).filter(|(_, pending)| pending.0 > 0);
        let spent = spent.map(|(endpoint, pending)| {
            let (requests, tokens) = std::mem::take(pending);
            Spent { at_ms, endpoint: endpoint.clone(), requests, tokens }
        });
        spent.collect()
    }
}

/// What earlier runs sent, the latest last.
#[derive(Clone, Debug, Default)]
pub struct Past {
    stretches: Vec<Spent>,
    /// Whether whoever wrote them came to an end in order.
    closed: bool,
}

impl Past {
    /// Takes in a record.
    pub fn push(&mut self, spent: Spent) {
        self.closed = spent.requests == 0;
        if self.closed {
            return;
        }
        self.stretches.push(spent);
        if self.stretches.len() > STRETCHES_MAX {
            self.join();
        }
    }

    /// So many attempts more may have been under way at each endpoint when the last record was made, unless that was
    /// the end in order.
    pub fn add_unknown(&mut self, requests: u64) {
        if self.closed {
            return;
        }
        let mut seen: Vec<String> = Vec::new();
        for spent in self.stretches.iter_mut().rev() {
            if !seen.contains(&spent.endpoint) {
                spent.requests += requests;
                seen.push(spent.endpoint.clone());
            }
        }
    }

    /// What was sent to an endpoint: for each stretch its age, attempts and tokens.
    pub fn of<'p>(&'p self, endpoint: &'p str, now: SystemTime) -> impl Iterator<Item = (Duration, u64, u64)> + 'p {
        let own = self.stretches.iter().filter(move |spent| spent.endpoint == endpoint);
        own.map(move |spent| (spent.age(now), spent.requests, spent.tokens)).filter(|spent| spent.0 <= REMEMBERED_MAX)
    }

    /// Takes in what another log says.
    pub fn join_in(&mut self, other: Past) {
        let closed = other.closed && (self.closed || self.stretches.is_empty());
        other.stretches.into_iter().for_each(|spent| self.push(spent));
        self.closed = closed;
    }

    /// All of it.
    pub fn stretches(&self) -> &[Spent] {
        &self.stretches
    }

    /// Halves the list: of two neighbours, the later one's time counts.
    fn join(&mut self) {
        let mut joined: Vec<Spent> = Vec::with_capacity(STRETCHES_MAX);
        let mut open: Vec<usize> = Vec::new();
        for spent in std::mem::take(&mut self.stretches) {
            let place = open.iter().position(|index| joined[*index].endpoint == spent.endpoint);
            match place.map(|place| open.swap_remove(place)) {
                Some(index) => {
                    let earlier = &mut joined[index];
                    earlier.at_ms = earlier.at_ms.max(spent.at_ms);
                    earlier.requests += spent.requests;
                    earlier.tokens += spent.tokens;
                }
                None => {
                    open.push(joined.len());
                    joined.push(spent);
                }
            }
        }
        self.stretches = joined;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_sent_is_written_down_once_a_second_and_at_the_end() {
        let begin = UNIX_EPOCH + 1000 * SECOND;
        let mut spending = Spending::new(vec!["a".into(), "b".into()]);
        assert!(spending.take(begin, true).is_empty());
        spending.add(0, 5);
        let spent = |at_ms, requests, tokens| vec![Spent { at_ms, endpoint: "a".into(), requests, tokens }];
        assert_eq!(spending.take(begin, false), spent(1_000_000, 1, 5));
        (0..3).for_each(|_| spending.add(0, 7));
        assert!(spending.take(begin + SECOND / 2, false).is_empty());
        assert_eq!(spending.take(begin + SECOND / 2, true), spent(1_000_500, 3, 21));
        spending.add(9, 1);
        assert!(spending.take(begin + 9 * SECOND, true).is_empty());
    }

    #[test]
    fn the_past_is_bounded_and_nothing_of_it_is_lost() {
        let mut past = Past::default();
        let count = 3 * STRETCHES_MAX as u64;
        for at in 0..count {
            let endpoint = if at % 3 == 0 { "a" } else { "b" };
            past.push(Spent { at_ms: at * 1000, endpoint: endpoint.into(), requests: 1, tokens: 2 });
        }
        assert!(past.stretches.len() <= STRETCHES_MAX);
        let now = UNIX_EPOCH + count as u32 * SECOND;
        let sum = |endpoint| {
            past.of(endpoint, now).fold((0, 0), |sum, (_, requests, tokens)| (sum.0 + requests, sum.1 + tokens))
        };
        assert_eq!((sum("a"), sum("b")), ((count / 3, count / 3 * 2), (count - count / 3, (count - count / 3) * 2)));
        assert!(past.of("a", now).last().is_some_and(|(age, ..)| age <= 4 * SECOND));
        assert_eq!(past.of("a", now + 40 * 24 * 3600 * SECOND).count(), 0);
    }
}
