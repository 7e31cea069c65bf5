//! What the command lines about folders come to, and what is refused.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use super::super::CliExit;
use super::super::tests::{assert_default, parsed, refused, task};
use crate::api::Upstream;
use crate::config::{
    Action, Clocks, Config, Daemon, Environment, FOR_EVER, InputFile, Limits, LogFormat, OwnerCaps, StatusForm,
    StatusTask, SubmitTask, Task, Verbosity,
};
use crate::exit::{Exit, Stop};
use crate::line::Format;

fn help_of(subcommand: &str) -> String {
    match parsed(&[subcommand, "--help"]) {
        Err(CliExit::Help(text)) => text,
        other => panic!("{subcommand}: {other:?}"),
    }
}

#[test]
fn help_of_a_daemon_states_the_real_defaults() {
    let long = help_of("daemon").split_whitespace().collect::<Vec<_>>().join(" ");
    let has = |flag: &str, value: String| assert_default(&long, flag, &value);
    let daemon = Daemon::default();
    has("settle", format!("{}s", daemon.settle.as_secs()));
    has("scan-every", format!("{}s", daemon.scan_every.as_secs()));
    has("max-open-files", daemon.open_files_max.to_string());
    has("max-file-bytes", format!("{}G", daemon.file_bytes_max >> 30));
    has("max-owner-files", daemon.owner_caps.files.to_string());
    has("max-owner-bytes", format!("{}G", daemon.owner_caps.bytes >> 30));
    has("max-owner-lines", daemon.owner_caps.lines.to_string());
    has("retain", format!("{}d", daemon.retain.as_secs() / 86_400));
    has("log-format", format!("{:?}", daemon.log_format).to_lowercase());
    has("concurrency", Limits::default().concurrency.to_string());
    has("drain-timeout", format!("{}s", Clocks::default().drain.as_secs()));
    for told in ["--base-url", "--api-key-file", "--upstream", "--chunk-timeout", "--param", "--merge", "--rate"] {
        assert!(long.contains(told), "{told}");
    }
    for untold in ["--max-outage", "--deadline", "--pilot"] {
        assert!(!long.contains(untold), "{untold}");
    }
}

#[test]
fn help_of_status_and_submit_tells_of_no_service() {
    for (name, own) in [("status", "--watch"), ("submit", "--wait")] {
        let shown = help_of(name);
        assert!(shown.contains("--spool") && shown.contains(own) && shown.contains("--quiet"), "{shown}");
        assert!(!shown.contains("--model") && !shown.contains("--base-url") && !shown.contains("timeout"), "{shown}");
    }
}

/// What a daemon of these arguments comes to, on a machine with this configuration file.
fn daemon_config(line: &[&str], file: &str) -> Result<Config, Stop> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("in")).unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, file).unwrap();
    let environment = Environment::new(HashMap::new(), path);
    match task(&[&["daemon", "--base-url=http://localhost:1"], line].concat(), &environment)? {
        Task::Run(config) => Ok(*config),
        other => panic!("{line:?} is no run: {other:?}"),
    }
}

#[test]
fn every_flag_of_a_daemon_arrives() {
    let folders: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    let [a, b, c, done] = [0, 1, 2, 3].map(|at: usize| folders[at].path().to_str().unwrap());
    let line = [
        &["--spool", a, b, "--spool", c, "--archive", done][..],
        &["--recursive", "--once", "--standby", "--settle", "3s", "--scan-every", "1m", "--max-open-files", "9"],
        &["--max-file-bytes", "1M", "--max-owner-files", "10", "--max-owner-bytes", "2M", "--max-owner-lines", "11"],
        &["--retain", "7d", "--log-format", "json", "-m", "llama", "-s", "short", "-p", "seed=1"],
        &["--format", "raw", "-j", "12", "--max-line-bytes", "3M", "--max-retry-delay", "8s", "--drain-timeout", "7s"],
        &["--chunk-timeout", "5s", "--upstream", "whole", "-v", "--require-model", "--retry-truncated", "--fixed"],
        &["--rate", "60/min", "--rate", "1000/h", "--tokens-per-min", "5000", "--base-url", "http://localhost:2"],
    ];
    let config = daemon_config(&line.concat(), "max_outage = '1s'\nauth_wait = '1s'").unwrap();
    assert_eq!(
        config.daemon.unwrap(),
        Daemon {
            spools: [a, b, c].map(PathBuf::from).into(),
            recursive: true,
            archive: Some(done.into()),
            once: true,
            standby: true,
            settle: Duration::from_secs(3),
            scan_every: Duration::from_secs(60),
            open_files_max: 9,
            file_bytes_max: 1 << 20,
            owner_caps: OwnerCaps { files: 10, bytes: 2 << 20, lines: 11 },
            owners: Vec::new(),
            retain: Duration::from_secs(7 * 86_400),
            log_format: LogFormat::Json,
        }
    );
    let Clocks { between_chunks, retry_delay_max, drain, outage_max, auth_wait, .. } = config.clocks;
    let seconds = [5, 8, 7].map(Duration::from_secs);
    assert_eq!([between_chunks, retry_delay_max, drain], seconds);
    assert_eq!([outage_max, auth_wait], [FOR_EVER; 2]);
    assert_eq!(
        (config.action, config.limits.concurrency.get(), config.limits.line_bytes_max),
        (Action::Daemon, 12, 3 << 20)
    );
    assert_eq!((config.defaults.model.as_deref(), config.defaults.system.as_deref()), (Some("llama"), Some("short")));
    assert_eq!(config.defaults.params.len(), 1);
    assert_eq!((config.output.format, config.service.upstream), (Some(Format::Raw), Upstream::Whole));
    assert!(config.limits.fixed && config.integrity.require_model && config.integrity.retry_truncated);
    assert_eq!(config.service.endpoints.len(), 2);
    for endpoint in &config.service.endpoints {
        assert_eq!((endpoint.rates.len(), endpoint.tokens_per_minute), (2, Some(5000)));
    }
    assert_eq!(config.report.verbosity, Verbosity::Verbose);
}

#[test]
fn a_daemon_takes_its_folders_from_the_configuration_file_and_flags_win() {
    let file = "[daemon]\nspool = 'in'\nsettle = '5s'\nrecursive = true\n[owner.root]\napi_key_file = 'key'";
    let config = daemon_config(&["--settle", "1s"], file).unwrap();
    let daemon = config.daemon.unwrap();
    assert_eq!((daemon.settle, daemon.recursive, daemon.once), (Duration::from_secs(1), true, false));
    assert!(daemon.spools.len() == 1 && daemon.spools[0].ends_with("in"), "{daemon:?}");
    assert!(daemon.owners[0].id == 0 && daemon.owners[0].api_key_file.is_absolute(), "{daemon:?}");
    let flag = tempfile::tempdir().unwrap();
    let config = daemon_config(&["--spool", flag.path().to_str().unwrap()], file).unwrap();
    assert_eq!(config.daemon.unwrap().spools, [flag.path()]);
    let without_daemon = config_with("[daemon]\nspool = '/none'\n[owner.nobody-of-that-name]\napi_key_file = 'key'");
    assert_eq!(without_daemon.daemon, None);
}

fn config_with(file: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, file).unwrap();
    match task(&["--base-url=http://localhost:1"], &Environment::new(HashMap::new(), path)).unwrap() {
        Task::Run(config) => *config,
        other => panic!("no run: {other:?}"),
    }
}

#[test]
fn a_daemon_that_cannot_be_is_refused_with_its_way_out() {
    for (line, file, exit, told) in [
        (&[][..], "", Exit::Usage, "add --spool DIR"),
        (&["--spool", "/none/at/all"], "", Exit::Config, "mkdir -p /none/at/all"),
        (&["--spool", "/tmp"], "format = 'events'", Exit::Usage, "a daemon keeps whole answers"),
        (
            &["--spool", "/tmp", "--base-url=http://localhost:2"],
            "[owner.root]\napi_key_file = 'k'",
            Exit::Config,
            "[owner.root] names a key for one endpoint, and there are 2",
        ),
        (&["--spool", "/tmp"], "[owner.nobody-of-that-name]\napi_key_file = 'k'", Exit::Config, "[owner.nobody-of"),
    ] {
        let stop = daemon_config(line, file).unwrap_err();
        assert!(stop.exit == exit && stop.way_out.is_some(), "{line:?}: {stop}");
        assert!(stop.to_string().contains(told), "{line:?}: {stop}");
    }
}

#[test]
fn status_and_submit_need_no_service_and_no_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("config.toml");
    std::fs::write(&broken, "modle = 1").unwrap();
    let environment = Environment::new(HashMap::new(), broken);
    let Task::Status(status) = task(&["status", "--spool", "a", "b", "--json"], &environment).unwrap() else {
        panic!()
    };
    let expected = StatusTask { spools: vec!["a".into(), "b".into()], form: StatusForm::Json, watch: false };
    assert_eq!(status, expected);
    let Task::Status(status) = task(&["status", "--watch", "--spool=a"], &environment).unwrap() else { panic!() };
    assert_eq!((status.form, status.watch), (StatusForm::Human, true));
    let line = ["submit", "--spool", "s", "-", "--name", "n.jsonl", "--wait", "-q"];
    let Task::Submit(submit) = task(&line, &environment).unwrap() else { panic!() };
    let expected = SubmitTask {
        spool: "s".into(),
        files: vec![InputFile::Stdin],
        name: Some("n.jsonl".into()),
        wait: true,
        verbosity: Verbosity::Quiet,
    };
    assert_eq!(submit, expected);
}

#[test]
fn a_daemon_says_why_it_does_not_take_what_a_run_takes() {
    for (line, cause) in [
        (&["daemon", "--spool", "d", "--max-outage", "1h"][..], "as long as it lasts"),
        (&["daemon", "--spool", "d", "--auth-wait=1h"], "as long as it lasts"),
        (&["daemon", "--spool", "d", "-o", "f"], "beside their prompt files"),
        (&["daemon", "--spool", "d", "--journal", "j"], "beside their prompt files"),
        (&["daemon", "--spool", "d", "--failed", "f"], "its own result"),
        (&["daemon", "--spool", "d", "--meta", "m"], "its own result"),
        (&["daemon", "--spool", "d", "--shard", "1/2"], "one daemon"),
        (&["daemon", "--spool", "d", "--deadline", "1h"], "--once"),
        (&["daemon", "--spool", "d", "--dry-run"], "--dry-run FILE"),
        (&["daemon", "--spool", "d", "--pilot", "9"], "--pilot N FILE"),
        (&["daemon", "--spool", "d", "--input", "text"], "anvil.toml"),
        (&["daemon", "--spool", "d", "--format", "events"], "possible values: completion, raw, batch, text]"),
        (&["daemon", "--spool", "d", "-0"], "are lines"),
        (&["daemon", "--spool", "d", "--progress"], "--watch"),
        (&["daemon", "file"], "submit --spool DIR FILE"),
        (&["daemon", "--spool"], "--spool"),
        (&["daemon", "--spool", "d", "--merge", "--format", "raw"], "leave one of the two out"),
        (&["daemon", "--spool", "d", "--settle", "0s"], "more than zero"),
        (&["daemon", "--spool", "d", "--max-open-files", "0"], "--max-open-files"),
        (&["daemon", "--spool", "d", "--log-format", "xml"], "possible values: human, json]"),
        (&["-o", "f", "daemon", "--spool", "d"], "`daemon` takes no --output"),
        (&["-j", "2", "daemon", "--spool", "d"], "anvil-filter daemon … --concurrency"),
        (&["status"], "--spool"),
        (&["status", "--spool", "d", "-m", "x"], "`status` takes no --model"),
        (&["submit", "f"], "--spool"),
        (&["submit", "--spool", "d"], "<FILE>"),
        (&["submit", "--spool", "d", "-"], "add --name NAME"),
        (&["submit", "--spool", "d", "a", "b", "--name", "c.jsonl"], "one by one"),
        (&["submit", "--spool", "d", "a", "--name", "x/c.jsonl"], "without a folder"),
        (&["submit", "--spool", "d", "a", "--name", ".."], "without a folder"),
        (&["submit", "--spool", "d", "f", "--config", "c"], "`submit` takes no --config"),
        (&["submit", "--spool", "d", "f", "--json"], "unexpected argument"),
    ] {
        let shown = refused(line);
        assert!(shown.contains(cause), "{line:?}: {shown}");
    }
}
