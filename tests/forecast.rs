//! The forecast: how long a run takes under its quotas, told before and during the run, and never waited for.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::desk::Desk;
use common::{Live, Output, Run, Signal, prompts};
use serde_json::Value;

#[track_caller]
fn says(output: &Output, text: &str) {
    assert!(output.stderr.contains(text), "{text:?} is not said: {output}");
}

fn run(desk: &Desk, args: &[&str]) -> Run {
    desk.run().args([desk.path("in")]).args(args)
}

/// Waits until a run has said something, then ends it.
#[track_caller]
fn ends_after(mut live: Live, text: &str) -> Output {
    live.wait_for_stderr(text);
    live.signal(Signal::TERM);
    live.finish()
}

#[test]
fn the_time_that_quotas_take_is_foretold_and_kept() {
    let desk = Desk::new();
    desk.write("in", prompts(40) + "\n\n");
    let meta = desk.arg("meta");
    let output = run(&desk, &["--rate", "10/500ms", "--meta", &meta]).output().expect(0);
    says(&output, "anvil-filter: 40 lines at 10 per 500 ms: 2 s\n");
    let meta: Value = serde_json::from_str(&desk.text("meta")).unwrap();
    let (foretold, took) = (meta["forecast_seconds"].as_f64().unwrap(), meta["seconds"].as_f64().unwrap());
    assert!((1.5..1.7).contains(&foretold), "{foretold}");
    assert!(took > foretold * 0.95 && took < foretold + 2.0, "{took} of {foretold}");
}

#[test]
fn what_ends_before_the_lines_do_is_said_at_once() {
    let desk = Desk::new();
    desk.write("in", prompts(2000));
    let live = run(&desk, &["--rate", "60/min", "--rate", "1000/h", "--deadline", "30m"]).start();
    let output = ends_after(live, "2,000 lines at 1,000 per h: 1 h");
    says(&output, "; the deadline comes in 30 min (about 1,000 of them before that)\n");
}

#[test]
fn a_token_that_expires_first_is_said() {
    let desk = Desk::new();
    desk.write("in", prompts(2000));
    let expiry = SystemTime::now() + Duration::from_secs(60 * 3600 + 30);
    let seconds = expiry.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let token = format!("eyJhbGciOiJIUzI1NiJ9.{}.c2ln", URL_SAFE_NO_PAD.encode(format!("{{\"exp\":{seconds}}}")));
    let far = run(&desk, &["--rate", "100/h"]).env("ANVILGPT_API_KEY", &token).start();
    let output = ends_after(far, "2,000 lines at 100 per h: 19 h");
    assert!(!output.stderr.contains("the token"), "it lives long enough: {output}");
    let near = run(&desk, &["--rate", "20/h"]).env("ANVILGPT_API_KEY", &token).start();
    let output = ends_after(near, "2,000 lines at 20 per h: ");
    says(&output, "; the token expires in 2.5 days (about ");
}

#[test]
fn a_job_that_ends_first_is_said() {
    let desk = Desk::new();
    desk.write("in", prompts(2000));
    let end = (SystemTime::now() + Duration::from_secs(6_915)).duration_since(UNIX_EPOCH).unwrap().as_secs();
    let run = || run(&desk, &["--rate", "100/h"]);
    let output = ends_after(run().env("SLURM_JOB_END_TIME", end.to_string()).start(), "2,000 lines at 100 per h: 19 h");
    says(&output, "; the walltime ends in 1 h 55 min (about 200 of them before that)\n");
    let output = ends_after(run().env("SLURM_JOB_END_TIME", "soon").start(), "2,000 lines at 100 per h: 19 h");
    assert!(!output.stderr.contains("walltime"), "{output}");
}

#[test]
fn without_quotas_only_the_deadline_is_known_until_lines_were_answered() {
    let desk = Desk::with(&["--latency", "fixed:200"]);
    desk.write("in", prompts(3000));
    let live = run(&desk, &["--deadline", "1m", "-j", "2"]).start();
    let output = ends_after(live, " lines at ");
    says(&output, "anvil-filter: 3,000 lines; the deadline comes in 1 min\n");
    let speed = output.stderr.split(" lines at ").nth(1).unwrap();
    let speed: f64 = speed.split(" per s").next().unwrap().parse().unwrap();
    assert!(speed > 4.0 && speed <= 10.0, "{speed}: {output}");
    says(&output, " of them before that)\n");
}

#[test]
fn a_model_that_must_be_loaded_first_is_no_reason_to_warn() {
    let desk = Desk::with(&["--latency", "fixed:50", "--cold-load", "4000"]);
    desk.write("in", prompts(600));
    // A mean with the first answers in it would say 60 s and more.
    let args = ["--deadline", "50s", "-j", "4", "--drain-timeout", "1s"];
    let output = run(&desk, &args).output().expect(0);
    says(&output, "anvil-filter: 600 lines; the deadline comes in 50 s\n");
    assert!(!output.stderr.contains(" lines at "), "{output}");
}

#[test]
fn what_fits_is_not_said_twice() {
    let desk = Desk::new();
    desk.write("in", prompts(60));
    let output = run(&desk, &["--deadline", "1h", "-j", "2"]).args(["--rate", "30/400ms"]).output().expect(0);
    says(&output, "60 lines at 30 per 400 ms: ");
    assert_eq!(output.stderr.matches(" lines at ").count(), 1, "{output}");
}

#[test]
fn a_quota_of_tokens_is_foretold_once_the_tokens_of_a_line_are_known() {
    let desk = Desk::of(common::Sim::start(&["--regime", "openai"]));
    desk.write("in", prompts(1000));
    let live = run(&desk, &["--tokens-per-min", "2000"]).start();
    let output = ends_after(live, " at 2,000 tokens per min: ");
    assert_eq!(output.stderr.matches(" per min: ").count(), 1, "{output}");
    assert!(desk.sim.count("ok") >= 20, "{output}");
}

#[test]
fn what_a_journal_answers_is_not_left() {
    let desk = Desk::new();
    desk.write("in", prompts(30));
    desk.to_file().output().expect(0);
    desk.write("in", prompts(70));
    let output = desk.to_file().args(["--rate", "20/400ms"]).output().expect(0);
    says(&output, "anvil-filter: 40 lines at 20 per 400 ms: ");
    let again = desk.to_file().args(["--rate", "20/400ms"]).output().expect(0);
    assert!(!again.stderr.contains(" lines at "), "{again}");
}

#[test]
fn what_an_earlier_run_sent_counts_against_the_quota() {
    let desk = Desk::new();
    desk.write("in", prompts(20));
    desk.to_file().args(["--rate", "30/h"]).output().expect(0);
    desk.write("in", prompts(50));
    // Ten of them fit into what is left of the hour.
    let output = ends_after(desk.to_file().args(["--rate", "30/h"]).start(), "30 lines at 30 per h: 1 h\n");
    assert!(desk.sim.count("requests") <= 30, "{output}");
}

#[test]
fn a_shard_counts_its_own_lines() {
    let desk = Desk::new();
    desk.write("in", prompts(90));
    let output = run(&desk, &["--shard", "1/3", "--rate", "10/300ms"]).output().expect(0);
    says(&output, "anvil-filter: 30 lines at 10 per 300 ms: ");
}

#[test]
fn two_endpoints_take_half_the_time() {
    let (one, two) = (Desk::new(), Desk::new());
    one.write("in", prompts(80));
    let run = run(&one, &["--base-url", &two.sim.base(), "--api-key-file"]);
    let key = run.file("key", common::KEY);
    let output = run.args([key]).args(["--rate", "10/400ms"]).output().expect(0);
    says(&output, "anvil-filter: 80 lines at 10 per 400 ms at each of 2 endpoints: 1 s\n");
}

#[test]
fn a_pipe_quiet_and_what_has_no_bounds_say_nothing() {
    let desk = Desk::new();
    let bounds = ["--rate", "10/300ms", "--deadline", "1h"];
    let piped = desk.run().args(bounds).input(prompts(30)).output().expect(0);
    desk.write("in", prompts(30));
    let quiet = run(&desk, &bounds).args(["-q"]).output().expect(0);
    let free = run(&desk, &[]).output().expect(0);
    for output in [piped, quiet, free] {
        assert!(!output.stderr.contains("30 lines at") && !output.stderr.contains("30 lines;"), "{output}");
    }
}
