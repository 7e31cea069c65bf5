//! `--meta FILE`: the summary as JSON, for scripts and for the methods section of a paper.
//!
//! Invariant: appears whole or not at all; holds settings and counts, never a prompt, an answer or a key.

use std::io::Write as _;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::Reporter;
use crate::config::{Config, InputFile};
use crate::exit::{Exit, Stop};

/// What is known of the input when it was read to its end.
#[derive(Debug)]
pub struct InputFacts {
    /// Records, blank ones included.
    pub lines: u64,
    /// The hash of all bytes.
    pub sha256: Option<String>,
}

/// Writes the summary, when it was asked for.
pub fn write(
    config: &Config,
    reporter: &Reporter,
    input: Option<InputFacts>,
    unsettled: u64,
    exit: Exit,
) -> Result<(), Stop> {
    let Some(path) = &config.output.meta else { return Ok(()) };
    let value = summary(config, reporter, input, unsettled, exit);
    publish(path, &value)
        .map_err(|error| Stop::new(Exit::Io, format!("--meta: write {}: {error}", crate::line::escape::shown(path))))
}

fn summary(config: &Config, reporter: &Reporter, input: Option<InputFacts>, unsettled: u64, exit: Exit) -> Value {
    let counts = reporter.counts();
    let (prompt, completion) = counts.tokens();
    let map = |pairs: Vec<(String, u64)>| {
        pairs.into_iter().map(|(name, count)| (name, Value::from(count))).collect::<Map<_, _>>()
    };
    let codes = counts.codes().into_iter().map(|(code, count)| (code.as_str().to_owned(), count)).collect();
    let flags = counts.flags().iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    let mut summary = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "exit_status": exit.code(),
        "input": {
            "files": config.input.files.iter().map(name).collect::<Vec<_>>(),
            "lines": input.as_ref().map(|input| input.lines),
            "sha256": input.and_then(|input| input.sha256),
            "shard": config.input.shard.map(|shard| json!({ "index": shard.index, "count": shard.count })),
        },
        "settings": settings(config),
        "settled": counts.settled(),
        "answered": counts.answered(),
        "failed": counts.failed(),
        "replayed": counts.replayed(),
        "not_settled": unsettled,
        "failed_by_code": map(codes),
        "flags": map(flags),
        "models_served": map(counts.models()),
        "attempts": counts.attempts(),
        "retries": counts.retries(),
        "tokens": { "prompt": prompt, "completion": completion },
        "began": humantime::format_rfc3339_millis(reporter.began_at()).to_string(),
        "seconds": reporter.seconds(),
    });
    if let Some(before) = reporter.outlook.before() {
        summary["forecast_seconds"] = before.as_secs_f64().into();
    }
    if let Some(pilot) = reporter.pilot() {
        let projected = reporter.projected(config).map(|projected| projected.to_json());
        summary["pilot"] = json!({ "lines": pilot.lines, "bad": pilot.bad, "projected": projected });
    }
    summary
}

fn settings(config: &Config) -> Value {
    let params: Map<String, Value> = config
        .defaults
        .params
        .iter()
        .map(|(name, value)| (name.clone(), serde_json::from_str(value.get()).unwrap_or(Value::Null)))
        .collect();
    let endpoints = &config.service.endpoints;
    let mut settings = json!({
        "base_url": config.service.first().base_url.as_str(),
        "model": config.defaults.model,
        "system": config.defaults.system,
        "params": params,
        "concurrency": config.limits.concurrency.get(),
        "upstream": format!("{:?}", config.service.upstream).to_lowercase(),
    });
    if endpoints.len() > 1 {
        settings["base_urls"] = endpoints.iter().map(|endpoint| endpoint.base_url.as_str()).collect();
    }
    settings
}

fn name(input: &InputFile) -> String {
    match input {
        InputFile::Stdin => "-".to_owned(),
        InputFile::Path(path) => path.to_string_lossy().into_owned(),
    }
}

fn publish(path: &Path, value: &Value) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let as_usual = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    let mut file = tempfile::Builder::new().permissions(as_usual).prefix(".anvil-filter-meta-").tempfile_in(folder)?;
    serde_json::to_writer_pretty(&mut file, value)?;
    file.write_all(b"\n")?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
