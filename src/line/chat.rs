//! A chat request in canonical form: the request body after defaults, before dialect and streaming.
//!
//! Invariant: `json` is one JSON object whose values have the bytes that the line gave them. It names the work, not
//! the server: the same line and defaults give the same bytes wherever they are sent.

use std::ops::Range;

use super::fields::{is_null, push_field, push_string};

/// Sampling fields, as OpenAI, Ollama and Open WebUI's `params` name them.
pub const SAMPLING_FIELDS: [&str; 16] = [
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "max_tokens",
    "stop",
    "frequency_penalty",
    "presence_penalty",
    "repeat_penalty",
    "repeat_last_n",
    "num_ctx",
    "num_predict",
    "mirostat",
    "mirostat_eta",
    "mirostat_tau",
];

/// Fields that make Open WebUI answer somewhere else than on this connection.
const BACKGROUND_FIELDS: [&str; 2] = ["chat_id", "session_id"];

/// A chat request, ready for a dialect to complete.
#[derive(Clone, Debug, Default)]
pub struct Chat {
    json: Vec<u8>,
    sampling: Vec<(&'static str, Range<usize>)>,
    params: Option<Range<usize>>,
    /// The line's own wish for a streamed or a whole reply.
    pub stream: Option<bool>,
    /// The line's own `stream_options`, a JSON value.
    pub stream_options: Option<Box<str>>,
    /// The field that would make a background task of the request on Open WebUI.
    pub background_field: Option<&'static str>,
    /// The limit of generated tokens that the line or the defaults ask for.
    pub tokens_max: Option<u64>,
}

impl Chat {
    /// An empty request, to be filled by [`Chat::push`] and closed by [`Chat::finish`].
    pub fn with_capacity(bytes: usize) -> Self {
        let mut json = Vec::with_capacity(bytes);
        json.push(b'{');
        Self { json, ..Self::default() }
    }

    /// The canonical body: one JSON object.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// Takes the canonical body out, for one who completes it in place.
    pub fn take_json(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.json)
    }

    /// Sampling fields at the top level and where their values lie in [`Chat::json`].
    pub fn sampling(&self) -> &[(&'static str, Range<usize>)] {
        &self.sampling
    }

    /// Where the value of the top-level `params` lies in [`Chat::json`].
    pub fn params(&self) -> Option<Range<usize>> {
        self.params.clone()
    }

    /// Adds one top-level field. `stream` and `stream_options` are kept apart: they say how to ask, not what.
    pub fn push(&mut self, name: &str, value: &str) {
        match name {
            "stream" => self.stream = Some(wants_stream(value)),
            "stream_options" => self.stream_options = Some(value.into()),
            _ => self.push_body(name, value),
        }
    }

    fn push_body(&mut self, name: &str, value: &str) {
        push_field(&mut self.json, name, value.as_bytes());
        let range = self.json.len() - value.len()..self.json.len();
        if let Some(known) = SAMPLING_FIELDS.into_iter().find(|known| *known == name) {
            if !is_null(value) {
                self.sampling.push((known, range));
            }
            self.note_token_limit(known, value);
        } else if name == "params" {
            self.params = Some(range);
            self.note_token_limit_of_params(value);
        } else if name == "max_completion_tokens" {
            self.tokens_max = value.parse().ok().or(self.tokens_max);
        } else if let Some(field) = BACKGROUND_FIELDS.into_iter().find(|field| *field == name && !is_null(value)) {
            self.background_field = Some(field);
        }
    }

    fn note_token_limit(&mut self, name: &str, value: &str) {
        if matches!(name, "max_tokens" | "num_predict") {
            self.tokens_max = value.parse().ok().or(self.tokens_max);
        }
    }

    fn note_token_limit_of_params(&mut self, value: &str) {
        let Ok(inner) = super::fields::Fields::parse(value) else { return };
        for name in ["max_tokens", "num_predict"] {
            if let Some(value) = inner.get(name) {
                self.note_token_limit(name, value);
            }
        }
    }

    /// Adds a top-level field whose value is a string.
    pub fn push_text(&mut self, name: &str, text: &str) {
        push_field(&mut self.json, name, b"");
        push_string(&mut self.json, text);
    }

    /// Adds a top-level field whose value is written by `write`.
    pub fn push_with(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
        push_field(&mut self.json, name, b"");
        write(&mut self.json);
    }

    /// Closes the object.
    pub fn finish(mut self) -> Self {
        self.json.push(b'}');
        self
    }
}

/// Open WebUI streams for anything that Python calls true, a non-empty string included.
fn wants_stream(value: &str) -> bool {
    !matches!(value, "false" | "null" | "0" | "\"\"" | "[]" | "{}")
}
