//! What a restart finds, after a drain and after a kill: everything goes on, and nothing is paid twice.

use crate::common::desk::names_in;
use crate::common::{Signal, prompt};
use crate::spool::{Daemon, SLOTS, Spool, answers, lines};
use crate::tools::{has_strace, shell, strace};

/// Files of which one is small, one is large, and one is a prompt.
const FILES: [(&str, usize); 2] = [("small", 40), ("large", 90)];

fn put_all(spool: &Spool) {
    for (name, count) in FILES {
        spool.put(format!("{name}.jsonl"), lines(name, count));
    }
    spool.put("text.txt", "a text");
}

#[track_caller]
fn wait_for_all(spool: &Spool) {
    for (name, count) in FILES {
        spool.wait_for_answers(&format!("{name}.out.jsonl"), name, count);
    }
    assert_eq!(spool.wait_for("text.txt.out.md"), "Echo: a text\n");
}

pub fn results_that_were_moved_away_are_not_made_again() {
    let spool = Spool::new();
    let daemon = spool.start();
    put_all(&spool);
    spool.put("empty.jsonl", "");
    spool.put("failed.txt", "sim:status=413");
    wait_for_all(&spool);
    spool.wait_for("empty.out.jsonl");
    spool.wait_state("failed.txt", "failed");
    let results = ["small.out.jsonl", "large.out.jsonl", "text.txt.out.md", "empty.out.jsonl"];
    for result in results {
        std::fs::rename(spool.path(result), spool.aside(result)).unwrap();
    }
    spool.pass("other");
    daemon.stop().expect(0);
    let asked = spool.sim.count("requests");
    // It ends when everything was looked at for long enough.
    let output = Daemon::start(spool.daemon().args(["--once"])).finish().expect(0);
    assert_eq!(spool.sim.count("requests"), asked, "{output}");
    assert!(!spool.names().iter().any(|name| results.contains(&&**name)), "{:?}", spool.names());
    // What is the same to the byte is done, whatever its times and modes say. Who drops it once more wants a result of
    // it, which costs nothing.
    let daemon = spool.start();
    shell(
        r#"chmod 600 "$1"; touch "$1"; cat "$2" > "$2.same"; cat "$2.same" > "$2""#,
        &spool.path("small.jsonl"),
        &spool.path("text.txt"),
    );
    spool.put("large.jsonl", lines("large", 90));
    spool.wait_for_answers("large.out.jsonl", "large", 90);
    spool.pass("another");
    spool.wait_until_idle();
    assert_eq!(spool.sim.count("requests"), asked + 1, "{:?}", spool.prompts());
    assert!(!spool.has("small.out.jsonl") && !spool.has("text.txt.out.md"), "{:?}", spool.names());
    daemon.stop().expect(0);
}

#[test]
fn a_drain_waits_for_what_is_in_flight_and_the_next_daemon_goes_on() {
    let spool = Spool::slow(100);
    let daemon = spool.start();
    put_all(&spool);
    spool.wait("some answers", || (spool.sim.count("ok") > 20).then_some(()));
    let output = daemon.stop().expect(0);
    assert_eq!((spool.sim.count("in_flight"), spool.sim.count("cancelled")), (0, 0), "{output}");
    let asked = spool.sim.count("requests");
    assert!(asked < 80 && !spool.has("small.out.jsonl"), "{asked} of 131 were asked");
    assert_eq!(spool.status().unwrap()["state"], "stopped");
    assert!(!spool.has(".anvil/lease"), "the lease is given back");
    let _daemon = spool.start();
    wait_for_all(&spool);
    spool.nothing_asked_twice();
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let spool = Spool::new();
    let mut daemon = spool.start();
    spool.put("p.jsonl", prompt("sim:hang-head*1 p 0") + &lines("p", 10));
    spool.put("big.jsonl", prompt("sim:hang-head*1 big 0") + &lines("big", 70));
    spool.wait("all but two answers", || (spool.sim.count("ok") == 80).then_some(()));
    daemon.signal(Signal::TERM);
    daemon.wait_for_stderr("draining");
    assert!(!daemon.has_ended());
    daemon.signal_until_it_ends(Signal::TERM);
    let output = daemon.finish();
    assert!(output.waited.as_secs() < 5, "{output}");
    assert!(![101, 134, 137].contains(&output.status), "{output}");
    let _daemon = spool.start();
    for (name, count) in [("p", 10), ("big", 70)] {
        let mut wanted = vec![format!("Echo: sim:hang-head*1 {name} 0")];
        wanted.extend(answers(name, count));
        spool.wait_for_contents(&format!("{name}.out.jsonl"), &wanted);
    }
    assert_eq!(spool.sim.count("repeats"), 2, "those that hung");
}

#[test]
fn a_kill_costs_what_was_in_flight_at_most() {
    let spool = Spool::slow(60);
    let mut daemon = spool.start();
    put_all(&spool);
    for kills in 1..=4 {
        spool.wait("some more answers", || (spool.sim.count("ok") >= kills * 20).then_some(()));
        daemon.kill();
        let repeats = spool.sim.count("repeats");
        assert!(repeats <= (kills - 1) * SLOTS, "{repeats} repeats before kill {kills}");
        daemon = spool.start();
    }
    wait_for_all(&spool);
    let repeats = spool.sim.count("repeats");
    assert!(repeats <= 4 * SLOTS, "{repeats} repeats");
    let mut names =
        vec!["small.jsonl", "large.jsonl", "text.txt", "small.out.jsonl", "large.out.jsonl", "text.txt.out.md"];
    names.sort_unstable();
    spool.wait("the end of all status files", || (spool.names().len() <= names.len()).then_some(()));
    assert_eq!(spool.names(), names);
    daemon.stop().expect(0);
}

/// Everything that can be done to files while no daemon runs.
pub fn what_happened_meanwhile_is_found_at_the_start() {
    let spool = Spool::slow(100);
    let daemon = spool.start();
    for name in ["goes", "changes", "stays"] {
        spool.put(format!("{name}.jsonl"), lines(name, 12));
        spool.put(format!("{name}-large.jsonl"), lines(&format!("{name}-large"), 66));
    }
    spool.wait("some answers", || (spool.sim.count("ok") > 30).then_some(()));
    daemon.kill();
    for name in ["goes", "goes-large"] {
        std::fs::remove_file(spool.path(format!("{name}.jsonl"))).unwrap();
    }
    spool.put("changes.jsonl", lines("changes", 20));
    spool.put("changes-large.jsonl", lines("changes-large", 70));
    spool.put("new.jsonl", lines("new", 2));
    let asked = spool.prompts();
    let daemon = spool.start();
    for (name, count) in [("stays", 12), ("stays-large", 66)] {
        spool.wait_for_answers(&format!("{name}.out.jsonl"), name, count);
    }
    // Found by scans alone, these take ten seconds.
    for (name, count) in [("changes", 20), ("changes-large", 70), ("new", 2)] {
        spool.wait_for_answers(&format!("{name}.out.jsonl"), name, count);
    }
    let more = spool.prompts().split_off(asked.len());
    assert!(!more.iter().any(|text| text.starts_with("goes")), "{more:?}");
    assert!(spool.sim.count("repeats") <= SLOTS);
    assert!(!spool.has("goes.out.jsonl") && !spool.has("goes-large.out.jsonl"));
    daemon.stop().expect(0);
    let own = names_in(&spool.path(".anvil"));
    assert!(own.iter().filter(|name| name.starts_with("log.")).count() == 1, "{own:?}");
}

/// What was answered when the file was small is in another place than what is asked when it is large.
#[test]
fn what_a_file_was_answered_when_it_was_small_survives_a_kill_as_it_becomes_large() {
    if !has_strace() {
        return;
    }
    let spool = Spool::new();
    let daemon = spool.start();
    spool.put("p.jsonl", lines("p", 60));
    spool.wait_for_answers("p.out.jsonl", "p", 60);
    let held = strace(&daemon, "fdatasync,fsync", "delay_enter=500000");
    spool.put("p.jsonl", lines("p", 100));
    // The lock of its journal is there, and the journal is on its way.
    let jobs = spool.path(".anvil/jobs");
    let folder = spool.wait("the folder of a large file", || jobs.read_dir().unwrap().next());
    let folder = folder.unwrap().path();
    spool.wait("the lock of its journal", || folder.join("journal.lock").exists().then_some(()));
    daemon.kill();
    drop(held);
    assert!(!folder.join("journal").exists(), "it was too late");
    let _daemon = spool.start();
    spool.wait_for_answers("p.out.jsonl", "p", 100);
    spool.nothing_asked_twice();
}
