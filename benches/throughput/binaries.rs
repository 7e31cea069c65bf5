//! The programs under measurement, built as they have to be. Knows nothing of what is measured.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the programs lie.
pub struct Binaries {
    /// The release build of the program
    pub program: PathBuf,
    /// The simulator
    pub simulator: PathBuf,
}

impl Binaries {
    /// Builds the program as it is released and the simulator without link-time optimisation.
    pub fn build() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        cargo(root, &["build", "--quiet", "--profile", "bench", "--example", "anvilgpt-sim"]);
        cargo(root, &["build", "--quiet", "--release", "--bin", "anvil-filter"]);
        let release =
            Path::new(env!("CARGO_BIN_EXE_anvil-filter")).parent().expect("a binary lies in a folder").to_owned();
        Self { program: release.join("anvil-filter"), simulator: release.join("examples/anvilgpt-sim") }
    }
}

fn cargo(root: &Path, arguments: &[&str]) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root).args(arguments);
    // Cargo sets these for whatever it runs; build scripts that look at them would be run again each time.
    let is_of_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in names.filter(|name| is_of_package(name)) {
        command.env_remove(name);
    }
    let status = command.status().expect("cargo can be run");
    assert!(status.success(), "cargo {arguments:?} failed");
}
