//! Reads what a reply's head says about waiting, type and place. Pure: the clock comes in as an argument.
//!
//! Sources: RFC 9110 section 10.2.3 (Retry-After), `retry-after-ms` (Azure), `x-ratelimit-*` (OpenAI, LiteLLM, GitHub).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, DATE, HeaderMap, HeaderName, LOCATION, RETRY_AFTER};

/// A wait that is asked for is honoured up to this long.
pub const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);
/// A reset value from here on is a point in time (Unix seconds), not a duration.
const EPOCH_SECONDS_MIN: f64 = 1e9;

/// Headers that tell what is left of a quota, and when there is more.
static QUOTAS: [(HeaderName, HeaderName); 3] = [
    (HeaderName::from_static("x-ratelimit-remaining"), HeaderName::from_static("x-ratelimit-reset")),
    (HeaderName::from_static("x-ratelimit-remaining-requests"), HeaderName::from_static("x-ratelimit-reset-requests")),
    (HeaderName::from_static("x-ratelimit-remaining-tokens"), HeaderName::from_static("x-ratelimit-reset-tokens")),
];
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// What kind of body the head announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentKind {
    /// `text/event-stream`
    EventStream,
    /// `text/html`
    Html,
    /// JSON, or anything else that must be looked at.
    Other,
}

/// The head of a reply, as far as a verdict needs it.
#[derive(Clone, Debug)]
pub struct Head {
    /// HTTP status.
    pub status: u16,
    /// What the body is said to be.
    pub kind: ContentKind,
    /// Where a 3xx points.
    pub location: Option<String>,
    /// How long nothing more should be sent, from now.
    pub wait: Option<Duration>,
    /// The body is compressed, though nobody asked for that.
    pub encoded: bool,
}

impl Head {
    /// Reads a head; `now` serves where the reply has no Date of its own.
    pub fn read(status: u16, headers: &HeaderMap, now: SystemTime) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let content_type = text(CONTENT_TYPE).unwrap_or_default();
        let starts =
            |prefix: &str| content_type.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        let kind = match () {
            () if starts("text/event-stream") => ContentKind::EventStream,
            () if starts("text/html") => ContentKind::Html,
            () => ContentKind::Other,
        };
        Self {
            status,
            kind,
            location: text(LOCATION).filter(|_| (300..400).contains(&status)).map(str::to_owned),
            wait: wait(status, headers, now),
            encoded: text(CONTENT_ENCODING).is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")),
        }
    }
}

/// The longest wait that the head asks for, capped.
fn wait(status: u16, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let date = || text(&DATE).and_then(|value| httpdate::parse_http_date(value).ok()).unwrap_or(now);
    let quotas = QUOTAS.iter().filter_map(|(remaining, reset_at)| {
        let remaining = text(remaining)?.trim().parse::<f64>().ok()?;
        if remaining > 0.0 {
            return None;
        }
        reset(text(reset_at)?, date())
    });
    let quotas = quotas.max();
    // On a success only an exhausted quota says to wait.
    let asked = if (200..300).contains(&status) {
        None
    } else {
        let milliseconds = text(&RETRY_AFTER_MS).and_then(seconds);
        let precise = milliseconds.and_then(|milliseconds| positive(milliseconds / 1000.0));
        precise.or_else(|| retry_after(text(&RETRY_AFTER)?, date()))
    };
    asked.into_iter().chain(quotas).max().map(|wait| wait.min(WAIT_MAX))
}

/// Seconds (fractions tolerated) or an HTTP date, measured against the reply's own Date; past or garbage is nothing.
pub fn retry_after(value: &str, date: SystemTime) -> Option<Duration> {
    match seconds(value) {
        Some(seconds) => positive(seconds),
        None => httpdate::parse_http_date(value.trim()).ok()?.duration_since(date).ok().filter(|wait| !wait.is_zero()),
    }
}

/// `6m0s`, seconds, or Unix time.
pub fn reset(value: &str, date: SystemTime) -> Option<Duration> {
    match seconds(value) {
        Some(epoch) if epoch >= EPOCH_SECONDS_MIN => {
            let since_epoch = date.duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
            positive(epoch - since_epoch)
        }
        Some(seconds) => positive(seconds),
        None => humantime::parse_duration(value.trim())
            .ok()
            .or_else(|| fractional_seconds(value))
            .filter(|wait| !wait.is_zero()),
    }
}

/// `1.5s`, which OpenAI sends and humantime does not take.
fn fractional_seconds(value: &str) -> Option<Duration> {
    positive(seconds(value.trim().strip_suffix('s')?)?)
}

fn seconds(value: &str) -> Option<f64> {
    value.trim().parse::<f64>().ok().filter(|seconds| seconds.is_finite())
}

fn positive(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok().filter(|wait| !wait.is_zero()).or((seconds > 1e6).then_some(WAIT_MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn head(status: u16, pairs: &[(&'static str, &str)]) -> Head {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        Head::read(status, &headers, UNIX_EPOCH + Duration::from_secs(1_000_000_000))
    }

    #[test]
    fn every_form_of_a_wait_is_read() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        type Pairs<'a> = &'a [(&'static str, &'a str)];
        let cases: [(Pairs<'_>, Option<f64>); 14] = [
            (&[("retry-after", "7")], Some(7.0)),
            (&[("retry-after", " 0.25 ")], Some(0.25)),
            (&[("retry-after", "0")], None),
            (&[("retry-after", "-3")], None),
            (&[("retry-after", "soon")], None),
            (&[("retry-after", "inf")], None),
            (&[("retry-after", "999999999")], Some(86_400.0)),
            (&[("date", date), ("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT")], Some(30.0)),
            (&[("date", date), ("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")], None),
            (&[("retry-after", "9"), ("retry-after-ms", "1500")], Some(1.5)),
            (&[("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "6m0s")], Some(360.0)),
            (&[("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "1.5s")], Some(1.5)),
            (&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1000000060")], Some(60.0)),
            (&[("x-ratelimit-remaining", "3"), ("x-ratelimit-reset", "60")], None),
        ];
        for (pairs, expected) in cases {
            assert_eq!(head(429, pairs).wait.map(|wait| wait.as_secs_f64()), expected, "{pairs:?}");
        }
    }

    #[test]
    fn a_success_waits_only_for_an_exhausted_quota() {
        assert_eq!(head(200, &[("retry-after", "7")]).wait, None);
        assert!(head(200, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "5")]).wait.is_some());
    }
}
