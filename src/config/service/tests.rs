//! Which endpoints there are, whose key goes to each, and what holds there.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::config::{Config, Environment, Flags, build};
use crate::exit::Exit;

const HERE: &str = "http://127.0.0.1:8080/v1";
const A: &str = "https://a.example/v1";
const B: &str = "https://b.example/v1";

struct Machine {
    folder: tempfile::TempDir,
    variables: HashMap<String, OsString>,
}

impl Machine {
    /// A machine with this configuration file, and a key file for each of `a`, `b` and `c`.
    fn new(etc: &str) -> Machine {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("etc.toml", etc), ("a", "word-a"), ("b", "word-b"), ("c", "word-c")] {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        Machine { folder, variables: HashMap::new() }
    }

    fn set(mut self, name: &str, value: &str) -> Machine {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn build(&self, flags: Flags) -> Result<Config, Stop> {
        build(flags, &Environment::new(self.variables.clone(), self.path("etc.toml")))
    }

    fn flags(&self, base_urls: &[&str], keys: &[&str]) -> Flags {
        Flags {
            base_urls: base_urls.iter().map(|text| parse_base_url(text).unwrap()).collect(),
            api_key_files: keys.iter().map(|name| self.path(name)).collect(),
            ..Flags::default()
        }
    }

    /// Each endpoint's host and key.
    fn found(&self, flags: Flags) -> Vec<String> {
        let shown = |endpoint: &EndpointConfig| {
            let key = endpoint.token.read().unwrap().map(|secret| secret.expose().to_owned());
            format!("{} {}", endpoint.base_url.host_str().unwrap(), key.as_deref().unwrap_or("none"))
        };
        self.build(flags).unwrap().service.endpoints.iter().map(shown).collect()
    }

    fn refused(&self, flags: Flags) -> Stop {
        let stop = self.build(flags).unwrap_err();
        assert!(stop.way_out.is_some() && !stop.to_string().contains("word-"), "{stop}");
        stop
    }
}

/// Two tables, of which the second has what is given.
fn two(second: &str) -> String {
    format!("[[endpoint]]\nbase_url = '{A}'\napi_key_file = 'a'\n[[endpoint]]\nbase_url = '{B}'\n{second}")
}

#[test]
fn key_files_of_the_command_line_go_with_its_base_urls() {
    let machine = Machine::new("");
    let found = |keys: &[&str]| machine.found(machine.flags(&[A, B, HERE], keys));
    assert_eq!(found(&["a", "b", "c"]), ["a.example word-a", "b.example word-b", "127.0.0.1 word-c"]);
    assert_eq!(found(&["c"]), ["a.example word-c", "b.example word-c", "127.0.0.1 word-c"]);
    let stop = machine.refused(machine.flags(&[A, B, HERE], &["a", "b"]));
    assert_eq!(stop.exit, Exit::Usage);
    assert!(stop.message.contains("given 2 times, and --base-url 3 times"), "{stop}");
}

#[test]
fn a_pipe_with_the_key_of_all_is_read_once() {
    let machine = Machine::new("");
    let pipe = machine.path("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let writer = std::thread::spawn(move || fs::write(pipe, "word-of-pipe").unwrap());
    let found = machine.found(machine.flags(&[A, B], &["pipe"]));
    assert_eq!(found, ["a.example word-of-pipe", "b.example word-of-pipe"]);
    writer.join().unwrap();
}

#[test]
fn each_table_has_its_own_key() {
    let machine = Machine::new(&two("api_key_command = 'echo word-of-b'"));
    assert_eq!(machine.found(Flags::default()), ["a.example word-a", "b.example word-of-b"]);
    let stop = machine.refused(machine.flags(&[], &["c"]));
    assert!(stop.exit == Exit::Usage && stop.message.contains("2 endpoints come from elsewhere"), "{stop}");
}

#[test]
fn a_command_is_run_when_its_key_is_wanted_and_not_before() {
    let machine = Machine::new("");
    let mark = machine.path("mark");
    let command = KeyCommand::new(&format!("echo run >> {}; echo key", mark.display())).unwrap();
    let flags = Flags { api_key_command: Some(command), ..machine.flags(&[A, B], &[]) };
    let config = machine.build(flags).unwrap();
    assert!(!mark.exists());
    for endpoint in &config.service.endpoints {
        assert_eq!(endpoint.token.read().unwrap().unwrap().expose(), "key");
    }
    assert_eq!(fs::read_to_string(mark).unwrap(), "run\n");
}

#[test]
fn a_key_that_is_not_an_endpoints_own_goes_to_the_first_of_a_list_alone() {
    let list = format!("[[endpoint]]\nbase_url = '{A}'\n[[endpoint]]\nbase_url = '{B}'\n");
    for machine in [
        Machine::new(&format!("api_key_file = 'c'\n{list}")),
        Machine::new(&format!("api_key_command = 'echo word-c'\n{list}")),
        Machine::new(&list).set("ANVILGPT_API_KEY", "word-variable"),
    ] {
        let stop = machine.refused(Flags::default());
        assert_eq!(stop.exit, Exit::Config);
        assert!(stop.message.starts_with("no key for b.example: the one in "), "{stop}");
        assert!(stop.way_out.unwrap().ends_with("in the [[endpoint]] of b.example"));
    }
    let stop = Machine::new(&two("")).refused(Flags::default());
    assert!(stop.exit == Exit::Config && stop.message.contains("no key for b.example"), "{stop}");
    // The same host has the same key, whatever its path; this machine needs none.
    let same = format!("api_key_file = 'c'\n[[endpoint]]\nbase_url = '{A}'\n[[endpoint]]\nbase_url = '{A}/other'");
    assert_eq!(Machine::new(&same).found(Flags::default()), ["a.example word-c", "a.example word-c"]);
    let here = format!("[[endpoint]]\nbase_url = '{HERE}'\n[[endpoint]]\nbase_url = '{A}'\napi_key_file = 'a'");
    assert_eq!(Machine::new(&here).found(Flags::default()), ["127.0.0.1 none", "a.example word-a"]);
}

#[test]
fn base_urls_of_flags_and_environment_replace_the_list() {
    let machine = Machine::new(&two("api_key_file = 'b'"));
    assert_eq!(machine.found(machine.flags(&[HERE], &["c"])), ["127.0.0.1 word-c"]);
    // The keys of the tables stay with the tables.
    let stop = machine.refused(machine.flags(&[B], &[]));
    assert!(stop.message.contains("no key for b.example"), "{stop}");
    let machine = machine.set("ANVILGPT_BASE_URL", HERE);
    assert_eq!(machine.found(Flags::default()), ["127.0.0.1 none"]);
    assert_eq!(machine.found(machine.flags(&[], &["c"])), ["127.0.0.1 word-c"]);
}

#[test]
fn what_holds_at_an_endpoint_is_its_own_then_that_of_all_and_flags_win() {
    let all = "dialect = 'openai'\nrate = '5/s'\ntokens_per_min = 7\n[limits]\nrate = '9/h'\ntokens_per_min = 50\n";
    let own =
        "dialect = 'open-webui'\nrate = ['6/s', '7/min']\ntokens_per_min = 60\nconcurrency = 3\napi_key_file = 'b'";
    let machine = Machine::new(&format!("{all}{}", two(own)));
    let rates = |endpoint: &EndpointConfig| endpoint.rates.iter().map(ToString::to_string).collect::<Vec<_>>();
    let config = machine.build(Flags::default()).unwrap();
    let [a, b] = &config.service.endpoints[..] else { panic!() };
    assert_eq!((a.dialect, b.dialect), (Some(Dialect::OpenAi), Some(Dialect::OpenWebUi)));
    assert_eq!(
        (rates(a), rates(b)),
        (vec!["5 per s".into(), "9 per h".into()], vec!["6 per s".into(), "7 per min".into(), "9 per h".into()])
    );
    assert_eq!((a.tokens_per_minute, b.tokens_per_minute), (Some(7), Some(50)));
    assert_eq!((a.concurrency, b.concurrency.unwrap().get()), (None, 3));
    assert_eq!(config.limits.concurrency.get(), 16 + 3);
    assert!(config.warnings.len() == 1 && config.warnings[0].contains("from 60 to 50"), "{:?}", config.warnings);
    let layer = Layer {
        dialect: Some(DialectChoice::Auto),
        rate: Some(vec!["8/s".parse().unwrap()]),
        tokens_per_min: NonZeroU64::new(9),
        ..Layer::default()
    };
    let config = machine.build(Flags { layer, ..Flags::default() }).unwrap();
    for endpoint in &config.service.endpoints {
        assert_eq!((endpoint.dialect, endpoint.tokens_per_minute), (None, Some(9)));
        assert_eq!(rates(endpoint), ["8 per s", "9 per h"]);
    }
}

#[test]
fn the_same_endpoint_twice_and_far_too_many_are_refused() {
    let machine = Machine::new("");
    let stop = machine.refused(machine.flags(&[HERE, "http://127.0.0.1:8080/v1/"], &[]));
    assert!(stop.exit == Exit::Usage && stop.message.contains("twice"), "{stop}");
    let stop = Machine::new(&two(&format!("[[endpoint]]\nbase_url = '{B}/'"))).refused(Flags::default());
    assert!(stop.exit == Exit::Config && stop.message.contains(B), "{stop}");
    let many: Vec<String> = (0..=ENDPOINTS_MAX).map(|port| format!("http://127.0.0.1:{}", 1000 + port)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(machine.refused(machine.flags(&many, &[])).message.contains("65 endpoints"));
    assert_eq!(machine.found(machine.flags(&many[1..], &[])).len(), ENDPOINTS_MAX);
}
