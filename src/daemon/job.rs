//! One prompt file that is being run. A small one is here altogether; a large one has the machinery of a run with a
//! journal of its own behind it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::large::LargeMode;
use super::log::{Done, End, JobId};
use super::names::Kind;
use super::plan::Plan;
use super::spool::Booked;
use super::stamp::Stamp;
use crate::journal::{self, publish::Fingerprint};
use crate::line::Request;
use crate::report::Counts;

/// A prompt file that is being run.
#[derive(Debug)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// The file, seen from the spool's folder.
    pub path: Arc<Path>,
    /// What it holds.
    pub kind: Kind,
    /// Slots of the engine that it holds while it ends.
    pub held: usize,
    /// Whose key pays, by its place among the accounts.
    pub account: usize,
    /// What it was when it was taken.
    pub stamp: Stamp,
    /// The SHA-256 of its contents.
    pub sha256: String,
    /// How it is run.
    pub plan: Arc<Plan>,
    /// Where its claim begins in the log, once it is durable.
    pub claim_at: u64,
    /// The result that will be replaced.
    pub replaces: Option<Fingerprint>,
    /// When this process took it.
    pub began: Instant,
    /// What has become of its lines.
    pub counts: Arc<Counts>,
    /// What it runs on.
    pub body: Body,
    /// What it takes of its owner's share.
    pub share: Booked,
    /// Whether it goes back to those that wait as soon as all its records are durable.
    pub put_back: bool,
    /// Why no more of it is asked.
    pub given_up: Option<GivenUp>,
    /// Since when its file is missing.
    pub gone_since: Option<Instant>,
    /// When its status file was written last.
    pub status_at: Option<Instant>,
    /// The folder with contents and answers, when it is large.
    pub folder: Option<JobId>,
    /// The job whose answers it uses, out of the log.
    pub from: Option<JobId>,
    /// The job whose answers it was queued to use, wherever they are.
    pub origin: Option<JobId>,
    /// Whether errors are asked again.
    pub retry_failed: bool,
    /// How the file ended before, when the same contents need not be run again.
    pub before: Option<Box<Done>>,
    /// Its lines, blank ones included, as far as they were counted.
    pub lines: Option<u64>,
    /// Where the records of a small one's lines begin, once its result is being made.
    pub answers: HashMap<u64, u64>,
    /// Line records from when the file was small, until they are in its journal.
    pub seeds: Vec<String>,
}

/// What a job runs on.
#[derive(Debug)]
pub enum Body {
    /// Its lines.
    Small(Small),
    /// A large file that is being copied, or whose journal is being opened.
    Opening,
    /// A run with a journal.
    Large(Box<LargeMode>),
    /// Its result is being made.
    Ending,
    /// Its file has changed; it waits until that is stable.
    Waiting,
}

/// Why no more of a job is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// Its owner said so.
    Cancelled,
    /// Its file is gone; should it come back, the answers are used.
    Gone,
}

/// The lines of a small job.
#[derive(Debug, Default)]
pub struct Small {
    lines: Vec<Line>,
    /// No line before this one waits to be asked.
    next: usize,
    /// Lines that have no durable outcome.
    pub unsettled: usize,
    /// Lines that are with the engine.
    pub asked: usize,
}

#[derive(Debug)]
struct Line {
    number: u64,
    key: journal::Key,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Not asked yet.
    Waiting(Box<Request>),
    /// With the engine, or on the way into the log.
    Asked,
    /// Its record begins here.
    Settled(u64),
}

impl Small {
    /// Adds a line that is to be asked.
    pub fn push_waiting(&mut self, number: u64, key: journal::Key, request: Request) {
        self.unsettled += 1;
        self.lines.push(Line { number, key, state: State::Waiting(Box::new(request)) });
    }

    /// Adds a line whose record is on its way into the log.
    pub fn push_recorded(&mut self, number: u64, key: journal::Key) {
        self.unsettled += 1;
        self.lines.push(Line { number, key, state: State::Asked });
    }

    /// Adds a line whose record is durable.
    pub fn push_settled(&mut self, number: u64, key: journal::Key, offset: u64) {
        self.lines.push(Line { number, key, state: State::Settled(offset) });
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// The next line to be asked, if its model `may` be: its place and its request.
    pub fn take(&mut self, may: impl Fn(&str) -> bool) -> Option<(usize, Request)> {
        while let Some(line) = self.lines.get_mut(self.next) {
            if matches!(&line.state, State::Waiting(request) if !may(&request.model)) {
                return None;
            }
            let index = self.next;
            self.next += 1;
            if matches!(line.state, State::Waiting(_))
                && let State::Waiting(request) = std::mem::replace(&mut line.state, State::Asked)
            {
                self.asked += 1;
                return Some((index, *request));
            }
        }
        None
    }

    /// The model of the next line to be asked.
    pub fn next_model(&self) -> Option<&str> {
        self.lines.get(self.next..)?.iter().find_map(|line| match &line.state {
            State::Waiting(request) => Some(&*request.model),
            State::Asked | State::Settled(_) => None,
        })
    }

    /// The number of a line in its file, and its key.
    pub fn line(&self, index: usize) -> Option<(u64, journal::Key)> {
        self.lines.get(index).map(|line| (line.number, line.key))
    }

    /// Where the records of lines begin, by their numbers, as far as they are durable.
    pub fn answers(&self) -> HashMap<u64, u64> {
        let settled = |line: &Line| match line.state {
            State::Settled(offset) => Some((line.number, offset)),
            State::Waiting(_) | State::Asked => None,
        };
        self.lines.iter().filter_map(settled).collect()
    }

    /// A line's record is durable.
    pub fn settle(&mut self, index: usize, offset: u64) {
        let Some(line) = self.lines.get_mut(index) else { return };
        let before = std::mem::replace(&mut line.state, State::Settled(offset));
        self.unsettled -= usize::from(!matches!(before, State::Settled(_)));
    }

    /// Whether every line has its durable outcome.
    pub fn is_settled(&self) -> bool {
        self.unsettled == 0
    }

    /// The engine has stopped, and forgotten what it had.
    pub fn forget_asked(&mut self) {
        self.asked = 0;
    }

    /// Every line with the place of its record, when all are settled.
    pub fn records(&self) -> Vec<(journal::Key, u64)> {
        let settled = |line: &Line| match line.state {
            State::Settled(offset) => Some((line.key, offset)),
            State::Waiting(_) | State::Asked => None,
        };
        self.lines.iter().filter_map(settled).collect()
    }
}

impl Job {
    /// How it ends, with this end and no result.
    pub fn done(&self, end: End, lines: u64, failed: u64, folder: Option<JobId>, at_seconds: u64) -> Done {
        Done {
            job: self.id,
            path: super::log::Bytes::of_path(&self.path),
            stamp: self.stamp,
            sha256: self.sha256.clone(),
            end,
            lines,
            failed,
            result: None,
            result_name: self.plan.result_name.clone(),
            folder,
            at_seconds,
        }
    }

    /// The run of a large one.
    pub fn large(&mut self) -> Option<&mut LargeMode> {
        match &mut self.body {
            Body::Large(large) => Some(large),
            _ => None,
        }
    }

    /// Whether anything of it is with the engine.
    pub fn is_asked(&self) -> bool {
        match &self.body {
            Body::Small(small) => small.asked > 0,
            Body::Large(large) => large.is_asked(),
            Body::Opening | Body::Ending | Body::Waiting => false,
        }
    }
}
