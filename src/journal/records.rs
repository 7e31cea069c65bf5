//! Single records of lines, read back and made sure of.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::key::Key;
use super::record::Settled;
use super::scan::Reader;
use crate::line::Outcome;

/// Reads records of lines.
#[derive(Debug)]
pub struct Records {
    reader: Reader,
    path: PathBuf,
}

impl Records {
    /// Reads records of this journal.
    pub fn new(file: File, path: &Path) -> Self {
        Self { reader: Reader::new(file), path: path.to_owned() }
    }

    /// The line record at an offset.
    pub fn settled(&mut self, offset: u64) -> Result<Settled, Error> {
        let payload = match self.reader.read(offset) {
            Ok(payload) => payload,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(self.changed(error.to_string())),
            Err(error) => return Err(Error::io("read", &self.path)(error)),
        };
        Settled::parse(payload).map_err(|reason| self.changed(format!("the record at byte {offset}: {reason}")))
    }

    /// The outcome at an offset, which must be that of this key: the index knows only a part of it.
    pub fn outcome(&mut self, offset: u64, key: &Key) -> Result<(Settled, Outcome), Error> {
        let mut settled = self.settled(offset)?;
        match settled.outcome.take() {
            Some(outcome) if settled.head.key == *key => Ok((settled, outcome)),
            _ => Err(self.changed(format!("the record at byte {offset} answers another request"))),
        }
    }

    /// A record points to an answer that is not there.
    pub(super) fn unanswered(&self, offset: u64) -> Error {
        self.changed(format!("the record at byte {offset} points to an answer that is not there"))
    }

    fn changed(&self, reason: String) -> Error {
        Error::NoJournal { path: self.path.clone(), reason }
    }
}
