//! Dialects: completes a canonical chat request for the server that will get it.
//!
//! Open WebUI drops sampling fields at the top level on their way to Ollama; inside `params` they arrive. So there
//! they are sent in both places. What the line itself put into `params` always wins. Everything else goes out as is.

use std::ops::Range;

use crate::line::chat::Chat;
use crate::line::fields::{Fields, push_field};

/// Which server's habits a request must follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// Open WebUI: sampling fields are mirrored into `params`, background-task fields are refused.
    #[value(name = "open-webui")]
    #[serde(rename = "open-webui")]
    OpenWebUi,
    /// OpenAI and everything that takes its requests literally (Ollama `/v1`, vLLM, llama.cpp, LiteLLM).
    #[value(name = "openai")]
    #[serde(rename = "openai")]
    OpenAi,
}

impl Dialect {
    /// The dialect's name, as `--dialect` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenWebUi => "open-webui",
            Self::OpenAi => "openai",
        }
    }

    /// Judges the answer to `GET {base}/version`: Open WebUI answers with a JSON object that names its version.
    pub fn of_version_reply(status: u16, body: &[u8]) -> Self {
        let text = std::str::from_utf8(body).unwrap_or_default();
        let version = Fields::parse(text).is_ok_and(|fields| fields.get("version").is_some());
        if status == 200 && version { Self::OpenWebUi } else { Self::OpenAi }
    }
}

/// How a reply is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Upstream {
    /// As a stream of chunks.
    Stream,
    /// As one JSON object.
    Whole,
}

/// Whether this request's reply is asked for as a stream: a line's own `"stream":false` wins over the run's choice.
pub fn streams(chat: &Chat, upstream: Upstream) -> bool {
    upstream == Upstream::Stream && chat.stream != Some(false)
}

/// The body to send: the canonical request, completed by the dialect, with `stream` as decided. Takes the canonical
/// body out of the request: a retry sends the same bytes again.
pub fn render(chat: &mut Chat, dialect: Dialect, stream: bool) -> Vec<u8> {
    let mut body = match dialect {
        Dialect::OpenWebUi if !chat.sampling().is_empty() => mirror_sampling(chat),
        _ => {
            let mut json = chat.take_json();
            json.pop();
            json
        }
    };
    if stream {
        push_field(&mut body, "stream", b"true");
        match (&chat.stream_options, dialect) {
            (Some(own), _) => push_field(&mut body, "stream_options", own.as_bytes()),
            // Without this OpenAI, vLLM and llama.cpp stream no usage; Open WebUI always has it for Ollama models.
            (None, Dialect::OpenAi) => push_field(&mut body, "stream_options", b"{\"include_usage\":true}"),
            (None, Dialect::OpenWebUi) => {}
        }
    }
    body.push(b'}');
    body
}

/// Copies the request without its closing brace, sampling fields mirrored into `params`.
fn mirror_sampling(chat: &Chat) -> Vec<u8> {
    let json = chat.json();
    let mut whole = Vec::with_capacity(json.len() + 256);
    let body = &mut whole;
    let open_end = json.len() - 1;
    let Some(params) = chat.params() else {
        body.extend_from_slice(&json[..open_end]);
        push_field(body, "params", b"{");
        push_missing(chat, &Fields::default(), body);
        body.push(b'}');
        return whole;
    };
    let own_text = std::str::from_utf8(&json[params.clone()]).unwrap_or_default();
    let Ok(own) = Fields::parse(own_text) else {
        // Not an object: it is the line's own affair, and the server's to judge.
        body.extend_from_slice(&json[..open_end]);
        return whole;
    };
    let inner = own_text.trim_ascii_end();
    body.extend_from_slice(&json[..params.start]);
    body.extend_from_slice(inner[..inner.len() - 1].trim_ascii_end().as_bytes());
    push_missing(chat, &own, body);
    body.push(b'}');
    body.extend_from_slice(&json[params.end..open_end]);
    whole
}

fn push_missing(chat: &Chat, own: &Fields<'_>, body: &mut Vec<u8>) {
    let value = |range: &Range<usize>| &chat.json()[range.clone()];
    for (name, range) in chat.sampling().iter().filter(|(name, _)| own.get(name).is_none()) {
        push_field(body, name, value(range));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::line::{Defaults, InputForm, Request};

    fn sent(line: &str, dialect: Dialect, stream: bool) -> String {
        let defaults = Defaults { model: Some("m".into()), ..Defaults::default() };
        let mut request = Request::parse(line.as_bytes(), InputForm::Json, &defaults).unwrap();
        String::from_utf8(render(&mut request.chat, dialect, stream)).unwrap()
    }

    #[test]
    fn openai_gets_the_line_as_it_is() {
        let line = r#"{"messages":[],"temperature":0.10,"params":{"seed":1},"model":"x"}"#;
        assert_eq!(sent(line, Dialect::OpenAi, false), line);
    }

    #[test]
    fn open_webui_gets_sampling_twice_and_the_lines_own_params_win() {
        let line = r#"{"model":"x","messages":[],"temperature":0.10,"seed":7,"params":{ "seed":1 },"user":"u"}"#;
        let expected = r#"{"model":"x","messages":[],"temperature":0.10,"seed":7,"params":{ "seed":1,"temperature":0.10},"user":"u"}"#;
        assert_eq!(sent(line, Dialect::OpenWebUi, false), expected);
        let line = r#"{"model":"x","messages":[],"stop":["a"],"params":{}}"#;
        assert_eq!(
            sent(line, Dialect::OpenWebUi, false),
            r#"{"model":"x","messages":[],"stop":["a"],"params":{"stop":["a"]}}"#
        );
        let line = r#"{"model":"x","messages":[],"max_tokens":5}"#;
        assert_eq!(
            sent(line, Dialect::OpenWebUi, true),
            r#"{"model":"x","messages":[],"max_tokens":5,"params":{"max_tokens":5},"stream":true}"#
        );
    }

    #[test]
    fn params_that_are_no_object_stay_the_lines_affair() {
        let line = r#"{"model":"x","messages":[],"seed":7,"params":null}"#;
        assert_eq!(sent(line, Dialect::OpenWebUi, false), line);
    }

    #[test]
    fn streaming_is_asked_for_once_and_with_usage() {
        let line = r#"{"model":"x","messages":[],"stream":false,"stream_options":{"include_usage":false}}"#;
        assert_eq!(
            sent(line, Dialect::OpenAi, true),
            r#"{"model":"x","messages":[],"stream":true,"stream_options":{"include_usage":false}}"#
        );
        assert!(
            sent(r#"{"messages":[]}"#, Dialect::OpenAi, true)
                .ends_with(r#""stream":true,"stream_options":{"include_usage":true}}"#)
        );
        assert!(sent(r#"{"messages":[]}"#, Dialect::OpenWebUi, true).ends_with(r#","stream":true}"#));
    }

    #[test]
    fn the_version_page_tells_the_dialect() {
        assert_eq!(Dialect::of_version_reply(200, br#"{"version":"0.6.13"}"#), Dialect::OpenWebUi);
        for (status, body) in [(404, &br#"{"version":"1"}"#[..]), (200, b"<!doctype html>"), (200, b"{}"), (401, b"{}")]
        {
            assert_eq!(Dialect::of_version_reply(status, body), Dialect::OpenAi);
        }
    }
}
