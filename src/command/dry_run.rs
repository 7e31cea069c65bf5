//! `--dry-run`: validates every line, and prints the counts, the fields sent and kept, and the first request body.
//! Sends nothing.

use std::collections::BTreeMap;

use super::print;
use crate::api::Dialect;
use crate::api::body::{render, streams};
use crate::config::Config;
use crate::exit::{Exit, Stop};
use crate::filter::reader::{self, End, Found, Input};
use crate::filter::{open_sources, split};
use crate::line::chat::Chat;
use crate::line::escape::for_people;
use crate::line::fields::Fields;
use crate::line::request::PROMPT_FIELDS;
use crate::line::{Form, Request};

/// Bad lines that are shown one by one.
const SHOWN_MAX: u64 = 20;
/// Fields that are told apart; the rest are counted together.
const FIELDS_MAX: usize = 100;
const BODY_CHARS_MAX: usize = 4000;

#[derive(Default)]
struct Survey {
    forms: BTreeMap<&'static str, u64>,
    bad: u64,
    shown: Vec<String>,
    sent: BTreeMap<String, u64>,
    kept: BTreeMap<String, u64>,
    /// The first request as each dialect has it; one that nobody knows yet is taken for Open WebUI's.
    first_bodies: Vec<(Option<Dialect>, String)>,
}

/// Reads all of the input.
pub async fn run(config: Config) -> Result<Exit, Stop> {
    let sources = open_sources(&config)?;
    let keep = |line, found: Found<'_>| match found {
        Found::Record(content) => (line, Some(content.to_vec())),
        Found::TooLong(_) => (line, None),
    };
    let mut input = reader::start(sources, split(&config), None, keep)
        .map_err(|error| Stop::new(Exit::Io, format!("start the reading thread: {error}")))?;
    let mut survey = Survey::default();
    let mut end = None;
    while let Some(next) = input.next().await {
        match next {
            Input::Block(block) => {
                block.iter().for_each(|(line, content)| survey.look(&config, *line, content.as_deref()))
            }
            Input::End(last) => end = Some(last),
        }
    }
    if let Some(error) = end.as_ref().and_then(|end| end.error.clone()) {
        return Err(Stop::new(Exit::Io, error));
    }
    survey.print(end.as_ref())?;
    Ok(if survey.bad == 0 { Exit::Answered } else { Exit::SomeFailed })
}

impl Survey {
    fn look(&mut self, config: &Config, line: u64, content: Option<&[u8]>) {
        let Some(content) = content else {
            return self.bad_line(line, "line_too_long: longer than --max-line-bytes");
        };
        match Request::parse(content, config.input.form, &config.defaults) {
            Ok(request) => self.good_line(config, content, request),
            Err(bad) => self.bad_line(line, &bad.failure.to_string()),
        }
    }

    fn bad_line(&mut self, line: u64, message: &str) {
        self.bad += 1;
        if self.bad <= SHOWN_MAX {
            self.shown.push(format!("line {line}: {message}"));
        }
    }

    fn good_line(&mut self, config: &Config, content: &[u8], request: Request) {
        let form = match request.form {
            Form::Chat => "chat object",
            Form::Prompt => "prompt object",
            Form::Bare => "bare string",
            Form::Batch => "batch line",
            Form::Text => "plain text",
        };
        *self.forms.entry(form).or_default() += 1;
        for field in std::str::from_utf8(request.chat.json())
            .ok()
            .and_then(|json| Fields::parse(json).ok())
            .unwrap_or_default()
            .0
        {
            count(&mut self.sent, &field.0);
        }
        if request.form == Form::Prompt {
            let own = std::str::from_utf8(content)
                .ok()
                .and_then(|text| Fields::parse(text.trim_ascii()).ok())
                .unwrap_or_default();
            own.0
                .iter()
                .filter(|(name, _)| name != "prompt" && !PROMPT_FIELDS.contains(&name.as_ref()))
                .for_each(|(name, _)| count(&mut self.kept, name));
        }
        if self.first_bodies.is_empty() {
            self.first_bodies = bodies(config, &request.chat);
        }
    }

    fn print(&self, end: Option<&End>) -> Result<(), Stop> {
        let good: u64 = self.forms.values().sum();
        let read = end.map_or(0, |end| end.lines);
        print(&format!(
            "{read} lines read: {good} good, {} bad, {} blank; nothing was sent",
            self.bad,
            read.saturating_sub(good + self.bad)
        ))?;
        for (form, lines) in &self.forms {
            print(&format!("  {lines} x {form}"))?;
        }
        print(&format!("fields sent: {}", list(&self.sent)))?;
        print(&format!("fields kept, not sent: {}", list(&self.kept)))?;
        for (dialect, body) in &self.first_bodies {
            let dialect = dialect.map_or("open-webui, if that is what answers", Dialect::name);
            print(&format!("first request body ({dialect}):\n{}", for_people(body, BODY_CHARS_MAX)))?;
        }
        for line in &self.shown {
            print(line)?;
        }
        if self.bad > SHOWN_MAX {
            print(&format!("and {} more bad lines", self.bad - SHOWN_MAX))?;
        }
        Ok(())
    }
}

/// A request as the endpoints get it, each dialect once.
fn bodies(config: &Config, chat: &Chat) -> Vec<(Option<Dialect>, String)> {
    let stream = streams(chat, config.service.upstream);
    let mut bodies: Vec<(Option<Dialect>, String)> = Vec::new();
    for dialect in config.service.endpoints.iter().map(|endpoint| endpoint.dialect) {
        if bodies.iter().all(|(other, _)| *other != dialect) {
            let body = render(&mut chat.clone(), dialect.unwrap_or(Dialect::OpenWebUi), stream);
            bodies.push((dialect, String::from_utf8_lossy(&body).into_owned()));
        }
    }
    bodies
}

fn count(fields: &mut BTreeMap<String, u64>, name: &str) {
    if let Some(count) = fields.get_mut(name) {
        *count += 1;
    } else {
        let name = if fields.len() < FIELDS_MAX { for_people(name, 100) } else { "(others)".to_owned() };
        *fields.entry(name).or_default() += 1;
    }
}

fn list(fields: &BTreeMap<String, u64>) -> String {
    if fields.is_empty() {
        return "none".to_owned();
    }
    fields.iter().map(|(name, lines)| format!("{name} ({lines})")).collect::<Vec<_>>().join(", ")
}
