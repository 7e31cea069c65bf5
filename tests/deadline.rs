//! How a run with a journal ends early: signals, deadline, outage, a rejected token, too many failures. What was settled
//! is kept, the status says what to do, and the same command goes on.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::desk::{Desk, SLOTS, codes, numbers, stuck, timeless};
use common::{Live, Output, Run, Signal, prompt, prompts, refused_base};
use serde_json::json;

/// The two ways to keep answers: into a file, and to standard output.
fn both(desk: &Desk) -> [Run; 2] {
    [desk.to_file(), desk.journaled().args([desk.path("in")])]
}

/// Whatever ended the run, its lock is gone, and there is no file.
#[track_caller]
fn is_resumable(desk: &Desk, output: &Output) {
    let names = desk.names();
    assert!(!names.iter().any(|name| name == "out" || name.ends_with(".lock")), "{names:?}: {output}");
    assert!(output.stderr.contains("run the same command to go on"), "{output}");
}

#[test]
fn a_signal_drains_and_commits_and_the_same_command_goes_on() {
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::USR1, 75)] {
        for way in 0..2 {
            let desk = Desk::with(&["--latency", "fixed:200"]);
            desk.write("in", prompts(60));
            let run = || both(&desk).into_iter().nth(way).unwrap();
            let live = run().start();
            desk.sim.wait_for_count("requests", 2 * SLOTS as u64 + 1);
            live.signal(signal);
            let output = live.finish().expect(status);
            // What was in flight was waited for, and is paid for once.
            let sent = desk.sim.count("requests");
            assert_eq!(desk.sim.count("ok"), sent, "{output}");
            assert!(output.stderr.contains(&format!("{sent} of 60 answered;")), "{output}");
            is_resumable(&desk, &output);
            if way == 1 {
                assert_eq!(numbers(&output.lines()), (1..=sent).collect::<Vec<_>>());
            }
            // The rest is asked in a run that is not slow.
            let rest = run().args(["-j", "60"]).output().expect(0);
            assert_eq!(desk.sim.count("requests"), 60, "{rest}");
            assert_eq!(desk.sim.count("repeats"), 0);
        }
    }
}

#[test]
fn the_second_signal_ends_it_at_once_and_keeps_what_was_settled() {
    let desk = Desk::new();
    desk.write("in", prompts(10) + &stuck());
    let mut live = desk.to_file().start();
    desk.wait_until_stuck(|| live.has_ended());
    live.signal(Signal::TERM);
    live.wait_for_stderr("waiting for 4 requests");
    live.signal_until_it_ends(Signal::TERM);
    let output = live.finish().expect(143);
    is_resumable(&desk, &output);
    assert!(output.stderr.contains("10 of 14 answered;"), "{output}");
    let (sent, _) = desk.sent(|| desk.to_file().output().expect(0));
    assert_eq!(sent.len(), SLOTS);
}

/// In the order of the input, with a gap; what is behind the gap is committed as well.
#[test]
fn what_is_settled_behind_a_line_that_hangs_is_kept() {
    for way in 0..2 {
        let desk = Desk::new();
        desk.write("in", prompts(6) + &prompt("sim:hang-head*1 the seventh") + &prompts(6));
        let run = || both(&desk).into_iter().nth(way).unwrap();
        let live = run().args(["--drain-timeout", "500ms"]).start();
        desk.sim.wait_for_count("ok", 12);
        live.signal(Signal::TERM);
        let output = live.finish().expect(143);
        is_resumable(&desk, &output);
        let settled: Vec<u64> = (1..=13).filter(|line| *line != 7).collect();
        let journal = ["out.journal", "journal"][way];
        assert_eq!(numbers(&desk.journal(journal, &[]).expect(0).lines()), settled);
        if way == 1 {
            assert_eq!(numbers(&output.lines()), settled);
        }
        let (sent, _) = desk.sent(|| run().output().expect(0));
        assert_eq!(sent, ["sim:hang-head*1 the seventh"]);
    }
}

#[test]
fn a_pipe_says_what_is_settled_without_knowing_of_how_much() {
    let desk = Desk::new();
    let output = desk.interrupt(desk.journaled(), Some(&(prompts(10) + &stuck()))).expect(143);
    assert!(output.stderr.contains("10 answered; run the same command to go on"), "{output}");
    assert_eq!(output.lines().len(), 10);
}

/// Whether the deadline is what ended it.
fn is_out_of_time(output: &Output) -> bool {
    ["the deadline is near", "past the deadline"].iter().any(|told| output.stderr.contains(told))
}

/// A run that ends by its deadline before that has come; how long it took.
#[track_caller]
fn ends_in_time(run: Run, within: Duration) -> (Output, Duration) {
    let began = Instant::now();
    let output = run.output().expect(75);
    let took = began.elapsed();
    assert!(took < within, "{took:?} of {within:?}: {output}");
    assert!(is_out_of_time(&output), "{output}");
    (output, took)
}

#[test]
fn a_deadline_stops_the_sending_early_enough_to_drain() {
    for way in 0..2 {
        let desk = Desk::with(&["--latency", "fixed:100"]);
        desk.write("in", prompts(400));
        let run = || both(&desk).into_iter().nth(way).unwrap();
        let (output, took) = ends_in_time(run().args(["--deadline", "2s"]), Duration::from_secs(2));
        assert!(took > Duration::from_millis(500), "it need not give up {took:?} after its start: {output}");
        let sent = desk.sim.count("requests");
        assert_eq!(desk.sim.count("cancelled"), 0, "what was sent was waited for: {output}");
        assert!(sent > SLOTS as u64 && output.stderr.contains(&format!("{sent} of 400 answered;")), "{output}");
        is_resumable(&desk, &output);
        run().args(["-j", "100"]).output().expect(0);
        assert_eq!(desk.sim.count("requests"), 400);
    }
}

#[test]
fn what_hangs_at_the_deadline_is_given_up_and_asked_again() {
    let desk = Desk::new();
    desk.write("in", prompts(10) + &stuck());
    let meta = desk.arg("meta");
    let output = desk.to_file().args(["--deadline", "4s", "--meta", &meta]).output().expect(75);
    // By its own clock: how long a busy machine takes to start it is not its affair.
    let summary: serde_json::Value = serde_json::from_str(&desk.text("meta")).unwrap();
    assert!(summary["seconds"].as_f64().unwrap() < 4.0, "{summary}");
    assert!(is_out_of_time(&output), "{output}");
    is_resumable(&desk, &output);
    let (sent, _) = desk.sent(|| desk.to_file().args(["--deadline", "1h"]).output().expect(0));
    assert_eq!(sent.len(), SLOTS, "and a deadline that is not reached changes nothing");
}

#[test]
fn a_deadline_ends_a_pipe_that_says_nothing() {
    let desk = Desk::new();
    for args in [&["-o", "out"][..], &["--journal", "j"], &[]] {
        let args = args.iter().map(|arg| if arg.starts_with('-') { (*arg).to_owned() } else { desk.arg(arg) });
        let run = desk.run().args(args).args(["--deadline", "1s"]);
        let began = Instant::now();
        let mut live = run.start();
        live.feed(prompts(3));
        let output = live.finish().expect(75);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}: {output}", began.elapsed());
        assert!(is_out_of_time(&output), "{output}");
    }
}

#[test]
fn a_wait_past_the_deadline_ends_the_run_at_once() {
    let desk = Desk::with(&["--fault", "retry-after=429:600,after=5"]);
    desk.write("in", prompts(20));
    let (output, _) = ends_in_time(desk.to_file().args(["--deadline", "60s"]), Duration::from_secs(20));
    is_resumable(&desk, &output);
    let settled = desk.journal("out.journal", &[]).expect(0).lines().len();
    assert_eq!(settled as u64, desk.sim.count("ok"));
    desk.sim.control(&json!({"faults": []}));
    let (sent, _) = desk.sent(|| desk.to_file().output().expect(0));
    assert_eq!(sent.len(), 20 - settled);
}

#[test]
fn an_outage_keeps_the_journal() {
    let desk = Desk::new();
    desk.write("in", prompts(5));
    desk.to_file().output().expect(0);
    desk.write("in", prompts(5) + &prompt("new") + &prompts(5));
    for args in [&["--max-outage", "300ms"][..], &["--deadline", "800ms"]] {
        let run = Run::at(&refused_base()).args([desk.path("in"), "-o".into(), desk.path("out")]).args(args);
        let before = desk.identity("out");
        let output = run.output().expect(75);
        assert!(output.stderr.contains("5 of 11 answered;"), "{output}");
        assert_eq!(desk.identity("out"), before, "the file of the old input stays until there is a new one");
    }
    let (sent, _) = desk.sent(|| desk.to_file().output().expect(0));
    assert_eq!(sent.len(), 6);
}

#[test]
fn a_rejected_token_keeps_the_journal() {
    let desk = Desk::with(&["--token", common::KEY]);
    let input = prompts(10) + &stuck() + &prompts(10);
    desk.write("in", &input);
    desk.interrupt(desk.to_file(), None).expect(143);
    desk.sim.control(&json!({"tokens": ["sk-another"]}));
    let output = desk.nothing_but_refused(|| desk.to_file().output().expect(77));
    is_resumable(&desk, &output);
    assert_eq!(desk.journal("out.journal", &[]).expect(0).lines().len(), 10);
    desk.sim.control(&json!({"tokens": [common::KEY]}));
    let (sent, _) = desk.sent(|| desk.to_file().output().expect(0));
    assert_eq!(sent.len(), SLOTS + 10);
    assert_eq!(timeless(&desk.text("out")), desk.plain(&input, &[]));
}

impl Desk {
    /// Does something to which the service must say nothing but no.
    #[track_caller]
    fn nothing_but_refused<T>(&self, act: impl FnOnce() -> T) -> T {
        let before = self.sim.count("ok");
        let result = act();
        assert_eq!(self.sim.count("ok"), before);
        assert!(self.sim.count("auth_refused") > 0);
        result
    }
}

#[test]
fn too_many_failures_keep_the_journal_for_a_run_that_mends_them() {
    let desk = Desk::new();
    let bad: String = (1..=3).map(|number| prompt(&format!("sim:status=400*1 weak {number}"))).collect();
    let first: String = (1..=5).map(|number| prompt(&format!("first {number}"))).collect();
    desk.write("in", first + &bad + &prompts(300));
    let output = desk.to_file().args(["--max-failed", "2", "-j", "1"]).output().expect(75);
    is_resumable(&desk, &output);
    assert!(output.stderr.contains("--max-failed"), "{output}");
    let settled = desk.journal("out.journal", &[]).expect(0).lines();
    assert_eq!(codes(&settled).iter().filter(|code| !code.is_empty()).count(), 3);
    // What failed before does not stop a run that mends it.
    desk.to_file().args(["--max-failed", "2", "--retry-failed"]).output().expect(0);
    assert_eq!(codes(&desk.lines("out")), vec![""; 308]);
    assert_eq!(desk.sim.count("repeats_after_ok"), 0);
}

#[test]
fn an_address_that_is_wrong_keeps_the_journal_too() {
    let desk = Desk::new();
    desk.write("in", prompts(3));
    desk.to_file().output().expect(0);
    desk.write("in", prompts(6));
    desk.sim.control(&json!({"faults": ["status=405"]}));
    let output = desk.to_file().output().expect(69);
    assert!(!output.stderr.contains("run the same command to go on"), "it would not help: {output}");
    assert_eq!(desk.journal("out.journal", &[]).expect(0).lines().len(), 3);
    desk.sim.control(&json!({"faults": []}));
    let (sent, _) = desk.sent(|| desk.to_file().output().expect(0));
    assert_eq!(sent.len(), 3);
}

/// Row 22, with a journal.
#[test]
fn an_idle_run_with_a_journal_obeys_a_signal_at_once() {
    for way in ["-o", "--journal"] {
        let desk = Desk::new();
        let mut live: Live = desk.run().args([way, &desk.arg("name")]).start();
        live.feed(prompt("first"));
        desk.sim.wait_for_count("ok", 1);
        live.signal(Signal::TERM);
        let output = live.finish().expect(143);
        assert!(output.waited < Duration::from_secs(1), "{way}: {:?}", output.waited);
        assert!(output.stderr.contains("1 answered; run the same command to go on"), "{output}");
    }
}
