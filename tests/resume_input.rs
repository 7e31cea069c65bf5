//! `-o F` and its input: files, pipes and both at once, read twice or copied; and inputs of odd shape.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::symlink;

use common::desk::{Desk, SLOTS, codes, numbers, stuck, timeless};
use common::{Run, Signal, prompt, prompts};

/// The run `-o out`, from standard input.
fn from_pipe(desk: &Desk) -> Run {
    desk.run().args(["-o".into(), desk.path("out")])
}

#[test]
fn a_pipe_is_copied_beside_the_file_until_that_is_there() {
    let desk = Desk::new();
    let input = prompts(30) + "{\"prompt\":7}\n\n" + &prompts(10);
    let mut live = from_pipe(&desk).start();
    live.feed(&input);
    desk.sim.wait_for_count("ok", 40);
    assert_eq!(desk.text("out.input"), input);
    assert!(!desk.has("out"));
    live.close_input();
    live.finish().expect(1);
    assert_eq!(desk.names(), ["out", "out.journal"]);
    assert_eq!(timeless(&desk.text("out")), desk.plain(&input, &[]));
    let output = desk.nothing_sent(|| from_pipe(&desk).input(input).output().expect(1));
    assert!(output.stderr.contains("already complete"), "{output}");
    assert_eq!(desk.names(), ["out", "out.journal"]);
}

#[test]
fn a_pipe_that_was_interrupted_is_read_anew_and_its_copy_is_ours() {
    let desk = Desk::new();
    let input = prompts(10) + &stuck() + &prompts(5);
    desk.interrupt(from_pipe(&desk), Some(&input)).expect(143);
    assert!(desk.has("out.input") && !desk.has("out"), "{:?}", desk.names());
    let mut killed = from_pipe(&desk).start();
    killed.feed(prompt("another"));
    desk.sim.wait_for_count("ok", 11);
    killed.signal(Signal::KILL);
    killed.finish().expect(137);
    let (sent, _) = desk.sent(|| from_pipe(&desk).input(input.clone()).output().expect(0));
    assert_eq!(sent.len(), SLOTS + 5, "{sent:?}");
    assert_eq!(timeless(&desk.text("out")), desk.plain(&input, &[]));
    assert_eq!(desk.names(), ["out", "out.journal"]);
}

#[test]
fn a_file_that_stands_where_the_copy_must_go_is_refused_untouched() {
    let desk = Desk::new();
    for theirs in ["theirs\n", ""] {
        desk.write("out.input", theirs);
        let before = desk.identity("out.input");
        for args in [&[][..], &["--force"], &["--fresh"]] {
            let output = desk.nothing_sent(|| from_pipe(&desk).args(args).input(prompts(3)).output().expect(64));
            assert!(output.stderr.contains("out.input"), "{output}");
            assert_eq!(desk.identity("out.input"), before);
            assert!(!desk.has("out"));
        }
    }
    // A file as input needs no copy, and leaves that name alone.
    let before = desk.identity("out.input");
    desk.write("in", prompts(3));
    desk.to_file().output().expect(0);
    assert_eq!(desk.identity("out.input"), before);
}

#[test]
fn a_link_where_the_copy_must_go_is_not_followed() {
    for target in ["empty", "missing"] {
        let desk = Desk::new();
        desk.write("empty", "");
        symlink(target, desk.path("out.input")).unwrap();
        let output = desk.nothing_sent(|| from_pipe(&desk).input(prompts(3)).output().expect(64));
        assert_eq!(std::fs::read_link(desk.path("out.input")).unwrap().to_str(), Some(target), "{output}");
        assert!(desk.text("empty").is_empty() && !desk.has("missing"), "{output}");
    }
}

#[test]
fn a_copy_that_was_replaced_by_somebody_else_is_not_ours() {
    let desk = Desk::new();
    desk.interrupt(from_pipe(&desk), Some(&(prompts(3) + &stuck()))).expect(143);
    let copy = desk.bytes("out.input");
    std::fs::rename(desk.path("out.input"), desk.path("away")).unwrap();
    desk.write("out.input", "theirs\n");
    let before = desk.identity("out.input");
    desk.nothing_sent(|| from_pipe(&desk).input(prompts(3)).output().expect(64));
    assert_eq!((desk.identity("out.input"), desk.bytes("away")), (before, copy));
}

#[test]
fn files_and_pipes_are_one_input_in_their_order() {
    let desk = Desk::new();
    const BOM: &str = "\u{feff}";
    // Every source may begin with a mark, and end without a line end.
    desk.write("a", BOM.to_owned() + &prompt("a1") + prompt("a2").trim_end());
    desk.write("b", prompt("b1") + "\n\n" + prompt("b2").trim_end());
    desk.write("empty", "");
    let piped = BOM.to_owned() + &prompt("p1") + prompt("p2").trim_end();
    for (number, names) in
        [&["a", "b"][..], &["a", "-", "b"], &["-", "empty", "a"], &["a", "a"], &["a", "empty", "b", "-"]]
            .iter()
            .enumerate()
    {
        let out = desk.arg(&format!("out{number}"));
        let paths = || names.iter().map(|name| if *name == "-" { "-".to_owned() } else { desk.arg(name) });
        let run = || desk.run().args(paths()).input(piped.clone());
        let plain = timeless(&run().output().expect(0).text());
        for told in ["answered", "already complete"] {
            let output = run().args(["-o", &out]).output().expect(0);
            assert!(output.stderr.contains(told), "{names:?}: {output}");
            assert_eq!(timeless(&desk.text(&format!("out{number}"))), plain, "{names:?}");
        }
        assert!(!desk.has(&format!("out{number}.input")), "{:?}", desk.names());
    }
}

#[test]
fn what_is_redirected_from_the_middle_of_a_file_begins_there() {
    let desk = Desk::new();
    let skipped = prompt("skipped");
    desk.write("in", skipped.clone() + &prompts(5));
    let opened = || {
        let mut file = File::open(desk.path("in")).unwrap();
        file.seek(SeekFrom::Start(skipped.len() as u64)).unwrap();
        file
    };
    for told in ["5 answered", "already complete"] {
        let output = from_pipe(&desk).stdin(opened()).output().expect(0);
        assert!(output.stderr.contains(told), "{output}");
        assert_eq!(timeless(&desk.text("out")), desk.plain(&prompts(5), &[]));
        assert!(!desk.has("out.input"), "a file can be read twice");
    }
}

#[test]
fn an_input_that_changes_while_it_is_asked_gives_no_file() {
    let desk = Desk::with(&["--latency", "fixed:300"]);
    let input = prompts(3);
    // Grown, cut, or changed in place, after it was read and before the last answer came.
    for (number, changed) in
        [input.clone() + &prompt("grown"), prompts(2), input.replace("prompt 2", "prompt X")].iter().enumerate()
    {
        desk.write("in", &input);
        let live = desk.to_file().args(["--fresh"]).start();
        desk.sim.wait_for_count("in_flight", 3);
        desk.write("in", changed);
        let output = live.finish().expect(75);
        assert!(output.stderr.contains("changed") && !desk.has("out"), "{output}");
        let (sent, _) = desk.sent(|| desk.to_file().output().expect(0));
        assert_eq!(sent.len(), [1, 0, 1][number], "what was answered is kept: {sent:?}");
        assert_eq!(desk.lines("out").len(), changed.lines().count());
        desk.remove("out");
    }
}

#[test]
fn an_empty_input_gives_an_empty_file() {
    for input in ["", "\n", "\n  \n\t\n", "\u{feff}"] {
        for (status, args) in [(0, &[][..]), (0, &["--format", "text"])] {
            let desk = Desk::new();
            desk.write("in", input);
            desk.nothing_sent(|| desk.to_file().args(args).output().expect(status));
            assert_eq!(desk.text("out"), "");
            let output = desk.nothing_sent(|| desk.to_file().args(args).output().expect(status));
            assert!(output.stderr.contains("already complete"), "{output}");
            assert_eq!(desk.journal("out.journal", &[]).expect(0).text(), "");
            let piped = desk.run().args(["-o".into(), desk.path("piped")]).args(args).input(input);
            desk.nothing_sent(|| piped.output().expect(status));
            assert_eq!(desk.names(), ["in", "out", "out.journal", "piped", "piped.journal"]);
        }
    }
}

#[test]
fn bad_lines_alone_make_a_file_too() {
    let desk = Desk::new();
    let input = "{broken\n{\"prompt\":7,\"id\":1}\n\n{\"prompt\":7,\"id\":1}\n{broken\n\u{1b}\n".to_owned();
    desk.write("in", &input);
    desk.nothing_sent(|| desk.to_file().output().expect(1));
    assert_eq!(timeless(&desk.text("out")), desk.plain(&input, &[]));
    assert_eq!(numbers(&desk.lines("out")), [1, 2, 4, 5, 6]);
    for args in [&[][..], &["--retry-failed"]] {
        desk.nothing_sent(|| desk.to_file().args(args).output().expect(1));
        assert_eq!(timeless(&desk.text("out")), desk.plain(&input, &[]));
        assert_eq!(desk.journal("out.journal", &[]).text(), desk.text("out"));
    }
    desk.nothing_sent(|| desk.to_file().args(["--allow-failed", "100%"]).output().expect(0));
}

#[test]
fn equal_prompts_have_an_answer_each() {
    let desk = Desk::new();
    let same = |count: usize| prompt("same").repeat(count);
    let input = same(7) + &stuck() + &same(8);
    desk.write("in", &input);
    desk.interrupt(desk.to_file().args(["--format", "raw"]), None).expect(143);
    let half = desk.journal("out.journal", &["--format", "raw"]).expect(0).text();
    let (sent, _) = desk.sent(|| desk.to_file().args(["--format", "raw"]).output().expect(0));
    assert_eq!(sent.len(), SLOTS + 8);
    let text = desk.text("out");
    assert!(text.starts_with(&half), "answers have moved");
    let ids = |name: &str| -> BTreeSet<String> { desk.lines(name).iter().map(|line| line["id"].to_string()).collect() };
    assert_eq!(ids("out").len(), 15 + SLOTS, "one reply was used twice");
    assert_eq!(desk.journal("out.journal", &["--format", "raw"]).text(), text);
    // One more of them, in front of all: one request, and the others keep their answers.
    let before = ids("out");
    desk.write("in", same(1) + &input);
    let (sent, _) = desk.sent(|| desk.to_file().args(["--format", "raw"]).output().expect(0));
    assert_eq!(sent, ["same"]);
    assert!(ids("out").is_superset(&before) && ids("out").len() == 16 + SLOTS);
    // And half of them less: nothing is sent, and no reply serves two lines.
    desk.write("in", same(4) + &stuck());
    desk.nothing_sent(|| desk.to_file().args(["--format", "raw"]).output().expect(0));
    assert_eq!(ids("out").len(), 4 + SLOTS);
}

#[test]
fn records_that_end_with_nul_resume_as_well() {
    let desk = Desk::new();
    let record = |text: &str| format!("{{\"prompt\":\n\"{text}\",\n\"id\":[1,\n2]}}\0");
    let input = record("one") + "\0\n\0" + &record("two\\nlines") + "{broken\0" + &record("three");
    desk.write("in", &input);
    for args in [&[][..], &["--format", "text"], &["--merge"]] {
        desk.to_file().args(["-0"]).args(args).output().expect(1);
        assert_eq!(timeless(&desk.text("out")), desk.plain(&input, &[&["-0"], args].concat()), "{args:?}");
        let output = desk.nothing_sent(|| desk.to_file().args(["-0"]).args(args).output().expect(1));
        assert!(output.stderr.contains("already complete"), "{output}");
        if args != ["--merge"] {
            desk.to_file().args(["-0"]).args(args).output().expect(1);
            assert_eq!(desk.journal("out.journal", &[&["-0"], args].concat()).expect(0).text(), desk.text("out"));
        }
    }
    assert_eq!(desk.sim.count("repeats_after_ok"), 3 * 3, "only the plain runs have asked again");
}

#[test]
fn a_line_that_is_too_long_settles_as_an_error_each_time() {
    let desk = Desk::new();
    let input = prompts(2) + &prompt(&"x".repeat(2000)) + &prompts(1) + &prompt(&"y".repeat(2000)) + "end";
    desk.write("in", &input);
    let limit = ["--max-line-bytes", "1000"];
    for told in ["3 answered", "already complete"] {
        let output = desk.to_file().args(limit).output().expect(1);
        assert!(output.stderr.contains(told), "{output}");
        assert_eq!(timeless(&desk.text("out")), desk.plain(&input, &limit));
    }
    assert_eq!(codes(&desk.lines("out")).iter().filter(|code| *code == "line_too_long").count(), 2);
    // With a higher limit they are asked.
    let (sent, _) = desk.sent(|| desk.to_file().output().expect(1));
    assert_eq!(sent.len(), 2);
    assert_eq!(timeless(&desk.text("out")), desk.plain(&input, &[]));
}
