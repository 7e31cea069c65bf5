//! A folder that a daemon watches, and the service that it asks: where files are dropped, daemons started, and results
//! waited for. Waits are for conditions, and say at their end how everything stood.

use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::desk::{names_in, prompt_of};
use crate::common::{KEY, Live, MODEL, Output, Run, Sim, prompt};

/// Whoever waits longer waits in vain.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Between two looks at something that changes on its own.
const LOOK: Duration = Duration::from_millis(10);
/// The requests in flight of a daemon that says nothing about it.
pub const SLOTS: u64 = 4;
/// How long files must stay unchanged after a close, in these tests.
pub const SETTLE: Duration = Duration::from_millis(300);

/// A folder that is watched, beside others that are not.
pub struct Spool {
    pub sim: Sim,
    folder: TempDir,
    root: PathBuf,
}

impl Spool {
    /// With a service that has no latency and counts no tokens: its answers depend on the prompts alone.
    pub fn new() -> Spool {
        Spool::with(&[])
    }

    /// The same with further flags for the service.
    pub fn with(flags: &[&str]) -> Spool {
        let flags: Vec<&str> = ["--regime", "openai", "--no-usage"].into_iter().chain(flags.iter().copied()).collect();
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("spool");
        std::fs::create_dir(&root).unwrap();
        Spool { sim: Sim::start(&flags), folder, root }
    }

    /// With a service that takes so many milliseconds for each request.
    pub fn slow(milliseconds: u64) -> Spool {
        Spool::with(&["--latency", &format!("fixed:{milliseconds}")])
    }

    /// The watched folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Looks for the watched folder elsewhere: where something is mounted that only some processes see.
    pub fn look_at(&mut self, root: PathBuf) {
        self.root = root;
    }

    /// A path in the watched folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// A path on the same file system, where nobody watches.
    pub fn aside(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A daemon for the folder, to be started: with key, model, and times that are short.
    pub fn daemon(&self) -> Run {
        self.daemon_at(&self.sim.base())
    }

    /// The same with a service at any URL.
    pub fn daemon_at(&self, base: &str) -> Run {
        Run::bare()
            .env("ANVILGPT_API_KEY", KEY)
            .args(["daemon", "--settle", "300ms", "--scan-every", "500ms", "--max-retry-delay", "50ms", "-m", MODEL])
            // As many in flight as the tests count on, however fast the simulator is.
            .args(["--fixed", "--base-url", base, "--spool"])
            .args([&self.root])
    }

    /// A daemon that runs and hears of what is dropped.
    pub fn start(&self) -> Daemon {
        Daemon::watching(self.daemon())
    }

    /// The same with further arguments.
    pub fn start_with(&self, args: &[&str]) -> Daemon {
        Daemon::watching(self.daemon().args(args))
    }

    /// Drops a file: written aside, and renamed in.
    pub fn put(&self, name: impl AsRef<Path>, contents: impl AsRef<[u8]>) {
        let target = self.path(name);
        let mut temp = OsString::from(".");
        temp.push(target.file_name().unwrap().to_string_lossy().chars().take(50).collect::<String>() + ".put");
        let temp = target.with_file_name(temp);
        std::fs::write(&temp, contents).unwrap();
        std::fs::rename(temp, target).unwrap();
    }

    /// A file of the folder as text, if it is there.
    pub fn text(&self, name: impl AsRef<Path>) -> Option<String> {
        std::fs::read(self.path(name)).ok().map(|bytes| String::from_utf8(bytes).unwrap())
    }

    /// Whether there is such a file.
    pub fn has(&self, name: impl AsRef<Path>) -> bool {
        self.path(name).symlink_metadata().is_ok()
    }

    /// Everything in the folder but what is the service's own.
    pub fn names(&self) -> Vec<String> {
        names_in(&self.root).into_iter().filter(|name| name != ".anvil").collect()
    }

    /// Which file this is and when it was written: equal only when nobody has replaced or changed it.
    pub fn identity(&self, name: &str) -> (u64, i64, i64) {
        let metadata = self.path(name).symlink_metadata().unwrap();
        (metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
    }

    /// Waits until `condition` gives a value.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(value) = condition() {
                return value;
            }
            assert!(began.elapsed() < WAIT_MAX, "waited in vain for {what}; {}", self.standing());
            std::thread::sleep(LOOK);
        }
    }

    /// How everything stands, for whoever wonders why a test has failed.
    pub fn standing(&self) -> String {
        let names = std::panic::catch_unwind(|| self.names()).unwrap_or_default();
        let told = std::fs::read_to_string(self.path(".anvil/status.json")).unwrap_or_default();
        format!("in the folder: {names:?}\nstatus: {told}\nthe service: {}", self.sim.stats())
    }

    /// Waits for a file.
    #[track_caller]
    pub fn wait_for(&self, name: impl AsRef<Path> + Debug) -> String {
        self.wait(&format!("{name:?}"), || self.text(&name))
    }

    /// Waits until a result of lines holds these contents, one a line, failures as their codes.
    #[track_caller]
    pub fn wait_for_contents(&self, name: &str, wanted: &[String]) {
        let began = Instant::now();
        loop {
            let found = self.text(name).map(|text| contents(&text));
            if found.as_deref() == Some(wanted) {
                return;
            }
            if began.elapsed() > WAIT_MAX {
                assert_eq!(found.as_deref(), Some(wanted), "{name}; {}", self.standing());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until a result of lines holds the answers to `tag 1`, `tag 2`... up to `count`.
    #[track_caller]
    pub fn wait_for_answers(&self, name: &str, tag: &str, count: usize) {
        self.wait_for_contents(name, &answers(tag, count));
    }

    /// What the daemon says of the folder, once it says anything.
    pub fn status(&self) -> Option<Value> {
        serde_json::from_str(&self.text(".anvil/status.json")?).ok()
    }

    /// Waits until the daemon's word of the folder is such.
    #[track_caller]
    pub fn wait_status<T>(&self, what: &str, mut found: impl FnMut(&Value) -> Option<T>) -> T {
        self.wait(what, || found(&self.status()?))
    }

    /// Waits until a word of the daemon that is younger than this call is such.
    #[track_caller]
    pub fn wait_new_status<T>(&self, what: &str, mut found: impl FnMut(&Value) -> Option<T>) -> T {
        // What is written just now may have been looked up before.
        let since = SystemTime::now() + Duration::from_millis(250);
        self.wait(what, || {
            let written = self.path(".anvil/status.json").metadata().ok()?.modified().ok()?;
            found(&self.status().filter(|_| written > since)?)
        })
    }

    /// Waits until the daemon says that nothing runs any more.
    #[track_caller]
    pub fn wait_until_idle(&self) {
        self.wait_new_status("that nothing runs", |status| {
            let files = &status["files"];
            (files["running"] == 0 && files["queued"] == 0).then_some(())
        });
        self.wait_in_flight(0);
    }

    /// Waits until so many files are done, as the daemon counts them.
    #[track_caller]
    pub fn wait_done(&self, files: u64) {
        self.wait_status(&format!("{files} files done"), |status| {
            (status["files"]["done"].as_u64() >= Some(files)).then_some(())
        });
    }

    /// Waits until the daemon says that it is paused, and why.
    #[track_caller]
    pub fn wait_paused(&self) -> String {
        self.wait_status("a pause", |status| status["paused"].as_str().map(str::to_owned))
    }

    /// Waits until the file beside `input` with this ending is there, and reads it.
    #[track_caller]
    pub fn wait_companion(&self, input: &str, ending: &str) -> Value {
        let name = format!("{input}.{ending}.json");
        self.wait(&name, || serde_json::from_str(&self.text(&name)?).ok())
    }

    /// Waits until the status file of `input` tells this state, and gives it.
    #[track_caller]
    pub fn wait_state(&self, input: &str, state: &str) -> Value {
        let name = format!("{input}.status.json");
        self.wait(&format!("{state} in {name}"), || {
            let status: Value = serde_json::from_str(&self.text(&name)?).ok()?;
            (status["state"] == state).then_some(status)
        })
    }

    /// Has a further file run to its end: what was dropped before it has been seen by then.
    #[track_caller]
    pub fn pass(&self, name: &str) {
        self.put(format!("{name}.jsonl"), lines(name, 1));
        self.wait_for_answers(&format!("{name}.out.jsonl"), name, 1);
    }

    /// The prompts that were sent, in the order in which they came.
    pub fn prompts(&self) -> Vec<String> {
        let requests = self.sim.requests();
        assert!(requests.len() < 1000, "the simulator has begun to forget");
        requests.iter().map(prompt_of).collect()
    }

    /// Nothing was asked twice.
    #[track_caller]
    pub fn nothing_asked_twice(&self) {
        assert_eq!(self.sim.count("repeats"), 0, "{:?}", repeated(self.prompts()));
    }

    /// Waits until so many requests are with the service.
    #[track_caller]
    pub fn wait_in_flight(&self, count: u64) {
        self.wait(&format!("{count} requests in flight"), || (self.sim.count("in_flight") == count).then_some(()));
    }

    /// `anvil-filter status` for this folder.
    pub fn told(&self, args: &[&str]) -> Output {
        Run::bare().args(["status", "--spool"]).args([&self.root]).args(args).output()
    }
}

/// A daemon that runs; what it has logged is shown when its test fails.
pub struct Daemon(Option<Live>);

impl Daemon {
    /// Starts it.
    pub fn start(run: Run) -> Daemon {
        Daemon(Some(run.start()))
    }

    /// Starts it, and waits until the kernel will tell it of changes.
    pub fn watching(run: Run) -> Daemon {
        let mut daemon = Daemon::start(run);
        daemon.wait_until_watching(1);
        daemon
    }

    /// Waits until it watches so many folders.
    pub fn wait_until_watching(&mut self, folders: usize) {
        self.wait_until_watching_for(folders, WAIT_MAX);
    }

    /// The same, for longer.
    pub fn wait_until_watching_for(&mut self, folders: usize, longest: Duration) {
        let began = Instant::now();
        while self.watches() < folders {
            assert!(!self.has_ended(), "it has ended:\n{}", self.stderr());
            assert!(began.elapsed() < longest, "it does not watch:\n{}", self.stderr());
            std::thread::sleep(LOOK);
        }
    }

    /// How many folders it watches (`fdinfo`, proc_pid_fdinfo(5)).
    pub fn watches(&self) -> usize {
        let Ok(entries) = std::fs::read_dir(format!("/proc/{}/fdinfo", self.pid())) else { return 0 };
        let texts = entries.flatten().filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
        texts.map(|text| text.lines().filter(|line| line.starts_with("inotify wd:")).count()).sum()
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Output {
        self.0.take().expect("it has not been waited for").finish()
    }

    /// Ends it as a service manager does, and waits for that.
    pub fn stop(self) -> Output {
        self.signal(crate::common::Signal::TERM);
        self.finish()
    }

    /// Kills it, and waits for that.
    pub fn kill(self) -> Output {
        self.signal(crate::common::Signal::KILL);
        self.finish()
    }
}

impl Deref for Daemon {
    type Target = Live;

    fn deref(&self) -> &Live {
        self.0.as_ref().expect("it has not been waited for")
    }
}

impl DerefMut for Daemon {
    fn deref_mut(&mut self) -> &mut Live {
        self.0.as_mut().expect("it has not been waited for")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(live) = self.0.as_ref().filter(|_| std::thread::panicking()) {
            crate::needs::say(format_args!("the log of the daemon:\n{}", live.stderr()));
        }
    }
}

/// So many prompt lines, `tag 1` and onwards.
pub fn lines(tag: &str, count: usize) -> String {
    (1..=count).map(|number| prompt(&format!("{tag} {number}"))).collect()
}

/// What they are answered.
pub fn answers(tag: &str, count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("Echo: {tag} {number}")).collect()
}

/// What the lines of a result hold: the answers, or the codes of errors; whole lines, numbered in ascending order.
#[track_caller]
pub fn contents(result: &str) -> Vec<String> {
    assert!(result.is_empty() || result.ends_with('\n'), "the last line is cut: {result:?}");
    let mut last = 0;
    let parse = |text: &str| {
        let line: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
        let number = line["line"].as_u64().unwrap();
        assert!(number > last, "{number} comes after {last}");
        last = number;
        let code = crate::common::code_of(&line);
        line["content"].as_str().filter(|_| code.is_empty()).map_or(code, str::to_owned)
    };
    result.lines().map(parse).collect()
}

/// The prompts that are there more than once.
fn repeated(mut prompts: Vec<String>) -> Vec<String> {
    prompts.sort();
    prompts.windows(2).filter(|two| two[0] == two[1]).map(|two| two[0].clone()).collect()
}

/// A path as an argument of a shell.
pub fn quoted(path: impl AsRef<OsStr>) -> String {
    format!("'{}'", path.as_ref().to_str().unwrap().replace('\'', r"'\''"))
}
