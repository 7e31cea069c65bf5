//! Progress: a bar on a terminal, a line every 30 s elsewhere when it is asked for. Runs on a thread of its own.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
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
    stop: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

impl Progress {
    /// Starts the display that fits: none, a bar, or lines. A bar would tear answers that go to the terminal too.
    pub fn start(config: &Config, counts: &Arc<Counts>, answers_on_terminal: bool) -> Self {
        let report = &config.report;
        let bar_fits = stderr_is_terminal() && !answers_on_terminal && report.verbosity == Verbosity::Normal;
        let bar = bar_fits.then(new_bar);
        let progress = Self { voice: Voice { bar }, total: Arc::default(), stop: Mutex::new(None) };
        if bar_fits || report.progress {
            progress.show(counts, AllQuotas::of(&config.service.endpoints));
        }
        progress
    }

    fn show(&self, counts: &Arc<Counts>, quotas: Option<AllQuotas>) {
        let (sender, receiver) = channel();
        let (bar, total) = (self.voice.bar.clone(), Arc::clone(&self.total));
        let display = Display { bar, counts: Arc::clone(counts), total, eta: Eta::new(quotas) };
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
    eta: Eta,
}

impl Display {
    fn run(mut self, stop: &Receiver<()>) {
        let (look_every, tell_every) = match &self.bar {
            Some(_) => (LOOK_EVERY, LOOK_EVERY),
            None if self.eta.looks_often() => (LOOK_EVERY, LINE_EVERY),
            None => (LINE_EVERY, LINE_EVERY),
        };
        let began = Instant::now();
        let mut tell_at = tell_every;
        while stop.recv_timeout(look_every) == Err(RecvTimeoutError::Timeout) {
            let now = began.elapsed();
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
        parts.push(format!("{} in flight", self.counts.in_flight()));
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
