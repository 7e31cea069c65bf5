//! The engine's side of a spool: requests out, outcomes into the log, slots back.

use std::collections::HashSet;
use std::task::{Context, Poll};

use super::super::job::{Body, Job};
use super::super::large::LargeMode;
use super::super::log::push_line;
use super::{CLAIM, LARGE_MAX, Spool};
use crate::engine::{Fit, Key, Mode as _, Room, Slot, Work};
use crate::journal::{Committed, Journal, Line};
use crate::line::completion::Flags;
use crate::line::{Outcome, Request};
use crate::report::Audience as _;

impl Spool {
    /// The next request of an account that fits at least so well, from the job whose turn it is.
    pub fn pull(&mut self, account: usize, room: &Room<'_>, wanted: Fit, cx: &mut Context<'_>) -> Option<Work> {
        if self.trouble.is_some() || self.doubtful {
            return None;
        }
        let (jobs, spool) = (&mut self.jobs, self.index);
        self.turns.serve(|slot| {
            let job = jobs.get_mut(*slot as usize)?.as_mut()?;
            if job.account != account || job.given_up.is_some() || job.put_back {
                return None;
            }
            match &mut job.body {
                Body::Small(small) => {
                    let (line, request) = small.take(|model| room.for_model(model).is_at_least(wanted))?;
                    Some(Work { key: key(spool, *slot, line as u32), request })
                }
                Body::Large(large) => {
                    let work = large.pull(room, wanted, cx)?;
                    Some(Work { key: key(spool, *slot, work.key.0 as u32), request: work.request })
                }
                Body::Opening | Body::Ending | Body::Waiting => None,
            }
        })
    }

    /// Models for which requests of an account wait, as far as they can be seen.
    pub fn waiting_models(&self, account: usize) -> HashSet<String> {
        let mut models = HashSet::new();
        for job in self.jobs.iter().flatten().filter(|job| job.account == account) {
            match &job.body {
                Body::Small(small) => models.extend(small.next_model().map(str::to_owned)),
                Body::Large(large) => models.extend(large.waiting_models().map(str::to_owned)),
                Body::Opening | Body::Ending | Body::Waiting => {}
            }
        }
        models
    }

    /// Lets large jobs read on, and replay what their journals answer.
    pub fn look_ahead(&mut self, cx: &mut Context<'_>) {
        for large in larges(&mut self.jobs) {
            large.mode().look_ahead(cx);
        }
    }

    /// A request of this spool is settled.
    pub fn settle(&mut self, slot: u32, line: u32, request: &Request, outcome: Outcome) -> Slot {
        let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::as_mut) else { return Slot::Free };
        let flags = outcome.result.as_ref().map_or_else(|_| Flags::default(), |answer| Flags::of(answer, request));
        self.shared.counts.settled(&outcome, flags);
        match &mut job.body {
            Body::Small(small) => {
                small.asked -= 1;
                let (Some((number, line_key)), Some(log)) = (small.line(line as usize), self.log.as_mut()) else {
                    return Slot::Free;
                };
                job.counts.settled(&outcome, flags);
                let about = Line {
                    line: number,
                    key: line_key,
                    form: Some(request.form),
                    correlation: request.correlation.as_ref(),
                };
                let id = job.id;
                self.pipe[slot as usize] += 1;
                log.append(Some(token(slot, line, Some(job.account))), |record| {
                    push_line(record, id, |record| about.push_outcome(record, Some(&request.model), flags, &outcome));
                });
                Slot::Held
            }
            Body::Large(large) => large.settle(Key(u64::from(line)), request, outcome),
            Body::Opening | Body::Ending | Body::Waiting => Slot::Free,
        }
    }

    /// Slots of an account that came free since the last call.
    pub fn take_freed(&mut self, account: usize) -> usize {
        let own = self.jobs.iter_mut().flatten().filter(|job| job.account == account);
        let large: usize = own.filter_map(Job::large).map(LargeMode::take_freed).sum();
        self.freed.remove(&account).unwrap_or_default() + large
    }

    /// Hears of commits. Must be called whenever the task is polled.
    pub fn poll(&mut self, cx: &mut Context<'_>) {
        while self.poll_log(cx).is_ready() {}
        for large in larges(&mut self.jobs) {
            // What has failed there is found below.
            let _ = large.mode().poll_stop(cx);
        }
        self.end_larges();
    }

    pub(super) fn poll_log(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(log) = self.log.as_mut().filter(|_| self.failed.is_none()) else { return Poll::Pending };
        let mut committed = std::mem::take(&mut self.committed);
        let polled = log.poll_committed(cx, &mut committed);
        if let Poll::Ready(result) = polled {
            match result {
                Ok(()) => committed.drain(..).for_each(|record| self.record_committed(record)),
                Err(error) => self.failed = Some(error),
            }
            self.committed = committed;
            self.go_on();
            return Poll::Ready(());
        }
        self.committed = committed;
        Poll::Pending
    }

    pub(super) fn record_committed(&mut self, record: Committed) {
        let (slot, line, account) = token_parts(record.token);
        if let Some(account) = account {
            // Whatever has become of the job meanwhile.
            *self.freed.entry(account).or_default() += 1;
        }
        self.pipe[slot as usize] -= 1;
        self.dry(slot);
        let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        if line == CLAIM {
            job.claim_at = record.offset;
        }
        match &mut job.body {
            Body::Opening if line == CLAIM => return self.open_large(slot),
            Body::Small(small) if line != CLAIM => small.settle(line as usize, record.offset),
            _ => {}
        }
        if job.put_back && self.pipe[slot as usize] == 0 {
            return self.requeue(slot);
        }
        self.end_if_settled(slot);
    }

    pub(super) fn large_count(&self) -> usize {
        self.jobs.iter().flatten().filter(|job| job.folder.is_some()).count()
    }

    /// A place is free again, as soon as no record of its last job is on its way.
    pub(super) fn free_place(&mut self, slot: u32) {
        self.turns.retain(|other| *other != slot);
        if self.large_count() < LARGE_MAX
            && let Some(queued) = self.waiting_large.pop_front()
        {
            self.enqueue(queued);
        }
        self.damp.insert(slot);
        self.dry(slot);
    }

    pub(super) fn dry(&mut self, slot: u32) {
        if self.pipe[slot as usize] == 0 && self.damp.remove(&slot) {
            self.free.push(slot);
        }
    }

    /// Nothing further is ready: what waits for the disk goes there.
    pub fn idle(&mut self, cx: &mut Context<'_>) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
        for large in larges(&mut self.jobs) {
            large.mode().idle(cx);
        }
    }

    /// Whether another record may be added to the log: what waits for the disk is bounded.
    pub fn has_room(&self) -> bool {
        self.log.as_ref().is_some_and(Journal::has_room)
    }
}

/// Names a request: its spool, its job's place, its line.
fn key(spool: usize, slot: u32, line: u32) -> Key {
    Key((spool as u64) << 56 | u64::from(slot) << 32 | u64::from(line))
}

/// What a key names.
pub fn named_by(key: Key) -> (usize, u32, u32) {
    ((key.0 >> 56) as usize, (key.0 >> 32) as u32 & 0x00ff_ffff, key.0 as u32)
}

/// Names a record on its way into the log: its job's place, its line, and the account whose slot it holds, if it does.
pub(super) fn token(slot: u32, line: u32, holds: Option<usize>) -> u64 {
    let account = holds.map_or(0, |account| account as u64 + 1);
    account << 48 | u64::from(slot) << 32 | u64::from(line)
}

fn token_parts(token: u64) -> (u32, u32, Option<usize>) {
    ((token >> 32) as u32 & 0xffff, token as u32, (token >> 48).checked_sub(1).map(|account| account as usize))
}

fn larges(jobs: &mut [Option<Job>]) -> impl Iterator<Item = &mut LargeMode> {
    jobs.iter_mut().flatten().filter_map(Job::large)
}
