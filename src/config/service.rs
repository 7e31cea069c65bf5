//! The service: one endpoint or several, each with its own key and its own bounds.
//!
//! Invariant: there is an endpoint, and no two have the same base URL. Refuses to know whether anybody answers there.

#[cfg(test)]
mod tests;

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;

use url::Url;

use super::ceilings::Ceiling;
use super::certificates::certificates;
use super::endpoint::EndpointLayer;
use super::keys::{KeyPlace, Keys, Origin};
use super::layer::Layer;
use super::values::parse_base_url;
use super::{Action, BASE_URL_DEFAULT, DialectChoice, Rate};
use crate::api::token::{KeyCommand, TokenSource};
use crate::api::{Dialect, Upstream};
use crate::exit::Stop;

/// More endpoints are a mistake.
const ENDPOINTS_MAX: usize = 64;

/// The service, and how to talk to it.
#[derive(Debug)]
pub struct Service {
    /// Where it is; never empty, and the first is the one that people name.
    pub endpoints: Vec<EndpointConfig>,
    /// Whether replies are asked for as a stream.
    pub upstream: Upstream,
    /// The contents of the additional certificate files, one after another; empty when there are none.
    pub ca_certificates_pem: Vec<u8>,
}

impl Service {
    /// The endpoint that stands for all of them where there is room for one.
    pub fn first(&self) -> &EndpointConfig {
        self.endpoints.first().expect("a service has an endpoint")
    }
}

/// One endpoint of the service.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// Http or https, without user, query and fragment, and without a slash at its end (but for a bare host, whose path
    /// is always `/`: join with [`EndpointConfig::url`]).
    pub base_url: Url,
    /// The dialect; `None` asks the endpoint.
    pub dialect: Option<Dialect>,
    /// Where the token comes from; it may be sent to the host of `base_url`.
    pub token: Arc<TokenSource>,
    /// How many requests may be in flight there; `None` leaves it to the bound of all endpoints.
    pub concurrency: Option<NonZeroUsize>,
    /// How often may be sent there; all of them hold.
    pub rates: Vec<Rate>,
    /// How many tokens, of prompts and completions together, may be used there within a minute.
    pub tokens_per_minute: Option<u64>,
}

impl EndpointConfig {
    /// The base URL with a path behind it; `path` begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base_url.as_str().trim_end_matches('/'))
    }
}

/// What the command line says of the service. It wins over every table.
#[derive(Default)]
pub(super) struct Named {
    pub(super) base_urls: Vec<Url>,
    pub(super) key_files: Vec<PathBuf>,
    pub(super) key_command: Option<KeyCommand>,
    pub(super) dialect: Option<DialectChoice>,
    pub(super) rate: Option<Vec<Rate>>,
    pub(super) tokens_per_min: Option<NonZeroU64>,
}

/// The service that command line and layers come to. Key files have been read once; commands have not been run.
///
/// Fails with 64 when key files and base URLs of the command line do not go together, with 78 when an endpoint is there
/// twice, or has no key that may be sent to it.
pub(super) fn service(
    named: Named,
    settings: &mut Layer,
    keys: &Keys<'_>,
    ceiling: &Ceiling,
    action: Action,
    warnings: &mut Vec<String>,
) -> Result<Service, Stop> {
    let tables = tables(&named, settings)?;
    let flag_keys = named.keys(tables.len())?;
    let origin = if named.base_urls.is_empty() && tables.len() > 1 { Origin::Table } else { Origin::Alone };
    let endpoints = tables.into_iter().enumerate().map(|(at, table)| {
        let flag_key = flag_keys.get(at).or(flag_keys.first()).cloned();
        let own = flag_key.or_else(|| KeyPlace::of(table.api_key_file, table.api_key_command));
        let token = match action {
            Action::DryRun => TokenSource::None.into(),
            Action::Filter | Action::Check | Action::Models | Action::Daemon => {
                keys.source_for(&table.base_url, own, origin)?
            }
        };
        let dialect = named.dialect.or(table.dialect).or(settings.dialect);
        let rates = [&named.rate, &table.rate, &settings.rate].into_iter().flatten().next();
        let tokens = named.tokens_per_min.or(table.tokens_per_min).or(settings.tokens_per_min);
        Ok(EndpointConfig {
            base_url: table.base_url,
            dialect: dialect.and_then(DialectChoice::dialect),
            token,
            concurrency: table.concurrency,
            rates: ceiling.rates(rates.map(Vec::as_slice).unwrap_or_default()),
            tokens_per_minute: ceiling.tokens_per_minute(tokens, warnings),
        })
    });
    Ok(Service {
        endpoints: endpoints.collect::<Result<_, Stop>>()?,
        upstream: settings.upstream.unwrap_or(Upstream::Stream),
        ca_certificates_pem: certificates(settings.ca_cert.as_deref().unwrap_or_default())?,
    })
}

/// The endpoints: those of the command line, else those of the uppermost layer that names any, else the default one.
fn tables(named: &Named, settings: &mut Layer) -> Result<Vec<EndpointLayer>, Stop> {
    let configured = std::mem::take(&mut settings.endpoint);
    let tables = if !named.base_urls.is_empty() {
        named.base_urls.iter().cloned().map(EndpointLayer::at).collect()
    } else if configured.is_empty() {
        let base_url = settings.base_url.take().map_or_else(|| parse_base_url(BASE_URL_DEFAULT), Ok)?;
        vec![EndpointLayer::at(base_url)]
    } else {
        configured
    };
    if tables.len() > ENDPOINTS_MAX {
        return Err(Stop::config(format!("{} endpoints are more than {ENDPOINTS_MAX}", tables.len()))
            .way_out("name fewer, by --base-url or by [[endpoint]] tables"));
    }
    let is_again = |(at, table): &(usize, &EndpointLayer)| {
        tables.iter().take(*at).any(|earlier| earlier.base_url == table.base_url)
    };
    match tables.iter().enumerate().find(is_again) {
        None => Ok(tables),
        Some((_, table)) if named.base_urls.is_empty() => {
            Err(Stop::config(format!("two [[endpoint]] tables have the base URL {}", table.base_url))
                .way_out("keep one of the two; `concurrency` in it says how much it gets"))
        }
        Some((_, table)) => Err(Stop::usage(format!("--base-url names {} twice", table.base_url))
            .way_out("name it once; -j says how much it gets")),
    }
}

impl Named {
    /// The keys of the command line: none, one for all endpoints, or one for each.
    fn keys(&self, endpoints: usize) -> Result<Vec<KeyPlace>, Stop> {
        let files = self.key_files.iter().cloned().map(KeyPlace::File);
        let places: Vec<KeyPlace> = files.chain(self.key_command.clone().map(KeyPlace::Command)).collect();
        let (keys, base_urls) = (places.len(), self.base_urls.len());
        if keys > 1 && keys != base_urls {
            return Err(Stop::usage(format!("--api-key-file is given {keys} times, and --base-url {base_urls} times"))
                .way_out("give one key file for all base URLs, or one for each of them in the same order"));
        }
        // Each table says whose key it wants; one for all of them could only be meant by mistake.
        if keys == 1 && base_urls == 0 && endpoints > 1 {
            let flag = if self.key_command.is_some() { "--api-key-command" } else { "--api-key-file" };
            return Err(Stop::usage(format!(
                "{flag} is the key of the base URLs beside it, and the {endpoints} endpoints come from elsewhere"
            ))
            .way_out("name the service by --base-url, or write the key into the [[endpoint]] tables"));
        }
        Ok(places)
    }
}
