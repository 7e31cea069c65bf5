//! The shortest time to a first token, by length of the request: what a request takes that need not wait. Pure.
//!
//! Invariant: a floor is never above what was seen lately. Memory is one entry per half power of two.

use std::collections::BTreeMap;

/// Answers after which a floor is found anew; the one before counts along, so that it never jumps.
const EPOCH_ANSWERS: u32 = 256;

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
        let bucket = (sample.bytes.log2() * 2.0) as u32;
        let is_known = self.buckets.get(&bucket).is_some_and(|floor| floor.least().is_some());
        self.buckets.entry(bucket).or_default().heard(sample);
        self.pass_time();
        // A longer prompt is read in a time that is at most as much longer, a shorter one in no more time.
        let bounds = self.buckets.values().filter_map(Floor::least).map(|least| least.for_bytes(sample.bytes));
        let least = bounds.fold(seconds, f64::min);
        is_known.then_some(least)
    }

    fn pass_time(&mut self) {
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
    fn for_bytes(self, bytes: f64) -> f64 {
        self.seconds * (bytes / self.bytes).max(1.0)
    }
}
