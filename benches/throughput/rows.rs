//! The rows of the table. Each prints what was measured and the bar that it is held against.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::process::{Run, Simulator, finish, is_installed, median, peak_memory, run, say};
use super::{Bench, floor};

const ROUNDS: usize = 5;
/// Bytes of a prompt.
pub const PROMPT_BYTES: usize = 1024;
/// Pieces of a streamed reply.
const CHUNKS: usize = 64;

fn prompt(number: usize, bytes: usize) -> String {
    let mut text = format!("#{number} ");
    while text.len() < bytes {
        text.push_str("lorem ipsum dolor sit amet, consectetur adipiscing elit ");
    }
    text.truncate(bytes);
    text
}

fn body(number: usize, bytes: usize) -> String {
    format!(r#"{{"model":"llama3.1:latest","messages":[{{"role":"user","content":"{}"}}]}}"#, prompt(number, bytes))
}

/// A request line with this number as its id and at the beginning of its prompt of so many bytes.
pub fn line(number: usize, bytes: usize) -> String {
    format!(
        r#"{{"custom_id":"r-{number}","method":"POST","url":"/v1/chat/completions","body":{}}}"#,
        body(number, bytes)
    ) + "\n"
}

/// A file of so many request lines.
pub fn input(bench: &Bench, lines: usize, bytes: usize) -> PathBuf {
    let path = bench.folder.path().join(format!("in-{lines}-{bytes}.jsonl"));
    if !path.exists() {
        let text: String = (1..=lines).map(|number| line(number, bytes)).collect();
        std::fs::write(&path, text).expect("the input can be written");
    }
    path
}

/// The program, with so many requests in flight.
pub fn program(bench: &Bench, base_url: &str, in_flight: usize, further: &[&str]) -> Command {
    let mut command = Command::new(&bench.program);
    command
        .env("ANVILGPT_API_KEY", "x")
        // So many in flight, whatever the simulator says of its own time: what is measured is the program.
        .args(["--base-url", base_url, "-q", "--fixed", "-j", &in_flight.to_string()])
        .args(further);
    command
}

/// Every line is there once; in input order where that was asked for.
fn check(output: &std::path::Path, lines: usize, ordered: bool) {
    let text = std::fs::read_to_string(output).expect("the output can be read");
    let number = |line: &str| {
        line.split("\"custom_id\":\"r-").nth(1).and_then(|rest| rest.split('"').next()?.parse::<usize>().ok())
    };
    let mut numbers: Vec<usize> =
        text.lines().filter(|line| line.contains("\"error\":null")).filter_map(number).collect();
    assert!(!ordered || numbers.is_sorted(), "the output is not in order");
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=lines).collect::<Vec<_>>(), "a line is missing or double");
}

/// Many requests at no latency: how much of the machine's time goes into each.
pub fn throughput(bench: &Bench) {
    const LINES: usize = 40_000;
    const IN_FLIGHT: usize = 64;
    let simulator = Simulator::start(&bench.simulator, &[]);
    let (input, output) = (input(bench, LINES, PROMPT_BYTES), bench.folder.path().join("out"));
    let mut runs: BTreeMap<&str, Vec<Run>> = BTreeMap::new();
    let mut peers: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        let seconds = floor::throughput(&simulator.address, &body(1, PROMPT_BYTES), LINES, IN_FLIGHT);
        peers.entry("floor").or_default().push(LINES as f64 / seconds);
        for (name, order) in [("ordered", &[][..]), ("unordered", &["--unordered"][..])] {
            let further = [&["--upstream", "whole"][..], order].concat();
            let taken =
                run(&mut program(bench, &simulator.base_url(), IN_FLIGHT, &further), Some(&input), Some(&output));
            check(&output, LINES, name == "ordered");
            runs.entry(name).or_default().push(taken);
        }
        for (name, rate) in installed_peers(bench, &simulator, LINES, IN_FLIGHT) {
            peers.entry(name).or_default().push(rate);
        }
    }
    for (name, runs) in &runs {
        let rates: Vec<f64> = runs.iter().map(|run| LINES as f64 / run.wall).collect();
        let mut row = format!("no latency, {IN_FLIGHT} in flight, {name}: {:.0} lines/s", median(rates.clone()));
        for (peer, peer_rates) in &peers {
            let ratios = rates.iter().zip(peer_rates).map(|(own, other)| own / other).collect();
            write!(row, ", {:.2} x {peer}", median(ratios)).expect("writing into a string cannot fail");
        }
        let cpu = median(runs.iter().map(|run| run.cpu * 1e6 / LINES as f64).collect());
        let rss = median(runs.iter().map(|run| run.rss).collect());
        say(&format!("{row}; {cpu:.1} us of CPU a line (bar 18); peak RSS {rss:.1} MiB (bar 20)"));
    }
}

/// Requests a second of wrk and oha (bars: 0.34 and 0.48 of theirs), where they are installed.
fn installed_peers(
    bench: &Bench,
    simulator: &Simulator,
    requests: usize,
    in_flight: usize,
) -> Vec<(&'static str, f64)> {
    let url = format!("{}/chat/completions", simulator.base_url());
    let mut found = Vec::new();
    if is_installed("wrk") {
        let script = bench.folder.path().join("post.lua");
        let text = format!(
            "wrk.method='POST'\nwrk.headers['Content-Type']='application/json'\nwrk.headers['Authorization']='Bearer x'\nwrk.body='{}'\n",
            body(1, PROMPT_BYTES)
        );
        std::fs::write(&script, text).expect("the script can be written");
        let output =
            Command::new("wrk").args(["-t1", &format!("-c{in_flight}"), "-d2s", "-s"]).arg(&script).arg(&url).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let rate = text.split("Requests/sec:").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        found.extend(rate.map(|rate| ("wrk", rate)));
    }
    if is_installed("oha") {
        let mut command = Command::new("oha");
        command.args([
            "--no-tui",
            "-n",
            &requests.to_string(),
            "-c",
            &in_flight.to_string(),
            "-m",
            "POST",
            "-T",
            "application/json",
        ]);
        command.args(["-H", "Authorization: Bearer x", "-d", &body(1, PROMPT_BYTES), &url]);
        let taken = run(&mut command, None, None);
        found.push(("oha", requests as f64 / taken.wall));
    }
    found
}

/// A heavy tail of service times: how near the makespan comes to what no order of work could beat.
pub fn heavy_tail(bench: &Bench, in_flight: usize) {
    let lines = 32 * in_flight;
    let simulator = Simulator::start(&bench.simulator, &["--latency", "lognormal:60:1000"]);
    let (input, output) = (input(bench, lines, 100), bench.folder.path().join("out"));
    let mut ratios: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for _ in 0..3 {
        for (name, further) in [("ordered", &[][..]), ("unordered", &["--unordered"][..])] {
            let taken =
                run(&mut program(bench, &simulator.base_url(), in_flight, further), Some(&input), Some(&output));
            check(&output, lines, name == "ordered");
            ratios.entry(name).or_default().push(taken.wall / ideal_makespan(&output, in_flight));
        }
    }
    for (name, ratios) in ratios {
        say(&format!(
            "heavy tail (lognormal, p50 60 ms, p99 1 s), {in_flight} in flight, {name}: {:.3} x the list-scheduling bound (bar 1.05)",
            median(ratios)
        ));
    }
}

/// The makespan of Graham's list scheduling: each line, in input order, on the slot that is free first. The service
/// times are the simulator's own, which it reports as Ollama does, in nanoseconds.
fn ideal_makespan(output: &std::path::Path, in_flight: usize) -> f64 {
    let text = std::fs::read_to_string(output).expect("the output can be read");
    let parse = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).expect("a completion line is JSON");
        let number = value["custom_id"].as_str().and_then(|id| id.trim_start_matches("r-").parse::<usize>().ok());
        let nanoseconds = value["response"]["body"]["usage"]["total_duration"].as_u64();
        (number.expect("the line has its id"), nanoseconds.expect("the simulator tells the duration"))
    };
    let mut times: Vec<(usize, u64)> = text.lines().map(parse).collect();
    times.sort_unstable();
    let mut free: BinaryHeap<Reverse<u64>> = (0..in_flight).map(|_| Reverse(0)).collect();
    for (_, time) in times {
        let Reverse(start) = free.pop().expect("there is a slot");
        free.push(Reverse(start + time));
    }
    free.into_iter().map(|Reverse(end)| end).max().unwrap_or(0) as f64 / 1e9
}

/// Streams of 64 chunks.
pub fn streaming(bench: &Bench) {
    const LINES: usize = 16_000;
    let simulator = Simulator::start(&bench.simulator, &["--chunks", &CHUNKS.to_string()]);
    let (input, output) = (input(bench, LINES, PROMPT_BYTES), bench.folder.path().join("out"));
    let once = || {
        let taken = run(&mut program(bench, &simulator.base_url(), 64, &[]), Some(&input), Some(&output));
        check(&output, LINES, true);
        taken.cpu * 1e6 / (LINES * CHUNKS) as f64
    };
    say(&format!(
        "streams of {CHUNKS} chunks: {:.2} CPU s a million chunks (bar 1.3)",
        median((0..ROUNDS).map(|_| once()).collect())
    ));
}

/// How long nothing takes.
pub fn start_up(bench: &Bench) {
    let simulator = Simulator::start(&bench.simulator, &["--chunks", &CHUNKS.to_string()]);
    let input = input(bench, 1, PROMPT_BYTES);
    let time = |make: &dyn Fn() -> Command| {
        let once = |_| {
            let began = Instant::now();
            let status = make().stdin(Stdio::null()).stdout(Stdio::null()).status().expect("the program starts");
            assert!(status.success());
            began.elapsed().as_secs_f64() * 1e3
        };
        median((0..60).map(once).skip(10).collect())
    };
    let one_line = time(&|| {
        let mut command = program(bench, &simulator.base_url(), 4, &[]);
        command.arg(&input);
        command
    });
    let help = time(&|| {
        let mut command = Command::new(&bench.program);
        command.arg("--help");
        command
    });
    let bare = time(&|| Command::new("true"));
    say(&format!("a run of one line: {one_line:.1} ms (bar 3); --help: {help:.1} ms (bar 2); true: {bare:.1} ms"));
}

/// One line at a time through a pipe that stays open.
pub fn open_pipe(bench: &Bench) {
    const PAUSE: Duration = Duration::from_millis(1);
    let simulator = Simulator::start(&bench.simulator, &[]);
    let mut command = program(bench, &simulator.base_url(), 4, &["--upstream", "whole"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
    let (mut stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let mut stdout = BufReader::new(stdout);
    let mut times = Vec::new();
    for number in 0..500 {
        let (text, mut answer) = (line(number, PROMPT_BYTES), String::new());
        let began = Instant::now();
        stdin.write_all(text.as_bytes()).expect("the program reads");
        stdout.read_line(&mut answer).expect("the program writes");
        times.push(began.elapsed().as_secs_f64() * 1e6);
        std::thread::sleep(PAUSE);
    }
    drop(stdin);
    child.wait().expect("the child is ours");
    let server = median(floor::latencies(&simulator.address, &body(1, PROMPT_BYTES), 500, PAUSE)) * 1e6;
    let whole = median(times.split_off(50));
    say(&format!(
        "one line through an open pipe: {:.0} us over the server's own {server:.0} us (bar 200)",
        whole - server
    ));
}

/// A reader that sleeps must not make memory grow.
pub fn stalled_reader(bench: &Bench) {
    let simulator = Simulator::start(&bench.simulator, &[]);
    let input = input(bench, 40_000, PROMPT_BYTES);
    let mut command = program(bench, &simulator.base_url(), 64, &["--upstream", "whole"]);
    command.stdin(Stdio::from(std::fs::File::open(input).expect("the input can be opened"))).stdout(Stdio::piped());
    let began = Instant::now();
    let mut child = command.spawn().expect("the program starts");
    let mut last = u64::MAX;
    while simulator.stat("requests") != last {
        last = simulator.stat("requests");
        std::thread::sleep(Duration::from_millis(500));
    }
    let stalled = peak_memory(child.id());
    let mut stdout = child.stdout.take().expect("piped");
    let drain = std::thread::spawn(move || {
        let mut output = Vec::new();
        stdout.read_to_end(&mut output).map(|_| memchr::memchr_iter(b'\n', &output).count())
    });
    finish(child, began);
    let lines = drain.join().expect("the reader ends").expect("the pipe can be read");
    assert_eq!(lines, 40_000);
    say(&format!(
        "a reader that sleeps: {last} requests sent, peak RSS {stalled:.1} MiB (bar 20); then all 40000 lines came"
    ));
}

/// Long lines, many of them, from a pipe.
pub fn memory(bench: &Bench, lines: usize) {
    const BYTES: usize = 4096;
    let simulator = Simulator::start(&bench.simulator, &[]);
    let mut command = program(bench, &simulator.base_url(), 64, &["--upstream", "whole"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the program starts");
    let mut stdin = std::io::BufWriter::with_capacity(1 << 20, child.stdin.take().expect("piped"));
    let began = Instant::now();
    let feed = std::thread::spawn(move || {
        let text = line(7, BYTES);
        (0..lines).try_for_each(|_| stdin.write_all(text.as_bytes()))
    });
    let taken = finish(child, began);
    feed.join().expect("the feeder ends").expect("the program reads to the end");
    say(&format!(
        "{lines} lines of 4 KB: peak RSS {:.1} MiB (bar 40), {:.0} lines/s",
        taken.rss,
        lines as f64 / taken.wall
    ));
}
