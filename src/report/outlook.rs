//! The outlook: how many lines there are and how long they will take, told while the first of them are already sent.
//!
//! Invariants: nobody waits for it, since it has a thread of its own; after the run's end it is silent; it says something
//! once before the run, and once more when what was learnt of the service changes what there is to say.

use std::fs::File;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::counting::count;
use super::progress::Voice;
use super::quotas::AllQuotas;
use super::{Counts, Reporter};
use crate::api::token::jwt_expiry;
use crate::config::{Config, EndpointConfig, Separator, Shard, Verbosity};
use crate::flow::forecast::{End, Ending, Forecast, Plan};

/// The first answers may have waited for a model to be loaded, and say little of the others.
const ANSWERS_COLD: u64 = 10;
/// So many further answers say how fast the service is.
const ANSWERS_ENOUGH: u64 = 10;
/// After so long, what has come by then has to do.
const ANSWERS_WAIT: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What there is to do.
#[derive(Debug)]
pub enum Lines {
    /// So many lines; what they take is told elsewhere.
    Known(u64),
    /// As many as are found in these files.
    Counted {
        /// The inputs; all of them can be read at any place.
        files: Vec<File>,
        /// What ends a line.
        separator: Separator,
        /// Which of them are meant.
        shard: Option<Shard>,
        /// Lines that a journal answers, at most.
        answered: u64,
    },
}

/// What a run shares with the thread that looks ahead.
#[derive(Debug, Default)]
pub struct Outlook {
    said: Arc<Mutex<Said>>,
    stop: Mutex<Option<Sender<()>>>,
}

/// What was said so far.
#[derive(Debug, Default)]
struct Said {
    /// Whether the run has ended.
    ended: bool,
    /// The time that was foretold before the run.
    before: Option<Duration>,
}

impl Outlook {
    /// The time that was foretold before the run, if it was.
    pub fn before(&self) -> Option<Duration> {
        lock(&self.said).before
    }

    /// From here on nothing is said.
    pub fn end(&self) {
        lock(&self.said).ended = true;
        drop(self.stop.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

fn lock(said: &Mutex<Said>) -> MutexGuard<'_, Said> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reporter {
    /// Begins to look ahead at a run that begins now.
    pub fn look_ahead(&self, config: &Config, lines: Lines) {
        let total = Arc::clone(self.progress.total());
        let (files, separator, shard, answered) = match lines {
            Lines::Known(lines) => return total.store(lines, Relaxed),
            Lines::Counted { files, separator, shard, answered } => (files, separator, shard, answered),
        };
        let forecaster = Forecaster::of(self, config, answered);
        if forecaster.is_none() && !self.progress.is_shown() {
            return;
        }
        let (sender, stop) = channel();
        *self.outlook.stop.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        let looking = move || {
            let Some(lines) = count(&files, separator, shard) else { return };
            total.store(lines, Relaxed);
            forecaster.into_iter().for_each(|forecaster| forecaster.run(lines, &stop));
        };
        // Without the thread there is nothing to show, and that is all.
        let _ = std::thread::Builder::new().name("outlook".to_owned()).spawn(looking);
    }
}

struct Forecaster {
    quotas: Option<AllQuotas>,
    ends: Ends,
    counts: Arc<Counts>,
    answered: u64,
    began: Instant,
    said: Arc<Mutex<Said>>,
    voice: Voice,
}

impl Forecaster {
    /// `None` when there is nothing that it could say.
    fn of(reporter: &Reporter, config: &Config, answered: u64) -> Option<Self> {
        let (quotas, ends) = (AllQuotas::of(&config.service.endpoints), Ends::of(config, reporter.began_at));
        if config.report.verbosity == Verbosity::Quiet || quotas.is_none() && ends.0.is_empty() {
            return None;
        }
        Some(Self {
            quotas,
            ends,
            counts: Arc::clone(&reporter.counts),
            answered,
            began: reporter.began,
            said: Arc::clone(&reporter.outlook.said),
            voice: reporter.progress.voice().clone(),
        })
    }

    fn run(self, lines: u64, stop: &Receiver<()>) {
        // Which of the journal's answers are meant is not known before all lines were met.
        let left = lines.saturating_sub(self.answered);
        if left == 0 {
            return;
        }
        let first = self.forecast(left, None);
        lock(&self.said).before = first.time();
        if first.time().is_some() {
            self.say(&first.to_string());
        } else if let Some(end) = self.ends_told() {
            self.say(&format!("{first}; {end}"));
        }
        let Some(speed) = self.measured(stop) else { return };
        let settled = self.counts.settled().max(self.answered + self.counts.answered_here());
        let second = self.forecast(lines.saturating_sub(settled), Some(speed));
        // A quota of tokens says nothing before it is known how many tokens a line takes.
        let is_news = first.time().is_none() && self.quotas.is_some();
        if second.time().is_some_and(|time| !time.is_zero()) && (is_news || second.is_warning() && !first.is_warning())
        {
            self.say(&second.to_string());
        }
    }

    /// How many lines a second the service answers, once that can be told; `None` when the run ends before.
    fn measured(&self, stop: &Receiver<()>) -> Option<f64> {
        let cold = self.answers(ANSWERS_COLD, stop)?;
        let all = self.answers(ANSWERS_COLD + ANSWERS_ENOUGH, stop)?;
        // A service so slow that these are all there are was not only slow to begin.
        let (answers, seconds) = if all.0 > cold.0 { (all.0 - cold.0, all.1 - cold.1) } else { all };
        self.counts.lines_per_second(seconds / answers as f64)
    }

    /// Waits for so many answers, or for some when that takes too long. How many there are, and the seconds they took.
    fn answers(&self, wanted: u64, stop: &Receiver<()>) -> Option<(u64, f64)> {
        loop {
            let answers = self.counts.answered_here();
            if answers >= wanted || answers > 0 && self.began.elapsed() >= ANSWERS_WAIT {
                return Some((answers, self.counts.seconds_answered()));
            }
            if stop.recv_timeout(LOOK_EVERY) != Err(RecvTimeoutError::Timeout) {
                return None;
            }
        }
    }

    /// How long so many more lines take, at a speed that is known once some were answered.
    fn forecast(&self, left: u64, lines_per_second: Option<f64>) -> Forecast {
        let (done, tokens_each) = (self.counts.answered_here(), self.counts.tokens_each());
        // Without a speed this is before the run: what is sent already counts as still to be sent.
        let done = if lines_per_second.is_some() { done } else { 0 };
        let passed = if lines_per_second.is_some() { self.began.elapsed() } else { Duration::ZERO };
        let plan = Plan {
            lines: left,
            quota: self.quotas.as_ref().and_then(|quotas| quotas.decisive(done + left, tokens_each)),
            lines_per_second,
            ends: self.ends.now(),
        };
        plan.forecast(|lines| match &self.quotas {
            Some(quotas) => {
                quotas.time_for(Duration::ZERO, done + lines, tokens_each, lines_per_second).saturating_sub(passed)
            }
            None => Duration::try_from_secs_f64(lines as f64 / lines_per_second.unwrap_or(f64::INFINITY))
                .unwrap_or(Duration::MAX),
        })
    }

    /// What ends because somebody said so; a token that expires soon is told of anyway.
    fn ends_told(&self) -> Option<String> {
        let ends = self.ends.now().into_iter().filter(|end| end.of != Ending::Token);
        Some(ends.map(|end| end.to_string()).collect::<Vec<_>>().join("; ")).filter(|told| !told.is_empty())
    }

    fn say(&self, message: &str) {
        let said = lock(&self.said);
        if !said.ended {
            self.voice.say(&format!("anvil-filter: {message}"));
        }
    }
}

/// What ends by itself, whether or not the lines are done: what, when, and how long before that nothing more is sent.
pub struct Ends(Vec<(Ending, SystemTime, Duration)>);

impl Ends {
    /// Those of a run that began then. Tokens are read, not verified.
    pub fn of(config: &Config, began_at: SystemTime) -> Self {
        let expiry = |endpoint: &EndpointConfig| jwt_expiry(&endpoint.token.read().ok()??);
        let token = config.service.endpoints.iter().filter_map(expiry).min();
        let token = token.map(|at| (Ending::Token, at, Duration::ZERO));
        let deadline = config.clocks.deadline.map(|at| {
            // As the engine keeps it.
            let half = at.duration_since(began_at).unwrap_or_default() / 2;
            (Ending::Deadline, at, config.clocks.drain.min(half))
        });
        let walltime = config.clocks.walltime_end.map(|at| (Ending::Walltime, at, Duration::ZERO));
        Self(token.into_iter().chain(deadline).chain(walltime).collect())
    }

    /// How far off they are.
    pub fn now(&self) -> Vec<End> {
        let now = SystemTime::now();
        let within = |at: SystemTime| at.duration_since(now).unwrap_or_default();
        self.0.iter().map(|(of, at, reserve)| End { of: *of, within: within(*at), reserve: *reserve }).collect()
    }
}
