//! The one line at the end of a run.

use super::Reporter;
use crate::flow::people::thousands;

/// How the run went: lines, answers, failures by code, flags, retries, tokens, wall time.
pub fn line(reporter: &Reporter, unsettled: u64, complete: bool, input_ended: bool) -> String {
    let (counts, seconds) = (reporter.counts(), reporter.seconds());
    let settled = counts.settled();
    let mut parts = vec![format!("{} answered", counts.answered())];
    if counts.failed() > 0 {
        let codes: Vec<String> =
            counts.codes().iter().map(|(code, count)| format!("{} {count}", code.as_str())).collect();
        parts.push(format!("{} failed ({})", counts.failed(), codes.join(", ")));
    }
    if counts.replayed() > 0 {
        parts.push(format!("{} of them from the journal", counts.replayed()));
    }
    parts.extend(counts.flags().iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{count} {name}")));
    if unsettled > 0 {
        parts.push(format!("{unsettled} not settled"));
    }
    if !input_ended {
        parts.push("the rest of the input was not read".to_owned());
    }
    if counts.retries() > 0 {
        parts.push(format!("{} retries", counts.retries()));
    }
    let (prompt, completion) = counts.tokens();
    if prompt + completion > 0 {
        parts.push(format!("{prompt} + {completion} tokens"));
    }
    if seconds < 1.0 {
        // A rate over less than a second tells more of the clock than of the service.
        parts.push(format!("{:.0} ms", seconds * 1e3));
    } else {
        parts.push(format!("{seconds:.1} s"));
        if completion > 0 {
            parts.push(format!("{:.0} tokens/s", completion as f64 / seconds));
        }
    }
    let stopped = if complete { "" } else { "stopped early: " };
    let noun = if settled == 1 { "line" } else { "lines" };
    let lines = match reporter.pilot() {
        Some(pilot) => format!("pilot: {} of {} lines", thousands(settled), thousands(pilot.lines)),
        None => format!("{settled} {noun}"),
    };
    format!("anvil-filter: {stopped}{lines}: {}", parts.join(", "))
}
