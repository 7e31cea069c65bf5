//! Quotas that the service enforces and the program was told of: it must use them up and never run into them.

use std::time::Duration;

use super::Figures;
use super::stage::{Stage, Usage};

const LINES: usize = 4_000;
/// Requests, and the seconds in which the service takes them.
const QUOTAS: [(usize, f64); 3] = [(60, 0.5), (1_000, 30.0), (2_000, 90.0)];
const TEXTS: [&str; 3] = ["60/500ms", "1000/30s", "2000/90s"];
const ETA_ERROR_MAX: f64 = 0.1;

/// A minute's, an hour's and three hours' quota, on a shorter clock.
pub fn three_windows(stage: &Stage, usage: Usage) -> Figures {
    let _turn = stage.turn();
    let quotas = TEXTS.iter().flat_map(|quota| ["--quota", quota]);
    let quick = ["--latency", "lognormal:100:254"].into_iter();
    let service = stage.simulator(usage, &quick.chain(quotas).collect::<Vec<_>>());
    let rates = TEXTS.iter().flat_map(|rate| ["--rate", rate]);
    let run = stage.run(&[&service], LINES, &["-j", "64"].into_iter().chain(rates).collect::<Vec<_>>());
    let end = run.finish();
    assert!(end.status.success(), "the run failed with {}: {}", end.status, end.stderr);
    let seconds = end.completions.last().expect("there is a completion").seconds;
    let refused = service.ask("/stats")["all"]["over_quota"].as_u64().expect("it counts refusals");
    let used = seconds_at_least(LINES) / seconds;
    let eta_error = eta_seconds(&end.stderr).map(|eta| eta / seconds - 1.0);
    let eta = eta_error.map_or("no ETA".to_owned(), |error| format!("ETA {:+.1} %", 100.0 * error));
    Figures {
        text: format!("{refused} x 429, {:.1} % used, {eta}", 100.0 * used),
        ok: refused == 0 && used >= 0.97 && eta_error.is_some_and(|error| error.abs() <= ETA_ERROR_MAX),
    }
}

/// When a client that is never late could have had its last of so many requests admitted.
fn seconds_at_least(lines: usize) -> f64 {
    let mut admitted: Vec<f64> = Vec::with_capacity(lines);
    for number in 0..lines {
        let earliest = |(requests, seconds): &(usize, f64)| {
            number.checked_sub(*requests).map_or(0.0, |before| admitted[before] + seconds)
        };
        admitted.push(QUOTAS.iter().map(earliest).fold(0.0, f64::max));
    }
    admitted.last().copied().unwrap_or(0.0)
}

/// The time that the run said beforehand it would take: `4,000 lines at 2,000 per 1 min 30 s: 2 min 30 s`.
fn eta_seconds(stderr: &str) -> Option<f64> {
    let (_, pace) = stderr.split_once(" lines at ")?;
    let (_, time) = pace.lines().next()?.split_once(": ")?;
    let time = time.split([';', ',']).next()?.trim();
    humantime::parse_duration(time).ok().as_ref().map(Duration::as_secs_f64)
}
