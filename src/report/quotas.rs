//! The quotas of all endpoints together: how long a number of lines takes, and what holds them back. Pure.
//!
//! Invariant: only tells; what may be sent is the engine's affair. Knows nothing of where a line was really sent: a send
//! is booked with the endpoint whose quotas let it go first, as the engine does.

use std::time::Duration;

use crate::flow::Quotas;

/// So often the shares of the endpoints are made better: after that they end at about the same time.
const ROUNDS: usize = 6;
/// Endpoints that end within this share of each other end at the same time.
const SAME_END: f64 = 0.02;

/// The quotas of each endpoint; there is one at least somewhere.
#[derive(Clone, Debug)]
pub struct AllQuotas {
    endpoints: Vec<Quotas>,
}

impl AllQuotas {
    /// Those of each endpoint; `None` when no endpoint has any.
    pub fn of(endpoints: Vec<Quotas>) -> Option<Self> {
        endpoints.iter().any(|quotas| !quotas.is_empty()).then_some(Self { endpoints })
    }

    /// Books so many sends, of about so many tokens each.
    pub fn take(&mut self, now: Duration, sends: u64, tokens_each: f64) {
        let tokens = tokens_each as u64;
        for _ in 0..sends {
            let Some(first) = self.endpoints.iter_mut().min_by_key(|quotas| quotas.ready_at(now, tokens)) else {
                return;
            };
            let booking = first.take(now, tokens);
            first.settle(booking, tokens);
        }
    }

    /// What keeps everything back now, for people; `None` while some endpoint may be sent to.
    pub fn holding(&self, now: Duration) -> Option<String> {
        let held: Option<Vec<String>> = self.endpoints.iter().map(|quotas| quotas.binding(now)).collect();
        let mut held = held?;
        held.dedup();
        match &held[..] {
            [one] => Some(format!("the quota of {one}")),
            _ => Some("the quotas".to_owned()),
        }
    }

    /// How long from now until so many more lines are sent, at no more than `lines_per_second_max` together. Where
    /// several endpoints share them, all end at about the same time.
    pub fn time_for(&self, now: Duration, lines: u64, tokens_each: f64, lines_per_second_max: Option<f64>) -> Duration {
        if let [only] = &self.endpoints[..] {
            return only.time_for(now, lines, tokens_each, lines_per_second_max);
        }
        let by_speed = lines_per_second_max.map_or(0.0, |speed| lines as f64 / speed);
        let by_quotas = if self.endpoints.iter().all(|quotas| !quotas.is_empty()) {
            self.time_shared(now, lines, tokens_each)
        } else {
            // Who has no quota takes all that the others cannot.
            Duration::ZERO
        };
        by_quotas.max(Duration::try_from_secs_f64(by_speed).unwrap_or(Duration::MAX))
    }

    /// Shares the lines out evenly at first, then by how fast each endpoint was with its share.
    fn time_shared(&self, now: Duration, lines: u64, tokens_each: f64) -> Duration {
        let count = self.endpoints.len() as f64;
        let mut shares = vec![lines as f64 / count; self.endpoints.len()];
        let mut best = Duration::MAX;
        for _ in 0..ROUNDS {
            let times: Vec<f64> = self
                .endpoints
                .iter()
                .zip(&shares)
                .map(|(quotas, share)| quotas.time_for(now, share.ceil() as u64, tokens_each, None).as_secs_f64())
                .collect();
            let last = times.iter().copied().fold(0.0, f64::max);
            best = best.min(Duration::try_from_secs_f64(last).unwrap_or(Duration::MAX));
            let first = times.iter().copied().fold(f64::INFINITY, f64::min);
            if first >= last * (1.0 - SAME_END) {
                break;
            }
            // One that was done at once can take more; how much more is found out step by step.
            let speeds: Vec<f64> =
                shares.iter().zip(&times).map(|(share, time)| share.max(1.0) / time.max(last / 4.0)).collect();
            let all: f64 = speeds.iter().sum();
            shares = speeds.iter().map(|speed| lines as f64 * speed / all).collect();
        }
        best
    }

    /// The quota that decides how long so many lines take, for people. `None` when all of them may be sent at once.
    pub fn decisive(&self, lines: u64, tokens_each: f64) -> Option<String> {
        let waits_for_earlier = || !self.time_for(Duration::ZERO, lines, tokens_each, None).is_zero();
        self.decisive_from_nothing(lines, tokens_each).or_else(|| match &self.endpoints[..] {
            // What earlier runs sent still counts.
            [only] if waits_for_earlier() => only.told(),
            several if several.len() > 1 && waits_for_earlier() => Some(self.all_told()),
            _ => None,
        })
    }

    fn all_told(&self) -> String {
        format!("the quotas of {} endpoints", self.endpoints.len())
    }

    fn decisive_from_nothing(&self, lines: u64, tokens_each: f64) -> Option<String> {
        let share = lines.div_ceil(self.endpoints.len() as u64);
        let told: Option<Vec<String>> =
            self.endpoints.iter().map(|quotas| quotas.decisive(share, tokens_each)).collect();
        let mut told = told?;
        let count = told.len();
        told.dedup();
        match &told[..] {
            [one] if count == 1 => Some(one.clone()),
            [one] => Some(format!("{one} at each of {count} endpoints")),
            _ => Some(self.all_told()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn all(endpoints: &[&[&str]]) -> Option<AllQuotas> {
        let quotas = |rates: &&[&str]| {
            let rates: Vec<_> = rates.iter().map(|rate| rate.parse().unwrap()).collect();
            Quotas::new(&rates, None)
        };
        AllQuotas::of(endpoints.iter().map(quotas).collect())
    }

    fn seconds(quotas: &AllQuotas, lines: u64, speed: Option<f64>) -> f64 {
        quotas.time_for(Duration::ZERO, lines, 0.0, speed).as_secs_f64()
    }

    #[test]
    fn without_any_quota_there_is_nothing_to_keep() {
        assert!(all(&[&[], &[]]).is_none());
        assert!(all(&[&[], &["1/s"]]).is_some());
    }

    #[test]
    fn equal_endpoints_halve_the_time() {
        let one = all(&[&["60/10s"]]).unwrap();
        let two = all(&[&["60/10s"], &["60/10s"]]).unwrap();
        assert_eq!(seconds(&two, 1200, None), seconds(&one, 600, None));
        assert_eq!(two.decisive(1200, 0.0).unwrap(), "60 per 10 s at each of 2 endpoints");
        assert_eq!(two.decisive(120, 0.0), None);
    }

    #[test]
    fn the_faster_endpoint_gets_more_and_both_end_together() {
        let two = all(&[&["100/10s"], &["20/10s"]]).unwrap();
        // 120 lines per window of both: 12,000 lines are 99 windows after the first.
        let time = seconds(&two, 12_000, None);
        assert!((980.0..1_060.0).contains(&time), "{time}");
        assert_eq!(two.decisive(12_000, 0.0).unwrap(), "the quotas of 2 endpoints");
    }

    #[test]
    fn an_endpoint_without_a_quota_takes_everything_at_its_speed() {
        let two = all(&[&["1/h"], &[]]).unwrap();
        assert_eq!((seconds(&two, 100, None), seconds(&two, 100, Some(4.0))), (0.0, 25.0));
        assert_eq!(two.decisive(100, 0.0), None);
    }

    #[test]
    fn what_earlier_runs_sent_counts() {
        let mut quotas = Quotas::new(&["100/h".parse().unwrap()], None);
        quotas.remember(Duration::from_secs(600), 80, 0);
        let all = AllQuotas::of(vec![quotas]).unwrap();
        assert_eq!((all.decisive(20, 0.0), seconds(&all, 20, None)), (None, 0.0));
        assert_eq!(all.decisive(21, 0.0).unwrap(), "100 per h");
        let time = seconds(&all, 21, None);
        assert!((3_000.0..3_010.0).contains(&time), "{time}");
    }

    #[test]
    fn what_was_sent_is_shared_out_and_holds_when_all_is_used() {
        let mut two = all(&[&["2/10s"], &["3/10s"]]).unwrap();
        let now = Duration::from_secs(1);
        two.take(now, 4, 0.0);
        assert_eq!(two.holding(now), None);
        two.take(now, 1, 0.0);
        assert_eq!(two.holding(now).unwrap(), "the quotas");
        let time = two.time_for(now, 1, 0.0, None).as_secs_f64();
        assert!((10.0..10.5).contains(&time), "{time}");
    }
}
