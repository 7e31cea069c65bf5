//! The service's own folder, `.anvil`: its lease, its log, the folders of large jobs. Runs on the log's thread.
//!
//! ```text
//! .anvil/              0711, owned by the daemon's user
//!   status.json        0644, for everyone
//!   lease              who has the spool (a lock as beside journals)
//!   log.G              0600, the log of the lease's generation G; begun whole, with what is still needed of older ones
//!   jobs/N/            0700: input, journal, journal.lock of a large job
//! ```
//!
//! Invariants: only who holds the lease writes here; every holder writes a log of its own, so that one who was stopped
//! for long, and has lost the lease, can do no harm to what its successor reads; an old log is removed only when the new
//! one, with all that is needed of it, is durable.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::history::{Ended, History, Open};
use super::log::{Held, JobId, Note, Record, job_of_line};
use super::snapshot::COPY_NAME;
use crate::exit::{Exit, Stop};
use crate::journal::lock::{Holder, Lock};
use crate::journal::publish::{self, Draft, remove_leftovers, sync_folder};
use crate::journal::scan::{Interrupted, scan};
use crate::journal::{Error, Keeper, frame, open_to_read};
use crate::line::escape::shown;

/// The service's own folder in a spool.
pub const FOLDER: &str = ".anvil";

/// How often this process has opened a spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// Not yet.
    First,
    /// Before: where there is no folder of ours now, something else has the name, as when the spool was unmounted.
    Again,
}

/// The paths in a spool's own folder.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

/// What is found when a log is opened.
#[derive(Debug)]
pub struct Found {
    /// What it says.
    pub history: History,
    /// Bytes of unfinished records at the ends of older logs; nobody was told of them.
    pub torn_bytes: u64,
    /// Which process holds the spool.
    pub holder: Holder,
}

impl Store {
    /// The folder of this spool; made when it is not there, and this is the first time that it is opened.
    pub fn open(spool: &Path, visit: Visit) -> Result<Store, Stop> {
        let folder = spool.join(FOLDER);
        if visit == Visit::First {
            make_folder(&folder, 0o711)?;
        }
        let metadata = folder.symlink_metadata().map_err(|error| io_stop("look at", &folder, &error))?;
        let me = rustix::process::geteuid().as_raw();
        if !metadata.is_dir() || metadata.uid() != me {
            return Err(Stop::config(format!("{} is not a folder of the daemon's user (uid {me})", shown(&folder)))
                .way_out("run the daemon as the user who owns it, or move it away: it holds what is done already"));
        }
        let store = Store { folder };
        make_folder(&store.jobs(), 0o700)?;
        Ok(store)
    }

    /// The status file.
    pub fn status(&self) -> PathBuf {
        self.folder.join("status.json")
    }

    /// The lease.
    pub fn lease(&self) -> PathBuf {
        self.folder.join("lease")
    }

    /// The marker of the file that is being read.
    pub fn reading(&self) -> PathBuf {
        self.folder.join("reading")
    }

    fn jobs(&self) -> PathBuf {
        self.folder.join("jobs")
    }

    /// The folder of a large job.
    pub fn job(&self, job: JobId) -> PathBuf {
        self.jobs().join(job.to_string())
    }

    /// The log of a generation.
    pub fn log(&self, generation: u64) -> PathBuf {
        self.folder.join(format!("log.{generation}"))
    }

    /// Takes the lease and begins a log of its own. `Error::Lock` names who holds the spool.
    ///
    /// `retain` says how long what finished files were answered is kept, beyond which only is known that they are done.
    pub fn begin(&self, retain: Duration) -> Result<(Keeper, Found), Error> {
        let holder = Holder::this_process(None).map_err(Error::io("find out who this process is for", &self.folder))?;
        let mut lock = Some(Lock::acquire(&self.lease(), &holder)?);
        let mut keeper = None;
        let (history, torn_bytes) = self.write_anew(&holder, retain, &mut |step| match (step, &mut keeper) {
            // To read a long log takes its time, and others must see that somebody is there.
            (Step::Beat, _) => match &mut lock {
                Some(lock) if lock.beat_due() => Ok(lock.beat()?),
                _ => Ok(()),
            },
            (Step::Create(path, write), keeper) => {
                let lock = lock.take().ok_or(Error::Gone)?;
                *keeper = Some(Keeper::create(path, lock, write)?);
                Ok(())
            }
            (Step::Confirm, Some(keeper)) => keeper.confirm(),
            (Step::Confirm, None) => Err(Error::Gone),
        })?;
        self.remove_orphans(&history, retain)?;
        let keeper = keeper.ok_or(Error::Gone)?;
        Ok((keeper, Found { history, torn_bytes, holder }))
    }

    /// Goes on in a new log, with what is still needed of the old one: for a log that has grown.
    pub fn renew(&self, keeper: &mut Keeper, holder: &Holder, retain: Duration) -> Result<History, Error> {
        let (history, _) = self.write_anew(holder, retain, &mut |step| match step {
            Step::Beat => keeper.beat_if_due(),
            Step::Create(path, write) => keeper.move_on(path, write),
            Step::Confirm => keeper.confirm(),
        })?;
        Ok(history)
    }

    /// Writes the log of the next generation, and removes the older ones.
    fn write_anew(
        &self,
        holder: &Holder,
        retain: Duration,
        by: &mut dyn FnMut(Step<'_>) -> Result<(), Error>,
    ) -> Result<(History, u64), Error> {
        let logs = self.logs()?;
        let mut torn_bytes = 0;
        let mut before = History::default();
        for (_, path) in &logs {
            torn_bytes += read(path, by, |offset, payload| before.apply(offset, payload))?;
        }
        let generation = logs.last().map_or(0, |(generation, _)| *generation) + 1;
        let path = self.log(generation);
        remove_leftovers(&path).map_err(Error::io("remove what a crash has left beside", &path))?;
        let kept = Kept::of(&before, retain, publish::folder_of(&self.folder));
        let at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let owner = Note::Owner { holder: holder.clone(), at };
        by(Step::Beat)?;
        by(Step::Create(&path, &mut |draft| {
            push(draft, &Note::header(generation, before.next_job))?;
            push(draft, &owner)?;
            before.spent().try_for_each(|spent| push(draft, &spent))?;
            logs.iter().try_for_each(|(_, old)| kept.copy(old, draft))
        }))?;
        let mut history = History::default();
        read(&path, by, |offset, payload| history.apply(offset, payload))?;
        by(Step::Confirm)?;
        for (_, old) in &logs {
            fs::remove_file(old).map_err(Error::io("remove", old))?;
            remove_leftovers(old).map_err(Error::io("remove what a crash has left beside", old))?;
        }
        Ok((history, torn_bytes))
    }

    /// The logs that are there, the oldest first.
    fn logs(&self) -> Result<Vec<(u64, PathBuf)>, Error> {
        let mut logs = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(Error::io("read the folder", &self.folder))? {
            let name = entry.map_err(Error::io("read the folder", &self.folder))?.file_name();
            let generation = name.to_str().and_then(|name| name.strip_prefix("log.")?.parse::<u64>().ok());
            logs.extend(generation.map(|generation| (generation, self.log(generation))));
        }
        logs.sort_unstable();
        Ok(logs)
    }

    /// Removes folders of jobs that the log does not know, or keeps nothing of: a crash has left them.
    fn remove_orphans(&self, history: &History, retain: Duration) -> Result<(), Error> {
        let fresh = fresh(retain);
        let open = history.open.values().filter_map(|open| match open.claim.held {
            Held::Folder(folder) => Some(folder),
            Held::Here(_) => None,
        });
        let running: HashSet<JobId> = open.collect();
        let known: HashSet<JobId> = running
            .iter()
            .copied()
            .chain(history.done.values().filter(|ended| fresh(ended.at_seconds)).filter_map(|ended| ended.folder))
            .collect();
        let jobs = self.jobs();
        for entry in fs::read_dir(&jobs).map_err(Error::io("read the folder", &jobs))? {
            let entry = entry.map_err(Error::io("read the folder", &jobs))?;
            let job = entry.file_name().to_str().and_then(|name| name.parse::<JobId>().ok());
            if job.is_some_and(|job| known.contains(&job) && !running.contains(&job)) {
                // A crash came before its private copy was removed.
                remove_if_there(&entry.path().join(COPY_NAME))?;
            }
            if job.is_some_and(|job| !known.contains(&job)) {
                fs::remove_dir_all(entry.path()).map_err(Error::io("remove", &entry.path()))?;
            }
        }
        Ok(())
    }

    /// Makes the folder of a large job, empty.
    pub fn make_job(&self, job: JobId) -> io::Result<PathBuf> {
        let folder = self.job(job);
        // Not with the folders above it: where these are missing, something else has the spool's name.
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        sync_folder(&self.jobs())?;
        Ok(folder)
    }
}

/// What is done to the log's file while it is written anew.
enum Step<'s> {
    /// A sign of life, when one is due.
    Beat,
    /// The new log is made at this path, with what this writes.
    Create(&'s Path, &'s mut dyn FnMut(&mut Draft) -> io::Result<()>),
    /// The lease must still be ours: old logs are removed behind this.
    Confirm,
}

/// What a new log takes over of the old ones.
struct Kept {
    /// Jobs whose claims and answers are needed.
    jobs: HashSet<JobId>,
    /// Jobs whose end is remembered.
    ends: HashSet<JobId>,
}

impl Kept {
    fn of(history: &History, retain: Duration, spool: &Path) -> Self {
        let is_fresh = fresh(retain);
        let fresh = |ended: &&Ended| is_fresh(ended.at_seconds);
        // A file that is gone for long is a new one when it comes again.
        let is_there = |path: &[u8]| spool.join(OsStr::from_bytes(path)).symlink_metadata().is_ok();
        // A job whose file is gone waits for it as long as the answers of finished ones are kept.
        let is_wanted = |open: &&Open| is_fresh(open.claim.at_seconds) || is_there(&open.claim.path.0);
        let open = history.open.values().filter(is_wanted);
        let needed = open.flat_map(|open| [Some(open.claim.job), open.claim.from]).flatten();
        Self {
            jobs: needed.chain(history.done.values().filter(fresh).map(|ended| ended.job)).collect(),
            ends: history
                .done
                .iter()
                .filter(|(path, ended)| fresh(ended) || is_there(path))
                .map(|(_, ended)| ended.job)
                .collect(),
        }
    }

    fn copy(&self, old: &Path, draft: &mut Draft) -> io::Result<()> {
        let mut frames = Vec::new();
        let copied = read(old, &mut |_| Ok(()), |_, payload| {
            let is_kept = match job_of_line(payload) {
                Some(job) => self.jobs.contains(&job),
                None => match Record::parse(payload)? {
                    Record::Note(note) => match *note {
                        Note::Claim(claim) => self.jobs.contains(&claim.job),
                        Note::Done(done) => self.ends.contains(&done.job),
                        Note::Strike { .. } => true,
                        // What was sent is written down joined.
                        Note::Spool { .. } | Note::Owner { .. } | Note::Spent { .. } => false,
                    },
                    Record::Line(..) => false,
                },
            };
            if is_kept {
                frames.clear();
                frame::push(&mut frames, |record| record.extend_from_slice(payload.as_bytes()));
                draft.write_all(&frames).map_err(|error| error.to_string())?;
            }
            Ok(())
        });
        copied.map(drop).map_err(|error| io::Error::other(error.to_string()))
    }
}

/// Whether something of a time (in seconds since 1970) is to be kept.
fn fresh(retain: Duration) -> impl Fn(u64) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    move |at_seconds| at_seconds.saturating_add(retain.as_secs()) > now
}

fn push(draft: &mut Draft, note: &Note) -> io::Result<()> {
    let mut frames = Vec::new();
    frame::push(&mut frames, |record| note.push(record));
    draft.write_all(&frames)
}

/// Reads all whole records of a log; returns how many bytes at its end are none.
fn read(
    path: &Path,
    by: &mut dyn FnMut(Step<'_>) -> Result<(), Error>,
    mut visit: impl FnMut(u64, &str) -> Result<(), String>,
) -> Result<u64, Error> {
    const BETWEEN_RECORDS: u64 = 1024;
    let file: File = open_to_read(path)?;
    let mut records = 0u64;
    let tail = scan(&file, 0, |offset, payload| {
        records += 1;
        if records.is_multiple_of(BETWEEN_RECORDS) {
            by(Step::Beat)?;
        }
        visit(offset, payload).map_err(|reason| Error::not_understood(path, offset, &reason))
    });
    let tail = tail.map_err(|interrupted| match interrupted {
        Interrupted::Read(source) => Error::io("read", path)(source),
        Interrupted::Visitor(error) => error,
    })?;
    match tail.next_valid {
        Some(next) => Err(Error::Damaged { path: path.to_owned(), at: tail.valid_bytes, next }),
        None => Ok(tail.torn_bytes()),
    }
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(Error::io("remove", path)),
    }
}

fn make_folder(folder: &Path, mode: u32) -> Result<(), Stop> {
    match fs::DirBuilder::new().mode(mode).create(folder) {
        // The umask may have taken more than we want.
        Ok(()) => fs::set_permissions(folder, Permissions::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
    .map_err(|error| io_stop("make the folder", folder, &error))
}

fn io_stop(action: &str, path: &Path, error: &io::Error) -> Stop {
    Stop::new(Exit::Io, format!("{action} {}: {error}", shown(path)))
        .way_out("the daemon's user must be able to write in the spool's folder")
}
