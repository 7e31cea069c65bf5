//! Reading records of the spool's log back: the contents of a claim, the answers of a job, how a file ended.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::log::{Claim, Done, JobId, Note, Record, job_of_line, parse_line, split_line};
use crate::journal::scan::{Interrupted, Reader, scan};
use crate::journal::{self, Error, Head, Kind, Settled, open_to_read};

/// Reads single records of a log.
#[derive(Debug)]
pub struct Answers {
    reader: Reader,
    path: PathBuf,
}

impl Answers {
    /// Reads records of this log.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self { reader: Reader::new(open_to_read(path)?), path: path.to_owned() })
    }

    /// The outcome of a line, which must be of this job and answer this key.
    pub fn outcome(&mut self, offset: u64, job: JobId, key: &journal::Key) -> Result<Settled, Error> {
        let parsed = self.payload(offset).map(parse_line)?;
        let (owner, settled) = parsed.map_err(|reason| self.strange(offset, &reason))?;
        if owner != job || settled.head.key != *key || settled.outcome.is_none() {
            return Err(self.strange(offset, "it answers another request"));
        }
        Ok(settled)
    }

    /// The claim that begins here.
    pub fn claim(&mut self, offset: u64) -> Result<Claim, Error> {
        match self.note(offset)? {
            Note::Claim(claim) => Ok(claim),
            _ => Err(self.strange(offset, "it is no claim")),
        }
    }

    /// The end of a job that begins here.
    pub fn done(&mut self, offset: u64) -> Result<Done, Error> {
        match self.note(offset)? {
            Note::Done(done) => Ok(done),
            _ => Err(self.strange(offset, "it is no end of a job")),
        }
    }

    fn note(&mut self, offset: u64) -> Result<Note, Error> {
        match self.payload(offset).map(Record::parse)? {
            Ok(Record::Note(note)) => Ok(*note),
            Ok(Record::Line(..)) => Err(self.strange(offset, "it is the record of a line")),
            Err(reason) => Err(self.strange(offset, &reason)),
        }
    }

    fn payload(&mut self, offset: u64) -> Result<&str, Error> {
        let path = &self.path;
        self.reader.read(offset).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => Error::NoJournal { path: path.clone(), reason: error.to_string() },
            _ => Error::io("read", path)(error),
        })
    }

    fn strange(&self, offset: u64, reason: &str) -> Error {
        Error::not_understood(&self.path, offset, reason)
    }
}

/// The line records of a job by what they answer, as a journal of its own would hold them; errors are left out when
/// they are to be asked again.
pub fn of_job(path: &Path, job: JobId, retry_failed: bool) -> Result<HashMap<journal::Key, String>, Error> {
    let file: File = open_to_read(path)?;
    let mut answers = HashMap::new();
    let scanned = scan(&file, 0, |_, payload| {
        if job_of_line(payload) == Some(job)
            && let Some((_, line)) = split_line(payload)
            && let Some(head) = Head::parse(&line)
            && !(retry_failed && matches!(head.kind, Kind::Failed(_)))
        {
            answers.insert(head.key, line);
        }
        Ok::<(), std::convert::Infallible>(())
    });
    match scanned {
        Ok(_) => Ok(answers),
        Err(Interrupted::Read(source)) => Err(Error::io("read", path)(source)),
        Err(Interrupted::Visitor(never)) => match never {},
    }
}
