//! A token that expires, a service that is down, an endpoint that dies: no line may fail of it, and no effort be wasted.

use std::time::Duration;

use serde_json::json;

use super::Figures;
use super::stage::{Stage, Usage, control, failed};

/// The token expires in the middle; the key file holds the next one a while later.
pub fn token(stage: &Stage, usage: Usage) -> Figures {
    const LINES: usize = 700;
    const ROTATION: Duration = Duration::from_secs(5);
    let _turn = stage.turn();
    let service = stage.simulator(usage, &["--slots", "8", "--token", "old"]);
    let name = format!("key-{usage:?}");
    let key = stage.secret_file(&name, "old\n");
    let key = key.to_str().expect("the folder's name is text");
    let run = stage.run(&[&service], LINES, &["-q", "-j", "64", "--api-key-file", key, "--auth-wait", "2m"]);
    let mut completions = run.next(LINES / 3);
    control(&service, &json!({ "tokens": ["new"] }));
    std::thread::sleep(ROTATION);
    stage.secret_file(&name, "new\n");
    let end = run.finish();
    completions.extend(end.completions);
    let (failed, lines) = (failed(&completions), completions.len());
    let refused = service.stat("auth_refused");
    let exits = usize::from(!end.status.success());
    Figures {
        text: format!("{failed} failed, {exits} exits, {refused} x 401"),
        ok: failed == 0 && exits == 0 && lines == LINES,
    }
}

/// Every third request fails, and for a while all: first nobody listens, then a proxy answers 502.
pub fn outage(stage: &Stage, usage: Usage) -> Figures {
    const LINES: usize = 900;
    const HALF_MS: u64 = 10_000;
    let _turn = stage.turn();
    let service = stage.simulator(usage, &["--slots", "8", "--fault", "status=500@0.3"]);
    let flags = ["-q", "-j", "64", "--max-retry-delay", "1s", "--max-outage", "4m"];
    let run = stage.run(&[&service], LINES, &flags);
    let mut completions = run.next(LINES / 3);
    control(&service, &json!({ "down_ms": HALF_MS }));
    control(&service, &json!({ "down_ms": HALF_MS, "down_status": 502 }));
    let end = run.finish();
    completions.extend(end.completions);
    let (failed, lines) = (failed(&completions), completions.len());
    let sent = service.stat("requests") + service.stat("pages");
    let requests_per_line = sent as f64 / LINES as f64;
    Figures {
        text: format!("{failed} failed, {requests_per_line:.2} requests a line"),
        ok: failed == 0 && lines == LINES && requests_per_line <= 1.5,
    }
}

/// Two endpoints of different size at once, of which one dies.
pub fn endpoints(stage: &Stage, usage: Usage) -> Figures {
    const LINES: usize = 1_200;
    const SMALL_SLOTS: f64 = 4.0;
    const LARGE_SLOTS: f64 = 12.0;
    let _turn = stage.turn();
    let small = stage.simulator(usage, &["--slots", "4"]);
    let large = stage.simulator(usage, &["--slots", "12"]);
    let run = stage.run(&[&small, &large], LINES, &["-q", "-j", "64"]);
    let mut completions = run.next(LINES * 3 / 4);
    let (large_seconds, large_busy) = (run.seconds(), large.ask("/stats")["busy_seconds"].as_f64().unwrap_or_default());
    drop(large);
    // The last few lines leave slots free whatever the client does.
    completions.extend(run.next(LINES / 4 - 20));
    let (small_seconds, small_busy) = (run.seconds(), small.ask("/stats")["busy_seconds"].as_f64().unwrap_or_default());
    let end = run.finish();
    completions.extend(end.completions);
    let (failed, lines) = (failed(&completions), completions.len());
    let sum = (large_busy + small_busy) / (LARGE_SLOTS * large_seconds + SMALL_SLOTS * small_seconds);
    Figures {
        text: format!("{:.1} %, {failed} failed, {lines} lines", 100.0 * sum),
        ok: sum >= 0.95 && failed == 0 && lines == LINES && end.status.success(),
    }
}
