//! One contender at a time, in every situation that it can find.
#![allow(clippy::unwrap_used)]

use super::*;

use std::fs::File;
use std::path::Path;

use super::claim::Found;
use super::holder::Entry;
use super::takeover::take_over;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn lock(&self) -> PathBuf {
        self.0.path().join("J.lock")
    }

    fn guard(&self) -> PathBuf {
        self.0.path().join(".J.lock.break")
    }

    /// A lock file whose writer is gone.
    fn abandon(&self, path: &Path, holder: &Holder, flock: bool) {
        fs::write(path, Entry { holder: holder.clone(), flock }.line().unwrap()).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn me() -> Holder {
    Holder::this_process(Some("77".to_owned())).unwrap()
}

/// On another node, or before this node's last boot.
fn elsewhere() -> Holder {
    Holder { host: "n1".to_owned(), boot: "other".to_owned(), pid: 123, job: Some("77".to_owned()), nonce: "e".into() }
}

/// Makes a file look as if nobody had touched it for so many seconds.
fn age(path: &Path, seconds: u64) {
    let then = SystemTime::now() - Duration::from_secs(seconds);
    File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
}

fn held(result: Result<Lock, LockError>) -> (Option<Holder>, Duration) {
    match result.unwrap_err() {
        LockError::Held { holder, age, .. } => (holder.map(|holder| *holder), age),
        error => panic!("{error}"),
    }
}

#[test]
fn a_lock_is_taken_kept_and_given_back() {
    let folder = Folder::new();
    let me = me();
    let mut lock = Lock::acquire(&folder.lock(), &me).unwrap();
    assert_eq!(folder.names(), ["J.lock"]);
    lock.beat().unwrap();
    assert!(lock.since_beat() < Duration::from_secs(5) && !lock.beat_due());
    assert_eq!(holder(&folder.lock()).unwrap().unwrap().0, me);
    assert_eq!(held(Lock::acquire(&folder.lock(), &me)).0, Some(me.clone()));
    assert_eq!(folder.names(), ["J.lock"]);
    lock.release().unwrap();
    assert_eq!(folder.names(), Vec::<String>::new());
    assert_eq!(holder(&folder.lock()).unwrap(), None);
    drop(Lock::acquire(&folder.lock(), &me).unwrap());
    assert_eq!(folder.names(), Vec::<String>::new());
}

#[test]
fn a_beat_touches_the_lock() {
    let folder = Folder::new();
    let mut lock = Lock::acquire(&folder.lock(), &me()).unwrap();
    age(&folder.lock(), 50);
    assert!(holder(&folder.lock()).unwrap().unwrap().1 >= Duration::from_secs(49));
    lock.beat().unwrap();
    assert!(holder(&folder.lock()).unwrap().unwrap().1 < Duration::from_secs(5));
}

#[test]
fn the_dead_of_this_boot_lose_their_lock_at_once() {
    let folder = Folder::new();
    let dead = Holder { pid: 1 << 22, nonce: "d".to_owned(), ..me() };
    folder.abandon(&folder.lock(), &dead, true);
    folder.abandon(&folder.guard(), &dead, true);
    let lock = Lock::acquire(&folder.lock(), &me()).unwrap();
    assert_eq!(folder.names(), ["J.lock"]);
    drop(lock);
    // Nobody has the lock, but a guard was left.
    folder.abandon(&folder.guard(), &dead, true);
    let _lock = Lock::acquire(&folder.lock(), &me()).unwrap();
    assert_eq!(folder.names(), ["J.lock"]);
}

#[test]
fn others_lose_it_when_it_was_untouched_for_long() {
    let unmarked = Holder { nonce: "u".to_owned(), ..me() };
    let cases = [(elsewhere(), true), (elsewhere(), false), (unmarked, false)];
    for (other, flock) in cases {
        let folder = Folder::new();
        folder.abandon(&folder.lock(), &other, flock);
        age(&folder.lock(), 60);
        let (holder, seen) = held(Lock::acquire(&folder.lock(), &me()));
        assert_eq!(holder, Some(other));
        assert!((58..=75).contains(&seen.as_secs()), "{seen:?}");
        assert_eq!(folder.names(), ["J.lock"]);
        age(&folder.lock(), 95);
        Lock::acquire(&folder.lock(), &me()).unwrap().release().unwrap();
        assert_eq!(folder.names(), Vec::<String>::new());
    }
}

#[test]
fn a_file_that_names_nobody_is_judged_by_its_age() {
    let folder = Folder::new();
    for text in ["", "{}\n", "\u{0}"] {
        fs::write(folder.lock(), text).unwrap();
        assert_eq!(held(Lock::acquire(&folder.lock(), &me())).0, None);
        assert_eq!(holder(&folder.lock()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        age(&folder.lock(), 95);
        Lock::acquire(&folder.lock(), &me()).unwrap();
    }
}

#[test]
fn what_is_no_lock_file_is_left_alone() {
    let folder = Folder::new();
    fs::create_dir(folder.lock()).unwrap();
    assert!(matches!(Lock::acquire(&folder.lock(), &me()), Err(LockError::Io { .. })));
    fs::remove_dir(folder.lock()).unwrap();
    std::os::unix::fs::symlink("elsewhere", folder.lock()).unwrap();
    assert!(matches!(Lock::acquire(&folder.lock(), &me()), Err(LockError::Io { .. })));
    assert_eq!(folder.names(), ["J.lock"]);
}

#[test]
fn a_holder_that_was_stopped_for_long_finds_out_who_took_its_lock() {
    let folder = Folder::new();
    let mut stopped = Lock::acquire(&folder.lock(), &me()).unwrap();
    age(&folder.lock(), 95);
    let successor = Holder { pid: 7, ..me() };
    let lock = Lock::acquire(&folder.lock(), &successor).unwrap();
    let error = stopped.beat().unwrap_err();
    assert!(matches!(&error, LockError::Lost { holder: Some(holder), .. } if **holder == successor), "{error}");
    assert!(matches!(stopped.release(), Err(LockError::Lost { .. })));
    // Neither its beat nor its release has harmed the successor.
    lock.release().unwrap();
}

#[test]
fn a_lock_that_is_gone_or_a_copy_is_lost() {
    let folder = Folder::new();
    let mut lock = Lock::acquire(&folder.lock(), &me()).unwrap();
    fs::rename(folder.lock(), folder.0.path().join("moved")).unwrap();
    assert!(matches!(lock.beat(), Err(LockError::Lost { holder: None, .. })));
    fs::copy(folder.0.path().join("moved"), folder.lock()).unwrap();
    assert!(matches!(lock.beat(), Err(LockError::Lost { holder: Some(_), .. })));
    drop(lock);
    assert_eq!(folder.names(), ["J.lock", "moved"]);
}

#[test]
fn a_holder_that_wakes_stops_the_takeover() {
    let folder = Folder::new();
    let mut stopped = Lock::acquire(&folder.lock(), &me()).unwrap();
    age(&folder.lock(), 95);
    let contender = Claim::write(&folder.lock(), &elsewhere()).unwrap();
    let now = contender.server_time().unwrap();
    let Found::Stale(stale) = claim::look(&folder.lock(), &elsewhere(), now).unwrap() else { panic!("it is stale") };
    assert!(contender.take(&folder.guard()).unwrap());
    // Wakes between steps 2 and 3 as well as between 1 and 2.
    stopped.beat_at = Duration::ZERO;
    stopped.beat().unwrap();
    assert!(!folder.guard().exists());
    assert!(!stale.is_untouched_at(&folder.lock()).unwrap());
    assert!(matches!(take_over(&folder.lock(), &elsewhere(), contender, stale), Ok(Attempt::Again(_))));
    stopped.release().unwrap();
    assert_eq!(folder.names(), Vec::<String>::new());
}

#[test]
fn who_wins_an_empty_name_stops_the_takeover_that_emptied_it() {
    let folder = Folder::new();
    let contender = Claim::write(&folder.lock(), &elsewhere()).unwrap();
    assert!(contender.take(&folder.guard()).unwrap());
    let lock = Lock::acquire(&folder.lock(), &me()).unwrap();
    assert!(!folder.guard().exists());
    lock.release().unwrap();
}

#[test]
fn who_was_made_the_holder_by_another_steps_back() {
    let folder = Folder::new();
    folder.abandon(&folder.lock(), &elsewhere(), true);
    age(&folder.lock(), 95);
    let contender = Claim::write(&folder.lock(), &me()).unwrap();
    let now = contender.server_time().unwrap();
    let Found::Stale(stale) = claim::look(&folder.lock(), &me(), now).unwrap() else { panic!("it is stale") };
    assert!(contender.take(&folder.guard()).unwrap());
    fs::rename(folder.guard(), folder.lock()).unwrap();
    assert!(matches!(take_over(&folder.lock(), &me(), contender, stale), Ok(Attempt::Held(_))));
    assert_eq!(held(Lock::acquire(&folder.lock(), &me())).0, None);
    age(&folder.lock(), 95);
    Lock::acquire(&folder.lock(), &me()).unwrap();
}

#[test]
fn who_renamed_anothers_guard_has_not_won() {
    let folder = Folder::new();
    folder.abandon(&folder.lock(), &elsewhere(), true);
    age(&folder.lock(), 95);
    let contender = Claim::write(&folder.lock(), &me()).unwrap();
    let now = contender.server_time().unwrap();
    let Found::Stale(stale) = claim::look(&folder.lock(), &me(), now).unwrap() else { panic!("it is stale") };
    assert!(contender.take(&folder.guard()).unwrap());
    fs::remove_file(folder.guard()).unwrap();
    let other = Holder { nonce: "o".to_owned(), ..me() };
    let successor = Claim::write(&folder.lock(), &other).unwrap();
    assert!(successor.take(&folder.guard()).unwrap());
    assert!(matches!(take_over(&folder.lock(), &me(), contender, stale), Ok(Attempt::Again(_))));
    assert_eq!(holder(&folder.lock()).unwrap().unwrap().0, other);
}

#[test]
fn a_live_guard_is_waited_for_and_named() {
    let folder = Folder::new();
    folder.abandon(&folder.lock(), &elsewhere(), true);
    age(&folder.lock(), 95);
    let breaker = Holder { pid: 9, ..elsewhere() };
    folder.abandon(&folder.guard(), &breaker, true);
    assert_eq!(held(Lock::acquire(&folder.lock(), &me())).0, Some(breaker));
    age(&folder.guard(), 95);
    Lock::acquire(&folder.lock(), &me()).unwrap();
}

#[test]
fn leftovers_of_the_dead_are_removed_and_those_of_the_living_are_not() {
    let folder = Folder::new();
    let me = me();
    let own = claim::temp_name(&folder.lock(), &me).unwrap();
    let renamed =
        |from: &str, to: &str| own.with_file_name(own.file_name().unwrap().to_str().unwrap().replace(from, to));
    let pid = format!(".{}.", std::process::id());
    let hash = own.file_name().unwrap().to_str().unwrap().split('.').nth(3).unwrap().to_owned();
    let (dead, living) = (renamed(&pid, ".4194304."), own.clone());
    let (far, far_and_old) = (renamed(&hash, "0123456789ab"), renamed(&hash, "0123456789cd"));
    let locked = renamed(&pid, ".4194303.");
    for path in [&dead, &living, &far, &far_and_old, &locked] {
        fs::write(path, "").unwrap();
    }
    age(&far_and_old, 95);
    let keeper = File::open(&locked).unwrap();
    keeper.try_lock().unwrap();
    let lock = Lock::acquire(&folder.lock(), &me).unwrap();
    let left = [&dead, &living, &far, &far_and_old, &locked].map(|path| path.exists());
    assert_eq!(left, [false, true, true, false, true]);
    lock.release().unwrap();
}

#[test]
fn the_refusals_read_well() {
    let held = LockError::held(
        Path::new("J.lock"),
        Sight { holder: Some(Box::new(elsewhere())), age: Duration::from_secs(12) },
    );
    assert_eq!(held.to_string(), "J.lock is held by pid 123 on host n1 (Slurm job 77), seen alive 12 s ago");
    let held = LockError::held(Path::new("J.lock"), Sight::default());
    assert_eq!(held.to_string(), "J.lock is held by a process that left no name, seen alive 0 s ago");
    let lost = |holder| LockError::Lost { path: "J.lock".into(), holder };
    assert_eq!(lost(Some(Box::new(elsewhere()))).to_string(), "J.lock was lost to pid 123 on host n1 (Slurm job 77)");
    assert_eq!(lost(None).to_string(), "J.lock was lost (somebody removed it)");
}
