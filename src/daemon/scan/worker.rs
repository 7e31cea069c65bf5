//! The thread of the scanner: waits for what comes first, a ring, a look that is due or the time for a scan, and looks.
//!
//! Also keeps an eye on the root itself, once a second at least: no descriptor of it is kept, which would hold its file
//! system in place.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::look::{self, Identity};
use super::table::{Folder, Look, Table};
use super::told::Outbox;
use super::walk::Walking;
use super::{Blind, Message, Ringer, Settings, Told};
use crate::daemon::names::{Name, classify};
use crate::daemon::settle::{Sight, Times};
use crate::daemon::watch::{Ring, Watch, WatchError};
use crate::line::escape::shown;

/// Names that are looked at in one go.
const BATCH_NAMES: usize = 4096;

/// The longest wait: so often is the root looked at, and so often the thread shows that it lives.
const WAIT_MAX: Duration = Duration::from_secs(1);

pub(super) struct Worker<T> {
    pub(super) settings: Settings,
    pub(super) blind: Blind,
    messages: Receiver<Message>,
    pub(super) ringer: Ringer,
    pub(super) out: Outbox<T>,
    pub(super) table: Table,
    pub(super) watch: Option<Watch>,
    rung: BTreeMap<PathBuf, Sight>,
    clock: Instant,
    pub(super) scan_at: Duration,
    pub(super) walking: Walking,
    identity: Identity,
    /// Whether a daemon's state was seen in the root.
    had_state: bool,
    lost: bool,
    pub(super) warned: Warned,
}

/// What was told already, and is not told again.
#[derive(Debug, Default)]
pub(super) struct Warned {
    pub(super) limit: bool,
    pub(super) other: bool,
    pub(super) depth: bool,
}

impl<T: Fn(Told)> Worker<T> {
    pub(super) fn new(
        settings: Settings,
        blind: Blind,
        identity: Identity,
        messages: Receiver<Message>,
        ringer: Ringer,
        tell: T,
    ) -> Worker<T> {
        Worker {
            settings,
            blind,
            messages,
            ringer,
            out: Outbox::new(tell),
            table: Table::default(),
            watch: None,
            rung: BTreeMap::new(),
            clock: Instant::now(),
            scan_at: Duration::ZERO,
            walking: Walking::default(),
            identity,
            had_state: false,
            lost: false,
            warned: Warned::default(),
        }
    }

    pub(super) fn run(mut self) {
        while self.wait() {
            self.ringer.gauge.advance();
            let rung = mem::take(&mut self.rung);
            let Some(root) = self.visit() else { continue };
            self.look_at(&root, rung);
            let due = self.table.take_due(self.now(), BATCH_NAMES);
            self.look_at(&root, due.into_iter().map(|path| (path, Sight::Scanned)).collect());
            if self.now() >= self.scan_at && !self.lost {
                self.had_state |= look::has_state(&root);
                self.scan(&root);
            }
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.clock.elapsed()
    }

    /// Waits until there is something to do, and gathers what has rung; `false` when the end has come.
    fn wait(&mut self) -> bool {
        std::thread::sleep(self.out.pause());
        let now = self.now();
        let next = self.table.next_due().map_or(self.scan_at, |due| due.min(self.scan_at));
        let next = if self.lost { WAIT_MAX } else { next.saturating_sub(now).min(WAIT_MAX) };
        match self.messages.recv_timeout(next) {
            Ok(message) => self.hear(message),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        for _ in 1..BATCH_NAMES {
            let Ok(message) = self.messages.try_recv() else { break };
            self.hear(message);
        }
        !self.ringer.gauge.is_stopped()
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Ring(ring) => {
                self.ringer.heard(&ring);
                match ring {
                    // What rang last says how it stands.
                    Ring::At(path, sight) => drop(self.rung.insert(path, sight)),
                    Ring::Overflow => self.scan_at = self.scan_at.min(self.walking.overflowed()),
                }
            }
            Message::ScanNow => self.scan_at = Duration::ZERO,
            Message::Stop => {}
        }
    }

    /// Opens the root, when it is there and still the one it was or may stand for it.
    fn visit(&mut self) -> Option<OwnedFd> {
        let (root, identity) = match look::open_root(&self.settings.root) {
            Ok(opened) => opened,
            Err(error) => return self.lose(&io::Error::from(error).to_string()),
        };
        if identity != self.identity {
            // Under a mount point lies an empty folder: to take that for the spool would be to take every file for gone.
            let is_below_mount = identity.device != self.identity.device && self.had_state && !look::has_state(&root);
            if is_below_mount {
                return self.lose("another folder is there, and it is no spool");
            }
            self.lose("another folder is there");
            self.identity = identity;
        }
        if self.lost {
            look::read(&root, &mut Vec::with_capacity(1024), |_, _| false).ok()?;
            self.come_back();
        }
        Some(root)
    }

    pub(super) fn lose(&mut self, why: &str) -> Option<OwnedFd> {
        if !mem::replace(&mut self.lost, true) {
            let root = shown(&self.settings.root);
            let way_out = "is its file system mounted, and may it be read? It is looked for every second";
            self.out.tell(Told::Lost(format!("read the folder {root}: {why}: {way_out}")));
        }
        None
    }

    fn come_back(&mut self) {
        self.lost = false;
        // The old watches are of what was here before.
        self.watch = None;
        self.table.unwatch_all();
        self.scan_at = Duration::ZERO;
        self.out.tell(Told::Back);
    }

    /// Looks at single names.
    fn look_at(&mut self, root: &OwnedFd, places: BTreeMap<PathBuf, Sight>) {
        let mut opened: Option<(PathBuf, OwnedFd)> = None;
        let mut maybe_folders = Vec::new();
        for (path, sight) in places {
            // The root itself was looked at before.
            let (Some(parent), Some(file)) = (path.parent(), path.file_name()) else { continue };
            let name = classify(file);
            if name == Name::Ignored {
                maybe_folders.push(path);
            } else if self.table.has(parent) {
                if opened.as_ref().is_none_or(|(path, _)| path != parent) {
                    opened = look::open_folder(root, parent).ok().map(|folder| (parent.to_owned(), folder));
                }
                // What cannot be looked at now is left to the scan.
                let Some((_, folder)) = &opened else { continue };
                let Ok(seen) = look::look(folder, file) else { continue };
                self.note(parent, file, name, seen, sight);
            }
        }
        self.out.flush();
        maybe_folders.into_iter().for_each(|path| self.look_at_folder(root, &path));
    }

    fn note(&mut self, parent: &Path, file: &OsStr, name: Name, seen: Option<look::Seen>, sight: Sight) {
        let now = self.now();
        let times = |folder: &Folder| times_of(&self.settings, &self.blind, folder);
        let Some((folder, due)) = self.table.folder(parent) else { return };
        match seen {
            None if folder.forget(file) => self.out.gone(&parent.join(file)),
            None => {}
            Some(seen) => {
                let look = Look { folder: parent, file, name, seen, sight };
                let times = times(folder);
                if let Some(found) = folder.observe(&look, now, &times, due) {
                    self.out.found(found);
                }
            }
        }
    }

    /// Looks at what may be a folder that came, went or was renamed.
    fn look_at_folder(&mut self, root: &OwnedFd, path: &Path) {
        let Some((parent, file)) = path.parent().zip(path.file_name()) else { return };
        if !self.settings.recursive || !self.table.has(parent) {
            return;
        }
        let seen = look::open_folder(root, parent).and_then(|folder| look::look(folder, file));
        match seen {
            Ok(Some(seen)) if seen.folder => self.scan_below(root, path),
            Ok(_) => self.forget_below(path),
            Err(error) if look::is_gone(error) => self.forget_below(path),
            Err(_) => {}
        }
        self.out.flush();
    }

    /// Forgets a folder that is none any more, and what was in it.
    pub(super) fn forget_below(&mut self, path: &Path) {
        let (folders, files) = self.table.forget_below(path);
        if let Some(watch) = &mut self.watch {
            folders.iter().for_each(|folder| watch.remove(folder));
        }
        files.iter().for_each(|file| self.out.gone(file));
    }

    /// Watches a folder, when that is possible; whether it is.
    pub(super) fn watch(&mut self, folder: &Path) -> bool {
        let result = match &mut self.watch {
            Some(watch) => watch.add(folder),
            none => {
                let ringer = self.ringer.clone();
                let new = Watch::new(&self.settings.root, self.settings.recursive, move |ring| ringer.ring(ring));
                new.and_then(|watch| none.insert(watch).add(folder))
            }
        };
        result.map_err(|error| self.warn_of_watch(&error)).is_ok()
    }

    fn warn_of_watch(&mut self, error: &WatchError) {
        let warned = match error {
            WatchError::Limit { .. } => {
                self.walking.limit_reached();
                &mut self.warned.limit
            }
            WatchError::Other { .. } => &mut self.warned.other,
            // The reading of it that follows finds that out, too.
            WatchError::Gone { .. } => return,
        };
        if !mem::replace(warned, true) {
            self.out.tell(Told::Warning(error.to_string()));
        }
    }
}

/// How long the files in `folder` must stay unchanged.
pub(super) fn times_of(settings: &Settings, blind: &Blind, folder: &Folder) -> Times {
    Times::new(settings.settle, if folder.remote { blind.remote } else { blind.local })
}

/// Why a folder cannot be read, for people.
pub(super) fn unread(path: &Path, error: Errno) -> String {
    let way_out = "what is in it is not run until the daemon's user may read and enter it";
    format!("read the folder {}: {}: {way_out}", shown(path), io::Error::from(error))
}
