//! Whose key goes where.
//!
//! Invariant: a key leaves here only for a host that it belongs to. Every key but the one of the command line belongs to
//! the hosts that its own place names: a base URL on the command line cannot lure it elsewhere. Reads keys, prints none.

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
    pub(super) fn source_for(&self, base_url: &Url, own: Option<KeyPlace>) -> Result<Arc<TokenSource>, Stop> {
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
            found => Err(self.missing(base_url, found.map(|found| found.name()))),
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

    fn missing(&self, base_url: &Url, found: Option<String>) -> Stop {
        let host = base_url.host_str().unwrap_or_default();
        let configured = self.configured.as_ref().map(|(place, _)| place.name());
        let other = configured.or(found).map_or(String::new(), |other| {
            format!(": the one in {other} belongs to another host and is not sent there")
        });
        Stop::config(format!("no key for {host}{other}")).way_out(match self.trusts(base_url) {
            true => self.ways(),
            false => format!(
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::{Action, Config, Flags, build, parse_base_url};
    use crate::exit::Exit;
    use std::collections::HashMap;
    use std::ffi::OsString;
    use std::os::unix::fs::PermissionsExt;

    const ELSEWHERE: &str = "https://elsewhere.example/v1";
    const LOCAL: &str = "http://127.0.0.1:8080/v1";

    struct Machine {
        folder: tempfile::TempDir,
        variables: HashMap<String, OsString>,
    }

    impl Machine {
        fn new() -> Machine {
            let folder = tempfile::tempdir().unwrap();
            let home = folder.path().as_os_str().to_owned();
            Machine { folder, variables: HashMap::from([("HOME".to_owned(), home)]) }
        }

        fn set(mut self, name: &str, value: impl Into<OsString>) -> Machine {
            self.variables.insert(name.to_owned(), value.into());
            self
        }

        fn file(self, name: &str, text: &str, mode: u32) -> Machine {
            let path = self.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            self
        }

        fn credentials(self, mode: u32) -> Machine {
            let folder = self.path("credentials");
            self.file("credentials/api-key", "credential", mode).set("CREDENTIALS_DIRECTORY", folder)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn build(&self, base_url: Option<&str>, key_file: Option<&str>, action: Action) -> Result<Config, Stop> {
            let base_urls = base_url.into_iter().map(|text| parse_base_url(text).unwrap()).collect();
            let api_key_files = key_file.into_iter().map(|name| self.path(name)).collect();
            let environment = Environment::new(self.variables.clone(), self.path("etc.toml"));
            build(Flags { base_urls, api_key_files, action, ..Flags::default() }, &environment)
        }

        fn key(&self, base_url: Option<&str>, key_file: Option<&str>) -> Option<String> {
            let config = self.build(base_url, key_file, Action::Filter).unwrap();
            assert!(!format!("{config:?}").contains("sk-"));
            config.service.first().token.read().unwrap().map(|secret| secret.expose().to_owned())
        }

        fn refused(&self, base_url: Option<&str>, key_file: Option<&str>) -> String {
            let stop = self.build(base_url, key_file, Action::Filter).unwrap_err();
            assert!(stop.exit == Exit::Config && stop.way_out.is_some(), "{stop}");
            assert!(!stop.to_string().contains("sk-"), "{stop}");
            stop.to_string()
        }
    }

    const USER_KEY: &str = ".config/anvil-filter/api-key";
    const USER_CONFIG: &str = ".config/anvil-filter/config.toml";

    #[test]
    fn the_nearest_key_is_taken() {
        let machine = Machine::new().file(USER_KEY, "user", 0o600);
        assert_eq!(machine.key(None, None).as_deref(), Some("user"));
        let machine = machine.credentials(0o440);
        assert_eq!(machine.key(None, None).as_deref(), Some("credential"));
        let machine = machine.set("ANVILGPT_API_KEY", "");
        assert_eq!(machine.key(None, None).as_deref(), Some("credential"));
        let machine = machine.set("ANVILGPT_API_KEY", "sk-variable");
        assert_eq!(machine.key(None, None).as_deref(), Some("sk-variable"));
        let machine =
            machine.file("configured", "configured", 0o600).file("etc.toml", "api_key_file = 'configured'", 0o644);
        assert_eq!(machine.key(None, None).as_deref(), Some("configured"));
        let machine = machine.file("flag", "flag", 0o600);
        assert_eq!(machine.key(None, Some("flag")).as_deref(), Some("flag"));
        assert_eq!(machine.key(Some(ELSEWHERE), Some("flag")).as_deref(), Some("flag"));
    }

    #[test]
    fn a_flag_cannot_lure_a_key_to_another_host() {
        let variable = Machine::new().set("ANVILGPT_API_KEY", "sk-variable");
        assert!(variable.refused(Some(ELSEWHERE), None).contains("the one in ANVILGPT_API_KEY"));
        assert!(
            variable
                .refused(Some("https://anvilgpt.rcac.purdue.edu.elsewhere.example"), None)
                .contains("--api-key-file FILE")
        );
        assert_eq!(variable.key(Some("https://anvilgpt.rcac.purdue.edu/other"), None).as_deref(), Some("sk-variable"));
        assert_eq!(variable.key(Some(LOCAL), None).as_deref(), Some("sk-variable"));
        assert!(Machine::new().file(USER_KEY, "sk-user", 0o600).refused(Some(ELSEWHERE), None).contains(USER_KEY));
        assert!(Machine::new().credentials(0o400).refused(Some(ELSEWHERE), None).contains("credentials/api-key"));
        let configured = Machine::new().file("k", "sk-k", 0o600).file(USER_CONFIG, "api_key_file = '../../k'", 0o600);
        assert_eq!(configured.key(None, None).as_deref(), Some("sk-k"));
        assert!(configured.refused(Some(ELSEWHERE), None).contains("belongs to another host"));
    }

    #[test]
    fn keys_go_to_the_hosts_of_environment_and_configuration() {
        let key = Machine::new().set("ANVILGPT_API_KEY", "sk-variable");
        let by_variable = key.set("ANVILGPT_BASE_URL", ELSEWHERE);
        assert_eq!(by_variable.key(None, None).as_deref(), Some("sk-variable"));
        assert_eq!(by_variable.key(Some("https://elsewhere.example/v2"), None).as_deref(), Some("sk-variable"));
        assert!(by_variable.refused(Some("https://third.example"), None).contains("third.example"));
        let key = Machine::new().set("ANVILGPT_API_KEY", "sk-variable");
        let by_file = key.file("etc.toml", &format!("base_url = '{ELSEWHERE}'"), 0o644);
        assert_eq!(by_file.key(None, None).as_deref(), Some("sk-variable"));
    }

    #[test]
    fn a_configured_key_belongs_to_the_service_that_it_was_written_for() {
        let machine = Machine::new().file("k", "sk-facility", 0o600).file(
            "etc.toml",
            &format!("base_url = '{ELSEWHERE}'\napi_key_file = 'k'"),
            0o644,
        );
        assert_eq!(machine.key(None, None).as_deref(), Some("sk-facility"));
        assert_eq!(machine.key(Some(LOCAL), None).as_deref(), Some("sk-facility"));
        let machine = machine.file(USER_CONFIG, "base_url = 'https://third.example'", 0o600);
        assert!(machine.refused(None, None).contains("belongs to another host"));
        let machine = machine.set("ANVILGPT_API_KEY", "sk-variable");
        assert_eq!(machine.key(None, None).as_deref(), Some("sk-variable"));
    }

    #[test]
    fn no_key_at_all_is_fine_on_this_machine_only() {
        let machine = Machine::new();
        assert_eq!(machine.key(Some(LOCAL), None), None);
        let shown = machine.refused(None, None);
        for way in ["ANVILGPT_API_KEY", "--api-key-file", USER_KEY, "`api_key_file`", "$CREDENTIALS_DIRECTORY/api-key"]
        {
            assert!(shown.contains(way), "{way} is missing: {shown}");
        }
        assert!(machine.refused(Some(ELSEWHERE), None).contains("--api-key-file FILE"));
        let dry = machine.build(None, None, Action::DryRun).unwrap();
        assert!(dry.service.first().token.read().unwrap().is_none());
        assert!(machine.build(None, None, Action::Models).is_err());
    }

    #[test]
    fn a_key_that_cannot_be_used_stops_before_anything_is_sent() {
        let machine = Machine::new().file("open", "sk-open", 0o644).file("empty", "\n", 0o600);
        assert!(machine.refused(None, Some("open")).contains(&format!("chmod 600 {}", machine.path("open").display())));
        assert!(machine.refused(None, Some("empty")).contains("it is empty"));
        assert!(machine.refused(None, Some("none")).contains("none"));
        let shown = machine.set("ANVILGPT_API_KEY", "sk-a sk-b").refused(None, None);
        assert!(shown.contains("ANVILGPT_API_KEY"), "{shown}");
    }

    #[test]
    fn the_service_managers_folder_excuses_its_own_files_only() {
        let machine = Machine::new().credentials(0o440).file("open", "sk-open", 0o644);
        assert_eq!(machine.key(None, Some("credentials/api-key")).as_deref(), Some("credential"));
        assert!(machine.refused(None, Some("credentials/../open")).contains("chmod 600"));
    }
}
