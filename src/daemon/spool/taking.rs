//! From a file that was found to a job that runs.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::claim::{LargeFile, Order, Reply, Resumed, SmallFile, What, poison};
use super::super::history::Open;
use super::super::job::{Body, Job, Small};
use super::super::large::{self, LargeMode};
use super::super::log::{Bytes, Claim, Done, End, Held, JobId, Note, push_line};
use super::super::names::{Kind, Name, classify};
use super::super::plan::Plan;
use super::super::scan::{Found, Told};
use super::super::snapshot::{Copied, Refused};
use super::super::stamp::Stamp;
use super::{Booked, CLAIM, Claiming, LARGE_MAX, OPEN_BYTES_MAX, Occurrence, Queued, Spool, Wanted, token};
use crate::filter::Understood;
use crate::journal::publish::Fingerprint;
use crate::journal::{self, Line};
use crate::line::Outcome;
use crate::line::completion::Flags;
use crate::report::{Audience as _, Counts};

/// A file that is still being written is looked at again after this time.
const RIPEN: Duration = Duration::from_secs(1);
/// A file that is not there is a matter of its folder's absence only if that is known after this time.
const MISSED: Duration = Duration::from_secs(3);
/// So often in a row may reading a file end the daemon.
const STRIKES_MAX: u32 = 3;

impl Spool {
    /// Counts what is done.
    pub(super) fn remember_ends(&mut self) {
        self.files.done = self.done.len() as u64;
        self.files.failed = self.done.values().filter(|ended| ended.has_failures).count() as u64;
    }

    /// Has the file in mind whose reading ended the process before.
    pub(super) fn note_strike(&mut self, left_behind: Option<PathBuf>) {
        let Some(path) = left_behind else { return };
        let key: Box<[u8]> = path.as_os_str().as_bytes().into();
        let Ok(metadata) = self.absolute(&path).symlink_metadata() else { return };
        let stamp = Stamp::of(&metadata);
        let before = self.strikes.get(&key).filter(|(of, _)| *of == stamp).map_or(0, |(_, count)| *count);
        self.strike(&key, stamp, before + 1);
    }

    fn strike(&mut self, path: &[u8], stamp: Stamp, count: u32) {
        self.strikes.insert(path.into(), (stamp, count));
        self.append_note(&Note::Strike { path: Bytes(path.to_vec()), stamp, count });
    }

    pub(super) fn append_note(&mut self, note: &Note) {
        if let Some(log) = &mut self.log {
            log.append(None, |record| note.push(record));
        }
    }

    /// Puts jobs that the log says are open to the front of what waits.
    pub(super) fn go_on_with(&mut self, open: BTreeMap<JobId, Open>) {
        self.look_for_cancels(open.values());
        for (_, Open { claim, claim_at, answers }) in open {
            let path: Arc<Path> = claim.path.path().into();
            if let Held::Folder(folder) = claim.held {
                self.folders.insert(claim.job, folder);
            }
            if self.absolute(&path).symlink_metadata().is_err() {
                // Should it come back, its answers are used.
                self.suspended.insert(path.as_os_str().as_bytes().into(), claim.job);
                continue;
            }
            let key = path.as_os_str().as_bytes();
            if self.strikes.get(key).is_some_and(|(of, count)| *of == claim.stamp && *count >= STRIKES_MAX) {
                self.suspended.insert(key.into(), claim.job);
                self.replied_rejected(&path, claim.stamp, poison(&path));
                continue;
            }
            let answers = answers.into_iter().map(|(line, (offset, _))| (line, offset)).collect();
            let how = Wanted::Resume { job: claim.job, claim_at, answers };
            self.enqueue(Queued { path, kind: claim.kind, stamp: claim.stamp, how });
        }
    }

    pub(super) fn enqueue(&mut self, queued: Queued) {
        self.queue.add(queued.stamp.owner, queued);
    }

    /// Takes in what the scanner says.
    pub(super) fn told(&mut self, told: Told) {
        match told {
            Told::Found(found) => found.into_iter().for_each(|found| self.found(found)),
            Told::Gone(paths) => paths.iter().for_each(|path| self.gone(path)),
            Told::Scanned { files, unsettled, took } => {
                tracing::debug!(files, unsettled, took_seconds = took.as_secs_f64(), "scanned");
                self.scanned = Some(unsettled);
            }
            Told::Lost(reason) => self.pause(reason),
            Told::Back => {
                self.resume();
                for (queued, _) in std::mem::take(&mut self.missing).into_values() {
                    self.enqueue(queued);
                }
            }
            Told::Warning(message) => tracing::warn!("{message}"),
        }
    }

    fn found(&mut self, found: Found) {
        let Found { path, name, stamp, regular, .. } = found;
        let path: Arc<Path> = path.into();
        let key = path.as_os_str().as_bytes();
        match name {
            Name::Ignored => {}
            Name::Cancel | Name::Retry => self.control(&path, name),
            Name::Input(_) if self.own_results.contains(key) => {}
            Name::Input(_) if !regular => {
                let way_out = "put a regular file there: a copy of what is meant".to_owned();
                self.reject(&path, stamp, "not_regular", "it is no regular file".to_owned(), way_out);
            }
            Name::Input(kind) => self.input(path, kind, stamp),
        }
    }

    fn input(&mut self, path: Arc<Path>, kind: Kind, stamp: Stamp) {
        let key = path.as_os_str().as_bytes();
        if let Some(slot) = self.by_path.get(&path).copied() {
            return self.job_file_found(slot, &path, kind, stamp);
        }
        let is_done = self.done.get(key).is_some_and(|ended| ended.stamp == stamp);
        let is_refused = self.refused.get(key) == Some(&stamp);
        if let Some(ended) = self.done.get(key).filter(|ended| is_done && ended.end == End::Published).copied() {
            self.archive_again(&ended);
        }
        if is_done || is_refused {
            return;
        }
        if self.strikes.get(key).is_some_and(|(of, count)| *of == stamp && *count >= STRIKES_MAX) {
            return self.replied_rejected(&path, stamp, poison(&path));
        }
        if self.done.get(key).is_some_and(|ended| ended.end == End::Published) {
            self.stale.insert(Arc::clone(&path));
        }
        let waited = self.unripe.remove(&path);
        let waited = waited.or_else(|| self.missing.remove(&path).map(|(queued, _)| queued));
        let waited = waited.or_else(|| self.blocked.remove(&path).map(|(queued, _)| queued));
        let (from, retry_failed) = waited.map_or((None, false), |queued| queued.source());
        let from = from.or_else(|| self.suspended.get(key).copied());
        self.enqueue(Queued { path, kind, stamp, how: Wanted::Fresh { from, retry_failed } });
    }

    /// What was told of a file while something was done for it, unless that was done for just this.
    pub(super) fn look_at_dirty(&mut self, path: &Arc<Path>, handled: Stamp) {
        if let Some((kind, stamp)) = self.dirty.remove(path)
            && stamp != handled
        {
            self.input(Arc::clone(path), kind, stamp);
        }
    }

    /// A file that has a job was found again: changed, or back.
    fn job_file_found(&mut self, slot: u32, path: &Arc<Path>, kind: Kind, stamp: Stamp) {
        let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        job.gone_since = None;
        let is_waiting = matches!(job.body, Body::Waiting);
        if job.stamp == stamp && !is_waiting {
            self.dirty.remove(path);
        } else {
            self.dirty.insert(Arc::clone(path), (kind, stamp));
            if is_waiting {
                self.take_again(slot, path);
            }
        }
    }

    /// A job's file has changed, and is stable again: what is new in it is asked.
    pub(super) fn take_again(&mut self, slot: u32, path: &Arc<Path>) {
        let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::take) else { return };
        self.by_path.remove(path);
        self.free_place(slot);
        self.give_share_back(job.share);
        let stamp = self.dirty.remove(path).map_or(job.stamp, |(_, stamp)| stamp);
        self.enqueue(Queued::fresh(Arc::clone(path), job.kind, stamp, Some(job.id)));
    }

    fn gone(&mut self, path: &Path) {
        let key = path.as_os_str().as_bytes();
        self.refused.remove(key);
        self.blocked.remove(path);
        self.unripe.remove(path);
        self.stale.remove(path);
        self.missing.remove(path);
        self.dirty.remove(path);
        self.put_off_waits.remove(path);
        if let Some(job) = self.by_path.get(path).and_then(|slot| self.jobs[*slot as usize].as_mut()) {
            job.gone_since.get_or_insert_with(Instant::now);
        }
    }

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

    fn claim(&mut self, queued: Queued) {
        if let Some(slot) = self.by_path.get(&queued.path).copied() {
            return self.job_file_found(slot, &queued.path, queued.kind, queued.stamp);
        }
        if self.is_claiming(&queued.path) {
            self.dirty.insert(Arc::clone(&queued.path), (queued.kind, queued.stamp));
            return;
        }
        let key = queued.path.as_os_str().as_bytes();
        let before = self.done.get(key).copied();
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
    fn keep_source(&mut self, queued: &Queued) {
        if let (Some(job), _) = queued.source() {
            self.suspended.insert(queued.path.as_os_str().as_bytes().into(), job);
        }
    }

    fn replied_rejected(&mut self, path: &Path, stamp: Stamp, reply: Reply) {
        if let Reply::Rejected { code, message, way_out } = reply {
            self.reject(path, stamp, code, message, way_out);
        }
    }

    fn place(&mut self, mut job: Job) -> u32 {
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
        self.suspended.remove(job.path.as_os_str().as_bytes());
        self.refused.remove(job.path.as_os_str().as_bytes());
        self.by_path.insert(Arc::clone(&job.path), slot);
        self.turns.add(job.stamp.owner, slot);
        self.jobs[slot as usize] = Some(job);
        slot
    }

    fn begin_small(&mut self, queued: Queued, file: SmallFile) {
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
    fn begin_lines(
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
                    small.push_recorded(number, key);
                }
            }
        }
        self.end_if_settled(slot);
    }

    fn begin_resumed(&mut self, queued: Queued, resumed: Resumed) {
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
        let slot = self.place(job);
        match folder {
            Some(folder) if large::has_copy(&self.store.job(folder)) => self.open_large(slot),
            Some(_) => self.take_again(slot, &queued.path),
            None => self.begin_lines(slot, id, lines, settled, &mut answers),
        }
    }

    fn begin_large(&mut self, queued: Queued, file: LargeFile) {
        if self.large_count() >= LARGE_MAX {
            // Its turn comes when another large one has ended; small ones may pass.
            self.give_share_back(booked(&queued));
            self.waiting_large.push_back(queued);
            return;
        }
        let id = self.new_job();
        let folder = file.folder.or_else(|| self.folder_of_open(file.from)).unwrap_or(id);
        let retry_failed = matches!(queued.how, Wanted::Fresh { retry_failed: true, .. });
        let plan = Arc::new(file.plan.clone());
        let mut job = new_job(id, &queued, file.stamp, String::new(), plan, file.replaces.clone(), Body::Opening);
        (job.folder, job.retry_failed, job.from) = (Some(folder), retry_failed, file.from);
        job.seeds = file.answers.values().cloned().collect();
        job.before.clone_from(&file.before);
        let slot = self.place(job);
        let (tell, shutdown) = (self.tell(), self.shared.shutdown.clone());
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || {
            let made = store.make_job(folder).map_err(Refused::Io);
            let go_on = || shutdown.level() == crate::shutdown::Level::Running;
            let copied = made.and_then(|into| large::copy(&file, &into, go_on));
            tell(Occurrence::Copied(slot, id, copied));
        });
    }

    /// The folder of a job that was large when its file changed.
    fn folder_of_open(&self, from: Option<JobId>) -> Option<JobId> {
        let from = from?;
        let folder = self.folders.get(&from).copied().unwrap_or(from);
        self.store.job(folder).is_dir().then_some(folder)
    }

    /// A large file was copied: its claim is written down, and then its journal opened.
    pub(super) fn copied(&mut self, slot: u32, id: JobId, copied: Result<Copied, Refused>) {
        let Some(job) = self.job(slot, id).filter(|job| job.given_up.is_none()) else { return };
        let path = Arc::clone(&job.path);
        match copied {
            Ok(Copied { sha256, lines, .. }) => {
                let sha256 = journal::key::hex(&sha256);
                if let Some(before) = job.before.take().filter(|before| before.sha256 == sha256) {
                    let done = Done { stamp: job.stamp, ..*before };
                    self.drop_job(slot);
                    self.stale.remove(&path);
                    return self.note_done(done);
                }
                job.lines = Some(lines);
                job.share.lines = lines;
                job.sha256.clone_from(&sha256);
                let owner = job.share.owner;
                let claim = Claim {
                    job: id,
                    path: Bytes::of_path(&job.path),
                    stamp: job.stamp,
                    sha256,
                    kind: job.kind,
                    plan: (*job.plan).clone(),
                    from: job.from,
                    retry_failed: job.retry_failed,
                    at_seconds: super::telling::now_seconds(),
                    held: Held::Folder(job.folder.unwrap_or(id)),
                };
                self.shares.entry(owner).or_default().lines += lines;
                if let Some(log) = &mut self.log {
                    self.pipe[slot as usize] += 1;
                    log.append(Some(token(slot, CLAIM, None)), |record| Note::Claim(claim).push(record));
                }
            }
            Err(Refused::NotYet) => {
                let (stamp, kind) = (job.stamp, job.kind);
                let how = Wanted::Fresh { from: job.origin, retry_failed: job.retry_failed };
                self.drop_job(slot);
                self.unripe.insert(Arc::clone(&path), Queued { path, kind, stamp, how });
            }
            Err(Refused::Gone) => self.drop_job(slot),
            Err(Refused::Reject { code, message, way_out }) => {
                let stamp = job.stamp;
                self.drop_job(slot);
                self.reject(&path, stamp, code, message, way_out);
            }
            Err(Refused::Io(error)) => {
                let (stamp, kind) = (job.stamp, job.kind);
                let how = Wanted::Fresh { from: job.origin, retry_failed: job.retry_failed };
                self.drop_job(slot);
                self.put_off_queued(Queued { path, kind, stamp, how }, format!("copy the file: {error}"));
            }
        }
    }

    /// Opens the journal of a large job.
    pub(super) fn open_large(&mut self, slot: u32) {
        let config = self.shared.config();
        let Some(job) = self.jobs.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        job.counts = Arc::new(Counts::default());
        let opening = large::Opening {
            folder: self.store.job(job.folder.unwrap_or(job.id)),
            plan: Arc::clone(&job.plan),
            base_url: config.service.base_url.as_str().to_owned(),
            retry_failed: job.retry_failed,
            seeds: std::mem::take(&mut job.seeds),
            line_bytes_max: config.limits.line_bytes_max,
            counts: Arc::clone(&job.counts),
        };
        let id = job.id;
        let tell = self.tell();
        tokio::spawn(async move {
            tell(Occurrence::Opened(slot, id, large::open(opening).await));
        });
    }

    pub(super) fn opened(&mut self, slot: u32, id: JobId, opened: Result<Box<LargeMode>, String>) {
        let path = match self.job(slot, id) {
            Some(job) => Arc::clone(&job.path),
            None => return,
        };
        match opened {
            Ok(large) => {
                if let Some(job) = self.job(slot, id) {
                    job.body = Body::Large(large);
                }
            }
            Err(message) => {
                // What is there is kept: the job is gone on with when the trouble is over.
                let _ = path;
                self.put_off(slot, message);
            }
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
            _ => HashMap::new(),
        };
        let how = match job.claim_at {
            0 => Wanted::Fresh { from: job.origin, retry_failed: job.retry_failed },
            claim_at => Wanted::Resume { job: job.id, claim_at, answers },
        };
        Some(Queued { path: Arc::clone(&job.path), kind: job.kind, stamp: job.stamp, how })
    }

    /// Files that were not there: had their folder gone, it would be known by now.
    pub(super) fn forget_missing(&mut self, now: Instant) {
        if self.trouble.is_none() {
            self.missing.retain(|_, (_, since)| now.duration_since(*since) < MISSED);
        }
    }

    /// Files that were being written to: whether they still are is seen when they are taken.
    pub(super) fn look_at_unripe(&mut self, now: Instant) {
        if self.unripe.is_empty() || self.unripe_looked.is_some_and(|at| now.duration_since(at) < RIPEN) {
            return;
        }
        self.unripe_looked = Some(now);
        for queued in std::mem::take(&mut self.unripe).into_values() {
            self.enqueue(queued);
        }
    }
}

/// What a queued file takes of its owner's share.
fn booked(queued: &Queued) -> Booked {
    Booked { owner: queued.stamp.owner, bytes: queued.stamp.bytes, lines: 0 }
}

/// What an open file may take of memory.
fn weight(bytes: u64) -> u64 {
    bytes.min(OPEN_BYTES_MAX)
}

fn new_job(
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
