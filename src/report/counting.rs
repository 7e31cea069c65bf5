//! How many lines there are: reads the inputs once more, beside whoever reads them.
//!
//! Invariant: counts what the filter counts, lines that are not blank, of one shard if need be. Reads at places of its
//! own, so that the files' offsets, which the reader shares, never move.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use crate::config::{Separator, Shard};

const BLOCK_BYTES: usize = 256 << 10;

/// Lines of files that are not blank, when all of them can be read at any place; of a shard, those that are its own.
pub fn count(files: &[File], separator: Separator, shard: Option<Shard>) -> Option<u64> {
    let mut counter = Counter { terminator: separator.byte(), shard, line: 0, lines: 0, blank: true };
    files.iter().try_for_each(|file| counter.add(file))?;
    Some(counter.lines)
}

struct Counter {
    terminator: u8,
    shard: Option<Shard>,
    /// Lines that have ended, blank ones included.
    line: u64,
    /// Those of them that count.
    lines: u64,
    /// Whether the line that is being read is blank so far.
    blank: bool,
}

impl Counter {
    fn add(&mut self, file: &File) -> Option<()> {
        let (mut buffer, mut offset, mut in_line) = (vec![0; BLOCK_BYTES], 0, false);
        let terminator = self.terminator;
        loop {
            let length = file.read_at(&mut buffer, offset).ok()?;
            if length == 0 {
                break;
            }
            offset += length as u64;
            for piece in buffer[..length].split_inclusive(|byte| *byte == terminator) {
                in_line = piece.last() != Some(&terminator);
                let content = if in_line { piece } else { &piece[..piece.len() - 1] };
                self.blank &= content.iter().all(u8::is_ascii_whitespace);
                if !in_line {
                    self.end_line();
                }
            }
        }
        // What has no terminator is a line all the same.
        if in_line {
            self.end_line();
        }
        Some(())
    }

    fn end_line(&mut self) {
        self.line += 1;
        let counts = !self.blank && self.shard.is_none_or(|shard| shard.takes(self.line));
        self.lines += u64::from(counts);
        self.blank = true;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn counted(contents: &[&str], separator: Separator, shard: Option<Shard>) -> Option<u64> {
        let file = |content: &&str| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(content.as_bytes()).unwrap();
            file
        };
        count(&contents.iter().map(file).collect::<Vec<_>>(), separator, shard)
    }

    #[test]
    fn blank_lines_do_not_count_and_a_missing_end_does() {
        assert_eq!(counted(&["a\n\n \r\nb\nc", "\nd\n", ""], Separator::Newline, None), Some(4));
        assert_eq!(counted(&["a\nb\0\0\n\0c"], Separator::Nul, None), Some(2));
        let long = "x".repeat(BLOCK_BYTES) + "\n" + &" ".repeat(2 * BLOCK_BYTES) + "\n" + "y";
        assert_eq!(counted(&[&long], Separator::Newline, None), Some(2));
    }

    #[test]
    fn a_shard_counts_its_own_lines_by_their_numbers_in_the_whole_input() {
        let shard = |index| Some(Shard { index, count: 2 });
        let contents = ["1\n\n3\n", "\n5", "6\n7\n8"];
        assert_eq!(counted(&contents, Separator::Newline, shard(1)), Some(4));
        assert_eq!(counted(&contents, Separator::Newline, shard(2)), Some(2));
    }
}
