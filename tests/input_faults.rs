//! Bad input stops at its own line: whatever comes in, every line that is not blank gets its record, and the run goes
//! on in bounded memory.

#![allow(clippy::unwrap_used)]

mod common;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use common::{Run, Sim};

const MEBIBYTE: u64 = 1 << 20;

/// Input, and the line numbers and codes that must come out.
fn check(sim: &Sim, args: &[&str], input: impl Into<Vec<u8>>, expected: &[(u64, &str)]) {
    let output = Run::on(sim).args(["--format", "completion"]).args(args).input(input).output();
    let found: Vec<(u64, String)> =
        output.lines().iter().map(|line| (line["line"].as_u64().unwrap(), common::code_of(line))).collect();
    let expected: Vec<(u64, String)> = expected.iter().map(|(line, code)| (*line, (*code).to_owned())).collect();
    assert_eq!(found, expected, "{output}");
    assert_eq!(output.status, i32::from(expected.iter().any(|(_, code)| !code.is_empty())), "{output}");
}

#[test]
fn bom_crlf_blank_lines_and_a_missing_end_are_understood() {
    let sim = Sim::start(&[]);
    check(&sim, &[], "\u{feff}\"a\"\r\n\r\n \t \n\"b\"\n\n\"c\"", &[(1, ""), (4, ""), (6, "")]);
    let output = Run::on(&sim).args(["--input", "text", "--format", "text"]).input("\u{feff}a\r\nb").output().expect(0);
    assert_eq!(output.text(), "Echo: a\nEcho: b\n");
}

#[test]
fn bytes_that_are_no_text_fail_alone() {
    let sim = Sim::start(&[]);
    let input = b"\"a\"\n\"\xff\"\n{\"prompt\":\"\xc3\x28\"}\n\0\0\n\"\0\"\n\xed\xa0\x80\n\"b\"\n";
    let codes = [(1, ""), (2, "not_utf8"), (3, "not_utf8"), (4, "not_json"), (5, "not_json"), (6, "not_utf8"), (7, "")];
    check(&sim, &[], input, &codes);
    let sent_as_text = [(1, ""), (2, "not_utf8"), (3, "")];
    check(&sim, &["--input", "text"], b"a\nb\xff\nc\0d\n", &sent_as_text);
}

#[test]
fn what_is_json_but_no_request_fails_alone() {
    let sim = Sim::start(&[]);
    let input = "42\n[1,2]\ntrue\nnull\n{}\n{\"prompt\":null}\n{\"messages\":{}}\n{\"prompt\":\"a\"} x\n{\"prompt\":\n\
                 {\"body\":[]}\n{\"prompt\":\"a\",\"model\":7}\n\"ok\"\n";
    let codes = [
        (1, "unknown_form"),
        (2, "unknown_form"),
        (3, "unknown_form"),
        (4, "unknown_form"),
        (5, "unknown_form"),
        (6, "bad_field"),
        (7, "bad_field"),
        (8, "not_json"),
        (9, "not_json"),
        (10, "bad_field"),
        (11, "bad_field"),
        (12, ""),
    ];
    check(&sim, &[], input, &codes);
    assert_eq!(sim.count("requests"), 1);
}

#[test]
fn a_key_that_is_read_must_not_occur_twice_and_any_other_may() {
    let sim = Sim::start(&["--regime", "openai"]);
    let input = "{\"prompt\":\"a\",\"prompt\":\"b\"}\n{\"prompt\":\"a\",\"mine\":1,\"mine\":2}\n\
                 {\"messages\":[{\"role\":\"user\",\"content\":\"c\"}],\"foo\":1,\"foo\":2}\n\
                 {\"id\":1,\"id\":2,\"prompt\":\"d\"}\n{\"pr\\u006fmpt\":\"a\",\"prompt\":\"b\"}\n";
    let codes = [(1, "duplicate_key"), (2, ""), (3, ""), (4, "duplicate_key"), (5, "duplicate_key")];
    check(&sim, &["-j", "1"], input, &codes);
    assert!(sim.requests_text().contains(r#""foo":1,"foo":2"#));
}

#[test]
fn a_batch_line_never_names_a_host_or_another_api() {
    let sim = Sim::start(&[]);
    let body = r#""body":{"messages":[{"role":"user","content":"a"}]}"#;
    let urls = [
        "/v1/chat/completions",
        "/chat/completions",
        "http://evil.example/v1/chat/completions",
        "//evil.example/chat/completions",
        "/v1/embeddings",
        "/v1/../chat/completions",
        "/v1/chat/completions?x=1",
    ];
    let input: String = urls.iter().map(|url| format!("{{\"url\":\"{url}\",{body}}}\n")).collect();
    let input = format!("{input}{{\"method\":\"DELETE\",\"url\":\"/v1/chat/completions\",{body}}}\n");
    let output = Run::on(&sim).args(["--format", "completion"]).input(input).output().expect(1);
    let codes = output.codes();
    assert_eq!(codes[..2], ["", ""]);
    assert!(codes[2..].iter().all(|code| code == "unsupported_url") && codes.len() == 8, "{codes:?}");
}

#[test]
fn a_first_line_of_plain_text_says_what_to_use() {
    let sim = Sim::start(&[]);
    let found = Run::on(&sim).input("Why is the sky blue?\nAnd the sea?\n").output().expect(1).lines();
    let message = |index: usize| found[index]["error"]["message"].as_str().unwrap().to_owned();
    assert!(message(0).contains("--input text"), "{}", message(0));
    assert!(!message(1).contains("--input text"), "{}", message(1));
}

#[test]
fn a_line_that_is_too_long_is_skipped_to_its_end() {
    let sim = Sim::start(&[]);
    let line = |length: usize| format!("\"{}\"\n", "x".repeat(length - 2));
    let input = [line(100), line(101), line(5000), line(300_000), line(99)].concat();
    let long = "line_too_long";
    check(&sim, &["--max-line-bytes", "100"], input, &[(1, ""), (2, long), (3, long), (4, long), (5, "")]);
    let output = Run::on(&sim).args(["--max-line-bytes", "100"]).input(line(5000)).output().expect(1);
    let message = output.only_line()["error"]["message"].to_string();
    assert!(message.contains("--max-line-bytes") && message.contains("5000"), "{message}");
}

/// Promise 7: bounded memory whatever comes in. The input stays open, so that the peak is read after the work.
#[test]
fn a_line_of_64_mebibytes_costs_no_memory() {
    let sim = Sim::start(&[]);
    let mut input = vec![b'x'; 64 << 20];
    input.extend_from_slice(b"\n\"after\"\n");
    let mut live = Run::on(&sim).start();
    live.feed_in_background(input);
    live.wait_for_lines(2);
    let peak = live.memory_peak();
    live.close_input();
    let output = live.finish().expect(1);
    assert_eq!(output.codes(), ["line_too_long", ""]);
    assert!(peak < 64 * MEBIBYTE, "{} MiB", peak / MEBIBYTE);
}

#[test]
fn depth_is_no_danger() {
    let sim = Sim::start(&["--regime", "openai"]);
    let nested = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let open = "[".repeat(1_000_000);
    let input = format!(
        "{nested}\n{open}\n{{\"prompt\":{nested}}}\n{{\"prompt\":\"a\",\"deep\":{nested}}}\n{{\"messages\":{nested}}}\n\
         {{\"prompt\":\"b\",\"params\":{nested}}}\n{{\"prompt\":\"c\",\"images\":{nested}}}\n\"last\"\n"
    );
    let output = Run::on(&sim).input(input).output().expect(1);
    let codes = output.codes();
    assert_eq!(codes.len(), 8, "{codes:?}");
    assert_eq!(codes[..4], ["unknown_form", "not_json", "bad_field", ""]);
    assert_eq!((codes[6].as_str(), codes[7].as_str()), ("bad_field", ""));
}

#[test]
fn odd_file_names_work_and_are_harmless_where_they_are_shown() {
    let sim = Sim::start(&[]);
    let odd: [&[u8]; 4] = [b"a\nb\x1b[31m", b"not-utf8-\xff\x9b", "\u{202e}desrever".as_bytes(), &[b'n'; 255]];
    for name in odd {
        let name = OsStr::from_bytes(name);
        let run = Run::on(&sim);
        let folder = run.path("");
        let path = folder.join(name);
        std::fs::write(&path, "\"a\"\n{}\n").unwrap();
        let failed = folder.join("failed").join(name);
        std::fs::create_dir(folder.join("failed")).unwrap();
        let args = [path.as_os_str(), "--failed".as_ref(), failed.as_os_str(), "-v".as_ref()];
        let output = run.args(args).output().expect(1);
        assert_eq!(output.codes(), ["", "unknown_form"]);
        harmless(&output.stderr);
    }
}

#[test]
fn odd_file_names_are_harmless_in_every_error() {
    let sim = Sim::start(&[]);
    let missing = OsStr::from_bytes(b"/nonexistent/a\nb\x1b[31m\xff\xe2\x80\xae");
    let flags = [None, Some("--failed"), Some("--meta"), Some("--api-key-file"), Some("--ca-cert"), Some("--config")];
    for flag in flags {
        let flag: Option<&OsStr> = flag.map(AsRef::as_ref);
        let output = Run::on(&sim).args(flag.into_iter().chain([missing])).input("\"a\"\n").output();
        assert!([64, 65, 74, 78].contains(&output.status), "{flag:?}: {output}");
        assert!(output.stderr.contains("nonexistent"), "{flag:?}: {output}");
        harmless(&output.stderr);
    }
    let run = Run::on(&sim);
    let odd = run.file("\u{1b}[31m", "\"a\"\n");
    let output = run.args([odd.as_os_str(), "--failed".as_ref(), odd.as_os_str()]).output().expect(64);
    harmless(&output.stderr);
}

fn harmless(text: &str) {
    let harmful = |character: char| {
        (character.is_control() && character != '\n') || ('\u{202a}'..='\u{202e}').contains(&character)
    };
    assert!(!text.contains(harmful), "{text:?}");
    assert!(!text.lines().any(|line| line.starts_with("b\\u{1b}") || line.starts_with('b')), "{text:?}");
}
