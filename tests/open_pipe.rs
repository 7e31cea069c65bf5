//! Standard input that stays open: what comes is answered while it does, whatever kind of file it is, and nobody who
//! shares it notices.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::File;
use std::io::{IoSliceMut, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use common::{Live, Run, Sim};

/// Lines that come one by one, and lines that come at once; these are more than any pipe holds.
const SLOW: usize = 3;
const AT_ONCE: usize = 1500;

/// A line with its number in its prompt.
fn line(number: usize) -> String {
    format!("{{\"prompt\":\"{number} {}\"}}\n", "x".repeat(300))
}

/// Gives a run lines through `far`, one by one and then many; `near` is what it reads, and shared with this process.
fn serves(near: OwnedFd, mut far: impl Write) {
    let sim = Sim::start(&[]);
    let before = fcntl_getfl(&near).unwrap();
    let can_tell =
        preadv2(&near, &mut [IoSliceMut::new(&mut [0])], u64::MAX, ReadWriteFlags::NOWAIT) == Err(Errno::AGAIN);
    let run = Run::on(&sim).args(["--format", "text", "-j", "8"]);
    let mut live = run.stdin(near.try_clone().unwrap()).start();
    for number in 0..SLOW {
        far.write_all(line(number).as_bytes()).unwrap();
        live.wait_for_lines(number + 1);
        assert_eq!(fcntl_getfl(&near).unwrap(), before);
        assert_eq!(reads_on_a_thread(&live), !can_tell);
    }
    let many: String = (SLOW..SLOW + AT_ONCE).map(line).collect();
    far.write_all(many.as_bytes()).unwrap();
    live.wait_for_lines(SLOW + AT_ONCE);
    assert_eq!(fcntl_getfl(&near).unwrap(), before);
    assert!(reads_on_a_thread(&live));
    far.write_all(line(SLOW + AT_ONCE).as_bytes()).unwrap();
    live.wait_for_lines(SLOW + AT_ONCE + 1);
    drop(far);
    let output = live.finish().expect(0);
    assert_eq!(fcntl_getfl(&near).unwrap(), before);
    let numbers: Vec<String> = (0..=SLOW + AT_ONCE).map(|number| format!("Echo: {number}")).collect();
    let text = output.text();
    let found: Vec<&str> = text.lines().map(|line| line.rsplit_once(' ').unwrap().0).collect();
    assert_eq!(found, numbers);
}

/// Whether a run has a thread that reads.
fn reads_on_a_thread(live: &Live) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", live.pid())).unwrap();
    let mut names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
    names.any(|name| name.trim_end() == "reader")
}

#[test]
fn a_pipe_is_served_and_its_flags_stay() {
    let (near, far) = std::io::pipe().unwrap();
    serves(near.into(), far);
}

#[test]
fn a_pipe_that_never_waits_is_served_and_its_flags_stay() {
    let (near, far) = std::io::pipe().unwrap();
    fcntl_setfl(&near, fcntl_getfl(&near).unwrap() | OFlags::NONBLOCK).unwrap();
    serves(near.into(), far);
}

#[test]
fn a_socket_is_served_and_its_flags_stay() {
    let (near, far) = UnixStream::pair().unwrap();
    serves(near.into(), far);
}

#[test]
fn a_named_pipe_is_served_and_its_flags_stay() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    // To open only one end would wait for the other.
    let both = File::options().read(true).write(true).open(&path).unwrap();
    let near = File::open(&path).unwrap();
    let far = File::options().write(true).open(&path).unwrap();
    drop(both);
    serves(near.into(), far);
}
