//! What a file's name says of it, and what the files beside a prompt file are called.
//!
//! Pure: looks at bytes of names and nowhere else. Names may be any bytes but `/` and NUL. Invariant: no name that is made
//! here, nor any name with a companion's ending, is ever an input; only a recipe's own suffix has to be asked for, with
//! [`has_suffix`].

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use sha2::{Digest as _, Sha256};

/// The longest name that Linux's file systems allow.
const NAME_BYTES_MAX: usize = 255;

const LINES: &[u8] = b".jsonl";
const ONE: &[u8] = b".json";
const TEXT: &[u8] = b".txt";
const MARKDOWN: &[u8] = b".md";
const RESULT_LINES: &[u8] = b".out.jsonl";
const RESULT_TEXT: &[u8] = b".out.md";
const STATUS: &[u8] = b".status.json";
const REJECT: &[u8] = b".reject.json";
const CANCEL: &[u8] = b".cancel";
const RETRY: &[u8] = b".retry";

/// Endings of companions that would be inputs otherwise. What editors and copying programs write first (`*~ *.tmp *.part
/// *.swp *.crdownload`) and our own other files (`*.journal *.input *.lock`) have no ending of an input to begin with.
const COMPANIONS: [&[u8]; 4] = [RESULT_LINES, RESULT_TEXT, STATUS, REJECT];

/// What an input holds, as its ending says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `*.jsonl`: requests, one a line.
    Lines,
    /// `*.json`: one request.
    One,
    /// `*.txt` or `*.md`: one prompt.
    Text,
}

/// What a name says of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// Prompts that somebody wants to be run.
    Input(Kind),
    /// `X.cancel`: the wish to give the input X up.
    Cancel,
    /// `X.retry`: the wish to ask for failed lines of the input X again.
    Retry,
    /// Nothing for the daemon.
    Ignored,
}

/// A name is too long for what has to lie beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "its name is {} bytes too long: the names of its result and its status would exceed 255 bytes, so give it a shorter \
     name",
    excess_bytes
)]
pub struct NameTooLong {
    /// By how much the name has to become shorter, in bytes.
    pub excess_bytes: usize,
}

/// What `name` says of its file. Endings are compared with their case.
pub fn classify(name: &OsStr) -> Name {
    if let Some(kind) = input_kind(name.as_bytes()) {
        return Name::Input(kind);
    }
    match controlled_by(name.as_bytes()) {
        Some((_, control)) => control,
        None => Name::Ignored,
    }
}

/// The input that a control is for: `p.jsonl` of `p.jsonl.cancel`; `None` when `name` is no control.
pub fn controlled(name: &OsStr) -> Option<&OsStr> {
    controlled_by(name.as_bytes()).map(|(input, _)| OsStr::from_bytes(input))
}

/// What the result of the input `name` is called, beside it: `p.jsonl` has `p.out.jsonl`, and others keep their full
/// name: `p.json.out.jsonl`, `p.txt.out.md`. A recipe's own `suffix` stands in place of `.out.jsonl` or `.out.md`.
///
/// Fails when that name, or that of the status file, would be too long. Drafts are never the reason: their names are cut.
pub fn result_name(name: &OsStr, kind: Kind, suffix: Option<&str>) -> Result<OsString, NameTooLong> {
    let own: &[u8] = match kind {
        Kind::Lines | Kind::One => RESULT_LINES,
        Kind::Text => RESULT_TEXT,
    };
    let full = name.as_bytes();
    let stem = match kind {
        Kind::Lines => full.strip_suffix(LINES).unwrap_or(full),
        Kind::One | Kind::Text => full,
    };
    let result = joined(stem, suffix.map_or(own, str::as_bytes));
    let longest = result.len().max(full.len() + STATUS.len().max(REJECT.len()));
    match longest.checked_sub(NAME_BYTES_MAX) {
        None | Some(0) => Ok(result),
        Some(excess_bytes) => Err(NameTooLong { excess_bytes }),
    }
}

/// Whether `name` is what a recipe's own `suffix` makes: a result then, and no input, whatever [`classify`] says.
pub fn has_suffix(name: &OsStr, suffix: &str) -> bool {
    !suffix.is_empty() && name.as_bytes().ends_with(suffix.as_bytes())
}

/// What the status file of the input `name` is called. It fits whenever [`result_name`] gave a name.
pub fn status_name(name: &OsStr) -> OsString {
    joined(name.as_bytes(), STATUS)
}

/// What the file is called that says why the input `name` was not taken. Always fits: the end of a name that is too long
/// gives way to a hash of the whole.
pub fn reject_name(name: &OsStr) -> OsString {
    const START_CHARS: usize = 40;
    if name.len() + REJECT.len() <= NAME_BYTES_MAX {
        return joined(name.as_bytes(), REJECT);
    }
    let start: String = name.to_string_lossy().chars().take(START_CHARS).collect();
    let hash = format!("{:x}", Sha256::digest(name.as_bytes()));
    joined(format!("{start}-{}", &hash[..16]).as_bytes(), REJECT)
}

/// What the control is called by which the input `name` is given up.
pub fn cancel_name(name: &OsStr) -> OsString {
    joined(name.as_bytes(), CANCEL)
}

/// What the control is called by which failed lines of the input `name` are asked again.
pub fn retry_name(name: &OsStr) -> OsString {
    joined(name.as_bytes(), RETRY)
}

fn input_kind(name: &[u8]) -> Option<Kind> {
    if name.starts_with(b".") || COMPANIONS.iter().any(|ending| name.ends_with(ending)) {
        return None;
    }
    let kinds = [(LINES, Kind::Lines), (ONE, Kind::One), (TEXT, Kind::Text), (MARKDOWN, Kind::Text)];
    kinds.into_iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, kind)| kind)
}

fn controlled_by(name: &[u8]) -> Option<(&[u8], Name)> {
    let controls = [(CANCEL, Name::Cancel), (RETRY, Name::Retry)];
    let (input, control) = controls.into_iter().find_map(|(ending, is)| Some((name.strip_suffix(ending)?, is)))?;
    input_kind(input).map(|_| (input, control))
}

fn joined(start: &[u8], ending: &[u8]) -> OsString {
    OsString::from_vec([start, ending].concat())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn classified(name: &str) -> Name {
        classify(OsStr::new(name))
    }

    #[test]
    fn an_input_is_known_by_its_ending() {
        for (name, kind) in [
            ("p.jsonl", Kind::Lines),
            ("p.json", Kind::One),
            ("p.txt", Kind::Text),
            ("p.md", Kind::Text),
            ("p.out.txt", Kind::Text),
            ("out.jsonl", Kind::Lines),
            ("status.json", Kind::One),
            ("a\nb\u{1b}.jsonl", Kind::Lines),
        ] {
            assert_eq!(classified(name), Name::Input(kind), "{name}");
        }
        assert_eq!(classify(OsStr::from_bytes(b"\xff\xfe.jsonl")), Name::Input(Kind::Lines));
    }

    #[test]
    fn what_others_write_first_and_what_we_write_is_no_input() {
        for name in [
            "",
            ".",
            ".jsonl",
            ".p.jsonl",
            ".nfs000000000.jsonl",
            "p.jsonl~",
            "p.jsonl.tmp",
            "p.jsonl.part",
            "p.jsonl.swp",
            "p.jsonl.partial",
            "p.jsonl.filepart",
            "p.jsonl.crdownload",
            "p.out.jsonl",
            "p.json.out.jsonl",
            "p.txt.out.md",
            "p.jsonl.status.json",
            "p.jsonl.reject.json",
            "p.journal",
            "p.jsonl.input",
            "p.jsonl.lock",
            "anvil.toml",
            "p.JSONL",
            "p.csv",
            "p",
            "jsonl",
            "p.out.jsonl.cancel",
            ".p.jsonl.cancel",
            "p.cancel",
            "p.jsonl.cancel.retry",
        ] {
            assert_eq!(classified(name), Name::Ignored, "{name}");
            assert_eq!(controlled(OsStr::new(name)), None, "{name}");
        }
    }

    #[test]
    fn a_control_names_its_input() {
        assert_eq!(classified("p.jsonl.cancel"), Name::Cancel);
        assert_eq!(classified("p.txt.retry"), Name::Retry);
        assert_eq!(controlled(OsStr::new("p.jsonl.cancel")), Some(OsStr::new("p.jsonl")));
        assert_eq!(controlled(&retry_name(OsStr::new("p.md"))), Some(OsStr::new("p.md")));
        assert_eq!(classify(&cancel_name(OsStr::new("p.json"))), Name::Cancel);
    }

    #[test]
    fn results_lie_beside_under_the_documented_names() {
        let result = |name, kind, suffix| result_name(OsStr::new(name), kind, suffix).unwrap();
        assert_eq!(result("p.jsonl", Kind::Lines, None), "p.out.jsonl");
        assert_eq!(result("p.json", Kind::One, None), "p.json.out.jsonl");
        assert_eq!(result("p.txt", Kind::Text, None), "p.txt.out.md");
        assert_eq!(result("p.md", Kind::Text, None), "p.md.out.md");
        assert_eq!(result("p.jsonl", Kind::Lines, Some(".answers.jsonl")), "p.answers.jsonl");
        assert_eq!(result("p.txt", Kind::Text, Some(".answer.md")), "p.txt.answer.md");
        assert_eq!(status_name(OsStr::new("p.jsonl")), "p.jsonl.status.json");
        assert_eq!(reject_name(OsStr::new("p.jsonl")), "p.jsonl.reject.json");
    }

    #[test]
    fn a_name_without_room_for_its_companions_is_refused() {
        let name = |bytes: usize| OsString::from("n".repeat(bytes - 6) + ".jsonl");
        assert!(result_name(&name(243), Kind::Lines, None).is_ok());
        assert_eq!(result_name(&name(244), Kind::Lines, None), Err(NameTooLong { excess_bytes: 1 }));
        assert_eq!(result_name(&name(240), Kind::Lines, Some(&"s".repeat(30))), Err(NameTooLong { excess_bytes: 9 }));
        let message = NameTooLong { excess_bytes: 9 }.to_string();
        assert!(message.starts_with("its name is 9 bytes too long") && message.contains("shorter"), "{message}");
        let (one, other) = (reject_name(&name(255)), reject_name(&name(254)));
        assert!(one.len() <= NAME_BYTES_MAX && one != other, "{one:?}");
    }

    fn input_names() -> impl Strategy<Value = OsString> {
        let endings = prop::sample::select(vec![".jsonl", ".json", ".txt", ".md"]);
        let pieces = prop_oneof![
            "[a-z.~]{0,6}".prop_map(String::into_bytes),
            prop::collection::vec(
                any::<u8>().prop_filter("no name has these", |byte| !matches!(byte, 0 | b'/')),
                0..250
            ),
            prop::sample::select(vec![".out", ".status", ".tmp", ".cancel", ".jsonl", ".out.jsonl"])
                .prop_map(|piece| piece.as_bytes().to_vec()),
        ];
        (prop::collection::vec(pieces, 1..4), endings)
            .prop_map(|(pieces, ending)| joined(&pieces.concat(), ending.as_bytes()))
            .prop_filter("no longer than a name can be", |name| name.len() <= NAME_BYTES_MAX)
    }

    proptest! {
        #[test]
        fn nothing_beside_an_input_is_an_input(name in input_names()) {
            if let Name::Input(kind) = classify(&name) {
                let mut beside = vec![status_name(&name), reject_name(&name)];
                beside.extend(result_name(&name, kind, None));
                for companion in &beside {
                    prop_assert_eq!(classify(companion), Name::Ignored, "{:?}", companion);
                    prop_assert_eq!(classify(&cancel_name(companion)), Name::Ignored);
                }
                prop_assert_eq!(classify(&cancel_name(&name)), Name::Cancel);
                prop_assert_eq!(classify(&retry_name(&name)), Name::Retry);
                let own = result_name(&name, kind, Some(".answers.jsonl"));
                prop_assert!(own.is_ok_and(|own| has_suffix(&own, ".answers.jsonl")) || name.len() > 240);
            }
        }

        #[test]
        fn names_that_are_given_fit(name in input_names(), suffix in "[.][a-z.]{1,40}") {
            prop_assert!(reject_name(&name).len() <= NAME_BYTES_MAX);
            if let (Name::Input(kind), suffix) = (classify(&name), suffix.as_str()) {
                for result in [None, Some(suffix)].into_iter().flat_map(|suffix| result_name(&name, kind, suffix)) {
                    prop_assert!(result.len() <= NAME_BYTES_MAX && status_name(&name).len() <= NAME_BYTES_MAX);
                }
            }
        }
    }
}
