//! Orders finished records. Holds at most a window, in lines and in bytes. Knows nothing of JSON, threads or time.
//!
//! Invariant: every admitted line leaves exactly once. Room comes back when a record was *written*, not when it was
//! buffered; and room gates what is let in, never what comes back.

use std::collections::{HashMap, VecDeque};

use super::Order;
use crate::line::Correlation;

/// An input line that has been let in and not yet gone out.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    /// Its number in the whole input.
    pub line: u64,
    /// The length of its input record: what its request takes in memory until it is settled.
    pub weight_bytes: usize,
    /// The input record, when it may be needed again.
    pub record: Option<Box<[u8]>>,
    /// The line's own id, when its deltas are to bear it.
    pub correlation: Option<Correlation>,
}

impl Pending {
    /// What it still takes once its request is gone.
    pub fn kept_bytes(&self) -> usize {
        self.record.as_ref().map_or(0, |record| record.len())
    }
}

/// A line that has left the window.
#[derive(Debug)]
pub struct Left {
    /// What is known of the input.
    pub pending: Pending,
    /// Its record of the output.
    pub output: Vec<u8>,
    /// Whether it failed.
    pub failed: bool,
}

#[derive(Debug)]
struct Slot {
    pending: Pending,
    output: Option<(Vec<u8>, bool)>,
}

#[derive(Debug)]
enum Slots {
    InOrder { first: u64, slots: VecDeque<Slot> },
    AsTheyCome(HashMap<u64, Pending>),
}

/// Lines under way.
#[derive(Debug)]
pub struct Window {
    slots: Slots,
    next: u64,
    lines: usize,
    lines_max: usize,
    bytes: usize,
    bytes_max: usize,
}

impl Window {
    /// A window of at most `lines_max` lines and about `bytes_max` bytes: one record may exceed what is left.
    pub fn new(order: Order, lines_max: usize, bytes_max: usize) -> Self {
        let slots = match order {
            Order::Input => Slots::InOrder { first: 0, slots: VecDeque::new() },
            Order::Completion => Slots::AsTheyCome(HashMap::new()),
        };
        Self { slots, next: 0, lines: 0, lines_max, bytes: 0, bytes_max }
    }

    /// Whether another line may come in.
    pub fn has_room(&self) -> bool {
        self.lines < self.lines_max && self.bytes < self.bytes_max
    }

    /// Whether its bytes leave room.
    pub fn has_byte_room(&self) -> bool {
        self.bytes < self.bytes_max
    }

    /// Lets a line in, whatever the room, and returns its key.
    pub fn admit(&mut self, pending: Pending) -> u64 {
        let key = self.next;
        self.next += 1;
        self.lines += 1;
        self.bytes += pending.weight_bytes + pending.kept_bytes();
        match &mut self.slots {
            Slots::InOrder { slots, .. } => slots.push_back(Slot { pending, output: None }),
            Slots::AsTheyCome(map) => {
                map.insert(key, pending);
            }
        }
        key
    }

    /// The input of a line that has not settled.
    pub fn pending(&self, key: u64) -> Option<&Pending> {
        match &self.slots {
            Slots::InOrder { first, slots } => slots.get(key.checked_sub(*first)? as usize).map(|slot| &slot.pending),
            Slots::AsTheyCome(map) => map.get(&key),
        }
    }

    /// A line is settled: hands every line that may now leave to `leave`.
    pub fn settle(&mut self, key: u64, output: Vec<u8>, failed: bool, leave: &mut impl FnMut(Left)) {
        self.bytes += output.len();
        match &mut self.slots {
            Slots::AsTheyCome(map) => {
                let pending = map.remove(&key).expect("a line settles once");
                self.bytes -= pending.weight_bytes;
                leave(Left { pending, output, failed });
            }
            Slots::InOrder { first, slots } => {
                let slot = &mut slots[(key - *first) as usize];
                assert!(slot.output.is_none(), "a line settles once");
                slot.output = Some((output, failed));
                self.bytes -= slot.pending.weight_bytes;
                while slots.front().is_some_and(|slot| slot.output.is_some()) {
                    let slot = slots.pop_front().expect("the front was just seen");
                    *first += 1;
                    let (output, failed) = slot.output.expect("the front is settled");
                    leave(Left { pending: slot.pending, output, failed });
                }
            }
        }
    }

    /// So many lines of so many bytes, input and output together, were written.
    pub fn written(&mut self, lines: usize, bytes: usize) {
        self.lines -= lines;
        self.bytes -= bytes;
    }

    /// Bytes come and go outside the lines (deltas).
    pub fn add_bytes(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// The run ends early: what is settled leaves in order, with gaps; what is not comes back as `Err`.
    pub fn give_up(self) -> Vec<Result<Left, Pending>> {
        match self.slots {
            Slots::InOrder { slots, .. } => slots
                .into_iter()
                .map(|slot| match slot.output {
                    Some((output, failed)) => Ok(Left { pending: slot.pending, output, failed }),
                    None => Err(slot.pending),
                })
                .collect(),
            Slots::AsTheyCome(map) => {
                let mut rest: Vec<(u64, Pending)> = map.into_iter().collect();
                rest.sort_unstable_by_key(|(key, _)| *key);
                rest.into_iter().map(|(_, pending)| Err(pending)).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(number: u64) -> Pending {
        Pending { line: number, ..Pending::default() }
    }

    #[test]
    fn room_comes_back_when_lines_are_written() {
        let mut window = Window::new(Order::Input, 2, 1000);
        let keys = [window.admit(line(1)), window.admit(line(2))];
        assert!(!window.has_room());
        let mut left = Vec::new();
        window.settle(keys[1], b"two".to_vec(), false, &mut |line| left.push(line));
        assert!(left.is_empty());
        window.settle(keys[0], b"one".to_vec(), false, &mut |line| left.push(line));
        assert_eq!(left.iter().map(|left| left.pending.line).collect::<Vec<_>>(), [1, 2]);
        assert!(!window.has_room());
        window.written(2, 6);
        assert!(window.has_room());
    }

    #[test]
    fn bytes_bound_it_too() {
        let mut window = Window::new(Order::Completion, 100, 10);
        let key =
            window.admit(Pending { line: 1, weight_bytes: 3, record: Some(vec![0; 4].into()), correlation: None });
        assert!(window.has_room());
        window.settle(key, vec![0; 6], true, &mut |left| assert_eq!(left.pending.kept_bytes(), 4));
        assert!(!window.has_room());
        window.written(1, 10);
        assert!(window.has_room());
    }

    proptest! {
        #[test]
        fn every_line_leaves_once_and_in_order(order in prop::sample::select(vec![Order::Input, Order::Completion]), ranks in prop::collection::vec(any::<u16>(), 0..80), settled in 0usize..80) {
            let mut window = Window::new(order, 1000, 1 << 20);
            let keys: Vec<u64> = (0..ranks.len() as u64).map(|number| window.admit(line(number))).collect();
            let mut turn: Vec<usize> = (0..ranks.len()).collect();
            turn.sort_by_key(|index| ranks[*index]);
            let mut left = Vec::new();
            let settled = settled.min(turn.len());
            for index in &turn[..settled] {
                window.settle(keys[*index], index.to_string().into_bytes(), false, &mut |line| left.push(line.pending.line));
            }
            let rest = window.give_up();
            let given_up = rest.iter().filter(|entry| entry.is_err()).count();
            prop_assert_eq!(given_up, turn.len() - settled);
            left.extend(rest.into_iter().filter_map(|entry| entry.ok().map(|line| line.pending.line)));
            if order == Order::Input {
                prop_assert!(left.is_sorted());
            }
            left.sort_unstable();
            let mut expected: Vec<u64> = turn[..settled].iter().map(|index| *index as u64).collect();
            expected.sort_unstable();
            prop_assert_eq!(left, expected);
        }
    }
}
