//! What the names in a spool mean. Pure: knows nothing of what lies under them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

/// The longest name that file systems take, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// Endings of what is never an input: unfinished files, and what stands beside a prompt file.
const NEVER: &[&str] = &[
    "~",
    ".tmp",
    ".part",
    ".partial",
    ".filepart",
    ".crdownload",
    ".swp",
    ".out.jsonl",
    ".out.md",
    ".status.json",
    ".reject.json",
    ".journal",
    ".input",
    ".lock",
];

/// What a prompt file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request a line.
    Lines,
    /// One request.
    One,
    /// One prompt.
    Text,
}

/// What a name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// A prompt file.
    Input(Kind),
    /// The wish to give a prompt file up.
    Cancel,
    /// The wish to ask again for its failed lines.
    Retry,
    /// Nothing of ours.
    Ignored,
}

/// A name that leaves no room for the names beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name is too long: the names beside it would have more than 255 bytes")]
pub struct NameTooLong;

/// What a name means.
pub fn classify(name: &OsStr) -> Name {
    let bytes = name.as_bytes();
    let is_input = |bytes: &[u8]| matches!(classify(OsStr::from_bytes(bytes)), Name::Input(_));
    if bytes.starts_with(b".") || NEVER.iter().any(|ending| bytes.ends_with(ending.as_bytes())) {
        return Name::Ignored;
    }
    let kinds = [(".jsonl", Kind::Lines), (".json", Kind::One), (".txt", Kind::Text), (".md", Kind::Text)];
    if let Some((_, kind)) = kinds.iter().find(|(ending, _)| bytes.ends_with(ending.as_bytes())) {
        return Name::Input(*kind);
    }
    match (bytes.strip_suffix(b".cancel"), bytes.strip_suffix(b".retry")) {
        (Some(controlled), _) if is_input(controlled) => Name::Cancel,
        (_, Some(controlled)) if is_input(controlled) => Name::Retry,
        _ => Name::Ignored,
    }
}

/// The name of a prompt file's result; `suffix` is the recipe's own.
pub fn result_name(name: &OsStr, kind: Kind, suffix: Option<&str>) -> Result<OsString, NameTooLong> {
    let bytes = name.as_bytes();
    let stem = bytes.strip_suffix(b".jsonl").filter(|_| kind == Kind::Lines).unwrap_or(bytes);
    let usual = if kind == Kind::Text { ".out.md" } else { ".out.jsonl" };
    beside(OsStr::from_bytes(stem), suffix.unwrap_or(usual))
}

/// The name of a prompt file's status.
pub fn status_name(name: &OsStr) -> Result<OsString, NameTooLong> {
    beside(name, ".status.json")
}

/// The name under which is told why a file was not taken.
pub fn reject_name(name: &OsStr) -> Result<OsString, NameTooLong> {
    beside(name, ".reject.json")
}

fn beside(name: &OsStr, ending: &str) -> Result<OsString, NameTooLong> {
    let mut whole = name.to_owned();
    whole.push(ending);
    if whole.len() > NAME_BYTES_MAX { Err(NameTooLong) } else { Ok(whole) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_what_is_documented() {
        for (name, meaning) in [
            ("p.jsonl", Name::Input(Kind::Lines)),
            ("p.json", Name::Input(Kind::One)),
            ("p.txt", Name::Input(Kind::Text)),
            ("p.md", Name::Input(Kind::Text)),
            ("p.jsonl.cancel", Name::Cancel),
            ("p.md.retry", Name::Retry),
            ("p.out.jsonl", Name::Ignored),
            ("p.txt.out.md", Name::Ignored),
            ("p.jsonl.status.json", Name::Ignored),
            ("p.jsonl.tmp", Name::Ignored),
            (".p.jsonl", Name::Ignored),
            ("p.exe.cancel", Name::Ignored),
        ] {
            assert_eq!(classify(OsStr::new(name)), meaning, "{name}");
        }
        let result = |name: &str, kind| result_name(OsStr::new(name), kind, None).unwrap();
        assert_eq!(result("p.jsonl", Kind::Lines), "p.out.jsonl");
        assert_eq!(result("p.json", Kind::One), "p.json.out.jsonl");
        assert_eq!(result("p.txt", Kind::Text), "p.txt.out.md");
        assert!(result_name(OsStr::new(&"n".repeat(250)), Kind::One, None).is_err());
    }
}
