//! Trouble upstream is waited out and not charged to the lines; a reply that does not hold up is never a completion.

#![allow(clippy::unwrap_used)]

mod common;

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use common::{Output, Run, Sim, prompt, prompts, refused_base};
use serde_json::{Value, json};

const MEBIBYTE: u64 = 1 << 20;
/// What a busy machine may add to a wait.
const SLACK: f64 = 2.0;

/// One line with a directive, alone in its run.
fn alone(directive: &str, args: &[&str]) -> Output {
    let sim = Sim::start(&[]);
    Run::on(&sim).args(args).input(prompt(&format!("{directive} alone"))).output()
}

#[track_caller]
fn settles_as(directive: &str, args: &[&str], code: &str, attempts: u64) -> Value {
    let output = alone(directive, args);
    let line = output.only_line();
    let found = (common::code_of(&line), line["attempts"].as_u64().unwrap());
    assert_eq!(found, (code.to_owned(), attempts), "{directive} {args:?}: {output}");
    assert_eq!(output.status, i32::from(!code.is_empty()), "{output}");
    if code.is_empty() {
        assert!(line["content"].as_str().unwrap().starts_with("Echo: "), "{line}");
    } else {
        assert!(line["content"].is_null(), "{line}");
    }
    line
}

// Row 26.

fn is_an_outage(run: Run) {
    let failed = run.path("failed.jsonl");
    let run = run.args(["--max-outage", "400ms", "--failed"]).args([failed]);
    let output = run.input(prompts(3)).output().expect(75);
    assert!(output.stdout.is_empty(), "no line is charged: {output}");
    assert_eq!(String::from_utf8(output.file("failed.jsonl")).unwrap(), prompts(3));
    assert!(output.stderr.contains("run the same command again"), "{output}");
}

#[test]
fn a_refused_port_is_an_outage() {
    is_an_outage(Run::at(&refused_base()));
    is_an_outage(Run::at(&refused_base()).args(["--dialect", "openai"]));
}

#[test]
fn a_name_that_does_not_exist_is_an_outage() {
    let run = Run::bare().args(["--base-url", "https://service.invalid/api", "-m", "x", "--max-retry-delay", "50ms"]);
    let key = run.file("key", "sk-other");
    is_an_outage(run.args(["--connect-timeout", "2s", "--api-key-file"]).args([key]));
}

#[test]
fn a_port_that_never_accepts_is_an_outage() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _context = runtime.enter();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let short = Duration::from_millis(300);
    let queue: Vec<TcpStream> = std::iter::from_fn(|| TcpStream::connect_timeout(&address, short).ok()).collect();
    assert!(!queue.is_empty());
    is_an_outage(Run::at(&format!("http://{address}/api")).args(["--connect-timeout", "150ms"]));
}

#[test]
fn a_service_that_comes_back_answers_every_line() {
    let sim = Sim::start(&[]);
    sim.control(&json!({"down_ms": 600}));
    let output = Run::on(&sim).input(prompts(30)).output().expect(0);
    assert_eq!(output.codes(), vec![""; 30]);
    assert!(output.lines().iter().all(|line| line["attempts"] == 1), "{output}");
}

// Row 28.

#[test]
fn a_connection_lost_after_the_request_is_tried_three_times() {
    for fault in ["eof", "reset"] {
        settles_as(&format!("sim:{fault}*2"), &[], "", 3);
        let sim = Sim::start(&[]);
        let line = Run::on(&sim).input(prompt(&format!("sim:{fault} alone"))).output().expect(1).only_line();
        assert_eq!((common::code_of(&line).as_str(), &line["attempts"]), ("connection_lost", &json!(3)));
        assert_eq!(sim.count("requests"), 3);
    }
}

#[test]
fn connections_closed_while_idle_cost_nothing() {
    let sim = Sim::start(&["--fault", "idle-close"]);
    let output = Run::on(&sim).args(["-j", "2"]).input(prompts(100)).output().expect(0);
    assert_eq!(output.codes(), vec![""; 100]);
    assert_eq!(sim.count("repeats_after_ok"), 0);
}

// Row 29.

#[test]
fn each_clock_fires() {
    let clocks =
        ["--first-token-timeout", "300ms", "--chunk-timeout", "300ms", "--reply-timeout", "400ms", "--upstream"];
    for fault in ["hang-head", "hang-first", "hang-mid", "drip"] {
        for upstream in ["stream", "whole"] {
            let args: Vec<&str> = clocks.into_iter().chain([upstream]).collect();
            let line = settles_as(&format!("sim:{fault} one two three"), &args, "timeout", 2);
            let seconds = line["seconds"].as_f64().unwrap();
            assert!((0.6..0.9 + SLACK).contains(&seconds), "{fault} {upstream}: {line}");
        }
    }
}

#[test]
fn a_line_that_hangs_once_is_answered_and_others_are_not_charged() {
    let sim = Sim::start(&[]);
    let args = ["--first-token-timeout", "300ms", "--chunk-timeout", "300ms", "-j", "4"];
    let input = format!("{}{}{}", prompt("sim:hang-head*1 a"), prompt("sim:hang-mid*1 b"), prompts(20));
    let output = Run::on(&sim).args(args).input(input).output().expect(0);
    assert_eq!(output.codes(), vec![""; 22]);
}

#[test]
fn a_slow_stream_that_lives_is_left_alone() {
    let sim = Sim::start(&["--chunk-delay", "150"]);
    let args = ["--first-token-timeout", "2s", "--chunk-timeout", "1s", "--reply-timeout", "1s"];
    let line = Run::on(&sim).args(args).input(prompt("a b c d e f g h i j k")).output().expect(0).only_line();
    assert_eq!(line["attempts"], 1);
    assert!(line["seconds"].as_f64().unwrap() > 1.0, "{line}");
}

// Row 30.

#[test]
fn a_truncated_reply_is_never_a_completion() {
    for fault in ["cut-length", "cut-chunk", "cut-close", "no-finish"] {
        for upstream in ["stream", "whole"] {
            if (fault, upstream) == ("no-finish", "whole") {
                continue; // A whole object says by itself that it is whole.
            }
            for regime in ["0.6", "0.12", "openai"] {
                let sim = Sim::start(&["--regime", regime]);
                let input = prompt(&format!("sim:{fault} one two three four"));
                let output = Run::on(&sim).args(["--upstream", upstream]).input(input).output().expect(1);
                let code = output.codes().concat();
                assert!(
                    ["connection_lost", "upstream_invalid"].contains(&code.as_str()),
                    "{fault} {upstream}: {output}"
                );
                assert_eq!(sim.count("requests"), 3, "{fault} {upstream} {regime}");
            }
            settles_as(&format!("sim:{fault}*2 one two three four"), &["--upstream", upstream], "", 3);
        }
    }
}

#[test]
fn a_reply_without_end_is_cut_at_its_bound() {
    for upstream in ["stream", "whole"] {
        let args = ["--max-reply-bytes", "1M", "--upstream", upstream];
        settles_as("sim:endless", &args, "reply_too_large", 1);
    }
}

// Row 31.

#[test]
fn a_success_without_an_answer_is_tried_three_times_and_then_an_error() {
    let kinds = [
        "null",
        "error-json",
        "empty-choices",
        "empty-stream",
        "task",
        "mid-error",
        "model-ollama",
        "bad-json",
        "wrapped=200",
    ];
    for kind in kinds {
        settles_as(&format!("sim:{kind} one two three four"), &[], "upstream_invalid", 3);
        settles_as(&format!("sim:{kind}*2 one two three four"), &[], "", 3);
    }
}

#[test]
fn an_error_in_mid_stream_is_no_answer_in_any_regime() {
    for regime in ["0.6", "0.12", "openai"] {
        for (kind, upstream) in [("mid-error", "stream"), ("model-ollama", "stream"), ("model-ollama", "whole")] {
            let sim = Sim::start(&["--regime", regime]);
            let input = prompt(&format!("sim:{kind} one two three four"));
            let output = Run::on(&sim).args(["--upstream", upstream]).input(input).output().expect(1);
            assert_eq!(output.codes(), ["upstream_invalid"], "{regime} {kind}: {output}");
        }
    }
}

#[test]
fn a_page_before_the_first_success_is_a_wrong_address_and_after_it_an_outage() {
    let output = alone("sim:html", &[]).expect(69);
    assert!(output.stdout.is_empty() && output.stderr.contains("--base-url"), "{output}");
    let sim = Sim::start(&[]);
    let input = format!("{}{}", prompts(1), prompt("sim:html*3 second"));
    let found = Run::on(&sim).args(["-j", "1"]).input(input).output().expect(0).lines();
    assert_eq!(found[1]["attempts"], 4);
}

// Row 32.

#[test]
fn a_400_around_another_status_is_that_status() {
    for status in [408, 429, 500, 502, 503, 504] {
        settles_as(&format!("sim:wrapped={status}*1 x"), &[], "", 2);
    }
    settles_as("sim:wrapped=404", &[], "model_not_found", 1);
    settles_as("sim:wrapped=400", &[], "upstream_rejected", 1);
}

#[test]
fn a_refusal_of_the_line_is_not_tried_again() {
    for status in [400, 402, 413, 422] {
        let line = settles_as(&format!("sim:status={status} my secret words"), &[], "upstream_rejected", 1);
        assert_eq!(line["error"]["status"], status);
        assert!(!line["error"]["message"].as_str().unwrap().contains("secret"), "a 422 echoes what was sent: {line}");
    }
}

#[test]
fn what_the_service_can_mend_is_tried_up_to_its_bound() {
    settles_as("sim:status=500*9", &[], "", 10);
    settles_as("sim:status=504*1", &[], "", 2);
    settles_as("sim:status=504", &[], "timeout", 2);
    for status in [429, 502, 503] {
        settles_as(&format!("sim:status={status}*4"), &[], "", 5);
    }
}

#[test]
fn what_will_never_work_halts_the_run() {
    for status in [501, 505] {
        let output = alone(&format!("sim:status={status}"), &[]).expect(78);
        assert!(output.stdout.is_empty(), "{output}");
    }
    let sim = Sim::start(&[]);
    let output = Run::at(&format!("{}/v2", sim.base())).input(prompts(2)).output().expect(69);
    assert!(output.stdout.is_empty() && output.stderr.contains("--base-url"), "{output}");
}

// Row 33.

/// The seconds that a line took which met this fault once.
fn seconds_after(fault: &str) -> f64 {
    let line = settles_as(&format!("sim:{fault}*1 x"), &[], "", 2);
    line["seconds"].as_f64().unwrap()
}

#[test]
fn a_wait_that_the_service_asks_for_is_kept_exactly() {
    let forms = [
        ("retry-after=429:1", 1.0),
        ("retry-after=503:0.5", 0.5),
        ("retry-after=429:date+2", 2.0),
        ("retry-after=503:date+1", 1.0),
        ("rate-headers=429:0:1s", 1.0),
        ("rate-headers=429:0:500ms", 0.5),
        ("rate-headers=429:0:1", 1.0),
    ];
    for (fault, wait) in forms {
        let seconds = seconds_after(fault);
        assert!((wait..wait * 1.1 + SLACK).contains(&seconds), "{fault}: {seconds}");
    }
}

#[test]
fn a_wait_in_the_past_or_of_garbage_is_ignored() {
    let forms = ["429:date-100", "429:-5", "503:soon", "429:", "429:0", "429:NaN", "503:1e999", "429:inf"];
    for form in forms {
        let seconds = seconds_after(&format!("retry-after={form}"));
        assert!(seconds < SLACK, "{form}: {seconds}");
    }
    let seconds = seconds_after("rate-headers=429:5:60");
    assert!(seconds < SLACK, "quota is left: {seconds}");
}

#[test]
fn a_wait_gates_the_whole_endpoint() {
    let sim = Sim::start(&[]);
    let began = Instant::now();
    let mut live = Run::on(&sim).args(["-j", "1", "--unordered"]).start();
    live.feed_and_close(format!("{}{}", prompt("sim:retry-after=429:1*1 first"), prompts(3)).into_bytes());
    live.wait_for_lines(1);
    assert!(began.elapsed() >= Duration::from_secs(1), "another line was sent meanwhile");
    live.finish().expect(0);
}

#[test]
fn an_exhausted_quota_on_a_success_gates_too() {
    let sim = Sim::start(&[]);
    let input = format!("{}{}", prompt("sim:rate-headers=200:0:1s first"), prompts(1));
    let began = Instant::now();
    let output = Run::on(&sim).args(["-j", "1"]).input(input).output().expect(0);
    assert_eq!(output.codes(), ["", ""]);
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[test]
fn a_wait_that_outlasts_the_patience_ends_the_run_at_once_and_names_the_time() {
    for fault in ["retry-after=503:3600", "retry-after=429:date+3600", "rate-headers=429:0:1h0m0s"] {
        let output = alone(&format!("sim:{fault}"), &["--max-outage", "10m"]).expect(75);
        assert!(output.waited < Duration::from_secs(5) && output.stdout.is_empty(), "{output}");
        let year = |text: &str| text.split("until ").nth(1).is_some_and(|rest| rest.starts_with("20"));
        assert!(year(&output.stderr) && output.stderr.contains("--max-outage"), "{output}");
    }
}

// Row 34.

#[test]
fn a_token_that_expires_in_mid_run_is_read_again() {
    let sim = Sim::start(&["--token", "sk-old", "--latency", "fixed:20"]);
    let run = Run::on(&sim).without("ANVILGPT_API_KEY");
    let key = run.file("key", "sk-old\n");
    let mut live = run.args(["--api-key-file".as_ref(), key.as_os_str()]).start();
    live.feed_and_close(prompts(100).into_bytes());
    live.wait_for_lines(10);
    sim.control(&json!({"tokens": ["sk-new"]}));
    live.wait_for_stderr("token is rejected");
    assert!(!live.has_ended());
    common::write_private(&key, b"sk-new\n");
    let output = live.finish().expect(0);
    assert_eq!(output.codes(), vec![""; 100]);
    let last = sim.requests().pop().unwrap();
    assert_eq!(last["authorization_token_index"], 0);
    assert!(sim.count("auth_refused") < 30, "a doubtful token is not tried on every line");
}

#[test]
fn a_token_that_nobody_replaces_ends_the_run_with_77() {
    let sim = Sim::start(&["--token", "sk-old", "--latency", "fixed:20"]);
    let run = Run::on(&sim).without("ANVILGPT_API_KEY").args(["--auth-wait", "300ms"]);
    let key = run.file("key", "sk-old\n");
    let mut live = run.args(["--api-key-file".as_ref(), key.as_os_str()]).start();
    live.feed_and_close(prompts(100).into_bytes());
    live.wait_for_lines(10);
    sim.control(&json!({"tokens": ["sk-new"]}));
    let output = live.finish().expect(77);
    assert!(output.codes().iter().all(String::is_empty), "{output}");
}

#[test]
fn a_token_of_the_environment_cannot_be_replaced_so_the_run_drains() {
    let sim = Sim::start(&["--token", common::KEY, "--latency", "fixed:20"]);
    let mut live = Run::on(&sim).start();
    live.feed_and_close(prompts(100).into_bytes());
    live.wait_for_lines(10);
    sim.control(&json!({"tokens": ["sk-new"]}));
    let output = live.finish().expect(77);
    let codes = output.codes();
    assert!(codes.len() >= 10 && codes.len() < 100 && codes.iter().all(String::is_empty), "{output}");
    assert!(output.waited < Duration::from_secs(5));
}

#[test]
fn a_token_that_was_never_accepted_ends_the_run_with_77() {
    for regime in ["0.6", "0.12", "openai"] {
        let sim = Sim::start(&["--token", "sk-other", "--regime", regime]);
        let output = Run::on(&sim).input(prompts(20)).output().expect(77);
        assert!(output.stdout.is_empty() && output.stderr.contains("token"), "{output}");
        let run = Run::on(&sim).without("ANVILGPT_API_KEY");
        let key = run.file("key", "sk-wrong");
        run.args(["--api-key-file".as_ref(), key.as_os_str()]).input(prompts(20)).output().expect(77);
    }
}

// Row 35.

#[test]
fn a_line_that_may_not_be_asked_is_isolated() {
    for fault in ["forbidden", "unauthorized"] {
        let sim = Sim::start(&[]);
        let input = format!("{}{}{}", prompts(2), prompt(&format!("sim:{fault}")), prompts(2));
        let output = Run::on(&sim).input(input).output().expect(1);
        assert_eq!(output.codes(), ["", "", "not_allowed", "", ""]);
        assert_eq!(sim.count("requests"), 5);
        assert!(sim.count("models_requests") <= 1);
    }
    // The first line of a run is no different.
    settles_as("sim:forbidden", &[], "not_allowed", 1);
}

#[test]
fn not_found_for_all_is_a_wrong_address_and_for_one_its_own_error() {
    let sim = Sim::start(&["--regime", "openai", "--fault", "status=404"]);
    let output = Run::on(&sim).input(prompts(50)).output().expect(69);
    assert!(output.stderr.contains("404") && sim.count("requests") < 12, "{output}");
    let sim = Sim::start(&["--regime", "openai"]);
    let input = format!("{}{}{}", prompts(1), "{\"prompt\":\"a\",\"model\":\"no-such\"}\n".repeat(5), prompts(1));
    let output = Run::on(&sim).args(["-j", "1"]).input(input).output().expect(1);
    let missing = "model_not_found";
    assert_eq!(output.codes(), ["", missing, missing, missing, missing, missing, ""]);
}

#[test]
fn a_model_that_does_not_exist_is_told_from_an_outage_by_one_list() {
    for regime in ["0.6", "0.12"] {
        let sim = Sim::start(&["--regime", regime]);
        let input = format!("{}{}", prompts(2), "{\"prompt\":\"a\",\"model\":\"no-such\"}\n".repeat(20));
        let output = Run::on(&sim).input(input).output().expect(1);
        assert_eq!(output.codes(), [vec![""; 2], vec!["model_not_found"; 20]].concat());
        let message = output.lines()[2]["error"]["message"].to_string();
        assert!(message.contains(common::MODEL), "{message}");
        assert!(sim.count("models_requests") <= 2, "{}", sim.count("models_requests"));
        settles_as("sim:model-not-found*2", &[], "", 3);
    }
}

#[test]
fn an_account_without_models_is_explained() {
    let sim = Sim::start(&["--fault", "model-not-found", "--fault", "models-empty"]);
    let output = Run::on(&sim).args(["--max-outage", "500ms"]).input(prompts(3)).output().expect(69);
    assert!(output.stdout.is_empty(), "{output}");
    assert!(output.stderr.contains("no model is shared") && output.stderr.contains("down"), "{output}");
}

// Row 36.

#[test]
fn a_redirect_is_never_followed() {
    let elsewhere = Sim::start(&["--open"]);
    for status in [301, 302, 303, 307, 308] {
        let target = format!("http://{}/redirected/api/chat/completions", elsewhere.address());
        let sim = Sim::start(&["--fault", &format!("redirect={status}:{target}")]);
        let output = Run::on(&sim).input(prompts(5)).output().expect(69);
        assert!(output.stdout.is_empty() && output.stderr.contains(&target), "{output}");
    }
    assert_eq!((elsewhere.count("requests"), elsewhere.count("redirect_hits")), (0, 0));
    let target = format!("redirect=307:http://{}/redirected,after=5,first=9", elsewhere.address());
    let sim = Sim::start(&["--fault", &target]);
    Run::on(&sim).args(["-j", "1"]).input(prompts(20)).output().expect(0);
    assert_eq!((elsewhere.count("requests"), elsewhere.count("redirect_hits")), (0, 0));
}

// Row 37.

#[test]
fn an_outage_costs_no_line_and_few_probes() {
    const LINES: usize = 400;
    for (status, args) in [(503, ["-j", "8"]), (502, ["-j", "2"])] {
        let sim = Sim::start(&["--latency", "fixed:5"]);
        let mut live = Run::on(&sim).args(args).start();
        live.feed_and_close(prompts(LINES).into_bytes());
        live.wait_for_lines(50);
        sim.control(&json!({"faults": [format!("status={status}")]}));
        live.wait_for_stderr("paused");
        let (before, began) = (sim.count("requests"), Instant::now());
        common::wait_for("two seconds of outage", || (began.elapsed() > Duration::from_secs(2)).then_some(()));
        let probes = sim.count("requests") - before;
        sim.control(&json!({"faults": []}));
        let output = live.finish().expect(0);
        assert_eq!(output.codes(), vec![""; LINES]);
        // Waits of 2 to 4 ms, doubling up to 125 to 250 ms; and stragglers may close the breaker once or twice more.
        assert!((1..=40).contains(&probes), "{status}: {probes} probes");
        assert_eq!(sim.count("repeats_after_ok"), 0);
        assert_eq!(sim.count("ok"), LINES as u64);
    }
}

#[test]
fn a_service_that_goes_away_in_the_middle_costs_no_line() {
    let sim = Sim::start(&["--latency", "fixed:10"]);
    let mut live = Run::on(&sim).args(["-j", "8"]).start();
    live.feed_and_close(prompts(300).into_bytes());
    for lines in [30, 100] {
        live.wait_for_lines(lines);
        sim.control(&json!({"down_ms": 700}));
    }
    let output = live.finish().expect(0);
    assert_eq!(output.codes(), vec![""; 300]);
}

// Row 38.

#[test]
fn random_failures_are_survived_at_little_cost() {
    const LINES: usize = 1000;
    let sim = Sim::start(&["--fault", "status=500@0.3"]);
    let output = Run::on(&sim).args(["-j", "8"]).input(prompts(LINES)).output().expect(0);
    assert_eq!(output.lines().len(), LINES);
    let requests = sim.count("requests");
    assert!(requests > LINES as u64 * 12 / 10 && requests <= LINES as u64 * 3 / 2, "{requests} requests");
    assert_eq!(sim.count("repeats_after_ok"), 0);
}

// Row 40.

#[test]
fn a_flood_is_capped_in_memory() {
    for upstream in ["stream", "whole"] {
        for (fault, codes) in [
            ("gzip-bomb", &["upstream_invalid"][..]),
            ("huge-body", &["reply_too_large"]),
            ("endless", &["reply_too_large"]),
            ("big-head", &["upstream_invalid", "connection_lost", ""]),
        ] {
            let sim = Sim::start(&[]);
            let mut live = Run::on(&sim).args(["--max-reply-bytes", "8M", "--upstream", upstream]).start();
            live.feed(format!("{}{}", prompt(&format!("sim:{fault}")), prompts(1)));
            live.wait_for_lines(2);
            let peak = live.memory_peak();
            live.close_input();
            let output = live.finish();
            assert!(codes.contains(&output.codes()[0].as_str()), "{fault} {upstream}: {output}");
            assert_eq!(output.codes()[1], "", "{fault} {upstream}: {output}");
            assert!(peak < 64 * MEBIBYTE, "{fault} {upstream}: {} MiB", peak / MEBIBYTE);
        }
    }
}

/// With the default bound of 64 MiB a reply may cost that much and little more.
#[test]
fn a_flood_at_the_default_bound_is_capped_too() {
    for upstream in ["stream", "whole"] {
        let sim = Sim::start(&[]);
        let mut live = Run::on(&sim).args(["--upstream", upstream]).start();
        live.feed(prompt("sim:huge-body"));
        live.wait_for_lines(1);
        let peak = live.memory_peak();
        live.close_input();
        assert_eq!(live.finish().expect(1).codes(), ["reply_too_large"]);
        assert!(peak < 256 * MEBIBYTE, "{upstream}: {} MiB", peak / MEBIBYTE);
    }
}

// What an outage turns into.

/// An outage of the model during which something else goes wrong, too: whatever the probes meet, the run goes on.
#[test]
fn an_outage_that_changes_its_face_ends_all_the_same() {
    let faces = [
        "eof",
        "reset",
        "status=500",
        "null",
        "status=429",
        "status=502",
        "hang-head",
        "html",
        "wrapped=503",
        "model-not-found",
    ];
    for face in faces {
        let sim = Sim::start(&["--latency", "fixed:5"]);
        let mut live = Run::on(&sim).args(["--first-token-timeout", "300ms"]).start();
        live.feed_and_close(prompts(100).into_bytes());
        live.wait_for_lines(20);
        sim.control(&json!({"faults": ["status=503"]}));
        live.wait_for_stderr("paused");
        sim.control(&json!({"faults": [face]}));
        sim.wait_for_count("requests", sim.count("requests") + 2);
        sim.control(&json!({"faults": []}));
        let output = live.finish();
        assert_eq!((output.status, output.codes()), (0, vec![String::new(); 100]), "{face}: {output}");
    }
}

#[test]
fn an_outage_of_the_model_during_which_the_service_goes_away_ends_all_the_same() {
    let sim = Sim::start(&["--latency", "fixed:5"]);
    let mut live = Run::on(&sim).args(["-v"]).start();
    live.feed_and_close(prompts(100).into_bytes());
    live.wait_for_lines(20);
    sim.control(&json!({"faults": ["status=503"]}));
    live.wait_for_stderr("paused");
    sim.control(&json!({"faults": [], "down_ms": 1500}));
    live.wait_for_stderr("onnection refused");
    let output = live.finish().expect(0);
    assert_eq!(output.codes(), vec![""; 100]);
}

/// Clock ticks of processor time so far (`utime` and `stime`, proc_pid_stat(5)); 100 make a second.
fn processor_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn spins(pid: u32) -> bool {
    let (before, began) = (processor_ticks(pid), Instant::now());
    common::wait_for("a second to pass", || (began.elapsed() > Duration::from_secs(1)).then_some(()));
    processor_ticks(pid) - before > 40
}

#[test]
fn a_run_that_waits_does_not_spin() {
    for (fault, probe) in [("status=503", "hang-head"), ("eof", "hang-head"), ("status=503", "hang-mid")] {
        let sim = Sim::start(&["--latency", "fixed:5"]);
        let mut live = Run::on(&sim).start();
        live.feed_and_close(prompts(100).into_bytes());
        live.wait_for_lines(20);
        sim.control(&json!({"faults": [fault]}));
        live.wait_for_stderr("paused");
        sim.control(&json!({"faults": [probe]}));
        sim.wait_for_count("in_flight", 1);
        assert!(!spins(live.pid()), "{fault}, then {probe}");
    }
    let sim = Sim::start(&["--latency", "fixed:5"]);
    for fault in ["retry-after=429:60", "version-down", "hang-head"] {
        let sim = if fault == "version-down" { Sim::start(&["--fault", fault]) } else { Sim::start(&[]) };
        let mut live = Run::on(&sim).start();
        live.feed_and_close(format!("{}{}", prompt(&format!("sim:{fault}")), prompts(10)).into_bytes());
        sim.wait_for_count("version_requests", 1);
        assert!(!spins(live.pid()), "{fault}");
    }
    let mut live = Run::on(&sim).start();
    live.feed(prompts(1));
    live.wait_for_lines(1);
    assert!(!spins(live.pid()), "idle input");
    let live = Run::at(&refused_base()).start();
    assert!(!spins(live.pid()), "refused");
}

/// One model out, the other in service; then the service itself goes away, and comes back without the first model.
#[test]
fn two_troubles_at_once_neither_spin_nor_stick() {
    let sim = Sim::start(&["--latency", "fixed:5"]);
    let out = |number: usize| json!({"prompt": format!("{number} sim:status=503*4"), "model": "llama3.2:latest"});
    let input: String = (1..=4).map(|number| out(number).to_string() + "\n").collect();
    let mut live = Run::on(&sim).args(["--unordered", "-v"]).start();
    live.feed_and_close(format!("{input}{}", prompts(40)).into_bytes());
    live.wait_for_lines(20);
    sim.control(&json!({"down_ms": 1500}));
    live.wait_for_stderr("onnection refused");
    assert!(!spins(live.pid()));
    let output = live.finish();
    assert!(output.codes().iter().all(|code| code.is_empty() || code == "upstream_unavailable"), "{output}");
    assert_eq!(output.lines().len(), 44, "{output}");
}
