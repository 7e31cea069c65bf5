//! Power failures: every state that a weak file system may leave, made out of the real system calls of a run, is
//! recovered from; and no answer that was committed is asked for again.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::time::UNIX_EPOCH;

use serde_json::Value;

use crate::disk::{Disk, Files};
use crate::each_syscall::Story;
use crate::frames;
use crate::plan::{Dice, is_all, say};
use crate::scene::Scene;
use crate::strace;

/// A state, and what was certain when it came about.
#[derive(Clone, Debug)]
struct State {
    files: Files,
    /// Lines whose outcomes were durable, so that they are not asked again.
    durable: BTreeSet<u64>,
    /// The call after which the power failed.
    after: String,
}

/// Every state of every moment of a run, each of them once.
fn states_of(story: &Story) -> Vec<State> {
    let journal = story.scene.journal();
    let mut disk = Disk::new(&story.scene.out(), &story.files);
    let mut found: BTreeMap<Files, State> = BTreeMap::new();
    let mut durable: BTreeSet<u64> = story.files.get("F.journal").map(|bytes| paid(bytes)).unwrap_or_default();
    for call in &story.calls {
        disk.apply(call);
        let is_commit = matches!(&*call.name, "fsync" | "fdatasync") && call.result == Some(0);
        if is_commit && call.path() == journal.to_str() {
            durable = paid(disk.seen().get("F.journal").map_or(&[][..], |bytes| bytes));
        }
        for files in disk.states() {
            let after = format!("{} {:.120}", call.name, call.args);
            // What has been certain once is certain for every later moment in which the same is found.
            found.insert(files.clone(), State { files, durable: durable.clone(), after });
        }
    }
    found.into_values().collect()
}

/// Lines whose outcomes took a request.
fn paid(journal: &[u8]) -> BTreeSet<u64> {
    frames::read(journal).iter().filter(|frame| frame.is_paid()).filter_map(frames::Frame::line).collect()
}

/// Puts a state into the folder. F.input is another file there than the one that the journal knows.
fn put(scene: &Scene, files: &Files) {
    scene.reset();
    let path = |name: &str| scene.out().join(name);
    files.iter().for_each(|(name, bytes)| std::fs::write(path(name), bytes).unwrap());
    let (Some(journal), true) = (files.get("F.journal"), files.contains_key("F.input")) else { return };
    let metadata = path("F.input").metadata().unwrap();
    let born = metadata.created().unwrap().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let copy = format!("{{\"copy\":{{\"inode\":{},\"born_ns\":{born}}}}}", metadata.ino());
    let mut rest = journal.clone();
    let mut bytes = Vec::new();
    for frame in frames::read(journal) {
        match frame.payload.get("copy") {
            Some(Value::Object(_)) => bytes.extend(frames::write(&copy)),
            _ => bytes.extend(&journal[frame.at.clone()]),
        }
        rest = journal[frame.at.end..].to_vec();
    }
    std::fs::write(path("F.journal"), [bytes, rest].concat()).unwrap();
}

fn recovered_from(story: fn() -> Story, sample: usize) {
    if !strace::is_here() {
        return;
    }
    let (story, mut dice) = (story(), Dice::new());
    assert_eq!(story.end, {
        let mut disk = Disk::new(&story.scene.out(), &story.files);
        story.calls.iter().for_each(|call| disk.apply(call));
        disk.seen()
    });
    let states = states_of(&story);
    assert!(states.len() > 30, "only {} states were found", states.len());
    let all = states.len();
    for state in dice.pick(states, sample) {
        let when = format!("{}: {:?} after {}", story.name, shown(&state.files), state.after);
        put(&story.scene, &state.files);
        story.check_never_wrong(&when);
        let output = story.scene.finish();
        story.check_end(&output, &when);
        let (sends, asked) = (story.scene.sends(), story.scene.plan.asked());
        assert!(
            sends + state.durable.len() as u64 <= asked,
            "{when}: {sends} requests of {asked}, {:?}",
            state.durable
        );
    }
    if is_all() {
        say(format_args!("{}: {all} states of {} calls", story.name, story.calls.len()));
    }
}

/// Names and lengths, for a failure's message.
fn shown(files: &Files) -> Vec<String> {
    files.iter().map(|(name, bytes)| format!("{name} {}", bytes.len())).collect()
}

#[test]
fn the_power_fails_in_a_first_run() {
    recovered_from(Story::all()[0], 25);
}

#[test]
fn the_power_fails_in_a_run_of_a_pipe() {
    recovered_from(Story::all()[1], 10);
}

#[test]
fn the_power_fails_in_a_run_after_a_crash() {
    recovered_from(Story::all()[3], 10);
}

#[test]
fn the_power_fails_when_a_longer_result_takes_the_place_of_a_shorter() {
    recovered_from(Story::all()[4], 15);
}
