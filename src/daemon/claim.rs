//! Taking prompt files: a thread that snapshots them one after another and makes requests of their lines, so that slow
//! files cost the engine nothing.
//!
//! Invariants: nothing here is durable yet, and nothing is sent; a panic in reading a file is that file's trouble, and a
//! file whose reading ended the process is known by a marker, which names it for just that time.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use super::answers::{self, Answers};
use super::folder::Folder;
use super::history::Ended;
use super::log::{Bytes, Claim, Done, End, Held, JobId};
use super::names::{self, Kind};
use super::plan::{Plan, Wishes};
use super::recipe::{self, Recipe, RecipeError};
use super::snapshot::{self, Refused, Rules, Taken};
use super::stamp::Stamp;
use crate::config::Config;
use crate::filter::Understood;
use crate::journal::publish::{self, Fingerprint};
use crate::journal::{self, Error};
use crate::line::ErrorCode;
use crate::line::escape::shown;

/// Files with more lines or bytes have a journal and a folder of their own.
pub const SMALL_LINES_MAX: usize = 64;
const SMALL_BYTES_MAX: u64 = 256 << 10;

/// A file to be taken.
#[derive(Debug)]
pub struct Order {
    /// Comes back with the reply.
    pub ticket: u64,
    /// The file, seen from the spool's folder.
    pub path: Arc<Path>,
    /// What it holds.
    pub kind: Kind,
    /// How it is taken.
    pub what: What,
}

/// How a file is taken.
#[derive(Debug)]
pub enum What {
    /// As it is now.
    Fresh {
        /// What it was when it was told of; another version is not settled yet.
        told: Stamp,
        /// How it ended before.
        before: Option<Ended>,
        /// The job whose answers are used, when it was not the one that ended.
        from: Option<JobId>,
        /// The folder of that job, when it was large.
        folder: Option<JobId>,
        /// Whether errors are asked again.
        retry_failed: bool,
    },
    /// As the log has it.
    Resume {
        /// Where its claim begins.
        claim_at: u64,
        /// How it ended before that.
        before: Option<Ended>,
    },
}

/// What came of an order.
#[derive(Debug)]
pub enum Reply {
    /// A small file.
    Small(Box<SmallFile>),
    /// A large file.
    Large(Box<LargeFile>),
    /// A job goes on.
    Resumed(Box<Resumed>),
    /// It is what it was when it was done.
    Unchanged(Box<Done>),
    /// It cannot be taken.
    Rejected {
        /// The kind of reason.
        code: &'static str,
        /// The reason.
        message: String,
        /// What to do about it.
        way_out: String,
    },
    /// The name of its result, seen from the spool's folder, belongs to something else.
    Blocked(PathBuf),
    /// Its name says that it is a result.
    Ours,
    /// Reading it failed by a defect of the program.
    Panicked,
    /// It is still being written.
    NotYet,
    /// It is not there.
    Gone,
    /// The daemon's own trouble.
    Trouble(String),
}

/// A small file, read.
#[derive(Debug)]
pub struct SmallFile {
    /// How it is run.
    pub plan: Plan,
    /// What it was.
    pub stamp: Stamp,
    /// The hash of its contents.
    pub sha256: String,
    /// Its contents.
    pub contents: Vec<u8>,
    /// Its lines.
    pub lines: Vec<Understood>,
    /// The job whose answers these are.
    pub from: Option<JobId>,
    /// Answers that were given before, as line records.
    pub answers: HashMap<journal::Key, String>,
    /// The result that will be replaced.
    pub replaces: Option<Fingerprint>,
}

/// A large file, open.
#[derive(Debug)]
pub struct LargeFile {
    /// How it is run.
    pub plan: Plan,
    /// What it was.
    pub stamp: Stamp,
    /// The file.
    pub file: File,
    /// The folder of an earlier run.
    pub folder: Option<JobId>,
    /// The job whose answers these are.
    pub from: Option<JobId>,
    /// Answers that were given when it was small.
    pub answers: HashMap<journal::Key, String>,
    /// How it ended before, unless it is to be run whatever it holds.
    pub before: Option<Box<Done>>,
    /// The result that will be replaced.
    pub replaces: Option<Fingerprint>,
}

/// A job that goes on.
#[derive(Debug)]
pub struct Resumed {
    /// Its claim.
    pub claim: Claim,
    /// Its lines, when the claim holds its contents.
    pub lines: Vec<Understood>,
    /// Answers of the job that it goes on from.
    pub answers: HashMap<journal::Key, String>,
    /// The result that will be replaced.
    pub replaces: Option<Fingerprint>,
}

/// What the thread needs to know; replaced when the configuration is read anew.
#[derive(Clone, Debug)]
pub struct Rulebook {
    /// What lines get, beside what the folder's recipe says.
    pub wishes: Wishes,
    /// The longest line, in bytes.
    pub line_bytes_max: usize,
    /// The largest file, in bytes.
    pub file_bytes_max: u64,
    /// Whose files are taken, beside the daemon's user, root, the owner of the folder that they are in, and whoever may
    /// write into a folder of the daemon's that belongs to a group (setgid, closed to others).
    pub owners: Vec<u32>,
}

impl Rulebook {
    /// What a configuration says.
    pub fn of(config: &Config) -> Self {
        let daemon = config.daemon.clone().unwrap_or_default();
        let wishes = Wishes {
            defaults: config.defaults.clone(),
            format: config.output.format,
            merge: config.output.merge.clone(),
            form: None,
        };
        Self {
            wishes,
            line_bytes_max: config.limits.line_bytes_max,
            file_bytes_max: daemon.file_bytes_max,
            owners: daemon.owners.iter().map(|owner| owner.id).collect(),
        }
    }
}

enum Message {
    Order(Order),
    Rules(Box<Rulebook>),
    Log(PathBuf),
}

/// The thread that takes files.
#[derive(Debug)]
pub struct Claimer {
    orders: mpsc::Sender<Message>,
}

impl Claimer {
    /// Starts it for the spool at `root`, whose log is at `log`. Replies go to `tell`.
    pub fn start(
        root: &Path,
        log: &Path,
        marker: &Path,
        rules: Rulebook,
        tell: impl Fn(u64, Reply) + Send + 'static,
    ) -> io::Result<Self> {
        let (orders, queue) = mpsc::channel();
        // Nobody but the daemon's next process reads it: nothing to be synced.
        let marker = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(marker)?;
        let mut taker = Taker { root: root.to_owned(), log: log.to_owned(), marker, rules };
        std::thread::Builder::new().name("claim".to_owned()).spawn(move || {
            for message in queue {
                match message {
                    Message::Order(order) => tell(order.ticket, taker.take_caught(&order)),
                    Message::Rules(rules) => taker.rules = *rules,
                    Message::Log(log) => taker.log = log,
                }
            }
        })?;
        Ok(Self { orders })
    }

    /// Has a file taken.
    pub fn order(&self, order: Order) {
        // A thread that is gone says so by not answering; it cannot be, since panics are caught.
        let _ = self.orders.send(Message::Order(order));
    }

    /// From now on the log is there.
    pub fn set_log(&self, log: PathBuf) {
        let _ = self.orders.send(Message::Log(log));
    }

    /// From now on these rules hold.
    pub fn set_rules(&self, rules: Rulebook) {
        let _ = self.orders.send(Message::Rules(Box::new(rules)));
    }
}

/// What is known of a file before it is taken.
struct Before<'e> {
    told: Stamp,
    ended: Option<&'e Ended>,
    from: Option<JobId>,
    folder: Option<JobId>,
}

struct Taker {
    root: PathBuf,
    log: PathBuf,
    marker: File,
    rules: Rulebook,
}

impl Taker {
    fn take_caught(&mut self, order: &Order) -> Reply {
        match catch_unwind(AssertUnwindSafe(|| self.take(order))) {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => Reply::Trouble(error.to_string()),
            Err(_) => {
                let _ = self.marker.set_len(0);
                Reply::Panicked
            }
        }
    }

    fn take(&mut self, order: &Order) -> Result<Reply, Error> {
        match &order.what {
            What::Resume { claim_at, before } => self.resume(order, *claim_at, before.as_ref()),
            What::Fresh { told, before, from, folder, retry_failed } => {
                let source = Before { told: *told, ended: before.as_ref(), from: *from, folder: *folder };
                self.take_fresh(order, &source, *retry_failed)
            }
        }
    }

    fn resume(&mut self, order: &Order, claim_at: u64, before: Option<&Ended>) -> Result<Reply, Error> {
        let is_there = order
            .path
            .file_name()
            .is_some_and(|name| Folder::of(&self.root, &order.path).is_ok_and(|folder| !folder.is_free(name)));
        if !is_there {
            return Ok(Reply::Gone);
        }
        let mut claim = Answers::open(&self.log)?.claim(claim_at)?;
        let contents = match &mut claim.held {
            Held::Here(contents) => std::mem::take(&mut contents.0),
            Held::Folder(_) => Vec::new(),
        };
        let lines = self.reading(&order.path, || claim.plan.read(&contents, self.rules.line_bytes_max));
        let answers = match claim.from {
            Some(from) => answers::of_job(&self.log, from, claim.retry_failed)?,
            None => HashMap::new(),
        };
        let replaces = self.result_before(before)?;
        Ok(Reply::Resumed(Box::new(Resumed { claim, lines, answers, replaces })))
    }

    fn take_fresh(&mut self, order: &Order, source: &Before<'_>, retry_failed: bool) -> Result<Reply, Error> {
        let Before { told, ended: before, from, folder: folder_of_open } = *source;
        let Some(name) = order.path.file_name() else { return Ok(Reply::Gone) };
        let folder = match Folder::of(&self.root, &order.path) {
            Ok(folder) => folder,
            Err(error) if Folder::is_gone(&error) => return Ok(Reply::Gone),
            Err(error) => return Err(Error::io("open the folder of", &order.path)(error)),
        };
        let (folder_path, path) = (folder.path(), folder.named(name));
        let metadata = folder.metadata().map_err(Error::io("look at", folder_path))?;
        let (folder_owner, me) = (metadata.uid(), rustix::process::geteuid().as_raw());
        // Who may write into a folder that we gave to a group was let in by that.
        let is_for_group = metadata.mode() & 0o2002 == 0o2000 && (folder_owner == me || folder_owner == 0);
        let owners = &self.rules.owners;
        let is_allowed =
            move |owner: u32| [me, 0, folder_owner].contains(&owner) || is_for_group || owners.contains(&owner);
        let recipe = match recipe::load_at(folder.as_fd(), folder_path, &is_allowed) {
            Ok(recipe) => recipe,
            Err(RecipeError::Wrong { message, way_out }) => {
                return Ok(Reply::Rejected { code: "recipe", message, way_out });
            }
            Err(RecipeError::NotYet { .. }) => return Ok(Reply::NotYet),
            Err(error @ RecipeError::Io { .. }) => return Ok(Reply::Trouble(error.to_string())),
        };
        if recipe.suffix().is_some_and(|suffix| names::has_suffix(name, suffix)) {
            return Ok(Reply::Ours);
        }
        let is_whole = recipe.reading(order.kind).0 != Kind::Lines;
        let rules = Rules {
            owner_allowed: &is_allowed,
            file_bytes_max: self.rules.file_bytes_max,
            // What is one record is read in one piece.
            small_bytes_max: if is_whole { self.rules.line_bytes_max as u64 } else { SMALL_BYTES_MAX },
            small_lines_max: if is_whole { usize::MAX } else { SMALL_LINES_MAX },
        };
        let taken = match snapshot::take(folder.as_fd(), name, &rules) {
            Ok(taken) => taken,
            Err(Refused::Reject { code, message, way_out }) => return Ok(Reply::Rejected { code, message, way_out }),
            Err(Refused::NotYet) => return Ok(Reply::NotYet),
            Err(Refused::Gone) => return Ok(Reply::Gone),
            Err(Refused::Io(error)) => return Err(Error::io("read", &path)(error)),
        };
        if taken.stamp() != told {
            return Ok(Reply::NotYet);
        }
        let wishes = wishes_of(&recipe, &self.rules.wishes);
        let Ok(result_name) = names::result_name(name, order.kind, recipe.suffix()) else {
            return Ok(too_long(name.len()));
        };
        let plan = Plan::new(order.kind, wishes, Bytes::of_path(Path::new(&result_name)));
        let done = before.map(|before| Answers::open(&self.log)?.done(before.done_at)).transpose()?;
        let target = folder.join(&result_name);
        let replaces =
            done.as_ref().filter(|done| done.result_name == plan.result_name).and_then(|done| done.result.clone());
        if from.is_none() && is_taken(&target, replaces.as_ref()).map_err(Error::io("look at", &target))? {
            return Ok(Reply::Blocked(order.path.with_file_name(&result_name)));
        }
        let folder_before = folder_of_open.or_else(|| done.as_ref().and_then(|done| done.folder));
        let source = from.or(done.as_ref().filter(|done| done.folder.is_none()).map(|done| done.job));
        let answers_before = |log: &Path| match source {
            Some(job) => answers::of_job(log, job, retry_failed),
            None => Ok(HashMap::new()),
        };
        // Who drops the same file once more, and has taken the result away, gets it once more: its answers are there.
        let is_result_gone = folder.is_free(&result_name);
        let now = taken.stamp();
        let is_dropped_anew = |done: &Done| is_result_gone && done.stamp.inode != now.inode;
        let may_be_unchanged = move |done: &Done| !retry_failed && done.end != End::Cancelled && !is_dropped_anew(done);
        let unchanged_if = |done: Option<Done>| done.filter(may_be_unchanged).map(Box::new);
        match taken {
            Taken::Small { bytes, stamp, sha256 } if folder_before.is_none() => {
                let sha256 = journal::key::hex(&sha256);
                if let Some(done) = done.filter(|done| done.sha256 == sha256 && may_be_unchanged(done)) {
                    return Ok(Reply::Unchanged(Box::new(Done { stamp, ..done })));
                }
                let lines = self.reading(&order.path, || plan.read(&bytes, self.rules.line_bytes_max));
                if let Some(reply) = without_model(&lines) {
                    return Ok(reply);
                }
                let answers = answers_before(&self.log)?;
                let file = SmallFile { plan, stamp, sha256, contents: bytes, lines, from: source, answers, replaces };
                Ok(Reply::Small(Box::new(file)))
            }
            Taken::Small { stamp, .. } => {
                // It was large before, and its answers are where those of large files are.
                let rules = Rules { small_bytes_max: 0, ..rules };
                let Ok(Taken::Large { file, .. }) = snapshot::take(folder.as_fd(), name, &rules) else {
                    return Ok(Reply::NotYet);
                };
                let (folder, answers) = (folder_before, HashMap::new());
                let file =
                    LargeFile { plan, stamp, file, folder, from: None, answers, before: unchanged_if(done), replaces };
                Ok(Reply::Large(Box::new(file)))
            }
            Taken::Large { stamp, .. } if is_whole => Ok(Reply::Rejected {
                code: "too_large",
                message: format!("{} is one request of {} bytes", shown(name.as_ref()), stamp.bytes),
                way_out: "make it shorter, or let the administrator raise --max-line-bytes".to_owned(),
            }),
            Taken::Large { file, stamp } => {
                let answers = if folder_before.is_none() { answers_before(&self.log)? } else { HashMap::new() };
                let from = source.filter(|_| folder_before.is_none());
                let (folder, before) = (folder_before, unchanged_if(done));
                Ok(Reply::Large(Box::new(LargeFile { plan, stamp, file, folder, from, answers, before, replaces })))
            }
        }
    }

    /// The result of the run before.
    fn result_before(&self, before: Option<&Ended>) -> Result<Option<Fingerprint>, Error> {
        match before {
            Some(before) => Ok(Answers::open(&self.log)?.done(before.done_at)?.result),
            None => Ok(None),
        }
    }

    /// Makes something of a file's contents, while the marker names the file.
    fn reading<T>(&self, path: &Path, read: impl FnOnce() -> T) -> T {
        let name = Bytes::of_path(path).0;
        // A marker that cannot be written costs nothing but what it would tell of a crash.
        let _ = self.marker.write_at(&name, 0);
        let made = read();
        let _ = self.marker.set_len(0);
        made
    }
}

/// What a folder's recipe says, and the daemon where it is silent.
fn wishes_of(recipe: &Recipe, daemon: &Wishes) -> Wishes {
    Wishes {
        defaults: recipe.over(&daemon.defaults),
        // Of format and field the recipe's one word stands against both of the daemon's.
        format: recipe.format().or(daemon.format.filter(|_| recipe.merge().is_none())),
        merge: recipe.merge().map(str::to_owned).or_else(|| daemon.merge.clone().filter(|_| recipe.format().is_none())),
        form: recipe.input(),
    }
}

/// Whether something that is not ours has the name of the result.
fn is_taken(target: &Path, ours: Option<&Fingerprint>) -> io::Result<bool> {
    match target.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
        Ok(_) => match ours {
            Some(ours) => publish::is_still(target, ours).map(|still| !still),
            None => Ok(true),
        },
    }
}

/// A file whose first line has no model would fail altogether: that is better said once.
fn without_model(lines: &[Understood]) -> Option<Reply> {
    let first = lines.first()?.request.as_ref().err()?;
    (first.failure.code == ErrorCode::NoModel).then(no_model)
}

/// The reply to a file that has no model.
pub fn no_model() -> Reply {
    Reply::Rejected {
        code: "no_model",
        message: "no model: neither the first line nor the folder's anvil.toml nor the daemon names one".to_owned(),
        way_out:
            "name one in each line, or write model = \"NAME\" into anvil.toml beside the file; then write the file anew"
                .to_owned(),
    }
}

fn too_long(bytes: usize) -> Reply {
    Reply::Rejected {
        code: "name_too_long",
        message: format!("its name has {bytes} bytes, which leaves no room for the name of its result"),
        way_out: "give it a shorter name".to_owned(),
    }
}

/// What a marker that was left behind says: the file whose reading did not end.
pub fn left_behind(marker: &Path) -> Option<PathBuf> {
    let bytes = std::fs::read(marker).ok().filter(|bytes| !bytes.is_empty())?;
    Some(Bytes(bytes).path())
}

/// The reply to a file whose reading has ended the daemon too often.
pub fn poison(path: &Path) -> Reply {
    Reply::Rejected {
        code: "poison",
        message: format!("reading {} has ended the daemon three times", shown(path)),
        way_out: "this is a defect of the program: keep the file, and report it".to_owned(),
    }
}
