//! A folder of prompt files with a service, whose end is known before a daemon is started: what must be there then, what
//! may not, and how many requests that takes.
//!
//! The files lie there from the beginning. A daemon takes what it hears of, so each file is opened and closed once more,
//! which changes nothing about it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{KEY, Live, MODEL, Output, Run, Sim, wait_for};
use crate::disk::Files;
use crate::frames;
use crate::strace::Options;
use crate::task::{Line, Plan, same, simulator};

/// Whoever waits longer waits in vain: a daemon tries again what has failed after two seconds, and a few times perhaps.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Between two looks at something that changes on its own.
const LOOK: Duration = Duration::from_millis(10);
/// How often a daemon hears of a file that it has not taken.
const NUDGE: Duration = Duration::from_millis(150);
/// More lines than a small file has.
const LARGE: usize = 65;

/// A prompt file, and what must come of it.
pub struct File {
    pub name: String,
    pub text: String,
    pub result: String,
    /// What the result holds, [`same`] for all results that are right.
    pub wanted: Arc<String>,
    /// Requests that it takes.
    pub asked: u64,
    /// Whether lines of it fail, so that a status file says so.
    pub fails: bool,
}

impl File {
    /// A file of lines.
    pub fn lines(name: &str, plan: &Plan) -> File {
        File {
            name: format!("{name}.jsonl"),
            text: plan.input(),
            result: format!("{name}.out.jsonl"),
            wanted: plan.wanted(),
            asked: plan.asked(),
            fails: plan.status() != 0,
        }
    }

    /// A file that is one prompt.
    pub fn prompt(name: &str, words: &str) -> File {
        File {
            name: format!("{name}.txt"),
            text: words.to_owned(),
            result: format!("{name}.txt.out.md"),
            wanted: Arc::new(format!("Echo: {words}\n")),
            asked: 1,
            fails: false,
        }
    }
}

/// Lines of a large file: most of them are blank.
pub fn large(lines: &[Line]) -> Vec<Line> {
    [&vec![Line::Blank; LARGE][..], lines].concat()
}

/// A folder with its files.
pub struct Spool {
    pub sim: Sim,
    pub files: Vec<File>,
    /// Requests in flight.
    pub slots: usize,
    folder: TempDir,
    root: PathBuf,
}

impl Spool {
    /// The files in a folder of which no daemon knows.
    pub fn new(files: Vec<File>, slots: usize, latency: &str) -> Spool {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap().join("spool");
        fs::create_dir(&root).unwrap();
        let spool = Spool { sim: simulator(latency), files, slots, folder, root };
        spool.files.iter().for_each(|file| fs::write(spool.path(&file.name), &file.text).unwrap());
        spool
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A path outside of the folder.
    pub fn aside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces a file by another version of it.
    pub fn replace(&mut self, file: File) {
        let temp = self.aside("replaced");
        fs::write(&temp, &file.text).unwrap();
        fs::rename(temp, self.path(&file.name)).unwrap();
        let place = self.files.iter().position(|old| old.name == file.name).unwrap();
        self.files[place] = file;
    }

    /// Everything in the folder but the files.
    pub fn state(&self) -> Files {
        let mut found = Files::new();
        collect(&self.root, "", &mut found);
        self.files.iter().for_each(|file| drop(found.remove(&file.name)));
        found
    }

    /// Makes this everything in the folder but the files, which stay as they are.
    pub fn put(&self, files: &Files) {
        for name in self.names() {
            let path = self.path(&name);
            match self.files.iter().any(|file| file.name == name) {
                true => {}
                false if path.is_dir() => fs::remove_dir_all(path).unwrap(),
                false => fs::remove_file(path).unwrap(),
            }
        }
        for (name, bytes) in files {
            match name.strip_suffix('/') {
                Some(folder) => fs::create_dir(self.path(folder)).unwrap(),
                None => fs::write(self.path(name), bytes).unwrap(),
            }
        }
    }

    /// Names in the folder.
    pub fn names(&self) -> Vec<String> {
        crate::common::desk::names_in(&self.root)
    }

    /// A daemon, to be started.
    fn run(&self) -> Run {
        let run =
            Run::bare().env("ANVILGPT_API_KEY", KEY).args(["daemon", "--settle", "50ms", "--scan-every", "500ms"]);
        let run = run.args(["--max-retry-delay", "50ms", "-m", MODEL, "--base-url", &self.sim.base()]);
        run.args(["-j", &self.slots.to_string(), "--spool"]).args([&self.root])
    }

    /// Starts a daemon.
    pub fn start(&self) -> Daemon {
        Daemon::new(self.run().start())
    }

    /// Starts a daemon under strace.
    pub fn start_traced(&self, options: &Options, trace: &Path) -> Daemon {
        Daemon::new(options.wrap(self.run(), trace).start())
    }

    /// Lets a daemon hear of files that it has not taken: they are opened for writing, and closed.
    pub fn nudge(&self, file: &File) {
        drop(OpenOptions::new().append(true).open(self.path(&file.name)).unwrap());
    }

    /// Waits until a daemon has written down that it is done with these files, all together; false when it ends before.
    pub fn carry_out<'f>(
        &self,
        daemon: &mut Daemon,
        files: impl IntoIterator<Item = &'f File>,
        since: &Since,
        when: &str,
    ) -> bool {
        let came = self.watch(daemon, files, since, WAIT_MAX);
        assert!(came != Came::Nothing, "{when}: waited in vain: {}", self.told(daemon));
        came == Came::Done
    }

    /// The same for so long.
    pub fn watch<'f>(
        &self,
        daemon: &mut Daemon,
        files: impl IntoIterator<Item = &'f File>,
        since: &Since,
        patience: Duration,
    ) -> Came {
        let mut left: Vec<&File> = files.into_iter().collect();
        let began = Instant::now();
        loop {
            let records = Records::of(self);
            left.retain(|file| !records.is_done(&file.name, since) || !daemon.has_trouble && self.is_controlled(file));
            match () {
                () if daemon.has_ended() => return Came::End,
                () if left.is_empty() && daemon.is_ready() => return Came::Done,
                () if began.elapsed() > patience => return Came::Nothing,
                () => {}
            }
            if daemon.nudged.is_none_or(|at| at.elapsed() > NUDGE) {
                left.iter().for_each(|file| self.nudge(file));
                daemon.nudged = Some(Instant::now());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Whether somebody still wants something of a file.
    fn is_controlled(&self, file: &File) -> bool {
        self.path(&format!("{}.retry", file.name)).exists()
    }

    /// Runs an undisturbed daemon until all is done.
    pub fn finish(&self, since: &Since, when: &str) -> Output {
        let mut daemon = self.start();
        self.carry_out(&mut daemon, &self.files, since, when);
        daemon.stop()
    }

    /// What a result holds, [`same`] for all that are right.
    pub fn found(&self, file: &File) -> Option<String> {
        fs::read(self.path(&file.result)).ok().map(|bytes| same(&String::from_utf8_lossy(&bytes)))
    }

    /// Every result that is there is whole, or what it was before.
    #[track_caller]
    pub fn check_never_wrong(&self, old: &BTreeMap<String, String>, when: &str) {
        for file in &self.files {
            let found = self.found(file);
            let is_right = found.is_none() || found.as_ref() == Some(&*file.wanted);
            let old = old.get(&file.result);
            assert!(is_right || found.as_ref() == old, "{when}: {} is wrong:\n{found:?}", file.result);
            assert!(old.is_none() || found.is_some(), "{when}: {} was there, and is gone", file.result);
        }
    }

    /// The end is that of an undisturbed run: every file has its result, and nothing else is left.
    #[track_caller]
    pub fn check_end(&self, output: &Output, when: &str) {
        assert_eq!(output.status, 0, "{when}: {output}");
        for file in &self.files {
            assert_eq!(self.found(file).as_ref(), Some(&*file.wanted), "{when}: {}: {output}", file.result);
        }
        let mut wanted: BTreeSet<String> =
            [".anvil/", ".anvil/jobs/", ".anvil/reading", ".anvil/status.json"].map(str::to_owned).into();
        let records = Records::of(self);
        wanted.extend(records.log.clone());
        wanted.extend(self.files.iter().map(|file| file.result.clone()));
        for folder in records.folders() {
            wanted.extend([format!(".anvil/jobs/{folder}/"), format!(".anvil/jobs/{folder}/journal")]);
        }
        let mut found: BTreeSet<String> = self.state().into_keys().collect();
        // What tells of failures is told once, and nothing depends on it.
        let fails = self.files.iter().filter(|file| file.fails);
        fails.for_each(|file| {
            found.remove(&format!("{}.status.json", file.name));
        });
        let added: Vec<_> = found.difference(&wanted).collect();
        let missing: Vec<_> = wanted.difference(&found).collect();
        assert!(added.is_empty() && missing.is_empty(), "{when}: left over: {added:?}; missing: {missing:?}; {output}");
    }

    /// Outcomes that are written down.
    pub fn paid(&self) -> u64 {
        paid(&self.state(), false).len() as u64
    }

    /// Requests of an undisturbed daemon that begins with nothing.
    pub fn asked(&self) -> u64 {
        self.files.iter().map(|file| file.asked).sum()
    }

    /// Waits until the service has nothing more to do, and says how many requests it has got.
    pub fn sends(&self) -> u64 {
        wait_for("the simulator to be idle", || (self.sim.count("in_flight") == 0).then_some(()));
        self.sim.count("requests")
    }

    /// How everything stands, for a failure's message.
    pub fn told(&self, daemon: &Daemon) -> String {
        let status = fs::read_to_string(self.path(".anvil/status.json")).unwrap_or_default();
        let state: Vec<String> = self.state().into_keys().collect();
        format!("{state:?}\n{status}\nthe service: {}\nits log:\n{}", self.sim.stats(), daemon.live().stderr())
    }
}

fn collect(folder: &Path, name: &str, found: &mut Files) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = format!("{name}{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() {
            found.insert(format!("{name}/"), Vec::new());
            collect(&entry.path(), &format!("{name}/"), found);
        } else if let Ok(bytes) = fs::read(entry.path()) {
            found.insert(name, bytes);
        }
    }
}

/// Outcomes that are written down: the lines of all logs and journals that took a request, by their keys; errors only
/// where they are not asked for again.
pub fn paid(files: &Files, retries: bool) -> BTreeSet<String> {
    let journals = files.iter().filter(|(name, _)| name.ends_with("/journal") || name.starts_with(".anvil/log."));
    let frames = journals.flat_map(|(_, bytes)| frames::read(bytes));
    let is_settled = |frame: &frames::Frame| frame.is_paid() && (!retries || frame.payload["outcome"] == "answer");
    frames.filter(is_settled).map(|frame| format!("{} {}", frame.payload["key"], frame.payload["nth"])).collect()
}

/// For each file the job with which it was done before; only later ones count.
pub type Since = BTreeMap<String, u64>;

/// What the newest log says.
pub struct Records {
    /// The log, as seen from the folder.
    pub log: Option<String>,
    pub notes: Vec<Value>,
}

impl Records {
    /// What the log of a folder says, and nothing when there is none.
    pub fn of(spool: &Spool) -> Records {
        let entries = fs::read_dir(spool.path(".anvil")).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let log = names.filter_map(|name| name.strip_prefix("log.")?.parse::<u64>().ok()).max();
        let log = log.map(|generation| format!(".anvil/log.{generation}"));
        let bytes = log.as_ref().and_then(|log| fs::read(spool.path(log)).ok()).unwrap_or_default();
        Records { log, notes: frames::read(&bytes).into_iter().map(|frame| frame.payload).collect() }
    }

    /// Whether a file is done, by a later job than the one that was known before.
    pub fn is_done(&self, name: &str, since: &Since) -> bool {
        let done = |note: &&Value| note["done"]["path"] == name;
        let job = self.notes.iter().filter(done).filter_map(|note| note["done"]["job"].as_u64()).max();
        job > since.get(name).copied()
    }

    /// The jobs with which files were done last.
    pub fn since(&self) -> Since {
        let done = self.notes.iter().map(|note| &note["done"]).filter(|done| done.is_object());
        done.map(|done| (done["path"].as_str().unwrap().to_owned(), done["job"].as_u64().unwrap())).collect()
    }

    /// Jobs whose answers lie in folders of their own.
    pub fn folders(&self) -> BTreeSet<u64> {
        let done: BTreeMap<&str, &Value> =
            self.notes.iter().filter_map(|note| Some((note["done"]["path"].as_str()?, &note["done"]))).collect();
        done.into_values().filter_map(|done| done["folder"].as_u64()).collect()
    }
}

/// What came of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// What was waited for.
    Done,
    /// The end of the daemon.
    End,
    /// Nothing, for all the time that was given.
    Nothing,
}

/// A daemon that runs; it ends with this.
pub struct Daemon {
    live: Option<Live>,
    /// The daemon's own process: under strace it is another one's child.
    pid: Option<Pid>,
    /// Whether something goes wrong with it: then controls need not go away before it ends.
    pub has_trouble: bool,
    /// Whether it was let go.
    is_alone: bool,
    /// When it last heard of files.
    nudged: Option<Instant>,
}

impl Daemon {
    fn new(live: Live) -> Daemon {
        Daemon { live: Some(live), pid: None, has_trouble: false, is_alone: false, nudged: None }
    }

    fn live(&self) -> &Live {
        self.live.as_ref().expect("it has not been waited for")
    }

    pub fn has_ended(&mut self) -> bool {
        match self.pid.filter(|_| self.is_alone) {
            Some(pid) => is_over(pid),
            None => self.live.as_mut().expect("it has not been waited for").has_ended(),
        }
    }

    /// Whether it has begun, and hears signals.
    fn is_ready(&self) -> bool {
        self.live().stderr().contains("running spools=1")
    }

    /// The daemon's own process, once it is that.
    fn pid(&mut self) -> Option<Pid> {
        if self.pid.is_none() {
            let started = self.live().pid();
            let children = fs::read_to_string(format!("/proc/{started}/task/{started}/children")).unwrap_or_default();
            let pids = children.split_whitespace().filter_map(|pid| pid.parse().ok()).chain([started]);
            let program = Path::new(env!("CARGO_BIN_EXE_anvil-filter"));
            let is_it = |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program);
            self.pid = pids.into_iter().find(is_it).and_then(|pid| Pid::from_raw(pid.cast_signed()));
        }
        self.pid
    }

    /// Sends it a signal, and waits for its end.
    fn end_by(mut self, signal: Signal) -> Output {
        let began = Instant::now();
        while !self.has_ended() {
            if let Some(pid) = self.pid() {
                let _ = kill_process(pid, signal);
                break;
            }
            assert!(began.elapsed() < WAIT_MAX, "its process was not found");
            std::thread::sleep(LOOK);
        }
        while !self.has_ended() {
            assert!(began.elapsed() < WAIT_MAX, "a daemon does not end; its log:\n{}", self.live().stderr());
            std::thread::sleep(LOOK);
        }
        self.live.take().expect("it has not been waited for").finish()
    }

    /// Takes it out of strace's hands, so that nothing fails any more; it goes on. The status that its end is told with
    /// is strace's from now on.
    pub fn let_go(&mut self) {
        if self.pid().is_some() {
            self.live().signal(Signal::KILL);
            self.is_alone = true;
        }
    }

    /// Ends it as a service manager does.
    pub fn stop(self) -> Output {
        self.end_by(Signal::TERM)
    }

    /// Kills it.
    pub fn kill(self) -> Output {
        self.end_by(Signal::KILL)
    }
}

/// Whether a process has ended; its parent may not have looked yet.
fn is_over(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.starts_with(" Z"))
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Without strace, which goes first, it would go on.
        if self.live.is_some()
            && let Some(pid) = self.pid()
        {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
