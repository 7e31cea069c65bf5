//! What the spool's log says when it is read from its beginning: which jobs are open, which files are done. Pure.
//!
//! Invariant: about 200 bytes a file that is done, however large it was; what is not needed to tell whether a file is
//! to be run stays in the log, and is read there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::ffi::OsStrExt as _;

use super::log::{Claim, Done, End, Held, JobId, Note, Record, VERSION};
use super::names::{Name, classify};
use super::stamp::Stamp;
use crate::journal::{Head, Kind as Outcome, Past, Spent};

/// The sum of a log.
#[derive(Debug, Default)]
pub struct History {
    /// The lease's generation that the log belongs to.
    pub generation: u64,
    /// The next job's number.
    pub next_job: JobId,
    /// Jobs that have begun and not ended.
    pub open: BTreeMap<JobId, Open>,
    /// Files by their paths, as they ended last.
    pub done: HashMap<Box<[u8]>, Ended>,
    /// Files whose reading ended the daemon: which version of them, and how often.
    pub strikes: HashMap<Box<[u8]>, (Stamp, u32)>,
    /// What each account sent.
    pub past: HashMap<String, Past>,
    /// Results whose names would make them inputs.
    pub own_results: HashSet<Box<[u8]>>,
    records: u64,
}

/// A job that has begun and not ended.
#[derive(Debug)]
pub struct Open {
    /// Its claim, without the contents.
    pub claim: Claim,
    /// Where the claim begins in the log.
    pub claim_at: u64,
    /// Its answers: where the record of each line begins, and whether it tells an error.
    pub answers: HashMap<u64, (u64, bool)>,
}

/// A file as it ended last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The job.
    pub job: JobId,
    /// What the file was.
    pub stamp: Stamp,
    /// How it ended.
    pub end: End,
    /// Whether lines of it failed.
    pub has_failures: bool,
    /// Where the record begins in the log.
    pub done_at: u64,
    /// The folder that holds its contents and answers, if this log does not.
    pub folder: Option<JobId>,
    /// When, in seconds since 1970.
    pub at_seconds: u64,
}

impl History {
    /// Takes the record at an offset. The error says why it cannot be understood.
    pub fn apply(&mut self, offset: u64, payload: &str) -> Result<(), String> {
        let record = Record::parse(payload)?;
        self.records += 1;
        match record {
            Record::Note(note) => self.note(offset, *note),
            Record::Line(..) if self.records == 1 => Err(no_log()),
            Record::Line(job, head) => {
                self.line(offset, job, &head);
                Ok(())
            }
        }
    }

    fn note(&mut self, offset: u64, note: Note) -> Result<(), String> {
        match note {
            Note::Spool { version: VERSION, generation, next_job, .. } => {
                self.generation = generation;
                self.next_job = next_job.max(self.next_job);
            }
            Note::Spool { version, program, .. } => {
                return Err(format!(
                    "it has version {version} of the format, written by {program}; this program knows version {VERSION}"
                ));
            }
            _ if self.records == 1 => return Err(no_log()),
            Note::Owner { .. } => {}
            Note::Claim(claim) => self.claim(offset, claim),
            Note::Done(done) => self.done(offset, &done),
            Note::Strike { path, stamp, count } => {
                self.strikes.insert(path.0.into(), (stamp, count));
            }
            Note::Spent { account, spent } => self.past.entry(account).or_default().push(spent),
        }
        Ok(())
    }

    /// The records of what was sent.
    pub fn spent(&self) -> impl Iterator<Item = Note> {
        self.past.iter().flat_map(|(account, past)| {
            let note = |spent: &Spent| Note::Spent { account: account.clone(), spent: spent.clone() };
            past.stretches().iter().map(note)
        })
    }

    /// Takes a claim.
    pub fn claim(&mut self, claim_at: u64, mut claim: Claim) {
        self.next_job = self.next_job.max(claim.job + 1);
        if let Held::Here(contents) = &mut claim.held {
            contents.0 = Vec::new();
        }
        // Two claims of one file: the later one goes on from the earlier.
        self.open.retain(|_, open| open.claim.path != claim.path);
        self.open.insert(claim.job, Open { claim, claim_at, answers: HashMap::new() });
    }

    fn line(&mut self, offset: u64, job: JobId, head: &Head) {
        if let Some(open) = self.open.get_mut(&job) {
            open.answers.insert(head.line, (offset, matches!(head.kind, Outcome::Failed(_))));
        }
    }

    /// Takes the end of a job.
    pub fn done(&mut self, done_at: u64, done: &Done) {
        self.next_job = self.next_job.max(done.job + 1);
        // Whatever was begun for the file before has ended by this, too.
        self.open.retain(|_, open| open.claim.path != done.path);
        let result = done.path.path().with_file_name(done.result_name.path());
        if result.file_name().is_some_and(|name| classify(name) != Name::Ignored) {
            self.own_results.insert(result.as_os_str().as_bytes().into());
        }
        let ended = Ended {
            job: done.job,
            stamp: done.stamp,
            end: done.end,
            has_failures: done.failed > 0,
            done_at,
            folder: done.folder,
            at_seconds: done.at_seconds,
        };
        self.done.insert(done.path.0.clone().into(), ended);
    }
}

fn no_log() -> String {
    "it does not begin as the log of a spool does".to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::log::{Bytes, push_line};
    use super::super::names::Kind;
    use super::super::plan::{Plan, Wishes};
    use super::*;
    use crate::journal::key::of_request;
    use crate::journal::{Key, Line};
    use crate::line::completion::Flags;
    use crate::line::{ErrorCode, Failure, Outcome};

    const STAMP: Stamp = Stamp { inode: 1, bytes: 2, modified_ns: 3, changed_ns: 4, owner: 5 };

    fn note(note: &Note) -> String {
        let mut record = Vec::new();
        note.push(&mut record);
        String::from_utf8(record).unwrap()
    }

    fn claim(job: JobId, path: &str, from: Option<JobId>) -> String {
        let plan = Plan::new(Kind::Lines, Wishes::default(), Bytes(b"p.answers.jsonl".to_vec()));
        note(&Note::Claim(Claim {
            job,
            path: Bytes(path.into()),
            stamp: STAMP,
            sha256: String::new(),
            kind: Kind::Lines,
            plan,
            from,
            retry_failed: false,
            at_seconds: 0,
            held: Held::Here(Bytes(b"contents".to_vec())),
        }))
    }

    fn failed(job: JobId, line: u64) -> String {
        let mut record = Vec::new();
        let key = Key { hash: of_request(b"a"), nth: 0 };
        let outcome = Outcome { result: Err(Failure::new(ErrorCode::Timeout, "t")), attempts: 1, seconds: 0.0 };
        let line = Line { line, key, form: None, correlation: None };
        push_line(&mut record, job, |record| line.push_outcome(record, None, Flags::default(), &outcome));
        String::from_utf8(record).unwrap()
    }

    fn done(job: JobId, path: &str, end: End) -> String {
        note(&Note::Done(Done {
            job,
            path: Bytes(path.into()),
            stamp: STAMP,
            sha256: String::new(),
            end,
            lines: 2,
            failed: 1,
            result: None,
            result_name: Bytes(b"p.answers.jsonl".to_vec()),
            folder: None,
            at_seconds: 0,
        }))
    }

    fn history(records: &[String]) -> Result<History, String> {
        let mut history = History::default();
        for (offset, record) in records.iter().enumerate() {
            history.apply(offset as u64 * 100, record)?;
        }
        Ok(history)
    }

    #[test]
    fn a_job_is_open_from_its_claim_to_its_end() {
        let mut records = vec![note(&Note::header(3, 5)), claim(7, "p.jsonl", None), failed(7, 1), failed(9, 1)];
        let open = history(&records).unwrap();
        assert_eq!((open.generation, open.next_job, open.open.len()), (3, 8, 1));
        assert_eq!(open.open[&7].answers, HashMap::from([(1, (200, true))]));
        assert_eq!(open.open[&7].claim.held, Held::Here(Bytes(Vec::new())), "contents stay in the log");
        records.push(done(7, "p.jsonl", End::Published));
        let ended = history(&records).unwrap();
        assert!(ended.open.is_empty());
        let end = ended.done[b"p.jsonl".as_slice()];
        assert_eq!((end.job, end.has_failures, end.done_at), (7, true, 400));
        assert!(ended.own_results.contains(b"p.answers.jsonl".as_slice()), "its result looks like an input");
    }

    #[test]
    fn a_later_claim_of_a_file_takes_the_place_of_the_earlier() {
        let records = [
            note(&Note::header(1, 1)),
            claim(1, "p.jsonl", None),
            claim(2, "q.jsonl", None),
            claim(3, "p.jsonl", Some(1)),
        ];
        let history = history(&records).unwrap();
        assert_eq!(history.open.keys().copied().collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn what_does_not_begin_as_a_log_is_none() {
        let other = note(&Note::header(1, 1)).replace("\"version\":1", "\"version\":2");
        for first in [claim(1, "p.jsonl", None), failed(1, 1), other, "{\"journal\":{}}".to_owned()] {
            assert!(history(&[first]).is_err());
        }
    }
}
