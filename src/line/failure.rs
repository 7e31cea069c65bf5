//! Why a line has no completion: the closed list of error codes, and the failure that carries one.
//!
//! Invariant: codes are a contract. A code that was published is never renamed and never reused.

use serde::de::IntoDeserializer as _;
use serde::{Deserialize, Serialize};

/// The closed list of `error.code` values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The input line is longer than `--max-line-bytes`.
    LineTooLong,
    /// The input line is not UTF-8.
    NotUtf8,
    /// The input line is not JSON.
    NotJson,
    /// JSON, but of no form that the program knows.
    UnknownForm,
    /// A field has a type or value that cannot be used.
    BadField,
    /// A field that the program reads occurs twice.
    DuplicateKey,
    /// Neither the line nor the configuration names a model.
    NoModel,
    /// A batch line's `url` or `method` asks for something else than a chat completion.
    UnsupportedUrl,
    /// The line carries a field that would turn it into a background task on Open WebUI.
    BackgroundTask,
    /// The service refused this request (400, 413, 422 and other 4xx).
    UpstreamRejected,
    /// The service does not have the model.
    ModelNotFound,
    /// The token is good, but not for this request (401, 403).
    NotAllowed,
    /// The service's answer was no completion.
    UpstreamInvalid,
    /// The service failed on this request (408, 425, 499, 500).
    UpstreamError,
    /// The service was not available for this line while it answered others (502, 503, 429).
    UpstreamUnavailable,
    /// The connection was lost after the request had been sent.
    ConnectionLost,
    /// No answer, or no further chunk, within the clock (also 504, 524).
    Timeout,
    /// The answer is larger than `--max-reply-bytes`.
    ReplyTooLarge,
    /// The token limit cut the answer, and `--retry-truncated` makes that a failure.
    Truncated,
    /// Another model answered, and `--require-model` makes that a failure.
    OtherModel,
}

impl ErrorCode {
    /// The code of this name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        let name: serde::de::value::StrDeserializer<'_, serde::de::value::Error> = name.into_deserializer();
        Self::deserialize(name).ok()
    }

    /// The code as it stands in a completion line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LineTooLong => "line_too_long",
            Self::NotUtf8 => "not_utf8",
            Self::NotJson => "not_json",
            Self::UnknownForm => "unknown_form",
            Self::BadField => "bad_field",
            Self::DuplicateKey => "duplicate_key",
            Self::NoModel => "no_model",
            Self::UnsupportedUrl => "unsupported_url",
            Self::BackgroundTask => "background_task",
            Self::UpstreamRejected => "upstream_rejected",
            Self::ModelNotFound => "model_not_found",
            Self::NotAllowed => "not_allowed",
            Self::UpstreamInvalid => "upstream_invalid",
            Self::UpstreamError => "upstream_error",
            Self::UpstreamUnavailable => "upstream_unavailable",
            Self::ConnectionLost => "connection_lost",
            Self::Timeout => "timeout",
            Self::ReplyTooLarge => "reply_too_large",
            Self::Truncated => "truncated",
            Self::OtherModel => "other_model",
        }
    }
}

/// Why a line failed, in words that its owner can act on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct Failure {
    /// What kind of failure it is.
    pub code: ErrorCode,
    /// What happened, and where there is one, the way out.
    pub message: String,
    /// HTTP status of the last attempt, when there was one.
    pub status: Option<u16>,
}

impl Failure {
    /// A failure without an HTTP status.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), status: None }
    }

    /// The same failure with the HTTP status that it came with.
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::ErrorCode;

    #[test]
    fn the_text_of_a_code_is_its_serialised_form() {
        for code in [ErrorCode::NotUtf8, ErrorCode::LineTooLong, ErrorCode::UpstreamInvalid, ErrorCode::ReplyTooLarge] {
            assert_eq!(serde_json::to_string(&code).unwrap(), format!("\"{}\"", code.as_str()));
            assert_eq!(ErrorCode::from_name(code.as_str()), Some(code));
        }
    }
}
