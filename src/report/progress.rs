//! Progress: a bar on a terminal, a line every 30 s elsewhere when it is asked for. Runs on a thread of its own.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Counts, say, stderr_is_terminal};
use crate::config::{Report, Separator, Verbosity};

const BAR_EVERY: Duration = Duration::from_millis(200);
const LINE_EVERY: Duration = Duration::from_secs(30);
/// Rates are those of about so many seconds.
const RATE_SECONDS: f64 = 10.0;

/// The display, if there is one.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    stop: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

impl Progress {
    /// Starts the display that fits: none, a bar, or lines.
    pub fn start(
        report: &Report,
        counts: &Arc<Counts>,
        files: Option<Vec<File>>,
        separator: Separator,
        answers_on_terminal: bool,
    ) -> Self {
        let terminal = stderr_is_terminal();
        // Answers on the same terminal would be torn by the bar.
        let bar_fits = terminal && !answers_on_terminal && report.verbosity == Verbosity::Normal;
        if !bar_fits && !report.progress {
            return Self { bar: None, stop: Mutex::new(None) };
        }
        let total = Arc::new(AtomicU64::new(0));
        if let Some(files) = files {
            count_lines(files, separator, &total);
        }
        let bar = bar_fits.then(new_bar);
        let (sender, receiver) = channel();
        let display = Display { bar: bar.clone(), counts: Arc::clone(counts), total, rates: Rates::default() };
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(move || display.run(&receiver));
        // Without a thread there is no progress, which is no reason not to work.
        let stop = Mutex::new(thread.ok().map(|thread| (sender, thread)));
        Self { bar, stop }
    }

    /// Runs `tell` while the bar is out of the way.
    pub fn suspended(&self, tell: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(tell),
            None => tell(),
        }
    }

    /// Takes the display away.
    pub fn finish(&self) {
        if let Some((sender, thread)) = self.stop.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(sender);
            let _ = thread.join();
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Counts the lines of the input on a thread of its own.
fn count_lines(files: Vec<File>, separator: Separator, total: &Arc<AtomicU64>) {
    let total = Arc::clone(total);
    let counting = move || {
        // Positioned reads: the reader shares the files' offsets.
        total.store(count(&files, separator).unwrap_or(0), Relaxed);
    };
    // Without the count there is no total to show, and that is all.
    let _ = std::thread::Builder::new().name("counter".to_owned()).spawn(counting);
}

/// Lines of files that are not blank, when all of them can be read at any place.
pub fn count(files: &[File], separator: Separator) -> Option<u64> {
    files.iter().map(|file| count_file(file, separator)).sum()
}

fn count_file(file: &File, separator: Separator) -> Option<u64> {
    let terminator = if separator == Separator::Nul { 0 } else { b'\n' };
    let (mut buffer, mut offset, mut lines, mut blank) = (vec![0; 256 << 10], 0, 0, true);
    loop {
        let length = file.read_at(&mut buffer, offset).ok()?;
        if length == 0 {
            return Some(lines + u64::from(!blank));
        }
        offset += length as u64;
        for piece in buffer[..length].split_inclusive(|byte| *byte == terminator) {
            blank &= piece.iter().all(u8::is_ascii_whitespace) || piece == [terminator];
            if piece.last() == Some(&terminator) {
                lines += u64::from(!blank);
                blank = true;
            }
        }
    }
}

struct Display {
    bar: Option<ProgressBar>,
    counts: Arc<Counts>,
    total: Arc<AtomicU64>,
    rates: Rates,
}

impl Display {
    fn run(mut self, stop: &Receiver<()>) {
        let every = if self.bar.is_some() { BAR_EVERY } else { LINE_EVERY };
        let began = Instant::now();
        while stop.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
            let text = self.text(began.elapsed().as_secs_f64());
            match &self.bar {
                Some(bar) => {
                    bar.set_message(text);
                    bar.tick();
                }
                None => say(&format!("anvil-filter: {text}")),
            }
        }
    }

    fn text(&mut self, seconds: f64) -> String {
        let (settled, tokens) = (self.counts.settled(), self.counts.tokens().1);
        self.rates.update(seconds, settled, tokens);
        let total = self.total.load(Relaxed);
        let mut parts = vec![match total {
            0 => format!("{settled} lines"),
            _ => format!("{} {settled}/{total} ({}%)", drawn(settled, total), settled * 100 / total.max(1)),
        }];
        parts.push(format!("{:.1}/s", self.rates.lines));
        parts.push(format!("{} in flight", self.counts.in_flight()));
        parts.push(format!("{} failed", self.counts.failed()));
        parts.push(format!("{:.0} tokens/s", self.rates.tokens));
        let left = total.saturating_sub(settled) as f64 / self.rates.lines;
        if total > settled && left.is_finite() && left < 1e8 {
            parts.push(format!("{} left", humantime::format_duration(Duration::from_secs(left as u64 + 1))));
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

/// Rates that forget: an exponential mean over about [`RATE_SECONDS`].
#[derive(Debug, Default)]
struct Rates {
    seconds: f64,
    settled: u64,
    generated: u64,
    lines: f64,
    tokens: f64,
}

impl Rates {
    fn update(&mut self, seconds: f64, settled: u64, generated: u64) {
        let passed = seconds - self.seconds;
        if passed <= 0.0 {
            return;
        }
        // Until the window is full, the mean since the start is the best estimate.
        let weight = (passed / RATE_SECONDS.min(seconds)).min(1.0);
        self.lines += weight * ((settled - self.settled) as f64 / passed - self.lines);
        self.tokens += weight * ((generated - self.generated) as f64 / passed - self.tokens);
        (self.seconds, self.settled, self.generated) = (seconds, settled, generated);
    }
}
