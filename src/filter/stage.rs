//! What every run of the filter has, with a journal or without: all that is opened before the first line is read.
//!
//! Invariant: nothing is sent here.

use std::fs::File;
use std::time::{Duration, SystemTime};

use super::failed::FailedLines;
use super::reader::Source;
use super::{create_failed, open_sources, pilot, writer};
use crate::api::client::ApiClient;
use crate::api::token::jwt_expiry;
use crate::config::{Config, Destination};
use crate::connection;
use crate::exit::{Exit, Stop};
use crate::report::{self, Lines, Reporter};
use crate::shutdown::{Shutdown, listen};

/// Larger inputs are not counted at the end of a run that was stopped.
const COUNTED_BYTES_MAX: u64 = 64 << 20;

/// A token that lives longer is not worth a word at the start.
const EXPIRY_NEAR: Duration = Duration::from_secs(48 * 3600);

/// What every run of the filter has, with a journal or without.
pub struct Stage {
    /// What is to be done.
    pub config: Config,
    /// The inputs.
    pub sources: Vec<Source>,
    /// The inputs once more, when all of them can be read a second time.
    files: Option<Vec<File>>,
    /// What failed.
    pub failed_lines: Option<FailedLines>,
    /// The way to each endpoint.
    pub clients: Vec<ApiClient>,
    /// What comes from outside.
    pub shutdown: Shutdown,
    /// What is told.
    pub reporter: Reporter,
}

impl Stage {
    /// Opens everything that a run needs; what cannot be had is found before anything is sent.
    pub fn set(config: Config) -> Result<Self, Stop> {
        let sources = open_sources(&config)?;
        if config.input.pilot.is_some() {
            pilot::must_be_files(&sources)?;
        }
        let failed_lines = create_failed(&config)?;
        let clients = connection::clients(&config)?;
        let shutdown = Shutdown::default();
        listen(&shutdown).map_err(|error| Stop::new(Exit::Io, format!("listen for signals: {error}")))?;
        let files = regular_files(&sources);
        let to_stdout = config.output.destination == Destination::Stdout;
        let reporter = Reporter::start(&config, to_stdout && writer::stdout_is_terminal());
        if let Some(warning) = expiry_warning(&config, SystemTime::now()) {
            reporter.warn(&warning);
        }
        Ok(Self { config, sources, files, failed_lines, clients, shutdown, reporter })
    }

    /// Lines of the whole input that are not blank, when it can be read a second time.
    pub fn count_lines(&self) -> Option<u64> {
        let files = self.files.as_deref()?;
        let bytes: Option<u64> = files.iter().map(|file| Some(file.metadata().ok()?.len())).sum();
        // Somebody who ends a run waits for its end, not for a number.
        bytes.filter(|bytes| *bytes <= COUNTED_BYTES_MAX)?;
        report::count_lines(files, self.config.input.separator, self.config.input.shard)
    }

    /// Lets the reporter look ahead at a run that begins now; a journal answers at most so many lines of it.
    pub fn look_ahead(&self, in_journal: u64) {
        let input = &self.config.input;
        let files = self.files.as_ref().and_then(|files| files.iter().map(|file| file.try_clone().ok()).collect());
        let lines = match (self.reporter.pilot(), files) {
            (Some(pilot), _) => Lines::Known(pilot.tried),
            (None, Some(files)) => {
                Lines::Counted { files, separator: input.separator, shard: input.shard, answered: in_journal }
            }
            (None, None) => return,
        };
        self.reporter.look_ahead(&self.config, lines);
    }
}

/// What a token's own expiry says, when it is near or past. The token is read, not verified.
fn expiry_warning(config: &Config, now: SystemTime) -> Option<String> {
    let expiries = config.service.endpoints.iter().filter_map(|endpoint| jwt_expiry(&endpoint.token.read().ok()??));
    let expiry = expiries.min()?;
    let way_out = "get a new one from the web page of the service (Settings, Account)";
    match expiry.duration_since(now) {
        Err(_) => Some(format!("the token has expired, it says; {way_out}")),
        Ok(left) if left < EXPIRY_NEAR => {
            let minutes = Duration::from_secs(left.as_secs().div_ceil(60) * 60);
            Some(format!("the token expires in {}; {way_out}", humantime::format_duration(minutes)))
        }
        Ok(_) => None,
    }
}

/// The inputs as files that can be read a second time, when all of them can.
fn regular_files(sources: &[Source]) -> Option<Vec<File>> {
    let regular = |file: &File| file.metadata().is_ok_and(|metadata| metadata.is_file());
    sources.iter().map(|source| source.file.try_clone().ok().filter(regular)).collect()
}
