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
use crate::journal::{Journal, Known, Records, Settings};
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
    /// Lines that were let in and not settled.
    pub unsettled: u64,
    /// Input records of those lines, as far as they were kept.
    pub unsettled_records: Vec<Box<[u8]>>,
    /// Records that were looked at and not let in.
    pub seen: VecDeque<Understood>,
    /// The input that was not let in behind those, and its end.
    pub intake: Intake,
    /// Reads records back.
    pub records: Records,
    /// Whether this run has recorded anything about a line.
    pub recorded: bool,
}

/// The parts of a [`Journaled`].
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
    /// Reads records back.
    pub records: Records,
    /// Where the output goes.
    pub sink: Sink,
}
