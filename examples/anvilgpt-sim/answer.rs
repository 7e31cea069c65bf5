//! The text of a completion, and the body of a whole reply. Pure; knows nothing of sockets or time.

use std::io::Write as _;

use crate::args::Regime;
use crate::draw;
use crate::json::{self, Escape};
use crate::usage::Usage;

/// How an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// As it should
    Proper,
    /// Without a finish_reason
    NoFinish,
    /// Half way, with the literal model `ollama`
    Ollama,
    /// Half way, with the server's own form of an error
    Error,
}

/// A completion to be rendered.
#[derive(Debug)]
pub struct Answer<'a> {
    /// Whose format
    pub regime: Regime,
    /// The model that it claims to come from
    pub model: &'a str,
    /// Its text
    pub content: &'a str,
    /// Whether the text was cut by the token limit
    pub truncated: bool,
    /// How it ends
    pub ending: Ending,
    /// Whether `choices` is left empty
    pub bare: bool,
    /// How many choices
    pub choices: usize,
    /// What it cost; `None` leaves usage out
    pub usage: Option<Usage>,
    /// Unix time of its creation
    pub created: u64,
}

/// The thoughts of a reasoning model.
pub const THOUGHTS: [&str; 3] = ["Let", " me", " think."];

impl Answer<'_> {
    /// True for a model that thinks first.
    pub fn thinks(&self) -> bool {
        self.model.starts_with("think")
    }

    /// True for a model that calls a tool.
    pub fn calls_tool(&self) -> bool {
        self.model.starts_with("tool")
    }

    /// The finish_reason, quirks included: 0.6 knows only `stop`.
    pub fn finish(&self) -> &'static str {
        match self.regime {
            Regime::Webui06 => "stop",
            _ if self.calls_tool() => "tool_calls",
            _ if self.truncated => "length",
            _ => "stop",
        }
    }

    /// Appends the tool call array.
    pub fn write_tool_calls(&self, out: &mut Vec<u8>, spaced: bool) {
        let arguments =
            if self.regime == Regime::Webui06 { r#"{\"city\": \"Lafayette\"}"# } else { r#"{\"city\":\"Lafayette\"}"# };
        let text: &[u8] = if spaced { br#"[{"index": 0, "id": "call_"# } else { br#"[{"index":0,"id":"call_"# };
        out.extend_from_slice(text);
        out.extend_from_slice(&draw::uuid());
        if spaced {
            write!(
                out,
                r#"", "type": "function", "function": {{"name": "get_weather", "arguments": "{arguments}"}}}}]"#
            )
        } else {
            write!(out, r#"","type":"function","function":{{"name":"get_weather","arguments":"{arguments}"}}}}]"#)
        }
        .expect("a Vec takes every write");
    }

    /// Appends the body of a whole reply.
    pub fn write_whole(&self, out: &mut Vec<u8>) {
        match self.regime {
            Regime::Openai => self.write_whole_openai(out),
            _ => self.write_whole_webui(out),
        }
    }

    fn write_whole_webui(&self, out: &mut Vec<u8>) {
        let ollama = self.ending == Ending::Ollama;
        let model = if ollama { "ollama" } else { self.model };
        out.extend_from_slice(br#"{"id":""#);
        json::string(out, model, Escape::Least);
        out.push(b'-');
        out.extend_from_slice(&draw::uuid());
        write!(out, r#"","created":{},"model":""#, self.created).expect("a Vec takes every write");
        json::string(out, model, Escape::Least);
        out.extend_from_slice(br#"","choices":["#);
        if !self.bare {
            out.extend_from_slice(br#"{"index":0,"logprobs":null,"finish_reason":"#);
            self.write_finish(out);
            out.extend_from_slice(br#","message":{"#);
            self.write_message_webui(out, if ollama { "" } else { self.content });
            out.extend_from_slice(b"}}");
        }
        out.extend_from_slice(br#"],"object":"chat.completion""#);
        let usage = if ollama { self.usage.map(|_| Usage::default()) } else { self.usage };
        if let Some(usage) = usage {
            out.extend_from_slice(br#","usage":"#);
            usage.write(out, self.regime, false);
        }
        out.push(b'}');
    }

    fn write_message_webui(&self, out: &mut Vec<u8>, content: &str) {
        let role_first = self.regime == Regime::Webui12;
        out.extend_from_slice(if role_first { br#""role":"assistant","content":""# } else { br#""content":""# });
        json::string(out, if self.calls_tool() { "" } else { content }, Escape::Least);
        out.extend_from_slice(if role_first { b"\"" } else { br#"","role":"assistant""# });
        if self.thinks() && self.regime == Regime::Webui12 {
            self.write_thoughts(out);
        }
        if self.calls_tool() {
            out.extend_from_slice(br#","tool_calls":"#);
            self.write_tool_calls(out, false);
        }
    }

    fn write_whole_openai(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"id":"chatcmpl-"#);
        out.extend_from_slice(&draw::uuid());
        write!(out, r#"","object":"chat.completion","created":{},"model":""#, self.created)
            .expect("a Vec takes every write");
        json::string(out, if self.ending == Ending::Ollama { "ollama" } else { self.model }, Escape::Least);
        out.extend_from_slice(br#"","choices":["#);
        for index in 0..if self.bare { 0 } else { self.choices } {
            let comma = if index > 0 { "," } else { "" };
            write!(out, r#"{comma}{{"index":{index},"message":{{"role":"assistant","content":"#)
                .expect("a Vec takes every write");
            self.write_message_openai(out);
            out.extend_from_slice(br#","refusal":null},"logprobs":null,"finish_reason":"#);
            self.write_finish(out);
            out.push(b'}');
        }
        out.push(b']');
        if let Some(usage) = self.usage {
            out.extend_from_slice(br#","usage":"#);
            usage.write(out, self.regime, false);
        }
        out.push(b'}');
    }

    fn write_message_openai(&self, out: &mut Vec<u8>) {
        if self.calls_tool() {
            out.extend_from_slice(br#"null,"tool_calls":"#);
            return self.write_tool_calls(out, false);
        }
        out.push(b'"');
        json::string(out, if self.ending == Ending::Ollama { "" } else { self.content }, Escape::Least);
        out.push(b'"');
        if self.thinks() {
            self.write_thoughts(out);
        }
    }

    fn write_thoughts(&self, out: &mut Vec<u8>) {
        write!(out, r#","reasoning_content":"{}""#, THOUGHTS.concat()).expect("a Vec takes every write");
    }

    fn write_finish(&self, out: &mut Vec<u8>) {
        match self.ending {
            Ending::NoFinish => out.extend_from_slice(b"null"),
            Ending::Ollama => out.extend_from_slice(b"\"stop\""),
            _ => write!(out, "\"{}\"", self.finish()).expect("a Vec takes every write"),
        }
    }
}
