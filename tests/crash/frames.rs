//! A journal's bytes, read and written without the program: `crc SP length SP payload LF`.

use std::ops::Range;

use serde_json::Value;

/// A whole record.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Where it lies.
    pub at: Range<usize>,
    /// What it says.
    pub payload: Value,
}

impl Frame {
    /// Whether it tells of a line that was asked for: such a record is what a slot waits for.
    pub fn is_paid(&self) -> bool {
        self.payload["attempts"].as_u64().is_some_and(|attempts| attempts > 0)
    }

    /// Whether it tells how a line was settled, answered or not.
    pub fn is_outcome(&self) -> bool {
        self.payload["attempts"].is_u64()
    }

    /// The number of its line, if it is a line's.
    pub fn line(&self) -> Option<u64> {
        self.payload["line"].as_u64()
    }
}

/// The whole records at the start of a journal.
pub fn read(journal: &[u8]) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    loop {
        let start = frames.last().map_or(0, |frame| frame.at.end);
        match read_one(&journal[start..]) {
            Some((length, payload)) => frames.push(Frame { at: start..start + length, payload }),
            None => return frames,
        }
    }
}

fn read_one(bytes: &[u8]) -> Option<(usize, Value)> {
    let end = memchr::memchr(b'\n', bytes)?;
    let line = std::str::from_utf8(&bytes[..end]).ok()?;
    let (crc, covered) = line.split_once(' ')?;
    let (length, payload) = covered.split_once(' ')?;
    let is_whole = u32::from_str_radix(crc, 16) == Ok(crc32c::crc32c(covered.as_bytes()))
        && length.parse() == Ok(payload.len())
        && crc.len() == 8;
    is_whole.then(|| serde_json::from_str(payload).ok()).flatten().map(|payload| (end + 1, payload))
}

/// A record's bytes.
pub fn write(payload: &str) -> Vec<u8> {
    let covered = format!("{} {payload}", payload.len());
    format!("{:08x} {covered}\n", crc32c::crc32c(covered.as_bytes())).into_bytes()
}

/// The payload of a record as its text stands in the journal.
pub fn text<'j>(journal: &'j [u8], frame: &Frame) -> &'j str {
    let line = std::str::from_utf8(&journal[frame.at.start..frame.at.end - 1]).unwrap();
    line.splitn(3, ' ').nth(2).unwrap()
}
