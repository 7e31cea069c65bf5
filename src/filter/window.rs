//! Orders finished records. Holds at most a window, in lines and in bytes. Knows nothing of JSON, threads or time.
//!
//! Invariant: every admitted line leaves exactly once. Room comes back when a record was *written*, not when it was
//! buffered; and room gates what is let in, never what comes back.

use std::collections::{HashMap, VecDeque};

use super::Order;

/// A line that has left the window.
#[derive(Debug)]
pub struct Left<I, O> {
    /// What is known of the input.
    pub item: I,
    /// What came of it.
    pub output: O,
    /// Bytes of room that it holds until it is written.
    pub bytes: usize,
}

/// What a line takes in memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weight {
    /// Until it is settled: its request.
    pub request_bytes: usize,
    /// Until it is written: what is kept of its input.
    pub kept_bytes: usize,
}

#[derive(Debug)]
struct Slot<I, O> {
    item: I,
    weight: Weight,
    output: Option<(O, usize)>,
}

impl<I, O> Slot<I, O> {
    fn leave(self) -> Result<Left<I, O>, I> {
        match self.output {
            Some((output, bytes)) => Ok(Left { item: self.item, output, bytes: self.weight.kept_bytes + bytes }),
            None => Err(self.item),
        }
    }
}

#[derive(Debug)]
enum Slots<I, O> {
    InOrder { first: u64, slots: VecDeque<Slot<I, O>> },
    AsTheyCome(HashMap<u64, Slot<I, O>>),
}

/// Lines under way: of each, an item `I` while it is pending, and an output `O` once it is settled.
#[derive(Debug)]
pub struct Window<I, O> {
    slots: Slots<I, O>,
    next: u64,
    lines: usize,
    lines_max: usize,
    bytes: usize,
    bytes_max: usize,
}

impl<I, O> Window<I, O> {
    /// A window of at most `lines_max` lines and about `bytes_max` bytes: one record may exceed what is left.
    pub fn new(order: Order, lines_max: usize, bytes_max: usize) -> Self {
        let slots = match order {
            Order::Input => Slots::InOrder { first: 0, slots: VecDeque::new() },
            Order::Completion => Slots::AsTheyCome(HashMap::new()),
        };
        Self { slots, next: 0, lines: 0, lines_max, bytes: 0, bytes_max }
    }

    /// How many lines may be under way.
    pub fn lines_max(&self) -> usize {
        self.lines_max
    }

    /// Whether another line may come in.
    pub fn has_room(&self) -> bool {
        self.lines < self.lines_max && self.bytes < self.bytes_max
    }

    /// Whether every line that was let in has been written.
    pub fn is_empty(&self) -> bool {
        self.lines == 0
    }

    /// Whether its bytes leave room.
    pub fn has_byte_room(&self) -> bool {
        self.bytes < self.bytes_max
    }

    /// Lets a line in, whatever the room, and returns its key.
    pub fn admit(&mut self, item: I, weight: Weight) -> u64 {
        let key = self.next;
        self.next += 1;
        self.lines += 1;
        self.bytes += weight.request_bytes + weight.kept_bytes;
        let slot = Slot { item, weight, output: None };
        match &mut self.slots {
            Slots::InOrder { slots, .. } => slots.push_back(slot),
            Slots::AsTheyCome(map) => {
                map.insert(key, slot);
            }
        }
        key
    }

    /// A line that has not left.
    pub fn pending(&self, key: u64) -> Option<&I> {
        match &self.slots {
            Slots::InOrder { first, slots } => slots.get(key.checked_sub(*first)? as usize).map(|slot| &slot.item),
            Slots::AsTheyCome(map) => map.get(&key).map(|slot| &slot.item),
        }
    }

    /// A line is settled, with an output of so many bytes: hands every line that may now leave to `leave`.
    pub fn settle(&mut self, key: u64, output: O, bytes: usize, leave: &mut impl FnMut(Left<I, O>)) {
        self.bytes += bytes;
        match &mut self.slots {
            Slots::AsTheyCome(map) => {
                let slot = map.remove(&key).expect("a line settles once");
                self.bytes -= slot.weight.request_bytes;
                leave(Left { item: slot.item, output, bytes: slot.weight.kept_bytes + bytes });
            }
            Slots::InOrder { first, slots } => {
                let slot = &mut slots[(key - *first) as usize];
                assert!(slot.output.is_none(), "a line settles once");
                slot.output = Some((output, bytes));
                self.bytes -= slot.weight.request_bytes;
                while slots.front().is_some_and(|slot| slot.output.is_some()) {
                    let slot = slots.pop_front().expect("the front was just seen");
                    *first += 1;
                    slot.leave().into_iter().for_each(&mut *leave);
                }
            }
        }
    }

    /// So many lines of so many bytes, input and output together, were written.
    pub fn written(&mut self, lines: usize, bytes: usize) {
        self.lines -= lines;
        self.bytes -= bytes;
    }

    /// Bytes come and go outside the lines.
    pub fn add_bytes(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// The run ends early: what is settled leaves in order, with gaps; what is not comes back as `Err`.
    pub fn give_up(&mut self) -> Vec<Result<Left<I, O>, I>> {
        match &mut self.slots {
            Slots::InOrder { slots, .. } => std::mem::take(slots).into_iter().map(Slot::leave).collect(),
            Slots::AsTheyCome(map) => {
                let mut rest: Vec<(u64, Slot<I, O>)> = std::mem::take(map).into_iter().collect();
                rest.sort_unstable_by_key(|(key, _)| *key);
                rest.into_iter().map(|(_, slot)| slot.leave()).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn room_comes_back_when_lines_are_written() {
        let mut window = Window::new(Order::Input, 2, 1000);
        let keys = [window.admit(1, Weight::default()), window.admit(2, Weight::default())];
        assert!(!window.has_room());
        let mut left = Vec::new();
        window.settle(keys[1], "two", 3, &mut |line| left.push(line));
        assert!(left.is_empty());
        window.settle(keys[0], "one", 3, &mut |line| left.push(line));
        assert_eq!(left.iter().map(|left| (left.item, left.output)).collect::<Vec<_>>(), [(1, "one"), (2, "two")]);
        assert!(!window.has_room());
        window.written(2, 6);
        assert!(window.has_room());
    }

    #[test]
    fn bytes_bound_it_too() {
        let mut window = Window::new(Order::Completion, 100, 10);
        let key = window.admit(1, Weight { request_bytes: 3, kept_bytes: 4 });
        assert!(window.has_room());
        window.settle(key, (), 6, &mut |left| assert_eq!(left.bytes, 10));
        assert!(!window.has_room());
        window.written(1, 10);
        assert!(window.has_room());
    }

    proptest! {
        #[test]
        fn every_line_leaves_once_and_in_order(order in prop::sample::select(vec![Order::Input, Order::Completion]), ranks in prop::collection::vec(any::<u16>(), 0..80), settled in 0usize..80) {
            let mut window = Window::new(order, 1000, 1 << 20);
            let keys: Vec<u64> = (0..ranks.len() as u64).map(|number| window.admit(number, Weight::default())).collect();
            let mut turn: Vec<usize> = (0..ranks.len()).collect();
            turn.sort_by_key(|index| ranks[*index]);
            let mut left = Vec::new();
            let settled = settled.min(turn.len());
            for index in &turn[..settled] {
                window.settle(keys[*index], (), 1, &mut |line| left.push(line.item));
            }
            let rest = window.give_up();
            let given_up = rest.iter().filter(|entry| entry.is_err()).count();
            prop_assert_eq!(given_up, turn.len() - settled);
            left.extend(rest.into_iter().filter_map(|entry| entry.ok().map(|line| line.item)));
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
