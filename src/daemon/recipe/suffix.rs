//! Which endings a recipe may give to results. Pure.
//!
//! Invariant: with an ending that passes, no prompt file's result has the prompt file's own name, a name that means
//! something to the daemon, or one that scanners and editors take for unfinished.

use serde::Deserialize as _;
use serde::de::{Deserializer, Error as _};

/// The longest ending, in bytes: results need names that fit, whatever the prompt file is called.
const SUFFIX_BYTES_MAX: usize = 64;
/// Endings that, alone, would give a result the name of a prompt file or of the recipe.
const TAKEN: &[&str] = &[".jsonl", ".json", ".txt", ".md", ".toml"];
/// How no result may end: the names of companions, of controls, and of files that are not finished.
const RESERVED: &[&str] = &[
    ".status.json",
    ".reject.json",
    ".cancel",
    ".retry",
    ".journal",
    ".input",
    ".lock",
    ".tmp",
    ".part",
    ".partial",
    ".filepart",
    ".crdownload",
    ".swp",
];

/// An ending for results.
pub(super) fn suffix<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    let toml::Value::String(text) = toml::Value::deserialize(input)? else {
        return Err(D::Error::custom("must be text such as \".answers.jsonl\""));
    };
    check(&text).map_err(D::Error::custom)?;
    Ok(Some(text))
}

fn check(suffix: &str) -> Result<(), String> {
    let parts = suffix.strip_prefix('.').ok_or("must begin with a dot, as \".answers.jsonl\" does")?;
    let is_plain = |part: &str| {
        !part.is_empty() && part.chars().all(|letter| letter.is_alphanumeric() || matches!(letter, '-' | '_'))
    };
    if !parts.split('.').all(is_plain) {
        return Err("may hold letters, digits, - and _, with single dots between them".to_owned());
    }
    if suffix.len() > SUFFIX_BYTES_MAX {
        return Err(format!("must be at most {SUFFIX_BYTES_MAX} bytes long"));
    }
    if TAKEN.contains(&suffix) {
        return Err("would give results the names of prompt files or recipes; use two parts, as \".out.jsonl\"".into());
    }
    match RESERVED.iter().find(|reserved| suffix.ends_with(**reserved)) {
        Some(reserved) => Err(format!("must not end with {reserved}, which means something else here")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn useful_endings_pass_and_others_do_not() {
        for good in [".answers.jsonl", ".out.jsonl", ".out.md", ".antworten_ä.md", ".csv", ".a-b.txt"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "answers",
            ".a/b",
            "./x",
            ".a\nb",
            ".a\u{1b}[0m",
            ".a\u{202e}b",
            ".a b",
            ".a~",
            ".a.",
            ".a..b",
            ".jsonl",
            ".toml",
            ".md",
            ".x.status.json",
            ".reject.json",
            ".cancel",
            ".x.retry",
            ".x.tmp",
            &format!(".{}", "x".repeat(64)),
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn an_ending_that_passes_makes_a_plain_new_name(suffix in "(\\.?[a-z./~ \u{1b}é]{0,9}){0,3}") {
            if check(&suffix).is_ok() {
                for stem in ["p", "p.jsonl", "p.txt", "anvil"] {
                    let result = format!("{stem}{suffix}");
                    prop_assert!(!result.contains('/') && !result.ends_with('~') && !result.ends_with('.'));
                    prop_assert!(!["p.jsonl", "p.json", "p.txt", "p.md", "anvil.toml"].contains(&result.as_str()));
                }
            }
        }
    }
}
