//! A spool on a disk, a daemon that serves it, and what both of them cost: waits for results by looking for their names,
//! as people do.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::Bench;
use super::journal::fdatasync;
use super::process::{Simulator, is_installed};

/// What takes longer has gone wrong.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(1);

/// A folder for prompt files and one for those that are not dropped yet, on the same file system.
pub struct Spool {
    folder: tempfile::TempDir,
}

impl Spool {
    /// Two empty folders. In memory a sync costs nothing: where the temporary folder lies there, cargo's own is taken.
    pub fn new() -> Self {
        let places = [std::env::temp_dir(), PathBuf::from(env!("CARGO_TARGET_TMPDIR"))];
        let on_disk = places.iter().find(|place| !is_in_memory(&file_system(place)));
        let folder = tempfile::tempdir_in(on_disk.unwrap_or(&places[0])).expect("a temporary folder can be made");
        for name in ["spool", "staged"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder can be made");
        }
        Self { folder }
    }

    /// The type of its file system, and what a sync costs there just now.
    pub fn place(&self) -> String {
        let name = file_system(self.folder.path());
        let memory = if is_in_memory(&name) { ", which is memory and no disk" } else { "" };
        format!("{name}{memory}, fdatasync {:.2} ms", fdatasync(self.folder.path()))
    }

    /// Writes a prompt file of this number, not yet where the daemon sees it.
    pub fn stage(&self, number: usize, text: &str) {
        std::fs::write(self.staged(number), text).expect("a prompt file can be written");
    }

    /// Writes it where the daemon sees it.
    pub fn write(&self, number: usize, text: &str) {
        std::fs::write(self.dropped(number), text).expect("a prompt file can be written");
    }

    /// Renames it to where the daemon sees it.
    pub fn drop_in(&self, number: usize) {
        std::fs::rename(self.staged(number), self.dropped(number)).expect("a file can be renamed");
    }

    /// Waits for its result.
    pub fn wait_for(&self, number: usize) {
        let result = self.result(number);
        until(&format!("the result of file {number}"), || result.exists());
    }

    /// Whether every line of its result has an answer, and there are so many.
    pub fn is_answered(&self, number: usize, lines: usize) -> bool {
        let text = std::fs::read_to_string(self.result(number)).unwrap_or_default();
        text.lines().count() == lines && text.lines().all(|line| line.contains("\"error\":null"))
    }

    fn staged(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("staged/p{number:06}.jsonl"))
    }

    fn dropped(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("spool/p{number:06}.jsonl"))
    }

    fn result(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("spool/p{number:06}.out.jsonl"))
    }
}

/// A daemon at work; killed when dropped.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it, and waits until it has looked through its folder once: from then on the kernel rings.
    pub fn start(bench: &Bench, spool: &Spool, simulator: &Simulator, in_flight: usize) -> Self {
        Self::start_by(Command::new(&bench.program), spool, simulator, in_flight)
    }

    fn start_by(mut command: Command, spool: &Spool, simulator: &Simulator, in_flight: usize) -> Self {
        let log = spool.folder.path().join("log");
        let child = command
            .env("ANVILGPT_API_KEY", "x")
            .args(["daemon", "-v", "--log-format", "json", "--base-url", &simulator.base_url()])
            .args(["--fixed", "-j", &in_flight.to_string(), "--spool"])
            .arg(spool.folder.path().join("spool"))
            .stderr(File::create(&log).expect("a log can be made"))
            .spawn()
            .expect("the program starts");
        let daemon = Self { child, log };
        until("the daemon's first scan", || !daemon.scans().is_empty());
        daemon
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What its log tells of its scans so far.
    pub fn scans(&self) -> Vec<Scan> {
        let text = std::fs::read_to_string(&self.log).expect("the log can be read");
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let scans = lines.filter(|line| line["message"] == "scanned");
        scans.map(|line| serde_json::from_value(line["fields"].clone()).expect("a scan has its fields")).collect()
    }
}

/// A look through the whole folder.
#[derive(serde::Deserialize)]
pub struct Scan {
    /// Inputs and controls.
    pub files: u64,
    /// Those that have not settled.
    pub unsettled: u64,
    /// How long it took.
    pub took_seconds: f64,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many syncs the daemon asks for while `work` goes on, from its start to its end; `None` where nobody may trace.
pub fn count_syncs(
    bench: &Bench,
    spool: &Spool,
    simulator: &Simulator,
    in_flight: usize,
    work: impl FnOnce(),
) -> Option<u64> {
    let table = spool.folder.path().join("syncs");
    let may_trace = || Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).status();
    if !is_installed("strace") || !may_trace().is_ok_and(|status| status.success()) {
        return None;
    }
    let mut strace = Command::new("strace");
    // Stops at these calls alone, so that all others are as fast as they are.
    strace.args(["-f", "--seccomp-bpf", "-qq", "-c", "-e", "trace=fsync,fdatasync,sync_file_range,syncfs", "-o"]);
    strace.arg(&table).arg(&bench.program);
    let mut daemon = Daemon::start_by(strace, spool, simulator, in_flight);
    work();
    stop(spool);
    daemon.child.wait().expect("the child is ours");
    let text = std::fs::read_to_string(table).expect("strace has written its table");
    // % time, seconds, usecs/call, calls, errors if any, syscall
    let calls = |line: &str| line.split_whitespace().nth(3)?.parse::<u64>().ok();
    Some(text.lines().filter(|line| line.contains("sync") && !line.contains("syscall")).filter_map(calls).sum())
}

/// Asks the daemon of a spool to end, whose number its status tells: the child here is its tracer.
fn stop(spool: &Spool) {
    let status = spool.folder.path().join("spool/.anvil/status.json");
    let pid = || {
        let status: Value = serde_json::from_slice(&std::fs::read(&status).ok()?).ok()?;
        Pid::from_raw(i32::try_from(status["holder"]["pid"].as_i64()?).ok()?)
    };
    until("the daemon's status", || pid().is_some());
    kill_process(pid().expect("it was there"), Signal::TERM).expect("the daemon is ours");
}

/// Waits until something is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(LOOK);
    }
}

/// The type of the file system that a path lies on (proc_pid_mountinfo(5)).
fn file_system(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let parse = |line: &str| {
        let (mount, kind) = line.split_once(" - ")?;
        Some((PathBuf::from(mount.split(' ').nth(4)?), kind.split(' ').next()?.to_owned()))
    };
    let above = mounts.lines().filter_map(parse).filter(|(mount, _)| path.starts_with(mount));
    above.max_by_key(|(mount, _)| mount.as_os_str().len()).map_or_else(|| "unknown".to_owned(), |(_, kind)| kind)
}

fn is_in_memory(file_system: &str) -> bool {
    matches!(file_system, "tmpfs" | "ramfs")
}
