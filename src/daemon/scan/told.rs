//! Batches what is told, so that a burst of files does not wake the listener for every one.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Found, Told};

/// Files in one batch.
const BATCH_FILES: usize = 256;

/// Between two batches of what rang. The first of a burst is told at once, the others together.
const BATCH_EVERY: Duration = Duration::from_millis(5);

/// What was found since the last batch.
pub(super) struct Outbox<T> {
    tell: T,
    found: Vec<Found>,
    gone: Vec<PathBuf>,
    told_at: Option<Instant>,
}

impl<T: Fn(Told)> Outbox<T> {
    pub(super) fn new(tell: T) -> Outbox<T> {
        Outbox { tell, found: Vec::new(), gone: Vec::new(), told_at: None }
    }

    /// Between two calls of `flush` no path is both found and gone: the order of the two is not kept.
    pub(super) fn found(&mut self, found: Found) {
        self.found.push(found);
        if self.found.len() >= BATCH_FILES {
            self.flush();
        }
    }

    pub(super) fn gone(&mut self, path: &Path) {
        self.gone.push(path.to_owned());
        if self.gone.len() >= BATCH_FILES {
            self.flush();
        }
    }

    /// Tells what has gathered, and then this.
    pub(super) fn tell(&mut self, told: Told) {
        self.flush();
        (self.tell)(told);
    }

    pub(super) fn flush(&mut self) {
        if self.found.is_empty() && self.gone.is_empty() {
            return;
        }
        if !self.gone.is_empty() {
            (self.tell)(Told::Gone(std::mem::take(&mut self.gone)));
        }
        if !self.found.is_empty() {
            (self.tell)(Told::Found(std::mem::take(&mut self.found)));
        }
        self.told_at = Some(Instant::now());
    }

    /// How long to let rings gather before the next batch.
    pub(super) fn pause(&self) -> Duration {
        self.told_at.map_or(Duration::ZERO, |told_at| BATCH_EVERY.saturating_sub(told_at.elapsed()))
    }
}
