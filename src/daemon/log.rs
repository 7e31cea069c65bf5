//! The spool's log: what was taken, answered, published, given up, as records in the frames of a journal. Pure.
//!
//! Small prompt files live here altogether: their contents in the claim, their answers behind it, their end. Of large
//! ones it knows beginning and end; their answers stand in journals of their own.
//!
//! ```text
//! {"spool":{"version":1,"program":"…","generation":7}}        the first record
//! {"claim":{"job":17,"path":"a/p.jsonl","stamp":{…},"sha256":"…","kind":"lines",…,"held":{"here":"…contents…"}}}
//! {"job":17,"line":3,"key":"…",…}                              a line record (see `journal::record`) of job 17
//! {"done":{"job":17,"path":"a/p.jsonl",…,"result":{…}}}
//! ```
//!
//! The format is a contract: members may be added, none is renamed.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::names::Kind;
use super::plan::Plan;
use super::stamp::Stamp;
use crate::journal::lock::Holder;
use crate::journal::publish::Fingerprint;
use crate::journal::{Head, Settled, Spent};

/// The version of the format that is written here, and the only one that is read.
pub const VERSION: u32 = 1;

/// Names a job: one run of one prompt file. Numbers grow, and none is used twice in a spool.
pub type JobId = u64;

/// Everything that is no line record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// The first record.
    Spool {
        /// The version of the format.
        version: u32,
        /// Which program began it.
        program: String,
        /// The lease's generation.
        generation: u64,
        /// The next job's number.
        next_job: JobId,
    },
    /// Who writes this log, since when (RFC 3339).
    Owner {
        /// The process.
        holder: Holder,
        /// When it began.
        at: String,
    },
    /// A prompt file was taken.
    Claim(Claim),
    /// A job came to its end.
    Done(Done),
    /// To read a file ended the daemon, or panicked, so often in a row.
    Strike {
        /// The file.
        path: Bytes,
        /// Which version of it.
        stamp: Stamp,
        /// How often.
        count: u32,
    },
    /// Attempts that count against quotas.
    Spent {
        /// The owner whose key paid; nothing for the daemon's own.
        account: String,
        /// How many, and when.
        spent: Spent,
    },
}

/// A prompt file that was taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// The job.
    pub job: JobId,
    /// The file, seen from the spool's folder.
    pub path: Bytes,
    /// What it was when it was taken.
    pub stamp: Stamp,
    /// The SHA-256 of its contents, 64 hex digits.
    pub sha256: String,
    /// What it holds.
    pub kind: Kind,
    /// How it is run.
    pub plan: Plan,
    /// The job whose answers are used, when the file was run before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<JobId>,
    /// Whether its errors are asked again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retry_failed: bool,
    /// When, in seconds since 1970, as the daemon saw the time.
    #[serde(default)]
    pub at_seconds: u64,
    /// Where its contents are.
    pub held: Held,
}

/// Where the contents of a taken file are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    /// In this record.
    Here(Bytes),
    /// In the folder `.anvil/jobs/N`, with the journal of its answers.
    Folder(JobId),
}

/// A job that came to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// The job.
    pub job: JobId,
    /// The file, seen from the spool's folder.
    pub path: Bytes,
    /// What it was when it was taken.
    pub stamp: Stamp,
    /// The SHA-256 of its contents.
    pub sha256: String,
    /// How it ended.
    pub end: End,
    /// Its lines.
    pub lines: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// The result, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Fingerprint>,
    /// The name of the result.
    pub result_name: Bytes,
    /// The folder that holds contents and answers, when this log does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<JobId>,
    /// When, in seconds since 1970, as the daemon saw the time.
    pub at_seconds: u64,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Its result was published.
    Published,
    /// It is one prompt, and failed: there is no result.
    Failed,
    /// Its owner gave it up.
    Cancelled,
}

/// Bytes as JSON: a string when they are UTF-8, `{"base64":"…"}` when not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    /// A path as bytes.
    pub fn of_path(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().to_vec())
    }

    /// The path that these bytes are.
    pub fn path(&self) -> PathBuf {
        OsString::from_vec(self.0.clone()).into()
    }
}

#[derive(Serialize, Deserialize)]
struct Encoded {
    base64: String,
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Encoded { base64: STANDARD.encode(&self.0) }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Encoded(Encoded),
        }
        match Either::deserialize(deserializer)? {
            Either::Text(text) => Ok(Self(text.into_bytes())),
            Either::Encoded(Encoded { base64 }) => STANDARD.decode(base64).map(Self).map_err(serde::de::Error::custom),
        }
    }
}

impl Note {
    /// The first record of a new log.
    pub fn header(generation: u64, next_job: JobId) -> Self {
        let program = concat!("anvil-filter ", env!("CARGO_PKG_VERSION")).to_owned();
        Self::Spool { version: VERSION, program, generation, next_job }
    }

    /// Appends the note's payload.
    pub fn push(&self, record: &mut Vec<u8>) {
        serde_json::to_writer(record, self).expect("a note is plain data");
    }
}

/// Appends the record of a line of a job; `write` appends the line record, which begins with a brace.
pub fn push_line(record: &mut Vec<u8>, job: JobId, write: impl FnOnce(&mut Vec<u8>)) {
    record.extend_from_slice(format!("{{\"job\":{job},").as_bytes());
    let at = record.len();
    write(record);
    record.remove(at);
}

/// What a record says.
#[derive(Debug)]
pub enum Record {
    /// Of a line.
    Line(JobId, Head),
    /// Of anything else.
    Note(Box<Note>),
}

impl Record {
    /// Reads a record, of a line only its head. The error says what is wrong with it.
    pub fn parse(payload: &str) -> Result<Self, String> {
        match split_line(payload) {
            Some((job, line)) => {
                Head::parse(&line).map(|head| Self::Line(job, head)).ok_or("it is no record of a line".to_owned())
            }
            None => serde_json::from_str(payload).map(Self::Note).map_err(|error| error.to_string()),
        }
    }
}

/// The job of a line record.
pub fn job_of_line(payload: &str) -> Option<JobId> {
    let rest = payload.strip_prefix("{\"job\":")?;
    rest.split_once(',')?.0.parse().ok()
}

/// The job of a line record, and the record as a journal of its own would hold it.
pub fn split_line(payload: &str) -> Option<(JobId, String)> {
    let job = job_of_line(payload)?;
    let (_, rest) = payload.split_once(',')?;
    Some((job, format!("{{{rest}")))
}

/// Reads a whole line record.
pub fn parse_line(payload: &str) -> Result<(JobId, Settled), String> {
    let (job, line) = split_line(payload).ok_or("it is no record of a line")?;
    Ok((job, Settled::parse(&line)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::journal::key::of_request;
    use crate::journal::{Key, Line};
    use crate::line::completion::Flags;
    use crate::line::{ErrorCode, Failure, Outcome};
    use proptest::prelude::*;

    fn claim() -> Claim {
        let stamp = Stamp { inode: 7, bytes: 3, modified_ns: 5, changed_ns: 6, owner: 1000 };
        let plan = Plan {
            model: Some("m".to_owned()),
            system: None,
            params: vec![("seed".to_owned(), "1".to_owned())],
            format: Some(crate::line::Format::Raw),
            merge: None,
            whole: false,
            text: false,
            result_name: Bytes(b"p.out.jsonl".to_vec()),
        };
        Claim {
            job: 17,
            path: Bytes(b"a/p.jsonl".to_vec()),
            stamp,
            sha256: "aa".to_owned(),
            kind: Kind::Lines,
            plan,
            from: Some(3),
            retry_failed: false,
            at_seconds: 9,
            held: Held::Here(Bytes(b"\"x\"".to_vec())),
        }
    }

    #[test]
    fn notes_are_a_contract() {
        let mut record = Vec::new();
        let note = Note::Claim(claim());
        note.push(&mut record);
        let golden = concat!(
            r#"{"claim":{"job":17,"path":"a/p.jsonl","stamp":{"inode":7,"bytes":3,"modified_ns":5,"changed_ns":6,"#,
            r#""owner":1000},"sha256":"aa","kind":"lines","plan":{"model":"m","params":[["seed","1"]],"format":"raw","#,
            r#""whole":false,"text":false,"result_name":"p.out.jsonl"},"from":3,"at_seconds":9,"#,
            r#""held":{"here":"\"x\""}}}"#
        );
        assert_eq!(String::from_utf8(record).unwrap(), golden);
        assert!(matches!(Record::parse(golden).unwrap(), Record::Note(parsed) if *parsed == note));
        let strike = r#"{"strike":{"path":{"base64":"/w=="},"stamp":{"inode":7,"bytes":3,"modified_ns":5,"changed_ns":6,"owner":1000},"count":2}}"#;
        assert!(
            matches!(Record::parse(strike).unwrap(), Record::Note(note) if matches!(&*note, Note::Strike { path, count: 2, .. } if path.0 == b"\xff"))
        );
    }

    #[test]
    fn a_line_record_says_whose_it_is_and_is_otherwise_a_journals() {
        let key = Key { hash: of_request(b"a"), nth: 1 };
        let line = Line { line: 4, key, form: None, correlation: None };
        let outcome =
            Outcome { result: Err(Failure::new(ErrorCode::Timeout, "a \"b\", {c}")), attempts: 2, seconds: 0.5 };
        let (mut alone, mut owned) = (Vec::new(), Vec::new());
        line.push_outcome(&mut alone, Some("m"), Flags::default(), &outcome);
        push_line(&mut owned, 17, |record| line.push_outcome(record, Some("m"), Flags::default(), &outcome));
        let (alone, owned) = (String::from_utf8(alone).unwrap(), String::from_utf8(owned).unwrap());
        assert!(owned.starts_with(r#"{"job":17,"line":4,"#), "{owned}");
        assert_eq!(split_line(&owned), Some((17, alone)));
        assert!(matches!(Record::parse(&owned).unwrap(), Record::Line(17, head) if head.key == key && head.line == 4));
        assert_eq!(parse_line(&owned).unwrap().1.head.key, key);
        for strange in [r#"{"job":17,"note":1}"#, r#"{"job":-1,"line":4}"#, "{}", ""] {
            assert!(Record::parse(strange).is_err(), "{strange}");
        }
    }

    proptest! {
        #[test]
        fn bytes_come_back_as_they_were(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let text = serde_json::to_string(&Bytes(bytes.clone())).unwrap();
            prop_assert_eq!(serde_json::from_str::<Bytes>(&text).unwrap().0, bytes);
        }
    }
}
