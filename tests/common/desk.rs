//! A desk: a folder in which one run follows another, and the service that all of them ask. What tests of resuming share.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::{Output, Run, Signal, Sim, code_of, prompt, wait_for};

/// The requests in flight of a run that says nothing about it.
pub const SLOTS: usize = 4;

/// A folder in which one run follows another, and the service that all of them ask.
pub struct Desk {
    /// The service.
    pub sim: Sim,
    folder: TempDir,
}

impl Desk {
    /// A desk with a service that has no latency and counts no tokens: its answers depend on the prompts alone.
    pub fn new() -> Desk {
        Desk::with(&[])
    }

    /// The same with further flags for the service.
    pub fn with(flags: &[&str]) -> Desk {
        let flags: Vec<&str> = ["--regime", "openai", "--no-usage"].into_iter().chain(flags.iter().copied()).collect();
        Desk::of(Sim::start(&flags))
    }

    /// A desk with this service.
    pub fn of(sim: Sim) -> Desk {
        Desk { sim, folder: tempfile::tempdir().unwrap() }
    }

    /// A path on the desk.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A path on the desk as an argument.
    pub fn arg(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes a file, over an old one if need be: its inode stays.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// The bytes of a file.
    #[track_caller]
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("read {name}: {error}; there: {:?}", self.names()))
    }

    /// A file as text.
    #[track_caller]
    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.bytes(name)).unwrap()
    }

    /// A file of JSON lines.
    #[track_caller]
    pub fn lines(&self, name: &str) -> Vec<Value> {
        self.text(name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    /// Whether there is such a file.
    pub fn has(&self, name: &str) -> bool {
        self.path(name).symlink_metadata().is_ok()
    }

    /// Everything that lies on the desk, hidden or not.
    pub fn names(&self) -> Vec<String> {
        names_in(self.folder.path())
    }

    /// Which file this is and when it was written: equal only when nobody has replaced or changed it.
    pub fn identity(&self, name: &str) -> (u64, i64, i64, Vec<u8>) {
        let metadata = self.path(name).symlink_metadata().unwrap();
        (metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), self.bytes(name))
    }

    /// A run that asks the desk's service.
    pub fn run(&self) -> Run {
        Run::on(&self.sim).args(["--fixed"])
    }

    /// The run `in -o out`.
    pub fn to_file(&self) -> Run {
        self.run().args([self.path("in"), "-o".into(), self.path("out")])
    }

    /// The run `--journal journal`, from standard input to standard output.
    pub fn journaled(&self) -> Run {
        self.run().args(["--journal".into(), self.path("journal")])
    }

    /// `anvil-filter journal NAME` with further arguments.
    pub fn journal(&self, name: &str, args: &[&str]) -> Output {
        Run::bare().args(["journal".into(), self.path(name)]).args(args).output()
    }

    /// What a plain pipe gives for this input, from the same service, apart from the time that it took.
    pub fn plain(&self, input: &str, args: &[&str]) -> String {
        timeless(&self.run().args(args).input(input).output().text())
    }

    /// Does something, and returns the prompts that were sent meanwhile, in the order in which they came.
    pub fn sent<T>(&self, act: impl FnOnce() -> T) -> (Vec<String>, T) {
        let before = self.sim.requests().len();
        let result = act();
        let requests = self.sim.requests();
        assert!(requests.len() < 1000, "the simulator has begun to forget");
        (requests[before..].iter().map(prompt_of).collect(), result)
    }

    /// Does something that must not send anything, nor ask what the service speaks.
    #[track_caller]
    pub fn nothing_sent<T>(&self, act: impl FnOnce() -> T) -> T {
        let counts = || ["requests", "version_requests", "models_requests"].map(|name| self.sim.count(name));
        let before = counts();
        let result = act();
        assert_eq!(counts(), before, "requests, looks at the version, looks at the models");
        result
    }

    /// Runs until the slots are taken by lines that hang, and ends it there: what stands before them is settled.
    /// Made for inputs of [`stuck`].
    pub fn interrupt(&self, run: Run, input: Option<&str>) -> Output {
        let mut live = run.args(["--drain-timeout", "50ms"]).start();
        if let Some(input) = input {
            live.feed_in_background(input.as_bytes().to_vec());
        }
        self.wait_until_stuck(|| live.has_ended());
        live.signal(Signal::TERM);
        live.finish()
    }

    /// Waits until nothing goes on any more but the lines that hang; they do so once on a desk.
    pub fn wait_until_stuck(&self, mut has_ended: impl FnMut() -> bool) {
        wait_for("lines that hang in all slots", || {
            let hanging = self.sim.requests().iter().filter(|sent| is_stuck(&prompt_of(sent))).count();
            let in_flight = self.sim.count("in_flight");
            ((hanging, in_flight) == (SLOTS, SLOTS as u64) || has_ended()).then_some(())
        });
    }
}

/// Everything that lies in a folder, in order.
pub fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Lines that take all slots and hang there, when they are asked for the first time.
pub fn stuck() -> String {
    (1..=SLOTS).map(|number| prompt(&format!("sim:hang-head*1 stuck {number}"))).collect()
}

fn is_stuck(prompt: &str) -> bool {
    prompt.starts_with("sim:hang-head*1 stuck")
}

/// The text that a request ends with.
pub fn prompt_of(request: &Value) -> String {
    let messages = request["body"]["messages"].as_array().unwrap();
    messages.last().unwrap()["content"].as_str().unwrap().to_owned()
}

/// Prompts in order, to be compared with others that were sent in any order.
pub fn sorted(mut prompts: Vec<String>) -> Vec<String> {
    prompts.sort();
    prompts
}

/// The same lines, as if they had taken no time.
pub fn timeless(lines: &str) -> String {
    const NAME: &str = "\"seconds\":";
    let mut rest = lines;
    let mut text = String::with_capacity(lines.len());
    while let Some(at) = rest.find(NAME) {
        let (before, after) = rest.split_at(at + NAME.len());
        text.push_str(before);
        text.push('0');
        rest = after.trim_start_matches(|digit: char| digit.is_ascii_digit() || digit == '.');
    }
    text + rest
}

/// The line numbers of completion lines.
pub fn numbers(lines: &[Value]) -> Vec<u64> {
    lines.iter().map(|line| line["line"].as_u64().unwrap()).collect()
}

/// The error codes of completion lines, empty for answers.
pub fn codes(lines: &[Value]) -> Vec<String> {
    lines.iter().map(code_of).collect()
}
