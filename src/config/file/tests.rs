//! What configuration files may say.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;
use crate::config::{DialectChoice, LogFormat, Rate};

fn parse(text: &str, path: &Path) -> Result<Layer, Stop> {
    parse_toml(text, path, KEYS)
}

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
fixed = true
rate = ["60/min", "1000/h"]
tokens_per_min = 100000
api_key_file = "key"
api_key_command = "pass show key"
ca_cert = "ca.pem"
format = "text"
input = "text"
require_model = true
retry_truncated = true
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
rate = "5/s"
tokens_per_min = 5
[[endpoint]]
base_url = "https://other.example/v1/"
api_key_file = "other"
api_key_command = "pass show other"
dialect = "open-webui"
concurrency = 3
rate = "9/min"
tokens_per_min = 6
[daemon]
spool = ["a", "b"]
recursive = true
archive = "done"
once = false
standby = true
settle = "3s"
scan_every = "1m"
max_open_files = 9
max_file_bytes = "1G"
max_owner_files = 10
max_owner_bytes = "2G"
max_owner_lines = 11
retain = "7d"
log_format = "json"
[owner.NAME]
api_key_file = "alices"
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
    assert_eq!(layer.daemon.spool.unwrap(), [Path::new("a"), Path::new("b")]);
    assert_eq!((layer.daemon.recursive, layer.daemon.once), (Some(true), Some(false)));
    assert_eq!(
        (layer.daemon.retain, layer.daemon.log_format),
        (Some(Duration::from_secs(7 * 86_400)), Some(LogFormat::Json))
    );
    assert_eq!((layer.fixed, layer.require_model, layer.retry_truncated), (Some(true), Some(true), Some(true)));
    let rates = |texts: &[&str]| Some(texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Rate>>());
    assert_eq!((layer.rate, layer.limits.rate), (rates(&["60/min", "1000/h"]), rates(&["5/s"])));
    let [endpoint] = &layer.endpoint[..] else { panic!("{:?}", layer.endpoint) };
    assert_eq!(endpoint.base_url.as_str(), "https://other.example/v1");
    assert_eq!((&endpoint.rate, endpoint.dialect), (&rates(&["9/min"]), Some(DialectChoice::OpenWebUi)));
    let tokens = [layer.tokens_per_min, layer.limits.tokens_per_min, endpoint.tokens_per_min];
    assert_eq!(tokens.map(|tokens| tokens.unwrap().get()), [100_000, 5, 6]);
    assert_eq!(layer.owner["NAME"].api_key_file.as_deref(), Some(Path::new("alices")));
    for key in KEYS {
        assert!(stands_in_whole(key), "{key}");
    }
}

/// Whether a key stands in its table of `WHOLE`, or is one of its tables.
fn stands_in_whole(key: &str) -> bool {
    let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
    let own = match table {
        "" => Some(WHOLE),
        _ => [format!("\n[{table}]\n"), format!("\n[[{table}]]\n")]
            .iter()
            .find_map(|head| WHOLE.split_once(head))
            .map(|split| split.1),
    };
    let is_table = ["]", "."].iter().any(|end| WHOLE.contains(&format!("[{key}{end}")));
    is_table
        || own.is_some_and(|text| {
            text.split("\n[").next().is_some_and(|text| format!("\n{text}").contains(&format!("\n{name} =")))
        })
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
    for (text, key, line, nearest) in [
        ("model = 'x'\nmodle = 'x'", "modle", 2, "`model`"),
        ("base-url = 'x'", "base-url", 1, "`base_url`"),
        ("[timeouts]\n\nfirst-token = '1s'", "timeouts.first-token", 3, "`first_token` in [timeouts]"),
        ("first_token = '1s'", "first_token", 1, "`first_token` in [timeouts]"),
        ("[limit]\nconcurrency = 1", "limit", 1, "`limits`"),
        ("rates = '5/s'", "rates", 1, "`rate`"),
        ("[limits]\ntokens = 5", "limits.tokens", 2, "`tokens_per_min` in [limits]"),
        ("[[endpoint]]\nbase_url = 'http://[::1]'\nrates = '5/s'", "endpoint.rates", 3, "`rate` in [[endpoint]]"),
        ("[[endpoints]]\nbase_url = 'http://[::1]'", "endpoints", 1, "`endpoint`"),
        ("endpoint = [{ url = 'x' }]", "endpoint.url", 1, "`base_url` in [[endpoint]]"),
        ("api_key_cmd = 'x'", "api_key_cmd", 1, "`api_key_command`"),
        ("[daemon]\nscan-every = '1s'", "daemon.scan-every", 2, "`scan_every` in [daemon]"),
        ("[owner.ann]\napi_key = 'x'", "owner.ann.api_key", 2, "`api_key_file` in [owner.NAME]"),
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
        "api_key_command = 'echo sk-hidden'",
        "endpoint = [{ base_url = 'https://me:sk-hidden@host.example' }]",
        "endpoint = [{ base_url = 'http://[::1]', api_key_file = 'sk-hidden' }]",
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
        "daemon.settle = '0s'",
        "daemon.max_open_files = 0",
        "daemon.log_format = 'xml'",
        "daemon.spool = 5",
        "rate = '5'",
        "rate = ['5/s', 6]",
        "limits.rate = '0/s'",
        "tokens_per_min = 0",
        "fixed = 1",
        "api_key_command = ''",
        "endpoint = [{ api_key_file = 'k' }]",
        "endpoint = [{ base_url = 'http://host.example' }]",
        "owner.ann = 'key'",
        "owner.ann.api_key_file = ''",
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
    std::fs::write(&path, "[daemon]\nspool = 'in'\narchive = '~/out'\n[owner.ann]\napi_key_file = 'key'").unwrap();
    let layer = load(&path, Some(Path::new("/home/me"))).unwrap().unwrap();
    assert_eq!(layer.daemon.spool.unwrap(), [folder.path().join("in")]);
    assert_eq!(layer.daemon.archive.as_deref(), Some(Path::new("/home/me/out")));
    let ann = &layer.owner["ann"];
    assert_eq!((ann.api_key_file.as_deref(), ann.origin.as_path()), (Some(&*folder.path().join("key")), &*path));
    std::fs::write(&path, "[[endpoint]]\nbase_url = 'http://[::1]'\napi_key_file = 'key'").unwrap();
    let layer = load(&path, None).unwrap().unwrap();
    assert_eq!(layer.endpoint[0].api_key_file, Some(folder.path().join("key")));
    let stop = load(folder.path(), None).unwrap_err().to_string();
    assert!(stop.contains(&folder.path().display().to_string()), "{stop}");
    std::fs::write(&path, b"model = '\xff'").unwrap();
    assert!(load(&path, None).unwrap_err().to_string().contains("UTF-8"));
}

#[test]
fn a_table_of_endpoints_that_is_no_list_is_told_how_to_be_one() {
    let shown = refused("[endpoint]\nbase_url = 'http://[::1]'");
    assert!(shown.contains("c.toml, line 1: ") && shown.contains("each under a [[endpoint]] of its own"), "{shown}");
}

#[test]
fn one_thing_said_in_two_ways_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    for text in [
        "api_key_file = 'a'\napi_key_command = 'b'",
        "base_url = 'http://[::1]'\n[[endpoint]]\nbase_url = 'http://[::1]:1'",
        "[[endpoint]]\nbase_url = 'http://[::1]'\napi_key_file = 'a'\napi_key_command = 'b'",
    ] {
        std::fs::write(&path, text).unwrap();
        let stop = load(&path, None).unwrap_err();
        assert!(
            stop.message.contains("config.toml") && stop.way_out.as_deref() == Some("keep one of the two"),
            "{stop}"
        );
    }
}

#[test]
fn service_and_key_are_replaced_as_a_whole() {
    let layer = |text| parse(text, Path::new("c.toml")).unwrap();
    let list = "[[endpoint]]\nbase_url = 'http://[::1]:1'";
    let merged = layer("base_url = 'http://[::1]'").over(layer(list));
    assert!(merged.endpoint.is_empty() && merged.base_url.is_some());
    let merged = layer(list).over(layer("base_url = 'http://[::1]'"));
    assert!(merged.endpoint.len() == 1 && merged.base_url.is_none());
    let merged = layer("api_key_command = 'new'\nrate = []").over(layer("api_key_file = 'old'\nrate = '5/s'"));
    assert!(merged.api_key_file.is_none() && merged.api_key_command.is_some());
    assert_eq!(merged.rate, Some(vec![]));
    assert_eq!(layer("").over(layer("fixed = true")).fixed, Some(true));
}

#[test]
fn an_upper_layer_wins_value_by_value() {
    let layer = |text| parse(text, Path::new("c.toml")).unwrap();
    let daemons = layer("daemon.settle = '1s'\nowner.ann.api_key_file = 'upper'").over(layer(
        "daemon.settle = '2s'\ndaemon.once = true\nowner.ann.api_key_file = 'x'\nowner.bob.api_key_file = 'lower'",
    ));
    assert_eq!((daemons.daemon.settle, daemons.daemon.once), (Some(Duration::from_secs(1)), Some(true)));
    let keys: Vec<_> =
        daemons.owner.iter().map(|(name, owner)| (name.as_str(), owner.api_key_file.as_deref())).collect();
    assert_eq!(keys, [("ann", Some(Path::new("upper"))), ("bob", Some(Path::new("lower")))]);
    let upper = layer("model = 'upper'\n[params]\na = 1\n[timeouts]\nchunk = '1s'");
    let lower = layer("model = 'lower'\nsystem = 's'\n[params]\na = 2\nb = 2\n[timeouts]\nreply = '2s'");
    let merged = upper.over(lower);
    assert_eq!((merged.model.as_deref(), merged.system.as_deref()), (Some("upper"), Some("s")));
    let params: Vec<_> = merged.params.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(params, ["b=2", "a=1"]);
    assert!(merged.timeouts.chunk.is_some() && merged.timeouts.reply.is_some());
}
