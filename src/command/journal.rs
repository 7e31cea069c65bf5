//! `anvil-filter journal J`: looks into a journal, of a run that goes on too, and takes nothing from it.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use super::{Out, print};
use crate::config::{JournalAction, JournalTask, Verbosity};
use crate::daemon;
use crate::exit::{Exit, Stop};
use crate::journal::lock::{self, Holder, Lock};
use crate::journal::publish::{self, Draft};
use crate::journal::scan::{Interrupted, scan};
use crate::journal::{self, Error, Head, Known, Note, Outcomes, Settled, Tail, frame, lock_path};
use crate::line::completion::Style;
use crate::line::escape::shown;
use crate::report;

/// Runs the command.
pub fn run(task: &JournalTask) -> Result<Exit, Stop> {
    match &task.action {
        JournalAction::Print { format, separator } => {
            let style = Style { format: *format, merge: None, terminator: separator.byte() };
            print_outcomes(&task.path, &style, task.verbosity)
        }
        JournalAction::Check => check(&task.path),
        JournalAction::Salvage(out) => salvage(&task.path, out),
    }
}

fn print_outcomes(path: &Path, style: &Style, verbosity: Verbosity) -> Result<Exit, Stop> {
    let (file, known, tail) = journal::look(path)?;
    if tail.torn_bytes() > 0 && verbosity > Verbosity::Quiet {
        report::say(&format!("anvil-filter: {}", unfinished(path, &tail)));
    }
    let (mut out, mut record) = (Out::open()?, Vec::new());
    for outcome in Outcomes::new(file, path, known) {
        record.clear();
        outcome?.render(style, &mut record);
        out.write(&record)?;
    }
    out.finish()?;
    Ok(Exit::Answered)
}

fn unfinished(path: &Path, tail: &Tail) -> String {
    let whose = match lock::holder(&lock_path(path)) {
        Ok(Some((holder, _))) => format!("is being written by pid {} on host {}", holder.pid, holder.host),
        _ => "will be cut by the next run".to_owned(),
    };
    format!(
        "the last {} bytes of {} are no whole record yet: what stands there {whose}",
        tail.torn_bytes(),
        shown(path)
    )
}

/// Reads every record to its last byte.
fn check(path: &Path) -> Result<Exit, Stop> {
    let (file, known, tail) = journal::look(path)?;
    let read = scan(&file, 0, |offset, payload| {
        let understood = match Head::parse(payload) {
            Some(_) => Settled::parse(payload).map(drop),
            None => Note::parse(payload).map(drop),
        };
        understood.map_err(|reason| Error::not_understood(path, offset, &reason))
    });
    read.map_err(|interrupted| interrupted_stop(interrupted, path))?;
    let Known { records, answers, failures, .. } = known;
    print(&format!(
        "{}: {records} records, {answers} answers and {failures} errors, valid up to byte {} of {}",
        shown(path),
        tail.valid_bytes,
        tail.file_bytes
    ))?;
    if tail.torn_bytes() > 0 {
        print(&unfinished(path, &tail))?;
    }
    Ok(Exit::Answered)
}

fn interrupted_stop(interrupted: Interrupted<Error>, path: &Path) -> Stop {
    match interrupted {
        Interrupted::Read(error) => Error::io("read", path)(error).into(),
        Interrupted::Visitor(error) => error.into(),
    }
}

/// What a salvage came to.
#[derive(Default)]
struct Salvaged {
    records: u64,
    left_out_bytes: u64,
    holes: u64,
    header_is_there: bool,
}

/// Copies every whole record into a new file.
fn salvage(path: &Path, out: &Path) -> Result<Exit, Stop> {
    let file = journal::open_to_read(path)?;
    let holder = Holder::this_process(None).map_err(Error::io("lock", out))?;
    let lock = Lock::acquire(&lock_path(out), &holder).map_err(Error::from)?;
    let salvaged = copy_whole(&file, path, out);
    lock.release().map_err(Error::from)?;
    let Salvaged { records, left_out_bytes, holes, .. } = salvaged?;
    let places = if holes == 1 { "place" } else { "places" };
    print(&format!(
        "{}: {records} whole records of {}; {left_out_bytes} bytes in {holes} {places} were left out",
        shown(out),
        shown(path)
    ))?;
    Ok(Exit::Answered)
}

fn copy_whole(file: &File, path: &Path, out: &Path) -> Result<Salvaged, Stop> {
    let how = publish::probe(out).map_err(Error::from)?;
    let mut draft = Draft::create(out).map_err(Error::io("create a file beside", out))?;
    let (mut salvaged, mut from, mut frames) = (Salvaged::default(), 0, Vec::new());
    loop {
        let read = scan(file, from, |_, payload| {
            frames.clear();
            salvaged.take(payload, &mut frames);
            draft.write_all(&frames).map_err(Error::io("write", out))
        });
        let tail = read.map_err(|interrupted| interrupted_stop(interrupted, path))?;
        let next = tail.next_valid.unwrap_or(tail.file_bytes);
        salvaged.left_out_bytes += next - tail.valid_bytes;
        salvaged.holes += u64::from(next > tail.valid_bytes);
        if tail.next_valid.is_none() {
            break;
        }
        from = next;
    }
    if salvaged.records == 0 {
        let reason = "there is no whole record in it".to_owned();
        return Err(Error::NoJournal { path: path.to_owned(), reason }.into());
    }
    let sealed = draft.seal().map_err(Error::io("make durable", out))?;
    sealed.publish(how).map_err(|error| Stop::from(Error::from(error)))?;
    Ok(salvaged)
}

impl Salvaged {
    fn take(&mut self, payload: &str, frames: &mut Vec<u8>) {
        let is_header = matches!(Note::parse(payload), Ok(Note::Journal { .. }));
        match daemon::missing_header(payload) {
            _ if self.header_is_there || is_header => {}
            // The log of a spool begins otherwise.
            Some(header) => header.iter().for_each(|header| {
                frame::push(frames, |record| record.extend_from_slice(header));
            }),
            None => frame::push(frames, |record| Note::header().push(record)),
        }
        self.header_is_there = true;
        self.records += 1;
        frame::push(frames, |record| record.extend_from_slice(payload.as_bytes()));
    }
}
