//! From a file that waits to a job that runs, and back.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::super::claim::{Order, Reply, Resumed, SmallFile, What, poison};
use super::super::job::{Body, Job, Small};
use super::super::large;
use super::super::log::{Bytes, Claim, Held, JobId, Note, push_line};
use super::super::names::{Name, classify};
use super::super::plan::Plan;
use super::super::stamp::Stamp;
use super::asking::token;
use super::finding::STRIKES_MAX;
use super::parts::{Claiming, Queued, Wanted};
use super::{Booked, CLAIM, OPEN_BYTES_MAX, Spool};
use crate::filter::Understood;
use crate::journal::publish::Fingerprint;
use crate::journal::{self, Line};
use crate::line::Outcome;
use crate::line::completion::Flags;
use crate::report::Audience as _;

impl Spool {
    pub(super) fn new_job(&mut self) -> JobId {
        self.next_job += 1;
        self.next_job - 1
    }

    /// Has files taken, as many as may be open.
    pub(super) fn claim_more(&mut self) {
        let config = self.shared.config();
        let Some(daemon) = &config.daemon else { return };
        let caps = daemon.owner_caps;
        loop {
            let open = self.by_path.len() + self.claiming.len();
            if open >= daemon.open_files_max || self.open_bytes >= OPEN_BYTES_MAX || !self.has_room() {
                return;
            }
            let shares = &self.shares;
            let may = |owner: u32, queued: &Queued| {
                let share = shares.get(&owner).copied().unwrap_or_default();
                share.files == 0
                    || (share.files < caps.files
                        && share.bytes.saturating_add(queued.stamp.bytes) <= caps.bytes
                        && share.lines < caps.lines)
            };
            let Some(queued) = self.queue.take(may) else { return };
            self.claim(queued);
        }
    }

    pub(super) fn is_claiming(&self, path: &Arc<Path>) -> bool {
        self.claiming.values().any(|other| other.queued.path == *path)
    }

    pub(super) fn claim(&mut self, queued: Queued) {
        if let Some(slot) = self.by_path.get(&queued.path).copied() {
            return self.job_file_found(slot, &queued.path, queued.kind, queued.stamp);
        }
        if self.is_claiming(&queued.path) {
            self.dirty.insert(Arc::clone(&queued.path), (queued.kind, queued.stamp));
            return;
        }
        let key = queued.path.as_os_str().as_bytes();
        let before = self.done.get(key).copied();
        self.queued.remove(&queued.path);
        let what = match &queued.how {
            Wanted::Fresh { from, retry_failed } => What::Fresh {
                told: queued.stamp,
                before,
                from: *from,
                folder: self.folder_of_open(*from),
                retry_failed: *retry_failed,
            },
            Wanted::Resume { claim_at, .. } => What::Resume { claim_at: *claim_at, before },
        };
        let share = self.shares.entry(queued.stamp.owner).or_default();
        share.files += 1;
        share.bytes += queued.stamp.bytes;
        self.open_bytes += weight(queued.stamp.bytes);
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        self.claimer.order(Order { ticket, path: Arc::clone(&queued.path), kind: queued.kind, what });
        self.claiming.insert(ticket, Claiming { queued });
    }

    pub(super) fn give_share_back(&mut self, booked: Booked) {
        let Booked { owner, bytes, lines } = booked;
        self.open_bytes = self.open_bytes.saturating_sub(weight(bytes));
        if let Some(share) = self.shares.get_mut(&owner) {
            share.files = share.files.saturating_sub(1);
            share.bytes = share.bytes.saturating_sub(bytes);
            share.lines = share.lines.saturating_sub(lines);
            if share.files == 0 {
                self.shares.remove(&owner);
            }
        }
    }

    /// A file was taken, or not.
    pub(super) fn claimed(&mut self, ticket: u64, reply: Reply) {
        let Some(Claiming { queued }) = self.claiming.remove(&ticket) else { return };
        let (share, share_stamp) = (booked(&queued), queued.stamp);
        match reply {
            Reply::Small(file) => return self.begin_small(queued, *file),
            Reply::Large(file) => return self.begin_large(queued, *file),
            Reply::Resumed(resumed) => return self.begin_resumed(queued, *resumed),
            Reply::Unchanged(done) => {
                self.stale.remove(&queued.path);
                self.note_done(*done);
            }
            Reply::Rejected { .. } => {
                self.keep_source(&queued);
                self.replied_rejected(&queued.path, queued.stamp, reply);
            }
            Reply::Blocked(target) => {
                self.tell_blocked(&queued.path, queued.stamp.owner, &target);
                let path = Arc::clone(&queued.path);
                self.give_share_back(share);
                self.blocked.insert(Arc::clone(&path), (queued, target));
                return self.look_at_dirty(&path, share_stamp);
            }
            Reply::NotYet => {
                let path = Arc::clone(&queued.path);
                self.give_share_back(share);
                self.unripe.insert(Arc::clone(&path), queued);
                return self.look_at_dirty(&path, share_stamp);
            }
            Reply::Gone => {
                self.keep_source(&queued);
                // Another file under the name was told of meanwhile, or the scanner says soon that it is gone.
                if !self.dirty.contains_key(&queued.path) {
                    let (from, retry_failed) = queued.source();
                    let how = Wanted::Fresh { from, retry_failed };
                    let path = Arc::clone(&queued.path);
                    self.give_share_back(share);
                    self.missing.insert(path, (Queued { how, ..queued }, Instant::now()));
                    return;
                }
            }
            Reply::Ours => {}
            Reply::Panicked => {
                let key = queued.path.as_os_str().as_bytes();
                let before = self.strikes.get(key).filter(|(of, _)| *of == queued.stamp).map_or(0, |(_, count)| *count);
                self.strike(key, queued.stamp, before + 1);
                self.give_share_back(share);
                if before + 1 >= STRIKES_MAX {
                    return self.replied_rejected(&queued.path, queued.stamp, poison(&queued.path));
                }
                return self.put_off_queued(queued, "the program failed on reading this file".to_owned());
            }
            Reply::Trouble(message) => {
                self.give_share_back(share);
                return self.put_off_queued(queued, message);
            }
        }
        self.give_share_back(share);
        self.look_at_dirty(&queued.path, queued.stamp);
    }

    /// Should the file come again, the answers that it was to use are used.
    pub(super) fn keep_source(&mut self, queued: &Queued) {
        if let (Some(job), _) = queued.source() {
            self.suspended.insert(queued.path.as_os_str().as_bytes().into(), job);
        }
    }

    pub(super) fn replied_rejected(&mut self, path: &Path, stamp: Stamp, reply: Reply) {
        if let Reply::Rejected { code, message, way_out } = reply {
            self.reject(path, stamp, code, message, way_out);
        }
    }

    pub(super) fn place(&mut self, mut job: Job) -> u32 {
        job.account = self.shared.account_of(job.stamp.owner);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.jobs.push(None);
            self.pipe.push(0);
            (self.jobs.len() - 1) as u32
        });
        if let Some(folder) = job.folder.filter(|folder| *folder != job.id) {
            self.folders.insert(job.id, folder);
        }
        if let Some(result) = result_that_looks_like_input(&job) {
            self.own_results.insert(result);
        }
        let shown = job.path.to_string_lossy();
        self.attention.retain(|row| row.path != shown);
        self.suspended.remove(job.path.as_os_str().as_bytes());
        self.refused.remove(job.path.as_os_str().as_bytes());
        self.by_path.insert(Arc::clone(&job.path), slot);
        self.turns.add(job.stamp.owner, slot);
        self.jobs[slot as usize] = Some(job);
        slot
    }

    pub(super) fn begin_small(&mut self, queued: Queued, file: SmallFile) {
        let SmallFile { plan, stamp, sha256, contents, lines, from, mut answers, replaces } = file;
        let id = self.new_job();
        let plan = Arc::new(plan);
        let retry_failed = matches!(queued.how, Wanted::Fresh { retry_failed: true, .. });
        let claim = Claim {
            job: id,
            path: Bytes::of_path(&queued.path),
            stamp,
            sha256: sha256.clone(),
            kind: queued.kind,
            plan: (*plan).clone(),
            from,
            retry_failed,
            at_seconds: super::telling::now_seconds(),
            held: Held::Here(Bytes(contents)),
        };
        let slot = self.place(new_job(id, &queued, stamp, sha256, plan, replaces, Body::Small(Small::default())));
        if let Some(log) = &mut self.log {
            self.pipe[slot as usize] += 1;
            log.append(Some(token(slot, CLAIM, None)), |record| Note::Claim(claim).push(record));
        }
        self.begin_lines(slot, id, lines, &HashMap::new(), &mut answers);
    }

    /// Lines that the log has are settled; those that an earlier job answered, and bad ones, are recorded; the others are
    /// asked.
    pub(super) fn begin_lines(
        &mut self,
        slot: u32,
        id: JobId,
        lines: Vec<Understood>,
        settled: &HashMap<u64, u64>,
        answers: &mut HashMap<journal::Key, String>,
    ) {
        let (Some(job), Some(log)) = (self.jobs[slot as usize].as_mut(), self.log.as_mut()) else { return };
        let Body::Small(small) = &mut job.body else { return };
        job.share.lines = lines.len() as u64;
        self.shares.entry(job.share.owner).or_default().lines += lines.len() as u64;
        let mut seen: HashMap<journal::key::Hash, u32> = HashMap::new();
        for (index, understood) in lines.into_iter().enumerate() {
            let nth = seen.entry(understood.hash).or_default();
            let key = journal::Key { hash: understood.hash, nth: *nth };
            *nth += 1;
            let number = understood.line;
            let token = Some(token(slot, index as u32, None));
            let in_log = &mut self.pipe[slot as usize];
            match (settled.get(&number), answers.remove(&key), understood.request) {
                (Some(offset), ..) => small.push_settled(number, key, *offset),
                (None, Some(answer), _) => {
                    *in_log += 1;
                    log.append(token, |record| push_line(record, id, |record| renumber(record, &answer, number)));
                    small.push_recorded(number, key);
                }
                (None, None, Ok(request)) => small.push_waiting(number, key, request),
                (None, None, Err(bad)) => {
                    let line = Line { line: number, key, form: bad.form, correlation: bad.correlation.as_ref() };
                    let outcome = Outcome { result: Err(bad.failure), attempts: 0, seconds: 0.0 };
                    *in_log += 1;
                    log.append(token, |record| {
                        push_line(record, id, |record| line.push_outcome(record, None, Flags::default(), &outcome));
                    });
                    job.counts.settled(&outcome, Flags::default());
                    self.shared.counts.settled(&outcome, Flags::default());
                    small.push_recorded(number, key);
                }
            }
        }
        self.end_if_settled(slot);
    }

    pub(super) fn begin_resumed(&mut self, queued: Queued, resumed: Resumed) {
        let Resumed { claim, lines, mut answers, replaces } = resumed;
        let Wanted::Resume { claim_at, answers: ref settled, .. } = queued.how else { return };
        let (id, plan) = (claim.job, Arc::new(claim.plan));
        let folder = match claim.held {
            Held::Folder(folder) => Some(folder),
            Held::Here(_) => None,
        };
        let body = if folder.is_some() { Body::Opening } else { Body::Small(Small::default()) };
        let mut job = new_job(id, &queued, claim.stamp, claim.sha256, plan, replaces, body);
        (job.claim_at, job.folder, job.retry_failed) = (claim_at, folder, claim.retry_failed);
        if folder.is_some() {
            // They may not have come as far as its journal.
            job.seeds = answers.values().cloned().collect();
        }
        let slot = self.place(job);
        match folder {
            Some(folder) if large::has_copy(&self.store.job(folder)) => self.open_large(slot),
            Some(_) => self.take_again(slot, &queued.path),
            None => self.begin_lines(slot, id, lines, settled, &mut answers),
        }
    }

    /// Puts a job back to those that wait, to go on from the log.
    pub(super) fn requeue(&mut self, slot: u32) {
        if let Some(queued) = self.take_back(slot) {
            self.enqueue(queued);
        }
    }

    /// Takes a job away, as one that waits.
    pub(super) fn take_back(&mut self, slot: u32) -> Option<Queued> {
        let job = self.jobs.get_mut(slot as usize).and_then(Option::take)?;
        self.by_path.remove(&job.path);
        self.free_place(slot);
        self.give_share_back(job.share);
        let answers = match &job.body {
            Body::Small(small) => small.answers(),
            _ => job.answers,
        };
        let how = match job.claim_at {
            0 => Wanted::Fresh { from: job.origin, retry_failed: job.retry_failed },
            claim_at => Wanted::Resume { job: job.id, claim_at, answers, retry_failed: job.retry_failed },
        };
        Some(Queued { path: Arc::clone(&job.path), kind: job.kind, stamp: job.stamp, how })
    }
}

/// What a queued file takes of its owner's share.
pub(super) fn booked(queued: &Queued) -> Booked {
    Booked { owner: queued.stamp.owner, bytes: queued.stamp.bytes, lines: 0 }
}

/// What an open file may take of memory.
fn weight(bytes: u64) -> u64 {
    bytes.min(OPEN_BYTES_MAX)
}

pub(super) fn new_job(
    id: JobId,
    queued: &Queued,
    stamp: Stamp,
    sha256: String,
    plan: Arc<Plan>,
    replaces: Option<Fingerprint>,
    body: Body,
) -> Job {
    Job {
        id,
        path: Arc::clone(&queued.path),
        kind: queued.kind,
        account: 0,
        held: 0,
        stamp,
        sha256,
        plan,
        claim_at: 0,
        replaces,
        began: Instant::now(),
        counts: Arc::default(),
        body,
        share: booked(queued),
        put_back: false,
        given_up: None,
        gone_since: None,
        status_at: None,
        folder: None,
        from: None,
        origin: queued.source().0,
        retry_failed: matches!(queued.how, Wanted::Fresh { retry_failed: true, .. }),
        before: None,
        lines: None,
        answers: HashMap::new(),
        seeds: Vec::new(),
    }
}

/// The name of a job's result, when it looks like that of an input.
fn result_that_looks_like_input(job: &Job) -> Option<Box<[u8]>> {
    let result = job.path.with_file_name(job.plan.result_name.path());
    let name = classify(result.file_name()?);
    (name != Name::Ignored).then(|| result.as_os_str().as_bytes().into())
}

/// Appends a line record with another line number.
fn renumber(record: &mut Vec<u8>, line: &str, number: u64) {
    let rest = line.strip_prefix("{\"line\":").and_then(|rest| Some(&rest[rest.find(',')?..])).unwrap_or(line);
    record.extend_from_slice(format!("{{\"line\":{number}{rest}").as_bytes());
}
