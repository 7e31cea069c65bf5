//! Several endpoints in one run: all are used, the least busy first, and none that is away costs a line.
#![allow(clippy::unwrap_used)]

mod common;

use common::desk::prompt_of;
use common::{Run, Signal, Sim, prompt, prompts, refused_base, wait_for};
use serde_json::{Value, json};

/// A service whose answers take so many milliseconds.
fn slow(milliseconds: u64) -> Sim {
    Sim::start(&["--latency", &format!("fixed:{milliseconds}")])
}

/// Completions delivered whole, by all of them.
fn answers_of(sims: &[&Sim]) -> u64 {
    sims.iter().map(|sim| sim.count("ok")).sum()
}

#[test]
fn all_are_used_and_the_least_busy_most() {
    let (fast, late) = (slow(10), slow(80));
    let output = Run::on_all([&fast, &late]).args(["--fixed", "-j", "8"]).input(prompts(150)).output().expect(0);
    output.answers_prompts(150);
    let (fast, late) = (fast.count("ok"), late.count("ok"));
    assert_eq!(fast + late, 150, "nothing is asked twice");
    assert!(late >= 8 && fast >= 2 * late, "{fast} answers of the fast one, {late} of the slow one");
}

#[test]
fn one_that_dies_in_the_middle_costs_no_line() {
    for upstream in ["stream", "whole"] {
        let (stays, dies) = (slow(20), slow(20));
        let mut live = Run::on_all([&stays, &dies]).args(["--upstream", upstream]).start();
        live.feed_and_close(prompts(200).into_bytes());
        dies.wait_for_count("ok", 15);
        drop(dies);
        let output = live.finish().expect(0);
        output.answers_prompts(200);
        assert_eq!(stays.count("repeats_after_ok"), 0);
    }
}

#[test]
fn one_that_was_never_up_costs_no_line_and_is_named() {
    let sim = slow(5);
    let gone = refused_base();
    let named = gone.trim_start_matches("http://").trim_end_matches("/api");
    for order in [[&sim.base(), &gone], [&gone, &sim.base()]] {
        sim.reset();
        let run = Run::plain().args(order.iter().flat_map(|base| ["--base-url", base.as_str()]));
        let output = run.input(prompts(60)).output().expect(0);
        output.answers_prompts(60);
        assert_eq!(sim.count("repeats"), 0);
        assert!(output.stderr.contains(named), "{output}");
    }
}

#[test]
fn one_that_was_down_is_used_again() {
    let (stays, leaves) = (slow(20), slow(20));
    let mut live = Run::on_all([&stays, &leaves]).args(["--fixed", "-j", "8"]).start();
    live.feed_and_close(prompts(600).into_bytes());
    leaves.wait_for_count("ok", 15);
    leaves.control(&json!({ "down_ms": 200 }));
    let before = leaves.count_when_up("ok");
    live.finish().expect(0).answers_prompts(600);
    let after = leaves.count("ok") - before;
    assert!(after > 40, "{after} answers after the outage, {before} before");
}

#[test]
fn all_that_are_away_are_an_outage() {
    let bases = [refused_base(), refused_base()];
    let run = Run::plain().args(bases.iter().flat_map(|base| ["--base-url", base]));
    let output = run.args(["--max-outage", "200ms"]).input(prompts(20)).output().expect(75);
    assert!(output.stdout.is_empty() && output.stderr.contains("no line was answered"), "{output}");
}

/// A model that one of them has only is asked for there, and one that nobody has fails alone.
#[test]
fn a_model_is_asked_for_where_it_is() {
    for regime in ["0.6", "0.12", "openai"] {
        let [left, right] = ["left", "right"]
            .map(|own| Sim::start(&["--regime", regime, "--model", own, "--model", "both", "--latency", "fixed:5"]));
        let line = |number: usize, model: &str| {
            json!({ "prompt": format!("{model} {number}"), "model": model }).to_string() + "\n"
        };
        let models = ["left", "right", "both"];
        let input: String = (0..90).map(|number| line(number, models[number % 3])).collect();
        let input = input + &line(90, "nobody's");
        let output = Run::on_all([&left, &right]).input(input).output();
        let mut codes = vec![String::new(); 90];
        codes.push("model_not_found".to_owned());
        assert_eq!(output.status, 1, "{}", output.stderr);
        assert_eq!(output.codes(), codes, "{}", output.stderr);
        for (sim, own, other) in [(&left, "left", "right"), (&right, "right", "left")] {
            let by_model = sim.stats()["completions_by_model"].clone();
            assert_eq!((&by_model[own], &by_model[other]), (&json!(30), &Value::Null), "{by_model}");
            let asked = sim.requests().iter().filter(|request| request["body"]["model"] == other).count();
            assert!(asked <= 16, "{asked} requests for a model that is not there");
        }
        assert_eq!(answers_of(&[&left, &right]), 90);
    }
}

#[test]
fn a_halt_of_one_of_them_leaves_the_others_alone() {
    let good = slow(10);
    for fault in ["status=405", "html", "status=404", "redirect=302:http://127.0.0.1:1/"] {
        good.reset();
        let wrong = Sim::start(&["--fault", fault]);
        let output = Run::on_all([&wrong, &good]).input(prompts(60)).output().expect(0);
        output.answers_prompts(60);
        assert_eq!(output.stderr.matches(wrong.address()).count(), 1, "{fault}: {}", output.stderr);
        assert!(wrong.count("requests") <= 16, "{fault}: {}", wrong.stats());
    }
}

/// Every prompt that was sent anywhere, as often as it was sent.
fn sent(sims: &[&Sim]) -> Vec<String> {
    sims.iter().flat_map(|sim| sim.requests()).map(|request| prompt_of(&request)).collect()
}

#[test]
fn a_run_that_is_drained_and_resumed_pays_nothing_twice() {
    let (one, two) = (slow(20), slow(20));
    let run = Run::on_all([&one, &two]);
    let (input, out) = (run.file("in", prompts(200)), run.path("out"));
    let command = |run: Run| run.args([&input]).args(["-o".as_ref(), out.as_os_str()]);
    let folder = run; // Its folder holds the files of both runs.
    let live = command(Run::on_all([&one, &two])).start();
    wait_for("answers of both", || (one.count("ok") > 10 && two.count("ok") > 10).then_some(()));
    live.signal(Signal::TERM);
    live.finish().expect(143);
    assert!(!out.exists() && sent(&[&one, &two]).len() < 200);
    command(Run::on_all([&one, &two])).output().expect(0);
    let lines = std::fs::read_to_string(&out).unwrap();
    assert_eq!(lines.lines().count(), 200);
    let mut sent = sent(&[&one, &two]);
    sent.sort();
    sent.dedup();
    assert_eq!((sent.len(), answers_of(&[&one, &two])), (200, 200), "each once");
    drop(folder);
}

#[test]
fn a_run_that_is_killed_and_resumed_asks_again_for_no_more_than_was_in_flight() {
    let (one, two) = (slow(20), slow(20));
    let folder = Run::bare();
    let journal = folder.path("journal");
    let command = || Run::on_all([&one, &two]).args(["-j", "8", "--journal"]).args([&journal]);
    let mut live = command().start();
    live.feed_in_background(prompts(200).into_bytes());
    wait_for("answers of both", || (one.count("ok") > 20 && two.count("ok") > 20).then_some(()));
    live.signal(Signal::KILL);
    assert_eq!(live.finish().status, 137);
    // Whoever was cut off is served to the end, or counted as gone.
    wait_for("silence", || (one.count("in_flight") + two.count("in_flight") == 0).then_some(()));
    let output = command().input(prompts(200)).output().expect(0);
    output.answers_prompts(200);
    let sent = sent(&[&one, &two]);
    assert!((200..=208).contains(&sent.len()), "{} requests for 200 lines", sent.len());
}

/// The line that ends a run belongs to no endpoint: it waits for one that can serve it.
#[test]
fn a_line_that_one_of_them_fails_is_answered_by_the_other() {
    let sick = Sim::start(&["--fault", "status=500"]);
    let good = slow(5);
    let output = Run::on_all([&sick, &good]).input(prompt("only one")).output().expect(0);
    assert_eq!(output.only_line()["content"], "Echo: only one");
    assert!(sick.count("requests") <= 1, "what failed there is tried elsewhere");
}
