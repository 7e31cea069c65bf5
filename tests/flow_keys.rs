//! Keys of several endpoints: each goes to its own place, and one that is refused is one endpoint's trouble.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;

use common::tap::Tap;
use common::{KEY, MODEL, Run, Sim, prompts, wait_for, write_private};
use serde_json::json;

/// Keys that must be seen in one place each.
const CANARIES: [&str; 2] = ["sk-canary-of-the-first", "sk-canary-of-the-second"];

/// A service that takes this key only, and some milliseconds for each answer.
fn locked(key: &str) -> Sim {
    Sim::start(&["--token", key, "--latency", "fixed:10"])
}

/// A run without a key of its own, against these base URLs.
fn keyless(bases: &[String]) -> Run {
    Run::plain().without("ANVILGPT_API_KEY").args(bases.iter().flat_map(|base| ["--base-url", base]))
}

/// The same with a key file for each of the keys.
fn with_keys(bases: &[String], keys: &[&str]) -> (Run, Vec<PathBuf>) {
    let mut run = keyless(bases);
    let files: Vec<PathBuf> =
        keys.iter().enumerate().map(|(at, key)| run.file(&format!("key-{at}"), key.as_bytes())).collect();
    for file in &files {
        run = run.args(["--api-key-file".as_ref(), file.as_os_str()]);
    }
    (run, files)
}

fn bases(sims: &[Sim]) -> Vec<String> {
    sims.iter().map(Sim::base).collect()
}

#[test]
fn each_endpoint_receives_its_own_key_and_no_other() {
    let sims = CANARIES.map(locked);
    let taps = [Tap::before(&sims[0]), Tap::before(&sims[1])];
    let bases = [taps[0].base(), taps[1].base()];
    let (by_flags, files) = with_keys(&bases, &CANARIES);
    let tables: String = bases
        .iter()
        .zip(&files)
        .map(|(base, file)| format!("[[endpoint]]\nbase_url = '{base}'\napi_key_file = '{}'\n", file.display()))
        .collect();
    let by_tables = keyless(&[]);
    let config = by_tables.file("config.toml", tables);
    let by_tables = by_tables.args(["--config".as_ref(), config.as_os_str()]);
    // The variable's key belongs to neither, where each has its own.
    for run in [by_tables.env("ANVILGPT_API_KEY", KEY), by_flags.env("ANVILGPT_API_KEY", KEY)] {
        sims.iter().for_each(Sim::reset);
        let output = run.args(["-vv"]).input(prompts(60)).output().expect(0);
        output.answers_prompts(60);
        for (at, tap) in taps.iter().enumerate() {
            assert!(sims[at].count("ok") > 5 && sims[at].count("auth_refused") == 0, "{}", sims[at].stats());
            assert!(tap.seen().contains(CANARIES[at]), "the key did arrive");
            assert!(!tap.seen().contains(CANARIES[1 - at]) && !tap.seen().contains(KEY), "another's key");
        }
        assert!(!output.stderr.contains("canary"), "{output}");
    }
}

#[test]
fn one_key_file_serves_all_base_urls_and_a_wrong_number_of_them_is_misuse() {
    let sims = [locked(KEY), locked(KEY)];
    let (run, _) = with_keys(&bases(&sims), &[KEY]);
    run.input(prompts(40)).output().expect(0).answers_prompts(40);
    assert!(sims.iter().all(|sim| sim.count("ok") > 5 && sim.count("auth_refused") == 0));
    let output = with_keys(&bases(&sims), &[KEY; 3]).0.input(prompts(1)).output().expect(64);
    assert!(output.stderr.contains("--api-key-file is given 3 times, and --base-url 2 times"), "{output}");
    assert!(output.stderr.contains("one key file for all base URLs, or one for each"), "{output}");
    let output = with_keys(&bases(&sims)[..1], &[KEY; 2]).0.input(prompts(1)).output().expect(64);
    assert!(output.stderr.contains("--api-key-file is given 2 times, and --base-url 1 times"), "{output}");
    let base = sims[0].base();
    let output = keyless(&[base.clone(), base]).input(prompts(1)).output().expect(64);
    assert!(output.stderr.contains("twice"), "{output}");
}

#[test]
fn a_key_that_is_refused_is_one_endpoints_trouble_and_named() {
    for files in [true, false] {
        let (good, wrong) = (locked(KEY), locked("sk-another"));
        let bases = [wrong.base(), good.base()];
        let run = if files { with_keys(&bases, &[KEY]).0 } else { keyless(&bases).env("ANVILGPT_API_KEY", KEY) };
        let output = run.input(prompts(60)).output().expect(0);
        output.answers_prompts(60);
        assert!(output.stderr.contains(wrong.address()) && output.stderr.contains("token"), "{output}");
        assert!(!output.stderr.contains(good.address()), "{output}");
        assert!(wrong.count("auth_refused") < 20, "a key in doubt is not tried on every line: {}", wrong.stats());
    }
}

#[test]
fn keys_that_are_refused_everywhere_end_the_run_with_77() {
    let sims = [locked("sk-another"), locked("sk-third")];
    let output = with_keys(&bases(&sims), &[KEY]).0.input(prompts(60)).output().expect(77);
    assert!(output.stdout.is_empty() && output.stderr.contains("token"), "{output}");
}

/// The key of one endpoint expires: the other one goes on meanwhile, and a new key brings it back.
#[test]
fn a_key_file_that_is_rotated_brings_its_endpoint_back() {
    let sims = ["sk-old", KEY].map(locked);
    let (run, files) = with_keys(&bases(&sims), &["sk-old", KEY]);
    let mut live = run.args(["--fixed", "-j", "4"]).start();
    live.feed_in_background(prompts(900).into_bytes());
    sims[0].wait_for_count("ok", 20);
    sims[0].control(&json!({ "tokens": ["sk-new"] }));
    live.wait_for_stderr(sims[0].address());
    let (before, others) = (sims[0].count("ok"), sims[1].count("ok"));
    sims[1].wait_for_count("ok", others + 20);
    write_private(&files[0], b"sk-new");
    wait_for("answers with the new key", || (sims[0].count("ok") > before + 20 || live.has_ended()).then_some(()));
    live.close_input();
    live.finish().expect(0).answers_prompts(900);
    assert!(sims[0].count("ok") > before + 20, "{}", sims[0].stats());
    assert!(sims[0].count("auth_refused") < 30, "{}", sims[0].stats());
}

#[test]
fn a_key_of_the_environment_that_expires_at_one_endpoint_leaves_the_run_to_the_other() {
    let sims = [locked(KEY), locked(KEY)];
    let mut live = keyless(&bases(&sims)).env("ANVILGPT_API_KEY", KEY).args(["--fixed", "-j", "4"]).start();
    live.feed_and_close(prompts(200).into_bytes());
    sims[0].wait_for_count("ok", 10);
    sims[0].control(&json!({ "tokens": ["sk-new"] }));
    let output = live.finish().expect(0);
    output.answers_prompts(200);
    assert!(output.stderr.contains(sims[0].address()), "{output}");
}

/// A command that keeps what it was given, counts its runs and prints the key; run for all endpoints once.
#[test]
fn a_key_command_runs_once_and_is_given_nothing() {
    let sims = [locked(CANARIES[0]), locked(CANARIES[0])];
    let run = keyless(&bases(&sims)).env("ANVILGPT_API_KEY", CANARIES[1]);
    let key = run.file("key", CANARIES[0]);
    let (given, asked) = (run.path("given"), run.path("asked"));
    let script = format!(
        "{{ env; tr '\\0' '\\n' </proc/$$/cmdline; tr '\\0' '\\n' </proc/$PPID/cmdline; }} >{}; wc -c >>{}; cat {}",
        given.display(),
        asked.display(),
        key.display()
    );
    let output = run.args(["--api-key-command", &script, "-vv"]).input(prompts(40)).output().expect(0);
    output.answers_prompts(40);
    assert!(sims.iter().all(|sim| sim.count("ok") > 5 && sim.count("auth_refused") == 0));
    let given = String::from_utf8(output.file("given")).unwrap();
    assert!(given.contains("--api-key-command") && !given.contains("canary"), "{given}");
    assert!(!output.stderr.contains("canary"), "{output}");
    assert_eq!(output.file("asked"), b"0\n", "run once, with nothing to read");
}

#[test]
fn a_key_command_that_gives_no_key_is_a_mistake_of_the_set_up() {
    let sim = locked(KEY);
    let commands = [
        ("exit 3", "3"),
        ("true", "no usable token"),
        ("echo canary; echo canary", "no usable token"),
        ("no-such-command-at-all", "127"),
        ("kill -9 $$", "9"),
    ];
    for (command, told) in commands {
        let run = Run::bare().args(["-m", MODEL, "--base-url", &sim.base(), "--api-key-command"]).args([command]);
        let output = run.input(prompts(2)).output().expect(78);
        assert!(output.stderr.contains(told) && !output.stderr.contains("canary"), "{command}: {output}");
        assert!(output.stdout.is_empty());
    }
    assert_eq!((sim.count("requests"), sim.count("auth_refused")), (0, 0));
}
