//! `anvil-filter status`: how a daemon and its prompt files stand, from the files that it leaves, for whoever may read
//! them. Asks no service, reads no configuration, changes nothing.
//!
//! Invariant: whatever a status file says, what is printed cannot steer a terminal, and is JSON where that was asked for.

mod table;
mod watch;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{Out, print};
use crate::config::{StatusForm, StatusTask};
use crate::daemon::names::{Name, classify};
use crate::daemon::status::{self, FileCounts, OWN_FOLDER, SpoolStatus};
use crate::exit::{Exit, Stop};
use crate::line::escape::{self, shown};
use crate::report;

/// Runs the command: 0 when every daemon runs, 75 when one does not, 65 when a folder cannot be looked at.
pub fn run(task: &StatusTask) -> Result<Exit, Stop> {
    if task.watch {
        return watch::run(task);
    }
    let now = SystemTime::now();
    let sights = look_at_all(task, now);
    let exit = exit_of(&sights);
    let known = tell_unusable(sights);
    match task.form {
        StatusForm::Human => table::lines(&known).iter().try_for_each(|line| print(line))?,
        StatusForm::Json => print_json(&known)?,
    }
    Ok(exit)
}

/// A folder, and what was seen there.
struct Sight {
    spool: PathBuf,
    seen: Seen,
}

/// What can be seen of a daemon.
enum Seen {
    /// What it says of itself, how long ago, and whether it runs.
    Status { status: Box<SpoolStatus>, age: Option<Duration>, alive: bool },
    /// No daemon has been here, and there are so many prompt files.
    NeverRun { inputs: u64 },
    /// One has been here, and left no status.
    Silent { inputs: u64 },
    /// It cannot be found out, and why.
    Unusable(Stop),
}

impl Sight {
    fn exit(&self) -> Exit {
        match &self.seen {
            Seen::Status { alive: true, .. } => Exit::Answered,
            Seen::Status { .. } | Seen::NeverRun { .. } | Seen::Silent { .. } => Exit::Resumable,
            Seen::Unusable(stop) => stop.exit,
        }
    }
}

fn look_at_all(task: &StatusTask, now: SystemTime) -> Vec<Sight> {
    let sight = |spool: &PathBuf| Sight { spool: spool.clone(), seen: look(spool, now).unwrap_or_else(Seen::Unusable) };
    task.spools.iter().map(sight).collect()
}

/// Tells on stderr of the folders that cannot be looked at; the others are left.
fn tell_unusable(sights: Vec<Sight>) -> Vec<Sight> {
    let is_usable = |sight: &Sight| match &sight.seen {
        Seen::Unusable(stop) => {
            report::say(&format!("anvil-filter: {stop}"));
            false
        }
        _ => true,
    };
    sights.into_iter().filter(is_usable).collect()
}

/// The worst of all: a folder that is none counts more than a daemon that does not run.
fn exit_of(sights: &[Sight]) -> Exit {
    let exits: Vec<Exit> = sights.iter().map(Sight::exit).collect();
    [Exit::Input, Exit::Resumable].into_iter().find(|exit| exits.contains(exit)).unwrap_or(Exit::Answered)
}

fn look(spool: &Path, now: SystemTime) -> Result<Seen, Stop> {
    let inputs = || count_inputs(spool);
    match fs::symlink_metadata(spool.join(OWN_FOLDER)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Seen::NeverRun { inputs: inputs()? }),
        Err(error) => return Err(unusable(spool, &error)),
        Ok(_) => {}
    }
    let path = SpoolStatus::path_in(spool);
    match status::read::<SpoolStatus>(&path) {
        Ok(Some(status)) => {
            let (age, alive) = (status.age(now), status.is_alive(now));
            Ok(Seen::Status { status: Box::new(status), age, alive })
        }
        Ok(None) => Ok(Seen::Silent { inputs: inputs()? }),
        Err(error) => Err(Stop::new(Exit::Input, format!("read {}: {error}", shown(&path)))
            .way_out("a daemon that runs writes it again within a minute; see its log otherwise")),
    }
}

/// Prompt files in a folder, those in folders below left out.
fn count_inputs(spool: &Path) -> Result<u64, Stop> {
    let failed = |error| unusable(spool, &error);
    let mut inputs = 0;
    for entry in fs::read_dir(spool).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_input = matches!(classify(&entry.file_name()), Name::Input(_));
        inputs += u64::from(is_input && entry.file_type().is_ok_and(|kind| kind.is_file()));
    }
    Ok(inputs)
}

fn unusable(spool: &Path, error: &io::Error) -> Stop {
    Stop::new(Exit::Input, format!("look into {}: {error}", shown(spool)))
        .way_out("name the folder of a daemon after --spool, and see that you may enter it")
}

/// What a program is told of one folder: what the status file says, and whether it is still true.
#[derive(Serialize)]
struct Told<'a> {
    spool: String,
    alive: bool,
    heartbeat_age_seconds: Option<u64>,
    #[serde(flatten)]
    status: Option<&'a SpoolStatus>,
    /// Where no daemon has left a status: the prompt files that wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<FileCounts>,
}

fn print_json(sights: &[Sight]) -> Result<(), Stop> {
    let mut out = Out::open()?;
    for sight in sights {
        if let Some(told) = told(sight) {
            let text = serde_json::to_string(&told)
                .map_err(|error| Stop::new(Exit::Io, format!("write the status as JSON: {error}")))?;
            out.write(escape::json(&text).as_bytes())?;
            out.write(b"\n")?;
        }
    }
    out.finish()
}

fn told(sight: &Sight) -> Option<Told<'_>> {
    let spool = sight.spool.to_string_lossy().into_owned();
    let base = Told { spool, alive: false, heartbeat_age_seconds: None, status: None, files: None };
    match &sight.seen {
        Seen::Status { status, age, alive } => Some(Told {
            alive: *alive,
            heartbeat_age_seconds: age.map(|age| age.as_secs()),
            status: Some(status),
            ..base
        }),
        Seen::NeverRun { inputs } | Seen::Silent { inputs } => {
            Some(Told { files: Some(FileCounts { queued: *inputs, ..FileCounts::default() }), ..base })
        }
        Seen::Unusable(_) => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sight(seen: Seen) -> Sight {
        Sight { spool: "s".into(), seen }
    }

    #[test]
    fn the_worst_folder_decides() {
        let never = || sight(Seen::NeverRun { inputs: 0 });
        let none = || sight(Seen::Unusable(Stop::new(Exit::Input, "")));
        assert_eq!(exit_of(&[]), Exit::Answered);
        assert_eq!(exit_of(&[never()]), Exit::Resumable);
        assert_eq!(exit_of(&[never(), none(), never()]), Exit::Input);
    }

    #[test]
    fn only_prompt_files_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.jsonl", "b.txt", "c.out.jsonl", ".d.jsonl", "e.tmp"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir(folder.path().join("f.jsonl")).unwrap();
        let now = SystemTime::now();
        assert!(matches!(look(folder.path(), now), Ok(Seen::NeverRun { inputs: 2 })));
        fs::create_dir(folder.path().join(OWN_FOLDER)).unwrap();
        assert!(matches!(look(folder.path(), now), Ok(Seen::Silent { inputs: 2 })));
        fs::write(SpoolStatus::path_in(folder.path()), "{").unwrap();
        assert!(matches!(look(folder.path(), now), Err(Stop { exit: Exit::Input, way_out: Some(_), .. })));
        assert!(matches!(look(&folder.path().join("none"), now), Err(Stop { exit: Exit::Input, .. })));
    }
}
