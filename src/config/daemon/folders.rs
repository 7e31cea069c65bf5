//! Whether the folders that a daemon is told to watch can be watched: that they are there, and that no file would be
//! taken by two of them.
//!
//! Looks at names and inodes; changes nothing. Whether a folder can be written is found out by who writes there.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::Daemon;
use crate::exit::Stop;
use crate::line::escape::shown;

/// Refuses folders that are not there (78), that are the same, or of which one is inside another that is watched with
/// all that is below; likewise an archive whose files would be taken for new ones.
pub(super) fn check(daemon: &Daemon) -> Result<(), Stop> {
    if daemon.spools.is_empty() {
        return Err(Stop::usage("a daemon needs a folder to watch")
            .way_out("add --spool DIR, or `spool` in [daemon] of a configuration file"));
    }
    let mut spools: Vec<Folder> = Vec::with_capacity(daemon.spools.len());
    for path in &daemon.spools {
        let folder = Folder::at("--spool", path)?;
        for other in &spools {
            if folder.is_same(other) {
                return Err(twice(&folder, other, "are the same folder", "name it once"));
            }
            if daemon.recursive && (folder.is_inside(other) || other.is_inside(&folder)) {
                let way_out = "with --recursive the outer one is enough; name that alone, or leave --recursive out";
                return Err(twice(&folder, other, "lie one inside the other", way_out));
            }
        }
        spools.push(folder);
    }
    let Some(archive) = &daemon.archive else { return Ok(()) };
    let archive = Folder::at("--archive", archive)?;
    match spools.iter().find(|spool| archive.is_same(spool)) {
        None => Ok(()),
        Some(spool) => {
            let way_out = format!("name another folder, for example {}", shown(&spool.path.join("done")));
            Err(twice(&archive, spool, "are the same folder", &way_out))
        }
    }
}

fn twice(one: &Folder, other: &Folder, what: &str, way_out: &str) -> Stop {
    let (own, others) = (shown(&one.path), shown(&other.path));
    Stop::config(format!("{} {own} and {} {others} {what}", one.flag, other.flag)).way_out(way_out)
}

struct Folder {
    flag: &'static str,
    path: PathBuf,
    /// Without links and dots in it.
    place: PathBuf,
    inode: (u64, u64),
}

impl Folder {
    fn at(flag: &'static str, path: &Path) -> Result<Folder, Stop> {
        let failed = |error: io::Error| {
            let way_out = match error.kind() {
                io::ErrorKind::NotFound => format!("make it first: mkdir -p {}", shown(path)),
                _ => "see that the folder and those above it can be entered by this user".to_owned(),
            };
            Stop::config(format!("watch {flag} {}: {error}", shown(path))).way_out(way_out)
        };
        let metadata = fs::metadata(path).map_err(failed)?;
        if !metadata.is_dir() {
            return Err(Stop::config(format!("{flag} {} is no folder", shown(path)))
                .way_out("name the folder that files are dropped into"));
        }
        let place = fs::canonicalize(path).map_err(failed)?;
        Ok(Folder { flag, path: path.to_owned(), place, inode: (metadata.dev(), metadata.ino()) })
    }

    fn is_same(&self, other: &Folder) -> bool {
        self.place == other.place || self.inode == other.inode
    }

    fn is_inside(&self, other: &Folder) -> bool {
        self.place.starts_with(&other.place)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn daemon(spools: &[&Path]) -> Daemon {
        Daemon { spools: spools.iter().map(|path| path.to_path_buf()).collect(), ..Daemon::default() }
    }

    #[track_caller]
    fn refused(daemon: &Daemon, told: &str, way_out: &str) {
        let stop = check(daemon).unwrap_err();
        assert_eq!(stop.exit, Exit::Config, "{stop}");
        assert!(stop.message.contains(told) && stop.way_out.as_deref().unwrap().contains(way_out), "{stop}");
    }

    #[test]
    fn folders_must_be_there_and_be_folders() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        check(&daemon(&[root.path()])).unwrap();
        refused(&daemon(&[&at("none")]), "none", "mkdir -p");
        fs::write(at("file"), "").unwrap();
        refused(&daemon(&[&at("file")]), "is no folder", "name the folder");
        let archive = |path: PathBuf| Daemon { archive: Some(path), ..daemon(&[root.path()]) };
        refused(&archive(at("none")), "--archive", "mkdir -p");
        refused(&archive(root.path().join(".")), "are the same folder", "done");
        assert_eq!(check(&daemon(&[])).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn no_file_is_taken_by_two() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for name in ["a", "a/inner", "ab"] {
            fs::create_dir(at(name)).unwrap();
        }
        std::os::unix::fs::symlink("a", at("link")).unwrap();
        refused(&daemon(&[&at("a"), &at("ab/../a")]), "are the same folder", "name it once");
        refused(&daemon(&[&at("ab"), &at("a"), &at("link")]), "are the same folder", "name it once");
        let recursive = |spools: &[&Path]| Daemon { recursive: true, ..daemon(spools) };
        for pair in [[at("a"), at("a/inner")], [at("a/inner"), at("link")]] {
            let [one, other] = [pair[0].as_path(), pair[1].as_path()];
            check(&daemon(&[one, other])).unwrap();
            refused(&recursive(&[one, other]), "one inside the other", "the outer one");
        }
        check(&recursive(&[&at("a"), &at("ab")])).unwrap();
        check(&Daemon { archive: Some(at("a/inner")), ..recursive(&[&at("a")]) }).unwrap();
    }
}
