//! The index: where in the journal the answer to a key lies, and how often each request has been seen. Pure.
//!
//! A table of 24 bytes an entry, open addressing, in 256 parts that grow one by one by a quarter: at most 37 bytes a
//! key however many there are, and never two copies of all of it. What it holds of a key is 128 bits; whoever reads a
//! record compares the rest.

use super::key::{Hash, Key};

const PARTS: usize = 256;
const CAPACITY_MIN: usize = 4;
/// A part grows when more than 82 of 100 places are taken: probes stay short, and 24 / (0.82 / 1.25) is 36.6.
const FULL_PERCENT: usize = 82;

/// An entry packs two numbers into one word: where the record begins (40 bits, a tebibyte) and how often the request
/// was seen (24 bits).
const OFFSET_BITS: u32 = 40;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;
/// Records begin behind the journal's first record, so no record lies at 0.
const NO_RECORD: u64 = 0;

/// The largest journal, in bytes.
pub const JOURNAL_BYTES_MAX: u64 = OFFSET_MASK;
/// Most equal requests in one input.
pub const EQUAL_REQUESTS_MAX: u32 = (1 << (64 - OFFSET_BITS)) - 1;

/// More equal requests than the index can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the input holds one request more than {EQUAL_REQUESTS_MAX} times; set a different seed in each, or split the input"
)]
pub struct TooManyEqual;

#[derive(Clone, Debug, Default)]
struct Part {
    /// Halves of 128 bits; all zero is an empty place.
    prefixes: Vec<[u64; 2]>,
    words: Vec<u64>,
    taken: usize,
}

/// The table.
#[derive(Clone, Debug)]
pub struct Index {
    parts: Vec<Part>,
    records: u64,
}

impl Default for Index {
    fn default() -> Self {
        Self { parts: vec![Part::default(); PARTS], records: 0 }
    }
}

impl Index {
    /// Keys that have a record.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Where the record of a key begins.
    pub fn get(&self, key: &Key) -> Option<u64> {
        let (part, prefix) = split(key.prefix());
        let part = &self.parts[part];
        let place = part.find(prefix).ok()?;
        Some(part.words[place] & OFFSET_MASK).filter(|offset| *offset != NO_RECORD)
    }

    /// Sets where the record of a key begins; a later record takes the place of an earlier one.
    pub fn insert(&mut self, key: &Key, offset: u64) {
        debug_assert!(offset != NO_RECORD && offset <= JOURNAL_BYTES_MAX);
        let word = self.word(key.prefix());
        let was_empty = *word & OFFSET_MASK == NO_RECORD;
        *word = *word & !OFFSET_MASK | offset;
        self.records += u64::from(was_empty);
    }

    /// The next occurrence of a request in this pass over the input: its key, and its record if there is one.
    pub fn claim(&mut self, hash: &Hash) -> Result<(Key, Option<u64>), TooManyEqual> {
        let first = Key { hash: *hash, nth: 0 };
        let word = self.word(first.prefix());
        let nth = (*word >> OFFSET_BITS) as u32;
        if nth == EQUAL_REQUESTS_MAX {
            return Err(TooManyEqual);
        }
        *word += 1 << OFFSET_BITS;
        if nth == 0 {
            let offset = *word & OFFSET_MASK;
            return Ok((first, Some(offset).filter(|offset| *offset != NO_RECORD)));
        }
        let key = Key { hash: *hash, nth };
        Ok((key, self.get(&key)))
    }

    /// Begins another pass: every request counts from its first occurrence again.
    pub fn forget_claims(&mut self) {
        self.parts.iter_mut().flat_map(|part| &mut part.words).for_each(|word| *word &= OFFSET_MASK);
    }

    /// Bytes of memory that the entries take.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.prefixes.capacity() * 16 + part.words.capacity() * 8).sum()
    }

    fn word(&mut self, prefix: u128) -> &mut u64 {
        let (part, prefix) = split(prefix);
        let part = &mut self.parts[part];
        let place = match part.find(prefix) {
            Ok(place) => place,
            Err(_) => part.add(prefix),
        };
        &mut part.words[place]
    }
}

/// The part of a prefix, and the prefix as it is stored.
fn split(prefix: u128) -> (usize, [u64; 2]) {
    let (low, high) = (prefix as u64, (prefix >> 64) as u64);
    // All zero means an empty place; whoever reads the record compares the whole key anyway.
    let low = if low | high == 0 { 1 } else { low };
    ((high >> 56) as usize, [low, high])
}

impl Part {
    /// The place of a prefix, or the empty one where it would go.
    fn find(&self, prefix: [u64; 2]) -> Result<usize, usize> {
        let capacity = self.prefixes.len();
        if capacity == 0 {
            return Err(0);
        }
        // The low half, scaled to the table: no division, and any capacity will do.
        let mut place = ((u128::from(prefix[0]) * capacity as u128) >> 64) as usize;
        loop {
            if self.prefixes[place] == prefix {
                return Ok(place);
            }
            if self.prefixes[place] == [0, 0] {
                return Err(place);
            }
            place = if place + 1 == capacity { 0 } else { place + 1 };
        }
    }

    fn add(&mut self, prefix: [u64; 2]) -> usize {
        if (self.taken + 1) * 100 > self.prefixes.len() * FULL_PERCENT {
            self.grow();
        }
        self.taken += 1;
        let place = self.find(prefix).unwrap_or_else(|empty| empty);
        self.prefixes[place] = prefix;
        place
    }

    fn grow(&mut self) {
        let capacity = (self.prefixes.len() * 5 / 4 + 1).max(CAPACITY_MIN);
        let larger = Self { prefixes: vec![[0, 0]; capacity], words: vec![0; capacity], taken: self.taken };
        let smaller = std::mem::replace(self, larger);
        for (prefix, word) in smaller.prefixes.into_iter().zip(smaller.words).filter(|(prefix, _)| *prefix != [0, 0]) {
            let place = self.find(prefix).unwrap_or_else(|empty| empty);
            self.prefixes[place] = prefix;
            self.words[place] = word;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::of_request;
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn hash(number: u64) -> Hash {
        of_request(&number.to_le_bytes())
    }

    #[test]
    fn a_million_keys_take_at_most_forty_bytes_each_at_any_time() {
        let mut index = Index::default();
        for number in 0..1_000_000u64 {
            index.insert(&Key { hash: hash(number), nth: 0 }, number + 1);
            if number > 100_000 && number % 50_000 == 0 {
                assert!(index.bytes() as u64 <= 40 * number, "{} bytes for {number}", index.bytes());
            }
        }
        assert!(index.bytes() <= 40_000_000, "{}", index.bytes());
        assert_eq!(index.records(), 1_000_000);
        assert!((0..1_000_000).all(|number| index.get(&Key { hash: hash(number), nth: 0 }) == Some(number + 1)));
        assert_eq!(index.get(&Key { hash: hash(1_000_000), nth: 0 }), None);
    }

    #[test]
    fn equal_requests_are_told_apart_up_to_a_bound() {
        let mut index = Index::default();
        let hash = hash(0);
        for nth in 0..EQUAL_REQUESTS_MAX {
            assert_eq!(index.claim(&hash), Ok((Key { hash, nth }, None)));
        }
        assert_eq!(index.claim(&hash), Err(TooManyEqual));
        index.forget_claims();
        assert_eq!(index.claim(&hash), Ok((Key { hash, nth: 0 }, None)));
    }

    proptest! {
        #[test]
        fn it_answers_as_a_map_does(steps in prop::collection::vec((0u64..12, 0u32..4, prop::option::of(1u64..1000)), 0..300)) {
            let (mut index, mut map, mut seen) = (Index::default(), HashMap::new(), HashMap::new());
            for (number, nth, offset) in steps {
                let key = Key { hash: hash(number), nth };
                match offset {
                    Some(offset) => {
                        index.insert(&key, offset);
                        map.insert(key, offset);
                    }
                    None => {
                        let nth = seen.entry(number).or_insert(0);
                        let claimed = Key { hash: hash(number), nth: *nth };
                        *nth += 1;
                        prop_assert_eq!(index.claim(&hash(number)), Ok((claimed, map.get(&claimed).copied())));
                    }
                }
                prop_assert_eq!(index.get(&key), map.get(&key).copied());
                prop_assert_eq!(index.records(), map.len() as u64);
            }
        }
    }
}
