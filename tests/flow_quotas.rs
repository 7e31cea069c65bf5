//! Quotas that are told are kept: the service never has to refuse. Its own words about what is left are kept as well.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Output, Run, Sim, prompt, prompts};
use serde_json::Value;

/// A service with these quotas. They are a little wider than what its clients are told, for a machine that is busy.
fn limited(quotas: &[&str], flags: &[&str]) -> Sim {
    let quotas = quotas.iter().flat_map(|quota| ["--quota", quota]);
    Sim::start(&quotas.chain(flags.iter().copied()).collect::<Vec<_>>())
}

#[track_caller]
fn none_refused(sim: &Sim, output: &Output) {
    assert_eq!(sim.stats()["all"]["over_quota"], 0, "{}\n{}", sim.stats(), output.stderr);
}

fn over_quota(sim: &Sim) -> u64 {
    sim.stats()["all"]["over_quota"].as_u64().unwrap()
}

#[test]
fn a_rate_is_kept_and_used_up() {
    for fixed in [&[][..], &["--fixed"]] {
        let sim = limited(&["20/400ms"], &[]);
        let run = Run::on(&sim).args(["--rate", "20/500ms", "-j", "32"]).args(fixed);
        let output = run.input(prompts(90)).output().expect(0);
        output.answers_prompts(90);
        none_refused(&sim, &output);
        // Four windows have to pass, and bursts need no even spreading between them.
        assert!(output.waited > Duration::from_millis(1990) && output.waited < Duration::from_secs(4), "{output}");
    }
}

/// Without the flag the same service has to refuse: it is the flag that keeps the peace, and refusals cost no line.
#[test]
fn without_a_rate_the_service_refuses_and_no_line_is_lost() {
    let sim = limited(&["20/400ms"], &[]);
    Run::on(&sim).input(prompts(28)).output().expect(0).answers_prompts(28);
    assert!(over_quota(&sim) > 0);
}

#[test]
fn rates_hold_together() {
    let sim = limited(&["10/200ms", "24/900ms"], &[]);
    let run = Run::on(&sim).args(["--rate", "10/300ms", "--rate", "24/1s", "-j", "32"]);
    let output = run.input(prompts(60)).output().expect(0);
    output.answers_prompts(60);
    none_refused(&sim, &output);
    assert!(output.waited > Duration::from_millis(1990), "two windows of 24: {:?}", output.waited);
}

#[test]
fn attempts_that_failed_count_like_all_others() {
    let sim = limited(&["12/200ms"], &["--fault", "status=500@0.3"]);
    let run = Run::on(&sim).args(["--rate", "12/300ms", "-j", "32"]);
    let output = run.input(prompts(50)).output().expect(0);
    output.answers_prompts(50);
    assert!(sim.count("requests") > 55, "{} requests", sim.count("requests"));
    none_refused(&sim, &output);
}

#[test]
fn each_endpoint_has_the_rate_to_itself() {
    let sims = [limited(&["12/300ms"], &[]), limited(&["12/300ms"], &[])];
    let run = Run::on_all(&sims).args(["--rate", "12/400ms", "-j", "32"]);
    let output = run.input(prompts(60)).output().expect(0);
    output.answers_prompts(60);
    sims.iter().for_each(|sim| none_refused(sim, &output));
    let oks = [sims[0].count("ok"), sims[1].count("ok")];
    assert!(oks.iter().all(|ok| (24..=36).contains(ok)), "{oks:?}: three windows of both, not six of one");
}

/// Where windows slide, more is left at the end of a wait than the service has said, but not all of it.
#[test]
fn what_the_service_says_is_left_keeps_most_refusals_away() {
    let refusals = |flags: &[&str]| {
        let sim = limited(&["15/400ms"], flags);
        Run::on(&sim).args(["-j", "8"]).input(prompts(22)).output().expect(0).answers_prompts(22);
        over_quota(&sim)
    };
    let (told, untold) = (refusals(&["--rate-headers", "--latency", "fixed:5"]), refusals(&["--latency", "fixed:5"]));
    assert!(2 * told < untold, "{told} refusals where it says what is left, {untold} where not");
}

/// The time at which each request came, in seconds since the first.
fn arrivals(sim: &Sim) -> Vec<f64> {
    let mut times: Vec<u64> = sim.requests().iter().map(|request| request["arrived_us"].as_u64().unwrap()).collect();
    times.sort_unstable();
    times.iter().map(|time| (time - times[0]) as f64 / 1e6).collect()
}

/// A minute's window cannot be waited out here: what goes in its first part is what the budget lets pass.
#[test]
fn tokens_of_a_minute_bound_what_is_sent() {
    let words = |count: usize| vec!["word"; count].join(" ");
    let input: String = (0..40).map(|number| prompt(&format!("{number} {}", words(99)))).collect();
    let sim = Sim::start(&[]);
    // A line costs 100 tokens and as many for its echo, and one more.
    let run = Run::on(&sim).args(["--tokens-per-min", "2500", "-j", "1", "--deadline", "4s", "--drain-timeout", "1s"]);
    let output = run.input(input.clone()).output().expect(75);
    let sent = sim.count("requests");
    assert!((6..=12).contains(&sent), "{sent} requests of 201 tokens under 2,500 tokens a minute");
    let tokens: u64 = output.lines().iter().filter_map(|line| line["usage"]["total_tokens"].as_u64()).sum();
    assert!(tokens <= 2500, "{tokens}");
    sim.reset();
    Run::on(&sim).args(["-j", "1"]).input(input).output().expect(0);
    assert_eq!(sim.count("requests"), 40);
}

/// One that costs more than the whole budget goes all the same, alone.
#[test]
fn a_line_that_is_larger_than_the_budget_of_tokens_is_sent() {
    let sim = Sim::start(&[]);
    let line = prompt(&vec!["word"; 3000].join(" "));
    let mut live = Run::on(&sim).args(["--tokens-per-min", "100"]).start();
    live.feed(line.clone() + &line);
    live.wait_for_lines(1);
    assert_eq!(sim.count("requests"), 1, "the other one waits until the first no longer counts");
}

#[test]
fn a_rate_makes_bursts_and_no_gaps() {
    let sim = limited(&["20/400ms"], &[]);
    let run = Run::on(&sim).args(["--rate", "20/500ms", "-j", "32", "--fixed"]);
    run.input(prompts(55)).output().expect(0);
    let times = arrivals(&sim);
    assert!(times[19] < 0.4, "the first burst takes {} s", times[19]);
    for (first, next) in [(0, 20), (20, 40)] {
        let gap = times[next] - times[first];
        assert!((0.4..1.2).contains(&gap), "the window slides after {gap} s");
    }
}

#[test]
fn a_rate_that_is_none_is_misuse_and_says_what_to_write() {
    let bad = ["60", "60/", "/min", "many/min", "0/min", "-5/min", "60/fortnight", "60/0s", "1.5/s", "60/min/h", ""];
    for rate in bad {
        let run = Run::at("http://127.0.0.1:1/api").args([format!("--rate={rate}")]);
        let output = run.input(prompts(1)).output().expect(64);
        let is_told = ["60/min", "must be"].iter().any(|way| output.stderr.contains(way));
        assert!(output.stderr.contains("--rate") && is_told, "{rate:?}: {output}");
    }
    for tokens in ["0", "-1", "many", ""] {
        let run = Run::at("http://127.0.0.1:1/api").args([format!("--tokens-per-min={tokens}")]);
        let output = run.input(prompts(1)).output().expect(64);
        assert!(output.stderr.contains("--tokens-per-min"), "{tokens:?}: {output}");
    }
}

#[test]
fn rates_are_read_as_people_write_them() {
    for rate in ["60/min", "1000/h", "2000/3h", "10/s", "5000/day", "60/500ms", "100/1h30m", "60/minute"] {
        let sim = Sim::start(&[]);
        let output = Run::on(&sim).args(["--rate", rate]).input(prompts(3)).output().expect(0);
        assert_eq!(output.codes(), [""; 3], "{rate}");
    }
}

/// A wait for a quota is no trouble: nothing is retried, nobody is warned.
#[test]
fn a_quota_that_is_waited_for_is_no_trouble() {
    let sim = Sim::start(&[]);
    let run = Run::on(&sim).args(["--rate", "10/400ms"]);
    let meta = run.path("meta");
    let output = run.args(["--meta".as_ref(), meta.as_os_str()]).input(prompts(25)).output().expect(0);
    let meta: Value = serde_json::from_slice(&output.file("meta")).unwrap();
    assert_eq!(meta["retries"], 0, "{meta}");
    assert!(!output.stderr.contains("out") && !output.stderr.contains("paus"), "{output}");
    assert!(output.lines().iter().all(|line| line["attempts"] == 1));
}

/// The last line uses the quota up; nothing is left to be sent, and so nothing to wait for.
#[test]
fn a_run_ends_with_its_last_answer() {
    let sim = Sim::start(&[]);
    for (quota, lines) in [(["--rate", "20/20s"], 20), (["--tokens-per-min", "4"], 1)] {
        let output = Run::on(&sim).args(quota).input(prompts(lines)).output().expect(0);
        output.answers_prompts(lines);
        assert!(output.waited < Duration::from_secs(10), "{quota:?}: {:?}", output.waited);
    }
}
