//! Watches over a run whose settings differ from the journal's: when that makes every answer unusable, nothing is sent.
//!
//! Nobody can know that of an input which has not been read; so the first lines are looked at, as many as the window
//! holds, until one of them is found in the journal. What comes through a pipe may pause; then what has come decides.

use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::intake::Intake;
use super::understanding::Understood;
use crate::exit::{Exit, Stop};
use crate::journal::Hash;

/// A pipe that is silent for so long is taken to have said what decides.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks ahead while it has to.
#[derive(Debug)]
pub struct Guard {
    watch: Option<Watch>,
    seen: VecDeque<Understood>,
}

#[derive(Debug)]
struct Watch {
    differences: Vec<String>,
    lines_max: usize,
    bytes_max: usize,
    bytes: usize,
    silence: Pin<Box<Sleep>>,
}

/// What comes of looking for the next record.
#[derive(Debug)]
pub enum Judgement {
    /// A record, or the end.
    Next(Option<Box<Understood>>),
    /// No line that was looked at is in the journal, and the settings say why.
    Refuse(Stop),
}

impl Guard {
    /// A guard that lets everything pass.
    pub fn open() -> Self {
        Self { watch: None, seen: VecDeque::new() }
    }

    /// A guard over differing settings, which looks at no more than so many lines and bytes.
    pub fn watching(differences: Vec<String>, lines_max: usize, bytes_max: usize) -> Self {
        let silence = Box::pin(sleep(PATIENCE));
        let watch = Some(Watch { differences, lines_max, bytes_max, bytes: 0, silence });
        Self { watch, seen: VecDeque::new() }
    }

    /// What was looked at and not handed out.
    pub fn into_seen(self) -> VecDeque<Understood> {
        self.seen
    }

    /// The next record. `has_answer` says whether the journal answers a request.
    pub fn poll_next(
        &mut self,
        intake: &mut Intake,
        has_answer: impl Fn(&Hash) -> bool,
        cx: &mut Context<'_>,
    ) -> Poll<Judgement> {
        while let Some(watch) = &mut self.watch {
            match intake.poll_next(cx) {
                Poll::Ready(Some(understood)) => {
                    let found = understood.request.is_ok() && has_answer(&understood.hash);
                    watch.bytes += understood.weight_bytes;
                    watch.silence.as_mut().reset(Instant::now() + PATIENCE);
                    self.seen.push_back(understood);
                    if found {
                        self.watch = None;
                    } else if self.seen.len() >= watch.lines_max || watch.bytes >= watch.bytes_max {
                        return Poll::Ready(watch.refuse());
                    }
                }
                Poll::Ready(None) if self.seen.iter().any(|understood| understood.request.is_ok()) => {
                    return Poll::Ready(watch.refuse());
                }
                // Nothing would be sent anyway.
                Poll::Ready(None) => self.watch = None,
                Poll::Pending if !self.seen.is_empty() && watch.silence.as_mut().poll(cx).is_ready() => {
                    return Poll::Ready(watch.refuse());
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        match self.seen.pop_front() {
            Some(understood) => Poll::Ready(Judgement::Next(Some(Box::new(understood)))),
            None => intake.poll_next(cx).map(|next| Judgement::Next(next.map(Box::new))),
        }
    }
}

impl Watch {
    fn refuse(&self) -> Judgement {
        let differences = self.differences.join("; ");
        let message = format!("the journal answers none of these lines, and the settings differ: {differences}");
        Judgement::Refuse(Stop::new(Exit::Input, message).way_out(
            "give the same settings as before, or name another output or journal; --fresh asks everything again, and pays for it",
        ))
    }
}
