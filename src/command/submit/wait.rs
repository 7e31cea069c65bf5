//! `submit --wait`: looks again and again until every file has ended, or nobody is there to run it.
//!
//! Polls, since whoever writes the results may be on another node; a look costs a few stats.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::Entry;
use super::ending::{self, Ending};
use crate::config::{SubmitTask, Verbosity};
use crate::daemon::status::{self, ALIVE_WITHIN, SpoolStatus};
use crate::exit::{Exit, Stop};
use crate::line::escape::shown;
use crate::report;

/// Between the first two looks; the pauses grow from there.
const LOOK_AFTER_MIN: Duration = Duration::from_millis(100);
const LOOK_AFTER_MAX: Duration = Duration::from_secs(1);
/// A prompt file that is gone for so long, without a result, does not come back: a daemon may move both away, one after
/// the other.
const GONE_AFTER: Duration = Duration::from_secs(3);

/// Waits for all of them, and gives the worst of their ends.
pub(super) fn run(task: &SubmitTask, entries: Vec<Entry>) -> Result<Exit, Stop> {
    let failed = |error| Stop::new(Exit::Io, format!("start the runtime: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(wait(task, entries))
}

async fn wait(task: &SubmitTask, entries: Vec<Entry>) -> Result<Exit, Stop> {
    let listen = |kind| signal(kind).map_err(|error| Stop::new(Exit::Io, format!("listen for signals: {error}")));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let mut waiting: Vec<Waiting> = entries.into_iter().map(Waiting::new).collect();
    let (mut exits, mut heartbeat) = (Vec::new(), Heartbeat::new(Instant::now()));
    let mut pause = LOOK_AFTER_MIN;
    loop {
        let daemon = status::read::<SpoolStatus>(&SpoolStatus::path_in(&task.spool)).ok().flatten();
        let (now, before) = (Instant::now(), waiting.len());
        let archive = daemon.as_ref().and_then(|daemon| daemon.archive.as_deref()).map(Path::new);
        let mut left = Vec::new();
        for mut entry in waiting {
            match entry.look(archive, now)? {
                Some(ending) => exits.push(tell(&entry.entry, ending, task.verbosity)),
                None => left.push(entry),
            }
        }
        waiting = left;
        let Some(first) = waiting.first() else { return Ok(worst(&exits)) };
        if heartbeat.is_lost(daemon.as_ref(), now) {
            return Err(nobody(task, &first.entry));
        }
        pause = if waiting.len() < before { LOOK_AFTER_MIN } else { (pause * 2).min(LOOK_AFTER_MAX) };
        tokio::select! {
            _ = interrupt.recv() => return Ok(told_of_stop(&waiting, task.verbosity, Exit::Interrupted)),
            _ = terminate.recv() => return Ok(told_of_stop(&waiting, task.verbosity, Exit::Terminated)),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// A file that has not ended yet.
struct Waiting {
    entry: Entry,
    gone_since: Option<Instant>,
}

impl Waiting {
    fn new(entry: Entry) -> Waiting {
        Waiting { entry, gone_since: None }
    }

    /// How it has ended, when it has.
    fn look(&mut self, archive: Option<&Path>, now: Instant) -> Result<Option<Ending>, Stop> {
        if let Some(result) = self.result(archive) {
            let failed = |error| Stop::new(Exit::Io, format!("read {}: {error}", shown(&result)));
            let ending = ending::of_result(&result, self.entry.kind).map_err(failed)?;
            // Not every form has a place for errors.
            let by_status = self.entry.left.ending().filter(|by_status| by_status.exit == Exit::SomeFailed);
            return Ok(Some(by_status.filter(|_| ending.exit == Exit::Answered).unwrap_or(ending)));
        }
        if let Some(ending) = self.entry.left.ending() {
            return Ok(Some(ending));
        }
        if fs::symlink_metadata(&self.entry.target).is_ok() {
            self.gone_since = None;
            return Ok(None);
        }
        let gone_since = *self.gone_since.get_or_insert(now);
        Ok((now.duration_since(gone_since) >= GONE_AFTER).then(|| Ending {
            exit: Exit::Resumable,
            message: "it was taken away, and no result is there".to_owned(),
            way_out: Some("submit it again, unless somebody gave it up or moved it with its result".to_owned()),
        }))
    }

    /// The result where it belongs, or where finished files are moved.
    fn result(&self, archive: Option<&Path>) -> Option<PathBuf> {
        let moved = archive.zip(self.entry.result.file_name()).map(|(archive, name)| archive.join(name));
        let is_file = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
        // What lies in the archive under this name while the file still waits is another's.
        let moved = moved.filter(|_| fs::symlink_metadata(&self.entry.target).is_err());
        [Some(self.entry.result.clone()), moved].into_iter().flatten().find(is_file)
    }
}

/// Whether the daemon was heard lately, by our own clock: that of another node may be wrong.
struct Heartbeat {
    last: Option<String>,
    heard: Instant,
}

impl Heartbeat {
    fn new(now: Instant) -> Heartbeat {
        Heartbeat { last: None, heard: now }
    }

    /// Whether nothing new was heard for so long that nobody is there.
    fn is_lost(&mut self, status: Option<&SpoolStatus>, now: Instant) -> bool {
        let at = status.map(|status| status.at.as_str());
        if self.last.as_deref() != at {
            (self.last, self.heard) = (at.map(str::to_owned), now);
        }
        now.duration_since(self.heard) > ALIVE_WITHIN
    }
}

fn tell(entry: &Entry, ending: Ending, verbosity: Verbosity) -> Exit {
    if !ending.message.is_empty() && verbosity > Verbosity::Quiet {
        let way_out = ending.way_out.map(|way_out| format!("\n{way_out}")).unwrap_or_default();
        report::say(&format!("anvil-filter: {}: {}{way_out}", shown(&entry.target), ending.message));
    }
    ending.exit
}

/// What all of them come to: a file that was not run counts more than a line that failed.
fn worst(exits: &[Exit]) -> Exit {
    let order = [Exit::Input, Exit::Usage, Exit::Resumable, Exit::SomeFailed];
    order.into_iter().find(|exit| exits.contains(exit)).unwrap_or(Exit::Answered)
}

fn nobody(task: &SubmitTask, first: &Entry) -> Stop {
    let (spool, target) = (shown(&task.spool), shown(&first.target));
    Stop::new(Exit::Resumable, format!("no daemon was heard on {spool} for two minutes: {target} is not run"))
        .way_out("it stays there, and the next daemon runs it: anvil-filter daemon --spool DIR")
}

fn told_of_stop(waiting: &[Waiting], verbosity: Verbosity, exit: Exit) -> Exit {
    if verbosity > Verbosity::Quiet {
        let what = if waiting.len() == 1 { "file is" } else { "files are" };
        report::say(&format!(
            "anvil-filter: no longer waiting: {} {what} still in the folder, and the daemon goes on with what is there",
            waiting.len()
        ));
    }
    exit
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ffi::OsStr;

    use super::*;
    use crate::config::InputFile;
    use crate::daemon::names::Kind;

    #[test]
    fn the_worst_end_decides() {
        assert_eq!(worst(&[]), Exit::Answered);
        assert_eq!(worst(&[Exit::Answered, Exit::SomeFailed]), Exit::SomeFailed);
        assert_eq!(worst(&[Exit::SomeFailed, Exit::Resumable, Exit::Answered]), Exit::Resumable);
        assert_eq!(worst(&[Exit::Resumable, Exit::Input, Exit::Usage]), Exit::Input);
    }

    #[test]
    fn a_daemon_that_says_nothing_new_for_two_minutes_is_not_there() {
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        let status = |at: &str| -> SpoolStatus {
            let text = include_str!("../../../tests/common/spool_status.json");
            let mut status: SpoolStatus = serde_json::from_str(text).unwrap();
            status.at = at.to_owned();
            status
        };
        let mut heartbeat = Heartbeat::new(began);
        assert!(!heartbeat.is_lost(None, after(120)) && heartbeat.is_lost(None, after(121)));
        assert!(!heartbeat.is_lost(Some(&status("a")), after(200)));
        assert!(
            !heartbeat.is_lost(Some(&status("a")), after(320)) && heartbeat.is_lost(Some(&status("a")), after(321))
        );
        assert!(!heartbeat.is_lost(Some(&status("b")), after(322)));
    }

    #[test]
    fn a_file_ends_by_its_result_wherever_that_is_or_when_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let archive = at("archive");
        fs::create_dir(&archive).unwrap();
        fs::write(at("p.jsonl"), "").unwrap();
        fs::write(archive.join("p.out.jsonl"), "").unwrap();
        let mut waiting = Waiting::new(Entry {
            source: InputFile::Stdin,
            kind: Kind::Lines,
            name: "p.jsonl".into(),
            target: at("p.jsonl"),
            result: at("p.out.jsonl"),
            left: ending::Companions::beside(folder.path(), OsStr::new("p.jsonl")),
        });
        let now = Instant::now();
        assert_eq!(waiting.look(Some(&archive), now).unwrap(), None);
        fs::write(at("p.out.jsonl"), "").unwrap();
        assert_eq!(waiting.look(None, now).unwrap().unwrap().exit, Exit::Answered);
        fs::remove_file(at("p.out.jsonl")).unwrap();
        fs::remove_file(at("p.jsonl")).unwrap();
        assert_eq!(waiting.look(Some(&archive), now).unwrap().unwrap().exit, Exit::Answered);
        assert_eq!(waiting.look(None, now).unwrap(), None);
        assert_eq!(waiting.look(None, now + GONE_AFTER).unwrap().unwrap().exit, Exit::Resumable);
    }
}
