//! One shard of a merge: what it is a part of, and its records one by one.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use crate::config::journal_beside;
use crate::exit::{Exit, Stop};
use crate::journal::{self, Error, Known, Outcomes, frame, publish};
use crate::line::completion::Style;
use crate::line::escape::shown;

/// What a shard says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Which one, from 1.
    pub index: u64,
    /// Of how many.
    pub count: u64,
    /// The hash of the whole input.
    pub input_sha256: String,
    /// Lines of the whole input.
    pub input_lines: u64,
    /// Lines of the shard that are settled.
    pub settled: u64,
    /// Lines of the shard that failed.
    pub failed: u64,
}

enum Records {
    /// Rendered from a journal.
    Journal { outcomes: Outcomes, style: Style },
    /// Taken as they stand in a file of completions, whose lines the journal numbers.
    File { file: BufReader<File>, terminator: u8, lines: std::vec::IntoIter<u64> },
}

/// One shard.
pub struct Shard {
    /// What the user named.
    pub path: PathBuf,
    /// What it says of itself.
    pub facts: Facts,
    records: Records,
    record: Vec<u8>,
    given: u64,
    last: u64,
}

impl Shard {
    /// Opens what the user named: a journal, or a file of completions with its journal beside it. Completions are taken
    /// as they stand, unless another style is asked for; those of a journal are rendered in it, or in the default one.
    pub fn open(path: &Path, style: Option<&Style>, default: &Style) -> Result<Self, Stop> {
        let is_journal = begins_as_journal(path)?;
        let journal_path = if is_journal { path.to_owned() } else { journal_beside(path) };
        if !is_journal && !journal_path.exists() {
            return Err(Stop::new(
                Exit::Input,
                format!(
                    "{} is no journal, and there is no {} that says what it is a part of",
                    shown(path),
                    shown(&journal_path)
                ),
            )
            .way_out("name files that --output has written, with their journals beside them, or the journals"));
        }
        let (file, known, _) = journal::look(&journal_path)?;
        let facts = facts(path, &known)?;
        let records = match (is_journal, style) {
            (false, None) => Records::file(path, &known, default.terminator)?,
            (_, style) => {
                let style = style.unwrap_or(default).clone();
                Records::Journal { outcomes: Outcomes::new(file, &journal_path, known), style }
            }
        };
        Ok(Self { path: path.to_owned(), facts, records, record: Vec::new(), given: 0, last: 0 })
    }

    /// Goes on to the next record; its line, or `None` behind the last.
    pub fn advance(&mut self) -> Result<Option<u64>, Stop> {
        self.record.clear();
        let line = match &mut self.records {
            Records::Journal { outcomes, style } => match outcomes.next().transpose()? {
                Some(outcome) => {
                    outcome.render(style, &mut self.record);
                    Some(outcome.line)
                }
                None => None,
            },
            Records::File { file, terminator, lines } => {
                let read = file.read_until(*terminator, &mut self.record).map_err(Error::io("read", &self.path))?;
                if read == 0 { None } else { Some(lines.next().unwrap_or(0)) }
            }
        };
        self.check(line)?;
        Ok(line)
    }

    /// The record that [`Shard::advance`] came to, its terminator included.
    pub fn record(&self) -> &[u8] {
        &self.record
    }

    /// Nothing is missing, nothing is double, nothing is another's.
    fn check(&mut self, line: Option<u64>) -> Result<(), Stop> {
        let Facts { index, count, settled, .. } = self.facts;
        let is_wrong = match line {
            Some(line) => {
                self.given += 1;
                let wrong = line <= self.last || line % count != index % count || self.given > settled;
                self.last = line;
                wrong
            }
            None => self.given != settled,
        };
        if !is_wrong {
            return Ok(());
        }
        let message = format!(
            "{} gives {} records{}, and its journal knows of {settled} settled lines of shard {index}/{count}",
            shown(&self.path),
            self.given,
            line.map_or(String::new(), |line| format!(" up to line {line}"))
        );
        Err(Stop::new(Exit::Input, message).way_out("run the shard's own command again, and then merge"))
    }
}

impl Records {
    fn file(path: &Path, known: &Known, terminator: u8) -> Result<Self, Stop> {
        let result = known.closed.as_ref().and_then(|closed| closed.result.as_ref());
        let is_whole =
            result.map(|result| publish::is_still(path, result)).transpose().map_err(Error::io("read", path))?;
        if is_whole != Some(true) {
            return Err(Stop::new(Exit::Input, format!("{} is not as its own run has left it", shown(path)))
                .way_out("merge the shards' journals instead"));
        }
        let file = File::open(path).map_err(Error::io("read", path))?;
        let lines: Vec<u64> = known.places.iter().map(|(line, _)| line).collect();
        Ok(Self::File { file: BufReader::with_capacity(256 << 10, file), terminator, lines: lines.into_iter() })
    }
}

fn begins_as_journal(path: &Path) -> Result<bool, Stop> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let mut first = Vec::new();
    file.take(4096).read_to_end(&mut first).map_err(Error::io("read", path))?;
    Ok(matches!(frame::read(&first), frame::Found::Frame(payload, _) if payload.starts_with("{\"journal\":")))
}

fn facts(path: &Path, known: &Known) -> Result<Facts, Stop> {
    let unfinished = || {
        Stop::new(Exit::Input, format!("the run that wrote {} has not come to its end", shown(path)))
            .way_out("run its command again until it ends with 0 or 1, and then merge")
    };
    let closed = known.closed.as_ref().filter(|closed| closed.complete).ok_or_else(unfinished)?;
    let (Some(input_lines), Some(input_sha256)) = (closed.input_lines, closed.input_sha256.clone()) else {
        return Err(unfinished());
    };
    let shard = known.settings.as_ref().and_then(|settings| settings.shard);
    let (index, count) = shard.map_or((1, 1), |shard| (shard.index, shard.count));
    let settled = closed.answered + closed.failed;
    Ok(Facts { index, count, input_sha256, input_lines, settled, failed: closed.failed })
}
