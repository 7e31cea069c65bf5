//! Completion lines: one outcome becomes one record, in each of the formats. Knows nothing of order or of stdout.
//!
//! Invariant: a record in a JSON format is exactly one line, and its raw parts are the server's and the input's bytes.

use std::io::Write as _;

use super::failure::Failure;
use super::fields::{Fields, push_field, push_name, push_string};
use super::{Answer, Choice, Correlation, Form, Format, Outcome, Request};

/// How records are written; fixed for a run.
#[derive(Clone, Debug)]
pub struct Style {
    /// The format; without one, batch lines get `batch` and all others `completion`.
    pub format: Option<Format>,
    /// The field of the input object that the answer goes into.
    pub merge: Option<String>,
    /// What ends a record: newline or NUL.
    pub terminator: u8,
}

/// What a completion line tells about its request.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The line's number in the whole input, from 1.
    pub line: u64,
    /// The shape the line had.
    pub form: Option<Form>,
    /// The line's own id.
    pub correlation: Option<&'a Correlation>,
    /// The model that was asked.
    pub model: Option<&'a str>,
    /// Oddities of the answer.
    pub flags: Flags,
    /// The input record, for `--merge`.
    pub record: Option<&'a [u8]>,
}

/// Oddities of an answer that its reader should know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The token limit cut the answer.
    pub truncated: bool,
    /// There is neither text nor a tool call.
    pub empty: bool,
    /// The server says that another model answered.
    pub other_model: bool,
    /// It ends in white space without end, as models do that lost the thread of a JSON answer.
    pub whitespace: bool,
}

impl Flags {
    /// Judges an answer beside its request.
    pub fn of(answer: &Answer, request: &Request) -> Self {
        Self {
            truncated: answer.is_truncated(request.chat.tokens_max),
            empty: answer.is_empty(),
            other_model: answer.is_other_model(&request.model),
            whitespace: answer.runs_into_whitespace(),
        }
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        let all = [
            (self.truncated, "truncated"),
            (self.empty, "empty"),
            (self.other_model, "other_model"),
            (self.whitespace, "whitespace"),
        ];
        all.into_iter().filter_map(|(set, name)| set.then_some(name))
    }

    /// Reads them from a JSON array of their names; names that are not known are left out.
    pub fn from_names(array: &str) -> Self {
        let names: Vec<String> = serde_json::from_str(array).unwrap_or_default();
        let has = |name: &str| names.iter().any(|own| own == name);
        Self {
            truncated: has("truncated"),
            empty: has("empty"),
            other_model: has("other_model"),
            whitespace: has("whitespace"),
        }
    }

    /// Appends `"flags":[…]` to an object, when there are any.
    pub fn push_field(self, out: &mut Vec<u8>) {
        if self != Self::default() {
            let names: Vec<&str> = self.names().collect();
            write_into(out, format_args!(",\"flags\":[\"{}\"]", names.join("\",\"")));
        }
    }
}

impl Style {
    /// A name for it: two styles of one name give the same records.
    pub fn name(&self) -> String {
        let form = match (&self.merge, self.format) {
            (Some(field), _) => format!("merge={field}"),
            (None, Some(format)) => format!("{format:?}").to_lowercase(),
            (None, None) => "default".to_owned(),
        };
        if self.terminator == 0 { form + ", NUL" } else { form }
    }

    /// Appends one record, terminator included.
    pub fn render(&self, about: &About<'_>, outcome: &Outcome, out: &mut Vec<u8>) {
        out.reserve(256 + outcome.result.as_ref().map_or(0, |answer| answer.body().len()));
        let batch = about.form == Some(Form::Batch);
        match (&self.merge, self.format) {
            (Some(field), _) => merge(out, field, about, outcome),
            (None, Some(Format::Text)) => text(out, outcome),
            (None, Some(Format::Batch)) => batch_result(out, about, outcome),
            (None, None) if batch => batch_result(out, about, outcome),
            (None, Some(Format::Raw)) => raw(out, about, outcome),
            (None, _) => completion(out, about, outcome),
        }
        out.push(self.terminator);
    }

    /// One `events` record for a delta, which is a JSON value.
    pub fn render_delta(&self, about: &About<'_>, attempt: u32, index: u64, delta: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(96 + delta.len());
        begin(&mut out, about);
        write_into(&mut out, format_args!(",\"attempt\":{attempt},\"index\":{index},\"delta\":"));
        push_raw(&mut out, delta.as_bytes());
        out.push(b'}');
        out.push(self.terminator);
        out
    }
}

fn write_into(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("writing into memory cannot fail");
}

/// Appends raw JSON, its newlines between tokens as blanks.
fn push_raw(out: &mut Vec<u8>, json: &[u8]) {
    let start = out.len();
    out.extend_from_slice(json);
    if memchr::memchr2(b'\n', b'\r', &out[start..]).is_some() {
        out[start..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    }
}

fn begin(out: &mut Vec<u8>, about: &About<'_>) {
    write_into(out, format_args!("{{\"line\":{}", about.line));
    if let Some(correlation) = about.correlation {
        push_name(out, correlation.field.name());
        push_raw(out, correlation.value.as_bytes());
    }
}

fn completion(out: &mut Vec<u8>, about: &About<'_>, outcome: &Outcome) {
    begin(out, about);
    match &outcome.result {
        Ok(answer) => {
            let first = answer.choices.first();
            push_field(out, "content", answer.part_or_null(first.and_then(|choice| choice.content)));
            push_choice_extras(out, answer, first);
            push_field(out, "finish_reason", answer.part_or_null(first.and_then(|choice| choice.finish_reason)));
            push_further_choices(out, answer);
            push_text_or_null(out, "model", answer.model().as_deref().or(about.model));
            push_field(out, "usage", answer.part_or_null(answer.usage));
            about.flags.push_field(out);
        }
        Err(_) => {
            push_field(out, "content", b"null");
            push_field(out, "finish_reason", b"null");
            push_text_or_null(out, "model", about.model);
            push_field(out, "usage", b"null");
        }
    }
    write_into(out, format_args!(",\"attempts\":{},\"seconds\":{:.3}", outcome.attempts, outcome.seconds));
    push_error(out, "error", outcome);
    out.push(b'}');
}

fn push_choice_extras(out: &mut Vec<u8>, answer: &Answer, choice: Option<&Choice>) {
    let Some(choice) = choice else { return };
    for (name, span) in [("reasoning", choice.reasoning), ("tool_calls", choice.tool_calls)] {
        if let Some(span) = span.filter(|span| !matches!(answer.part(*span), b"null" | b"\"\"" | b"[]")) {
            push_field(out, name, answer.part(span));
        }
    }
}

fn push_further_choices(out: &mut Vec<u8>, answer: &Answer) {
    if answer.choices.len() < 2 {
        return;
    }
    push_field(out, "choices", b"[");
    for (position, choice) in answer.choices.iter().enumerate().skip(1) {
        let comma = if position > 1 { "," } else { "" };
        write_into(out, format_args!("{comma}{{\"index\":{}", choice.index));
        push_field(out, "content", answer.part_or_null(choice.content));
        push_choice_extras(out, answer, Some(choice));
        push_field(out, "finish_reason", answer.part_or_null(choice.finish_reason));
        out.push(b'}');
    }
    out.push(b']');
}

fn push_text_or_null(out: &mut Vec<u8>, name: &str, text: Option<&str>) {
    push_name(out, name);
    match text {
        Some(text) => push_string(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

fn push_error(out: &mut Vec<u8>, name: &str, outcome: &Outcome) {
    match &outcome.result {
        Ok(_) => push_field(out, name, b"null"),
        Err(failure) => {
            push_name(out, name);
            error_object(out, failure, outcome.attempts);
        }
    }
}

fn error_object(out: &mut Vec<u8>, failure: &Failure, attempts: u32) {
    write_into(out, format_args!("{{\"code\":\"{}\",\"message\":", failure.code.as_str()));
    push_string(out, &failure.message);
    match failure.status {
        Some(status) => write_into(out, format_args!(",\"status\":{status}")),
        None => out.extend_from_slice(b",\"status\":null"),
    }
    write_into(out, format_args!(",\"attempts\":{attempts}}}"));
}

/// The reply's own object is left as it came; since it has an `id` of its own, the line's goes under `custom_id`.
fn raw(out: &mut Vec<u8>, about: &About<'_>, outcome: &Outcome) {
    let Ok(answer) = &outcome.result else { return completion(out, about, outcome) };
    let body = answer.body().trim_ascii_end();
    out.extend_from_slice(body.strip_suffix(b"}").unwrap_or(body).trim_ascii_end());
    push_field(out, "line", about.line.to_string().as_bytes());
    if let Some(correlation) = about.correlation {
        push_name(out, "custom_id");
        push_raw(out, correlation.value.as_bytes());
    }
    out.push(b'}');
}

/// The result line of OpenAI's Batch API (platform.openai.com/docs/api-reference/batch/request-output).
fn batch_result(out: &mut Vec<u8>, about: &About<'_>, outcome: &Outcome) {
    write_into(out, format_args!("{{\"id\":\"batch_req_{}\",\"custom_id\":", about.line));
    match about.correlation {
        Some(correlation) => push_raw(out, correlation.value.as_bytes()),
        None => out.extend_from_slice(b"null"),
    }
    match &outcome.result {
        Ok(answer) => {
            out.extend_from_slice(b",\"response\":{\"status_code\":200,\"request_id\":null,\"body\":");
            out.extend_from_slice(answer.body());
            out.push(b'}');
        }
        Err(_) => push_field(out, "response", b"null"),
    }
    push_error(out, "error", outcome);
    out.push(b'}');
}

fn text(out: &mut Vec<u8>, outcome: &Outcome) {
    let Ok(answer) = &outcome.result else { return };
    let content = answer.choices.first().and_then(|choice| choice.content).map(|span| answer.part(span));
    let Some(content) = content else { return };
    match serde_json::from_slice::<String>(content) {
        Ok(decoded) => out.extend_from_slice(decoded.as_bytes()),
        Err(_) if content == b"null" => {}
        // A lone surrogate has no UTF-8 form: show what the server sent.
        Err(_) => out.extend_from_slice(content),
    }
}

/// The input object with the answer in `field`; what has no object is given one.
fn merge(out: &mut Vec<u8>, field: &str, about: &About<'_>, outcome: &Outcome) {
    let error_field = format!("{field}_error");
    out.push(b'{');
    push_input(out, about, &[field, &error_field]);
    let content = outcome
        .result
        .as_ref()
        .ok()
        .and_then(|answer| answer.choices.first().and_then(|choice| choice.content).map(|span| answer.part(span)));
    push_field(out, field, content.unwrap_or(b"null"));
    if outcome.result.is_err() {
        push_error(out, &error_field, outcome);
    }
    out.push(b'}');
}

fn push_input(out: &mut Vec<u8>, about: &About<'_>, replaced: &[&str]) {
    let text = about.record.and_then(|record| std::str::from_utf8(record).ok());
    match text.map(|text| (text, Fields::parse(text.trim_ascii()))) {
        Some((_, Ok(fields))) => {
            for (name, value) in fields.0.iter().filter(|(name, _)| !replaced.contains(&name.as_ref())) {
                push_name(out, name);
                push_raw(out, value.as_bytes());
            }
        }
        Some((text, Err(_))) if matches!(about.form, Some(Form::Bare)) => {
            push_field(out, "prompt", text.trim_ascii().as_bytes())
        }
        Some((text, Err(_))) if matches!(about.form, Some(Form::Text)) => {
            push_name(out, "prompt");
            push_string(out, text);
        }
        _ => push_field(out, "line", about.line.to_string().as_bytes()),
    }
}
