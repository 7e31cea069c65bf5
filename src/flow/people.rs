//! Says numbers and durations as people do: `2,000`, `6.3 days`, `3 h 50 min`. Knows nothing of what they mean.

use std::time::Duration;

const MINUTE_SECONDS: u64 = 60;
const HOUR_SECONDS: u64 = 60 * MINUTE_SECONDS;
const DAY_SECONDS: u64 = 24 * HOUR_SECONDS;

/// A number with a comma between its thousands.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number to three significant digits, for what is known no better.
pub fn about(number: f64) -> String {
    let magnitude = number.max(1.0).log10().floor() as i32;
    let unit = 10_f64.powi((magnitude - 2).max(0));
    thousands(((number.max(0.0) / unit).round() * unit) as u64)
}

/// A duration, as exactly as one wants to read it: `45 s`, `2 min 30 s`, `12 min`, `3 h 50 min`, `41 h`, `6.3 days`.
pub fn for_people(duration: Duration) -> String {
    let seconds = duration.as_secs().saturating_add(u64::from(duration.subsec_millis() >= 500));
    let minutes = (seconds + MINUTE_SECONDS / 2) / MINUTE_SECONDS;
    match seconds {
        0 if duration.is_zero() => "0 s".to_owned(),
        0 => "less than 1 s".to_owned(),
        1..MINUTE_SECONDS => format!("{seconds} s"),
        // Below ten minutes the seconds matter.
        MINUTE_SECONDS..600 => two(seconds, MINUTE_SECONDS, "min", "s"),
        600..HOUR_SECONDS if minutes < 60 => format!("{minutes} min"),
        _ if minutes < 24 * 60 => two(minutes, 60, "h", "min"),
        _ if minutes < 48 * 60 => format!("{} h", (minutes + 30) / 60),
        _ => {
            let days = seconds as f64 / DAY_SECONDS as f64;
            // From a hundred days on nobody asks for the tenths.
            if days < 99.95 { format!("{days:.1} days") } else { format!("{} days", thousands(days.round() as u64)) }
        }
    }
}

fn two(amount: u64, large: u64, large_unit: &str, small_unit: &str) -> String {
    match (amount / large, amount % large) {
        (whole, 0) => format!("{whole} {large_unit}"),
        (whole, rest) => format!("{whole} {large_unit} {rest} {small_unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_parted_by_commas() {
        let told = [0, 7, 999, 1_000, 65_536, 1_000_000, u64::MAX].map(thousands);
        assert_eq!(told, ["0", "7", "999", "1,000", "65,536", "1,000,000", "18,446,744,073,709,551,615"]);
    }

    #[test]
    fn what_is_known_roughly_is_said_roughly() {
        let told = [-1.0, 0.0, 7.4, 123.4, 1_234.0, 999_600.0, 55_123_456.0].map(about);
        assert_eq!(told, ["0", "0", "7", "123", "1,230", "1,000,000", "55,100,000"]);
    }

    #[test]
    fn a_duration_is_said_as_people_say_it() {
        let cases = [
            (0.0, "0 s"),
            (0.2, "less than 1 s"),
            (45.4, "45 s"),
            (59.6, "1 min"),
            (150.0, "2 min 30 s"),
            (720.0, "12 min"),
            (3_569.0, "59 min"),
            (3_580.0, "1 h"),
            (13_800.0, "3 h 50 min"),
            (86_380.0, "24 h"),
            (147_600.0, "41 h"),
            (172_800.0, "2.0 days"),
            (544_320.0, "6.3 days"),
            (36e6, "417 days"),
            (1e9, "11,574 days"),
        ];
        for (seconds, told) in cases {
            assert_eq!(for_people(Duration::from_secs_f64(seconds)), told, "{seconds} s");
        }
    }
}
