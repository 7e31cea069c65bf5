//! The input, the ids or the settings changed between two runs: only the difference is sent, or the run is refused.

#![allow(clippy::unwrap_used)]

mod common;

use common::desk::{Desk, SLOTS, sorted, stuck, timeless};
use common::{Output, Run, prompt, prompts};

/// A run over `input` must send exactly these prompts, and its file must be that of a run from nothing.
#[track_caller]
fn costs(desk: &Desk, input: &str, expected: &[&str], change: &str) {
    desk.write("in", input);
    let (sent, output) = desk.sent(|| desk.to_file().output());
    assert!([0, 1].contains(&output.status), "{output}");
    assert_eq!(sorted(sent), expected, "{change}: {output}");
    assert_eq!(timeless(&desk.text("out")), desk.plain(input, &[]), "{change}");
    assert_eq!(desk.journal("out.journal", &[]).expect(0).text(), desk.text("out"), "{change}: the journal differs");
    desk.journal("out.journal", &["--check"]).expect(0);
    let again = desk.nothing_sent(|| desk.to_file().output().expect(output.status));
    assert!(again.stderr.contains("already complete"), "{change}: {again}");
}

/// The same through a pipe with a journal.
#[track_caller]
fn costs_in_pipe(desk: &Desk, input: &str, expected: &[&str], change: &str) {
    let (sent, output) = desk.sent(|| desk.journaled().input(input).output());
    assert_eq!(sorted(sent), expected, "{change}: {output}");
    assert_eq!(timeless(&output.text()), desk.plain(input, &[]), "{change}");
    assert_eq!(desk.journal("journal", &[]).expect(0).text(), output.text(), "{change}: the journal differs");
}

/// Inputs, each made from the one before, and what each costs.
fn changes() -> Vec<(&'static str, String, Vec<&'static str>)> {
    let lines = |texts: &[&str]| -> String { texts.iter().map(|text| prompt(text)).collect() };
    let bad = "{\"prompt\":7}\n";
    vec![
        ("new", lines(&["a", "b", "c", "d"]), vec!["a", "b", "c", "d"]),
        ("prepended", lines(&["p", "q", "a", "b", "c", "d"]), vec!["p", "q"]),
        ("extended", lines(&["p", "q", "a", "b", "c", "d", "e"]), vec!["e"]),
        ("reordered", lines(&["e", "d", "c", "b", "a", "q", "p"]), vec![]),
        ("removed", lines(&["e", "c", "a"]), vec![]),
        ("back again", lines(&["a", "b", "c", "d", "e"]), vec![]),
        ("edited", lines(&["a", "B", "c", "d", "e"]), vec!["B"]),
        ("inserted", lines(&["a", "B", "x", "c", "d", "e"]), vec!["x"]),
        ("blank lines", format!("\n\n{}\n  \n{}\n", lines(&["a", "B", "x"]), lines(&["c", "d", "e"])), vec![]),
        ("bad lines", format!("{bad}{}{bad}{{broken\n{}", lines(&["a", "B"]), lines(&["x", "c"])), vec![]),
        ("bad lines moved", format!("{}{bad}{}{{broken\n{bad}", lines(&["c", "x"]), lines(&["B", "a"])), vec![]),
        ("doubled", lines(&["a", "a", "B", "a", "B"]), vec!["B", "a", "a"]),
        ("one of them less", lines(&["B", "a", "a"]), vec![]),
        ("all at once", lines(&["new", "a", "", "B", "e", "a", "a", "d", "a"]), vec!["", "a", "new"]),
        ("cut to one", lines(&["d"]), vec![]),
    ]
}

#[test]
fn only_the_difference_is_sent_and_the_file_is_that_of_a_run_from_nothing() {
    let desk = Desk::new();
    for (change, input, expected) in changes() {
        costs(&desk, &input, &expected, change);
    }
    costs(&desk, "", &[], "nothing left");
    costs(&desk, &prompt("a"), &[], "one again");
}

#[test]
fn only_the_difference_is_sent_through_a_pipe_too() {
    let desk = Desk::new();
    for (change, input, expected) in changes() {
        costs_in_pipe(&desk, &input, &expected, change);
    }
    costs_in_pipe(&desk, "", &[], "nothing left");
    costs_in_pipe(&desk, &prompt("a"), &[], "one again");
}

#[test]
fn a_change_in_mid_run_costs_its_difference_only() {
    let desk = Desk::new();
    desk.write("in", prompts(6) + &stuck() + &prompts(3));
    desk.interrupt(desk.to_file(), None).expect(143);
    let input = prompt("first") + &prompts(3) + "\n" + &prompts(6) + &prompt("last");
    costs(&desk, &input, &["first", "last", "prompt 1", "prompt 2", "prompt 3"], "in mid-run");
    costs(&desk, &(stuck() + &prompts(2)), &(1..=SLOTS).map(stuck_text).collect::<Vec<_>>(), "what was not settled");
}

fn stuck_text(number: usize) -> &'static str {
    ["sim:hang-head*1 stuck 1", "sim:hang-head*1 stuck 2", "sim:hang-head*1 stuck 3", "sim:hang-head*1 stuck 4"]
        [number - 1]
}

#[test]
fn ids_and_what_is_kept_beside_a_prompt_change_nothing_that_is_paid() {
    let desk = Desk::new();
    let record = |fields: &str, text: &str| format!("{{\"prompt\":\"{text}\"{fields}}}\n");
    let with = |fields: [&str; 3]| record(fields[0], "a") + &record(fields[1], "b") + &record(fields[2], "{bad");
    costs(&desk, &with(["", "", ""]), &["a", "b", "{bad"], "new");
    for fields in [
        [",\"id\":1", ",\"id\":\"two\"", ",\"custom_id\":[3]"],
        [",\"custom_id\":1", ",\"id\":\"two\",\"custom_id\":2", ""],
        [",\"note\":\"kept\",\"id\":1", ",\"label\":5", ",\"custom_id\":[3]"],
        ["", "", ""],
    ] {
        costs(&desk, &with(fields), &[], &fields.concat());
    }
    // The same request in another shape: how a line is written is no part of what it asks.
    costs(&desk, "\"a\"\n{ \"prompt\" : \"b\" , \"id\" : null }\n\"{bad\"\n", &[], "other shapes");
    // With --merge the kept fields are the output.
    desk.write("in", with([",\"note\":\"kept\"", "", ""]));
    desk.nothing_sent(|| desk.to_file().args(["--merge"]).output().expect(0));
    assert!(desk.text("out").starts_with("{\"prompt\":\"a\",\"note\":\"kept\",\"completion\":\"Echo: a\"}\n"));
    // A field that is sent makes another request of it.
    costs(&desk, &with([",\"temperature\":0.5", "", ""]), &["a"], "a parameter");
}

#[test]
fn an_id_of_a_bad_line_may_change_too() {
    let desk = Desk::new();
    let lines = |ids: [&str; 2]| {
        let [first, second] = ids;
        format!("{{\"prompt\":7,\"id\":{first}}}\n{}{{\"prompt\":7,\"id\":{second}}}\n", prompt("good"))
    };
    costs(&desk, &lines(["1", "2"]), &["good"], "new");
    costs(&desk, &lines(["2", "1"]), &[], "ids swapped");
    costs(&desk, &lines(["3", "\"x\""]), &[], "ids replaced");
}

// Settings.

/// The end of a run over settings that differ: nothing was sent, and the difference is named.
#[track_caller]
fn differs(desk: &Desk, run: Run, told: &str) -> Output {
    let before = desk.names().into_iter().map(|name| desk.bytes(&name).len()).collect::<Vec<_>>();
    let output = desk.nothing_sent(|| run.output().expect(65));
    assert!(output.stdout.is_empty() && output.stderr.contains(told), "{told:?}: {output}");
    assert!(output.stderr.contains("--fresh"), "{output}");
    assert_eq!(desk.names().len(), before.len(), "{:?}", desk.names());
    output
}

#[test]
fn settings_that_make_every_answer_useless_are_refused_and_named() {
    let desk = Desk::new();
    desk.write("in", prompts(5));
    let settings = ["-s", "Be brief.", "-p", "temperature=0.2"];
    desk.to_file().args(settings).output().expect(0);
    desk.journaled().args(settings).input(prompts(5)).output().expect(0);
    let (out, answered) = (desk.bytes("out"), desk.journal("journal", &[]).text());
    for (args, told) in [
        (&["-s", "Be brief.", "-p", "temperature=0.3"][..], "temperature=0.2 before, temperature=0.3 now"),
        (&["-s", "Be brief."], "temperature=0.2 before, none now"),
        (&["-s", "Be long.", "-p", "temperature=0.2"], "\"Be brief.\" before, \"Be long.\" now"),
        (&["-p", "temperature=0.2", "-p", "seed=1"], "system prompt: \"Be brief.\" before, none now"),
    ] {
        // As often as it is tried: a refusal is no run under those settings.
        for _ in 0..2 {
            differs(&desk, desk.to_file().args(args), told);
            differs(&desk, desk.journaled().args(args).input(prompts(5)), told);
        }
    }
    assert_eq!((desk.bytes("out"), desk.journal("journal", &[]).text()), (out, answered));
    // With the settings of before, everything is as before.
    let output = desk.nothing_sent(|| desk.to_file().args(settings).output().expect(0));
    assert!(output.stderr.contains("already complete"), "a refusal has left its mark: {output}");
}

#[test]
fn fresh_goes_ahead_with_other_settings() {
    let desk = Desk::new();
    desk.write("in", prompts(5));
    desk.to_file().output().expect(0);
    let run = |args: &[&str]| {
        let base = desk.sim.base();
        let run = Run::bare().env("ANVILGPT_API_KEY", common::KEY).args(["--base-url", &base]);
        run.args(["-m", "llama3.2:latest"]).args([desk.path("in"), "-o".into(), desk.path("out")]).args(args)
    };
    let output = differs(&desk, run(&[]), "\"llama3.1:latest\" before, \"llama3.2:latest\" now");
    assert!(output.stderr.contains("model"), "{output}");
    let (sent, _) = desk.sent(|| run(&["--fresh"]).output().expect(0));
    assert_eq!(sent.len(), 5);
    assert!(desk.lines("out").iter().all(|line| line["model"] == "llama3.2:latest"));
    let output = desk.nothing_sent(|| run(&[]).output().expect(0));
    assert!(output.stderr.contains("already complete"), "{output}");
}

#[test]
fn settings_that_concern_no_line_or_not_every_line_are_no_obstacle() {
    let own =
        |number: usize| format!("{{\"prompt\":\"own {number}\",\"model\":\"llama3.2:latest\",\"system\":\"Mine.\"}}\n");
    let desk = Desk::new();
    desk.write("in", (1..=3).map(own).collect::<String>());
    desk.to_file().output().expect(0);
    let output = desk.nothing_sent(|| desk.to_file().args(["-s", "Be brief."]).output().expect(0));
    assert!(output.stderr.contains("already complete"), "{output}");
    // One line that is known is enough to see that the journal is the right one.
    desk.write("in", prompts(2) + &own(1) + &prompts(1));
    let (sent, _) = desk.sent(|| desk.to_file().args(["-s", "Be long."]).output().expect(0));
    assert_eq!(sorted(sent), ["prompt 1", "prompt 1", "prompt 2"]);
    // Without any answer there is nothing to lose.
    let empty = Desk::new();
    empty.write("in", "{broken\n");
    empty.to_file().output().expect(1);
    empty.write("in", prompts(2));
    empty.to_file().args(["-s", "Be brief."]).output().expect(0);
}

#[test]
fn an_input_of_none_of_the_old_lines_goes_on_when_the_settings_are_the_same() {
    let desk = Desk::new();
    costs(&desk, &prompts(5), &["prompt 1", "prompt 2", "prompt 3", "prompt 4", "prompt 5"], "new");
    costs(&desk, &prompt("other"), &["other"], "all replaced");
}

#[test]
fn a_pipe_that_pauses_is_judged_by_what_has_come() {
    let desk = Desk::new();
    desk.journaled().input(prompts(3)).output().expect(0);
    let mut live = desk.journaled().args(["-s", "Be brief."]).start();
    live.feed(prompts(3));
    live.wait_for_stderr("settings differ");
    let output = live.finish().expect(65);
    assert!(output.stdout.is_empty() && output.stderr.contains("\"Be brief.\" now"), "{output}");
    assert_eq!(desk.sim.count("requests"), 3);
    // Nothing has come, so nothing is judged; and the first line that is known decides at once.
    let own = "{\"prompt\":\"own\",\"system\":\"Mine.\"}\n";
    desk.journaled().input(own).output().expect(0);
    let mut live = desk.journaled().args(["-s", "Be long."]).start();
    live.feed(own);
    live.wait_for_lines(1);
    live.feed(prompt("new"));
    live.wait_for_lines(2);
    live.close_input();
    live.finish().expect(0);
}
