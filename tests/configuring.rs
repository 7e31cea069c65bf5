//! Several endpoints in the small commands, and keys that a command prints.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::time::Duration;

use common::{KEY, MODEL, Output, Run, Sim, prompt};
use serde_json::json;

/// A key that must not be seen.
const CANARY: &str = "sk-canary-0123456789";

/// Two endpoints; the second has a model of its own beside the common one.
fn two() -> [Sim; 2] {
    [Sim::start(&["--model", MODEL, "--model", "here"]), Sim::start(&["--model", "there", "--model", MODEL])]
}

fn on_both(sims: &[Sim; 2]) -> Run {
    Run::bare().env("ANVILGPT_API_KEY", KEY).args(["--base-url", &sims[0].base(), "--base-url", &sims[1].base()])
}

fn prompts(count: usize) -> String {
    (0..count).map(|number| prompt(&format!("\"prompt\":\"p{number}\""))).collect()
}

/// A run whose key is what a command makes of a file.
fn with_command(run: Run, command: &str, file: &Path) -> Run {
    run.without("ANVILGPT_API_KEY").args(["--api-key-command".to_owned(), format!("{command} {}", file.display())])
}

#[test]
fn every_endpoint_is_checked_and_one_that_has_not_the_model_is_said() {
    let sims = two();
    let found = |model: &str| on_both(&sims).args(["check", "-m", model]).output();
    let text = found(MODEL).expect(0).text();
    for sim in &sims {
        assert!(text.contains(&format!("configuration  ok   {}\n", sim.base())), "{text}");
    }
    assert_eq!(
        (text.matches("completion     ok").count(), text.matches("dialect        ok").count()),
        (2, 2),
        "{text}"
    );
    let text = found("there").expect(0).text();
    assert!(text.contains("model          --   the service has no model there"), "{text}");
    assert_eq!(text.matches("completion     ok").count(), 1, "{text}");
    let output = found("nowhere").expect(78);
    assert!(output.stderr.contains(&sims[0].base()) && output.stderr.contains("no model nowhere"), "{output}");
}

#[test]
fn the_endpoint_that_fails_is_named() {
    let sims = two();
    let gone = "http://127.0.0.1:1/api";
    for command in ["check", "models"] {
        let output = on_both(&sims).args(["--base-url", gone, command]).output().expect(75);
        assert!(output.stderr.contains(&format!("{gone}: ")), "{output}");
        let alone = Run::bare().env("ANVILGPT_API_KEY", KEY).args(["--base-url", gone, command]).output().expect(75);
        assert!(!alone.stderr.contains(gone), "{alone}");
    }
}

#[test]
fn the_models_of_all_endpoints_are_listed_once() {
    let sims = two();
    let text = on_both(&sims).args(["models"]).output().expect(0).text();
    assert_eq!(text.lines().collect::<Vec<_>>(), [MODEL, "here", "there"]);
}

#[test]
fn a_dry_run_shows_the_first_request_in_each_dialect() {
    let run = Run::bare().args(["--dry-run", "-m", MODEL]);
    let file = run.file(
        "config.toml",
        "[[endpoint]]\nbase_url = 'https://a.example'\ndialect = 'openai'\n\
         [[endpoint]]\nbase_url = 'https://b.example'\ndialect = 'open-webui'\n\
         [[endpoint]]\nbase_url = 'https://c.example'\ndialect = 'openai'\n",
    );
    let text = run.args(["--config".as_ref(), file.as_os_str()]).input("{\"prompt\":\"p\",\"seed\":1}\n").output();
    let text = text.expect(0).text();
    let heads: Vec<&str> = text.lines().filter(|line| line.starts_with("first request body")).collect();
    assert_eq!(heads, ["first request body (openai):", "first request body (open-webui):"], "{text}");
    assert!(text.contains("stream_options") && text.contains("\"params\""), "{text}");
}

#[test]
fn the_summary_names_every_endpoint_where_there_are_several() {
    let sims = two();
    let settings = |output: Output| serde_json::from_slice::<serde_json::Value>(&output.file("meta")).unwrap();
    let run = on_both(&sims);
    let meta = run.path("meta");
    let output = run.args(["-m", MODEL, "--meta"]).args([meta]).input(prompts(2)).output().expect(0);
    let settings_of_both = settings(output)["settings"].clone();
    assert_eq!(settings_of_both["base_url"], sims[0].base().as_str());
    assert_eq!(settings_of_both["base_urls"], json!([sims[0].base(), sims[1].base()]));
    let run = Run::on(&sims[0]);
    let meta = run.path("meta");
    let output = run.args(["--meta"]).args([meta]).input(prompts(2)).output().expect(0);
    assert!(settings(output)["settings"].get("base_urls").is_none());
}

/// The command is asked again once the key is refused, and nothing waits for it but the lines that were refused.
#[test]
fn a_key_that_expires_is_asked_for_again() {
    let sim = Sim::start(&["--token", "sk-old", "--latency", "fixed:20"]);
    let run = Run::on(&sim);
    let key = run.file("key", "sk-old\n");
    let mut live = with_command(run, "cat", &key).start();
    live.feed_and_close(prompts(100).into_bytes());
    live.wait_for_lines(10);
    sim.control(&json!({"tokens": ["sk-new"]}));
    common::write_private(&key, b"sk-new\n");
    let output = live.finish().expect(0);
    assert_eq!(output.codes(), vec![""; 100]);
    assert_eq!(sim.requests().pop().unwrap()["authorization_token_index"], 0);
    assert!(output.waited < Duration::from_secs(30), "{output}");
}

#[test]
fn what_a_command_prints_is_never_seen() {
    let sim = Sim::start(&["--token", "sk-other"]);
    for (command, status) in [("cat", 77), ("false; cat", 77), ("cat ./none", 78), ("cat ./none >&2;", 78)] {
        let run = Run::on(&sim).args(["-vv"]);
        let key = run.file("key", CANARY);
        let output = with_command(run, command, &key).input(prompts(2)).output().expect(status);
        assert!(!format!("{}{}", output.text(), output.stderr).contains("canary"), "{output}");
    }
    let run = Run::on(&sim);
    let keys = run.file("keys", format!("{CANARY}\n{CANARY}\n"));
    let output = with_command(run, "cat", &keys).input(prompts(2)).output().expect(78);
    assert!(output.stderr.contains("token command cat: what it printed is no usable token"), "{output}");
    assert!(output.stderr.contains("run it by hand") && !output.stderr.contains("canary"), "{output}");
    assert_eq!(sim.count("ok"), 0);
}
