//! What must be durable before what, read out of a trace of the real binary: a kill keeps what was written, and proves no
//! sync. Every sync is held up while the trace is taken, so that whatever does not wait for one is seen.

use std::sync::OnceLock;

use crate::common::prompt;
use crate::spool::{Daemon, Spool, lines, quoted};
use crate::strace::{self, CHANGES, Call};

const SLOTS: usize = 3;
/// Microseconds by which a sync is held up.
const DELAY: u32 = 10_000;

/// What a daemon does that goes on from an earlier one: a small file whose result is replaced, a new one, a large one.
fn traced() -> Option<&'static [Call]> {
    static CALLS: OnceLock<Vec<Call>> = OnceLock::new();
    strace::is_here().then(|| &**CALLS.get_or_init(trace))
}

fn trace() -> Vec<Call> {
    let spool = Spool::with(&["--latency", "fixed:2"]);
    let daemon = spool.start();
    spool.put("old.jsonl", lines("old", 3));
    spool.wait_for_answers("old.out.jsonl", "old", 3);
    daemon.stop().expect(0);
    let syncs = ["fdatasync", "fsync"].map(|call| format!("-e inject={call}:delay_enter={DELAY}")).join(" ");
    let trace = quoted(spool.aside("trace"));
    let script = format!(
        r#"exec strace -D -f -qq -y -s 1000000 -o {trace} -e trace={CHANGES},mkdir,utimensat {syncs} "$0" "$@""#
    );
    let daemon = Daemon::watching(spool.daemon().args(["-j", &SLOTS.to_string()]).shell(&script));
    spool.put("old.jsonl", lines("old", 5));
    spool.put("new.jsonl", lines("new", 10) + "{\n" + &prompt("sim:status=413"));
    spool.put("big.jsonl", lines("big", 70));
    spool.wait_for_answers("old.out.jsonl", "old", 5);
    spool.wait_for("new.out.jsonl");
    spool.wait_for_answers("big.out.jsonl", "big", 70);
    spool.wait_until_idle();
    daemon.stop().expect(0);
    strace::read(&spool.aside("trace"))
}

fn is_sync(call: &Call) -> bool {
    matches!(&*call.name, "fsync" | "fdatasync") && call.result == Some(0)
}

fn is_write(call: &Call) -> bool {
    matches!(&*call.name, "write" | "pwrite64" | "writev" | "pwritev2" | "sendto" | "sendmsg") && call.is_done()
}

/// A path of the spool's, as a trace shows it.
fn ends(path: Option<&str>, name: &str) -> bool {
    path.is_some_and(|path| path.trim_end_matches("(deleted)").ends_with(name))
}

/// The calls that give a file this name, or take it away.
fn naming<'c>(calls: &'c [Call], name: &str) -> Vec<&'c Call> {
    let named = |call: &&Call| {
        let is_naming = matches!(&*call.name, "link" | "linkat" | "rename" | "renameat" | "renameat2");
        let target = call.strings().pop().unwrap_or_default();
        is_naming && call.is_done() && String::from_utf8_lossy(&target).ends_with(name)
    };
    calls.iter().filter(named).collect()
}

fn removing<'c>(calls: &'c [Call], name: &str) -> Vec<&'c Call> {
    let removes = |call: &&Call| {
        matches!(&*call.name, "unlink" | "unlinkat")
            && call.is_done()
            && call.strings().iter().any(|path| String::from_utf8_lossy(path).ends_with(name))
    };
    calls.iter().filter(removes).collect()
}

/// Whether something of this name was synced in whole between two places of the trace.
fn synced(calls: &[Call], name: &str, from: usize, to: usize) -> bool {
    calls.iter().any(|call| is_sync(call) && ends(call.path(), name) && call.begin > from && call.end < to)
}

/// Where a record of a file's end is written that holds this text, and where it is durable.
fn record(calls: &[Call], log: &str, text: &str) -> (usize, usize) {
    let holds = |call: &&Call| {
        let bytes = call.bytes();
        is_write(call)
            && ends(call.path(), log)
            && memchr::memmem::find(&bytes, b"{\"done\":")
                .is_some_and(|at| memchr::memmem::find(&bytes[at..], text.as_bytes()).is_some())
    };
    let write = calls.iter().find(holds).unwrap_or_else(|| panic!("no end of {text}"));
    let sync = calls.iter().find(|call| is_sync(call) && ends(call.path(), log) && call.begin > write.end);
    (write.begin, sync.unwrap_or_else(|| panic!("the end of {text} is not durable")).end)
}

#[test]
fn a_result_is_durable_before_its_name_and_its_name_before_the_word_that_it_is_done() {
    let Some(calls) = traced() else { return };
    for name in ["old", "new", "big"] {
        let result = format!("/{name}.out.jsonl");
        let named = naming(calls, &result);
        assert_eq!(named.len(), 1, "{name}: {named:?}");
        let draft = format!("/.{name}.out.jsonl.anvil-draft");
        let writes = calls.iter().filter(|call| is_write(call) && ends(call.path(), &draft));
        let written = writes.map(|call| call.end).max().unwrap();
        assert!(synced(calls, &draft, written, named[0].begin), "{name}: named before it was durable");
        let (told, durable) = record(calls, "/log.2", &format!("\"{name}.jsonl\""));
        assert!(named[0].end < told, "{name}: told before it was named");
        assert!(synced(calls, "/spool", named[0].end, told), "{name}: told before its name was durable");
        if name == "big" {
            let forgotten = removing(calls, "/input");
            assert!(!forgotten.is_empty(), "the private copy is kept for ever");
            assert!(forgotten.iter().all(|call| call.begin > durable), "forgotten before it was done");
        }
    }
}

#[test]
fn a_log_is_durable_before_the_one_before_it_goes() {
    let Some(calls) = traced() else { return };
    let lease = naming(calls, "/lease");
    let source = String::from_utf8(lease[0].strings().swap_remove(0)).unwrap();
    let temp = format!("/{}", source.rsplit('/').next().unwrap());
    assert!(
        synced(calls, &temp, 0, lease[0].begin),
        "a lease without its holder's name may be left by a power failure"
    );
    let log = naming(calls, "/log.2");
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(lease[0].end < log[0].begin, "a log before the lease");
    assert!(synced(calls, "/.log.2.anvil-draft", 0, log[0].begin), "a log that may be empty after a power failure");
    let gone = removing(calls, "/log.1");
    assert_eq!(gone.len(), 1, "{gone:?}");
    assert!(
        synced(calls, "/.anvil", log[0].end, gone[0].begin),
        "the old log goes before the new one's name is durable"
    );
}

#[test]
fn a_copy_is_durable_before_its_claim() {
    let Some(calls) = traced() else { return };
    let named = naming(calls, "/input");
    assert_eq!(named.len(), 1, "{named:?}");
    assert!(synced(calls, "/input.tmp", 0, named[0].begin), "the copy may be empty after a power failure");
    let claims = |call: &&Call| {
        is_write(call) && ends(call.path(), "/log.2") && memchr::memmem::find(&call.bytes(), b"\"big.jsonl\"").is_some()
    };
    let claim = calls.iter().find(claims).unwrap();
    let folder = named[0].strings().pop().unwrap();
    let folder = String::from_utf8(folder).unwrap();
    let folder = folder.trim_end_matches("/input").rsplit('/').next().unwrap();
    assert!(
        synced(calls, &format!("/jobs/{folder}"), named[0].end, claim.begin),
        "claimed before the copy's name is durable"
    );
    assert!(synced(calls, "/jobs", 0, claim.begin), "claimed before its folder's name is durable");
}

/// At any moment no more requests are out, or answered without a durable record, than there are slots.
#[test]
fn a_slot_is_free_again_when_its_record_is_durable() {
    let Some(calls) = traced() else { return };
    let mut events: Vec<(usize, i64)> = Vec::new();
    // Records that were written to each file, and are not durable yet.
    let mut pending: std::collections::BTreeMap<String, (usize, i64)> = std::collections::BTreeMap::new();
    for call in calls {
        let Some(path) = call.path() else { continue };
        let is_record = ends(Some(path), "/log.2") || ends(Some(path), "/journal");
        if is_write(call) && path.starts_with("socket:") {
            let posts = memchr::memmem::find_iter(&call.bytes(), b"POST /api/chat/completions ").count();
            events.push((call.begin, posts as i64));
        } else if is_write(call) && is_record {
            let entry = pending.entry(path.to_owned()).or_default();
            *entry = (call.end, entry.1 + paid(&call.bytes()));
        } else if is_sync(call) && is_record && pending.get(path).is_some_and(|(written, _)| *written < call.begin) {
            let (_, records) = pending.remove(path).unwrap();
            events.push((call.end, -records));
        }
    }
    events.sort_unstable();
    let (mut open, mut most) = (0, 0);
    for (_, change) in events {
        open += change;
        most = most.max(open);
    }
    assert_eq!(open, 0, "as many records as requests");
    assert_eq!(most, SLOTS as i64, "requests at a time that may have to be sent again");
}

/// The records of lines that cost a request; three lines were answered by the daemon before.
fn paid(bytes: &[u8]) -> i64 {
    let text = String::from_utf8_lossy(bytes);
    let is_old = |line: &str| (1..=3).any(|number| line.contains(&format!("\"Echo: old {number}\"")));
    let records = text.lines().filter(|line| line.contains("\"outcome\":\"") && !line.contains("\"attempts\":0"));
    records.filter(|line| !is_old(line)).count() as i64
}
