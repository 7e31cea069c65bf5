//! What a run with a journal is made of, and what is left of it.

use std::collections::VecDeque;

use super::super::failed::FailedLines;
use super::super::intake::Intake;
use super::super::ledger::Why;
use super::super::settings_guard::Guard;
use super::super::understanding::Understood;
use super::super::window::Window;
use super::super::writer::Writer;
use super::Pending;
use crate::journal::{Journal, Known, Records, Settings, Spending};
use crate::line::completion::Style;

/// Where the output of a run with a journal goes.
#[derive(Debug)]
pub enum Sink {
    /// To stdout, as lines are committed.
    Stdout {
        /// The output.
        writer: Box<Writer>,
        /// How lines look.
        style: Style,
        /// What failed.
        failed_lines: Option<FailedLines>,
    },
    /// Into a file, in a second pass.
    Later {
        /// What failed.
        failed_lines: Option<FailedLines>,
    },
}

impl Sink {
    /// Whether it takes further lines.
    pub fn has_room(&self) -> bool {
        match self {
            Self::Stdout { writer, .. } => writer.has_room(),
            Self::Later { .. } => true,
        }
    }

    /// What failed.
    pub fn failed_lines(&mut self) -> &mut Option<FailedLines> {
        match self {
            Self::Stdout { failed_lines, .. } | Self::Later { failed_lines } => failed_lines,
        }
    }
}

/// What is left when the engine has ended.
#[derive(Debug)]
pub struct Rest {
    /// The journal, with nothing waiting that anybody needs.
    pub journal: Journal,
    /// What it says.
    pub known: Known,
    /// Where the output went.
    pub sink: Sink,
    /// Why the mode ended the run, if it did.
    pub why: Option<Why>,
    /// Whether this run has recorded anything about a line.
    pub recorded: bool,
    /// The lines that have no outcome.
    pub unsettled: Unsettled,
}

/// Lines that a run has not settled.
#[derive(Debug)]
pub struct Unsettled {
    /// How many are known.
    pub lines: u64,
    /// Input records of those that were let in, as far as they were kept.
    pub records: Vec<Box<[u8]>>,
    /// Records that were looked at and not let in.
    pub seen: VecDeque<Understood>,
    /// The input that was not let in behind those, and its end.
    pub intake: Intake,
    /// Reads records of the journal back.
    pub journal_records: Records,
}

impl Unsettled {
    /// Adds the records to a file, but for those that the journal answers; waits for the input only when `wait` says so.
    pub async fn collect(&mut self, file: &mut FailedLines, known: &mut Known, wait: bool) {
        let Self { lines, records, seen, intake, journal_records } = self;
        records.iter().for_each(|record| file.push(record));
        let mut keep = |understood: &Understood| {
            if !is_answered(understood, known, journal_records) {
                *lines += 1;
                understood.record.iter().for_each(|record| file.push(record));
            }
        };
        seen.iter().for_each(&mut keep);
        intake.drain(wait, keep).await;
    }
}

/// Whether the journal answers a record that this run has not come to.
fn is_answered(understood: &Understood, known: &mut Known, records: &mut Records) -> bool {
    let Ok((key, Some(offset))) = known.index.claim(&understood.hash) else { return false };
    records.outcome(offset, &key).is_ok_and(|(_, outcome)| outcome.result.is_ok())
}

/// The parts of a [`super::Journaled`].
#[derive(Debug)]
pub struct Parts {
    /// What comes in.
    pub intake: Intake,
    /// Watches over settings that differ.
    pub guard: Guard,
    /// Lines under way.
    pub window: Window<Pending, u64>,
    /// The journal.
    pub journal: Journal,
    /// What it says.
    pub known: Known,
    /// The settings of this run.
    pub settings: Settings,
    /// Adds up what counts against quotas.
    pub spending: Spending,
    /// Reads records back.
    pub records: Records,
    /// Where the output goes.
    pub sink: Sink,
}
