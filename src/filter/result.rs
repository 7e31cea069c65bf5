//! `--output F`: the second pass, input × journal → F, whole or not at all. Runs on the journal's thread.
//!
//! Invariants (the gate): F gets as many records as lines were settled, each with the key of its line, out of an input
//! that has not changed by a byte since it was read first; otherwise there is no F. What is not ours is never replaced.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::closing::exit_after;
use super::intake::Intake;
use super::reader::{self, Again, End, Source, Split, sources_of_copy};
use super::resumable::copy;
use super::understanding::{Understanding, Understood};
use crate::exit::{Exit, Stop};
use crate::journal::publish::{self, Draft, Exclusive, Fingerprint, PublishError, Sealed};
use crate::journal::{self, Closed, Keeper, Known, Note, Records};
use crate::line::completion::{About, Style};
use crate::line::escape::shown;
use crate::shutdown::{Level, Shutdown};

/// After so many lines it is looked whether the run is to end, and the journal's lock shows a sign of life.
const BETWEEN_LINES: u64 = 256;

/// What stands at F's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nothing.
    Free,
    /// What an earlier run published.
    Ours(Fingerprint),
    /// Something that may be replaced, because the user says so.
    Forced,
}

/// Looks at F's place before anything is sent.
pub fn look(target: &Path, known: &Known, force: bool) -> Result<Place, Stop> {
    for ours in known.published.iter().rev() {
        match publish::is_still(target, ours) {
            Ok(true) => return Ok(Place::Ours(ours.clone())),
            Ok(false) => {}
            // A link, a device or the like is none of ours.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => break,
            Err(error) => return Err(journal::Error::io("read", target)(error).into()),
        }
    }
    match target.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Place::Free),
        Err(error) => Err(Stop::new(Exit::Io, format!("look at {}: {error}", shown(target)))),
        Ok(metadata) if metadata.is_dir() => {
            Err(Stop::usage(format!("--output {} is a folder", shown(target))).way_out("name a file in it"))
        }
        Ok(_) if force => Ok(Place::Forced),
        Ok(_) => Err(taken(target)),
    }
}

/// Refuses an F that cannot be ours, since there is no journal that says so.
pub fn refuse_strangers(target: &Path, journal: &Path) -> Result<(), Stop> {
    let exists = |path: &Path| match path.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Stop::new(Exit::Io, format!("look at {}: {error}", shown(path)))),
        Ok(_) => Ok(true),
    };
    if exists(target)? && !exists(journal)? { Err(taken(target)) } else { Ok(()) }
}

fn taken(target: &Path) -> Stop {
    Stop::usage(format!("{} exists, and is not what this command has written", shown(target)))
        .way_out("move it away, name another file, or let --force replace it")
}

/// The input for a second reading.
#[derive(Debug)]
pub enum SecondReading {
    /// Files that can be read again.
    Again(Vec<Again>),
    /// What was copied while it was read.
    Copy {
        /// Where it lies.
        path: PathBuf,
        /// The file.
        file: File,
    },
}

impl SecondReading {
    fn sources(self, first: &End) -> std::io::Result<Vec<Source>> {
        match self {
            Self::Again(files) => files.into_iter().map(Again::rewind).collect(),
            Self::Copy { path, file } => sources_of_copy(&file, &shown(&path), &first.source_bytes),
        }
    }
}

/// Everything that the second pass needs.
#[derive(Debug)]
pub struct Rendering {
    /// F.
    pub target: PathBuf,
    /// How F's name is taken.
    pub how: Exclusive,
    /// What stands there.
    pub place: Place,
    /// How lines look.
    pub style: Style,
    /// How the input is read.
    pub split: Split,
    /// How its lines are understood.
    pub understanding: Understanding,
    /// The input.
    pub input: SecondReading,
    /// What the first reading came to.
    pub first: End,
    /// Lines that the first pass settled.
    pub settled: u64,
    /// How the run ended, but for the result.
    pub closed: Closed,
    /// What may end the run meanwhile.
    pub shutdown: Shutdown,
    /// How long it may take after a first signal.
    pub drain: Duration,
    /// The copy of the input, which is not needed any more when F is there.
    pub copy: Option<(PathBuf, journal::Copy)>,
}

impl Rendering {
    /// Writes F, publishes it, and closes the journal's account of this run.
    pub fn run(mut self, keeper: &mut Keeper, known: &mut Known) -> Result<Fingerprint, Stop> {
        known.index.forget_claims();
        let mut draft = Draft::create(&self.target).map_err(|error| self.io("create a file beside", error))?;
        self.render(keeper, known, &mut draft)?;
        let sealed = draft.seal().map_err(|error| self.io("make durable what becomes", error))?;
        self.publish(sealed, keeper)
    }

    fn io(&self, action: &str, error: std::io::Error) -> Stop {
        Stop::new(Exit::Io, format!("{action} {}: {error}", shown(&self.target)))
            .way_out("mend the cause and run the same command again: what was answered is kept")
    }

    fn render(&mut self, keeper: &mut Keeper, known: &mut Known, draft: &mut Draft) -> Result<(), Stop> {
        let mut records = keeper.records()?;
        let placeholder = SecondReading::Again(Vec::new());
        let input = std::mem::replace(&mut self.input, placeholder);
        let sources = input.sources(&self.first).map_err(|error| self.io("read again the input of", error))?;
        let understanding = self.understanding.clone();
        let input = reader::start(sources, self.split, None, move |line, found| understanding.of(line, found))
            .map_err(|error| self.io("start a reading thread for", error))?;
        let (mut intake, mut rendered, mut line) = (Intake::new(input), 0u64, Vec::new());
        let mut signalled = None;
        while let Some(understood) = intake.next_blocking() {
            if rendered.is_multiple_of(BETWEEN_LINES) {
                keeper.beat_if_due()?;
                self.must_go_on(&mut signalled)?;
            }
            line.clear();
            self.render_line(&understood, known, &mut records, &mut line)?;
            draft.write_all(&line).map_err(|error| self.io("write what becomes", error))?;
            rendered += 1;
        }
        self.check(intake.end(), rendered)
    }

    /// A first signal leaves the time of a drain, a second one none. Nothing is lost: F is rendered by the next run.
    fn must_go_on(&self, signalled: &mut Option<Instant>) -> Result<(), Stop> {
        let is_over = match self.shutdown.level() {
            Level::Running => false,
            Level::Draining => signalled.get_or_insert_with(Instant::now).elapsed() >= self.drain,
            Level::Aborting => true,
        };
        if !is_over {
            return Ok(());
        }
        let exit = exit_after(self.shutdown.cause());
        Err(Stop::new(exit, format!("stopped while {} was written; every line is settled", shown(&self.target)))
            .way_out("run the same command: it writes the file, and sends nothing"))
    }

    fn render_line(
        &self,
        understood: &Understood,
        known: &mut Known,
        records: &mut Records,
        out: &mut Vec<u8>,
    ) -> Result<(), Stop> {
        let claimed = known.index.claim(&understood.hash);
        let Ok((key, Some(offset))) = claimed else { return Err(changed()) };
        let (settled, outcome) = records.outcome(offset, &key)?;
        let (form, correlation) = match &understood.request {
            Ok(request) => (Some(request.form), request.correlation.as_ref()),
            Err(bad) => (bad.form, bad.correlation.as_ref()),
        };
        let record = understood.record.as_deref();
        let model = settled.model.as_deref();
        let about = About { line: understood.line, form, correlation, model, flags: settled.flags, record };
        self.style.render(&about, &outcome, out);
        Ok(())
    }

    /// The gate.
    fn check(&self, end: Option<&End>, rendered: u64) -> Result<(), Stop> {
        let Some(end) = end else { return Err(changed()) };
        if let Some(error) = &end.error {
            return Err(Stop::new(Exit::Io, error.clone()));
        }
        let same = end.lines == self.first.lines && end.sha256 == self.first.sha256 && rendered == self.settled;
        if same { Ok(()) } else { Err(changed()) }
    }

    fn publish(&mut self, sealed: Sealed, keeper: &mut Keeper) -> Result<Fingerprint, Stop> {
        let result = sealed.fingerprint().clone();
        // Written down first: after a crash between the two, F is known to be ours by what is in it.
        keeper.note(&[Note::Published(result.clone())])?;
        // A process that was stopped for long may have lost the journal to another meanwhile.
        keeper.confirm()?;
        let published = match &self.place {
            Place::Free => sealed.publish(self.how),
            Place::Ours(ours) => sealed.replace(ours),
            Place::Forced => sealed.replace_anything(),
        };
        published.map_err(|error| match error {
            PublishError::Taken { path } => taken(&path),
            error => Stop::from(journal::Error::from(error)),
        })?;
        if let Some((path, made)) = &self.copy {
            copy::remove(path, *made).map_err(journal::Error::io("remove", path))?;
        }
        self.closed.result = Some(result.clone());
        keeper.note(&[Note::Closed(self.closed.clone())])?;
        Ok(result)
    }
}

fn changed() -> Stop {
    Stop::new(Exit::Resumable, "the input changed while its lines were asked")
        .way_out("run the same command again: only what is new is asked")
}
