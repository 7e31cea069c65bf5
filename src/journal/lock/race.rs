//! Many processes with several threads contend for one lock, while the holder is killed again and again.
//!
//! The test runs itself as the contenders. Who gets the lock takes another one, in the *arena*: an flock on a file that
//! is never replaced, which the kernel alone keeps. Nobody may find the arena taken. In it a number in a file is read
//! and written back one higher, which loses counts when two do so at once.

#![allow(clippy::unwrap_used)]

use super::*;

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const FOLDER: &str = "ANVIL_TEST_RACE_FOLDER";
const PROCESSES: usize = 6;
const THREADS: usize = 3;
const DURATION: Duration = Duration::from_secs(5);

#[test]
fn there_are_never_two_holders_on_one_node() {
    race("journal::lock::race::there_are_never_two_holders_on_one_node", Nodes::One);
}

#[test]
fn there_are_never_two_holders_on_many_nodes() {
    race("journal::lock::race::there_are_never_two_holders_on_many_nodes", Nodes::Many);
}

/// What the contenders say of themselves. On many nodes no flock counts, only the age of a lock.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Nodes {
    One,
    Many,
}

fn race(test: &str, nodes: Nodes) {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return contend(Path::new(&folder), nodes);
    }
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("J.lock");
    fs::write(folder.path().join("count"), 0u64.to_ne_bytes()).unwrap();
    let start = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let command = command.args(["--exact", test]).env(FOLDER, folder.path());
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut children: Vec<Child> = (0..PROCESSES).map(|_| start()).collect();
    let (mut kills, mut holders_killed) = (0u64, 0);
    let begun = Instant::now();
    while begun.elapsed() < DURATION {
        std::thread::sleep(Duration::from_millis(fastrand::u64(5..60)));
        let holder = holder_pid(&lock);
        let number = children.iter().position(|child| Some(child.id()) == holder && fastrand::u8(..) < 200);
        let number = number.unwrap_or_else(|| fastrand::usize(..children.len()));
        bury(&mut children[number], folder.path(), nodes);
        kills += 1;
        holders_killed += u64::from(Some(children[number].id()) == holder);
        children[number] = start();
    }
    for child in &mut children {
        bury(child, folder.path(), nodes);
        kills += 1;
    }
    let violations = fs::read_to_string(folder.path().join("violations")).unwrap_or_default();
    assert_eq!(violations, "");
    let count = u64::from_ne_bytes(fs::read(folder.path().join("count")).unwrap().try_into().unwrap());
    let rounds = fs::metadata(folder.path().join("rounds")).unwrap().len();
    let told = format!("{nodes:?}: {rounds} rounds counted as {count}, {kills} kills, {holders_killed} of holders");
    writeln!(io::stderr(), "{told}").unwrap();
    assert!(rounds <= count && count <= rounds + kills, "{told}");
    assert!(rounds > 100 && holders_killed > 5, "{told}");
    let mut last = Lock::acquire(&lock, &Holder::this_process(None).unwrap()).unwrap();
    last.beat().unwrap();
    last.release().unwrap();
    if nodes == Nodes::One {
        let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let left: Vec<_> = names.filter(|name| name.contains("J.lock")).collect();
        assert_eq!(left, Vec::<String>::new());
    }
}

fn holder_pid(lock: &Path) -> Option<u32> {
    let file = claim::open(lock).ok()??;
    Some(claim::read(&file).ok()??.holder.pid)
}

/// Kills a contender, and lets time pass for what it has left if nothing else tells that it is dead.
fn bury(child: &mut Child, folder: &Path, nodes: Nodes) {
    fs::write(folder.join(format!("killed-{}", child.id())), "").unwrap();
    child.kill().unwrap();
    // One that found something impossible has ended by itself.
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    if nodes == Nodes::One {
        return;
    }
    for name in ["J.lock", ".J.lock.break"] {
        let Some(file) = claim::open(&folder.join(name)).unwrap() else { continue };
        if claim::read(&file).unwrap().is_some_and(|entry| entry.holder.pid == child.id()) {
            file.set_modified(SystemTime::now() - Duration::from_secs(100)).unwrap();
        }
    }
}

/// What a contending process does until it is killed.
fn contend(folder: &Path, nodes: Nodes) {
    std::panic::set_hook(Box::new(|_| std::process::abort()));
    let open = |name| OpenOptions::new().create(true).append(true).open(folder.join(name)).unwrap();
    let arenas: Vec<File> = (0..THREADS).map(|_| open_to_change(&folder.join("arena"))).collect();
    std::thread::scope(|scope| {
        for arena in &arenas {
            scope.spawn(|| {
                let tell = |what: &str| open("violations").write_all(format!("{what}\n").as_bytes()).unwrap();
                let count = open_to_change(&folder.join("count"));
                while folder.exists() {
                    if let Err(what) = contend_once(folder, nodes, arena, &count) {
                        tell(&what);
                    }
                    std::thread::sleep(Duration::from_micros(fastrand::u64(0..2000)));
                }
            });
        }
    });
}

fn contend_once(folder: &Path, nodes: Nodes, arena: &File, count: &File) -> Result<(), String> {
    let mut me = Holder::this_process(None).unwrap();
    if nodes == Nodes::Many {
        me.boot = me.nonce.clone();
    }
    let mut lock = match Lock::acquire(&folder.join("J.lock"), &me) {
        Err(LockError::Held { .. }) => return Ok(()),
        result => result.map_err(|error| error.to_string())?,
    };
    enter(arena, folder)?;
    let mut number = [0; 8];
    count.read_exact_at(&mut number, 0).unwrap();
    std::thread::sleep(Duration::from_micros(fastrand::u64(0..3000)));
    if fastrand::bool() {
        lock.beat().map_err(|error| error.to_string())?;
    }
    count.write_all_at(&(u64::from_ne_bytes(number) + 1).to_ne_bytes(), 0).unwrap();
    OpenOptions::new().create(true).append(true).open(folder.join("rounds")).unwrap().write_all(b".").unwrap();
    arena.unlock().unwrap();
    lock.release().map_err(|error| error.to_string())
}

/// Takes the arena, in which nobody may be. A process that was killed there has left it only when the kernel has closed
/// all its files, in whatever order.
fn enter(arena: &File, folder: &Path) -> Result<(), String> {
    while arena.try_lock().is_err() {
        let mut pid = [0; 4];
        arena.read_exact_at(&mut pid, 0).map_err(|error| format!("nobody in the arena: {error}"))?;
        let pid = u32::from_ne_bytes(pid);
        if !folder.join(format!("killed-{pid}")).exists() {
            return Err(format!("two in the arena: {pid} and {}", std::process::id()));
        }
    }
    arena.write_all_at(&std::process::id().to_ne_bytes(), 0).map_err(|error| error.to_string())
}

fn open_to_change(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

#[test]
fn a_lock_that_is_none_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("count"), 0u64.to_ne_bytes()).unwrap();
    let count = open_to_change(&folder.path().join("count"));
    let [first, second] = [(); 2].map(|()| open_to_change(&folder.path().join("arena")));
    contend_once(folder.path(), Nodes::One, &first, &count).unwrap();
    first.try_lock().unwrap();
    let found = contend_once(folder.path(), Nodes::One, &second, &count).unwrap_err();
    assert!(found.starts_with("two in the arena"), "{found}");
    // Who was killed there is not counted.
    fs::write(folder.path().join(format!("killed-{}", std::process::id())), "").unwrap();
    first.unlock().unwrap();
    contend_once(folder.path(), Nodes::One, &second, &count).unwrap();
}
