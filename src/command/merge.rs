//! `anvil-filter merge SHARD...`: the outputs of shards, back in the order of the input.
//!
//! A shard is a journal, or a file of completions whose journal lies beside it. Invariants: all shards are of one input
//! and one division of it, each is there once and has come to its end, and each gives exactly the lines that are its
//! own; otherwise nothing is published, and on stdout the end is missing and the status says so.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::Write as _;
use std::path::Path;

use super::Out;
use super::shard::Shard;
use crate::config::MergeTask;
use crate::exit::{Exit, Stop};
use crate::journal::lock::{Holder, Lock};
use crate::journal::publish::{self, Draft, Exclusive};
use crate::journal::{self, Error, lock_path};
use crate::line::completion::Style;
use crate::line::escape::shown;
use crate::report;

/// Runs the command.
pub fn run(task: &MergeTask) -> Result<Exit, Stop> {
    let style =
        task.format.map(|format| Style { format: Some(format), merge: None, terminator: task.separator.byte() });
    let default = Style { format: None, merge: None, terminator: task.separator.byte() };
    let shards: Result<Vec<Shard>, Stop> =
        task.shards.iter().map(|path| Shard::open(path, style.as_ref(), &default)).collect();
    let shards = shards?;
    agree(&shards)?;
    let failed: u64 = shards.iter().map(|shard| shard.facts.failed).sum();
    let lines = match &task.output {
        None => {
            let mut out = Out::open()?;
            let lines = merge(shards, |record| out.write(record))?;
            out.finish()?;
            lines
        }
        Some(path) => publish_merged(path, task.force, shards)?,
    };
    if task.verbosity > crate::config::Verbosity::Quiet {
        report::say(&format!("anvil-filter: {lines} lines merged, {failed} of them failed"));
    }
    Ok(if failed == 0 { Exit::Answered } else { Exit::SomeFailed })
}

/// Refuses shards that do not belong together.
fn agree(shards: &[Shard]) -> Result<(), Stop> {
    let mut seen: BTreeMap<u64, &Path> = BTreeMap::new();
    let Some(first) = shards.first() else { return Ok(()) };
    let refuse = |message: String| Err(Stop::new(Exit::Input, message));
    for shard in shards {
        let (own, others) = (&shard.facts, &first.facts);
        if own.count != others.count {
            return refuse(format!(
                "{} is one of {} shards, {} one of {}",
                shown(&shard.path),
                own.count,
                shown(&first.path),
                others.count
            ));
        }
        if (&own.input_sha256, own.input_lines) != (&others.input_sha256, others.input_lines) {
            return refuse(format!(
                "{} and {} are about different inputs: the hashes of what they read differ",
                shown(&shard.path),
                shown(&first.path)
            ));
        }
        if let (Some(style), Some(other)) = (&shard.style, &first.style)
            && style != other
        {
            return Err(Stop::usage(format!(
                "{} has records in the form {style}, {} in the form {other}",
                shown(&shard.path),
                shown(&first.path)
            ))
            .way_out("give --format, or name the journals of all shards"));
        }
        if let Some(other) = seen.insert(own.index, &shard.path) {
            return refuse(format!("{} and {} are both shard {}", shown(other), shown(&shard.path), own.index));
        }
    }
    let count = first.facts.count;
    let missing: Vec<String> = (1..=count)
        .filter(|index| !seen.contains_key(index))
        .map(|index| format!("{index}/{count}"))
        .take(20)
        .collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Stop::new(Exit::Input, format!("of {count} shards these are missing: {}", missing.join(", ")))
            .way_out("name the outputs or journals of all shards")),
    }
}

/// Hands every record to `write`, in the order of the lines; returns how many there were.
fn merge(mut shards: Vec<Shard>, mut write: impl FnMut(&[u8]) -> Result<(), Stop>) -> Result<u64, Stop> {
    let (mut next, mut lines) = (BinaryHeap::new(), 0);
    for (number, shard) in shards.iter_mut().enumerate() {
        next.extend(shard.advance()?.map(|line| Reverse((line, number))));
    }
    while let Some(Reverse((_, number))) = next.pop() {
        let shard = &mut shards[number];
        write(shard.record())?;
        lines += 1;
        next.extend(shard.advance()?.map(|line| Reverse((line, number))));
    }
    Ok(lines)
}

fn publish_merged(path: &Path, force: bool, shards: Vec<Shard>) -> Result<u64, Stop> {
    if !force && path.symlink_metadata().is_ok() {
        return Err(Stop::usage(format!("{} exists", shown(path)))
            .way_out("move it away, name another file, or let --force replace it"));
    }
    let holder = Holder::this_process(None).map_err(Error::io("lock", path))?;
    let lock = Lock::acquire(&lock_path(&journal_of(path)), &holder).map_err(Error::from)?;
    let how = publish::probe(path).map_err(Error::from)?;
    let merged = write_merged(path, how, force, shards);
    lock.release().map_err(Error::from)?;
    merged
}

fn journal_of(path: &Path) -> std::path::PathBuf {
    crate::config::journal_beside(path)
}

fn write_merged(path: &Path, how: Exclusive, force: bool, shards: Vec<Shard>) -> Result<u64, Stop> {
    let mut draft = Draft::create(path).map_err(Error::io("create a file beside", path))?;
    let lines = merge(shards, |record| {
        draft.write_all(record).map_err(|error| Stop::from(Error::io("write what becomes", path)(error)))
    })?;
    let sealed = draft.seal().map_err(Error::io("make durable what becomes", path))?;
    let published = if force { sealed.replace_anything() } else { sealed.publish(how) };
    published.map_err(|error| Stop::from(journal::Error::from(error)))?;
    Ok(lines)
}
