//! How a submitted file has ended, as the files beside it say. Reads; changes nothing.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use serde_json::value::RawValue;

use crate::daemon::names::{Kind, reject_name, status_name};
use crate::daemon::stamp::Stamp;
use crate::daemon::status::{self, JobState, JobStatus, Reject};
use crate::exit::Exit;

/// How a file has ended: the status for it, and what to tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) exit: Exit,
    /// Empty when every line is answered.
    pub(super) message: String,
    pub(super) way_out: Option<String>,
}

impl Ending {
    fn new(exit: Exit, message: impl Into<String>, way_out: Option<String>) -> Ending {
        Ending { exit, message: message.into(), way_out }
    }
}

/// The files in which a daemon tells how a prompt file stands, as they were before it was submitted.
#[derive(Debug)]
pub(super) struct Companions {
    status: Companion,
    reject: Companion,
}

#[derive(Debug)]
struct Companion {
    path: PathBuf,
    before: Option<Stamp>,
}

impl Companions {
    /// Those of `name` in this folder, and how they are now.
    pub(super) fn beside(spool: &Path, name: &OsStr) -> Companions {
        let companion = |name| {
            let path = spool.join(name);
            Companion { before: stamp(&path), path }
        };
        Companions { status: companion(status_name(name)), reject: companion(reject_name(name)) }
    }

    /// What they say of the file that is there now; what an earlier one has left says nothing.
    ///
    /// A status that cannot be read says nothing either: it is advisory, and replaced soon.
    pub(super) fn ending(&self) -> Option<Ending> {
        if let Some(reject) = self.reject.read::<Reject>() {
            return Some(Ending::new(Exit::Input, format!("rejected: {}", reject.message), Some(reject.way_out)));
        }
        let job = self.status.read::<JobStatus>()?;
        let message = |what: &str| match &job.message {
            Some(message) => format!("{what}: {message}"),
            None => what.to_owned(),
        };
        match job.state {
            JobState::Failed => Some(Ending::new(Exit::SomeFailed, message("failed"), job.way_out.clone())),
            JobState::Blocked => Some(Ending::new(Exit::Usage, message("blocked"), job.way_out.clone())),
            JobState::Rejected => Some(Ending::new(Exit::Input, message("rejected"), job.way_out.clone())),
            JobState::Cancelled => Some(Ending::new(Exit::Resumable, message("cancelled"), job.way_out.clone())),
            JobState::Queued | JobState::Running | JobState::Stale => None,
        }
    }
}

impl Companion {
    fn read<T: serde::de::DeserializeOwned>(&self) -> Option<T> {
        let now = stamp(&self.path)?;
        if self.before == Some(now) { None } else { status::read(&self.path).ok().flatten() }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    fs::symlink_metadata(path).ok().map(|metadata| Stamp::of(&metadata))
}

/// How a file ended whose result is there.
///
/// Fails when the result cannot be read.
pub(super) fn of_result(result: &Path, kind: Kind) -> io::Result<Ending> {
    // The answer to one prompt is its text; had it failed, there would be none.
    let (failed, lines) = if kind == Kind::Text { (0, 1) } else { count(BufReader::new(File::open(result)?))? };
    Ok(match failed {
        0 => Ending::new(Exit::Answered, "", None),
        _ => Ending::new(Exit::SomeFailed, format!("{failed} of {lines} lines failed"), None),
    })
}

/// Lines that hold an error, and all lines.
fn count(mut lines: impl io::BufRead) -> io::Result<(u64, u64)> {
    let (mut failed, mut all, mut line) = (0, 0, Vec::new());
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line)? == 0 {
            return Ok((failed, all));
        }
        all += 1;
        failed += u64::from(is_failed(&line));
    }
}

/// Whether a line of any format holds an error of ours: an object with code and attempts, under `error` or, where the
/// answer was merged into the input, under its field's name and `_error`.
fn is_failed(line: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct OurError {
        #[serde(rename = "code")]
        _code: String,
        #[serde(rename = "attempts")]
        _attempts: u32,
    }
    let is_ours = |value: &RawValue| serde_json::from_str::<OurError>(value.get()).is_ok();
    match serde_json::from_slice::<std::collections::BTreeMap<String, &RawValue>>(line) {
        Ok(fields) => {
            fields.iter().any(|(name, value)| (name == "error" || name.ends_with("_error")) && is_ours(value))
        }
        Err(_) => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const OURS: &str = r#"{"code":"timeout","message":"m","status":null,"attempts":2}"#;

    #[test]
    fn errors_are_counted_in_every_format() {
        let lines = [
            format!(r#"{{"line":1,"content":null,"error":{OURS}}}"#),
            r#"{"line":2,"content":"x","error":null}"#.to_owned(),
            format!(r#"{{"id":"batch_req_3","custom_id":null,"response":null,"error":{OURS}}}"#),
            format!(r#"{{"prompt":"x","error":"the user's own","answer":null,"answer_error":{OURS}}}"#),
            r#"{"prompt":"x","error":{"code":"the user's own"},"answer":"y"}"#.to_owned(),
            format!(r#"{{"line":6,"content":"{{\"error\":1}}","nested":{{"error":{OURS}}},"error":null}}"#),
            "plain text".to_owned(),
        ];
        let failed: Vec<bool> = lines.iter().map(|line| is_failed(line.as_bytes())).collect();
        assert_eq!(failed, [true, false, true, true, false, false, false]);
        assert_eq!(count(lines.join("\n").as_bytes()).unwrap(), (3, 7));
        assert_eq!(count(&b""[..]).unwrap(), (0, 0));
    }

    #[test]
    fn a_result_tells_how_its_file_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.out.jsonl");
        fs::write(&path, format!("{{\"error\":{OURS}}}\n{{\"error\":null}}\n")).unwrap();
        let ending = of_result(&path, Kind::Lines).unwrap();
        assert_eq!((ending.exit, ending.message.as_str()), (Exit::SomeFailed, "1 of 2 lines failed"));
        assert_eq!(of_result(&path, Kind::Text).unwrap().exit, Exit::Answered);
        fs::write(&path, "").unwrap();
        assert_eq!(of_result(&path, Kind::Lines).unwrap().exit, Exit::Answered);
        of_result(&folder.path().join("none"), Kind::One).unwrap_err();
    }

    #[test]
    fn what_an_earlier_file_has_left_says_nothing_of_this_one() {
        let folder = tempfile::tempdir().unwrap();
        let name = OsStr::new("p.txt");
        let reject = Reject {
            path: "p.txt".into(),
            at: String::new(),
            code: "too_large".into(),
            message: "m".into(),
            way_out: "w".into(),
        };
        let path = folder.path().join("p.txt.reject.json");
        status::write(&path, &reject, 0o644).unwrap();
        let companions = Companions::beside(folder.path(), name);
        assert_eq!(companions.ending(), None);
        status::write(&path, &reject, 0o644).unwrap();
        let rejected = Ending::new(Exit::Input, "rejected: m", Some("w".into()));
        assert_eq!(companions.ending(), Some(rejected));
    }

    #[test]
    fn a_status_ends_the_wait_when_it_is_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let companions = Companions::beside(folder.path(), OsStr::new("p.txt"));
        let mut job: JobStatus = serde_json::from_str(
            r#"{"path":"p.txt","state":"queued","at":"","owner":0,"done":0,"total":1,"failed":0,"rate":0,"eta_seconds":null,"message":"m"}"#,
        )
        .unwrap();
        for (state, exit) in [
            (JobState::Queued, None),
            (JobState::Running, None),
            (JobState::Stale, None),
            (JobState::Failed, Some(Exit::SomeFailed)),
            (JobState::Blocked, Some(Exit::Usage)),
            (JobState::Rejected, Some(Exit::Input)),
            (JobState::Cancelled, Some(Exit::Resumable)),
        ] {
            job.state = state;
            status::write(&folder.path().join("p.txt.status.json"), &job, 0o644).unwrap();
            assert_eq!(companions.ending().map(|ending| ending.exit), exit, "{state:?}");
        }
    }
}
