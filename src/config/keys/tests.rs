//! Which key is taken, and where it does not go.
#![allow(clippy::unwrap_used)]

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
    for way in ["ANVILGPT_API_KEY", "--api-key-file", USER_KEY, "`api_key_file`", "$CREDENTIALS_DIRECTORY/api-key"] {
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
