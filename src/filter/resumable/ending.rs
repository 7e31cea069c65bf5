//! The end of a run with a journal: F is rendered when every line is settled, and what happened is written down and told.

use std::path::PathBuf;

use super::super::closing::{Closing, Facts};
use super::super::journaled::{Rest, Sink};
use super::super::ledger::Why;
use super::super::reader::End;
use super::super::result::{Place, Rendering, SecondReading};
use super::super::{is_regular, split, style, understanding};
use super::{Run, copy};
use crate::engine::Ended;
use crate::exit::{Exit, Stop};
use crate::journal::{self, Closed, Known, Note};
use crate::line::escape::shown;

impl Run {
    pub(super) fn closing(&self) -> Closing<'_> {
        let stage = &self.stage;
        Closing { config: &stage.config, reporter: &stage.reporter, shutdown: &stage.shutdown }
    }

    pub(super) async fn end(&mut self, ended: Ended, rest: Rest, second: Option<SecondReading>) -> Result<Exit, Stop> {
        let Rest { journal, mut known, sink, why, recorded, mut unsettled } = rest;
        self.journal = Some(journal);
        let complete = ended == Ended::Complete && why.is_none() && unsettled.lines == 0;
        let (writer, failed_lines) = match sink {
            Sink::Stdout { writer, failed_lines, .. } => (Some(*writer), failed_lines),
            Sink::Later { failed_lines } => (None, failed_lines),
        };
        // A refused run is about nothing, and leaves what an earlier one has collected.
        let is_refused = matches!(&why, Some(Why::Stop(stop)) if stop.exit == Exit::Input);
        let mut failed_lines = failed_lines.filter(|_| !is_refused);
        if let Some(file) = failed_lines.as_mut().filter(|_| !complete) {
            // A pipe may never end; a file's rest is as unsettled as what was in flight.
            let wait = self.stage.config.input.files.iter().all(is_regular);
            unsettled.collect(file, &mut known, wait).await;
        }
        let end = unsettled.intake.end().cloned();
        let (why, written) = match (why, writer) {
            (Some(Why::Stdout(error)), _) => (None, Err(error)),
            (why, Some(writer)) => (why, self.closing().write_out(writer).await),
            (why, None) => (why, Ok(())),
        };
        let read_whole = end.as_ref().is_some_and(|end| end.error.is_none());
        let held = known.index.records();
        // A pilot has settled its sample, which is not the input.
        let closed = match complete && read_whole && !self.is_pilot() {
            true => self.complete(known, end.as_ref(), recorded, second).await,
            false => self.interrupted(end.as_ref(), recorded).await,
        };
        let closing = self.closing();
        let facts = Facts { ended: &ended, why: why.as_ref(), unsettled: unsettled.lines, end: end.as_ref() };
        let files =
            closing.judge_written(written).and_then(|status| closing.finish_failed(failed_lines).map(|()| status));
        // What went wrong first is what is told; a failed journal or result comes before a failed line.
        let exit = match (facts.why, files, closed) {
            (Some(Why::Stop(stop)), _, _) => Err(stop.clone()),
            (_, Err(stop), _) | (_, Ok(_), Err(stop)) => Err(stop),
            (_, Ok(Some(exit)), Ok(())) => Ok(exit),
            (_, Ok(None), Ok(())) => closing.judge(&facts),
        };
        self.tell_how_to_go_on(&exit, complete, held);
        self.closing().tell(&facts, &exit)?;
        exit
    }

    fn closed(&self, complete: bool, end: Option<&End>) -> Closed {
        let counts = self.stage.reporter.counts();
        Closed {
            complete,
            input_lines: end.map(|end| end.lines),
            input_sha256: end.and_then(|end| end.sha256.clone()),
            answered: counts.answered(),
            failed: counts.failed(),
            style: self.target.as_ref().map(|_| style(&self.stage.config).name()),
            result: None,
        }
    }

    /// Every line is settled: F is rendered, unless it is there as it would be.
    async fn complete(
        &mut self,
        mut known: Known,
        end: Option<&End>,
        recorded: bool,
        second: Option<SecondReading>,
    ) -> Result<(), Stop> {
        let unmet = known.places.unmet();
        let closed = self.closed(true, end);
        // A run of no lines has settings all the same: they say which shard it was.
        let mut notes = if self.before.is_none() { self.journal()?.take_preface() } else { Vec::new() };
        let changed = recorded || !unmet.is_empty();
        let void = |(line, last)| Note::Void { line, to: Some(last).filter(|last| *last != line) };
        notes.extend(unmet.into_iter().map(void));
        let before = self.before.as_ref().filter(|before| !changed && before.complete);
        let (Some(target), Some(input), Some(first)) = (&self.target, second, end.cloned()) else {
            notes.extend((before != Some(&closed)).then_some(Note::Closed(closed)));
            return self.note(notes).await;
        };
        if let (Place::Ours(result), Some(before)) = (&target.place, before)
            && *before == (Closed { result: Some(result.clone()), ..closed.clone() })
        {
            self.stage.reporter.warn(&format!("{} is already complete; nothing was sent", shown(&target.path)));
            let Some((path, copy)) = self.copy_beside() else { return Ok(()) };
            copy::remove(&path, copy).map_err(journal::Error::io("remove", &path))?;
            // From here on no file of that name is ours.
            return self.note(vec![Note::Closed(before.clone())]).await;
        }
        let config = &self.stage.config;
        let rendering = Rendering {
            target: target.path.clone(),
            how: target.how,
            place: target.place.clone(),
            style: style(config),
            split: split(config),
            understanding: understanding(config),
            input,
            first,
            settled: closed.answered + closed.failed,
            closed,
            shutdown: self.stage.shutdown.clone(),
            drain: config.clocks.drain,
            copy: self.copy_beside(),
        };
        self.note(notes).await?;
        self.journal()?.run(move |keeper| rendering.run(keeper, &mut known)).await.map(drop)
    }

    fn copy_beside(&self) -> Option<(PathBuf, journal::Copy)> {
        Some((self.stage.config.output.input_copy_path()?, self.copy?))
    }

    async fn note(&mut self, notes: Vec<Note>) -> Result<(), Stop> {
        if notes.is_empty() {
            return Ok(());
        }
        Ok(self.journal()?.run(move |keeper| keeper.note(&notes).map(|_| ())).await?)
    }

    /// What was recorded has voided the end of the run before; what was not has not.
    async fn interrupted(&mut self, end: Option<&End>, recorded: bool) -> Result<(), Stop> {
        if !recorded {
            return Ok(());
        }
        let closed = self.closed(false, end);
        self.note(vec![Note::Closed(closed)]).await
    }

    /// Ends that are none: the same command goes on from here.
    fn tell_how_to_go_on(&self, exit: &Result<Exit, Stop>, complete: bool, held: u64) {
        let status = exit.as_ref().map_or_else(|stop| stop.exit, |exit| *exit);
        let resumable = [Exit::Interrupted, Exit::Terminated, Exit::Resumable, Exit::TokenRejected];
        if complete || !resumable.contains(&status) {
            return;
        }
        let stage = &self.stage;
        let counts = stage.reporter.counts();
        let whole = match stage.reporter.pilot() {
            Some(pilot) => Some(pilot.tried),
            None => stage.config.input.shard.is_none().then(|| stage.count_lines()).flatten(),
        };
        let of = whole.map_or(String::new(), |lines| format!(" of {lines}"));
        let failed = if counts.failed() > 0 { format!(", {} failed", counts.failed()) } else { String::new() };
        // Lines that were put before others hide what is known of those.
        let more = held.saturating_sub(counts.settled());
        let more = if more > 0 { format!(", and the journal holds {more} more outcomes") } else { String::new() };
        let answered = counts.answered();
        stage.reporter.warn(&format!("{answered}{of} answered{failed}{more}; run the same command to go on"));
    }
}
