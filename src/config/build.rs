//! From layers to a configuration: which setting wins, and what it means beside others.
//!
//! Refuses to know how flags are spelled on the command line, but for its advice.

#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::certificates::certificates;
use super::daemon::daemon;
use super::environment::Environment;
use super::gather::{read_files, variables};
use super::keys::Keys;
use super::layer::Layer;
use super::values::parse_base_url;
use super::{
    Action, Allowance, BASE_URL_DEFAULT, Clocks, Config, Deadline, Destination, DialectChoice, FOR_EVER, Input,
    InputFile, JournalConfig, Limits, Order, Output, Report, Separator, Service, ShardChoice, journal_beside,
};
use crate::api::Upstream;
use crate::api::token::TokenSource;
use crate::exit::Stop;
use crate::line::escape::shown;
use crate::line::{Defaults, Format, InputForm};

/// What the command line says.
#[derive(Debug, Default)]
pub struct Flags {
    /// What to do.
    pub action: Action,
    /// The settings that other layers can hold, too.
    pub layer: Layer,
    /// A configuration file that must exist.
    pub config_file: Option<PathBuf>,
    /// The inputs; `-` is standard input, and none at all means the same.
    pub files: Vec<PathBuf>,
    /// What ends a record.
    pub separator: Separator,
    /// The field that takes the answer.
    pub merge: Option<String>,
    /// The file that collects the input lines that failed.
    pub failed: Option<PathBuf>,
    /// The file that takes the summary.
    pub meta: Option<PathBuf>,
    /// The order of the output lines.
    pub order: Order,
    /// How many lines may fail while the run still counts as answered.
    pub allow_failed: Option<Allowance>,
    /// How many lines may fail before the run stops early.
    pub max_failed: Option<Allowance>,
    /// How much is told to people.
    pub report: Report,
    /// The file that takes the completions.
    pub output: Option<PathBuf>,
    /// The journal, where it is not that file's own.
    pub journal: Option<PathBuf>,
    /// Whether the answers of the journal are ignored.
    pub fresh: bool,
    /// Whether lines that failed are asked for again.
    pub retry_failed: bool,
    /// Whether the output may replace a file that is not ours.
    pub force: bool,
    /// Whether the journal goes away at the end.
    pub discard_journal: bool,
    /// When the run has to be over.
    pub deadline: Option<Deadline>,
    /// The part of the input that is this run's own.
    pub shard: Option<ShardChoice>,
}

/// Makes the configuration: `/etc`, the user's file, the named file, the environment, then flags; the later one wins.
///
/// Reads the token once, so that a key file which cannot be used stops the run before anything is sent.
pub fn build(mut flags: Flags, environment: &Environment) -> Result<Config, Stop> {
    let files = read_files(flags.config_file.as_deref(), environment)?;
    let variables = variables(environment)?;
    let keys = Keys {
        flag: flags.layer.api_key_file.take(),
        configured: files.key_file,
        base_urls: files.base_urls.into_iter().chain(variables.base_url.clone()).collect(),
        environment,
    };
    let mut settings = std::mem::take(&mut flags.layer).over(variables.over(files.settings));
    let mut warnings = files.warnings;
    let input = input(&mut flags, settings.input, environment)?;
    let deadline = flags.deadline.as_ref().map(|deadline| deadline.resolve(environment)).transpose()?;
    let report = flags.report;
    let action = flags.action;
    let output = output(flags, settings.format, environment)?;
    let daemon = (action == Action::Daemon).then(|| daemon(&mut settings)).transpose()?;
    Ok(Config {
        action,
        service: service(&mut settings, &keys, action)?,
        limits: limits(&settings, files.ceiling, &mut warnings),
        clocks: Clocks { deadline, ..clocks(&settings, action) },
        defaults: Defaults { model: settings.model, system: settings.system, params: settings.params },
        input,
        output,
        daemon,
        report,
        warnings,
    })
}

fn service(settings: &mut Layer, keys: &Keys<'_>, action: Action) -> Result<Service, Stop> {
    let base_url = settings.base_url.take().map_or_else(|| parse_base_url(BASE_URL_DEFAULT), Ok)?;
    let token = match action {
        Action::DryRun => TokenSource::None,
        Action::Filter | Action::Check | Action::Models | Action::Daemon => keys.source_for(&base_url)?,
    };
    Ok(Service {
        base_url,
        dialect: settings.dialect.and_then(DialectChoice::dialect),
        upstream: settings.upstream.unwrap_or(Upstream::Stream),
        token: token.into(),
        ca_certificates_pem: certificates(settings.ca_cert.as_deref().unwrap_or_default())?,
    })
}

fn limits(settings: &Layer, ceiling: Option<(NonZeroUsize, PathBuf)>, warnings: &mut Vec<String>) -> Limits {
    let default = Limits::default();
    let mut concurrency = settings.concurrency.unwrap_or(default.concurrency);
    if let Some((ceiling, path)) = ceiling.filter(|(ceiling, _)| *ceiling < concurrency) {
        if settings.concurrency.is_some() {
            let path = shown(&path);
            warnings.push(format!("concurrency lowered from {concurrency} to {ceiling}, the limit in {path}"));
        }
        concurrency = ceiling;
    }
    Limits {
        concurrency,
        line_bytes_max: settings.max_line_bytes.unwrap_or(default.line_bytes_max),
        window_bytes_max: settings.window_bytes.unwrap_or(default.window_bytes_max),
        reply_bytes_max: settings.max_reply_bytes.unwrap_or(default.reply_bytes_max),
    }
}

fn clocks(settings: &Layer, action: Action) -> Clocks {
    let default = Clocks::default();
    // Nothing upstream ends a daemon, whatever the configuration files say for runs.
    let patience = |wanted: Option<Duration>, usual| match action {
        Action::Daemon => FOR_EVER,
        _ => wanted.unwrap_or(usual),
    };
    let timeouts = &settings.timeouts;
    Clocks {
        connect: timeouts.connect.unwrap_or(default.connect),
        first_token: timeouts.first_token.unwrap_or(default.first_token),
        between_chunks: timeouts.chunk.unwrap_or(default.between_chunks),
        whole_reply: timeouts.reply.unwrap_or(default.whole_reply),
        drain: timeouts.drain.unwrap_or(default.drain),
        outage_max: patience(settings.max_outage, default.outage_max),
        auth_wait: patience(settings.auth_wait, default.auth_wait),
        retry_delay_max: settings.max_retry_delay.unwrap_or(default.retry_delay_max),
        deadline: None,
    }
}

fn input(flags: &mut Flags, form: Option<InputForm>, environment: &Environment) -> Result<Input, Stop> {
    let mut files: Vec<InputFile> = std::mem::take(&mut flags.files)
        .into_iter()
        .map(|path| if path == Path::new("-") { InputFile::Stdin } else { InputFile::Path(path) })
        .collect();
    if files.is_empty() {
        files.push(InputFile::Stdin);
    }
    let shard = flags.shard.map(|shard| shard.resolve(environment)).transpose()?;
    Ok(Input { files, form: form.unwrap_or(InputForm::Json), separator: flags.separator, shard })
}

fn output(flags: Flags, format: Option<Format>, environment: &Environment) -> Result<Output, Stop> {
    // The flags cannot contradict each other here; a format from a file gives way to `--merge`.
    let format = format.filter(|_| flags.merge.is_none());
    let journal = journal(&flags, environment);
    if format == Some(Format::Events) && (journal.is_some() || flags.action == Action::Daemon) {
        return Err(events_are_not_kept(&flags));
    }
    Ok(Output {
        format,
        // Deltas are written as they arrive, so no order of lines is kept.
        order: if format == Some(Format::Events) { Order::Completion } else { flags.order },
        merge: flags.merge,
        failed: flags.failed,
        meta: flags.meta,
        allow_failed: flags.allow_failed,
        max_failed: flags.max_failed,
        destination: flags.output.map_or(Destination::Stdout, Destination::File),
        journal,
        force: flags.force,
        discard_journal: flags.discard_journal,
    })
}

fn events_are_not_kept(flags: &Flags) -> Stop {
    let (keeper, instead) = match flags.action {
        Action::Daemon => ("a daemon", ""),
        _ if flags.output.is_some() => ("-o", ", or leave -o out"),
        _ => ("--journal", ", or leave --journal out"),
    };
    Stop::usage(format!("{keeper} keeps whole answers, and the format events tells their pieces as they arrive"))
        .way_out(format!(
            "choose another form, --format completion for example{instead}; \
             the form may come from `format` in a configuration file"
        ))
}

fn journal(flags: &Flags, environment: &Environment) -> Option<JournalConfig> {
    let path = flags.output.as_deref().map(journal_beside).or_else(|| flags.journal.clone())?;
    let job = environment.lossy("SLURM_JOB_ID");
    Some(JournalConfig { path, fresh: flags.fresh, retry_failed: flags.retry_failed, job })
}
