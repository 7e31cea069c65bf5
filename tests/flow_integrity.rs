//! What an answer has to be: of the model that was asked for, and whole. Without the flags it is only said.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Run, Sim, prompt, prompts};
use serde_json::json;

/// A service that tells when an answer was cut; Open WebUI does not always.
fn frank() -> Sim {
    Sim::start(&["--regime", "openai"])
}

/// A line for a model.
fn ask(model: &str) -> String {
    json!({ "prompt": "hello", "model": model }).to_string() + "\n"
}

#[test]
fn an_answer_of_another_model_is_an_error_where_the_model_is_required() {
    for upstream in ["stream", "whole"] {
        for regime in ["0.6", "0.12", "openai"] {
            let sim = Sim::start(&["--regime", regime]);
            let input = ask("llama3.1:latest") + &ask("alias:latest") + &ask("llama3.2:latest");
            let run = Run::on(&sim).args(["--require-model", "--upstream", upstream]);
            let output = run.input(input).output().expect(1);
            assert_eq!(output.codes(), ["", "other_model", ""], "{regime} {upstream}: {output}");
            let failed = output.lines()[1].clone();
            assert!(failed["content"].is_null(), "{failed}");
            let message = failed["error"]["message"].as_str().unwrap();
            assert!(message.contains("llama3.1:latest") && failed["model"] == "alias:latest", "{message}");
        }
    }
}

#[test]
fn without_the_flag_another_model_is_only_said() {
    let sim = Sim::start(&[]);
    let output = Run::on(&sim).input(ask("alias:latest")).output().expect(0);
    let line = output.only_line();
    assert_eq!((&line["content"], &line["model"]), (&json!("Echo: hello"), &json!("llama3.1:latest")), "{line}");
    assert_eq!(sim.count("requests"), 1);
}

/// A configuration file asks for it as well.
#[test]
fn a_file_may_require_the_model() {
    let sim = frank();
    let run = Run::on(&sim);
    let file = run.file("config.toml", "require_model = true\nretry_truncated = true\n");
    let input = ask("alias:latest") + &prompt("sim:length one two three four");
    let output = run.args(["--config".as_ref(), file.as_os_str()]).input(input).output().expect(1);
    assert_eq!(output.codes(), ["other_model", "truncated"], "{output}");
}

#[test]
fn an_answer_that_breaks_off_is_asked_for_twice_and_then_an_error() {
    for upstream in ["stream", "whole"] {
        let sim = frank();
        let run = Run::on(&sim).args(["--retry-truncated", "--upstream", upstream]);
        let output = run.input(prompt("sim:length one two three four")).output().expect(1);
        let line = output.only_line();
        assert_eq!((output.codes(), &line["attempts"]), (vec!["truncated".to_owned()], &json!(2)), "{line}");
        assert_eq!(sim.count("requests"), 2);
    }
}

#[test]
fn an_answer_that_breaks_off_once_is_answered_by_the_second() {
    let sim = frank();
    let text = "sim:length*1 one two three four";
    let output = Run::on(&sim).args(["--retry-truncated"]).input(prompt(text)).output().expect(0);
    let line = output.only_line();
    let whole = json!(format!("Echo: {text}"));
    assert_eq!((&line["content"], &line["finish_reason"]), (&whole, &json!("stop")), "{line}");
    assert_eq!((&line["attempts"], sim.count("requests")), (&json!(2), 2));
}

#[test]
fn without_the_flag_a_cut_answer_is_only_said() {
    let sim = frank();
    let output = Run::on(&sim).input(prompt("sim:length one two three four") + &prompts(1)).output().expect(0);
    assert_eq!(output.lines()[0]["finish_reason"], "length");
    assert!(output.stderr.contains("truncated") || output.stderr.contains("cut"), "{output}");
    assert_eq!(sim.count("requests"), 2);
}
