//! The status files: `.anvil/status.json` of a spool, `p.status.json` and `p.reject.json` beside a prompt file. Advisory:
//! whoever reads them learns how it stands, and nothing is decided by them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::journal::lock::Holder;

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
