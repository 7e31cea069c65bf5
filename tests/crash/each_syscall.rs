//! A kill at every durable system call of a small run: the next run comes to the same end, and leaves nothing behind.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::disk::Files;
use crate::frames;
use crate::plan::{Dice, is_all, say};
use crate::scene::Scene;
use crate::strace::{self, Call, Options};
use crate::task::{Goal, Line, Plan, same};

/// Calls at which a run is killed, wherever they are made; `true` for those that others make, too, which count only
/// when they are about the job's files.
pub const CALLS: &[(&str, bool)] = &[
    ("openat", true),
    ("write", true),
    ("write", false),
    ("pwrite64", true),
    ("close", true),
    ("fdatasync", false),
    ("fsync", false),
    ("ftruncate", false),
    ("fchmod", false),
    ("link", false),
    ("linkat", false),
    ("rename", false),
    ("renameat", false),
    ("renameat2", false),
    ("unlink", false),
    ("unlinkat", false),
    ("utimensat", false),
    ("flock", false),
];
/// No run makes a call more often.
const TIMES_MAX: usize = 400;

/// A run that begins where another has ended.
pub struct Story {
    pub name: &'static str,
    pub scene: Scene,
    /// What was done before.
    before: fn(&Scene),
    /// What F may hold until it is replaced.
    old: Option<String>,
    /// Requests that this run takes, undisturbed.
    needed: u64,
    /// What it does, undisturbed.
    pub calls: Vec<Call>,
    /// What the folder holds before, and what at the end.
    pub files: Files,
    pub end: Files,
}

fn nothing(_: &Scene) {}

/// An earlier run was killed while it wrote to the journal.
fn torn(scene: &Scene) {
    scene.finish().expect(scene.plan.status());
    std::fs::remove_file(scene.file()).unwrap();
    let journal = scene.journal_bytes();
    let last = frames::read(&journal).into_iter().rfind(frames::Frame::is_paid).unwrap();
    std::fs::write(scene.journal(), &journal[..last.at.end - 20]).unwrap();
}

/// F is there, with two lines less.
fn shorter(scene: &Scene) {
    let input = scene.plan.input();
    let lines: Vec<&str> = input.split_inclusive('\n').collect();
    std::fs::write(scene.input_path(), lines[..lines.len() - 2].concat()).unwrap();
    scene.finish();
    std::fs::write(scene.input_path(), input).unwrap();
}

fn finished(scene: &Scene) {
    scene.finish();
}

fn a_strangers(scene: &Scene) {
    std::fs::write(scene.file(), "a stranger's").unwrap();
}

impl Story {
    fn new(name: &'static str, plan: Plan, before: fn(&Scene)) -> Story {
        let scene = Scene::new(plan);
        let mut story = Story {
            name,
            scene,
            before,
            old: None,
            needed: 0,
            calls: Vec::new(),
            files: Files::new(),
            end: Files::new(),
        };
        story.begin();
        story.old = story.scene.found();
        story.files = story.scene.files();
        let sends = story.scene.sends();
        let trace = story.scene.aside("trace");
        let options = Options { calls: format!("{},fchmod,utimensat,flock", strace::CHANGES), ..Options::default() };
        let output = story.scene.start_as(|run| options.wrap(run, &trace)).finish();
        story.check_end(&output, "undisturbed");
        story.needed = story.scene.sends() - sends;
        story.calls = strace::read(&trace);
        story.end = story.scene.files();
        story
    }

    /// Every kind of run there is.
    pub fn all() -> Vec<fn() -> Story> {
        vec![
            || Story::new("first", Plan::small(), nothing),
            || Story::new("piped", Plan { piped: true, ..Plan::small() }, nothing),
            || Story::new("stdout", Plan { goal: Goal::Stdout, ..Plan::small() }, nothing),
            || Story::new("torn", Plan::small(), torn),
            || Story::new("longer", Plan::small(), shorter),
            || {
                let lines = vec![Line::Good, Line::Late, Line::Good, Line::Late];
                Story::new("retry", Plan { lines, args: vec!["--retry-failed"], ..Plan::small() }, finished)
            },
            || Story::new("force", Plan { args: vec!["--force"], ..Plan::small() }, a_strangers),
            || Story::new("discard", Plan { args: vec!["--discard-journal"], ..Plan::small() }, nothing),
            || Story::new("again", Plan::small(), finished),
        ]
    }

    /// Sets the scene.
    pub fn begin(&self) {
        self.scene.reset();
        (self.before)(&self.scene);
    }

    /// The files of the job, by which calls of the thread that makes everything durable are known.
    pub fn paths(&self) -> Vec<PathBuf> {
        let names = ["F", ".F.anvil-draft", ".F.anvil-probe", ".F.anvil-probe-taken", "F.input", "F.journal"];
        let journals = ["anvil-draft", "anvil-probe", "anvil-probe-taken", "lock.break"];
        let journals = journals.iter().map(|ending| format!(".F.journal.{ending}"));
        let all = names.iter().map(ToString::to_string).chain(journals).chain(["F.journal.lock".to_owned()]);
        all.map(|name| self.scene.out().join(name)).chain([self.scene.out()]).collect()
    }

    /// How often each thread makes a call at most.
    pub fn times(&self, name: &str, bound: bool) -> usize {
        let paths = self.paths();
        let is_about = |call: &&Call| {
            let named =
                call.strings().into_iter().map(|path| PathBuf::from(String::from_utf8_lossy(&path).into_owned()));
            !bound || call.path().into_iter().map(PathBuf::from).chain(named).any(|path| paths.contains(&path))
        };
        let mut threads: BTreeMap<u32, usize> = BTreeMap::new();
        let calls = self.calls.iter().filter(|call| call.name == name).filter(is_about);
        calls.for_each(|call| *threads.entry(call.thread).or_default() += 1);
        threads.into_values().max().unwrap_or(0)
    }

    /// F is whole or not there, or still what it was before.
    pub fn check_never_wrong(&self, when: &str) {
        let found = self.scene.found();
        if found.is_none() || found != self.old {
            self.scene.check_never_wrong(when);
        }
        let begun_with = self.old.is_some();
        assert!(!begun_with || found.is_some(), "{when}: F was there, and is gone");
    }

    /// The end is that of an undisturbed run.
    pub fn check_end(&self, output: &crate::common::Output, when: &str) {
        let scene = &self.scene;
        if self.name == "discard" {
            assert_eq!(scene.found().as_ref(), Some(&*scene.wanted), "{when}: {output}");
            assert_eq!(scene.names(), ["F"], "{when}: {output}");
            // Without its journal nobody can know that F is ours.
            assert!(output.status == scene.plan.status() || output.status == 64, "{when}: {output}");
            return;
        }
        scene.check_end(output, &format!("{}, {when}", self.name));
    }

    /// What the next run makes of it, after a crash or an error.
    pub fn check_next(&self, before: u64, when: &str) {
        let output = self.scene.finish();
        self.check_end(&output, when);
        let sends = self.scene.sends() - before;
        let bound = self.needed + self.scene.plan.concurrency as u64;
        assert!(sends <= bound, "{when}: {sends} requests where {} are needed", self.needed);
    }

    fn kill_at(&self, name: &str, bound: bool, time: usize) -> bool {
        self.begin();
        let before = self.scene.sends();
        let (paths, trace) = (if bound { self.paths() } else { Vec::new() }, self.scene.aside("trace"));
        let options = Options::inject(name, &format!("signal=KILL:when={time}"), &paths);
        let output = self.scene.start_as(|run| options.wrap(run, &trace)).finish();
        let when = format!("{}: killed at {name} {time}{}", self.name, if bound { " of the job" } else { "" });
        if output.status != 137 {
            self.check_end(&output, &when);
            return false;
        }
        self.check_never_wrong(&when);
        if self.scene.plan.goal == Goal::Stdout {
            let text = output.text();
            let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
            assert!(self.scene.wanted.starts_with(&same(whole)), "{when}: {output}");
        }
        self.check_next(before, &when);
        true
    }
}

fn killed_at_each_call(story: fn() -> Story, sample: usize) {
    if !strace::is_here() {
        return;
    }
    let (story, mut dice) = (story(), Dice::new());
    let calls = CALLS.iter().filter(|(name, bound)| story.times(name, *bound) > 0);
    if !is_all() {
        let cases =
            calls.flat_map(|(name, bound)| (1..=story.times(name, *bound)).map(move |time| (*name, *bound, time)));
        for (name, bound, time) in dice.pick(cases.collect(), sample) {
            story.kill_at(name, bound, time);
        }
        return;
    }
    let mut told = Vec::new();
    for (name, bound) in calls {
        let times = (1..TIMES_MAX).take_while(|time| story.kill_at(name, *bound, *time)).count();
        // Groups of records differ from run to run, and their number with them; but not by much.
        assert!(2 * times >= story.times(name, *bound), "{name} was hit {times} times only");
        told.push(format!("{name}{} {times}", if *bound { "*" } else { "" }));
    }
    say(format_args!("{}: killed at {}", story.name, told.join(", ")));
}

#[test]
fn a_first_run_is_killed_at_each_call() {
    killed_at_each_call(Story::all()[0], 12);
}

#[test]
fn a_run_of_a_pipe_is_killed_at_each_call() {
    killed_at_each_call(Story::all()[1], 4);
}

#[test]
fn a_run_to_stdout_is_killed_at_each_call() {
    killed_at_each_call(Story::all()[2], 4);
}

#[test]
fn a_run_after_a_crash_is_killed_at_each_call() {
    killed_at_each_call(Story::all()[3], 4);
}

#[test]
fn a_run_of_a_longer_input_is_killed_at_each_call() {
    killed_at_each_call(Story::all()[4], 4);
}

#[test]
fn a_retry_is_killed_at_each_call() {
    killed_at_each_call(Story::all()[5], 4);
}

#[test]
fn a_forced_run_is_killed_at_each_call() {
    killed_at_each_call(Story::all()[6], 4);
}

#[test]
fn a_run_that_discards_its_journal_is_killed_at_each_call() {
    killed_at_each_call(Story::all()[7], 4);
}

#[test]
fn a_run_of_what_is_complete_is_killed_at_each_call() {
    killed_at_each_call(Story::all()[8], 4);
}
