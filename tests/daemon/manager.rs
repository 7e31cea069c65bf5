//! What a service manager hears on its socket (sd_notify(3)), and what it may ask for by signals.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use crate::common::{Run, Signal};
use crate::spool::{Daemon, Spool, lines};
use crate::tools::{has_strace, strace};

/// Hears what a daemon says of itself.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn new(spool: &Spool) -> Manager {
        let socket = UnixDatagram::bind(spool.aside("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        Manager { socket, heard: Vec::new() }
    }

    /// The daemon that it starts.
    fn of(spool: &Spool, run: Run) -> Run {
        run.env("NOTIFY_SOCKET", spool.aside("notify"))
    }

    fn listen(&mut self) -> Option<String> {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).ok()?;
        let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
        self.heard.push(text.clone());
        Some(text)
    }

    /// Waits for a message that holds this text.
    #[track_caller]
    fn wait_for(&mut self, text: &str) -> String {
        let began = Instant::now();
        loop {
            if let Some(message) = self.listen().filter(|message| message.contains(text)) {
                return message;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "{text:?} was never said: {:?}", self.heard);
        }
    }

    /// Forgets what was said so far.
    fn forget(&mut self) {
        while self.listen().is_some() {}
        self.heard.clear();
    }

    /// The longest time without a ping during the next `over`.
    fn longest_silence(&mut self, over: Duration) -> Duration {
        let (began, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
        while began.elapsed() < over {
            let is_ping = self.listen().is_some_and(|message| message.contains("WATCHDOG=1"));
            longest = longest.max(last.elapsed());
            if is_ping {
                last = Instant::now();
            }
        }
        longest
    }

    /// What was said of the state, in order.
    fn states(&self) -> Vec<&str> {
        let states = ["READY=1", "RELOADING=1", "STOPPING=1"];
        self.heard.iter().flat_map(|text| text.lines()).filter(|line| states.contains(line)).collect()
    }
}

#[test]
fn a_manager_hears_of_start_reload_and_stop_in_this_order() {
    let spool = Spool::slow(100);
    let mut manager = Manager::new(&spool);
    // Slow enough that its state is told while the file runs.
    let daemon = Daemon::watching(Manager::of(&spool, spool.daemon().args(["-j", "4"])));
    let ready = manager.wait_for("READY=1");
    assert!(ready.contains("STATUS="), "{ready}");
    spool.put("p.jsonl", lines("p", 60));
    let status = manager.wait_for("STATUS=1 running");
    assert!(status.contains("requests in flight"), "{status}");
    daemon.signal(Signal::HUP);
    let reloading = manager.wait_for("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.wait_for("READY=1");
    daemon.signal(Signal::TERM);
    let output = daemon.finish().expect(0);
    while manager.listen().is_some() {}
    assert_eq!(manager.states(), ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"], "{output}");
    assert!(!manager.heard.iter().any(|text| text.contains("WATCHDOG")), "none was asked for: {:?}", manager.heard);
}

/// Standby is ready, too: a service manager would wait for it in vain otherwise.
#[test]
fn who_waits_for_the_folder_is_ready_and_says_for_whom_it_waits() {
    let spool = Spool::new();
    let holder = spool.start();
    let mut manager = Manager::new(&spool);
    let daemon = Daemon::start(Manager::of(&spool, spool.daemon()).args(["--standby"]));
    let ready = manager.wait_for("READY=1");
    assert!(ready.contains("standby") && ready.contains(&holder.pid().to_string()), "{ready}");
    holder.stop().expect(0);
    manager.wait_for("STATUS=0 running");
    daemon.stop().expect(0);
    manager.wait_for("STOPPING=1");
}

#[test]
fn a_pause_is_told_in_the_status_text() {
    let spool = Spool::with(&["--token", "sk-another"]);
    let mut manager = Manager::new(&spool);
    let _daemon = Daemon::watching(Manager::of(&spool, spool.daemon()));
    spool.put("p.jsonl", lines("p", 3));
    manager.wait_for("STATUS=paused: ");
    assert!(!spool.wait_paused().is_empty());
}

#[test]
fn pings_cease_when_the_daemon_hangs_and_begin_again_when_it_goes_on() {
    let spool = Spool::new();
    let mut manager = Manager::new(&spool);
    let run = Manager::of(&spool, spool.daemon()).env("WATCHDOG_USEC", "600000");
    let daemon = Daemon::watching(run);
    for _ in 0..3 {
        manager.wait_for("WATCHDOG=1");
    }
    let silence = manager.longest_silence(Duration::from_millis(1200));
    assert!(silence < Duration::from_millis(600), "{silence:?} without a ping");
    daemon.signal(Signal::STOP);
    manager.forget();
    let silence = manager.longest_silence(Duration::from_millis(800));
    assert!(silence >= Duration::from_millis(750), "pings while nobody moved: {:?}", manager.heard);
    daemon.signal(Signal::CONT);
    manager.wait_for("WATCHDOG=1");
    daemon.stop().expect(0);
}

/// A disk that hangs is as much of a reason as a loop that does.
#[test]
fn pings_cease_when_the_disk_hangs() {
    if !has_strace() {
        return;
    }
    let spool = Spool::new();
    let mut manager = Manager::new(&spool);
    let daemon = Daemon::watching(Manager::of(&spool, spool.daemon()).env("WATCHDOG_USEC", "600000"));
    manager.wait_for("WATCHDOG=1");
    let held = strace(&daemon, "fdatasync,fsync", "delay_enter=2000000");
    spool.put("p.jsonl", lines("p", 1));
    let silence = manager.longest_silence(Duration::from_secs(3));
    assert!(silence > Duration::from_millis(1500), "pings while the disk hung: {silence:?}, {:?}", manager.heard);
    drop(held);
    spool.wait_for_answers("p.out.jsonl", "p", 1);
    manager.forget();
    manager.wait_for("WATCHDOG=1");
    daemon.stop().expect(0);
}

#[test]
fn a_reload_raises_the_concurrency_and_loses_nothing() {
    let spool = Spool::slow(120);
    let config = spool.aside("config.toml");
    std::fs::write(&config, "concurrency = 2\n").unwrap();
    let mut daemon = Daemon::watching(spool.daemon().args(["--config".as_ref(), config.as_os_str()]));
    spool.put("p.jsonl", lines("p", 40));
    spool.put("big.jsonl", lines("big", 70));
    spool.wait("some answers", || (spool.sim.count("ok") > 4).then_some(()));
    assert_eq!(spool.sim.count("in_flight_max"), 2);
    std::fs::write(&config, "concurrency = 9\n").unwrap();
    daemon.signal(Signal::HUP);
    spool.wait_in_flight(9);
    // What is wrong changes nothing.
    std::fs::write(&config, "concurrency = \"many\"\n").unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_for_stderr("the old one stays");
    spool.wait_in_flight(9);
    std::fs::write(&config, "concurrency = 3\n").unwrap();
    daemon.signal(Signal::HUP);
    spool.wait_in_flight(3);
    spool.wait_for_answers("p.out.jsonl", "p", 40);
    std::fs::write(&config, "concurrency = 30\n").unwrap();
    daemon.signal(Signal::HUP);
    spool.wait_for_answers("big.out.jsonl", "big", 70);
    assert!(spool.sim.count("in_flight_max") <= 30);
    spool.nothing_asked_twice();
    daemon.stop().expect(0);
}

/// A recipe that changes holds for files that are taken from then on, without any signal.
#[test]
fn settings_of_a_folder_hold_for_what_is_taken_next() {
    let spool = Spool::new();
    let _daemon = spool.start();
    for model in ["llama3.2:latest", "think:latest"] {
        spool.put("anvil.toml", format!("model = \"{model}\"\n"));
        spool.put(format!("{model}.jsonl"), lines(model, 2));
        spool.wait_for(format!("{model}.out.jsonl"));
        assert_eq!(spool.sim.stats()["completions_by_model"][model], 2);
    }
}
