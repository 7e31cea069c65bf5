//! The way down: Running < Draining < Aborting. The level only ever rises, and everyone who waits hears of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

/// The same signal again within this time is an echo.
const ECHO_MAX: Duration = Duration::from_millis(100);

/// How far the run is on its way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Requests are sent.
    Running = 0,
    /// Nothing new is sent; what is in flight may settle.
    Draining = 1,
    /// Everything stops now.
    Aborting = 2,
}

/// What made the run stop early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// SIGINT
    Interrupt = 1,
    /// SIGTERM
    Terminate = 2,
    /// SIGUSR1: stop, and be run again.
    Requeue = 3,
}

#[derive(Debug, Default)]
struct Inner {
    level: AtomicU8,
    cause: AtomicU8,
    waker: AtomicWaker,
}

/// A shared level with one waiter, the engine.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(Arc<Inner>);

impl Shutdown {
    /// Raises the level by one step, for this cause; the first cause is remembered.
    pub fn signal(&self, cause: Cause) {
        let _ = self.0.cause.compare_exchange(0, cause as u8, Ordering::AcqRel, Ordering::Acquire);
        let next = if self.level() == Level::Running { Level::Draining } else { Level::Aborting };
        self.raise(next);
    }

    /// Raises the level to at least `level`.
    pub fn raise(&self, level: Level) {
        self.0.level.fetch_max(level as u8, Ordering::AcqRel);
        self.0.waker.wake();
    }

    /// The level now.
    pub fn level(&self) -> Level {
        match self.0.level.load(Ordering::Acquire) {
            0 => Level::Running,
            1 => Level::Draining,
            _ => Level::Aborting,
        }
    }

    /// The signal that came first, if any did.
    pub fn cause(&self) -> Option<Cause> {
        match self.0.cause.load(Ordering::Acquire) {
            1 => Some(Cause::Interrupt),
            2 => Some(Cause::Terminate),
            3 => Some(Cause::Requeue),
            _ => None,
        }
    }

    /// Ready when the level is above `seen`. For one task only.
    pub fn poll_above(&self, seen: Level, cx: &mut Context<'_>) -> Poll<Level> {
        if self.level() > seen {
            return Poll::Ready(self.level());
        }
        self.0.waker.register(cx.waker());
        if self.level() > seen { Poll::Ready(self.level()) } else { Poll::Pending }
    }
}

/// Listens for SIGINT, SIGTERM and SIGUSR1 on the current runtime, for as long as it lives. With a handler, a limit on
/// the size of files (SIGXFSZ) is an error of the write that meets it, instead of the end of the process.
pub fn listen(shutdown: &Shutdown) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    drop(signal(SignalKind::from_raw(libc::SIGXFSZ))?);
    for (kind, cause) in [
        (SignalKind::interrupt(), Cause::Interrupt),
        (SignalKind::terminate(), Cause::Terminate),
        (SignalKind::user_defined1(), Cause::Requeue),
    ] {
        let (mut stream, shutdown) = (signal(kind)?, shutdown.clone());
        tokio::spawn(async move {
            let mut heard: Option<Instant> = None;
            while stream.recv().await.is_some() {
                // timeout(1) and scancel(1) signal the process and then its group: that is one wish, not two.
                if heard.is_none_or(|heard| heard.elapsed() >= ECHO_MAX) {
                    heard = Some(Instant::now());
                    shutdown.signal(cause);
                }
            }
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_only_rises_and_the_first_cause_stays() {
        let shutdown = Shutdown::default();
        shutdown.signal(Cause::Terminate);
        assert_eq!(shutdown.level(), Level::Draining);
        shutdown.signal(Cause::Interrupt);
        shutdown.raise(Level::Draining);
        assert_eq!((shutdown.level(), shutdown.cause()), (Level::Aborting, Some(Cause::Terminate)));
    }
}
