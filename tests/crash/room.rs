//! No room: full disks, limits on files, and calls that are interrupted or take only a part.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{Run, Signal};
use crate::plan::{self, Dice, count};
use crate::scene::{Scene, quoted};
use crate::strace::{self, Options};
use crate::task::{Goal, Line, Plan, same};

/// Bytes that wait in a slow pipe: it takes 64 KiB.
const FILLING: usize = 62 << 10;

/// A file system in memory over a scene's output folder, which only this sees; gone when it is dropped.
struct Mounted(Child);

impl Mounted {
    /// Mounts it where a scene's results go, and lets the scene look for them there.
    fn over(scene: &mut Scene, size: &str) -> Mounted {
        let folder = scene.out();
        let script = format!("mount -t tmpfs -o size={size} none {} && echo mounted && exec cat", quoted(&folder));
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n");
        scene.look_at(format!("/proc/{}/root{}", child.id(), folder.display()).into());
        Mounted(child)
    }

    fn resize(&self, scene: &Scene, size: &str) {
        let folder = scene.out();
        let (_, inside) = folder.to_str().unwrap().split_once("/root").unwrap();
        let remount = format!("remount,size={size}");
        let (pid, mount) = (self.0.id().to_string(), ["mount", "-o", &remount, inside]);
        let status = Command::new("nsenter").args(["-t", &pid, "-m"]).args(mount).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lines(count: usize) -> Plan {
    Plan { lines: vec![Line::Good; count], concurrency: 4, ..Plan::small() }
}

#[test]
fn a_disk_that_is_full_ends_a_run_and_room_lets_it_go_on() {
    if !plan::has_root() {
        return;
    }
    let mut scene = Scene::new(lines(300));
    let mounted = Mounted::over(&mut scene, "4k");
    let output = scene.finish().expect(74);
    assert_eq!(scene.sends(), 0, "{output}");
    // Room for a part of the journal, then for all of it and not for F, then for all.
    mounted.resize(&scene, "64k");
    let output = scene.finish().expect(74);
    assert!(output.stderr.contains("No space left on device"), "{output}");
    assert!(scene.found().is_none(), "{output}");
    let sends = scene.sends();
    assert!(sends > 30 && sends < 300, "{sends}");
    mounted.resize(&scene, "180k");
    let output = scene.finish().expect(74);
    assert!(output.stderr.contains("No space left on device"), "{output}");
    assert!(scene.found().is_none(), "{output}");
    assert_eq!(scene.names(), ["F.journal"], "{output}");
    mounted.resize(&scene, "4m");
    let sends = scene.sends();
    scene.check_end(&scene.finish(), "there is room");
    assert_eq!(scene.sends(), sends, "all had been answered");
    scene.check_sends(2, "there is room");
}

/// A limit on files ends a run in the middle of a record, or of F; what is there is kept.
#[test]
fn a_limit_on_the_size_of_files_is_no_different() {
    let scene = Scene::new(lines(30));
    scene.finish().expect(0);
    let (journal, result) = (scene.journal_bytes().len(), std::fs::metadata(scene.file()).unwrap().len() as usize);
    let mut dice = Dice::new();
    for _ in 0..count(60, 5) {
        scene.reset();
        let limit = if dice.one_in(4) { dice.below(result) } else { dice.below(journal) };
        let script = format!(r#"exec prlimit --fsize={limit} "$0" "$@""#);
        let output = scene.start_as(|run| run.shell(&script)).finish();
        let when = format!("{limit} bytes");
        scene.check_never_wrong(&when);
        assert_eq!(output.status, 74, "{when}: {output}");
        scene.check_unrecorded(1, &when);
        let before = scene.sends();
        scene.check_end(&scene.finish(), &when);
        assert!(scene.sends() <= scene.plan.asked() + 4, "{when}: {before} and then {}", scene.sends());
    }
}

/// Whatever cannot be opened: never a wrong F, and the next run finishes.
#[test]
fn too_few_open_files_are_no_different() {
    let scene = Scene::new(lines(8));
    for limit in (4..=count(40, 24)).step_by(count(1, 4)) {
        scene.reset();
        let script = format!(r#"ulimit -n {limit}; exec "$0" "$@""#);
        let output = scene.start_as(|run| run.shell(&script)).finish();
        let when = format!("{limit} open files: {output}");
        scene.check_never_wrong(&when);
        assert!(output.status != 0 || scene.found().is_some(), "{when}");
        assert!(![101, 134, 139].contains(&output.status), "{when}");
        scene.check_end(&scene.finish(), &when);
    }
}

/// Reads a pipe so slowly that writes to it are cut in pieces, and stops the writer again and again.
fn drip(run: Run, scene: &Scene) -> String {
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    // The pipe is nearly full from the beginning.
    writer.write_all(&[b'\n'; FILLING]).unwrap();
    let live = run.stdout(writer).start();
    let mut bytes = Vec::new();
    let mut buffer = [0; 700];
    while let Ok(length @ 1..) = reader.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..length]);
        for signal in [Signal::WINCH, Signal::STOP, Signal::URG, Signal::CONT, Signal::CHILD] {
            live.signal(signal);
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    let output = live.finish();
    assert_eq!(output.status, scene.plan.status(), "{output}");
    String::from_utf8(bytes.split_off(FILLING)).unwrap()
}

#[test]
fn a_slow_pipe_and_a_storm_of_signals_lose_nothing() {
    let mut dice = Dice::new();
    let scene = Scene::with_latency(Plan { piped: false, ..Plan::random(&mut dice, 150, Goal::Stdout) }, "fixed:2");
    for round in 0..2 {
        assert_eq!(same(&drip(scene.run(), &scene)), *scene.wanted, "round {round}");
    }
    scene.check_sends(0, "a storm");
}

/// A call that was interrupted is made again, wherever that can happen.
#[test]
fn interrupted_calls_are_made_again() {
    if !strace::is_here() {
        return;
    }
    for piped in [false, true] {
        for call in ["write", "read", "pread64", "openat", "linkat", "renameat2", "fdatasync", "fsync"] {
            let scene = Scene::new(Plan { piped, ..Plan::small() });
            let trace = scene.aside("trace");
            // Every second one, of those that are about the job's files.
            let paths = ["F", "F.input", "F.journal", ".F.anvil-draft", ".F.journal.anvil-draft"];
            let mut paths: Vec<_> = paths.iter().map(|name| scene.out().join(name)).collect();
            paths.push(scene.input_path());
            let options = Options::inject(call, "error=EINTR:when=1+2", &paths);
            let output = scene.start_as(|run| options.wrap(run, &trace)).finish();
            scene.check_end(&output, call);
            scene.check_sends(0, call);
        }
    }
}
