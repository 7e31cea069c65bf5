//! Whose key goes where.
//!
//! Invariant: a key leaves here only for a host that it belongs to. Every key but the one of the command line belongs to
//! the hosts that its own place names: a base URL on the command line cannot lure it elsewhere. Reads keys, prints none.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use url::Url;

use super::BASE_URL_DEFAULT;
use super::environment::Environment;
use super::values::is_loopback;
use crate::api::token::{FileRule, KeyCommand, Secret, TokenCommand, TokenError, TokenFile, TokenSource};
use crate::exit::Stop;
use crate::line::escape::shown;

/// A place that somebody names for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeyPlace {
    /// A file or pipe.
    File(PathBuf),
    /// A command that prints it.
    Command(KeyCommand),
}

impl KeyPlace {
    /// The place of a table, which names one of the two at most.
    pub(super) fn of(file: Option<PathBuf>, command: Option<KeyCommand>) -> Option<KeyPlace> {
        file.map(KeyPlace::File).or(command.map(KeyPlace::Command))
    }

    fn name(&self) -> String {
        match self {
            KeyPlace::File(path) => shown(path),
            KeyPlace::Command(command) => format!("the command {command}"),
        }
    }
}

/// Where an endpoint is named, which is where its own key can be named, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// In one of several `[[endpoint]]` tables.
    Table,
    /// On the command line, or where there is one endpoint only.
    Alone,
}

/// Where a key could be that belongs to no single endpoint, and which hosts are trusted with it.
pub(super) struct Keys<'a> {
    /// The place named in a configuration file, and the base URL that it was written for.
    configured: Option<(KeyPlace, Url)>,
    /// The base URLs of environment and configuration files: together with the default one, the hosts of every other key.
    base_urls: Vec<Url>,
    /// The variables, and the folders that they name.
    environment: &'a Environment,
    /// What was opened already: a pipe gives its key once, and a command need not be run for each endpoint.
    opened: RefCell<Vec<(KeyPlace, Arc<TokenSource>)>>,
}

impl<'a> Keys<'a> {
    /// The keys of configuration files and environment; nothing is read yet.
    pub(super) fn new(configured: Option<(KeyPlace, Url)>, base_urls: Vec<Url>, environment: &'a Environment) -> Self {
        Keys { configured, base_urls, environment, opened: RefCell::default() }
    }

    /// The source of the token for a base URL; `own` is the place that was named for this one. A file has been read
    /// once.
    pub(super) fn source_for(
        &self,
        base_url: &Url,
        own: Option<KeyPlace>,
        origin: Origin,
    ) -> Result<Arc<TokenSource>, Stop> {
        if let Some(place) = own {
            return self.open(place);
        }
        let is_local = is_loopback(base_url);
        if let Some((place, meant)) = &self.configured
            && (is_local || meant.host() == base_url.host())
        {
            return self.open(place.clone());
        }
        let is_trusted = is_local || self.trusts(base_url);
        match self.found()? {
            Some(found) if is_trusted => self.take(found),
            None if is_local => Ok(TokenSource::None.into()),
            found => Err(self.missing(base_url, found.map(|found| found.name()), origin)),
        }
    }

    /// Whether the keys that are not tied to one place belong to the host of a base URL.
    fn trusts(&self, base_url: &Url) -> bool {
        let default = Url::parse(BASE_URL_DEFAULT).ok();
        default.iter().chain(&self.base_urls).any(|url| url.host() == base_url.host())
    }

    fn found(&self) -> Result<Option<Found>, Stop> {
        let exists = |path: &PathBuf| path.try_exists().unwrap_or(true);
        let credential = self.environment.folder("CREDENTIALS_DIRECTORY");
        let files = [credential, self.environment.user_folder()].into_iter().flatten();
        Ok(match self.environment.text("ANVILGPT_API_KEY")? {
            Some(text) => Some(Found::Variable(text)),
            None => files.map(|folder| folder.join("api-key")).find(exists).map(Found::File),
        })
    }

    fn take(&self, found: Found) -> Result<Arc<TokenSource>, Stop> {
        match found {
            Found::File(path) => self.open(KeyPlace::File(path)),
            Found::Variable(text) => {
                let source = Secret::new(&text).map(|secret| TokenSource::Environment(secret).into());
                source.map_err(|fault| {
                    Stop::config(format!("ANVILGPT_API_KEY holds no usable key: {fault}"))
                        .way_out("set ANVILGPT_API_KEY to the key and nothing else, or unset it")
                })
            }
        }
    }

    fn open(&self, place: KeyPlace) -> Result<Arc<TokenSource>, Stop> {
        if let Some((_, source)) = self.opened.borrow().iter().find(|(opened, _)| *opened == place) {
            return Ok(Arc::clone(source));
        }
        let source = Arc::new(match &place {
            KeyPlace::File(path) => self.file(path)?,
            // Whoever connects runs it: a configuration that is only read again needs no key.
            KeyPlace::Command(command) => TokenSource::Command(TokenCommand::new(command.clone())),
        });
        self.opened.borrow_mut().push((place, Arc::clone(&source)));
        Ok(source)
    }

    fn file(&self, path: &Path) -> Result<TokenSource, Stop> {
        let rule = match self.is_credential(path) {
            true => FileRule::ServiceManager,
            false => FileRule::OwnerOnly,
        };
        let source = TokenSource::File(TokenFile::new(path.to_owned(), rule));
        let stop = |error: TokenError| Stop::config(error.to_string()).way_out(error.way_out());
        source.read().map_err(stop)?;
        Ok(source)
    }

    /// Whether a file is one of the service manager's, wherever links and dots in its path lead.
    fn is_credential(&self, path: &Path) -> bool {
        let folder = self.environment.folder("CREDENTIALS_DIRECTORY");
        match (folder.and_then(|folder| fs::canonicalize(folder).ok()), fs::canonicalize(path)) {
            (Some(folder), Ok(path)) => path.starts_with(folder),
            _ => false,
        }
    }

    fn missing(&self, base_url: &Url, found: Option<String>, origin: Origin) -> Stop {
        let host = base_url.host_str().unwrap_or_default();
        let configured = self.configured.as_ref().map(|(place, _)| place.name());
        let other = configured.or(found).map_or(String::new(), |other| {
            format!(": the one in {other} belongs to another host and is not sent there")
        });
        Stop::config(format!("no key for {host}{other}")).way_out(match origin {
            Origin::Table => format!("name it by `api_key_file` or `api_key_command` in the [[endpoint]] of {host}"),
            Origin::Alone if self.trusts(base_url) => self.ways(),
            Origin::Alone => format!(
                "name the key file of {host}: --api-key-file FILE, \
                 or `api_key_file` beside `base_url` in a configuration file"
            ),
        })
    }

    /// Every way to give a key for a host that the keys of all places belong to.
    fn ways(&self) -> String {
        let user_file = self.environment.user_folder().map(|folder| {
            let path = folder.join("api-key");
            format!("\n  write the key into {} (mode 0600)", shown(&path))
        });
        format!(
            "give one in any of these ways:\n  export ANVILGPT_API_KEY=…\n  \
             --api-key-file FILE (mode 0600, or a pipe){}\n  \
             --api-key-command CMD, which prints it\n  \
             `api_key_file` beside `base_url` in a configuration file\n  \
             $CREDENTIALS_DIRECTORY/api-key, under systemd",
            user_file.unwrap_or_default()
        )
    }
}

/// A key that the environment offers, not yet read.
enum Found {
    Variable(String),
    File(PathBuf),
}

impl Found {
    fn name(&self) -> String {
        match self {
            Found::Variable(_) => "ANVILGPT_API_KEY".to_owned(),
            Found::File(path) => shown(path),
        }
    }
}
