//! Single values as people write them: URLs, times, sizes, shares, parameters.
//!
//! Invariant: what comes out is valid on its own, and no error about a URL repeats it, for a key may stand in it. Refuses
//! to know where a text comes from; the caller puts that before the error.

use std::time::Duration;

use serde_json::value::RawValue;
use url::{Host, Url};

use super::Allowance;
use crate::exit::Stop;

/// The longest time that a setting can name: beyond it lie mistakes and overflows.
pub(super) const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// Names in `[params]` that have a place of their own.
const PARAMS_ELSEWHERE: &[(&str, &str)] = &[
    ("model", "use -m, or `model` in a configuration file"),
    ("system", "use -s, or `system` in a configuration file"),
    ("messages", "messages belong to the request lines"),
    ("prompt", "prompts belong to the request lines"),
];

/// A base URL without a slash at its end. The error never repeats the text.
pub fn parse_base_url(text: &str) -> Result<Url, Stop> {
    let wrong = |cause: &str, way_out: &str| Stop::config(format!("unusable base URL: {cause}")).way_out(way_out);
    let mut url = Url::parse(text.trim())
        .map_err(|error| wrong(&error.to_string(), "write it whole, for example https://host.example/api"))?;
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    match url_fault(&url) {
        Some((cause, way_out)) => Err(wrong(cause, way_out)),
        None => Ok(url),
    }
}

/// What makes a URL unusable as a base, and the way out.
fn url_fault(url: &Url) -> Option<(&'static str, &'static str)> {
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        Some(("it is neither http nor https", "begin it with https://"))
    } else if !url.username().is_empty() || url.password().is_some() {
        Some(("it holds a user name or password", "leave them out; a key belongs into a file of mode 0600"))
    } else if url.query().is_some() || url.fragment().is_some() {
        Some(("it has a `?` or `#` part", "end it before that"))
    } else if url.path().ends_with("/chat/completions") {
        Some(("it ends in /chat/completions", "leave /chat/completions off, it is added to every request"))
    } else if url.scheme() == "http" && !is_loopback(url) {
        Some(("http would send prompts and key readable", "begin it with https://; http is for this machine alone"))
    } else {
        None
    }
}

/// Whether a URL points at this very machine: 127.0.0.0/8, `::1` or `localhost`.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// A time such as `90s`, `30m` or `1h 30m`: more than zero, and at most a year.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration =
        humantime::parse_duration(text).map_err(|error| format!("{error}; write a time such as 500ms, 90s or 30m"))?;
    match duration {
        Duration::ZERO => Err("must be more than zero".to_owned()),
        _ if duration > DURATION_MAX => Err("must be at most a year".to_owned()),
        _ => Ok(duration),
    }
}

/// A number of bytes such as `65536`, `512k`, `16M` or `1G` (powers of 1024): more than zero.
pub fn parse_bytes(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|character: char| !character.is_ascii_digit());
    let shift = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        _ => return Err("write a number of bytes such as 65536, 512k, 16M or 1G".to_owned()),
    };
    let number: usize = digits.parse().map_err(|_| "write a number of bytes such as 512k or 16M".to_owned())?;
    match number.checked_mul(1 << shift) {
        Some(0) => Err("must be more than zero".to_owned()),
        Some(bytes) => Ok(bytes),
        None => Err("is more than this machine can count".to_owned()),
    }
}

/// A number of lines, or a share of them such as `2.5%`.
pub fn parse_allowance(text: &str) -> Result<Allowance, String> {
    match text.strip_suffix('%') {
        None => {
            text.parse().map(Allowance::Lines).map_err(|_| "write a number of lines, or a share such as 5%".to_owned())
        }
        Some(percent) => match percent.trim().parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Allowance::Percent(percent)),
            _ => Err("write a share from 0% to 100%".to_owned()),
        },
    }
}

/// A request parameter `KEY=JSON`.
pub fn parse_param(text: &str) -> Result<(String, Box<RawValue>), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=JSON, for example temperature=0.2")?;
    let key = key.trim();
    check_param_key(key)?;
    let value = RawValue::from_string(value.trim().to_owned())
        .map_err(|_| format!("the value is not JSON; quote a string twice: -p '{key}=\"text\"'"))?;
    Ok((key.to_owned(), value))
}

/// Whether a name can be a request parameter's.
pub(super) fn check_param_key(key: &str) -> Result<(), String> {
    match PARAMS_ELSEWHERE.iter().find(|(elsewhere, _)| *elsewhere == key) {
        _ if key.is_empty() => Err("a parameter needs a name before its value".to_owned()),
        Some((_, way_out)) => Err(format!("`{key}` is not a parameter: {way_out}")),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_are_held_to_the_rules() {
        for (text, url) in [
            ("https://host.example/api//", "https://host.example/api"),
            ("http://127.8.0.1:8080/", "http://127.8.0.1:8080/"),
            ("http://[::1]:1/v1", "http://[::1]:1/v1"),
            ("http://LOCALHOST:1/v1", "http://localhost:1/v1"),
        ] {
            assert_eq!(parse_base_url(text).unwrap().as_str(), url);
        }
        for text in [
            "host.example/api",
            "ftp://host.example",
            "http://host.example",
            "http://128.0.0.1",
            "http://localhost.example",
            "https://me@host.example",
            "https://:word@host.example",
            "https://host.example/?a",
            "https://host.example/#a",
            "https://host.example/v1/chat/completions",
            "https://host.example/v1/chat/completions/",
            "file:///tmp",
            "",
        ] {
            let stop = parse_base_url(text).expect_err(text);
            assert!(stop.exit == crate::exit::Exit::Config && stop.way_out.is_some(), "{text}");
        }
        let stop = parse_base_url("https://h/chat/completions").unwrap_err();
        assert!(stop.to_string().contains("leave /chat/completions off"));
    }

    #[test]
    fn numbers_with_units_are_read() {
        assert_eq!(parse_bytes("512k"), Ok(512 << 10));
        assert_eq!(parse_bytes("16MiB"), Ok(16 << 20));
        assert_eq!(parse_bytes("7"), Ok(7));
        for text in ["", "M", "0", "0k", "1.5M", "-1", "4T", "99999999999999999999", "99999999999G", "é"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_secs(5400)));
        for text in ["", "0s", "30", "-1s", "2years", "soon"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(parse_allowance("12"), Ok(Allowance::Lines(12)));
        assert_eq!(parse_allowance("2.5%"), Ok(Allowance::Percent(2.5)));
        for text in ["", "%", "-1", "101%", "NaN%", "five"] {
            assert!(parse_allowance(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_parameter_is_kept_as_written() {
        let (key, value) = parse_param("seed=12345678901234567890123").unwrap();
        assert_eq!((key.as_str(), value.get()), ("seed", "12345678901234567890123"));
        assert_eq!(parse_param(r#"stop="a=b""#).unwrap().1.get(), r#""a=b""#);
        let error = parse_param("stop=end").unwrap_err();
        assert!(error.contains(r#"-p 'stop="text"'"#), "{error}");
        for text in ["stop", "=1", "x=", "model=\"m\"", "messages=[]"] {
            assert!(parse_param(text).is_err(), "{text}");
        }
    }
}
