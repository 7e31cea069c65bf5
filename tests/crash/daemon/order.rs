//! What must be durable before what: read out of traces of the real daemon, in which every sync is held up.

use std::path::Path;

use super::spool::{File, Since, Spool, large};
use super::story::Story;
use crate::plan::{is_all, say};
use crate::strace::{self, Call};
use crate::task::{Line, Plan};
use crate::trace::{
    check_name, events, is_about, is_sync, is_write, names, posts, slots_wait_for_the_disk, with_slow_syncs,
};

/// A story's daemon once more, with slow syncs.
fn traced(story: &Story) -> Vec<Call> {
    story.begin();
    let (trace, mut options) = (story.spool.aside("trace"), with_slow_syncs());
    options.calls += ",utimensat";
    let output = story.tell(&options, &trace, "traced");
    story.spool.check_end(&output, "traced");
    strace::read(&trace)
}

fn text(call: &Call) -> String {
    String::from_utf8_lossy(&call.bytes()).into_owned()
}

/// Whether this is the spool's log, or the journal of a large file.
fn is_journal(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_own = path.parent().is_some_and(|folder| folder.ends_with(".anvil"));
    name == "journal" || is_own && name.starts_with("log.")
}

/// Whether a call writes the record of this kind of a file into the log.
fn is_record(call: &Call, kind: &str, name: &str) -> bool {
    let is_log = |path: &str| path.contains("/.anvil/log.");
    is_write(call) && call.path().is_some_and(is_log) && {
        let (text, start) = (text(call), format!("{{\"{kind}\":{{\"job\":"));
        text.split(&start).skip(1).any(|rest| rest.contains(&format!(",\"path\":\"{name}\",")))
    }
}

/// The end of the sync by which what a call has written is durable.
fn durable_after(calls: &[Call], write: &Call) -> usize {
    let synced = |call: &&Call| is_sync(call) && call.path() == write.path() && call.begin > write.end;
    calls.iter().find(synced).unwrap_or_else(|| panic!("what it wrote was never made durable: {write:?}")).end
}

fn first<'c>(calls: &'c [Call], what: &str, is_it: impl Fn(&Call) -> bool) -> &'c Call {
    calls.iter().find(|call| call.is_done() && is_it(call)).unwrap_or_else(|| panic!("there is no {what}"))
}

/// The call that takes a name away.
fn removal<'c>(calls: &'c [Call], path: &Path) -> &'c Call {
    let is_it = |call: &Call| call.name.starts_with("unlink") && call.paths().iter().any(|own| own == path);
    first(calls, &format!("removal of {}", path.display()), is_it)
}

#[test]
fn a_slot_is_free_again_when_its_record_is_durable() {
    if !strace::is_here() {
        return;
    }
    for slots in [1, 3] {
        let plan = |first: usize, lines: Vec<Line>| Plan { lines, first, ..Plan::small() };
        let small = |number: usize| File::lines(&format!("f{number}"), &plan(number * 100, vec![Line::Good; 7]));
        let mut files: Vec<File> = (1..=4).map(small).collect();
        files.push(File::lines("g", &plan(1000, large(&[Line::Good; 14]))));
        let spool = Spool::new(files, slots, "fixed:2");
        let (trace, since) = (spool.aside("trace"), Since::new());
        let mut daemon = spool.start_traced(&with_slow_syncs(), &trace);
        spool.carry_out(&mut daemon, &spool.files, &since, "traced");
        spool.check_end(&daemon.stop(), "traced");
        let events = events(&strace::read(&trace), is_journal);
        let most = slots_wait_for_the_disk(&events, slots);
        // Otherwise the bound would say nothing.
        assert_eq!(most, slots);
        if is_all() {
            say(format_args!("daemon, {slots} slots: {} events, {most} at most unrecorded", events.len()));
        }
    }
}

/// A file is done when its result has its name durably; and a daemon that has lost the folder gives no names.
#[test]
fn a_file_is_done_when_its_result_is_durable() {
    if !strace::is_here() {
        return;
    }
    for story in Story::all() {
        let story = story();
        let calls = traced(&story);
        for file in &story.spool.files {
            let result = story.spool.path(&file.result);
            let is_named = |call: &Call| names(call).get(1).map(Path::new) == Some(&result);
            if !calls.iter().any(|call| call.is_done() && is_named(call)) {
                continue;
            }
            let synced = check_name(&calls, &result, |call| is_record(call, "done", &file.name));
            let done = first(&calls, "end of a file", |call| is_record(call, "done", &file.name));
            assert!(synced < done.begin, "{}: {} is done before its result is durable", story.name, file.name);
            durable_after(&calls, done);
            let link = first(&calls, "name", is_named);
            assert!(link.name == "linkat" || link.args.contains("RENAME_EXCHANGE"), "{link:?}");
            check_confirmed(&calls, link);
        }
    }
}

/// Between the last sync of a draft and its name, the thread that gives it has touched a lock that is ours.
fn check_confirmed(calls: &[Call], link: &Call) {
    let is_lock = |path: &str| path.contains("/.anvil/") && (path.contains("lease") || path.contains(".lock"));
    let is_touch = |call: &Call| call.name == "utimensat" && call.path().is_some_and(is_lock);
    let own = calls.iter().filter(|call| call.thread == link.thread && call.is_done() && call.end < link.begin);
    let last = own.clone().rfind(|call| is_touch(call)).expect("no lock was touched before a name was given");
    // All results of a batch have their names behind one look.
    let since = own
        .filter(|call| call.begin > last.end)
        .find(|call| is_sync(call) && is_journal(Path::new(call.path().unwrap())));
    assert!(since.is_none(), "a batch ended between the look at the lock and {link:?}");
}

#[test]
fn the_log_is_durable_before_anything_is_sent_and_an_older_one_goes_last() {
    if !strace::is_here() {
        return;
    }
    for story in Story::all() {
        let story = story();
        let calls = traced(&story);
        let folder = story.spool.path(".anvil");
        // Who takes the lease has written it whole; its name is durable with that of the log.
        let lease = folder.join("lease");
        let taken = first(&calls, "lease", |call| names(call).get(1).map(Path::new) == Some(&lease));
        let temp = &names(taken)[0];
        let opened = first(&calls, "file of the lease", |call| call.name == "openat" && call.opened() == Some(temp));
        assert!(opened.args.contains("O_EXCL"), "{opened:?}");
        assert!(calls.iter().any(|call| is_sync(call) && call.path() == Some(temp) && call.end < taken.begin));
        let logs: Vec<&String> = story.files.keys().filter(|name| name.starts_with(".anvil/log.")).collect();
        let log = folder.join(format!("log.{}", logs.len() + 1));
        let is_old = |path: &Path| logs.iter().any(|name| story.spool.path(name) == path);
        let removes_old = |call: &Call| call.name.starts_with("unlink") && call.paths().iter().any(|path| is_old(path));
        let synced = check_name(&calls, &log, |call| posts(call) > 0 || removes_old(call));
        assert!(taken.end < synced);
        for name in logs {
            let removed = removal(&calls, &story.spool.path(name));
            let is_look = |call: &Call| {
                call.name == "utimensat"
                    && call.path().is_some_and(|path| path.contains("lease"))
                    && call.begin > synced
                    && call.end < removed.begin
            };
            assert!(calls.iter().any(is_look), "{name} was removed without a look at whose the lease is");
        }
    }
}

/// A large file's copy is durable before its claim, its journal before its requests; what nobody needs any more goes
/// when the file is done, and a control when what it asked for is durable.
#[test]
fn the_folder_of_a_large_file_is_durable_before_it_is_asked() {
    if !strace::is_here() {
        return;
    }
    let story = Story::all()[0]();
    let calls = traced(&story);
    let folder = story.spool.path(".anvil/jobs/3");
    let claim = first(&calls, "claim", |call| is_record(call, "claim", "d.jsonl"));
    let claimed = durable_after(&calls, claim);
    let copy = folder.join("input");
    let named = first(&calls, "copy", |call| names(call).get(1).map(Path::new) == Some(&copy));
    let written = |call: &Call| is_about(call, &folder.join("input.tmp"));
    let last = calls.iter().rfind(|call| is_write(call) && written(call)).expect("the copy is written");
    assert!(calls.iter().any(|call| is_sync(call) && written(call) && call.begin > last.end && call.end < named.begin));
    for synced in [&*folder, folder.parent().unwrap()] {
        let is_synced = |call: &Call| is_sync(call) && is_about(call, synced) && call.end < claim.begin;
        assert!(calls.iter().any(is_synced), "{} was not durable when the file was claimed", synced.display());
    }
    check_name(&calls, &folder.join("journal"), |call| posts(call) > 0 && call.begin > claimed);
    let done = first(&calls, "end of a file", |call| is_record(call, "done", "d.jsonl"));
    assert!(durable_after(&calls, done) < removal(&calls, &copy).begin, "the copy went before its file was done");
}

#[test]
fn a_control_goes_when_what_it_asks_for_is_durable() {
    if !strace::is_here() {
        return;
    }
    let story = Story::all()[2]();
    let calls = traced(&story);
    for name in ["b.jsonl", "d.jsonl"] {
        let claim = first(&calls, "claim", |call| is_record(call, "claim", name));
        let removed = removal(&calls, &story.spool.path(&format!("{name}.retry")));
        assert!(
            durable_after(&calls, claim) < removed.begin,
            "the control of {name} went before its claim was durable"
        );
    }
}
