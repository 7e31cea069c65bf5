//! The daemon: how soon it begins, how many small files it gets through, what a long queue costs, and whether a small
//! file has to wait behind a large one.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::process::{Simulator, cpu_seconds, median, peak_memory, resident_memory, say};
use super::rows::{PROMPT_BYTES, line};
use super::spool::{Daemon, Scan, Spool, count_syncs, until};
use super::{Bench, is_full};

const IN_FLIGHT: usize = 64;

/// One file after another is renamed into the folder of a daemon that has nothing to do.
pub fn first_request(bench: &Bench) {
    const FILES: usize = 50;
    /// Longer than whatever the daemon does at once or lets gather.
    const PAUSE: Duration = Duration::from_millis(60);
    let simulator = Simulator::start(&bench.simulator, &[]);
    let spool = Spool::new();
    let daemon = Daemon::start(bench, &spool, &simulator, IN_FLIGHT);
    let mut dropped_us = Vec::new();
    let mut results = Vec::new();
    for number in 1..=FILES {
        spool.stage(number, &line(number, PROMPT_BYTES));
        std::thread::sleep(PAUSE);
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
        dropped_us.push(since_1970.as_micros() as f64);
        let began = Instant::now();
        spool.drop_in(number);
        spool.wait_for(number);
        results.push(began.elapsed().as_secs_f64() * 1e3);
    }
    drop(daemon);
    let requests = simulator.ask("/requests");
    let requests = requests.as_array().expect("the requests are a list");
    assert_eq!(requests.len(), FILES, "as many requests as files");
    // One after another: in the order in which they were dropped.
    let arrived = requests.iter().map(|request| request["arrived_us"].as_f64().expect("it tells when it arrived"));
    let delays: Vec<f64> = arrived.zip(dropped_us).map(|(arrived, dropped)| (arrived - dropped) / 1e3).collect();
    say(&format!(
        "daemon, a file renamed in: request after {:.1} ms (bar 50), at worst {:.1} ms; result after {:.1} ms; {}",
        median(delays.clone()),
        delays.into_iter().fold(0.0, f64::max),
        median(results),
        spool.place()
    ));
}

/// Many files of one line, renamed in as fast as that goes; and the syncs of fewer.
pub fn small_files(bench: &Bench) {
    const FILES: usize = 10_000;
    const FILES_TRACED: usize = 1000;
    let simulator = Simulator::start(&bench.simulator, &[]);
    let (mut rates, mut cpu, mut peaks, mut places) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..if is_full() { 5 } else { 3 } {
        let spool = staged(FILES);
        let daemon = Daemon::start(bench, &spool, &simulator, IN_FLIGHT);
        let (began, cpu_before) = (Instant::now(), cpu_seconds(daemon.pid()));
        run_all(&spool, FILES);
        rates.push(FILES as f64 / began.elapsed().as_secs_f64());
        cpu.push((cpu_seconds(daemon.pid()) - cpu_before) * 1e6 / FILES as f64);
        peaks.push(peak_memory(daemon.pid()));
        assert!((1..=FILES).all(|number| spool.is_answered(number, 1)), "a line has no answer");
        drop(daemon);
        places.push(spool.place());
    }
    let spool = staged(FILES_TRACED);
    let syncs = count_syncs(bench, &spool, &simulator, IN_FLIGHT, || run_all(&spool, FILES_TRACED));
    let syncs = syncs.map_or("syncs not counted: strace is missing, or may not trace".to_owned(), |syncs| {
        format!("{:.2} syncs a file, of {FILES_TRACED} under strace", syncs as f64 / FILES_TRACED as f64)
    });
    say(&format!(
        "daemon, {FILES} files of one line of 1 KB, {IN_FLIGHT} in flight: {:.0} files/s (bar 1000), {:.0} us of CPU a \
         file, peak RSS {:.1} MiB; {syncs}; {}",
        median(rates),
        median(cpu),
        median(peaks),
        places.join("; ")
    ));
}

fn staged(files: usize) -> Spool {
    let spool = Spool::new();
    (1..=files).for_each(|number| spool.stage(number, &line(number, PROMPT_BYTES)));
    spool
}

fn run_all(spool: &Spool, files: usize) {
    (1..=files).for_each(|number| spool.drop_in(number));
    (1..=files).for_each(|number| spool.wait_for(number));
}

/// A queue that nobody works off: a service that answers one request in ten minutes.
pub fn queued(bench: &Bench) {
    const FILES: usize = 100_000;
    const IDLE: Duration = Duration::from_secs(20);
    let simulator = Simulator::start(&bench.simulator, &["--latency", "fixed:600000"]);
    let spool = Spool::new();
    (1..=FILES).for_each(|number| spool.write(number, &line(number, 100)));
    let daemon = Daemon::start(bench, &spool, &simulator, 1);
    let is_last = |scan: &Scan| scan.files == FILES as u64 && scan.unsettled == 0;
    until("a scan that finds all files settled", || daemon.scans().last().is_some_and(is_last));
    // What has settled is on its way to the queue.
    std::thread::sleep(Duration::from_secs(1));
    let scans_before = daemon.scans().len();
    let (began, cpu_before) = (Instant::now(), cpu_seconds(daemon.pid()));
    while began.elapsed() < IDLE || is_full() && daemon.scans().len() == scans_before {
        std::thread::sleep(Duration::from_millis(100));
    }
    let idle = began.elapsed().as_secs_f64();
    let share = (cpu_seconds(daemon.pid()) - cpu_before) / idle * 100.0;
    let took: Vec<f64> = daemon.scans().iter().map(|scan| scan.took_seconds).collect();
    say(&format!(
        "daemon, {FILES} files queued: RSS {:.1} MiB, at its peak {:.1} MiB (bar 64); scans {} s (bar 1); idle {share:.2} % \
         of a CPU (bar 1) over {idle:.0} s, {} scans in it; {}",
        resident_memory(daemon.pid()),
        peak_memory(daemon.pid()),
        took.iter().map(|seconds| format!("{seconds:.2}")).collect::<Vec<_>>().join(", "),
        took.len() - scans_before,
        spool.place()
    ));
}

/// Small files, one after another, while one of 100,000 lines is run.
pub fn fairness(bench: &Bench) {
    const LINES: usize = 100_000;
    const FILES: usize = 20;
    const SERVICE_MS: f64 = 20.0;
    let simulator = Simulator::start(&bench.simulator, &["--latency", &format!("fixed:{SERVICE_MS}")]);
    let spool = Spool::new();
    spool.stage(0, &(1..=LINES).map(|number| line(number, 100)).collect::<String>());
    let daemon = Daemon::start(bench, &spool, &simulator, 8);
    spool.drop_in(0);
    until("the large file's requests", || simulator.stat("requests") > 100);
    let time = |number| {
        spool.stage(number, &line(LINES + number, 100));
        let began = Instant::now();
        spool.drop_in(number);
        spool.wait_for(number);
        began.elapsed().as_secs_f64() * 1e3
    };
    let times: Vec<f64> = (1..=FILES).map(time).collect();
    let requests = simulator.stat("requests");
    assert!(requests < LINES as u64, "the large file is not at its end");
    drop(daemon);
    say(&format!(
        "daemon, a file of one line beside one of {LINES}, 8 in flight, {SERVICE_MS} ms of service: done after {:.0} ms, \
         at worst {:.0} ms of {FILES} (bar {:.0}); {}",
        median(times.clone()),
        times.into_iter().fold(0.0, f64::max),
        2.0 * SERVICE_MS + 250.0,
        spool.place()
    ));
}
