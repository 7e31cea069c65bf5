//! What each kind of file becomes, and what a folder's recipe changes.

use serde_json::{Value, json};

use crate::common::prompt;
use crate::spool::{Spool, answers, contents, lines};

#[test]
fn every_form_gets_its_result_under_its_name() {
    let spool = Spool::with(&["--latency", "lognormal:5:50"]);
    let _daemon = spool.start();
    spool.put("p.jsonl", "\n{\"prompt\":\"one\",\"custom_id\":\"a\"}\n \n{\"prompt\":7}\r\n{\"prompt\":\"three\"}");
    spool.put("q.json", "{\n  \"prompt\": \"in one piece\"\n}\n");
    spool.put("r.txt", "a prompt\nof two lines\n");
    spool.put("s.md", "# a prompt");
    spool.put("t.u.jsonl", lines("other", 60));
    spool.put("big.jsonl", lines("big", 150));
    let result: Vec<Value> =
        spool.wait_for("p.out.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shown: Vec<Value> = result
        .iter()
        .map(|line| json!([line["line"], line["custom_id"], line["content"], line["error"]["code"]]))
        .collect();
    let wanted = json!([[2, "a", "Echo: one", null], [4, null, null, "bad_field"], [5, null, "Echo: three", null]]);
    assert_eq!(Value::from(shown), wanted);
    spool.wait_for_contents("q.json.out.jsonl", &["Echo: in one piece".to_owned()]);
    assert_eq!(spool.wait_for("r.txt.out.md"), "Echo: a prompt\nof two lines\n\n");
    assert_eq!(spool.wait_for("s.md.out.md"), "Echo: # a prompt\n");
    spool.wait_for_answers("t.u.out.jsonl", "other", 60);
    spool.wait_for_answers("big.out.jsonl", "big", 150);
    let failed = spool.wait_state("p.jsonl", "failed");
    assert_eq!((&failed["failed"], &failed["codes"]), (&json!(1), &json!({ "bad_field": 1 })), "{failed}");
    let inputs = ["big.jsonl", "p.jsonl", "q.json", "r.txt", "s.md", "t.u.jsonl"];
    let results = ["big.out.jsonl", "p.out.jsonl", "q.json.out.jsonl", "r.txt.out.md", "s.md.out.md", "t.u.out.jsonl"];
    spool.wait("the last of them", || (spool.names().len() >= 13).then_some(()));
    let mut names: Vec<&str> = inputs.into_iter().chain(results).chain(["p.jsonl.status.json"]).collect();
    names.sort_unstable();
    assert_eq!(spool.names(), names, "nothing else lies there");
    spool.nothing_asked_twice();
}

#[test]
fn what_holds_nothing_to_ask_has_a_result_all_the_same() {
    let spool = Spool::new();
    let daemon = spool.start();
    let bad = "not JSON\n{\"prompt\":7}\n[]\n".repeat(30);
    for (name, text) in [("none.jsonl", ""), ("blank.jsonl", "\n \n\r\n"), ("bad.jsonl", "{\n"), ("worse.jsonl", &bad)]
    {
        spool.put(name, text);
    }
    spool.put("nothing.txt", "");
    spool.put("nothing.json", "");
    for name in ["none.out.jsonl", "blank.out.jsonl", "nothing.json.out.jsonl", "nothing.txt.out.md"] {
        assert_eq!(spool.wait_for(name), "", "{name}");
    }
    spool.wait_for_contents("bad.out.jsonl", &["not_json".to_owned()]);
    spool.wait_for_contents(
        "worse.out.jsonl",
        &["not_json", "bad_field", "unknown_form"].repeat(30).into_iter().map(str::to_owned).collect::<Vec<_>>(),
    );
    assert_eq!(spool.sim.count("requests"), 0);
    daemon.stop().expect(0);
}

#[test]
fn a_recipe_says_how_its_folder_is_run() {
    let spool = Spool::new();
    spool.put("anvil.toml", "model = \"llama3.2:latest\"\nsystem = \"be brief\"\nmerge = \"answer\"\nsuffix = \".answers.jsonl\"\ninput = \"text\"\nparams = { temperature = 0.5 }\n");
    let _daemon = spool.start();
    spool.put("p.jsonl", prompt("one") + "{\"prompt\":\"two\",\"x\":23456789012345678901234}\n");
    spool.put("q.txt", "first line\n\nsecond line\n");
    let merged: Vec<Value> =
        spool.wait_for("p.answers.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&merged[0]["prompt"], &merged[0]["answer"]), (&json!("one"), &json!("Echo: one")), "{merged:?}");
    assert!(spool.wait_for("p.answers.jsonl").contains("23456789012345678901234"));
    assert_eq!(spool.wait_for("q.txt.answers.jsonl").lines().count(), 2);
    for request in spool.sim.requests() {
        let body = &request["body"];
        assert_eq!((&body["model"], &body["temperature"]), (&json!("llama3.2:latest"), &json!(0.5)), "{body}");
        assert_eq!(body["messages"][0], json!({ "role": "system", "content": "be brief" }));
    }
    assert_eq!(spool.sim.count("requests"), 4);
}

#[test]
fn a_recipe_folder_never_eats_its_own_results() {
    let spool = Spool::new();
    spool.put("anvil.toml", "suffix = \".answers.jsonl\"\nmerge = \"answer\"\n");
    let daemon = spool.start();
    spool.put("p.jsonl", lines("p", 2));
    spool.put("big.jsonl", lines("big", 80));
    spool.wait_for("p.answers.jsonl");
    spool.wait_for("big.answers.jsonl");
    daemon.stop().expect(0);
    let daemon = spool.start();
    // Even when they come in like prompt files, or are copies of such.
    for name in ["p.answers.jsonl", "big.answers.jsonl"] {
        std::fs::rename(spool.path(name), spool.path("away.tmp")).unwrap();
        std::fs::rename(spool.path("away.tmp"), spool.path(name)).unwrap();
    }
    spool.put("copy.answers.jsonl", spool.wait_for("p.answers.jsonl"));
    spool.put("r.jsonl", lines("r", 1));
    spool.wait_for("r.answers.jsonl");
    assert_eq!(spool.sim.count("requests"), 83);
    let eaten: Vec<String> = spool.names().into_iter().filter(|name| name.contains(".answers.answers")).collect();
    assert_eq!(eaten, Vec::<String>::new());
    daemon.stop().expect(0);
}

#[test]
fn what_a_recipe_said_when_a_file_was_taken_holds_to_its_end() {
    let spool = Spool::slow(100);
    spool.put("anvil.toml", "model = \"llama3.2:latest\"\n");
    let daemon = spool.start();
    spool.put("p.jsonl", lines("p", 12) + &prompt("sim:status=413"));
    spool.put("big.jsonl", lines("big", 70));
    spool.wait("requests of both", || {
        let prompts = spool.prompts();
        ["p 1", "big 1"].iter().all(|text| prompts.iter().any(|prompt| prompt == text)).then_some(())
    });
    spool.put("anvil.toml", "model = \"llama3.1:latest\"\n");
    daemon.kill();
    let _daemon = spool.start();
    let status = spool.wait_state("p.jsonl", "failed");
    spool.wait_for_answers("big.out.jsonl", "big", 70);
    assert_eq!(status["settings"]["model"], "llama3.2:latest", "{status}");
    let models = spool.sim.stats()["completions_by_model"].clone();
    assert_eq!(models.as_object().unwrap().keys().collect::<Vec<_>>(), ["llama3.2:latest"], "{models}");
    assert!(spool.sim.count("repeats") <= 4);
}

/// Answers that come in any order are written in that of the lines, whatever the size of the file.
#[test]
fn results_have_the_order_of_their_lines() {
    let spool = Spool::with(&["--latency", "lognormal:3:60"]);
    let _daemon = spool.start_with(&["-j", "16"]);
    for (name, count) in [("small", 64), ("large", 65)] {
        spool.put(format!("{name}.jsonl"), lines(name, count));
        spool.wait_for_answers(&format!("{name}.out.jsonl"), name, count);
        assert_eq!(contents(&spool.wait_for(format!("{name}.out.jsonl"))), answers(name, count));
    }
}
