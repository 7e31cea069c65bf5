//! `anvil-filter models`: what the token may use, one name a line.

use crate::config::Config;
use crate::connection;
use crate::exit::{Exit, Stop};
use crate::line::escape::for_people;

const NAME_CHARS_MAX: usize = 400;

/// Lists the models.
pub async fn run(config: Config) -> Result<Exit, Stop> {
    let names = connection::models(&connection::client(&config)?).await?;
    if names.is_empty() {
        return Err(connection::nothing_listed());
    }
    names.iter().try_for_each(|name| super::print(&for_people(name, NAME_CHARS_MAX)))?;
    Ok(Exit::Answered)
}
