//! The status files: `.anvil/status.json` of a spool, `p.status.json` and `p.reject.json` beside a prompt file. Advisory:
//! whoever reads them learns how it stands, and nothing is decided by them.

mod files;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::journal::lock::Holder;

pub use files::{TEMP_ENDING, read, write};

/// The folder in a spool that is the daemon's own.
pub const OWN_FOLDER: &str = ".anvil";
/// A daemon that has not written its status for so long does not run.
pub const ALIVE_WITHIN: Duration = Duration::from_secs(120);

/// A spool as its daemon sees it: `.anvil/status.json`, replaced by rename, readable for everyone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpoolStatus {
    /// The version of this form: 1.
    pub version: u32,
    /// When it was written: RFC 3339, UTC. Older than two minutes means that the daemon does not run.
    pub at: String,
    /// The daemon that wrote it.
    pub holder: Holder,
    /// The lease's generation; every daemon that takes the spool over begins a new one.
    pub generation: u64,
    /// What the daemon does.
    pub state: DaemonState,
    /// Why nothing is sent, when nothing is.
    pub paused: Option<String>,
    /// Prompt files by how they stand.
    pub files: FileCounts,
    /// Requests since the daemon began.
    pub requests: RequestCounts,
    /// The files that run now, the oldest first; at most a hundred.
    pub running: Vec<JobStatus>,
    /// Files that need somebody's attention (blocked, rejected, failed, stale), the newest first; at most a hundred.
    pub attention: Vec<JobStatus>,
    /// Where finished files and their results go, when they do not stay; bytes that are no UTF-8 are replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
}

impl SpoolStatus {
    /// Where the status of a spool lies.
    pub fn path_in(spool: &Path) -> PathBuf {
        spool.join(OWN_FOLDER).join("status.json")
    }

    /// How long before `now` it was written; `None` when it does not say. A clock that is ahead of ours counts as now.
    pub fn age(&self, now: SystemTime) -> Option<Duration> {
        let at = humantime::parse_rfc3339(&self.at).ok()?;
        Some(now.duration_since(at).unwrap_or_default())
    }

    /// Whether the daemon that wrote it still runs, as far as can be known from it.
    pub fn is_alive(&self, now: SystemTime) -> bool {
        self.state != DaemonState::Stopped && self.age(now).is_some_and(|age| age <= ALIVE_WITHIN)
    }
}

/// A time as the status files have it: RFC 3339, UTC, to the millisecond.
pub fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// What a daemon does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DaemonState {
    /// It runs what it finds.
    Running,
    /// It waits until nobody else holds the spool.
    Standby,
    /// It takes nothing new and waits for what is in flight.
    Draining,
    /// It has ended.
    Stopped,
}

/// Prompt files by how they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCounts {
    /// Found, and not yet begun.
    pub queued: u64,
    /// Begun.
    pub running: u64,
    /// Published since the spool was made, failed ones included.
    pub done: u64,
    /// Those of them with failed lines.
    pub failed: u64,
    /// Changed after they were published, and not yet run again.
    pub stale: u64,
    /// Settled, but their result's name is taken by something else.
    pub blocked: u64,
    /// Not taken.
    pub rejected: u64,
    /// Given up by their owners.
    pub cancelled: u64,
}

/// Requests since the daemon began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RequestCounts {
    /// In flight now.
    pub in_flight: u64,
    /// Answered.
    pub answered: u64,
    /// Settled with an error.
    pub failed: u64,
    /// Attempts that were repeated.
    pub retries: u64,
    /// Tokens of prompts, as the service counts them.
    pub prompt_tokens: u64,
    /// Tokens of answers, as the service counts them.
    pub completion_tokens: u64,
    /// Requests settled a second, over the last minute.
    pub rate: f64,
}

/// How a prompt file stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// Found, and not yet begun.
    Queued,
    /// Its lines are asked.
    Running,
    /// Its result is there, and some of its lines failed; or its one prompt failed, and there is no result.
    Failed,
    /// It changed after its result was published.
    Stale,
    /// Its result's name is taken by something that is not ours.
    Blocked,
    /// It could not be taken.
    Rejected,
    /// Its owner gave it up.
    Cancelled,
}

/// One prompt file: `p.status.json`, and a row of the spool's status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    /// The file, seen from the spool's folder; bytes that are no UTF-8 are replaced.
    pub path: String,
    /// How it stands.
    pub state: JobState,
    /// When that was: RFC 3339, UTC.
    pub at: String,
    /// Its owner's user id.
    pub owner: u32,
    /// Lines that are settled, failed ones included.
    pub done: u64,
    /// Lines that there are, blank ones left out; unknown while a large file was not read to its end.
    pub total: Option<u64>,
    /// Lines that failed.
    pub failed: u64,
    /// Lines a second, over the last minute.
    pub rate: f64,
    /// Seconds until it is done, at this rate.
    pub eta_seconds: Option<u64>,
    /// Failed lines by their code.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub codes: BTreeMap<String, u64>,
    /// What is wrong, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way_out: Option<String>,
    /// The settings that its lines get, as the folder's recipe and the daemon's configuration said when it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<serde_json::Value>,
}

/// Why a file was not taken: `p.reject.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    /// The file, seen from the spool's folder.
    pub path: String,
    /// When: RFC 3339, UTC.
    pub at: String,
    /// What kind of reason: `unreadable`, `too_large`, `not_regular`, `wrong_owner`, `hard_linked`, `no_model`, `recipe`,
    /// `poison`, `quota`.
    pub code: String,
    /// The reason, for a person.
    pub message: String,
    /// What to do about it.
    pub way_out: String,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// As a daemon might have written it.
    pub(super) const SPOOL: &str = include_str!("../../tests/common/spool_status.json");

    #[test]
    fn a_daemon_is_alive_for_two_minutes_after_its_last_word_unless_that_was_its_end() {
        let mut status: SpoolStatus = serde_json::from_str(SPOOL).unwrap();
        let at = humantime::parse_rfc3339("2026-03-01T12:00:00Z").unwrap();
        let after = |seconds| at + Duration::from_secs(seconds);
        assert_eq!(status.age(after(7)), Some(Duration::from_secs(7)));
        assert_eq!(status.age(at - Duration::from_secs(7)), Some(Duration::ZERO));
        assert!(status.is_alive(at) && status.is_alive(after(120)) && !status.is_alive(after(121)));
        status.state = DaemonState::Stopped;
        assert!(!status.is_alive(at));
        status.state = DaemonState::Draining;
        assert!(status.is_alive(at));
        status.at = "yesterday".to_owned();
        assert!(status.age(at).is_none() && !status.is_alive(at));
        status.at = timestamp(after(1));
        assert_eq!(status.age(after(3)), Some(Duration::from_secs(2)));
    }
}
