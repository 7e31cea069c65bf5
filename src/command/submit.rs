//! `anvil-filter submit`: drops prompt files into a daemon's folder so that the daemon never sees a part of one, and says
//! where their results will be.
//!
//! ```text
//! open(DIR/.XXXXXX.anvil-submit, O_EXCL, 0640 & umask)   write…   fsync   close (checked)
//! renameat2(NOREPLACE) or link + unlink → DIR/NAME       fsync(DIR)
//! ```
//!
//! Invariants: every name is judged before the first file is copied; no name that exists is ever overwritten.

mod checks;
mod ending;
mod wait;

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Out, stdout_is_terminal};
use crate::config::{InputFile, SubmitTask, Verbosity};
use crate::daemon::names::Kind;
use crate::daemon::status::{self, SpoolStatus};
use crate::exit::{Exit, Stop};
use crate::journal::publish::sync_folder;
use crate::line::escape::shown;
use crate::report;

/// Runs the command: 0 when every file is in the folder or, with `--wait`, as a run of these prompts would end.
pub fn run(task: &SubmitTask) -> Result<Exit, Stop> {
    let entries = checks::plan(task)?;
    for entry in &entries {
        put(entry, &task.spool)?;
        print_path(&entry.result)?;
    }
    let status = status::read::<SpoolStatus>(&SpoolStatus::path_in(&task.spool)).ok().flatten();
    let alive = status.is_some_and(|status| status.is_alive(SystemTime::now()));
    if !alive && task.verbosity > Verbosity::Quiet {
        let spool = shown(&task.spool);
        report::say(&format!("anvil-filter: no daemon is running on {spool} now; what is in there waits for one"));
    }
    if task.wait { wait::run(task, entries) } else { Ok(Exit::Answered) }
}

/// One file on its way into the folder.
#[derive(Debug)]
struct Entry {
    source: InputFile,
    kind: Kind,
    name: OsString,
    /// Where it will lie.
    target: PathBuf,
    /// Where its result will lie.
    result: PathBuf,
    /// What an earlier file of this name has left: what stands there says nothing of this one.
    left: ending::Companions,
}

/// Copies one file, makes it durable, and gives it its name.
fn put(entry: &Entry, spool: &Path) -> Result<(), Stop> {
    let failed = |error: io::Error| {
        Stop::new(Exit::Io, format!("write {}: {error}", shown(&entry.target))).way_out("nothing of it was submitted")
    };
    let temp = tempfile::Builder::new()
        .prefix(".")
        .suffix(".anvil-submit")
        .permissions(Permissions::from_mode(0o640))
        .tempfile_in(spool)
        .map_err(failed)?;
    let (mut file, path) = temp.into_parts();
    let mut source = checks::open(&entry.source)?;
    copy(&mut *source, &mut file, entry, failed)?;
    file.sync_all().map_err(failed)?;
    let own = file.metadata().map_err(failed)?;
    // Network file systems report at the close what they could not store.
    match nix::unistd::close(file) {
        Ok(()) | Err(nix::errno::Errno::EINTR) => {}
        Err(error) => return Err(failed(error.into())),
    }
    if let Err(error) = path.persist_noclobber(&entry.target) {
        // On a network file system the operation may have been done although its reply was lost.
        let found = fs::symlink_metadata(&entry.target).map(|found| (found.dev(), found.ino()));
        match error.error.kind() {
            _ if found.is_ok_and(|found| found == (own.dev(), own.ino())) => {}
            io::ErrorKind::AlreadyExists => return Err(checks::taken(&entry.target)),
            _ => return Err(failed(error.error)),
        }
    }
    sync_folder(spool).map_err(|error| {
        Stop::new(Exit::Io, format!("sync {}: {error}", shown(spool)))
            .way_out(format!("{} is in there, but a power failure may lose it", shown(&entry.target)))
    })
}

fn copy(source: &mut dyn Read, file: &mut File, entry: &Entry, failed: impl Fn(io::Error) -> Stop) -> Result<(), Stop> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let length = match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let told = format!("read {}: {error}", checks::told(&entry.source));
                return Err(Stop::new(Exit::Io, told).way_out("nothing of it was submitted"));
            }
        };
        io::Write::write_all(file, &buffer[..length]).map_err(&failed)?;
    }
}

/// A path a line: as it is for programs, harmless for a terminal.
fn print_path(path: &Path) -> Result<(), Stop> {
    let mut out = Out::open()?;
    if stdout_is_terminal() {
        out.write(shown(path).as_bytes())?;
    } else {
        out.write(path.as_os_str().as_bytes())?;
    }
    out.write(b"\n")?;
    out.finish()
}
