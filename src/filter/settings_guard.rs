//! Watches over a run whose settings differ from the journal's: when that makes every answer unusable, nothing is sent.
//!
//! Nobody can know that of an input which has not been read; so the first lines are looked at, as many as the window
//! holds, until one of them is found in the journal. When none is, but some would be under the settings from before, then
//! it is the settings; otherwise the lines are new. What comes through a pipe may pause; then what has come decides.

use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::intake::Intake;
use super::understanding::{Understanding, Understood};
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
    /// How lines were understood before.
    before: Understanding,
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

    /// A guard over settings that differ from those `before`, which looks at no more than so many lines and bytes.
    pub fn watching(differences: Vec<String>, before: Understanding, (lines_max, bytes_max): (usize, usize)) -> Self {
        let silence = Box::pin(sleep(PATIENCE));
        let watch = Some(Watch { differences, before, lines_max, bytes_max, bytes: 0, silence });
        Self { watch, seen: VecDeque::new() }
    }

    /// Whether it still has to look.
    pub fn is_watching(&self) -> bool {
        self.watch.is_some()
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
            let decides = match intake.poll_next(cx) {
                Poll::Ready(Some(understood)) => {
                    let found = understood.request.is_ok() && has_answer(&understood.hash);
                    watch.bytes += understood.weight_bytes;
                    watch.silence.as_mut().reset(Instant::now() + PATIENCE);
                    self.seen.push_back(understood);
                    if found {
                        self.watch = None;
                        break;
                    }
                    self.seen.len() >= watch.lines_max || watch.bytes >= watch.bytes_max
                }
                Poll::Ready(None) => true,
                Poll::Pending if self.seen.is_empty() || watch.silence.as_mut().poll(cx).is_pending() => {
                    return Poll::Pending;
                }
                Poll::Pending => true,
            };
            if decides && watch.answered_before(&self.seen, &has_answer) {
                return Poll::Ready(watch.refuse());
            }
            if decides {
                self.watch = None;
            }
        }
        match self.seen.pop_front() {
            Some(understood) => Poll::Ready(Judgement::Next(Some(Box::new(understood)))),
            None => intake.poll_next(cx).map(|next| Judgement::Next(next.map(Box::new))),
        }
    }
}

impl Watch {
    /// Whether the journal answers any of these lines under the settings from before.
    fn answered_before(&self, seen: &VecDeque<Understood>, has_answer: impl Fn(&Hash) -> bool) -> bool {
        let mut records = seen.iter().filter_map(|understood| understood.record.as_deref());
        records.any(|record| self.before.hash_of(record).is_some_and(|hash| has_answer(&hash)))
    }

    fn refuse(&self) -> Judgement {
        let differences = self.differences.join("; ");
        let message = format!("the journal answers none of these lines, and the settings differ: {differences}");
        Judgement::Refuse(Stop::new(Exit::Input, message).way_out(
            "give the same settings as before, or name another output or journal; --fresh asks everything again, and pays for it",
        ))
    }
}
