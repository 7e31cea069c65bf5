//! Bytes into records: line ends, blank lines, marks of byte order, records that are too long. Pure.

use std::ops::Range;

use crate::config::Shard;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// One record as it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// Its bytes, without terminator.
    Record(&'a [u8]),
    /// It was too long; so many bytes were skipped.
    TooLong(u64),
}

/// One record of a block.
#[derive(Clone, Debug)]
struct Record {
    line: u64,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Range(Range<usize>),
    TooLong(u64),
}

/// A block of whole records.
#[derive(Debug, Default)]
pub struct Block {
    bytes: Vec<u8>,
    records: Vec<Record>,
}

impl Block {
    /// Whether there is no record in it.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Hands every record to `take`, with its number in the whole input.
    pub fn take<T>(&self, take: &mut impl FnMut(u64, Found<'_>) -> T) -> Vec<T> {
        let found = |record: &Record| match &record.content {
            Content::Range(range) => take(record.line, Found::Record(&self.bytes[range.clone()])),
            Content::TooLong(length) => take(record.line, Found::TooLong(*length)),
        };
        self.records.iter().map(found).collect()
    }
}

/// How the input is to be split.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    /// What ends a record: newline or NUL.
    pub terminator: u8,
    /// The longest record that is kept, in bytes.
    pub line_bytes_max: usize,
    /// Whether to hash what is read.
    pub hash: bool,
    /// Which records are taken; the others are counted only.
    pub shard: Option<Shard>,
}

/// Splits bytes into records. Pure: how the bytes arrive in pieces never changes the records.
#[derive(Debug)]
pub struct Splitter {
    split: Split,
    /// Records so far, blank ones included.
    pub lines: u64,
    /// The start of a record whose end has not come.
    partial: Vec<u8>,
    /// Bytes of a record that is being skipped.
    skipped: u64,
    /// Whether a source begins here.
    pub at_start: bool,
}

impl Splitter {
    /// Nothing yet.
    pub fn new(split: Split) -> Self {
        Self { split, lines: 0, partial: Vec::new(), skipped: 0, at_start: true }
    }

    /// Takes the next bytes; gives the records that they complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Block {
        let Some(last) = memchr::memrchr(self.split.terminator, bytes) else {
            self.keep(bytes);
            return Block::default();
        };
        let (whole, rest) = bytes.split_at(last + 1);
        let mut joined = std::mem::take(&mut self.partial);
        joined.extend_from_slice(whole);
        let block = self.block(joined);
        self.keep(rest);
        block
    }

    /// The end of a source: what has no terminator is a record all the same.
    pub fn finish(&mut self) -> Block {
        if self.is_between_records() {
            return Block::default();
        }
        let mut joined = std::mem::take(&mut self.partial);
        joined.push(self.split.terminator);
        self.block(joined)
    }

    /// Whether no record has begun whose end has not come.
    pub fn is_between_records(&self) -> bool {
        self.partial.is_empty() && self.skipped == 0
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.skipped > 0 {
            self.skipped += bytes.len() as u64;
            return;
        }
        self.partial.extend_from_slice(bytes);
        if self.partial.len() > self.raw_bytes_max() {
            self.skipped = self.partial.len() as u64;
            self.partial = Vec::new();
        }
    }

    /// A record's length with what may be taken off at its ends.
    fn raw_bytes_max(&self) -> usize {
        self.split.line_bytes_max + BOM.len() + 1
    }

    fn block(&mut self, joined: Vec<u8>) -> Block {
        let mut records = Vec::with_capacity(joined.len() / 256 + 1);
        let mut start = 0;
        for end in memchr::memchr_iter(self.split.terminator, &joined) {
            self.lines += 1;
            let wanted = self.split.shard.is_none_or(|shard| shard.takes(self.lines));
            let content = self.content(&joined, start..end);
            if let Some(content) = content.filter(|_| wanted) {
                records.push(Record { line: self.lines, content });
            }
            self.at_start = false;
            start = end + 1;
        }
        Block { bytes: joined, records }
    }

    fn content(&mut self, bytes: &[u8], mut range: Range<usize>) -> Option<Content> {
        if self.skipped > 0 {
            return Some(Content::TooLong(std::mem::take(&mut self.skipped) + range.len() as u64));
        }
        let raw_length = range.len();
        if raw_length > self.raw_bytes_max() {
            return Some(Content::TooLong(raw_length as u64));
        }
        if self.at_start && bytes[range.clone()].starts_with(BOM) {
            range.start += BOM.len();
        }
        if self.split.terminator == b'\n' && bytes[range.clone()].ends_with(b"\r") {
            range.end -= 1;
        }
        if bytes[range.clone()].iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        if range.len() > self.split.line_bytes_max {
            return Some(Content::TooLong(raw_length as u64));
        }
        Some(Content::Range(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn records(pieces: &[&[u8]], terminator: u8, line_bytes_max: usize) -> Vec<(u64, Result<Vec<u8>, u64>)> {
        let mut splitter = Splitter::new(Split { terminator, line_bytes_max, hash: false, shard: None });
        let mut blocks: Vec<Block> = pieces.iter().map(|piece| splitter.feed(piece)).collect();
        blocks.push(splitter.finish());
        let mut take = |line, found: Found<'_>| match found {
            Found::Record(bytes) => (line, Ok(bytes.to_vec())),
            Found::TooLong(length) => (line, Err(length)),
        };
        blocks.iter().flat_map(|block| block.take(&mut take)).collect()
    }

    #[test]
    fn bom_crlf_blank_lines_and_a_missing_end_are_understood() {
        let found = records(&[b"\xef\xbb\xbfa\r\n\r\n  \nb\n\nlast"], b'\n', 99);
        let expected: [(u64, &[u8]); 3] = [(1, b"a"), (4, b"b"), (6, b"last")];
        assert_eq!(found, expected.map(|(line, text)| (line, Ok(text.to_vec()))));
    }

    #[test]
    fn a_long_record_is_skipped_and_the_next_one_is_whole() {
        assert_eq!(
            records(&[b"a\n123456", b"789", b"0123456789\nb\n"], b'\n', 5),
            [(1, Ok(b"a".to_vec())), (2, Err(19)), (3, Ok(b"b".to_vec()))]
        );
        assert_eq!(records(&[b"123456"], b'\n', 5), [(1, Err(6))]);
        assert_eq!(records(&[b"12345\r\n"], b'\n', 5), [(1, Ok(b"12345".to_vec()))]);
    }

    #[test]
    fn nul_separates_records_that_hold_newlines() {
        assert_eq!(records(&[b"a\nb\0\0c\r"], 0, 99), [(1, Ok(b"a\nb".to_vec())), (3, Ok(b"c\r".to_vec()))]);
    }

    proptest! {
        #[test]
        fn pieces_never_matter(text in "[ab\\n\\r ]{0,60}", cuts in prop::collection::vec(0usize..60, 0..8), line_bytes_max in 1usize..9) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(records(&pieces, b'\n', line_bytes_max), records(&[bytes], b'\n', line_bytes_max));
        }
    }
}
