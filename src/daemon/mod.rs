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
//! | `folder` | a folder held open, whatever gets its name | what is in it |
//! | `archive` | where finished files go, if they do not stay | why |
//! | `clerk` | writes what is only told, in order | what it says |
//! | `log`, `history`, `answers`, `store` | the spool's log: its format, its sum, its records, its folder | requests |
//! | `job`, `large`, `plan` | one file that is run | other files |
//! | `rota` | whose turn it is; pure | what the turns are for |
//! | `render` | results: written, named, written down | why |
//! | `spool` | one spool: from what is found to what is done | the engine's ways |
//! | `seat` | a spool, or the wait for it when it broke | what runs in it |
//! | `desk` | the engine's side of all spools | files |
//! | `account` | whose key pays | for what |
//! | [`stamp`] | what a look at a file tells of it | what is in it |
//! | [`status`] | the status files: their schema, their writing and reading | who reads them |
//! | [`supervision`] | what the service manager is told, and the watchdog | what its counters count |

mod account;
mod answers;
mod archive;
mod claim;
mod clerk;
pub mod controls;
mod desk;
mod folder;
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
mod seat;
pub mod settle;
pub mod snapshot;
mod spending;
mod spool;
pub mod stamp;
pub mod status;
mod store;
pub mod supervision;
pub mod watch;

use std::cell::{Cell, RefCell};
use std::future::Future as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::api::client::ApiClient;
use crate::config::{Config, Verbosity};
use crate::connection;
use crate::engine::{self, HaltCause};
use crate::exit::{Exit, Stop};
use crate::filter;
use crate::journal::lock::{Holder, LockError};
use crate::journal::publish::{self, Exclusive};
use crate::journal::{self, Journal};
use crate::line::escape::shown;
use crate::shutdown::{Level, Shutdown, listen};

use account::Account;
use desk::{Desk, Front};
use seat::Seat;
use spool::{Occurrence, Shared, Spool};
use status::DaemonState;
use store::{Store, Visit};
use supervision::Supervision;

/// What comes from the threads, with the number of the spool.
type Inbox = UnboundedReceiver<(usize, Occurrence)>;

/// How long after a halt of the engine everything is tried again: at first, and at most.
const HALT_WAIT_MIN: Duration = Duration::from_secs(5);
const HALT_WAIT_MAX: Duration = Duration::from_secs(300);
/// How often it is looked meanwhile whether the key or the configuration is another.
const HALT_LOOK: Duration = Duration::from_millis(500);
/// Who waits for another's spool looks again after this time.
const STANDBY_LOOK: Duration = Duration::from_secs(1);
/// Giving the leases back may take so long, where a file system hangs.
const CLOSING_MAX: Duration = Duration::from_secs(8);
/// Results that are nearly there are waited for so long at the end.
const ENDING_MAX: Duration = Duration::from_secs(5);

/// What has to stand before a first record, when that is one of a spool's log: nothing, if it is the header itself.
/// `None` for every other record.
pub fn missing_header(payload: &str) -> Option<Option<Vec<u8>>> {
    match log::Record::parse(payload) {
        Ok(log::Record::Note(note)) if matches!(*note, log::Note::Spool { .. }) => Some(None),
        // Who holds it is said in journals, too.
        Ok(log::Record::Note(note)) if matches!(*note, log::Note::Owner { .. }) => None,
        Ok(_) => {
            let mut header = Vec::new();
            log::Note::header(0, 1).push(&mut header);
            Some(Some(header))
        }
        Err(_) => None,
    }
}

/// What the daemon needs of the process around it.
pub struct Outside {
    /// Reads the configuration anew, as the command line and the environment have it.
    pub read: Box<dyn Fn() -> Result<Config, Stop>>,
    /// Sets how much is logged.
    pub set_level: Box<dyn Fn(Verbosity)>,
}

/// Runs the daemon to its end.
pub async fn run(config: Config, outside: Outside) -> Result<Exit, Stop> {
    let shutdown = Shutdown::default();
    listen(&shutdown).map_err(|error| Stop::new(Exit::Io, format!("listen for signals: {error}")))?;
    // From the first moment: whoever hangs up means no harm.
    let hangups =
        signal(SignalKind::hangup()).map_err(|error| Stop::new(Exit::Io, format!("listen for signals: {error}")))?;
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    archive::prepare(&config)?;
    let accounts: Rc<[Account]> = Account::all(&config)?.into();
    let (tell, inbox) = unbounded_channel();
    let shared = Rc::new(Shared {
        config: RefCell::new(Rc::new(config)),
        counts: Arc::default(),
        tell,
        shutdown: shutdown.clone(),
        paused: RefCell::default(),
        rate: RefCell::default(),
        broken: RefCell::default(),
        serial: Cell::new(0),
    });
    let mut supervision = Supervision::from_environment();
    let Some(seats) = open_all(&shared, &mut supervision).await? else { return Ok(Exit::Answered) };
    supervision.ready("running");
    tracing::info!(spools = seats.len(), "running");
    let desk = Desk::new(seats, Rc::clone(&shared), inbox, supervision, outside, Rc::clone(&accounts), hangups);
    let daemon = Daemon { desk: RefCell::new(desk), shared, shutdown };
    daemon.run(&accounts).await
}

/// Takes every spool, or says who has it; `None` when the end came while it was waited for.
async fn open_all(shared: &Rc<Shared>, supervision: &mut Supervision) -> Result<Option<Vec<Seat>>, Stop> {
    let config = shared.config();
    let daemon = config.daemon.clone().unwrap_or_default();
    let mut watchdog = supervision.watchdog();
    let (mut seats, mut is_ready, mut looks) = (Vec::new(), false, 0);
    for root in &daemon.spools {
        loop {
            let wait = match open(root.clone(), Rc::clone(shared), Visit::First).await {
                Ok(spool) => {
                    seats.push(Seat::new(root.clone(), spool));
                    break;
                }
                Err(OpenError::Held(message)) if daemon.standby => message,
                Err(error) => return Err(error.into()),
            };
            if !is_ready {
                tracing::info!("standby: {wait}");
                supervision.ready(&format!("standby: {wait}"));
                is_ready = true;
            }
            // Who waits is alive as long as it looks.
            looks += 1;
            watchdog.beat(&[looks]);
            tokio::select! {
                () = tokio::time::sleep(STANDBY_LOOK) => {}
                () = above_running(&shared.shutdown) => return Ok(None),
            }
        }
    }
    Ok(Some(seats))
}

async fn above_running(shutdown: &Shutdown) {
    std::future::poll_fn(|cx| shutdown.poll_above(Level::Running, cx)).await;
}

/// Why a spool was not taken.
#[derive(Debug)]
pub enum OpenError {
    /// Another daemon has it.
    Held(String),
    /// Something else.
    Stop(Stop),
}

impl From<OpenError> for Stop {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Held(message) => Self::new(Exit::Resumable, message)
                .way_out("one daemon serves a spool; --standby waits until it is free"),
            OpenError::Stop(stop) => stop,
        }
    }
}

/// Takes a spool: its lease, its log, what is under way in it.
async fn open(root: PathBuf, shared: Rc<Shared>, visit: Visit) -> Result<Spool, OpenError> {
    let retain = shared.config().daemon.as_ref().map_or(Duration::ZERO, |daemon| daemon.retain);
    let store = Store::open(&root, visit).map_err(OpenError::Stop)?;
    let begun = store.clone();
    let opened = Journal::start(&store.lease(), move || begun.begin(retain)).await;
    let (log, found) = opened.map_err(|error| match error {
        journal::Error::Lock(lock) if is_held_by_another(&lock) => OpenError::Held(lock.to_string()),
        error => OpenError::Stop(error.into()),
    })?;
    if found.torn_bytes > 0 {
        tracing::warn!(bytes = found.torn_bytes, "an unfinished record at the end of the log was left out");
    }
    let how = probe(&root).map_err(OpenError::Stop)?;
    let log_path = store.log(found.history.generation);
    let (history, holder) = (found.history, found.holder);
    let opened = spool::Opened { root: root.clone(), store, log, log_path, history, holder, how };
    Spool::new(opened, shared).map_err(|error| {
        OpenError::Stop(Stop::new(Exit::Io, format!("start the threads of {}: {error}", shown(&root))))
    })
}

/// Whether it is another process that has the lease: our own last use of it may not have ended yet.
fn is_held_by_another(error: &LockError) -> bool {
    match error {
        LockError::Held { holder: Some(holder), .. } => {
            !Holder::this_process(None).is_ok_and(|me| me.same_boot(holder) && me.pid == holder.pid)
        }
        LockError::Held { holder: None, .. } => true,
        _ => false,
    }
}

/// Finds out before anything is sent how results get their names here.
fn probe(root: &Path) -> Result<Exclusive, Stop> {
    let target: PathBuf = root.join("anvil-result");
    publish::remove_leftovers(&target)
        .map_err(|error| Stop::new(Exit::Io, format!("write in {}: {error}", shown(root))))?;
    publish::probe(&target).map_err(|error| Stop::from(journal::Error::from(error)))
}

struct Daemon {
    desk: RefCell<Desk>,
    shared: Rc<Shared>,
    shutdown: Shutdown,
}

impl Daemon {
    /// Runs one engine for each account, all on this task, so that whatever wakes one lets every other look as well.
    async fn run(self, accounts: &[Account]) -> Result<Exit, Stop> {
        let ended = {
            let mut engines: Vec<_> = accounts.iter().map(|account| Some(Box::pin(self.serve(account)))).collect();
            std::future::poll_fn(|cx| {
                if self.desk.borrow_mut().poll_all(cx) {
                    // What was handled may have made work for others, and more may wait.
                    cx.waker().wake_by_ref();
                }
                for engine in &mut engines {
                    if engine.as_mut().is_some_and(|engine| engine.as_mut().poll(cx).is_ready()) {
                        *engine = None;
                    }
                }
                self.desk.borrow_mut().flush(cx);
                if engines.iter().all(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            self.shutdown.level() == Level::Running
        };
        self.end(ended).await
    }

    /// Serves an account until the daemon ends: a halt of its engine is waited out.
    async fn serve(&self, account: &Account) {
        let mut wait = HALT_WAIT_MIN;
        while self.shutdown.level() == Level::Running && !self.desk.borrow_mut().has_drained() {
            let began = Instant::now();
            let halt = match account.clients(&self.shared.config()) {
                Ok(clients) => {
                    self.desk.borrow_mut().begin(account.place);
                    let mut front = Front { desk: &self.desk, account: account.place };
                    let endpoints = self.endpoints(account, &clients);
                    match engine::run(self.settings(), endpoints, &mut front, &self.shutdown).await {
                        engine::Ended::Halted(halt) => halt,
                        _ => return,
                    }
                }
                Err(stop) => engine::Halt {
                    cause: HaltCause::TokenRejected,
                    message: stop.message,
                    way_out: stop.way_out.unwrap_or_default(),
                },
            };
            if began.elapsed() > HALT_WAIT_MAX {
                wait = HALT_WAIT_MIN;
            }
            self.desk.borrow_mut().suspend(account.place, account.name(), &halt);
            self.wait_out(&halt, account, wait).await;
            wait = (wait * 2).min(HALT_WAIT_MAX);
        }
    }

    fn endpoints<'c>(&self, account: &Account, clients: &'c [ApiClient]) -> Vec<engine::Endpoint<'c, ApiClient>> {
        let mut endpoints = connection::endpoints(&self.shared.config(), clients);
        let found = self.desk.borrow().dialect();
        if let [only] = &mut endpoints[..] {
            only.dialect = only.dialect.or(found);
        }
        self.desk.borrow_mut().spendings().remember(account.place, &mut endpoints);
        endpoints
    }

    fn settings(&self) -> engine::Settings {
        let config = self.shared.config();
        engine::Settings {
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

    /// Waits until what halted an engine may have passed, or the configuration was read anew.
    async fn wait_out(&self, halt: &engine::Halt, account: &Account, wait: Duration) {
        let (began, reloads) = (Instant::now(), self.desk.borrow().reloads());
        while began.elapsed() < wait {
            tokio::select! {
                () = tokio::time::sleep(HALT_LOOK) => {}
                () = above_running(&self.shutdown) => return,
            }
            let config = self.shared.config();
            let has_new_key = || halt.cause == HaltCause::TokenRejected && account.has_new_key(&config);
            if self.desk.borrow().reloads() != reloads || has_new_key() || self.desk.borrow_mut().has_drained() {
                return;
            }
        }
    }

    /// The end: what is nearly published is waited for, everything else is in the log.
    async fn end(self, complete: bool) -> Result<Exit, Stop> {
        let mut desk = self.desk.into_inner();
        desk.stopping(DaemonState::Draining);
        let stop = desk.take_stop();
        if stop.is_none() && self.shutdown.level() < Level::Aborting {
            let _ = tokio::time::timeout(ENDING_MAX, desk.end()).await;
        }
        let closed = tokio::time::timeout(CLOSING_MAX, desk.close()).await.unwrap_or_else(|_| {
            Err(Stop::new(Exit::Io, "the file system does not answer: ended without giving the lease back")
                .way_out("the next daemon takes it, and goes on from the log"))
        });
        tracing::info!("ended");
        match (stop.or_else(|| desk.take_stop()), closed) {
            (Some(stop), _) | (None, Err(stop)) => Err(stop),
            (None, Ok(())) if complete => Ok(desk.exit_of_once()),
            (None, Ok(())) => Ok(Exit::Answered),
        }
    }
}
