//! Rules on file names.
use serde::{Deserialize, Serialize};

/// What an input file holds, as its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Request lines (`.jsonl`).
    Lines,
    /// One request (`.json`).
    One,
    /// One prompt (`.txt`, `.md`).
    Text,
}
