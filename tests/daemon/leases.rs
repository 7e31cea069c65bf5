//! Two daemons on one folder: one works, the other goes away or waits; and one that was stopped for long does no harm.

use std::time::{Duration, Instant};

use crate::common::Signal;
use crate::needs::{is_all, say};
use crate::spool::{Daemon, SLOTS, Spool, lines};
use crate::tools::shell;

/// Whoever stood still for so long looks at its lease first.
const STILL: Duration = Duration::from_secs(3);
/// A lease has run out for certain after this time.
const LEASE_MAX: Duration = Duration::from_secs(150);

/// A second daemon, which waits for the folder.
fn standby(spool: &Spool) -> Daemon {
    let mut daemon = Daemon::start(spool.daemon().args(["--standby"]));
    daemon.wait_for_stderr("standby");
    daemon
}

/// Makes a lease, and the locks of what is under way, look as if nobody had touched them for 200 s.
fn age(spool: &Spool) {
    shell(
        r#"touch -d '-200 seconds' "$1" "$2"/*/journal.lock"#,
        &spool.path(".anvil/lease"),
        &spool.path(".anvil/jobs"),
    );
}

#[test]
fn a_second_daemon_is_told_who_has_the_folder() {
    let spool = Spool::slow(50);
    let daemon = spool.start();
    spool.put("p.jsonl", lines("p", 20));
    spool.wait_in_flight(SLOTS);
    let output = Daemon::start(spool.daemon()).finish().expect(75);
    assert!(output.stderr.contains(&daemon.pid().to_string()), "the holder's name: {output}");
    assert!(output.stderr.contains("--standby"), "the way out: {output}");
    let once = Daemon::start(spool.daemon().args(["--once"])).finish().expect(75);
    assert!(once.stderr.contains(&daemon.pid().to_string()), "{once}");
    spool.wait_for_answers("p.out.jsonl", "p", 20);
    spool.nothing_asked_twice();
    daemon.stop().expect(0);
    // Free again, it is anybody's.
    spool.start().stop().expect(0);
}

#[test]
fn who_waits_takes_over_at_once_when_the_holder_is_killed() {
    let spool = Spool::slow(60);
    let daemon = spool.start();
    let mut other = standby(&spool);
    spool.put("small.jsonl", lines("small", 50));
    spool.put("large.jsonl", lines("large", 80));
    spool.wait("some answers", || (spool.sim.count("ok") > 20).then_some(()));
    daemon.kill();
    let began = Instant::now();
    other.wait_until_watching(1);
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
    spool.wait_for_answers("small.out.jsonl", "small", 50);
    spool.wait_for_answers("large.out.jsonl", "large", 80);
    assert!(spool.sim.count("repeats") <= SLOTS);
    assert_eq!(spool.status().unwrap()["holder"]["pid"], other.pid());
    other.stop().expect(0);
}

#[test]
fn who_waits_takes_over_when_the_holder_ends_and_ends_itself_when_it_is_told_to() {
    let spool = Spool::new();
    let (daemon, mut other, third) = (spool.start(), standby(&spool), standby(&spool));
    third.stop().expect(0);
    daemon.stop().expect(0);
    other.wait_until_watching(1);
    spool.pass("p");
    other.stop().expect(0);
}

/// A zombie: its lease has run out while it was stopped, another has taken over, and then it goes on. Returns how many
/// requests were sent twice.
fn outlive(spool: &Spool, run_out: impl FnOnce()) -> u64 {
    let mut daemon = spool.start();
    let mut other = standby(spool);
    spool.put("small.jsonl", lines("small", 30));
    spool.put("large.jsonl", lines("large", 80));
    spool.wait("some answers", || (spool.sim.count("ok") > 20).then_some(()));
    daemon.signal(Signal::STOP);
    let stopped = Instant::now();
    run_out();
    other.wait_until_watching_for(1, LEASE_MAX);
    let results = ["small.out.jsonl", "large.out.jsonl"];
    spool.wait_for_answers(results[0], "small", 30);
    spool.wait_for_answers(results[1], "large", 80);
    spool.wait_until_idle();
    let (published, logs, names) = (results.map(|result| spool.identity(result)), logs_of(spool), spool.names());
    // By its own clocks, too, it stood still for long.
    spool.wait("some time", || (stopped.elapsed() > STILL).then_some(()));
    daemon.signal(Signal::CONT);
    // It finds out by itself, and waits or goes: there is no other way to end it than the usual one.
    daemon.wait_for_stderr("lost");
    spool.pass("next");
    assert_eq!(results.map(|result| spool.identity(result)), published, "the zombie has put its own in their place");
    assert_eq!(logs_of(spool), logs, "one log, the other's");
    spool.wait_new_status("the other's word", |status| (status["holder"]["pid"] == other.pid()).then_some(()));
    let next = ["next.jsonl".to_owned(), "next.out.jsonl".to_owned()];
    let found: Vec<String> = spool.names().into_iter().filter(|name| !next.contains(name)).collect();
    assert_eq!(found, names);
    let repeats = spool.sim.count("repeats");
    drop(daemon);
    spool.pass("last");
    other.stop().expect(0);
    repeats
}

/// The names of the logs.
fn logs_of(spool: &Spool) -> Vec<String> {
    let own = crate::common::desk::names_in(&spool.path(".anvil"));
    own.into_iter().filter(|name| name.starts_with("log.")).collect()
}

/// By its own clock the zombie has its lease still, so it may ask again; but it has no word in what becomes of that.
pub fn who_was_stopped_past_its_lease_does_no_harm() {
    let spool = Spool::slow(60);
    outlive(&spool, || age(&spool));
}

/// The same with a lease that runs out by itself, which takes a minute and a half.
#[test]
fn a_lease_runs_out_by_itself() {
    if !is_all() {
        return say("SKIPPED leases::a_lease_runs_out_by_itself: it takes 90 s; ANVIL_CRASH=all runs it");
    }
    let spool = Spool::slow(60);
    let began = Instant::now();
    let repeats = outlive(&spool, || ());
    // What was in flight when it was stopped was asked again, and nothing else.
    assert!(repeats <= SLOTS, "{repeats} repeats");
    assert!(began.elapsed() > Duration::from_secs(60), "it was taken after {:?}", began.elapsed());
}

/// A short stop is no reason to lose anything.
#[test]
fn who_was_stopped_for_a_moment_keeps_the_folder() {
    let spool = Spool::slow(60);
    let daemon = spool.start();
    let other = standby(&spool);
    spool.put("large.jsonl", lines("large", 80));
    spool.wait("some answers", || (spool.sim.count("ok") > 10).then_some(()));
    daemon.signal(Signal::STOP);
    // The other looks every second.
    std::thread::sleep(Duration::from_millis(1500));
    daemon.signal(Signal::CONT);
    spool.wait_for_answers("large.out.jsonl", "large", 80);
    spool.nothing_asked_twice();
    assert_eq!(spool.status().unwrap()["holder"]["pid"], daemon.pid());
    other.stop().expect(0);
    daemon.stop().expect(0);
}
