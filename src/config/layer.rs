//! One layer of settings.
//!
//! Invariant: a value in a [`Layer`] is valid on its own; what a setting means beside others is for the build to judge.
//! Refuses to know which layer wins. No error repeats a URL, for a key may stand there in the wrong place.

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error};
use serde_json::value::RawValue;
use url::Url;

use super::ceilings::Ceilings;
use super::daemon::{DaemonLayer, OwnerLayer};
use super::endpoint::{EndpointLayer, tables};
use super::values::{check_param_key, parse_base_url, parse_bytes, parse_duration};
use super::{DialectChoice, Rate};
use crate::api::Upstream;
use crate::api::token::{KeyCommand, looks_like_key};
use crate::exit::Stop;
use crate::line::{Format, InputForm};

/// Request parameters: name and JSON value.
pub type Params = Vec<(String, Box<RawValue>)>;

/// Settings from one place; whatever is `None` is left to the layers below.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)] // The names are those of the configuration file and of `Config`, where they are described.
pub struct Layer {
    #[serde(deserialize_with = "base_url")]
    pub base_url: Option<Url>,
    #[serde(deserialize_with = "filled")]
    pub model: Option<String>,
    pub system: Option<String>,
    pub dialect: Option<DialectChoice>,
    pub upstream: Option<Upstream>,
    pub concurrency: Option<NonZeroUsize>,
    pub fixed: Option<bool>,
    #[serde(deserialize_with = "rates")]
    pub rate: Option<Vec<Rate>>,
    pub tokens_per_min: Option<NonZeroU64>,
    #[serde(deserialize_with = "key_file")]
    pub api_key_file: Option<PathBuf>,
    #[serde(deserialize_with = "key_command")]
    pub api_key_command: Option<KeyCommand>,
    #[serde(deserialize_with = "one_or_more")]
    pub ca_cert: Option<Vec<PathBuf>>,
    pub format: Option<Format>,
    pub input: Option<InputForm>,
    pub require_model: Option<bool>,
    pub retry_truncated: Option<bool>,
    #[serde(deserialize_with = "bytes")]
    pub max_line_bytes: Option<usize>,
    #[serde(deserialize_with = "bytes")]
    pub window_bytes: Option<usize>,
    #[serde(deserialize_with = "bytes")]
    pub max_reply_bytes: Option<usize>,
    #[serde(deserialize_with = "duration")]
    pub max_outage: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub auth_wait: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub max_retry_delay: Option<Duration>,
    #[serde(deserialize_with = "params")]
    pub params: Params,
    pub timeouts: Timeouts,
    pub limits: Ceilings,
    #[serde(deserialize_with = "tables")]
    pub endpoint: Vec<EndpointLayer>,
    pub daemon: DaemonLayer,
    pub owner: BTreeMap<String, OwnerLayer>,
}

/// The `[timeouts]` of a layer.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Timeouts {
    #[serde(deserialize_with = "duration")]
    pub connect: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub first_token: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub chunk: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub reply: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub drain: Option<Duration>,
}

impl Layer {
    /// This layer on top of another: what it leaves open is the other's; parameters are replaced one by one, the service
    /// and its key each as a whole.
    pub fn over(self, lower: Layer) -> Layer {
        let mut owner = lower.owner;
        owner.extend(self.owner);
        let names_service = self.base_url.is_some() || !self.endpoint.is_empty();
        let names_key = self.api_key_file.is_some() || self.api_key_command.is_some();
        Layer {
            base_url: if names_service { self.base_url } else { lower.base_url },
            endpoint: if names_service { self.endpoint } else { lower.endpoint },
            model: self.model.or(lower.model),
            system: self.system.or(lower.system),
            dialect: self.dialect.or(lower.dialect),
            upstream: self.upstream.or(lower.upstream),
            concurrency: self.concurrency.or(lower.concurrency),
            fixed: self.fixed.or(lower.fixed),
            rate: self.rate.or(lower.rate),
            tokens_per_min: self.tokens_per_min.or(lower.tokens_per_min),
            api_key_file: if names_key { self.api_key_file } else { lower.api_key_file },
            api_key_command: if names_key { self.api_key_command } else { lower.api_key_command },
            ca_cert: self.ca_cert.or(lower.ca_cert),
            format: self.format.or(lower.format),
            input: self.input.or(lower.input),
            require_model: self.require_model.or(lower.require_model),
            retry_truncated: self.retry_truncated.or(lower.retry_truncated),
            max_line_bytes: self.max_line_bytes.or(lower.max_line_bytes),
            window_bytes: self.window_bytes.or(lower.window_bytes),
            max_reply_bytes: self.max_reply_bytes.or(lower.max_reply_bytes),
            max_outage: self.max_outage.or(lower.max_outage),
            auth_wait: self.auth_wait.or(lower.auth_wait),
            max_retry_delay: self.max_retry_delay.or(lower.max_retry_delay),
            params: params_over(self.params, lower.params),
            timeouts: self.timeouts.over(lower.timeouts),
            limits: self.limits.over(lower.limits),
            daemon: self.daemon.over(lower.daemon),
            owner,
        }
    }
}

/// Request parameters on top of others, which are replaced one by one.
pub fn params_over(upper: Params, lower: Params) -> Params {
    let mut params = lower;
    for (key, value) in upper {
        params.retain(|(lower_key, _)| *lower_key != key);
        params.push((key, value));
    }
    params
}

impl Timeouts {
    fn over(self, lower: Timeouts) -> Timeouts {
        Timeouts {
            connect: self.connect.or(lower.connect),
            first_token: self.first_token.or(lower.first_token),
            chunk: self.chunk.or(lower.chunk),
            reply: self.reply.or(lower.reply),
            drain: self.drain.or(lower.drain),
        }
    }
}

fn base_url<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Url>, D::Error> {
    base_url_itself(input).map(Some)
}

pub(super) fn base_url_itself<'de, D: Deserializer<'de>>(input: D) -> Result<Url, D::Error> {
    let stop = |stop: Stop| D::Error::custom(stop.to_string().replace('\n', "; "));
    parse_base_url(&String::deserialize(input)?).map_err(stop)
}

/// A text that is not blank.
pub fn filled<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    match String::deserialize(input)? {
        text if text.trim().is_empty() => Err(D::Error::custom("must not be empty")),
        text => Ok(Some(text)),
    }
}

pub(super) fn key_file<'de, D: Deserializer<'de>>(input: D) -> Result<Option<PathBuf>, D::Error> {
    match filled(input)? {
        Some(text) if looks_like_key(&text) => Err(D::Error::custom(
            "api_key_file names a file, and this looks like the key itself; write the key into a file of mode 0600",
        )),
        text => Ok(text.map(PathBuf::from)),
    }
}

pub(super) fn key_command<'de, D: Deserializer<'de>>(input: D) -> Result<Option<KeyCommand>, D::Error> {
    let cause = |cause| D::Error::custom(format!("api_key_command: {cause}"));
    KeyCommand::new(&String::deserialize(input)?).map(Some).map_err(cause)
}

pub(super) fn rates<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<Rate>>, D::Error> {
    #[derive(serde::Deserialize)]
    #[serde(untagged, expecting = "expected a rate such as \"60/min\", or a list of rates")]
    enum Rates {
        One(String),
        More(Vec<String>),
    }
    let texts = match Rates::deserialize(input)? {
        Rates::One(text) => vec![text],
        Rates::More(texts) => texts,
    };
    let rates = texts.iter().map(|text| text.parse().map_err(D::Error::custom));
    rates.collect::<Result<_, _>>().map(Some)
}

pub(super) fn one_or_more<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<PathBuf>>, D::Error> {
    #[derive(serde::Deserialize)]
    #[serde(untagged, expecting = "expected a path or a list of paths")]
    enum Paths {
        One(PathBuf),
        More(Vec<PathBuf>),
    }
    Paths::deserialize(input).map(|paths| match paths {
        Paths::One(path) => Some(vec![path]),
        Paths::More(paths) => Some(paths),
    })
}

pub(super) fn bytes<'de, D: Deserializer<'de>>(input: D) -> Result<Option<usize>, D::Error> {
    let text = match toml::Value::deserialize(input)? {
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::String(text) => text,
        _ => String::new(),
    };
    parse_bytes(&text).map(Some).map_err(D::Error::custom)
}

pub(super) fn duration<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
    parse_duration(&String::deserialize(input)?).map(Some).map_err(D::Error::custom)
}

/// A table of request parameters.
pub fn params<'de, D: Deserializer<'de>>(input: D) -> Result<Params, D::Error> {
    let toml::Value::Table(table) = toml::Value::deserialize(input)? else {
        return Err(D::Error::custom("must be a table of parameters"));
    };
    table
        .into_iter()
        .map(|(key, value)| {
            check_param_key(&key)?;
            let value = json(value).map_err(|cause| format!("parameter `{key}`: {cause}"))?;
            let value = RawValue::from_string(value.to_string()).map_err(|error| error.to_string())?;
            Ok((key, value))
        })
        .collect::<Result<_, String>>()
        .map_err(D::Error::custom)
}

fn json(value: toml::Value) -> Result<serde_json::Value, String> {
    Ok(match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Boolean(truth) => truth.into(),
        toml::Value::Float(number) => serde_json::Number::from_f64(number).ok_or("JSON has no such number")?.into(),
        toml::Value::Datetime(_) => {
            return Err("JSON has no dates; write it as a string".to_owned());
        }
        toml::Value::Array(items) => items.into_iter().map(json).collect::<Result<_, _>>()?,
        toml::Value::Table(table) => serde_json::Value::Object(
            table.into_iter().map(|(key, item)| Ok((key, json(item)?))).collect::<Result<_, String>>()?,
        ),
    })
}
