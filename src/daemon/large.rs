//! A large prompt file: a folder of its own with a private copy and a journal, run by the same machinery as a run of the
//! filter with `--output`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::claim::LargeFile;
use super::plan::Plan;
use super::render::{Hindrance, unchanged};
use super::snapshot::{self, Copied, Refused};
use super::stamp::Stamp;
use crate::engine::{Fit, Key, Mode as _, Room, Slot, Work};
use crate::filter::{
    self, Guard, Intake, Journaled, Ledger, Order, Parts, Place, Rest, SecondReading, Sink, Why, Window,
};
use crate::journal::lock::Holder;
use crate::journal::publish::{Exclusive, Fingerprint};
use crate::journal::{self, Closed, Journal, Known, Opened, Options, Spending, frame};
use crate::line::escape::shown;
use crate::line::{Outcome, Request};
use crate::report::Counts;
use crate::shutdown::Shutdown;

const JOURNAL: &str = "journal";
/// Lines of one file that may be under way, and what they may weigh in memory, in bytes.
const WINDOW_LINES_MAX: usize = 4096;
const WINDOW_BYTES_MAX: usize = 32 << 20;

/// A run with a journal, and what its end needs.
#[derive(Debug)]
pub struct LargeMode {
    mode: Journaled<Arc<Counts>>,
    asked: usize,
    /// Slots of requests that are settled, and not yet durably so.
    held: usize,
    second: Option<SecondReading>,
}

impl LargeMode {
    /// Whether any of its requests is with the engine.
    pub fn is_asked(&self) -> bool {
        self.asked > 0
    }

    /// The next request that fits at least so well, when one is ready.
    pub fn pull(&mut self, room: &Room<'_>, wanted: Fit, cx: &mut std::task::Context<'_>) -> Option<Work> {
        let look = |model: &str, waits: &dyn Fn(&str) -> bool| {
            Some(room.beside(model, waits)).filter(|fit| fit.is_at_least(wanted)).unwrap_or(Fit::None)
        };
        match self.mode.poll_pull(&Room::new(&look), cx) {
            std::task::Poll::Ready(Some(work)) => {
                self.asked += 1;
                Some(work)
            }
            _ => None,
        }
    }

    /// Models for which requests wait.
    pub fn waiting_models(&self) -> impl Iterator<Item = &str> {
        self.mode.waiting_models()
    }

    /// The engine has stopped, and forgotten what it had.
    pub fn forget_asked(&mut self) {
        self.asked = 0;
    }

    /// A request is settled.
    pub fn settle(&mut self, key: Key, request: &Request, outcome: Outcome) -> Slot {
        self.asked -= 1;
        let slot = self.mode.settle(key, request, outcome);
        self.held += usize::from(slot == Slot::Held);
        slot
    }

    /// The run itself.
    pub fn mode(&mut self) -> &mut Journaled<Arc<Counts>> {
        &mut self.mode
    }

    /// Slots that came free since the last call.
    pub fn take_freed(&mut self) -> usize {
        let freed = self.mode.take_freed();
        self.held -= freed;
        freed
    }

    /// Slots that it holds until its answers are durable.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Whether the run is over: every line is settled, or it has failed.
    pub fn is_over(&self) -> bool {
        self.mode.is_complete() || self.mode.has_ended()
    }
}

/// Copies a file into a job's folder. For a thread that may wait.
pub fn copy(file: &LargeFile, folder: &Path, mut go_on: impl FnMut() -> bool) -> Result<Copied, Refused> {
    snapshot::copy(&file.file, &file.stamp, folder, &mut go_on)
}

/// What opening a large job's journal needs.
#[derive(Debug)]
pub struct Opening {
    /// The job's folder, with the copy in it.
    pub folder: PathBuf,
    /// How the file is run.
    pub plan: Arc<Plan>,
    /// The service, for the record.
    pub base_url: String,
    /// Whether errors are asked again.
    pub retry_failed: bool,
    /// Line records that were made when the file was small.
    pub seeds: Vec<String>,
    /// The longest line, in bytes.
    pub line_bytes_max: usize,
    /// What has become of the lines.
    pub counts: Arc<Counts>,
}

/// Opens the journal of a large job, and begins to read its copy.
pub async fn open(opening: Opening) -> Result<Box<LargeMode>, String> {
    let Opening { folder, plan, base_url, retry_failed, seeds, line_bytes_max, counts } = opening;
    let path = folder.join(JOURNAL);
    let holder = Holder::this_process(None).map_err(|error| format!("find out who this process is: {error}"))?;
    let settings = plan.settings(&base_url);
    let options = Options { path: path.clone(), holder, settings: settings.clone(), fresh: false, retry_failed };
    let told = |error: journal::Error| error.to_string();
    let mut opened = Journal::open(options.clone(), || false).await.map_err(told)?;
    if !seeds.is_empty() && opened.known.answers + opened.known.failures == 0 {
        seed(opened.journal, seeds).await.map_err(told)?;
        opened = Journal::open(options, || false).await.map_err(told)?;
    }
    let Opened { mut journal, known, .. } = opened;
    let records = journal.run(|keeper| keeper.records()).await.map_err(told)?;
    let input = folder.join(snapshot::COPY_NAME);
    let reading = |error: std::io::Error| format!("read {}: {error}", shown(&input));
    let source = filter::reader::open(&input).map_err(reading)?;
    let second = source.again().map_err(reading)?.map(|again| SecondReading::Again(vec![again]));
    let understanding = plan.understanding(line_bytes_max);
    let take = move |line, found: filter::Found<'_>| understanding.of(line, found);
    let blocks = filter::reader::start(vec![source], plan.split(line_bytes_max), None, take).map_err(reading)?;
    let parts = Parts {
        intake: Intake::new(blocks),
        guard: Guard::open(),
        // The order is made by the second pass: here a slow line must not hold up the others.
        window: Window::new(Order::Completion, WINDOW_LINES_MAX, WINDOW_BYTES_MAX),
        journal,
        known,
        settings,
        spending: Spending::default(),
        records,
        sink: Sink::Later { failed_lines: None },
    };
    let mode = Journaled::new(parts, Ledger::new(counts, Shutdown::default(), None, false));
    Ok(Box::new(LargeMode { mode, asked: 0, held: 0, second }))
}

/// Begins a journal with answers that are there already.
async fn seed(mut journal: Journal, seeds: Vec<String>) -> Result<(), journal::Error> {
    let mut frames = Vec::new();
    for line in seeds {
        frame::push(&mut frames, |record| record.extend_from_slice(line.as_bytes()));
    }
    journal.run(move |keeper| keeper.commit(&frames).map(drop)).await?;
    journal.close(false).await
}

/// What the end of a large job needs.
#[derive(Debug)]
pub struct Ending {
    /// The run.
    pub mode: Box<LargeMode>,
    /// The spool's folder.
    pub root: PathBuf,
    /// The input, seen from there.
    pub path: Arc<Path>,
    /// What it was when it was taken.
    pub stamp: Stamp,
    /// How it is run.
    pub plan: Arc<Plan>,
    /// The result that is replaced.
    pub replaces: Option<Fingerprint>,
    /// What has become of the lines.
    pub counts: Arc<Counts>,
    /// How names are taken.
    pub how: Exclusive,
    /// The longest line, in bytes.
    pub line_bytes_max: usize,
    /// What may end the daemon meanwhile, and how long that may take.
    pub shutdown: Shutdown,
    /// The bound of a drain.
    pub drain: Duration,
    /// Whether the result is wanted; otherwise all is only put away.
    pub publishes: bool,
}

/// How a large job came to its end.
#[derive(Debug)]
pub enum Ended {
    /// Its result has its name.
    Published {
        /// The result.
        result: Fingerprint,
        /// Its lines.
        lines: u64,
        /// Those that failed.
        failed: u64,
    },
    /// It was put away, to be gone on with.
    PutAway,
    /// Its first line has no model.
    NoModel,
    /// Something stands in the way.
    Hindered(Hindrance),
}

/// Ends a run: renders and publishes its result when every line is settled, and closes its journal.
pub async fn end(ending: Ending) -> Ended {
    let Ending { mode, publishes, root, path, stamp, plan, replaces, counts, how, line_bytes_max, shutdown, drain } =
        ending;
    let LargeMode { mode, second, .. } = *mode;
    let complete = mode.is_complete() && !mode.has_ended();
    let Rest { mut journal, known, why, unsettled, .. } = mode.finish(std::future::pending()).await;
    let result = match (why, second) {
        (Some(Why::NoModel), _) => Ended::NoModel,
        (Some(Why::Stop(stop)), _) => Ended::Hindered(Hindrance::Failed(stop.message)),
        (_, Some(second)) if complete && publishes => {
            let first = unsettled.intake.end().cloned().unwrap_or_default();
            if let Some(error) = first.error {
                Ended::Hindered(Hindrance::Failed(error))
            } else {
                let (answered, failed) = (counts.answered(), counts.failed());
                let rendering = filter::Rendering {
                    target: plan.result_name.path(),
                    how,
                    place: Place::Free,
                    style: plan.style(),
                    split: plan.split(line_bytes_max),
                    understanding: plan.understanding(line_bytes_max),
                    input: second,
                    settled: answered + failed,
                    closed: Closed {
                        complete: true,
                        input_lines: Some(first.lines),
                        input_sha256: first.sha256.clone(),
                        answered,
                        failed,
                        style: Some(plan.style().name()),
                        result: None,
                    },
                    first,
                    shutdown,
                    drain,
                    copy: None,
                };
                let run = move |keeper: &mut journal::Keeper| {
                    let folder = unchanged(&root, &path, &stamp)?;
                    let target = folder.join(&rendering.target);
                    let rendering = filter::Rendering { target, ..rendering };
                    render(rendering, replaces, keeper, known).map_err(|hindrance| hindrance.told_by(&folder))
                };
                match journal.run::<_, Hindrance>(run).await {
                    Ok(result) => Ended::Published { result, lines: answered + failed, failed },
                    Err(hindrance) => Ended::Hindered(hindrance),
                }
            }
        }
        _ => Ended::PutAway,
    };
    match (journal.close(false).await, result) {
        // What went wrong before is the cause of this.
        (Err(error), Ended::PutAway) => Ended::Hindered(Hindrance::Failed(error.to_string())),
        (_, result) => result,
    }
}

fn render(
    mut rendering: filter::Rendering,
    replaces: Option<Fingerprint>,
    keeper: &mut journal::Keeper,
    mut known: Known,
) -> Result<Fingerprint, Hindrance> {
    let target = rendering.target.clone();
    known.published.extend(replaces);
    rendering.place = match filter::look(&target, &known, false) {
        Ok(place) => place,
        Err(_) if is_there(&target) => return Err(Hindrance::Taken),
        Err(stop) => return Err(Hindrance::Failed(stop.message)),
    };
    rendering.run(keeper, &mut known).map_err(|stop| match stop.exit {
        crate::exit::Exit::Usage => Hindrance::Taken,
        _ => Hindrance::Failed(stop.message),
    })
}

fn is_there(target: &Path) -> bool {
    target.symlink_metadata().is_ok()
}

impl From<journal::Error> for Hindrance {
    fn from(error: journal::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Removes the private copy of a job that is done: the journal is what is kept.
pub fn forget_copy(folder: &Path) -> std::io::Result<()> {
    fs::remove_file(folder.join(snapshot::COPY_NAME)).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })
}

/// Whether the private copy of a job is there.
pub fn has_copy(folder: &Path) -> bool {
    folder.join(snapshot::COPY_NAME).is_file()
}
