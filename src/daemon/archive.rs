//! The archive: finished inputs and their results are moved there, under the same paths, when that is wished.
//!
//! Invariant: only what was run is moved, never what has taken its place since; nothing there is overwritten.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::folder::Folder;
use super::log::Done;
use super::stamp::Stamp;
use crate::config::Config;
use crate::exit::{Exit, Stop};
use crate::journal::publish::is_still;
use crate::line::escape::shown;

/// Makes the archive, and sees that files can be moved there.
pub fn prepare(config: &Config) -> Result<(), Stop> {
    let Some(daemon) = &config.daemon else { return Ok(()) };
    let Some(archive) = &daemon.archive else { return Ok(()) };
    let failed = |error: io::Error| Stop::new(Exit::Io, format!("make the archive {}: {error}", shown(archive)));
    fs::create_dir_all(archive).map_err(failed)?;
    let device = fs::metadata(archive).map_err(failed)?.dev();
    for spool in &daemon.spools {
        if fs::metadata(spool).is_ok_and(|metadata| metadata.dev() != device) {
            return Err(Stop::config(format!(
                "--archive {} is on another file system than {}: files cannot be moved there in one step",
                shown(archive),
                shown(spool)
            ))
            .way_out("name a folder on the same file system"));
        }
    }
    Ok(())
}

/// Moves a finished input and its result away. What fails is told, and tried again when the daemon starts.
pub fn put_away(root: &Path, archive: &Path, done: &Done) {
    if let Err(error) = try_put_away(root, archive, done) {
        tracing::warn!("{} cannot be archived: {error}", shown(&done.path.path()));
    }
}

fn try_put_away(root: &Path, archive: &Path, done: &Done) -> io::Result<()> {
    let path = done.path.path();
    let (Some(name), result) = (path.file_name(), done.result_name.path()) else { return Ok(()) };
    let folder = match Folder::of(root, &path) {
        Err(error) if Folder::is_gone(&error) => return Ok(()),
        folder => folder?,
    };
    let input = folder.join(name);
    let is_same = match input.symlink_metadata() {
        Ok(metadata) => Stamp::of(&metadata) == done.stamp,
        Err(_) => false,
    };
    if !is_same {
        return Ok(());
    }
    let into = archive.join(path.parent().unwrap_or(Path::new("")));
    fs::create_dir_all(&into)?;
    let own = folder.join(&result);
    if let Some(fingerprint) = &done.result
        && is_still(&own, fingerprint)?
    {
        move_to(&own, &into, result.as_os_str().to_owned(), done.job)?;
    }
    let moved = move_to(&input, &into, name.to_owned(), done.job)?;
    let is_ours = moved.symlink_metadata().is_ok_and(|metadata| metadata.ino() == done.stamp.inode);
    if !is_ours {
        // Something took its place in just that moment: it goes back, to be run.
        renameat_with(CWD, &moved, CWD, &input, RenameFlags::NOREPLACE)?;
    }
    Ok(())
}

/// Moves a file into a folder; where its name is taken there, with the job's number behind it.
fn move_to(from: &Path, into: &Path, name: OsString, job: u64) -> io::Result<PathBuf> {
    let to = into.join(&name);
    match renameat_with(CWD, from, CWD, &to, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => {
            let mut numbered = name;
            numbered.push(format!(".{job}"));
            let to = into.join(numbered);
            renameat_with(CWD, from, CWD, &to, RenameFlags::NOREPLACE)?;
            Ok(to)
        }
        moved => Ok(moved.map(|()| to)?),
    }
}
