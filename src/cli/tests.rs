//! What a command line comes to, and what is refused.
#![allow(clippy::unwrap_used)]

mod help;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::*;
use crate::api::Upstream;
use crate::config::{
    Allowance, Clocks, Config, Destination, InputFile, Integrity, JournalAction, JournalConfig, JournalTask, Limits,
    MergeTask, Report, Separator, Shard, Verbosity,
};
use crate::exit::Exit;
use crate::line::{Format, InputForm};

pub(super) fn parsed(line: &[&str]) -> Result<Cli, CliExit> {
    parse([&["anvil-filter"], line].concat())
}

pub(super) fn task(line: &[&str], environment: &Environment) -> Result<Task, Stop> {
    parsed(line).unwrap().into_task(environment)
}

pub(super) fn nothing_around() -> Environment {
    Environment::new(HashMap::new(), PathBuf::from("/nonexistent/config.toml"))
}

pub(super) fn config(line: &[&str]) -> Config {
    match task(&[&["--base-url=http://localhost:1"], line].concat(), &nothing_around()).unwrap() {
        Task::Run(config) => *config,
        other => panic!("{line:?} is no run: {other:?}"),
    }
}

pub(super) fn refused(line: &[&str]) -> String {
    match parsed(line) {
        Err(CliExit::Usage(stop)) => {
            assert_eq!(stop.exit, Exit::Usage);
            assert!(stop.way_out.is_some(), "{line:?} has no way out");
            stop.to_string()
        }
        other => panic!("{line:?} was not refused: {other:?}"),
    }
}

#[test]
fn the_definition_is_sound() {
    let command = Cli::command();
    let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).chain(["help"]).collect();
    assert_eq!(names, SUBCOMMANDS);
    command.debug_assert();
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
        "--fixed",
        "--rate",
        "60/min",
        "--rate=1000/h",
        "--tokens-per-min",
        "5000",
        "--require-model",
        "--retry-truncated",
        "--pilot",
        "20",
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
    assert_eq!(config.service.first().dialect, Some(crate::api::Dialect::OpenWebUi));
    assert_eq!(config.service.upstream, Upstream::Whole);
    let endpoint = config.service.first();
    assert_eq!(endpoint.rates, ["60/min", "1000/h"].map(|rate| rate.parse().unwrap()));
    assert_eq!((endpoint.tokens_per_minute, endpoint.concurrency), (Some(5000), None));
    assert_eq!(config.integrity, Integrity { require_model: true, retry_truncated: true });
    assert_eq!(config.input.pilot, NonZeroUsize::new(20));
    assert_eq!(
        config.limits,
        Limits {
            concurrency: NonZeroUsize::new(9).unwrap(),
            fixed: true,
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
            walltime_end: None,
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
fn the_usual_concurrency_is_that_of_the_controller_and_four_when_it_is_held() {
    let found = |line: &[&str]| config(line).limits.concurrency.get();
    assert_eq!([found(&[]), found(&["--fixed"]), found(&["--fixed", "-j9"])], [16, 4, 9]);
    // The helper names one base URL already.
    let more = ["--base-url=http://localhost:2", "--base-url=http://localhost:3"];
    assert_eq!([found(&more[..1]), found(&more), found(&[&more[..], &["--fixed"]].concat())], [32, 48, 4]);
    let many: Vec<String> = (2..9).map(|port| format!("--base-url=http://localhost:{port}")).collect();
    assert_eq!(found(&many.iter().map(String::as_str).collect::<Vec<_>>()), 64);
}

#[test]
fn several_base_urls_are_endpoints_in_their_order() {
    let config = config(&["--base-url", "http://localhost:2/v1", "--dialect", "openai", "--rate", "5/s"]);
    let urls: Vec<_> = config.service.endpoints.iter().map(|endpoint| endpoint.base_url.as_str()).collect();
    assert_eq!(urls, ["http://localhost:1/", "http://localhost:2/v1"]);
    for endpoint in &config.service.endpoints {
        assert_eq!(endpoint.dialect, Some(crate::api::Dialect::OpenAi));
        assert_eq!(endpoint.rates, ["5/s".parse().unwrap()]);
    }
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
fn an_output_file_has_its_journal_beside_it_and_a_stream_the_one_that_is_named() {
    let output = config(&["-o", "out/answers.jsonl"]).output;
    assert_eq!(output.destination, Destination::File("out/answers.jsonl".into()));
    let journal = |path: &str, fresh, retry_failed| JournalConfig { path: path.into(), fresh, retry_failed, job: None };
    assert_eq!(output.journal, Some(journal("out/answers.jsonl.journal", false, false)));
    assert_eq!(output.input_copy_path(), Some("out/answers.jsonl.input".into()));
    assert!(!output.force && !output.discard_journal);
    let output = config(&["--output", "f", "--fresh", "--force", "--discard-journal"]).output;
    assert_eq!(output.journal, Some(journal("f.journal", true, false)));
    assert!(output.force && output.discard_journal);
    let output = config(&["--journal", "j", "--retry-failed", "--unordered"]).output;
    assert_eq!((output.destination, output.journal), (Destination::Stdout, Some(journal("j", false, true))));
    assert_eq!(config(&[]).output.journal, None);
}

#[test]
fn the_surroundings_name_job_shard_and_hour() {
    let variables = [("SLURM_JOB_ID", "4711"), ("SLURM_ARRAY_TASK_ID", "3")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.into()));
    let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(12 * 3600);
    let environment = Environment::new(variables.into(), PathBuf::from("/nonexistent/config.toml"))
        .at(noon, jiff::tz::TimeZone::posix("EST5").unwrap());
    let line = ["--base-url=http://localhost:1", "-o", "f", "--shard", "slurm/4", "--deadline", "7:30"];
    let Task::Run(config) = task(&line, &environment).unwrap() else { panic!("no run") };
    assert_eq!(config.output.journal.unwrap().job.as_deref(), Some("4711"));
    assert_eq!(config.input.shard, Some(Shard { index: 3, count: 4 }));
    assert_eq!(config.clocks.deadline, Some(noon + Duration::from_secs(1800)));
    for line in [&["--shard", "slurm/2"][..], &["--deadline", "1969-12-31T14:30:00"]] {
        let stop = task(&[&["--base-url=http://localhost:1"], line].concat(), &environment).unwrap_err();
        assert!(stop.exit == Exit::Usage && stop.way_out.is_some(), "{stop}");
    }
}

#[test]
fn work_on_journals_needs_no_service_and_no_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("config.toml");
    std::fs::write(&broken, "modle = 1").unwrap();
    let environment = Environment::new(HashMap::new(), broken);
    let journal = |line: &[&str]| match task(line, &environment).unwrap() {
        Task::Journal(task) => task,
        other => panic!("{line:?}: {other:?}"),
    };
    let path = PathBuf::from("j");
    let print = |format, separator| JournalAction::Print { format, separator };
    let looked = |action, verbosity| JournalTask { path: path.clone(), action, verbosity };
    assert_eq!(journal(&["journal", "j"]), looked(print(None, Separator::Newline), Verbosity::Normal));
    let nul = print(Some(Format::Text), Separator::Nul);
    assert_eq!(journal(&["journal", "j", "--format", "text", "-0", "-q"]), looked(nul, Verbosity::Quiet));
    assert_eq!(journal(&["-v", "journal", "--check", "j"]), looked(JournalAction::Check, Verbosity::Verbose));
    let salvage = JournalAction::Salvage("out".into());
    assert_eq!(journal(&["journal", "j", "--salvage", "out"]), looked(salvage, Verbosity::Normal));
    let merge = match task(&["merge", "a", "b", "-o", "f", "--format=raw", "-0", "--force"], &environment).unwrap() {
        Task::Merge(task) => task,
        other => panic!("{other:?}"),
    };
    let expected = MergeTask {
        shards: vec!["a".into(), "b".into()],
        output: Some("f".into()),
        format: Some(Format::Raw),
        separator: Separator::Nul,
        force: true,
        verbosity: Verbosity::Normal,
    };
    assert_eq!(merge, expected);
}

#[test]
fn a_bad_base_url_is_a_matter_of_configuration() {
    let stop = task(&["--base-url", "http://host.example"], &nothing_around()).unwrap_err();
    assert_eq!(stop.exit, Exit::Config);
    assert!(stop.message.starts_with("--base-url: "), "{stop}");
}

#[track_caller]
pub(super) fn assert_default(help: &str, flag: &str, value: &str) {
    let text = help.split(&format!("--{flag} <")).nth(1).unwrap();
    let stated = text.split("[default: ").nth(1).unwrap().split(']').next().unwrap();
    assert_eq!(stated, value, "--{flag}");
}
