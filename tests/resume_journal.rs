//! `--journal J`: what was answered comes out at once, the rest is sent; and what becomes of J when stdout breaks, the
//! service changes, or the settings do.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::File;
use std::io::Read as _;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use common::desk::{Desk, SLOTS, numbers, sorted, timeless};
use common::{Live, Run, Signal, Sim, prompt, prompts, refused_base, wait_for};

const MEBIBYTE: u64 = 1 << 20;

#[test]
fn what_was_answered_comes_again_and_only_the_rest_is_sent() {
    let desk = Desk::new();
    let first = prompts(10) + "{\"prompt\":7}\n";
    let plain = desk.plain(&first, &[]);
    assert_eq!(timeless(&desk.journaled().input(first.clone()).output().expect(1).text()), plain);
    let output = desk.nothing_sent(|| desk.journaled().input(first.clone()).output().expect(1));
    assert_eq!(timeless(&output.text()), plain);
    assert!(output.stderr.contains("11 of them from the journal"), "{output}");
    let second = first + "\n" + &prompt("new") + &prompts(2);
    let (sent, output) = desk.sent(|| desk.journaled().input(second.clone()).output().expect(1));
    assert_eq!(sorted(sent), ["new", "prompt 1", "prompt 2"], "two of them a second time, so two answers more");
    assert_eq!(timeless(&output.text()), desk.plain(&second, &[]));
    assert_eq!(desk.names(), ["journal"]);
}

/// A run that must replay `count` lines although nobody answers, and then obeys a signal.
fn replays_alone(desk: &Desk, base: &str, count: usize) {
    for input in [prompts(count), prompts(count) + &prompt("new") + &prompts(count)] {
        let mut live = Run::at(base).args(["--journal".into(), desk.path("journal")]).start();
        live.feed(&input);
        live.wait_for_lines(count);
        if input == prompts(count) {
            live.close_input();
            live.finish().expect(0);
        } else {
            live.signal(Signal::TERM);
            let output = live.finish().expect(143);
            assert_eq!(numbers(&output.lines())[..count], (1..=count as u64).collect::<Vec<_>>());
        }
    }
}

#[test]
fn answers_come_out_though_the_service_is_down_or_silent() {
    let desk = Desk::new();
    desk.journaled().input(prompts(200)).output().expect(0);
    replays_alone(&desk, &refused_base(), 200);
    // One that accepts, and never says what it is.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    replays_alone(&desk, &format!("http://{}/api", listener.local_addr().unwrap()), 200);
}

#[test]
fn a_journal_is_replayed_while_the_pipe_pauses() {
    let desk = Desk::new();
    desk.journaled().input(prompts(3)).output().expect(0);
    let mut live = desk.journaled().start();
    for (count, text) in [(1, "prompt 1"), (2, "new"), (3, "prompt 2"), (4, "newer"), (5, "prompt 3")] {
        live.feed(prompt(text));
        live.wait_for_lines(count);
    }
    live.close_input();
    assert_eq!(live.finish().expect(0).lines().len(), 5);
    assert_eq!(desk.sim.count("requests"), 5);
}

#[test]
fn a_reader_that_goes_away_loses_nothing_that_was_paid() {
    let desk = Desk::with(&["--latency", "fixed:5"]);
    let script = r#"{ "$0" "$@"; echo "status $?" >&2; } | head -n 1"#;
    let output = desk.journaled().shell(script).input(prompts(400)).output().expect(0);
    assert_eq!((output.lines().len(), output.stderr.as_str()), (1, "status 141\n"));
    resumes_after(&desk, 400);
}

#[test]
fn a_full_disk_behind_stdout_loses_nothing_that_was_paid() {
    let desk = Desk::with(&["--latency", "fixed:5"]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = desk.journaled().stdout(full).input(prompts(400)).output().expect(74);
    assert!(output.stderr.contains("write standard output"), "{output}");
    resumes_after(&desk, 400);
}

/// The same command with a healthy stdout goes on, and asks again no more than what was in flight.
fn resumes_after(desk: &Desk, lines: u64) {
    let before = desk.sim.count("requests");
    assert!(before < lines, "the first run did not stop");
    let input = prompts(usize::try_from(lines).unwrap());
    let output = desk.journaled().input(input.clone()).output().expect(0);
    assert_eq!(numbers(&output.lines()), (1..=lines).collect::<Vec<_>>());
    let repeated = desk.sim.count("requests") - lines;
    assert!(repeated <= SLOTS as u64, "{repeated} requests were sent again");
    assert_eq!(desk.journal("journal", &[]).expect(0).text(), output.text());
}

#[test]
fn a_reader_that_sleeps_costs_no_memory() {
    const LINES: usize = 1600;
    let desk = Desk::new();
    let padding = "x".repeat(5000);
    let input: String = (1..=LINES).map(|number| prompt(&format!("{number} {padding}"))).collect();
    let asleep = |count: usize| {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut live = desk.journaled().args(["-j", "16", "--window-bytes", "1M"]).stdout(writer).start();
        live.feed_and_close(input.split_inclusive('\n').take(count).collect::<String>().into_bytes());
        quiet(&live);
        let peak = live.memory_peak();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text.lines().count(), count);
        peak.max(live.finish().expect(0).memory_peak_bytes)
    };
    let little = asleep(LINES / 8);
    // First while it is asked, then while it is replayed.
    let much = [asleep(LINES), desk.nothing_sent(|| asleep(LINES))];
    let bound = little + 4 * MEBIBYTE;
    assert!(much.iter().all(|peak| *peak < bound), "{much:?} bytes, and {little} for an eighth of the lines");
}

/// Waits until a run does nothing any more: it has used no processor for a while.
fn quiet(live: &Live) {
    let ticks = || std::fs::read_to_string(format!("/proc/{}/stat", live.pid())).unwrap();
    let used = |stat: &str| stat.rsplit(')').next().unwrap().split(' ').skip(12).take(2).collect::<Vec<_>>().join(" ");
    let (mut last, mut since) = (String::new(), Instant::now());
    wait_for("the run to be quiet", || {
        let now = used(&ticks());
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_millis(300)).then_some(())
    });
}

#[test]
fn answers_outlive_an_upgrade_of_the_service() {
    let old = Desk::of(Sim::start(&["--regime", "0.6"]));
    let input = prompts(6) + "{\"messages\":[{\"role\":\"user\",\"content\":\"chat\"}],\"temperature\":0.5,\"id\":1}\n";
    let answered = old.journaled().input(input.clone()).output().expect(0);
    old.write("in", input.clone());
    old.to_file().output().expect(0);
    for regime in ["0.12", "openai"] {
        let new = Sim::start(&["--regime", regime]);
        let run = |args: &[&str]| Run::on(&new).args(args).args(["--journal", &old.arg("journal")]);
        let again = run(&[]).input(input.clone()).output().expect(0);
        assert_eq!(again.text(), answered.text(), "{regime}");
        let file = Run::on(&new).args([old.arg("in"), "-o".into(), old.arg("out")]).output().expect(0);
        assert!(file.stderr.contains("already complete"), "{regime}: {file}");
        let explicit = run(&["--dialect", "openai"]).input(input.clone()).output().expect(0);
        assert_eq!((explicit.text(), new.count("requests")), (answered.text(), 0), "{regime}");
        // Nor does it matter how replies are to come.
        run(&["--upstream", "whole"]).input(input.clone()).output().expect(0);
        assert_eq!(new.count("requests"), 0);
    }
    // What is new is asked in the new dialect, and joins the rest.
    let new = Sim::start(&["--regime", "openai"]);
    let input = input + &prompt("new");
    Run::on(&new).args(["--journal", &old.arg("journal")]).input(input.clone()).output().expect(0);
    assert_eq!((new.count("requests"), old.journal("journal", &["--check"]).expect(0).status), (1, 0));
    assert_eq!(old.journal("journal", &[]).lines().len(), 8);
}

#[test]
fn an_unordered_run_resumes_like_any_other() {
    let desk = Desk::new();
    let hang = "sim:hang-head*1 first";
    let input = prompt(hang) + &prompts(40);
    let run = || desk.journaled().args(["--unordered", "--drain-timeout", "50ms"]);
    let mut live = run().start();
    live.feed(&input);
    // Nothing waits for the line that hangs.
    live.wait_for_lines(40);
    live.signal(Signal::TERM);
    live.finish().expect(143);
    let (sent, output) = desk.sent(|| run().input(input.clone()).output().expect(0));
    assert_eq!(sent, [hang], "{output}");
    let mut lines: Vec<String> = timeless(&output.text()).lines().map(str::to_owned).collect();
    lines.sort_by_key(|line| numbers(&[serde_json::from_str(line).unwrap()]));
    assert_eq!(lines.join("\n") + "\n", desk.plain(&input, &[]));
    assert_eq!(timeless(&desk.journal("journal", &[]).text()), lines.join("\n") + "\n");
}

#[test]
fn a_journal_gives_every_format_that_a_run_gives() {
    let desk = Desk::new();
    let input = prompts(3) + &prompt("sim:status=400 refused") + "{\"prompt\":\"idle\",\"custom_id\":\"x\"}\n{broken\n";
    desk.journaled().input(input.clone()).output().expect(1);
    for args in
        [&[][..], &["--format", "text"], &["--format", "raw"], &["--format", "batch"], &["--format", "completion"]]
    {
        let output = desk.nothing_sent(|| desk.journaled().args(args).input(input.clone()).output().expect(1));
        assert_eq!(desk.journal("journal", args).expect(0).text(), output.text(), "{args:?}");
    }
    let text = desk.journal("journal", &["--format", "text", "-0"]).expect(0).text();
    assert_eq!(text, "Echo: prompt 1\0Echo: prompt 2\0Echo: prompt 3\0\0Echo: idle\0\0");
    desk.journal("journal", &["--format", "events"]).expect(64);
    assert_eq!(desk.names(), ["journal"], "looking at it leaves nothing behind");
}

#[test]
fn a_running_journal_can_be_read_and_takes_no_harm() {
    let desk = Desk::new();
    let mut live = desk.journaled().start();
    for count in 1..=5 {
        live.feed(prompt(&format!("number {count}")));
        live.wait_for_lines(count);
        let read = desk.journal("journal", &[]).expect(0);
        assert_eq!(read.stdout, live.stdout());
        desk.journal("journal", &["--check"]).expect(0);
    }
    live.close_input();
    live.finish().expect(0);
    assert_eq!(desk.journal("journal", &[]).lines().len(), 5);
}

#[test]
fn failed_lines_stay_failed_until_they_are_asked_again() {
    let desk = Desk::new();
    let input = prompts(3) + &prompt("sim:status=400*1 weak") + &prompts(1);
    let failures = |run: Run, status| {
        let output = run.input(input.clone()).output().expect(status);
        output.codes().iter().filter(|code| !code.is_empty()).count()
    };
    assert_eq!(failures(desk.journaled(), 1), 1);
    assert_eq!(desk.nothing_sent(|| failures(desk.journaled(), 1)), 1);
    let (sent, left) = desk.sent(|| failures(desk.journaled().args(["--retry-failed"]), 0));
    assert_eq!((sent.as_slice(), left), (&["sim:status=400*1 weak".to_owned()][..], 0));
    assert_eq!(desk.nothing_sent(|| failures(desk.journaled(), 0)), 0);
    assert_eq!(timeless(&desk.journal("journal", &[]).text()), desk.plain(&input, &[]));
}

#[test]
fn quotas_count_what_earlier_runs_sent() {
    let desk = Desk::with(&["--quota", "6/2s"]);
    let rate = ["--rate", "6/2s", "-j", "3"];
    desk.journaled().args(rate).input(prompts(6)).output().expect(0);
    let began = Instant::now();
    desk.journaled().args(rate).input(prompts(9)).output().expect(0);
    assert!(began.elapsed() > Duration::from_millis(500), "the new lines wait for the window of the first run");
    let stats = desk.sim.stats();
    assert_eq!((&stats["requests"], &stats["all"]["over_quota"]), (&9.into(), &0.into()), "{stats}");
}
