//! Keys that are refused, replaced, another's. Whose key pays can be seen by the service.

use std::os::unix::fs::chown;
use std::path::PathBuf;

use serde_json::json;

use crate::common::{Run, Signal, prompt, write_private};
use crate::needs;
use crate::spool::{Daemon, Spool, lines};

const NOBODY: u32 = 65534;
const OLD: &str = "sk-old-canary";
const NEW: &str = "sk-new-canary";

/// A daemon with its key in a file.
fn with_key(spool: &Spool, key: &str) -> (Run, PathBuf) {
    let path = spool.aside("api-key");
    write_private(&path, key.as_bytes());
    (spool.daemon().without("ANVILGPT_API_KEY").args(["--api-key-file".as_ref(), path.as_os_str()]), path)
}

/// Which key each request carried, by its place in the list of the service.
fn tokens(spool: &Spool) -> Vec<(String, Option<u64>)> {
    let requests = spool.sim.requests();
    let token = |request: &serde_json::Value| request["authorization_token_index"].as_u64();
    requests.iter().map(|request| (crate::common::desk::prompt_of(request), token(request))).collect()
}

#[test]
fn a_key_that_is_replaced_is_used_after_a_reload() {
    let spool = Spool::with(&["--latency", "fixed:50", "--token", OLD, "--token", NEW]);
    let (run, path) = with_key(&spool, OLD);
    let mut daemon = Daemon::watching(run);
    spool.put("p.jsonl", lines("p", 40));
    spool.wait("some answers", || (spool.sim.count("ok") > 8).then_some(()));
    write_private(&path, NEW.as_bytes());
    daemon.signal(Signal::HUP);
    daemon.wait_for_stderr("read anew");
    spool.wait_for_answers("p.out.jsonl", "p", 40);
    let tokens: Vec<Option<u64>> = tokens(&spool).into_iter().map(|(_, token)| token).collect();
    assert_eq!((tokens[0], tokens[39]), (Some(0), Some(1)), "{tokens:?}");
    assert!(tokens.is_sorted(), "{tokens:?}");
    spool.nothing_asked_twice();
    daemon.stop().expect(0);
}

/// The key is refused in the middle of a run: a pause, until another key is there. No line fails, no signal is needed.
#[test]
fn a_key_that_is_refused_pauses_until_it_is_replaced() {
    let spool = Spool::with(&["--latency", "fixed:50", "--token", OLD]);
    let (run, path) = with_key(&spool, OLD);
    let daemon = Daemon::watching(run);
    spool.put("p.jsonl", lines("p", 30));
    spool.put("big.jsonl", lines("big", 80));
    spool.wait("some answers", || (spool.sim.count("ok") > 20).then_some(()));
    spool.sim.control(&json!({ "tokens": [NEW] }));
    let reason = spool.wait_paused();
    assert!(reason.contains("401") || reason.contains("token") || reason.contains("key"), "{reason}");
    let told = spool.told(&[]).expect(0).text();
    assert!(told.contains("paused"), "{told}");
    spool.wait_in_flight(0);
    let refused = spool.sim.count("auth_refused");
    spool.put("late.jsonl", lines("late", 2));
    write_private(&path, NEW.as_bytes());
    spool.wait_for_answers("p.out.jsonl", "p", 30);
    spool.wait_for_answers("big.out.jsonl", "big", 80);
    spool.wait_for_answers("late.out.jsonl", "late", 2);
    spool.wait_status("the end of the pause", |status| status["paused"].is_null().then_some(()));
    let log = daemon.stop().expect(0).stderr;
    assert!(refused < 20, "{refused} requests with a key that was refused");
    assert!(!log.contains("canary"), "a key in the log: {log}");
    spool.nothing_asked_twice();
}

#[test]
fn a_key_that_never_was_right_is_waited_for() {
    let spool = Spool::with(&["--token", NEW]);
    let (run, path) = with_key(&spool, OLD);
    let daemon = Daemon::watching(run);
    spool.put("p.jsonl", lines("p", 3));
    spool.put("big.jsonl", lines("big", 80));
    spool.wait_paused();
    write_private(&path, NEW.as_bytes());
    daemon.signal(Signal::HUP);
    spool.wait_for_answers("p.out.jsonl", "p", 3);
    spool.wait_for_answers("big.out.jsonl", "big", 80);
    daemon.stop().expect(0);
}

/// Drops a file of the user nobody.
fn put_of_nobody(spool: &Spool, name: &str, text: &str) {
    let temp = spool.path(format!(".{name}.temp"));
    std::fs::write(&temp, text).unwrap();
    chown(&temp, Some(NOBODY), None).unwrap();
    std::fs::rename(temp, spool.path(name)).unwrap();
}

#[test]
fn an_owner_with_a_key_of_its_own_pays_for_its_own_files() {
    if !needs::has_root() {
        return;
    }
    let spool = Spool::with(&["--latency", "fixed:50", "--token", OLD, "--token", NEW]);
    let (theirs, config) = (spool.aside("their-key"), spool.aside("config.toml"));
    write_private(&theirs, NEW.as_bytes());
    std::fs::write(&config, format!("[owner.nobody]\napi_key_file = {:?}\n", theirs.to_str().unwrap())).unwrap();
    let (run, _) = with_key(&spool, OLD);
    let daemon = Daemon::watching(run.args(["--config".as_ref(), config.as_os_str()]));
    spool.put("ours.jsonl", lines("ours", 10));
    spool.put("ours-large.jsonl", lines("ours-large", 70));
    put_of_nobody(&spool, "theirs.jsonl", &lines("theirs", 10));
    put_of_nobody(&spool, "theirs-large.jsonl", &lines("theirs-large", 70));
    for (name, count) in [("ours", 10), ("theirs", 10), ("ours-large", 70), ("theirs-large", 70)] {
        spool.wait_for_answers(&format!("{name}.out.jsonl"), name, count);
    }
    let wrong = |(text, token): &(String, Option<u64>)| *token != Some(u64::from(text.starts_with("theirs")));
    let wrong: Vec<_> = tokens(&spool).into_iter().filter(wrong).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    // Their key is refused: theirs waits, ours does not.
    spool.sim.control(&json!({ "tokens": [OLD] }));
    put_of_nobody(&spool, "late.jsonl", &lines("late", 3));
    let reason = spool.wait_paused();
    assert!(reason.contains("nobody"), "{reason}");
    spool.pass("more");
    assert!(!spool.has("late.out.jsonl"));
    spool.sim.control(&json!({ "tokens": [OLD, NEW] }));
    daemon.signal(Signal::HUP);
    spool.wait_for_answers("late.out.jsonl", "late", 3);
    spool.nothing_asked_twice();
    daemon.stop().expect(0);
}

/// Neither a log nor anything in the folder holds a key, a prompt, or an answer that is not the result's own.
#[test]
fn nothing_but_results_holds_what_was_asked() {
    let spool = Spool::with(&["--token", OLD]);
    let (run, _) = with_key(&spool, OLD);
    let daemon = Daemon::watching(run.args(["-v", "-s", "a canary of a system prompt"]));
    spool.put("p.jsonl", prompt("canary") + &prompt("sim:status=413 canary"));
    spool.put("big.jsonl", lines("canary", 70) + &prompt("sim:status=413 canary"));
    spool.wait_state("p.jsonl", "failed");
    spool.wait_state("big.jsonl", "failed");
    spool.put("bad.json", "{\"prompt\": \"canary\", ");
    spool.wait_state("bad.json", "failed");
    let daemon_status = spool.wait_new_status("its word", |status| Some(status.to_string()));
    let log = daemon.stop().expect(0).stderr;
    for (what, text) in [("the log", log), ("its status", daemon_status)] {
        assert!(!text.contains("canary"), "{what}: {text}");
    }
    for name in spool.names().iter().filter(|name| name.ends_with(".status.json")) {
        assert!(!spool.text(name).unwrap().contains("canary"), "{name}");
    }
}
