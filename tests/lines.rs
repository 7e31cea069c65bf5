//! Every form of a request line, every format of a completion line, and what becomes of ids, defaults and files.

#![allow(clippy::unwrap_used)]

mod common;

use common::{MODEL, Run, Sim, code_of, prompt};
use serde_json::{Value, json};

/// Whatever a completion line may hold that differs between runs.
fn without_seconds(line: &str) -> String {
    let (before, rest) = line.split_once("\"seconds\":").expect("a completion line has seconds");
    let digits = rest.find(|character: char| character != '.' && !character.is_ascii_digit()).unwrap();
    format!("{before}\"seconds\":0{}", &rest[digits..])
}

#[test]
fn a_completion_line_is_exactly_this() {
    let sim = Sim::start(&["--regime", "openai"]);
    let output = Run::on(&sim).input("{\"prompt\":\"hi\",\"custom_id\":\"a-1\"}\n").output().expect(0);
    assert_eq!(
        without_seconds(&output.text()),
        concat!(
            r#"{"line":1,"custom_id":"a-1","content":"Echo: hi","finish_reason":"stop","model":"llama3.1:latest","#,
            r#""usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3},"attempts":1,"seconds":0,"error":null}"#,
            "\n"
        )
    );
}

#[test]
fn an_error_line_is_exactly_this() {
    let sim = Sim::start(&[]);
    let output = Run::on(&sim).input("{\"prompt\":7,\"id\":[1]}\n").output().expect(1);
    assert_eq!(
        without_seconds(&output.text()),
        concat!(
            r#"{"line":1,"id":[1],"content":null,"finish_reason":null,"model":null,"usage":null,"attempts":0,"#,
            r#""seconds":0,"error":{"code":"bad_field","message":"prompt must be a string","status":null,"attempts":0}}"#,
            "\n"
        )
    );
    let output = Run::on(&sim).input("{\"prompt\":\"sim:status=413\"}\n").output().expect(1);
    assert_eq!(
        without_seconds(&output.text()),
        concat!(
            r#"{"line":1,"content":null,"finish_reason":null,"model":"llama3.1:latest","usage":null,"attempts":1,"#,
            r#""seconds":0,"error":{"code":"upstream_rejected","message":"HTTP 413: Request Entity Too Large","#,
            r#""status":413,"attempts":1}}"#,
            "\n"
        )
    );
}

#[test]
fn every_form_of_a_line_is_answered() {
    let sim = Sim::start(&[]);
    let lines = concat!(
        r#"{"messages":[{"role":"user","content":"one"}]}"#,
        "\n",
        r#"{"prompt":"two"}"#,
        "\n",
        r#""three""#,
        "\n",
        r#"{"custom_id":"b","method":"POST","url":"/v1/chat/completions","body":{"messages":[{"role":"user","content":"four"}]}}"#,
        "\n",
        r#"{"custom_id":"c","body":{"model":"llama3.2:latest","messages":[{"role":"user","content":"five"}]}}"#,
        "\n",
    );
    let found = Run::on(&sim).args(["--format", "completion"]).input(lines).output().expect(0).lines();
    let content: Vec<&str> = found.iter().map(|line| line["content"].as_str().unwrap()).collect();
    assert_eq!(content, ["Echo: one", "Echo: two", "Echo: three", "Echo: four", "Echo: five"]);
    assert_eq!(found.iter().map(|line| &line["line"]).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(found[4]["model"], "llama3.2:latest");
}

#[test]
fn a_line_of_text_is_a_prompt_and_so_is_a_record_ending_with_nul() {
    let sim = Sim::start(&[]);
    let found = Run::on(&sim).args(["--input", "text"]).input("{\"not\" json\n\n  two \n").output().expect(0).lines();
    assert_eq!((&found[0]["content"], &found[0]["line"]), (&json!("Echo: {\"not\" json"), &json!(1)));
    assert_eq!((&found[1]["content"], &found[1]["line"]), (&json!("Echo:   two "), &json!(3)));
    let output =
        Run::on(&sim).args(["--input", "text", "-0", "--format", "text"]).input("a\nb\0\0c").output().expect(0);
    assert_eq!(output.text(), "Echo: a\nb\0Echo: c\0");
}

#[test]
fn an_id_comes_back_under_its_own_name_and_type_and_is_never_sent() {
    let sim = Sim::start(&[]);
    let ids = [
        r#""custom_id":"text""#,
        r#""id":12345678901234567890123"#,
        r#""id":{"b":1,"a":[2,3]}"#,
        r#""id":null"#,
        r#""custom_id":1.50"#,
        r#""id":"\ud83d""#,
    ];
    let lines: String = ids.iter().map(|id| format!("{{\"prompt\":\"hi\",{id}}}\n")).collect();
    let output = Run::on(&sim).input(lines).output().expect(0);
    for (line, id) in output.text().lines().zip(ids) {
        assert!(line.contains(&format!(",{id},\"content\"")), "{id}: {line}");
    }
    let both = "{\"custom_id\":\"c\",\"id\":\"i\",\"prompt\":\"hi\"}\n";
    let line = Run::on(&sim).input(both).output().expect(0).only_line();
    assert_eq!((&line["custom_id"], &line["id"]), (&json!("c"), &Value::Null));
    for request in sim.requests() {
        assert!(request["body"].get("id").is_none() && request["body"].get("custom_id").is_none(), "{request}");
    }
}

#[test]
fn flags_are_defaults_and_the_lines_own_fields_win() {
    let sim = Sim::start(&["--regime", "openai"]);
    let lines = concat!(
        r#"{"prompt":"plain"}"#,
        "\n",
        r#"{"prompt":"own","model":"llama3.2:latest","system":"S","seed":7}"#,
        "\n",
        r#"{"messages":[{"role":"user","content":"chat"}]}"#,
        "\n",
        r#"{"messages":[{"role":"system","content":"S"},{"role":"user","content":"own chat"}],"seed":8}"#,
        "\n",
    );
    let args = ["-s", "be brief", "-p", "seed=1", "-p", "logit_bias={\"50256\":-100}", "-j", "1"];
    Run::on(&sim).args(args).input(lines).output().expect(0);
    let mut bodies: Vec<Value> = sim.requests().into_iter().map(|request| request["body"].clone()).collect();
    // Lines of one model go together; here they are to be looked at in the order of the input.
    bodies.sort_by_key(|body| {
        let prompt = body["messages"][1]["content"].as_str().unwrap();
        ["plain", "own", "chat", "own chat"].iter().position(|own| *own == prompt)
    });
    let system = |index: usize| bodies[index]["messages"][0]["content"].as_str().unwrap().to_owned();
    assert_eq!([0, 1, 2, 3].map(system), ["be brief", "S", "be brief", "S"]);
    assert_eq!(bodies.iter().map(|body| &body["seed"]).collect::<Vec<_>>(), [1, 7, 1, 8]);
    assert_eq!(bodies.iter().map(|body| &body["model"]).collect::<Vec<_>>(), [MODEL, "llama3.2:latest", MODEL, MODEL]);
    assert!(bodies.iter().all(|body| body["logit_bias"]["50256"] == -100));
    assert!(bodies.iter().all(|body| body["messages"].as_array().unwrap().len() == 2));
}

#[test]
fn what_a_line_holds_goes_out_byte_for_byte() {
    let sim = Sim::start(&["--regime", "openai"]);
    let fields = r#""zeta":12345678901234567890123,"alpha" : [ 1e400, -0.0, 1.10 ],"messages":[{"role":"user","content":"\ud83d \u00e9 é"}],"model":"llama3.1:latest","seed":9007199254740993"#;
    Run::on(&sim).input(format!("{{{fields}}}\n")).output().expect(0);
    let received = sim.requests_text();
    let expected = fields.replace("\"alpha\" : ", "\"alpha\":");
    assert!(received.contains(&expected), "{received}");
}

#[test]
fn beside_a_prompt_only_the_known_fields_are_sent() {
    let sim = Sim::start(&["--regime", "openai"]);
    let line = r#"{"subject":"keep","prompt":"hi","temperature":0.5,"n":3,"stop":["x"],"nested":{"id":1}}"#;
    let output = Run::on(&sim).args(["--merge"]).input(format!("{line}\n")).output().expect(0);
    assert_eq!(output.text(), format!("{},\"completion\":\"Echo: hi\"}}\n", &line[..line.len() - 1]));
    let requests = sim.requests();
    let mut sent: Vec<&String> = requests[0]["body"].as_object().unwrap().keys().collect();
    sent.sort();
    assert_eq!(sent, ["messages", "model", "stop", "stream", "stream_options", "temperature"]);
}

#[test]
fn an_image_becomes_a_part_of_the_message() {
    let sim = Sim::start(&["--regime", "openai"]);
    Run::on(&sim).input("{\"prompt\":\"see\",\"images\":[\"https://host.example/a.png\"]}\n").output().expect(0);
    let content = &sim.requests()[0]["body"]["messages"][0]["content"];
    let text = content.as_array().unwrap().iter().find(|part| part["type"] == "text").unwrap();
    assert_eq!(text["text"], "see");
    let image = content.as_array().unwrap().iter().find(|part| part["type"] == "image_url").unwrap();
    assert_eq!(image["image_url"]["url"], "https://host.example/a.png");
}

#[test]
fn raw_is_the_servers_own_object_with_line_and_id() {
    for upstream in ["stream", "whole"] {
        let sim = Sim::start(&[]);
        let run = Run::on(&sim).args(["--format", "raw", "--upstream", upstream]);
        let line = run.input("{\"prompt\":\"hi\",\"id\":5}\n").output().expect(0).only_line();
        assert_eq!(line["object"], "chat.completion", "{line}");
        assert_eq!(line["choices"][0]["message"]["content"], "Echo: hi");
        assert_eq!((&line["line"], &line["custom_id"]), (&json!(1), &json!(5)));
        assert!(line["id"].is_string() && line["usage"]["completion_tokens"].is_number(), "{line}");
    }
}

#[test]
fn a_batch_line_gets_a_batch_result_unless_told_otherwise() {
    let sim = Sim::start(&[]);
    let good = r#"{"custom_id":"b-1","method":"POST","url":"/v1/chat/completions","body":{"messages":[{"role":"user","content":"hi"}]}}"#;
    let bad = r#"{"custom_id":"b-2","method":"POST","url":"/v1/embeddings","body":{"messages":[]}}"#;
    let found = Run::on(&sim).input(format!("{good}\n{bad}\n\"bare\"\n")).output().expect(1).lines();
    assert_eq!(found[0]["custom_id"], "b-1");
    assert_eq!(found[0]["response"]["status_code"], 200);
    assert_eq!(found[0]["response"]["body"]["choices"][0]["message"]["content"], "Echo: hi");
    assert_eq!((&found[0]["error"], &found[1]["response"]), (&Value::Null, &Value::Null));
    assert_eq!((&found[1]["custom_id"], code_of(&found[1])), (&json!("b-2"), "unsupported_url".to_owned()));
    assert_eq!(found[2]["content"], "Echo: bare");
    let line = Run::on(&sim).args(["--format", "batch"]).input("\"bare\"\n").output().expect(0).only_line();
    assert_eq!(line["response"]["body"]["choices"][0]["message"]["content"], "Echo: bare");
}

#[test]
fn text_is_the_content_alone_and_a_failure_an_empty_record_and_a_message() {
    let sim = Sim::start(&[]);
    let lines = "\"a\\nb\"\n{\"prompt\":7}\n\"c\"\n";
    let output = Run::on(&sim).args(["--format", "text", "-0"]).input(lines.replace('\n', "\0")).output().expect(1);
    assert_eq!(output.text(), "Echo: a\nb\0\0Echo: c\0");
    assert!(output.stderr.contains("line 2: bad_field: prompt must be a string"), "{output}");
}

#[test]
fn events_come_delta_by_delta_before_their_completion_line() {
    let sim = Sim::start(&[]);
    let lines = format!("{}{}", prompt("one two three"), prompt("sim:eof*1 four"));
    let found = Run::on(&sim).args(["--format", "events"]).input(lines).output().expect(0).lines();
    for number in [1, 2] {
        let own: Vec<&Value> = found.iter().filter(|line| line["line"] == number).collect();
        let (last, deltas) = own.split_last().unwrap();
        assert!(last["error"].is_null() && deltas.iter().all(|line| line.get("delta").is_some()), "{own:?}");
        let attempt = &last["attempts"];
        let text: String = deltas
            .iter()
            .filter(|line| line["attempt"] == *attempt)
            .filter_map(|line| line["delta"]["content"].as_str())
            .collect();
        assert_eq!(text, last["content"].as_str().unwrap());
    }
    assert_eq!(found.iter().filter(|line| line.get("content").is_some()).count(), 2);
}

#[test]
fn merge_puts_the_answer_into_the_line() {
    let sim = Sim::start(&[]);
    let lines = "{\"prompt\":\"a\",\"answer\":\"old\",\"big\":1e999}\n\"bare\"\n{\"prompt\":7,\"k\":1}\n";
    let output = Run::on(&sim).args(["--merge=answer"]).input(lines).output().expect(1);
    let text = output.text();
    let found: Vec<&str> = text.lines().collect();
    assert_eq!(found[0], "{\"prompt\":\"a\",\"big\":1e999,\"answer\":\"Echo: a\"}");
    assert_eq!(found[1], "{\"prompt\":\"bare\",\"answer\":\"Echo: bare\"}");
    assert!(
        found[2].starts_with("{\"prompt\":7,\"k\":1,\"answer\":null,\"answer_error\":{\"code\":\"bad_field\""),
        "{text}"
    );
    Run::on(&sim).args(["--merge", "--format", "raw"]).output().expect(64);
}

#[test]
fn what_an_answer_has_beside_its_text_is_shown() {
    let sim = Sim::start(&["--regime", "openai"]);
    let lines = concat!(
        r#"{"prompt":"x","model":"think:latest"}"#,
        "\n",
        r#"{"prompt":"x","model":"tool:latest"}"#,
        "\n",
        r#"{"messages":[{"role":"user","content":"x"}],"n":2}"#,
        "\n",
        r#"{"prompt":"a b c d e f g","max_tokens":2}"#,
        "\n",
        r#"{"prompt":"sim:empty"}"#,
        "\n",
        r#"{"prompt":"x","model":"alias:latest"}"#,
        "\n",
    );
    for upstream in ["stream", "whole"] {
        let found = Run::on(&sim).args(["--upstream", upstream]).input(lines).output().expect(0).lines();
        assert_eq!(found[0]["reasoning"], "Let me think.", "{upstream}");
        assert_eq!(found[1]["tool_calls"][0]["function"]["arguments"], "{\"city\":\"Lafayette\"}");
        assert_eq!(found[1]["finish_reason"], "tool_calls");
        assert_eq!((&found[2]["content"], &found[2]["choices"][0]["content"]), (&json!("Echo: x"), &json!("Echo: x")));
        assert_eq!(found[3]["flags"], json!(["truncated"]));
        assert_eq!(found[4]["flags"], json!(["empty"]));
        assert_eq!((&found[5]["flags"], &found[5]["model"]), (&json!(["other_model"]), &json!(MODEL)));
    }
}

#[test]
fn failed_lines_are_kept_verbatim_and_can_be_piped_in_again() {
    let sim = Sim::start(&[]);
    let failing = [r#"{ "prompt" : "sim:status=413" , "x":1e400}"#, "not json", r#"{"prompt":"sim:null*3"}"#];
    let lines = format!("\"good\"\r\n{}\r\n\n{}\n{}\n\"fine\"", failing[0], failing[1], failing[2]);
    let run = Run::on(&sim);
    let path = run.path("failed.jsonl");
    let output = run.args(["--failed".as_ref(), path.as_os_str()]).input(lines).output().expect(1);
    assert_eq!(output.codes(), ["", "upstream_rejected", "not_json", "upstream_invalid", ""]);
    let failed = output.file("failed.jsonl");
    assert_eq!(String::from_utf8(failed.clone()).unwrap(), failing.map(|line| format!("{line}\n")).concat());
    let again = Run::on(&sim).input(failed).output().expect(1);
    assert_eq!(again.codes(), ["upstream_rejected", "not_json", ""]);
}

#[test]
fn a_run_without_failures_leaves_an_empty_file_of_failed_lines() {
    let sim = Sim::start(&[]);
    let run = Run::on(&sim);
    let path = run.file("failed.jsonl", "from an earlier run\n");
    let output = run.args(["--failed".as_ref(), path.as_os_str()]).input("\"good\"\n").output().expect(0);
    assert_eq!(output.file("failed.jsonl"), b"");
}

#[test]
fn the_summary_says_what_was_asked_and_what_came() {
    let sim = Sim::start(&[]);
    let run = Run::on(&sim);
    let path = run.path("meta.json");
    let lines = "\"one\"\n{\"prompt\":7}\n{\"prompt\":\"sim:empty\"}\n";
    let run = run.args(["--meta".as_ref(), path.as_os_str()]).args(["-p", "temperature=0"]);
    let output = run.input(lines).output().expect(1);
    let meta: Value = serde_json::from_slice(&output.file("meta.json")).unwrap();
    assert_eq!((&meta["answered"], &meta["failed"], &meta["not_settled"]), (&json!(2), &json!(1), &json!(0)));
    assert_eq!(meta["failed_by_code"], json!({"bad_field": 1}));
    assert_eq!((&meta["flags"]["empty"], &meta["exit_status"]), (&json!(1), &json!(1)));
    assert_eq!(meta["models_served"][MODEL], 2);
    assert_eq!(meta["settings"]["params"]["temperature"], 0);
    assert_eq!((&meta["input"]["lines"], &meta["input"]["files"]), (&json!(3), &json!(["-"])));
    // sha256sum of the three lines.
    assert_eq!(meta["input"]["sha256"], "85d1dc6c27e3c411d95989e2f592c9e0eb1a72a01640b6477e65a3a2b5ec0cb7");
    assert!(meta["tokens"]["completion"].as_u64().unwrap() > 0 && meta["version"].is_string());
}

#[test]
fn a_dry_run_tells_all_and_sends_nothing() {
    let sim = Sim::start(&[]);
    let lines = "{\"prompt\":\"first\",\"mine\":1,\"seed\":3}\n\nnot json\n\"bare\"\n";
    let output = Run::on(&sim).args(["--dry-run"]).input(lines).output().expect(1);
    let text = output.text();
    assert!(text.contains("4 lines read: 2 good, 1 bad, 1 blank; nothing was sent"), "{text}");
    assert!(text.contains("1 x bare string") && text.contains("1 x prompt object"), "{text}");
    assert!(text.contains("messages (2), model (2), seed (1)") && text.contains("kept, not sent: mine (1)"), "{text}");
    assert!(text.contains("\"content\":\"first\"") && text.contains("line 3: not_json"), "{text}");
    assert_eq!((sim.count("requests"), sim.count("version_requests"), sim.count("models_requests")), (0, 0, 0));
    Run::on(&sim).args(["--dry-run"]).input("\"good\"\n").output().expect(0);
    assert_eq!(sim.count("requests"), 0);
}

#[test]
fn files_are_read_in_order_and_a_dash_is_standard_input() {
    let sim = Sim::start(&[]);
    let run = Run::on(&sim);
    let (first, last) = (run.file("a.jsonl", "\"a\"\n\n\"b\""), run.file("c.jsonl", "\"d\"\n"));
    let files = [first.as_os_str(), "-".as_ref(), last.as_os_str()];
    let found = run.args(files).input("\"c\"\n").output().expect(0).lines();
    let shown: Vec<(u64, &str)> =
        found.iter().map(|line| (line["line"].as_u64().unwrap(), line["content"].as_str().unwrap())).collect();
    assert_eq!(shown, [(1, "Echo: a"), (3, "Echo: b"), (4, "Echo: c"), (5, "Echo: d")]);
}

#[test]
fn a_file_that_cannot_be_read_stops_the_run_before_anything_is_sent() {
    let sim = Sim::start(&[]);
    let run = Run::on(&sim);
    let good = run.file("good.jsonl", "\"a\"\n");
    let folder = run.path("");
    for wrong in ["/nonexistent/prompts.jsonl".as_ref(), folder.as_os_str()] {
        let output = Run::on(&sim).args([good.as_os_str(), wrong]).output().expect(65);
        assert!(output.stdout.is_empty() && output.stderr.contains("read "), "{output}");
    }
    assert_eq!(sim.count("requests"), 0);
}

#[test]
fn an_allowance_of_failures_decides_between_0_and_1() {
    let sim = Sim::start(&[]);
    let lines = "\"good\"\n{\"prompt\":7}\n\"good\"\n\"good\"\n";
    let status = |allowance: &str| Run::on(&sim).args(["--allow-failed", allowance]).input(lines).output().status;
    assert_eq!(["0", "1", "24%", "25%"].map(status), [1, 0, 1, 0]);
}

#[test]
fn too_many_failures_stop_the_run_early() {
    let sim = Sim::start(&[]);
    let lines = format!("{}{}", "not json\n".repeat(20), common::prompts(2000));
    let output = Run::on(&sim).args(["--max-failed", "9"]).input(lines).output().expect(75);
    assert!(output.lines().len() < 100 && output.stderr.contains("--max-failed"), "{output}");
    assert!(sim.count("requests") < 100);
}

#[test]
fn an_empty_input_is_answered_by_nothing() {
    let sim = Sim::start(&[]);
    for input in ["", "\n", "\r\n \n\t\n"] {
        assert!(Run::on(&sim).input(input).output().expect(0).stdout.is_empty());
    }
    assert_eq!(sim.count("requests"), 0);
}

#[test]
fn without_a_model_nothing_is_sent_and_the_models_are_listed() {
    let sim = Sim::start(&["--model", "one:latest", "--model", "two:latest"]);
    let run = Run::bare().env("ANVILGPT_API_KEY", common::KEY).args(["--base-url", &sim.base()]);
    let output = run.input("\"a\"\n").output().expect(78);
    assert!(output.stdout.is_empty(), "{output}");
    assert!(output.stderr.contains("one:latest") && output.stderr.contains("two:latest"), "{output}");
    assert_eq!(sim.count("requests"), 0);
}
