//! The small commands beside the filter: `check`, `models`, and `--dry-run`.

pub mod check;
pub mod dry_run;
pub mod journal;
pub mod merge;
pub mod models;

use std::io::Write as _;

use crate::exit::{Exit, Stop};
use crate::line::escape::message;

/// Writes a line to stdout, whatever is quoted in it made harmless.
fn print(line: &str) -> Result<(), Stop> {
    if !crate::stdout_probe::was_open() {
        return Err(Stop::new(Exit::Io, "write standard output: it is closed"));
    }
    writeln!(std::io::stdout().lock(), "{}", message(line)).map_err(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Stop::new(Exit::ReaderGone, ""),
        _ => Stop::new(Exit::Io, format!("write standard output: {error}")),
    })
}
