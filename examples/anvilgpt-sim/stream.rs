//! A completion as server-sent events, byte for byte in each server's spacing. Pure; knows nothing of sockets.
//! Invariant: `ends` are the offsets where an event stops, the first `paced` of them carry content.

use std::io::Write as _;

use crate::answer::{Answer, Ending, THOUGHTS};
use crate::args::Regime;
use crate::draw;
use crate::json::{self, Escape};

/// A rendered stream.
#[derive(Debug, Default)]
pub struct Script {
    /// All events
    pub bytes: Vec<u8>,
    /// Where each event ends
    pub ends: Vec<usize>,
    /// How many events carry content; the others follow the last of them at once
    pub paced: usize,
}

/// The ends of a text's words, each with the space after it.
pub fn word_ends(text: &str) -> Vec<usize> {
    let mut ends: Vec<usize> = memchr::memchr_iter(b' ', text.as_bytes()).map(|at| at + 1).collect();
    if ends.last().copied().unwrap_or(0) < text.len() {
        ends.push(text.len());
    }
    ends
}

/// Puts words together until at most `chunks` remain.
pub fn grouped(ends: &[usize], chunks: Option<usize>) -> Vec<usize> {
    let chunks = chunks.unwrap_or(usize::MAX).min(ends.len());
    (1..=chunks).map(|k| ends[k * ends.len() / chunks - 1]).collect()
}

/// Renders the answer with its content split at these offsets.
pub fn script(answer: &Answer<'_>, content_ends: &[usize], include_usage: bool) -> Script {
    let room = (content_ends.len() + 3) * (240 + answer.model.len() * 2) + answer.content.len() * 2 + 700;
    let mut writer = Writer::new(answer, include_usage, room);
    let cut = matches!(answer.ending, Ending::Ollama | Ending::Error);
    let content_ends = if cut { &content_ends[..content_ends.len() / 2] } else { content_ends };
    if answer.regime == Regime::Openai {
        writer.each_choice(|w| w.delta(&[br#""role":"assistant","content":"""#]));
    }
    writer.preamble();
    let mut start = 0;
    for &end in content_ends {
        let text = &answer.content[start..end];
        writer.each_choice(|w| w.text("content", text));
        start = end;
    }
    writer.script.paced = writer.script.ends.len();
    writer.finish();
    writer.script
}

struct Writer<'a> {
    answer: &'a Answer<'a>,
    include_usage: bool,
    script: Script,
    escape: Escape,
    /// `"id": "` and the id's constant part
    id: Vec<u8>,
    model: Vec<u8>,
    choice: usize,
    role_told: bool,
}

impl<'a> Writer<'a> {
    fn new(answer: &'a Answer<'a>, include_usage: bool, room: usize) -> Writer<'a> {
        let escape = match answer.regime {
            Regime::Webui06 => Escape::NonAscii,
            Regime::Webui12 => Escape::LineEnds,
            Regime::Openai => Escape::Least,
        };
        let mut model = Vec::new();
        json::string(&mut model, answer.model, escape);
        let id = [&b"chatcmpl-"[..], &draw::uuid()].concat();
        let script = Script { bytes: Vec::with_capacity(room), ..Script::default() };
        let role_told = answer.regime != Regime::Webui12;
        Writer { answer, include_usage, script, escape, id, model, choice: 0, role_told }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.script.bytes.extend_from_slice(bytes);
    }

    fn end_event(&mut self) {
        self.put(b"\n\n");
        self.script.ends.push(self.script.bytes.len());
    }

    fn each_choice(&mut self, mut write: impl FnMut(&mut Self)) {
        for choice in 0..self.answer.choices {
            self.choice = choice;
            write(self);
        }
    }

    fn spaced(&self) -> bool {
        self.answer.regime == Regime::Webui06
    }

    /// Everything of an event up to and including the choice's opening of `delta`.
    fn open(&mut self, model: Option<&str>, finish: Option<&str>) {
        self.open_event(model);
        if self.answer.regime == Regime::Openai {
            let choice = self.choice;
            return write!(self.script.bytes, r#"{{"index":{choice},"delta":{{"#).expect("a Vec takes every write");
        }
        let quote = if finish.is_some() { "\"" } else { "" };
        let finish = finish.unwrap_or("null");
        if self.spaced() {
            write!(
                self.script.bytes,
                r#"{{"index": 0, "logprobs": null, "finish_reason": {quote}{finish}{quote}, "delta": {{"#
            )
        } else {
            write!(
                self.script.bytes,
                r#"{{"index":0,"logprobs":null,"finish_reason":{quote}{finish}{quote},"delta":{{"#
            )
        }
        .expect("a Vec takes every write");
    }

    fn open_event(&mut self, model: Option<&str>) {
        let created = self.answer.created;
        let name = model.map_or_else(|| self.model.clone(), |model| model.as_bytes().to_vec());
        match self.answer.regime {
            Regime::Webui06 => {
                self.put(br#"data: {"id": ""#);
                self.put(&name);
                self.put(b"-");
                self.put(&draw::uuid());
                write!(self.script.bytes, r#"", "created": {created}, "model": ""#).expect("a Vec takes every write");
                self.put(&name);
                self.put(br#"", "choices": ["#);
            }
            regime => {
                let object = if regime == Regime::Openai { r#""object":"chat.completion.chunk","# } else { "" };
                self.put(br#"data: {"id":""#);
                self.script.bytes.extend_from_slice(&self.id);
                write!(self.script.bytes, r#"",{object}"created":{created},"model":""#)
                    .expect("a Vec takes every write");
                self.put(&name);
                self.put(br#"","choices":["#);
            }
        }
    }

    /// Closes the choice, the list and the event.
    fn close(&mut self, finish: Option<&str>, usage: bool) {
        match self.answer.regime {
            Regime::Openai => {
                let quote = if finish.is_some() { "\"" } else { "" };
                let finish = finish.unwrap_or("null");
                write!(self.script.bytes, r#"}},"logprobs":null,"finish_reason":{quote}{finish}{quote}}}"#)
                    .expect("a Vec takes every write");
            }
            _ => self.put(b"}}"),
        }
        self.close_event(usage);
    }

    fn close_event(&mut self, usage: bool) {
        let spaced = self.spaced();
        self.put(match self.answer.regime {
            Regime::Webui06 => br#"], "object": "chat.completion.chunk""#,
            Regime::Webui12 => br#"],"object":"chat.completion.chunk""#,
            Regime::Openai if self.include_usage && !usage => br#"],"usage":null"#,
            Regime::Openai => b"]",
        });
        if let Some(cost) = self.answer.usage.filter(|_| usage) {
            self.put(if spaced { br#", "usage": "# } else { br#","usage":"# });
            cost.write(&mut self.script.bytes, self.answer.regime, spaced);
        }
        self.put(b"}");
        self.end_event();
    }

    /// One event whose delta holds these bytes.
    fn delta(&mut self, parts: &[&[u8]]) {
        if self.answer.bare {
            self.open_event(None);
            return self.close_event(false);
        }
        self.open(None, None);
        parts.iter().for_each(|part| self.put(part));
        self.tell_role(b",");
        self.close(None, false);
    }

    /// 0.12 names the role in the first delta, behind what it holds.
    fn tell_role(&mut self, comma: &[u8]) {
        if !self.role_told {
            self.role_told = true;
            self.put(comma);
            self.put(br#""role":"assistant""#);
        }
    }

    fn text(&mut self, key: &str, text: &str) {
        let mut member = Vec::with_capacity(text.len() + key.len() + 8);
        let colon = if self.spaced() { ": " } else { ":" };
        write!(member, r#""{key}"{colon}""#).expect("a Vec takes every write");
        json::string(&mut member, text, self.escape);
        member.push(b'"');
        self.delta(&[&member]);
    }

    /// Thoughts and tool calls, which come before the text.
    fn preamble(&mut self) {
        if self.answer.thinks() {
            for thought in THOUGHTS {
                if self.answer.regime == Regime::Webui06 {
                    self.open(None, Some("stop"));
                    self.close(None, false);
                } else {
                    self.each_choice(|w| w.text("reasoning_content", thought));
                }
            }
        }
        if self.answer.calls_tool() {
            let mut call = if self.spaced() { br#""tool_calls": "#.to_vec() } else { br#""tool_calls":"#.to_vec() };
            self.answer.write_tool_calls(&mut call, self.spaced());
            self.each_choice(|w| w.delta(&[&call]));
        }
    }

    fn finish(&mut self) {
        let ending = self.answer.ending;
        match (ending, self.answer.regime) {
            (Ending::NoFinish, _) => {}
            (Ending::Proper, _) if self.answer.bare => {}
            (Ending::Proper, _) => self.finish_properly(),
            (Ending::Ollama, _) | (Ending::Error, Regime::Webui06) => {
                self.open(Some("ollama"), Some("stop"));
                self.close(Some("stop"), false);
            }
            (Ending::Error, Regime::Webui12) => {
                self.put(b"\n\ndata: {\"error\":{\"message\":\"Chat completion stream failed\"}}");
                self.end_event();
            }
            (Ending::Error, Regime::Openai) => {
                self.put(b"data: {\"error\":{\"message\":\"The server had an error while processing your request.\",");
                self.put(b"\"type\":\"server_error\",\"param\":null,\"code\":null}}");
                self.end_event();
            }
        }
        self.put(b"data: [DONE]");
        self.end_event();
    }

    fn finish_properly(&mut self) {
        let finish = self.answer.finish();
        let separate = self.answer.regime == Regime::Openai;
        self.each_choice(|w| {
            w.open(None, Some(finish));
            w.tell_role(b"");
            w.close(Some(finish), !separate);
        });
        if separate && self.include_usage && self.answer.usage.is_some() {
            self.open_event(None);
            self.close_event(true);
        }
    }
}
