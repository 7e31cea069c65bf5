//! The end of a run: what is left is written, everything is told, and the status is judged.
//!
//! Invariant: the status tells the truth. 0 only when every line has its completion and every byte was written.

use std::io;

use super::failed::FailedLines;
use super::ledger::Why;
use super::reader::End;
use super::writer::{Writer, out_of_patience};
use super::{path_stop, stdout_stop};
use crate::api::token::TokenSource;
use crate::config::Config;
use crate::engine::{Ended, HaltCause};
use crate::exit::{Exit, Stop};
use crate::report::{Reporter, meta};
use crate::shutdown::{Cause, Level, Shutdown};

/// What judges a run.
#[derive(Clone, Copy, Debug)]
pub struct Closing<'a> {
    /// What was to be done.
    pub config: &'a Config,
    /// What was told.
    pub reporter: &'a Reporter,
    /// What came from outside.
    pub shutdown: &'a Shutdown,
}

/// What is known of a run when it has ended.
#[derive(Debug)]
pub struct Facts<'a> {
    /// How the engine ended.
    pub ended: &'a Ended,
    /// Why the mode ended the run, if it did.
    pub why: Option<&'a Why>,
    /// Lines that were let in and not settled.
    pub unsettled: u64,
    /// What the reader said at the end, if it came to it.
    pub end: Option<&'a End>,
}

impl Closing<'_> {
    /// Writes what is left, while there is patience.
    pub async fn write_out(&self, writer: Writer) -> io::Result<()> {
        tokio::select! {
            biased;
            written = writer.finish() => written,
            () = self.patience() => Err(out_of_patience()),
        }
    }

    /// After a signal the reader of stdout has the time of a drain to take the rest, after a second signal none.
    pub async fn patience(&self) {
        let level_above = |level| std::future::poll_fn(move |cx| self.shutdown.poll_above(level, cx));
        level_above(Level::Running).await;
        let _ = tokio::time::timeout(self.config.clocks.drain, level_above(Level::Draining)).await;
    }

    /// Publishes what failed.
    pub fn finish_failed(&self, failed_lines: Option<FailedLines>) -> Result<(), Stop> {
        match (failed_lines, &self.config.output.failed) {
            (Some(file), Some(path)) => file.finish().map_err(|error| path_stop("--failed: write", path, &error)),
            _ => Ok(()),
        }
    }

    /// What writing stdout came to: a status when its reader went away, an error when bytes were lost.
    pub fn judge_written(&self, written: io::Result<()>) -> Result<Option<Exit>, Stop> {
        match written {
            Ok(()) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Some(Exit::ReaderGone)),
            // The signal that ended the waiting is the better status.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => self.judge_stop(None).map(Some),
            Err(error) => Err(stdout_stop(error)),
        }
    }

    /// The status of a run whose files are all right.
    pub fn judge(&self, facts: &Facts<'_>) -> Result<Exit, Stop> {
        if let Some(error) = facts.end.and_then(|end| end.error.as_ref()) {
            return Err(Stop::new(Exit::Io, error.clone()));
        }
        match facts.ended {
            Ended::Complete if facts.unsettled > 0 => {
                let message =
                    format!("{} lines were lost on the way; this is a defect of the program", facts.unsettled);
                Err(Stop::new(Exit::Io, message).way_out("run the same command again, and report it"))
            }
            Ended::Complete => Ok(self.judge_failures()),
            Ended::Halted(halt)
                if halt.cause == HaltCause::TokenRejected
                    && self.config.service.endpoints.iter().all(|one| matches!(*one.token, TokenSource::None)) =>
            {
                Err(Stop::new(Exit::TokenRejected, "the service wants a key, and none was given")
                    .way_out("put it into ANVILGPT_API_KEY, or into a file that --api-key-file names"))
            }
            Ended::Halted(halt) => {
                Err(Stop::new(exit_of(halt.cause), halt.message.clone()).way_out(halt.way_out.clone()))
            }
            Ended::Drained | Ended::Aborted => self.judge_stop(facts.why),
        }
    }

    fn judge_failures(&self) -> Exit {
        let counts = self.reporter.counts();
        let allowance = self.config.output.allow_failed;
        let allowed = allowance.is_some_and(|allowance| allowance.permits(counts.failed(), counts.settled()));
        if counts.failed() == 0 || allowed { Exit::Answered } else { Exit::SomeFailed }
    }

    fn judge_stop(&self, why: Option<&Why>) -> Result<Exit, Stop> {
        match (why, self.shutdown.cause()) {
            (Some(Why::Stop(stop)), _) => Err(stop.clone()),
            (_, Some(cause)) => Ok(exit_after(Some(cause))),
            _ => {
                let message =
                    format!("stopped: {} lines failed, more than --max-failed allows", self.reporter.counts().failed());
                // With a journal they stay failed until somebody asks for them again.
                let journal = self.config.output.journal.is_some();
                let again = if journal { " with --retry-failed; without, it goes on behind them" } else { "" };
                Err(Stop::new(Exit::Resumable, message)
                    .way_out(format!("look at their errors, mend the cause, and run the same command again{again}")))
            }
        }
    }

    /// Tells people, and the file of `--meta`, how the run went.
    pub fn tell(&self, facts: &Facts<'_>, exit: &Result<Exit, Stop>) -> Result<(), Stop> {
        let status = match exit {
            Ok(exit) => *exit,
            Err(stop) => stop.exit,
        };
        let complete = *facts.ended == Ended::Complete;
        self.reporter.finish(self.config, facts.unsettled, complete, facts.end.is_some(), status);
        let input = facts.end.map(|end| meta::InputFacts { lines: end.lines, sha256: end.sha256.clone() });
        meta::write(self.config, self.reporter, input, facts.unsettled, status)
    }
}

fn exit_of(cause: HaltCause) -> Exit {
    match cause {
        HaltCause::ServiceRefuses => Exit::Unavailable,
        HaltCause::Misconfigured => Exit::Config,
        HaltCause::TokenRejected => Exit::TokenRejected,
        HaltCause::Outage | HaltCause::Deadline => Exit::Resumable,
    }
}

/// The status of a run that ended because it was told to.
pub fn exit_after(cause: Option<Cause>) -> Exit {
    match cause {
        Some(Cause::Interrupt) => Exit::Interrupted,
        Some(Cause::Terminate) => Exit::Terminated,
        Some(Cause::Requeue) | None => Exit::Resumable,
    }
}
