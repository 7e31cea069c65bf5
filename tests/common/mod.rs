//! What every black-box test needs: the simulator and the filter as processes, in a scrubbed environment, with bounded
//! waits. Knows nothing of the program's insides.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used)]

pub mod desk;
pub mod tap;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// The model that runs ask for unless they say otherwise.
pub const MODEL: &str = "llama3.1:latest";
/// The key that runs carry unless they say otherwise.
pub const KEY: &str = "sk-tests";
/// A process that runs longer is killed, and its test fails.
const PROCESS_TIME_MAX: Duration = Duration::from_secs(90);
/// How long the last words of a process may take from its end to whoever reads them.
const LAST_WORDS_MAX: Duration = Duration::from_millis(300);
/// Between two looks at something that changes on its own.
const LOOK: Duration = Duration::from_millis(2);

/// Waits until `condition` gives a value, and fails the test when it takes too long.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(began.elapsed() < PROCESS_TIME_MAX, "waited too long for {what}");
        std::thread::sleep(LOOK);
    }
}

/// A running simulator; it ends when this is dropped.
pub struct Sim {
    child: Child,
    address: String,
}

impl Sim {
    /// Starts one on a free port.
    pub fn start(flags: &[&str]) -> Sim {
        let binary = simulator();
        let mut child = Command::new(&binary)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap_or_else(|error| panic!("start {}: {error}; run: cargo build --examples", binary.display()));
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line
            .trim()
            .strip_prefix("listening http://")
            .and_then(|rest| rest.strip_suffix("/api"))
            .unwrap_or_else(|| panic!("the simulator says {line:?}"));
        Sim { address: address.to_owned(), child }
    }

    /// The base URL that a client is given.
    pub fn base(&self) -> String {
        format!("http://{}/api", self.address)
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What it counted.
    pub fn stats(&self) -> Value {
        serde_json::from_slice(&http(&self.address, "GET", "/stats", "")).unwrap()
    }

    /// One counter.
    pub fn count(&self, name: &str) -> u64 {
        self.stats()[name].as_u64().unwrap_or_else(|| panic!("no counter {name}"))
    }

    /// One counter, once anybody answers; for a simulator that may be down.
    pub fn count_when_up(&self, name: &str) -> u64 {
        let bytes = wait_for("the simulator", || try_http(&self.address, "GET", "/stats", "").ok());
        serde_json::from_slice::<Value>(&bytes).unwrap()[name].as_u64().unwrap()
    }

    /// The chat requests as received, as text.
    pub fn requests_text(&self) -> String {
        String::from_utf8(http(&self.address, "GET", "/requests", "")).unwrap()
    }

    /// The chat requests as received.
    pub fn requests(&self) -> Vec<Value> {
        serde_json::from_str(&self.requests_text()).unwrap()
    }

    /// Changes it while it runs.
    pub fn control(&self, change: &Value) {
        let reply = http(&self.address, "POST", "/control", &change.to_string());
        assert_eq!(String::from_utf8_lossy(&reply), "{}");
    }

    /// Makes it forget what it counted.
    pub fn reset(&self) {
        assert_eq!(String::from_utf8_lossy(&http(&self.address, "POST", "/reset", "")), "{}");
    }

    /// Waits until a counter has reached `least`.
    pub fn wait_for_count(&self, name: &str, least: u64) {
        wait_for(&format!("{name} >= {least}"), || (self.count(name) >= least).then_some(()));
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The simulator is an example, which `cargo test` builds beside the binary.
fn simulator() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_anvil-filter")).parent().unwrap().join("examples/anvilgpt-sim");
    assert!(path.exists(), "{} is missing; run: cargo build --examples", path.display());
    path
}

/// The body of one reply of the simulator's own pages.
fn http(address: &str, method: &str, path: &str, body: &str) -> Vec<u8> {
    try_http(address, method, path, body).unwrap_or_else(|error| panic!("reach the simulator: {error}"))
}

/// The same of a simulator that may be down.
fn try_http(address: &str, method: &str, path: &str, body: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    let head = reply.windows(4).position(|window| window == b"\r\n\r\n");
    Ok(reply.split_off(head.ok_or(std::io::ErrorKind::UnexpectedEof)? + 4))
}

/// A run of the filter, to be started.
pub struct Run {
    args: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    shell: Option<String>,
    input: Vec<u8>,
    stdin: Option<Stdio>,
    stdout: Option<Stdio>,
    folder: TempDir,
}

impl Run {
    /// The bare program: no key, no address, nobody's configuration.
    pub fn bare() -> Run {
        Run {
            args: Vec::new(),
            variables: Vec::new(),
            shell: None,
            input: Vec::new(),
            stdin: None,
            stdout: None,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// A run against a simulator: with key and model, and pauses so short that faults resolve fast.
    pub fn on(sim: &Sim) -> Run {
        Run::at(&sim.base())
    }

    /// The same against several simulators.
    pub fn on_all<'a>(sims: impl IntoIterator<Item = &'a Sim>) -> Run {
        let bases = sims.into_iter().flat_map(|sim| ["--base-url".to_owned(), sim.base()]);
        Run::plain().args(bases)
    }

    /// The same against any base URL.
    pub fn at(base: &str) -> Run {
        Run::plain().args(["--base-url", base])
    }

    /// The same against what its own arguments or a configuration name.
    pub fn plain() -> Run {
        Run::bare().env("ANVILGPT_API_KEY", KEY).args(["-m", MODEL, "--max-retry-delay", "50ms"])
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Run {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Run {
        self.variables.retain(|(own, _)| own != name);
        self.variables.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Takes a variable away.
    pub fn without(mut self, name: &str) -> Run {
        self.variables.retain(|(own, _)| own != name);
        self
    }

    /// What comes on standard input.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Run {
        self.input = bytes.into();
        self
    }

    /// Standard input as a file of its own.
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Run {
        self.stdin = Some(stdin.into());
        self
    }

    /// Standard output as a file of its own.
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Run {
        self.stdout = Some(stdout.into());
        self
    }

    /// Starts the program from a shell, in which `"$0" "$@"` is the program with its arguments.
    pub fn shell(mut self, script: &str) -> Run {
        self.shell = Some(script.to_owned());
        self
    }

    /// A path in this run's own folder, which lives as long as the run.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file into this run's own folder, for its owner alone.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        write_private(&path, bytes.as_ref());
        path
    }

    /// Runs to the end.
    pub fn output(mut self) -> Output {
        let input = std::mem::take(&mut self.input);
        let mut live = self.start();
        live.feed_and_close(input);
        live.finish()
    }

    /// Starts, with standard input open.
    pub fn start(mut self) -> Live {
        let piped = self.stdin.is_none();
        let mut command = self.command();
        let stdin = self.stdin.take().unwrap_or_else(Stdio::piped);
        let stdout = self.stdout.take().unwrap_or_else(Stdio::piped);
        let mut child = command.stdin(stdin).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
        drop(command);
        let stdout = child.stdout.take().map(Collected::of);
        let stderr = Collected::of(child.stderr.take().unwrap());
        let stdin = child.stdin.take().filter(|_| piped);
        Live { child, stdin, feeder: None, hold: None, stdout, stderr, ended: None, folder: self.folder }
    }

    fn command(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_anvil-filter");
        let mut command = match &self.shell {
            Some(script) => {
                let mut command = Command::new("/bin/sh");
                command.args(["-c", script, program]);
                command
            }
            None => Command::new(program),
        };
        command.args(&self.args).env_clear().env("PATH", "/usr/bin:/bin");
        command.env("HOME", self.folder.path()).env("XDG_CONFIG_HOME", self.folder.path().join(".config"));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// Writes a file that only its owner may read.
pub fn write_private(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

/// What a thread has read of a pipe so far.
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Collected {
    fn of(mut pipe: impl std::io::Read + Send + 'static) -> Collected {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                sink.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        });
        Collected { bytes, thread: Some(thread) }
    }

    fn so_far(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    fn all(&mut self) -> Vec<u8> {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        std::mem::take(&mut *self.bytes.lock().unwrap())
    }
}

/// A run that goes on.
pub struct Live {
    child: Child,
    stdin: Option<ChildStdin>,
    feeder: Option<JoinHandle<()>>,
    hold: Option<std::sync::mpsc::Sender<()>>,
    stdout: Option<Collected>,
    stderr: Collected,
    ended: Option<ExitStatus>,
    folder: TempDir,
}

impl Live {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A path in this run's own folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Gives it these bytes, and waits until the pipe has taken them.
    pub fn feed(&mut self, bytes: impl AsRef<[u8]>) {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        stdin.write_all(bytes.as_ref()).and_then(|()| stdin.flush()).unwrap();
    }

    /// Gives it these bytes from a thread, then closes its input. That it does not read on is its own affair.
    pub fn feed_and_close(&mut self, bytes: Vec<u8>) {
        if let Some(mut stdin) = self.stdin.take() {
            self.feeder = Some(std::thread::spawn(move || {
                let _ = stdin.write_all(&bytes);
            }));
        }
    }

    /// Gives it these bytes from a thread, and leaves its input open until [`Live::close_input`].
    pub fn feed_in_background(&mut self, bytes: Vec<u8>) {
        let mut stdin = self.stdin.take().expect("standard input is open");
        let (hold, held) = std::sync::mpsc::channel::<()>();
        self.hold = Some(hold);
        self.feeder = Some(std::thread::spawn(move || {
            let _ = stdin.write_all(&bytes);
            let _ = held.recv();
        }));
    }

    /// Closes its input.
    pub fn close_input(&mut self) {
        self.stdin = None;
        self.hold = None;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// What it has written to standard output.
    pub fn stdout(&self) -> Vec<u8> {
        self.stdout.as_ref().map(Collected::so_far).unwrap_or_default()
    }

    /// What it has written to standard error.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.so_far()).into_owned()
    }

    /// Waits until so many lines have come out.
    pub fn wait_for_lines(&mut self, least: usize) {
        let began = Instant::now();
        while self.stdout().iter().filter(|byte| **byte == b'\n').count() < least {
            self.still_waiting(began, &format!("{least} lines of output"));
        }
    }

    /// Waits until standard error holds this text.
    pub fn wait_for_stderr(&mut self, text: &str) {
        let began = Instant::now();
        while !self.stderr().contains(text) {
            if self.try_wait().is_some() {
                // What it said last may be read a little after its end was seen.
                std::thread::sleep(LAST_WORDS_MAX);
                if self.stderr().contains(text) {
                    return;
                }
            }
            self.still_waiting(began, &format!("{text:?} on standard error"));
        }
    }

    fn still_waiting(&mut self, began: Instant, what: &str) {
        let stuck = began.elapsed() > PROCESS_TIME_MAX || self.try_wait().is_some();
        if stuck {
            let status = self.try_wait();
            self.kill();
            panic!("waited in vain for {what}; status {status:?}; stderr:\n{}", self.stderr());
        }
        std::thread::sleep(LOOK);
    }

    /// Signals it again and again until it has ended: the same signal within 100 ms is taken for an echo.
    pub fn signal_until_it_ends(&mut self, signal: Signal) {
        wait_for("its end", || {
            self.signal(signal);
            self.has_ended().then_some(())
        });
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.try_wait().is_some()
    }

    fn try_wait(&mut self) -> Option<ExitStatus> {
        self.ended = self.ended.or_else(|| self.child.try_wait().unwrap());
        self.ended
    }

    fn kill(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
        }
    }

    /// The most memory that it has had so far, in bytes (`VmHWM`, proc_pid_status(5)).
    pub fn memory_peak(&self) -> u64 {
        memory_peak(self.pid()).expect("it runs, so it has memory")
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Output {
        let began = Instant::now();
        let mut memory_peak_bytes = 0;
        let status = loop {
            if let Some(status) = self.try_wait() {
                break status;
            }
            memory_peak_bytes = memory_peak_bytes.max(memory_peak(self.pid()).unwrap_or(0));
            if began.elapsed() > PROCESS_TIME_MAX {
                self.kill();
                let _ = self.child.wait();
                panic!("still running after {PROCESS_TIME_MAX:?}; stderr:\n{}", self.stderr());
            }
            std::thread::sleep(LOOK);
        };
        let waited = began.elapsed();
        self.close_input();
        if let Some(feeder) = self.feeder.take() {
            feeder.join().unwrap();
        }
        let stdout = self.stdout.as_mut().map(Collected::all).unwrap_or_default();
        let stderr = String::from_utf8_lossy(&self.stderr.all()).into_owned();
        let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        Output { status, stdout, stderr, waited, memory_peak_bytes, folder }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if self.try_wait().is_none() {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

/// The most memory that a process has had, if it still has any.
pub fn memory_peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// How a run went.
pub struct Output {
    /// The status as a shell sees it: 128 + signal for one that was killed.
    pub status: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
    /// How long its end was waited for.
    pub waited: Duration,
    /// The most memory that was seen while its end was waited for.
    pub memory_peak_bytes: u64,
    folder: TempDir,
}

impl Output {
    /// The same, after a look at the status.
    #[track_caller]
    pub fn expect(self, status: i32) -> Output {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap_or_else(|_| panic!("not UTF-8: {self}"))
    }

    /// Every line of standard output, each of which must be whole and JSON.
    #[track_caller]
    pub fn lines(&self) -> Vec<Value> {
        let text = self.text();
        assert!(text.is_empty() || text.ends_with('\n'), "the last line is cut: {self}");
        let parse = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}\n{}", self.stderr))
        };
        text.lines().map(parse).collect()
    }

    /// The one line of standard output.
    #[track_caller]
    pub fn only_line(&self) -> Value {
        let lines = self.lines();
        assert_eq!(lines.len(), 1, "{self}");
        lines.into_iter().next().unwrap()
    }

    /// The error codes of all lines, empty for answers.
    #[track_caller]
    pub fn codes(&self) -> Vec<String> {
        self.lines().iter().map(code_of).collect()
    }

    /// Whether the lines are the answers to [`prompts`], in order and nothing else.
    #[track_caller]
    pub fn answers_prompts(&self, count: usize) {
        let lines = self.lines();
        let wrong = lines.iter().zip(1..).find(|(line, number)| line["content"] != format!("Echo: prompt {number}"));
        assert!(wrong.is_none(), "{wrong:?}\n{}", self.stderr);
        assert_eq!(lines.len(), count, "{}", self.stderr);
    }

    /// A file in the run's own folder.
    pub fn file(&self, name: &str) -> Vec<u8> {
        let path = self.folder.path().join(name);
        std::fs::read(&path).unwrap_or_else(|error| panic!("read {name}: {error}: {self}"))
    }

    /// Whether the run's own folder has such a file.
    pub fn has_file(&self, name: &str) -> bool {
        self.folder.path().join(name).exists()
    }
}

impl fmt::Display for Output {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = String::from_utf8_lossy(&self.stdout[..self.stdout.len().min(4000)]);
        write!(out, "status {}\nstdout ({} bytes):\n{shown}\nstderr:\n{}", self.status, self.stdout.len(), self.stderr)
    }
}

/// The error code of a line, empty for an answer.
pub fn code_of(line: &Value) -> String {
    line["error"]["code"].as_str().unwrap_or_default().to_owned()
}

/// A prompt line.
pub fn prompt(text: &str) -> String {
    serde_json::json!({ "prompt": text }).to_string() + "\n"
}

/// Prompt lines, numbered from 1.
pub fn prompts(count: usize) -> String {
    (1..=count).map(|number| prompt(&format!("prompt {number}"))).collect()
}

/// Where nobody listens.
pub fn refused_base() -> String {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("http://127.0.0.1:{port}/api")
}
