//! The options about the service: where it is, with which key, how much of it is used, and how long it is given.
//!
//! Invariant: nothing here looks at two options at once. Refuses to know which of them a subcommand takes.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::api::Upstream;
use crate::api::token::KeyCommand;
use crate::config::{DialectChoice, Rate, Timeouts, parse_bytes, parse_duration};

#[derive(Debug, Args)]
pub(super) struct ServiceArgs {
    /// Model for lines that name none [env: ANVILGPT_MODEL]
    #[arg(short, long, value_name = "NAME", global = true, value_parser = NonEmptyStringValueParser::new())]
    pub(super) model: Option<String>,
    /// Base URL of the API; repeatable [env: ANVILGPT_BASE_URL] [default: AnvilGPT's]
    #[arg(long, value_name = "URL", global = true)]
    pub(super) base_url: Vec<String>,
    /// File or pipe with the key, one for all base URLs or one for each; the key itself may stand in ANVILGPT_API_KEY,
    /// never here
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) api_key_file: Vec<PathBuf>,
    /// Command that prints the key; it is run again when the key is refused
    #[arg(long, value_name = "CMD", global = true, conflicts_with = "api_key_file", hide_short_help = true)]
    #[arg(value_parser = KeyCommand::new)]
    pub(super) api_key_command: Option<KeyCommand>,
    /// PEM file with further certificates to trust; repeatable
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) ca_cert: Vec<PathBuf>,
    /// What the service speaks; auto asks it [default: auto]
    #[arg(long, value_name = "DIALECT", global = true)]
    pub(super) dialect: Option<DialectChoice>,
    #[command(flatten)]
    pub(super) how: UpstreamArgs,
    /// Read this configuration file, too
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct UpstreamArgs {
    /// Whether replies come as a stream or whole [default: stream]
    #[arg(long, value_name = "HOW")]
    pub(super) upstream: Option<Upstream>,
    /// Take answers of the model that was asked for only
    #[arg(long)]
    pub(super) require_model: bool,
    /// Ask again for answers that break off at their token limit
    #[arg(long)]
    pub(super) retry_truncated: bool,
}

#[derive(Debug, Args)]
pub(super) struct LimitArgs {
    #[command(flatten)]
    pub(super) bounds: BoundArgs,
    /// How long an outage is waited out [default: 30m]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(super) max_outage: Option<Duration>,
    /// How long to wait for a new key when the old one is refused [default: 30m]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, hide_short_help = true)]
    pub(super) auth_wait: Option<Duration>,
    #[command(flatten)]
    pub(super) clocks: ClockArgs,
}

/// What is in flight, and how large anything may be.
#[derive(Debug, Args)]
pub(super) struct BoundArgs {
    /// Most requests in flight at once [default: 16]
    #[arg(short = 'j', long, value_name = "N")]
    pub(super) concurrency: Option<NonZeroUsize>,
    /// Keep -j requests in flight, whether the service queues them or not; -j is 4 then where it is not given
    #[arg(long)]
    pub(super) fixed: bool,
    /// Send at most so often to an endpoint, for example 60/min or 2000/3h; repeatable
    #[arg(long, value_name = "RATE")]
    pub(super) rate: Vec<Rate>,
    /// Most tokens a minute at an endpoint, of prompts and completions together
    #[arg(long, value_name = "N")]
    pub(super) tokens_per_min: Option<NonZeroU64>,
    /// Longest input line [default: 16M]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, hide_short_help = true)]
    pub(super) max_line_bytes: Option<usize>,
    /// Most that waits to be written in order [default: 64M]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, hide_short_help = true)]
    pub(super) window_bytes: Option<usize>,
    /// Longest reply [default: 64M]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, hide_short_help = true)]
    pub(super) max_reply_bytes: Option<usize>,
}

/// How long single requests are given.
#[derive(Debug, Args)]
pub(super) struct ClockArgs {
    /// Longest pause between two attempts [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, hide_short_help = true)]
    pub(super) max_retry_delay: Option<Duration>,
    /// Time to connect [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, hide_short_help = true, global = true)]
    pub(super) connect_timeout: Option<Duration>,
    /// Time until a reply begins: queues and cold loads are in it [default: 900s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, hide_short_help = true, global = true)]
    pub(super) first_token_timeout: Option<Duration>,
    /// Time between two chunks of a reply [default: 120s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, hide_short_help = true, global = true)]
    pub(super) chunk_timeout: Option<Duration>,
    /// Time for a whole reply that is not streamed [default: 900s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, hide_short_help = true, global = true)]
    pub(super) reply_timeout: Option<Duration>,
    /// Time for requests in flight to finish after a signal [default: 25s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, hide_short_help = true)]
    pub(super) drain_timeout: Option<Duration>,
}

impl ClockArgs {
    pub(super) fn timeouts(&self) -> Timeouts {
        Timeouts {
            connect: self.connect_timeout,
            first_token: self.first_token_timeout,
            chunk: self.chunk_timeout,
            reply: self.reply_timeout,
            drain: self.drain_timeout,
        }
    }
}
