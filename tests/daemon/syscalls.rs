//! A kill, or an error, at any durable system call: taking, asking, publishing, beginning a log anew. The next daemon
//! comes to the same end, nothing is ever half there, and nothing is left behind. And what must be durable before what.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::needs::{Dice, is_all, say};
use crate::spool::{Daemon, SLOTS, Spool, contents, lines, quoted};
use crate::strace;

/// Calls at which a daemon is killed, and those that fail, with what.
const CALLS: [&str; 18] = [
    "openat",
    "write",
    "writev",
    "pwrite64",
    "close",
    "fdatasync",
    "fsync",
    "ftruncate",
    "fchmod",
    "link",
    "linkat",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "mkdir",
    "utimensat",
];
const ERRORS: [(&str, &[&str]); 10] = [
    ("openat", &["EMFILE", "EIO", "ENOSPC"]),
    ("write", &["ENOSPC", "EIO", "EDQUOT"]),
    ("fdatasync", &["EIO", "ENOSPC"]),
    ("fsync", &["EIO", "EDQUOT"]),
    ("close", &["EIO"]),
    ("linkat", &["EIO", "ENOSPC"]),
    ("rename", &["EIO", "ENOSPC"]),
    ("unlink", &["EIO"]),
    ("pread64", &["EIO"]),
    ("newfstatat", &["EIO", "ESTALE"]),
];

/// A small file that had a result before, a large one, and a prompt.
const NAMES: [&str; 3] = ["small.jsonl", "large.jsonl", "text.txt"];
const RESULTS: [&str; 3] = ["small.out.jsonl", "large.out.jsonl", "text.txt.out.md"];

fn input(name: &str) -> String {
    match name {
        "small.jsonl" => lines("small", 6),
        "large.jsonl" => lines("large", 66),
        _ => "a text".to_owned(),
    }
}

/// A folder in which one daemon has ended, so that the next finds something to go on from.
fn begun() -> Spool {
    let spool = Spool::new();
    let daemon = spool.start();
    spool.put(NAMES[0], lines("small", 3));
    spool.wait_for_answers(RESULTS[0], "small", 3);
    daemon.stop().expect(0);
    spool
}

/// A daemon under strace; its process is the daemon's own.
fn under(spool: &Spool, options: &str) -> Daemon {
    let script =
        format!(r#"exec strace -D -f -qq -y -s 100000 -o {} {options} "$0" "$@""#, quoted(spool.aside("trace")));
    Daemon::start(spool.daemon().shell(&script))
}

/// Drops the files as soon as that is heard, and waits for all results; returns early when the daemon ends, or waits for
/// something to be mended.
fn tell_the_story(spool: &Spool, daemon: &mut Daemon) {
    let is_deaf = |daemon: &Daemon| daemon.stderr().contains("watch ");
    spool.wait("a watch, or the end", || (daemon.watches() > 0 || is_deaf(daemon) || daemon.has_ended()).then_some(()));
    NAMES.iter().for_each(|name| spool.put(name, input(name)));
    // What was injected comes again with every thread that makes the call so often: nobody mends it.
    let waits = |daemon: &Daemon| ["tried again", "paused"].iter().any(|word| daemon.stderr().contains(word));
    spool.wait("all results, or the end", || {
        (check(spool, "meanwhile") == 3 || daemon.has_ended() || waits(daemon)).then_some(())
    });
}

/// Every result is whole, or still that of before; how many are what they must be in the end.
#[track_caller]
fn check(spool: &Spool, when: &str) -> usize {
    let [small, large, text] = RESULTS.map(|name| spool.text(name));
    let small = small.unwrap_or_else(|| panic!("{when}: a result that was there is gone"));
    let is_old = contents(&small) == crate::spool::answers("small", 3);
    assert!(is_old || contents(&small) == crate::spool::answers("small", 6), "{when}: {small}");
    if let Some(large) = &large {
        assert_eq!(contents(large), crate::spool::answers("large", 66), "{when}");
    }
    if let Some(text) = &text {
        assert_eq!(text, "Echo: a text\n", "{when}");
    }
    [!is_old, large.is_some(), text.is_some()].into_iter().filter(|there| *there).count()
}

/// An undisturbed daemon ends the story; requests may have been sent again, `repeats_max` at most.
#[track_caller]
fn finish(spool: &Spool, repeats_max: u64, when: &str) {
    let daemon = spool.start();
    // Files of which nobody had told yet would be found ten seconds later.
    NAMES.iter().for_each(|name| {
        std::fs::rename(spool.path(name), spool.aside(name)).unwrap();
        std::fs::rename(spool.aside(name), spool.path(name)).unwrap();
    });
    spool.wait("all results", || (check(spool, when) == 3).then_some(()));
    let mut names: Vec<&str> = NAMES.into_iter().chain(RESULTS).collect();
    names.sort_unstable();
    spool.wait("nothing but results", || (spool.names() == names).then_some(()));
    daemon.stop().expect(0);
    let repeats = spool.sim.count("repeats");
    assert!(repeats <= repeats_max, "{when}: {repeats} repeats");
    let own = crate::common::desk::names_in(&spool.path(".anvil"));
    assert!(own.iter().all(|name| !name.starts_with('.')), "{when}: {own:?}");
}

/// Every path that a daemon writes to in this story, for strace: what else a process does must not fail here.
fn own_paths(spool: &Spool) -> String {
    let own = |name: &str| format!(".anvil/{name}");
    let logs =
        ["log.1", "log.2", "log.3", ".log.2.anvil-draft", ".log.3.anvil-draft", ".log.2.anvil-probe", "jobs", "lease"];
    let job = |job: usize| {
        ["", "/input", "/input.tmp", "/journal", "/.journal.anvil-draft", "/journal.lock"]
            .map(|name| format!("jobs/{job}{name}"))
    };
    let drafts = RESULTS.iter().map(|name| format!(".{name}.anvil-draft"));
    let all = logs.map(str::to_owned).into_iter().chain((0..4).flat_map(job)).map(|name| own(&name));
    let all = all
        .chain([String::new(), ".anvil".to_owned()])
        .chain(drafts)
        .chain(NAMES.into_iter().chain(RESULTS).map(str::to_owned));
    all.map(|name| format!("-P {} ", quoted(spool.path(name).to_str().unwrap().trim_end_matches('/')))).collect()
}

/// How often any thread makes each call in an undisturbed story; about the spool's files alone when `bound`.
fn times(bound: bool) -> BTreeMap<String, usize> {
    let spool = begun();
    let paths = if bound { own_paths(&spool) } else { String::new() };
    let mut daemon = under(&spool, &format!("-e trace={},pread64,newfstatat {paths}", CALLS.join(",")));
    tell_the_story(&spool, &mut daemon);
    assert_eq!(check(&spool, "undisturbed"), 3, "{}", daemon.stderr());
    daemon.stop().expect(0);
    finish(&spool, 0, "undisturbed");
    let mut threads: BTreeMap<(String, u32), usize> = BTreeMap::new();
    for call in strace::read(&spool.aside("trace")) {
        *threads.entry((call.name, call.thread)).or_default() += 1;
    }
    let mut times = BTreeMap::new();
    threads.into_iter().for_each(|((name, _), count)| {
        let most: &mut usize = times.entry(name).or_default();
        *most = count.max(*most);
    });
    times
}

/// Side by side, as many as the machine has processors and twice that: they wait for syncs.
fn each<T: Sync>(cases: &[T], test: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    test(case);
                }
            });
        }
    });
}

#[test]
fn a_kill_at_any_call_leaves_nothing_wrong() {
    if !strace::is_here() {
        return;
    }
    let times = times(false);
    let all: Vec<(&str, usize)> = CALLS
        .into_iter()
        .flat_map(|call| (1..=times.get(call).copied().unwrap_or(0)).map(move |time| (call, time)))
        .collect();
    let cases = Dice::new().pick(all, 16);
    let killed = AtomicUsize::new(0);
    each(&cases, |(call, time)| {
        let when = format!("killed at {call} {time}");
        let spool = begun();
        let mut daemon = under(&spool, &format!("-e trace={call} -e inject={call}:signal=KILL:when={time}"));
        tell_the_story(&spool, &mut daemon);
        let was_killed = daemon.has_ended();
        let output = if was_killed { daemon.finish() } else { daemon.stop() };
        assert!(!was_killed || output.status == 137, "{when}: {output}");
        killed.fetch_add(usize::from(was_killed), Ordering::Relaxed);
        check(&spool, &when);
        finish(&spool, SLOTS, &when);
    });
    let killed = killed.into_inner();
    assert!(killed * 2 > cases.len(), "only {killed} of {} were killed", cases.len());
    if is_all() {
        say(format_args!("{} places, {killed} kills", cases.len()));
    }
}

/// The daemon goes on, waits, or ends; the next one finds nothing in its way.
#[test]
fn an_error_at_any_call_leaves_nothing_wrong() {
    if !strace::is_here() {
        return;
    }
    let times = times(true);
    let place = |call: &'static str, errors: &'static [&'static str]| {
        let times = times.get(call).copied().unwrap_or(0);
        (1..=times).flat_map(move |time| errors.iter().map(move |error| (call, *error, time)))
    };
    let all: Vec<(&str, &str, usize)> = ERRORS.into_iter().flat_map(|(call, errors)| place(call, errors)).collect();
    let cases = Dice::new().pick(all, 12);
    let injected = AtomicUsize::new(0);
    each(&cases, |(call, error, time)| {
        let when = format!("{error} at {call} {time}");
        let spool = begun();
        let inject = format!("-e trace={call} -e inject={call}:error={error}:when={time} {}", own_paths(&spool));
        let mut daemon = under(&spool, &inject);
        tell_the_story(&spool, &mut daemon);
        let trace = std::fs::read_to_string(spool.aside("trace")).unwrap();
        injected.fetch_add(usize::from(trace.contains("(INJECTED)")), Ordering::Relaxed);
        let ended = daemon.has_ended();
        let output = if ended { daemon.finish() } else { daemon.stop() };
        assert!(![101, 134, 139].contains(&output.status), "{when}: {output}");
        assert!(ended || output.status == 0, "{when}: {output}");
        check(&spool, &when);
        finish(&spool, 2 * SLOTS, &when);
    });
    let injected = injected.into_inner();
    assert!(injected * 2 > cases.len(), "only {injected} of {} calls failed", cases.len());
    if is_all() {
        say(format_args!("{} places, {injected} errors", cases.len()));
    }
}
