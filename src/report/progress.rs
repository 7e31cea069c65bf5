//! Progress: a bar on a terminal, a line every 30 s elsewhere when it is asked for. Runs on a thread of its own.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::eta::Eta;
use super::quotas::AllQuotas;
use super::{Counts, say, stderr_is_terminal};
use crate::config::{Config, Verbosity};
use crate::flow::people::for_people;

const LOOK_EVERY: Duration = Duration::from_millis(200);
const LINE_EVERY: Duration = Duration::from_secs(30);

/// The display, if there is one.
#[derive(Debug)]
pub struct Progress {
    voice: Voice,
    /// Lines that there are to do; 0 while nobody knows.
    total: Arc<AtomicU64>,
    /// The quotas, when there are any, from the run's begin on.
    quotas: Arc<OnceLock<AllQuotas>>,
    stop: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

impl Progress {
    /// Starts the display that fits: none, a bar, or lines. A bar would tear answers that go to the terminal too.
    pub fn start(config: &Config, counts: &Arc<Counts>, answers_on_terminal: bool) -> Self {
        let report = &config.report;
        let bar_fits = stderr_is_terminal() && !answers_on_terminal && report.verbosity == Verbosity::Normal;
        let bar = bar_fits.then(new_bar);
        let progress =
            Self { voice: Voice { bar }, total: Arc::default(), quotas: Arc::default(), stop: Mutex::new(None) };
        if bar_fits || report.progress {
            progress.show(counts);
        }
        progress
    }

    fn show(&self, counts: &Arc<Counts>) {
        let (sender, receiver) = channel();
        let (bar, total) = (self.voice.bar.clone(), Arc::clone(&self.total));
        let quotas = Arc::clone(&self.quotas);
        let display = Display { bar, counts: Arc::clone(counts), total, quotas, eta: Eta::new() };
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(move || display.run(&receiver));
        // Without a thread there is no progress, which is no reason not to work.
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = thread.ok().map(|thread| (sender, thread));
    }

    /// Whether anything is shown.
    pub fn is_shown(&self) -> bool {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Where the number of lines is to be written.
    pub fn total(&self) -> &Arc<AtomicU64> {
        &self.total
    }

    /// The quotas of the run, when there are any.
    pub fn quotas(&self) -> &OnceLock<AllQuotas> {
        &self.quotas
    }

    /// How people are told something while the display is there.
    pub fn voice(&self) -> &Voice {
        &self.voice
    }

    /// Takes the display away.
    pub fn finish(&self) {
        if let Some((sender, thread)) = self.stop.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(sender);
            let _ = thread.join();
        }
        if let Some(bar) = &self.voice.bar {
            bar.finish_and_clear();
        }
    }
}

/// Tells people something, with the bar out of the way.
#[derive(Clone, Debug)]
pub struct Voice {
    bar: Option<ProgressBar>,
}

impl Voice {
    /// Says it.
    pub fn say(&self, message: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(message)),
            None => say(message),
        }
    }
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

struct Display {
    bar: Option<ProgressBar>,
    counts: Arc<Counts>,
    total: Arc<AtomicU64>,
    quotas: Arc<OnceLock<AllQuotas>>,
    eta: Eta,
}

impl Display {
    fn run(mut self, stop: &Receiver<()>) {
        let tell_every = if self.bar.is_some() { LOOK_EVERY } else { LINE_EVERY };
        let began = Instant::now();
        let mut tell_at = tell_every;
        // It is looked at more often than told of: a mirror of quotas must know when lines were sent.
        while stop.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            let now = began.elapsed();
            if let (false, Some(quotas)) = (self.eta.keeps_quotas(), self.quotas.get()) {
                self.eta.keep(quotas.clone());
            }
            self.eta.look(now, &self.counts);
            if now < tell_at {
                continue;
            }
            tell_at = now + tell_every;
            let text = self.text(now);
            match &self.bar {
                Some(bar) => {
                    bar.set_message(text);
                    bar.tick();
                }
                None => say(&format!("anvil-filter: {text}")),
            }
        }
    }

    fn text(&mut self, now: Duration) -> String {
        let settled = self.counts.settled();
        let (lines_per_second, tokens_per_second) = self.eta.rates();
        let total = self.total.load(Relaxed);
        let mut parts = vec![match total {
            0 => format!("{settled} lines"),
            _ => format!("{} {settled}/{total} ({}%)", drawn(settled, total), settled * 100 / total.max(1)),
        }];
        parts.push(format!("{lines_per_second:.1}/s"));
        parts.push(match (self.counts.in_flight(), self.eta.held_by()) {
            (0, Some(quota)) if total == 0 || settled < total => format!("waiting for {quota}"),
            (in_flight, _) => format!("{in_flight} in flight"),
        });
        parts.push(format!("{} failed", self.counts.failed()));
        parts.push(format!("{tokens_per_second:.0} tokens/s"));
        if let Some(left) = self.eta.left(now, total, &self.counts) {
            parts.push(format!("{} left", for_people(left)));
        }
        parts.join(", ")
    }
}

/// A small bar of fixed width.
fn drawn(done: u64, total: u64) -> String {
    const WIDTH: u64 = 20;
    let filled = (done * WIDTH / total.max(1)).min(WIDTH);
    (0..WIDTH).map(|cell| if cell < filled { '█' } else { '░' }).collect()
}
