//! A run with a journal, from its opening to its end: `--journal J` to stdout, `--output F` into a file.

pub mod copy;
mod ending;
mod past;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::closing::exit_after;
use super::intake::Intake;
use super::journaled::{Journaled, Parts, Sink};
use super::ledger::Why;
use super::pilot::Sample;
use super::reader::{self, Copy, Source};
use super::result::{self, Place, SecondReading};
use super::settings_guard::Guard;
use super::window::Window;
use super::writer::{self, Writer};
use super::{Stage, engine_settings, ledger, split, stdout_stop, style, understanding, window_lines_max};
use crate::config::{Config, Destination, JournalConfig, Order};
use crate::connection;
use crate::engine;
use crate::exit::{Exit, Stop};
use crate::journal::lock::{Holder, Lock};
use crate::journal::publish::{self, Exclusive};
use crate::journal::{self, Closed, Journal, Known, Opened, Options, Settings, Shard, Spending};
use crate::line::escape::shown;
use crate::shutdown::Level;

/// F, and what stood there before the first line was read.
struct Target {
    path: PathBuf,
    how: Exclusive,
    place: Place,
}

/// Runs the filter with a journal to its end.
pub async fn run(stage: Stage, wish: &JournalConfig, sample: Option<Sample>) -> Result<Exit, Stop> {
    let target = match &stage.config.output.destination {
        Destination::File(path) => Some(path.clone()),
        Destination::Stdout => None,
    };
    must_be_there(publish::folder_of(&wish.path))?;
    if let Some(path) = target.as_ref().filter(|_| !stage.config.output.force) {
        // Without a journal nothing there can be ours; to find out must not leave a journal behind.
        result::refuse_strangers(path, &wish.path).inspect_err(|_| forget_stale_lock(wish))?;
    }
    if writer::stdout_is(&wish.path) {
        return Err(Stop::usage(format!("standard output is the journal {}, and would destroy it", shown(&wish.path)))
            .way_out("send the completions somewhere else"));
    }
    let settings = settings(&stage.config);
    let watched = stage.shutdown.clone();
    let opened = Journal::open(options(wish, &settings)?, move || watched.level() > Level::Running).await;
    let Opened { journal, known, cut_bytes } = match opened {
        Err(journal::Error::Stopped) => return Ok(exit_after(stage.shutdown.cause())),
        opened => opened?,
    };
    if cut_bytes > 0 {
        stage.reporter.warn(&format!(
            "the last {cut_bytes} bytes of {} were an unfinished record, and were cut: its line is asked again",
            shown(&wish.path)
        ));
    }
    let mut run = Run { stage, settings, sample, target: None, journal: Some(journal), before: None, copy: None };
    let result = run.through(known, target).await;
    // Whatever happened, the lock is given back; and what happened first is told.
    let discard =
        run.stage.config.output.discard_journal && run.target.is_some() && !run.is_pilot() && is_finished(&result);
    let closed = match run.journal.take() {
        Some(journal) => journal.close(discard).await,
        None => Ok(()),
    };
    result.and_then(|exit| closed.map(|()| exit).map_err(Stop::from))
}

fn must_be_there(folder: &Path) -> Result<(), Stop> {
    match folder.metadata() {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(Stop::new(Exit::Io, format!("look at the folder {}: {error}", shown(folder))))
        }
        _ => Err(Stop::new(Exit::Io, format!("the folder {} is not there", shown(folder)))
            .way_out("make it, or name a file in another one")),
    }
}

/// A run that was killed while it discarded its journal has left the lock; whoever comes next removes it.
fn forget_stale_lock(wish: &JournalConfig) {
    let lock = journal::lock_path(&wish.path);
    if let (true, Ok(me)) = (lock.exists(), Holder::this_process(wish.job.clone())) {
        // Somebody who works there keeps it, and says so to those who come with a journal.
        let _ = Lock::acquire(&lock, &me).and_then(Lock::release);
    }
}

fn is_finished(result: &Result<Exit, Stop>) -> bool {
    matches!(result, Ok(Exit::Answered | Exit::SomeFailed))
}

fn options(wish: &JournalConfig, settings: &Settings) -> Result<Options, Stop> {
    let holder = Holder::this_process(wish.job.clone())
        .map_err(|error| Stop::new(Exit::Io, format!("find out who this process is: {error}")))?;
    Ok(Options {
        path: wish.path.clone(),
        holder,
        settings: settings.clone(),
        fresh: wish.fresh,
        retry_failed: wish.retry_failed,
    })
}

/// What this run's lines get that do not say so themselves.
fn settings(config: &Config) -> Settings {
    let defaults = &config.defaults;
    Settings {
        base_url: config.service.first().base_url.as_str().to_owned(),
        dialect: config.service.first().dialect.map(|dialect| dialect.name().to_owned()),
        model: defaults.model.clone(),
        system: defaults.system.clone(),
        params: defaults.params.iter().map(|(name, value)| (name.clone(), value.get().to_owned())).collect(),
        input: format!("{:?}", config.input.form).to_lowercase(),
        shard: config.input.shard.map(|shard| Shard { index: shard.index, count: shard.count }),
    }
}

/// A run under way.
struct Run {
    stage: Stage,
    settings: Settings,
    /// The lines that are tried, when this is a pilot: then F is not made.
    sample: Option<Sample>,
    target: Option<Target>,
    journal: Option<Journal>,
    /// How the run before ended.
    before: Option<Closed>,
    /// The copy of the input that lies beside F, when there is one.
    copy: Option<journal::Copy>,
}

impl Run {
    async fn through(&mut self, mut known: Known, target: Option<PathBuf>) -> Result<Exit, Stop> {
        if let Some(path) = target {
            self.target = Some(self.open_target(path, &known).await?);
        }
        self.before = known.closed.take();
        self.copy = known.copy.flatten();
        let guard = self.guard(&known);
        let sources = std::mem::take(&mut self.stage.sources);
        let (second, copy) = self.second_reading(&sources, &known).await?;
        let mut understanding = understanding(&self.stage.config);
        // The guard reads records once more, as they were read before.
        understanding.keeps_records |= guard.is_watching();
        let input =
            reader::start(sources, split(&self.stage.config), copy, move |line, found| understanding.of(line, found))
                .map_err(|error| Stop::new(Exit::Io, format!("start the reading thread: {error}")))?;
        let was_killed = known.records > 0 && self.before.is_none();
        let mut earlier = known.past.clone();
        if was_killed {
            // What it had in flight may have been counted by the service, too.
            earlier.add_unknown(self.stage.config.limits.concurrency.get() as u64);
        }
        let in_journal = known.index.records();
        let parts = self.parts(Intake::sampling(input, self.sample.clone()), guard, known).await?;
        let stage = &self.stage;
        let mut mode = Journaled::new(parts, ledger(stage));
        let mut endpoints = connection::endpoints(&stage.config, &stage.clients);
        past::remember(&mut endpoints, &stage.config, &earlier);
        stage.look_ahead(in_journal, &endpoints);
        let ended = engine::run(engine_settings(&stage.config), endpoints, &mut mode, &stage.shutdown).await;
        let rest = mode.finish(self.closing().patience()).await;
        if matches!(rest.why, Some(Why::NoModel)) {
            self.journal = Some(rest.journal);
            return Err(connection::no_model(&self.stage.clients).await);
        }
        self.end(ended, rest, second).await
    }

    fn is_pilot(&self) -> bool {
        self.sample.is_some()
    }

    fn journal(&mut self) -> Result<&mut Journal, Stop> {
        self.journal.as_mut().ok_or_else(|| journal::Error::Gone.into())
    }

    async fn open_target(&mut self, path: PathBuf, known: &Known) -> Result<Target, Stop> {
        let place = result::look(&path, known, self.stage.config.output.force)?;
        let probed = path.clone();
        let probe = move |_: &mut journal::Keeper| {
            publish::remove_leftovers(&probed)
                .map_err(journal::Error::io("remove what a crash has left beside", &probed))?;
            publish::probe(&probed).map_err(journal::Error::from)
        };
        let how = self.journal()?.run(probe).await?;
        Ok(Target { path, how, place })
    }

    /// Watches over settings that differ from those under which the journal's answers were given.
    fn guard(&self, known: &Known) -> Guard {
        let Some(before) = known.settings.as_ref().filter(|_| known.answers > 0) else { return Guard::open() };
        let differences = before.difference(&self.settings);
        if differences.is_empty() {
            return Guard::open();
        }
        let limits = &self.stage.config.limits;
        let understanding = understanding(&self.stage.config).under(before);
        let bounds = (window_lines_max(&self.stage.config), limits.window_bytes_max);
        Guard::watching(differences, understanding, bounds)
    }

    /// Prepares the second reading that F needs: of the files themselves, or of a copy that is made on the way.
    async fn second_reading(
        &mut self,
        sources: &[Source],
        known: &Known,
    ) -> Result<(Option<SecondReading>, Option<Copy>), Stop> {
        let target = self.target.as_ref().filter(|_| !self.is_pilot());
        let (Some(_), Some(path)) = (target, self.stage.config.output.input_copy_path()) else {
            return Ok((None, None));
        };
        let again: Result<Vec<_>, _> = sources.iter().map(Source::again).collect();
        let again = again.map_err(|error| Stop::new(Exit::Io, format!("look at the input: {error}")))?;
        if let Some(files) = again.into_iter().collect() {
            return Ok((Some(SecondReading::Again(files)), None));
        }
        let before = known.copy;
        let opened = path.clone();
        let (file, made) = self.journal()?.run(move |keeper| copy::open(keeper, &opened, before)).await?;
        let second =
            file.try_clone().map_err(|error| Stop::new(Exit::Io, format!("read {}: {error}", shown(&path))))?;
        self.copy = Some(made);
        let name = shown(&path);
        Ok((Some(SecondReading::Copy { path, file: second }), Some(Copy { name, file })))
    }

    async fn parts(&mut self, intake: Intake, guard: Guard, known: Known) -> Result<Parts, Stop> {
        let records = self.journal()?.run(|keeper| keeper.records()).await?;
        let stage = &mut self.stage;
        let failed_lines = stage.failed_lines.take();
        let sink = match self.target {
            Some(_) => Sink::Later { failed_lines },
            None => {
                let writer = Writer::to_stdout().map_err(stdout_stop)?;
                Sink::Stdout { writer: Box::new(writer), style: style(&stage.config), failed_lines }
            }
        };
        let order = if self.target.is_some() { Order::Input } else { stage.config.output.order };
        Ok(Parts {
            intake,
            guard,
            window: Window::new(order, window_lines_max(&stage.config), stage.config.limits.window_bytes_max),
            journal: self.journal.take().ok_or(journal::Error::Gone)?,
            known,
            settings: self.settings.clone(),
            spending: Spending::new(past::base_urls(&self.stage.config)),
            records,
            sink,
        })
    }
}
