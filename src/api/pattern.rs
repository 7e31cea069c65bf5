//! Recognises a chunk that says the same as the one before but for its text, as nearly every chunk of a stream does.
//!
//! Invariant: a chunk that fits is one that a walk over the whole of it would find to differ in nothing but its name,
//! its time and the text it adds: between equal bytes stands one JSON value at each of these places, and only there.

use std::ops::Range;

use crate::line::json::Cursor;

/// What the chunk before looked like.
#[derive(Debug, Default)]
pub struct Pattern {
    text: String,
    choice: usize,
    /// Where values stand that may change, in order; none while there is no pattern.
    gaps: Vec<Gap>,
}

#[derive(Debug)]
struct Gap {
    range: Range<usize>,
    is_content: bool,
}

impl Pattern {
    /// Takes `text` as the pattern of what comes. It is a chunk that added `content` to one choice, and nothing else;
    /// `content` and `others`, which no later chunk can change the reply by, are parts of it.
    pub fn learn(&mut self, text: &str, choice: usize, content: &str, others: [Option<&str>; 2]) {
        self.text.clear();
        self.text.push_str(text);
        self.choice = choice;
        let gap = |value: &str, is_content| {
            let start = value.as_ptr() as usize - text.as_ptr() as usize;
            Gap { range: start..start + value.len(), is_content }
        };
        self.gaps.clear();
        self.gaps.push(gap(content, true));
        self.gaps.extend(others.into_iter().flatten().map(|value| gap(value, false)));
        self.gaps.sort_unstable_by_key(|gap| gap.range.start);
    }

    /// There is no pattern any more.
    pub fn forget(&mut self) {
        self.gaps.clear();
    }

    /// The choice and the content of a chunk that fits: a JSON string.
    pub fn content_of<'t>(&self, text: &'t str) -> Option<(usize, &'t str)> {
        let (mut cursor, mut compared, mut content) = (Cursor::new(text), 0, None);
        for (index, Gap { range, is_content }) in self.gaps.iter().enumerate() {
            let next = self.gaps.get(index + 1).map_or(self.text.len(), |gap| gap.range.start);
            // A name and a time seldom change, and comparing them takes less than walking over them.
            if !is_content && cursor.pass(&self.text[compared..next]) {
                compared = next;
                continue;
            }
            cursor.pass(&self.text[compared..range.start]).then_some(())?;
            let value = cursor.value().ok()?;
            content = if *is_content { Some(value) } else { content };
            compared = range.end;
        }
        let content = content.filter(|content| content.starts_with('"'))?;
        (cursor.pass(&self.text[compared..]) && cursor.position() == text.len()).then_some((self.choice, content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(id: &str, content: &str, end: &str) -> String {
        format!(r#"{{"id": {id},"choices":[{{"index":0,"delta":{{"content": {content}}},"finish_reason":{end}}}]}}"#)
    }

    #[test]
    fn only_what_differs_in_the_gaps_fits() {
        let (text, mut pattern) = (chunk("\"a\"", "\"b\"", "null"), Pattern::default());
        assert_eq!(pattern.content_of(&text), None);
        let (id, content) = (text.find("\"a\"").expect("it is there"), text.find("\"b\"").expect("it is there"));
        pattern.learn(&text, 3, &text[content..content + 3], [Some(&text[id..id + 3]), None]);
        for (id, content) in [("\"a\"", "\"b\""), ("\"another\"", "\"\""), ("null", "\" \\\"}}]} \\u00e9 é\"")] {
            assert_eq!(pattern.content_of(&chunk(id, content, "null")), Some((3, content)));
        }
        for (id, content, end) in [
            ("\"a\"", "\"b\"", "\"stop\""),
            ("\"a\"", "null", "null"),
            ("\"a\"", "\"\u{1}\"", "null"),
            ("\"a\"", "\"\\x\"", "null"),
            ("\"a\"", "\"b\",\"refusal\":\"c\"", "null"),
            ("\"a\",\"usage\":{}", "\"b\"", "null"),
            ("", "\"b\"", "null"),
        ] {
            assert_eq!(pattern.content_of(&chunk(id, content, end)), None, "{id} {content} {end}");
        }
        assert_eq!(pattern.content_of(&(text.clone() + " ")), None);
        assert_eq!(pattern.content_of(&text[..text.len() - 1]), None);
        pattern.forget();
        assert_eq!(pattern.content_of(&text), None);
    }
}
