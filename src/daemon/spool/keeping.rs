//! What lasts: the log that is written anew, the archive, what is put away when nothing can be asked.

use std::time::Duration;

use super::super::answers::Answers;
use super::super::archive;
use super::super::job::{Body, Job};
use super::super::log::{Done, End};
use super::parts::{Queued, Wanted};
use super::{Occurrence, Spool};
use crate::journal;

impl Spool {
    /// The process stood still for long: nothing is sent and nothing written until the lease is known to be ours.
    pub fn doubt(&mut self) {
        let tell = self.tell();
        let Some(log) = &mut self.log else { return };
        match log.hand_over(move |keeper| tell(Occurrence::Confirmed(keeper.confirm()))) {
            Ok(()) => self.doubtful = true,
            Err(error) => self.fail(error),
        }
    }

    /// Has a log that has grown written anew, when nothing runs that has its places in it.
    pub(super) fn renew_log(&mut self) {
        let has_grown = self.log_bytes >= self.renew_at_bytes;
        let is_resume = |queued: &Queued| matches!(queued.how, Wanted::Resume { .. });
        let is_still = has_grown
            && self.is_still()
            && self.claiming.is_empty()
            && !self.renewing
            && !self.queue.any(is_resume)
            && !self.put_off.iter().any(|(_, queued)| is_resume(queued))
            && !self.unripe.values().any(is_resume);
        let Some(log) = self.log.as_mut().filter(|log| has_grown && is_still && log.is_settled()) else { return };
        let (store, holder) = (self.store.clone(), self.holder.clone());
        let config = self.shared.config();
        let retain = config.daemon.as_ref().map_or(Duration::ZERO, |daemon| daemon.retain);
        let (tell, index) = (self.shared.tell.clone(), self.index);
        let handed = log.hand_over(move |keeper| {
            let renewed = store.renew(keeper, &holder, retain).map(|history| Box::new((history, keeper.bytes())));
            let _ = tell.send((index, Occurrence::Renewed(renewed)));
        });
        match handed {
            Ok(()) => self.renewing = true,
            Err(error) => self.fail(error),
        }
    }

    pub(super) fn renewed(&mut self, renewed: Result<Box<(super::History, u64)>, journal::Error>) {
        self.renewing = false;
        match renewed {
            Ok(renewed) => {
                let (history, bytes) = *renewed;
                tracing::info!(bytes, "the log was written anew");
                self.log_bytes = bytes;
                self.renew_at_bytes = super::RENEW_BYTES_MIN.max(2 * bytes);
                self.log_path = self.store.log(history.generation);
                self.generation = history.generation;
                self.done = history.done;
                self.own_results.extend(history.own_results);
                self.claimer.set_log(self.log_path.clone());
            }
            Err(error) => self.fail(error),
        }
    }

    /// Moves a finished input and its result away, where that is wished.
    pub(super) fn archive(&mut self, done: &Done) {
        let config = self.shared.config();
        let Some(archive) = config.daemon.as_ref().and_then(|daemon| daemon.archive.clone()) else { return };
        if done.end == End::Published {
            let (root, done) = (self.root.clone(), done.clone());
            self.clerk.ask(move || archive::put_away(&root, &archive, &done));
        }
    }

    /// The same for a file that was done before, and is still there.
    pub(super) fn archive_again(&mut self, ended: &super::Ended) {
        let config = self.shared.config();
        let Some(archive) = config.daemon.as_ref().and_then(|daemon| daemon.archive.clone()) else { return };
        let (root, log, at) = (self.root.clone(), self.log_path.clone(), ended.done_at);
        self.clerk.ask(move || {
            if let Ok(done) = Answers::open(&log).and_then(|mut answers| answers.done(at)) {
                archive::put_away(&root, &archive, &done);
            }
        });
    }

    /// Gives everything up for now: what is settled is in the log, and the next start goes on.
    pub async fn close(&mut self) -> Result<(), journal::Error> {
        self.scanner = None;
        match self.log.take() {
            Some(log) => log.close(false).await,
            None => Ok(()),
        }
    }

    /// Puts away what the engine has forgotten: after a halt every job of the account goes on from the log.
    pub fn suspend(&mut self, account: usize) {
        for slot in 0..self.jobs.len() as u32 {
            let Some(job) = self.jobs[slot as usize].as_mut().filter(|job| job.account == account) else { continue };
            match &mut job.body {
                Body::Small(small) if small.asked > 0 => {
                    small.forget_asked();
                    if job.given_up.is_some() {
                        self.end_if_settled(slot);
                    } else if self.pipe[slot as usize] == 0 {
                        self.requeue(slot);
                    } else {
                        job.put_back = true;
                    }
                }
                Body::Large(large) => {
                    large.forget_asked();
                    self.end_large(slot, false);
                }
                _ => {}
            }
        }
    }

    /// Whether anything is on its way that a short wait brings to its end.
    pub fn is_ending(&self) -> bool {
        let ending = |job: &Job| matches!(job.body, Body::Ending | Body::Opening);
        self.hands > 0 || self.publishing || self.jobs.iter().flatten().any(ending)
    }
}
