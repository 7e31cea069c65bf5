//! The shortest time to a first token, by length of the request: what a request takes that need not wait. Pure.
//!
//! Invariant: a floor is never above what was heard in this epoch or the one before. There is one entry for each half
//! power of two, 128 at most.

use std::collections::BTreeMap;

/// Answers after which floors are found anew, so that they rise with the server's times. The epoch before counts along:
/// among so many there are some that did not wait.
const EPOCH_ANSWERS: u32 = 256;
/// Entries for each power of two.
const ENTRIES: f64 = 2.0;

/// Windowed minima by length of the request.
#[derive(Debug, Default)]
pub struct Floors {
    buckets: BTreeMap<u32, Floor>,
    answers: u32,
}

/// The minima of two epochs.
#[derive(Debug, Default)]
struct Floor {
    now: Option<Sample>,
    before: Option<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    bytes: f64,
    seconds: f64,
}

impl Floors {
    /// Hears of a first token after `seconds`, and returns the floor of requests of that length; none for the first
    /// of about that length, which can be compared with nothing.
    pub fn heard(&mut self, bytes: usize, seconds: f64) -> Option<f64> {
        let sample = Sample { bytes: bytes.max(1) as f64, seconds };
        let bucket = (sample.bytes.log2() * ENTRIES) as u32;
        let is_known = self.buckets.contains_key(&bucket);
        self.buckets.entry(bucket).or_default().heard(sample);
        self.count();
        // A longer prompt is read in a time that is at most as much longer, a shorter one in no more time.
        let bounds = self.buckets.values().filter_map(Floor::least).map(|least| least.for_bytes(sample.bytes));
        let least = bounds.fold(seconds, f64::min);
        is_known.then_some(least)
    }

    fn count(&mut self) {
        self.answers += 1;
        if self.answers == EPOCH_ANSWERS {
            self.answers = 0;
            self.buckets.retain(|_, floor| floor.next_epoch());
        }
    }
}

impl Floor {
    fn heard(&mut self, sample: Sample) {
        if self.now.is_none_or(|now| sample.seconds < now.seconds) {
            self.now = Some(sample);
        }
    }

    fn least(&self) -> Option<Sample> {
        match (self.now, self.before) {
            (Some(now), Some(before)) => Some(if now.seconds < before.seconds { now } else { before }),
            (now, before) => now.or(before),
        }
    }

    /// Returns whether anything is left to know.
    fn next_epoch(&mut self) -> bool {
        self.before = self.now.take();
        self.before.is_some()
    }
}

impl Sample {
    /// The most that a request of `bytes` can take without waiting.
    fn for_bytes(self, bytes: f64) -> f64 {
        self.seconds * (bytes / self.bytes).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_bound_each_other() {
        let mut floors = Floors::default();
        assert_eq!(floors.heard(1000, 0.5), None);
        assert_eq!(floors.heard(1000, 0.4), Some(0.4));
        assert_eq!(floors.heard(100_000, 90.0), None, "nothing to compare with");
        assert_eq!(floors.heard(100_000, 80.0), Some(40.0), "a hundred times as long takes a hundred times, at most");
        assert_eq!(floors.heard(95_000, 20.0), Some(20.0));
        assert_eq!(floors.heard(100, 3.0), None);
        assert_eq!(floors.heard(100, 2.0), Some(0.4), "a shorter one takes no longer");
        assert_eq!(floors.heard(0, 0.1), None);
    }

    #[test]
    fn a_floor_rises_when_all_became_slower() {
        let mut floors = Floors::default();
        floors.heard(1000, 0.1);
        let rises_after = (0..).find(|_| floors.heard(1000, 0.5) == Some(0.5));
        assert!(rises_after.is_some_and(|answers| (EPOCH_ANSWERS..=2 * EPOCH_ANSWERS).contains(&answers)));
        assert_eq!(floors.heard(1000, 0.3), Some(0.3));
    }
}
