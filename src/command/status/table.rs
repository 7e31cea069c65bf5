//! A status as lines for people. Pure: what was seen comes in, text goes out.
//!
//! Invariant: every name and message in a line was escaped; a line holds no control character.

use std::time::Duration;

use super::{Seen, Sight};
use crate::daemon::status::{DaemonState, FileCounts, JobState, JobStatus, RequestCounts, SpoolStatus};
use crate::line::escape::{self, for_people, shown};

/// Names and messages are cut there.
const TEXT_CHARS_MAX: usize = 300;

/// All folders, one after another.
pub(super) fn lines(sights: &[Sight]) -> Vec<String> {
    let mut lines = Vec::new();
    for sight in sights {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        let spool = shown(&sight.spool);
        match &sight.seen {
            Seen::Status { status, age, alive } => {
                lines.push(format!("{spool}: {}", head(status, *age, *alive)));
                push_status(&mut lines, status);
            }
            Seen::NeverRun { inputs } => {
                lines.push(format!("{spool}: no daemon has ever run here; {} wait", files(*inputs)));
            }
            Seen::Silent { inputs } => {
                lines.push(format!("{spool}: daemon not running, and it has left no status; {} wait", files(*inputs)));
            }
            Seen::Unusable(stop) => {
                lines.extend(escape::message(&format!("{spool}: {stop}")).lines().map(str::to_owned));
            }
        }
    }
    lines
}

fn files(count: u64) -> String {
    if count == 1 { "1 prompt file".to_owned() } else { format!("{count} prompt files") }
}

/// What the daemon does, who it is, and when it was heard last.
fn head(status: &SpoolStatus, age: Option<Duration>, alive: bool) -> String {
    let age = age.map_or_else(|| "at an unknown time".to_owned(), |age| format!("{} ago", span(age)));
    if !alive {
        let last = if status.state == DaemonState::Stopped { "stopped" } else { "last seen" };
        return format!("daemon not running ({last} {age}, {}); this is what it knew:", status.holder);
    }
    let state = match status.state {
        DaemonState::Running => "running",
        DaemonState::Standby => "standing by",
        DaemonState::Draining => "draining",
        DaemonState::Stopped => "stopped",
    };
    let paused = status.paused.as_ref().map(|reason| format!(", paused: {}", for_people(reason, TEXT_CHARS_MAX)));
    format!("{state}{}; {}, heartbeat {age}", paused.unwrap_or_default(), status.holder)
}

fn push_status(lines: &mut Vec<String>, status: &SpoolStatus) {
    lines.push(format!("  files     {}", file_counts(&status.files)));
    lines.push(format!("  requests  {}", request_counts(&status.requests)));
    if !status.running.is_empty() {
        lines.push(String::new());
        lines.extend(running(&status.running));
    }
    if !status.attention.is_empty() {
        lines.push(String::new());
        status.attention.iter().for_each(|job| lines.extend(attention(job)));
    }
}

fn file_counts(files: &FileCounts) -> String {
    let FileCounts { queued, running, done, failed, stale, blocked, rejected, cancelled } = files;
    format!(
        "{queued} queued, {running} running, {done} done, {failed} failed, {stale} stale, {blocked} blocked, \
         {rejected} rejected, {cancelled} cancelled"
    )
}

fn request_counts(requests: &RequestCounts) -> String {
    let RequestCounts { in_flight, answered, failed, retries, rate, .. } = requests;
    format!("{in_flight} in flight, {answered} answered, {failed} failed, {retries} retries, {rate:.1}/s")
}

/// The files that run, under their headings; numbers stand right, names last.
fn running(jobs: &[JobStatus]) -> Vec<String> {
    let headings = ["DONE", "TOTAL", "RATE", "ETA", "FAILED", "FILE"].map(str::to_owned);
    let unknown = || "?".to_owned();
    let row = |job: &JobStatus| {
        [
            job.done.to_string(),
            job.total.map_or_else(unknown, |total| total.to_string()),
            format!("{:.1}/s", job.rate),
            job.eta_seconds.map_or_else(unknown, |seconds| span(Duration::from_secs(seconds))),
            job.failed.to_string(),
            for_people(&job.path, TEXT_CHARS_MAX),
        ]
    };
    let rows: Vec<[String; 6]> = [headings].into_iter().chain(jobs.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    let line = |row: &[String; 6]| {
        let cells = widths.iter().zip(row).map(|(width, cell)| format!("  {cell:>width$}"));
        cells.chain([format!("  {}", row[5])]).collect::<String>()
    };
    rows.iter().map(line).collect()
}

/// A file that needs somebody: how it stands, why, and what to do.
fn attention(job: &JobStatus) -> Vec<String> {
    let state = match job.state {
        JobState::Queued => "queued",
        JobState::Running => "running",
        JobState::Failed => "failed",
        JobState::Stale => "stale",
        JobState::Blocked => "blocked",
        JobState::Rejected => "rejected",
        JobState::Cancelled => "cancelled",
    };
    let [path, message] = [&job.path, &reason(job)].map(|text| for_people(text, TEXT_CHARS_MAX));
    let colon = if message.is_empty() { "" } else { ": " };
    let mut lines = vec![format!("  {state:<9} {path}{colon}{message}")];
    lines.extend(job.way_out.as_ref().map(|way_out| format!("            {}", for_people(way_out, TEXT_CHARS_MAX))));
    lines
}

fn reason(job: &JobStatus) -> String {
    let mut text = job.message.clone().unwrap_or_default();
    if text.is_empty() && job.failed > 0 {
        let total = job.total.map_or(String::new(), |total| format!(" of {total}"));
        text = format!("{}{total} lines failed", job.failed);
    }
    if !job.codes.is_empty() {
        let codes: Vec<String> = job.codes.iter().map(|(code, count)| format!("{code} {count}")).collect();
        text = format!("{text} ({})", codes.join(", ")).trim_start().to_owned();
    }
    text
}

/// A time as people say it: in one unit, in two from two hours on.
fn span(time: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match time.as_secs() {
        seconds if seconds < 2 * MINUTE => format!("{seconds}s"),
        seconds if seconds < 2 * HOUR => format!("{}m", seconds / MINUTE),
        seconds if seconds < 2 * DAY => format!("{}h {}m", seconds / HOUR, seconds % HOUR / MINUTE),
        seconds => format!("{}d {}h", seconds / DAY, seconds % DAY / HOUR),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job(state: &str) -> JobStatus {
        let job = json!({ "path": "sub/p.jsonl", "state": state, "at": "", "owner": 0, "done": 12, "total": 100,
            "failed": 3, "rate": 1.25, "eta_seconds": 7300 });
        serde_json::from_value(job).unwrap()
    }

    fn status() -> SpoolStatus {
        serde_json::from_str(include_str!("../../../tests/common/spool_status.json")).unwrap()
    }

    fn seen(status: SpoolStatus, age_seconds: u64, alive: bool) -> Vec<String> {
        let age = Some(Duration::from_secs(age_seconds));
        lines(&[Sight { spool: "dir".into(), seen: Seen::Status { status: Box::new(status), age, alive } }])
    }

    #[test]
    fn the_head_says_what_the_daemon_does_or_that_it_does_not_run() {
        assert_eq!(seen(status(), 3, true)[0], "dir: running; pid 7 on host n1, heartbeat 3s ago");
        let paused = SpoolStatus { paused: Some("the token\nwas refused".into()), ..status() };
        let head = &seen(paused, 3, true)[0];
        assert!(head.starts_with("dir: running, paused: the token\\u{a}was refused; pid 7"), "{head}");
        let head = &seen(status(), 300, false)[0];
        assert_eq!(head, "dir: daemon not running (last seen 5m ago, pid 7 on host n1); this is what it knew:");
        let stopped = SpoolStatus { state: DaemonState::Stopped, ..status() };
        assert!(seen(stopped, 1, false)[0].contains("(stopped 1s ago"));
    }

    #[test]
    fn counts_and_tables_stand_in_their_columns() {
        let long =
            JobStatus { path: "q.jsonl".into(), done: 123_456, total: None, eta_seconds: None, ..job("running") };
        let told = seen(SpoolStatus { running: vec![job("running"), long], ..status() }, 3, true);
        assert_eq!(
            told[1..].join("\n"),
            "  files     1 queued, 2 running, 3 done, 4 failed, 5 stale, 6 blocked, 7 rejected, 8 cancelled\n  \
             requests  1 in flight, 2 answered, 0 failed, 0 retries, 1.5/s\n\n    \
             DONE  TOTAL   RATE    ETA  FAILED  FILE\n      \
             12    100  1.2/s  2h 1m       3  sub/p.jsonl\n  \
             123456      ?  1.2/s      ?       3  q.jsonl"
        );
    }

    #[test]
    fn what_needs_somebody_says_why_and_what_to_do() {
        let codes = [("timeout".to_owned(), 2), ("upstream_invalid".to_owned(), 1)].into();
        let failed = JobStatus { codes, way_out: Some("touch p.jsonl.retry".into()), ..job("failed") };
        assert_eq!(
            attention(&failed),
            [
                "  failed    sub/p.jsonl: 3 of 100 lines failed (timeout 2, upstream_invalid 1)",
                "            touch p.jsonl.retry"
            ]
        );
        let blocked = JobStatus { message: Some("p.out.jsonl is taken".into()), ..job("blocked") };
        assert_eq!(attention(&blocked), ["  blocked   sub/p.jsonl: p.out.jsonl is taken"]);
        assert_eq!(attention(&JobStatus { failed: 0, ..job("stale") }), ["  stale     sub/p.jsonl"]);
    }

    #[test]
    fn nothing_in_a_status_steers_the_terminal() {
        let evil = "\u{1b}[2J\n\u{9b}\u{202e}";
        let mut job = JobStatus { path: evil.into(), message: Some(evil.into()), ..job("failed") };
        (job.way_out, job.codes) = (Some(evil.into()), [(evil.to_owned(), 1)].into());
        let mut status = SpoolStatus { paused: Some(evil.into()), running: vec![job.clone()], ..status() };
        (status.attention, status.holder.host) = (vec![job], evil.into());
        for line in seen(status.clone(), 3, true).into_iter().chain(seen(status, 300, false)) {
            assert!(!line.contains(|character: char| character.is_control() || character == '\u{202e}'), "{line:?}");
        }
    }

    #[test]
    fn times_are_said_in_few_units() {
        let seconds = [0, 119, 120, 7199, 7200, 172_799, 172_800];
        let spans = seconds.map(|seconds| span(Duration::from_secs(seconds)));
        assert_eq!(spans, ["0s", "119s", "2m", "119m", "2h 0m", "47h 59m", "2d 0h"]);
    }
}
