//! From layers to a configuration: which setting wins, and what it means beside others.
//!
//! Invariant: the environment comes in as a value, so that nothing here asks the process. Refuses to know how flags are
//! spelled on the command line, but for its advice.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use url::Url;

use super::file::{self, Layer};
use super::keys::Keys;
use super::values::parse_base_url;
use super::{
    Action, Allowance, BASE_URL_DEFAULT, Clocks, Config, DialectChoice, Input, InputFile, Limits, Order, Output,
    Report, Separator, Service,
};
use crate::api::Upstream;
use crate::api::token::TokenSource;
use crate::exit::Stop;
use crate::line::escape::shown;
use crate::line::{Defaults, Format, InputForm};

/// The configuration file of the machine.
const ETC_CONFIG: &str = "/etc/anvil-filter/config.toml";
/// The variables that matter; no other one is looked at.
const VARIABLES: &[&str] =
    &["ANVILGPT_API_KEY", "ANVILGPT_BASE_URL", "ANVILGPT_MODEL", "CREDENTIALS_DIRECTORY", "HOME", "XDG_CONFIG_HOME"];
/// The most that is read of a certificate file.
const CERTIFICATES_BYTES_MAX: u64 = 16 << 20;
/// What every PEM certificate begins with.
const CERTIFICATE_MARK: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Where settings are found outside the command line. Cannot be printed: a key may be in it.
pub struct Environment {
    variables: HashMap<String, OsString>,
    etc_config: PathBuf,
}

impl Environment {
    /// The environment of this process, and the machine's own configuration file.
    pub fn from_process() -> Environment {
        let value = |name: &&str| Some((name.to_string(), std::env::var_os(name)?));
        Environment { variables: VARIABLES.iter().filter_map(value).collect(), etc_config: PathBuf::from(ETC_CONFIG) }
    }

    /// An environment that is made up: variables, and a path in the place of the machine's configuration file.
    pub fn new(variables: HashMap<String, OsString>, etc_config: PathBuf) -> Environment {
        Environment { variables, etc_config }
    }

    /// A variable's text; an empty one counts as unset.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Stop> {
        match self.variables.get(name).filter(|value| !value.is_empty()) {
            None => Ok(None),
            Some(value) => value.to_str().map(|text| Some(text.to_owned())).ok_or_else(|| {
                Stop::config(format!("the environment variable {name} is not UTF-8"))
                    .way_out(format!("set {name} again, or unset it"))
            }),
        }
    }

    /// A variable's absolute path; the specifications of all of them say to ignore relative ones.
    pub(super) fn folder(&self, name: &str) -> Option<PathBuf> {
        self.variables.get(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// The user's own folder for this program's configuration.
    pub(super) fn user_folder(&self) -> Option<PathBuf> {
        let home = || Some(self.folder("HOME")?.join(".config"));
        Some(self.folder("XDG_CONFIG_HOME").or_else(home)?.join("anvil-filter"))
    }
}

/// What the command line says.
#[derive(Debug, Default)]
pub struct Flags {
    /// What to do.
    pub action: Action,
    /// The settings that other layers can hold, too.
    pub layer: Layer,
    /// A configuration file that must exist.
    pub config_file: Option<PathBuf>,
    /// The inputs; `-` is standard input, and none at all means the same.
    pub files: Vec<PathBuf>,
    /// What ends a record.
    pub separator: Separator,
    /// The field that takes the answer.
    pub merge: Option<String>,
    /// The file that collects the input lines that failed.
    pub failed: Option<PathBuf>,
    /// The file that takes the summary.
    pub meta: Option<PathBuf>,
    /// The order of the output lines.
    pub order: Order,
    /// How many lines may fail while the run still counts as answered.
    pub allow_failed: Option<Allowance>,
    /// How many lines may fail before the run stops early.
    pub max_failed: Option<Allowance>,
    /// How much is told to people.
    pub report: Report,
}

/// Makes the configuration: `/etc`, the user's file, the named file, the environment, then flags; the later one wins.
///
/// Reads the token once, so that a key file which cannot be used stops the run before anything is sent.
pub fn build(mut flags: Flags, environment: &Environment) -> Result<Config, Stop> {
    let files = read_files(flags.config_file.as_deref(), environment)?;
    let variables = variables(environment)?;
    let keys = Keys {
        flag: flags.layer.api_key_file.take(),
        configured: files.key_file,
        base_urls: files.base_urls.into_iter().chain(variables.base_url.clone()).collect(),
        environment,
    };
    let mut settings = std::mem::take(&mut flags.layer).over(variables.over(files.settings));
    let mut warnings = files.warnings;
    Ok(Config {
        action: flags.action,
        service: service(&mut settings, &keys, flags.action)?,
        limits: limits(&settings, files.ceiling, &mut warnings),
        clocks: clocks(&settings),
        defaults: Defaults { model: settings.model, system: settings.system, params: settings.params },
        input: input(&mut flags, settings.input),
        report: flags.report,
        output: output(flags, settings.format),
        warnings,
    })
}

/// What the configuration files say together.
struct Files {
    settings: Layer,
    /// What no flag can raise, and the file that says so.
    ceiling: Option<(NonZeroUsize, PathBuf)>,
    /// The key file, and the base URL that it was written for.
    key_file: Option<(PathBuf, Url)>,
    base_urls: Vec<Url>,
    warnings: Vec<String>,
}

fn read_files(named: Option<&Path>, environment: &Environment) -> Result<Files, Stop> {
    let home = environment.folder("HOME");
    let etc = environment.etc_config.as_path();
    let user = environment.user_folder().map(|folder| folder.join("config.toml"));
    let mut files = Files {
        settings: Layer::default(),
        ceiling: None,
        key_file: None,
        base_urls: Vec::new(),
        warnings: Vec::new(),
    };
    for path in [Some(etc), user.as_deref(), named].into_iter().flatten() {
        match file::load(path, home.as_deref())? {
            Some(layer) => files.add(layer, path, etc)?,
            None if Some(path) == named => {
                return Err(Stop::config(format!("read configuration {}: no such file", shown(path)))
                    .way_out("check the path after --config"));
            }
            None => {}
        }
    }
    Ok(files)
}

impl Files {
    fn add(&mut self, mut layer: Layer, path: &Path, etc: &Path) -> Result<(), Stop> {
        match std::mem::take(&mut layer.limits).concurrency {
            Some(ceiling) if path == etc => self.ceiling = Some((ceiling, path.to_owned())),
            Some(_) => self.warnings.push(format!(
                "[limits] in {} is ignored: only {} sets limits; `concurrency` sets a wish",
                shown(path),
                shown(etc)
            )),
            None => {}
        }
        self.base_urls.extend(layer.base_url.clone());
        let key_file = layer.api_key_file.take();
        self.settings = layer.over(std::mem::take(&mut self.settings));
        if let Some(key_file) = key_file {
            // A later file may name another service; this key does not follow it there.
            let meant = self.settings.base_url.clone().map_or_else(|| parse_base_url(BASE_URL_DEFAULT), Ok)?;
            self.key_file = Some((key_file, meant));
        }
        Ok(())
    }
}

fn variables(environment: &Environment) -> Result<Layer, Stop> {
    let name = "ANVILGPT_BASE_URL";
    let base_url = environment.text(name)?.map(|text| parse_base_url(&text)).transpose();
    let base_url = base_url.map_err(|stop| Stop { message: format!("{name}: {}", stop.message), ..stop })?;
    Ok(Layer { base_url, model: environment.text("ANVILGPT_MODEL")?, ..Layer::default() })
}

fn service(settings: &mut Layer, keys: &Keys<'_>, action: Action) -> Result<Service, Stop> {
    let base_url = settings.base_url.take().map_or_else(|| parse_base_url(BASE_URL_DEFAULT), Ok)?;
    let token = match action {
        Action::DryRun => TokenSource::None,
        Action::Filter | Action::Check | Action::Models => keys.source_for(&base_url)?,
    };
    Ok(Service {
        base_url,
        dialect: settings.dialect.and_then(DialectChoice::dialect),
        upstream: settings.upstream.unwrap_or(Upstream::Stream),
        token: token.into(),
        ca_certificates_pem: certificates(settings.ca_cert.as_deref().unwrap_or_default())?,
    })
}

fn limits(settings: &Layer, ceiling: Option<(NonZeroUsize, PathBuf)>, warnings: &mut Vec<String>) -> Limits {
    let default = Limits::default();
    let mut concurrency = settings.concurrency.unwrap_or(default.concurrency);
    if let Some((ceiling, path)) = ceiling.filter(|(ceiling, _)| *ceiling < concurrency) {
        if settings.concurrency.is_some() {
            let path = shown(&path);
            warnings.push(format!("concurrency lowered from {concurrency} to {ceiling}, the limit in {path}"));
        }
        concurrency = ceiling;
    }
    Limits {
        concurrency,
        line_bytes_max: settings.max_line_bytes.unwrap_or(default.line_bytes_max),
        window_bytes_max: settings.window_bytes.unwrap_or(default.window_bytes_max),
        reply_bytes_max: settings.max_reply_bytes.unwrap_or(default.reply_bytes_max),
    }
}

fn clocks(settings: &Layer) -> Clocks {
    let default = Clocks::default();
    let timeouts = &settings.timeouts;
    Clocks {
        connect: timeouts.connect.unwrap_or(default.connect),
        first_token: timeouts.first_token.unwrap_or(default.first_token),
        between_chunks: timeouts.chunk.unwrap_or(default.between_chunks),
        whole_reply: timeouts.reply.unwrap_or(default.whole_reply),
        drain: timeouts.drain.unwrap_or(default.drain),
        outage_max: settings.max_outage.unwrap_or(default.outage_max),
        auth_wait: settings.auth_wait.unwrap_or(default.auth_wait),
        retry_delay_max: settings.max_retry_delay.unwrap_or(default.retry_delay_max),
    }
}

fn input(flags: &mut Flags, form: Option<InputForm>) -> Input {
    let mut files: Vec<InputFile> = std::mem::take(&mut flags.files)
        .into_iter()
        .map(|path| if path == Path::new("-") { InputFile::Stdin } else { InputFile::Path(path) })
        .collect();
    if files.is_empty() {
        files.push(InputFile::Stdin);
    }
    Input { files, form: form.unwrap_or(InputForm::Json), separator: flags.separator }
}

fn output(flags: Flags, format: Option<Format>) -> Output {
    // The flags cannot contradict each other here; a format from a file gives way to `--merge`.
    let format = format.filter(|_| flags.merge.is_none());
    Output {
        format,
        // Deltas are written as they arrive, so no order of lines is kept.
        order: if format == Some(Format::Events) { Order::Completion } else { flags.order },
        merge: flags.merge,
        failed: flags.failed,
        meta: flags.meta,
        allow_failed: flags.allow_failed,
        max_failed: flags.max_failed,
    }
}

fn certificates(paths: &[PathBuf]) -> Result<Vec<u8>, Stop> {
    let mut pem = Vec::new();
    for path in paths {
        let wrong = |cause: String| {
            Stop::config(format!("read certificates {}: {cause}", shown(path)))
                .way_out("name a PEM file with the certificates of the authority that signed the service's")
        };
        let start = pem.len();
        let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
        let length = file.take(CERTIFICATES_BYTES_MAX + 1).read_to_end(&mut pem);
        if length.map_err(|error| wrong(error.to_string()))? as u64 > CERTIFICATES_BYTES_MAX {
            return Err(wrong("it is longer than 16 MiB".to_owned()));
        }
        if !pem[start..].windows(CERTIFICATE_MARK.len()).any(|window| window == CERTIFICATE_MARK) {
            return Err(wrong("no PEM certificate in it".to_owned()));
        }
        pem.push(b'\n');
    }
    Ok(pem)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::exit::Exit;
    use std::fs;
    use std::os::unix::ffi::OsStringExt;

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
        assert_eq!(config.service.base_url.as_str(), BASE_URL_DEFAULT);
        assert_eq!(config.service.url("/chat/completions"), format!("{BASE_URL_DEFAULT}/chat/completions"));
        assert_eq!((config.service.dialect, config.service.upstream), (None, Upstream::Stream));
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
        let found =
            |flags| machine.build(flags).map(|config| (config.limits.concurrency.get(), config.warnings)).unwrap();
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
    fn a_variable_that_is_not_utf_8_is_named_and_not_shown() {
        for name in ["ANVILGPT_MODEL", "ANVILGPT_BASE_URL", "ANVILGPT_API_KEY"] {
            let stop = Machine::new()
                .set(name, OsString::from_vec(b"hidden\xff".to_vec()))
                .build(Flags::default())
                .unwrap_err();
            assert!(stop.exit == Exit::Config && stop.message.contains(name) && stop.way_out.is_some(), "{stop}");
            assert!(!stop.to_string().contains("hidden"), "{stop}");
        }
        let stop =
            Machine::new().set("ANVILGPT_BASE_URL", "http://hidden.example").build(Flags::default()).unwrap_err();
        assert!(stop.message.starts_with("ANVILGPT_BASE_URL: ") && !stop.to_string().contains("hidden"), "{stop}");
    }

    #[test]
    fn merge_and_events_decide_format_and_order() {
        let machine = Machine::new().file(USER, "format = 'events'\ninput = 'text'\ndialect = 'openai'");
        let config = machine.build(Flags::default()).unwrap();
        assert_eq!((config.output.format, config.output.order), (Some(Format::Events), Order::Completion));
        assert_eq!(config.input.form, InputForm::Text);
        assert_eq!(config.service.dialect, Some(crate::api::Dialect::OpenAi));
        let merge = Some("answer".to_owned());
        let config = machine.build(Flags { merge, ..Flags::default() }).unwrap();
        assert_eq!((config.output.format, config.output.order), (None, Order::Input));
        let auto = Layer { dialect: Some(DialectChoice::Auto), ..Layer::default() };
        assert_eq!(machine.build(with(auto)).unwrap().service.dialect, None);
    }

    #[test]
    fn certificates_are_read_and_must_be_certificates() {
        let pem = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----";
        let machine =
            Machine::new().file("a.pem", pem).file("b.pem", pem).file("key.pem", "-----BEGIN PRIVATE KEY-----");
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
}
