//! Outages in the middle of a run cost no line, whatever face they have, and at however many endpoints.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{KEY, Live, Run, Sim, prompts, wait_for, write_private};
use serde_json::{Value, json};

/// A service whose answers take so many milliseconds, and its further flags.
fn slow(milliseconds: u64, flags: &[&str]) -> Sim {
    let latency = format!("fixed:{milliseconds}");
    Sim::start(&["--latency", &latency].iter().chain(flags).copied().collect::<Vec<_>>())
}

/// A run that has had some answers.
fn under_way(run: Run, sims: &[&Sim], count: usize) -> Live {
    let mut live = run.start();
    live.feed_and_close(prompts(count).into_bytes());
    sims.iter().for_each(|sim| sim.wait_for_count("ok", 10));
    live
}

#[test]
fn an_outage_of_every_kind_costs_no_line() {
    let kinds = [
        json!({ "down_ms": 300 }),
        json!({ "down_ms": 300, "down_status": 503 }),
        json!({ "down_ms": 300, "down_status": 502 }),
        json!({ "down_ms": 300, "down_status": 200 }),
    ];
    let survives = |kind: &Value, args: &[&str]| {
        let sim = slow(15, &[]);
        let live = under_way(Run::on(&sim).args(args), &[&sim], 200);
        sim.control(kind);
        live.finish().expect(0).answers_prompts(200);
        let stats = sim.stats();
        assert_eq!(stats["repeats_after_ok"], 0, "{kind} {args:?}: {stats}");
        assert!(stats["pages"].as_u64().unwrap() < 100, "few probes: {kind} {args:?}: {stats}");
    };
    std::thread::scope(|scope| {
        for kind in &kinds {
            scope.spawn(|| survives(kind, &[]));
            scope.spawn(|| survives(kind, &["--fixed", "-j", "8"]));
        }
    });
}

#[test]
fn an_outage_of_all_endpoints_is_waited_out() {
    let sims = [slow(15, &[]), slow(15, &[])];
    let live = under_way(Run::on_all(&sims), &[&sims[0], &sims[1]], 300);
    sims.iter().for_each(|sim| sim.control(&json!({ "down_ms": 300, "down_status": 503 })));
    live.finish().expect(0).answers_prompts(300);
}

/// The answers come from the other one as soon as the first is out: nothing waits for its end.
#[test]
fn nothing_waits_for_an_endpoint_that_is_out() {
    let sims = [slow(15, &[]), slow(15, &[])];
    let live = under_way(Run::on_all(&sims), &[&sims[0], &sims[1]], 300);
    sims[0].control(&json!({ "down_ms": 60_000, "down_status": 503 }));
    let output = live.finish().expect(0);
    output.answers_prompts(300);
    assert!(output.waited < Duration::from_secs(20), "{:?}", output.waited);
    assert!(output.stderr.contains(sims[0].address()), "{output}");
}

/// One that asks for a while is left alone for that while, and the other one does the work.
#[test]
fn an_endpoint_that_asks_to_wait_is_left_alone() {
    let sims = [slow(5, &["--fault", "retry-after=429:3600,after=10"]), slow(5, &[])];
    let output = Run::on_all(&sims).input(prompts(150)).output().expect(0);
    output.answers_prompts(150);
    let refused = sims[0].count("requests") - sims[0].count("ok");
    assert!((1..=16).contains(&refused), "{refused} requests were refused");
    assert!(sims[0].count("ok") <= 10, "{}", sims[0].stats());
}

/// The service goes down and comes back with another key, as after a move.
#[test]
fn a_key_that_is_rotated_during_an_outage_is_read_again() {
    let sim = slow(15, &["--token", KEY]);
    let run = Run::on(&sim).without("ANVILGPT_API_KEY");
    let key = run.file("key", KEY);
    let mut live = under_way(run.args(["--api-key-file".as_ref(), key.as_os_str()]), &[&sim], 200);
    sim.control(&json!({ "tokens": ["sk-new"], "down_ms": 200, "down_status": 503 }));
    wait_for("a refusal", || (sim.count("auth_refused") > 0 || live.has_ended()).then_some(()));
    write_private(&key, b"sk-new");
    live.finish().expect(0).answers_prompts(200);
}

#[test]
fn failures_at_random_cost_no_line_at_several_endpoints() {
    let flags = ["--fault", "status=500@0.1", "--fault", "reset@0.05", "--fault", "status=503@0.05"];
    let sims = [slow(5, &flags), slow(5, &[&flags[..], &["--seed", "2"]].concat())];
    let run = Run::on_all(&sims);
    let meta = run.path("meta");
    let output = run.args(["--meta".as_ref(), meta.as_os_str()]).input(prompts(150)).output().expect(0);
    output.answers_prompts(150);
    let sent = sims[0].count("requests") + sims[1].count("requests");
    assert!(sent <= 225, "{sent} requests for 150 lines");
    let meta: Value = serde_json::from_slice(&output.file("meta")).unwrap();
    assert!(meta["retries"].as_u64().unwrap() > 0, "{meta}");
}

/// Every endpoint is out for good: the run ends as it does with one.
#[test]
fn an_outage_of_all_that_lasts_ends_the_run_and_names_it() {
    let sims = [slow(10, &[]), slow(10, &[])];
    let run = Run::on_all(&sims).args(["--max-outage", "300ms"]);
    let mut live = under_way(run, &[&sims[0], &sims[1]], 400);
    sims.iter().for_each(|sim| sim.control(&json!({ "down_ms": 60_000, "down_status": 503 })));
    wait_for("the end", || live.has_ended().then_some(()));
    let output = live.finish().expect(75);
    assert!(output.codes().iter().all(String::is_empty), "no line fails by it: {output}");
    assert!(output.stderr.contains("no line was answered for 0.3s"), "{output}");
}
