//! What is refused: always with 64, and with a way out.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;

use super::super::tests::{nothing_around, parsed, refused, task};
use crate::config::Environment;
use crate::exit::Exit;

#[test]
fn misuse_is_refused_with_64_and_a_way_out() {
    for line in [
        &["--nonsense"][..],
        &["-j", "0"],
        &["-j", "many"],
        &["--max-outage", "0s"],
        &["--max-outage", "30"],
        &["--chunk-timeout", "0ms"],
        &["--max-line-bytes", "0"],
        &["--max-line-bytes", "1T"],
        &["--format", "xml"],
        &["--allow-failed", "101%"],
        &["-m", ""],
        &["-p", "temperature"],
        &["-q", "--progress"],
        &["-q", "-v"],
        &["check", "--dry-run"],
        &["--dry-run", "check"],
        &["-j", "2", "models"],
        &["--rate", "many"],
        &["--rate", "0/min"],
        &["--tokens-per-min", "0"],
        &["--pilot", "0"],
        &["--pilot", "5", "--dry-run"],
        &["--pilot", "5", "check"],
        &["check", "--rate", "5/min"],
        &["--fixed", "models"],
        &["--api-key-command", ""],
        &["--api-key-command", "a", "--api-key-command", "b"],
        &["--api-key-command", "a", "--api-key-file", "b"],
    ] {
        refused(line);
    }
    let shown = refused(&["-p", "stop=end"]);
    assert!(shown.contains("-p 'stop=\"text\"'"), "{shown}");
    let shown = refused(&["--modle", "x"]);
    assert!(shown.contains("--model"), "{shown}");
    assert!(!refused(&["--a\u{1b}[31mb"]).contains('\u{1b}'));
}

#[test]
fn a_key_on_the_command_line_is_refused_and_not_repeated() {
    let jwt = "eyJhbGciOi.hidden.c2ln";
    for line in [
        &["--api-key=hidden"][..],
        &["--api-key", "hidden"],
        &["--api_key=hidden"],
        &["--apikey", "hidden"],
        &["--token=hidden"],
        &["--token", "hidden"],
        &["--api-key-fil=hidden"],
        &["--api-key-file", "sk-hidden"],
        &["--api-key-file=sk-hidden"],
        &["--api-key-file", jwt],
        &["sk-hidden"],
        &["check", "--api-key=hidden"],
        &["--nonsense=sk-hidden"],
        &["--api-key-command", "echo sk-hidden"],
        &["--api-key-command=KEY='sk-hidden' printenv KEY"],
        &["models", "--api-key-command", "printf %s sk-hidden"],
    ] {
        let shown = refused(line);
        assert!(shown.contains("never put a key on the command line"), "{line:?}: {shown}");
        assert!(!shown.contains("hidden"), "{shown}");
        assert!(shown.contains("ANVILGPT_API_KEY") && shown.contains("--api-key-file FILE"), "{shown}");
    }
    parsed(&["--api-key-file", "./sk-file", "--auth-wait", "1s"]).unwrap();
    parsed(&["--api-key-command", "pass show anvilgpt"]).unwrap();
}

#[test]
fn key_files_are_one_for_all_base_urls_or_one_for_each() {
    let shown = |line: &[&str]| {
        let stop = task(line, &nothing_around()).unwrap_err();
        assert!(stop.exit == Exit::Usage && stop.way_out.is_some(), "{line:?}: {stop}");
        stop.to_string()
    };
    let (first, second) = ("--base-url=http://localhost:1", "--base-url=http://localhost:2");
    let (a, b, c) = ("--api-key-file=a", "--api-key-file=b", "--api-key-file=c");
    for line in [&[first, second, a, b, c][..], &[first, a, b], &[a, b]] {
        let shown = shown(line);
        assert!(shown.contains("one for each of them in the same order"), "{line:?}: {shown}");
    }
    assert!(shown(&[first, first]).contains("twice"));
}

#[test]
fn failed_lines_never_overwrite_an_input_or_the_summary() {
    let folder = tempfile::tempdir().unwrap();
    let (input, link) = (folder.path().join("in"), folder.path().join("link"));
    fs::write(&input, "").unwrap();
    fs::hard_link(&input, &link).unwrap();
    let (input, link) = (input.to_str().unwrap(), link.to_str().unwrap());
    assert!(refused(&["--failed", input, input]).contains("is an input,"));
    assert!(refused(&["--failed", link, "-", input]).contains("is an input,"));
    assert!(refused(&["--failed", "new", "new"]).contains("is an input,"));
    assert!(refused(&["--meta", link, input]).contains("--meta"));
    assert!(refused(&["--failed", "new", "--meta", "new"]).contains("both name"));
    parsed(&["--failed", "other", input]).unwrap();
}

#[test]
fn options_for_resuming_that_contradict_each_other_are_refused() {
    for (line, cause, way_out) in [
        (&["-o", "f", "--unordered"][..], "--unordered", "leave one of the two out"),
        (&["-o", "f", "--journal", "j"], "--journal cannot name another", "leave --journal out"),
        (&["--fresh"], "none are kept", "add -o FILE or --journal JOURNAL"),
        (&["--retry-failed"], "none are kept", "add -o FILE or --journal JOURNAL"),
        (&["--force"], "there is none", "add -o FILE"),
        (&["--discard-journal"], "there is none", "add -o FILE"),
        (&["--journal", "j", "--force"], "there is none", "leave --force out"),
        (&["--journal", "j", "--discard-journal"], "there is none", "leave --discard-journal out"),
        (&["-o", "-"], "a file is needed", "./-"),
        (&["--journal", "-"], "a file is needed", "./-"),
        (&["-o", "/"], "is a folder", "name a file in it"),
        (&["-o", "new/"], "is a folder", "name a file in it"),
        (&["--journal", ".."], "is a folder", "name a file in it"),
        (&["-o", "/dev/null"], "no regular file", "leave -o out"),
        (&["--journal", "/dev/null"], "no regular file", "name a file"),
        (&["--deadline", "soon"], "--deadline", "a time from now such as 55m"),
        (&["--shard", "3/2"], "--shard", "from 1 to 2"),
    ] {
        let shown = refused(line);
        assert!(shown.contains(cause) && shown.contains(way_out), "{line:?}: {shown}");
    }
    for line in [&["--journal", "j", "--unordered"][..], &["-o", "f", "--fresh", "--retry-failed", "--merge"]] {
        parsed(line).unwrap();
    }
}

#[test]
fn events_are_not_kept_whoever_asked_for_them() {
    let refused = |line: &[&str], environment: &_| {
        let stop = task(&[&["--base-url=http://localhost:1"], line].concat(), environment).unwrap_err();
        assert!(stop.exit == Exit::Usage && stop.way_out.as_deref().unwrap().contains("--format completion"), "{stop}");
        stop.message
    };
    assert!(refused(&["-o", "f", "--format", "events"], &nothing_around()).starts_with("-o keeps whole answers"));
    assert!(refused(&["--journal", "j", "--format=events"], &nothing_around()).starts_with("--journal keeps"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    fs::write(&file, "format = 'events'").unwrap();
    let environment = Environment::new(HashMap::new(), file);
    refused(&["-o", "f"], &environment);
    for line in [&["-o", "f", "--format", "raw"][..], &["-o", "f", "--merge"], &["--unordered"]] {
        task(&[&["--base-url=http://localhost:1"], line].concat(), &environment).unwrap();
    }
}

#[test]
fn the_output_file_and_what_is_kept_beside_it_never_overwrite_anything() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (output, link) = (path("f"), path("link"));
    for (name, own) in [("f", "-o "), ("f.journal", "-o's own "), ("f.input", "-o's own ")] {
        let named = path(name);
        let shown = refused(&["-o", &output, &named]);
        assert!(shown.contains(&format!("{own}{named} is an input,")), "{shown}");
        fs::write(&named, "").unwrap();
        fs::hard_link(&named, &link).unwrap();
        assert!(refused(&["-o", &output, "-", &link]).contains(&format!("{own}{named} is an input,")));
        for flag in ["--failed", "--meta"] {
            for other in [&named, &link, &format!("{}/./{name}", folder.path().display())] {
                let shown = refused(&["-o", &output, flag, other]);
                assert!(shown.contains(&format!("{flag} and -o both name {named}")), "{shown}");
            }
        }
        fs::remove_file(&link).unwrap();
        fs::remove_file(&named).unwrap();
    }
    assert!(refused(&["--journal", &output, &output]).contains("--journal"));
    assert!(refused(&["--journal", &output, "--failed", &output]).contains("--failed and --journal both name"));
    parsed(&["-o", &output, "--failed", &path("again"), "--meta", &path("meta"), &path("in")]).unwrap();
}

#[test]
fn work_on_journals_refuses_what_is_not_about_journals() {
    for (line, cause) in [
        (&["journal"][..], "<JOURNAL>"),
        (&["merge"], "<SHARD>"),
        (&["journal", "a", "b"], "unexpected argument"),
        (&["journal", "j", "--check", "--salvage", "o"], "--salvage"),
        (&["journal", "j", "--check", "--format", "raw"], "--format"),
        (&["journal", "j", "--salvage", "o", "-0"], "--null"),
        (&["journal", "j", "--salvage", "./j"], "the journal itself"),
        (&["journal", "j", "--format", "events"], "possible values: completion, raw, batch, text]"),
        (&["merge", "a", "--format", "events"], "possible values: completion, raw, batch, text]"),
        (&["merge", "a", "--force"], "-o FILE"),
        (&["merge", "a", "-o", "a"], "is a shard"),
        (&["merge", "a", "b", "./a"], "named twice"),
        (&["merge", "a", "-o", "/"], "is a folder"),
        (&["journal", "-"], "a file is needed"),
        (&["journal", "j", "-m", "x"], "`journal` takes no --model"),
        (&["-m", "x", "journal", "j"], "`journal` takes no --model"),
        (&["merge", "a", "--config", "x"], "`merge` takes no --config"),
        (&["merge", "a", "--api-key-file", "x"], "`merge` takes no --api-key-file"),
        (&["merge", "a", "--connect-timeout", "1s"], "`merge` takes no --connect-timeout"),
        (&["--shard", "1/2", "merge", "a"], "`merge` takes no --shard"),
        (&["merge", "a", "--shard", "1/2"], "unexpected argument"),
        (&["-o", "f", "merge", "a"], "anvil-filter merge … --output"),
        (&["--format", "raw", "journal", "j"], "anvil-filter journal … --format"),
        (&["-o", "f", "journal", "j"], "`journal` takes no --output"),
        (&["-o", "f", "check"], "`check` takes no --output"),
        (&["--deadline", "1h", "models"], "`models` takes no --deadline"),
    ] {
        let shown = refused(line);
        assert!(shown.contains(cause), "{line:?}: {shown}");
    }
}
