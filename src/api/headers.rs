//! Reads what a reply's head says about waiting, quotas, type and place. Pure: the clock comes in as an argument.
//!
//! Sources: RFC 9110 section 10.2.3 (Retry-After), `retry-after-ms` (Azure), `x-ratelimit-*` (OpenAI, LiteLLM, GitHub).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, DATE, HeaderMap, HeaderName, LOCATION, RETRY_AFTER};

use crate::flow::quota::{Left, QuotaNews};

/// A wait that is asked for is honoured up to this long.
pub const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);
/// A reset value from here on is a point in time (Unix seconds), not a duration.
const EPOCH_SECONDS_MIN: f64 = 1e9;

/// Headers that tell how large a quota is, what is left of it, and when there is more.
struct QuotaHeaders {
    limit: HeaderName,
    remaining: HeaderName,
    reset: HeaderName,
}

static PLAIN_QUOTA: QuotaHeaders = QuotaHeaders {
    limit: HeaderName::from_static("x-ratelimit-limit"),
    remaining: HeaderName::from_static("x-ratelimit-remaining"),
    reset: HeaderName::from_static("x-ratelimit-reset"),
};
static REQUEST_QUOTA: QuotaHeaders = QuotaHeaders {
    limit: HeaderName::from_static("x-ratelimit-limit-requests"),
    remaining: HeaderName::from_static("x-ratelimit-remaining-requests"),
    reset: HeaderName::from_static("x-ratelimit-reset-requests"),
};
static TOKEN_QUOTA: QuotaHeaders = QuotaHeaders {
    limit: HeaderName::from_static("x-ratelimit-limit-tokens"),
    remaining: HeaderName::from_static("x-ratelimit-remaining-tokens"),
    reset: HeaderName::from_static("x-ratelimit-reset-tokens"),
};
/// What the names of all of these begin with.
const QUOTA_PREFIX: &str = "x-ratelimit-";
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
    /// What it says is left of the service's quotas.
    pub quota: Option<QuotaNews>,
    /// The body is compressed, though nobody asked for that.
    pub encoded: bool,
}

impl Head {
    /// Reads a head; `now` serves where the reply has no Date of its own.
    pub fn read(status: u16, headers: &HeaderMap, now: SystemTime) -> Self {
        let content_type = text(headers, &CONTENT_TYPE).unwrap_or_default();
        let starts =
            |prefix: &str| content_type.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        let kind = match () {
            () if starts("text/event-stream") => ContentKind::EventStream,
            () if starts("text/html") => ContentKind::Html,
            () => ContentKind::Other,
        };
        let location = if (300..400).contains(&status) { text(headers, &LOCATION) } else { None };
        // Few services tell of quotas; looking for each of these headers would cost all the others.
        let tells_quotas = headers.keys().any(|name| name.as_str().starts_with(QUOTA_PREFIX));
        Self {
            status,
            kind,
            location: location.map(str::to_owned),
            wait: wait(status, headers, tells_quotas, now),
            quota: if tells_quotas { quota_news(headers, now) } else { None },
            encoded: text(headers, &CONTENT_ENCODING)
                .is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")),
        }
    }
}

/// The longest wait that the head asks for, capped.
fn wait(status: u16, headers: &HeaderMap, tells_quotas: bool, now: SystemTime) -> Option<Duration> {
    let date = || date(headers, now);
    let quotas = [&PLAIN_QUOTA, &REQUEST_QUOTA, &TOKEN_QUOTA].into_iter().filter(|_| tells_quotas);
    let quotas = quotas.filter_map(|names| left(headers, names, now)).filter(|left| left.remaining == 0);
    let quotas = quotas.map(|left| left.resets_in).max();
    // On a success only an exhausted quota says to wait.
    let asked = if (200..300).contains(&status) {
        None
    } else {
        let milliseconds = text(headers, &RETRY_AFTER_MS).and_then(seconds);
        let precise = milliseconds.and_then(|milliseconds| positive(milliseconds / 1000.0));
        precise.or_else(|| retry_after(text(headers, &RETRY_AFTER)?, date()))
    };
    asked.into_iter().chain(quotas).max().map(|wait| wait.min(WAIT_MAX))
}

/// What the head says about quotas; the plain headers, of which nobody says what they count, count requests.
fn quota_news(headers: &HeaderMap, now: SystemTime) -> Option<QuotaNews> {
    let requests = left(headers, &REQUEST_QUOTA, now).or_else(|| left(headers, &PLAIN_QUOTA, now));
    let news = QuotaNews { requests, tokens: left(headers, &TOKEN_QUOTA, now) };
    (!news.is_empty()).then_some(news)
}

/// What is left of one quota. Without a reset that lies ahead it would hold nothing back, and says nothing.
fn left(headers: &HeaderMap, names: &QuotaHeaders, now: SystemTime) -> Option<Left> {
    let number = |name| text(headers, name).and_then(seconds).map(|number| number.max(0.0).floor() as u64);
    let remaining = number(&names.remaining)?;
    let resets_in = reset(text(headers, &names.reset)?, date(headers, now))?.min(WAIT_MAX);
    Some(Left { limit: number(&names.limit), remaining, resets_in })
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// When the reply was written, by its own clock where it tells.
fn date(headers: &HeaderMap, now: SystemTime) -> SystemTime {
    text(headers, &DATE).and_then(|value| httpdate::parse_http_date(value).ok()).unwrap_or(now)
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

    #[test]
    fn what_is_left_of_quotas_is_read() {
        let pairs = [
            ("x-ratelimit-limit-requests", "60"),
            ("x-ratelimit-remaining-requests", "59"),
            ("x-ratelimit-reset-requests", "1s"),
            ("x-ratelimit-limit-tokens", "150000"),
            ("x-ratelimit-remaining-tokens", "149984"),
            ("x-ratelimit-reset-tokens", "6m0s"),
        ];
        let told =
            |limit, remaining, seconds| Some(Left { limit, remaining, resets_in: Duration::from_secs_f64(seconds) });
        let (requests, tokens) = (told(Some(60), 59, 1.0), told(Some(150_000), 149_984, 360.0));
        assert_eq!(head(200, &pairs).quota, Some(QuotaNews { requests, tokens }));
        assert_eq!(head(429, &pairs[3..]).quota, Some(QuotaNews { requests: None, tokens }));

        let plain = [("x-ratelimit-remaining", "3"), ("x-ratelimit-reset", "1000000060")];
        let requests = told(None, 3, 60.0);
        assert_eq!(head(200, &plain).quota, Some(QuotaNews { requests, tokens: None }));
        let both = [plain[0], plain[1], pairs[1], pairs[2]];
        let requests = told(None, 59, 1.0);
        assert_eq!(head(200, &both).quota, Some(QuotaNews { requests, tokens: None }), "the more exact ones count");
    }

    #[test]
    fn what_says_nothing_about_a_quota_is_no_news() {
        type Pairs<'a> = &'a [(&'static str, &'a str)];
        let cases: [Pairs<'_>; 5] = [
            &[],
            &[("x-ratelimit-remaining", "3")],
            &[("x-ratelimit-reset", "3")],
            &[("x-ratelimit-remaining", "3"), ("x-ratelimit-reset", "0")],
            &[("x-ratelimit-remaining", "some"), ("x-ratelimit-reset", "60")],
        ];
        for pairs in cases {
            assert_eq!(head(200, pairs).quota, None, "{pairs:?}");
        }
        let odd = [("x-ratelimit-remaining", "-2.5"), ("x-ratelimit-reset", "999999999")];
        assert_eq!(
            head(200, &odd).quota.unwrap().requests.unwrap(),
            Left { limit: None, remaining: 0, resets_in: WAIT_MAX }
        );
    }
}
