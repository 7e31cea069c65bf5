//! Walks over JSON without decoding it: finds where values begin and end, in one pass, and checks the grammar on the way
//! (RFC 8259). Knows no field by name.
//!
//! Why not serde_json's `RawValue`: strings are most of every line, and here they are passed at the speed of memchr,
//! which is a fifth of all the work on a line. Invariants: what passes is exactly what serde_json takes as JSON (a
//! property test holds the two against each other); no recursion, so depth is no obstacle; bytes are never changed.

/// Where, and why, a text is no JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Byte offset.
    pub at: usize,
    /// What was expected there.
    pub expected: &'static str,
}

type Walked<T> = Result<T, Malformed>;

/// Strings up to here are looked through eight bytes at a time.
const SHORT_BYTES: usize = 32;

/// Where the first quote, backslash or control character stands in the first [`SHORT_BYTES`]; in a shorter text, its
/// length when there is none. (Mycroft's test for a byte of a value, on eight bytes at once.)
fn special_within(text: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    let Some(short) = text.get(..SHORT_BYTES) else {
        let special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
        return Some(text.iter().position(special).unwrap_or(text.len()));
    };
    for (index, eight) in short.as_chunks::<8>().0.iter().enumerate() {
        let bytes = u64::from_le_bytes(*eight);
        let quote = bytes ^ (ONES * b'"' as u64);
        let backslash = bytes ^ (ONES * b'\\' as u64);
        let control = bytes.wrapping_sub(ONES * 0x20) & !bytes;
        let found = control | (quote.wrapping_sub(ONES) & !quote) | (backslash.wrapping_sub(ONES) & !backslash);
        let found = found & (ONES << 7);
        if found != 0 {
            return Some(index * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    None
}

/// A place in a text.
#[derive(Debug)]
pub struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The start of `text`.
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The byte offset in the text.
    pub fn position(&self) -> usize {
        self.at
    }

    /// The text from an earlier position to this one.
    pub fn since(&self, start: usize) -> &'a str {
        &self.text[start..self.at]
    }

    /// Passes `null`; whether it stood here.
    pub fn null(&mut self) -> bool {
        self.peek() == Some(b'n') && self.pass("null")
    }

    /// Passes `text` if it stands here to the byte; whether it did.
    pub fn pass(&mut self, text: &str) -> bool {
        let stands = self.text.as_bytes()[self.at..].starts_with(text.as_bytes());
        self.at += if stands { text.len() } else { 0 };
        stands
    }

    /// The next byte that is not blank.
    pub fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    /// Whether nothing but blanks is left.
    pub fn end(&mut self) -> Walked<()> {
        if self.peek().is_none() { Ok(()) } else { self.expected("the end") }
    }

    /// Refuses what stands here.
    pub fn expected<T>(&self, expected: &'static str) -> Walked<T> {
        Err(Malformed { at: self.at, expected })
    }

    fn eat(&mut self, byte: u8, expected: &'static str) -> Walked<()> {
        if self.peek() != Some(byte) {
            return self.expected(expected);
        }
        self.at += 1;
        Ok(())
    }

    /// Walks an object, and hands each member's name (as it stands, with its quotes) to `member`, which walks its value.
    pub fn object(&mut self, mut member: impl FnMut(&mut Self, &'a str) -> Walked<()>) -> Walked<()> {
        self.eat(b'{', "{")?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let name = self.name()?;
            member(self, name)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                _ => return self.eat(b'}', ", or }"),
            }
        }
    }

    /// Walks an array, and lets `element` walk each element.
    pub fn array(&mut self, mut element: impl FnMut(&mut Self) -> Walked<()>) -> Walked<()> {
        self.eat(b'[', "[")?;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            element(self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                _ => return self.eat(b']', ", or ]"),
            }
        }
    }

    fn name(&mut self) -> Walked<&'a str> {
        if self.peek() != Some(b'"') {
            return self.expected("a member's name");
        }
        let name = self.string()?;
        self.eat(b':', ":")?;
        Ok(name)
    }

    /// Passes one value of any kind, and returns it as it stands.
    pub fn value(&mut self) -> Walked<&'a str> {
        // What closes each array and object that is open.
        let mut open: Vec<u8> = Vec::new();
        let first = self.peek();
        let start = self.at;
        if first == Some(b'"') {
            return self.string();
        }
        loop {
            if self.begin(&mut open)? {
                continue;
            }
            loop {
                let Some(closer) = open.last().copied() else { return Ok(&self.text[start..self.at]) };
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        if closer == b'}' {
                            self.name()?;
                        }
                        break;
                    }
                    Some(byte) if byte == closer => {
                        self.at += 1;
                        open.pop();
                    }
                    _ => return self.expected(if closer == b'}' { ", or }" } else { ", or ]" }),
                }
            }
        }
    }

    /// Passes a scalar or an empty container, or opens a container; whether a further value is due at once.
    fn begin(&mut self, open: &mut Vec<u8>) -> Walked<bool> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| false),
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| false),
            Some(b'{') => {
                self.at += 1;
                if self.peek() == Some(b'}') {
                    self.at += 1;
                    return Ok(false);
                }
                open.push(b'}');
                self.name()?;
                Ok(true)
            }
            Some(b'[') => {
                self.at += 1;
                if self.peek() == Some(b']') {
                    self.at += 1;
                    return Ok(false);
                }
                open.push(b']');
                Ok(true)
            }
            _ => self.word().map(|()| false),
        }
    }

    fn word(&mut self) -> Walked<()> {
        self.at += match &self.text.as_bytes()[self.at..] {
            [b't', b'r', b'u', b'e', ..] | [b'n', b'u', b'l', b'l', ..] => 4,
            [b'f', b'a', b'l', b's', b'e', ..] => 5,
            _ => return self.expected("a value"),
        };
        Ok(())
    }

    /// Passes a string, and returns it with its quotes.
    pub fn string(&mut self) -> Walked<&'a str> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        self.eat(b'"', "a string")?;
        loop {
            let rest = &bytes[self.at..];
            // Names and most values are short: for them eight bytes at a time is faster than the start of a search.
            let length = match special_within(rest) {
                Some(length) => length,
                None => SHORT_BYTES + self.plain_length(&rest[SHORT_BYTES..])?,
            };
            self.at += length;
            match rest.get(length) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(&self.text[start..self.at]);
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escape()?;
                }
                _ => return self.expected("no control character in a string"),
            }
        }
    }

    /// Bytes before the next quote or backslash, none of them a control character.
    fn plain_length(&self, rest: &[u8]) -> Walked<usize> {
        let Some(length) = memchr::memchr2(b'"', b'\\', rest) else { return self.expected("the end of the string") };
        // Not `any`: without an early end the compiler makes one comparison of many bytes.
        if rest[..length].iter().fold(false, |found, byte| found | (*byte < 0x20)) {
            return self.expected("no control character in a string");
        }
        Ok(length)
    }

    fn escape(&mut self) -> Walked<()> {
        let rest = &self.text.as_bytes()[self.at..];
        let length = match rest.first() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 1,
            Some(b'u') if rest.len() >= 5 && rest[1..5].iter().all(u8::is_ascii_hexdigit) => 5,
            _ => return self.expected("an escape"),
        };
        self.at += length;
        Ok(())
    }

    fn number(&mut self) -> Walked<()> {
        let bytes = self.text.as_bytes();
        if bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        match bytes.get(self.at) {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Walked<()> {
        let rest = &self.text.as_bytes()[self.at..];
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 {
            return self.expected("a digit");
        }
        self.at += count;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    fn walked(text: &str) -> Option<&str> {
        let mut cursor = Cursor::new(text);
        let value = cursor.value().ok()?;
        cursor.end().ok().map(|()| value)
    }

    fn by_serde(text: &str) -> Option<&str> {
        serde_json::from_str::<&RawValue>(text).ok().map(RawValue::get)
    }

    #[test]
    fn it_agrees_with_serde_json_where_texts_go_wrong() {
        let cases = [
            "",
            " ",
            "{",
            "}",
            "[",
            "]",
            "[]",
            "{}",
            "[1,]",
            "[,1]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "01",
            "-",
            "-0",
            "1.",
            ".5",
            "1e",
            "1e+",
            "1E-7",
            "+1",
            "tru",
            "true",
            "truex",
            "null null",
            "\"\\u12\"",
            "\"\\u12g4\"",
            "\"\\x\"",
            "\"\\",
            "\"a",
            "\"\u{1}\"",
            "\"\\ud83d\"",
            "[[[[]]]]",
            "{\"a\":[{\"b\":[]},{}]}",
            "[}",
            "{]",
            "[1}",
            "{\"a\":1]",
            "\u{feff}1",
            "\"é\"",
            "[1 2]",
            "{\"a\":1 \"b\":2}",
            "{\"a\" 1}",
            "{1:2}",
            "nul",
            "\u{a0}1",
            "1 ",
            "\t[ 1 , \"x\" ]\r\n",
        ];
        for text in cases {
            assert_eq!(walked(text), by_serde(text), "{text:?}");
        }
    }

    #[test]
    fn depth_is_no_obstacle() {
        let text = format!("{}{}", "[{\"a\":".repeat(300_000) + "1", "}]".repeat(300_000));
        assert_eq!(walked(&text).map(str::len), Some(text.len()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn it_agrees_with_serde_json(text in "[\\[\\]{}:,\"\\\\truefalsn0-9.eE+ \\n\u{1}\u{e9}x-]{0,24}") {
            prop_assert_eq!(walked(&text), by_serde(&text));
        }

        #[test]
        fn it_agrees_on_json_with_one_byte_changed(
            values in prop::collection::vec(prop_oneof!["\"[a-z\\\\\\\\n]{0,9}\"", "-?[0-9]{1,3}(\\.[0-9]{1,2})?(e[0-9])?", "\\[\\]", "\\{\"k\":\\[1,\\{\\}\\]\\}", "true|false|null"], 0..6),
            at in any::<prop::sample::Index>(), with in prop::sample::select(b"\"\\{}[],:0x \x01".to_vec()),
        ) {
            let mut text = format!("{{\"a\":[{}],\"b\": 1}}", values.join(",")).into_bytes();
            let at = at.index(text.len());
            text[at] = with;
            let text = String::from_utf8_lossy(&text).into_owned();
            prop_assert_eq!(walked(&text), by_serde(&text));
        }
    }
}
