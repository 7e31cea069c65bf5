//! When a run has to be over: a time from now, or a clock time.
//!
//! Clock times without an offset are local, those of the zone that `TZ` or the machine names. Of a local time that comes
//! twice, when clocks are set back, the first is meant; one that is skipped, when they are set forward, comes an hour
//! later by the clock on the wall.

use std::time::{Duration, SystemTime};

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use super::environment::Environment;
use super::values::{DURATION_MAX, parse_duration};
use crate::exit::Stop;

/// A local time of the day, and a local date with its time as `squeue` prints the end of a job.
const TIMES: &[&str] = &["%H:%M", "%H:%M:%S"];
const DATES: &[&str] = &["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M"];
/// The ways to write a deadline.
const WAYS: &str = "write a time from now such as 55m, or a clock time such as 14:30, 2026-11-23T14:30:00 or \
                    2026-11-23T14:30:00-05:00";

/// A deadline as the command line says it; where it lies depends on the clock and, mostly, on the time zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// As it was written.
    text: String,
    when: When,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    After(Duration),
    At(Timestamp),
    LocalDate(DateTime),
    /// The next such time.
    LocalTime(Time),
}

/// A time from now such as `55m`, a local time such as `14:30`, or a date with its time, local or by RFC 3339.
pub fn parse_deadline(text: &str) -> Result<Deadline, String> {
    let text = text.trim();
    let local_time = TIMES.iter().find_map(|form| Time::strptime(form, text).ok()).map(When::LocalTime);
    let local_date = || DATES.iter().find_map(|form| DateTime::strptime(form, text).ok()).map(When::LocalDate);
    let exact = || text.parse().ok().map(When::At);
    let when = match local_time.or_else(local_date).or_else(exact) {
        Some(when) => when,
        None if humantime::parse_duration(text).is_ok() => When::After(parse_duration(text)?),
        None => return Err(WAYS.to_owned()),
    };
    Ok(Deadline { text: text.to_owned(), when })
}

impl Deadline {
    /// The moment that is meant. Refuses what is past, and what lies more than a year ahead and must be a mistake.
    pub(super) fn resolve(&self, environment: &Environment) -> Result<SystemTime, Stop> {
        let wrong = |cause: String, way_out: &str| {
            Err(Stop::usage(format!("--deadline {}: {cause}", self.text)).way_out(way_out))
        };
        let now = environment.now();
        let moment = match self.when {
            When::After(duration) => Ok(now + duration),
            When::At(at) => Ok(SystemTime::from(at)),
            When::LocalDate(date) => environment.time_zone().and_then(|zone| moment(date, &zone)),
            When::LocalTime(time) => environment.time_zone().and_then(|zone| next(time, now, &zone)),
        };
        match moment {
            Err(error) => wrong(
                format!("the local time is not known: {error}"),
                "set TZ, for example TZ=America/New_York, or write the time with its offset: 2026-11-23T14:30:00-05:00",
            ),
            Ok(moment) if moment <= now => wrong(format!("it is past: now is {}", told(now, environment)), WAYS),
            Ok(moment) if moment > now + DURATION_MAX => wrong("it is more than a year ahead".to_owned(), WAYS),
            Ok(moment) => Ok(moment),
        }
    }
}

fn moment(date: DateTime, zone: &TimeZone) -> Result<SystemTime, jiff::Error> {
    Ok(date.to_zoned(zone.clone())?.timestamp().into())
}

/// The next moment, after `now`, at which the clocks of a zone show a time.
fn next(time: Time, now: SystemTime, zone: &TimeZone) -> Result<SystemTime, jiff::Error> {
    let today = Zoned::new(Timestamp::try_from(now)?, zone.clone()).date();
    match moment(today.to_datetime(time), zone)? {
        moment if moment > now => Ok(moment),
        _ => moment(today.tomorrow()?.to_datetime(time), zone),
    }
}

/// A moment as people read it, to the second, in local time when that is known.
fn told(moment: SystemTime, environment: &Environment) -> String {
    let zone = environment.time_zone().unwrap_or(TimeZone::UTC);
    Timestamp::try_from(moment)
        .map(|moment| Zoned::new(moment, zone).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string())
        .unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::exit::Exit;
    use std::collections::HashMap;
    use std::path::PathBuf;

    /// Five hours behind UTC all year, so that local and exact times differ and no clock is ever set back.
    const EAST: &str = "EST5";
    /// 12:30:15 there.
    const NOON: &str = "2026-11-23T17:30:15Z";

    fn zone(rule: &str) -> TimeZone {
        TimeZone::posix(rule).unwrap()
    }

    fn resolved(text: &str, now: &str, rule: &str) -> Result<Timestamp, Stop> {
        let now: Timestamp = now.parse().unwrap();
        let environment = Environment::new(HashMap::new(), PathBuf::new()).at(now.into(), zone(rule));
        parse_deadline(text).unwrap().resolve(&environment).map(|moment| moment.try_into().unwrap())
    }

    fn found(text: &str, now: &str) -> String {
        resolved(text, now, EAST).unwrap().to_string()
    }

    #[test]
    fn every_form_is_read() {
        for (text, moment) in [
            ("55m", "2026-11-23T18:25:15Z"),
            ("1h 30m", "2026-11-23T19:00:15Z"),
            ("14:30", "2026-11-23T19:30:00Z"),
            ("9:30", "2026-11-24T14:30:00Z"),
            ("14:30:20", "2026-11-23T19:30:20Z"),
            ("12:30", "2026-11-24T17:30:00Z"),
            ("12:30:15", "2026-11-24T17:30:15Z"),
            ("12:30:16", "2026-11-23T17:30:16Z"),
            ("00:00", "2026-11-24T05:00:00Z"),
            ("2026-11-23T14:30:00", "2026-11-23T19:30:00Z"),
            ("2026-11-23T14:30", "2026-11-23T19:30:00Z"),
            ("2026-11-23T18:30:00Z", "2026-11-23T18:30:00Z"),
            ("2026-11-23T14:30:00-08:00", "2026-11-23T22:30:00Z"),
            ("2026-11-23T14:30:00.5-05:00", "2026-11-23T19:30:00.5Z"),
            (" 2026-11-23T14:30:00\n", "2026-11-23T19:30:00Z"),
        ] {
            assert_eq!(found(text, NOON), moment, "{text}");
        }
        assert_eq!(found("01:00", "2026-12-31T23:00:00Z"), "2027-01-01T06:00:00Z");
    }

    #[test]
    fn what_is_no_time_is_refused_with_the_ways_to_write_one() {
        for text in
            ["", "soon", "30", "14", "24:00", "14:60", "14:30pm", "2026-11-23", "2026-13-01T00:00:00", "N/A", "-5m"]
        {
            assert_eq!(parse_deadline(text), Err(WAYS.to_owned()), "{text}");
        }
        assert!(parse_deadline("0s").unwrap_err().contains("more than zero"));
        assert!(parse_deadline("2years").unwrap_err().contains("at most a year"));
    }

    #[test]
    fn what_is_past_or_absurdly_far_is_refused() {
        for (text, cause) in [
            ("2026-11-23T12:30:15", "it is past: now is 2026-11-23T12:30:15-05:00"),
            ("2026-11-23T12:30:00-05:00", "it is past"),
            ("1926-11-23T12:30:00Z", "it is past"),
            ("2126-11-23T12:30:00", "it is more than a year ahead"),
            ("9999-12-30T12:30:00Z", "it is more than a year ahead"),
        ] {
            let stop = resolved(text, NOON, EAST).unwrap_err();
            assert!(stop.exit == Exit::Usage && stop.way_out.as_deref() == Some(WAYS), "{stop}");
            assert!(
                stop.message.starts_with(&format!("--deadline {text}: ")) && stop.message.contains(cause),
                "{stop}"
            );
        }
    }

    #[test]
    fn local_times_follow_the_zones_summer_time() {
        let rule = "EST5EDT,M3.2.0,M11.1.0";
        const NOW: &str = "2026-10-31T12:00:00Z";
        let found = |text, now| resolved(text, now, rule).unwrap().to_string();
        assert_eq!(found("14:30", "2026-07-01T12:00:00Z"), "2026-07-01T18:30:00Z");
        assert_eq!(found("14:30", "2026-11-01T03:00:00Z"), "2026-11-01T19:30:00Z");
        assert_eq!(found("2026-11-01T01:30:00", NOW), "2026-11-01T05:30:00Z", "of two, the first");
        assert_eq!(found("2027-03-14T02:30:00", NOW), "2027-03-14T07:30:00Z", "there is none");
    }
}
