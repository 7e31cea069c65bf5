//! A service that others use, too: how it is shared between equals, and what a person beside us notices.

use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use super::Figures;
use super::stage::{KEY, Stage, Usage, chat, prompt};

const SLOTS: usize = 8;
/// Time for runs to find their share before anybody looks.
const WARM_UP: Duration = Duration::from_secs(10);
/// How long runs that share are watched.
const WATCH: Duration = Duration::from_secs(50);

/// Three runs of the program that know nothing of each other.
pub fn three(stage: &Stage, usage: Usage) -> Figures {
    const KEYS: [&str; 3] = ["key-0", "key-1", "key-2"];
    let _turn = stage.turn();
    let tokens = KEYS.iter().flat_map(|key| ["--token", key]);
    let service = stage.simulator(usage, &["--slots", "8"].into_iter().chain(tokens).collect::<Vec<_>>());
    // More lines than all slots could answer for one of them.
    let runs = KEYS.map(|key| stage.run_with_key(&[&service], 2_000, &["-q", "-j", "64"], key));
    std::thread::sleep(WARM_UP);
    let before = service.ask("/stats");
    std::thread::sleep(WATCH);
    let after = service.ask("/stats");
    drop(runs);
    let grown = |read: &dyn Fn(&Value) -> Option<f64>| read(&after).unwrap_or(0.0) - read(&before).unwrap_or(0.0);
    let sum = grown(&|stats| stats["busy_seconds"].as_f64()) / (SLOTS as f64 * WATCH.as_secs_f64());
    let all = grown(&|stats| stats["ok"].as_f64());
    let mut shares = [0, 1, 2].map(|index| grown(&|stats| stats["by_token"][index.to_string()]["ok"].as_f64()) / all);
    shares.sort_by(|one, other| other.total_cmp(one));
    let [most, middle, least] = shares.map(|share| 100.0 * share);
    let queue = after["queued_mean"].as_f64().unwrap_or_default();
    Figures {
        text: format!("{:.1} %, {most:.0}/{middle:.0}/{least:.0}, queue {queue:.2}", 100.0 * sum),
        ok: sum >= 0.95 && least >= 25.0 && most <= 42.0,
    }
}

/// Questions of a person, and the pause between an answer and the next question.
const QUESTIONS: usize = 80;
const PAUSE: Duration = Duration::from_millis(250);
/// Fewer beside a run that makes the person wait long.
const QUESTIONS_BESIDE_FIXED: usize = 20;

/// A person asks one question at a time while a long run is under way.
pub fn interactive(stage: &Stage, usage: Usage) -> Figures {
    static ALONE: OnceLock<Vec<f64>> = OnceLock::new();
    static BESIDE_FIXED: OnceLock<Vec<f64>> = OnceLock::new();
    let own = beside(stage, usage, Some(&["-j", "64"]), QUESTIONS);
    let alone = ALONE.get_or_init(|| beside(stage, Usage::Told, None, QUESTIONS));
    let fixed =
        BESIDE_FIXED.get_or_init(|| beside(stage, Usage::Told, Some(&["--fixed", "-j", "64"]), QUESTIONS_BESIDE_FIXED));
    let factor = |times: &[f64]| times.iter().sum::<f64>() / alone[..times.len()].iter().sum::<f64>();
    let (ours, fixed) = (factor(&own), factor(fixed));
    Figures { text: format!("{ours:.2} x (beside `--fixed -j 64`: {fixed:.1} x)"), ok: ours <= 1.2 }
}

/// Seconds that each answer to a person takes beside a run with these flags.
fn beside(stage: &Stage, usage: Usage, flags: Option<&[&str]>, questions: usize) -> Vec<f64> {
    const PERSON: &str = "key-1";
    let _turn = stage.turn();
    let service = stage.simulator(usage, &["--slots", &SLOTS.to_string(), "--token", KEY, "--token", PERSON]);
    let _run = flags.map(|flags| {
        let run = stage.run(&[&service], 4_000, &[&["-q"], flags].concat());
        std::thread::sleep(WARM_UP);
        run
    });
    let ask = |number| {
        std::thread::sleep(PAUSE);
        chat(&service, PERSON, &prompt(PERSON, number))
    };
    (0..questions).map(ask).collect()
}
