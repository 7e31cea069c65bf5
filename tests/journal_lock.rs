//! One journal has one run at a time: the second is refused at once and told by whom; whoever was killed bars nobody.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::desk::{Desk, SLOTS, stuck, timeless};
use common::{Live, Output, Run, Signal, prompt, prompts};

/// Far less than the time after which a silent holder on another machine would be given up.
const AT_ONCE: Duration = Duration::from_secs(20);

/// A run that holds the journal of `-o out` and hangs in its lines.
fn holder(desk: &Desk) -> Live {
    desk.write("in", prompts(3) + &stuck());
    let mut live = desk.to_file().start();
    desk.wait_until_stuck(|| live.has_ended());
    live
}

/// A run that finds the journal taken by this process.
#[track_caller]
fn finds_it_taken(desk: &Desk, run: Run, by: u32) -> Output {
    let output = desk.nothing_sent(|| run.output().expect(75));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let told = [format!("pid {by} "), host.trim().to_owned()];
    assert!(told.iter().all(|told| output.stderr.contains(told)), "{told:?}: {output}");
    assert!(output.stdout.is_empty() && output.waited < AT_ONCE, "{output}");
    output
}

#[test]
fn a_second_run_is_refused_at_once_and_told_who_goes_on() {
    let desk = Desk::new();
    let mut first = holder(&desk);
    let journal = desk.arg("out.journal");
    let piped = || desk.run().args(["--journal", &journal]).input(prompts(3));
    for _ in 0..2 {
        finds_it_taken(&desk, desk.to_file(), first.pid());
        finds_it_taken(&desk, desk.to_file().args(["--fresh", "--force"]), first.pid());
        finds_it_taken(&desk, piped(), first.pid());
    }
    // By another way to the same file.
    std::os::unix::fs::symlink(desk.path(""), desk.path("way")).unwrap();
    finds_it_taken(&desk, desk.run().args([desk.path("in"), "-o".into(), desk.path("way/out")]), first.pid());
    // Stopped or not, it is the holder.
    first.signal(Signal::STOP);
    finds_it_taken(&desk, desk.to_file(), first.pid());
    first.signal(Signal::CONT);
    // To look at it harms nobody, and to put something in its place is not to be had.
    assert_eq!(desk.journal("out.journal", &[]).expect(0).lines().len(), 3);
    desk.write("other", desk.bytes("out.journal"));
    let salvage = ["--salvage", &journal];
    assert_ne!(desk.nothing_sent(|| desk.journal("other", &salvage)).status, 0);
    assert!(!first.has_ended());
    first.signal(Signal::TERM);
    first.wait_for_stderr("waiting for");
    first.signal_until_it_ends(Signal::TERM);
    first.finish().expect(143);
    desk.to_file().output().expect(0);
    assert_eq!(desk.lines("out").len(), 3 + SLOTS);
    assert_eq!(desk.names(), ["in", "other", "out", "out.journal", "way"]);
}

/// Records of answers in a journal, if it is there.
fn answers_in(desk: &Desk, name: &str) -> usize {
    if desk.has(name) { desk.text(name).matches("\"outcome\":\"answer\"").count() } else { 0 }
}

#[test]
fn a_run_that_was_killed_bars_nobody() {
    let desk = Desk::new();
    for round in 0..3 {
        desk.write("in", prompts(3) + &prompt(&format!("sim:hang-head*1 round {round}")));
        let live = desk.to_file().start();
        common::wait_for("three records, and the line that hangs", || {
            let hangs = desk.sim.requests_text().contains(&format!("round {round}"));
            (hangs && answers_in(&desk, "out.journal") == 3).then_some(())
        });
        live.signal(Signal::KILL);
        live.finish().expect(137);
        assert!(desk.has("out.journal.lock"), "{:?}", desk.names());
    }
    let (sent, output) = desk.sent(|| desk.to_file().output().expect(0));
    assert_eq!(sent, ["sim:hang-head*1 round 2"], "{output}");
    assert!(output.waited < AT_ONCE, "{:?}", output.waited);
    assert_eq!(desk.names(), ["in", "out", "out.journal"]);
}

#[test]
fn of_many_that_start_together_one_runs_and_nothing_is_asked_twice() {
    let desk = Desk::with(&["--latency", "fixed:30"]);
    let input = prompts(12);
    for killed_before in [false, true] {
        if killed_before {
            ["out", "out.journal"].iter().for_each(|name| desk.remove(name));
            let live = holder(&desk);
            live.signal(Signal::KILL);
            live.finish().expect(137);
        }
        desk.write("in", &input);
        let before = desk.sim.count("requests");
        let known = if killed_before { desk.journal("out.journal", &[]).lines().len() } else { 0 };
        let lives: Vec<Live> = (0..6).map(|_| desk.to_file().start()).collect();
        let statuses: Vec<i32> = lives.into_iter().map(|live| live.finish().status).collect();
        assert!(statuses.iter().all(|status| [0, 75].contains(status)), "{statuses:?}");
        assert!(statuses.contains(&0), "{statuses:?}");
        assert_eq!(desk.sim.count("requests") - before, (12 - known) as u64, "{statuses:?}");
        assert_eq!(timeless(&desk.text("out")), desk.plain(&input, &[]));
        assert_eq!(desk.names(), ["in", "out", "out.journal"]);
    }
}

/// Killed at any moment, and again, and again: each time it goes on where it stopped.
#[test]
fn a_run_that_is_killed_again_and_again_comes_to_its_end_and_pays_little_twice() {
    const LINES: usize = 120;
    let desk = Desk::with(&["--latency", "lognormal:3:10"]);
    let input = prompts(LINES) + "{\"prompt\":7}\n";
    desk.write("in", &input);
    let mut kills = 0;
    loop {
        let before = desk.sim.count("requests");
        let mut live = desk.to_file().start();
        let goal = before + 7 + kills * 3;
        common::wait_for("some requests", || (desk.sim.count("requests") >= goal || live.has_ended()).then_some(()));
        if live.has_ended() {
            live.finish().expect(1);
            break;
        }
        live.signal(Signal::KILL);
        live.finish();
        kills += 1;
    }
    desk.to_file().output().expect(1);
    assert!(kills >= 4, "{kills}");
    assert_eq!(timeless(&desk.text("out")), timeless(&desk.journal("out.journal", &[]).text()));
    let repeated = desk.sim.count("repeats");
    assert!(repeated <= kills * SLOTS as u64, "{repeated} requests were sent again after {kills} kills");
    let plain = desk.plain(&input, &[]);
    assert_eq!(timeless(&desk.text("out")), plain);
    assert_eq!(desk.names(), ["in", "out", "out.journal"]);
}

#[test]
fn what_a_killed_run_has_left_beside_the_file_is_cleared_away() {
    let desk = Desk::new();
    let run = || desk.run().args(["-o".into(), desk.path("out")]);
    let mut live = run().start();
    live.feed(prompts(3) + &stuck());
    desk.wait_until_stuck(|| live.has_ended());
    live.signal(Signal::KILL);
    live.finish().expect(137);
    assert_eq!(desk.names(), ["out.input", "out.journal", "out.journal.lock"]);
    let (sent, _) = desk.sent(|| run().input(prompts(3) + &stuck()).output().expect(0));
    assert_eq!(sent.len(), SLOTS);
    assert_eq!(desk.names(), ["out", "out.journal"]);
}
