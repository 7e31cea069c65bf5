//! One shard of a merge: what it is a part of, and its records one by one.
//!
//! What a shard is a part of stands in its journal, or for completions that came through a pipe in the summary of their
//! run, `NAME.meta.json` beside `NAME`. There the records must number their lines themselves.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use crate::config::{journal_beside, with_ending};
use crate::exit::{Exit, Stop};
use crate::journal::{self, Closed, Error, Known, Outcomes, frame, publish};
use crate::line::completion::Style;
use crate::line::escape::shown;
use crate::line::fields::Fields;

/// The name of the style of plain text, and what the names of styles end with whose records end with NUL.
const TEXT_STYLE: &str = "text";
const NUL_STYLE: &str = ", NUL";

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
    /// Taken as they stand in a file of completions, whose lines the journal numbers, or else they themselves.
    File { file: BufReader<File>, terminator: u8, lines: Option<std::vec::IntoIter<u64>> },
}

/// One shard.
pub struct Shard {
    /// What the user named.
    pub path: PathBuf,
    /// What it says of itself.
    pub facts: Facts,
    /// The name of the style of its records, as far as it is known.
    pub style: Option<String>,
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
            let facts = facts_of_meta(path)?;
            if style.is_some() {
                return Err(Stop::usage(format!("{} has no journal, so --format cannot change its form", shown(path)))
                    .way_out("leave --format out"));
            }
            return Ok(Self::new(path, facts, None, Records::file(path, default.terminator, None)?));
        }
        let (file, known, _) = journal::look(&journal_path)?;
        let facts = facts(path, &known)?;
        let as_it_stands =
            Some(&known).filter(|_| !is_journal && style.is_none()).and_then(|known| known.closed.as_ref());
        if let Some(closed) = as_it_stands {
            must_be_whole(path, closed)?;
            let name = closed.style.clone().unwrap_or_default();
            let terminator = if name.ends_with(NUL_STYLE) { 0 } else { b'\n' };
            if name == TEXT_STYLE {
                must_have_records(path, facts.settled)?;
            }
            let lines: Vec<u64> = known.places.iter().map(|(line, _)| line).collect();
            return Ok(Self::new(path, facts, Some(name), Records::file(path, terminator, Some(lines))?));
        }
        let style = style.unwrap_or(default).clone();
        let name = style.name();
        let records = Records::Journal { outcomes: Outcomes::new(file, &journal_path, known), style };
        Ok(Self::new(path, facts, Some(name), records))
    }

    fn new(path: &Path, facts: Facts, style: Option<String>, records: Records) -> Self {
        Self { path: path.to_owned(), facts, style, records, record: Vec::new(), given: 0, last: 0 }
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
                if read > 0 && !self.record.ends_with(&[*terminator]) {
                    // Another record may come behind what is the last one here.
                    self.record.push(*terminator);
                }
                match lines {
                    _ if read == 0 => None,
                    Some(lines) => Some(lines.next().unwrap_or(0)),
                    None => Some(line_of(&self.record).ok_or_else(|| unnumbered(&self.path))?),
                }
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
            "{} gives {} records{}, but its run has settled {settled} lines, of shard {index}/{count}",
            shown(&self.path),
            self.given,
            line.map_or(String::new(), |line| format!(" up to line {line}"))
        );
        Err(Stop::new(Exit::Input, message).way_out("run the shard's own command again, and then merge"))
    }
}

impl Records {
    fn file(path: &Path, terminator: u8, lines: Option<Vec<u64>>) -> Result<Self, Stop> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        let file = BufReader::with_capacity(256 << 10, file);
        Ok(Self::File { file, terminator, lines: lines.map(Vec::into_iter) })
    }
}

fn must_be_whole(path: &Path, closed: &Closed) -> Result<(), Stop> {
    let is_whole = closed.result.as_ref().map(|result| publish::is_still(path, result)).transpose();
    if is_whole.map_err(Error::io("read", path))? == Some(true) {
        return Ok(());
    }
    Err(Stop::new(Exit::Input, format!("{} is not as its own run has left it", shown(path)))
        .way_out("merge the shards' journals instead"))
}

/// A text that has line breaks in it is not one record a line.
fn must_have_records(path: &Path, records: u64) -> Result<(), Stop> {
    let mut file = BufReader::with_capacity(256 << 10, journal::open_to_read(path)?);
    let mut ends = 0;
    loop {
        let block = file.fill_buf().map_err(Error::io("read", path))?;
        if block.is_empty() {
            break;
        }
        ends += memchr::memchr_iter(b'\n', block).count() as u64;
        let length = block.len();
        file.consume(length);
    }
    if ends == records {
        return Ok(());
    }
    Err(Stop::new(Exit::Input, format!("{} has answers with line breaks, which cannot be told apart", shown(path)))
        .way_out("name the journals and give --format text, with -0 to keep the answers apart"))
}

/// The number that a completion line has of its line: its `line`, or what its `id` as a batch result says.
fn line_of(record: &[u8]) -> Option<u64> {
    let fields = Fields::parse(std::str::from_utf8(record).ok()?.trim_ascii()).ok()?;
    match fields.get("line") {
        Some(line) => line.parse().ok(),
        None => fields.get("id")?.strip_prefix("\"batch_req_")?.strip_suffix('"')?.parse().ok(),
    }
}

fn unnumbered(path: &Path) -> Stop {
    Stop::new(Exit::Input, format!("the records of {} do not number their lines", shown(path)))
        .way_out("run the shard again with --output or --journal, and merge that")
}

/// What the summary of a run says of it.
fn facts_of_meta(path: &Path) -> Result<Facts, Stop> {
    let meta_path = with_ending(path, ".meta.json");
    let missing = || {
        let message = format!(
            "{} is no journal, and beside it there is neither {} nor {} that says what it is a part of",
            shown(path),
            shown(&journal_beside(path)),
            shown(&meta_path)
        );
        Stop::new(Exit::Input, message)
            .way_out("name files that --output has written, with their journals beside them, or the journals")
    };
    let text = match std::fs::read(&meta_path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
        Err(error) => return Err(Error::io("read", &meta_path)(error).into()),
    };
    let meta: Meta = serde_json::from_slice(&text)
        .map_err(|error| Stop::new(Exit::Input, format!("{} is no summary of a run: {error}", shown(&meta_path))))?;
    let (index, count) = meta.input.shard.map_or((1, 1), |shard| (shard.index, shard.count));
    match (meta.input.lines, meta.input.sha256) {
        (Some(input_lines), Some(input_sha256))
            if matches!(meta.exit_status, 0 | 1) && meta.not_settled == 0 && meta.pilot.is_none() =>
        {
            Ok(Facts { index, count, input_sha256, input_lines, settled: meta.settled, failed: meta.failed })
        }
        _ => Err(unfinished(path)),
    }
}

/// The part of a summary that says what a run was about.
#[derive(serde::Deserialize)]
struct Meta {
    exit_status: u8,
    input: MetaInput,
    settled: u64,
    failed: u64,
    not_settled: u64,
    /// There when only some of its lines were tried.
    pilot: Option<serde::de::IgnoredAny>,
}

#[derive(serde::Deserialize)]
struct MetaInput {
    lines: Option<u64>,
    sha256: Option<String>,
    shard: Option<journal::Shard>,
}

fn begins_as_journal(path: &Path) -> Result<bool, Stop> {
    let file = journal::open_to_read(path)?;
    let mut first = Vec::new();
    file.take(4096).read_to_end(&mut first).map_err(Error::io("read", path))?;
    Ok(matches!(frame::read(&first), frame::Found::Frame(payload, _) if payload.starts_with("{\"journal\":")))
}

fn facts(path: &Path, known: &Known) -> Result<Facts, Stop> {
    let closed = known.closed.as_ref().filter(|closed| closed.complete).ok_or_else(|| unfinished(path))?;
    let (Some(input_lines), Some(input_sha256)) = (closed.input_lines, closed.input_sha256.clone()) else {
        return Err(unfinished(path));
    };
    let shard = known.settings.as_ref().and_then(|settings| settings.shard);
    let (index, count) = shard.map_or((1, 1), |shard| (shard.index, shard.count));
    let settled = closed.answered + closed.failed;
    Ok(Facts { index, count, input_sha256, input_lines, settled, failed: closed.failed })
}

fn unfinished(path: &Path) -> Stop {
    Stop::new(Exit::Input, format!("the run that wrote {} has not come to its end", shown(path)))
        .way_out("run its command again until it ends with 0 or 1, and then merge")
}
