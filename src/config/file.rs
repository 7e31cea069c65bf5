//! How a layer of settings is read from a TOML file.
//!
//! Invariant: no error quotes a line, for a key may stand there in the wrong place.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use super::layer::Layer;
use crate::exit::Stop;
use crate::line::escape::{for_people, shown};

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
    "fixed",
    "rate",
    "tokens_per_min",
    "api_key_file",
    "api_key_command",
    "ca_cert",
    "format",
    "input",
    "require_model",
    "retry_truncated",
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
    "limits.rate",
    "limits.tokens_per_min",
    "endpoint",
    "endpoint.base_url",
    "endpoint.api_key_file",
    "endpoint.api_key_command",
    "endpoint.dialect",
    "endpoint.concurrency",
    "endpoint.rate",
    "endpoint.tokens_per_min",
    "daemon",
    "daemon.spool",
    "daemon.recursive",
    "daemon.archive",
    "daemon.once",
    "daemon.standby",
    "daemon.settle",
    "daemon.scan_every",
    "daemon.max_open_files",
    "daemon.max_file_bytes",
    "daemon.max_owner_files",
    "daemon.max_owner_bytes",
    "daemon.max_owner_lines",
    "daemon.retain",
    "daemon.log_format",
    "owner",
    "owner.NAME",
    "owner.NAME.api_key_file",
];

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
    let mut layer: Layer = parse_toml(text, path, KEYS)?;
    refuse_two_of_one(&layer, path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let owners = layer.owner.values_mut().filter_map(|owner| owner.api_key_file.as_mut());
    let endpoints = layer.endpoint.iter_mut().filter_map(|endpoint| endpoint.api_key_file.as_mut());
    let own = layer.api_key_file.iter_mut().chain(layer.ca_cert.iter_mut().flatten());
    for file in own.chain(layer.daemon.paths_mut()).chain(endpoints).chain(owners) {
        *file = resolved(file, folder, home);
    }
    layer.owner.values_mut().for_each(|owner| owner.origin = path.to_owned());
    Ok(Some(layer))
}

/// Refuses a file that names one thing in two ways: nobody could say which one is meant.
fn refuse_two_of_one(layer: &Layer, path: &Path) -> Result<(), Stop> {
    let of_layer = (layer.api_key_file.is_some(), layer.api_key_command.is_some());
    let of_tables =
        layer.endpoint.iter().map(|endpoint| (endpoint.api_key_file.is_some(), endpoint.api_key_command.is_some()));
    let has_two_keys = std::iter::once(of_layer).chain(of_tables).any(|both| both == (true, true));
    let two = match () {
        () if has_two_keys => "`api_key_file` and `api_key_command`",
        () if layer.base_url.is_some() && !layer.endpoint.is_empty() => "`base_url` and [[endpoint]]",
        () => return Ok(()),
    };
    Err(Stop::config(format!("{}: {two} are two ways to say the same", shown(path))).way_out("keep one of the two"))
}

fn resolved(file: &Path, folder: &Path, home: Option<&Path>) -> PathBuf {
    match (file.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => folder.join(file),
    }
}

/// Reads settings from the text of a TOML file. `keys` are all that it may hold, those of a table behind its name and a
/// dot; what stands in `params` is not looked at.
///
/// An error names the path, the line and, for an unknown key, the nearest known one; it never quotes the line.
pub fn parse_toml<T: DeserializeOwned>(text: &str, path: &Path, keys: &[&str]) -> Result<T, Stop> {
    const CAUSE_CHARS_MAX: usize = 300;
    // Not the error's own display: it quotes the line, and the line may hold a key.
    let wrong = |error: toml::de::Error| {
        let line = line_of(text, error.span().map_or(0, |span| span.start));
        let cause = for_people(&error.message().replace('\n', "; "), CAUSE_CHARS_MAX);
        Stop::config(format!("{}, line {line}: {cause}", shown(path))).way_out("correct that line, or take it out")
    };
    let table = DeTable::parse(text).map_err(wrong)?;
    if let Some((key, offset)) = unknown_key(table.get_ref(), "", "", keys) {
        return Err(unknown(&key, path, line_of(text, offset), keys));
    }
    toml::from_str(text).map_err(wrong)
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// The first key that nobody knows, with its tables before it, and the offset at which it stands. `known` are the tables
/// as [`KEYS`] has them, where a name that the user chose is `NAME`.
fn unknown_key(table: &DeTable<'_>, prefix: &str, known: &str, keys: &[&str]) -> Option<(String, usize)> {
    table.iter().find_map(|(key, value)| {
        let name = format!("{prefix}{}", key.get_ref());
        let known = if known == "owner." { "owner.NAME".to_owned() } else { format!("{known}{}", key.get_ref()) };
        match value.get_ref() {
            _ if !keys.contains(&known.as_str()) => Some((name, key.span().start)),
            DeValue::Table(inner) if name != "params" => {
                unknown_key(inner, &format!("{name}."), &format!("{known}."), keys)
            }
            DeValue::Array(items) => items.iter().find_map(|item| match item.get_ref() {
                DeValue::Table(inner) => unknown_key(inner, &format!("{name}."), &format!("{known}."), keys),
                _ => None,
            }),
            _ => None,
        }
    })
}

fn unknown(key: &str, path: &Path, line: usize, keys: &[&str]) -> Stop {
    const KEY_CHARS_MAX: usize = 60;
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().replace('-', "_");
    let whole = |known: &str| strsim::jaro_winkler(key, known);
    let likeness = |known: &str| strsim::jaro_winkler(&last(key), &last(known)).max(whole(known));
    // Several tables have keys of one name: then the table tells.
    let compare = |left: &str, right: &str| {
        likeness(left).total_cmp(&likeness(right)).then_with(|| whole(left).total_cmp(&whole(right)))
    };
    let nearest = keys.iter().copied().max_by(|left, right| compare(left, right)).unwrap_or_default();
    let nearest = match nearest.rsplit_once('.') {
        Some(("endpoint", name)) => format!("`{name}` in [[endpoint]]"),
        Some((table, name)) => format!("`{name}` in [{table}]"),
        None => format!("`{nearest}`"),
    };
    let key = for_people(&key.escape_debug().collect::<String>(), KEY_CHARS_MAX);
    let place = shown(path);
    Stop::config(format!("{place}, line {line}: unknown key `{key}`"))
        .way_out(format!("did you mean {nearest}? Otherwise take the line out"))
}
