//! `status` and `submit`, in front of a daemon that is played by hand-written files: what they print, what they refuse,
//! and how they end.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::{Output, Run, Signal, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A daemon's folder.
struct Spool(TempDir);

impl Spool {
    fn new() -> Spool {
        Spool(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn arg(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// What a daemon says of itself, this long ago.
    fn status(&self, age_seconds: u64, change: impl FnOnce(&mut Value)) {
        let mut status: Value = serde_json::from_str(include_str!("common/spool_status.json")).unwrap();
        let at = SystemTime::now() - Duration::from_secs(age_seconds);
        status["at"] = humantime::format_rfc3339_millis(at).to_string().into();
        change(&mut status);
        fs::create_dir_all(self.path(".anvil")).unwrap();
        replace(&self.path(".anvil/status.json"), &status.to_string());
    }

    fn told(&self, args: &[&str]) -> Output {
        Run::bare().args(["status", "--spool", self.arg()]).args(args).output()
    }

    fn submit(&self, args: &[&str]) -> Run {
        Run::bare().args(["submit", "--spool", self.arg()]).args(args)
    }
}

/// Writes a file as a daemon does: whole at once.
fn replace(path: &Path, text: &str) {
    let temp = path.with_file_name(".temp");
    fs::write(&temp, text).unwrap();
    fs::rename(&temp, path).unwrap();
}

fn job(path: &str, state: &str) -> Value {
    json!({ "path": path, "state": state, "at": "2026-03-01T12:00:00Z", "owner": 0, "done": 12, "total": 100,
        "failed": 3, "rate": 1.5, "eta_seconds": 60, "message": "because", "way_out": "do this" })
}

#[test]
fn a_daemon_that_runs_is_shown_with_its_files() {
    let spool = Spool::new();
    spool.status(5, |status| {
        status["paused"] = "the token was refused".into();
        status["running"] = json!([job("sub/p.jsonl", "running")]);
        status["attention"] = json!([job("q.jsonl", "blocked")]);
    });
    let text = spool.told(&[]).expect(0).text();
    for told in [
        "running, paused: the token was refused; pid 7 on host n1, heartbeat ",
        "1 queued, 2 running, 3 done, 4 failed, 5 stale, 6 blocked, 7 rejected, 8 cancelled",
        "    12    100  1.5/s  60s       3  sub/p.jsonl\n",
        "  blocked   q.jsonl: because (",
    ] {
        let told = told.trim_end_matches(" (");
        assert!(text.contains(told), "{told:?} is missing:\n{text}");
    }
    assert!(text.ends_with("            do this\n"), "{text}");
}

#[test]
fn a_daemon_that_does_not_run_is_told_from_one_that_never_did() {
    let spool = Spool::new();
    for name in ["a.jsonl", "b.md", "c.out.jsonl", "d.tmp"] {
        fs::write(spool.path(name), "").unwrap();
    }
    let never = spool.told(&[]).expect(75).text();
    assert!(never.contains("no daemon has ever run here; 2 prompt files wait"), "{never}");
    let told = spool.told(&["--json"]).expect(75).only_line();
    assert_eq!((&told["alive"], &told["heartbeat_age_seconds"]), (&false.into(), &Value::Null));
    assert_eq!(told["files"]["queued"], 2);
    spool.status(305, |status| status["running"] = json!([job("p.jsonl", "running")]));
    let gone = spool.told(&[]).expect(75).text();
    assert!(gone.contains("daemon not running (last seen 5m ago") && gone.contains("p.jsonl"), "{gone}");
    spool.status(1, |status| status["state"] = "stopped".into());
    assert!(spool.told(&[]).expect(75).text().contains("daemon not running (stopped "));
    replace(&spool.path(".anvil/status.json"), "{\"version\":1,");
    let torn = spool.told(&["--json"]).expect(65);
    assert!(torn.stdout.is_empty() && torn.stderr.contains("status.json"), "{torn}");
    let none = Run::bare().args(["status", "--spool", "/none/at/all"]).output().expect(65);
    assert!(none.stderr.contains("/none/at/all") && none.stderr.contains("after --spool"), "{none}");
}

#[test]
fn programs_are_told_the_same_as_json_whatever_the_names() {
    let spool = Spool::new();
    let evil = "a\u{1b}[2J\n\u{9b}\u{202e}.jsonl";
    spool.status(5, |status| status["running"] = json!([job(evil, "running")]));
    let other = Spool::new();
    let output = Run::bare().args(["status", "--json", "--spool", spool.arg(), other.arg()]).output().expect(75);
    let lines = output.lines();
    assert_eq!((lines.len(), &lines[0]["alive"], &lines[1]["alive"]), (2, &true.into(), &false.into()));
    assert_eq!(lines[0]["spool"], spool.arg());
    assert!((5..60).contains(&lines[0]["heartbeat_age_seconds"].as_u64().unwrap()), "{output}");
    assert_eq!((&lines[0]["running"][0]["path"], &lines[0]["files"]["stale"]), (&evil.into(), &5.into()));
    for output in [output, spool.told(&[]).expect(0)] {
        let is_harmful = |character: char| character.is_control() && character != '\n' || character == '\u{202e}';
        assert!(!output.text().contains(is_harmful), "{output}");
    }
}

#[test]
fn watching_ends_well_when_it_is_interrupted() {
    let spool = Spool::new();
    spool.status(5, |_| {});
    let mut live = Run::bare().args(["status", "--watch", "--spool", spool.arg()]).start();
    live.wait_for_lines(4);
    spool.status(5, |status| status["paused"] = "for a while".into());
    wait_for("the next block", || String::from_utf8(live.stdout()).unwrap().contains("for a while").then_some(()));
    live.signal(Signal::INT);
    let output = live.finish().expect(0);
    assert!(!output.text().contains('\u{1b}'), "{output}");
}

/// A terminal of this size: the side that a program writes, and the one that shows what it wrote.
fn terminal(rows: u16, columns: u16) -> (File, File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let shown = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&shown).unwrap();
    unlockpt(&shown).unwrap();
    let name = ptsname(&shown, Vec::new()).unwrap();
    let written = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&written, size).unwrap();
    (written, shown.into())
}

#[test]
fn on_a_terminal_it_stays_within_the_window_and_the_cursor_comes_back() {
    let spool = Spool::new();
    spool.status(5, |_| {});
    let (written, mut shown) = terminal(2, 20);
    let run = Run::bare().args(["status", "--watch", "--spool", spool.arg()]).stdout(written);
    let (live, mut text) = (run.start(), String::new());
    let mut read_until = |end: &str| {
        while !text.contains(end) {
            let mut buffer = [0; 4096];
            let length = shown.read(&mut buffer).unwrap_or_else(|error| panic!("{error}: {text:?}"));
            text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
    };
    read_until("\u{1b}[J");
    live.signal(Signal::INT);
    read_until("\u{1b}[?25h");
    live.finish().expect(0);
    // The terminal turns each line feed into carriage return and line feed.
    let text = text.replace("\r\r\n", "\r\n");
    let frame = text.strip_prefix("\u{1b}[?25l\u{1b}[2J\u{1b}[H").unwrap_or_else(|| panic!("{text:?}"));
    let rows: Vec<&str> = frame.split("\u{1b}[J").next().unwrap().split("\r\n").collect();
    let widths: Vec<usize> = rows.iter().map(|row| row.strip_suffix("\u{1b}[K").unwrap().chars().count()).collect();
    assert!(widths == [20, 14] && rows[1].starts_with("… 2 more lines"), "{rows:?}");
}

#[test]
fn a_submitted_file_is_there_whole_under_its_own_name() {
    let spool = Spool::new();
    let run = spool.submit(&[]);
    let (one, two) = (run.file("p.jsonl", "{}\n"), run.file("q.txt", "why?"));
    let output = run.args([one, two]).output().expect(0);
    let paths = [spool.path("p.out.jsonl"), spool.path("q.txt.out.md")];
    assert_eq!(output.text(), paths.map(|path| format!("{}\n", path.display())).concat());
    assert!(output.stderr.contains("no daemon is running"), "{output}");
    assert_eq!(spool.names(), ["p.jsonl", "q.txt"]);
    assert_eq!(fs::read_to_string(spool.path("q.txt")).unwrap(), "why?");
    assert_eq!(fs::metadata(spool.path("p.jsonl")).unwrap().permissions().mode() & 0o777, 0o640);
    spool.status(1, |_| {});
    let output = spool.submit(&["-", "--name", "r.json"]).input("{\"prompt\":\"x\"}").output().expect(0);
    assert_eq!(
        (output.stderr.as_str(), output.text()),
        ("", format!("{}\n", spool.path("r.json.out.jsonl").display()))
    );
    assert_eq!(fs::read_to_string(spool.path("r.json")).unwrap(), "{\"prompt\":\"x\"}");
}

#[test]
fn what_cannot_be_submitted_leaves_the_folder_as_it_is() {
    let spool = Spool::new();
    fs::write(spool.path("p.jsonl"), "theirs").unwrap();
    let inode = fs::metadata(spool.path("p.jsonl")).unwrap().ino();
    for (name, content, told) in [
        ("p.jsonl", "mine", "is not overwritten"),
        ("p.jsonl", "theirs", "with this very content"),
        ("p.out.jsonl", "mine", "a result or a status"),
        ("p\u{1b}[2J.part", "mine", "not finished"),
    ] {
        let run = spool.submit(&["--wait"]);
        let (good, bad) = (run.file("good.jsonl", ""), run.file(name, content));
        let output = run.args([good, bad]).output().expect(64);
        assert!(output.stderr.contains(told) && !output.stderr.contains('\u{1b}'), "{output}");
        assert!(output.stdout.is_empty(), "{output}");
        assert_eq!(
            (spool.names(), fs::metadata(spool.path("p.jsonl")).unwrap().ino()),
            (vec!["p.jsonl".into()], inode)
        );
    }
    let output = spool.submit(&["/none.jsonl"]).output().expect(65);
    assert!(output.stderr.contains("/none.jsonl"), "{output}");
    let output = Run::bare().args(["submit", "--spool", "/none/at/all", "/dev/null"]).output().expect(65);
    assert!(output.stderr.contains("/none/at/all"), "{output}");
}

/// Submits one file, lets `daemon` play the daemon once it is there, and gives the end of the wait.
fn waited(name: &str, daemon: impl FnOnce(&Spool)) -> Output {
    let spool = Spool::new();
    spool.status(0, |_| {});
    let run = spool.submit(&["--wait"]);
    let file = run.file(name, "{}\n");
    let live = run.args([file]).start();
    wait_for("the file", || spool.path(name).exists().then_some(()));
    daemon(&spool);
    live.finish()
}

#[test]
fn waiting_ends_as_a_run_of_these_prompts_would() {
    let error = json!({ "code": "timeout", "message": "m", "status": null, "attempts": 2 });
    let answered = json!({ "line": 1, "content": "x", "error": null }).to_string() + "\n";
    let failed = json!({ "line": 2, "content": null, "error": error }).to_string() + "\n";
    let output = waited("p.jsonl", |spool| replace(&spool.path("p.out.jsonl"), &answered)).expect(0);
    assert_eq!(output.stderr, "");
    let output = waited("p.jsonl", |spool| replace(&spool.path("p.out.jsonl"), &(answered + &failed))).expect(1);
    assert!(output.stderr.contains("p.jsonl: 1 of 2 lines failed"), "{output}");
    waited("p.txt", |spool| replace(&spool.path("p.txt.out.md"), "an answer")).expect(0);
    let reject =
        json!({ "path": "p.jsonl", "at": "", "code": "too_large", "message": "too large", "way_out": "cut it" });
    let output = waited("p.jsonl", |spool| replace(&spool.path("p.jsonl.reject.json"), &reject.to_string())).expect(65);
    assert!(output.stderr.contains("rejected: too large\ncut it"), "{output}");
    for (state, status) in [("failed", 1), ("blocked", 64), ("rejected", 65), ("cancelled", 75)] {
        let told = job("p.txt", state).to_string();
        let output = waited("p.txt", |spool| replace(&spool.path("p.txt.status.json"), &told)).expect(status);
        assert!(output.stderr.contains(&format!("{state}: because\ndo this")), "{output}");
    }
    let output = waited("p.txt", |spool| fs::remove_file(spool.path("p.txt")).unwrap()).expect(75);
    assert!(output.stderr.contains("taken away"), "{output}");
}

#[test]
fn waiting_may_be_given_up_and_the_file_stays() {
    let spool = Spool::new();
    let run = spool.submit(&["--wait"]);
    let file = run.file("p.jsonl", "{}\n");
    let mut live = run.args([file]).start();
    live.wait_for_lines(1);
    // What is printed comes before the wait and its listening begin.
    live.wait_for_stderr("no daemon is running");
    std::thread::sleep(Duration::from_millis(300));
    live.signal(Signal::INT);
    let output = live.finish().expect(130);
    assert!(output.stderr.contains("1 file is still in the folder"), "{output}");
    assert_eq!(spool.names(), ["p.jsonl"]);
}
