//! A chat request as the service understands it: what is asked, of which model, and what reaches the model.
//! Pure; borrows from the body.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::args::Regime;
use crate::draw;
use crate::http::Request;
use crate::json::{self, Object};
use crate::refusal::{self, Reply};

/// A chat request.
#[derive(Debug)]
pub struct Ask<'a> {
    /// The model asked for; empty if none
    pub model: Cow<'a, str>,
    /// The last user text
    pub text: Cow<'a, str>,
    /// Hash of that text
    pub identity: u64,
    /// Whether a stream is wanted
    pub stream: bool,
    /// Whether the stream's usage is wanted
    pub include_usage: bool,
    /// Words of all messages
    pub prompt_words: usize,
    /// Their bytes
    pub prompt_bytes: usize,
    /// Most words of the reply
    pub limit: Option<usize>,
    /// How many choices
    pub choices: usize,
    /// Whether the server makes a background task of it, and how it says so
    pub background: Background,
    /// What the server finds wrong once it has found the model
    objection: Option<&'static str>,
}

/// What the fields of a browser session do to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Background {
    /// Nothing
    No,
    /// The reply is a task id, the text goes elsewhere
    Task,
    /// The chat is looked up and not found
    NotFound,
}

impl<'a> Ask<'a> {
    /// Reads a request's body, or says why it is none.
    pub fn parse(regime: Regime, request: &'a Request) -> Result<Ask<'a>, Reply> {
        let body = body(regime, request)?;
        let mut messages = Messages::default();
        let objection = messages.read(regime, &body).err();
        let objection = objection.or_else(|| null_params(regime, &body));
        let limit = reached(regime, &body).iter().rev().find_map(|(key, value)| limit(key, value));
        let stream_options = body.get("stream_options").and_then(Object::of);
        Ok(Ask {
            model: body.text("model").unwrap_or_default(),
            identity: draw::identity(&messages.text),
            text: messages.text,
            stream: body.get("stream").is_some_and(is_truthy),
            include_usage: stream_options.and_then(|options| options.get("include_usage")).is_some_and(is_truthy),
            prompt_words: messages.words,
            prompt_bytes: messages.bytes,
            limit,
            choices: choices(regime, &body),
            background: background(regime, &body),
            objection,
        })
    }

    /// The refusal of a request that parses but makes no sense to the server.
    pub fn objection(&self, regime: Regime, models: &[String]) -> Option<Reply> {
        if !models.iter().any(|model| *model == self.model) {
            return Some(Reply::model_not_found(regime, &self.model));
        }
        self.objection.map(|text| Reply::error(regime, 400, text))
    }
}

/// The body as an object, or the validation error.
fn body<'a>(regime: Regime, request: &'a Request) -> Result<Object<'a>, Reply> {
    let unreadable = || Reply::error(regime, 400, "There was an error parsing the body");
    let text = std::str::from_utf8(&request.body).map_err(|_| unreadable())?;
    let not_a_dict = |input: &[u8]| Reply::invalid("dict_type", "Input should be a valid dictionary", input);
    if !regime.is_webui() {
        return serde_json::from_str(text)
            .map_err(|_| Reply::openai(400, "We could not parse the JSON body of your request.", None));
    }
    if text.is_empty() {
        return Err(Reply::invalid("missing", "Field required", b"null"));
    }
    if !request.is_json {
        return Err(not_a_dict(&refusal::lossy_quoted(&request.body)));
    }
    serde_json::from_str(text).map_err(|error| match serde_json::from_str::<&RawValue>(text) {
        Ok(other) => not_a_dict(other.get().as_bytes()),
        Err(_) => invalid_json(text, &error),
    })
}

fn invalid_json(text: &str, error: &serde_json::Error) -> Reply {
    let before: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let offset = before + error.column().saturating_sub(1);
    let body = format!(
        r#"{{"detail":[{{"type":"json_invalid","loc":["body",{offset}],"msg":"JSON decode error","input":{{}},"ctx":{{"error":"Expecting property name enclosed in double quotes"}}}}]}}"#
    );
    Reply::json(422, body)
}

/// What the messages come to.
#[derive(Debug, Default)]
struct Messages<'a> {
    text: Cow<'a, str>,
    words: usize,
    bytes: usize,
}

impl<'a> Messages<'a> {
    fn read(&mut self, regime: Regime, body: &Object<'a>) -> Result<(), &'static str> {
        let Some(raw) = body.get("messages") else {
            return match regime {
                Regime::Webui06 => Err("'messages'"),
                Regime::Webui12 => Ok(()),
                Regime::Openai => Err("Missing required parameter: 'messages'."),
            };
        };
        let list: Vec<&RawValue> =
            serde_json::from_str(raw.get()).map_err(|_| match (raw.get().as_bytes(), regime) {
                ([b'"', ..], Regime::Webui06) => "string indices must be integers, not 'str'",
                ([b'"', ..], Regime::Webui12) => "'str' object has no attribute 'get'",
                (_, Regime::Openai) => "Invalid type for 'messages': expected an array of objects.",
                _ => "'NoneType' object is not iterable",
            })?;
        list.into_iter().try_for_each(|message| self.add(regime, message))
    }

    fn add(&mut self, regime: Regime, raw: &'a RawValue) -> Result<(), &'static str> {
        let message = Object::of(raw).ok_or("string indices must be integers, not 'str'")?;
        let role = message.text("role").ok_or("'role'")?;
        let text = match message.get("content") {
            Some(content) if content.get() == "null" => {
                return Err("'NoneType' object is not iterable");
            }
            Some(content) if content.get().starts_with('[') => Cow::Owned(joined(regime, content)),
            content => content.and_then(json::text).unwrap_or_default(),
        };
        self.words += text.split_ascii_whitespace().count();
        self.bytes += text.len();
        if role == "user" {
            self.text = text;
        }
        Ok(())
    }
}

/// The text parts of a content list; Open WebUI trims what comes of it.
fn joined(regime: Regime, content: &RawValue) -> String {
    let parts: Vec<&RawValue> = serde_json::from_str(content.get()).unwrap_or_default();
    let texts: String = parts.into_iter().filter_map(Object::of).filter_map(|part| part.text("text")).collect();
    if regime.is_webui() { texts.trim().to_owned() } else { texts }
}

/// The options that reach the model.
pub fn reached<'a>(regime: Regime, body: &Object<'a>) -> Vec<(Cow<'a, str>, &'a RawValue)> {
    let own = |key: &str| matches!(key, "model" | "messages" | "stream" | "stream_options");
    if regime == Regime::Openai {
        return body.0.iter().filter(|(key, _)| !own(key)).cloned().collect();
    }
    let renamed = |key: Cow<'a, str>| {
        if key == "max_tokens" { Cow::Borrowed("num_predict") } else { key }
    };
    let params = body.get("params").and_then(Object::of).map(|params| params.0).unwrap_or_default();
    let passes = |key: &str| match key {
        "stop" | "tools" | "response_format" => true,
        "max_tokens" => regime == Regime::Webui12,
        _ => false,
    };
    let top = body.0.iter().filter(|(key, _)| passes(key)).cloned();
    top.chain(params).map(|(key, value)| (renamed(key), value)).collect()
}

/// The word limit that an option sets.
fn limit(key: &str, value: &RawValue) -> Option<usize> {
    let is_limit = matches!(key, "num_predict" | "max_tokens" | "max_completion_tokens");
    let number: i64 = value.get().parse().ok().filter(|_| is_limit)?;
    usize::try_from(number).ok()
}

fn null_params(regime: Regime, body: &Object<'_>) -> Option<&'static str> {
    let is_null = body.get("params").is_some_and(|params| params.get() == "null");
    (is_null && regime.is_webui()).then_some("'NoneType' object has no attribute 'get'")
}

/// Most choices of one request, as OpenAI's reference states.
const CHOICES_MAX: usize = 128;

fn choices(regime: Regime, body: &Object<'_>) -> usize {
    let asked = body.get("n").and_then(|n| n.get().parse::<usize>().ok()).unwrap_or(1);
    if regime == Regime::Openai { asked.clamp(1, CHOICES_MAX) } else { 1 }
}

fn background(regime: Regime, body: &Object<'_>) -> Background {
    let has = |key: &str| body.get(key).is_some_and(is_truthy);
    match regime {
        Regime::Webui06 if has("chat_id") && has("id") && has("session_id") && has("stream") => Background::Task,
        Regime::Webui12 if has("chat_id") => Background::NotFound,
        _ => Background::No,
    }
}

/// Python's notion of truth, since the servers are written in it.
fn is_truthy(value: &RawValue) -> bool {
    !matches!(value.get(), "false" | "null" | "0" | "0.0" | "\"\"" | "[]" | "{}")
}
