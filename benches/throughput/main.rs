//! The project's benchmark: `cargo bench` prints one table. Needs nothing but the project; puts `wrk` and `oha` beside
//! it when they are installed.
//!
//! Everything is measured against the project's own simulator on loopback, in interleaved rounds. On a shared machine
//! only the ratios within one run mean anything: "floor" is a bare HTTP/1 loop that sends the same requests and parses
//! nothing. `cargo bench -- --full` adds the run of 1,000,000 lines of 4 KB.

mod floor;
mod journal;
mod process;
mod rows;

use std::path::{Path, PathBuf};
use std::process::Command;

/// What every row needs.
pub struct Bench {
    /// The release build of the program.
    pub program: PathBuf,
    /// The simulator.
    pub simulator: PathBuf,
    /// A folder for inputs and outputs.
    pub folder: tempfile::TempDir,
}

fn main() {
    let full = std::env::args().any(|argument| argument == "--full");
    let bench = Bench::build();
    process::say(&format!(
        "{} cores; every figure is the median of interleaved rounds",
        std::thread::available_parallelism().map_or(1, usize::from)
    ));
    rows::throughput(&bench);
    rows::heavy_tail(&bench, 64);
    rows::heavy_tail(&bench, 256);
    rows::streaming(&bench);
    rows::start_up(&bench);
    rows::open_pipe(&bench);
    rows::stalled_reader(&bench);
    journal::output(&bench);
    journal::replay(&bench, 1_000_000);
    rows::memory(&bench, if full { 1_000_000 } else { 100_000 });
}

impl Bench {
    /// Builds the program as it is released and the simulator without link-time optimisation.
    fn build() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        cargo(root, &["build", "--quiet", "--profile", "bench", "--example", "anvilgpt-sim"]);
        cargo(root, &["build", "--quiet", "--release", "--bin", "anvil-filter"]);
        let release =
            Path::new(env!("CARGO_BIN_EXE_anvil-filter")).parent().expect("a binary lies in a folder").to_owned();
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        Self { program: release.join("anvil-filter"), simulator: release.join("examples/anvilgpt-sim"), folder }
    }
}

fn cargo(root: &Path, arguments: &[&str]) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).current_dir(root).args(arguments).status().expect("cargo can be run");
    assert!(status.success(), "cargo {arguments:?} failed");
}
