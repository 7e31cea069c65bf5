//! One layer of settings, and how a layer is read from a TOML file.
//!
//! Invariant: a value in a [`Layer`] is valid on its own; what a setting means beside others is for the build to judge.
//! Refuses to know which layer wins. No error quotes a line or a URL, for a key may stand there in the wrong place.

use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error};
use serde_json::value::RawValue;
use toml::de::{DeTable, DeValue};
use url::Url;

use super::DialectChoice;
use super::values::{check_param_key, parse_base_url, parse_bytes, parse_duration};
use crate::api::Upstream;
use crate::api::token::looks_like_key;
use crate::exit::Stop;
use crate::line::escape::shown;
use crate::line::{Format, InputForm};

/// The most that is read of a configuration file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Every key that a file may hold; a table's keys stand behind its name.
const KEYS: &[&str] = &[
    "base_url",
    "model",
    "system",
    "dialect",
    "upstream",
    "concurrency",
    "api_key_file",
    "ca_cert",
    "format",
    "input",
    "max_line_bytes",
    "window_bytes",
    "max_reply_bytes",
    "max_outage",
    "auth_wait",
    "max_retry_delay",
    "params",
    "timeouts",
    "timeouts.connect",
    "timeouts.first_token",
    "timeouts.chunk",
    "timeouts.reply",
    "timeouts.drain",
    "limits",
    "limits.concurrency",
];

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
    #[serde(deserialize_with = "key_file")]
    pub api_key_file: Option<PathBuf>,
    #[serde(deserialize_with = "one_or_more")]
    pub ca_cert: Option<Vec<PathBuf>>,
    pub format: Option<Format>,
    pub input: Option<InputForm>,
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
    pub params: Vec<(String, Box<RawValue>)>,
    pub timeouts: Timeouts,
    pub limits: Ceilings,
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

/// The `[limits]` of a layer: what no later layer can raise.
#[derive(Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ceilings {
    /// The highest concurrency.
    pub concurrency: Option<NonZeroUsize>,
}

impl Layer {
    /// This layer on top of another: what it leaves open is the other's; parameters are replaced one by one.
    pub fn over(self, lower: Layer) -> Layer {
        let mut params = lower.params;
        for (key, value) in self.params {
            params.retain(|(lower_key, _)| *lower_key != key);
            params.push((key, value));
        }
        Layer {
            base_url: self.base_url.or(lower.base_url),
            model: self.model.or(lower.model),
            system: self.system.or(lower.system),
            dialect: self.dialect.or(lower.dialect),
            upstream: self.upstream.or(lower.upstream),
            concurrency: self.concurrency.or(lower.concurrency),
            api_key_file: self.api_key_file.or(lower.api_key_file),
            ca_cert: self.ca_cert.or(lower.ca_cert),
            format: self.format.or(lower.format),
            input: self.input.or(lower.input),
            max_line_bytes: self.max_line_bytes.or(lower.max_line_bytes),
            window_bytes: self.window_bytes.or(lower.window_bytes),
            max_reply_bytes: self.max_reply_bytes.or(lower.max_reply_bytes),
            max_outage: self.max_outage.or(lower.max_outage),
            auth_wait: self.auth_wait.or(lower.auth_wait),
            max_retry_delay: self.max_retry_delay.or(lower.max_retry_delay),
            params,
            timeouts: self.timeouts.over(lower.timeouts),
            limits: Ceilings { concurrency: self.limits.concurrency.or(lower.limits.concurrency) },
        }
    }
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

/// Reads a configuration file; `None` when there is none. `home` stands for a leading `~/` in its paths.
pub fn load(path: &Path, home: Option<&Path>) -> Result<Option<Layer>, Stop> {
    let unreadable = |cause: String| {
        Stop::config(format!("read configuration {}: {cause}", shown(path)))
            .way_out("make it a readable TOML file, or take it away")
    };
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(unreadable(error.to_string())),
    }
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable("it is longer than 1 MiB".to_owned()));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| unreadable("it is not UTF-8".to_owned()))?;
    let mut layer = parse(text, path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    for file in layer.api_key_file.iter_mut().chain(layer.ca_cert.iter_mut().flatten()) {
        *file = resolved(file, folder, home);
    }
    Ok(Some(layer))
}

fn resolved(file: &Path, folder: &Path, home: Option<&Path>) -> PathBuf {
    match (file.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => folder.join(file),
    }
}

fn parse(text: &str, path: &Path) -> Result<Layer, Stop> {
    // Not the error's own display: it quotes the line, and the line may hold a key.
    let wrong = |error: toml::de::Error| {
        let line = line_of(text, error.span().map_or(0, |span| span.start));
        Stop::config(format!("{}, line {line}: {}", shown(path), error.message()))
            .way_out("correct that line, or take it out")
    };
    let table = DeTable::parse(text).map_err(wrong)?;
    if let Some((key, offset)) = unknown_key(table.get_ref(), "") {
        return Err(unknown(&key, path, line_of(text, offset)));
    }
    toml::from_str(text).map_err(wrong)
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// The first key that nobody knows, with its tables before it, and the offset at which it stands.
fn unknown_key(table: &DeTable<'_>, prefix: &str) -> Option<(String, usize)> {
    table.iter().find_map(|(key, value)| {
        let name = format!("{prefix}{}", key.get_ref());
        match value.get_ref() {
            _ if !KEYS.contains(&name.as_str()) => Some((name, key.span().start)),
            DeValue::Table(inner) if name != "params" => unknown_key(inner, &format!("{name}.")),
            _ => None,
        }
    })
}

fn unknown(key: &str, path: &Path, line: usize) -> Stop {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().replace('-', "_");
    let likeness = |known: &str| strsim::jaro_winkler(&last(key), &last(known)).max(strsim::jaro_winkler(key, known));
    let nearest = KEYS.iter().copied().max_by(|left, right| likeness(left).total_cmp(&likeness(right)));
    let nearest = nearest.unwrap_or_default();
    let nearest = match nearest.split_once('.') {
        Some((table, name)) => format!("`{name}` in [{table}]"),
        None => format!("`{nearest}`"),
    };
    let key: String = key.escape_debug().collect();
    let place = shown(path);
    Stop::config(format!("{place}, line {line}: unknown key `{key}`"))
        .way_out(format!("did you mean {nearest}? Otherwise take the line out"))
}

fn base_url<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Url>, D::Error> {
    let stop = |stop: Stop| D::Error::custom(stop.to_string().replace('\n', "; "));
    parse_base_url(&String::deserialize(input)?).map(Some).map_err(stop)
}

fn filled<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    match String::deserialize(input)? {
        text if text.trim().is_empty() => Err(D::Error::custom("must not be empty")),
        text => Ok(Some(text)),
    }
}

fn key_file<'de, D: Deserializer<'de>>(input: D) -> Result<Option<PathBuf>, D::Error> {
    match filled(input)? {
        Some(text) if looks_like_key(&text) => Err(D::Error::custom(
            "api_key_file names a file, and this looks like the key itself; write the key into a file of mode 0600",
        )),
        text => Ok(text.map(PathBuf::from)),
    }
}

fn one_or_more<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<PathBuf>>, D::Error> {
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

fn bytes<'de, D: Deserializer<'de>>(input: D) -> Result<Option<usize>, D::Error> {
    let text = match toml::Value::deserialize(input)? {
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::String(text) => text,
        _ => String::new(),
    };
    parse_bytes(&text).map(Some).map_err(D::Error::custom)
}

fn duration<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
    parse_duration(&String::deserialize(input)?).map(Some).map_err(D::Error::custom)
}

fn params<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<(String, Box<RawValue>)>, D::Error> {
    let table = toml::Table::deserialize(input)?;
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse(text, Path::new("c.toml")).unwrap_err().to_string()
    }

    const WHOLE: &str = r#"
base_url = "https://host.example/v1/"
model = "llama"
system = "short"
dialect = "openai"
upstream = "whole"
concurrency = 7
api_key_file = "key"
ca_cert = "ca.pem"
format = "text"
input = "text"
max_line_bytes = "1M"
window_bytes = 4096
max_reply_bytes = "1G"
max_outage = "2h"
auth_wait = "1m"
max_retry_delay = "500ms"
[params]
stop = ["a", "b"]
temperature = 0.5
nested = { seed = 1, on = true }
[timeouts]
connect = "1s"
first_token = "2s"
chunk = "3s"
reply = "4s"
drain = "5s"
[limits]
concurrency = 8
"#;

    #[test]
    fn every_known_key_is_understood_and_every_understood_key_is_known() {
        let layer = parse(WHOLE, Path::new("c.toml")).unwrap();
        assert_eq!(layer.base_url.unwrap().as_str(), "https://host.example/v1");
        assert_eq!(layer.dialect, Some(DialectChoice::OpenAi));
        assert_eq!(layer.max_line_bytes, Some(1 << 20));
        assert_eq!(layer.timeouts.drain, Some(Duration::from_secs(5)));
        assert_eq!(layer.max_retry_delay, Some(Duration::from_millis(500)));
        let params: Vec<_> = layer.params.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(params, [r#"nested={"on":true,"seed":1}"#, r#"stop=["a","b"]"#, "temperature=0.5"]);
        for key in KEYS {
            let name = key.rsplit('.').next().unwrap();
            assert!(WHOLE.contains(&format!("\n{name} =")) || WHOLE.contains(&format!("[{name}]")), "{key}");
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
        for (text, key, line, nearest) in [
            ("model = 'x'\nmodle = 'x'", "modle", 2, "`model`"),
            ("base-url = 'x'", "base-url", 1, "`base_url`"),
            ("[timeouts]\n\nfirst-token = '1s'", "timeouts.first-token", 3, "`first_token` in [timeouts]"),
            ("first_token = '1s'", "first_token", 1, "`first_token` in [timeouts]"),
            ("[limit]\nconcurrency = 1", "limit", 1, "`limits`"),
        ] {
            let shown = refused(text);
            assert!(shown.contains(&format!("c.toml, line {line}: unknown key `{key}`")), "{shown}");
            assert!(shown.contains(&format!("did you mean {nearest}?")), "{shown}");
        }
    }

    #[test]
    fn a_key_in_the_wrong_place_is_not_repeated() {
        for text in [
            "api_key = 'sk-hidden'",
            "api_key = sk-hidden",
            "api_key_file = 'sk-hidden'",
            "base_url = 'https://me:sk-hidden@host.example'",
            "base_url = 'https://host.example/?key=sk-hidden'",
        ] {
            let shown = refused(text);
            assert!(!shown.contains("hidden"), "{shown}");
            assert!(shown.contains("line 1"), "{shown}");
        }
        assert!(refused("api_key = 'sk-hidden'").contains("`api_key_file`"));
    }

    #[test]
    fn a_bad_value_is_refused_with_its_line() {
        for text in [
            "model = ''",
            "concurrency = 0",
            "concurrency = -1",
            "max_outage = '0s'",
            "max_outage = 30",
            "max_line_bytes = 0",
            "max_line_bytes = '3X'",
            "dialect = 'latin'",
            "upstream = 'half'",
            "timeouts = 5",
            "ca_cert = 5",
            "base_url = 'http://host.example'",
            "params.when = 1979-05-27",
            "params.x = nan",
            "params.model = 'x'",
            "model = 'unfinished",
        ] {
            let shown = refused(&format!("\n{text}\n"));
            assert!(shown.starts_with("c.toml, line 2: "), "{text}: {shown}");
            assert!(shown.contains("\ncorrect that line"), "{shown}");
        }
    }

    #[test]
    fn paths_are_relative_to_the_file_and_a_missing_file_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        assert!(load(&path, None).unwrap().is_none());
        std::fs::write(&path, "api_key_file = 'key'\nca_cert = ['/etc/a.pem', '~/b.pem']").unwrap();
        let layer = load(&path, Some(Path::new("/home/me"))).unwrap().unwrap();
        assert_eq!(layer.api_key_file, Some(folder.path().join("key")));
        assert_eq!(layer.ca_cert.unwrap(), [Path::new("/etc/a.pem"), Path::new("/home/me/b.pem")]);
        let stop = load(folder.path(), None).unwrap_err().to_string();
        assert!(stop.contains(&folder.path().display().to_string()), "{stop}");
        std::fs::write(&path, b"model = '\xff'").unwrap();
        assert!(load(&path, None).unwrap_err().to_string().contains("UTF-8"));
    }

    #[test]
    fn an_upper_layer_wins_value_by_value() {
        let layer = |text| parse(text, Path::new("c.toml")).unwrap();
        let upper = layer("model = 'upper'\n[params]\na = 1\n[timeouts]\nchunk = '1s'");
        let lower = layer("model = 'lower'\nsystem = 's'\n[params]\na = 2\nb = 2\n[timeouts]\nreply = '2s'");
        let merged = upper.over(lower);
        assert_eq!((merged.model.as_deref(), merged.system.as_deref()), (Some("upper"), Some("s")));
        let params: Vec<_> = merged.params.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(params, ["b=2", "a=1"]);
        assert!(merged.timeouts.chunk.is_some() && merged.timeouts.reply.is_some());
    }
}
