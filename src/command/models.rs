//! `anvil-filter models`: what the token may use, one name a line.

use crate::config::Config;
use crate::connection;
use crate::exit::{Exit, Stop};
use crate::line::escape::for_people;

const NAME_CHARS_MAX: usize = 400;

/// Lists the models, each once, those of the first endpoint first.
pub async fn run(config: Config) -> Result<Exit, Stop> {
    let mut names: Vec<String> = Vec::new();
    for endpoint in &config.service.endpoints {
        let client = connection::client_of(&config, endpoint)?;
        let listed = connection::models(&client).await.map_err(|stop| connection::at(&config, endpoint, stop))?;
        names.extend(listed.into_iter().filter(|name| !names.contains(name)).collect::<Vec<_>>());
    }
    if names.is_empty() {
        return Err(connection::nothing_listed());
    }
    names.iter().try_for_each(|name| super::print(&for_people(name, NAME_CHARS_MAX)))?;
    Ok(Exit::Answered)
}
