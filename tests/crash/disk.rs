//! A model of the weakest file system that POSIX allows: what may be left of a folder when the power fails.
//!
//! Bytes are certain up to the last fsync of their file; what came later may be there, in part, or be NULs. Names are
//! certain up to the last fsync of their folder; of what came later any selection may have happened. Exchanges and
//! renames are done or not. Lock files are left out: they have no contents worth keeping.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use crate::strace::Call;

/// What a folder holds: contents by names.
pub type Files = BTreeMap<String, Vec<u8>>;

type Names = BTreeMap<String, usize>;

#[derive(Clone, Debug, Default)]
struct Inode {
    data: Vec<u8>,
    synced: Vec<u8>,
}

/// A change of names that no fsync has made certain. It moves the file that it has moved, whatever else has been lost.
#[derive(Clone, Debug)]
struct Change {
    /// Names that are another file's now, or nobody's; from whom they are taken.
    moves: Vec<(String, Option<usize>, Option<usize>)>,
}

impl Change {
    fn link(name: &str, inode: usize) -> Change {
        Change { moves: vec![(name.to_owned(), None, Some(inode))] }
    }

    fn unlink(name: &str, names: &Names) -> Change {
        Change { moves: vec![(name.to_owned(), names.get(name).copied(), None)] }
    }

    fn rename(from: &str, to: &str, names: &Names) -> Change {
        let moved = names.get(from).copied();
        Change { moves: vec![(from.to_owned(), moved, None), (to.to_owned(), None, moved)] }
    }

    fn exchange(one: &str, other: &str, names: &Names) -> Change {
        let (first, second) = (names.get(one).copied(), names.get(other).copied());
        Change { moves: vec![(one.to_owned(), None, second), (other.to_owned(), None, first)] }
    }

    fn apply(&self, names: &mut Names) {
        for (name, before, now) in &self.moves {
            match now {
                Some(inode) => drop(names.insert(name.clone(), *inode)),
                None if names.get(name) == before.as_ref() => drop(names.remove(name)),
                None => {}
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Open {
    inode: usize,
    at: usize,
    appends: bool,
}

/// A folder on such a disk.
#[derive(Clone, Debug)]
pub struct Disk {
    folder: PathBuf,
    inodes: Vec<Inode>,
    /// As a running process sees them.
    names: Names,
    certain: Names,
    changes: Vec<Change>,
    open: HashMap<u32, Open>,
}

impl Disk {
    /// A folder with these files, all of them certain.
    pub fn new(folder: &Path, files: &Files) -> Disk {
        let inodes = files.values().map(|bytes| Inode { data: bytes.clone(), synced: bytes.clone() }).collect();
        let names: Names = files.keys().cloned().zip(0..).collect();
        Disk {
            folder: folder.to_owned(),
            inodes,
            certain: names.clone(),
            names,
            changes: Vec::new(),
            open: HashMap::new(),
        }
    }

    /// What a running process sees.
    pub fn seen(&self) -> Files {
        self.names.iter().map(|(name, inode)| (name.clone(), self.inodes[*inode].data.clone())).collect()
    }

    /// The name of a path in this folder.
    fn name(&self, path: &[u8]) -> Option<String> {
        let path = Path::new(std::str::from_utf8(path).ok()?);
        let name = (path.parent() == Some(&self.folder)).then(|| path.file_name())??.to_str()?;
        Some(name.to_owned()).filter(|name| !name.contains(".lock"))
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    /// A system call was made.
    pub fn apply(&mut self, call: &Call) {
        let Some(result) = call.result.filter(|result| *result >= 0) else { return };
        let names: Vec<Option<String>> = call.strings().iter().map(|path| self.name(path)).collect();
        match (&*call.name, &*names) {
            ("openat", [Some(name)]) => self.opened(name.clone(), &call.args, result as u32),
            ("fcntl", _) if call.args.contains("F_DUPFD") => {
                if let Some(open) = call.descriptor().and_then(|number| self.open.get(&number)).copied() {
                    self.open.insert(result as u32, open);
                }
            }
            ("close", _) => drop(call.descriptor().and_then(|number| self.open.remove(&number))),
            ("write" | "writev", _) => self.written(call, None, result as usize),
            ("pwrite64", _) => {
                let at = call.args.rsplit(", ").next().and_then(|at| at.parse().ok());
                self.written(call, at, result as usize);
            }
            ("ftruncate", _) => {
                let length = call.args.rsplit(", ").next().and_then(|length| length.parse().ok()).unwrap();
                if let Some(inode) = self.inode_of(call) {
                    self.inodes[inode].data.resize(length, 0);
                }
            }
            ("fsync" | "fdatasync", _) => match self.inode_of(call) {
                Some(inode) => self.inodes[inode].synced = self.inodes[inode].data.clone(),
                None if call.path().is_some_and(|path| Path::new(path) == self.folder) => {
                    self.certain = self.names.clone();
                    self.changes.clear();
                }
                None => {}
            },
            ("link" | "linkat", [_, Some(to)]) => {
                let strings = call.strings();
                let open =
                    strings[0].strip_prefix(b"/proc/self/fd/").and_then(|number| std::str::from_utf8(number).ok());
                let inode = match (open, &names[0]) {
                    (Some(number), _) => Some(self.open[&number.parse().unwrap()].inode),
                    (None, Some(name)) => self.names.get(name).copied(),
                    (None, None) => None,
                };
                if let Some(inode) = inode {
                    self.change(Change::link(to, inode));
                }
            }
            ("rename" | "renameat" | "renameat2", [Some(from), Some(to)]) => {
                self.change(match call.args.contains("RENAME_EXCHANGE") {
                    true => Change::exchange(from, to, &self.names),
                    false => Change::rename(from, to, &self.names),
                });
            }
            ("unlink" | "unlinkat", [Some(name)]) => self.change(Change::unlink(name, &self.names)),
            _ => {}
        }
    }

    fn opened(&mut self, name: String, args: &str, number: u32) {
        let inode = match self.names.get(&name) {
            Some(inode) => *inode,
            None => {
                self.inodes.push(Inode::default());
                self.change(Change::link(&name, self.inodes.len() - 1));
                self.inodes.len() - 1
            }
        };
        if args.contains("O_TRUNC") {
            self.inodes[inode].data.clear();
        }
        self.open.insert(number, Open { inode, at: 0, appends: args.contains("O_APPEND") });
    }

    fn inode_of(&self, call: &Call) -> Option<usize> {
        Some(self.open.get(&call.descriptor()?)?.inode)
    }

    fn written(&mut self, call: &Call, at: Option<usize>, length: usize) {
        let Some(open) = call.descriptor().and_then(|number| self.open.get_mut(&number)) else { return };
        let bytes = &call.bytes()[..length];
        let data = &mut self.inodes[open.inode].data;
        let start = at.unwrap_or(if open.appends { data.len() } else { open.at });
        data.resize(data.len().max(start + length), 0);
        data[start..start + length].copy_from_slice(bytes);
        if at.is_none() {
            open.at = start + length;
        }
    }

    /// Everything that may be found after a power failure now.
    pub fn states(&self) -> Vec<Files> {
        let mut states = Vec::new();
        for selection in 0..1u32 << self.changes.len().min(8) {
            let mut names = self.certain.clone();
            let chosen = self.changes.iter().enumerate().filter(|(place, _)| selection >> place.min(&7) & 1 == 1);
            chosen.for_each(|(_, change)| change.apply(&mut names));
            for left in [left_synced, left_written, left_half, left_nuls] {
                let files = names.iter().map(|(name, inode)| (name.clone(), left(&self.inodes[*inode])));
                states.push(files.collect());
            }
        }
        states
    }
}

fn left_synced(inode: &Inode) -> Vec<u8> {
    inode.synced.clone()
}

fn left_written(inode: &Inode) -> Vec<u8> {
    inode.data.clone()
}

fn left_half(inode: &Inode) -> Vec<u8> {
    let (synced, data) = (inode.synced.len(), inode.data.len());
    if data <= synced { inode.synced.clone() } else { inode.data[..(synced + data).div_ceil(2)].to_vec() }
}

fn left_nuls(inode: &Inode) -> Vec<u8> {
    let mut bytes = inode.synced.clone();
    bytes.resize(inode.data.len().max(bytes.len()), 0);
    bytes
}
