//! # anvil-filter: the architecture
//!
//! One engine turns requests into outcomes; the filter feeds it from stdin and writes what comes out to stdout, or keeps
//! it in a journal and renders a file from that. The daemon feeds it from files that are dropped into a folder, and keeps
//! all of it in a journal.
//!
//! ```text
//! main → lib → cli → config
//! command → daemon → filter → report, connection, journal, engine → api → flow, line
//! ```
//!
//! Arrows point one way; an ordinary test (`tests/house.rs`) reads the sources and fails on one that runs back.
//!
//! | room | job | what it refuses to know |
//! |---|---|---|
//! | [`mod@line`] | request lines to [`line::Request`], outcomes to completion lines; pure | servers, files, clocks |
//! | [`api`] | dialects, streams, verdicts (pure); the transport (thin) | retries, order |
//! | [`flow`] | limit, quotas, breaker, budget, backoff, forecasts; pure, time is an argument | HTTP, lines |
//! | [`engine`] | the core loop: slots, attempts, retries, halts | lines, files, stdout |
//! | [`journal`] | records, index, lock, durable writes, files that appear whole | stdin, stdout, the engine |
//! | [`filter`] | reader → engine → window → writer, exit status | HTTP |
//! | [`daemon`] | spool folders: what is found, taken, run, published, remembered | HTTP, stdin, stdout |
//! | [`report`] | events to progress, summary, meta file | what anything means |
//!
//! ## Invariants
//!
//! - *Conservation*: a non-blank input line is admitted to the window once and leaves it once ([`filter`]).
//! - *Bounded memory*: the reader holds two blocks, the window a number of lines and bytes, a reply its cap; behind a
//!   stalled reader of stdout lie a few buffers. Room comes back when bytes were written, and gates only what is let in.
//! - *The engine pulls*: it holds no queue of fresh work. Retries wait in its timer heap, bounded by the window.
//! - *Nothing is paid twice*: with a journal, a slot stays taken until its outcome is durable, and nobody hears of an
//!   outcome before.
//! - *One owner per state*: one task owns engine and mode; threads are only the reader, the writer, the journal (which
//!   does every durable write of a run) and the display. A pipe in which little comes is read, and written, by the task
//!   itself, where the kernel can say that it need not wait; then a line wakes nobody else.
//!   There is no lock on the way of a line, but for the one around counted names.
//! - *A reply is an answer only when it holds up*: every doubt is a signal of its own ([`api::signal`]).
//! - *One file writes stdout* (`filter/writer.rs`; the small commands print theirs in `command/mod.rs`), and two small
//!   files have unsafe code (`stdout_probe.rs`, `daemon/snapshot/writers.rs`).

pub mod api;
pub mod cli;
pub mod command;
pub mod config;
pub mod connection;
pub mod daemon;
pub mod engine;
pub mod exit;
pub mod filter;
pub mod flow;
pub mod journal;
pub mod line;
pub mod report;
pub mod shutdown;
pub mod stdout_probe;

use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};

use cli::{Cli, CliExit};
use config::{Action, Config, Environment, Task};
use exit::{Exit, Stop};

/// Runs the program with the process's own arguments and environment, and returns its status.
pub fn run() -> Exit {
    // Keys must not lie in core dumps, nor be read by others' debuggers. Where that is refused, no harm is done.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    match cli::parse(std::env::args_os()) {
        Ok(cli) => run_cli(cli).unwrap_or_else(|stop| tell(&stop)),
        Err(CliExit::Help(text)) => print_help(&text),
        Err(CliExit::Usage(stop)) => tell(&stop),
    }
}

fn run_cli(cli: Cli) -> Result<Exit, Stop> {
    if cli.reads_stdin_unasked() && filter::stdin_is_terminal() {
        report::say(cli::short_usage());
        return Ok(Exit::Usage);
    }
    run_task(cli.into_task(&Environment::from_process())?)
}

fn run_task(task: Task) -> Result<Exit, Stop> {
    match task {
        Task::Run(config) => run_config(*config),
        Task::Journal(task) => command::journal::run(&task),
        Task::Merge(task) => command::merge::run(&task),
        Task::Status(task) => command::status::run(&task),
        Task::Submit(task) => command::submit::run(&task),
    }
}

fn run_config(config: Config) -> Result<Exit, Stop> {
    let level = match &config.daemon {
        Some(daemon) => Some(report::log::start(config.report.verbosity, daemon.log_format)?),
        None => {
            report::start_log(config.report.verbosity);
            None
        }
    };
    must_have_descriptors()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Stop::new(Exit::Io, format!("start the runtime: {error}")))?;
    let result = runtime.block_on(async {
        match config.action {
            // One of several, and larger than the others by far.
            Action::Filter => Box::pin(filter::run(config)).await,
            Action::DryRun => command::dry_run::run(config).await,
            Action::Check => command::check::run(config).await,
            Action::Models => command::models::run(config).await,
            Action::Daemon => {
                let set_level = move |verbosity| level.iter().for_each(|level| level.set(verbosity));
                daemon::run(config, daemon::Outside { read: Box::new(reload), set_level: Box::new(set_level) }).await
            }
        }
    });
    // A name look-up or a read of an idle stdin may still block a thread; nobody waits for it.
    runtime.shutdown_background();
    result
}

/// The configuration as command line, environment and files have it now.
fn reload() -> Result<Config, Stop> {
    let cli = cli::parse(std::env::args_os()).map_err(|exit| match exit {
        CliExit::Usage(stop) => stop,
        CliExit::Help(_) => Stop::usage("help was asked for"),
    })?;
    match cli.into_task(&Environment::from_process())? {
        Task::Run(config) => Ok(*config),
        _ => Err(Stop::usage("another task was asked for")),
    }
}

/// The runtime panics when there is no descriptor left for the sockets by which it hears of signals.
fn must_have_descriptors() -> Result<(), Stop> {
    const RUNTIME_DESCRIPTORS: usize = 8;
    let spare: std::io::Result<Vec<OwnedFd>> =
        (0..RUNTIME_DESCRIPTORS).map(|_| std::io::stdin().as_fd().try_clone_to_owned()).collect();
    spare.map(drop).map_err(|error| {
        Stop::new(Exit::Io, format!("start: {error}")).way_out("allow more open files: ulimit -n 1024")
    })
}

fn tell(stop: &Stop) -> Exit {
    if stop.exit != Exit::ReaderGone {
        report::say(&format!("anvil-filter: {stop}"));
    }
    stop.exit
}

fn print_help(text: &str) -> Exit {
    if !stdout_probe::was_open() {
        return tell(&Stop::new(Exit::Io, "write standard output: it is closed"));
    }
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => Exit::Answered,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::ReaderGone,
        Err(_) => Exit::Io,
    }
}
