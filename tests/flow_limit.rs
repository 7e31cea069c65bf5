//! How many requests are in flight: as many as the service works on, and hardly any that only wait there.
#![allow(clippy::unwrap_used)]

mod common;

use common::{MODEL, Run, Sim, prompts};
use serde_json::{Value, json};

/// A service that tells nothing of its times; Open WebUI always does.
const SILENT: [&str; 3] = ["--regime", "openai", "--no-usage"];

/// A service of so many slots, the rest of its habits as flags.
fn with_slots(slots: usize, flags: &[&str]) -> Sim {
    let slots = slots.to_string();
    let all = ["--slots", &slots, "--first-token", "15", "--latency", "fixed:30", "--chunks", "3"];
    Sim::start(&all.iter().chain(flags).copied().collect::<Vec<_>>())
}

/// Runs all cases side by side: most of their time they wait.
fn each<T: Send + Sync>(cases: &[T], check: impl Fn(&T) + Sync) {
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(|| check(case));
        }
    });
}

fn queue_mean(stats: &Value) -> f64 {
    stats["queued_mean"].as_f64().unwrap()
}

/// Whether the queue stays short, told of by usage, seen from outside, or not streamed at all.
#[test]
fn the_servers_queue_stays_short_whatever_it_tells() {
    let cases: [(&[&str], &[&str]); 3] = [(&[], &[]), (&SILENT, &[]), (&[], &["--upstream", "whole"])];
    each(&cases, |(flags, args)| {
        let sim = with_slots(4, flags);
        let run = Run::on(&sim).args(["-j", "32"]).args(*args);
        run.input(prompts(160)).output().expect(0).answers_prompts(160);
        let stats = sim.stats();
        assert!(stats["queued_max"].as_u64().unwrap() <= 8, "{flags:?} {args:?}: {stats}");
        assert!(queue_mean(&stats) < 3.0, "{flags:?} {args:?}: {stats}");
        assert!(stats["in_flight_max"].as_u64().unwrap() >= 4, "all slots are used: {stats}");
    });
}

#[test]
fn a_fixed_number_is_kept_in_flight_queue_or_not() {
    each(&[&[][..], &SILENT], |flags| {
        let sim = with_slots(4, flags);
        Run::on(&sim).args(["-j", "32", "--fixed"]).input(prompts(100)).output().expect(0);
        let stats = sim.stats();
        assert_eq!((&stats["in_flight_max"], &stats["queued_max"]), (&json!(32), &json!(28)), "{stats}");
    });
}

/// A service without a queue is used as far as -j goes, 16 where it is not given, and never further.
#[test]
fn the_ceiling_is_reached_and_kept() {
    let ceilings: [(&[&str], u64); 6] = [
        (&[], 16),
        (&["-j", "24"], 24),
        (&["-j", "2"], 2),
        (&["-j", "1"], 1),
        (&["--fixed"], 4),
        (&["--fixed", "-j", "7"], 7),
    ];
    each(&ceilings, |(args, ceiling)| {
        let sim = with_slots(64, &[]);
        let lines = if *ceiling > 8 { 400 } else { 50 };
        Run::on(&sim).args(*args).input(prompts(lines)).output().expect(0);
        assert_eq!(sim.count("in_flight_max"), *ceiling, "{args:?}");
    });
}

/// Two models share the ceiling; each has its own limit, so the crowded one does not hold the other back.
#[test]
fn each_model_has_its_own_limit() {
    let models = [MODEL, "llama3.2:latest"];
    let input: String = (0..200)
        .map(|number| json!({ "prompt": format!("p {number}"), "model": models[number % 2] }).to_string() + "\n")
        .collect();
    each(&[&[][..], &SILENT], |flags| {
        let sim = with_slots(4, flags);
        let output = Run::on(&sim).args(["-j", "32"]).input(input.clone()).output().expect(0);
        assert_eq!(output.codes(), vec![""; 200]);
        let stats = sim.stats();
        assert!(stats["queued_max"].as_u64().unwrap() <= 16 && queue_mean(&stats) < 6.0, "{flags:?}: {stats}");
    });
}

/// The server gets more slots in the middle: they are found.
#[test]
fn slots_that_come_later_are_used() {
    let sim = with_slots(2, &[]);
    let mut live = Run::on(&sim).args(["-j", "32"]).start();
    live.feed_and_close(prompts(500).into_bytes());
    sim.wait_for_count("ok", 40);
    assert!(sim.count("in_flight_max") <= 12, "{}", sim.stats());
    sim.control(&json!({ "slots": 32 }));
    live.finish().expect(0).answers_prompts(500);
    assert!(sim.count("in_flight_max") >= 16, "{}", sim.stats());
}

#[test]
fn endpoints_have_limits_of_their_own() {
    let (small, large) = (with_slots(2, &[]), with_slots(16, &[]));
    Run::on_all([&small, &large]).input(prompts(400)).output().expect(0).answers_prompts(400);
    let [few, many] = [&small, &large].map(|sim| sim.count("ok"));
    assert!(many > 2 * few && few > 20, "{few} and {many} answers of 2 and 16 slots");
    assert!(small.count("queued_max") <= 8 && queue_mean(&small.stats()) < 3.0, "{}", small.stats());
}
