//! What becomes of the outcomes: where they go, in which order, and how many may be failures.

use std::path::PathBuf;

use crate::line::Format;

/// What becomes of the outcomes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
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
mod tests {
    use super::*;

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
