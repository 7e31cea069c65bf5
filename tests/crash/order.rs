//! What must be durable before what: read out of a trace of the real binary, since a kill keeps what was written.
//!
//! Every `fdatasync` and `fsync` is held up while the trace is taken, so that whatever does not wait for them is seen.

use std::collections::BTreeSet;
use std::path::Path;

use crate::common::Output;
use crate::frames;
use crate::plan::{is_all, say};
use crate::scene::Scene;
use crate::strace::{self, Call};
use crate::task::{Goal, Line, Plan};
use crate::trace::{
    Event, check_name, events, is_about, is_sync, is_write, posts, slots_wait_for_the_disk, with_slow_syncs,
};

fn traced(scene: &Scene, name: &str) -> (Output, Vec<Call>) {
    let trace = scene.aside(name);
    let output = scene.start_as(|run| with_slow_syncs().wrap(run, &trace)).finish();
    (output, strace::read(&trace))
}

fn plan(goal: Goal, concurrency: usize) -> Plan {
    let line = |number: usize| match number % 10 {
        3 => Line::Bad,
        5 => Line::Same(0),
        7 => Line::Refused,
        _ => Line::Good,
    };
    Plan { lines: (0..40).map(line).collect(), concurrency, goal, ..Plan::small() }
}

#[test]
fn a_slot_is_free_again_when_its_record_is_durable() {
    if !strace::is_here() {
        return;
    }
    for (goal, slots) in [(Goal::File, 1), (Goal::File, 3), (Goal::Stdout, 4), (Goal::File, 16)] {
        let scene = Scene::with_latency(plan(goal, slots), "fixed:2");
        let (output, calls) = traced(&scene, "trace");
        scene.check_end(&output, "traced");
        let events = events(&calls, |path| path == scene.journal());
        let most = slots_wait_for_the_disk(&events, slots);
        // Otherwise the bound would say nothing.
        assert_eq!(most, slots);
        if is_all() {
            say(format_args!("{goal:?}, {slots} slots: {} events, {most} at most unrecorded", events.len()));
        }
    }
}

#[test]
fn a_pipe_gets_a_line_when_its_record_is_durable() {
    if !strace::is_here() {
        return;
    }
    let scene = Scene::with_latency(plan(Goal::Stdout, 4), "fixed:2");
    let (output, calls) = traced(&scene, "trace");
    scene.check_end(&output, "traced");
    let (mut durable, mut shown) = (BTreeSet::new(), 0);
    for event in events(&calls, |path| path == scene.journal()) {
        match event {
            Event::Durable(_, lines) => durable.extend(lines),
            Event::Shown(lines) => {
                shown += lines.len();
                assert!(lines.iter().all(|line| durable.contains(line)), "{lines:?} of {durable:?} were shown");
            }
            Event::Post(_) => {}
        }
    }
    assert_eq!(shown, 40);
}

fn is_told(call: &Call) -> bool {
    is_write(call) && call.descriptor() == Some(2) && String::from_utf8_lossy(&call.bytes()).contains("answered")
}

fn is_closing(call: &Call, journal: &Path) -> bool {
    is_write(call) && is_about(call, journal) && String::from_utf8_lossy(&call.bytes()).contains("{\"closed\":")
}

#[test]
fn the_journal_is_durable_before_the_first_request_and_the_result_before_it_is_told() {
    if !strace::is_here() {
        return;
    }
    for piped in [false, true] {
        let scene = Scene::new(Plan { piped, ..Plan::small() });
        let (output, calls) = traced(&scene, "trace");
        scene.check_end(&output, "traced");
        let journal = scene.journal();
        check_name(&calls, &journal, |call| posts(call) > 0);
        let synced = check_name(&calls, &scene.file(), |call| is_told(call) || is_closing(call, &journal));
        check_last(&calls, synced, &journal);
    }
}

/// A result that is replaced, and one that replaces a stranger's, is as durable as a new one.
#[test]
fn a_result_that_takes_anothers_place_is_as_durable() {
    if !strace::is_here() {
        return;
    }
    for args in [vec!["--force"], vec!["--retry-failed"]] {
        let lines = vec![Line::Good, if args[0] == "--force" { Line::Good } else { Line::Late }];
        let scene = Scene::new(Plan { lines, args, ..Plan::small() });
        let stranger = scene.plan.args[0] == "--force";
        match stranger {
            true => std::fs::write(scene.file(), "a stranger's").unwrap(),
            false => drop(scene.finish().expect(1)),
        }
        let (output, calls) = traced(&scene, "trace");
        output.expect(0);
        let journal = scene.journal();
        let synced = check_name(&calls, &scene.file(), |call| is_told(call) || is_closing(call, &journal));
        check_last(&calls, synced, &journal);
    }
}

/// The journal's last word comes behind the result's durable name, is durable itself, and is followed by the summary.
fn check_last(calls: &[Call], synced: usize, journal: &Path) {
    let closing = calls.iter().find(|call| is_closing(call, journal)).expect("the journal is closed");
    assert!(closing.begin > synced);
    let certain = calls.iter().find(|call| is_sync(call) && is_about(call, journal) && call.begin > closing.end);
    let told = calls.iter().find(|call| is_told(call)).expect("there is a summary");
    assert!(certain.is_some_and(|call| call.end < told.begin), "success was told before it was durable");
}

/// A torn tail is cut, and the cut durable, before anything is appended.
#[test]
fn a_cut_is_durable_before_anything_follows_it() {
    if !strace::is_here() {
        return;
    }
    let scene = Scene::new(Plan::small());
    scene.finish().expect(1);
    std::fs::remove_file(scene.file()).unwrap();
    let journal = scene.journal_bytes();
    let last = frames::read(&journal).into_iter().rfind(frames::Frame::is_paid).unwrap();
    std::fs::write(scene.journal(), &journal[..last.at.end - 9]).unwrap();
    let (output, calls) = traced(&scene, "trace");
    scene.check_end(&output, "traced");
    let cut = calls.iter().find(|call| call.name == "ftruncate" && is_about(call, &scene.journal())).unwrap();
    let synced = calls.iter().find(|call| is_sync(call) && is_about(call, &scene.journal())).unwrap();
    let appended = calls.iter().find(|call| is_write(call) && is_about(call, &scene.journal())).unwrap();
    assert!(cut.end < synced.begin && synced.end < appended.begin);
}
