//! Quotas, limits and several endpoints hold in the daemon as they do in the filter.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;

use common::{KEY, MODEL, Output, Run, Sim, prompt, prompts};
use serde_json::Value;

/// A daemon that answers what lies in its folder and ends, to be started.
struct Once {
    run: Run,
    spool: PathBuf,
}

impl Once {
    fn on(sims: &[&Sim]) -> Once {
        let run = Run::bare().env("ANVILGPT_API_KEY", KEY);
        let spool = run.path("spool");
        std::fs::create_dir(&spool).unwrap();
        let bases = sims.iter().flat_map(|sim| ["--base-url".to_owned(), sim.base()]);
        let run = run
            .args([
                "daemon",
                "--once",
                "--settle",
                "10ms",
                "--scan-every",
                "50ms",
                "--max-retry-delay",
                "50ms",
                "-m",
                MODEL,
            ])
            .args(bases);
        Once { run: run.args(["--spool".as_ref(), spool.as_os_str()]), spool }
    }

    fn with(self, args: &[&str]) -> Once {
        Once { run: self.run.args(args), ..self }
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.spool.join(name), text).unwrap();
    }

    /// Runs to the end; every file has to be answered in whole, this many lines.
    #[track_caller]
    fn answer(self, files: &[(&str, usize)]) -> Output {
        let output = self.run.output().expect(0);
        for (name, count) in files {
            let path = self.spool.join(format!("{name}.out.jsonl"));
            let text = String::from_utf8(output.file(&format!("spool/{name}.out.jsonl"))).unwrap();
            let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let is_answered = |line: &Value| line["error"].is_null() && line["content"].is_string();
            assert!(lines.len() == *count && lines.iter().all(is_answered), "{}: {text}", path.display());
        }
        output
    }
}

#[test]
fn a_rate_holds_for_all_files_together() {
    let sim = Sim::start(&["--quota", "15/300ms"]);
    let once = Once::on(&[&sim]).with(&["--rate", "15/400ms"]);
    once.put("one.jsonl", &prompts(20));
    once.put("two.jsonl", &(1..=20).map(|number| prompt(&format!("other {number}"))).collect::<String>());
    let output = once.answer(&[("one", 20), ("two", 20)]);
    assert_eq!(sim.stats()["all"]["over_quota"], 0, "{}\n{output}", sim.stats());
    assert_eq!(sim.count("requests"), 40);
}

#[test]
fn the_servers_queue_stays_short() {
    let flags = ["--slots", "4", "--first-token", "15", "--latency", "fixed:30"];
    let queue = |args: &[&str]| {
        let sim = Sim::start(&flags);
        let once = Once::on(&[&sim]).with(args);
        once.put("one.jsonl", &prompts(100));
        once.put("two.jsonl", &(1..=60).map(|number| prompt(&format!("other {number}"))).collect::<String>());
        once.answer(&[("one", 100), ("two", 60)]);
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
    let once = Once::on(&[&sims[0], &sims[1]]);
    once.put("one.jsonl", &prompts(80));
    once.put("two.jsonl", &(1..=40).map(|number| prompt(&format!("other {number}"))).collect::<String>());
    once.answer(&[("one", 80), ("two", 40)]);
    let oks = sims.map(|sim| sim.count("ok"));
    assert!(oks[0] + oks[1] == 120 && oks.iter().all(|ok| *ok > 20), "{oks:?}");
}

#[test]
fn one_endpoint_that_is_away_or_refuses_the_key_costs_no_line() {
    let good = Sim::start(&["--latency", "fixed:5"]);
    let locked = Sim::start(&["--token", "sk-another"]);
    let once = Once::on(&[&locked, &good]).with(&["--base-url", &common::refused_base()]);
    once.put("one.jsonl", &prompts(60));
    once.answer(&[("one", 60)]);
    assert_eq!((good.count("ok"), locked.count("ok")), (60, 0));
}
