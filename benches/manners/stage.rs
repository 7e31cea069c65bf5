//! What every case plays on: simulators, runs of the program whose completions are timed as they come, and turns, so
//! that not too many play at once. Knows nothing of what is held against what.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::binaries::Binaries;
use super::process::Simulator;

/// Scenes at a time.
const SCENES_MAX: usize = 14;
/// A run that takes longer is stuck.
const RUN_TIME_MAX: Duration = Duration::from_secs(240);
/// What an answer takes: log-normal with sigma 0.4 around 300 ms, after 25 ms until the first token.
const SERVICE: [&str; 6] = ["--latency", "lognormal:300:761", "--first-token", "25", "--chunks", "8"];
const MODEL: &str = "llama3.1:latest";
/// The key that runs carry unless they say otherwise.
pub const KEY: &str = "key-0";

/// Whether answers tell their usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// As Ollama does, with durations, through Open WebUI
    Told,
    /// Not at all, as OpenAI's imitators do in streams
    Missing,
}

/// The programs, a folder, and the turns.
pub struct Stage {
    binaries: Binaries,
    folder: tempfile::TempDir,
    free: Mutex<usize>,
    freed: Condvar,
}

/// The right to play a scene, until it drops.
pub struct Turn<'a>(&'a Stage);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().expect("nobody fails with the lock") += 1;
        self.0.freed.notify_one();
    }
}

impl Stage {
    /// Builds the programs.
    pub fn build() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        Self { binaries: Binaries::build(), folder, free: Mutex::new(SCENES_MAX), freed: Condvar::new() }
    }

    /// Waits for a turn.
    pub fn turn(&self) -> Turn<'_> {
        let free = self.free.lock().expect("nobody fails with the lock");
        let mut free = self.freed.wait_while(free, |free| *free == 0).expect("nobody fails with the lock");
        *free -= 1;
        Turn(self)
    }

    /// Starts a simulator of the usual service, with further flags.
    pub fn simulator(&self, usage: Usage, further: &[&str]) -> Simulator {
        let kind: &[&str] = match usage {
            Usage::Told => &["--regime", "0.6"],
            // An answer of Ollama's models without usage counts as cut off: the others' services are those that leave it out.
            Usage::Missing => &["--regime", "openai", "--no-usage"],
        };
        Simulator::start(&self.binaries.simulator, &[&SERVICE[..], kind, further].concat())
    }

    /// Starts a run of so many lines, all different, against these services.
    pub fn run(&self, services: &[&Simulator], lines: usize, flags: &[&str]) -> Run {
        self.run_with_key(services, lines, flags, KEY)
    }

    /// The same with a key of its own.
    pub fn run_with_key(&self, services: &[&Simulator], lines: usize, flags: &[&str], key: &str) -> Run {
        let prompts: String = (0..lines).map(|number| prompt(key, number) + "\n").collect();
        let input = self.file(&prompts).keep().expect("the input can be kept").1;
        let mut command = Command::new(&self.binaries.program);
        command.env_clear().env("HOME", self.folder.path()).args(["-m", MODEL, "--input", "text", "--unordered"]);
        if !flags.contains(&"--api-key-file") {
            command.env("ANVILGPT_API_KEY", key);
        }
        for service in services {
            command.args(["--base-url", &service.base_url()]);
        }
        Run::start(command.args(flags).arg(input))
    }

    /// A file of this name, which only its owner may read.
    pub fn secret_file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        self.file(text).persist(&path).expect("the file can be named");
        path
    }

    fn file(&self, text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder).expect("a file can be made");
        file.write_all(text.as_bytes()).expect("the file can be written");
        file
    }
}

/// The prompt of this number among those of `whose`; the simulator draws its answer's time from it.
pub fn prompt(whose: &str, number: usize) -> String {
    format!("#{number} of {whose}: lorem ipsum dolor sit amet, consectetur adipiscing elit")
}

/// One line of output.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// When it came, since the run began
    pub seconds: f64,
    /// Whether it holds an answer
    pub answered: bool,
}

/// A run of the program; killed when dropped before its end.
pub struct Run {
    child: Child,
    began: Instant,
    completions: Receiver<Completion>,
    stderr: Option<JoinHandle<String>>,
}

/// How a run ended.
pub struct End {
    /// Its status
    pub status: ExitStatus,
    /// What it wrote to stderr
    pub stderr: String,
    /// The completions that nobody had taken yet
    pub completions: Vec<Completion>,
}

impl Run {
    fn start(command: &mut Command) -> Run {
        let began = Instant::now();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program can be started");
        let (sender, completions) = channel();
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        std::thread::spawn(move || stdout.lines().try_for_each(|line| tell(&sender, began, &line.ok()?)));
        let mut stderr = child.stderr.take().expect("stderr is piped");
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            // What could be read says more than that the rest could not.
            let _ = stderr.read_to_string(&mut text);
            text
        });
        Run { child, began, completions, stderr: Some(stderr) }
    }

    /// Time since it began, in seconds.
    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Waits for so many more completions, or for the end of the output.
    pub fn next(&self, count: usize) -> Vec<Completion> {
        let left = || RUN_TIME_MAX.saturating_sub(self.began.elapsed());
        let next = |_| match self.completions.recv_timeout(left()) {
            Ok(completion) => Some(completion),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("a run takes longer than {RUN_TIME_MAX:?}"),
        };
        (0..count).map_while(next).collect()
    }

    /// Waits for the end.
    pub fn finish(mut self) -> End {
        let completions = self.next(usize::MAX);
        let status = self.child.wait().expect("the child is ours");
        let stderr = self.stderr.take().map(|thread| thread.join().expect("the reader ends")).unwrap_or_default();
        End { status, stderr, completions }
    }

    /// Waits for the end, which must be a good one: the time of each completion.
    pub fn answered(self) -> Vec<f64> {
        let end = self.finish();
        assert!(end.status.success(), "a run failed with {}: {}", end.status, end.stderr);
        end.completions.iter().map(|completion| completion.seconds).collect()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tell(sender: &Sender<Completion>, began: Instant, line: &str) -> Option<()> {
    let answered = line.contains("\"error\":null");
    sender.send(Completion { seconds: began.elapsed().as_secs_f64(), answered }).ok()
}

/// How many of these lines have no answer.
pub fn failed(completions: &[Completion]) -> usize {
    completions.iter().filter(|completion| !completion.answered).count()
}

/// Changes a service while it runs. One that is down is asked again until it is up.
pub fn control(service: &Simulator, change: &Value) {
    let is_done = |reply: String| reply.starts_with("HTTP/1.1 200");
    while !post(service, "/control", KEY, &change.to_string()).is_ok_and(is_done) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Asks as a person does, and waits for the answer; the time it took, in seconds.
pub fn chat(service: &Simulator, key: &str, text: &str) -> f64 {
    let began = Instant::now();
    let body = serde_json::json!({ "model": MODEL, "messages": [{ "role": "user", "content": text }] });
    let reply = post(service, "/api/chat/completions", key, &body.to_string()).expect("the service answers");
    assert!(reply.contains("\"choices\""), "no answer: {reply}");
    began.elapsed().as_secs_f64()
}

fn post(service: &Simulator, path: &str, key: &str, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(&service.address)?;
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    Ok(reply)
}
