//! The bounds on concurrency and memory, and what no flag can raise.
//!
//! Invariant: a ceiling only ever lowers: the least concurrency and the least tokens hold, and rates all hold together.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use super::layer::{Layer, rates};
use super::service::EndpointConfig;
use super::{Limits, Rate};
use crate::line::escape::shown;

/// How many requests may be in flight at one endpoint when nobody says so: the most that the controller tries.
const ADAPTIVE: usize = 16;
/// The same at all endpoints together.
const ADAPTIVE_MAX: usize = 64;
/// The same when the number is held: a good guest's, for the service is shared with people who chat.
const FIXED: usize = 4;

/// The `[limits]` of a layer: what no later layer can raise.
#[derive(Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ceilings {
    /// The highest concurrency.
    pub concurrency: Option<NonZeroUsize>,
    /// Rates that hold for each endpoint, whatever others are set.
    #[serde(deserialize_with = "rates")]
    pub rate: Option<Vec<Rate>>,
    /// The most tokens per minute of each endpoint.
    pub tokens_per_min: Option<NonZeroU64>,
}

impl Ceilings {
    /// These on top of others.
    pub(super) fn over(self, lower: Ceilings) -> Ceilings {
        Ceilings {
            concurrency: self.concurrency.or(lower.concurrency),
            rate: self.rate.or(lower.rate),
            tokens_per_min: self.tokens_per_min.or(lower.tokens_per_min),
        }
    }
}

/// The ceilings of the machine, and the file that says so.
#[derive(Debug, Default)]
pub(super) struct Ceiling {
    pub(super) values: Ceilings,
    pub(super) path: PathBuf,
}

impl Ceiling {
    /// The rates of an endpoint: its own ones, and those of the ceiling. Each is there once.
    pub(super) fn rates(&self, wanted: &[Rate]) -> Vec<Rate> {
        let mut rates: Vec<Rate> = Vec::new();
        for rate in wanted.iter().chain(self.values.rate.iter().flatten()) {
            if !rates.contains(rate) {
                rates.push(*rate);
            }
        }
        rates
    }

    /// The lower one of what is wanted and what is allowed. A wish that is lowered is told.
    pub(super) fn tokens_per_minute(&self, wanted: Option<NonZeroU64>, warnings: &mut Vec<String>) -> Option<u64> {
        let least = wanted.into_iter().chain(self.values.tokens_per_min).min();
        if let (Some(wanted), Some(least)) = (wanted, least)
            && least < wanted
        {
            self.tell("tokens_per_min", wanted.get(), least.get(), warnings);
        }
        least.map(NonZeroU64::get)
    }

    fn concurrency(
        &self,
        wanted: Option<NonZeroUsize>,
        usual: NonZeroUsize,
        warnings: &mut Vec<String>,
    ) -> NonZeroUsize {
        let concurrency = wanted.unwrap_or(usual);
        match self.values.concurrency.filter(|ceiling| *ceiling < concurrency) {
            Some(ceiling) => {
                if wanted.is_some() {
                    self.tell("concurrency", concurrency.get() as u64, ceiling.get() as u64, warnings);
                }
                ceiling
            }
            None => concurrency,
        }
    }

    /// The same is told once, however many endpoints it is true of.
    fn tell(&self, what: &str, wanted: u64, allowed: u64, warnings: &mut Vec<String>) {
        let told = format!("{what} lowered from {wanted} to {allowed}, the limit in {}", shown(&self.path));
        if !warnings.contains(&told) {
            warnings.push(told);
        }
    }
}

/// The bounds that all layers come to.
pub(super) fn limits(
    settings: &Layer,
    endpoints: &[EndpointConfig],
    ceiling: &Ceiling,
    warnings: &mut Vec<String>,
) -> Limits {
    let default = Limits::default();
    let fixed = settings.fixed.unwrap_or(default.fixed);
    let named = endpoints.iter().filter_map(|endpoint| endpoint.concurrency);
    let others = endpoints.len() - named.clone().count();
    let usual = usual_concurrency(others, named.map(NonZeroUsize::get).sum(), fixed);
    Limits {
        concurrency: ceiling.concurrency(settings.concurrency, usual, warnings),
        fixed,
        line_bytes_max: settings.max_line_bytes.unwrap_or(default.line_bytes_max),
        window_bytes_max: settings.window_bytes.unwrap_or(default.window_bytes_max),
        reply_bytes_max: settings.max_reply_bytes.unwrap_or(default.reply_bytes_max),
    }
}

/// The concurrency of all endpoints when nobody names it: `named` in all of those endpoints that have their own, and the
/// usual one of the others.
pub(super) fn usual_concurrency(others: usize, named: usize, fixed: bool) -> NonZeroUsize {
    let usual = match others {
        0 => 0,
        _ if fixed => FIXED,
        _ => (ADAPTIVE * others).min(ADAPTIVE_MAX),
    };
    NonZeroUsize::new(named.saturating_add(usual)).unwrap_or(NonZeroUsize::MIN)
}
