//! How long the lines will take, and what ends before they do, for people. Pure.
//!
//! Says only what matters: the one thing that decides the time, and what comes to its end before the lines do.

pub mod pilot;

use std::fmt;
use std::time::Duration;

use super::people::{for_people, speed, thousands};

/// Where the speed alone needs this share of the whole time, it is the speed that decides.
const SPEED_SHARE_MIN: f64 = 0.95;

/// What is known before lines are sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Lines that are left to do.
    pub lines: u64,
    /// The quota that decides, for people; None without one that matters. See [`super::Quotas::decisive`].
    pub quota: Option<String>,
    /// The speed that was measured, where it was.
    pub lines_per_second: Option<f64>,
    /// What ends by itself.
    pub ends: Vec<End>,
}

/// Something that ends by itself, whether or not the lines are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// What it is.
    pub of: Ending,
    /// How long until then.
    pub within: Duration,
    /// How long before that nothing more is sent.
    pub reserve: Duration,
}

/// The kinds of what ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The token expires.
    Token,
    /// The deadline that was asked for comes.
    Deadline,
    /// The batch job's walltime ends.
    Walltime,
}

/// How long a plan's lines will take, and what will not fit. `Display` says it in one line.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    lines: u64,
    pace: String,
    /// None where nothing tells how long it takes.
    time: Option<Duration>,
    /// What ends before the lines do, the last one first.
    too_early: Vec<End>,
    /// So many lines are done before the first of those.
    fits: u64,
}

impl Plan {
    /// The forecast; `time_for` tells how long so many lines take, by quotas and speed, and never falls as lines grow.
    pub fn forecast(&self, time_for: impl Fn(u64) -> Duration) -> Forecast {
        let known = self.quota.is_some() || self.lines_per_second.is_some_and(|speed| speed > 0.0);
        let time = known.then(|| time_for(self.lines));
        let mut too_early: Vec<End> =
            self.ends.iter().filter(|end| time.is_some_and(|time| end.sends_within() < time)).copied().collect();
        too_early.sort_by_key(|end| std::cmp::Reverse(end.sends_within()));
        let fits = too_early.last().map_or(self.lines, |first| most_within(first.sends_within(), self.lines, time_for));
        let pace = pace(self.lines, time.unwrap_or_default(), self.quota.as_deref(), self.lines_per_second);
        Forecast { lines: self.lines, pace: pace.unwrap_or_default(), time, too_early, fits }
    }
}

/// The quota or the speed, whichever decides how long it takes.
fn pace(lines: u64, time: Duration, quota: Option<&str>, lines_per_second: Option<f64>) -> Option<String> {
    let by_speed =
        lines_per_second.filter(|speed| *speed > 0.0).map(|per_second| (lines as f64 / per_second, speed(per_second)));
    match (quota, by_speed) {
        (Some(quota), Some((alone, _))) if alone < time.as_secs_f64() * SPEED_SHARE_MIN => Some(quota.to_owned()),
        (_, Some((_, speed))) => Some(speed),
        (quota, None) => quota.map(str::to_owned),
    }
}

/// The most lines that take no longer than `limit`, of at most `lines`.
fn most_within(limit: Duration, lines: u64, time_for: impl Fn(u64) -> Duration) -> u64 {
    let (mut fits, mut too_many) = (0, lines);
    while too_many - fits > 1 {
        let middle = fits + (too_many - fits) / 2;
        if time_for(middle) <= limit {
            fits = middle;
        } else {
            too_many = middle;
        }
    }
    fits
}

impl Forecast {
    /// How long all lines take; None where nothing tells.
    pub fn time(&self) -> Option<Duration> {
        self.time
    }

    /// Whether something ends before the lines do.
    pub fn is_warning(&self) -> bool {
        !self.too_early.is_empty()
    }

    /// How many lines are done before the first thing ends that ends too early; all of them when none does.
    pub fn fits(&self) -> u64 {
        self.fits
    }
}

impl fmt::Display for Forecast {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", thousands(self.lines), if self.lines == 1 { "line" } else { "lines" })?;
        let Some(time) = self.time else { return Ok(()) };
        write!(out, " at {}: {}", self.pace, for_people(time))?;
        for end in &self.too_early {
            write!(out, "; {end}")?;
        }
        match self.fits {
            _ if self.too_early.is_empty() => Ok(()),
            0 => write!(out, ", before the first of them"),
            fits => write!(out, " (about {} of them before that)", thousands(fits)),
        }
    }
}

impl End {
    /// How long lines can still be sent.
    fn sends_within(self) -> Duration {
        self.within.saturating_sub(self.reserve)
    }
}

impl fmt::Display for End {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, past, ends) = match self.of {
            Ending::Token => ("the token", "has expired", "expires"),
            Ending::Deadline => ("the deadline", "has passed", "comes"),
            Ending::Walltime => ("the walltime", "has ended", "ends"),
        };
        match self.within {
            Duration::ZERO => write!(out, "{what} {past}"),
            within => write!(out, "{what} {ends} in {}", for_people(within)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Ending::{Deadline, Token, Walltime};

    const HOUR: u64 = 3_600;

    fn plan(lines: u64, quota: Option<&str>, lines_per_second: Option<f64>, ends: &[(Ending, u64)]) -> Plan {
        let end = |(of, seconds): &(Ending, u64)| End {
            of: *of,
            within: Duration::from_secs(*seconds),
            reserve: Duration::ZERO,
        };
        let ends = ends.iter().map(end).collect();
        Plan { lines, quota: quota.map(str::to_owned), lines_per_second, ends }
    }

    /// 2,000 per 3 h, evenly.
    fn even(lines: u64) -> Duration {
        Duration::from_secs_f64(lines as f64 * 5.4)
    }

    #[test]
    fn what_ends_too_early_is_said_and_what_fits_before() {
        let ends = [(Walltime, 13_800), (Token, 41 * HOUR)];
        let forecast = plan(100_000, Some("2,000 per 3 h"), None, &ends).forecast(even);
        assert_eq!(
            forecast.to_string(),
            "100,000 lines at 2,000 per 3 h: 6.3 days; the token expires in 41 h; \
             the walltime ends in 3 h 50 min (about 2,555 of them before that)"
        );
        assert!(forecast.is_warning() && forecast.fits() == 2_555);
    }

    #[test]
    fn what_ends_later_is_not_said() {
        let ends = [(Token, 41 * HOUR), (Deadline, 4 * HOUR)];
        let forecast = plan(2_000, Some("2,000 per 3 h"), None, &ends).forecast(even);
        assert_eq!(forecast.to_string(), "2,000 lines at 2,000 per 3 h: 3 h");
        assert!(!forecast.is_warning() && forecast.fits() == 2_000);
        assert_eq!(forecast.time(), Some(Duration::from_secs(3 * HOUR)));
    }

    #[test]
    fn what_must_be_kept_for_the_answers_does_not_count() {
        let end = End { of: Deadline, within: Duration::from_secs(100), reserve: Duration::from_secs(46) };
        let forecast = Plan { ends: vec![end], ..plan(15, None, Some(1.0), &[]) }.forecast(even);
        assert_eq!(
            forecast.to_string(),
            "15 lines at 1.0 per s: 1 min 21 s; the deadline comes in 1 min 40 s (about 10 of them before that)"
        );
        let in_time = plan(15, None, Some(1.0), &[(Deadline, 100)]).forecast(even);
        assert!(!in_time.is_warning(), "{in_time}");
    }

    #[test]
    fn the_slower_of_quota_and_speed_is_said() {
        let told = |lines_per_second, seconds| {
            let plan = plan(600, Some("60 per min"), Some(lines_per_second), &[]);
            plan.forecast(|_| Duration::from_secs(seconds)).to_string()
        };
        assert_eq!(told(30.0, 560), "600 lines at 60 per min: 9 min 20 s");
        assert_eq!(told(0.5, 1_205), "600 lines at 30 per min: 20 min");
    }

    #[test]
    fn speed_alone_tells_the_time_too() {
        let forecast = plan(7_200, None, Some(4.0), &[(Deadline, 900)]);
        let forecast = forecast.forecast(|lines| Duration::from_secs(lines / 4));
        assert_eq!(
            forecast.to_string(),
            "7,200 lines at 4.0 per s: 30 min; the deadline comes in 15 min (about 3,603 of them before that)"
        );
    }

    #[test]
    fn without_quota_and_speed_nothing_is_promised() {
        let forecast = plan(1, None, None, &[(Token, 0)]).forecast(even);
        assert_eq!(forecast.to_string(), "1 line");
        assert!(!forecast.is_warning() && forecast.time().is_none());
    }

    #[test]
    fn an_end_before_the_first_line_is_said() {
        let ends = [(Token, 0)];
        let forecast = plan(10, Some("2,000 per 3 h"), None, &ends).forecast(even);
        assert_eq!(
            forecast.to_string(),
            "10 lines at 2,000 per 3 h: 54 s; the token has expired, before the first of them"
        );
    }
}
