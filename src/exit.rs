//! The exit table, and the one error that ends a run.
//!
//! Every status that the program can leave with is a row of [`EXITS`]; the help text is made from the same rows, so the
//! two cannot differ. Knows nothing of why a run ends, and never ends one: only `main` returns a status.

use std::fmt;
use std::process::ExitCode;

/// How the program ends. The numbers are those of `sysexits.h` where it has one, and 128 + signal for signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Every line has its completion, and every byte was written.
    Answered = 0,
    /// The run finished; some lines carry an error.
    SomeFailed = 1,
    /// The command line makes no sense, or asks for something that is refused.
    Usage = 64,
    /// The input, or a journal, cannot be used.
    Input = 65,
    /// The service refuses this kind of request outright.
    Unavailable = 69,
    /// Reading or writing failed.
    Io = 74,
    /// Stopped early; the same command goes on later.
    Resumable = 75,
    /// The service does not take the token.
    TokenRejected = 77,
    /// The configuration is wrong or incomplete.
    Config = 78,
    /// SIGINT: drained, then left.
    Interrupted = 130,
    /// Whoever read stdout went away.
    ReaderGone = 141,
    /// SIGTERM: drained, then left.
    Terminated = 143,
}

/// The one table: each status and what it means, in ascending order.
pub const EXITS: &[(Exit, &str)] = &[
    (Exit::Answered, "every line answered (or failures within --allow-failed)"),
    (Exit::SomeFailed, "finished, some lines failed"),
    (Exit::Usage, "usage, or a refusal to overwrite"),
    (Exit::Input, "input or journal unusable"),
    (Exit::Unavailable, "the service refuses this kind of request (wrong URL, wrong API)"),
    (Exit::Io, "reading or writing failed"),
    (Exit::Resumable, "stopped early, run it again later (outage, --deadline, --max-failed, SIGUSR1)"),
    (Exit::TokenRejected, "token rejected"),
    (Exit::Config, "configuration"),
    (Exit::Interrupted, "interrupted (SIGINT), drained"),
    (Exit::ReaderGone, "the reader of stdout went away"),
    (Exit::Terminated, "terminated (SIGTERM), drained"),
];

impl Exit {
    /// The status as the shell sees it.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// The exit table as a section of the help text.
pub fn help_text() -> String {
    let rows = EXITS.iter().map(|(exit, meaning)| format!("\n  {:>3}  {meaning}", exit.code()));
    format!("Exit status:{}", rows.collect::<String>())
}

/// Why the program ends without doing what was asked: the status, what went wrong, and what the user can do about it.
///
/// Neither text ever holds a key; both are shown to people as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The status to leave with.
    pub exit: Exit,
    /// What was attempted, on what, and why it failed: lower case, no full stop.
    pub message: String,
    /// What to do now; shown on a line of its own.
    pub way_out: Option<String>,
}

impl Stop {
    /// A stop with any status.
    pub fn new(exit: Exit, message: impl Into<String>) -> Stop {
        Stop { exit, message: message.into(), way_out: None }
    }

    /// A stop because the command line makes no sense (64).
    pub fn usage(message: impl Into<String>) -> Stop {
        Stop::new(Exit::Usage, message)
    }

    /// A stop because the configuration is wrong or incomplete (78).
    pub fn config(message: impl Into<String>) -> Stop {
        Stop::new(Exit::Config, message)
    }

    /// The same stop, with what the user can do about it.
    pub fn way_out(mut self, way_out: impl Into<String>) -> Stop {
        self.way_out = Some(way_out.into());
        self
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)?;
        match &self.way_out {
            Some(way_out) => write!(out, "\n{way_out}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Stop {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds_the_promised_statuses_in_order() {
        let codes: Vec<u8> = EXITS.iter().map(|(exit, _)| exit.code()).collect();
        assert_eq!(codes, [0, 1, 64, 65, 69, 74, 75, 77, 78, 130, 141, 143]);
    }

    #[test]
    fn the_help_shows_every_row() {
        let help = help_text();
        for (exit, meaning) in EXITS {
            assert!(help.contains(&format!("{:>3}  {meaning}", exit.code())), "{exit:?} is missing");
        }
    }

    #[test]
    fn a_stop_shows_its_way_out_on_a_line_of_its_own() {
        let stop = Stop::config("no token").way_out("set ANVILGPT_API_KEY");
        assert_eq!(stop.to_string(), "no token\nset ANVILGPT_API_KEY");
        assert_eq!(stop.exit, Exit::Config);
        assert_eq!(Stop::usage("what").to_string(), "what");
    }
}
