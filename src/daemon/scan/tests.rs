//! The scanner on real files.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::daemon::names::Kind;

const SETTLE: Duration = Duration::from_millis(300);
const BLIND: Duration = Duration::from_millis(600);
const PATIENCE: Duration = Duration::from_secs(30);

/// A spool in a folder of its own, and what the scanner told of it.
struct Spool {
    folder: TempDir,
    scanner: Scanner,
    told: Receiver<Told>,
    /// Everything that was told so far.
    heard: Vec<Told>,
}

impl Spool {
    /// Scans so rarely that everything but the first scan's work is the bell's.
    fn rung() -> Spool {
        Spool::start(tempdir(), false, Duration::from_secs(3600))
    }

    fn start(folder: TempDir, recursive: bool, scan_every: Duration) -> Spool {
        let root = folder.path().join("spool");
        fs::create_dir_all(&root).unwrap();
        let keep_out = vec![root.join("archive")];
        let settings = Settings { root, recursive, settle: SETTLE, scan_every, keep_out };
        let (tell, told) = channel();
        let blind = Blind { local: BLIND, remote: BLIND };
        let scanner = Scanner::start_with(settings, blind, move |news| drop(tell.send(news))).unwrap();
        let mut spool = Spool { folder, scanner, told, heard: Vec::new() };
        spool.hear_until(|told| matches!(told, Told::Scanned { .. }));
        spool
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("spool").join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// Makes a whole file outside and renames it in.
    fn rename_in(&self, name: &str, text: &str) {
        let outside = self.folder.path().join("outside");
        fs::write(&outside, text).unwrap();
        fs::rename(outside, self.path(name)).unwrap();
    }

    fn hear_until(&mut self, is_it: impl Fn(&Told) -> bool) {
        loop {
            let told = self.told.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{error}: {:#?}", self.heard));
            self.heard.push(told);
            if self.heard.last().is_some_and(&is_it) {
                return;
            }
        }
    }

    fn hear_of(&mut self, name: &str) -> Found {
        self.hear_until(|told| found_in(told).any(|found| *found.path == *Path::new(name)));
        let told = self.heard.last().unwrap();
        found_in(told).find(|found| *found.path == *Path::new(name)).unwrap().clone()
    }

    fn hear_gone(&mut self, name: &str) {
        self.hear_until(|told| matches!(told, Told::Gone(paths) if paths.contains(&name.into())));
    }

    /// Hears for so long, whatever comes.
    fn hear_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            match self.told.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(told) => self.heard.push(told),
                Err(RecvTimeoutError::Timeout) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Every file that was told, as often as it was.
    fn found(&self) -> Vec<String> {
        let mut found: Vec<String> =
            self.heard.iter().flat_map(found_in).map(|found| found.path.display().to_string()).collect();
        found.sort();
        found
    }

    fn gone(&self) -> Vec<String> {
        let gone = self.heard.iter().filter_map(|told| if let Told::Gone(paths) = told { Some(paths) } else { None });
        gone.flatten().map(|path| path.display().to_string()).collect()
    }
}

fn tempdir() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn found_in(told: &Told) -> impl Iterator<Item = &Found> {
    let found: &[Found] = if let Told::Found(found) = told { found } else { &[] };
    found.iter()
}

/// Waits until the clock of the file system has moved on, so that a change shows.
fn tick() {
    std::thread::sleep(Duration::from_millis(20));
}

#[test]
fn what_is_renamed_in_is_told_at_once() {
    let mut spool = Spool::rung();
    let mut waits: Vec<Duration> = (0..15)
        .map(|number| {
            let name = format!("p{number}.jsonl");
            spool.rename_in(&name, "{}");
            let begun = Instant::now();
            let found = spool.hear_of(&name);
            assert!(found.regular && found.name == Name::Input(Kind::Lines) && found.stamp.bytes == 2, "{found:?}");
            let wait = begun.elapsed();
            // As somebody would, who does not drop all at the same time.
            std::thread::sleep(Duration::from_millis(5));
            wait
        })
        .collect();
    waits.sort();
    assert!(waits[7] < Duration::from_millis(50), "{waits:?}");
    spool.hear_for(BLIND);
    assert_eq!(spool.found().len(), 15);
}

#[test]
fn what_is_written_slowly_is_told_once_and_whole() {
    let mut spool = Spool::rung();
    let mut file = File::create(spool.path("p.txt")).unwrap();
    for _ in 0..4 {
        // Longer than the short look for links, and together longer than `settle`.
        std::thread::sleep(SETTLE * 4 / 5);
        file.write_all(b"word ").unwrap();
    }
    drop(file);
    let closed_at = Instant::now();
    let found = spool.hear_of("p.txt");
    assert!(closed_at.elapsed() >= SETTLE && found.stamp.bytes == 20, "{found:?}");
    // Closed at every line, as a shell's >> does it.
    for _ in 0..4 {
        let mut file = OpenOptions::new().append(true).create(true).open(spool.path("q.txt")).unwrap();
        file.write_all(b"line\n").unwrap();
        drop(file);
        std::thread::sleep(SETTLE / 3);
    }
    assert_eq!(spool.hear_of("q.txt").stamp.bytes, 20);
    spool.scanner.scan_now();
    spool.hear_for(BLIND * 2);
    assert_eq!(spool.found(), ["p.txt", "q.txt"]);
}

#[test]
fn what_is_written_after_it_was_told_is_told_again() {
    let mut spool = Spool::rung();
    spool.rename_in("p.txt", "1");
    spool.hear_of("p.txt");
    tick();
    spool.write("p.txt", "12");
    assert_eq!(spool.hear_of("p.txt").stamp.bytes, 2);
    // Unheard by any event: only the number of its names changes.
    tick();
    fs::hard_link(spool.path("p.txt"), spool.folder.path().join("elsewhere")).unwrap();
    spool.scanner.scan_now();
    spool.hear_of("p.txt");
    assert_eq!(spool.found(), ["p.txt"; 3]);
}

#[test]
fn what_is_linked_in_is_told_at_once_or_after_a_short_look() {
    let mut spool = Spool::rung();
    let outside = spool.folder.path().join("outside");
    fs::write(&outside, "{}").unwrap();
    fs::hard_link(&outside, spool.path("p.json")).unwrap();
    let begun = Instant::now();
    assert_eq!(spool.hear_of("p.json").name, Name::Input(Kind::One));
    assert!(begun.elapsed() < super::super::settle::LINK_LOOK);
    fs::hard_link(&outside, spool.path("q.json")).unwrap();
    fs::remove_file(&outside).unwrap();
    spool.hear_of("q.json");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn what_is_there_before_is_told_after_two_looks() {
    let folder = tempdir();
    fs::create_dir(folder.path().join("spool")).unwrap();
    fs::write(folder.path().join("spool/p.md"), "x").unwrap();
    fs::write(folder.path().join("spool/p.md.out.md"), "x").unwrap();
    let begun = Instant::now();
    let mut spool = Spool::start(folder, false, BLIND / 4);
    assert!(matches!(spool.heard.last(), Some(Told::Scanned { files: 1, unsettled: 1, .. })), "{:?}", spool.heard);
    spool.hear_of("p.md");
    assert!(begun.elapsed() >= BLIND);
    spool.hear_until(|told| matches!(told, Told::Scanned { files: 1, unsettled: 0, .. }));
    spool.hear_for(BLIND * 2);
    assert_eq!(spool.found(), ["p.md"]);
}

#[test]
fn a_burst_is_told_once_and_in_batches() {
    const FILES: usize = 30_000;
    let mut spool = Spool::start(tempdir(), false, Duration::from_millis(500));
    let begun = Instant::now();
    for number in 0..FILES {
        let temp = spool.write(&format!("p{number}.tmp"), "");
        fs::rename(&temp, spool.path(&format!("p{number}.jsonl"))).unwrap();
    }
    while spool.heard.iter().flat_map(found_in).count() < FILES {
        spool.hear_until(|told| matches!(told, Told::Found(_)));
    }
    let took = begun.elapsed();
    spool.hear_for(BLIND * 2);
    let found = spool.found();
    let mut names = found.clone();
    names.dedup();
    assert_eq!((found.len(), names.len()), (FILES, FILES));
    let batches = spool.heard.iter().filter(|told| matches!(told, Told::Found(_))).count();
    // One every 5 ms at most, but for those that are full.
    let batches_max = took.as_millis() / 5 + FILES as u128 / 256 + 50;
    assert!((batches as u128) < batches_max, "{batches} batches in {took:?}");
    assert!(spool.heard.iter().flat_map(|told| [told]).all(|told| found_in(told).count() <= 512));
}

#[test]
fn what_is_no_regular_file_is_told_and_never_waited_for() {
    let mut spool = Spool::rung();
    let made = Command::new("mkfifo").arg(spool.path("fifo.jsonl")).status().unwrap();
    assert!(made.success());
    symlink("/dev/zero", spool.path("link.jsonl")).unwrap();
    fs::create_dir(spool.path("folder.jsonl")).unwrap();
    for name in ["fifo.jsonl", "link.jsonl", "folder.jsonl"] {
        while !spool.found().contains(&name.to_owned()) {
            spool.hear_until(|told| matches!(told, Told::Found(_)));
        }
    }
    // Its use changes a folder's times.
    tick();
    spool.write("folder.jsonl/p.txt", "x");
    spool.scanner.scan_now();
    spool.hear_until(|told| matches!(told, Told::Scanned { files: 3, unsettled: 0, .. }));
    assert!(spool.heard.iter().flat_map(found_in).all(|found| !found.regular && found.stamp.bytes == 0));
    assert_eq!(spool.found(), ["fifo.jsonl", "folder.jsonl", "link.jsonl"]);
}

#[test]
fn a_control_is_told_at_once() {
    let mut spool = Spool::rung();
    let file = File::create(spool.path("p.jsonl.cancel")).unwrap();
    assert_eq!(spool.hear_of("p.jsonl.cancel").name, Name::Cancel);
    drop(file);
}

#[test]
fn odd_names_are_found() {
    let mut spool = Spool::rung();
    let long = format!("{}.jsonl", "n".repeat(249));
    let names = [b"\xff\xfe.jsonl".as_slice(), b"a\nb\x1b[31m.jsonl", b"-rf .jsonl", long.as_bytes()];
    for name in names {
        let outside = spool.folder.path().join("outside");
        fs::write(&outside, "x").unwrap();
        fs::rename(outside, spool.folder.path().join("spool").join(std::ffi::OsStr::from_bytes(name))).unwrap();
    }
    for name in names {
        let is_it = |told: &Told| found_in(told).any(|found| found.path.as_os_str().as_bytes() == name);
        if !spool.heard.iter().any(is_it) {
            spool.hear_until(is_it);
        }
    }
}

#[test]
fn what_goes_is_told_and_a_rename_over_another_is_both() {
    let mut spool = Spool::rung();
    for name in ["a.txt", "b.txt", "c.txt"] {
        spool.rename_in(name, name);
        spool.hear_of(name);
    }
    let inode = fs::metadata(spool.path("a.txt")).unwrap().ino();
    fs::rename(spool.path("a.txt"), spool.path("b.txt")).unwrap();
    assert_eq!(spool.hear_of("b.txt").stamp.inode, inode);
    fs::remove_file(spool.path("c.txt")).unwrap();
    spool.hear_gone("c.txt");
    assert_eq!(spool.gone(), ["a.txt", "c.txt"]);
    // Of what was never told nobody hears that it is gone.
    spool.write("d.txt", "x");
    fs::remove_file(spool.path("d.txt")).unwrap();
    spool.scanner.scan_now();
    spool.hear_until(|told| matches!(told, Told::Scanned { files: 1, .. }));
    assert_eq!((spool.gone().len(), spool.found().len()), (2, 4));
}

#[test]
fn a_root_that_goes_is_lost_until_it_is_back() {
    let mut spool = Spool::rung();
    spool.rename_in("p.txt", "x");
    spool.hear_of("p.txt");
    let away = spool.folder.path().join("away");
    fs::rename(spool.path(""), &away).unwrap();
    spool.hear_until(|told| matches!(told, Told::Lost(why) if why.contains("/spool: ") && why.contains("mounted")));
    spool.hear_for(BLIND);
    fs::rename(&away, spool.path("")).unwrap();
    spool.hear_until(|told| *told == Told::Back);
    spool.rename_in("q.txt", "x");
    spool.hear_of("q.txt");
    assert_eq!((spool.found(), spool.gone().len()), (vec!["p.txt".to_owned(), "q.txt".to_owned()], 0));
    let lost = spool.heard.iter().filter(|told| matches!(told, Told::Lost(_))).count();
    assert_eq!(lost, 1);
}

#[test]
fn another_folder_in_the_roots_place_is_watched_anew() {
    let mut spool = Spool::rung();
    spool.rename_in("p.txt", "x");
    spool.hear_of("p.txt");
    fs::rename(spool.path(""), spool.folder.path().join("away")).unwrap();
    fs::create_dir(spool.path("")).unwrap();
    spool.hear_until(|told| *told == Told::Back);
    spool.hear_gone("p.txt");
    spool.rename_in("q.txt", "x");
    spool.hear_of("q.txt");
    fs::remove_dir_all(spool.path("")).unwrap();
    spool.hear_until(|told| matches!(told, Told::Lost(_)));
}

#[test]
fn folders_that_come_and_go_are_followed() {
    let mut spool = Spool::start(tempdir(), true, Duration::from_secs(3600));
    fs::create_dir_all(spool.path("a/b")).unwrap();
    // Until the bell hangs there, only a scan finds what falls in between.
    std::thread::sleep(Duration::from_millis(200));
    spool.rename_in("a/b/p.txt", "x");
    spool.hear_of("a/b/p.txt");
    fs::rename(spool.path("a"), spool.path("c")).unwrap();
    spool.hear_gone("a/b/p.txt");
    std::thread::sleep(BLIND);
    spool.scanner.scan_now();
    spool.hear_of("c/b/p.txt");
    spool.rename_in("c/b/q.txt", "x");
    spool.hear_of("c/b/q.txt");
    fs::remove_dir_all(spool.path("c")).unwrap();
    while spool.gone().len() < 3 {
        spool.hear_until(|told| matches!(told, Told::Gone(_)));
    }
    assert_eq!(spool.gone()[1..].iter().filter(|path| path.starts_with("c/b/")).count(), 2);
}

#[test]
fn nothing_is_entered_that_should_not_be() {
    let folder = tempdir();
    fs::create_dir_all(folder.path().join("outside")).unwrap();
    let deep: PathBuf = std::iter::repeat_n("d", 66).collect();
    for inside in ["in", ".anvil", ".hidden", "archive", "folder.jsonl"].map(Path::new).into_iter().chain([&*deep]) {
        fs::create_dir_all(folder.path().join("spool").join(inside)).unwrap();
        fs::write(folder.path().join("spool").join(inside).join("p.txt"), "x").unwrap();
    }
    fs::write(folder.path().join("outside/p.txt"), "x").unwrap();
    symlink("../outside", folder.path().join("spool/link")).unwrap();
    let mut spool = Spool::start(folder, true, BLIND / 4);
    spool.hear_of("in/p.txt");
    spool.hear_for(BLIND);
    assert_eq!(spool.found(), ["folder.jsonl", "in/p.txt"]);
    let warnings: Vec<_> = spool.heard.iter().filter(|told| matches!(told, Told::Warning(_))).collect();
    assert!(matches!(warnings[..], [Told::Warning(text)] if text.contains("64 deep")), "{warnings:?}");
}

#[test]
fn the_counter_grows_while_nothing_happens() {
    let spool = Spool::rung();
    let before = spool.scanner.advanced();
    std::thread::sleep(Duration::from_millis(1500));
    assert!(spool.scanner.advanced() > before);
}

#[test]
fn the_thread_ends_with_its_handle() {
    let spool = Spool::rung();
    drop(spool.scanner);
    // The thread owns the sender.
    assert_eq!(spool.told.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
}

#[test]
fn a_root_that_is_not_there_is_refused() {
    let settings = Settings {
        root: "/nonexistent/\u{1b}".into(),
        recursive: false,
        settle: SETTLE,
        scan_every: SETTLE,
        keep_out: Vec::new(),
    };
    let error = Scanner::start(settings, |_| {}).unwrap_err().to_string();
    assert!(error.starts_with("open the folder /nonexistent/\\u{1b}: "), "{error}");
}

#[test]
fn more_rings_than_may_wait_become_one() {
    let (messages, heard) = channel();
    let ringer = Ringer { messages, gauge: Arc::default() };
    let ring = || ringer.ring(Ring::At("p.txt".into(), super::super::settle::Sight::Moved));
    (0..Ringer::RINGS_MAX + 9).for_each(|_| ring());
    let rings: Vec<Ring> =
        heard.try_iter().map(|message| if let Message::Ring(ring) = message { ring } else { panic!() }).collect();
    assert_eq!((rings.len(), rings.last()), (Ringer::RINGS_MAX + 1, Some(&Ring::Overflow)));
    rings.iter().for_each(|heard| ringer.heard(heard));
    ring();
    assert!(matches!(heard.try_recv(), Ok(Message::Ring(Ring::At(..)))));
}

// ------------------------------------------------------------------------------------- in namespaces of their own

const INSIDE: &str = "SCAN_TEST_INSIDE";

/// Runs this test again behind `prepare` where mounts and limits are its own; `None` inside, and whether that worked
/// outside. Where there are no such namespaces nothing is tested.
fn outside(test: &str, prepare: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return false;
    }
    let unshare = ["--user", "--map-root-user", "--mount"];
    if !Command::new("unshare").args(unshare).arg("true").status().is_ok_and(|status| status.success()) {
        return true;
    }
    let script = format!("{prepare} || exit 77; exec \"$0\" --exact daemon::scan::tests::{test} --nocapture");
    let mut command = Command::new("unshare");
    command.args(unshare).args(["sh", "-c", &script]).arg(std::env::current_exe().unwrap()).env(INSIDE, "1");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(matches!(output.status.code(), Some(0 | 77)), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.code() == Some(77) || text.contains("1 passed"), "{text}");
    true
}

#[test]
fn where_watches_run_out_it_is_polled_with_a_warning() {
    if outside("where_watches_run_out_it_is_polled_with_a_warning", "echo 1 > /proc/sys/user/max_inotify_watches") {
        return;
    }
    let folder = tempdir();
    fs::create_dir_all(folder.path().join("spool/a")).unwrap();
    fs::create_dir_all(folder.path().join("spool/b")).unwrap();
    let mut spool = Spool::start(folder, true, BLIND / 4);
    for name in ["p.txt", "a/p.txt", "b/p.txt"] {
        spool.rename_in(name, "x");
        spool.hear_of(name);
    }
    let warnings: Vec<_> = spool.heard.iter().filter(|told| matches!(told, Told::Warning(_))).collect();
    assert!(
        matches!(warnings[..], [Told::Warning(text)] if text.contains("fs.inotify.max_user_watches=")),
        "{warnings:?}"
    );
}

#[test]
fn what_nothing_rings_for_is_found_by_the_scan() {
    let prepare = "mount -t tmpfs tmpfs /mnt && mkdir /mnt/spool /mnt/lower /mnt/upper /mnt/work && mount -t overlay \
                   overlay -o lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work /mnt/spool";
    if outside("what_nothing_rings_for_is_found_by_the_scan", prepare) {
        return;
    }
    let folder = tempfile::Builder::new().rand_bytes(0).prefix("outside").tempdir_in("/mnt").unwrap();
    symlink("/mnt/spool", folder.path().join("spool")).unwrap();
    let mut spool = Spool::start(folder, false, BLIND / 4);
    fs::write("/mnt/upper/p.txt", "x").unwrap();
    let begun = Instant::now();
    spool.hear_of("p.txt");
    assert!(begun.elapsed() >= BLIND, "it rang after {:?}", begun.elapsed());
    assert!(begun.elapsed() < BLIND * 3, "{:?}", begun.elapsed());
}

#[test]
fn under_an_unmounted_spool_nothing_is_taken_for_gone() {
    let prepare = "mount -t tmpfs tmpfs /mnt && mkdir /mnt/spool /mnt/disk && mount -t tmpfs \
                   tmpfs /mnt/disk && mkdir /mnt/disk/.anvil && mount --bind /mnt/disk /mnt/spool";
    if outside("under_an_unmounted_spool_nothing_is_taken_for_gone", prepare) {
        return;
    }
    let folder = tempfile::Builder::new().rand_bytes(0).prefix("outside").tempdir_in("/mnt").unwrap();
    symlink("/mnt/spool", folder.path().join("spool")).unwrap();
    let mut spool = Spool::start(folder, false, Duration::from_secs(3600));
    spool.write("p.txt", "x");
    spool.hear_of("p.txt");
    assert!(Command::new("umount").arg("/mnt/spool").status().unwrap().success());
    spool.hear_until(|told| matches!(told, Told::Lost(why) if why.contains("no spool")));
    spool.hear_for(Duration::from_millis(2500));
    assert!(Command::new("mount").args(["--bind", "/mnt/disk", "/mnt/spool"]).status().unwrap().success());
    spool.hear_until(|told| *told == Told::Back);
    spool.write("q.txt", "x");
    spool.hear_of("q.txt");
    assert_eq!((spool.found().len(), spool.gone().len()), (2, 0));
}
