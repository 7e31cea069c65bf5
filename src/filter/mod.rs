//! Filter mode: request lines in, completion lines out. Wires reader → engine → window → writer, and judges the end.
//!
//! Invariant: the status tells the truth. 0 only when every line has its completion and every byte was written.

mod closing;
mod failed;
mod intake;
mod journaled;
mod ledger;
mod mode;
mod pilot;
pub mod reader;
mod result;
mod resumable;
mod settings_guard;
mod shelf;
mod splitter;
mod stage;
mod understanding;
mod window;
mod writer;

use std::fs::File;
use std::io::IsTerminal as _;
use std::path::Path;
use std::time::SystemTime;

use crate::config::{Config, InputFile};
use crate::connection;
use crate::engine;
use crate::exit::{Exit, Stop};
use crate::line::Format;
use crate::line::completion::Style;
use crate::line::escape::shown;
use crate::report::Reporter;

pub use crate::config::Order;
use closing::{Closing, Facts};
use failed::FailedLines;
pub use intake::Intake;
pub use journaled::{Journaled, Parts, Rest, Sink};
pub use ledger::{Ledger, Why};
use mode::{Filter, Rest as PlainRest};
use pilot::Sample;
use reader::Source;
pub use reader::{Found, Split};
pub use result::{Place, Rendering, SecondReading, look};
pub use settings_guard::Guard;
pub use splitter::Splitter;
use stage::Stage;
pub use understanding::{Understanding, Understood};
pub use window::Window;
use writer::Writer;

/// The reorder window, as a multiple of the concurrency: wide enough that one slow request does not idle the others.
const WINDOW_PER_SLOT: usize = 64;

/// Runs the filter to its end.
pub async fn run(config: Config) -> Result<Exit, Stop> {
    let mut stage = Stage::set(config)?;
    let Some(sample) = pilot::prepare(&mut stage).await? else {
        return Ok(closing::exit_after(stage.shutdown.cause()));
    };
    match stage.config.output.journal.clone() {
        Some(journal) => resumable::run(stage, &journal, sample).await,
        None => run_plain(stage, sample).await,
    }
}

async fn run_plain(mut stage: Stage, sample: Option<Sample>) -> Result<Exit, Stop> {
    let writer = Writer::to_stdout().map_err(stdout_stop)?;
    let understanding = understanding(&stage.config);
    let sources = std::mem::take(&mut stage.sources);
    let input = reader::start(sources, split(&stage.config), None, move |line, found| understanding.of(line, found))
        .map_err(|error| Stop::new(Exit::Io, format!("start the reading thread: {error}")))?;
    stage.look_ahead(0);
    let config = &stage.config;
    let window = Window::new(config.output.order, window_lines_max(config), config.limits.window_bytes_max);
    let failed_lines = stage.failed_lines.take();
    let mut filter =
        Filter::new(style(config), Intake::sampling(input, sample), window, writer, failed_lines, ledger(&stage));
    let endpoints = connection::endpoints(config, &stage.clients);
    let ended = engine::run(engine_settings(config), endpoints, &mut filter, &stage.shutdown).await;
    let rest = filter.finish();
    if matches!(rest.why, Some(Why::NoModel)) {
        return Err(connection::no_model(&stage.clients).await);
    }
    close_plain(&stage, &ended, rest).await
}

async fn close_plain(stage: &Stage, ended: &engine::Ended, rest: PlainRest) -> Result<Exit, Stop> {
    let PlainRest { writer, mut failed_lines, why, mut unsettled, mut intake } = rest;
    if let Some(file) = failed_lines.as_mut().filter(|_| *ended != engine::Ended::Complete) {
        // A pipe may never end; a file's rest is as unsettled as what was in flight.
        let wait = stage.config.input.files.iter().all(is_regular);
        let keep = |understood: &Understood| {
            unsettled += 1;
            understood.record.iter().for_each(|record| file.push(record));
        };
        intake.drain(wait, keep).await;
    }
    let closing = Closing { config: &stage.config, reporter: &stage.reporter, shutdown: &stage.shutdown };
    let (why, written) = match why {
        Some(Why::Stdout(error)) => (None, Err(error)),
        why => (why, closing.write_out(writer).await),
    };
    let facts = Facts { ended, why: why.as_ref(), unsettled, end: intake.end() };
    let files = closing.judge_written(written).and_then(|status| match status {
        Some(exit) => closing.finish_failed(failed_lines).map_or(Ok(Some(exit)), |()| Ok(Some(exit))),
        None => closing.finish_failed(failed_lines).map(|()| None),
    });
    let exit = match files {
        Ok(None) => closing.judge(&facts),
        Ok(Some(exit)) => Ok(exit),
        Err(stop) => Err(stop),
    };
    closing.tell(&facts, &exit)?;
    exit
}

/// Opens every input; one that cannot be read is found before anything is sent.
pub fn open_sources(config: &Config) -> Result<Vec<Source>, Stop> {
    config.input.files.iter().map(open_source).collect()
}

fn open_source(input: &InputFile) -> Result<Source, Stop> {
    use std::io::ErrorKind;
    use std::os::fd::AsFd as _;
    let (name, opened) = match input {
        InputFile::Path(path) => (shown(path), reader::open(path)),
        InputFile::Stdin => {
            let file = std::io::stdin().as_fd().try_clone_to_owned().map(File::from);
            let name = "standard input".to_owned();
            (name.clone(), file.map(|file| Source::whole(name, file)))
        }
    };
    opened.map_err(|error| {
        let message = format!("read {name}: {error}");
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::IsADirectory | ErrorKind::NotADirectory => {
                Stop::new(Exit::Input, message)
                    .way_out("name files that exist and may be read, or - for standard input")
            }
            _ => Stop::new(Exit::Io, message),
        }
    })
}

fn create_failed(config: &Config) -> Result<Option<FailedLines>, Stop> {
    let Some(path) = &config.output.failed else { return Ok(None) };
    let created = FailedLines::create(path, terminator(config));
    created.map(Some).map_err(|error| path_stop("--failed: create a file beside", path, &error))
}

fn path_stop(action: &str, path: &Path, error: &std::io::Error) -> Stop {
    Stop::new(Exit::Io, format!("{action} {}: {error}", shown(path)))
}

fn stdout_stop(error: std::io::Error) -> Stop {
    Stop::new(Exit::Io, format!("write standard output: {error}"))
}

/// How the input of a configuration is split.
pub fn split(config: &Config) -> Split {
    Split {
        terminator: terminator(config),
        line_bytes_max: config.limits.line_bytes_max,
        hash: config.output.meta.is_some() || config.output.journal.is_some() || config.input.shard.is_some(),
        shard: config.input.shard,
    }
}

fn terminator(config: &Config) -> u8 {
    config.input.separator.byte()
}

fn understanding(config: &Config) -> Understanding {
    Understanding {
        form: config.input.form,
        defaults: config.defaults.clone(),
        line_bytes_max: config.limits.line_bytes_max,
        keeps_records: config.output.failed.is_some() || config.output.merge.is_some(),
        hashes: config.output.journal.is_some(),
    }
}

fn style(config: &Config) -> Style {
    let output = &config.output;
    Style { format: output.format, merge: output.merge.clone(), terminator: terminator(config) }
}

fn ledger(stage: &Stage) -> Ledger<&Reporter> {
    let output = &stage.config.output;
    // The format text has no place for errors.
    let text_errors = output.format == Some(Format::Text) && output.merge.is_none();
    Ledger::new(&stage.reporter, stage.shutdown.clone(), output.max_failed, text_errors)
}

fn window_lines_max(config: &Config) -> usize {
    WINDOW_PER_SLOT * config.limits.concurrency.get()
}

/// How the engine is to run for a configuration.
pub fn engine_settings(config: &Config) -> engine::Settings {
    let clocks = &config.clocks;
    engine::Settings {
        concurrency: config.limits.concurrency.get(),
        upstream: config.service.upstream,
        adapts: !config.limits.fixed,
        integrity: engine::Integrity {
            require_model: config.integrity.require_model,
            retry_truncated: config.integrity.retry_truncated,
        },
        // What a journal answers needs no service.
        asks_at_once: config.output.journal.is_none(),
        clocks: engine::Clocks {
            first_token: clocks.first_token,
            between_chunks: clocks.between_chunks,
            whole_reply: clocks.whole_reply,
        },
        reply_bytes_max: config.limits.reply_bytes_max,
        outage_max: Some(clocks.outage_max),
        auth_wait: clocks.auth_wait,
        retry_delay_max: clocks.retry_delay_max,
        drain: clocks.drain,
        deadline: clocks.deadline.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default()),
        endless: false,
        deltas: config.output.format == Some(Format::Events),
    }
}

/// Whether an input is a file that ends.
pub fn is_regular(input: &InputFile) -> bool {
    use std::os::fd::AsFd as _;
    let metadata = match input {
        InputFile::Path(path) => std::fs::metadata(path),
        InputFile::Stdin => {
            std::io::stdin().as_fd().try_clone_to_owned().and_then(|fd| std::fs::File::from(fd).metadata())
        }
    };
    metadata.is_ok_and(|metadata| metadata.is_file())
}

/// Whether stdin is a terminal, at which a newcomer may sit and wait.
pub fn stdin_is_terminal() -> bool {
    std::io::stdin().is_terminal()
}
