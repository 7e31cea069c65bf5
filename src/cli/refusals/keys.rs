//! Keys on the command line, where every user of the machine can read them.
//!
//! Invariant: looks at the arguments before the parser does, which would quote them, and repeats none.

use std::borrow::Cow;
use std::ffi::OsString;

use crate::api::token::{KeyCommand, looks_like_key};
use crate::exit::Stop;

/// What to do about a key on the command line.
const KEY_WAYS: &str = "\
every user of this machine can read it there; treat it as known and have a new one made. Instead:
  export ANVILGPT_API_KEY=…
  --api-key-file FILE, with the key in a file of mode 0600, or in a pipe
  --api-key-command CMD, which prints the key";
/// The flags whose names begin like that of a key, and which take none.
const FILE: &str = "--api-key-file";
const COMMAND: &str = "--api-key-command";

/// Refuses keys before the parser sees them, so that it cannot quote them.
pub(in crate::cli) fn refuse_keys(arguments: &[OsString]) -> Result<(), Stop> {
    let texts: Vec<Cow<'_, str>> = arguments.iter().skip(1).map(|argument| argument.to_string_lossy()).collect();
    let shown = texts.iter().enumerate().any(|(at, text)| {
        let before = at.checked_sub(1).map_or("", |before| &texts[before]);
        shows_key(text) || is_command_with_key(before, text)
    });
    match shown {
        true => Err(Stop::usage("never put a key on the command line").way_out(KEY_WAYS)),
        false => Ok(()),
    }
}

fn shows_key(text: &str) -> bool {
    let (name, value) = text.split_once('=').unwrap_or((text, text));
    let plain = name.replace(['-', '_'], "").to_ascii_lowercase();
    let asks_for_key = name.starts_with("--")
        && ![FILE, COMMAND].contains(&name)
        && (plain.starts_with("apikey") || ["key", "token", "bearer", "auth", "apitoken"].contains(&plain.as_str()));
    asks_for_key || looks_like_key(value) || looks_like_key(text)
}

/// Whether a text is a command that prints what stands in it. An empty one is the parser's to refuse.
fn is_command_with_key(before: &str, text: &str) -> bool {
    let command = match text.split_once('=') {
        Some((COMMAND, command)) => command,
        _ if before == COMMAND => text,
        _ => return false,
    };
    !command.trim().is_empty() && KeyCommand::new(command).is_err()
}
