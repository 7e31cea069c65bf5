//! Reading a journal from its beginning, and single records out of it.
//!
//! Invariant: what is handed out had a whole frame with the right CRC. Where frames end before the file does, it is
//! looked whether a whole one follows: only a tail behind which nothing is whole may be taken for torn.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::frame::{self, Found};

const BLOCK_BYTES: usize = 256 << 10;
/// Records are asked for nearly in the order in which they lie; a block begins so far before the one asked for.
const BEHIND_BYTES: u64 = 64 << 10;

/// Where whole records end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Everything before this byte is whole.
    pub valid_bytes: u64,
    /// The length of the file.
    pub file_bytes: u64,
    /// Where a whole record follows behind bytes that are none.
    pub next_valid: Option<u64>,
}

impl Tail {
    /// Bytes at the end that are no whole record, when nothing whole follows them.
    pub fn torn_bytes(&self) -> u64 {
        if self.next_valid.is_none() { self.file_bytes - self.valid_bytes } else { 0 }
    }
}

/// Why a scan came to no tail.
#[derive(Debug)]
pub enum Interrupted<E> {
    /// The file cannot be read.
    Read(io::Error),
    /// Whoever looks at the records wants no more.
    Visitor(E),
}

impl<E> From<io::Error> for Interrupted<E> {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// Hands every whole record from byte `from` on to `visit`, with its offset, until one is not whole.
pub fn scan<E>(
    file: &File,
    from: u64,
    mut visit: impl FnMut(u64, &str) -> Result<(), E>,
) -> Result<Tail, Interrupted<E>> {
    let mut window = Window::at(file, from)?;
    loop {
        let needed = match frame::read(window.rest()) {
            Found::Frame(payload, length) => {
                visit(window.offset(), payload).map_err(Interrupted::Visitor)?;
                window.advance(length);
                continue;
            }
            Found::Short(needed) => needed,
            Found::Nothing => break,
        };
        if !window.fill(needed)? {
            break;
        }
    }
    let valid_bytes = window.offset();
    let next_valid = if valid_bytes == window.file_bytes { None } else { window.next_whole()? };
    Ok(Tail { valid_bytes, file_bytes: window.file_bytes, next_valid })
}

/// A piece of a file that moves on.
struct Window<'f> {
    file: &'f File,
    file_bytes: u64,
    buffer: Vec<u8>,
    /// Where the buffer begins in the file.
    start: u64,
    /// How far the buffer was read.
    at: usize,
}

impl<'f> Window<'f> {
    fn at(file: &'f File, start: u64) -> io::Result<Self> {
        Ok(Self { file, file_bytes: file.metadata()?.len(), buffer: Vec::new(), start, at: 0 })
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.at..]
    }

    fn offset(&self) -> u64 {
        self.start + self.at as u64
    }

    fn advance(&mut self, length: usize) {
        self.at += length;
    }

    /// Reads on until `needed` bytes are there, or the file ends; whether there are more than before.
    fn fill(&mut self, needed: usize) -> io::Result<bool> {
        self.buffer.drain(..self.at);
        self.start += self.at as u64;
        self.at = 0;
        let left = self.file_bytes.saturating_sub(self.start + self.buffer.len() as u64);
        let had = self.buffer.len();
        let wanted = needed.saturating_sub(had).max(BLOCK_BYTES).min(usize::try_from(left).unwrap_or(usize::MAX));
        self.buffer.resize(had + wanted, 0);
        let read = read_full(self.file, &mut self.buffer[had..], self.start + had as u64)?;
        self.buffer.truncate(had + read);
        Ok(read > 0)
    }

    /// The next place behind this one at which a whole record lies.
    fn next_whole(&mut self) -> io::Result<Option<u64>> {
        self.advance(1.min(self.rest().len()));
        loop {
            let Some(candidate) = frame::next_candidate(self.rest(), 0) else {
                // A frame may begin in the last bytes and go on in the next block.
                self.advance(self.rest().len().saturating_sub(frame::HEAD_BYTES_MAX));
                if !self.fill(BLOCK_BYTES)? {
                    return Ok(None);
                }
                continue;
            };
            self.advance(candidate);
            let needed = match frame::read(self.rest()) {
                Found::Frame(..) => return Ok(Some(self.offset())),
                Found::Short(needed) => needed,
                Found::Nothing => 0,
            };
            let is_possible = needed > 0 && self.offset() + needed as u64 <= self.file_bytes.max(self.offset());
            let head_is_cut = needed == frame::HEAD_BYTES_MAX;
            if !((is_possible || head_is_cut) && self.fill(needed)?) {
                self.advance(1);
            }
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads single records, most of them out of a block that is in memory.
#[derive(Debug)]
pub struct Reader {
    file: File,
    block: Vec<u8>,
    start: u64,
}

impl Reader {
    /// Reads records of this file.
    pub fn new(file: File) -> Self {
        Self { file, block: Vec::new(), start: 0 }
    }

    /// The record at an offset. That there is none is an error of kind `InvalidData`.
    pub fn read(&mut self, offset: u64) -> io::Result<&str> {
        let mut needed = BLOCK_BYTES;
        let payload = loop {
            let inside = offset.checked_sub(self.start).and_then(|at| self.block.get(usize::try_from(at).ok()?..));
            match inside.map(|bytes| (bytes.len(), frame::read(bytes))) {
                Some((left, Found::Frame(payload, length))) => {
                    // As a range, since the block may yet have to be loaded anew.
                    let end = self.block.len() - left + length - 1;
                    break end - payload.len()..end;
                }
                Some((_, Found::Nothing)) => return Err(no_record(offset)),
                Some((_, Found::Short(bytes))) => needed = needed.max(bytes),
                None => {}
            }
            if !self.load(offset, needed)? {
                return Err(no_record(offset));
            }
        };
        simdutf8::basic::from_utf8(&self.block[payload]).map_err(|_| no_record(offset))
    }

    /// Loads a block around an offset; whether that gave anything new.
    fn load(&mut self, offset: u64, needed: usize) -> io::Result<bool> {
        let start = offset.saturating_sub(BEHIND_BYTES);
        let length = (offset - start) as usize + needed;
        let had = if self.start == start { self.block.len() } else { 0 };
        self.block.resize(length, 0);
        self.start = start;
        let read = read_full(&self.file, &mut self.block, start)?;
        self.block.truncate(read);
        self.block.shrink_to(2 * BLOCK_BYTES);
        Ok(read > had && read as u64 > offset - start)
    }
}

fn no_record(offset: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("there is no whole record at byte {offset}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn records(bytes: &[u8]) -> (Vec<(u64, String)>, Tail) {
        let mut found = Vec::new();
        let tail = scan(&file_of(bytes), 0, |offset, payload| {
            found.push((offset, payload.to_owned()));
            Ok::<(), ()>(())
        });
        (found, tail.unwrap())
    }

    fn journal(payloads: &[String]) -> (Vec<u8>, Vec<u64>) {
        let (mut bytes, mut offsets) = (Vec::new(), Vec::new());
        for payload in payloads {
            offsets.push(bytes.len() as u64);
            frame::push(&mut bytes, |out| out.extend_from_slice(payload.as_bytes()));
        }
        (bytes, offsets)
    }

    fn fifty() -> (Vec<u8>, Vec<u64>, Vec<String>) {
        let payloads: Vec<String> =
            (0..50).map(|number| format!("{{\"line\":{number},\"text\":\"{}\"}}", "a b ".repeat(number % 7))).collect();
        let (bytes, offsets) = journal(&payloads);
        (bytes, offsets, payloads)
    }

    #[test]
    fn every_truncation_leaves_a_valid_prefix() {
        let (bytes, offsets, payloads) = fifty();
        for cut in 0..=bytes.len() {
            let (found, tail) = records(&bytes[..cut]);
            let whole =
                offsets.iter().skip(1).copied().chain([bytes.len() as u64]).filter(|end| *end <= cut as u64).count();
            assert_eq!(found.len(), whole, "cut at {cut}");
            assert!(found.iter().zip(&payloads).all(|((_, text), expected)| text == expected));
            assert_eq!((tail.next_valid, tail.file_bytes), (None, cut as u64));
            assert_eq!(tail.valid_bytes, offsets.get(whole).copied().unwrap_or(bytes.len() as u64));
        }
    }

    #[test]
    fn every_flip_is_damage_or_in_the_last_record_a_torn_tail() {
        let (bytes, offsets, payloads) = fifty();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            let (found, tail) = records(&flipped);
            let hit = offsets.partition_point(|offset| *offset <= at as u64) - 1;
            assert_eq!(found.len(), hit, "byte {at}");
            assert!(found.iter().zip(&payloads).all(|((_, text), expected)| text == expected));
            assert_eq!(tail.valid_bytes, offsets[hit]);
            assert_eq!(tail.next_valid, offsets.get(hit + 1).copied(), "byte {at}");
        }
    }

    #[test]
    fn a_tail_of_nuls_is_torn_however_long() {
        let (mut bytes, _, _) = fifty();
        let whole = bytes.len() as u64;
        bytes.resize(bytes.len() + 3 * BLOCK_BYTES, 0);
        let (_, tail) = records(&bytes);
        assert_eq!((tail.valid_bytes, tail.next_valid, tail.torn_bytes()), (whole, None, 3 * BLOCK_BYTES as u64));
        let (more, _) = journal(&["{}".to_owned()]);
        bytes.extend_from_slice(&more);
        assert_eq!(records(&bytes).1.next_valid, Some(bytes.len() as u64 - more.len() as u64));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn records_are_read_at_their_offsets_in_any_order(lengths in prop::collection::vec(prop_oneof![0usize..200, 60_000usize..600_000], 1..12), picks in prop::collection::vec(any::<prop::sample::Index>(), 1..30)) {
            let payloads: Vec<String> = lengths.iter().enumerate().map(|(number, length)| format!("{{\"{number}\":\"{}\"}}", "x".repeat(*length))).collect();
            let (bytes, offsets) = journal(&payloads);
            let (found, _) = records(&bytes);
            prop_assert_eq!(found.len(), payloads.len());
            let mut reader = Reader::new(file_of(&bytes));
            for pick in picks {
                let pick = pick.index(payloads.len());
                prop_assert_eq!(reader.read(offsets[pick]).unwrap(), &payloads[pick]);
            }
            prop_assert!(reader.read(bytes.len() as u64).is_err());
            prop_assert!(reader.read(1).is_err());
        }
    }
}
