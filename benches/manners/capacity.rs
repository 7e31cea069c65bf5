//! A service with a number of slots and an unbounded queue: how near the program comes to the best number in flight,
//! which nobody told it, and how long a queue it leaves there.

use std::sync::OnceLock;

use serde_json::json;

use super::Figures;
use super::stage::{Stage, Usage, control};

/// One service of a number of slots.
pub struct Steady {
    slots: usize,
    /// About a minute's worth
    lines: usize,
    throughput_min: f64,
    queue_max: f64,
    /// Median time of an answer over that without the queue
    slowdown_max: f64,
    best: OnceLock<f64>,
}

/// 8 slots.
pub static EIGHT: Steady =
    Steady { slots: 8, lines: 1400, throughput_min: 0.97, queue_max: 1.5, slowdown_max: 1.3, best: OnceLock::new() };
/// 2 slots.
pub static TWO: Steady = Steady {
    slots: 2,
    lines: 360,
    throughput_min: 0.92,
    queue_max: 1.5,
    slowdown_max: f64::INFINITY,
    best: OnceLock::new(),
};
/// 32 slots.
pub static THIRTY_TWO: Steady = Steady {
    slots: 32,
    lines: 5600,
    throughput_min: 0.97,
    queue_max: f64::INFINITY,
    slowdown_max: f64::INFINITY,
    best: OnceLock::new(),
};

impl Steady {
    /// Lines a second of the best fixed number in flight. Usage means nothing to such a run, so it is measured once.
    fn best(&self, stage: &Stage) -> f64 {
        let fixed = |in_flight: usize| self.rate(stage, Usage::Told, &["--fixed", "-j", &in_flight.to_string()]).0;
        let all_fixed = || {
            std::thread::scope(|scope| {
                let runs = (0..3).map(|more| scope.spawn(move || fixed(self.slots + more))).collect::<Vec<_>>();
                runs.into_iter().map(|run| run.join().expect("a fixed run ends")).fold(0.0, f64::max)
            })
        };
        *self.best.get_or_init(all_fixed)
    }

    /// Lines a second over the whole run, its start and its end included, and what the service counted.
    fn rate(&self, stage: &Stage, usage: Usage, flags: &[&str]) -> (f64, serde_json::Value) {
        let _turn = stage.turn();
        let service = stage.simulator(usage, &["--slots", &self.slots.to_string()]);
        let times = stage.run(&[&service], self.lines, &[&["-q"], flags].concat()).answered();
        let last = times.last().copied().expect("there is a completion");
        (times.len() as f64 / last, service.ask("/stats"))
    }
}

/// The same number of slots all the time.
pub fn steady(stage: &Stage, usage: Usage, case: &Steady) -> Figures {
    let (rate, stats) = case.rate(stage, usage, &["-j", "64"]);
    let throughput = rate / case.best(stage);
    let queue = stats["queued_mean"].as_f64().expect("it counts the queue");
    let seconds = |name: &str| stats["all"][name].as_f64().expect("it measures time");
    let slowdown = seconds("seconds_p50") / seconds("service_seconds_p50");
    Figures {
        text: format!("{:.1} %, queue {queue:.2}, p50 {slowdown:.2} x", 100.0 * throughput),
        ok: throughput >= case.throughput_min && queue <= case.queue_max && slowdown <= case.slowdown_max,
    }
}

/// Slots, and how many completions are measured.
const PHASES: [(usize, usize); 3] = [(8, 160), (2, 120), (16, 320)];
/// Completions after each change that are not measured.
const SETTLING: usize = 60;

/// The number of slots changes twice.
pub fn changing(stage: &Stage, usage: Usage) -> Figures {
    static BEST: OnceLock<Vec<f64>> = OnceLock::new();
    // More than any phase has slots, so that none is ever free.
    let best = BEST.get_or_init(|| rates(stage, Usage::Told, &["--fixed", "-j", "24"]));
    let own = rates(stage, usage, &["-j", "64"]);
    let shares: Vec<f64> = own.iter().zip(best).map(|(own, best)| own / best).collect();
    let texts: Vec<String> = shares.iter().map(|share| format!("{:.0} %", 100.0 * share)).collect();
    Figures { text: texts.join(", "), ok: shares.iter().all(|&share| share >= 0.9) }
}

/// Completions a second in each phase.
fn rates(stage: &Stage, usage: Usage, flags: &[&str]) -> Vec<f64> {
    let _turn = stage.turn();
    let service = stage.simulator(usage, &["--slots", &PHASES[0].0.to_string()]);
    // Those in flight at the end would finish the faster for having no followers.
    let lines = PHASES.iter().map(|(_, measured)| SETTLING + measured).sum::<usize>() + 64;
    let run = stage.run(&[&service], lines, &[&["-q"], flags].concat());
    let phase = |&(slots, measured): &(usize, usize)| {
        control(&service, &json!({ "slots": slots }));
        let settled = run.next(SETTLING).last().expect("a run goes on").seconds;
        let measured = run.next(measured);
        measured.len() as f64 / (measured.last().expect("a run goes on").seconds - settled)
    };
    PHASES.iter().map(phase).collect()
}
