//! What surrounds the command line: variables, clock, and the machine's own configuration file.
//!
//! Invariant: the environment comes in as a value, so that nothing behind it asks the process.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::SystemTime;

use jiff::tz::TimeZone;

use crate::exit::Stop;

/// The configuration file of the machine.
const ETC_CONFIG: &str = "/etc/anvil-filter/config.toml";
/// The variables that matter; no other one is looked at, but for `TZ` when local times matter.
const VARIABLES: &[&str] = &[
    "ANVILGPT_API_KEY",
    "ANVILGPT_BASE_URL",
    "ANVILGPT_MODEL",
    "CREDENTIALS_DIRECTORY",
    "HOME",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_JOB_END_TIME",
    "SLURM_JOB_ID",
    "XDG_CONFIG_HOME",
];

/// Where settings are found outside the command line. Cannot be printed: a key may be in it.
pub struct Environment {
    variables: HashMap<String, OsString>,
    /// The configuration file of the machine, or what stands in its place.
    pub(super) etc_config: PathBuf,
    now: SystemTime,
    /// `None` asks `TZ` and the machine, once somebody needs it.
    zone: Option<TimeZone>,
}

impl Environment {
    /// The environment of this process, and the machine's own configuration file.
    pub fn from_process() -> Environment {
        let value = |name: &&str| Some((name.to_string(), std::env::var_os(name)?));
        Environment {
            variables: VARIABLES.iter().filter_map(value).collect(),
            etc_config: PathBuf::from(ETC_CONFIG),
            now: SystemTime::now(),
            zone: None,
        }
    }

    /// An environment that is made up: variables, and a path in the place of the machine's configuration file. Its clock
    /// shows the beginning of 1970, in UTC.
    pub fn new(variables: HashMap<String, OsString>, etc_config: PathBuf) -> Environment {
        Environment { variables, etc_config, now: SystemTime::UNIX_EPOCH, zone: Some(TimeZone::UTC) }
    }

    /// The same environment with its clock at another time, in another zone.
    pub fn at(self, now: SystemTime, zone: TimeZone) -> Environment {
        Environment { now, zone: Some(zone), ..self }
    }

    /// When this run began.
    pub(super) fn now(&self) -> SystemTime {
        self.now
    }

    /// The zone of local times. Nothing is guessed: a `TZ` that names no zone is an error.
    pub(super) fn time_zone(&self) -> Result<TimeZone, jiff::Error> {
        self.zone.clone().map_or_else(TimeZone::try_system, Ok)
    }

    /// A variable's text; an empty one counts as unset.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Stop> {
        match self.variables.get(name).filter(|value| !value.is_empty()) {
            None => Ok(None),
            Some(value) => value.to_str().map(|text| Some(text.to_owned())).ok_or_else(|| {
                Stop::config(format!("the environment variable {name} is not UTF-8"))
                    .way_out(format!("set {name} again, or unset it"))
            }),
        }
    }

    /// A variable's text, whatever bytes are in it; an empty one counts as unset.
    pub(super) fn lossy(&self, name: &str) -> Option<String> {
        self.variables.get(name).filter(|value| !value.is_empty()).map(|value| value.to_string_lossy().into_owned())
    }

    /// A variable's absolute path; the specifications of all of them say to ignore relative ones.
    pub(super) fn folder(&self, name: &str) -> Option<PathBuf> {
        self.variables.get(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// The user's own folder for this program's configuration.
    pub(super) fn user_folder(&self) -> Option<PathBuf> {
        let home = || Some(self.folder("HOME")?.join(".config"));
        Some(self.folder("XDG_CONFIG_HOME").or_else(home)?.join("anvil-filter"))
    }
}
