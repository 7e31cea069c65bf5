//! The options for resuming, as the command line takes and refuses them: every refusal comes before anything is sent.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, SystemTime};

use common::{Run, Sim, prompts, refused_base};
use serde_json::{Value, json};

/// Runs with arguments that must be refused with 64, and returns what stderr said.
fn refused(run: Run, args: &[&str]) -> String {
    let output = run.args(args).input(prompts(1)).output().expect(64);
    assert_eq!(output.text(), "", "{output}");
    assert!(output.stderr.lines().count() >= 2, "there is no way out: {output}");
    output.stderr
}

#[test]
fn contradictions_are_refused_before_anything_is_sent() {
    let sim = Sim::start(&[]);
    for (args, told) in [
        (&["-o", "f", "--unordered"][..], "--unordered"),
        (&["-o", "f", "--format", "events"], "the format events"),
        (&["--journal", "j", "--format", "events"], "the format events"),
        (&["-o", "f", "--journal", "j"], "--journal cannot name another"),
        (&["--fresh"], "add -o FILE or --journal JOURNAL"),
        (&["--retry-failed"], "add -o FILE or --journal JOURNAL"),
        (&["--force"], "add -o FILE"),
        (&["--discard-journal"], "add -o FILE"),
        (&["-o", "/dev/null"], "no regular file"),
        (&["--shard", "0/4"], "from 1 to 4"),
    ] {
        let shown = refused(Run::on(&sim), args);
        assert!(shown.contains(told), "{args:?}: {shown}");
    }
    assert_eq!(sim.count("requests"), 0);
}

#[test]
fn the_input_is_never_the_output_nor_a_name_beside_it() {
    for name in ["in", "in.journal", "in.input"] {
        let run = Run::at(&refused_base());
        let input = run.file(name, prompts(1));
        let output = run.path("in");
        let output = output.to_str().unwrap();
        let shown = refused(run.args([&input]), &["-o", output]);
        assert!(shown.contains("is an input"), "{shown}");
    }
    let run = Run::at(&refused_base());
    let path = run.file("in", prompts(1));
    let shown = refused(run.stdin(std::fs::File::open(&path).unwrap()), &["-o", path.to_str().unwrap()]);
    assert!(shown.contains("is an input"), "{shown}");
}

#[test]
fn the_shard_of_an_array_task_comes_from_its_number_alone() {
    let at = || Run::at(&refused_base()).env("SLURM_ARRAY_TASK_COUNT", "2").env("SLURM_ARRAY_TASK_MAX", "2");
    for (run, told) in [
        (at(), "SLURM_ARRAY_TASK_ID is not set"),
        (at().env("SLURM_ARRAY_TASK_ID", "5"), "SLURM_ARRAY_TASK_ID is 5, which is not from 1 to 4"),
        (at().env("SLURM_ARRAY_TASK_ID", "x"), "SLURM_ARRAY_TASK_ID is x, which is no number"),
    ] {
        let shown = refused(run, &["--shard", "slurm/4"]);
        assert!(shown.contains(told) && shown.contains("--array=1-4"), "{shown}");
    }
}

#[test]
fn a_deadline_is_to_come_and_local_times_are_those_of_tz() {
    let at = |zone: &str| Run::at(&refused_base()).env("TZ", zone);
    let shown = refused(at("EST5"), &["--deadline", "2020-02-29T14:30:00"]);
    assert!(shown.contains("it is past") && shown.contains("-05:00\n"), "{shown}");
    let shown = refused(at("Nowhere/Else"), &["--deadline", "14:30"]);
    assert!(shown.contains("the local time is not known") && shown.contains("set TZ"), "{shown}");
    let shown = refused(at("EST5"), &["--deadline", "N/A"]);
    assert!(shown.contains("55m"), "{shown}");
    // An hour ago in UTC is to come in a zone ten hours behind.
    let hour_ago = humantime::format_rfc3339_seconds(SystemTime::now() - Duration::from_secs(3600)).to_string();
    let local = hour_ago.trim_end_matches('Z');
    refused(at("UTC0"), &["--deadline", local]);
    at("BEHIND10").args(["--dry-run", "--deadline", local]).input(prompts(1)).output().expect(0);
}

#[test]
fn work_on_journals_wants_neither_key_nor_configuration_and_no_options_of_a_run() {
    for args in [&["journal", "none"][..], &["merge", "none"]] {
        let run = Run::bare();
        std::fs::create_dir_all(run.path(".config/anvil-filter")).unwrap();
        run.file(".config/anvil-filter/config.toml", "modle = 1");
        let output = run.args(args).output();
        assert!(![0, 64, 78].contains(&output.status), "{output}");
        assert!(!output.stderr.contains("config.toml") && !output.stderr.contains("key"), "{output}");
    }
    for (args, told) in [
        (&["journal", "none", "-m", "x"][..], "`journal` takes no --model"),
        (&["--failed", "f", "merge", "none"], "`merge` takes no --failed"),
        (&["-o", "f", "merge", "none"], "anvil-filter merge … --output"),
        (&["merge", "none", "./none"], "named twice"),
    ] {
        let shown = refused(Run::bare(), args);
        assert!(shown.contains(told), "{args:?}: {shown}");
    }
}

#[test]
fn the_summary_names_the_shard() {
    let sim = Sim::start(&[]);
    let meta = |args: &[&str]| -> Value {
        let run = Run::on(&sim);
        let path = run.path("meta");
        let output = run.args(args).args(["--meta".as_ref(), path.as_os_str()]).input(prompts(1)).output().expect(0);
        serde_json::from_slice(&output.file("meta")).unwrap()
    };
    assert_eq!(meta(&[])["input"]["shard"], Value::Null);
    assert_eq!(meta(&["--shard", "1/1"])["input"]["shard"], json!({ "index": 1, "count": 1 }));
}
