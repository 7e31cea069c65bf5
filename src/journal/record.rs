//! Records: what a journal says, as JSON. Pure.
//!
//! Two families. *Line records* tell how a line of the input was settled; their first members stand in a fixed order,
//! so that an index is built without reading what follows:
//!
//! ```text
//! {"line":17,"key":"<64 hex>","nth":0,"outcome":"answer","form":"prompt","custom_id":…,"model":"m","flags":[…],
//!  "attempts":1,"seconds":2.410,"answer":{…the chat.completion object…}}
//! {"line":18,…,"outcome":"timeout",…,"message":"…","status":504}
//! {"line":19,…,"outcome":"placed","form":"prompt","custom_id":…}     the answer of an earlier record is this line's now
//! ```
//!
//! *Notes* ([`super::note`]) are everything else. The format is a contract: members may be added, none is renamed.

use std::borrow::Cow;
use std::io::Write as _;

use bytes::Bytes;

use super::key::{Key, parse_hex, push_hex};
use crate::line::completion::Flags;
use crate::line::fields::{Fields, decode_name, decode_string, push_field, push_name, push_string};
use crate::line::json::{Cursor, Malformed};
use crate::line::{Answer, Correlation, ErrorCode, Failure, Form, IdField, Outcome};

const PLACED: &str = "placed";
const ANSWER: &str = "answer";

/// What a line record says in its first members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The line's number in the whole input.
    pub line: u64,
    /// What was asked.
    pub key: Key,
    /// What came of it.
    pub kind: Kind,
}

/// What came of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An answer.
    Answer,
    /// An error.
    Failed(ErrorCode),
    /// What an earlier record with this key says.
    Placed,
}

/// What a line record says of the line itself.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// Its number in the whole input.
    pub line: u64,
    /// What was asked.
    pub key: Key,
    /// The shape it had.
    pub form: Option<Form>,
    /// Its own id.
    pub correlation: Option<&'a Correlation>,
}

impl Line<'_> {
    /// Appends the record of its outcome.
    pub fn push_outcome(&self, record: &mut Vec<u8>, model: Option<&str>, flags: Flags, outcome: &Outcome) {
        match &outcome.result {
            Ok(_) => self.push_head(record, ANSWER),
            Err(failure) => self.push_head(record, failure.code.as_str()),
        }
        if let Some(model) = model {
            push_name(record, "model");
            push_string(record, model);
        }
        flags.push_field(record);
        write(record, format_args!(",\"attempts\":{},\"seconds\":{:.3}", outcome.attempts, outcome.seconds));
        match &outcome.result {
            Ok(answer) => push_field(record, "answer", answer.body()),
            Err(failure) => {
                push_name(record, "message");
                push_string(record, &failure.message);
                if let Some(status) = failure.status {
                    write(record, format_args!(",\"status\":{status}"));
                }
            }
        }
        record.push(b'}');
    }

    /// Appends the record that an earlier outcome is this line's now.
    pub fn push_placed(&self, record: &mut Vec<u8>) {
        self.push_head(record, PLACED);
        record.push(b'}');
    }

    fn push_head(&self, record: &mut Vec<u8>, outcome: &str) {
        write(record, format_args!("{{\"line\":{},\"key\":\"", self.line));
        push_hex(record, &self.key.hash);
        write(record, format_args!("\",\"nth\":{},\"outcome\":\"{outcome}\"", self.key.nth));
        if let Some(form) = self.form {
            write(record, format_args!(",\"form\":\"{}\"", form.name()));
        }
        if let Some(correlation) = self.correlation {
            push_name(record, correlation.field.name());
            // Blanks between the tokens of an id may be line ends, when NUL ends the records of the input.
            record.extend(correlation.value.bytes().map(in_one_line));
        }
    }
}

fn in_one_line(byte: u8) -> u8 {
    if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }
}

fn write(record: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    record.write_fmt(arguments).expect("writing into memory cannot fail");
}

impl Head {
    /// Reads the first members of a line record; `None` when it is none.
    pub fn parse(payload: &str) -> Option<Self> {
        let (line, rest) = number(payload.strip_prefix("{\"line\":")?)?;
        let (hash, rest) = rest.strip_prefix(",\"key\":\"")?.split_at_checked(64)?;
        let (nth, rest) = number(rest.strip_prefix("\",\"nth\":")?)?;
        let rest = rest.strip_prefix(",\"outcome\":\"")?;
        let (outcome, _) = rest.split_at_checked(memchr::memchr(b'"', rest.as_bytes())?)?;
        let kind = match outcome {
            ANSWER => Kind::Answer,
            PLACED => Kind::Placed,
            code => Kind::Failed(ErrorCode::from_name(code)?),
        };
        Some(Self { line, key: Key { hash: parse_hex(hash)?, nth: nth.try_into().ok()? }, kind })
    }
}

/// A decimal number and what follows it.
fn number(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, rest))
}

/// A whole line record.
#[derive(Debug)]
pub struct Settled {
    /// Its first members.
    pub head: Head,
    /// The shape the line had.
    pub form: Option<Form>,
    /// The line's own id.
    pub correlation: Option<Correlation>,
    /// The model that was asked.
    pub model: Option<String>,
    /// Oddities of the answer.
    pub flags: Flags,
    /// How it ended; `None` for a record that points to an earlier one.
    pub outcome: Option<Outcome>,
}

impl Settled {
    /// Whether the record tells of a line of this shape and id.
    pub fn is_about(&self, form: Option<Form>, correlation: Option<&Correlation>) -> bool {
        let same_id = match (&self.correlation, correlation) {
            (Some(own), Some(other)) => {
                own.field == other.field && own.value.bytes().eq(other.value.bytes().map(in_one_line))
            }
            (own, other) => own.is_none() && other.is_none(),
        };
        self.form == form && same_id
    }

    /// Reads a line record. The error says what is wrong with it.
    pub fn parse(payload: &str) -> Result<Self, String> {
        let head = Head::parse(payload).ok_or("it is no record of a line")?;
        let (fields, answer) = split_answer(payload)?;
        let correlation = [IdField::CustomId, IdField::Id]
            .into_iter()
            .find_map(|field| Some(Correlation { field, value: fields.get(field.name())?.into() }));
        let text = |name| fields.get(name).and_then(decode_string);
        let outcome = match head.kind {
            Kind::Placed => None,
            Kind::Answer => {
                let body = answer.ok_or("it has no answer")?;
                Some(Ok(Answer::parse(Bytes::copy_from_slice(body.as_bytes()))?))
            }
            Kind::Failed(code) => Some(Err(Failure {
                code,
                message: text("message").map(Cow::into_owned).unwrap_or_default(),
                status: fields.get("status").and_then(|status| status.parse().ok()),
            })),
        };
        let number = |name| fields.get(name).unwrap_or("0");
        let outcome = outcome.map(|result| Outcome {
            result,
            attempts: number("attempts").parse().unwrap_or(0),
            seconds: number("seconds").parse().unwrap_or(0.0),
        });
        Ok(Self {
            head,
            form: text("form").and_then(|name| Form::from_name(&name)),
            correlation,
            model: text("model").map(Cow::into_owned),
            flags: fields.get("flags").map_or_else(Flags::default, Flags::from_names),
            outcome,
        })
    }
}

/// The members before the answer, and the answer, which is the last one: it is long, and is walked only once, by who
/// reads it.
fn split_answer(payload: &str) -> Result<(Fields<'_>, Option<&str>), String> {
    let (mut fields, mut answer_at) = (Fields::default(), None);
    let mut cursor = Cursor::new(payload);
    let walked = cursor.object(|cursor, name| {
        if name == "\"answer\"" {
            answer_at = Some(cursor.position());
            return Err(Malformed { at: cursor.position(), expected: "nothing that is looked at here" });
        }
        fields.0.push((decode_name(name), cursor.value()?));
        Ok(())
    });
    match (answer_at, walked) {
        (Some(at), _) => {
            let body = payload[at..].strip_suffix('}').ok_or("it does not end as a record does")?;
            Ok((fields, Some(body)))
        }
        (None, Ok(())) => Ok((fields, None)),
        (None, Err(malformed)) => Err(format!("expected {} at byte {}", malformed.expected, malformed.at)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::key::of_request;
    use super::*;

    const BODY: &str =
        r#"{"model":"m","choices":[{"index":0,"message":{"content":"yes \u00e9"},"finish_reason":"stop"}]}"#;

    fn key() -> Key {
        Key { hash: of_request(b"{}"), nth: 3 }
    }

    #[test]
    fn an_answer_comes_back_as_it_was_put_in() {
        let correlation = Correlation { field: IdField::Id, value: "{\"a\":\n1}".into() };
        let line = Line { line: 17, key: key(), form: Some(Form::Prompt), correlation: Some(&correlation) };
        let answer = Answer::parse(Bytes::from_static(BODY.as_bytes())).unwrap();
        let outcome = Outcome { result: Ok(answer), attempts: 2, seconds: 2.41049 };
        let mut record = Vec::new();
        let flags = Flags { truncated: true, empty: false, other_model: true, whitespace: false };
        line.push_outcome(&mut record, Some("m \"1\""), flags, &outcome);
        let text = String::from_utf8(record).unwrap();
        let golden = format!(
            "{{\"line\":17,\"key\":\"{}\",\"nth\":3,\"outcome\":\"answer\",\"form\":\"prompt\",\"id\":{{\"a\": 1}},\
             \"model\":\"m \\\"1\\\"\",\"flags\":[\"truncated\",\"other_model\"],\"attempts\":2,\"seconds\":2.410,\"answer\":{BODY}}}",
            super::super::key::hex(&key().hash)
        );
        assert_eq!(text, golden);
        let settled = Settled::parse(&text).unwrap();
        assert_eq!(settled.head, Head { line: 17, key: key(), kind: Kind::Answer });
        assert_eq!(
            (settled.form, settled.model.as_deref(), settled.flags),
            (Some(Form::Prompt), Some("m \"1\""), flags)
        );
        let id = settled.correlation.unwrap();
        assert_eq!((id.field, &*id.value), (IdField::Id, "{\"a\": 1}"));
        let outcome = settled.outcome.unwrap();
        assert_eq!((outcome.attempts, outcome.seconds), (2, 2.41));
        assert_eq!(outcome.result.unwrap().body(), BODY.as_bytes());
    }

    #[test]
    fn a_failure_and_a_place_come_back() {
        let line = Line { line: 1, key: key(), form: None, correlation: None };
        let failure = Failure::new(ErrorCode::Timeout, "no \"answer\"\n").with_status(504);
        let outcome = Outcome { result: Err(failure.clone()), attempts: 5, seconds: 0.0 };
        let (mut failed, mut placed) = (Vec::new(), Vec::new());
        line.push_outcome(&mut failed, None, Flags::default(), &outcome);
        line.push_placed(&mut placed);
        let failed = Settled::parse(std::str::from_utf8(&failed).unwrap()).unwrap();
        assert_eq!(failed.head.kind, Kind::Failed(ErrorCode::Timeout));
        assert_eq!(failed.outcome.unwrap().result.unwrap_err(), failure);
        let placed = Settled::parse(std::str::from_utf8(&placed).unwrap()).unwrap();
        assert_eq!(placed.head.kind, Kind::Placed);
        assert!(placed.outcome.is_none());
    }
}
