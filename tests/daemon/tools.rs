//! How files get into a folder: by the tools and habits that people have.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

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
fn in_pieces(text: &str, pieces: usize, mut give: impl FnMut(&[u8])) {
    text.as_bytes().chunks(text.len().div_ceil(pieces)).for_each(|piece| give(piece));
}
