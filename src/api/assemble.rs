//! Assembles the chunks of a streamed reply into the `chat.completion` object that the server would have sent whole.
//!
//! Invariant: text is joined in its escaped form, never decoded, so what the server escaped stays escaped (a surrogate
//! pair split over two chunks included). Chunks are not joined by id: Open WebUI 0.6 gives every chunk a new one.

use std::io::Write as _;

use super::chunk::{ChoiceDelta, Chunk, ToolDelta};
use super::pattern::Pattern;
use crate::line::escape;
use crate::line::fields::{push_field, push_string};

/// Choices that one stream may have; more are a runaway.
const CHOICES_MAX: u64 = 128;
/// Tool calls that one choice may have.
const TOOL_CALLS_MAX: u64 = 1024;

#[derive(Debug, Default)]
struct ToolCall {
    id: Vec<u8>,
    kind: Vec<u8>,
    name: Vec<u8>,
    arguments: Vec<u8>,
}

#[derive(Debug, Default)]
struct Choice {
    content: Option<Vec<u8>>,
    reasoning: Vec<u8>,
    refusal: Vec<u8>,
    tool_calls: Vec<ToolCall>,
    logprobs: Vec<u8>,
    /// Of the last chunk that said anything: Open WebUI 0.6 puts `stop` on thinking chunks, before the text.
    finish_reason: Option<Vec<u8>>,
}

/// A streamed reply under assembly.
#[derive(Debug, Default)]
pub struct Assembler {
    id: Vec<u8>,
    created: Vec<u8>,
    model: Vec<u8>,
    usage: Vec<u8>,
    choices: Vec<Choice>,
    error: Option<String>,
    done: bool,
    events: u64,
    pattern: Pattern,
}

/// Whether the stream should be read further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// Go on reading.
    Yes,
    /// `[DONE]` came, or the stream proved to be no completion.
    No,
}

impl Assembler {
    /// Takes the data of one event.
    pub fn event(&mut self, data: &[u8]) -> More {
        self.events += 1;
        if data == b"[DONE]" {
            self.done = true;
            return More::No;
        }
        match simdutf8::basic::from_utf8(data)
            .map_err(|_| "a chunk is not UTF-8".to_owned())
            .and_then(|text| self.chunk(text))
        {
            Ok(()) => More::Yes,
            Err(reason) => {
                self.error = Some(reason);
                More::No
            }
        }
    }

    /// Events seen, the end marker included.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Whether `[DONE]` came.
    pub fn is_done(&self) -> bool {
        self.done
    }

    fn chunk(&mut self, text: &str) -> Result<(), String> {
        match self.pattern.content_of(text) {
            // What else it says was said by the chunk before, and nothing came between the two.
            Some((index, content)) => join_text(self.choices[index].content.get_or_insert_default(), content),
            None => self.new_chunk(text),
        }
    }

    fn new_chunk(&mut self, text: &str) -> Result<(), String> {
        let (mut joined, mut choices, mut only_content) = (Ok(()), 0, None);
        let chunk = Chunk::read(text, |choice| {
            choices += 1;
            only_content = choice.only_content().map(|content| (choice.index() as usize, content));
            if joined.is_ok() {
                joined = self.choice(&choice);
            }
        });
        let chunk = chunk.map_err(|malformed| {
            format!("a chunk is not a completion chunk: expected {} at byte {}", malformed.expected, malformed.at)
        })?;
        if let Some(error) = chunk.error {
            return Err(format!("the stream broke off with an error: {}", escape::for_people(error, 300)));
        }
        if chunk.model == Some("\"ollama\"") {
            return Err("the model failed while it answered (the service reports it as model \"ollama\")".to_owned());
        }
        set_once(&mut self.id, chunk.id);
        set_once(&mut self.created, chunk.created);
        set_once(&mut self.model, chunk.model);
        if let Some(usage) = chunk.usage {
            set(&mut self.usage, usage);
        }
        match only_content.filter(|_| choices == 1 && joined.is_ok()) {
            Some((index, content)) => self.pattern.learn(text, index, content, [chunk.id, chunk.created]),
            None => self.pattern.forget(),
        }
        joined
    }

    fn choice(&mut self, delta: &ChoiceDelta<'_>) -> Result<(), String> {
        if delta.index() >= CHOICES_MAX {
            return Err(format!("the stream numbers a choice {}", delta.index()));
        }
        let index = delta.index() as usize;
        while self.choices.len() <= index {
            self.choices.push(Choice::default());
        }
        self.choices[index].join(delta)
    }

    /// The stream has ended: the whole reply, or why it is none. The end of a stream is a rule, not a marker: `[DONE]`,
    /// a finish_reason on each choice's last chunk, no error, and for Ollama's models the usage of its closing chunk.
    pub fn finish(mut self) -> Result<Vec<u8>, String> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if self.events == 0 {
            return Err("the event stream was empty".to_owned());
        }
        if !self.done {
            return Err("the stream ended without [DONE]".to_owned());
        }
        if self.choices.is_empty() {
            return Err("the stream had no choices".to_owned());
        }
        if self.choices.iter().any(|choice| choice.finish_reason.is_none()) {
            return Err("the stream ended without a finish_reason".to_owned());
        }
        if self.usage.is_empty() && self.is_ollama() {
            return Err("the stream ended without Ollama's closing chunk".to_owned());
        }
        Ok(self.render())
    }

    /// Open WebUI 0.6 names the chunks of Ollama's models `<model>-<uuid>`; those always close with usage.
    fn is_ollama(&self) -> bool {
        let model = self.model.strip_suffix(b"\"").unwrap_or(&self.model);
        model.len() > 1
            && self.id.strip_prefix(model).is_some_and(|rest| rest.first() == Some(&b'-') && rest.len() == 38)
    }

    fn render(&self) -> Vec<u8> {
        let text: usize = self
            .choices
            .iter()
            .map(|choice| choice.content.as_ref().map_or(0, Vec::len) + choice.reasoning.len())
            .sum();
        let mut out = Vec::with_capacity(text + self.usage.len() + 384);
        out.push(b'{');
        for (name, value) in [("id", &self.id), ("created", &self.created), ("model", &self.model)] {
            if !value.is_empty() {
                push_field(&mut out, name, value);
            }
        }
        push_field(&mut out, "choices", b"[");
        for (index, choice) in self.choices.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            choice.render(index, &mut out);
        }
        out.push(b']');
        push_field(&mut out, "object", b"\"chat.completion\"");
        if !self.usage.is_empty() {
            push_field(&mut out, "usage", &self.usage);
        }
        out.push(b'}');
        out
    }
}

impl Choice {
    fn join(&mut self, delta: &ChoiceDelta<'_>) -> Result<(), String> {
        match delta.finish_reason {
            Some(reason) => set(self.finish_reason.get_or_insert_default(), reason),
            None => self.finish_reason = None,
        }
        join_array(&mut self.logprobs, delta.logprobs);
        if let Some(content) = delta.content {
            join_text(self.content.get_or_insert_default(), content)?;
        }
        if let Some(thoughts) = delta.thoughts() {
            join_text(&mut self.reasoning, thoughts)?;
        }
        if let Some(refusal) = delta.refusal {
            join_text(&mut self.refusal, refusal)?;
        }
        delta.tool_calls.iter().try_for_each(|call| self.tool_call(call))
    }

    fn tool_call(&mut self, delta: &ToolDelta<'_>) -> Result<(), String> {
        if delta.index() >= TOOL_CALLS_MAX {
            return Err(format!("the stream numbers a tool call {}", delta.index()));
        }
        let index = delta.index() as usize;
        while self.tool_calls.len() <= index {
            self.tool_calls.push(ToolCall::default());
        }
        let call = &mut self.tool_calls[index];
        set_once(&mut call.id, delta.id);
        set_once(&mut call.kind, delta.kind);
        set_once(&mut call.name, delta.name);
        delta.arguments.map_or(Ok(()), |arguments| join_text(&mut call.arguments, arguments))
    }

    fn render(&self, index: usize, out: &mut Vec<u8>) {
        write!(out, "{{\"index\":{index},\"logprobs\":").expect("writing into memory cannot fail");
        match self.logprobs.is_empty() {
            true => out.extend_from_slice(b"null"),
            false => {
                out.extend_from_slice(b"{\"content\":[");
                out.extend_from_slice(&self.logprobs);
                out.extend_from_slice(b"]}");
            }
        }
        push_field(out, "finish_reason", self.finish_reason.as_deref().unwrap_or(b"null"));
        push_field(out, "message", b"{");
        push_field(out, "role", b"\"assistant\"");
        push_field(out, "content", b"");
        push_quoted(out, self.content.as_deref().unwrap_or_default());
        for (name, text) in [("reasoning_content", &self.reasoning), ("refusal", &self.refusal)] {
            if !text.is_empty() {
                push_field(out, name, b"");
                push_quoted(out, text);
            }
        }
        if !self.tool_calls.is_empty() {
            push_field(out, "tool_calls", b"[");
            for (index, call) in self.tool_calls.iter().enumerate() {
                call.render(index, out);
            }
            out.push(b']');
        }
        out.extend_from_slice(b"}}");
    }
}

impl ToolCall {
    fn render(&self, index: usize, out: &mut Vec<u8>) {
        if index > 0 {
            out.push(b',');
        }
        write!(out, "{{\"index\":{index}").expect("writing into memory cannot fail");
        if !self.id.is_empty() {
            push_field(out, "id", &self.id);
        }
        push_field(out, "type", if self.kind.is_empty() { b"\"function\"" } else { &self.kind });
        push_field(out, "function", b"{");
        match self.name.is_empty() {
            true => {
                push_field(out, "name", b"");
                push_string(out, "");
            }
            false => push_field(out, "name", &self.name),
        }
        push_field(out, "arguments", b"");
        push_quoted(out, &self.arguments);
        out.extend_from_slice(b"}}");
    }
}

fn push_quoted(out: &mut Vec<u8>, escaped: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(escaped);
    out.push(b'"');
}

fn set(target: &mut Vec<u8>, value: &str) {
    target.clear();
    target.extend_from_slice(value.as_bytes());
}

fn set_once(target: &mut Vec<u8>, value: Option<&str>) {
    if let Some(value) = value.filter(|_| target.is_empty()) {
        set(target, value);
    }
}

/// Appends the inside of a JSON string.
fn join_text(text: &mut Vec<u8>, value: &str) -> Result<(), String> {
    let inside = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    text.extend_from_slice(inside.ok_or("a chunk's text is not a string")?.as_bytes());
    Ok(())
}

/// Appends the inside of a JSON array.
fn join_array(elements: &mut Vec<u8>, value: Option<&str>) {
    let inside = value.and_then(|value| value.strip_prefix('[')?.strip_suffix(']')).unwrap_or_default().trim_ascii();
    if inside.is_empty() {
        return;
    }
    if !elements.is_empty() {
        elements.push(b',');
    }
    elements.extend_from_slice(inside.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunks() -> impl Strategy<Value = Vec<String>> {
        let own = ("[ab]", 0u8..2, "[a-c\\\\n]{0,2}", prop::sample::select(vec!["null", "null", "\"stop\""]));
        let form = prop::sample::select(vec!["content", "content", "content", "reasoning", "refusal"]);
        let chunk = (own, form).prop_map(|((id, index, text, end), form)| {
            let choice = format!(r#"{{"index":{index},"delta":{{"{form}":"{text}"}},"finish_reason":{end}}}"#);
            format!(r#"{{"id":"{id}","choices":[{choice}]}}"#)
        });
        prop::collection::vec(chunk, 0..12)
    }

    proptest! {
        #[test]
        fn what_was_seen_before_never_changes_how_a_chunk_is_read(chunks in chunks()) {
            let (mut quick, mut slow) = (Assembler::default(), Assembler::default());
            for chunk in &chunks {
                slow.pattern.forget();
                prop_assert_eq!(quick.event(chunk.as_bytes()), slow.event(chunk.as_bytes()));
            }
            quick.event(b"[DONE]");
            slow.event(b"[DONE]");
            prop_assert_eq!(quick.finish(), slow.finish());
        }
    }
}
