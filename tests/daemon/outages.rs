//! A service that is away, that is not what it should be, or that knows no such model: files wait, or are told, and the
//! daemon stays.

use serde_json::json;

use crate::common::{Sim, prompt};
use crate::spool::{Daemon, Spool, answers, lines};

pub fn an_outage_is_waited_out_and_no_line_fails() {
    let spool = Spool::slow(30);
    let daemon = spool.start();
    spool.put("p.jsonl", lines("p", 40));
    spool.put("big.jsonl", lines("big", 100));
    spool.wait("some answers", || (spool.sim.count("ok") > 20).then_some(()));
    spool.sim.control(&json!({ "down_ms": 6000 }));
    // The service counts nothing while it is down: what the daemon says is all there is.
    let reason = crate::common::wait_for("a pause", || spool.status()?["paused"].as_str().map(str::to_owned));
    assert!(!reason.is_empty());
    spool.put("late.jsonl", lines("late", 2));
    let told = spool.told(&[]).expect(0).text();
    assert!(told.contains("paused"), "{told}");
    crate::common::wait_for("the results", || spool.has("p.out.jsonl").then_some(()));
    spool.wait_for_answers("p.out.jsonl", "p", 40);
    spool.wait_for_answers("big.out.jsonl", "big", 100);
    spool.wait_for_answers("late.out.jsonl", "late", 2);
    spool.wait_status("the end of the pause", |status| status["paused"].is_null().then_some(()));
    let repeats = spool.sim.count("repeats");
    assert!(repeats <= 8, "{repeats} repeats: what was in flight, and a probe or two");
    assert_eq!(spool.sim.count("repeats_after_ok"), 0);
    daemon.stop().expect(0);
}

/// Started before its service.
#[test]
fn a_service_that_is_not_there_yet_is_waited_for() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let spool = Spool::new();
    let base = format!("http://127.0.0.1:{port}/api");
    let daemon = Daemon::watching(spool.daemon_at(&base));
    spool.put("p.jsonl", lines("p", 3));
    spool.put("big.jsonl", lines("big", 80));
    spool.wait_paused();
    let late = Sim::start(&["--regime", "openai", "--no-usage", "--port", &port.to_string()]);
    spool.wait_for_answers("p.out.jsonl", "p", 3);
    spool.wait_for_answers("big.out.jsonl", "big", 80);
    assert_eq!(late.count("repeats"), 0);
    daemon.stop().expect(0);
}

/// What a wrong URL answers: a method that is not allowed, a page. Pauses, for somebody may mend it; never ends.
pub fn a_service_that_is_none_pauses_and_never_ends_the_daemon() {
    let spools: Vec<Spool> = ["status=405", "html", "redirect=302:http://127.0.0.1:1/"]
        .iter()
        .map(|fault| Spool::with(&["--fault", fault]))
        .collect();
    let daemons: Vec<Daemon> = spools.iter().map(Spool::start).collect();
    for spool in &spools {
        spool.put("p.jsonl", lines("p", 3));
        spool.put("big.jsonl", lines("big", 70));
    }
    for spool in &spools {
        spool.wait_paused();
    }
    for spool in &spools {
        assert!(!spool.has("p.out.jsonl") && !spool.has("big.out.jsonl"), "{:?}", spool.names());
        spool.sim.control(&json!({ "faults": [] }));
    }
    for (spool, daemon) in spools.iter().zip(daemons) {
        spool.wait_for_answers("p.out.jsonl", "p", 3);
        spool.wait_for_answers("big.out.jsonl", "big", 70);
        spool.wait_status("the end of the pause", |status| status["paused"].is_null().then_some(()));
        daemon.stop().expect(0);
    }
}

#[test]
fn a_model_that_nobody_knows_is_one_files_trouble() {
    let spool = Spool::slow(20);
    let daemon = spool.start();
    let unknown = |count: usize| -> String {
        (0..count)
            .map(|number| json!({ "prompt": format!("unknown {number}"), "model": "nobody" }).to_string() + "\n")
            .collect()
    };
    spool.put("unknown.jsonl", unknown(20));
    spool.put("unknown-large.jsonl", unknown(70));
    spool.put("p.jsonl", lines("p", 20));
    spool.put("big.jsonl", lines("big", 80));
    spool.put("mixed.jsonl", unknown(1) + &lines("mixed", 3));
    spool.wait_for_answers("p.out.jsonl", "p", 20);
    spool.wait_for_answers("big.out.jsonl", "big", 80);
    let mut mixed = vec!["model_not_found".to_owned()];
    mixed.extend(answers("mixed", 3));
    spool.wait_for_contents("mixed.out.jsonl", &mixed);
    spool.wait_for_contents("unknown.out.jsonl", &vec!["model_not_found".to_owned(); 20]);
    spool.wait_for_contents("unknown-large.out.jsonl", &vec!["model_not_found".to_owned(); 70]);
    assert!(spool.status().unwrap()["paused"].is_null());
    spool.pass("last");
    daemon.stop().expect(0);
}

/// A service that fails now and then: everything is answered in the end.
#[test]
fn a_service_that_fails_now_and_then_answers_everything_in_the_end() {
    let spool = Spool::with(&["--fault", "status=500@0.2", "--fault", "reset@0.05", "--fault", "eof@0.05"]);
    let _daemon = spool.start();
    spool.put("p.jsonl", lines("p", 40));
    spool.put("big.jsonl", lines("big", 90));
    spool.put("sick.jsonl", prompt("sim:status=500") + &lines("sick", 2));
    spool.wait_for_answers("p.out.jsonl", "p", 40);
    spool.wait_for_answers("big.out.jsonl", "big", 90);
    let status = spool.wait_state("sick.jsonl", "failed");
    assert_eq!((&status["failed"], &status["total"]), (&json!(1), &json!(3)), "{status}");
}
