//! What a journal says when it is read from its beginning. Pure.

use super::index::Index;
use super::note::{Closed, Copy, Note, Settings, VERSION};
use super::places::Places;
use super::publish::Fingerprint;
use super::record::{Head, Kind};
use super::spent::Past;

/// The sum of the records so far.
#[derive(Debug)]
pub struct Known {
    /// Where the record of each key begins.
    pub index: Index,
    /// Which record tells of each line.
    pub places: Places,
    /// The settings of the last run.
    pub settings: Option<Settings>,
    /// The result files that runs have published or were about to, the last one last.
    pub published: Vec<Fingerprint>,
    /// The last copy of the input, if no run has come to its end since; inside, `None` when it was about to be made.
    pub copy: Option<Option<Copy>>,
    /// How the last run ended, if nothing was recorded since.
    pub closed: Option<Closed>,
    /// Whether a run that began afresh has not come to its end.
    pub fresh_unfinished: bool,
    /// What earlier runs sent.
    pub past: Past,
    /// Line records whose outcome is an answer.
    pub answers: u64,
    /// Line records whose outcome is an error.
    pub failures: u64,
    /// All records.
    pub records: u64,
    retries_failed: bool,
}

impl Known {
    /// Nothing yet. With `retries_failed`, errors count as if they had not been recorded.
    pub fn new(retries_failed: bool) -> Self {
        Self {
            index: Index::default(),
            places: Places::new(1, 1),
            settings: None,
            published: Vec::new(),
            copy: None,
            closed: None,
            fresh_unfinished: false,
            past: Past::default(),
            answers: 0,
            failures: 0,
            records: 0,
            retries_failed,
        }
    }

    /// Takes the record at an offset. The error says why it cannot be understood.
    pub fn apply(&mut self, offset: u64, payload: &str) -> Result<(), String> {
        if self.records == 0 {
            check_header(payload)?;
        }
        self.records += 1;
        match Head::parse(payload) {
            Some(head) => {
                self.line(offset, &head);
                Ok(())
            }
            None => Note::parse(payload).map(|note| self.note(note)),
        }
    }

    fn line(&mut self, offset: u64, head: &Head) {
        self.closed = None;
        self.places.set(head.line, offset);
        match head.kind {
            Kind::Answer => {
                self.answers += 1;
                self.index.insert(&head.key, offset);
            }
            Kind::Failed(_) => {
                self.failures += 1;
                if !self.retries_failed {
                    self.index.insert(&head.key, offset);
                }
            }
            Kind::Placed => {}
        }
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Journal { .. } | Note::Owner { .. } => {}
            Note::Settings(settings) => {
                if let (None, Some(shard)) = (&self.settings, settings.shard) {
                    self.places = Places::new(shard.index, shard.count);
                }
                self.settings = Some(settings);
            }
            Note::Fresh {} => self.begin_afresh(),
            Note::Void { line, to } => {
                self.closed = None;
                self.places.clear(line, to.unwrap_or(line));
            }
            Note::Copy(copy) => self.copy = Some(copy),
            Note::Spent(spent) => self.past.push(spent),
            Note::Published(result) => self.published.push(result),
            Note::Closed(closed) => {
                self.fresh_unfinished &= !closed.complete;
                self.copy = self.copy.take().filter(|_| !closed.complete);
                self.closed = Some(closed);
            }
        }
    }

    /// Uses no record so far any more.
    pub fn begin_afresh(&mut self) {
        let shard = self.settings.as_ref().and_then(|settings| settings.shard);
        self.index = Index::default();
        self.places = shard.map_or(Places::new(1, 1), |shard| Places::new(shard.index, shard.count));
        (self.answers, self.failures, self.closed) = (0, 0, None);
        self.fresh_unfinished = true;
    }
}

fn check_header(payload: &str) -> Result<(), String> {
    match Note::parse(payload) {
        Ok(Note::Journal { version: VERSION, .. }) => Ok(()),
        Ok(Note::Journal { version, program }) => Err(format!(
            "it has version {version} of the format, written by {program}; this program knows version {VERSION}"
        )),
        _ => Err("it does not begin as a journal does".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::key::{Key, of_request};
    use super::super::note::Shard;
    use super::super::record::Line;
    use super::*;
    use crate::line::completion::Flags;
    use crate::line::{ErrorCode, Failure, Outcome};

    fn note(note: &Note) -> String {
        let mut record = Vec::new();
        note.push(&mut record);
        String::from_utf8(record).unwrap()
    }

    fn failed(line: u64, key: Key) -> String {
        let mut record = Vec::new();
        let outcome = Outcome { result: Err(Failure::new(ErrorCode::Timeout, "t")), attempts: 1, seconds: 0.0 };
        Line { line, key, form: None, correlation: None }.push_outcome(&mut record, None, Flags::default(), &outcome);
        String::from_utf8(record).unwrap()
    }

    fn known(retries_failed: bool, records: &[String]) -> Known {
        let mut known = Known::new(retries_failed);
        for (number, record) in records.iter().enumerate() {
            known.apply(number as u64 * 100, record).unwrap();
        }
        known
    }

    #[test]
    fn what_is_no_journal_or_too_new_is_said() {
        let new = "{\"journal\":{\"version\":9,\"program\":\"anvil-filter 9\"}}";
        for (payload, expected) in [(new, "version 9"), ("{\"fresh\":{}}", "does not begin")] {
            assert!(Known::new(false).apply(0, payload).unwrap_err().contains(expected));
        }
        let mut known = known(false, &[note(&Note::header())]);
        assert!(known.apply(100, "{\"later_invention\":{}}").is_err());
    }

    #[test]
    fn failures_are_settled_unless_they_are_to_be_asked_again() {
        let key = Key { hash: of_request(b"a"), nth: 0 };
        let records = [note(&Note::header()), failed(1, key)];
        assert_eq!(known(false, &records).index.get(&key), Some(100));
        assert_eq!(known(true, &records).index.get(&key), None);
        assert_eq!(known(true, &records).places.get(1), Some(100));
    }

    #[test]
    fn a_fresh_start_holds_until_a_run_has_come_to_its_end() {
        let key = Key { hash: of_request(b"a"), nth: 0 };
        let closed = |complete| {
            note(&Note::Closed(Closed {
                complete,
                input_lines: None,
                input_sha256: None,
                answered: 0,
                failed: 0,
                style: None,
                result: None,
            }))
        };
        let mut records = vec![note(&Note::header()), failed(1, key), note(&Note::Fresh {}), closed(false)];
        let begun = known(false, &records);
        assert!(begun.fresh_unfinished);
        assert_eq!((begun.index.get(&key), begun.places.get(1), begun.failures), (None, None, 0));
        records.push(closed(true));
        assert!(!known(false, &records).fresh_unfinished);
        assert!(known(false, &records).closed.is_some_and(|closed| closed.complete));
        records.push(failed(2, key));
        assert!(known(false, &records).closed.is_none(), "what is recorded later voids the end");
    }

    #[test]
    fn the_shard_of_the_first_settings_spaces_the_places() {
        let settings = Settings { shard: Some(Shard { index: 2, count: 4 }), ..Settings::default() };
        let key = Key { hash: of_request(b"a"), nth: 0 };
        let known = known(false, &[note(&Note::header()), note(&Note::Settings(settings)), failed(6, key)]);
        assert_eq!(known.places.iter().collect::<Vec<_>>(), [(6, 200)]);
    }
}
