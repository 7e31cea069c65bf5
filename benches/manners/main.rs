//! How the program treats a service that is shared, limited or broken: `cargo bench --bench manners` prints one table.
//!
//! Each case runs the released program against the project's own simulator, with fixed seeds and with time scaled: an
//! answer takes a third of a second, its first token 25 ms. Twice: once the answers tell their usage, durations and all
//! as Ollama does, and once they do not. Nothing here needs much of the processor, so cases run side by side; the last
//! line says how busy the machine was. `cargo bench --bench manners -- slots quota` runs the cases of such names.

#[path = "../throughput/binaries.rs"]
mod binaries;
mod capacity;
mod neighbours;
#[path = "../throughput/process.rs"]
#[allow(dead_code, reason = "the other bench measures time and memory, too")]
mod process;
mod quota;
mod stage;
mod trouble;

use std::thread::{Scope, ScopedJoinHandle};

use process::say;
use stage::{Stage, Usage};

/// What a case came to.
struct Figures {
    text: String,
    ok: bool,
}

/// One row of the table.
struct Case {
    name: &'static str,
    what: &'static str,
    bar: &'static str,
    measure: fn(&Stage, Usage) -> Figures,
}

const CASES: [Case; 10] = [
    Case {
        name: "slots-8",
        what: "8 slots, `-j 64`",
        bar: "97 % of the best fixed, queue 1.5, p50 1.3 x unloaded",
        measure: |stage, usage| capacity::steady(stage, usage, &capacity::EIGHT),
    },
    Case {
        name: "slots-2",
        what: "2 slots, `-j 64`",
        bar: "92 % of the best fixed, queue 1.5",
        measure: |stage, usage| capacity::steady(stage, usage, &capacity::TWO),
    },
    Case {
        name: "slots-32",
        what: "32 slots, `-j 64`",
        bar: "97 % of the best fixed",
        measure: |stage, usage| capacity::steady(stage, usage, &capacity::THIRTY_TWO),
    },
    Case {
        name: "slots-change",
        what: "8, 2, then 16 slots in one run",
        bar: "90 % of the new best after 60 completions",
        measure: capacity::changing,
    },
    Case {
        name: "three-of-us",
        what: "three of us on 8 slots",
        bar: "95 % of the slots, each 25 to 42 % of the answers",
        measure: neighbours::three,
    },
    Case {
        name: "interactive",
        what: "a person on the same 8 slots",
        bar: "waits 1.2 x as long as alone",
        measure: neighbours::interactive,
    },
    Case {
        name: "quota",
        what: "60/500ms, 1000/30s and 2000/90s at once",
        bar: "no 429, 97 % used, ETA within 10 %",
        measure: quota::three_windows,
    },
    Case {
        name: "token",
        what: "the token expires and is rotated 5 s later",
        bar: "0 lines failed, 0 exits",
        measure: trouble::token,
    },
    Case {
        name: "outage",
        what: "down for 20 s, 30 % random 500",
        bar: "0 lines failed, 1.5 requests a line",
        measure: trouble::outage,
    },
    Case {
        name: "endpoints",
        what: "endpoints of 4 and 12 slots, the larger dies at half time",
        bar: "95 % of the slots, 0 lines failed",
        measure: trouble::endpoints,
    },
];

fn main() {
    // Cargo adds flags of its own.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |case: &&Case| wanted.is_empty() || wanted.iter().any(|part| case.name.contains(part.as_str()));
    let cases: Vec<&Case> = CASES.iter().filter(is_wanted).collect();
    if cases.is_empty() {
        return;
    }
    let stage = Stage::build();
    let before = Processor::now();
    say("| case | with usage | without usage | bar | ok |\n|---|---|---|---|---|");
    std::thread::scope(|scope| {
        let running: Vec<_> = cases.iter().map(|case| (case, start(scope, &stage, case))).collect();
        for (case, both) in running {
            let [told, missing] = both.map(end);
            let ok = if told.ok && missing.ok { "yes" } else { "NO" };
            say(&format!("| {}: {} | {} | {} | {} | {ok} |", case.name, case.what, told.text, missing.text, case.bar));
        }
    });
    say(&format!("\nthe machine was busy {:.0} % of the time", before.busy_percent_since()));
}

fn start<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    stage: &'scope Stage,
    case: &'scope Case,
) -> [ScopedJoinHandle<'scope, Figures>; 2] {
    [Usage::Told, Usage::Missing].map(|usage| scope.spawn(move || (case.measure)(stage, usage)))
}

/// What a case came to; one that broke off has said why on stderr.
fn end(case: ScopedJoinHandle<'_, Figures>) -> Figures {
    case.join().unwrap_or_else(|_| Figures { text: "broke off".to_owned(), ok: false })
}

/// Time of all processors together, in clock ticks (proc_stat(5)).
struct Processor {
    all: f64,
    idle: f64,
}

impl Processor {
    fn now() -> Processor {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
        let ticks: Vec<f64> = fields.filter_map(|field| field.parse().ok()).collect();
        // user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of these.
        Processor { all: ticks.iter().take(8).sum(), idle: ticks.iter().skip(3).take(2).sum() }
    }

    fn busy_percent_since(&self) -> f64 {
        let now = Processor::now();
        100.0 * (1.0 - (now.idle - self.idle) / (now.all - self.all).max(1.0))
    }
}
