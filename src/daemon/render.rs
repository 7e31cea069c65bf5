//! From answers to results: small jobs are rendered and made durable by a few threads side by side; then a batch of them
//! gets its names on the log's thread, with one sync of each folder and one of the log for all.
//!
//! Invariants (the gate): a result has as many lines as the job, each the answer to its own key, out of the log; the
//! input is looked at once more before; names are given by exclusive links, after the lease was confirmed.

use std::collections::HashMap;
use std::fs::Permissions;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::answers::Answers;
use super::folder::Folder;
use super::log::{Done, End, JobId, Note};
use super::plan::Plan;
use super::snapshot::{self, Look};
use super::stamp::Stamp;
use crate::journal::publish::{self, Draft, Exclusive, Fingerprint, PublishError, Sealed, usual_permissions};
use crate::journal::{self, Error, Keeper, frame};
use crate::line::completion::About;
use crate::line::escape::shown;

/// A small job whose lines are all settled.
#[derive(Debug)]
pub struct Rendering {
    /// Comes back with what came of it.
    pub ticket: Ticket,
    /// The job.
    pub job: JobId,
    /// The input, seen from the spool's folder.
    pub path: Arc<Path>,
    /// What it was when it was taken.
    pub stamp: Stamp,
    /// How it is run.
    pub plan: Arc<Plan>,
    /// Where the claim begins in the log.
    pub claim_at: u64,
    /// The key of each line, in order, and where its answer begins in the log.
    pub lines: Vec<(journal::Key, u64)>,
    /// How the job ends, but for the result.
    pub done: Done,
    /// The result that is replaced.
    pub replaces: Option<Fingerprint>,
}

/// A job that is ready for its end.
#[derive(Debug)]
pub struct Ready {
    /// The job.
    pub ticket: Ticket,
    /// Its result, durable but for the name; none for a prompt that failed.
    pub sealed: Option<Sealed>,
    /// How it ends.
    pub done: Done,
    /// The result that is replaced.
    pub replaces: Option<Fingerprint>,
    /// Where the result goes: its name, in a folder that is held open until it has it.
    folder: Folder,
}

impl Ready {
    fn target(&self) -> PathBuf {
        self.folder.join(self.done.result_name.path())
    }
}

/// Why a job did not come to its end.
#[derive(Debug)]
pub enum Hindrance {
    /// The input is not what it was.
    Changed,
    /// The folder of the input is gone.
    Gone,
    /// The name of the result belongs to something else.
    Taken,
    /// Something failed.
    Failed(String),
}

/// Where the results of a log's jobs come from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The log.
    pub log: PathBuf,
    /// The spool's folder.
    pub root: PathBuf,
    /// The longest line, in bytes.
    pub line_bytes_max: usize,
}

/// What came of jobs, by their tickets.
pub type Outcomes<T> = Vec<(Ticket, Result<T, Hindrance>)>;

/// The place of a job, and its number: places are used again.
pub type Ticket = (u32, JobId);

/// A job's end, and where the record of it begins in the log.
pub type Ended = (Done, u64);

/// The same as [`render`]; a panic is the trouble of these jobs alone.
pub fn render_caught(source: &Source, jobs: Vec<Rendering>) -> Outcomes<Ready> {
    let tickets: Vec<Ticket> = jobs.iter().map(|job| job.ticket).collect();
    catch_unwind(AssertUnwindSafe(|| render(source, jobs))).unwrap_or_else(|_| {
        let failed = |ticket| (ticket, Err(Hindrance::Failed("the program failed on making the result".to_owned())));
        tickets.into_iter().map(failed).collect()
    })
}

/// Renders jobs and makes their results durable. For a thread that may wait.
pub fn render(source: &Source, jobs: Vec<Rendering>) -> Outcomes<Ready> {
    let mut hand = Hand { source, permissions: HashMap::new() };
    match Answers::open(&source.log) {
        Ok(mut answers) => jobs.into_iter().map(|job| (job.ticket, hand.render(job, &mut answers))).collect(),
        Err(error) => jobs.iter().map(|job| (job.ticket, Err(Hindrance::Failed(error.to_string())))).collect(),
    }
}

struct Hand<'s> {
    source: &'s Source,
    /// Of new files, by folder.
    permissions: HashMap<PathBuf, Permissions>,
}

impl Hindrance {
    /// The same in the words of people.
    pub fn told_by(self, folder: &Folder) -> Self {
        match self {
            Self::Failed(message) => Self::Failed(folder.told(&message)),
            other => other,
        }
    }
}

impl Hand<'_> {
    fn render(&mut self, job: Rendering, answers: &mut Answers) -> Result<Ready, Hindrance> {
        let folder = unchanged(&self.source.root, &job.path, &job.stamp)?;
        let target = folder.join(job.plan.result_name.path());
        let (text, failed) = self.text(&job, answers).map_err(|error| Hindrance::Failed(error.to_string()))?;
        let (ticket, mut done, replaces) = (job.ticket, job.done, job.replaces);
        done.failed = failed;
        if job.plan.is_one_prompt() && failed > 0 {
            done.end = End::Failed;
            // What was published before is still ours.
            done.result.clone_from(&replaces);
            return Ok(Ready { ticket, sealed: None, done, replaces: None, folder });
        }
        let sealed = self.seal(&target, &text).map_err(|error| {
            Hindrance::Failed(folder.told(&format!("write what becomes {}: {error}", shown(&target))))
        })?;
        done.result = Some(sealed.fingerprint().clone());
        Ok(Ready { ticket, sealed: Some(sealed), done, replaces, folder })
    }

    /// The contents of the result, and how many of its lines failed.
    fn text(&self, job: &Rendering, answers: &mut Answers) -> Result<(Vec<u8>, u64), Error> {
        let style = job.plan.style();
        let records = match style.merge {
            Some(_) => match answers.claim(job.claim_at)?.held {
                super::log::Held::Here(contents) => job.plan.read(&contents.0, self.source.line_bytes_max),
                super::log::Held::Folder(_) => Vec::new(),
            },
            None => Vec::new(),
        };
        let (mut text, mut failed) = (Vec::new(), 0);
        if job.lines.len() as u64 != job.done.lines {
            let reason = format!("of {} lines of job {} it has {}", job.done.lines, job.job, job.lines.len());
            return Err(Error::NoJournal { path: self.source.log.clone(), reason });
        }
        for (index, (key, offset)) in job.lines.iter().enumerate() {
            let mut settled = answers.outcome(*offset, job.job, key)?;
            let Some(outcome) = settled.outcome.take() else { continue };
            failed += u64::from(outcome.result.is_err());
            let about = About {
                line: settled.head.line,
                form: settled.form,
                correlation: settled.correlation.as_ref(),
                model: settled.model.as_deref(),
                flags: settled.flags,
                record: records.get(index).and_then(|understood| understood.record.as_deref()),
            };
            style.render(&about, &outcome, &mut text);
        }
        Ok((text, failed))
    }

    fn seal(&mut self, target: &Path, text: &[u8]) -> std::io::Result<Sealed> {
        let folder = publish::folder_of(target);
        let permissions = match self.permissions.get(folder) {
            Some(permissions) => permissions.clone(),
            None => {
                let usual = usual_permissions(target)?;
                self.permissions.insert(folder.to_owned(), usual.clone());
                usual
            }
        };
        let mut draft = Draft::create_with(target, permissions)?;
        draft.write_all(text)?;
        draft.seal()
    }
}

/// The folder of an input that still is what it was. One that is gone is no obstacle: what was asked for is answered.
pub fn unchanged(root: &Path, path: &Path, stamp: &Stamp) -> Result<Folder, Hindrance> {
    let failed = |error: std::io::Error| Hindrance::Failed(format!("look at {}: {error}", shown(path)));
    let folder = match Folder::of(root, path) {
        Err(error) if Folder::is_gone(&error) => return Err(Hindrance::Gone),
        opened => opened.map_err(failed)?,
    };
    let Some(name) = path.file_name() else { return Err(Hindrance::Gone) };
    match snapshot::look(folder.as_fd(), name, stamp).map_err(failed)? {
        Look::Changed(_) => Err(Hindrance::Changed),
        Look::Same | Look::Gone => Ok(folder),
    }
}

/// Gives a batch of results their names, and writes down that their jobs have ended. For the log's thread; `Err` is the
/// log's own failure, after which nothing is known to be done.
pub fn publish_all(keeper: &mut Keeper, batch: Vec<Ready>, how: Exclusive) -> Result<Outcomes<Ended>, Error> {
    // A process that was stopped for long may have lost the spool to another meanwhile.
    keeper.confirm()?;
    let mut folders = HashMap::new();
    let mut named = Vec::with_capacity(batch.len());
    for ready in batch {
        let target = ready.target();
        let Ready { ticket, sealed, done, replaces, folder } = ready;
        let has_result = sealed.is_some();
        let published = match (sealed, replaces) {
            (None, _) => Ok(()),
            (Some(sealed), None) => name_it(sealed, &target, how),
            (Some(sealed), Some(replaced)) => replace(sealed, &target, &replaced, how),
        };
        let published = published.map_err(|hindrance| hindrance.told_by(&folder));
        if has_result {
            let path = folder.path().to_owned();
            folders.entry(path).or_insert_with(|| (folder, Vec::new())).1.push(ticket);
        }
        named.push((ticket, published.map(|()| done)));
    }
    // A folder of somebody's that cannot be synced is no trouble of others: only its jobs have not ended.
    let mut unsynced = HashMap::new();
    for (path, (folder, tickets)) in folders {
        if let Err(error) = publish::sync_folder(&folder.join(".")) {
            let message = format!("sync the folder {}: {error}", shown(&path));
            unsynced.extend(tickets.into_iter().map(|ticket: Ticket| (ticket, message.clone())));
        }
    }
    for (ticket, published) in &mut named {
        if let Some(message) = unsynced.remove(ticket) {
            *published = Err(Hindrance::Failed(message));
        }
    }
    let (mut frames, mut starts) = (Vec::new(), Vec::new());
    for (_, done) in &named {
        starts.push(frames.len() as u64);
        if let Ok(done) = done {
            frame::push(&mut frames, |record| Note::Done(done.clone()).push(record));
        }
    }
    let base = if frames.is_empty() { 0 } else { keeper.commit(&frames)? };
    let ends = named.into_iter().zip(starts);
    Ok(ends.map(|((ticket, done), start)| (ticket, done.map(|done| (done, base + start)))).collect())
}

fn name_it(sealed: Sealed, target: &Path, how: Exclusive) -> Result<(), Hindrance> {
    let ours = sealed.fingerprint().clone();
    match sealed.publish_unsynced(how) {
        Ok(()) => Ok(()),
        Err(PublishError::Taken { .. }) => is_ours(target, &ours),
        Err(error) => Err(Hindrance::Failed(error.to_string())),
    }
}

fn replace(sealed: Sealed, target: &Path, replaced: &Fingerprint, how: Exclusive) -> Result<(), Hindrance> {
    let ours = sealed.fingerprint().clone();
    // Results may be moved away, and their places are free then.
    match target.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            name_it(sealed, target, how)?;
            let failed = |error| Hindrance::Failed(format!("sync the folder of {}: {error}", shown(target)));
            return publish::sync_folder(publish::folder_of(target)).map_err(failed);
        }
        _ => {}
    }
    match sealed.replace(replaced) {
        Ok(()) => Ok(()),
        Err(PublishError::Taken { .. }) => is_ours(target, &ours),
        Err(error) => Err(Hindrance::Failed(error.to_string())),
    }
}

/// What has the name may be this very result: a crash came between its link and the word that it is done.
fn is_ours(target: &Path, ours: &Fingerprint) -> Result<(), Hindrance> {
    match publish::is_still(target, ours) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Hindrance::Taken),
        Err(error) => Err(Hindrance::Failed(format!("read {}: {error}", shown(target)))),
    }
}
