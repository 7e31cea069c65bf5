//! One chunk of a stream as it lies on the wire: finds its parts in one walk. Knows nothing of the chunks before it.
//!
//! Invariant: values are the server's own bytes. A name that comes twice, and a value of another kind than its name
//! promises, make the whole text no chunk; an unknown name is passed over.

use crate::line::json::{Cursor, Malformed};

type Walked<T> = Result<T, Malformed>;

/// What a chunk says of the reply as a whole. `null` counts as absent, here and below.
#[derive(Debug, Default)]
pub struct Chunk<'a> {
    /// The stream's name.
    pub id: Option<&'a str>,
    /// When it began.
    pub created: Option<&'a str>,
    /// Who answers.
    pub model: Option<&'a str>,
    /// The server's counts.
    pub usage: Option<&'a str>,
    /// Why there is no answer.
    pub error: Option<&'a str>,
}

/// What a chunk adds to one choice.
#[derive(Debug, Default)]
pub struct ChoiceDelta<'a> {
    index: Option<u64>,
    /// The delta as a whole, with its braces.
    pub json: Option<&'a str>,
    /// Further text.
    pub content: Option<&'a str>,
    reasoning_content: Option<&'a str>,
    reasoning: Option<&'a str>,
    /// Further text of a refusal.
    pub refusal: Option<&'a str>,
    /// Parts of tool calls.
    pub tool_calls: Vec<ToolDelta<'a>>,
    /// Why the model stopped.
    pub finish_reason: Option<&'a str>,
    /// The `content` of the object of this name.
    pub logprobs: Option<&'a str>,
}

/// What a chunk adds to one tool call.
#[derive(Debug, Default)]
pub struct ToolDelta<'a> {
    index: Option<u64>,
    /// The call's name.
    pub id: Option<&'a str>,
    /// `function`, so far.
    pub kind: Option<&'a str>,
    /// The function's name.
    pub name: Option<&'a str>,
    /// Further text of its arguments.
    pub arguments: Option<&'a str>,
}

impl<'a> Chunk<'a> {
    /// Reads one chunk, and hands each of its choices to `take` on the way.
    pub fn read(text: &'a str, mut take: impl FnMut(ChoiceDelta<'a>)) -> Walked<Self> {
        let (mut chunk, mut has_choices) = (Self::default(), false);
        let mut cursor = Cursor::new(text);
        cursor.object(|cursor, name| {
            let place = match name {
                "\"choices\"" => {
                    once(&mut has_choices, cursor)?;
                    return each(cursor, |cursor| ChoiceDelta::read(cursor).map(&mut take));
                }
                "\"id\"" => &mut chunk.id,
                "\"created\"" => &mut chunk.created,
                "\"model\"" => &mut chunk.model,
                "\"usage\"" => &mut chunk.usage,
                "\"error\"" => &mut chunk.error,
                _ => return cursor.value().map(|_| ()),
            };
            put(place, cursor)
        })?;
        cursor.end().map(|()| chunk)
    }
}

impl<'a> ChoiceDelta<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Walked<Self> {
        let (mut choice, mut has_delta) = (Self::default(), false);
        cursor.object(|cursor, name| match name {
            "\"index\"" => put_index(&mut choice.index, cursor),
            "\"delta\"" => {
                once(&mut has_delta, cursor)?;
                choice.read_delta(cursor)
            }
            "\"finish_reason\"" => put(&mut choice.finish_reason, cursor),
            "\"logprobs\"" => put(&mut choice.logprobs, cursor),
            _ => cursor.value().map(|_| ()),
        })?;
        choice.logprobs = choice.logprobs.and_then(content_of);
        Ok(choice)
    }

    fn read_delta(&mut self, cursor: &mut Cursor<'a>) -> Walked<()> {
        if cursor.null() {
            return Ok(());
        }
        let (start, mut has_calls) = (cursor.position(), false);
        cursor.object(|cursor, name| match name {
            "\"content\"" => put(&mut self.content, cursor),
            "\"reasoning_content\"" => put(&mut self.reasoning_content, cursor),
            "\"reasoning\"" => put(&mut self.reasoning, cursor),
            "\"refusal\"" => put(&mut self.refusal, cursor),
            "\"tool_calls\"" => {
                once(&mut has_calls, cursor)?;
                each(cursor, |cursor| ToolDelta::read(cursor).map(|call| self.tool_calls.push(call)))
            }
            _ => cursor.value().map(|_| ()),
        })?;
        self.json = Some(cursor.since(start));
        Ok(())
    }

    /// The choice's number; the first when it has none.
    pub fn index(&self) -> u64 {
        self.index.unwrap_or(0)
    }

    /// The further text, when the chunk adds nothing else.
    pub fn only_content(&self) -> Option<&'a str> {
        let others = [self.thoughts(), self.refusal, self.logprobs];
        self.content.filter(|_| others == [None; 3] && self.tool_calls.is_empty())
    }

    /// Further thoughts, under whichever name.
    pub fn thoughts(&self) -> Option<&'a str> {
        self.reasoning_content.or(self.reasoning)
    }
}

impl<'a> ToolDelta<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Walked<Self> {
        let (mut call, mut has_function) = (Self::default(), false);
        cursor.object(|cursor, name| match name {
            "\"index\"" => put_index(&mut call.index, cursor),
            "\"id\"" => put(&mut call.id, cursor),
            "\"type\"" => put(&mut call.kind, cursor),
            "\"function\"" => {
                once(&mut has_function, cursor)?;
                call.read_function(cursor)
            }
            _ => cursor.value().map(|_| ()),
        })?;
        Ok(call)
    }

    fn read_function(&mut self, cursor: &mut Cursor<'a>) -> Walked<()> {
        if cursor.null() {
            return Ok(());
        }
        cursor.object(|cursor, name| match name {
            "\"name\"" => put(&mut self.name, cursor),
            "\"arguments\"" => put(&mut self.arguments, cursor),
            _ => cursor.value().map(|_| ()),
        })
    }

    /// The call's number; the first when it has none.
    pub fn index(&self) -> u64 {
        self.index.unwrap_or(0)
    }
}

/// Puts a value in its place, which must be free.
fn put<'a>(place: &mut Option<&'a str>, cursor: &mut Cursor<'a>) -> Walked<()> {
    once(&mut place.is_some(), cursor)?;
    *place = if cursor.null() { None } else { Some(cursor.value()?) };
    Ok(())
}

fn put_index(place: &mut Option<u64>, cursor: &mut Cursor<'_>) -> Walked<()> {
    once(&mut place.is_some(), cursor)?;
    let text = cursor.value()?;
    *place = Some(text.parse().or_else(|_| cursor.expected("a number from 0"))?);
    Ok(())
}

fn once(seen: &mut bool, cursor: &Cursor<'_>) -> Walked<()> {
    if std::mem::replace(seen, true) { cursor.expected("each name once") } else { Ok(()) }
}

/// Walks an array, or `null` in place of one.
fn each<'a>(cursor: &mut Cursor<'a>, element: impl FnMut(&mut Cursor<'a>) -> Walked<()>) -> Walked<()> {
    if cursor.null() { Ok(()) } else { cursor.array(element) }
}

/// The `content` of an object; of anything else, nothing. What stands here was walked before.
fn content_of(json: &str) -> Option<&str> {
    let mut content = None;
    Cursor::new(json)
        .object(|cursor, name| match name {
            "\"content\"" => put(&mut content, cursor),
            _ => cursor.value().map(|_| ()),
        })
        .ok()?;
    content
}

/// The deltas of one chunk as `(choice index, raw JSON)`, for those who want to see them arrive.
pub fn deltas(data: &[u8]) -> Vec<(u64, Box<str>)> {
    let mut found = Vec::new();
    let Ok(text) = simdutf8::basic::from_utf8(data) else { return found };
    let walked = Chunk::read(text, |choice| {
        found.extend(choice.json.filter(|json| *json != "{}").map(|json| (choice.index(), json.into())));
    });
    walked.map_or_else(|_| Vec::new(), |_| found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Walked<(Chunk<'_>, Vec<ChoiceDelta<'_>>)> {
        let mut choices = Vec::new();
        let chunk = Chunk::read(text, |choice| choices.push(choice))?;
        Ok((chunk, choices))
    }

    #[test]
    fn parts_are_the_servers_own_bytes() {
        let text = r#"{"id": "a-1","created":17, "model":"m","choices":[{"delta":{ "content":"\ud83d é","reasoning":"r","tool_calls":[{"index":1,"id":"c","type":"function","function":{"name":"f","arguments":"{\""}}]},"index":2,"finish_reason":null,"logprobs":{"content":[ {} ]}}],"usage":{ "n":1e0 },"x":[{}]}"#;
        let (chunk, choices) = read(text).expect("it is a chunk");
        let Chunk { id, created, model, usage, error } = chunk;
        assert_eq!(
            [id, created, model, usage, error],
            [Some("\"a-1\""), Some("17"), Some("\"m\""), Some("{ \"n\":1e0 }"), None]
        );
        let [choice] = &choices[..] else { panic!("{choices:?}") };
        assert_eq!((choice.index(), choice.content, choice.thoughts()), (2, Some("\"\\ud83d é\""), Some("\"r\"")));
        assert_eq!((choice.finish_reason, choice.logprobs), (None, Some("[ {} ]")));
        let [call] = &choice.tool_calls[..] else { panic!("{choice:?}") };
        assert_eq!((call.index(), call.id, call.kind), (1, Some("\"c\""), Some("\"function\"")));
        assert_eq!((call.name, call.arguments), (Some("\"f\""), Some("\"{\\\"\"")));
    }

    #[test]
    fn null_counts_as_absent_and_unknown_names_are_passed_over() {
        for text in [
            r"{}",
            r#"{"id":null,"choices":null,"usage":null,"error":null}"#,
            "\n{ \"choices\" : [ ] , \"y\" : nope }".replace("nope", "true").as_str(),
        ] {
            let (chunk, choices) = read(text).expect("it is a chunk");
            assert!(chunk.id.is_none() && chunk.error.is_none() && choices.is_empty(), "{text}");
        }
        let text = r#"{"choices":[{},{"delta":null,"logprobs":7},{"delta":{"content":null,"tool_calls":[{"function":null}]}}]}"#;
        let (_, choices) = read(text).expect("it is a chunk");
        assert!(choices.iter().all(|choice| choice.content.is_none() && choice.logprobs.is_none()));
        assert_eq!(choices.iter().map(|choice| choice.tool_calls.len()).collect::<Vec<_>>(), [0, 0, 1]);
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for text in [
            "",
            "null",
            "[]",
            "{} {}",
            r#"{"id":nul}"#,
            r#"{"id":nullx}"#,
            r#"{"id":1,"id":2}"#,
            r#"{"choices":[],"choices":[]}"#,
            r#"{"choices":{}}"#,
            r#"{"choices":[null]}"#,
            r#"{"choices":[{"index":null}]}"#,
            r#"{"choices":[{"index":-1}]}"#,
            r#"{"choices":[{"index":1.0}]}"#,
            r#"{"choices":[{"index":0,"index":0}]}"#,
            r#"{"choices":[{"delta":[]}]}"#,
            r#"{"choices":[{"delta":{},"delta":{}}]}"#,
            r#"{"choices":[{"delta":{"content":"a","content":"b"}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":{}}}]}"#,
            r#"{"choices":[{"delta":{"content":"cut"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn deltas_are_seen_unless_they_are_empty() {
        let data = br#"{"choices":[{"index":1,"delta":{"content": "a"}},{"delta":{}}]}"#;
        assert_eq!(deltas(data), [(1, r#"{"content": "a"}"#.into())]);
        assert!(deltas(b"[DONE]").is_empty() && deltas(b"{\"choices\":[{\"delta\":{\"content\":\"a\"}}]").is_empty());
    }
}
