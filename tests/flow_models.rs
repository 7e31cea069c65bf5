//! Several models on a server that holds one at a time: lines of one model go together, and no line waits for ever.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Run, Sim};
use serde_json::{Value, json};

const MODELS: [&str; 3] = ["llama3.1:latest", "llama3.2:latest", "think:latest"];

/// Ways to bound what is in flight.
const SETTINGS: [&[&str]; 2] = [&["-j", "4"], &["--fixed", "-j", "16"]];
/// Loads that grouping may cost; without it there is one for nearly every line.
const LOADS_MAX: u64 = 12;

/// A service that has to load a model before it answers, for 40 ms.
fn reloading() -> Sim {
    Sim::start(&["--cold-load", "40", "--latency", "fixed:5", "--slots", "4"])
}

/// Lines that alternate between the first two models.
fn alternating(count: usize) -> String {
    (1..=count).map(|number| line(number, MODELS[number % 2])).collect()
}

fn line(number: usize, model: &str) -> String {
    json!({ "prompt": format!("prompt {number}"), "model": model }).to_string() + "\n"
}

fn texts(lines: &[Value]) -> Vec<String> {
    lines.iter().map(|line| line["content"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn lines_of_one_model_go_together_and_the_output_keeps_its_order() {
    for args in SETTINGS {
        let sim = reloading();
        let output = Run::on(&sim).args(args).input(alternating(120)).output().expect(0);
        output.answers_prompts(120);
        let loads = sim.count("loads");
        assert!(loads <= LOADS_MAX, "{loads} loads for 120 lines with {args:?}");
        for (line, number) in output.lines().iter().zip(1..) {
            assert_eq!(line["model"], MODELS[number % 2], "{line}");
        }
    }
}

/// One at a time and in order there is a load for each line: that is what is saved.
#[test]
fn in_strict_order_every_line_would_be_a_load() {
    let sim = reloading();
    for number in 1..=10 {
        Run::on(&sim).input(line(number, MODELS[number % 2])).output().expect(0);
    }
    assert_eq!(sim.count("loads"), 10);
}

#[test]
fn unordered_output_is_grouped_as_well_and_complete() {
    let sim = reloading();
    let output = Run::on(&sim).args(["--unordered", "-j", "4"]).input(alternating(120)).output().expect(0);
    let mut found = texts(&output.lines());
    found.sort();
    let mut wanted: Vec<String> = (1..=120).map(|number| format!("Echo: prompt {number}")).collect();
    wanted.sort();
    assert_eq!(found, wanted);
    let loads = sim.count("loads");
    assert!(loads <= LOADS_MAX, "{loads} loads for 120 lines");
}

#[test]
fn the_same_holds_for_a_file_with_a_journal() {
    let sim = reloading();
    let run = Run::on(&sim);
    let (input, out) = (run.file("in", alternating(120)), run.path("out"));
    let output = run.args([input]).args(["-j", "4"]).args(["-o".as_ref(), out.as_os_str()]).output().expect(0);
    let lines: Vec<Value> = String::from_utf8(output.file("out"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let wanted: Vec<String> = (1..=120).map(|number| format!("Echo: prompt {number}")).collect();
    assert_eq!(texts(&lines), wanted);
    let loads = sim.count("loads");
    assert!(loads <= LOADS_MAX, "{loads} loads for 120 lines");
}

/// A single line of a third model has its turn long before the others are through.
#[test]
fn a_single_line_of_another_model_is_not_starved() {
    let sim = reloading();
    let others = 2000;
    let head: String = (1..=20).map(|number| line(number, MODELS[0])).collect();
    let tail: String = (22..=others).map(|number| line(number, MODELS[number % 2])).collect();
    let mut live = Run::on(&sim).args(["--unordered", "-j", "4"]).start();
    live.feed_in_background((head + &line(21, MODELS[2]) + &tail).into_bytes());
    common::wait_for("the single line", || {
        let by_model = sim.stats()["completions_by_model"].clone();
        (by_model[MODELS[2]] == 1 || live.has_ended()).then_some(())
    });
    let answered = sim.count("ok");
    assert!(answered < 1200, "{answered} lines went before it");
}

/// With an endpoint for each of them nothing is loaded twice.
#[test]
fn models_settle_on_endpoints_of_their_own() {
    let sims = [reloading(), reloading()];
    Run::on_all(&sims).args(["--fixed", "-j", "8"]).input(alternating(200)).output().expect(0).answers_prompts(200);
    let loads = sims[0].count("loads") + sims[1].count("loads");
    assert!(loads <= LOADS_MAX, "{loads} loads at two endpoints for 200 lines");
}
