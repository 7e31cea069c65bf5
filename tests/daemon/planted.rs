//! Results, links and folders that others have put in the way.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::prompt;
use crate::spool::{Daemon, Spool, lines};

#[test]
fn a_planted_result_blocks_until_it_is_moved_away_and_nothing_is_asked_twice() {
    let spool = Spool::slow(80);
    let daemon = spool.start();
    let files = [("small", 20), ("large", 80)]
        .map(|(name, count)| (name, count, format!("{name}.jsonl"), format!("{name}.out.jsonl")));
    // Before the run.
    for (name, count, input, result) in &files {
        spool.put(result, "not ours\n");
        spool.put(input, lines(name, *count));
    }
    for (.., input, result) in &files {
        let status = spool.wait_state(input, "blocked");
        assert!(status["message"].as_str().unwrap().contains(result), "{status}");
        assert!(status["way_out"].as_str().unwrap().contains("move it away"), "{status}");
        assert_eq!(spool.wait_for(result), "not ours\n");
        std::fs::remove_file(spool.path(result)).unwrap();
    }
    // And again during the run.
    for (name, _, _, result) in &files {
        spool.wait("its first request", || spool.prompts().contains(&format!("{name} 1")).then_some(()));
        spool.put(result, "not ours either\n");
    }
    for (.., input, _) in &files {
        spool.wait_state(input, "blocked");
    }
    spool.wait_new_status("two blocked", |status| (status["files"]["blocked"] == 2).then_some(()));
    for (name, count, input, result) in &files {
        assert_eq!(spool.wait_for(result), "not ours either\n");
        std::fs::rename(spool.path(result), spool.aside(result)).unwrap();
        spool.wait_for_answers(result, name, *count);
        spool.wait("the end of the status file", || (!spool.has(format!("{input}.status.json"))).then_some(()));
    }
    spool.nothing_asked_twice();
    daemon.stop().expect(0);
}

/// What was blocked with all its answers, and what was blocked before, is so for the next daemon; neither pays twice.
#[test]
fn what_is_blocked_stays_so_over_a_restart() {
    let spool = Spool::slow(50);
    let daemon = spool.start();
    for (name, count) in [("small", 20), ("large", 80)] {
        spool.put(format!("{name}.jsonl"), lines(name, count));
        spool.wait("its first request", || spool.prompts().contains(&format!("{name} 1")).then_some(()));
        spool.put(format!("{name}.out.jsonl"), "not ours\n");
        spool.wait_state(&format!("{name}.jsonl"), "blocked");
    }
    daemon.kill();
    let _daemon = spool.start();
    spool.wait_new_status("two blocked", |status| (status["files"]["blocked"] == 2).then_some(()));
    for (name, count) in [("small", 20), ("large", 80)] {
        assert_eq!(spool.wait_for(format!("{name}.out.jsonl")), "not ours\n");
        std::fs::remove_file(spool.path(format!("{name}.out.jsonl"))).unwrap();
        spool.wait_for_answers(&format!("{name}.out.jsonl"), name, count);
    }
    spool.nothing_asked_twice();
}

/// Other things than files in the place of a result, of a draft, of a status file.
#[test]
fn links_and_folders_in_the_places_of_companions_harm_nobody() {
    let spool = Spool::new();
    let _daemon = spool.start();
    std::fs::write(spool.aside("precious"), "precious").unwrap();
    let precious = || assert_eq!(std::fs::read_to_string(spool.aside("precious")).unwrap(), "precious");
    symlink(spool.aside("precious"), spool.path("a.out.jsonl")).unwrap();
    symlink(spool.aside("created"), spool.path("b.out.jsonl")).unwrap();
    std::fs::create_dir(spool.path("c.out.jsonl")).unwrap();
    std::fs::create_dir(spool.path(".d.out.jsonl.anvil-draft")).unwrap();
    symlink(spool.aside("precious"), spool.path("e.jsonl.status.json")).unwrap();
    symlink(spool.aside("precious"), spool.path("f.jsonl.reject.json")).unwrap();
    for name in ["a", "b", "c", "d"] {
        spool.put(format!("{name}.jsonl"), lines(name, 2));
    }
    spool.put("e.jsonl", prompt("sim:status=413 bad"));
    std::fs::create_dir(spool.path("f.jsonl")).unwrap();
    for name in ["a.jsonl", "b.jsonl", "c.jsonl"] {
        spool.wait_state(name, "blocked");
    }
    spool.wait_state("e.jsonl", "failed");
    spool.wait_companion("f.jsonl", "reject");
    precious();
    assert!(!spool.aside("created").exists(), "written through a link");
    // One file's trouble is its own.
    for number in 0..5 {
        spool.pass(&format!("other{number}"));
    }
    std::fs::remove_dir(spool.path(".d.out.jsonl.anvil-draft")).unwrap();
    for name in ["a.out.jsonl", "b.out.jsonl"] {
        std::fs::remove_file(spool.path(name)).unwrap();
    }
    std::fs::remove_dir(spool.path("c.out.jsonl")).unwrap();
    for name in ["a", "b", "c", "d"] {
        spool.wait_for_answers(&format!("{name}.out.jsonl"), name, 2);
    }
    precious();
    spool.nothing_asked_twice();
}

/// A name that is now a file, now a link to a secret, as fast as that goes.
#[test]
fn a_name_that_is_swapped_for_a_link_gives_nothing_away() {
    let spool = Spool::new();
    let _daemon = spool.start();
    std::fs::write(spool.aside("secret"), lines("secret", 1)).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                spool.put("p.jsonl", lines("p", 1));
                symlink(spool.aside("secret"), spool.path(".link")).unwrap();
                std::fs::rename(spool.path(".link"), spool.path("p.jsonl")).unwrap();
            }
        });
        for number in 0..15 {
            spool.put(format!("other{number}.jsonl"), lines(&format!("other{number}"), 1));
            spool.wait_for(format!("other{number}.out.jsonl"));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    spool.put("p.jsonl", lines("p", 2));
    spool.wait_for_answers("p.out.jsonl", "p", 2);
    let prompts = spool.prompts();
    assert!(!prompts.iter().any(|text| text.contains("secret")), "{prompts:?}");
}

/// A folder that its owner swaps, for a link to another's or for a pipe, while what lies in it waits for its turn.
#[test]
fn a_folder_that_is_swapped_gives_nothing_away_and_holds_nobody_up() {
    let spool = Spool::slow(100);
    for folder in ["linked", "piped", "removed"] {
        std::fs::create_dir(spool.path(folder)).unwrap();
    }
    std::fs::create_dir(spool.aside("victim")).unwrap();
    std::fs::write(spool.aside("victim/p.jsonl"), lines("secret", 2)).unwrap();
    let mut daemon = Daemon::start(spool.daemon().args(["--recursive", "--max-open-files", "1", "-j", "2"]));
    daemon.wait_until_watching(4);
    spool.put("first.jsonl", lines("first", 80));
    spool.wait_in_flight(2);
    for folder in ["linked", "piped", "removed"] {
        spool.put(format!("{folder}/p.jsonl"), lines(folder, 2));
    }
    spool.wait_new_status("three queued", |status| (status["files"]["queued"] == 3).then_some(()));
    for folder in ["linked", "piped", "removed"] {
        std::fs::rename(spool.path(folder), spool.aside(format!("{folder}.gone"))).unwrap();
    }
    symlink(spool.aside("victim"), spool.path("linked")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(spool.path("piped")).status().unwrap().success());
    spool.wait_for_answers("first.out.jsonl", "first", 80);
    spool.pass("last");
    let prompts = spool.prompts();
    assert!(!prompts.iter().any(|text| text.contains("secret")), "{prompts:?}");
    assert_eq!(std::fs::read_dir(spool.aside("victim")).unwrap().count(), 1, "something was written there");
}
