//! The small commands beside the filter: `check`, `models`, `journal`, `merge`, and `--dry-run`.

pub mod check;
pub mod dry_run;
pub mod journal;
pub mod merge;
pub mod models;
mod shard;

use std::io::{BufWriter, StdoutLock, Write as _};

use crate::exit::{Exit, Stop};
use crate::line::escape::message;

/// Writes a line to stdout, whatever is quoted in it made harmless.
fn print(line: &str) -> Result<(), Stop> {
    if !crate::stdout_probe::was_open() {
        return Err(Stop::new(Exit::Io, "write standard output: it is closed"));
    }
    writeln!(std::io::stdout().lock(), "{}", message(line)).map_err(stdout_stop)
}

fn stdout_stop(error: std::io::Error) -> Stop {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => Stop::new(Exit::ReaderGone, ""),
        _ => Stop::new(Exit::Io, format!("write standard output: {error}")),
    }
}

/// Stdout for many records.
struct Out(BufWriter<StdoutLock<'static>>);

impl Out {
    fn open() -> Result<Self, Stop> {
        if !crate::stdout_probe::was_open() {
            return Err(Stop::new(Exit::Io, "write standard output: it is closed"));
        }
        Ok(Self(BufWriter::with_capacity(256 << 10, std::io::stdout().lock())))
    }

    fn write(&mut self, record: &[u8]) -> Result<(), Stop> {
        self.0.write_all(record).map_err(stdout_stop)
    }

    fn finish(mut self) -> Result<(), Stop> {
        self.0.flush().map_err(stdout_stop)
    }
}
