//! A folder that goes away, a disk that is full or cannot be written to: the daemon pauses, recovers, and loses nothing.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::needs;
use crate::spool::{Daemon, SLOTS, Spool, lines, quoted};
use crate::tools::{has_strace, strace};

/// A file system in memory in the place of a spool, which only this sees; gone when it is dropped.
pub struct Mounted {
    holder: Child,
    inside: String,
}

impl Mounted {
    /// Mounts it over the spool's folder, by what `command` says of that, and lets the spool look for its files there.
    pub fn over(spool: &mut Spool, command: impl FnOnce(&str) -> String) -> Mounted {
        let inside = spool.root().to_str().unwrap().to_owned();
        let script = format!("{} && echo mounted && exec cat", command(&quoted(&inside)));
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
        let mut holder = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n");
        spool.look_at(format!("/proc/{}/root{inside}", holder.id()).into());
        Mounted { holder, inside }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

pub fn a_folder_that_goes_away_and_comes_back_is_waited_for() {
    let spool = Spool::slow(100);
    let mut daemon = spool.start_with(&["--max-open-files", "3"]);
    for (name, count) in [("small", 20), ("large", 70), ("other", 20), ("queued", 3), ("queued-large", 66)] {
        spool.put(format!("{name}.jsonl"), lines(name, count));
    }
    spool.wait("some answers", || (spool.sim.count("ok") > 10).then_some(()));
    let away = spool.aside("away");
    let own = || std::fs::read_to_string(away.join(".anvil/status.json")).unwrap_or_default();
    std::fs::rename(spool.root(), &away).unwrap();
    std::fs::write(away.join(".temp"), lines("late", 2)).unwrap();
    std::fs::rename(away.join(".temp"), away.join("late.jsonl")).unwrap();
    // What is in flight comes to its end, and then nothing more is sent.
    daemon.wait_for_stderr("paused");
    spool.wait("nothing in flight", || (spool.sim.count("in_flight") == 0).then_some(()));
    // An empty folder in its place, as the mount point of a disk is one, is not it.
    std::fs::create_dir(spool.root()).unwrap();
    std::fs::write(spool.path("not-this.jsonl"), lines("not this", 1)).unwrap();
    // It looks every half a second.
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(spool.names(), ["not-this.jsonl"]);
    assert!(!spool.has(".anvil"), "a mount point is no spool; {}", own());
    std::fs::remove_dir_all(spool.root()).unwrap();
    std::fs::rename(&away, spool.root()).unwrap();
    for (name, count) in [("small", 20), ("large", 70), ("other", 20), ("queued", 3), ("queued-large", 66), ("late", 2)]
    {
        spool.wait_for_answers(&format!("{name}.out.jsonl"), name, count);
    }
    let repeats = spool.sim.count("repeats");
    assert!(repeats <= SLOTS, "{repeats} repeats");
    assert!(!spool.prompts().iter().any(|text| text.starts_with("not this")));
    spool.wait_status("the end of the pause", |status| status["paused"].is_null().then_some(()));
    daemon.stop().expect(0);
}

#[test]
fn a_full_disk_is_waited_for() {
    if !needs::has_root() {
        return;
    }
    let mut spool = Spool::slow(50);
    let _mounted = Mounted::over(&mut spool, |folder| format!("mount -t tmpfs -o size=1m none {folder}"));
    let mut daemon = spool.start();
    spool.put("small.jsonl", lines("small", 60));
    spool.put("large.jsonl", lines("large", 120));
    spool.wait("some answers", || (spool.sim.count("ok") > 20).then_some(()));
    // Somebody else fills it to the last byte.
    let mut ballast = std::fs::File::create(spool.path("ballast")).unwrap();
    while std::io::Write::write(&mut ballast, &[0; 4096]).is_ok_and(|written| written > 0) {}
    drop(ballast);
    spool.wait("nothing in flight", || (spool.sim.count("in_flight") == 0).then_some(()));
    daemon.wait_for_stderr("No space left on device");
    assert!(!spool.has("small.out.jsonl") && !spool.has("large.out.jsonl"), "{}", spool.standing());
    let asked = spool.sim.count("requests");
    assert!(asked < 100, "{asked} of 180 lines were asked, and there is no room for their answers");
    std::fs::remove_file(spool.path("ballast")).unwrap();
    spool.wait_for_answers("small.out.jsonl", "small", 60);
    spool.wait_for_answers("large.out.jsonl", "large", 120);
    let repeats = spool.sim.count("repeats");
    assert!(repeats <= 4 * SLOTS, "{repeats} repeats");
    spool.pass("last");
    daemon.stop().expect(0);
}

/// A disk that turns read-only, as file systems do when they find themselves damaged: simulated at the system calls, for
/// nobody can remount what is open for writing.
#[test]
fn a_read_only_disk_is_waited_for() {
    if !has_strace() {
        return;
    }
    let spool = Spool::slow(50);
    let mut daemon = spool.start();
    spool.put("small.jsonl", lines("small", 60));
    spool.put("large.jsonl", lines("large", 120));
    spool.wait("some answers", || (spool.sim.count("ok") > 20).then_some(()));
    let calls = "fdatasync,fsync,linkat,renameat,renameat2,unlinkat,mkdirat,fchmod";
    let held = strace(&daemon, calls, "error=EROFS");
    spool.wait("nothing in flight", || (spool.sim.count("in_flight") == 0).then_some(()));
    daemon.wait_for_stderr("Read-only file system");
    assert!(!spool.has("small.out.jsonl") && !spool.has("large.out.jsonl"));
    drop(held);
    spool.wait_for_answers("small.out.jsonl", "small", 60);
    spool.wait_for_answers("large.out.jsonl", "large", 120);
    let repeats = spool.sim.count("repeats");
    assert!(repeats <= 4 * SLOTS, "{repeats} repeats");
    daemon.stop().expect(0);
    assert_eq!(spool.names(), ["large.jsonl", "large.out.jsonl", "small.jsonl", "small.out.jsonl"]);
}

/// One folder of many that cannot be written to is its owner's trouble.
#[test]
fn a_folder_that_cannot_be_written_to_holds_nobody_up() {
    if !needs::has_root() {
        return;
    }
    let mut spool = Spool::new();
    let mount = |folder: &str| {
        format!(
            "mkdir {folder}/locked && mount -t tmpfs none {folder}/locked && cp /dev/null {folder}/locked/x && mount -o remount,ro {folder}/locked"
        )
    };
    let mounted = Mounted::over(&mut spool, mount);
    let mut daemon = Daemon::start(spool.daemon().args(["--recursive"]));
    daemon.wait_until_watching(2);
    let remount = |how: &str| {
        let locked = format!("{}/locked", mounted.inside);
        let status = Command::new("nsenter")
            .args(["-t", &mounted.holder.id().to_string(), "-m", "mount", "-o", &format!("remount,{how}"), &locked])
            .status()
            .unwrap();
        assert!(status.success());
    };
    remount("rw");
    spool.put("locked/p.jsonl", lines("p", 3).replace("p 1", "sim:hang-head*1 p 1"));
    spool.wait("two answers", || (spool.sim.count("ok") == 2).then_some(()));
    remount("ro");
    for number in 0..3 {
        spool.pass(&format!("other{number}"));
    }
    assert!(spool.status().unwrap()["paused"].is_null());
    remount("rw");
    daemon.kill();
    let _daemon = Daemon::watching(spool.daemon().args(["--recursive"]));
    spool.wait("the result", || spool.text("locked/p.out.jsonl"));
}
