//! What a command line comes to, and what is refused.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::api::Upstream;
use crate::config::{Allowance, Clocks, InputFile, Limits, Report, Verbosity};
use crate::exit::{EXITS, Exit};
use crate::line::{Format, InputForm};

fn parsed(line: &[&str]) -> Result<Cli, CliExit> {
    parse([&["anvil-filter"], line].concat())
}

fn config(line: &[&str]) -> Config {
    let environment = Environment::new(HashMap::new(), PathBuf::from("/nonexistent/config.toml"));
    let line = [&["--base-url=http://localhost:1"], line].concat();
    parsed(&line).unwrap().into_config(&environment).unwrap()
}

fn refused(line: &[&str]) -> String {
    match parsed(line) {
        Err(CliExit::Usage(stop)) => {
            assert_eq!(stop.exit, Exit::Usage);
            assert!(stop.way_out.is_some(), "{line:?} has no way out");
            stop.to_string()
        }
        other => panic!("{line:?} was not refused: {other:?}"),
    }
}

fn help(flag: &str) -> String {
    match parsed(&[flag]) {
        Err(CliExit::Help(text)) => text,
        other => panic!("{flag}: {other:?}"),
    }
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_flag_arrives() {
    let config = config(&[
        "-m",
        "llama",
        "-s",
        "short",
        "-p",
        "seed=1",
        "-p",
        "stop=\"a\"",
        "--dialect",
        "open-webui",
        "--upstream",
        "whole",
        "-j",
        "9",
        "--input",
        "text",
        "-0",
        "--format",
        "raw",
        "--failed",
        "f",
        "--unordered",
        "--max-line-bytes",
        "1M",
        "--window-bytes",
        "2k",
        "--max-reply-bytes",
        "3",
        "--max-outage",
        "1s",
        "--auth-wait",
        "2s",
        "--connect-timeout",
        "3s",
        "--first-token-timeout",
        "4s",
        "--chunk-timeout",
        "5s",
        "--reply-timeout",
        "6s",
        "--drain-timeout",
        "7s",
        "--max-retry-delay",
        "8s",
        "--allow-failed",
        "1",
        "--max-failed",
        "5%",
        "--meta",
        "m",
        "--progress",
        "-vv",
        "a",
        "-",
        "b",
    ]);
    let seconds = Duration::from_secs;
    assert_eq!(config.action, Action::Filter);
    assert_eq!(config.defaults.model.as_deref(), Some("llama"));
    assert_eq!(config.defaults.system.as_deref(), Some("short"));
    let params: Vec<_> = config.defaults.params.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(params, ["seed=1", "stop=\"a\""]);
    assert_eq!(config.service.dialect, Some(crate::api::Dialect::OpenWebUi));
    assert_eq!(config.service.upstream, Upstream::Whole);
    assert_eq!(
        config.limits,
        Limits {
            concurrency: NonZeroUsize::new(9).unwrap(),
            line_bytes_max: 1 << 20,
            window_bytes_max: 2048,
            reply_bytes_max: 3,
        }
    );
    assert_eq!(
        config.clocks,
        Clocks {
            outage_max: seconds(1),
            auth_wait: seconds(2),
            connect: seconds(3),
            first_token: seconds(4),
            between_chunks: seconds(5),
            whole_reply: seconds(6),
            drain: seconds(7),
            retry_delay_max: seconds(8),
            deadline: None,
        }
    );
    let path = |name: &str| InputFile::Path(PathBuf::from(name));
    assert_eq!(config.input.files, [path("a"), InputFile::Stdin, path("b")]);
    assert_eq!((config.input.form, config.input.separator), (InputForm::Text, Separator::Nul));
    let output = config.output;
    assert_eq!((output.format, output.order), (Some(Format::Raw), Order::Completion));
    assert_eq!((output.failed, output.meta), (Some("f".into()), Some("m".into())));
    assert_eq!(output.allow_failed, Some(Allowance::Lines(1)));
    assert_eq!(output.max_failed, Some(Allowance::Percent(5.0)));
    assert_eq!(config.report, Report { verbosity: Verbosity::Debug, progress: true });
}

#[test]
fn without_flags_the_documented_defaults_hold() {
    let config = config(&[]);
    assert_eq!((config.limits, config.clocks), (Limits::default(), Clocks::default()));
    assert_eq!(config.input.files, [InputFile::Stdin]);
    assert_eq!(config.output, Default::default());
    assert!(parsed(&[]).unwrap().reads_stdin_unasked());
    assert!(!parsed(&["-"]).unwrap().reads_stdin_unasked());
    assert!(!parsed(&["check"]).unwrap().reads_stdin_unasked());
}

#[test]
fn merge_takes_its_field_after_an_equals_sign_only() {
    assert_eq!(config(&["--merge"]).output.merge.as_deref(), Some("completion"));
    assert_eq!(config(&["--merge=answer"]).output.merge.as_deref(), Some("answer"));
    let config = config(&["--merge", "file"]);
    assert_eq!(config.input.files, [InputFile::Path("file".into())]);
    refused(&["--merge="]);
    parsed(&["--merge", "--format", "completion"]).unwrap();
    for format in ["raw", "batch", "text", "events"] {
        assert!(refused(&["--merge", "--format", format]).contains("leave one of the two out"));
    }
}

#[test]
fn events_come_as_they_happen() {
    assert_eq!(config(&["--format", "events"]).output.order, Order::Completion);
    assert_eq!(config(&["--format", "raw"]).output.order, Order::Input);
}

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
    ] {
        let shown = refused(line);
        assert!(shown.contains("never put a key on the command line"), "{line:?}: {shown}");
        assert!(!shown.contains("hidden"), "{shown}");
        assert!(shown.contains("ANVILGPT_API_KEY") && shown.contains("--api-key-file FILE"), "{shown}");
    }
    parsed(&["--api-key-file", "./sk-file", "--auth-wait", "1s"]).unwrap();
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
fn check_and_models_take_the_connection_options_on_either_side() {
    for line in [
        &["check", "-m", "x", "--connect-timeout", "1s", "-v"][..],
        &["-m", "x", "--connect-timeout", "1s", "-v", "check"],
    ] {
        let config = config(line);
        assert_eq!((config.action, config.defaults.model.as_deref()), (Action::Check, Some("x")));
        assert_eq!((config.clocks.connect, config.report.verbosity), (Duration::from_secs(1), Verbosity::Verbose));
    }
    assert_eq!(config(&["models", "-q"]).report.verbosity, Verbosity::Quiet);
    assert_eq!(config(&["--dry-run"]).action, Action::DryRun);
}

#[test]
fn a_bad_base_url_is_a_matter_of_configuration() {
    let environment = Environment::new(HashMap::new(), PathBuf::from("/nonexistent/config.toml"));
    let stop = parsed(&["--base-url", "http://host.example"]).unwrap().into_config(&environment).unwrap_err();
    assert_eq!(stop.exit, Exit::Config);
    assert!(stop.message.starts_with("--base-url: "), "{stop}");
}

#[test]
fn help_has_its_headings_examples_and_ends_with_the_exit_table() {
    let (long, short) = (help("--help"), help("-h"));
    for heading in ["Input:", "Output:", "Service:", "Limits and clocks:", "Reporting:", "Examples:", "Exit status:"] {
        assert!(long.contains(heading), "{heading}");
    }
    let last = EXITS.last().unwrap().1;
    assert!(long.trim_end().ends_with(last) && short.trim_end().ends_with(last));
    assert!(short.len() < long.len() && !short.contains("--chunk-timeout"));
    assert!(!long.contains("--api-key ") && !long.contains("--api-key="));
    assert!(help("--version").starts_with("anvil-filter "));
    assert!((5..=7).contains(&short_usage().lines().count()));
}

#[test]
fn help_states_the_real_defaults() {
    let (limits, clocks) = (Limits::default(), Clocks::default());
    let long = help("--help").split_whitespace().collect::<Vec<_>>().join(" ");
    let has = |flag: &str, value: String| {
        let text = long.split(&format!("--{flag} <")).nth(1).unwrap();
        let stated = text.split("[default: ").nth(1).unwrap().split(']').next().unwrap();
        assert_eq!(stated, value, "--{flag}");
    };
    has("concurrency", limits.concurrency.to_string());
    has("max-line-bytes", format!("{}M", limits.line_bytes_max >> 20));
    has("window-bytes", format!("{}M", limits.window_bytes_max >> 20));
    has("max-reply-bytes", format!("{}M", limits.reply_bytes_max >> 20));
    has("max-outage", format!("{}m", clocks.outage_max.as_secs() / 60));
    has("auth-wait", format!("{}m", clocks.auth_wait.as_secs() / 60));
    has("max-retry-delay", format!("{}s", clocks.retry_delay_max.as_secs()));
    has("connect-timeout", format!("{}s", clocks.connect.as_secs()));
    has("first-token-timeout", format!("{}s", clocks.first_token.as_secs()));
    has("chunk-timeout", format!("{}s", clocks.between_chunks.as_secs()));
    has("reply-timeout", format!("{}s", clocks.whole_reply.as_secs()));
    has("drain-timeout", format!("{}s", clocks.drain.as_secs()));
}
