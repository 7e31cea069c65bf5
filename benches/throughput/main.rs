//! The project's benchmark: `cargo bench` prints one table. Needs nothing but the project; puts `wrk` and `oha` beside
//! it when they are installed.
//!
//! Everything is measured against the project's own simulator on loopback, in interleaved rounds. On a shared machine
//! only the ratios within one run mean anything: "floor" is a bare HTTP/1 loop that sends the same requests and parses
//! nothing. `cargo bench -- --full` adds the run of 1,000,000 lines of 4 KB; `cargo bench -- replay` measures only the
//! rows of that name, `cargo bench -- daemon` all those of the daemon.

mod binaries;
mod daemon;
mod floor;
mod journal;
mod process;
mod rows;
mod spool;

use std::path::PathBuf;

use binaries::Binaries;

/// What every row needs.
pub struct Bench {
    /// The release build of the program.
    pub program: PathBuf,
    /// The simulator.
    pub simulator: PathBuf,
    /// A folder for inputs and outputs.
    pub folder: tempfile::TempDir,
}

/// A row's name, and what measures it.
type Row = (&'static str, fn(&Bench));

const ROWS: [Row; 13] = [
    ("throughput", rows::throughput),
    ("heavy-tail", |bench| [64, 256].into_iter().for_each(|in_flight| rows::heavy_tail(bench, in_flight))),
    ("streaming", rows::streaming),
    ("start-up", rows::start_up),
    ("open-pipe", rows::open_pipe),
    ("stalled-reader", rows::stalled_reader),
    ("output", journal::output),
    ("replay", |bench| journal::replay(bench, 1_000_000)),
    ("memory", |bench| rows::memory(bench, if is_full() { 1_000_000 } else { 100_000 })),
    ("daemon-first-request", daemon::first_request),
    ("daemon-small-files", daemon::small_files),
    ("daemon-queued", daemon::queued),
    ("daemon-fairness", daemon::fairness),
];

fn is_full() -> bool {
    std::env::args().any(|argument| argument == "--full")
}

fn main() {
    // Cargo adds flags of its own.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let bench = Bench::build();
    process::say(&format!(
        "{} cores, load {}; every figure is the median of interleaved rounds",
        std::thread::available_parallelism().map_or(1, usize::from),
        load()
    ));
    for (name, measure) in ROWS {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())) {
            measure(&bench);
        }
    }
}

/// How many processes wanted a core over the last minute (proc_loadavg(5)).
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

impl Bench {
    fn build() -> Self {
        let Binaries { program, simulator } = Binaries::build();
        Self { program, simulator, folder: tempfile::tempdir().expect("a temporary folder can be made") }
    }
}
