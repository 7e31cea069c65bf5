//! An answer: one `chat.completion` object as bytes, and where in it the parts lie that a completion line shows.
//!
//! Invariant: `body` is one line of JSON (no raw CR or LF), and every span lies within it. Reading an answer copies
//! nothing; the content goes from the server's bytes into the output without being decoded.

use std::borrow::Cow;

use bytes::Bytes;

use super::fields::decode_string;
use super::json::{Cursor, Malformed};

/// A part of an answer's body, as byte offsets; always a whole JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: usize,
    end: usize,
}

/// One choice of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The choice's number, from 0.
    pub index: u64,
    /// The text, a JSON string; absent or null when the model only called tools.
    pub content: Option<Span>,
    /// The model's thoughts, where the server shows them.
    pub reasoning: Option<Span>,
    /// Tool calls, a JSON array.
    pub tool_calls: Option<Span>,
    /// Why the model stopped, a JSON string.
    pub finish_reason: Option<Span>,
}

/// A completion that holds up.
#[derive(Clone, Debug)]
pub struct Answer {
    body: Bytes,
    /// At least one.
    pub choices: Vec<Choice>,
    model: Option<Span>,
    /// The server's usage object.
    pub usage: Option<Span>,
    /// Tokens counted by the server, 0 where it does not say.
    pub tokens: Tokens,
    /// Times measured by the server (Ollama).
    pub times: Option<Times>,
}

/// What an Ollama server says of its own time: `usage` as Open WebUI passes it on. Waiting for a slot is what is left of
/// the total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// From the request's arrival to its end.
    pub total_nanoseconds: u64,
    /// Loading the model.
    pub load_nanoseconds: u64,
    /// Reading the prompt.
    pub prompt_evaluation_nanoseconds: u64,
    /// Generating the answer.
    pub evaluation_nanoseconds: u64,
}

/// So many characters of white space at the end of a text are no end of a text.
const RUNAWAY_WHITESPACE: usize = 100;

/// Token counts of one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Tokens of the prompt.
    pub prompt: u64,
    /// Tokens generated.
    pub completion: u64,
}

impl Answer {
    /// Reads one whole `chat.completion` object. The error says in a few words why it is no completion.
    pub fn parse(body: Bytes) -> Result<Self, String> {
        let body = without_newlines(body);
        let text = simdutf8::basic::from_utf8(&body).map_err(|_| "the reply is not UTF-8".to_owned())?;
        if text.trim_ascii() == "null" {
            return Err("the reply is null".to_owned());
        }
        let parts = Parts::read(text)?;
        let Parts { model, choices, usage, tokens, times, .. } = parts;
        let times = Some(times).filter(|times| times.total_nanoseconds > 0);
        Ok(Self { choices, model, usage, tokens, times, body })
    }

    /// The whole `chat.completion` object: one line of JSON.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The bytes of one part.
    pub fn part(&self, span: Span) -> &[u8] {
        &self.body[span.start..span.end]
    }

    /// The bytes of one part, or `null`.
    pub fn part_or_null(&self, span: Option<Span>) -> &[u8] {
        span.map_or(b"null", |span| self.part(span))
    }

    /// The model that the server says it used.
    pub fn model(&self) -> Option<Cow<'_, str>> {
        decode_string(std::str::from_utf8(self.part(self.model?)).ok()?)
    }

    /// Whether no choice brought text or a tool call.
    pub fn is_empty(&self) -> bool {
        let blank = |span: Option<Span>| matches!(self.part_or_null(span), b"null" | b"\"\"" | b"[]");
        self.choices.iter().all(|choice| blank(choice.content) && blank(choice.tool_calls))
    }

    /// Whether a choice ended because its token limit was reached; `tokens_max` is the limit that was asked for, since
    /// Open WebUI 0.6 calls a cut answer `stop`.
    pub fn is_truncated(&self, tokens_max: Option<u64>) -> bool {
        let cut = |choice: &Choice| self.part_or_null(choice.finish_reason) == b"\"length\"";
        let full = tokens_max.is_some_and(|max| max > 0 && self.choices.len() == 1 && self.tokens.completion >= max);
        full || self.choices.iter().any(cut)
    }

    /// Whether a choice's text ends in so much white space that nobody meant it.
    pub fn runs_into_whitespace(&self) -> bool {
        self.choices.iter().any(|choice| whitespace_at_end(self.part_or_null(choice.content)) >= RUNAWAY_WHITESPACE)
    }

    /// Whether another model answered than the one that was asked for. `x` and `x:latest` are one model to Ollama.
    pub fn is_other_model(&self, requested: &str) -> bool {
        fn bare(name: &str) -> &str {
            name.strip_suffix(":latest").unwrap_or(name)
        }
        self.model().is_some_and(|served| served != requested && bare(&served) != bare(requested))
    }
}

/// What one walk over a reply finds.
#[derive(Default)]
struct Parts<'a> {
    model: Option<Span>,
    choices: Vec<Choice>,
    has_choices: bool,
    usage: Option<Span>,
    tokens: Tokens,
    times: Times,
    error: Option<&'a str>,
    has_task: bool,
    is_ollama: bool,
    without_message: bool,
}

impl<'a> Parts<'a> {
    fn read(text: &'a str) -> Result<Self, String> {
        let mut parts = Self::default();
        let mut cursor = Cursor::new(text);
        let walked = cursor.object(|cursor, name| parts.member(text, cursor, name)).and_then(|()| cursor.end());
        walked.map_err(|malformed| {
            format!("the reply is not a completion: expected {} at byte {}", malformed.expected, malformed.at)
        })?;
        parts.refuse_what_is_no_answer()?;
        Ok(parts)
    }

    fn member(&mut self, text: &str, cursor: &mut Cursor<'a>, name: &str) -> Result<(), Malformed> {
        match name {
            "\"choices\"" if cursor.peek() == Some(b'[') => {
                self.has_choices = true;
                return cursor.array(|cursor| self.choice(text, cursor));
            }
            "\"usage\"" if cursor.peek() == Some(b'{') => {
                let start = cursor.position();
                cursor.object(|cursor, name| self.usage_member(cursor, name))?;
                self.usage = Some(Span { start, end: cursor.position() });
                return Ok(());
            }
            _ => {}
        }
        let value = cursor.value()?;
        match name {
            "\"model\"" if value.starts_with('"') => {
                self.model = Some(Span::of(text, value));
                self.is_ollama = value == "\"ollama\"";
            }
            "\"error\"" => self.error = Some(value).filter(|value| *value != "null"),
            "\"task_id\"" => self.has_task = true,
            _ => {}
        }
        Ok(())
    }

    /// Reads counts and times leniently: whatever is no whole number counts as 0.
    fn usage_member(&mut self, cursor: &mut Cursor<'a>, name: &str) -> Result<(), Malformed> {
        let value = cursor.value()?;
        let number = match name {
            "\"prompt_tokens\"" => &mut self.tokens.prompt,
            "\"completion_tokens\"" => &mut self.tokens.completion,
            "\"total_duration\"" => &mut self.times.total_nanoseconds,
            "\"load_duration\"" => &mut self.times.load_nanoseconds,
            "\"prompt_eval_duration\"" => &mut self.times.prompt_evaluation_nanoseconds,
            "\"eval_duration\"" => &mut self.times.evaluation_nanoseconds,
            _ => return Ok(()),
        };
        *number = value.parse().unwrap_or(0);
        Ok(())
    }

    fn choice(&mut self, text: &str, cursor: &mut Cursor<'a>) -> Result<(), Malformed> {
        let mut choice = Choice {
            index: self.choices.len() as u64,
            content: None,
            reasoning: None,
            tool_calls: None,
            finish_reason: None,
        };
        let mut has_message = false;
        if cursor.peek() != Some(b'{') {
            self.without_message = true;
            return cursor.value().map(|_| ());
        }
        cursor.object(|cursor, name| {
            if name == "\"message\"" && cursor.peek() == Some(b'{') {
                has_message = true;
                return cursor.object(|cursor, name| choice.message_member(text, cursor, name));
            }
            let value = cursor.value()?;
            match name {
                "\"index\"" => choice.index = value.parse().unwrap_or(choice.index),
                "\"finish_reason\"" => choice.finish_reason = Some(Span::of(text, value)),
                _ => {}
            }
            Ok(())
        })?;
        self.without_message |= !has_message;
        self.choices.push(choice);
        Ok(())
    }

    fn refuse_what_is_no_answer(&self) -> Result<(), String> {
        if let Some(error) = self.error {
            return Err(format!("the reply is an error: {}", super::escape::for_people(error, 300)));
        }
        if self.has_task && !self.has_choices {
            return Err("the service made a background task of the request; its answer never comes here".to_owned());
        }
        if self.is_ollama {
            return Err("the model failed while it answered (the service reports it as model \"ollama\")".to_owned());
        }
        if self.without_message {
            return Err("a choice has no message".to_owned());
        }
        if self.choices.is_empty() {
            return Err("the reply has no choices".to_owned());
        }
        Ok(())
    }
}

impl Choice {
    fn message_member(&mut self, text: &str, cursor: &mut Cursor<'_>, name: &str) -> Result<(), Malformed> {
        let value = cursor.value()?;
        let span = Some(Span::of(text, value));
        match name {
            "\"content\"" => self.content = span,
            "\"reasoning_content\"" => self.reasoning = span,
            "\"reasoning\"" => self.reasoning = self.reasoning.or(span),
            "\"tool_calls\"" => self.tool_calls = span,
            _ => {}
        }
        Ok(())
    }
}

impl Span {
    fn of(text: &str, value: &str) -> Self {
        let start = value.as_ptr() as usize - text.as_ptr() as usize;
        Self { start, end: start + value.len() }
    }
}

/// Characters of white space at the end of a JSON string, up to as many as count.
fn whitespace_at_end(string: &[u8]) -> usize {
    let mut rest = string.strip_suffix(b"\"").unwrap_or(string);
    let mut count = 0;
    while count < RUNAWAY_WHITESPACE {
        rest = match rest {
            [before @ .., b' '] => before,
            // An escape, unless its backslash is itself escaped.
            [before @ .., b'\\', b'n' | b't' | b'r']
                if before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 0 =>
            {
                before
            }
            _ => break,
        };
        count += 1;
    }
    count
}

/// JSON has no raw newline inside a string, so each one between tokens may become a blank.
fn without_newlines(body: Bytes) -> Bytes {
    if memchr::memchr2(b'\n', b'\r', &body).is_none() {
        return body;
    }
    let blank = |byte: &u8| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte };
    body.iter().map(blank).collect::<Vec<u8>>().trim_ascii_end().to_vec().into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn answer(text: &'static str) -> Result<Answer, String> {
        Answer::parse(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn parts_are_the_servers_own_bytes() {
        let text = r#"{"model":"m","choices":[{"finish_reason":"stop","message":{"content":"\ud83d é"}}],"usage":{"prompt_tokens":4,"completion_tokens":8,"x":"N/A"}}"#;
        let answer = answer(text).unwrap();
        assert_eq!(answer.part_or_null(answer.choices[0].content), r#""\ud83d é""#.as_bytes());
        assert_eq!(answer.tokens, Tokens { prompt: 4, completion: 8 });
        assert!(!answer.is_empty() && !answer.is_truncated(None) && answer.is_truncated(Some(8)));
    }

    #[test]
    fn a_pretty_printed_reply_becomes_one_line() {
        let answer = answer("{\n \"choices\": [{\r\n\"message\":{\"content\":\"a\\nb\"}}]\n}\n").unwrap();
        assert!(!answer.body().contains(&b'\n') && !answer.body().contains(&b'\r'));
        assert_eq!(answer.part_or_null(answer.choices[0].content), br#""a\nb""#);
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for text in [
            "null",
            "",
            "{}",
            "[]",
            r#"{"choices":[]}"#,
            r#"{"error":{"message":"x"}}"#,
            r#"{"status":true,"task_id":"x"}"#,
            r#"{"model":"ollama","choices":[{"message":{"content":""}}]}"#,
            r#"{"choices":[{}]}"#,
            r#"{"choices":[{"message":{"content":"cut"#,
        ] {
            assert!(answer(text).is_err(), "{text}");
        }
    }

    #[test]
    fn white_space_without_end_is_noticed() {
        let runs = |text: &str| {
            let body = format!(r#"{{"choices":[{{"message":{{"content":{text}}}}}]}}"#);
            Answer::parse(body.into()).unwrap().runs_into_whitespace()
        };
        let quoted = |text: &str| serde_json::to_string(text).unwrap();
        assert!(runs(&quoted(&format!("{{\"a\": 1{}", "\n \t".repeat(40)))));
        assert!(runs(&quoted(&" ".repeat(100))));
        assert!(!runs(&quoted(&format!("{}.", "\n".repeat(500)))) && !runs(&quoted(&"\n".repeat(99))));
        assert!(!runs(&quoted(&"\\n".repeat(200))), "a backslash and an n are no newline");
        assert!(!runs("null") && !runs("\"\""));
    }

    #[test]
    fn latest_is_the_same_model() {
        let answer = answer(r#"{"model":"llama3.1:latest","choices":[{"message":{"content":"a"}}]}"#).unwrap();
        assert!(
            !answer.is_other_model("llama3.1")
                && !answer.is_other_model("llama3.1:latest")
                && answer.is_other_model("alias")
        );
    }
}
