//! `anvil-filter journal`: looks into a journal.

use crate::config::{Action, Config, JournalTask};
use crate::exit::{Exit, Stop};

/// Runs the command.
pub fn run(_task: JournalTask) -> Result<Exit, Stop> {
    Err(missing("`journal`"))
}

/// Refuses a run that this build would do without what it was asked for.
pub fn refuse_unknown(config: &Config) -> Result<(), Stop> {
    let sends = config.action == Action::Filter;
    let has_shard = config.input.shard.is_some_and(|shard| shard.count > 1);
    match (&config.output.journal, config.clocks.deadline) {
        (Some(_), _) if sends => Err(missing("-o and --journal")),
        (_, Some(_)) if sends => Err(missing("--deadline")),
        _ if has_shard => Err(missing("--shard")),
        _ => Ok(()),
    }
}

/// A stop because of something that this build does not have.
pub(super) fn missing(what: &str) -> Stop {
    Stop::new(Exit::Io, format!("{what}: not part of this build")).way_out("use a later version")
}
