//! The small commands beside the filter: `check`, `models`, `journal`, `merge`, `status`, `submit`, and `--dry-run`.

pub mod check;
pub mod dry_run;
pub mod journal;
pub mod merge;
pub mod models;
mod shard;
pub mod status;
pub mod submit;

use std::io::{BufWriter, IsTerminal as _, StdoutLock, Write as _};

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

/// The terminal that stdout is, with its cursor hidden; dropping it brings the cursor back.
struct Screen(());

impl Screen {
    /// `None` when stdout is no terminal.
    fn open() -> Result<Option<Self>, Stop> {
        if !stdout_is_terminal() {
            return Ok(None);
        }
        let mut out = Out::open()?;
        out.write(b"\x1b[?25l\x1b[2J")?;
        out.finish()?;
        Ok(Some(Self(())))
    }

    /// Columns and rows, as they are now.
    fn size(&self) -> (usize, usize) {
        match rustix::termios::tcgetwinsize(std::io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
            // A terminal that does not tell is one of the oldest kind.
            _ => (80, 24),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Where the cursor cannot be brought back there is no terminal any more.
        let _ = Out::open().and_then(|mut out| {
            out.write(b"\x1b[?25h\n")?;
            out.finish()
        });
    }
}

fn stdout_is_terminal() -> bool {
    std::io::stdout().is_terminal()
}
