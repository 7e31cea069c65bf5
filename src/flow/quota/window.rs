//! What was used of one quota in its sliding window. Holds a bounded number of entries, whatever the quota.
//!
//! Invariant: what was used at a moment leaves the window at that moment plus `kept_nanoseconds`, or a little later,
//! never sooner. Knows nothing of what is counted.

use std::collections::VecDeque;
use std::time::Duration;

use super::rate::WINDOW_MAX;

/// Up to this amount every entry has a moment of its own; beyond, those of a granule share one.
const EXACT_MAX: u64 = 1024;
/// A window has so many granules: what shares one leaves late by less than 0.1 % of the window.
const GRANULES: u64 = 1024;
/// More entries than this are never held; then the last one takes in what comes.
const ENTRIES_MAX: usize = 4096;
/// The run's begin as a moment: as long after moment 0 as an earlier run's sends may matter.
const RUN_BEGIN: Moment = 2 * (WINDOW_MAX.as_secs() * NANOSECONDS);
const NANOSECONDS: u64 = 1_000_000_000;

/// A point in time, in nanoseconds; 0 lies long before the run, so that past sends have moments too.
pub(super) type Moment = u64;

/// The moment of a time since the run began.
pub(super) fn moment(since_begin: Duration) -> Moment {
    RUN_BEGIN.saturating_add(nanoseconds(since_begin))
}

/// The time since the run began; moments before it are the begin.
pub(super) fn since_begin(moment: Moment) -> Duration {
    Duration::from_nanos(moment.saturating_sub(RUN_BEGIN))
}

/// The moment so long before the run.
pub(super) fn before_begin(age: Duration) -> Moment {
    RUN_BEGIN.saturating_sub(nanoseconds(age))
}

fn nanoseconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(NANOSECONDS).saturating_add(u64::from(duration.subsec_nanos()))
}

/// One sliding window.
#[derive(Clone, Debug)]
pub(super) struct Window {
    amount_max: u64,
    kept_nanoseconds: u64,
    granule_nanoseconds: u64,
    exact: bool,
    used: u64,
    entries: VecDeque<Entry>,
}

/// What was used from `begin` on, up to a granule later.
#[derive(Clone, Debug)]
struct Entry {
    begin: Moment,
    leaves_at: Moment,
    amount: u64,
}

impl Window {
    /// A window of requests, each an amount of one.
    pub(super) fn of_requests(count: u64, kept: Duration) -> Self {
        Self { exact: count <= EXACT_MAX, ..Self::of_amounts(count, kept) }
    }

    /// A window of amounts of any size.
    pub(super) fn of_amounts(amount_max: u64, kept: Duration) -> Self {
        let kept_nanoseconds = nanoseconds(kept);
        Self {
            amount_max: amount_max.max(1),
            kept_nanoseconds,
            granule_nanoseconds: kept_nanoseconds / GRANULES,
            exact: false,
            used: 0,
            entries: VecDeque::new(),
        }
    }

    /// The most that may be used within the window.
    pub(super) fn amount_max(&self) -> u64 {
        self.amount_max
    }

    /// How long what was used counts, in seconds.
    pub(super) fn kept_seconds(&self) -> f64 {
        self.kept_nanoseconds as f64 / NANOSECONDS as f64
    }

    /// From when on there is room for `amount`; more than the whole window holds needs it empty.
    pub(super) fn ready_at(&self, amount: u64) -> Moment {
        let allowed = self.amount_max - amount.min(self.amount_max);
        if self.used <= allowed {
            return 0;
        }
        let mut to_leave = self.used - allowed;
        for entry in &self.entries {
            if entry.amount >= to_leave {
                return entry.leaves_at;
            }
            to_leave -= entry.amount;
        }
        0
    }

    /// How much may still be used at that moment.
    pub(super) fn room(&mut self, at: Moment) -> u64 {
        self.expire(at);
        self.amount_max.saturating_sub(self.used)
    }

    /// Counts what is used at that moment.
    pub(super) fn add(&mut self, at: Moment, amount: u64) {
        self.expire(at);
        self.used = self.used.saturating_add(amount);
        let leaves_at = at.saturating_add(self.kept_nanoseconds);
        let granule = if self.exact { 0 } else { self.granule_nanoseconds };
        let full = self.entries.len() >= ENTRIES_MAX;
        match self.entries.back_mut() {
            Some(last) if full || at.saturating_sub(last.begin) <= granule => {
                last.amount += amount;
                last.leaves_at = last.leaves_at.max(leaves_at);
            }
            _ => self.entries.push_back(Entry { begin: at, leaves_at, amount }),
        }
    }

    /// Counts what was used at an earlier moment, in its place among the others.
    pub(super) fn add_past(&mut self, at: Moment, amount: u64) {
        let granule = self.granule_nanoseconds.max(1);
        // On a grid, so that a long past has no more entries than the window has granules.
        let begin = at.div_ceil(granule).saturating_mul(granule);
        let leaves_at = begin.saturating_add(self.kept_nanoseconds);
        let place = self.entries.partition_point(|entry| entry.begin < begin);
        self.used = self.used.saturating_add(amount);
        match self.entries.get_mut(place) {
            Some(entry) if entry.begin == begin => entry.amount += amount,
            _ => self.entries.insert(place, Entry { begin, leaves_at, amount }),
        }
    }

    /// Gives back what was counted at that moment, as far as it still counts.
    pub(super) fn give_back(&mut self, at: Moment, amount: u64) {
        let place = self.entries.partition_point(|entry| entry.begin <= at);
        let Some(entry) = place.checked_sub(1).and_then(|place| self.entries.get_mut(place)) else { return };
        let amount = amount.min(entry.amount);
        entry.amount -= amount;
        self.used -= amount;
    }

    fn expire(&mut self, at: Moment) {
        while let Some(first) = self.entries.front()
            && first.leaves_at <= at
        {
            self.used -= first.amount;
            self.entries.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_huge_quota_takes_little_memory_and_wastes_little() {
        let mut window = Window::of_requests(1_000_000_000, Duration::from_secs(1));
        (0..2_000_000_u64).for_each(|at| window.add(at * 1_000, 1));
        assert!(window.entries.len() <= GRANULES as usize + 2, "{} entries", window.entries.len());
        assert!((1_000_000..1_002_000).contains(&window.used), "{} used in the last second", window.used);
    }

    #[test]
    fn what_is_counted_against_the_rules_stays_bounded_too() {
        let mut window = Window::of_requests(10, Duration::from_secs(1));
        (0..100_000).for_each(|at| window.add(at, 1));
        assert!(window.entries.len() <= ENTRIES_MAX && window.used == 100_000);
        (0..100_000).for_each(|at| window.add_past(at, 1));
        assert!(window.entries.len() <= ENTRIES_MAX + 2 && window.used == 200_000);
    }

    #[test]
    fn what_has_left_is_not_given_back() {
        let mut window = Window::of_amounts(100, Duration::from_secs(1));
        window.add(0, 60);
        window.add(NANOSECONDS / 2, 40);
        window.add(NANOSECONDS, 1);
        window.give_back(0, 60);
        assert_eq!(window.used, 41);
        window.give_back(NANOSECONDS / 2, 50);
        assert_eq!((window.used, window.room(NANOSECONDS)), (1, 99));
    }
}
