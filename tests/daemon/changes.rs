//! Files that change, grow, go away and come back: only the difference is asked.

use std::time::Duration;

use crate::common::{Signal, prompt};
use crate::spool::{Spool, answers, lines};
use crate::tools::append;

#[test]
fn changed_contents_ask_for_the_difference_and_replace_our_result() {
    let spool = Spool::new();
    let daemon = spool.start();
    for (name, count) in [("small", 10), ("large", 100)] {
        spool.put(format!("{name}.jsonl"), lines(name, count));
        spool.wait_for_answers(&format!("{name}.out.jsonl"), name, count);
    }
    daemon.stop().expect(0);
    let daemon = spool.start();
    spool.sim.reset();
    let mut asked = Vec::new();
    for (name, count) in [("small", 10), ("large", 100)] {
        // One line in front, one in the middle gone, two in another order, one twice.
        let mut texts: Vec<String> = (1..=count).map(|number| format!("{name} {number}")).collect();
        texts.remove(4);
        texts.swap(1, 2);
        texts.insert(0, format!("{name} new"));
        texts.push(format!("{name} 1"));
        spool.put(format!("{name}.jsonl"), texts.iter().map(|text| prompt(text)).collect::<String>());
        let wanted: Vec<String> = texts.iter().map(|text| format!("Echo: {text}")).collect();
        spool.wait_for_contents(&format!("{name}.out.jsonl"), &wanted);
        asked.extend([format!("{name} new"), format!("{name} 1")]);
    }
    let mut sent = spool.prompts();
    sent.sort();
    asked.sort();
    assert_eq!(sent, asked, "a line that stands there twice wants two answers");
    daemon.stop().expect(0);
}

#[test]
fn a_result_that_somebody_has_changed_is_not_replaced() {
    let spool = Spool::new();
    let _daemon = spool.start();
    for (name, count) in [("small", 3), ("large", 70)] {
        spool.put(format!("{name}.jsonl"), lines(name, count));
        let result = format!("{name}.out.jsonl");
        spool.wait_for_answers(&result, name, count);
        append(&spool.path(&result), "my own note\n");
        append(&spool.path(format!("{name}.jsonl")), prompt(&format!("{name} new")));
        let status = spool.wait_state(&format!("{name}.jsonl"), "blocked");
        assert!(status["way_out"].as_str().unwrap().contains("move it away"), "{status}");
        assert!(spool.wait_for(&result).ends_with("my own note\n"));
        std::fs::rename(spool.path(&result), spool.aside("mine")).unwrap();
        let mut wanted = answers(name, count);
        wanted.push(format!("Echo: {name} new"));
        spool.wait_for_contents(&result, &wanted);
    }
    spool.nothing_asked_twice();
}

/// From small to large between two runs, further, and back.
#[test]
fn a_file_that_grows_and_shrinks_between_runs_pays_for_no_line_twice() {
    let spool = Spool::new();
    for count in [40, 64, 65, 150, 30, 70] {
        let daemon = spool.start();
        spool.put("p.jsonl", lines("p", count));
        spool.wait_for_answers("p.out.jsonl", "p", count);
        daemon.stop().expect(0);
    }
    spool.nothing_asked_twice();
    assert_eq!(spool.sim.count("requests"), 150);
}

/// The same while it runs, by a rename over it and by a write into it.
#[test]
fn a_file_that_grows_and_shrinks_while_it_runs_pays_for_no_line_twice() {
    let spool = Spool::slow(150);
    let _daemon = spool.start_with(&["-j", "16"]);
    let files = [("grows", 50, 70), ("shrinks", 70, 50), ("large", 80, 75), ("small", 30, 40)];
    for (name, before, _) in files {
        spool.put(format!("{name}.jsonl"), lines(name, before));
    }
    spool.wait("some answers of each", || (spool.sim.count("ok") > 50).then_some(()));
    for (name, before, after) in files {
        match before < after {
            true => spool.put(format!("{name}.jsonl"), lines(name, after)),
            false => std::fs::write(spool.path(format!("{name}.jsonl")), lines(name, after)).unwrap(),
        }
    }
    for (name, _, after) in files {
        spool.wait_for_answers(&format!("{name}.out.jsonl"), name, after);
    }
    spool.nothing_asked_twice();
}

/// Versions that follow one another faster than anybody could run them: the last one has its result.
#[test]
fn of_many_versions_the_last_one_counts() {
    let spool = Spool::slow(20);
    let _daemon = spool.start();
    for version in 1..=40 {
        spool.put("p.jsonl", lines("p", 3) + &prompt(&format!("version {version}")));
        spool.put("big.jsonl", lines("big", 70) + &prompt(&format!("big version {version}")));
        std::thread::sleep(Duration::from_millis(u64::from(version % 7 == 0) * 100 + 5));
    }
    for (name, count, last) in [("p", 3, "version 40"), ("big", 70, "big version 40")] {
        let mut wanted = answers(name, count);
        wanted.push(format!("Echo: {last}"));
        spool.wait_for_contents(&format!("{name}.out.jsonl"), &wanted);
    }
    spool.nothing_asked_twice();
}

pub fn a_file_that_is_deleted_during_its_run_is_asked_no_more_and_goes_on_when_it_is_back() {
    let spool = Spool::slow(250);
    let daemon = spool.start_with(&["-j", "8"]);
    let files = [("small", 60), ("large", 70)];
    for (name, count) in files {
        spool.put(format!("{name}.jsonl"), lines(name, count));
    }
    spool.wait("some of their answers", || (spool.sim.count("requests") > 20).then_some(()));
    for (name, _) in files {
        std::fs::remove_file(spool.path(format!("{name}.jsonl"))).unwrap();
    }
    spool.wait_until_idle();
    let asked = spool.sim.count("requests");
    assert_eq!(spool.names(), Vec::<String>::new());
    spool.pass("other");
    assert_eq!(spool.sim.count("requests"), asked + 1, "{:?}", spool.prompts());
    for (name, count) in files {
        spool.put(format!("{name}.jsonl"), lines(name, count));
    }
    for (name, count) in files {
        spool.wait_for_answers(&format!("{name}.out.jsonl"), name, count);
    }
    spool.nothing_asked_twice();
    daemon.stop().expect(0);
}

/// Slots that a file held when it went are free again: as many requests as before are in flight.
pub fn files_that_go_leave_their_slots_to_others() {
    let spool = Spool::slow(150);
    let _daemon = spool.start();
    for round in 0..4 {
        let files = [("small", 50), ("large", 70)].map(|(name, count)| (format!("{name}{round}.jsonl"), count));
        for (input, count) in &files {
            spool.put(input, lines(input, *count));
        }
        spool.wait("requests of both", || {
            let prompts = spool.prompts();
            files.iter().all(|(input, _)| prompts.contains(&format!("{input} 1"))).then_some(())
        });
        for (input, _) in &files {
            match round % 2 {
                0 => std::fs::write(spool.path(format!("{input}.cancel")), "").unwrap(),
                _ => std::fs::remove_file(spool.path(input)).unwrap(),
            }
        }
        spool.wait_until_idle();
    }
    spool.put("last.jsonl", lines("last", 12));
    spool.wait_in_flight(4);
    spool.wait_for_answers("last.out.jsonl", "last", 12);
}

#[test]
fn a_daemon_that_was_stopped_for_a_while_has_missed_nothing() {
    let spool = Spool::slow(30);
    let daemon = spool.start();
    spool.put("p.jsonl", lines("p", 20));
    spool.wait_in_flight(4);
    daemon.signal(Signal::STOP);
    spool.put("p.jsonl", lines("p", 30));
    spool.put("q.jsonl", lines("q", 3));
    std::fs::write(spool.path("r.jsonl"), lines("r", 3)).unwrap();
    daemon.signal(Signal::CONT);
    for (name, count) in [("p", 30), ("q", 3), ("r", 3)] {
        spool.wait_for_answers(&format!("{name}.out.jsonl"), name, count);
    }
    spool.nothing_asked_twice();
}
