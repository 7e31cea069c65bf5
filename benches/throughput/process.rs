//! Processes under measurement: the simulator's life, and runs with their wall time, CPU time and peak memory.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// Clock ticks a second in `/proc/PID/stat`; 100 on every Linux of today (`getconf CLK_TCK`).
const TICKS_PER_SECOND: f64 = 100.0;

/// What one run took.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Wall time in seconds.
    pub wall: f64,
    /// User and system time in seconds.
    pub cpu: f64,
    /// Peak resident memory in MiB.
    pub rss: f64,
}

/// Writes one line of the report.
pub fn say(line: &str) {
    writeln!(std::io::stdout().lock(), "{line}").expect("the report can be written");
}

/// The median.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A running simulator; ends when dropped.
pub struct Simulator {
    child: Child,
    /// Host and port.
    pub address: String,
}

impl Simulator {
    /// Starts it on a free port.
    pub fn start(path: &Path, arguments: &[&str]) -> Self {
        let mut child =
            Command::new(path).args(arguments).stdout(Stdio::piped()).spawn().expect("the simulator starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout is piped"))
            .read_line(&mut line)
            .expect("it says where it listens");
        let address = line.trim().trim_start_matches("listening http://").trim_end_matches("/api").to_owned();
        Self { child, address }
    }

    /// The base URL.
    pub fn base_url(&self) -> String {
        format!("http://{}/api", self.address)
    }

    /// One counter of `/stats`.
    pub fn stat(&self, name: &str) -> u64 {
        self.ask("/stats")[name].as_u64().unwrap_or_default()
    }

    /// What it tells of itself at a path.
    pub fn ask(&self, path: &str) -> serde_json::Value {
        let mut stream = TcpStream::connect(&self.address).expect("the simulator listens");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("a request can be sent");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("the reply is text");
        let (_, json) = reply.split_once("\r\n\r\n").unwrap_or_default();
        serde_json::from_str(json).expect("the simulator answers in JSON")
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end, from a file or nothing, into a file or nowhere.
pub fn run(command: &mut Command, input: Option<&Path>, output: Option<&Path>) -> Run {
    let open = |path: &Path| Stdio::from(File::open(path).expect("the input can be opened"));
    command.stdin(input.map_or_else(Stdio::null, open));
    let create = |path: &Path| Stdio::from(File::create(path).expect("the output can be made"));
    command.stdout(output.map_or_else(Stdio::null, create));
    let began = Instant::now();
    let child = command.spawn().expect("the program starts");
    finish(child, began)
}

/// Waits for a child and reads what it took. The kernel keeps the times of a process until it is reaped; its memory is
/// looked at while it runs.
pub fn finish(mut child: Child, began: Instant) -> Run {
    let pid = Pid::from_child(&child);
    let mut rss: f64 = 0.0;
    loop {
        rss = rss.max(peak_memory(child.id()));
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        if waitid(WaitId::Pid(pid), look).is_ok_and(|status| status.is_some()) {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let wall = began.elapsed().as_secs_f64();
    let cpu = cpu_seconds(child.id());
    let status = child.wait().expect("the child is ours");
    assert!(status.success(), "a run failed: {status}");
    Run { wall, cpu, rss }
}

/// Peak resident memory in MiB of a running process.
pub fn peak_memory(pid: u32) -> f64 {
    memory_of(pid, "VmHWM:")
}

/// Resident memory in MiB of a running process.
pub fn resident_memory(pid: u32) -> f64 {
    memory_of(pid, "VmRSS:")
}

fn memory_of(pid: u32, field: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// User and system time in seconds of a running process.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

/// Whether a command is installed.
pub fn is_installed(name: &str) -> bool {
    Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}
