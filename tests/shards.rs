//! `--shard I/N` and `merge`: the shards are a partition of the input, and together they are what one run gives; what
//! does not belong together is refused.

#![allow(clippy::unwrap_used)]

mod common;

use common::desk::{Desk, numbers, timeless};
use common::{Output, Run, Signal, prompt, prompts};

/// An input with blank lines, bad lines, equal lines and ids.
fn mixture() -> String {
    let lines = ["", "{broken", r#"{"prompt":"same","id":1}"#, "  ", r#"{"prompt":7,"custom_id":"x"}"#, r#""bare""#];
    let numbered = prompts(9);
    let all = numbered.lines().chain(lines).chain(numbered.lines()).chain(lines).chain(["\"last\""]);
    all.map(|line| format!("{line}\n")).collect()
}

/// Runs all shards of `in` into `out.1`, `out.2` and so on.
fn shards(desk: &Desk, count: usize, args: &[&str]) -> Vec<String> {
    (1..=count).map(|index| shard(desk, index, count, args)).collect()
}

/// Runs one of them; its name.
fn shard(desk: &Desk, index: usize, count: usize, args: &[&str]) -> String {
    let name = format!("out.{index}");
    let output = shard_run(desk, index, count).args(args).output();
    assert!([0, 1].contains(&output.status), "{output}");
    name
}

fn shard_run(desk: &Desk, index: usize, count: usize) -> Run {
    let output = desk.arg(&format!("out.{index}"));
    desk.run().args([&desk.arg("in"), "-o", &output, "--shard", &format!("{index}/{count}")])
}

/// `merge` of these names on the desk, with further arguments.
fn merge(desk: &Desk, names: &[String], args: &[&str]) -> Output {
    Run::bare().args(["merge"]).args(names.iter().map(|name| desk.arg(name))).args(args).output()
}

/// A merge that must fail with 65 and say this; nothing appears.
#[track_caller]
fn refused(desk: &Desk, names: &[&str], told: &str) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let before = desk.names();
    for args in [&[][..], &["-o", &desk.arg("merged")]] {
        let output = merge(desk, &names, args).expect(65);
        assert!(output.stderr.contains(told), "{told:?}: {output}");
        assert_eq!(desk.names(), before, "{output}");
    }
}

#[test]
fn shards_are_a_partition_and_their_merge_is_the_whole() {
    let desk = Desk::new();
    let input = mixture();
    let plain = desk.plain(&input, &[]);
    let whole: Vec<u64> = plain.lines().map(|line| numbers(&[serde_json::from_str(line).unwrap()])[0]).collect();
    desk.write("in", &input);
    for count in [1, 2, 3, 7, 40] {
        let before = desk.sim.count("requests");
        let names = shards(&desk, count, &[]);
        assert_eq!(desk.sim.count("requests") - before, 23, "n = {count}");
        for (index, name) in (1..).zip(&names) {
            let expected: Vec<u64> =
                whole.iter().copied().filter(|line| line % count as u64 == index % count as u64).collect();
            assert_eq!(numbers(&desk.lines(name)), expected, "{name} of {count}");
            let again = desk.nothing_sent(|| shard_run(&desk, index as usize, count).output());
            assert!(again.stderr.contains("already complete"), "{again}");
        }
        let journals: Vec<String> = names.iter().map(|name| format!("{name}.journal")).collect();
        let mixed: Vec<String> = names
            .iter()
            .zip(&journals)
            .enumerate()
            .map(|(at, pair)| if at % 2 == 0 { pair.0 } else { pair.1 }.clone())
            .collect();
        let backwards: Vec<String> = mixed.iter().rev().cloned().collect();
        for names in [&names, &journals, &mixed, &backwards] {
            let merged = merge(&desk, names, &[]).expect(1);
            assert_eq!(timeless(&merged.text()), plain, "n = {count}, {names:?}");
            assert!(merged.stderr.contains(&format!("{} lines merged", whole.len())), "{merged}");
        }
        names.iter().chain(&journals).for_each(|name| desk.remove(name));
    }
}

#[test]
fn a_pipe_can_be_sharded_and_its_journal_merged() {
    let desk = Desk::new();
    let input = mixture();
    let mut names = Vec::new();
    for index in 1..=3 {
        let name = format!("j.{index}");
        let run = desk.run().args(["--journal", &desk.arg(&name), "--shard", &format!("{index}/3")]);
        let output = run.input(input.clone()).output();
        assert!(numbers(&output.lines()).iter().all(|line| line % 3 == index % 3), "{output}");
        names.push(name);
    }
    assert_eq!(timeless(&merge(&desk, &names, &[]).expect(1).text()), desk.plain(&input, &[]));
}

#[test]
fn every_format_can_be_merged() {
    let desk = Desk::new();
    let input = prompts(10) + "{\"prompt\":\"id\",\"custom_id\":\"x\"}\n" + &prompt("sim:status=400 refused");
    desk.write("in", &input);
    let names = shards(&desk, 3, &[]);
    for args in [&[][..], &["--format", "completion"], &["--format", "text"], &["--format", "text", "-0"]] {
        let merged = merge(&desk, &names, args).expect(1);
        let plain = if args.contains(&"-0") {
            desk.plain(&input, &["--format", "text"]).replace('\n', "\0")
        } else {
            desk.plain(&input, args)
        };
        assert_eq!(timeless(&merged.text()), plain, "{args:?}");
    }
    for format in ["raw", "batch"] {
        let merged = merge(&desk, &names, &["--format", format]).expect(1);
        let journals: Vec<String> = names.iter().map(|name| format!("{name}.journal")).collect();
        assert_eq!(merge(&desk, &journals, &["--format", format]).expect(1).text(), merged.text());
        assert_eq!(merged.lines().len(), 12);
    }
    merge(&desk, &names, &["--format", "events"]).expect(64);
    // Outputs are taken as they stand, in whatever format they are.
    let names = shards(&desk, 3, &["--merge"]);
    assert_eq!(merge(&desk, &names, &[]).expect(1).text(), desk.plain(&input, &["--merge"]));
}

#[test]
fn a_merge_into_a_file_appears_whole_and_replaces_nothing() {
    let desk = Desk::new();
    desk.write("in", prompts(9));
    let names = shards(&desk, 2, &[]);
    let into = ["-o", &desk.arg("merged")];
    let output = merge(&desk, &names, &into).expect(0);
    assert!(output.stdout.is_empty(), "{output}");
    assert_eq!(timeless(&desk.text("merged")), desk.plain(&prompts(9), &[]));
    let before = desk.identity("merged");
    let output = merge(&desk, &names, &into).expect(64);
    assert!(output.stderr.contains("--force") && desk.identity("merged") == before, "{output}");
    desk.write("merged", "theirs\n");
    merge(&desk, &names, &into).expect(64);
    assert_eq!(desk.text("merged"), "theirs\n");
    merge(&desk, &names, &["-o", &desk.arg("merged"), "--force"]).expect(0);
    assert_eq!(timeless(&desk.text("merged")), desk.plain(&prompts(9), &[]));
    // A shard is never its own merge.
    merge(&desk, &names, &["-o", &desk.arg("out.1"), "--force"]).expect(64);
    merge(&desk, &names, &["-o", &desk.arg("none/merged")]).expect(74);
    let beside = ["in", "merged", "out.1", "out.1.journal", "out.2", "out.2.journal"];
    assert_eq!(desk.names(), beside);
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let desk = Desk::new();
    desk.write("in", prompts(9));
    shards(&desk, 3, &[]);
    refused(&desk, &["out.1", "out.3"], "2/3");
    refused(&desk, &["out.2"], "1/3, 3/3");
    refused(&desk, &["out.1", "out.2", "out.3", "out.1.journal"], "both shard 1");
    refused(&desk, &["out.1", "in", "out.3"], "is no journal");
    // Shards of another division, and of another input of as many lines.
    let other = desk.run().args([&desk.arg("in"), "-o", &desk.arg("half"), "--shard", "2/2"]);
    other.output().expect(0);
    refused(&desk, &["out.1", "half", "out.3"], "one of 2 shards");
    desk.write("in", prompts(8) + &prompt("another"));
    let other = desk.run().args([&desk.arg("in"), "-o", &desk.arg("changed"), "--shard", "2/3"]);
    other.output().expect(0);
    refused(&desk, &["out.1", "changed", "out.3"], "different inputs");
    desk.write("in", prompts(9) + "\n");
    let other = desk.run().args([&desk.arg("in"), "-o", &desk.arg("longer"), "--shard", "2/3"]);
    other.output().expect(0);
    refused(&desk, &["out.1", "longer", "out.3"], "different inputs");
}

#[test]
fn a_shard_that_is_unfinished_or_edited_is_refused() {
    let desk = Desk::new();
    desk.write("in", prompts(6) + &prompt("sim:hang-head*1 the seventh") + &prompts(6));
    shard(&desk, 2, 2, &[]);
    let unfinished = shard_run(&desk, 1, 2).args(["--drain-timeout", "50ms"]).start();
    desk.sim.wait_for_count("ok", 12);
    unfinished.signal(Signal::TERM);
    unfinished.finish().expect(143);
    refused(&desk, &["out.1.journal", "out.2"], "has not come to its end");
    shard(&desk, 1, 2, &[]);
    let whole = merge(&desk, &["out.1".into(), "out.2".into()], &[]).expect(0).text();
    assert_eq!(whole.lines().count(), 13);
    // Edited: a line less, a line more, a byte changed. The journal can still be merged.
    let good = desk.text("out.1");
    let cut = good.split_inclusive('\n').skip(1).collect::<String>();
    let doubled = good.split_inclusive('\n').take(1).collect::<String>() + &good;
    for edited in [cut, doubled, good.replacen("Echo", "echo", 1), good.trim_end().to_owned()] {
        desk.write("out.1", edited);
        refused(&desk, &["out.1", "out.2"], "is not as its own run has left it");
        assert_eq!(merge(&desk, &["out.1.journal".into(), "out.2".into()], &[]).expect(0).text(), whole);
    }
    desk.remove("out.1");
    assert_eq!(merge(&desk, &["out.1".into(), "out.2".into()], &[]).status, 74);
    // A copy elsewhere is as good, with its journal beside it.
    for name in ["out.1.journal", "out.2.journal"] {
        std::fs::copy(desk.path(name), desk.path(&format!("copied.{name}"))).unwrap();
    }
    let copies = ["copied.out.1.journal".to_owned(), "copied.out.2.journal".to_owned()];
    assert_eq!(merge(&desk, &copies, &[]).expect(0).text(), whole);
}

#[test]
fn a_journal_stays_with_its_shard() {
    let desk = Desk::new();
    desk.write("in", prompts(9));
    shards(&desk, 3, &[]);
    let before = desk.identity("out.1.journal");
    for args in [&["--shard", "2/3"][..], &["--shard", "1/2"], &[]] {
        let run = desk.run().args([desk.path("in"), "-o".into(), desk.path("out.1")]).args(args);
        let output = desk.nothing_sent(|| run.output().expect(65));
        assert!(output.stderr.contains("it is about shard 1/3"), "{args:?}: {output}");
        assert_eq!(desk.identity("out.1.journal"), before);
    }
}

#[test]
fn the_number_of_an_array_task_is_the_number_of_its_shard() {
    let desk = Desk::new();
    desk.write("in", prompts(10));
    let mut names = Vec::new();
    for task in 1..=4 {
        let name = format!("out.{task}");
        let run = desk.run().args([&desk.arg("in"), "-o", &desk.arg(&name), "--shard", "slurm/4"]);
        // Only some tasks of the array are run again: their count says nothing.
        let run = run.env("SLURM_ARRAY_TASK_ID", task.to_string()).env("SLURM_ARRAY_TASK_COUNT", "2");
        run.output().expect(0);
        let expected: Vec<u64> = (1..=10).filter(|line| line % 4 == task % 4).collect();
        assert_eq!(numbers(&desk.lines(&name)), expected);
        names.push(name);
    }
    assert_eq!(timeless(&merge(&desk, &names, &[]).expect(0).text()), desk.plain(&prompts(10), &[]));
}

#[test]
fn more_shards_than_lines_and_no_lines_at_all_make_empty_shards() {
    let desk = Desk::new();
    for input in [prompts(2), String::new(), "\n\n".to_owned()] {
        desk.write("in", &input);
        let names = shards(&desk, 4, &[]);
        assert_eq!(desk.text("out.4"), "");
        assert_eq!(timeless(&merge(&desk, &names, &[]).expect(0).text()), desk.plain(&input, &[]));
        names.iter().for_each(|name| desk.remove(name));
        names.iter().for_each(|name| desk.remove(&format!("{name}.journal")));
    }
}

#[test]
fn a_run_without_shards_is_the_merge_of_itself() {
    let desk = Desk::new();
    desk.write("in", mixture());
    desk.to_file().output().expect(1);
    for name in ["out", "out.journal"] {
        assert_eq!(merge(&desk, &[name.to_owned()], &[]).expect(1).text(), desk.text("out"));
    }
}

/// Completions that came through a pipe, with the summaries of their runs beside them.
fn piped_shards(desk: &Desk, input: &str, args: &[&str]) -> Vec<String> {
    let name = |index: usize| format!("piped.{index}");
    for index in 1..=3 {
        let meta = desk.arg(&format!("{}.meta.json", name(index)));
        let run = desk.run().args(["--shard", &format!("{index}/3"), "--meta", &meta]).args(args);
        desk.write(&name(index), run.input(input).output().stdout);
    }
    (1..=3).map(name).collect()
}

#[test]
fn completions_of_pipes_are_merged_by_their_summaries() {
    let desk = Desk::new();
    let input = mixture();
    let plain = desk.plain(&input, &[]);
    let names = piped_shards(&desk, &input, &[]);
    assert_eq!(timeless(&merge(&desk, &names, &[]).expect(1).text()), plain);
    // Together with others of the same division.
    desk.write("in", &input);
    shards(&desk, 3, &[]);
    let mixed = ["out.1".to_owned(), "piped.2".to_owned(), "out.3.journal".to_owned()];
    assert_eq!(timeless(&merge(&desk, &mixed, &[]).expect(1).text()), plain);
    merge(&desk, &names, &["--format", "text"]).expect(64);
    let whole = desk.text("piped.2");
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let edited = [
        lines[1..].concat(),
        lines[..lines.len() - 1].concat(),
        lines[0].to_owned() + &whole,
        lines.iter().rev().copied().collect(),
        desk.text("piped.1"),
        whole[..whole.len() - 5].to_owned(),
        String::new(),
    ];
    for text in edited {
        desk.write("piped.2", &text);
        refused(&desk, &["piped.1", "piped.2", "piped.3"], "piped.2");
    }
    desk.write("piped.2", whole.trim_end());
    let merged = merge(&desk, &names, &[]);
    assert!(merged.status == 65 || timeless(&merged.text()) == plain, "{merged}");
    // Without its number a line could be anybody's; without its summary a file, too.
    piped_shards(&desk, &input, &["--format", "text"]);
    refused(&desk, &["piped.1", "piped.2", "piped.3"], "piped.1");
    desk.remove("piped.3.meta.json");
    refused(&desk, &["out.1", "out.2", "piped.3"], "piped.3");
}

#[test]
fn a_pipe_that_was_stopped_is_no_shard() {
    let desk = Desk::new();
    let meta = desk.arg("piped.meta.json");
    let mut live = desk.run().args(["--shard", "1/1", "--meta", &meta]).start();
    live.feed(prompts(3));
    live.wait_for_lines(3);
    live.signal(Signal::TERM);
    desk.write("piped", live.finish().expect(143).stdout);
    refused(&desk, &["piped"], "piped");
}
