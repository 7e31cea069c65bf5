//! A spool's place in the daemon: the spool, or the wait until it can be used again. A folder that was unmounted, a full
//! disk or a failed sync end a spool, not the daemon.
//!
//! Invariant: slots of the engine that were held for a spool come free when it breaks: its answers are not durable, and
//! are asked again, at most as many as were in flight.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::OpenError;
use super::spool::{Shared, Spool};
use super::store::Visit;
use crate::engine::Slot;
use crate::exit::{Exit, Stop};
use crate::journal::Error;
use crate::journal::lock::LockError;
use crate::line::escape::shown;
use crate::line::{Outcome, Request};

/// The log is told so often that a spool cannot be used.
const LOG_AGAIN: Duration = Duration::from_secs(60);
/// A spool that broke is tried again after this time.
const AGAIN: Duration = Duration::from_secs(2);

type Opening = Pin<Box<dyn Future<Output = Result<Spool, OpenError>>>>;

enum State {
    Open(Box<Spool>),
    Opening(Opening),
}

/// A spool's place.
pub struct Seat {
    root: PathBuf,
    state: State,
    /// Slots that wait for their answers to be durable, by account.
    held: BTreeMap<usize, usize>,
    /// Slots whose answers never will be.
    freed: BTreeMap<usize, usize>,
    /// Slots of an engine that has ended: nobody waits for them any more.
    void: BTreeMap<usize, usize>,
    /// When the log was told last that the spool cannot be used.
    logged: Option<Instant>,
}

impl Seat {
    /// The place of an open spool.
    pub fn new(root: PathBuf, spool: Spool) -> Self {
        Self {
            root,
            state: State::Open(Box::new(spool)),
            held: BTreeMap::new(),
            freed: BTreeMap::new(),
            void: BTreeMap::new(),
            logged: None,
        }
    }

    /// The spool, when it can be used.
    pub fn spool(&mut self) -> Option<&mut Spool> {
        match &mut self.state {
            State::Open(spool) => Some(spool),
            State::Opening(_) => None,
        }
    }

    /// Whether the spool of this number is here.
    pub fn is(&self, index: usize) -> bool {
        matches!(&self.state, State::Open(spool) if spool.index() == index)
    }

    /// Whether there is nothing left to do.
    pub fn is_drained(&mut self) -> bool {
        self.spool().is_some_and(|spool| spool.is_drained())
    }

    /// A request is settled.
    pub fn settle(&mut self, account: usize, (slot, line): (u32, u32), request: &Request, outcome: Outcome) -> Slot {
        let Some(spool) = self.spool() else { return Slot::Free };
        let settled = spool.settle(slot, line, request, outcome);
        if settled == Slot::Held {
            *self.held.entry(account).or_default() += 1;
        }
        settled
    }

    /// Slots of an account that came free since the last call.
    pub fn take_freed(&mut self, account: usize) -> usize {
        let mut freed = self.spool().map_or(0, |spool| spool.take_freed(account));
        if let Some(void) = self.void.get_mut(&account) {
            let nobodys = freed.min(*void);
            *void -= nobodys;
            freed -= nobodys;
        }
        if let Some(held) = self.held.get_mut(&account) {
            *held -= freed;
        }
        freed + self.freed.remove(&account).unwrap_or_default()
    }

    /// The engine of an account has ended: what it held is held for nobody.
    pub fn forget_held(&mut self, account: usize) {
        self.freed.remove(&account);
        let held = self.held.remove(&account).unwrap_or_default();
        *self.void.entry(account).or_default() += held;
    }

    /// Hears of what happened to the spool, or opens it again. Fails when another daemon has it now, and nobody said
    /// that this one is to wait.
    pub fn poll(&mut self, shared: &Rc<Shared>, cx: &mut Context<'_>) -> Result<(), Stop> {
        if let State::Open(spool) = &mut self.state {
            spool.poll(cx);
            let Some(error) = spool.failure() else { return Ok(()) };
            self.close(error, shared)?;
        }
        if let State::Opening(opening) = &mut self.state
            && let Poll::Ready(opened) = opening.as_mut().poll(cx)
        {
            match opened {
                Ok(spool) => {
                    tracing::info!("{} can be used again", shown(&self.root));
                    shared.broken.borrow_mut().remove(&self.root);
                    self.logged = None;
                    self.state = State::Open(Box::new(spool));
                }
                Err(error @ OpenError::Held(_)) if !waits(shared) => return Err(error.into()),
                Err(error) if shared.config().daemon.as_ref().is_some_and(|daemon| daemon.once) => {
                    // Who runs it once runs it again.
                    let Stop { message, way_out, .. } = error.into();
                    return Err(Stop { exit: Exit::Resumable, message, way_out });
                }
                Err(error) => self.wait(Stop::from(error).message, shared),
            }
            cx.waker().wake_by_ref();
        }
        Ok(())
    }

    fn close(&mut self, error: Error, shared: &Rc<Shared>) -> Result<(), Stop> {
        let is_lost = matches!(&error, Error::Lock(lock) if matches!(**lock, LockError::Lost { holder: Some(_), .. }));
        if is_lost && !waits(shared) {
            return Err(error.into());
        }
        self.void.clear();
        for (account, held) in std::mem::take(&mut self.held) {
            *self.freed.entry(account).or_default() += held;
        }
        self.wait(error.to_string(), shared);
        Ok(())
    }

    fn wait(&mut self, reason: String, shared: &Rc<Shared>) {
        let told = format!("{}: {reason}", shown(&self.root));
        shared.broken.borrow_mut().insert(self.root.clone(), told.clone());
        if self.logged.is_none_or(|at| at.elapsed() >= LOG_AGAIN) {
            self.logged = Some(Instant::now());
            tracing::error!("paused: {told}");
        }
        let (root, shared) = (self.root.clone(), Rc::clone(shared));
        self.state = State::Opening(Box::pin(async move {
            sleep(AGAIN).await;
            super::open(root, shared, Visit::Again).await
        }));
    }
}

fn waits(shared: &Shared) -> bool {
    shared.config().daemon.as_ref().is_some_and(|daemon| daemon.standby)
}
