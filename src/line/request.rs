//! Request lines: recognises a line by its shape and makes a [`Request`] of it. The one place that knows the shapes.
//!
//! Invariant: a line that cannot be used gives exactly one [`BadLine`], which keeps the correlation id as soon as it
//! has been read. Nothing here depends on any other line.

use std::borrow::Cow;

use super::chat::Chat;
use super::fields::{Fields, decode_string, is_null, push_string};
use super::{Defaults, ErrorCode, Failure, InputForm, images};

/// Which shape a line had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `{"messages":[…], …}`
    Chat,
    /// `{"prompt":"…", …}`
    Prompt,
    /// `"…"`, a JSON string.
    Bare,
    /// `{"custom_id","method","url","body"}`, a line of OpenAI's Batch API.
    Batch,
    /// Plain text.
    Text,
}

impl Form {
    const NAMES: [(Self, &str); 5] = [
        (Self::Chat, "chat"),
        (Self::Prompt, "prompt"),
        (Self::Bare, "bare"),
        (Self::Batch, "batch"),
        (Self::Text, "text"),
    ];

    /// The form's name, as a journal records it.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(form, _)| *form == self).map_or("chat", |(_, name)| name)
    }

    /// The form of this name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, own)| *own == name).map(|(form, _)| *form)
    }
}

/// The field that a line's own id stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdField {
    /// `custom_id`
    CustomId,
    /// `id`
    Id,
}

impl IdField {
    /// The field's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::CustomId => "custom_id",
            Self::Id => "id",
        }
    }
}

/// A line's own id: under which name it came, and its JSON value.
#[derive(Clone, Debug)]
pub struct Correlation {
    /// The field's name.
    pub field: IdField,
    /// The value, raw JSON of any type.
    pub value: Box<str>,
}

/// One line's work.
#[derive(Clone, Debug)]
pub struct Request {
    /// The shape that the line had.
    pub form: Form,
    /// The line's own id.
    pub correlation: Option<Correlation>,
    /// The model that is asked.
    pub model: Box<str>,
    /// What is asked.
    pub chat: Chat,
}

/// A line of which no request can be made.
#[derive(Debug)]
pub struct BadLine {
    /// The shape, as far as it was recognised.
    pub form: Option<Form>,
    /// The line's own id, as far as it was read.
    pub correlation: Option<Correlation>,
    /// Why.
    pub failure: Failure,
    /// Whether it is no JSON from its first byte on, and so may be meant as text.
    pub looks_like_text: bool,
}

/// What is sent of a line with `prompt`, beside the prompt; everything else is the user's own data.
pub const PROMPT_FIELDS: [&str; 11] = [
    "model",
    "system",
    "images",
    "temperature",
    "top_p",
    "max_tokens",
    "seed",
    "stop",
    "response_format",
    "tools",
    "params",
];
/// Fields that are read here, and so must not occur twice.
const FIELDS_READ: [&str; 16] = [
    "messages",
    "prompt",
    "custom_id",
    "id",
    "model",
    "system",
    "images",
    "stream",
    "params",
    "body",
    "url",
    "method",
    "chat_id",
    "session_id",
    "max_tokens",
    "stream_options",
];
/// Room for what a dialect adds.
const SUFFIX_BYTES: usize = 160;
const CHAT_PATH: &str = "/chat/completions";

impl Request {
    /// Makes a request of one record (without its terminator).
    pub fn parse(record: &[u8], form: InputForm, defaults: &Defaults) -> Result<Self, BadLine> {
        let text = simdutf8::compat::from_utf8(record).map_err(|error| {
            bad(
                ErrorCode::NotUtf8,
                format!(
                    "not UTF-8: the first bad byte is number {}; convert it, for example with iconv -t UTF-8",
                    error.valid_up_to() + 1
                ),
            )
        })?;
        let trimmed = text.trim_ascii();
        match (form, trimmed.as_bytes().first()) {
            (InputForm::Text, _) => from_prompt_alone(text, Form::Text, defaults),
            (InputForm::Json, Some(b'{')) => from_object(trimmed, defaults),
            (InputForm::Json, Some(b'"')) => {
                let prompt: String = serde_json::from_str(trimmed).map_err(not_json)?;
                from_prompt_alone(&prompt, Form::Bare, defaults)
            }
            (InputForm::Json, _) => Err(no_object(trimmed)),
        }
    }
}

fn bad(code: ErrorCode, message: impl Into<String>) -> BadLine {
    BadLine { form: None, correlation: None, failure: Failure::new(code, message), looks_like_text: false }
}

fn not_json(error: impl std::fmt::Display) -> BadLine {
    bad(ErrorCode::NotJson, format!("not JSON: {error}"))
}

fn no_object(text: &str) -> BadLine {
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => bad(
            ErrorCode::UnknownForm,
            "a request line is a JSON object with messages, prompt or body, or a JSON string",
        ),
        Err(error) => BadLine { looks_like_text: true, ..not_json(error) },
    }
}

fn from_prompt_alone(prompt: &str, form: Form, defaults: &Defaults) -> Result<Request, BadLine> {
    let mut assembly = Assembly::new(form, None, prompt.len() + 128);
    assembly.model(None, defaults)?;
    assembly.prompt(prompt, None, None, defaults);
    Ok(assembly.finish(&Fields::default(), defaults))
}

fn from_object(text: &str, defaults: &Defaults) -> Result<Request, BadLine> {
    let fields = Fields::parse(text).map_err(not_json)?;
    let correlation = correlation_of(&fields);
    let keep = |mut line: BadLine| {
        line.correlation = line.correlation.or_else(|| correlation.clone());
        line
    };
    refuse_duplicates(&fields).map_err(keep)?;
    let result = if fields.get("messages").is_some() {
        from_chat(&fields, Form::Chat, correlation.clone(), defaults)
    } else if let Some(prompt) = fields.get("prompt") {
        from_prompt(prompt, &fields, correlation.clone(), defaults)
    } else if let Some(body) = fields.get("body") {
        from_batch(body, &fields, correlation.clone(), defaults)
    } else {
        Err(bad(
            ErrorCode::UnknownForm,
            "the object has neither messages, nor prompt, nor body (of an OpenAI Batch line)",
        ))
    };
    result.map_err(keep)
}

fn refuse_duplicates(fields: &Fields<'_>) -> Result<(), BadLine> {
    match fields.duplicate_of(&FIELDS_READ) {
        Some(name) => {
            Err(bad(ErrorCode::DuplicateKey, format!("the field \"{name}\" occurs twice; which of them is meant?")))
        }
        None => Ok(()),
    }
}

fn correlation_of(fields: &Fields<'_>) -> Option<Correlation> {
    [IdField::CustomId, IdField::Id]
        .into_iter()
        .find_map(|field| Some(Correlation { field, value: fields.get(field.name())?.into() }))
}

fn from_chat(
    fields: &Fields<'_>,
    form: Form,
    correlation: Option<Correlation>,
    defaults: &Defaults,
) -> Result<Request, BadLine> {
    let messages = fields.get("messages").unwrap_or("null");
    if !messages.starts_with('[') {
        return Err(bad(ErrorCode::BadField, "messages must be an array of messages"));
    }
    let capacity = fields.0.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>();
    let mut assembly = Assembly::new(form, correlation, capacity + SUFFIX_BYTES);
    let own_model = string_field(fields, "model")?;
    if own_model.is_none() {
        assembly.model(None, defaults)?;
    }
    for (name, value) in &fields.0 {
        match name.as_ref() {
            "custom_id" | "id" => {}
            "model" if own_model.is_none() => {}
            "model" => assembly.model(own_model.as_deref(), defaults)?,
            "messages" => assembly.messages(value, defaults),
            _ => assembly.chat.push(name, value),
        }
    }
    Ok(assembly.finish(fields, defaults))
}

fn from_prompt(
    prompt: &str,
    fields: &Fields<'_>,
    correlation: Option<Correlation>,
    defaults: &Defaults,
) -> Result<Request, BadLine> {
    let prompt: String =
        serde_json::from_str(prompt).map_err(|_| bad(ErrorCode::BadField, "prompt must be a string"))?;
    let system = string_field(fields, "system")?;
    let images = match fields.get("images").filter(|value| !is_null(value)) {
        Some(images) => Some(images::to_urls(images).map_err(|message| bad(ErrorCode::BadField, message))?),
        None => None,
    };
    let mut assembly = Assembly::new(Form::Prompt, correlation, prompt.len() + 256);
    assembly.model(string_field(fields, "model")?.as_deref(), defaults)?;
    assembly.prompt(&prompt, system.as_deref(), images.as_deref(), defaults);
    for (name, value) in &fields.0 {
        if PROMPT_FIELDS[3..].contains(&name.as_ref()) {
            assembly.chat.push(name, value);
        }
    }
    Ok(assembly.finish(fields, defaults))
}

fn from_batch(
    body: &str,
    fields: &Fields<'_>,
    correlation: Option<Correlation>,
    defaults: &Defaults,
) -> Result<Request, BadLine> {
    let as_batch = |mut line: BadLine| {
        line.form = Some(Form::Batch);
        line.correlation = line.correlation.or_else(|| correlation.clone());
        line
    };
    check_target(fields).map_err(as_batch)?;
    let inner = Fields::parse(body)
        .map_err(|_| as_batch(bad(ErrorCode::BadField, "the body of a batch line must be a JSON object")))?;
    refuse_duplicates(&inner).map_err(as_batch)?;
    from_chat(&inner, Form::Batch, correlation.clone(), defaults).map_err(as_batch)
}

/// A batch line may name the chat path in OpenAI's way, and nothing else: a line never chooses the host.
fn check_target(fields: &Fields<'_>) -> Result<(), BadLine> {
    let method = string_field(fields, "method")?.unwrap_or(Cow::Borrowed("POST"));
    let url = string_field(fields, "url")?.unwrap_or(Cow::Borrowed(CHAT_PATH));
    let path = url.strip_prefix("/v1").unwrap_or(&url);
    if path == CHAT_PATH && method.eq_ignore_ascii_case("POST") {
        return Ok(());
    }
    let asked = super::escape::for_people(&format!("{method} {url}"), 100);
    Err(bad(ErrorCode::UnsupportedUrl, format!("a batch line may only POST to /v1/chat/completions, not {asked}")))
}

fn string_field<'a>(fields: &Fields<'a>, name: &str) -> Result<Option<Cow<'a, str>>, BadLine> {
    let Some(value) = fields.get(name).filter(|value| !is_null(value)) else { return Ok(None) };
    let text = decode_string(value).ok_or_else(|| bad(ErrorCode::BadField, format!("{name} must be a string")))?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// A request under construction.
struct Assembly {
    form: Form,
    correlation: Option<Correlation>,
    model: Box<str>,
    chat: Chat,
}

impl Assembly {
    fn new(form: Form, correlation: Option<Correlation>, bytes: usize) -> Self {
        Self { form, correlation, model: Box::default(), chat: Chat::with_capacity(bytes) }
    }

    fn model(&mut self, own: Option<&str>, defaults: &Defaults) -> Result<(), BadLine> {
        let model = own.or(defaults.model.as_deref());
        let model = model
            .ok_or_else(|| bad(ErrorCode::NoModel, "no model: give the line a model, or all lines one by -m MODEL"))?;
        self.chat.push_text("model", model);
        self.model = model.into();
        Ok(())
    }

    fn messages(&mut self, messages: &str, defaults: &Defaults) {
        let system = defaults.system.as_deref().filter(|_| !begins_with_system(messages));
        self.chat.push_with("messages", |json| match system {
            None => json.extend_from_slice(messages.as_bytes()),
            Some(system) => {
                json.push(b'[');
                push_message(json, "system", |json| push_string(json, system));
                let rest = &messages[1..];
                if !rest.trim_ascii_start().starts_with(']') {
                    json.push(b',');
                }
                json.extend_from_slice(rest.as_bytes());
            }
        });
    }

    fn prompt(&mut self, prompt: &str, own_system: Option<&str>, image_urls: Option<&[String]>, defaults: &Defaults) {
        let system = own_system.or(defaults.system.as_deref());
        self.chat.push_with("messages", |json| {
            json.push(b'[');
            if let Some(system) = system {
                push_message(json, "system", |json| push_string(json, system));
                json.push(b',');
            }
            push_message(json, "user", |json| match image_urls {
                None => push_string(json, prompt),
                Some(urls) => images::push_parts(json, prompt, urls),
            });
            json.push(b']');
        });
    }

    /// Adds the defaults that the line does not set itself.
    fn finish(mut self, own: &Fields<'_>, defaults: &Defaults) -> Request {
        for (name, value) in &defaults.params {
            if own.get(name).is_none() {
                self.chat.push(name, value.get());
            }
        }
        Request { form: self.form, correlation: self.correlation, model: self.model, chat: self.chat.finish() }
    }
}

fn push_message(json: &mut Vec<u8>, role: &str, content: impl FnOnce(&mut Vec<u8>)) {
    json.extend_from_slice(b"{\"role\":\"");
    json.extend_from_slice(role.as_bytes());
    json.extend_from_slice(b"\",\"content\":");
    content(json);
    json.push(b'}');
}

fn begins_with_system(messages: &str) -> bool {
    let Ok(list) = serde_json::from_str::<Vec<&serde_json::value::RawValue>>(messages) else { return false };
    let role = list.first().and_then(|first| Fields::parse(first.get()).ok()?.get("role"));
    matches!(role, Some("\"system\"" | "\"developer\""))
}
