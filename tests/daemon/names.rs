//! Names that are odd: their files are run or refused, and neither a log nor a terminal is harmed by them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use serde_json::Value;

use crate::spool::{Spool, lines};

fn name(bytes: &[u8]) -> OsString {
    OsStr::from_bytes(bytes).to_owned()
}

/// What a terminal would act on, the ends of lines left out.
fn controls(text: &str) -> Vec<char> {
    let bidi = |letter: &char| ('\u{202a}'..='\u{202e}').contains(letter) || ('\u{2066}'..='\u{2069}').contains(letter);
    text.chars().filter(|letter| *letter != '\n' && (letter.is_control() || bidi(letter))).collect()
}

#[test]
fn odd_names_are_run_and_leave_the_log_clean() {
    let spool = Spool::new();
    let daemon = spool.start();
    let stems: [&[u8]; 6] =
        [b"a\nb", b"\x1b[31mred\x1b]0;title\x07", b"\xff\xfe", b" ", "\u{202e}lnosj\u{9b}31m".as_bytes(), b"--help"];
    for (number, stem) in stems.iter().enumerate() {
        spool.put(name(&[stem, &b".jsonl"[..]].concat()), lines(&format!("n{number}"), 2));
    }
    // A failure and a refusal, for what is told of them.
    spool.put(name(b"\x1b[2Jbad.jsonl"), "{\n");
    std::fs::create_dir(spool.path(name(b"\x1b[2Jfolder\n.jsonl"))).unwrap();
    for (number, stem) in stems.iter().enumerate() {
        let result = spool.wait_for(name(&[stem, &b".out.jsonl"[..]].concat()));
        assert!(result.contains(&format!("Echo: n{number} 2")), "{result}");
    }
    spool.wait_for(name(b"\x1b[2Jbad.jsonl.status.json"));
    spool.wait_for(name(b"\x1b[2Jfolder\n.jsonl.reject.json"));
    spool.wait_status("one rejected and one failed", |status| {
        let files = &status["files"];
        (files["rejected"] == 1 && files["failed"] == 1).then_some(())
    });
    let told = spool.told(&[]).expect(0).text();
    assert!(told.contains("bad.jsonl") && controls(&told).is_empty(), "{:?} in {told:?}", controls(&told));
    let json = spool.told(&["--json"]).expect(0).text();
    assert!(serde_json::from_str::<Value>(&json).is_ok() && controls(&json).is_empty(), "{json:?}");
    let output = daemon.stop().expect(0);
    assert!(output.stderr.contains("rejected"), "{output}");
    assert!(controls(&output.stderr).is_empty(), "{:?}", output.stderr);
}

#[test]
fn a_name_that_leaves_no_room_for_its_result_is_refused() {
    let spool = Spool::new();
    let daemon = spool.start();
    let long = |bytes: usize| "n".repeat(bytes - ".jsonl".len()) + ".jsonl";
    // `.status.json` is the longest companion.
    spool.put(long(255), lines("too long", 1));
    spool.put(long(244), lines("too long as well", 1));
    spool.put(long(243), lines("just right", 1));
    let fits = "n".repeat(237) + ".out.jsonl";
    spool.wait_for_answers(&fits, "just right", 1);
    let rejects = spool.wait("two reject files", || {
        let names = spool.names();
        let rejects: Vec<String> = names.into_iter().filter(|name| name.ends_with(".reject.json")).collect();
        (rejects.len() == 2).then_some(rejects)
    });
    for name in rejects {
        let reject: Value = serde_json::from_str(&spool.text(name).unwrap()).unwrap();
        assert_eq!(reject["code"], "name_too_long", "{reject}");
        assert!(reject["way_out"].as_str().unwrap().contains("shorter"), "{reject}");
    }
    assert_eq!(spool.sim.count("requests"), 1);
    // The way out.
    std::fs::rename(spool.path(long(255)), spool.path("short.jsonl")).unwrap();
    spool.wait_for_answers("short.out.jsonl", "too long", 1);
    daemon.stop().expect(0);
}

/// What others write on their way to a name, and what we write ourselves, is nobody's prompts.
#[test]
fn names_of_other_things_are_left_alone() {
    let spool = Spool::new();
    let _daemon = spool.start();
    let others = [
        ".p.jsonl",
        "p.jsonl~",
        "p.jsonl.tmp",
        "p.jsonl.part",
        "p.jsonl.swp",
        "p.jsonl.filepart",
        ".p.jsonl.swp",
        ".nfs0001.jsonl",
        "p.out.jsonl",
        "p.txt.out.md",
        "p.jsonl.status.json",
        "p.jsonl.reject.json",
        "p.csv",
        "p.JSONL",
    ];
    for name in others {
        std::fs::write(spool.aside("temp"), lines(name, 1)).unwrap();
        std::fs::rename(spool.aside("temp"), spool.path(name)).unwrap();
    }
    spool.pass("q");
    spool.pass("r");
    assert_eq!(spool.prompts(), ["q 1", "r 1"]);
    assert_eq!(spool.names().len(), others.len() + 4, "{:?}", spool.names());
}
