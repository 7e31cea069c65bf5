//! How files get into a folder: by the tools and habits that people have.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::wait_for;
use crate::needs::has;
use crate::spool::Daemon;

/// Runs a command, which must succeed.
#[track_caller]
pub fn run(program: &str, args: &[&Path]) {
    let status = Command::new(program).args(args).status().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(status.success(), "{program} {args:?}: {status}");
}

/// Runs a line of shell in which `$1` and `$2` are these paths.
#[track_caller]
pub fn shell(script: &str, first: &Path, second: &Path) {
    let status = Command::new("/bin/sh").args(["-ec", script, "sh"]).args([first, second]).status().unwrap();
    assert!(status.success(), "{script}: {status}");
}

/// Whether there is such a program.
pub fn is_there(program: &str) -> bool {
    let found = |folder: &str| Path::new(folder).join(program).exists();
    ["/usr/bin", "/bin", "/usr/local/bin"].into_iter().any(found)
}

/// Writes a text in pieces, with pauses between, and keeps the file open until the end.
pub fn write_slowly(path: &Path, text: &str, pieces: usize, pause: Duration) {
    let mut file = File::create(path).unwrap();
    in_pieces(text, pieces, |piece| {
        file.write_all(piece).unwrap();
        std::thread::sleep(pause);
    });
}

/// Appends a text in pieces, with pauses between, as `>>` does: the file is closed after each.
pub fn append_slowly(path: &Path, text: &str, pieces: usize, pause: Duration) {
    in_pieces(text, pieces, |piece| {
        append(path, piece);
        std::thread::sleep(pause);
    });
}

/// Appends to a file, which is closed then.
pub fn append(path: &Path, piece: impl AsRef<[u8]>) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(piece.as_ref()).unwrap();
}

/// Pieces of about the same size, whose ends have nothing to do with those of lines.
fn in_pieces(text: &str, pieces: usize, give: impl FnMut(&[u8])) {
    text.as_bytes().chunks(text.len().div_ceil(pieces)).for_each(give);
}

/// Whether there is strace, with which system calls are held up or fail.
pub fn has_strace() -> bool {
    let found = if is_there("strace") { Ok(()) } else { Err("it is not installed".to_owned()) };
    has("strace", found, "ANVIL_REQUIRE_STRACE")
}

/// strace that meddles with a process; it lets go when it is dropped.
pub struct Strace(Child);

/// Has these system calls of a daemon injected with this (strace(1), `-e inject`).
pub fn strace(daemon: &Daemon, calls: &str, what: &str) -> Strace {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
    command.args(["-e", &format!("inject={calls}:{what}"), "-p", &daemon.pid().to_string()]);
    let strace = Strace(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let tracer = format!("TracerPid:\t{}", strace.0.id());
    wait_for("strace to hold it", || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
        let held = |task: std::fs::DirEntry| {
            std::fs::read_to_string(task.path().join("status")).is_ok_and(|status| status.contains(&tracer))
        };
        tasks.flatten().all(held).then_some(())
    });
    strace
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
