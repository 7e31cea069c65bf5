//! Lines: what comes in (request lines) and what goes out (completion lines). Pure: bytes to values and back.
//!
//! Invariant: nothing here reads a file, a clock or a socket, and nothing here knows which server will answer.
//! Whatever need not be looked at stays raw JSON, so that big numbers, lone surrogates and key order survive.

pub mod answer;
pub mod chat;
pub mod completion;
pub mod escape;
pub mod failure;
pub mod fields;
mod images;
pub mod json;
pub mod request;

pub use answer::{Answer, Choice, Span, Times, Tokens};
pub use chat::Chat;
pub use failure::{ErrorCode, Failure};
pub use request::{BadLine, Correlation, Form, IdField, Request};

use serde_json::value::RawValue;

/// How the bytes of the input are to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InputForm {
    /// A JSON value a record: an object, or a string.
    Json,
    /// The record itself is the prompt.
    Text,
}

/// The shape of a completion line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// One flat object a line: content, finish_reason, model, usage, attempts, seconds, error.
    Completion,
    /// The API's own `chat.completion` object, plus `line` and the correlation id.
    Raw,
    /// The result line of OpenAI's Batch API.
    Batch,
    /// The content alone.
    Text,
    /// A line a delta as it arrives, then the completion line.
    Events,
}

/// What a line gets when it does not say so itself.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// Model of lines that name none.
    pub model: Option<String>,
    /// System prompt of lines that bring none.
    pub system: Option<String>,
    /// Further top-level request fields, name and JSON value.
    pub params: Vec<(String, Box<RawValue>)>,
}

/// How one request ended, as the engine reports it and a completion line tells it.
#[derive(Debug)]
pub struct Outcome {
    /// The answer, or why there is none.
    pub result: Result<Answer, Failure>,
    /// HTTP calls made, the successful one included.
    pub attempts: u32,
    /// Wall time in seconds from the first call to the last byte, pauses between attempts included.
    pub seconds: f64,
}
