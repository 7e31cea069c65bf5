//! `.cancel` and `.retry`: by which the owner of a file steers what is done with it.

use std::os::unix::fs::chown;

use crate::common::prompt;
use crate::needs;
use crate::spool::{Spool, lines};

const NOBODY: u32 = 65534;

fn touch(spool: &Spool, name: &str) {
    std::fs::write(spool.path(name), "").unwrap();
}

/// Lines that fail once, among others.
fn failing_once(tag: &str, count: usize, failed: &[usize]) -> String {
    let text = |number: usize| match failed.contains(&number) {
        true => format!("sim:status=413*1 {tag} {number}"),
        false => format!("{tag} {number}"),
    };
    (1..=count).map(|number| prompt(&text(number))).collect()
}

#[test]
fn a_retry_asks_for_failed_lines_alone() {
    let spool = Spool::new();
    let daemon = spool.start();
    spool.put("small.jsonl", failing_once("small", 10, &[3, 7]));
    spool.put("large.jsonl", failing_once("large", 100, &[1, 50, 100]));
    spool.put("text.txt", "sim:status=413*1 a text");
    for name in ["small.jsonl", "large.jsonl", "text.txt"] {
        let status = spool.wait_state(name, "failed");
        assert!(status["way_out"].as_str().unwrap().contains(&format!("{name}.retry")), "{status}");
    }
    assert!(!spool.has("text.txt.out.md"), "a prompt that failed has no answer");
    assert_eq!(spool.sim.count("requests"), 111);
    let before = spool.identity("small.out.jsonl");
    daemon.stop().expect(0);
    // What was answered is known to the next daemon, too.
    let daemon = spool.start();
    spool.sim.control(&serde_json::json!({}));
    for name in ["small.jsonl", "large.jsonl", "text.txt"] {
        touch(&spool, &format!("{name}.retry"));
    }
    let wanted = |tag: &str, count: usize, failed: &[usize]| -> Vec<String> {
        let once = |number| if failed.contains(&number) { "sim:status=413*1 " } else { "" };
        (1..=count).map(|number| format!("Echo: {}{tag} {number}", once(number))).collect()
    };
    spool.wait_for_contents("small.out.jsonl", &wanted("small", 10, &[3, 7]));
    spool.wait_for_contents("large.out.jsonl", &wanted("large", 100, &[1, 50, 100]));
    assert_eq!(spool.wait_for("text.txt.out.md"), "Echo: sim:status=413*1 a text\n");
    assert_ne!(spool.identity("small.out.jsonl"), before);
    assert_eq!(spool.sim.count("requests"), 111 + 6, "{:?}", spool.prompts());
    assert_eq!(spool.sim.count("repeats"), 6);
    spool.wait("the end of controls and status files", || {
        let names = spool.names();
        (!names.iter().any(|name| name.ends_with(".retry") || name.ends_with(".status.json"))).then_some(())
    });
    daemon.stop().expect(0);
}

/// A `.retry` where nothing failed, and one whose lines fail again.
#[test]
fn a_retry_that_helps_nobody_costs_what_it_must() {
    let spool = Spool::new();
    let _daemon = spool.start();
    spool.put("good.jsonl", lines("good", 5));
    spool.put("bad.jsonl", prompt("sim:status=413 bad") + &lines("fine", 5));
    spool.wait_for_answers("good.out.jsonl", "good", 5);
    spool.wait_state("bad.jsonl", "failed");
    touch(&spool, "good.jsonl.retry");
    touch(&spool, "bad.jsonl.retry");
    spool.wait("one more request", || (spool.sim.count("requests") == 12).then_some(()));
    spool.wait("the end of both controls", || {
        (!spool.has("good.jsonl.retry") && !spool.has("bad.jsonl.retry")).then_some(())
    });
    spool.wait_until_idle();
    spool.wait_for_answers("good.out.jsonl", "good", 5);
    spool.wait_state("bad.jsonl", "failed");
    assert_eq!(spool.sim.count("requests"), 12, "{:?}", spool.prompts());
}

#[test]
fn a_cancel_ends_a_file_without_a_result() {
    let spool = Spool::slow(150);
    let daemon = spool.start();
    let files = [("small", 60), ("large", 90)];
    for (name, count) in files {
        spool.put(format!("{name}.jsonl"), lines(name, count));
        spool.wait("its first request", || spool.prompts().contains(&format!("{name} 1")).then_some(()));
    }
    for (name, _) in files {
        touch(&spool, &format!("{name}.jsonl.cancel"));
    }
    for (name, _) in files {
        spool.wait_state(&format!("{name}.jsonl"), "cancelled");
        spool.wait("the end of the control", || (!spool.has(format!("{name}.jsonl.cancel"))).then_some(()));
    }
    spool.wait_in_flight(0);
    let asked = spool.sim.count("requests");
    assert!(!spool.has("small.out.jsonl") && !spool.has("large.out.jsonl"));
    spool.pass("other");
    assert_eq!(spool.sim.count("requests"), asked + 1);
    let asked = spool.sim.count("requests");
    daemon.stop().expect(0);
    let daemon = spool.start();
    spool.pass("later");
    assert_eq!(spool.sim.count("requests"), asked + 1, "it stays cancelled");
    // Asked for once more, it goes on from what it has.
    for (name, _) in files {
        touch(&spool, &format!("{name}.jsonl.retry"));
    }
    for (name, count) in files {
        spool.wait_for_answers(&format!("{name}.out.jsonl"), name, count);
    }
    spool.nothing_asked_twice();
    daemon.stop().expect(0);
}

/// One that was not begun yet, one that is there before its control, one whose control was there first.
#[test]
fn a_cancel_finds_a_file_wherever_it_is() {
    let spool = Spool::slow(300);
    let daemon = spool.start_with(&["-j", "2", "--max-open-files", "1"]);
    spool.put("first.jsonl", lines("first", 8));
    spool.wait_in_flight(2);
    spool.put("queued.jsonl", lines("queued", 4));
    spool.put("queued-large.jsonl", lines("queued-large", 100));
    touch(&spool, "queued.jsonl.cancel");
    touch(&spool, "queued-large.jsonl.cancel");
    spool.wait_state("queued.jsonl", "cancelled");
    spool.wait_state("queued-large.jsonl", "cancelled");
    spool.wait_for_answers("first.out.jsonl", "first", 8);
    daemon.stop().expect(0);
    // Made while nobody looked: for a file that runs on, and for one that is not there yet.
    let daemon = spool.start_with(&["-j", "2"]);
    spool.put("running.jsonl", lines("running", 40));
    spool.wait_in_flight(2);
    daemon.kill();
    touch(&spool, "running.jsonl.cancel");
    touch(&spool, "late.jsonl.cancel");
    let asked = spool.sim.count("requests");
    let _daemon = spool.start_with(&["-j", "2"]);
    spool.put("late.jsonl", lines("late", 4));
    spool.wait_state("running.jsonl", "cancelled");
    spool.wait_state("late.jsonl", "cancelled");
    spool.pass("last");
    let more = spool.sim.count("requests") - asked - 1;
    assert!(more <= 4, "{more} requests for files that were given up: {:?}", spool.prompts());
    assert!(!spool.names().iter().any(|name| name.ends_with(".cancel")), "{:?}", spool.names());
}

#[test]
fn a_retry_during_the_run_is_heard_after_it() {
    let spool = Spool::slow(150);
    let _daemon = spool.start();
    let files = [("small", 10), ("large", 70)];
    let failing = |name: &str| format!("sim:status=413*1 {name} 2");
    for (name, count) in files {
        spool.put(format!("{name}.jsonl"), failing_once(name, count, &[2]));
        spool.wait("its first failure", || spool.prompts().contains(&failing(name)).then_some(()));
        touch(&spool, &format!("{name}.jsonl.retry"));
    }
    for (name, _) in files {
        spool.wait("the second try", || {
            spool.text(format!("{name}.out.jsonl"))?.contains(&format!("Echo: {}", failing(name))).then_some(())
        });
        spool.wait("the end of the control", || (!spool.has(format!("{name}.jsonl.retry"))).then_some(()));
    }
    assert_eq!((spool.sim.count("requests"), spool.sim.count("repeats")), (82, 2));
}

/// What a cancelled run found in its place stays ours: a later version of the file replaces it.
#[test]
fn a_cancelled_change_leaves_the_result_that_was_there() {
    let spool = Spool::slow(100);
    let _daemon = spool.start();
    for (name, count) in [("small", 5), ("large", 70)] {
        let (input, result) = (format!("{name}.jsonl"), format!("{name}.out.jsonl"));
        spool.put(&input, lines(name, count));
        spool.wait_for_answers(&result, name, count);
        let more = lines(name, count) + &lines(&format!("given-up {name}"), 40);
        spool.put(&input, more);
        spool.wait_in_flight(4);
        touch(&spool, &format!("{input}.cancel"));
        spool.wait_state(&input, "cancelled");
        spool.wait_for_answers(&result, name, count);
        spool.put(&input, lines(name, count + 1));
        spool.wait_for_answers(&result, name, count + 1);
    }
    spool.nothing_asked_twice();
}

#[test]
fn a_control_of_somebody_else_is_ignored() {
    if !needs::has_root() {
        return;
    }
    let spool = Spool::slow(100);
    let _daemon = spool.start();
    spool.put("p.jsonl", failing_once("p", 30, &[2]));
    spool.wait_in_flight(4);
    for name in ["p.jsonl.cancel", "p.jsonl.retry"] {
        std::fs::write(spool.path(".temp"), "").unwrap();
        chown(spool.path(".temp"), Some(NOBODY), None).unwrap();
        std::fs::rename(spool.path(".temp"), spool.path(name)).unwrap();
    }
    // A link to a file of the owner is nobody's word.
    spool.put("q.jsonl", lines("q", 20));
    std::os::unix::fs::symlink("p.jsonl", spool.path("q.jsonl.cancel")).unwrap();
    spool.wait_state("p.jsonl", "failed");
    spool.wait_for_answers("q.out.jsonl", "q", 20);
    spool.pass("last");
    assert_eq!(spool.sim.count("requests"), 51, "{:?}", spool.prompts());
    assert!(spool.has("p.jsonl.cancel") && spool.has("p.jsonl.retry"), "they are not ours to remove");
}
