//! The log of a daemon, on stderr: for people, for the journal of systemd, or for programs that read JSON.
//!
//! Invariants: one event is one line and one write, whatever was quoted in it; nothing in a line steers a terminal. Only
//! what this program says itself is logged, never what its libraries say: they do not know what must stay unsaid.

use std::fmt::{self, Debug, Write as _};
use std::time::SystemTime;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogFormat, Verbosity};
use crate::exit::{Exit, Stop};
use crate::line::escape::{for_people, json};

/// Values are cut there, in characters: a line of the log is for reading.
const VALUE_CHARS_MAX: usize = 2000;
/// What events of this program are filed under.
const OWN_TARGET: &str = "anvil_filter";

/// How much is logged; it may be changed while the daemon runs.
#[derive(Clone, Debug)]
pub struct LogLevel(reload::Handle<Targets, Registry>);

impl LogLevel {
    /// From now on: with `Quiet` warnings and errors, with `Normal` also what begins and ends, with `Verbose` also what
    /// happens to single requests, with `Debug` everything.
    pub fn set(&self, verbosity: Verbosity) {
        // It fails only when there is no log any more, and then there is nothing to set.
        let _ = self.0.reload(filter(verbosity));
    }
}

/// Begins the log of this process: JSON where that is asked for, otherwise lines with the kernel's priorities in front
/// where the journal of systemd reads them, otherwise lines with the time in front.
///
/// Fails with 74 when this process has a log already.
pub fn start(verbosity: Verbosity, format: LogFormat) -> Result<LogLevel, Stop> {
    let form = match format {
        LogFormat::Json => Form::Json,
        LogFormat::Human if stderr_is_journal() => Form::Priority,
        LogFormat::Human => Form::Human,
    };
    let (filter, handle) = reload::Layer::new(filter(verbosity));
    let lines = tracing_subscriber::fmt::layer().event_format(form).with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|error| Stop::new(Exit::Io, format!("start the log: {error}")))?;
    Ok(LogLevel(handle))
}

fn filter(verbosity: Verbosity) -> Targets {
    let level = match verbosity {
        Verbosity::Quiet => LevelFilter::WARN,
        Verbosity::Normal => LevelFilter::INFO,
        Verbosity::Verbose => LevelFilter::DEBUG,
        Verbosity::Debug => LevelFilter::TRACE,
    };
    Targets::new().with_target(OWN_TARGET, level)
}

/// Whether stderr goes to the journal of systemd and not to a file or a terminal that it was redirected to
/// (systemd.exec(5), `$JOURNAL_STREAM`).
fn stderr_is_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").ok();
    let stderr = rustix::fs::fstat(std::io::stderr()).ok();
    named.zip(stderr).is_some_and(|(named, stderr)| names_stream(&named, stderr.st_dev, stderr.st_ino))
}

/// Whether `$JOURNAL_STREAM` names this device and inode, both in decimal.
fn names_stream(named: &str, device: u64, inode: u64) -> bool {
    let parse = |text: &str| text.parse::<u64>().ok();
    named.split_once(':').is_some_and(|(left, right)| (parse(left), parse(right)) == (Some(device), Some(inode)))
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Time, level, message, fields.
    Human,
    /// `<N>` as in sd-daemon(3), message, fields: the journal knows the time.
    Priority,
    /// One object.
    Json,
}

impl<S, N> FormatEvent<S, N> for Form
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut entry = Entry::default();
        event.record(&mut entry);
        writeln!(out, "{}", self.line(*event.metadata().level(), SystemTime::now(), entry))
    }
}

impl Form {
    fn line(self, level: Level, time: SystemTime, entry: Entry) -> String {
        let time = humantime::format_rfc3339_millis(time);
        match self {
            Form::Human => format!("{time} {level:>5} {}", entry.text()),
            Form::Priority => format!("<{}>{}", priority(level), entry.text()),
            Form::Json => entry.json(&time.to_string(), level),
        }
    }
}

/// The priority of syslog(3) for a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// What one event says.
#[derive(Debug, Default)]
struct Entry {
    message: String,
    fields: Map<String, Value>,
}

impl Entry {
    fn text(self) -> String {
        let mut text = for_people(&self.message, VALUE_CHARS_MAX);
        for (name, value) in &self.fields {
            let value = match value {
                Value::String(value) if is_plain(value) => value.clone(),
                other => json(&other.to_string()),
            };
            let gap = if text.is_empty() { "" } else { " " };
            // Writing into a string cannot fail.
            let _ = write!(text, "{gap}{name}={value}");
        }
        text
    }

    fn json(self, time: &str, level: Level) -> String {
        #[derive(serde::Serialize)]
        struct Line<'a> {
            time: &'a str,
            level: String,
            message: &'a str,
            #[serde(skip_serializing_if = "Map::is_empty")]
            fields: &'a Map<String, Value>,
        }
        let level = level.to_string().to_lowercase();
        let line = Line { time, level, message: &self.message, fields: &self.fields };
        // Text and numbers always have a JSON form.
        json(&serde_json::to_string(&line).unwrap_or_default())
    }

    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.fields.insert(field.name().to_owned(), value.into());
    }

    fn add_text(&mut self, field: &Field, text: &str) {
        let text = match text.char_indices().nth(VALUE_CHARS_MAX) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text.to_owned(),
        };
        match field.name() {
            "message" => self.message = text,
            _ => self.add(field, text),
        }
    }
}

/// Whether a value can stand without quotes: where it ends is plain to see, and nothing in it is harmful.
fn is_plain(value: &str) -> bool {
    let is_plain = |character: char| character.is_alphanumeric() || "-_./:+@%,".contains(character);
    !value.is_empty() && value.chars().all(is_plain)
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add_text(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // To the millisecond, as far as it is one: more digits say nothing.
        self.add(field, (value * 1000.0).round() / 1000.0);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add_text(field, &value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add_text(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What is logged by `tell` in this form, through the very layers of the log.
    fn logged(form: Form, verbosity: Verbosity, tell: impl FnOnce(&LogLevel)) -> String {
        #[derive(Clone, Default)]
        struct Sink(Arc<Mutex<Vec<u8>>>);
        impl Write for Sink {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let sink = Sink::default();
        let (filter, handle) = reload::Layer::new(filter(verbosity));
        let writer = sink.clone();
        let lines = tracing_subscriber::fmt::layer().event_format(form).with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(filter).with(lines);
        tracing::subscriber::with_default(subscriber, || tell(&LogLevel(handle)));
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn each_form_has_one_line_an_event() {
        let tell = |_: &LogLevel| {
            tracing::info!(file = "sub/p.jsonl", lines = 12u64, seconds = 1.23456, whole = true, "finished");
            tracing::error!(file = "a b", reason = ?std::path::Path::new("x"), "went wrong");
        };
        let human = logged(Form::Human, Verbosity::Normal, tell);
        let lines: Vec<&str> = human.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(
            lines,
            [
                " INFO finished file=sub/p.jsonl lines=12 seconds=1.235 whole=true",
                r#"ERROR went wrong file="a b" reason="\"x\"""#
            ]
        );
        assert!(humantime::parse_rfc3339(human.split(' ').next().unwrap()).is_ok(), "{human}");
        let journal = logged(Form::Priority, Verbosity::Normal, tell);
        assert!(journal.starts_with("<6>finished file=") && journal.contains("\n<3>went wrong"), "{journal}");
        let json = logged(Form::Json, Verbosity::Normal, tell);
        let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["level"], &lines[0]["message"]), (&"info".into(), &"finished".into()));
        assert_eq!(
            lines[0]["fields"],
            serde_json::json!({ "file": "sub/p.jsonl", "lines": 12, "seconds": 1.235, "whole": true })
        );
        assert!(json.starts_with(r#"{"time":""#) && lines[1]["level"] == "error", "{json}");
    }

    #[test]
    fn nothing_that_is_logged_breaks_its_line_or_steers_a_terminal() {
        let evil = "a\u{1b}[2J\n<0>b\u{9b}\u{202e}\"";
        for form in [Form::Human, Form::Priority, Form::Json] {
            let shown = logged(form, Verbosity::Normal, |_| tracing::warn!(file = evil, "{evil}"));
            let line = shown.strip_suffix('\n').unwrap();
            let is_harmful = |character: char| character.is_control() || character == '\u{202e}';
            assert!(!line.contains(is_harmful), "{form:?}: {line:?}");
            if form == Form::Json {
                let value: Value = serde_json::from_str(line).unwrap();
                assert_eq!((&value["message"], &value["fields"]["file"]), (&evil.into(), &evil.into()));
            }
        }
        let long = "x".repeat(9999);
        let shown = logged(Form::Human, Verbosity::Normal, |_| tracing::warn!(file = long, "{long}"));
        assert!(shown.len() < 2 * VALUE_CHARS_MAX + 200, "{} bytes", shown.len());
    }

    #[test]
    fn the_level_decides_and_may_change_and_libraries_are_not_heard() {
        let tell = || {
            tracing::warn!("warn");
            tracing::info!("info");
            tracing::debug!("debug");
            tracing::trace!("trace");
            tracing::error!(target: "hyper::client", "library");
        };
        for (verbosity, messages) in [
            (Verbosity::Quiet, "<4>warn\n"),
            (Verbosity::Normal, "<4>warn\n<6>info\n"),
            (Verbosity::Verbose, "<4>warn\n<6>info\n<7>debug\n"),
            (Verbosity::Debug, "<4>warn\n<6>info\n<7>debug\n<7>trace\n"),
        ] {
            assert_eq!(logged(Form::Priority, verbosity, |_| tell()), messages);
            let changed = logged(Form::Priority, Verbosity::Quiet, |level| {
                level.set(verbosity);
                tell();
            });
            assert_eq!(changed, messages);
        }
    }

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        assert!(names_stream("9:12345", 9, 12345));
        for named in ["", "9", "9:", ":12345", "9:1234", "8:12345", "9:12345:", "0x9:12345"] {
            assert!(!names_stream(named, 9, 12345), "{named}");
        }
    }
}
