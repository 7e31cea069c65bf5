//! The flags: parsed once, valid or refused. Knows nothing of sockets.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::draw;
use crate::fault::Rule;
use crate::quota::Quota;

/// Simulator of Open WebUI and OpenAI-compatible chat services, with their faults.
#[derive(Debug, clap::Parser)]
#[command(name = "anvilgpt-sim", args_override_self = true)]
pub struct Args {
    /// TCP port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Which server to behave as
    #[arg(long, value_enum, default_value_t = Regime::Webui06)]
    pub regime: Regime,
    /// A model that is served (repeatable)
    #[arg(long = "model", value_name = "NAME",
          default_values = ["llama3.1:latest", "llama3.2:latest", "think:latest", "tool:latest", "alias:latest"])]
    pub models: Vec<String>,
    /// Service time of a request: zero, fixed:MS or lognormal:MEDIAN_MS:P99_MS
    #[arg(long, default_value = "zero", value_parser = Latency::parse)]
    pub latency: Latency,
    /// Seed of every draw
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Share of the latency that passes before the first chunk
    #[arg(long, default_value_t = 0.5, value_name = "F", value_parser = parse_share)]
    pub first_token_share: f64,
    /// Time to the first chunk, in place of a share of the latency; the latency begins with it
    #[arg(long, value_name = "MS", conflicts_with = "first_token_share")]
    pub first_token: Option<u64>,
    /// What each KiB of the prompt adds to that time
    #[arg(long, value_name = "MS", default_value_t = 0, requires = "first_token")]
    pub first_token_per_kib: u64,
    /// Chunks of a streamed reply (default: one a word)
    #[arg(long, value_name = "N")]
    pub chunks: Option<NonZeroUsize>,
    /// Pause between chunks, in place of the latency's rest
    #[arg(long, value_name = "MS")]
    pub chunk_delay: Option<u64>,
    /// Requests served at a time, the others queue (default: all)
    #[arg(long, value_name = "N")]
    pub slots: Option<NonZeroUsize>,
    /// Requests admitted within a time, 429 for the others: 60/500ms, 1000/h (repeatable)
    #[arg(long = "quota", value_name = "N/TIME", value_parser = Quota::parse)]
    pub quotas: Vec<Quota>,
    /// Say in the 429 of a quota when to come back
    #[arg(long, requires = "quotas")]
    pub quota_retry_after: bool,
    /// Say in every answer how the quota stands of which the least is left
    #[arg(long, requires = "quotas")]
    pub rate_headers: bool,
    /// Leave usage out of every reply
    #[arg(long)]
    pub no_usage: bool,
    /// Extra time of a request whose model is not the one that is loaded
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub cold_load: u64,
    /// An accepted bearer token (repeatable; default: any)
    #[arg(long = "token", value_name = "KEY")]
    pub tokens: Vec<String>,
    /// Accept requests without a token, too
    #[arg(long)]
    pub open: bool,
    /// A fault to inject: KIND[=ARG][@RATE][,first=N][,after=N] (repeatable)
    #[arg(long = "fault", value_name = "FAULT", value_parser = Rule::parse)]
    pub faults: Vec<Rule>,
}

/// Which server's wire format and habits are reproduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Regime {
    /// Open WebUI 0.6.13
    #[value(name = "0.6")]
    Webui06,
    /// Open WebUI 0.12.4
    #[value(name = "0.12")]
    Webui12,
    /// OpenAI and its imitators
    #[value(name = "openai")]
    Openai,
}

impl Regime {
    /// True for both Open WebUI regimes.
    pub fn is_webui(self) -> bool {
        self != Regime::Openai
    }

    /// True when a request goes on being served although its client left before the first byte of the reply.
    pub fn outlives_client(self) -> bool {
        self.is_webui()
    }
}

/// How long serving a request takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Latency {
    /// No time at all
    Zero,
    /// The same for every request
    Fixed(Duration),
    /// Log-normal; the time is `median · exp(sigma · z)`
    Lognormal {
        /// Median in milliseconds
        median_ms: f64,
        /// Standard deviation of the logarithm
        sigma: f64,
    },
}

/// z of the 99th percentile of the normal distribution.
const Z_P99: f64 = 2.326_347_874;

impl Latency {
    fn parse(text: &str) -> Result<Latency, String> {
        let bad = || format!("latency `{text}`: want zero, fixed:MS or lognormal:MEDIAN_MS:P99_MS");
        let number = |s: &str| s.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0).ok_or_else(bad);
        match text.split(':').collect::<Vec<_>>()[..] {
            ["zero"] => Ok(Latency::Zero),
            ["fixed", ms] => Ok(Latency::Fixed(Duration::from_secs_f64(number(ms)? / 1e3))),
            ["lognormal", median, p99] => {
                let (median_ms, p99) = (number(median)?, number(p99)?);
                if median_ms <= 0.0 || p99 < median_ms {
                    return Err(bad());
                }
                Ok(Latency::Lognormal { median_ms, sigma: (p99 / median_ms).ln() / Z_P99 })
            }
            _ => Err(bad()),
        }
    }

    /// The service time of the request with this identity.
    pub fn of(self, seed: u64, identity: u64) -> Duration {
        match self {
            Latency::Zero => Duration::ZERO,
            Latency::Fixed(time) => time,
            Latency::Lognormal { median_ms, sigma } => {
                let z = draw::normal(seed, identity);
                Duration::from_secs_f64(median_ms * (sigma * z).exp() / 1e3)
            }
        }
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|e| format!("{e}"))?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("want a number from 0 to 1".to_owned()) }
}
