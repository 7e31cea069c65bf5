//! `-o F`: what stands at F's place and beside it, and where F may lie. What is not ours is never touched, and every
//! refusal comes before anything is sent.

#![allow(clippy::unwrap_used)]

mod common;

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink};

use common::desk::{Desk, SLOTS, numbers, stuck, timeless};
use common::{Output, Run, Signal, prompt, prompts, wait_for};
use serde_json::Value;

/// Runs without sending anything, leaves nothing behind, and says something like this.
#[track_caller]
fn refused(desk: &Desk, run: Run, status: i32, told: &str) -> Output {
    let names = desk.names();
    let output = desk.nothing_sent(|| run.output().expect(status));
    assert_eq!(desk.names(), names, "{output}");
    assert!(output.stderr.contains(told) && output.stdout.is_empty(), "{told:?}: {output}");
    output
}

#[test]
fn a_file_that_is_not_ours_is_never_replaced_unless_forced() {
    let desk = Desk::new();
    desk.write("in", prompts(4));
    for strange in ["theirs\n", ""] {
        desk.write("out", strange);
        let before = desk.identity("out");
        for args in [&[][..], &["--fresh"], &["--retry-failed"]] {
            let output = refused(&desk, desk.to_file().args(args), 64, "--force");
            assert!(output.stderr.contains(&desk.arg("out")), "{output}");
            assert_eq!(desk.identity("out"), before);
        }
    }
    desk.to_file().args(["--force"]).output().expect(0);
    assert_eq!(timeless(&desk.text("out")), desk.plain(&prompts(4), &[]));
    let output = desk.nothing_sent(|| desk.to_file().output().expect(0));
    assert!(output.stderr.contains("already complete"), "what was forced is ours now: {output}");
}

#[test]
fn a_file_that_the_user_has_changed_is_not_ours_any_more() {
    let desk = Desk::new();
    desk.write("in", prompts(4));
    desk.to_file().output().expect(0);
    let ours = desk.bytes("out");
    let mut one_byte = ours.clone();
    one_byte[20] ^= 1;
    for changed in [[ours.as_slice(), b"more\n"].concat(), one_byte, ours[..ours.len() / 2].to_vec()] {
        desk.write("out", &changed);
        let before = desk.identity("out");
        for args in [&[][..], &["--format", "text"], &["--retry-failed"]] {
            refused(&desk, desk.to_file().args(args), 64, "--force");
        }
        assert_eq!(desk.identity("out"), before);
        desk.nothing_sent(|| desk.to_file().args(["--force"]).output().expect(0));
        assert_eq!(desk.bytes("out"), ours);
    }
    // Another file with the same bytes is what we would have written.
    desk.remove("out");
    desk.write("out", &ours);
    desk.nothing_sent(|| desk.to_file().output().expect(0));
    assert_eq!(desk.bytes("out"), ours);
}

#[test]
fn a_folder_and_a_link_to_nowhere_are_no_place_for_it() {
    let desk = Desk::new();
    desk.write("in", prompts(4));
    std::fs::create_dir(desk.path("out")).unwrap();
    for args in [&[][..], &["--force"]] {
        refused(&desk, desk.to_file().args(args), 64, "");
    }
    std::fs::remove_dir(desk.path("out")).unwrap();
    symlink("nowhere", desk.path("out")).unwrap();
    refused(&desk, desk.to_file(), 64, "--force");
    assert_eq!(std::fs::read_link(desk.path("out")).unwrap().to_str(), Some("nowhere"));
}

#[test]
fn a_file_that_is_planted_meanwhile_stays_and_nothing_is_lost() {
    let desk = Desk::with(&["--latency", "fixed:60"]);
    desk.write("in", prompts(20));
    let live = desk.to_file().start();
    desk.sim.wait_for_count("requests", 1);
    desk.write("out", "theirs\n");
    let output = live.finish().expect(64);
    assert!(output.stderr.contains("--force"), "{output}");
    assert_eq!((desk.text("out").as_str(), desk.sim.count("requests")), ("theirs\n", 20));
    assert_eq!(desk.names(), ["in", "out", "out.journal"], "{output}");
    desk.remove("out");
    desk.nothing_sent(|| desk.to_file().output().expect(0));
    assert_eq!(desk.lines("out").len(), 20);
}

#[test]
fn the_journal_is_discarded_when_the_file_is_there_and_not_before() {
    let desk = Desk::new();
    desk.write("in", prompts(4) + &stuck());
    desk.interrupt(desk.to_file().args(["--discard-journal"]), None).expect(143);
    assert_eq!(desk.names(), ["in", "out.journal"]);
    let (sent, _) = desk.sent(|| desk.to_file().args(["--discard-journal"]).output().expect(0));
    assert_eq!((sent.len(), desk.names()), (SLOTS, vec!["in".to_owned(), "out".to_owned()]));
    refused(&desk, desk.to_file(), 64, "--force");
    assert_eq!(desk.lines("out").len(), 4 + SLOTS);
    desk.remove("out");
    desk.to_file().output().expect(0);
    let output = desk.nothing_sent(|| desk.to_file().args(["--discard-journal"]).output().expect(0));
    assert_eq!(desk.names(), ["in", "out"], "{output}");
}

#[test]
fn some_failed_lines_do_not_keep_the_journal_from_being_discarded() {
    let desk = Desk::new();
    desk.write("in", prompts(2) + "{\"prompt\":7}\n");
    desk.to_file().args(["--discard-journal"]).output().expect(1);
    assert_eq!(desk.names(), ["in", "out"]);
}

#[test]
fn a_journal_that_is_none_is_refused_untouched_and_keeps_nobody_waiting() {
    let desk = Desk::new();
    desk.write("in", prompts(2));
    let kinds: [(&str, i32); 4] = [("text", 65), ("binary", 65), ("folder", 74), ("fifo", 65)];
    for (kind, status) in kinds {
        let path = desk.path("out.journal");
        match kind {
            "text" => drop(desk.write("out.journal", "dear diary\nit rains\n")),
            "binary" => drop(desk.write("out.journal", [0, 255, 10, 0])),
            "folder" => std::fs::create_dir(&path).unwrap(),
            _ => assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success()),
        }
        let before = path.is_file().then(|| desk.identity("out.journal"));
        let runs = [&[][..], &["--fresh"], &["--force"], &["--discard-journal"]].map(|args| desk.to_file().args(args));
        let piped = desk.run().args(["--journal".into(), path.clone()]).input(prompts(2));
        for run in runs.into_iter().chain([piped]) {
            let names = desk.names();
            let output = desk.nothing_sent(|| run.output());
            assert!([status, 64].contains(&output.status), "{kind}: {output}");
            assert!(output.stderr.contains("out.journal"), "{kind}: {output}");
            assert_eq!(desk.names(), names, "{kind}: {output}");
        }
        assert_eq!(path.is_file().then(|| desk.identity("out.journal")), before, "{kind}");
        match path.is_dir() {
            true => std::fs::remove_dir(&path).unwrap(),
            false => {
                assert!(kind != "fifo" || path.metadata().unwrap().file_type().is_fifo());
                desk.remove("out.journal");
            }
        }
    }
    // An empty file was made for us.
    desk.write("out.journal", "");
    desk.to_file().output().expect(0);
    assert_eq!(desk.journal("out.journal", &[]).expect(0).lines().len(), 2);
}

#[test]
fn a_folder_that_is_missing_or_may_not_be_written_is_found_before_anything_is_sent() {
    let desk = Desk::new();
    let input = desk.write("in", prompts(2));
    let input = input.to_str().unwrap();
    let run = desk.run().args([input, "-o", &desk.arg("none/out")]);
    refused(&desk, run, 74, "none is not there");
    refused(&desk, desk.run().args([input, "--journal", &desk.arg("none/j")]), 74, "none is not there");
    refused(&desk, desk.run().args([input, "-o", &desk.arg("in/out")]), 74, "in is not ");
    let locked = desk.path("locked");
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o555)).unwrap();
    // Root may write everywhere, unless it lays that power down.
    let script = r#"[ "$(id -u)" != 0 ] || exec setpriv --bounding-set=-dac_override,-dac_read_search "$0" "$@"
        exec "$0" "$@""#;
    let run = desk.run().args([input, "-o", &desk.arg("locked/out")]).shell(script);
    refused(&desk, run, 74, "ermission denied");
    assert_eq!(common::desk::names_in(&locked), [] as [&str; 0]);
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn names_are_bytes_of_any_length_that_has_room_for_companions() {
    let desk = Desk::new();
    let input = desk.write("in", prompts(3));
    let long = "n".repeat(200);
    for name in [&b"not \xff utf-8 \n \x1b[31m"[..], long.as_bytes(), b"-", b"--fresh", b"a b'\"$(c)"] {
        let path = desk.path("").join(OsStr::from_bytes(name));
        let run = || desk.run().args([input.as_os_str(), "-o".as_ref(), path.as_os_str()]);
        run().output().expect(0);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 3);
        let output = desk.nothing_sent(|| run().output().expect(0));
        assert!(output.stderr.contains("already complete") && !output.stderr.contains('\u{1b}'), "{output}");
        let journal = desk.path("").join(OsStr::from_bytes(&[name, b".journal"].concat()));
        let printed = Run::bare().args(["journal".as_ref(), journal.as_os_str()]).output().expect(0);
        assert_eq!(printed.stdout, std::fs::read(&path).unwrap());
        [path, journal].iter().for_each(|path| std::fs::remove_file(path).unwrap());
    }
    // No room for the journal's lock.
    let path = desk.path(&"n".repeat(250));
    refused(&desk, desk.run().args([input.as_os_str(), "-o".as_ref(), path.as_os_str()]), 74, "too long");
    assert_eq!(desk.names(), ["in"]);
}

#[test]
fn a_name_without_a_folder_lies_where_the_run_was_started() {
    let desk = Desk::new();
    desk.write("in", prompts(3));
    let script = format!("cd '{}' && exec \"$0\" \"$@\"", desk.arg(""));
    for told in ["3 answered", "already complete"] {
        let output = desk.run().args(["in", "-o", "out"]).shell(&script).output().expect(0);
        assert!(output.stderr.contains(told), "{output}");
        assert_eq!(desk.names(), ["in", "out", "out.journal"]);
    }
    let run = || desk.run().args(["--journal", "j"]).shell(&script).input(prompts(3));
    assert_eq!(run().output().expect(0).lines().len(), 3);
    assert_eq!(desk.nothing_sent(|| run().output().expect(0)).lines().len(), 3);
}

#[test]
fn the_summary_tells_what_was_paid_before() {
    let desk = Desk::new();
    desk.write("in", prompts(5) + &stuck() + "{\"prompt\":7}\n");
    let meta = |run: Run, status| -> Value {
        run.args(["--meta".into(), desk.path("meta")]).output().expect(status);
        serde_json::from_str(&desk.text("meta")).unwrap()
    };
    desk.interrupt(desk.to_file(), None).expect(143);
    let first = meta(desk.to_file(), 1);
    let told =
        |meta: &Value| ["settled", "answered", "failed", "replayed", "not_settled"].map(|name| meta[name].as_u64());
    // The bad line needs no slot: it was settled although all slots hung.
    assert_eq!(told(&first), [10, 9, 1, 6, 0].map(Some), "{first}");
    assert_eq!((&first["input"]["lines"], first["exit_status"].as_u64()), (&Value::from(10), Some(1)));
    let second = meta(desk.to_file(), 1);
    assert_eq!(told(&second), [10, 9, 1, 10, 0].map(Some), "{second}");
    assert_eq!((&second["attempts"], &second["input"]), (&Value::from(0), &first["input"]));
}

#[test]
fn the_file_appears_in_one_step() {
    let desk = Desk::with(&["--latency", "fixed:40"]);
    desk.write("in", prompts(30));
    let mut live = desk.to_file().start();
    let seen = wait_for("the file", || desk.has("out").then(|| desk.bytes("out")));
    let ended = live.has_ended();
    live.finish().expect(0);
    assert_eq!(seen, desk.bytes("out"), "it was not whole when it appeared; ended before: {ended}");
    assert_eq!(numbers(&desk.lines("out")), (1..=30).collect::<Vec<_>>());
    let mode = desk.path("out").metadata().unwrap().permissions().mode() & 0o777;
    let usual = desk.path("in").metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, usual, "it has not the mode that a shell would give it");
}

#[test]
fn a_signal_while_nothing_was_sent_leaves_a_journal_that_goes_on() {
    let desk = Desk::new();
    let live = desk.run().args(["-o".into(), desk.path("out")]).start();
    wait_for("the copy of the input", || desk.has("out.input").then_some(()));
    live.signal(Signal::TERM);
    live.finish().expect(143);
    assert!(!desk.has("out") && !desk.has("out.journal.lock"), "{:?}", desk.names());
    desk.run().args(["-o".into(), desk.path("out")]).input(prompt("late")).output().expect(0);
    assert_eq!(desk.names(), ["out", "out.journal"]);
}

#[test]
fn standard_output_is_never_the_journal() {
    let desk = Desk::new();
    desk.journaled().input(prompts(3)).output().expect(0);
    let before = desk.bytes("journal");
    let appended = || File::options().append(true).open(desk.path("journal")).unwrap();
    refused(&desk, desk.journaled().stdout(appended()).input(prompts(4)), 64, "journal");
    assert_eq!(desk.bytes("journal"), before);
    // A shell has emptied it before anybody could say no; what is paid for must not be lost on top.
    let emptied = File::create(desk.path("journal")).unwrap();
    refused(&desk, desk.journaled().stdout(emptied).input(prompts(4)), 64, "journal");
}

#[test]
fn what_journals_and_shards_print_must_arrive() {
    let desk = Desk::new();
    desk.write("in", prompts(5));
    // A run into a file needs no standard output.
    desk.to_file().shell(r#"exec "$0" "$@" >&-"#).output().expect(0);
    for args in [["journal", "out.journal"], ["merge", "out"]] {
        let run = || Run::bare().args([args[0], &desk.arg(args[1])]);
        run().stdout(File::options().write(true).open("/dev/full").unwrap()).output().expect(74);
        run().shell(r#"exec "$0" "$@" >&-"#).output().expect(74);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        run().stdout(writer).output().expect(141);
    }
}

/// Whether it is obeyed or comes too late: there is a whole file, or none and a journal that goes on.
#[test]
fn a_signal_while_the_file_is_written_leaves_it_whole_or_absent() {
    let desk = Desk::new();
    desk.write("in", prompts(1500));
    desk.to_file().args(["-j", "32"]).output().expect(0);
    let whole = desk.bytes("out");
    desk.remove("out");
    let mut live = desk.to_file().start();
    wait_for("a draft", || (desk.names().iter().any(|name| name.contains("draft")) || live.has_ended()).then_some(()));
    if !live.has_ended() {
        live.signal(Signal::TERM);
    }
    let output = live.finish();
    assert!([0, 143].contains(&output.status) && desk.has("out") == (output.status == 0), "{output}");
    desk.nothing_sent(|| desk.to_file().output().expect(0));
    assert_eq!((desk.bytes("out"), desk.names()), (whole, ["in", "out", "out.journal"].map(str::to_owned).to_vec()));
}
