//! Verdicts: what one reply means, decided from status, head and body together. Pure.
//!
//! Invariant: a reply is an answer only when it holds up; every doubt is some other signal. What to *do* about a
//! signal (retry, reject, halt) depends on the run so far and is the engine's decision.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::headers::{ContentKind, Head};
use crate::line::escape::for_people;
use crate::line::{Answer, ErrorCode, Failure};

/// Characters of an upstream message that are passed on.
const MESSAGE_CHARS_MAX: usize = 500;

/// What one attempt showed.
#[derive(Debug)]
pub enum Signal {
    /// A completion that holds up.
    Answer(Box<Answer>),
    /// The request was never sent: name not found, refused, connect or TLS handshake timed out.
    NotSent(String),
    /// Nothing that is sent this way will ever work: bad certificate, proxy refuses us, 501, 505.
    Misconfigured(String),
    /// A 3xx, with where it points.
    Redirect(String),
    /// The connection ended after the request had gone out.
    Lost(String),
    /// No first token in time: the service is overloaded, or loads a model.
    FirstTokenTimeout(String),
    /// The reply stalled, or a gateway gave up on it (504, 524).
    Slow(String),
    /// A page for people: a gateway's, or of a maintenance.
    Html(String),
    /// A success whose body is literally `null`, as Open WebUI answers in some outages.
    Null(String),
    /// A success that is no completion.
    Invalid(String),
    /// The service says that it does not know the model, which may be an outage of the model server behind it.
    ModelNotFound(String),
    /// This request is refused for what it is.
    Rejected(Failure),
    /// 401 or 403: the token, or what it may do.
    Unauthorized(String),
    /// 404.
    NotFound(String),
    /// 405: the base URL or path is wrong.
    WrongPath(String),
    /// The service failed on this request: 408, 425, 499, 500.
    Failing(String),
    /// 429.
    RateLimited(String),
    /// 502, 503: nobody can be served now.
    Unavailable(String),
    /// The reply outgrew its bound.
    TooLarge(String),
}

impl Signal {
    /// The same signal with its text passed through `change`.
    pub fn map_text(self, change: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Answer(answer) => Self::Answer(answer),
            Self::Rejected(failure) => Self::Rejected(Failure { message: change(failure.message), ..failure }),
            Self::NotSent(text) => Self::NotSent(change(text)),
            Self::Misconfigured(text) => Self::Misconfigured(change(text)),
            Self::Redirect(text) => Self::Redirect(change(text)),
            Self::Lost(text) => Self::Lost(change(text)),
            Self::FirstTokenTimeout(text) => Self::FirstTokenTimeout(change(text)),
            Self::Slow(text) => Self::Slow(change(text)),
            Self::Html(text) => Self::Html(change(text)),
            Self::Null(text) => Self::Null(change(text)),
            Self::Invalid(text) => Self::Invalid(change(text)),
            Self::ModelNotFound(text) => Self::ModelNotFound(change(text)),
            Self::Unauthorized(text) => Self::Unauthorized(change(text)),
            Self::NotFound(text) => Self::NotFound(change(text)),
            Self::WrongPath(text) => Self::WrongPath(change(text)),
            Self::Failing(text) => Self::Failing(change(text)),
            Self::RateLimited(text) => Self::RateLimited(change(text)),
            Self::Unavailable(text) => Self::Unavailable(change(text)),
            Self::TooLarge(text) => Self::TooLarge(change(text)),
        }
    }
}

/// The body that belongs to a head.
#[derive(Debug)]
pub enum Body {
    /// Read to its end.
    Whole(Bytes),
    /// A stream: the assembled reply, or why there is none.
    Stream(Result<Vec<u8>, String>),
    /// Larger than allowed.
    TooLarge,
}

/// Judges one reply.
pub fn judge(head: &Head, body: Body) -> Signal {
    match head.status {
        200..=299 => success(head, body),
        300..=399 => {
            Signal::Redirect(head.location.as_deref().map_or_else(|| "nowhere".to_owned(), |to| for_people(to, 200)))
        }
        status => refusal(status, &message_of(&body_bytes(body))),
    }
}

fn body_bytes(body: Body) -> Bytes {
    match body {
        Body::Whole(bytes) => bytes,
        Body::Stream(_) | Body::TooLarge => Bytes::new(),
    }
}

fn success(head: &Head, body: Body) -> Signal {
    let bytes = match body {
        Body::TooLarge => return Signal::TooLarge("the reply is larger than --max-reply-bytes".to_owned()),
        _ if head.encoded => {
            return Signal::Invalid("the reply is compressed, though that was not asked for".to_owned());
        }
        Body::Stream(Err(reason)) => return Signal::Invalid(reason),
        Body::Stream(Ok(assembled)) => assembled.into(),
        Body::Whole(bytes) => bytes,
    };
    if head.kind == ContentKind::Html || bytes.trim_ascii_start().first() == Some(&b'<') {
        return Signal::Html("the service answers with a web page".to_owned());
    }
    if bytes.trim_ascii() == b"null" {
        return Signal::Null("the reply is null".to_owned());
    }
    match Answer::parse(bytes) {
        Ok(answer) => Signal::Answer(Box::new(answer)),
        Err(reason) => Signal::Invalid(reason),
    }
}

fn refusal(status: u16, message: &str) -> Signal {
    let text = if message.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {message}") };
    match status {
        400 => bad_request(message, text),
        401 | 403 => Signal::Unauthorized(text),
        404 => Signal::NotFound(text),
        405 => Signal::WrongPath(text),
        407 => Signal::Misconfigured(format!("the proxy wants to know who you are ({text})")),
        408 | 425 | 499 => Signal::Failing(text),
        429 => Signal::RateLimited(text),
        501 | 505 => Signal::Misconfigured(text),
        502 | 503 | 520..=523 | 529 | 530 => Signal::Unavailable(text),
        504 | 524 => Signal::Slow(text),
        500..=599 => Signal::Failing(text),
        _ => Signal::Rejected(Failure::new(ErrorCode::UpstreamRejected, text).with_status(status)),
    }
}

/// Open WebUI 0.6 wraps whatever went wrong behind it as 400 with the status in front of the text.
fn bad_request(message: &str, text: String) -> Signal {
    let inner =
        message.get(..3).and_then(|digits| digits.parse::<u16>().ok()).filter(|_| message[3..].starts_with(": "));
    if is_model_not_found(message) {
        return Signal::ModelNotFound(text);
    }
    match inner {
        Some(200) => Signal::Invalid(text),
        // Open WebUI itself answered, so the address is right: it is Ollama that lacks the model.
        Some(404) => Signal::Rejected(Failure::new(ErrorCode::ModelNotFound, text).with_status(400)),
        Some(status @ (408 | 429 | 500..=599)) => match refusal(status, &message[5..]) {
            // The proxy in front of us did not say this, so nothing is wrong with our configuration.
            Signal::Misconfigured(_) => Signal::Failing(text),
            signal => with_text(signal, text),
        },
        _ => Signal::Rejected(Failure::new(ErrorCode::UpstreamRejected, text).with_status(400)),
    }
}

fn with_text(signal: Signal, text: String) -> Signal {
    match signal {
        Signal::RateLimited(_) => Signal::RateLimited(text),
        Signal::Unavailable(_) => Signal::Unavailable(text),
        Signal::Slow(_) => Signal::Slow(text),
        _ => Signal::Failing(text),
    }
}

/// `Model not found` (0.6), `404: Model not found` (0.6, an OpenAI-type server behind it), `Model 'x' was not found` (0.12).
fn is_model_not_found(message: &str) -> bool {
    let message = message.strip_prefix("404: ").unwrap_or(message);
    message.starts_with("Model ") && message.ends_with("not found")
}

#[derive(Deserialize)]
struct ErrorBody<'a> {
    #[serde(borrow, default)]
    detail: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ErrorObject {
    #[serde(default)]
    message: Option<String>,
}

/// One item of the list that a 422 brings. Its `input` echoes what was sent, so it is left alone.
#[derive(Deserialize)]
struct Complaint {
    #[serde(default)]
    msg: String,
}

/// What an error body says, made harmless and short: FastAPI's `detail`, OpenAI's `error.message`, Ollama's `error`.
fn message_of(body: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(body) else { return String::new() };
    let Ok(wire) = serde_json::from_str::<ErrorBody<'_>>(text) else { return String::new() };
    let said = [wire.detail, wire.error, wire.message].into_iter().flatten().find_map(|raw| said_by(raw.get()));
    said.map(|message| for_people(&without_addresses(&message), MESSAGE_CHARS_MAX)).unwrap_or_default()
}

/// Takes out the addresses of servers behind the service: Open WebUI 0.6 quotes them, and they are nobody's business.
fn without_addresses(message: &str) -> String {
    let mut rest = message;
    let mut kept = String::with_capacity(message.len());
    while let Some(at) = rest.find("http://").into_iter().chain(rest.find("https://")).min() {
        kept.push_str(&rest[..at]);
        kept.push('…');
        let end = rest[at..]
            .find(|character: char| character.is_whitespace() || matches!(character, '\'' | '"' | '>' | ')' | ','));
        rest = end.map_or("", |end| &rest[at + end..]);
    }
    kept + rest
}

fn said_by(raw: &str) -> Option<String> {
    if let Ok(text) = serde_json::from_str::<String>(raw) {
        return Some(text);
    }
    if let Ok(object) = serde_json::from_str::<ErrorObject>(raw) {
        return object.message;
    }
    let complaints: Vec<Complaint> = serde_json::from_str(raw).ok()?;
    Some(complaints.into_iter().map(|complaint| complaint.msg).collect::<Vec<_>>().join("; "))
}
