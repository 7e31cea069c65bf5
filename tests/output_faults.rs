//! What becomes of the output when it cannot be written, when nobody reads it, and when a signal ends the run.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::File;
use std::io::Read as _;
use std::time::{Duration, Instant};

use common::{Output, Run, Signal, Sim, memory_peak, prompt, prompts, wait_for};

const MEBIBYTE: u64 = 1 << 20;

#[test]
fn a_full_disk_ends_with_74() {
    let sim = Sim::start(&[]);
    for count in [1, 3000] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = Run::on(&sim).stdout(full).input(prompts(count)).output().expect(74);
        assert!(output.stderr.contains("write standard output"), "{output}");
    }
}

#[test]
fn a_closed_stdout_ends_with_74_and_nothing_is_sent() {
    let sim = Sim::start(&[]);
    let output = Run::on(&sim).shell(r#"exec "$0" "$@" >&-"#).input(prompts(3)).output().expect(74);
    assert!(output.stderr.contains("write standard output"), "{output}");
    assert_eq!(sim.count("requests"), 0);
}

#[test]
fn a_reader_that_goes_away_ends_the_run_with_141_and_without_a_word() {
    let sim = Sim::start(&[]);
    let script = r#"{ "$0" "$@"; echo "status $?" >&2; } | head -n 1"#;
    let output = Run::on(&sim).shell(script).input(prompts(5000)).output().expect(0);
    assert_eq!(output.lines().len(), 1);
    assert_eq!(output.stderr, "status 141\n");
    assert!(sim.count("requests") < 5000);
}

#[test]
fn what_cannot_be_written_into_the_file_of_failed_lines_is_told_too() {
    let sim = Sim::start(&[]);
    let output = Run::on(&sim).args(["--failed", "/nonexistent/folder/failed"]).input(prompts(1)).output().expect(74);
    assert!(output.stderr.contains("--failed") && output.stdout.is_empty(), "{output}");
    let output = Run::on(&sim).args(["--meta", "/nonexistent/folder/meta"]).input(prompts(1)).output().expect(74);
    assert!(output.stderr.contains("--meta"), "{output}");
}

/// Row 21: nobody reads; the lines that could flow do not pile up in memory, and all come when the reader wakes.
#[test]
fn a_sleeping_reader_costs_no_memory_and_loses_nothing() {
    const LINES: usize = 20_000;
    let sim = Sim::start(&["--no-usage", "--regime", "openai"]);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let padding = "x".repeat(500);
    let input: String = (1..=LINES).map(|number| prompt(&format!("{number} {padding}"))).collect();
    let mut live = Run::on(&sim).args(["-j", "16"]).stdout(writer).start();
    live.feed_and_close(input.into_bytes());
    let asleep_at = quiet(&sim);
    let peak = live.memory_peak();
    assert!(asleep_at < LINES as u64 / 2, "{asleep_at} requests were sent although nobody reads");
    assert!(peak < 64 * MEBIBYTE, "{} MiB", peak / MEBIBYTE);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    let numbers: Vec<usize> = text.lines().map(number_of).collect();
    assert_eq!(numbers, (1..=LINES).collect::<Vec<_>>());
    let output = live.finish().expect(0);
    assert!(output.memory_peak_bytes < 64 * MEBIBYTE);
}

/// The number of requests once it does not change any more.
fn quiet(sim: &Sim) -> u64 {
    let (mut last, mut since) = (0, Instant::now());
    wait_for("the window to be full", || {
        let now = sim.count("requests");
        if now != last || now == 0 {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_millis(500)).then_some(last)
    })
}

fn number_of(line: &str) -> usize {
    line.strip_prefix("{\"line\":").unwrap().split(',').next().unwrap().parse().unwrap()
}

/// Row 22.
#[test]
fn an_idle_run_obeys_a_signal_at_once() {
    let sim = Sim::start(&[]);
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::USR1, 75)] {
        let mut live = Run::on(&sim).start();
        live.feed(prompt("first"));
        live.wait_for_lines(1);
        live.signal(signal);
        let output = live.finish().expect(status);
        assert!(output.waited < Duration::from_secs(1), "{:?}", output.waited);
        assert_eq!(output.lines().len(), 1);
    }
}

#[test]
fn a_run_that_waits_for_the_service_obeys_a_signal_at_once() {
    let mut live = Run::at(&common::refused_base()).args(["-v"]).start();
    live.feed(prompt("first"));
    live.wait_for_stderr("retry");
    live.signal(Signal::TERM);
    let output = live.finish().expect(143);
    assert!(output.waited < Duration::from_secs(1) && output.stdout.is_empty(), "{output}");
}

/// Row 23.
#[test]
fn a_signal_lets_what_is_in_flight_finish_and_sends_nothing_new() {
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::USR1, 75)] {
        let sim = Sim::start(&["--latency", "fixed:500"]);
        let run = Run::on(&sim).args(["-j", "4"]);
        let failed = run.path("failed.jsonl");
        let mut live = run.args(["--failed".as_ref(), failed.as_os_str()]).start();
        live.feed(prompts(40));
        sim.wait_for_count("in_flight", 4);
        let sent = sim.count("requests");
        live.signal(signal);
        let output = live.finish().expect(status);
        let answered = output.lines().len() as u64;
        assert_eq!((answered, sim.count("requests")), (sent, sent), "{output}");
        assert!(output.codes().iter().all(String::is_empty), "{output}");
        assert!(output.stderr.contains("stopped early"), "{output}");
        assert!(output.waited < Duration::from_secs(5));
    }
}

#[test]
fn lines_of_a_file_that_were_not_settled_are_kept_for_the_next_run() {
    let sim = Sim::start(&["--latency", "fixed:300"]);
    let run = Run::on(&sim).args(["-j", "2"]);
    let (input, failed) = (run.file("in.jsonl", prompts(300)), run.path("failed.jsonl"));
    let live = run.args(["--failed".as_ref(), failed.as_os_str(), input.as_os_str()]).start();
    sim.wait_for_count("requests", 5);
    live.signal(Signal::TERM);
    let output = live.finish().expect(143);
    let answered: Vec<u64> = output.lines().iter().map(|line| line["line"].as_u64().unwrap()).collect();
    let failed = String::from_utf8(output.file("failed.jsonl")).unwrap();
    let kept: Vec<&str> = failed.lines().collect();
    assert_eq!(answered.len() + kept.len(), 300, "{output}");
    let lines = prompts(300);
    let rest = lines.lines().zip(1..).filter(|(_, number)| !answered.contains(number)).map(|(line, _)| line);
    assert_eq!(kept, rest.collect::<Vec<_>>());
}

#[test]
fn the_second_signal_ends_it_at_once() {
    let sim = Sim::start(&["--latency", "fixed:60000"]);
    let mut live = Run::on(&sim).args(["-j", "4"]).start();
    live.feed(prompts(10));
    sim.wait_for_count("in_flight", 4);
    live.signal(Signal::TERM);
    live.wait_for_stderr("waiting for 4 requests");
    live.signal_until_it_ends(Signal::TERM);
    let output = live.finish().expect(143);
    assert!(output.waited < Duration::from_secs(1), "{:?}", output.waited);
    assert!(output.stdout.is_empty() && output.stderr.contains("not settled"), "{output}");
}

#[test]
fn a_signal_to_the_process_and_its_group_is_one_signal() {
    let sim = Sim::start(&["--latency", "fixed:300"]);
    let mut live = Run::on(&sim).args(["-j", "4"]).start();
    live.feed(prompts(10));
    sim.wait_for_count("in_flight", 4);
    live.signal(Signal::TERM);
    live.signal(Signal::TERM);
    let output = live.finish().expect(143);
    assert_eq!(output.lines().len(), 4, "what was in flight is answered: {output}");
}

#[test]
fn a_drain_has_an_end() {
    let sim = Sim::start(&["--latency", "fixed:60000"]);
    let mut live = Run::on(&sim).args(["--drain-timeout", "200ms"]).start();
    live.feed(prompts(10));
    sim.wait_for_count("in_flight", 4);
    live.signal(Signal::TERM);
    let output = live.finish().expect(143);
    assert!(output.waited < Duration::from_secs(5), "{:?}", output.waited);
}

#[test]
fn a_drain_does_not_retry() {
    let sim = Sim::start(&["--latency", "fixed:300", "--fault", "status=500,after=4"]);
    let mut live = Run::on(&sim).args(["-j", "4"]).start();
    live.feed(format!("{}{}", prompts(4), prompts(8)));
    sim.wait_for_count("requests", 4);
    live.wait_for_lines(4);
    live.signal(Signal::TERM);
    let sent = sim.count("requests");
    let output = live.finish().expect(143);
    assert!(sim.count("requests") <= sent + 4, "{output}");
    assert_eq!(output.lines().len(), 4);
}

/// A stop in the middle leaves settled lines in order, with gaps, and a status of its own.
#[test]
fn settled_lines_behind_an_unsettled_one_are_written_in_order() {
    let sim = Sim::start(&[]);
    let mut live = Run::on(&sim).args(["--drain-timeout", "100ms"]).start();
    live.feed(format!("{}{}{}", prompt("first"), prompt("sim:hang-head"), prompts(50)));
    live.wait_for_lines(1);
    sim.wait_for_count("ok", 51);
    live.signal(Signal::TERM);
    let output = live.finish().expect(143);
    let numbers: Vec<u64> = output.lines().iter().map(|line| line["line"].as_u64().unwrap()).collect();
    let expected: Vec<u64> = (1..=52).filter(|number| *number != 2).collect();
    assert_eq!(numbers, expected);
    assert!(output.stderr.contains("1 not settled"), "{output}");
}

/// Like `tail -f`: what was given is answered, though the input does not end.
#[test]
fn a_slow_pipe_gets_its_answers_before_it_closes() {
    let sim = Sim::start(&[]);
    for args in [&[][..], &["--unordered"], &["--format", "raw"]] {
        let mut live = Run::on(&sim).args(args).start();
        for count in 1..=3 {
            live.feed(prompt(&format!("number {count}")));
            live.wait_for_lines(count);
        }
        live.feed("{\"prompt\":7}\n");
        live.wait_for_lines(4);
        live.close_input();
        live.finish().expect(1);
    }
}

/// One slow line does not idle the other slots, and nothing overtakes it in the output.
#[test]
fn a_slow_line_holds_the_output_and_not_the_work() {
    let sim = Sim::start(&[]);
    let mut live = Run::on(&sim).args(["-j", "4", "--first-token-timeout", "60s"]).start();
    live.feed(format!("{}{}", prompt("sim:hang-head*1"), prompts(200)));
    sim.wait_for_count("ok", 200);
    assert!(live.stdout().is_empty());
    live.signal(Signal::TERM);
    live.wait_for_stderr("stopping: waiting for");
    live.signal_until_it_ends(Signal::TERM);
    let _: Output = live.finish();
    let mut live = Run::on(&sim).args(["--unordered"]).start();
    live.feed(format!("{}{}", prompt("sim:hang-head other"), prompts(200)));
    live.wait_for_lines(200);
    assert!(memory_peak(live.pid()).is_some_and(|peak| peak < 64 * MEBIBYTE));
}

#[test]
fn small_commands_whose_output_is_lost_do_not_succeed() {
    let sim = Sim::start(&[]);
    for args in [&["--help"][..], &["--version"], &["models", "--base-url", &sim.base()], &["--dry-run"]] {
        let run = || Run::bare().env("ANVILGPT_API_KEY", common::KEY).args(args).input(prompts(1));
        let full = File::options().write(true).open("/dev/full").unwrap();
        run().stdout(full).output().expect(74);
        run().shell(r#"exec "$0" "$@" >&-"#).output().expect(74);
    }
}
