//! What the spool's log says when it is read from its beginning: which jobs are open, which files are done. Pure.
//!
//! Invariant: about 200 bytes a file that is done, however large it was; what is not needed to tell whether a file is
//! to be run stays in the log, and is read there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::ffi::OsStrExt as _;

use super::log::{Claim, Done, End, Held, JobId, Note, Record, VERSION};
use super::names::{Name, classify};
use super::stamp::Stamp;
use crate::journal::{Head, Kind as Outcome};

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
        }
        Ok(())
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
        self.open.remove(&done.job);
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
