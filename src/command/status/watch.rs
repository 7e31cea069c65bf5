//! `status --watch`: the same again and again. On a terminal it is drawn over what was there, within the window; where it
//! is piped, one block follows another.
//!
//! Invariant: however it ends, short of a kill, the cursor is back.

use std::time::{Duration, SystemTime};

use tokio::signal::unix::{SignalKind, signal};
use unicode_width::UnicodeWidthChar as _;

use super::super::{Out, Screen};
use super::{look_at_all, print_json, table, tell_unusable};
use crate::config::{StatusForm, StatusTask};
use crate::exit::{Exit, Stop};

const DRAW_EVERY: Duration = Duration::from_secs(2);

/// Watches until it is interrupted, which is a good end.
pub(super) fn run(task: &StatusTask) -> Result<Exit, Stop> {
    let failed = |error| Stop::new(Exit::Io, format!("start the runtime: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(watch(task))
}

async fn watch(task: &StatusTask) -> Result<Exit, Stop> {
    let listen = |kind| signal(kind).map_err(|error| Stop::new(Exit::Io, format!("listen for signals: {error}")));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let mut resized = listen(SignalKind::window_change())?;
    let screen = if task.form == StatusForm::Human { Screen::open()? } else { None };
    loop {
        draw(task, screen.as_ref())?;
        tokio::select! {
            _ = interrupt.recv() => return Ok(Exit::Answered),
            _ = terminate.recv() => return Ok(Exit::Terminated),
            _ = resized.recv() => {}
            () = tokio::time::sleep(DRAW_EVERY) => {}
        }
    }
}

fn draw(task: &StatusTask, screen: Option<&Screen>) -> Result<(), Stop> {
    let sights = look_at_all(task, SystemTime::now());
    if task.form == StatusForm::Json {
        return print_json(&tell_unusable(sights));
    }
    let lines = table::lines(&sights);
    let text = match screen {
        Some(screen) => {
            let (columns, rows) = screen.size();
            frame(&lines, columns, rows)
        }
        None => lines.iter().map(|line| format!("{line}\n")).chain(["\n".to_owned()]).collect(),
    };
    let mut out = Out::open()?;
    out.write(text.as_bytes())?;
    out.finish()
}

/// The lines as they are drawn over the last ones: from the top left corner, each cut at the window's edge, and nothing
/// left below. The last row stays free of a line feed, which would scroll.
fn frame(lines: &[String], columns: usize, rows: usize) -> String {
    let fits = lines.len() <= rows;
    let shown = if fits { lines.len() } else { rows.saturating_sub(1) };
    let more = (!fits).then(|| format!("… {} more lines", lines.len() - shown));
    let rows: Vec<String> =
        lines[..shown].iter().chain(&more).map(|line| format!("{}\x1b[K", cut(line, columns))).collect();
    format!("\x1b[H{}\x1b[J", rows.join("\r\n"))
}

/// The beginning of a line that has room in so many columns: letters of some scripts take two, and marks take none.
fn cut(line: &str, columns: usize) -> &str {
    let mut taken = 0;
    let end = line.char_indices().find(|(_, character)| {
        taken += character.width().unwrap_or(0);
        taken > columns
    });
    &line[..end.map_or(line.len(), |(at, _)| at)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(count: usize) -> Vec<String> {
        (1..=count).map(|number| format!("line {number}")).collect()
    }

    #[test]
    fn a_frame_stays_within_the_window() {
        assert_eq!(frame(&lines(2), 80, 24), "\x1b[Hline 1\x1b[K\r\nline 2\x1b[K\x1b[J");
        assert_eq!(frame(&lines(2), 4, 2), "\x1b[Hline\x1b[K\r\nline\x1b[K\x1b[J");
        assert_eq!(frame(&lines(9), 80, 3), "\x1b[Hline 1\x1b[K\r\nline 2\x1b[K\r\n… 7 more lines\x1b[K\x1b[J");
        assert!(frame(&lines(9), 80, 1).starts_with("\x1b[H… 9 more lines"));
        assert_eq!(frame(&[], 80, 24), "\x1b[H\x1b[J");
    }

    #[test]
    fn wide_letters_take_two_columns() {
        assert_eq!((cut("模型.jsonl", 4), cut("模型.jsonl", 3), cut("模型", 9)), ("模型", "模", "模型"));
        assert_eq!((cut("e\u{301}e", 1), cut("", 0), cut("a", 0)), ("e\u{301}", "", ""));
    }

    #[test]
    fn no_text_makes_a_line_wider_than_the_window() {
        proptest::proptest!(|(text in "\\PC*", columns in 0usize..40)| {
            let width: usize = cut(&text, columns).chars().filter_map(|character| character.width()).sum();
            proptest::prop_assert!(width <= columns && text.starts_with(cut(&text, columns)));
        });
    }
}
