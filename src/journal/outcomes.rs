//! Every line of a journal's last input, in order, with its outcome: what a journal says without the input.

use std::fs::File;
use std::path::Path;

use super::error::Error;
use super::index::Index;
use super::known::Known;
use super::record::Settled;
use super::records::Records;
use crate::line::completion::{About, Style};
use crate::line::{Correlation, Form, Outcome};

/// One line and how it was settled.
#[derive(Debug)]
pub struct LineOutcome {
    /// Its number in the whole input.
    pub line: u64,
    form: Option<Form>,
    correlation: Option<Correlation>,
    settled: Settled,
    outcome: Outcome,
}

impl LineOutcome {
    /// Appends its completion line.
    pub fn render(&self, style: &Style, out: &mut Vec<u8>) {
        let about = About {
            line: self.line,
            form: self.form,
            correlation: self.correlation.as_ref(),
            model: self.settled.model.as_deref(),
            flags: self.settled.flags,
            record: None,
        };
        style.render(&about, &self.outcome, out);
    }
}

/// The lines of a journal, in the order of the input.
#[derive(Debug)]
pub struct Outcomes {
    records: Records,
    index: Index,
    places: std::vec::IntoIter<(u64, u64)>,
}

impl Outcomes {
    /// Reads what is known of a journal out of its file.
    pub fn new(file: File, path: &Path, known: Known) -> Self {
        let places: Vec<(u64, u64)> = known.places.iter().collect();
        Self { records: Records::new(file, path), index: known.index, places: places.into_iter() }
    }

    fn read(&mut self, line: u64, offset: u64) -> Result<LineOutcome, Error> {
        let mut place = self.records.settled(offset)?;
        let (form, correlation, key) = (place.form, place.correlation.take(), place.head.key);
        if let Some(outcome) = place.outcome.take() {
            return Ok(LineOutcome { line, form, correlation, settled: place, outcome });
        }
        let answer = self.index.get(&key).ok_or_else(|| self.records.unanswered(offset))?;
        let (settled, outcome) = self.records.outcome(answer, &key)?;
        Ok(LineOutcome { line, form, correlation, settled, outcome })
    }
}

impl Iterator for Outcomes {
    type Item = Result<LineOutcome, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let (line, offset) = self.places.next()?;
        Some(self.read(line, offset))
    }
}
