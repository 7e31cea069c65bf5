//! A request quota as people write it (`2000/3h`) and read it (`2,000 per 3 h`). Knows nothing of who keeps it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::flow::people::thousands;

/// The most requests that a quota may count.
const COUNT_MAX: u64 = 1_000_000_000;
/// The shortest window of a quota, and the finest step of its length.
const WINDOW_MIN: Duration = Duration::from_millis(1);
/// The longest window of a quota.
pub const WINDOW_MAX: Duration = Duration::from_secs(31 * 24 * 3600);

/// At most `count` requests in any stretch of time as long as `window`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests, 1 to 1,000,000,000.
    pub count: u64,
    /// 1 ms to 31 days, in whole milliseconds.
    pub window: Duration,
}

/// Why a text is no rate; says what to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// There is no slash, or nothing on one side of it.
    #[error("write a rate as COUNT/TIME, such as 60/min, 1000/h or 2000/3h")]
    Form,
    /// The count is no number, or none that can be kept.
    #[error("the count before the slash must be a whole number from 1 to 1,000,000,000, such as in 60/min")]
    Count,
    /// The window is no time.
    #[error("the time after the slash must be s, min, h or day, or a time such as 500ms, 3h or 1h30m")]
    Window,
    /// The window is a time that cannot be kept.
    #[error("the time after the slash must be from 1ms to 31 days")]
    WindowRange,
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        // What `Display` writes is taken as well.
        let (count, window) = text.split_once('/').or_else(|| text.split_once(" per ")).ok_or(RateError::Form)?;
        let (count, window) = (count.trim(), window.trim());
        if count.is_empty() || window.is_empty() {
            return Err(RateError::Form);
        }
        Ok(Self { count: parse_count(count)?, window: parse_window(window)? })
    }
}

/// Digits; `_` and `,` are taken where they part thousands. Elsewhere a comma may be meant as a decimal point.
fn parse_count(text: &str) -> Result<u64, RateError> {
    let mut groups = text.split(['_', ',']);
    let first = groups.next().unwrap_or_default();
    let grouped = text.len() > first.len();
    let digits = |group: &str| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(first) || grouped && first.len() > 3 || !groups.all(|group| digits(group) && group.len() == 3) {
        return Err(RateError::Count);
    }
    let count = text.replace(['_', ','], "").parse().map_err(|_| RateError::Count)?;
    if (1..=COUNT_MAX).contains(&count) { Ok(count) } else { Err(RateError::Count) }
}

/// A unit, or a time as humantime reads it.
fn parse_window(text: &str) -> Result<Duration, RateError> {
    // A capital M would be a month to humantime; to people it may be a minute.
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(RateError::Window);
    }
    let has_number = text.starts_with(|first: char| first.is_ascii_digit());
    let window =
        if has_number { humantime::parse_duration(text) } else { humantime::parse_duration(&format!("1{text}")) };
    let window = window.map_err(|_| RateError::Window)?;
    if !(WINDOW_MIN..=WINDOW_MAX).contains(&window) {
        return Err(RateError::WindowRange);
    }
    // Rounded up: the longer window is the careful one.
    Ok(Duration::from_millis(window.as_nanos().div_ceil(1_000_000) as u64))
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} per {}", thousands(self.count), window_told(self.window))
    }
}

/// `min`, `3 h`, `1 min 30 s`: exact, and without a one where it stands alone.
pub(super) fn window_told(window: Duration) -> String {
    const UNITS: [(u128, &str, &str); 5] = [
        (86_400_000, "day", "days"),
        (3_600_000, "h", "h"),
        (60_000, "min", "min"),
        (1_000, "s", "s"),
        (1, "ms", "ms"),
    ];
    let mut rest = window.as_millis();
    let mut parts: Vec<String> = Vec::new();
    for (milliseconds, one, many) in UNITS {
        match rest / milliseconds {
            0 => {}
            1 if rest == milliseconds && parts.is_empty() => parts.push(one.to_owned()),
            1 => parts.push(format!("1 {one}")),
            amount => parts.push(format!("{amount} {many}")),
        }
        rest %= milliseconds;
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_rate_is_read_and_told() {
        let cases = [
            ("60/min", 60, 60_000, "60 per min"),
            ("1000/h", 1_000, 3_600_000, "1,000 per h"),
            ("2000/3h", 2_000, 10_800_000, "2,000 per 3 h"),
            ("10/s", 10, 1_000, "10 per s"),
            ("5000/day", 5_000, 86_400_000, "5,000 per day"),
            ("5000/2days", 5_000, 172_800_000, "5,000 per 2 days"),
            ("60/500ms", 60, 500, "60 per 500 ms"),
            ("100/1h30m", 100, 5_400_000, "100 per 1 h 30 min"),
            ("100/1h 30m", 100, 5_400_000, "100 per 1 h 30 min"),
            ("2000/90s", 2_000, 90_000, "2,000 per 1 min 30 s"),
            (" 60 / minute ", 60, 60_000, "60 per min"),
            ("2,000/3h", 2_000, 10_800_000, "2,000 per 3 h"),
            ("1_000_000/d", 1_000_000, 86_400_000, "1,000,000 per day"),
            ("2,000 per 3 h", 2_000, 10_800_000, "2,000 per 3 h"),
            ("1/1500us", 1, 2, "1 per 2 ms"),
            ("1000000000/31d", 1_000_000_000, 2_678_400_000, "1,000,000,000 per 31 days"),
        ];
        for (text, count, milliseconds, told) in cases {
            let rate: Rate = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(rate, Rate { count, window: Duration::from_millis(milliseconds) }, "{text}");
            assert_eq!(rate.to_string(), told, "{text}");
            assert_eq!(told.parse(), Ok(rate), "what is told is read again");
        }
    }

    #[test]
    fn what_is_no_rate_is_refused_by_what_is_wrong() {
        use RateError::{Count, Form, Window, WindowRange};
        let cases = [
            ("", Form),
            ("60", Form),
            ("60min", Form),
            ("/min", Form),
            ("60/", Form),
            ("0/min", Count),
            ("-1/min", Count),
            ("+1/min", Count),
            ("1.5/min", Count),
            ("1,5/min", Count),
            ("1000,000/min", Count),
            ("1__000/min", Count),
            ("2k/min", Count),
            ("1000000001/min", Count),
            ("99999999999999999999/min", Count),
            ("60/M", Window),
            ("60/fortnight", Window),
            ("60/3", Window),
            ("60/min/s", Window),
            ("60/0s", WindowRange),
            ("60/1us", WindowRange),
            ("60/32days", WindowRange),
            ("60/year", WindowRange),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Rate>(), Err(error), "{text}");
        }
        assert!("60".parse::<Rate>().unwrap_err().to_string().contains("60/min"));
    }
}
