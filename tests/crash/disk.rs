//! A model of the weakest file system that POSIX allows: what may be left of a folder when the power fails.
//!
//! Bytes are certain up to the last fsync of their file; what came later may be there, in part, or be NULs. Names are
//! certain up to the last fsync of their folder; of what came later any selection may have happened. Exchanges and
//! renames are done or not. Folders in the folder are names, too, that end with a slash; without its name nothing below
//! is found. Lock files are left out, and what else is said to be: they have no contents worth keeping.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::path::{Path, PathBuf};

use crate::strace::Call;

/// What a folder holds: contents by names, which are paths as seen from it; those of folders end with a slash.
pub type Files = BTreeMap<String, Vec<u8>>;

type Names = BTreeMap<String, usize>;

#[derive(Clone, Debug, Default)]
struct Inode {
    data: Vec<u8>,
    synced: Vec<u8>,
    /// Hashes of both.
    data_mark: u64,
    synced_mark: u64,
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
    /// Where in the trace it was opened.
    since: usize,
}

/// The folder that a name is in.
fn folder_of(name: &str) -> &str {
    name.strip_suffix('/').unwrap_or(name).rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Whether all the folders that a name is below are there.
fn is_found(name: &str, names: &Names) -> bool {
    let mut folder = folder_of(name);
    while !folder.is_empty() {
        if !names.contains_key(&format!("{folder}/")) {
            return false;
        }
        folder = folder_of(folder);
    }
    true
}

/// A folder on such a disk.
#[derive(Clone, Debug)]
pub struct Disk {
    folder: PathBuf,
    /// Which names are kept.
    keeps: fn(&str) -> bool,
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
        Disk::keeping(folder, files, |name| !name.contains(".lock"))
    }

    /// The same where other names are of interest.
    pub fn keeping(folder: &Path, files: &Files, keeps: fn(&str) -> bool) -> Disk {
        let inodes = files.values().map(|bytes| Inode::new(bytes)).collect();
        let names: Names = files.keys().cloned().zip(0..).collect();
        Disk {
            folder: folder.to_owned(),
            keeps,
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
    fn name(&self, path: &Path) -> Option<String> {
        let name = path.strip_prefix(&self.folder).ok()?.to_str()?;
        Some(name.to_owned()).filter(|name| !name.is_empty() && (self.keeps)(name))
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    /// A system call was made.
    pub fn apply(&mut self, call: &Call) {
        let Some(result) = call.result.filter(|result| *result >= 0) else { return };
        let is_write = matches!(&*call.name, "write" | "writev" | "pwrite64");
        let paths = if is_write { Vec::new() } else { call.paths() };
        let names: Vec<Option<String>> = paths.iter().map(|path| self.name(path)).collect();
        match (&*call.name, &*names) {
            ("openat", [Some(name)]) => self.opened(name, call, result as u32),
            ("fcntl", _) if call.args.contains("F_DUPFD") => {
                if let Some(open) = call.descriptor().and_then(|number| self.open.get(&number)).copied() {
                    self.open.insert(result as u32, open);
                }
            }
            ("close", _) => self.closed(call),
            ("write" | "writev", _) => self.written(call, None, result as usize),
            ("pwrite64", _) => {
                let at = call.args.rsplit(", ").next().and_then(|at| at.trim().parse().ok());
                self.written(call, at, result as usize);
            }
            ("ftruncate", _) => {
                let length = call.args.rsplit(", ").next().and_then(|length| length.trim().parse().ok()).unwrap();
                if let Some(inode) = self.inode_of(call) {
                    self.inodes[inode].data.resize(length, 0);
                    self.inodes[inode].changed();
                }
            }
            ("fsync" | "fdatasync", _) => match self.inode_of(call) {
                Some(inode) => self.inodes[inode].sync(),
                None => self.folder_synced(call),
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
            ("mkdir" | "mkdirat", [Some(name)]) => drop(self.made(&format!("{name}/"))),
            ("rmdir", [Some(name)]) => self.change(Change::unlink(&format!("{name}/"), &self.names)),
            ("unlink" | "unlinkat", [Some(name)]) => {
                let end = if call.args.contains("AT_REMOVEDIR") { "/" } else { "" };
                self.change(Change::unlink(&format!("{name}{end}"), &self.names));
            }
            _ => {}
        }
    }

    /// A new file, or a new folder.
    fn made(&mut self, name: &str) -> usize {
        self.inodes.push(Inode::new(&[]));
        self.change(Change::link(name, self.inodes.len() - 1));
        self.inodes.len() - 1
    }

    fn opened(&mut self, name: &str, call: &Call, number: u32) {
        let inode = match self.names.get(name) {
            Some(inode) => *inode,
            None if call.args.contains("O_CREAT") => self.made(name),
            // A folder, or what was there and is not of interest.
            None => return,
        };
        if call.args.contains("O_TRUNC") {
            self.inodes[inode].data.clear();
            self.inodes[inode].changed();
        }
        let open = Open { inode, at: 0, appends: call.args.contains("O_APPEND"), since: call.end };
        self.open.insert(number, open);
    }

    fn closed(&mut self, call: &Call) {
        // While one thread leaves the call, another one may get the same number already.
        if let Some(number) = call.descriptor()
            && self.open.get(&number).is_some_and(|open| open.since < call.begin)
        {
            self.open.remove(&number);
        }
    }

    /// A folder was synced: the names in it are certain.
    fn folder_synced(&mut self, call: &Call) {
        let Some(folder) = call.path().and_then(|path| Path::new(path).strip_prefix(&self.folder).ok()) else { return };
        let folder = folder.to_str().unwrap().to_owned();
        self.certain.retain(|name, _| folder_of(name) != folder);
        let names = self.names.iter().filter(|(name, _)| folder_of(name) == folder);
        self.certain.extend(names.map(|(name, inode)| (name.clone(), *inode)));
        self.changes.retain(|change| change.moves.iter().any(|(name, ..)| folder_of(name) != folder));
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
        self.inodes[open.inode].changed();
        if at.is_none() {
            open.at = start + length;
        }
    }

    /// What will be found, whatever happens.
    pub fn certain(&self) -> Files {
        self.found(&self.certain, Left::Synced)
    }

    /// Everything that may be found after a power failure now.
    pub fn states(&self) -> Vec<Files> {
        let mut states = Vec::new();
        self.each_state(|_| true, |files| states.push(files));
        states
    }

    /// The same, but only what `wants` asks for by a hash, which is the same for the same files.
    pub fn each_state(&self, mut wants: impl FnMut(u64) -> bool, mut give: impl FnMut(Files)) {
        for selection in 0..1u32 << self.changes.len().min(8) {
            let mut names = self.certain.clone();
            let chosen = self.changes.iter().enumerate().filter(|(place, _)| selection >> place.min(&7) & 1 == 1);
            chosen.for_each(|(_, change)| change.apply(&mut names));
            for left in [Left::Synced, Left::Written, Left::Half, Left::Nuls] {
                if wants(self.hash_of(&names, left)) {
                    give(self.found(&names, left));
                }
            }
        }
    }

    fn found(&self, names: &Names, left: Left) -> Files {
        let found = names.iter().filter(|(name, _)| is_found(name, names));
        found.map(|(name, inode)| (name.clone(), self.inodes[*inode].left(left))).collect()
    }

    fn hash_of(&self, names: &Names, left: Left) -> u64 {
        let found = names.iter().filter(|(name, _)| is_found(name, names));
        let marks: Vec<_> = found.map(|(name, inode)| (name, self.inodes[*inode].mark(left))).collect();
        hash_of(&marks)
    }
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What is left of what was written after the last sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Left {
    Synced,
    Written,
    Half,
    Nuls,
}

impl Inode {
    fn new(bytes: &[u8]) -> Inode {
        let mut inode = Inode { data: bytes.to_vec(), ..Inode::default() };
        inode.changed();
        inode.sync();
        inode
    }

    /// Its bytes were changed.
    fn changed(&mut self) {
        self.data_mark = hash_of(&self.data);
    }

    fn sync(&mut self) {
        self.synced.clone_from(&self.data);
        self.synced_mark = self.data_mark;
    }

    fn left(&self, left: Left) -> Vec<u8> {
        let (synced, data) = (self.synced.len(), self.data.len());
        match left {
            Left::Synced => self.synced.clone(),
            Left::Written => self.data.clone(),
            _ if data <= synced => self.synced.clone(),
            Left::Half => self.data[..(synced + data).div_ceil(2)].to_vec(),
            Left::Nuls => {
                let mut bytes = self.synced.clone();
                bytes.resize(data, 0);
                bytes
            }
        }
    }

    /// What tells the bytes that are left from others.
    fn mark(&self, left: Left) -> u64 {
        match left {
            Left::Synced => self.synced_mark,
            Left::Written => self.data_mark,
            _ if self.data.len() <= self.synced.len() => self.synced_mark,
            left => hash_of(&(self.synced_mark, self.data_mark, left)),
        }
    }
}

#[test]
fn what_is_not_synced_may_be_lost_with_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let text = concat!(
        "7 mkdir(\"/d/f\", 0700) = 0\n",
        "7 openat(AT_FDCWD</>, \"/d/f/a\", O_WRONLY|O_CREAT|O_EXCL, 0600) = 3</d/f/a>\n",
        "7 write(3</d/f/a>, \"12\", 2) = 2\n",
        "7 fsync(3</d/f/a>) = 0\n",
        "7 openat(AT_FDCWD</>, \"/d/f\", O_RDONLY) = 4</d/f>\n",
        "7 fsync(4</d/f>) = 0\n",
        "8 close(4</d/f> <unfinished ...>\n",
        "7 write(3</d/f/a>, \"34\", 2) = 2\n",
        "7 openat(AT_FDCWD</>, \"/d\", O_RDONLY) = 4</d>\n",
        "8 <... close resumed>) = 0\n",
        "7 fsync(4</d>) = 0\n",
        "7 unlinkat(4</d>, \"f/a\", 0) = 0\n",
    );
    std::fs::write(&trace, text).unwrap();
    let calls = crate::strace::read(&trace);
    let mut disk = Disk::new(Path::new("/d"), &Files::new());
    let mut states = |calls: &[Call]| {
        calls.iter().for_each(|call| disk.apply(call));
        let shown = |files: Files| -> Vec<String> {
            files.into_iter().map(|(name, bytes)| format!("{name} {}", bytes.escape_ascii())).collect()
        };
        disk.states().into_iter().map(shown).collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    let file = |text: &str| vec!["f/ ".to_owned(), format!("f/a {text}")];
    // Its own folder was synced, but not the one above it.
    assert_eq!(states(&calls[..6]), [vec![], file("12")]);
    let nuls = "12\\x00\\x00";
    assert_eq!(states(&calls[6..10]), [file("12"), file("123"), file("1234"), file(nuls)]);
    let gone = vec!["f/ ".to_owned()];
    assert_eq!(states(&calls[10..]), [gone, file("12"), file("123"), file("1234"), file(nuls)]);
}
