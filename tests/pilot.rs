//! `--pilot`: a few lines are tried, what they say of all is told, and what they cost is not paid again.

#![allow(clippy::unwrap_used)]

mod common;

use common::desk::{Desk, codes, numbers, timeless};
use common::{Output, Run, Sim, prompt, prompts};
use serde_json::Value;

/// A desk whose service counts tokens.
fn counting_desk() -> Desk {
    Desk::of(Sim::start(&["--regime", "openai"]))
}

fn pilot(desk: &Desk, lines: &str) -> Run {
    desk.run().args([desk.path("in")]).args(["--pilot", lines])
}

#[track_caller]
fn says(output: &Output, text: &str) {
    assert!(output.stderr.contains(text), "{text:?} is not said: {output}");
}

#[test]
fn the_first_the_last_and_lines_between_are_sent_and_nothing_else() {
    let desk = counting_desk();
    desk.write("in", prompts(100));
    let (sent, output) = desk.sent(|| pilot(&desk, "4").output().expect(0));
    assert_eq!(numbers(&output.lines()), [1, 34, 67, 100]);
    let mut wanted = [1, 34, 67, 100].map(|number| format!("prompt {number}")).to_vec();
    wanted.sort();
    assert_eq!(common::desk::sorted(sent), wanted);
    says(&output, "anvil-filter: pilot: 4 of 100 lines: 4 answered");
    says(&output, "anvil-filter: a line takes about ");
    // Each prompt has 2 words, each answer 3.
    says(&output, "2 tokens of the prompt and 3 of the answer\nanvil-filter: all 100 lines: about 500 tokens");
    says(&output, "anvil-filter: the other 96 at ");
}

#[test]
fn blank_and_bad_lines_are_no_samples() {
    let desk = counting_desk();
    desk.write("in", format!("\n{{bad\n{}\n   \nworse\n", prompts(9)));
    let output = pilot(&desk, "3").output().expect(0);
    assert_eq!((numbers(&output.lines()), codes(&output.lines())), (vec![3, 7, 11], vec![String::new(); 3]));
    says(&output, "pilot: 3 of 9 lines");
    says(&output, "2 lines are left out, which cannot be sent");
}

#[test]
fn more_than_there_are_is_all_of_them_and_no_line_is_no_error() {
    let desk = counting_desk();
    desk.write("in", prompts(3));
    let output = pilot(&desk, "20").output().expect(0);
    assert_eq!(numbers(&output.lines()), [1, 2, 3]);
    says(&output, "pilot: 3 of 3 lines");
    assert!(!output.stderr.contains("the other"), "{output}");
    desk.write("in", "\n\n");
    says(&pilot(&desk, "20").output().expect(0), "pilot: 0 of 0 lines");
}

#[test]
fn lines_of_which_none_can_be_sent_are_an_error() {
    let desk = counting_desk();
    desk.write("in", "bad\nworse\n");
    let output = desk.nothing_sent(|| pilot(&desk, "2").output().expect(65));
    says(&output, "none of the 2 lines can be sent");
    desk.write("in", prompts(2));
    let run = Run::bare().env("ANVILGPT_API_KEY", common::KEY);
    let output = run.args(["--base-url", &desk.sim.base(), "--pilot", "1", &desk.arg("in")]).output().expect(78);
    says(&output, "no model");
    assert_eq!(desk.sim.count("requests"), 0);
}

#[test]
fn a_failed_sample_is_the_status_and_does_not_speak_for_the_others() {
    let desk = counting_desk();
    let lines = prompt("sim:status=400 weak") + &prompts(4);
    desk.write("in", lines);
    let failed = desk.arg("failed");
    let output = pilot(&desk, "2").args(["--failed", &failed]).output().expect(1);
    assert_eq!(numbers(&output.lines()), [1, 5]);
    says(&output, "pilot: 2 of 5 lines: 1 answered, 1 failed");
    says(&output, "2 tokens of the prompt and 3 of the answer");
    assert_eq!(desk.text("failed"), prompt("sim:status=400 weak"));
    let output = pilot(&desk, "1").output().expect(1);
    assert!(!output.stderr.contains("a line takes"), "{output}");
}

#[test]
fn a_pipe_is_refused_before_anything_is_sent() {
    let desk = counting_desk();
    let output = desk.nothing_sent(|| desk.run().args(["--pilot", "2"]).input(prompts(9)).output().expect(64));
    says(&output, "--pilot reads its input twice");
    says(&output, "write the lines into a file first");
    desk.write("in", prompts(9));
    let redirected = std::fs::File::open(desk.path("in")).unwrap();
    let output = desk.run().args(["--pilot", "2"]).stdin(redirected).output().expect(0);
    assert_eq!(numbers(&output.lines()), [1, 9]);
}

#[test]
fn what_an_output_run_tried_is_not_paid_again_and_makes_no_file() {
    let desk = counting_desk();
    let input = prompts(40);
    desk.write("in", &input);
    let output = desk.to_file().args(["--pilot", "5", "--discard-journal"]).output().expect(0);
    assert!(output.stdout.is_empty() && !desk.has("out") && desk.has("out.journal"), "{:?}: {output}", desk.names());
    assert_eq!(desk.sim.count("requests"), 5);
    says(&output, "pilot: 5 of 40 lines");
    let again = desk.nothing_sent(|| desk.to_file().args(["--pilot", "5"]).output().expect(0));
    says(&again, "5 of them from the journal");
    says(&again, "2 tokens of the prompt and 3 of the answer");
    let (sent, output) = desk.sent(|| desk.to_file().output().expect(0));
    assert_eq!(sent.len(), 35, "{output}");
    assert_eq!(desk.sim.count("repeats"), 0);
    assert_eq!(timeless(&desk.text("out")), desk.plain(&input, &[]));
}

#[test]
fn a_pilot_leaves_a_complete_output_alone() {
    let desk = counting_desk();
    desk.write("in", prompts(12));
    desk.to_file().output().expect(0);
    let file = desk.identity("out");
    desk.nothing_sent(|| desk.to_file().args(["--pilot", "3"]).output().expect(0));
    assert!(desk.identity("out") == file, "it was written again");
    let again = desk.nothing_sent(|| desk.to_file().output().expect(0));
    says(&again, "already complete");
    // What a pilot adds is not in the file; the next run of all lines makes it whole.
    desk.write("in", prompts(24));
    desk.to_file().args(["--pilot", "2"]).output().expect(0);
    assert!(desk.identity("out") == file, "it was written again");
    desk.to_file().output().expect(0);
    assert_eq!(desk.lines("out").len(), 24);
}

#[test]
fn with_a_journal_the_samples_go_to_stdout_each_time() {
    let desk = counting_desk();
    desk.write("in", prompts(10));
    let run = || desk.journaled().args([desk.path("in")]);
    let first = run().args(["--pilot", "2"]).output().expect(0);
    let again = desk.nothing_sent(|| run().args(["--pilot", "2"]).output().expect(0));
    assert_eq!((numbers(&first.lines()), first.text()), (vec![1, 10], again.text()));
    let (sent, output) = desk.sent(|| run().output().expect(0));
    assert_eq!((sent.len(), numbers(&output.lines())), (8, (1..=10).collect()));
}

#[test]
fn of_equal_lines_one_is_tried_and_no_other_is_left_out() {
    let desk = counting_desk();
    desk.write("in", prompt("same").repeat(6));
    desk.to_file().args(["--pilot", "2"]).output().expect(0);
    desk.to_file().output().expect(0);
    assert_eq!((desk.sim.count("requests"), numbers(&desk.lines("out"))), (6, (1..=6).collect()));
}

#[test]
fn a_pilot_of_a_shard_tries_its_lines() {
    let desk = counting_desk();
    desk.write("in", prompts(30));
    let output = pilot(&desk, "3").args(["--shard", "2/3"]).output().expect(0);
    assert_eq!(numbers(&output.lines()), [2, 14, 29]);
    says(&output, "pilot: 3 of 10 lines");
}

/// What was tried must not pass for a shard that was done.
#[test]
fn a_pilot_of_a_shard_is_not_merged() {
    let desk = counting_desk();
    desk.write("in", prompts(30));
    let shard = |index: u64, args: &[&str]| {
        let (shard, name) = (format!("{index}/2"), desk.arg(&format!("s{index}")));
        let meta = format!("{name}.meta.json");
        let run = desk.run().args([desk.path("in")]).args(["--shard", &shard, "--meta", &meta]).args(args);
        let output = run.output().expect(0);
        std::fs::write(&name, &output.stdout).unwrap();
        name
    };
    let merge = |names: &[String]| Run::bare().args(["merge"]).args(names).output();
    let tried = [shard(1, &[]), shard(2, &["--pilot", "3"])];
    says(&merge(&tried).expect(65), "has not come to its end");
    let done = [shard(1, &[]), shard(2, &[])];
    assert_eq!(numbers(&merge(&done).expect(0).lines()), (1..=30).collect::<Vec<_>>());
    let journaled = |args: &[&str]| {
        let run = desk.run().args(["--shard", "2/2", "-o", &desk.arg("s"), &desk.arg("in")]);
        run.args(args).output().expect(0);
        [done[0].clone(), desk.arg("s.journal")]
    };
    says(&merge(&journaled(&["--pilot", "3"])).expect(65), "has not come to its end");
    merge(&journaled(&[])).expect(0);
}

#[test]
fn quotas_and_the_deadline_are_in_what_is_projected() {
    let desk = counting_desk();
    desk.write("in", prompts(100));
    let args = ["--rate", "20/h", "--deadline", "2h", "--meta", &desk.arg("meta")];
    let output = pilot(&desk, "10").args(args).output().expect(0);
    says(&output, "the other 90 at 20 per h: about 4 h");
    says(&output, "anvil-filter: 90 lines at 20 per h: 4 h");
    says(&output, "; the deadline comes in 2 h (about ");
    let meta: Value = serde_json::from_str(&desk.text("meta")).unwrap();
    let pilot = &meta["pilot"];
    assert_eq!((pilot["lines"].as_u64(), pilot["bad"].as_u64()), (Some(100), Some(0)));
    assert_eq!(pilot["projected"]["tokens"]["mean"].as_f64(), Some(500.0));
    let left = pilot["projected"]["seconds_left"]["mean"].as_f64().unwrap();
    assert!((14_400.0..15_500.0).contains(&left), "{left}");
}

#[test]
fn a_quota_of_tokens_is_counted_with_the_tokens_that_were_seen() {
    let desk = counting_desk();
    desk.write("in", prompts(10_000));
    // 5 tokens a line: 2,000 lines a minute, and the first 2,000 at once.
    let output = pilot(&desk, "5").args(["--tokens-per-min", "10000"]).output().expect(0);
    says(&output, "the other 9,995 at 10,000 tokens per min: about 4 min");
}

#[test]
fn quiet_is_quiet_and_the_projection_stays_in_the_summary() {
    let desk = counting_desk();
    desk.write("in", prompts(10));
    let output = pilot(&desk, "2").args(["-q", "--meta", &desk.arg("meta")]).output().expect(0);
    assert_eq!(output.stderr, "");
    let meta: Value = serde_json::from_str(&desk.text("meta")).unwrap();
    assert_eq!(meta["pilot"]["projected"]["tokens"]["mean"].as_f64(), Some(50.0));
    assert!(meta.get("forecast_seconds").is_none());
}
