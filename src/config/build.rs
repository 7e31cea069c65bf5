//! From layers to a configuration: which setting wins, and what it means beside others.
//!
//! Refuses to know how flags are spelled on the command line, but for its advice.

#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use url::Url;

use super::ceilings::limits;
use super::daemon::daemon;
use super::environment::Environment;
use super::gather::{read_files, variables};
use super::keys::Keys;
use super::layer::Layer;
use super::service::{Named, Service, service};
use super::{
    Action, Allowance, Clocks, Config, Daemon, Deadline, Destination, FOR_EVER, Input, InputFile, Integrity,
    JournalConfig, Order, Output, Report, Separator, ShardChoice, journal_beside,
};
use crate::api::token::KeyCommand;
use crate::exit::Stop;
use crate::line::escape::for_people;
use crate::line::{Defaults, Format, InputForm};

/// What the command line says.
#[derive(Debug, Default)]
pub struct Flags {
    /// What to do.
    pub action: Action,
    /// The settings that other layers can hold, too.
    pub layer: Layer,
    /// The endpoints; none at all leaves them to the other layers.
    pub base_urls: Vec<Url>,
    /// The files with their keys: none, one for all of them, or one for each in the same order.
    pub api_key_files: Vec<PathBuf>,
    /// The command that prints their key, in the place of files.
    pub api_key_command: Option<KeyCommand>,
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
    /// How many lines are tried first.
    pub pilot: Option<NonZeroUsize>,
}

/// Makes the configuration: `/etc`, the user's file, the named file, the environment, then flags; the later one wins.
///
/// Reads every key file once, so that one which cannot be used stops the run before anything is sent.
pub fn build(mut flags: Flags, environment: &Environment) -> Result<Config, Stop> {
    let files = read_files(flags.config_file.as_deref(), environment)?;
    let variables = variables(environment)?;
    let base_urls = files.base_urls.into_iter().chain(variables.base_url.clone()).collect();
    let keys = Keys::new(files.key, base_urls, environment);
    let named = named(&mut flags);
    let mut settings = std::mem::take(&mut flags.layer).over(variables.over(files.settings));
    let mut warnings = files.warnings;
    let input = input(&mut flags, settings.input, environment)?;
    let deadline = flags.deadline.as_ref().map(|deadline| deadline.resolve(environment)).transpose()?;
    let report = flags.report;
    let action = flags.action;
    let output = output(flags, settings.format, environment)?;
    let daemon = (action == Action::Daemon).then(|| daemon(&mut settings)).transpose()?;
    let service = service(named, &mut settings, &keys, &files.ceiling, action, &mut warnings)?;
    refuse_keys_without_service(daemon.as_ref(), &service)?;
    Ok(Config {
        action,
        limits: limits(&settings, &service.endpoints, &files.ceiling, &mut warnings),
        service,
        integrity: Integrity {
            require_model: settings.require_model.unwrap_or_default(),
            retry_truncated: settings.retry_truncated.unwrap_or_default(),
        },
        clocks: Clocks { deadline, walltime_end: walltime_end(environment), ..clocks(&settings, action) },
        defaults: Defaults { model: settings.model, system: settings.system, params: settings.params },
        input,
        output,
        daemon,
        report,
        warnings,
    })
}

/// What the command line says of the service. Its dialect and rates win over those of a table, so they are told apart.
fn named(flags: &mut Flags) -> Named {
    Named {
        base_urls: std::mem::take(&mut flags.base_urls),
        key_files: std::mem::take(&mut flags.api_key_files),
        key_command: flags.api_key_command.take(),
        dialect: flags.layer.dialect,
        rate: flags.layer.rate.clone(),
        tokens_per_min: flags.layer.tokens_per_min,
    }
}

/// An owner's key belongs to one service: with several nobody could say which one it may be sent to.
fn refuse_keys_without_service(daemon: Option<&Daemon>, service: &Service) -> Result<(), Stop> {
    let endpoints = service.endpoints.len();
    match daemon.and_then(|daemon| daemon.owners.first()).filter(|_| endpoints > 1) {
        None => Ok(()),
        Some(owner) => Err(Stop::config(format!(
            "[owner.{}] names a key for one endpoint, and there are {endpoints}",
            for_people(&owner.name, 64)
        ))
        .way_out("keep one endpoint, or take the [owner.NAME] tables out: then the daemon's own keys pay for all")),
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
        walltime_end: None,
    }
}

/// When Slurm says that the job will end: seconds since 1970 (sbatch(1), output environment variables). What is no such
/// number is left alone, since it is only told to people.
fn walltime_end(environment: &Environment) -> Option<SystemTime> {
    let seconds = environment.lossy("SLURM_JOB_END_TIME")?.parse().ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
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
    let form = form.unwrap_or(InputForm::Json);
    Ok(Input { files, form, separator: flags.separator, shard, pilot: flags.pilot })
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
