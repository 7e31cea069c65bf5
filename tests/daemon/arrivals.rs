//! Files that come slowly, in pieces, by every tool: one result, of the whole file, and no line is asked twice.

use std::path::Path;
use std::time::Duration;

use crate::common::prompt;
use crate::needs::say;
use crate::spool::{SETTLE, Spool, answers, lines};
use crate::tools::{append, append_slowly, is_there, run, shell, write_slowly};

/// Longer than files must stay unchanged.
const PAUSE: Duration = Duration::from_millis(700);

/// Every prompt of these files was asked, once.
#[track_caller]
fn all_asked_once(spool: &Spool, counts: &[usize]) {
    spool.nothing_asked_twice();
    assert_eq!(spool.sim.count("requests"), counts.iter().sum::<usize>() as u64, "{:?}", spool.prompts());
}

#[test]
fn who_writes_slowly_and_keeps_the_file_open_is_waited_for() {
    assert!(PAUSE > 2 * SETTLE);
    let spool = Spool::new();
    let daemon = spool.start();
    std::thread::scope(|scope| {
        for (name, count) in [("small", 6), ("large", 90)] {
            let path = spool.path(format!("{name}.jsonl"));
            scope.spawn(move || write_slowly(&path, &lines(name, count), 4, PAUSE));
        }
    });
    spool.wait_for_answers("small.out.jsonl", "small", 6);
    spool.wait_for_answers("large.out.jsonl", "large", 90);
    all_asked_once(&spool, &[6, 90]);
    let log = daemon.stop().expect(0).stderr;
    assert_eq!(log.matches("INFO done").count(), 2, "one result each: {log}");
}

/// Whoever closes the file in between cannot be told from one who is done: what was asked early is not asked again, and a
/// line of which only a part was there is an error line in no final result.
#[test]
fn who_appends_and_closes_each_time_gets_a_result_of_the_whole() {
    let spool = Spool::new();
    let _daemon = spool.start();
    std::thread::scope(|scope| {
        for (name, count) in [("small", 8), ("growing", 100), ("large", 600)] {
            let path = spool.path(format!("{name}.jsonl"));
            scope.spawn(move || append_slowly(&path, &lines(name, count), 3, PAUSE));
        }
    });
    for (name, count) in [("small", 8), ("growing", 100), ("large", 600)] {
        spool.wait_for_answers(&format!("{name}.out.jsonl"), name, count);
    }
    all_asked_once(&spool, &[8, 100, 600]);
    spool.wait("the end of all status files", || {
        (!spool.names().iter().any(|name| name.ends_with(".status.json"))).then_some(())
    });
}

/// The same against a service so slow that the file grows while its first lines are asked.
#[test]
fn what_is_appended_during_the_run_is_asked_beside_the_rest() {
    let spool = Spool::slow(200);
    let _daemon = spool.start_with(&["-j", "16"]);
    for (name, before, after) in [("small", 20, 40), ("growing", 50, 80), ("large", 80, 90)] {
        let text = lines(name, after);
        let at = lines(name, before).len();
        spool.put(format!("{name}.jsonl"), &text[..at]);
        spool.wait("its first request", || spool.prompts().contains(&format!("{name} 1")).then_some(()));
        append(&spool.path(format!("{name}.jsonl")), &text[at..]);
    }
    for (name, count) in [("small", 40), ("growing", 80), ("large", 90)] {
        spool.wait_for_answers(&format!("{name}.out.jsonl"), name, count);
    }
    all_asked_once(&spool, &[40, 80, 90]);
}

/// A way for a file to come: a name for it, and a line of shell in which `$1` is the file and `$2` its place.
const WAYS: [(&str, &str); 12] = [
    ("cp", r#"cp "$1" "$2""#),
    ("cp-p", r#"cp -p "$1" "$2""#),
    ("mv", r#"cp "$1" "$1.copy"; mv "$1.copy" "$2""#),
    ("ln", r#"cp "$1" "$1.copy"; ln "$1.copy" "$2"; rm "$1.copy""#),
    ("cat", r#"cat "$1" > "$2""#),
    ("dd", r#"dd if="$1" of="$2" bs=100 2>/dev/null"#),
    ("tee", r#"tee "$2" < "$1" >/dev/null"#),
    ("touched", r#": > "$2"; cat "$1" >> "$2""#),
    // Secure copies: a temp name, then the name.
    ("filepart", r#"cat "$1" > "$2.filepart"; mv "$2.filepart" "$2""#),
    ("hidden", r#"d=$(dirname "$2"); cat "$1" > "$d/.$$.tmp"; mv "$d/.$$.tmp" "$2""#),
    ("install", r#"install -m 600 "$1" "$2""#),
    ("chmod", r#"cp "$1" "$2"; chmod 640 "$2"; touch -d yesterday "$2""#),
];

pub fn every_tool_brings_its_file_once_and_whole() {
    let spool = Spool::new();
    let daemon = spool.start();
    let mut ways: Vec<(&str, &str)> = WAYS.to_vec();
    match is_there("rsync") {
        true => ways.extend([("rsync", r#"rsync -t "$1" "$2""#), ("rsync-i", r#"rsync --inplace "$1" "$2""#)]),
        false => say("SKIPPED rsync: it is not installed"),
    }
    let count = |way: &str| if way.len().is_multiple_of(2) { 70 } else { 3 };
    for (way, script) in &ways {
        let source = spool.aside(format!("{way}.source"));
        std::fs::write(&source, lines(way, count(way))).unwrap();
        shell(script, &source, &spool.path(format!("{way}.jsonl")));
    }
    for (way, _) in &ways {
        spool.wait_for_answers(&format!("{way}.out.jsonl"), way, count(way));
    }
    all_asked_once(&spool, &ways.iter().map(|(way, _)| count(way)).collect::<Vec<_>>());
    let log = daemon.stop().expect(0).stderr;
    assert_eq!(log.matches("INFO done").count(), ways.len(), "one result each: {log}");
}

/// Editors: what is saved a second time asks only for what is new, however it is saved.
#[test]
fn an_editor_that_saves_asks_for_what_is_new_alone() {
    // What stands in `$1` is saved to `$2`.
    let habits = [
        ("over", r#"cat "$1" > "$2""#),
        ("renamed", r#"cat "$1" > "$2.tmp"; mv "$2.tmp" "$2""#),
        ("vim", r#"[ ! -e "$2" ] || mv "$2" "$2~"; cat "$1" > "$2"; sync "$2"; rm -f "$2~""#),
        ("emacs", r#"[ ! -e "$2" ] || ln "$2" "$2~"; cat "$1" > "$2.tmp"; mv "$2.tmp" "$2"; rm -f "$2~""#),
    ];
    let spool = Spool::new();
    let _daemon = spool.start();
    for (round, tail) in [("", 0), ("x", 1), ("xx", 2)] {
        for (habit, script) in habits {
            for (name, count) in [(habit.to_owned(), 5), (format!("{habit}-large"), 75)] {
                let changed: String = (0..tail).map(|number| prompt(&format!("{name} {round} {number}"))).collect();
                let (source, place) = (spool.aside("source"), spool.path(format!("{name}.jsonl")));
                std::fs::write(&source, lines(&name, count) + &changed).unwrap();
                shell(script, &source, &place);
            }
        }
        for (habit, _) in habits {
            for (name, count) in [(habit.to_owned(), 5), (format!("{habit}-large"), 75)] {
                let mut wanted = answers(&name, count);
                wanted.extend((0..tail).map(|number| format!("Echo: {name} {round} {number}")));
                spool.wait_for_contents(&format!("{name}.out.jsonl"), &wanted);
            }
        }
    }
    all_asked_once(&spool, &[4 * (5 + 75), 8, 16]);
}

/// A file that has a name before it has contents, by tools that give it its contents much later.
#[test]
fn an_empty_file_that_is_filled_later_has_the_result_of_what_it_holds_in_the_end() {
    let spool = Spool::new();
    let _daemon = spool.start();
    std::fs::write(spool.path("p.jsonl"), "").unwrap();
    run("touch", &[&spool.path("q.jsonl"), Path::new("/dev/null")]);
    assert_eq!((spool.wait_for("p.out.jsonl"), spool.wait_for("q.out.jsonl")), (String::new(), String::new()));
    std::fs::write(spool.path("p.jsonl"), lines("p", 3)).unwrap();
    append(&spool.path("q.jsonl"), lines("q", 100));
    spool.wait_for_answers("p.out.jsonl", "p", 3);
    spool.wait_for_answers("q.out.jsonl", "q", 100);
    all_asked_once(&spool, &[3, 100]);
}
