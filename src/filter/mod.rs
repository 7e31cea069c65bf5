//! Filter mode: request lines in, completion lines out. Wires reader → engine → window → writer, and judges the end.
//!
//! Invariant: the status tells the truth. 0 only when every line has its completion and every byte was written.

mod failed;
mod mode;
pub mod reader;
mod window;
mod writer;

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::api::token::{TokenSource, jwt_expiry};
use crate::config::{Config, InputFile, Separator};
use crate::connection;
use crate::engine::{self, Ended, HaltCause};
use crate::exit::{Exit, Stop};
use crate::line::Format;
use crate::line::completion::Style;
use crate::line::escape::shown;
use crate::report::Reporter;
use crate::report::meta;
use crate::shutdown::{Cause, Level, Shutdown, listen};

pub use crate::config::Order;
use failed::FailedLines;
use mode::{Filter, Rest, Why};
use reader::{End, Source, Split};
use window::Window;
use writer::Writer;

/// The reorder window, as a multiple of the concurrency: wide enough that one slow request does not idle the others.
const WINDOW_PER_SLOT: usize = 64;

/// A token that lives longer is not worth a word at the start.
const EXPIRY_NEAR: Duration = Duration::from_secs(48 * 3600);

/// Runs the filter to its end.
pub async fn run(config: Config) -> Result<Exit, Stop> {
    let sources = open_sources(&config)?;
    let failed_lines = create_failed(&config)?;
    let writer = Writer::to_stdout().map_err(stdout_stop)?;
    let client = connection::client(&config)?;
    let shutdown = Shutdown::default();
    listen(&shutdown).map_err(|error| Stop::new(Exit::Io, format!("listen for signals: {error}")))?;
    let reporter = Reporter::start(&config, regular_files(&sources), writer::stdout_is_terminal());
    if let Some(warning) = expiry_warning(&config, SystemTime::now()) {
        reporter.warn(&warning);
    }
    let split = split(&config);
    let understanding = understanding(&config);
    let input = reader::spawn(sources, split, move |line, found| understanding.of(line, found))
        .map_err(|error| Stop::new(Exit::Io, format!("start the reading thread: {error}")))?;
    let lines_max = WINDOW_PER_SLOT * config.limits.concurrency.get();
    let window = Window::new(config.output.order, lines_max, config.limits.window_bytes_max);
    let mut filter =
        Filter::new(mode_settings(&config), input, window, writer, failed_lines, &reporter, shutdown.clone());
    let ended = engine::run(engine_settings(&config), &client, &mut filter, &shutdown).await;
    let rest = filter.finish();
    if matches!(rest.why, Some(Why::NoModel)) {
        return Err(connection::no_model(&client).await);
    }
    Closing { config: &config, reporter: &reporter, shutdown: &shutdown }.close(ended, rest).await
}

/// What a token's own expiry says, when it is near or past. The token is read, not verified.
fn expiry_warning(config: &Config, now: SystemTime) -> Option<String> {
    let secret = config.service.token.read().ok()??;
    let expiry = jwt_expiry(&secret)?;
    let way_out = "get a new one from the web page of the service (Settings, Account)";
    match expiry.duration_since(now) {
        Err(_) => Some(format!("the token has expired, it says; {way_out}")),
        Ok(left) if left < EXPIRY_NEAR => {
            let minutes = Duration::from_secs(left.as_secs().div_ceil(60) * 60);
            Some(format!("the token expires in {}; {way_out}", humantime::format_duration(minutes)))
        }
        Ok(_) => None,
    }
}

/// Opens every input; one that cannot be read is found before anything is sent.
pub fn open_sources(config: &Config) -> Result<Vec<Source>, Stop> {
    config.input.files.iter().map(open_source).collect()
}

fn open_source(input: &InputFile) -> Result<Source, Stop> {
    let opened = match input {
        InputFile::Path(path) => reader::open(path),
        InputFile::Stdin => {
            use std::os::fd::AsFd as _;
            let file = std::io::stdin().as_fd().try_clone_to_owned().map(std::fs::File::from);
            file.map(|file| Source { name: "standard input".to_owned(), file })
                .map_err(|error| format!("read standard input: {error}"))
        }
    };
    opened.map_err(|message| {
        Stop::new(Exit::Input, message).way_out("name files that exist and may be read, or - for standard input")
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
    }
}

fn terminator(config: &Config) -> u8 {
    match config.input.separator {
        Separator::Newline => b'\n',
        Separator::Nul => 0,
    }
}

fn understanding(config: &Config) -> mode::Understanding {
    mode::Understanding {
        form: config.input.form,
        defaults: config.defaults.clone(),
        line_bytes_max: config.limits.line_bytes_max,
        keep_records: config.output.failed.is_some() || config.output.merge.is_some(),
    }
}

fn mode_settings(config: &Config) -> mode::Settings {
    let output = &config.output;
    mode::Settings {
        style: Style { format: output.format, merge: output.merge.clone(), terminator: terminator(config) },
        max_failed: output.max_failed,
        text_errors: output.format == Some(Format::Text) && output.merge.is_none(),
    }
}

/// How the engine is to run for a configuration.
pub fn engine_settings(config: &Config) -> engine::Settings {
    let clocks = &config.clocks;
    engine::Settings {
        concurrency: config.limits.concurrency.get(),
        upstream: config.service.upstream,
        dialect: config.service.dialect,
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
        deltas: config.output.format == Some(Format::Events),
    }
}

/// The end of a run: everything is written, counted and told.
struct Closing<'a> {
    config: &'a Config,
    reporter: &'a Reporter,
    shutdown: &'a Shutdown,
}

impl Closing<'_> {
    async fn close(&self, ended: Ended, rest: Rest) -> Result<Exit, Stop> {
        let Rest { writer, mut failed_lines, end, why, unsettled, unread } = rest;
        let complete = ended == Ended::Complete;
        if let Some(file) = failed_lines.as_mut().filter(|_| !complete) {
            // A pipe may never end; a file's rest is as unsettled as what was in flight.
            let wait = self.config.input.files.iter().all(is_regular);
            unread.for_each(wait, |record| file.push(record)).await;
        }
        let (why, written) = match why {
            Some(Why::Stdout(error)) => (None, Err(error)),
            why => (why, self.write_out(writer).await),
        };
        let failed_written = failed_lines.map_or(Ok(()), FailedLines::finish);
        let files = self.judge_files(written, failed_written, end.as_ref());
        let exit = match files {
            Ok(None) => self.judge(&ended, unsettled, why.as_ref()),
            Ok(Some(exit)) => Ok(exit),
            Err(stop) => Err(stop),
        };
        let status = match &exit {
            Ok(exit) => *exit,
            Err(stop) => stop.exit,
        };
        self.reporter.finish(unsettled, complete, end.is_some(), status);
        let facts = end.map(|end| meta::InputFacts { lines: end.lines, sha256: end.sha256 });
        meta::write(self.config, self.reporter, facts, unsettled, status)?;
        exit
    }

    /// Writes what is left. After a signal the reader of stdout has the time of a drain to take it, after a second none.
    async fn write_out(&self, writer: Writer) -> io::Result<()> {
        let level_above = |level| std::future::poll_fn(move |cx| self.shutdown.poll_above(level, cx));
        let patience = async {
            level_above(Level::Running).await;
            let _ = tokio::time::timeout(self.config.clocks.drain, level_above(Level::Draining)).await;
        };
        tokio::select! {
            biased;
            written = writer.finish() => written,
            () = patience => Err(io::Error::new(io::ErrorKind::TimedOut, "its reader did not take the rest in time")),
        }
    }

    /// What reading and writing came to: a status when the reader of stdout went away, an error when bytes were lost.
    fn judge_files(
        &self,
        written: io::Result<()>,
        failed_written: io::Result<()>,
        end: Option<&End>,
    ) -> Result<Option<Exit>, Stop> {
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Some(Exit::ReaderGone)),
            // The signal that ended the waiting is the better status.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return self.judge_stop(None).map(Some),
            Err(error) => return Err(stdout_stop(error)),
            Ok(()) => {}
        }
        if let (Err(error), Some(path)) = (failed_written, &self.config.output.failed) {
            return Err(path_stop("--failed: write", path, &error));
        }
        end.and_then(|end| end.error.as_ref()).map_or(Ok(None), |error| Err(Stop::new(Exit::Io, error.clone())))
    }

    fn judge(&self, ended: &Ended, unsettled: u64, why: Option<&Why>) -> Result<Exit, Stop> {
        match ended {
            Ended::Complete if unsettled > 0 => {
                let message = format!("{unsettled} lines were lost on the way; this is a defect of the program");
                Err(Stop::new(Exit::Io, message).way_out("run the same command again, and report it"))
            }
            Ended::Complete => Ok(self.judge_failures()),
            Ended::Halted(halt)
                if halt.cause == HaltCause::TokenRejected
                    && matches!(*self.config.service.token, TokenSource::None) =>
            {
                Err(Stop::new(Exit::TokenRejected, "the service wants a key, and none was given")
                    .way_out("put it into ANVILGPT_API_KEY, or into a file that --api-key-file names"))
            }
            Ended::Halted(halt) => {
                Err(Stop::new(exit_of(halt.cause), halt.message.clone()).way_out(halt.way_out.clone()))
            }
            Ended::Drained | Ended::Aborted => self.judge_stop(why),
        }
    }

    fn judge_failures(&self) -> Exit {
        let counts = self.reporter.counts();
        let allowed = self
            .config
            .output
            .allow_failed
            .is_some_and(|allowance| allowance.permits(counts.failed(), counts.settled()));
        if counts.failed() == 0 || allowed { Exit::Answered } else { Exit::SomeFailed }
    }

    fn judge_stop(&self, why: Option<&Why>) -> Result<Exit, Stop> {
        match (why, self.shutdown.cause()) {
            (_, Some(Cause::Interrupt)) => Ok(Exit::Interrupted),
            (_, Some(Cause::Terminate)) => Ok(Exit::Terminated),
            (_, Some(Cause::Requeue)) => Ok(Exit::Resumable),
            _ => {
                let message =
                    format!("stopped: {} lines failed, more than --max-failed allows", self.reporter.counts().failed());
                Err(Stop::new(Exit::Resumable, message)
                    .way_out("look at the errors in the output, mend their cause, and run the same command again"))
            }
        }
    }
}

fn exit_of(cause: HaltCause) -> Exit {
    match cause {
        HaltCause::ServiceRefuses => Exit::Unavailable,
        HaltCause::Misconfigured => Exit::Config,
        HaltCause::TokenRejected => Exit::TokenRejected,
        HaltCause::Outage => Exit::Resumable,
    }
}

/// The inputs as files that can be read a second time, when all of them can.
fn regular_files(sources: &[Source]) -> Option<Vec<std::fs::File>> {
    let regular = |file: &std::fs::File| file.metadata().is_ok_and(|metadata| metadata.is_file());
    sources.iter().map(|source| source.file.try_clone().ok().filter(regular)).collect()
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
