//! `kill -9` at any instant, with twenty files in flight: every file gets one whole result, and a crash costs at most the
//! requests that were in flight.

use std::time::{Duration, Instant};

use crate::common::prompt;
use crate::needs::{Dice, count, is_all, say};
use crate::spool::{Daemon, Spool, contents, lines};

const FILES: usize = 20;
const SLOTS: u64 = 6;
/// A round is not killed more often: it must come to an end.
const KILLS_MAX: usize = 12;

/// A file, and what must come of it.
struct File {
    name: String,
    text: String,
    wanted: Vec<String>,
    asked: u64,
}

/// A file of any size, with lines of every kind in it.
fn any_file(dice: &mut Dice, number: usize) -> File {
    let lines = if dice.one_in(4) { 65 + dice.below(40) } else { 1 + dice.below(30) };
    let mut file = File { name: format!("f{number:02}"), text: String::new(), wanted: Vec::new(), asked: 0 };
    for line in 1..=lines {
        let text = format!("{} line {line}", file.name);
        match dice.below(20) {
            0 => file.text += "  \n",
            1 => {
                file.text += "{\"prompt\":7}\n";
                file.wanted.push("bad_field".to_owned());
            }
            _ => {
                file.text += &prompt(&text);
                file.wanted.push(format!("Echo: {text}"));
                file.asked += 1;
            }
        }
    }
    file
}

/// A result is never there but whole.
#[track_caller]
fn check_results(spool: &Spool, files: &[File], when: &str) -> usize {
    let mut there = 0;
    for file in files {
        if let Some(text) = spool.text(format!("{}.out.jsonl", file.name)) {
            assert_eq!(contents(&text), file.wanted, "{}, {when}", file.name);
            there += 1;
        }
    }
    there
}

/// Runs twenty files to their end, over so many kills.
fn round(dice: &mut Dice, kills: usize) {
    let spool = Spool::with(&["--latency", "lognormal:15:80"]);
    let files: Vec<File> = (0..FILES).map(|number| any_file(dice, number)).collect();
    let start = || Daemon::watching(spool.daemon().args(["-j", &SLOTS.to_string()]));
    let mut daemon = start();
    files.iter().for_each(|file| spool.put(format!("{}.jsonl", file.name), &file.text));
    let began = Instant::now();
    for kill in 1..=kills {
        std::thread::sleep(Duration::from_millis(dice.below(400) as u64));
        daemon.kill();
        check_results(&spool, &files, &format!("kill {kill}"));
        daemon = start();
    }
    spool.wait("all results", || (check_results(&spool, &files, "at the end") == FILES).then_some(()));
    spool.wait_until_idle();
    daemon.stop().expect(0);
    let when = format!("after {kills} kills in {:?}", began.elapsed());
    let asked: u64 = files.iter().map(|file| file.asked).sum();
    let repeats = spool.sim.count("repeats");
    assert_eq!(spool.sim.count("identities"), asked, "{when}");
    assert!(repeats <= kills as u64 * SLOTS, "{repeats} repeats {when}");
    check_results(&spool, &files, &when);
    check_names(&spool, &files);
    // All of that is known to whoever starts next, and costs nothing.
    let sends = spool.sim.count("requests");
    let daemon = spool.start();
    spool.pass("last");
    assert_eq!(spool.sim.count("requests"), sends + 1, "{when}");
    daemon.stop().expect(0);
    if is_all() {
        say(format_args!("{asked} lines of {FILES} files, {kills} kills, {repeats} asked again"));
    }
}

/// Nothing lies beside the files but their results, and what tells of failed lines.
#[track_caller]
fn check_names(spool: &Spool, files: &[File]) {
    let mut wanted: Vec<String> = Vec::new();
    for File { name, wanted: lines, .. } in files {
        wanted.extend([format!("{name}.jsonl"), format!("{name}.out.jsonl")]);
        if lines.iter().any(|line| line == "bad_field") {
            wanted.push(format!("{name}.jsonl.status.json"));
        }
    }
    wanted.sort();
    assert_eq!(spool.names(), wanted);
}

#[test]
fn every_file_has_one_whole_result_after_any_number_of_kills() {
    let (mut dice, mut left) = (Dice::new(), count(300, KILLS_MAX));
    while left > 0 {
        let kills = KILLS_MAX.min(left);
        round(&mut dice, kills);
        left -= kills;
    }
}

/// Files that change while their daemon is killed again and again.
#[test]
fn kills_and_changes_together_lose_nothing() {
    let mut dice = Dice::new();
    for _ in 0..count(50, 1) {
        change_and_kill(&mut dice, 6);
    }
}

fn change_and_kill(dice: &mut Dice, kills: u64) {
    let spool = Spool::with(&["--latency", "lognormal:10:60"]);
    let mut sizes = [20, 60, 80];
    let mut daemon = spool.start();
    for kill in 0..kills {
        for (number, size) in sizes.iter_mut().enumerate() {
            *size += dice.below(6);
            spool.put(format!("g{number}.jsonl"), lines(&format!("g{number}"), *size));
        }
        std::thread::sleep(Duration::from_millis(dice.below(300) as u64));
        daemon.kill();
        let repeats = spool.sim.count("repeats");
        assert!(repeats <= kill * crate::spool::SLOTS, "{repeats} repeats after {kill} kills");
        daemon = spool.start();
    }
    // A last word that the kernel tells of.
    for (number, size) in sizes.iter().enumerate() {
        let name = format!("g{number}");
        spool.put(format!("{name}.jsonl"), lines(&name, *size));
        spool.wait_for_answers(&format!("{name}.out.jsonl"), &name, *size);
    }
    let repeats = spool.sim.count("repeats");
    assert!(repeats <= kills * crate::spool::SLOTS, "{repeats} repeats after {kills} kills");
    daemon.stop().expect(0);
}
