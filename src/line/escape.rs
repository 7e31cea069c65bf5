//! Makes text from outside harmless on a terminal and in a log. Knows nothing of JSON.
//!
//! Escaped are C0 (newline and tab included), DEL, C1, and the bidirectional controls that can reorder what is read.

use std::fmt::Write as _;
use std::path::Path;

/// `text` with every control or bidirectional character as `\u{…}`, cut after `chars_max` characters with an ellipsis.
pub fn for_people(text: &str, chars_max: usize) -> String {
    let mut safe = String::with_capacity(text.len().min(chars_max * 4));
    for (count, character) in text.chars().enumerate() {
        if count == chars_max {
            safe.push('…');
            break;
        }
        if is_harmful(character) {
            write!(safe, "\\u{{{:x}}}", u32::from(character)).expect("writing into a string cannot fail");
        } else {
            safe.push(character);
        }
    }
    safe
}

/// A message of several lines, each of them made harmless: its own newlines stay.
pub fn message(text: &str) -> String {
    const LINE_CHARS_MAX: usize = 8000;
    text.lines().map(|line| for_people(line, LINE_CHARS_MAX)).collect::<Vec<_>>().join("\n")
}

/// JSON text with the same characters in the form that JSON has for them: it stays the same value.
pub fn json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if is_harmful(character) {
            write!(safe, "\\u{:04x}", u32::from(character)).expect("writing into a string cannot fail");
        } else {
            safe.push(character);
        }
    }
    safe
}

/// A path as it may be shown: escaped like other text from outside, and cut where it is absurdly long.
pub fn shown(path: &Path) -> String {
    const PATH_CHARS_MAX: usize = 300;
    for_people(&path.to_string_lossy(), PATH_CHARS_MAX)
}

fn is_harmful(character: char) -> bool {
    matches!(character,
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{61c}' | '\u{200e}' | '\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::{for_people, json};

    #[test]
    fn json_stays_the_same_value() {
        let value = serde_json::json!({ "a\u{9b}\u{202e}\n": ["é\u{7f}", "\\u{7f}"] });
        let text = json(&value.to_string());
        assert!(!text.contains(['\u{9b}', '\u{202e}', '\u{7f}']) && text.contains('é'), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).ok(), Some(value));
    }

    #[test]
    fn controls_and_bidi_become_visible() {
        assert_eq!(
            for_people("a\u{1b}[31m\nb\u{9b}\u{7f}\u{202e}é", 99),
            "a\\u{1b}[31m\\u{a}b\\u{9b}\\u{7f}\\u{202e}é"
        );
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        assert_eq!(for_people("ééééé", 3), "ééé…");
    }
}
