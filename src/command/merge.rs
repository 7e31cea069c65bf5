//! `anvil-filter merge`: puts the outputs of shards together.

use super::journal::missing;
use crate::config::MergeTask;
use crate::exit::{Exit, Stop};

/// Runs the command.
pub fn run(_task: MergeTask) -> Result<Exit, Stop> {
    Err(missing("`merge`"))
}
