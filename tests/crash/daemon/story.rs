//! Daemons whose every call is known: what is in the folder when they begin, what they do, undisturbed, and what must be
//! there whenever they are disturbed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::spool::{Came, File, Records, Since, Spool, large};
use crate::common::Output;
use crate::disk::Files;
use crate::frames::{self, Frame};
use crate::strace::{self, Call, Options};
use crate::task::{Line, Plan};

/// Requests in flight.
const SLOTS: usize = 2;
/// How long a daemon has trouble, how often it is looked whether it has, and when none is waited for any more.
const IN_TROUBLE: Duration = Duration::from_millis(700);
const LOOK: Duration = Duration::from_millis(100);
const IN_TROUBLE_MAX: Duration = Duration::from_secs(8);
/// Calls that change what is there, beside those that every trace has.
const MORE_CALLS: &str = "fchmod,chmod,utimensat,flock,statx";

/// A daemon that begins where others have ended.
pub struct Story {
    pub name: &'static str,
    pub spool: Spool,
    /// What the folder holds before, beside the files.
    pub files: Files,
    /// What it holds at the end.
    pub end: Files,
    /// Results that are there before, by their names: they stay until they are replaced.
    pub old: BTreeMap<String, String>,
    /// Jobs that were done before.
    pub since: Since,
    /// Requests that this daemon makes, undisturbed.
    pub needed: u64,
    /// What it does, undisturbed.
    pub calls: Vec<Call>,
}

/// A place in a run: the so-and-so-many-th call of that name, by any one thread, about this path if any.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    pub call: String,
    pub path: Option<PathBuf>,
    pub time: usize,
}

impl fmt::Display for Site {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.as_ref().map_or("any path".into(), |path| path.display().to_string());
        write!(out, "{} {} of {path}", self.call, self.time)
    }
}

fn plan(first: usize, lines: Vec<Line>) -> Plan {
    Plan { lines, first, ..Plan::small() }
}

/// Three small files and a large one, with lines of every kind.
fn files() -> Vec<File> {
    use Line::{Bad, Good, Refused, Same};
    vec![
        File::lines("a", &plan(100, vec![Good, Bad, Same(100), Good, Same(100)])),
        File::prompt("b", "200 plain words"),
        File::lines("c", &plan(300, vec![Good, Good, Refused])),
        File::lines("d", &plan(400, large(&[Good, Same(400), Bad, Good, Same(400), Good]))),
    ]
}

/// A folder that no daemon has seen.
fn fresh() -> Spool {
    Spool::new(files(), SLOTS, "zero")
}

/// A daemon was killed when two of the files were done, and answers of the others are missing.
fn torn() -> Spool {
    let spool = fresh();
    spool.finish(&Since::new(), "before").expect(0);
    let mut files = spool.state();
    let log = Records::of(&spool).log.unwrap();
    let is_left = |frame: &&Frame| {
        let done = &frame.payload["done"]["path"];
        let is_last = frame.payload["job"] == 2 && frame.payload["line"] == 3;
        done != "c.jsonl" && done != "d.jsonl" && !is_last
    };
    cut(&mut files, &log, is_left);
    let journal = ".anvil/jobs/3/journal".to_owned();
    let notes = frames::read(&files[&journal]);
    let last = notes.iter().rfind(|frame| frame.is_paid()).unwrap().at.start;
    files.get_mut(&journal).unwrap().truncate(last);
    files.insert(".anvil/jobs/3/input".to_owned(), spool.files[3].text.clone().into());
    for name in ["c.out.jsonl", "c.jsonl.status.json", "d.out.jsonl", "d.jsonl.status.json"] {
        files.remove(name);
    }
    spool.put(&files);
    spool
}

/// Leaves out records of a file.
fn cut(files: &mut Files, name: &str, is_left: impl FnMut(&&Frame) -> bool) {
    let bytes = files.get_mut(name).unwrap();
    let frames = frames::read(bytes);
    let left = frames.iter().filter(is_left).flat_map(|frame| frames::write(frames::text(bytes, frame)));
    *bytes = left.collect();
}

/// All is done, and more is wanted: failed lines once more, of a small file and of a large one; and a file has grown.
fn wanted_again() -> Spool {
    use Line::{Good, Late};
    let again = |first: usize, lines: Vec<Line>| Plan { args: vec!["--retry-failed"], ..plan(first, lines) };
    let (small, big) = (again(500, vec![Good, Late, Good, Late]), again(600, large(&[Good, Late, Late, Good])));
    let files = vec![File::lines("a", &plan(100, vec![Good, Good])), File::lines("b", &small), File::lines("d", &big)];
    let mut spool = Spool::new(files, SLOTS, "zero");
    spool.finish(&Since::new(), "before").expect(0);
    spool.replace(File::lines("a", &plan(100, vec![Good, Good, Good])));
    for name in ["b.jsonl.retry", "d.jsonl.retry"] {
        std::fs::write(spool.path(name), "").unwrap();
    }
    spool
}

impl Story {
    fn new(name: &'static str, prepare: fn() -> Spool) -> Story {
        let spool = prepare();
        let old = spool.files.iter().filter_map(|file| Some((file.result.clone(), spool.found(file)?))).collect();
        let (files, since, sends) = (spool.state(), Records::of(&spool).since(), spool.sends());
        let (calls, end, needed) = (Vec::new(), Files::new(), 0);
        let mut story = Story { name, spool, files, end, old, since, needed, calls };
        if !story.retries() {
            // What is done already is done.
            story.since.clear();
        }
        let trace = story.spool.aside("trace");
        let options = Options { calls: format!("{},{MORE_CALLS}", strace::CHANGES), ..Options::default() };
        let output = story.tell(&options, &trace, "undisturbed");
        story.spool.check_end(&output, "undisturbed");
        story.needed = story.spool.sends() - sends;
        story.calls = strace::read(&trace);
        story.end = story.spool.state();
        story
    }

    /// Every kind of run there is.
    pub fn all() -> [fn() -> Story; 3] {
        [|| Story::new("fresh", fresh), || Story::new("torn", torn), || Story::new("again", wanted_again)]
    }

    /// Whether errors are asked again.
    pub fn retries(&self) -> bool {
        self.files.keys().any(|name| name.ends_with(".retry"))
    }

    /// Sets the scene.
    pub fn begin(&self) {
        self.spool.put(&self.files);
    }

    /// One daemon, traced: it hears of one file after another, and ends when all are done.
    pub fn tell(&self, options: &Options, trace: &Path, when: &str) -> Output {
        let mut daemon = self.spool.start_traced(options, trace);
        for file in &self.spool.files {
            if !self.spool.carry_out(&mut daemon, [file], &self.since, when) {
                break;
            }
        }
        daemon.stop()
    }

    /// The same with trouble that passes some time after it has begun, if the daemon is not done with it before; and
    /// whether it was.
    pub fn tell_of_trouble(&self, options: &Options, trace: &Path, when: &str) -> (Output, bool) {
        let mut daemon = self.spool.start_traced(options, trace);
        daemon.has_trouble = true;
        let (began, mut since) = (Instant::now(), None::<Instant>);
        for file in &self.spool.files {
            while self.spool.watch(&mut daemon, [file], &self.since, LOOK) == Came::Nothing {
                let is_injected = || strace::read(trace).iter().any(Call::is_injected);
                if since.is_none() && is_injected() {
                    since = Some(Instant::now());
                }
                if since.is_some_and(|since| since.elapsed() > IN_TROUBLE) || began.elapsed() > IN_TROUBLE_MAX {
                    daemon.let_go();
                    self.spool.carry_out(&mut daemon, &self.spool.files, &self.since, when);
                    return (daemon.stop(), false);
                }
            }
        }
        (daemon.stop(), true)
    }

    /// Every call by which something changes in the folder.
    pub fn sites(&self) -> Vec<Site> {
        let mut sites = BTreeSet::new();
        let mut counts: BTreeMap<(u32, Site), usize> = BTreeMap::new();
        let root = self.spool.root();
        let changes = self.calls.iter().filter(|call| self.is_change(call));
        let paths: BTreeSet<Option<PathBuf>> = changes.clone().map(|call| site_path(call, root)).collect();
        let mut calls: Vec<&Call> = self.calls.iter().collect();
        calls.sort_by_key(|call| call.begin);
        for call in calls {
            // Each call is counted for every path that it is about, as strace counts it.
            let own = site_path(call, root);
            for path in &paths {
                if path.as_ref().is_some_and(|path| !call.is_about(path)) {
                    continue;
                }
                let mut site = Site { call: call.name.clone(), path: path.clone(), time: 0 };
                let count = counts.entry((call.thread, site.clone())).or_default();
                *count += 1;
                site.time = *count;
                // Others make these, too, and nothing tells the ones that are meant.
                let is_anyones = path.is_none() && ["write", "openat", "close", "statx"].contains(&&*call.name);
                if self.is_change(call) && own == *path && !is_anyones {
                    sites.insert(site);
                }
            }
        }
        sites.into_iter().collect()
    }

    fn is_change(&self, call: &Call) -> bool {
        let root = self.spool.root().to_str().unwrap();
        let is_draft = || call.args.contains("anvil-draft") || call.args.contains("anvil-probe");
        let is_about = call.path().is_some_and(|path| path.starts_with(root)) || call.args.contains(root);
        is_about
            && match &*call.name {
                "openat" => call.args.contains("O_CREAT") || call.args.contains("O_TRUNC"),
                // The only looks and closes at which something may be half done.
                "statx" | "close" => is_draft(),
                "dup" | "fcntl" => false,
                _ => true,
            }
    }

    /// What the next daemon makes of it, after a crash or an error.
    pub fn check_next(&self, before: u64, when: &str) {
        let output = self.spool.finish(&self.since, &format!("after {when}"));
        self.spool.check_end(&output, when);
        let sends = self.spool.sends() - before;
        let bound = self.needed + self.spool.slots as u64;
        assert!(sends <= bound, "{when}: {sends} requests where {} are needed", self.needed);
    }
}

/// The path by which a call is known in every run; none when it is another each time.
fn site_path(call: &Call, root: &Path) -> Option<PathBuf> {
    // Who takes the lease does so with files whose names are never the same.
    let is_lasting = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str());
        path.starts_with(root) && !name.is_some_and(|name| name.ends_with(".tmp"))
    };
    let is_write = call.name.contains("write");
    let strings = if is_write { Vec::new() } else { call.strings() };
    let named = strings.into_iter().rev().map(|path| PathBuf::from(String::from_utf8_lossy(&path).into_owned()));
    let own = call.path().map(PathBuf::from);
    named.chain(own).find(|path| is_lasting(path))
}
