//! What a trace tells: what was sent, written, made durable and named, and in what order that may be.
//!
//! Whatever does not wait for a sync is seen when syncs are held up, as [`with_slow_syncs`] does.

use std::collections::HashMap;
use std::path::Path;

use crate::frames;
use crate::strace::{Call, Options};

/// Microseconds by which a sync is held up.
const DELAY: u32 = 15_000;

/// Writes every change down, and holds up every sync.
pub fn with_slow_syncs() -> Options {
    let mut options = Options::changes();
    options.inject = ["fdatasync", "fsync"].map(|call| format!("{call}:delay_enter={DELAY}")).to_vec();
    options
}

/// Whether a call has made something durable.
pub fn is_sync(call: &Call) -> bool {
    matches!(&*call.name, "fsync" | "fdatasync") && call.result == Some(0)
}

/// Whether a call is about what is open under this path.
pub fn is_about(call: &Call, path: &Path) -> bool {
    call.path() == path.to_str()
}

/// Whether a call writes.
pub fn is_write(call: &Call) -> bool {
    matches!(&*call.name, "write" | "pwrite64" | "writev" | "pwritev2" | "sendto" | "sendmsg")
}

/// How many requests a call sends.
pub fn posts(call: &Call) -> usize {
    let is_send = is_write(call) && call.path().is_some_and(|path| path.starts_with("socket:"));
    if is_send { memchr::memmem::find_iter(&call.bytes(), b"POST /api/chat/completions ").count() } else { 0 }
}

/// Whether a call writes completion lines to stdout.
fn is_shown(call: &Call) -> bool {
    is_write(call) && call.path().is_some_and(|path| path.starts_with("pipe:")) && call.bytes().starts_with(b"{\"line")
}

/// The names that a call gives or takes away.
pub fn names(call: &Call) -> Vec<String> {
    match &*call.name {
        "link" | "linkat" | "rename" | "renameat" | "renameat2" => {
            call.strings().into_iter().map(|path| String::from_utf8(path).unwrap()).collect()
        }
        _ => Vec::new(),
    }
}

/// What a trace says in order: when something was begun, and when it was certain.
#[derive(Debug)]
pub enum Event {
    Post(usize),
    /// Lines that stdout was given.
    Shown(Vec<u64>),
    /// Records became durable: paid ones, and the lines of all.
    Durable(usize, Vec<u64>),
}

/// The events that matter for slots and for stdout.
pub fn events(calls: &[Call], is_journal: impl Fn(&Path) -> bool) -> Vec<Event> {
    let mut events: Vec<(usize, Event)> = Vec::new();
    let mut journals: HashMap<&Path, (Vec<u8>, usize)> = HashMap::new();
    for call in calls.iter().filter(|call| call.is_done()) {
        let (sent, path) = (posts(call), Path::new(call.path().unwrap_or_default()));
        if sent > 0 {
            events.push((call.begin, Event::Post(sent)));
        } else if is_shown(call) {
            let text = String::from_utf8(call.bytes()).unwrap();
            let line = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["line"].as_u64().unwrap();
            events.push((call.begin, Event::Shown(text.lines().map(line).collect())));
        } else if is_write(call) && is_journal(path) {
            journals.entry(path).or_default().0.extend(call.bytes());
        } else if is_sync(call) && is_journal(path) {
            // The first record is written under another name, before this one exists.
            let (bytes, known) = journals.entry(path).or_default();
            let frames = frames::read(bytes);
            let new = &frames[*known..];
            *known = frames.len();
            let paid = new.iter().filter(|frame| frame.is_paid()).count();
            events.push((call.end, Event::Durable(paid, new.iter().filter_map(frames::Frame::line).collect())));
        }
    }
    events.sort_by_key(|(at, _)| *at);
    events.into_iter().map(|(_, event)| event).collect()
}

/// At any moment no more requests are out, or answered without a durable record, than there are slots.
pub fn slots_wait_for_the_disk(events: &[Event], slots: usize) -> usize {
    let (mut sent, mut durable, mut most) = (0, 0, 0);
    for event in events {
        match event {
            Event::Post(count) => sent += count,
            Event::Durable(paid, _) => durable += paid,
            Event::Shown(_) => {}
        }
        most = most.max(sent - durable);
        assert!(
            sent <= durable + slots,
            "{sent} requests were sent when {durable} outcomes were durable: {slots} slots"
        );
    }
    assert_eq!(sent, durable);
    most
}

/// Where in the trace a file got its name, checked: its bytes were durable before and not changed since, and the name
/// is durable before anything of `then` happens.
pub fn check_name(calls: &[Call], path: &Path, then: impl Fn(&Call) -> bool) -> usize {
    let named = |call: &&Call| call.is_done() && names(call).get(1).map(Path::new) == Some(path);
    let link = calls.iter().rfind(named).unwrap_or_else(|| panic!("nothing was named {}", path.display()));
    let draft = descriptor_of(calls, link);
    let opened = |call: &&Call| call.name == "openat" && call.end < link.begin && call.result == Some(draft.into());
    let opened = calls.iter().rfind(opened).unwrap().end;
    let on_draft = |call: &&Call| {
        call.begin > opened && call.end < link.begin && call.descriptor() == Some(draft) && call.is_done()
    };
    let written = calls.iter().filter(on_draft).rfind(|call| is_write(call)).expect("the draft is written").end;
    let is_synced = calls.iter().filter(on_draft).any(|call| is_sync(call) && call.begin > written);
    assert!(is_synced, "{} got its name before its bytes were durable", path.display());
    // What a network file system could not store it tells at a close, so there must be one that can still be heeded.
    let closed = |call: &&Call| call.name == "close" && call.begin > written && call.end < link.begin;
    let draft = calls.iter().find(on_draft).unwrap().path();
    let is_closed = calls.iter().filter(closed).any(|call| call.path() == draft);
    assert!(is_closed, "{} got its name before any close", path.display());
    let folder = path.parent().unwrap();
    let synced = calls.iter().find(|call| is_sync(call) && is_about(call, folder) && call.begin > link.end);
    let synced = synced.unwrap_or_else(|| panic!("the name of {} was never made durable", path.display())).end;
    let early = calls.iter().find(|call| then(call) && call.begin > link.end && call.begin < synced);
    assert!(early.is_none(), "before the name of {} was durable: {early:?}", path.display());
    let before = calls.iter().find(|call| then(call) && call.begin < link.begin);
    assert!(before.is_none(), "before {} had its name: {before:?}", path.display());
    synced
}

/// The descriptor of the file that a call gives a name to.
fn descriptor_of(calls: &[Call], link: &Call) -> u32 {
    let from = &names(link)[0];
    if let Some(number) = from.strip_prefix("/proc/self/fd/") {
        return number.parse().unwrap();
    }
    let opened = |call: &&Call| call.name == "openat" && call.end < link.begin && call.opened() == Some(from);
    calls.iter().rfind(opened).and_then(|call| u32::try_from(call.result?).ok()).unwrap()
}
