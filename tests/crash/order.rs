//! What must be durable before what: read out of a trace of the real binary, since a kill keeps what was written.
//!
//! Every `fdatasync` and `fsync` is held up while the trace is taken, so that whatever does not wait for them is seen.

use std::collections::BTreeSet;
use std::path::Path;

use crate::common::Output;
use crate::frames;
use crate::plan::{is_all, say};
use crate::scene::Scene;
use crate::strace::{self, Call, Options};
use crate::task::{Goal, Line, Plan};

/// Microseconds by which a sync is held up.
const DELAY: u32 = 15_000;

fn traced(scene: &Scene, name: &str) -> (Output, Vec<Call>) {
    let trace = scene.aside(name);
    let mut options = Options::changes();
    options.inject = ["fdatasync", "fsync"].map(|call| format!("{call}:delay_enter={DELAY}")).to_vec();
    let output = scene.start_as(|run| options.wrap(run, &trace)).finish();
    (output, strace::read(&trace))
}

fn is_sync(call: &Call) -> bool {
    matches!(&*call.name, "fsync" | "fdatasync") && call.result == Some(0)
}

fn is_about(call: &Call, path: &Path) -> bool {
    call.path() == path.to_str()
}

fn is_write(call: &Call) -> bool {
    matches!(&*call.name, "write" | "pwrite64" | "writev" | "pwritev2" | "sendto" | "sendmsg")
}

/// How many requests a call sends.
fn posts(call: &Call) -> usize {
    let is_send = is_write(call) && call.path().is_some_and(|path| path.starts_with("socket:"));
    if is_send { memchr::memmem::find_iter(&call.bytes(), b"POST /api/chat/completions ").count() } else { 0 }
}

/// Whether a call writes completion lines to stdout.
fn is_shown(call: &Call) -> bool {
    is_write(call) && call.path().is_some_and(|path| path.starts_with("pipe:")) && call.bytes().starts_with(b"{\"line")
}

/// The names that a call gives or takes away.
fn names(call: &Call) -> Vec<String> {
    match &*call.name {
        "link" | "linkat" | "rename" | "renameat" | "renameat2" => {
            call.strings().into_iter().map(|path| String::from_utf8(path).unwrap()).collect()
        }
        _ => Vec::new(),
    }
}

/// What a trace says in order: when something was begun, and when it was certain.
#[derive(Debug)]
enum Event {
    Post(usize),
    /// Lines that stdout was given.
    Shown(Vec<u64>),
    /// Records became durable: paid ones, and the lines of all.
    Durable(usize, Vec<u64>),
}

/// The events that matter for slots and for stdout.
fn events(calls: &[Call], journal: &Path) -> Vec<Event> {
    let mut events: Vec<(usize, Event)> = Vec::new();
    let (mut bytes, mut known) = (Vec::new(), 0);
    for call in calls.iter().filter(|call| call.is_done()) {
        let sent = posts(call);
        if sent > 0 {
            events.push((call.begin, Event::Post(sent)));
        } else if is_shown(call) {
            let text = String::from_utf8(call.bytes()).unwrap();
            let line = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["line"].as_u64().unwrap();
            events.push((call.begin, Event::Shown(text.lines().map(line).collect())));
        } else if is_write(call) && is_about(call, journal) {
            bytes.extend(call.bytes());
        } else if is_sync(call) && is_about(call, journal) {
            // The first record is written under another name, before this one exists.
            let frames = frames::read(&bytes);
            let new = &frames[known..];
            known = frames.len();
            let paid = new.iter().filter(|frame| frame.is_paid()).count();
            events.push((call.end, Event::Durable(paid, new.iter().filter_map(frames::Frame::line).collect())));
        }
    }
    events.sort_by_key(|(at, _)| *at);
    events.into_iter().map(|(_, event)| event).collect()
}

/// At any moment no more requests are out, or answered without a durable record, than there are slots.
fn slots_wait_for_the_disk(events: &[Event], slots: usize) -> usize {
    let (mut sent, mut durable, mut most) = (0, 0, 0);
    for event in events {
        match event {
            Event::Post(count) => sent += count,
            Event::Durable(paid, _) => durable += paid,
            Event::Shown(_) => {}
        }
        most = most.max(sent - durable);
        assert!(
            sent <= durable + slots,
            "{sent} requests were sent when {durable} outcomes were durable: {slots} slots"
        );
    }
    assert_eq!(sent, durable);
    most
}

fn plan(goal: Goal, concurrency: usize) -> Plan {
    let line = |number: usize| match number % 10 {
        3 => Line::Bad,
        5 => Line::Same(0),
        7 => Line::Refused,
        _ => Line::Good,
    };
    Plan { lines: (0..40).map(line).collect(), concurrency, goal, piped: false, args: Vec::new() }
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
        let events = events(&calls, &scene.journal());
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
    for event in events(&calls, &scene.journal()) {
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

/// Where in the trace a file got its name, checked: its bytes were durable before and not changed since, and the name
/// is durable before anything of `then` happens.
fn check_name(calls: &[Call], path: &Path, then: impl Fn(&Call) -> bool) -> usize {
    let named = |call: &&Call| call.is_done() && names(call).get(1).map(Path::new) == Some(path);
    let link = calls.iter().rfind(named).unwrap_or_else(|| panic!("nothing was named {}", path.display()));
    let draft = descriptor_of(calls, link);
    let opened = |call: &&Call| call.name == "openat" && call.end < link.begin && call.result == Some(draft.into());
    let opened = calls.iter().rfind(opened).unwrap().end;
    let on_draft = |call: &&Call| {
        call.begin > opened && call.end < link.begin && call.descriptor() == Some(draft) && call.is_done()
    };
    let written = calls.iter().filter(on_draft).rfind(|call| is_write(call)).expect("the draft is written").end;
    let is_synced = calls.iter().filter(on_draft).any(|call| is_sync(call) && call.begin > written);
    assert!(is_synced, "{} got its name before its bytes were durable", path.display());
    // What a network file system could not store it tells at a close, so there must be one that can still be heeded.
    let closed = |call: &&Call| call.name == "close" && call.begin > written && call.end < link.begin;
    let draft = calls.iter().find(on_draft).unwrap().path();
    let is_closed = calls.iter().filter(closed).any(|call| call.path() == draft);
    assert!(is_closed, "{} got its name before any close", path.display());
    let folder = path.parent().unwrap();
    let synced = calls.iter().find(|call| is_sync(call) && is_about(call, folder) && call.begin > link.end);
    let synced = synced.unwrap_or_else(|| panic!("the name of {} was never made durable", path.display())).end;
    let early = calls.iter().find(|call| then(call) && call.begin > link.end && call.begin < synced);
    assert!(early.is_none(), "before the name of {} was durable: {early:?}", path.display());
    let before = calls.iter().find(|call| then(call) && call.begin < link.begin);
    assert!(before.is_none(), "before {} had its name: {before:?}", path.display());
    synced
}

/// The descriptor of the file that a call gives a name to.
fn descriptor_of(calls: &[Call], link: &Call) -> u32 {
    let from = &names(link)[0];
    if let Some(number) = from.strip_prefix("/proc/self/fd/") {
        return number.parse().unwrap();
    }
    let opened = |call: &&Call| call.name == "openat" && call.end < link.begin && call.opened() == Some(from);
    calls.iter().rfind(opened).and_then(|call| u32::try_from(call.result?).ok()).unwrap()
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
