//! Power failures: every state that a weak file system may leave of a daemon's folder, made out of the real system calls
//! of one, is recovered from; nothing that was published is lost, and no answer that was committed is asked for again.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use super::spool::paid;
use super::story::Story;
use crate::disk::{Disk, Files};
use crate::plan::{Dice, is_all, say, try_each};
use crate::strace;
use crate::trace::is_sync;

/// When everything is tried, so many states of each story are everything: there are some thousands.
const STATES_MAX: usize = 700;

/// Files that matter: what is only told, locks, and marks that are never synced are not waited for by anybody.
fn keeps(name: &str) -> bool {
    let without = ["lease", ".lock", "anvil-status", "status.json", ".anvil/reading"];
    let is_input = name.ends_with(".txt") || name.ends_with(".jsonl") && !name.ends_with(".out.jsonl");
    !is_input && !without.iter().any(|part| name.contains(part))
}

fn kept(files: &Files) -> Files {
    files.iter().filter(|(name, _)| keeps(name)).map(|(name, bytes)| (name.clone(), bytes.clone())).collect()
}

/// A state of the disk after a call.
struct State {
    files: Files,
    /// Requests that were paid for durably, so that they are not made again.
    durable: usize,
    /// The call after which the power failed.
    after: String,
}

impl fmt::Display for State {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?} after {}", shown(&self.files), self.after)
    }
}

/// Goes through the states of every moment, and gives those that `wants` asks for by their hashes, each of them once, at
/// the last moment at which it may be found: what is certain then is certain.
fn states_of(story: &Story, mut wants: impl FnMut(usize, u64) -> bool, mut give: impl FnMut(State)) {
    let retries = story.retries();
    let mut disk = Disk::keeping(story.spool.root(), &kept(&story.files), keeps);
    let mut durable = paid(&story.files, retries);
    for (place, call) in story.calls.iter().enumerate() {
        disk.apply(call);
        if is_sync(call) {
            durable = paid(&disk.certain(), retries);
        }
        let after = || format!("{} {:.160}", call.name, call.args);
        let durable = durable.len();
        disk.each_state(|hash| wants(place, hash), |files| give(State { files, durable, after: after() }));
    }
    assert_eq!(shown(&disk.seen()), shown(&kept(&story.end)), "the model is not what it is of");
}

/// Names and lengths, for a failure's message.
fn shown(files: &Files) -> Vec<String> {
    files.iter().map(|(name, bytes)| format!("{name} {}", bytes.len())).collect()
}

impl Story {
    /// What is recovered from a state is what an undisturbed daemon would have made.
    fn check_recovery(&self, state: &State) {
        let when = format!("{}: {state}", self.name);
        self.spool.put(&state.files);
        self.spool.check_never_wrong(&self.old, &when);
        let before = self.spool.sends();
        let output = self.spool.finish(&self.since, &when);
        self.spool.check_end(&output, &when);
        let (sends, asked) = (self.spool.sends() - before, self.spool.asked());
        let durable = state.durable as u64;
        assert!(sends + durable <= asked, "{when}: {sends} requests of {asked}, {durable} were durable");
    }
}

fn recovered_from(story: fn() -> Story, sample: usize) {
    if !strace::is_here() {
        return;
    }
    let (story, mut dice) = (story(), Dice::new());
    let mut last: HashMap<u64, usize> = HashMap::new();
    let mut note = |place, hash| {
        last.insert(hash, place);
        false
    };
    states_of(&story, &mut note, |_| {});
    let all = last.len();
    assert!(all > 50, "only {all} states were found");
    let mut hashes: Vec<u64> = last.keys().copied().collect();
    hashes.sort_unstable();
    let mut picked: BTreeSet<u64> =
        dice.sample(hashes, if is_all() { STATES_MAX } else { sample }).into_iter().collect();
    let mut states = Vec::new();
    states_of(&story, |place, hash| last[&hash] == place && picked.remove(&hash), |state| states.push(state));
    let count = try_each(&states, |state| {
        story.check_recovery(state);
        true
    });
    if is_all() {
        say(format_args!("daemon, {}: {count} of {all} states of {} calls", story.name, story.calls.len()));
    }
}

#[test]
fn the_power_fails_under_a_daemon_of_new_files() {
    recovered_from(Story::all()[0], 14);
}

#[test]
fn the_power_fails_under_a_daemon_after_a_crash() {
    recovered_from(Story::all()[1], 8);
}

#[test]
fn the_power_fails_under_a_daemon_that_replaces_results() {
    recovered_from(Story::all()[2], 10);
}
