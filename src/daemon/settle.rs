//! Decides when a file may be taken: when nobody writes to it any more, as far as looks and events can tell.
//!
//! Pure: stamps, events and a monotonic time come in, a decision goes out. A stamp is compared with nothing but an earlier
//! stamp of the same file: clocks of file systems and ours have nothing to do with each other.
//!
//! | last seen | ready |
//! |---|---|
//! | renamed in, or linked in with another name still there | at once |
//! | created, and never opened: linked in | after [`LINK_LOOK`] |
//! | closed after writing | when unchanged for `settle` |
//! | written, or nothing but looks | when unchanged for `blind_settle` |
//!
//! A link raises the event of a creation and no other, and so does the first step of a copy, which opens the file right
//! after: hence the short look. Whoever creates a file, lets that time pass, and writes only then, is heard later: the
//! stamp changes, and the file is told once more.
//!
//! Invariant: every stamp that has settled is told once; a stamp that changes afterwards is told again when it has
//! settled anew. What that means is for the receiver to decide.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use super::stamp::Stamp;

/// How long a file that was created must stay unopened to be taken for one that was linked in.
pub const LINK_LOOK: Duration = Duration::from_millis(200);

/// What made us look at a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It was renamed to its name, or linked to it while its other name is still there: whole already.
    Moved,
    /// It was created: linked in, or about to be written.
    Created,
    /// It was closed by somebody who could write to it.
    Closed,
    /// It was opened after its creation or written to, and is open still.
    Written,
    /// Nothing but the time: a scan, or the look that was asked for.
    Scanned,
}

/// How long files must stay unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    settle: Duration,
    blind_settle: Duration,
}

impl Times {
    /// `settle` after a close, `blind_settle` between two looks at files of which no event tells; never less than
    /// `settle`.
    pub fn new(settle: Duration, blind_settle: Duration) -> Times {
        Times { settle, blind_settle: blind_settle.max(settle) }
    }

    /// How long files stay unchanged of which no event tells.
    pub fn blind_settle(&self) -> Duration {
        self.blind_settle
    }
}

/// What to do about a file now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It has settled: tell it.
    Ready,
    /// Look again at this time.
    LookAt(Duration),
    /// The scans that come are enough.
    Scan,
    /// It was told, and has not changed since.
    Known,
}

/// A file on its way to be told, and afterwards. 100,000 of these are held at a time, hence the economy.
#[derive(Clone, Debug)]
pub struct Settling {
    print: Print,
    /// When the clock began, in milliseconds of the caller's monotonic time, less the multiples of 2^32: a file that
    /// nobody could look at for seven weeks waits once more.
    since_ms: u32,
    phase: Phase,
    /// Whether this stamp was told.
    told: bool,
    /// Whether any stamp was.
    ever_told: bool,
}

/// What is kept of a stamp to compare others with: hashes of its parts. That two contents have the same is as likely as a
/// fault of the memory, and costs whoever wrote them no more than a further write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print {
    /// Equal when [`Stamp::same_contents`] says so.
    contents: [u8; 8],
    changed: [u8; 4],
}

impl Print {
    fn of(stamp: &Stamp) -> Print {
        let mut hasher = DefaultHasher::new();
        (stamp.inode, stamp.bytes, stamp.modified_ns, stamp.owner).hash(&mut hasher);
        let contents = hasher.finish().to_ne_bytes();
        stamp.changed_ns.hash(&mut hasher);
        let [a, b, c, d, ..] = hasher.finish().to_ne_bytes();
        Print { contents, changed: [a, b, c, d] }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Whole,
    Created,
    Closed,
    Blind,
}

impl Phase {
    fn after(sight: Sight) -> Phase {
        match sight {
            Sight::Moved => Phase::Whole,
            Sight::Created => Phase::Created,
            Sight::Closed => Phase::Closed,
            Sight::Written | Sight::Scanned => Phase::Blind,
        }
    }
}

impl Settling {
    /// A file that is seen for the first time.
    pub fn first(stamp: Stamp, sight: Sight, now: Duration, times: &Times) -> (Settling, Next) {
        let (print, phase) = (Print::of(&stamp), Phase::after(sight));
        let mut file = Settling { print, since_ms: milliseconds(now), phase, told: false, ever_told: false };
        let next = file.judge(now, times);
        (file, next)
    }

    /// A further look at it, at `now`, which never runs back.
    pub fn observe(&mut self, stamp: Stamp, sight: Sight, now: Duration, times: &Times) -> Next {
        let print = Print::of(&stamp);
        if print != self.print {
            // Somebody who has closed a file and changes its permissions is not writing it.
            let closed_still = !self.told && self.phase == Phase::Closed && print.contents == self.print.contents;
            if !(closed_still && sight == Sight::Scanned) {
                self.phase = Phase::after(sight);
            }
            (self.print, self.told, self.since_ms) = (print, false, milliseconds(now));
        } else if self.told {
            return Next::Known;
        } else if sight != Sight::Scanned && (sight, self.phase) != (Sight::Closed, Phase::Closed) {
            // That it is closed again without a change is no reason to wait longer.
            (self.phase, self.since_ms) = (Phase::after(sight), milliseconds(now));
        }
        self.judge(now, times)
    }

    /// Whether the stamp that was seen last has been told.
    pub fn is_told(&self) -> bool {
        self.told
    }

    /// Whether the receiver has heard of the file at all.
    pub fn was_ever_told(&self) -> bool {
        self.ever_told
    }

    fn judge(&mut self, now: Duration, times: &Times) -> Next {
        let wait = match self.phase {
            Phase::Whole => Duration::ZERO,
            Phase::Created => LINK_LOOK,
            Phase::Closed => times.settle,
            Phase::Blind => times.blind_settle,
        };
        let waited = Duration::from_millis(u64::from(milliseconds(now).wrapping_sub(self.since_ms)));
        if waited >= wait {
            (self.told, self.ever_told) = (true, true);
            return Next::Ready;
        }
        if self.phase == Phase::Blind { Next::Scan } else { Next::LookAt(now + (wait - waited)) }
    }
}

#[allow(clippy::cast_possible_truncation)]
fn milliseconds(now: Duration) -> u32 {
    now.as_millis() as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMES: Times = Times { settle: Duration::from_secs(2), blind_settle: Duration::from_secs(10) };

    fn stamp(bytes: u64) -> Stamp {
        Stamp { inode: 1, bytes, modified_ns: 0, changed_ns: 0, owner: 0 }
    }

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// A file, and what `looks` of (bytes, sight, milliseconds) led to.
    fn nexts(looks: &[(u64, Sight, u64)]) -> Vec<Next> {
        let (bytes, sight, now) = looks[0];
        let (mut file, first) = Settling::first(stamp(bytes), sight, at(now), &TIMES);
        let later = looks[1..].iter().map(|(bytes, sight, now)| file.observe(stamp(*bytes), *sight, at(*now), &TIMES));
        std::iter::once(first).chain(later).collect()
    }

    #[test]
    fn a_hundred_thousand_files_are_small() {
        assert!(size_of::<Settling>() <= 20, "{}", size_of::<Settling>());
    }

    #[test]
    fn what_is_renamed_in_is_ready_at_once_and_told_once() {
        use Sight::{Closed, Moved, Scanned};
        let looks = [(5, Moved, 0), (5, Scanned, 10), (5, Closed, 20), (5, Moved, 30), (5, Scanned, 99_999)];
        assert_eq!(nexts(&looks), [Next::Ready, Next::Known, Next::Known, Next::Known, Next::Known]);
    }

    #[test]
    fn what_is_renamed_in_between_two_milliseconds_is_ready_too() {
        let (file, next) = Settling::first(stamp(5), Sight::Moved, Duration::from_nanos(1), &TIMES);
        assert!(next == Next::Ready && file.is_told());
    }

    #[test]
    fn a_close_counts_from_the_last_change() {
        use Sight::{Closed, Created, Scanned, Written};
        let looks = [
            (0, Created, 0),
            (1, Written, 10),
            (2, Closed, 20),
            (2, Scanned, 2019),
            (3, Closed, 2019),
            (3, Closed, 4000),
            (3, Scanned, 4018),
            (3, Scanned, 4019),
        ];
        let due = |milliseconds| Next::LookAt(at(milliseconds));
        let expected = [due(200), Next::Scan, due(2020), due(2020), due(4019), due(4019), due(4019), Next::Ready];
        assert_eq!(nexts(&looks), expected);
    }

    #[test]
    fn who_opens_a_file_again_after_its_close_is_waited_for() {
        use Sight::{Closed, Scanned, Written};
        let looks = [(2, Closed, 0), (2, Written, 1000), (2, Scanned, 2000), (2, Scanned, 11_000)];
        assert_eq!(nexts(&looks), [Next::LookAt(at(2000)), Next::Scan, Next::Scan, Next::Ready]);
    }

    #[test]
    fn a_link_is_taken_after_a_short_look_and_a_copy_is_not() {
        use Sight::{Created, Scanned, Written};
        assert_eq!(nexts(&[(7, Created, 0), (7, Scanned, 200)]), [Next::LookAt(LINK_LOOK), Next::Ready]);
        let copy = [(0, Created, 0), (0, Written, 1), (0, Scanned, 200)];
        assert_eq!(nexts(&copy), [Next::LookAt(LINK_LOOK), Next::Scan, Next::Scan]);
    }

    #[test]
    fn without_events_two_equal_looks_do_when_far_enough_apart() {
        use Sight::Scanned;
        let looks =
            [(1, Scanned, 0), (1, Scanned, 9999), (2, Scanned, 10_000), (2, Scanned, 20_000), (2, Scanned, 30_000)];
        assert_eq!(nexts(&looks), [Next::Scan, Next::Scan, Next::Scan, Next::Ready, Next::Known]);
    }

    #[test]
    fn a_change_after_it_was_told_is_told_when_it_has_settled() {
        use Sight::{Closed, Moved, Scanned};
        let looks = [(1, Moved, 0), (2, Scanned, 100), (2, Closed, 200), (2, Scanned, 2200), (2, Scanned, 50_000)];
        assert_eq!(nexts(&looks), [Next::Ready, Next::Scan, Next::LookAt(at(2200)), Next::Ready, Next::Known]);
    }

    #[test]
    fn a_chmod_after_the_close_is_no_writing() {
        let (mut file, _) = Settling::first(stamp(1), Sight::Closed, at(0), &TIMES);
        let after = Stamp { changed_ns: 9, ..stamp(1) };
        assert_eq!(file.observe(after, Sight::Scanned, at(1000), &TIMES), Next::LookAt(at(3000)));
        assert_eq!(file.observe(after, Sight::Scanned, at(3000), &TIMES), Next::Ready);
        assert!(file.is_told() && file.was_ever_told());
    }

    #[test]
    fn the_clock_goes_on_after_seven_weeks() {
        let weeks = 1 << 32;
        let looks =
            [(1, Sight::Closed, weeks - 1000), (1, Sight::Scanned, weeks + 999), (1, Sight::Scanned, weeks + 1000)];
        assert_eq!(nexts(&looks), [Next::LookAt(at(weeks + 1000)), Next::LookAt(at(weeks + 1000)), Next::Ready]);
    }

    #[test]
    fn a_longer_settle_holds_for_blind_files_too() {
        assert_eq!(Times::new(at(60_000), at(10_000)).blind_settle(), at(60_000));
    }

    /// A look: whether the stamp changes just before it, what made us look, and how long after the last one.
    fn looks() -> impl Strategy<Value = Vec<(bool, Sight, u64)>> {
        let sights = vec![Sight::Moved, Sight::Created, Sight::Closed, Sight::Written, Sight::Scanned, Sight::Scanned];
        let gaps = prop_oneof![Just(0), 0..300u64, 1900..2100u64, 9_900..10_100u64];
        prop::collection::vec((prop::bool::weighted(0.3), prop::sample::select(sights), gaps), 1..60)
    }

    fn stamps() -> impl Strategy<Value = Stamp> {
        let small = || 0..2i64;
        (0..2u64, 0..2u64, small(), small(), 0..2u32).prop_map(|(inode, bytes, modified_ns, changed_ns, owner)| Stamp {
            inode,
            bytes,
            modified_ns,
            changed_ns,
            owner,
        })
    }

    proptest! {
        #[test]
        fn a_print_is_as_good_as_its_stamp(one in stamps(), other in stamps()) {
            let prints = (Print::of(&one), Print::of(&other));
            prop_assert_eq!(prints.0 == prints.1, one == other);
            prop_assert_eq!(prints.0.contents == prints.1.contents, one.same_contents(&other));
        }

        #[test]
        fn a_stamp_is_told_once_and_only_when_it_has_settled(looks in looks()) {
            let (mut now, mut bytes, mut file) = (0, 0, None::<Settling>);
            // Of the present stamp: since when it is seen, what was seen with it, and how often it was told.
            let (mut since, mut sights, mut told) = (0, Vec::new(), 0);
            for (changes, sight, gap) in looks {
                now += gap;
                if changes || file.is_none() {
                    (bytes, since, told) = (bytes + 1, now, 0);
                    sights.clear();
                }
                sights.push(sight);
                let next = match &mut file {
                    Some(file) => file.observe(stamp(bytes), sight, at(now), &TIMES),
                    none => {
                        let (first, next) = Settling::first(stamp(bytes), sight, at(now), &TIMES);
                        *none = Some(first);
                        next
                    }
                };
                if next == Next::Ready {
                    told += 1;
                    let least = [(Sight::Moved, 0), (Sight::Created, 200), (Sight::Closed, 2000)];
                    let least = least.into_iter().find(|(sight, _)| sights.contains(sight)).map_or(10_000, |(_, wait)| wait);
                    prop_assert!(now - since >= least, "told after {} of {least} ms: {sights:?}", now - since);
                }
                prop_assert!(told <= 1, "told {told} times");
                prop_assert_eq!(next == Next::Known, told == 1 && next != Next::Ready);
            }
        }

        #[test]
        fn two_blind_looks_are_enough_whatever_happened_before(looks in looks(), noise in 0..4000u64) {
            let (mut now, mut bytes) = (0, 0);
            let (mut file, _) = Settling::first(stamp(0), Sight::Scanned, at(0), &TIMES);
            for (changes, sight, gap) in looks {
                (now, bytes) = (now + gap, bytes + u64::from(changes));
                file.observe(stamp(bytes), sight, at(now), &TIMES);
            }
            file.observe(stamp(bytes), Sight::Scanned, at(now), &TIMES);
            // That somebody closes it in between without a change does not put it off.
            file.observe(stamp(bytes), Sight::Closed, at(now + noise), &TIMES);
            file.observe(stamp(bytes), Sight::Scanned, at(now + 10_000), &TIMES);
            prop_assert!(file.is_told());
        }
    }
}
