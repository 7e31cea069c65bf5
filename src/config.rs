//! What a run is to do, complete and checked.
//!
//! Invariant: a [`Config`] cannot exist invalid, and nothing changes it afterwards. It is made by [`build`] alone, from
//! files, environment and flags. Knows no flag parser and opens nothing but configuration, certificates and keys.

mod build;
mod ceilings;
mod certificates;
mod daemon;
mod deadline;
mod endpoint;
mod environment;
mod file;
mod gather;
mod keys;
mod layer;
mod output;
mod service;
mod shard;
mod task;
mod values;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::api::Dialect;
use crate::line::{Defaults, InputForm};

pub use crate::flow::quota::Rate;
pub use build::{Flags, build};
pub use ceilings::Ceilings;
pub use daemon::{Daemon, DaemonLayer, LogFormat, Owner, OwnerCaps, OwnerLayer};
pub use deadline::{Deadline, parse_deadline};
pub use endpoint::EndpointLayer;
pub use environment::Environment;
pub use file::parse_toml;
pub use layer::{Layer, Params, Timeouts, filled, params, params_over};
pub use output::{
    Allowance, Destination, JournalConfig, Order, Output, input_copy_beside, journal_beside, with_ending,
};
pub use service::{EndpointConfig, Service};
pub use shard::{Shard, ShardChoice, parse_shard};
pub use task::{JournalAction, JournalTask, MergeTask, StatusForm, StatusTask, SubmitTask, Task};
pub use values::{parse_allowance, parse_base_url, parse_bytes, parse_duration, parse_param};

/// The service that is meant when nobody names one.
pub const BASE_URL_DEFAULT: &str = "https://anvilgpt.rcac.purdue.edu/api";

/// As good as for ever, and still no overflow when it is added to a time: how long a daemon waits for its service.
pub const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Everything that a run needs to know.
#[derive(Debug)]
pub struct Config {
    /// What to do.
    pub action: Action,
    /// The service, and how to talk to it.
    pub service: Service,
    /// The bounds on concurrency and memory.
    pub limits: Limits,
    /// The bounds on time.
    pub clocks: Clocks,
    /// What an answer has to be beside whole.
    pub integrity: Integrity,
    /// What a request gets that its own line does not say.
    pub defaults: Defaults,
    /// Where the request lines come from.
    pub input: Input,
    /// What becomes of the outcomes.
    pub output: Output,
    /// The settings of the daemon; `None` in every other mode.
    pub daemon: Option<Daemon>,
    /// How much is told to people.
    pub report: Report,
    /// What was changed or ignored and should be told before the run; each is one line.
    pub warnings: Vec<String>,
}

/// What to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Send every line, and write its completion.
    #[default]
    Filter,
    /// Validate every line; send nothing.
    DryRun,
    /// Try configuration, connection, token and model, one after another.
    Check,
    /// List the models that the token may use.
    Models,
    /// Run the prompt files that are dropped into a folder.
    Daemon,
}

/// The bounds on concurrency and memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many requests may be in flight at once, at all endpoints together.
    pub concurrency: NonZeroUsize,
    /// Whether so many are in flight all the time; otherwise as many as the service can take without a queue.
    pub fixed: bool,
    /// The longest request line, in bytes.
    pub line_bytes_max: usize,
    /// How much the reorder window may hold, in bytes.
    pub window_bytes_max: usize,
    /// The longest reply that is read, in bytes.
    pub reply_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            concurrency: ceilings::usual_concurrency(1, 0, false),
            fixed: false,
            line_bytes_max: 16 << 20,
            window_bytes_max: 64 << 20,
            reply_bytes_max: 64 << 20,
        }
    }
}

/// What an answer has to be beside whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Integrity {
    /// Whether an answer of another model than was asked for is none.
    pub require_model: bool,
    /// Whether an answer that was cut off at its longest is asked for again.
    pub retry_truncated: bool,
}

/// The bounds on time; no duration is zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// To connect, TLS included.
    pub connect: Duration,
    /// From sending a request to the first chunk of its reply: cold loads and queues are in it.
    pub first_token: Duration,
    /// Between two chunks of a reply.
    pub between_chunks: Duration,
    /// For a whole reply that is not streamed.
    pub whole_reply: Duration,
    /// For requests in flight to finish after the first signal.
    pub drain: Duration,
    /// How long an outage of the service is waited out; [`FOR_EVER`] in a daemon.
    pub outage_max: Duration,
    /// How long to wait for another token when the old one is refused; [`FOR_EVER`] in a daemon.
    pub auth_wait: Duration,
    /// The longest pause between two attempts of one request.
    pub retry_delay_max: Duration,
    /// When the run has to be over; to come when the configuration was made, and at most a year ahead.
    pub deadline: Option<SystemTime>,
    /// When the batch job that this run is part of will be ended, if it says so; nothing is stopped for it.
    pub walltime_end: Option<SystemTime>,
}

impl Default for Clocks {
    fn default() -> Clocks {
        Clocks {
            connect: Duration::from_secs(10),
            first_token: Duration::from_secs(900),
            between_chunks: Duration::from_secs(120),
            whole_reply: Duration::from_secs(900),
            drain: Duration::from_secs(25),
            outage_max: Duration::from_secs(30 * 60),
            auth_wait: Duration::from_secs(30 * 60),
            retry_delay_max: Duration::from_secs(60),
            deadline: None,
            walltime_end: None,
        }
    }
}

/// Where the request lines come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The inputs in the order in which they are read; never empty.
    pub files: Vec<InputFile>,
    /// What a line is.
    pub form: InputForm,
    /// What ends a line.
    pub separator: Separator,
    /// The part of the lines that is this run's own; `None` is all of them.
    pub shard: Option<Shard>,
    /// How many lines are tried first, to say what all of them will take.
    pub pilot: Option<NonZeroUsize>,
}

/// One input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputFile {
    /// Standard input.
    Stdin,
    /// A file or pipe by its name.
    Path(PathBuf),
}

/// What ends a record, in input and in text output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Separator {
    /// A line feed.
    #[default]
    Newline,
    /// A NUL byte.
    Nul,
}

impl Separator {
    /// The byte.
    pub fn byte(self) -> u8 {
        match self {
            Separator::Newline => b'\n',
            Separator::Nul => 0,
        }
    }
}

/// How much is told to people, on stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How much is told.
    pub verbosity: Verbosity,
    /// Whether progress is told even when stderr is not a terminal.
    pub progress: bool,
}

/// How much is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Warnings and the summary too.
    #[default]
    Normal,
    /// What happens to single requests too.
    Verbose,
    /// Everything.
    Debug,
}

/// A dialect, or the wish to find it by asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
pub enum DialectChoice {
    /// Ask the service.
    #[serde(rename = "auto")]
    Auto,
    /// Open WebUI.
    #[value(name = "open-webui")]
    #[serde(rename = "open-webui")]
    OpenWebUi,
    /// The OpenAI API, as many servers speak it.
    #[value(name = "openai")]
    #[serde(rename = "openai")]
    OpenAi,
}

impl DialectChoice {
    /// The dialect when it is known.
    pub fn dialect(self) -> Option<Dialect> {
        match self {
            DialectChoice::Auto => None,
            DialectChoice::OpenWebUi => Some(Dialect::OpenWebUi),
            DialectChoice::OpenAi => Some(Dialect::OpenAi),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let limits = Limits::default();
        assert_eq!((limits.concurrency.get(), limits.fixed), (16, false));
        assert_eq!(limits.line_bytes_max, 16 * 1024 * 1024);
        let clocks = Clocks::default();
        assert_eq!(clocks.outage_max, Duration::from_secs(1800));
        assert_eq!(clocks.drain, Duration::from_secs(25));
    }
}
