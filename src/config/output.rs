//! What becomes of the outcomes: where they go, in which order, what is kept of them, and how many may be failures.

use std::path::{Path, PathBuf};

use crate::line::Format;

/// What becomes of the outcomes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// Where the completion lines go.
    pub destination: Destination,
    /// The journal that keeps the answers; always there for a file as destination, whose companion it then is.
    pub journal: Option<JournalConfig>,
    /// Whether the destination may replace a file that is not ours.
    pub force: bool,
    /// Whether the journal goes away once the destination was published.
    pub discard_journal: bool,
    /// The form of an output line; `None` leaves it to the form of the request line.
    pub format: Option<Format>,
    /// The field of the input object that takes the answer; when it is there, `format` is `None`.
    pub merge: Option<String>,
    /// The file that collects the input lines that failed; never an input, never `meta`.
    pub failed: Option<PathBuf>,
    /// The order of the output lines.
    pub order: Order,
    /// The file that takes the summary as JSON.
    pub meta: Option<PathBuf>,
    /// How many lines may fail while the run still counts as answered.
    pub allow_failed: Option<Allowance>,
    /// How many lines may fail before the run stops early.
    pub max_failed: Option<Allowance>,
}

impl Output {
    /// Where the input is kept when it cannot be read a second time; `None` without a file as destination.
    pub fn input_copy_path(&self) -> Option<PathBuf> {
        match &self.destination {
            Destination::Stdout => None,
            Destination::File(path) => Some(input_copy_beside(path)),
        }
    }
}

/// Where the completion lines go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Destination {
    /// Standard output, as they come.
    #[default]
    Stdout,
    /// This file, which appears whole when the last line is settled.
    File(PathBuf),
}

/// The journal, and what of it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalConfig {
    /// The journal itself; it need not exist.
    pub path: PathBuf,
    /// Whether the answers that it holds are ignored; they stay in it.
    pub fresh: bool,
    /// Whether lines that failed are asked for again.
    pub retry_failed: bool,
    /// The Slurm job that this run is part of, to tell others who holds the journal. It comes from outside: escape it.
    pub job: Option<String>,
}

/// The journal of an output file: its whole name, and `.journal`.
pub fn journal_beside(output: &Path) -> PathBuf {
    with_ending(output, ".journal")
}

/// The copy of the input of an output file: its whole name, and `.input`.
pub fn input_copy_beside(output: &Path) -> PathBuf {
    with_ending(output, ".input")
}

/// A path whose whole name is followed by an ending.
pub fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// The order of the output lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As the request lines came.
    #[default]
    Input,
    /// As the outcomes come.
    Completion,
}

/// How many lines may fail.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Allowance {
    /// So many lines.
    Lines(u64),
    /// So many of a hundred lines, from 0 to 100.
    Percent(f64),
}

impl Allowance {
    /// Whether `failed` of `total` lines are within the allowance; the allowance itself is within it.
    pub fn permits(&self, failed: u64, total: u64) -> bool {
        match *self {
            Allowance::Lines(lines) => failed <= lines,
            Allowance::Percent(percent) => {
                // Percentages are rarely exact in binary: 1.15 % of 10,000 must still be 115.
                let slack = total as f64 * 1e-9;
                failed as f64 * 100.0 <= percent * total as f64 + slack
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    #[test]
    fn companions_keep_the_whole_name_whatever_its_bytes() {
        let path = Path::new(OsStr::from_bytes(b"folder/an\xff.jsonl"));
        assert_eq!(journal_beside(path).as_os_str().as_bytes(), b"folder/an\xff.jsonl.journal");
        let output = Output { destination: Destination::File(path.to_owned()), ..Output::default() };
        assert_eq!(output.input_copy_path().unwrap().as_os_str().as_bytes(), b"folder/an\xff.jsonl.input");
        assert_eq!(Output::default().input_copy_path(), None);
    }

    #[test]
    fn an_allowance_permits_itself_and_no_more() {
        let lines = Allowance::Lines(3);
        assert!(lines.permits(3, 3) && !lines.permits(4, 1000));
        let percent = Allowance::Percent(1.15);
        assert!(percent.permits(115, 10_000) && !percent.permits(116, 10_000));
        assert!(Allowance::Percent(0.0).permits(0, 0));
        assert!(!Allowance::Percent(0.0).permits(1, 1_000_000));
        assert!(Allowance::Percent(100.0).permits(7, 7));
    }
}
