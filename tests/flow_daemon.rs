//! Quotas, limits and several endpoints hold in the daemon as they do in the filter.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;

use common::{KEY, MODEL, Output, Run, Signal, Sim, prompt, wait_for};
use serde_json::Value;

/// A daemon to be started, and its folder.
struct Spool {
    run: Run,
    folder: PathBuf,
}

impl Spool {
    fn on(sims: &[&Sim]) -> Spool {
        let run = Run::bare().env("ANVILGPT_API_KEY", KEY);
        let folder = run.path("spool");
        std::fs::create_dir(&folder).unwrap();
        let bases = sims.iter().flat_map(|sim| ["--base-url".to_owned(), sim.base()]);
        let run = run.args(["daemon", "--settle", "10ms", "--max-retry-delay", "50ms", "-m", MODEL]).args(bases);
        Spool { run: run.args(["--spool".as_ref(), folder.as_os_str()]), folder }
    }

    fn with(self, args: &[&str]) -> Spool {
        Spool { run: self.run.args(args), ..self }
    }

    /// Runs until these files are answered, each line of them; their prompts begin with the file's name.
    #[track_caller]
    fn answer(self, files: &[(&str, usize)]) -> Output {
        let mut live = self.run.start();
        let status = self.folder.join(".anvil/status.json");
        wait_for("the daemon", || (status.exists() || live.has_ended()).then_some(()));
        for (name, count) in files {
            let lines: String = (1..=*count).map(|number| prompt(&format!("{name} {number}"))).collect();
            let aside = self.folder.join(format!(".{name}.put"));
            std::fs::write(&aside, lines).unwrap();
            std::fs::rename(aside, self.folder.join(format!("{name}.jsonl"))).unwrap();
        }
        for (name, count) in files {
            let result = self.folder.join(format!("{name}.out.jsonl"));
            let text = wait_for(name, || std::fs::read_to_string(&result).ok().or(live.has_ended().then(String::new)));
            let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let wanted = (1..=*count).map(|number| format!("Echo: {name} {number}"));
            let found = lines.iter().map(|line| line["content"].as_str().unwrap_or_default().to_owned());
            assert!(found.eq(wanted), "{text}\n{}", live.stderr());
        }
        live.signal(Signal::TERM);
        live.finish().expect(0)
    }
}

#[test]
fn a_rate_holds_for_all_files_together() {
    let sim = Sim::start(&["--quota", "15/300ms"]);
    let spool = Spool::on(&[&sim]).with(&["--rate", "15/400ms"]);
    let output = spool.answer(&[("one", 20), ("two", 20)]);
    assert_eq!(sim.stats()["all"]["over_quota"], 0, "{}\n{output}", sim.stats());
    assert_eq!(sim.count("requests"), 40);
}

#[test]
fn the_servers_queue_stays_short() {
    let flags = ["--slots", "4", "--first-token", "15", "--latency", "fixed:30"];
    let queue = |args: &[&str]| {
        let sim = Sim::start(&flags);
        let spool = Spool::on(&[&sim]).with(args);
        spool.answer(&[("one", 100), ("two", 60)]);
        sim.count("queued_max")
    };
    let (adaptive, fixed) = std::thread::scope(|scope| {
        let fixed = scope.spawn(|| queue(&["-j", "32", "--fixed"]));
        (queue(&["-j", "32"]), fixed.join().unwrap())
    });
    assert!(adaptive <= 8 && fixed > 16, "{adaptive} queued at most, {fixed} with --fixed");
}

#[test]
fn several_endpoints_share_the_files() {
    let sims = [Sim::start(&["--latency", "fixed:10"]), Sim::start(&["--latency", "fixed:10"])];
    let spool = Spool::on(&[&sims[0], &sims[1]]);
    spool.answer(&[("one", 80), ("two", 40)]);
    let oks = sims.map(|sim| sim.count("ok"));
    assert!(oks[0] + oks[1] == 120 && oks.iter().all(|ok| *ok > 20), "{oks:?}");
}

#[test]
fn one_endpoint_that_is_away_or_refuses_the_key_costs_no_line() {
    let good = Sim::start(&["--latency", "fixed:5"]);
    let locked = Sim::start(&["--token", "sk-another"]);
    let spool = Spool::on(&[&locked, &good]).with(&["--base-url", &common::refused_base()]);
    spool.answer(&[("one", 60)]);
    assert_eq!((good.count("ok"), locked.count("ok")), (60, 0));
}
