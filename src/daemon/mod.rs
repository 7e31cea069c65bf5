//! Daemon mode: prompt files that are dropped into a folder are run through the engine, and their results are written
//! beside them.
//!
//! | file | job | what it refuses to know |
//! |---|---|---|
//! | [`controls`] | the files by which people cancel and repeat | what that means |
//! | [`names`] | what the names of files mean | what is in them |
//! | [`recipe`] | the settings of a folder | which files lie there |
//! | [`scan`] | finds files, and when they may be taken | what becomes of them |
//! | [`snapshot`] | a private copy of an input, whatever others do to it | what its contents mean |
//! | `claim` | takes files and reads them, on a thread of its own | the engine |
//! | `log`, `history`, `answers`, `store` | the spool's log: its format, its sum, its records, its folder | requests |
//! | `job`, `large`, `plan` | one file that is run | other files |
//! | `rota` | whose turn it is; pure | what the turns are for |
//! | `render` | results: written, named, written down | why |
//! | `spool` | one spool: from what is found to what is done | the engine's ways |
//! | `desk` | the engine's side of all spools | files |
//! | [`stamp`] | what a look at a file tells of it | what is in it |
//! | [`status`] | the status files: their schema, their writing and reading | who reads them |
//! | [`supervision`] | what the service manager is told, and the watchdog | what its counters count |

mod answers;
mod claim;
pub mod controls;
mod desk;
mod history;
mod job;
mod large;
mod log;
pub mod names;
mod plan;
pub mod recipe;
mod render;
mod rota;
pub mod scan;
pub mod settle;
pub mod snapshot;
mod spool;
pub mod stamp;
pub mod status;
mod store;
pub mod supervision;
pub mod watch;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::config::Config;
use crate::connection;
use crate::engine::{self, HaltCause};
use crate::exit::{Exit, Stop};
use crate::filter;
use crate::journal::lock::{Holder, LockError};
use crate::journal::publish::{self, Exclusive};
use crate::journal::{self, Journal};
use crate::line::escape::shown;
use crate::shutdown::{Level, Shutdown, listen};

use desk::Desk;
use spool::{Occurrence, Shared, Spool};
use status::DaemonState;
use store::Store;
use supervision::Supervision;

/// What comes from the threads, with the number of the spool.
type Inbox = UnboundedReceiver<(usize, Occurrence)>;

/// How long after a halt of the engine everything is tried again: at first, and at most.
const HALT_WAIT_MIN: Duration = Duration::from_secs(5);
const HALT_WAIT_MAX: Duration = Duration::from_secs(300);
/// Who waits for another's spool looks again after this time.
const STANDBY_LOOK: Duration = Duration::from_secs(1);
/// Results that are nearly there are waited for so long at the end.
const ENDING_MAX: Duration = Duration::from_secs(5);

/// Reads the configuration anew, as the command line and the environment have it.
pub type Reload = Box<dyn Fn() -> Result<Config, Stop>>;

/// Runs the daemon to its end.
pub async fn run(config: Config, reload: Reload) -> Result<Exit, Stop> {
    let client = Rc::new(connection::client(&config)?);
    let shutdown = Shutdown::default();
    listen(&shutdown).map_err(|error| Stop::new(Exit::Io, format!("listen for signals: {error}")))?;
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let (tell, inbox) = unbounded_channel();
    let shared = Rc::new(Shared {
        config: RefCell::new(Rc::new(config)),
        counts: Arc::default(),
        tell,
        shutdown: shutdown.clone(),
        paused: RefCell::default(),
        rate: RefCell::default(),
    });
    let mut supervision = Supervision::from_environment();
    let Some(spools) = open_all(&shared, &mut supervision).await? else { return Ok(Exit::Answered) };
    supervision.ready("running");
    tracing::info!(spools = spools.len(), "running");
    let desk = Desk::new(spools, Rc::clone(&shared), inbox, supervision, Rc::clone(&client), reload)?;
    Daemon { desk, shared, client, shutdown }.run().await
}

/// Takes every spool, or says who has it; `None` when the end came while it was waited for.
async fn open_all(shared: &Rc<Shared>, supervision: &mut Supervision) -> Result<Option<Vec<Spool>>, Stop> {
    let config = shared.config();
    let daemon = config.daemon.clone().unwrap_or_default();
    let mut spools = Vec::new();
    let mut is_ready = false;
    for (index, root) in daemon.spools.iter().enumerate() {
        loop {
            let wait = match open(index, root, daemon.retain, shared).await {
                Ok(spool) => {
                    spools.push(spool);
                    break;
                }
                Err(OpenError::Held(message)) if daemon.standby => message,
                Err(OpenError::Held(message)) => {
                    return Err(Stop::new(Exit::Resumable, message)
                        .way_out("one daemon serves a spool; --standby waits until it is free"));
                }
                Err(OpenError::Stop(stop)) => return Err(stop),
            };
            if !is_ready {
                tracing::info!("standby: {wait}");
                supervision.ready(&format!("standby: {wait}"));
                is_ready = true;
            }
            tokio::select! {
                () = tokio::time::sleep(STANDBY_LOOK) => {}
                () = above_running(&shared.shutdown) => return Ok(None),
            }
            pulse(supervision);
        }
    }
    Ok(Some(spools))
}

/// Standby is alive as long as it looks.
fn pulse(supervision: &mut Supervision) {
    let _ = supervision.watchdog().beat(&[1]);
}

async fn above_running(shutdown: &Shutdown) {
    std::future::poll_fn(|cx| shutdown.poll_above(Level::Running, cx)).await;
}

/// Why a spool was not taken.
enum OpenError {
    /// Another daemon has it.
    Held(String),
    /// Something else, which ends the daemon.
    Stop(Stop),
}

async fn open(index: usize, root: &Path, retain: Duration, shared: &Rc<Shared>) -> Result<Spool, OpenError> {
    let stop = |stop: Stop| OpenError::Stop(stop);
    let store = Store::open(root).map_err(stop)?;
    let begun = store.clone();
    let opened = Journal::start(&store.lease(), move || begun.begin(retain)).await;
    let (log, found) = opened.map_err(|error| match error {
        journal::Error::Lock(lock) if matches!(*lock, LockError::Held { .. }) => OpenError::Held(lock.to_string()),
        error => OpenError::Stop(error.into()),
    })?;
    if found.torn_bytes > 0 {
        tracing::warn!(bytes = found.torn_bytes, "an unfinished record at the end of the log was left out");
    }
    let how = probe(root, &found.holder).map_err(stop)?;
    let log_path = store.log(found.history.generation);
    let opened =
        spool::Opened { root: root.to_owned(), store, log, log_path, history: found.history, holder: found.holder, how };
    Spool::new(index, opened, Rc::clone(shared)).map_err(|error| {
        OpenError::Stop(Stop::new(Exit::Io, format!("start the threads of {}: {error}", shown(root))))
    })
}

/// Finds out before anything is sent how results get their names here.
fn probe(root: &Path, _: &Holder) -> Result<Exclusive, Stop> {
    let target: PathBuf = root.join("anvil-result");
    publish::remove_leftovers(&target)
        .map_err(|error| Stop::new(Exit::Io, format!("write in {}: {error}", shown(root))))?;
    publish::probe(&target).map_err(|error| Stop::from(journal::Error::from(error)))
}

struct Daemon {
    desk: Desk,
    shared: Rc<Shared>,
    client: Rc<crate::api::client::ApiClient>,
    shutdown: Shutdown,
}

impl Daemon {
    async fn run(mut self) -> Result<Exit, Stop> {
        let mut wait = HALT_WAIT_MIN;
        loop {
            let began = Instant::now();
            let settings = self.settings();
            let ended = engine::run(settings, &*self.client, &mut self.desk, &self.shutdown).await;
            match ended {
                engine::Ended::Halted(halt) if self.shutdown.level() == Level::Running => {
                    if began.elapsed() > HALT_WAIT_MAX {
                        wait = HALT_WAIT_MIN;
                    }
                    self.desk.suspend(&halt);
                    self.wait_out(&halt, wait).await;
                    wait = (wait * 2).min(HALT_WAIT_MAX);
                }
                ended => return self.end(ended).await,
            }
            if self.shutdown.level() > Level::Running {
                return self.end(engine::Ended::Drained).await;
            }
        }
    }

    fn settings(&self) -> engine::Settings {
        let config = self.shared.config();
        engine::Settings {
            dialect: self.desk.dialect().or(config.service.dialect),
            asks_at_once: false,
            // However long the service is out: the daemon waits.
            outage_max: None,
            auth_wait: Duration::MAX,
            deadline: None,
            endless: true,
            deltas: false,
            ..filter::engine_settings(&config)
        }
    }

    /// Waits until what halted the engine may have passed, or the configuration was read anew.
    async fn wait_out(&mut self, halt: &engine::Halt, wait: Duration) {
        let until = tokio::time::sleep(wait);
        tokio::pin!(until);
        let cause = halt.cause;
        let mut key_look = tokio::time::interval(STANDBY_LOOK);
        loop {
            tokio::select! {
                () = &mut until => return,
                () = above_running(&self.shutdown) => return,
                reloaded = self.desk.next_change() => if reloaded { return },
                _ = key_look.tick(), if cause == HaltCause::TokenRejected => {
                    if crate::api::transport::Transport::renew_token(&*self.client) == Ok(true) {
                        return;
                    }
                }
            }
        }
    }

    /// The end: what is nearly published is waited for, everything else is in the log.
    async fn end(mut self, ended: engine::Ended) -> Result<Exit, Stop> {
        self.desk.stopping(DaemonState::Draining);
        let stop = self.desk.take_stop();
        if stop.is_none() && self.shutdown.level() < Level::Aborting {
            let _ = tokio::time::timeout(ENDING_MAX, self.desk.end()).await;
        }
        let closed = self.desk.close().await;
        tracing::info!("ended");
        match (stop.or_else(|| self.desk.take_stop()), closed) {
            (Some(stop), _) | (None, Err(stop)) => Err(stop),
            (None, Ok(())) if ended == engine::Ended::Complete => Ok(self.desk.exit_of_once()),
            (None, Ok(())) => Ok(Exit::Answered),
        }
    }
}
