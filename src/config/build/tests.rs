//! Which setting wins, and what settings mean beside each other.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStringExt;

use super::*;
use crate::api::Upstream;
use crate::config::{BASE_URL_DEFAULT, DialectChoice};
use crate::exit::Exit;

struct Machine {
    folder: tempfile::TempDir,
    variables: HashMap<String, OsString>,
}

impl Machine {
    fn new() -> Machine {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().as_os_str().to_owned();
        let key = ("ANVILGPT_API_KEY".to_owned(), OsString::from("sk-environment"));
        Machine { folder, variables: HashMap::from([("HOME".to_owned(), home), key]) }
    }

    fn set(mut self, name: &str, value: impl Into<OsString>) -> Machine {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    fn file(self, name: &str, text: &str) -> Machine {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn build(&self, flags: Flags) -> Result<Config, Stop> {
        build(flags, &Environment::new(self.variables.clone(), self.path("etc.toml")))
    }
}

const USER: &str = ".config/anvil-filter/config.toml";

fn with(layer: Layer) -> Flags {
    Flags { layer, ..Flags::default() }
}

fn model(name: &str) -> Layer {
    Layer { model: Some(name.to_owned()), ..Layer::default() }
}

fn wish(concurrency: usize) -> Flags {
    with(Layer { concurrency: NonZeroUsize::new(concurrency), ..Layer::default() })
}

#[test]
fn with_nothing_said_the_default_service_is_meant() {
    let config = Machine::new().build(Flags::default()).unwrap();
    assert_eq!(config.service.first().base_url.as_str(), BASE_URL_DEFAULT);
    assert_eq!(config.service.first().url("/chat/completions"), format!("{BASE_URL_DEFAULT}/chat/completions"));
    assert_eq!((config.service.first().dialect, config.service.upstream), (None, Upstream::Stream));
    assert_eq!(config.warnings, Vec::<String>::new());
    assert!(!format!("{config:?}").contains("sk-"));
}

#[test]
fn each_layer_wins_over_the_ones_before_it() {
    let mut machine = Machine::new().file("etc.toml", "model = 'etc'\nsystem = 'etc'");
    let found = |machine: &Machine, flags| machine.build(flags).unwrap().defaults.model.unwrap();
    let named = |machine: &Machine| Flags { config_file: Some(machine.path("named.toml")), ..Flags::default() };
    assert_eq!(found(&machine, Flags::default()), "etc");
    machine = machine.file(USER, "model = 'user'");
    assert_eq!(found(&machine, Flags::default()), "user");
    machine = machine.file("named.toml", "model = 'named'");
    assert_eq!(found(&machine, named(&machine)), "named");
    machine = machine.set("ANVILGPT_MODEL", "");
    assert_eq!(found(&machine, named(&machine)), "named");
    machine = machine.set("ANVILGPT_MODEL", "variable");
    assert_eq!(found(&machine, named(&machine)), "variable");
    assert_eq!(found(&machine, with(model("flag"))), "flag");
    let system = machine.build(named(&machine)).unwrap().defaults.system;
    assert_eq!(system.as_deref(), Some("etc"));
}

#[test]
fn the_users_file_is_found_by_xdg_config_home() {
    let machine = Machine::new().file("xdg/anvil-filter/config.toml", "model = 'xdg'").file(USER, "model = 'home'");
    let xdg = machine.path("xdg");
    let machine = machine.set("XDG_CONFIG_HOME", "relative");
    assert_eq!(machine.build(Flags::default()).unwrap().defaults.model.as_deref(), Some("home"));
    let machine = machine.set("XDG_CONFIG_HOME", xdg);
    assert_eq!(machine.build(Flags::default()).unwrap().defaults.model.as_deref(), Some("xdg"));
}

#[test]
fn a_named_file_must_exist_and_every_file_must_be_right() {
    let machine = Machine::new();
    let flags = Flags { config_file: Some(machine.path("none.toml")), ..Flags::default() };
    let stop = machine.build(flags).unwrap_err();
    assert!(stop.exit == Exit::Config && stop.message.contains("none.toml"), "{stop}");
    let stop = machine.file(USER, "\nmodle = 'x'").build(with(model("flag"))).unwrap_err();
    assert!(stop.message.contains("line 2") && stop.way_out.unwrap().contains("`model`"));
}

#[test]
fn the_machines_limit_can_only_be_lowered() {
    let machine = Machine::new().file("etc.toml", "[limits]\nconcurrency = 3");
    let found = |flags| machine.build(flags).map(|config| (config.limits.concurrency.get(), config.warnings)).unwrap();
    assert_eq!(found(wish(2)), (2, vec![]));
    assert_eq!(found(Flags::default()), (3, vec![]));
    let (concurrency, warnings) = found(wish(64));
    assert_eq!(concurrency, 3);
    assert!(warnings[0].contains("from 64 to 3") && warnings[0].contains("etc.toml"), "{warnings:?}");
    let machine = machine.file(USER, "concurrency = 8\n[limits]\nconcurrency = 100");
    let config = machine.build(Flags::default()).unwrap();
    assert_eq!(config.limits.concurrency.get(), 3);
    assert!(config.warnings[0].contains("is ignored") && config.warnings[1].contains("from 8 to 3"));
}

#[test]
fn the_machines_rates_hold_beside_every_wish_and_the_least_tokens_do() {
    let machine = Machine::new().file("etc.toml", "[limits]\nrate = ['60/min', '1000/h']\ntokens_per_min = 500");
    let found = |file: &str, layer: Layer| {
        let config = machine_with(&machine, file).build(with(layer)).unwrap();
        let endpoint = config.service.first();
        let rates: Vec<_> = endpoint.rates.iter().map(ToString::to_string).collect();
        (rates.join(", "), endpoint.tokens_per_minute, config.warnings)
    };
    let flags = |rate: &str, tokens| Layer {
        rate: Some(vec![rate.parse().unwrap()]),
        tokens_per_min: NonZeroU64::new(tokens),
        ..Layer::default()
    };
    assert_eq!(found("", Layer::default()), ("60 per min, 1,000 per h".to_owned(), Some(500), vec![]));
    let (rates, tokens, warnings) = found("rate = '9/s'", flags("10/s", 501));
    assert_eq!((rates.as_str(), tokens), ("10 per s, 60 per min, 1,000 per h", Some(500)));
    assert!(warnings[0].contains("tokens_per_min lowered from 501 to 500"), "{warnings:?}");
    assert_eq!(found("rate = '60/min'\ntokens_per_min = 9", Layer::default()).0, "60 per min, 1,000 per h");
    assert_eq!(found("tokens_per_min = 9", Layer::default()).1, Some(9));
    let (_, tokens, warnings) = found("[limits]\nrate = '1/h'\ntokens_per_min = 1", Layer::default());
    assert_eq!(tokens, Some(500));
    assert!(warnings[0].contains("is ignored"), "{warnings:?}");
}

fn machine_with(machine: &Machine, user: &str) -> Machine {
    let etc = fs::read_to_string(machine.path("etc.toml")).unwrap();
    Machine::new().file("etc.toml", &etc).file(USER, user)
}

#[test]
fn what_is_to_hold_of_answers_comes_from_files_and_flags() {
    let machine = Machine::new().file(USER, "require_model = true\nfixed = true");
    let config = machine.build(Flags::default()).unwrap();
    assert_eq!(config.integrity, Integrity { require_model: true, retry_truncated: false });
    assert_eq!((config.limits.fixed, config.limits.concurrency.get()), (true, 4));
    let flag = with(Layer { retry_truncated: Some(true), ..Layer::default() });
    let config = machine.build(flag).unwrap();
    assert_eq!(config.integrity, Integrity { require_model: true, retry_truncated: true });
}

#[test]
fn a_variable_that_is_not_utf_8_is_named_and_not_shown() {
    for name in ["ANVILGPT_MODEL", "ANVILGPT_BASE_URL", "ANVILGPT_API_KEY"] {
        let stop =
            Machine::new().set(name, OsString::from_vec(b"hidden\xff".to_vec())).build(Flags::default()).unwrap_err();
        assert!(stop.exit == Exit::Config && stop.message.contains(name) && stop.way_out.is_some(), "{stop}");
        assert!(!stop.to_string().contains("hidden"), "{stop}");
    }
    let stop = Machine::new().set("ANVILGPT_BASE_URL", "http://hidden.example").build(Flags::default()).unwrap_err();
    assert!(stop.message.starts_with("ANVILGPT_BASE_URL: ") && !stop.to_string().contains("hidden"), "{stop}");
}

#[test]
fn merge_and_events_decide_format_and_order() {
    let machine = Machine::new().file(USER, "format = 'events'\ninput = 'text'\ndialect = 'openai'");
    let config = machine.build(Flags::default()).unwrap();
    assert_eq!((config.output.format, config.output.order), (Some(Format::Events), Order::Completion));
    assert_eq!(config.input.form, InputForm::Text);
    assert_eq!(config.service.first().dialect, Some(crate::api::Dialect::OpenAi));
    let merge = Some("answer".to_owned());
    let config = machine.build(Flags { merge, ..Flags::default() }).unwrap();
    assert_eq!((config.output.format, config.output.order), (None, Order::Input));
    let auto = Layer { dialect: Some(DialectChoice::Auto), ..Layer::default() };
    assert_eq!(machine.build(with(auto)).unwrap().service.first().dialect, None);
}

#[test]
fn certificates_are_read_and_must_be_certificates() {
    let pem = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----";
    let machine = Machine::new().file("a.pem", pem).file("b.pem", pem).file("key.pem", "-----BEGIN PRIVATE KEY-----");
    let flags = |names: &[&str]| {
        let files = names.iter().map(|name| machine.path(name)).collect();
        with(Layer { ca_cert: Some(files), ..Layer::default() })
    };
    let config = machine.build(flags(&["a.pem", "b.pem"])).unwrap();
    assert_eq!(config.service.ca_certificates_pem, format!("{pem}\n{pem}\n").as_bytes());
    for name in ["key.pem", "none.pem"] {
        let stop = machine.build(flags(&["a.pem", name])).unwrap_err();
        assert!(stop.exit == Exit::Config && stop.message.contains(name) && stop.way_out.is_some(), "{stop}");
    }
}
