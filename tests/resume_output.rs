//! `-o F`: F appears whole and in order; the same command never pays twice; `--retry-failed`, `--fresh`, `--failed`.

#![allow(clippy::unwrap_used)]

mod common;

use common::desk::{Desk, SLOTS, codes, numbers, prompt_of, sorted, stuck, timeless};
use common::{Run, prompt, prompts, refused_base};
use serde_json::Value;

/// Every kind of line: good ones of each form, bad ones, blank ones, ids of both names.
fn mixture() -> String {
    let good = [
        r#"{"prompt":"plain","custom_id":"a"}"#,
        r#"{"messages":[{"role":"user","content":"chat"}],"id":{"n":[1, 2]}}"#,
        r#""bare é""#,
        r#"{"custom_id":"b-1","method":"POST","url":"/v1/chat/completions","body":{"model":"llama3.2:latest","messages":[{"role":"user","content":"batch"}]}}"#,
    ];
    let bad = ["{\"prompt\":7,\"id\":3}", "", "{broken", "  ", "{\"prompt\":\"sim:status=400 refused\",\"id\":9}"];
    let numbered = prompts(12);
    let lines = good.into_iter().chain(numbered.lines()).chain(bad).chain(good).chain(["{\"prompt\":\"last\"}"]);
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_file_is_what_a_pipe_gives_and_only_the_journal_stays_beside_it() {
    let desk = Desk::with(&["--latency", "lognormal:4:20"]);
    let input = mixture();
    desk.write("in", &input);
    for args in [&[][..], &["--merge"], &["--merge=answer"], &["--format", "text"], &["--unordered"]] {
        if args == ["--unordered"] {
            desk.to_file().args(args).output().expect(64);
            continue;
        }
        let (plain, name) = (desk.plain(&input, args), format!("out{}", args.join("")));
        let run = desk.run().args([desk.path("in"), "-o".into(), desk.path(&name)]).args(args).args(["-j", "8"]);
        let output = run.output().expect(1);
        assert!(output.stdout.is_empty(), "{output}");
        assert_eq!(scrubbed(&timeless(&desk.text(&name))), scrubbed(&plain), "{args:?}");
        let mut names = desk.names();
        names.retain(|other| other.starts_with(&name));
        assert_eq!(names, [name.clone(), format!("{name}.journal")]);
        names.iter().for_each(|name| desk.remove(name));
    }
    assert_eq!(desk.names(), ["in"]);
}

/// Batch lines hold the reply's own object, which has an id and a time.
fn scrubbed(lines: &str) -> Vec<String> {
    let scrub = |line: &str| match serde_json::from_str::<Value>(line) {
        Ok(mut value) if value["response"]["body"]["id"].is_string() => {
            value["response"]["body"]["id"] = Value::Null;
            value["response"]["body"]["created"] = Value::Null;
            value.to_string()
        }
        _ => line.to_owned(),
    };
    lines.lines().map(scrub).collect()
}

#[test]
fn the_same_command_after_the_end_sends_nothing_and_ends_as_before() {
    let refused = prompt("sim:status=400 refused");
    let allowed = ["--allow-failed", "1"];
    for (input, args, status) in
        [(prompts(20), &[][..], 0), (prompts(20) + &refused, &[], 1), (prompts(20) + &refused, &allowed, 0)]
    {
        let desk = Desk::new();
        desk.write("in", &input);
        desk.to_file().args(args).output().expect(status);
        let (before, journal) = (desk.identity("out"), desk.journal("out.journal", &[]).expect(0));
        for _ in 0..2 {
            let output = desk.nothing_sent(|| desk.to_file().args(args).output().expect(status));
            assert!(output.stderr.contains("already complete") && output.stdout.is_empty(), "{output}");
            assert_eq!(desk.identity("out"), before);
        }
        // Nor is the service needed, or its address the same.
        let run = Run::at(&refused_base()).args([desk.path("in"), "-o".into(), desk.path("out")]);
        assert!(run.args(args).output().expect(status).stderr.contains("already complete"));
        assert_eq!((desk.identity("out"), journal.text()), (before, desk.text("out")));
        assert_eq!(desk.names(), ["in", "out", "out.journal"]);
    }
}

#[test]
fn a_file_that_is_gone_or_wanted_otherwise_is_rendered_again_and_nothing_is_sent() {
    let desk = Desk::new();
    desk.write("in", mixture());
    desk.to_file().output().expect(1);
    let whole = desk.text("out");
    desk.remove("out");
    let output = desk.nothing_sent(|| desk.to_file().output().expect(1));
    assert!(!output.stderr.contains("already complete"), "{output}");
    assert_eq!(desk.text("out"), whole, "to the last byte, since the answers are the same");
    for args in [&["--format", "raw"][..], &["--format", "batch"], &["--format", "text"], &["--format", "completion"]] {
        desk.nothing_sent(|| desk.to_file().args(args).output().expect(1));
        assert_eq!(desk.text("out"), desk.journal("out.journal", args).expect(0).text(), "{args:?}");
    }
    for args in [&["--merge"][..], &["--merge=other"], &[]] {
        let output = desk.nothing_sent(|| desk.to_file().args(args).output().expect(1));
        assert!(!output.stderr.contains("already complete"), "{args:?}: {output}");
        let field = args.first().map(|arg| arg.strip_prefix("--merge=").unwrap_or("completion"));
        let first = &desk.lines("out")[0];
        assert_eq!(first[field.unwrap_or("content")], "Echo: plain", "{args:?}: {first}");
    }
    assert_eq!(desk.text("out"), whole);
}

#[test]
fn an_interrupted_run_goes_on_and_its_file_is_that_of_an_undisturbed_one() {
    let desk = Desk::new();
    let input = prompts(20) + "{\"prompt\":7}\n" + &stuck() + &prompts(40);
    desk.write("in", &input);
    let output = desk.interrupt(desk.to_file(), None).expect(143);
    assert!(output.stderr.contains("20 of 65 answered, 1 failed; run the same command to go on"), "{output}");
    assert_eq!(desk.names(), ["in", "out.journal"]);
    assert_eq!(desk.journal("out.journal", &[]).expect(0).lines().len(), 21);
    let (sent, _) = desk.sent(|| desk.to_file().output().expect(1));
    assert_eq!(sent.len(), SLOTS + 40, "each of the rest once: {sent:?}");
    assert_eq!(timeless(&desk.text("out")), desk.plain(&input, &[]));
    assert_eq!(desk.names(), ["in", "out", "out.journal"]);
}

#[test]
fn retry_failed_asks_the_failed_lines_only_and_replaces_the_file() {
    let desk = Desk::new();
    let weak: String = (1..=3).map(|number| prompt(&format!("sim:status=400*1 weak {number}"))).collect();
    let input = prompts(5) + &weak + "{\"prompt\":7}\n" + &prompt("sim:status=400*2 weaker") + &prompts(2);
    desk.write("in", &input);
    desk.to_file().output().expect(1);
    let before = desk.lines("out");
    assert_eq!(codes(&before).iter().filter(|code| !code.is_empty()).count(), 5);
    desk.nothing_sent(|| desk.to_file().output().expect(1));
    let (sent, _) = desk.sent(|| desk.to_file().args(["--retry-failed"]).output().expect(1));
    let failed =
        ["sim:status=400*1 weak 1", "sim:status=400*1 weak 2", "sim:status=400*1 weak 3", "sim:status=400*2 weaker"];
    assert_eq!(sorted(sent), failed);
    let after = desk.lines("out");
    assert_eq!(after.iter().filter(|line| line["error"].is_null()).count(), before.len() - 2);
    let (sent, _) = desk.sent(|| desk.to_file().args(["--retry-failed"]).output().expect(1));
    assert_eq!(sent, ["sim:status=400*2 weaker"]);
    assert_eq!(numbers(&desk.lines("out")), (1..=12).collect::<Vec<_>>());
    assert_eq!(desk.journal("out.journal", &[]).text(), desk.text("out"));
    // A line that can never be asked fails again, and costs nothing; what is answered stays so.
    for args in [&["--retry-failed"][..], &[]] {
        desk.nothing_sent(|| desk.to_file().args(args).output().expect(1));
        assert_eq!(timeless(&desk.text("out")), desk.plain(&input, &[]));
    }
}

#[test]
fn retry_failed_that_is_interrupted_goes_on_without_it() {
    let desk = Desk::new();
    let weak: String = (1..=6).map(|number| prompt(&format!("sim:status=400*1 weak {number}"))).collect();
    let hang: String =
        (1..=SLOTS).map(|number| prompt(&format!("sim:status=400*1 sim:hang-head*2 {number}"))).collect();
    desk.write("in", prompts(3) + &weak + &hang + &prompts(2));
    desk.to_file().output().expect(1);
    let before = desk.identity("out");
    let live = desk.to_file().args(["--retry-failed", "--drain-timeout", "50ms"]).start();
    // They take all slots, so everything else is settled.
    common::wait_for("hanging retries", || {
        let asked = desk.sim.requests().iter().filter(|sent| prompt_of(sent).contains("sim:hang-head")).count();
        (asked == 2 * SLOTS).then_some(())
    });
    live.signal(common::Signal::TERM);
    live.finish().expect(143);
    assert_eq!(desk.identity("out"), before, "there is nothing better yet");
    let (sent, _) = desk.sent(|| desk.to_file().args(["--retry-failed"]).output().expect(0));
    assert_eq!(sent.len(), SLOTS, "{sent:?}");
    assert_eq!(codes(&desk.lines("out")), vec![""; 3 + 6 + SLOTS + 2]);
}

#[test]
fn fresh_asks_everything_and_deletes_no_record() {
    let desk = Desk::new();
    desk.write("in", prompts(10));
    desk.to_file().output().expect(0);
    let before = desk.bytes("out.journal");
    let (sent, output) = desk.sent(|| desk.to_file().args(["--fresh"]).output().expect(0));
    assert_eq!(sent.len(), 10, "{output}");
    assert!(desk.bytes("out.journal").starts_with(&before), "a record was deleted or changed");
    assert_eq!(desk.journal("out.journal", &[]).expect(0).text(), desk.text("out"));
    desk.nothing_sent(|| desk.to_file().output().expect(0));
    let (sent, _) = desk.sent(|| desk.to_file().args(["--fresh"]).output().expect(0));
    assert_eq!(sent.len(), 10, "a fresh run that came to its end is over");
}

#[test]
fn a_fresh_run_that_was_interrupted_goes_on_when_it_is_repeated() {
    for again in [&["--fresh"][..], &[]] {
        let desk = Desk::new();
        let input = prompts(10) + &stuck() + &prompts(5);
        desk.write("in", prompts(10));
        desk.to_file().output().expect(0);
        desk.write("in", &input);
        let (sent, _) = desk.sent(|| desk.interrupt(desk.to_file().args(["--fresh"]), None).expect(143));
        assert_eq!(sent.len(), 10 + SLOTS);
        let (sent, output) = desk.sent(|| desk.to_file().args(again).output().expect(0));
        assert_eq!(sent.len(), SLOTS + 5, "{again:?} pays twice: {output}");
        assert_eq!(timeless(&desk.text("out")), desk.plain(&input, &[]));
    }
}

/// The lines of a file of failed ones, which must be in the order of this input.
#[track_caller]
fn failed_in_order(failed: &str, input: &str) -> Vec<String> {
    let mut rest = input.lines();
    for line in failed.lines() {
        assert!(rest.any(|other| other == line), "{line} is not in order, or not verbatim:\n{failed}");
    }
    failed.lines().map(str::to_owned).collect()
}

#[test]
fn failed_lines_are_collected_in_input_order() {
    for args in [&["in", "-o", "out"][..], &["in", "--journal", "j"]] {
        let desk = Desk::with(&["--latency", "lognormal:4:20"]);
        let refused = |number: usize| prompt(&format!("sim:status=400 refused {number}"));
        let input: String = (1..=12).map(|number| prompt(&format!("good {number}")) + &refused(number)).collect();
        let input = "{\"prompt\" : 7}\n".to_owned() + &input + "{broken\n";
        desk.write("in", &input);
        let paths = args.iter().map(|arg| if arg.starts_with('-') { (*arg).to_owned() } else { desk.arg(arg) });
        let paths: Vec<String> = paths.chain(["--failed".to_owned(), desk.arg("failed")]).collect();
        for _ in 0..2 {
            desk.run().args(&paths).output().expect(1);
            assert_eq!(failed_in_order(&desk.text("failed"), &input).len(), 14, "{args:?}");
        }
        // Interrupted: what failed before, what hangs, and what was not read yet.
        let input = input + &stuck() + &prompts(3);
        desk.write("in", &input);
        desk.interrupt(desk.run().args(&paths), None).expect(143);
        assert_eq!(failed_in_order(&desk.text("failed"), &input).len(), 14 + SLOTS + 3, "{args:?}");
    }
}
