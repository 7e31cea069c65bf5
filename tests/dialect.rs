//! What the service receives: for Open WebUI sampling fields are mirrored into `params`; everybody else gets the line.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Run, Sim, prompt};
use serde_json::{Value, json};

fn received(flags: &[&str], args: &[&str], line: &str) -> Value {
    let sim = Sim::start(flags);
    Run::on(&sim).args(args).input(format!("{line}\n")).output().expect(0);
    sim.requests().remove(0)
}

const SAMPLING: &str = r#"{"messages":[{"role":"user","content":"hi"}],"model":"llama3.1:latest","temperature":0,"seed":12345678901234567890,"top_p":0.10,"max_tokens":5,"stop":["\n"]}"#;

#[test]
fn open_webui_gets_sampling_fields_in_both_places_and_they_reach_the_model() {
    for regime in ["0.6", "0.12"] {
        let request = received(&["--regime", regime], &[], SAMPLING);
        for (field, value) in [("temperature", json!(0)), ("top_p", json!(0.10)), ("max_tokens", json!(5))] {
            assert_eq!(request["body"][field], value, "{regime}");
            assert_eq!(request["body"]["params"][field], value, "{regime}");
        }
        let reached = &request["reached"];
        assert_eq!((&reached["temperature"], &reached["num_predict"]), (&json!(0), &json!(5)), "{regime}: {request}");
        assert_eq!(reached["seed"].to_string(), "12345678901234567890", "{regime}");
        assert_eq!(reached["stop"], json!(["\n"]));
    }
}

#[test]
fn without_the_mirror_they_would_not_reach_it() {
    let request = received(&["--regime", "0.6"], &["--dialect", "openai"], SAMPLING);
    assert!(request["reached"].get("temperature").is_none() && request["reached"].get("seed").is_none(), "{request}");
    assert!(request["body"].get("params").is_none());
}

#[test]
fn what_the_line_put_into_params_wins() {
    let line = r#"{"messages":[{"role":"user","content":"hi"}],"params":{"temperature":0.9,"mirostat":1},"temperature":0,"seed":4}"#;
    let request = received(&[], &["-p", "top_k=3"], line);
    assert_eq!(request["body"]["params"], json!({"temperature":0.9,"mirostat":1,"seed":4,"top_k":3}));
    assert_eq!((&request["body"]["temperature"], &request["body"]["top_k"]), (&json!(0), &json!(3)));
}

#[test]
fn defaults_from_flags_are_mirrored_as_well_and_a_batch_line_too() {
    let request = received(&[], &["-p", "temperature=0.25"], r#""bare""#);
    assert_eq!(request["reached"]["temperature"], 0.25);
    let line = r#"{"custom_id":"a","body":{"messages":[{"role":"user","content":"hi"}],"seed":6,"id":"x"}}"#;
    let request = received(&[], &[], line);
    assert_eq!(request["reached"]["seed"], 6);
    assert!(request["body"].get("custom_id").is_none() && request["body"].get("id").is_none(), "{request}");
}

#[test]
fn a_line_without_sampling_fields_gets_no_params() {
    let request = received(&[], &[], r#"{"messages":[{"role":"user","content":"hi"}],"model":"llama3.1:latest"}"#);
    assert_eq!(
        request["body"],
        json!({"messages":[{"role":"user","content":"hi"}],"model":"llama3.1:latest","stream":true})
    );
}

#[test]
fn openai_gets_the_line_as_it_is() {
    let request = received(&["--regime", "openai"], &[], SAMPLING);
    let mut expected: Value = serde_json::from_str(SAMPLING).unwrap();
    expected["stream"] = json!(true);
    expected["stream_options"] = json!({"include_usage": true});
    assert_eq!(request["body"], expected);
}

#[test]
fn a_line_decides_itself_whether_its_reply_is_streamed() {
    let asked = |args: &[&str], line: &str| received(&["--regime", "openai"], args, line)["body"]["stream"].clone();
    let whole = r#"{"messages":[{"role":"user","content":"hi"}],"stream":false}"#;
    let streamed = r#"{"messages":[{"role":"user","content":"hi"}],"stream":true}"#;
    assert_ne!(asked(&[], whole), true);
    assert_eq!(asked(&[], streamed), true);
    assert_ne!(asked(&["--upstream", "whole"], r#""bare""#), true);
}

#[test]
fn fields_of_a_browser_session_are_refused_unless_the_dialect_is_openai() {
    for regime in ["0.6", "0.12"] {
        let sim = Sim::start(&["--regime", regime]);
        let lines = concat!(
            r#"{"messages":[{"role":"user","content":"a"}],"chat_id":"c","session_id":"s","id":"i"}"#,
            "\n",
            r#"{"messages":[{"role":"user","content":"b"}],"session_id":"s","custom_id":7}"#,
            "\n",
            r#"{"messages":[{"role":"user","content":"c"}]}"#,
            "\n",
        );
        let output = Run::on(&sim).input(lines).output().expect(1);
        assert_eq!(output.codes(), ["background_task", "background_task", ""]);
        assert_eq!((&output.lines()[0]["id"], &output.lines()[1]["custom_id"]), (&json!("i"), &json!(7)));
        assert_eq!(sim.count("requests"), 1);
    }
    let line = r#"{"messages":[{"role":"user","content":"a"}],"chat_id":"c","session_id":"s"}"#;
    let request = received(&["--regime", "openai"], &[], line);
    assert_eq!((&request["body"]["chat_id"], &request["body"]["session_id"]), (&json!("c"), &json!("s")));
}

#[test]
fn the_version_is_asked_once_and_not_at_all_when_the_dialect_is_given() {
    let sim = Sim::start(&[]);
    Run::on(&sim).input(common::prompts(20)).output().expect(0);
    assert_eq!(sim.count("version_requests"), 1);
    Run::on(&sim).args(["--dialect", "open-webui"]).input(prompt("{\"seed\":1}")).output().expect(0);
    assert_eq!(sim.count("version_requests"), 1);
}

#[test]
fn a_version_that_is_down_is_waited_for_and_never_decides() {
    let sim = Sim::start(&["--fault", "version-down"]);
    let mut live = Run::on(&sim).start();
    live.feed_and_close(format!("{SAMPLING}\n").into_bytes());
    sim.wait_for_count("version_requests", 4);
    assert_eq!(sim.count("requests"), 0);
    assert!(!live.has_ended());
    sim.control(&json!({"faults": []}));
    live.finish().expect(0);
    assert_eq!(sim.requests()[0]["reached"]["temperature"], 0);
}

#[test]
fn a_version_that_stays_down_ends_the_run_as_resumable() {
    let sim = Sim::start(&["--fault", "version-down"]);
    let output = Run::on(&sim).args(["--max-outage", "300ms"]).input("\"a\"\n").output().expect(75);
    assert!(output.stdout.is_empty() && output.stderr.contains("version"), "{output}");
    assert_eq!(sim.count("requests"), 0);
}

#[test]
fn a_page_in_the_place_of_the_version_means_another_service() {
    let request = received(&["--regime", "openai", "--fault", "version-html"], &[], SAMPLING);
    assert!(request["body"].get("params").is_none());
}
