//! Other ways in and out: `--once`, `--archive`, `--recursive`, `submit` and `status`.

use std::path::Path;

use serde_json::{Value, json};

use crate::common::{Output, Run, prompt};
use crate::spool::{Daemon, Spool, answers, contents, lines};

/// `anvil-filter submit` into this folder.
fn submit(spool: &Spool, args: &[&str], files: &[&Path]) -> Output {
    Run::bare().args(["submit", "--spool"]).args([spool.root()]).args(args).args(files).output()
}

/// Three folders drained at once, for each takes ten seconds: files that were there before must stay unchanged so long.
pub fn once_drains_and_ends_as_a_filter_would() {
    let [good, bad, archived] = [Spool::new(), Spool::new(), Spool::new()];
    for spool in [&good, &bad, &archived] {
        spool.put("p.jsonl", lines("p", 3));
        spool.put("big.jsonl", lines("big", 100));
        for number in 0..6 {
            spool.put(format!("big{number}.jsonl"), lines(&format!("big{number}"), 66));
        }
    }
    bad.put("bad.jsonl", "{\n");
    let archive = archived.aside("archive");
    std::fs::create_dir(&archive).unwrap();
    let with_archive = archived.daemon().args(["--once", "--archive"]).args([&archive]);
    let [first, second, third] =
        [good.daemon().args(["--once"]), bad.daemon().args(["--once"]), with_archive].map(Daemon::start);
    // Dropped in while it waits.
    good.put("late.jsonl", lines("late", 2));
    first.finish().expect(0);
    second.finish().expect(1);
    third.finish().expect(0);
    for spool in [&good, &bad] {
        spool.wait_for_answers("big.out.jsonl", "big", 100);
        spool.wait_for_answers("p.out.jsonl", "p", 3);
        assert_eq!(spool.status().unwrap()["state"], "stopped");
        spool.nothing_asked_twice();
    }
    good.wait_for_answers("late.out.jsonl", "late", 2);
    assert_eq!(archived.names(), Vec::<String>::new());
    let result = std::fs::read_to_string(archive.join("big.out.jsonl")).unwrap();
    assert_eq!(contents(&result), answers("big", 100));
    // Nothing is left to do.
    let asked = good.sim.count("requests");
    Run::bare().args(["status", "--spool"]).args([good.root()]).output().expect(75);
    assert_eq!(good.sim.count("requests"), asked);
}

#[test]
fn an_archive_gets_what_is_finished_and_keeps_its_folders() {
    let spool = Spool::new();
    let archive = spool.aside("archive");
    std::fs::create_dir(&archive).unwrap();
    std::fs::create_dir_all(spool.path("a/b")).unwrap();
    let mut daemon = Daemon::start(spool.daemon().args(["--recursive", "--archive"]).args([&archive]));
    daemon.wait_until_watching(3);
    spool.put("p.jsonl", lines("p", 3));
    spool.put("a/b/big.jsonl", lines("big", 80));
    spool.put("text.txt", "a text");
    let archived = |name: &str| spool.wait(name, || std::fs::read_to_string(archive.join(name)).ok());
    assert_eq!(contents(&archived("p.out.jsonl")), answers("p", 3));
    assert_eq!(archived("p.jsonl"), lines("p", 3));
    assert_eq!(contents(&archived("a/b/big.out.jsonl")), answers("big", 80));
    archived("a/b/big.jsonl");
    assert_eq!((archived("text.txt"), archived("text.txt.out.md")), ("a text".into(), "Echo: a text\n".into()));
    spool.wait("an empty folder", || (spool.names() == ["a"]).then_some(()));
    // The same name once more, with other contents: nothing that is there is overwritten, nothing is lost.
    spool.put("p.jsonl", lines("p", 4));
    spool.wait("both results", || {
        let everywhere = [spool.root(), &archive].map(crate::common::desk::names_in).concat();
        let results = everywhere.iter().filter(|name| name.starts_with("p.") && name.contains(".out"));
        (results.count() == 2 && spool.sim.count("requests") == 85).then_some(())
    });
    assert_eq!(contents(&archived("p.out.jsonl")), answers("p", 3));
    assert_eq!(spool.sim.count("repeats"), 0);
}

pub fn folders_below_are_run_with_recipes_of_their_own() {
    let spool = Spool::new();
    std::fs::create_dir_all(spool.path("a")).unwrap();
    std::fs::create_dir_all(spool.path(".hidden")).unwrap();
    spool.put("a/anvil.toml", "model = \"llama3.2:latest\"\n");
    let mut daemon = Daemon::start(spool.daemon().args(["--recursive"]));
    daemon.wait_until_watching(2);
    // Folders that come later, alone or with all that is in them.
    std::fs::create_dir_all(spool.aside("tree/deep")).unwrap();
    std::fs::write(spool.aside("tree/deep/q.jsonl"), lines("q", 3)).unwrap();
    std::fs::rename(spool.aside("tree"), spool.path("tree")).unwrap();
    std::fs::create_dir_all(spool.path("x/y/z")).unwrap();
    daemon.wait_until_watching(7);
    spool.put("a/p.jsonl", lines("p", 3));
    spool.put("x/y/z/r.jsonl", lines("r", 3));
    std::fs::write(spool.path(".hidden/s.jsonl"), lines("s", 3)).unwrap();
    for (place, name) in [("a/p", "p"), ("x/y/z/r", "r")] {
        let result = spool.wait_for(format!("{place}.out.jsonl"));
        assert_eq!(contents(&result), answers(name, 3));
    }
    assert_eq!(spool.sim.stats()["completions_by_model"]["llama3.2:latest"], 3);
    // Nothing told of what lay in the tree already.
    assert_eq!(contents(&spool.wait_for("tree/deep/q.out.jsonl")), answers("q", 3));
    assert_eq!(spool.sim.count("requests"), 9, "{:?}", spool.prompts());
    std::fs::remove_dir_all(spool.path("x")).unwrap();
    spool.pass("last");
    daemon.stop().expect(0);
}

#[test]
fn without_recursion_folders_are_left_alone() {
    let spool = Spool::new();
    std::fs::create_dir(spool.path("a")).unwrap();
    let _daemon = spool.start();
    spool.put("a/p.jsonl", lines("p", 3));
    spool.pass("last");
    assert_eq!(spool.sim.count("requests"), 1);
}

#[test]
fn what_is_submitted_is_run_and_waited_for() {
    let spool = Spool::slow(20);
    let daemon = spool.start();
    let source = |name: &str, text: &str| {
        std::fs::write(spool.aside(name), text).unwrap();
        spool.aside(name)
    };
    let big = lines("big", 100);
    let [p, q, big, bad] = [
        source("p.jsonl", &lines("p", 3)),
        source("q.txt", "a text"),
        source("big.jsonl", &big),
        source("bad.jsonl", &(prompt("fine") + &prompt("sim:status=413"))),
    ];
    let output = submit(&spool, &[], &[&p]).expect(0);
    assert_eq!(output.text(), format!("{}\n", spool.path("p.out.jsonl").display()));
    spool.wait_for_answers("p.out.jsonl", "p", 3);
    let output = submit(&spool, &["--wait"], &[&q, &big]).expect(0);
    assert_eq!(output.text().lines().count(), 2, "{output}");
    assert_eq!(spool.text("q.txt.out.md").unwrap(), "Echo: a text\n");
    assert_eq!(contents(&spool.text("big.out.jsonl").unwrap()), answers("big", 100));
    submit(&spool, &["--wait"], &[&bad]).expect(1);
    let refused = submit(&spool, &["--wait"], &[&p]).expect(64);
    assert!(!refused.stderr.is_empty() && spool.sim.count("requests") == 106, "{refused}");
    let broken = source("anvil.toml", "model = 7\n");
    std::fs::copy(broken, spool.path("anvil.toml")).unwrap();
    let r = source("r.jsonl", &lines("r", 1));
    let rejected = submit(&spool, &["--wait"], &[&r]).expect(65);
    assert!(rejected.stderr.contains("anvil.toml"), "{rejected}");
    daemon.stop().expect(0);
}

#[test]
fn how_it_stands_is_told_while_it_runs_and_after() {
    let spool = Spool::slow(100);
    let daemon = spool.start();
    spool.put("done.jsonl", lines("done", 1));
    spool.put("failed.jsonl", "{\n");
    spool.put("blocked.out.jsonl", "mine\n");
    spool.put("blocked.jsonl", lines("blocked", 1));
    std::fs::create_dir(spool.path("rejected.jsonl")).unwrap();
    spool.wait_for("done.out.jsonl");
    spool.put("running.jsonl", lines("running", 60));
    spool.put("running-large.jsonl", lines("running-large", 90));
    spool.wait_new_status("two running", |status| (status["files"]["running"] == 2).then_some(()));
    let told: Value = serde_json::from_str(&spool.told(&["--json"]).expect(0).text()).unwrap();
    let files = json!({ "queued": 0, "running": 2, "done": 2, "failed": 1, "stale": 0, "blocked": 1, "rejected": 1,
        "cancelled": 0 });
    assert_eq!((&told["files"], &told["alive"], &told["state"]), (&files, &json!(true), &json!("running")), "{told}");
    assert_eq!(told["holder"]["pid"], daemon.pid());
    let running = told["running"].as_array().unwrap();
    let large = running.iter().find(|row| row["path"] == "running-large.jsonl").unwrap();
    assert_eq!((&large["total"], large["done"].as_u64() > Some(0)), (&json!(90), true), "{large}");
    let text = spool.told(&[]).expect(0).text();
    for told in ["running.jsonl", "blocked.jsonl", "rejected.jsonl", "failed.jsonl", "1 blocked"] {
        assert!(text.contains(told), "{told} is missing: {text}");
    }
    spool.wait_for_answers("running-large.out.jsonl", "running-large", 90);
    let once = spool.wait_companion("failed.jsonl", "status");
    assert_eq!(once["state"], "failed", "{once}");
    daemon.stop().expect(0);
    let ended: Value = serde_json::from_str(&spool.told(&["--json"]).expect(75).text()).unwrap();
    assert_eq!(ended["alive"], false, "{ended}");
}
