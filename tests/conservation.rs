//! Conservation, through the binary: whatever the lines and whatever befalls them, every line that is not blank comes
//! out once, with its own answer, and the status tells the truth.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{SystemTime, UNIX_EPOCH};

use common::{Output, Run, Signal, Sim, code_of};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

/// Random runs; each starts two processes.
const CASES: u32 = 16;
const LINE_BYTES_MAX: usize = 2000;

/// One line of the input.
#[derive(Clone, Debug)]
enum Line {
    Blank(&'static str),
    /// Bytes that no request can be made of, and their code.
    Bad(&'static [u8], &'static str),
    TooLong,
    /// A prompt that is answered, after so many failures of a kind.
    Good {
        fault: Option<(&'static str, u8)>,
        id: Id,
    },
    /// A prompt that the service never answers, and the code of that.
    Refused(&'static str, &'static str),
}

#[derive(Clone, Copy, Debug)]
enum Id {
    None,
    Number,
    Text,
}

#[derive(Clone, Debug)]
struct Case {
    lines: Vec<Line>,
    concurrency: usize,
    unordered: bool,
    whole: bool,
    latency: &'static str,
    regime: &'static str,
}

fn line() -> impl Strategy<Value = Line> {
    let id = || prop_oneof![Just(Id::None), Just(Id::Number), Just(Id::Text)];
    let fault = prop::sample::select(vec![
        ("eof", 2),
        ("reset", 2),
        ("idle-close", 2),
        ("null", 2),
        ("empty-stream", 2),
        ("bad-json", 2),
        ("cut-chunk", 2),
        ("cut-length", 2),
        ("hang-mid", 1),
        ("hang-first", 1),
        ("wrapped=503", 3),
        ("wrapped=500", 3),
        ("status=429", 3),
        ("status=500", 3),
        ("status=502", 3),
        ("status=503", 3),
        ("retry-after=429:0.05", 3),
    ]);
    prop_oneof![
        10 => id().prop_map(|id| Line::Good { fault: None, id }),
        3 => (fault, 1u8..=3, id()).prop_map(|((kind, max), times, id)| {
            Line::Good { fault: Some((kind, times.min(max))), id }
        }),
        2 => prop::sample::select(vec!["", "\r", "  \t"]).prop_map(Line::Blank),
        3 => prop::sample::select(vec![
            (&b"{\"prompt\":7}"[..], "bad_field"),
            (b"not json", "not_json"),
            (b"{\"prompt\":\"cut", "not_json"),
            (b"\"\xff\xfe\"", "not_utf8"),
            (b"[]", "unknown_form"),
            (b"{\"prompt\":\"a\",\"prompt\":\"a\"}", "duplicate_key"),
            (b"{\"url\":\"/v1/embeddings\",\"body\":{}}", "unsupported_url"),
        ])
        .prop_map(|(bytes, code)| Line::Bad(bytes, code)),
        1 => Just(Line::TooLong),
        1 => prop::sample::select(vec![
            ("status=413", "upstream_rejected"),
            ("escape-error=400", "upstream_rejected"),
            ("forbidden", "not_allowed"),
            ("error-json", "upstream_invalid"),
            ("empty-choices", "upstream_invalid"),
        ])
        .prop_map(|(fault, code)| Line::Refused(fault, code)),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    (
        prop::collection::vec(line(), 0..80),
        prop::sample::select(vec![1usize, 2, 4, 16]),
        any::<bool>(),
        any::<bool>(),
        prop::sample::select(vec!["zero", "fixed:3", "lognormal:5:60"]),
        prop::sample::select(vec!["0.6", "0.12", "openai"]),
    )
        .prop_map(|(lines, concurrency, unordered, whole, latency, regime)| Case {
            lines,
            concurrency,
            unordered,
            whole,
            latency,
            regime,
        })
}

impl Line {
    /// The bytes of line `number`; prompts hold the number, so that no two are alike.
    fn bytes(&self, number: usize) -> Vec<u8> {
        match self {
            Line::Blank(text) => text.as_bytes().to_vec(),
            Line::Bad(bytes, _) => bytes.to_vec(),
            Line::TooLong => vec![b'x'; LINE_BYTES_MAX + 500],
            Line::Refused(fault, _) => json!({ "prompt": format!("{number} sim:{fault}") }).to_string().into_bytes(),
            Line::Good { id, .. } => {
                let mut object = json!({ "prompt": self.prompt(number) });
                match id {
                    Id::None => {}
                    Id::Number => object["id"] = json!(number),
                    Id::Text => object["custom_id"] = json!(format!("id-{number}")),
                }
                object.to_string().into_bytes()
            }
        }
    }

    fn prompt(&self, number: usize) -> String {
        match self {
            Line::Good { fault: Some((kind, times)), .. } => format!("{number} sim:{kind}*{times} and words"),
            _ => format!("{number} plain words"),
        }
    }

    fn is_blank(&self) -> bool {
        matches!(self, Line::Blank(_))
    }

    /// Whether this is the record that line `number` must have.
    fn check(&self, number: usize, record: &Value) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("line {number}, {self:?}: {what}: {record}"));
        match self {
            Line::Blank(_) => return wrong("a blank line has a record"),
            Line::Bad(_, code) | Line::Refused(_, code) if code_of(record) != *code => return wrong("wrong code"),
            Line::TooLong if code_of(record) != "line_too_long" => return wrong("wrong code"),
            Line::Good { id, .. } => {
                if record["content"] != format!("Echo: {}", self.prompt(number)) || !record["error"].is_null() {
                    return wrong("not its answer");
                }
                let (id_wanted, custom_wanted) = match id {
                    Id::None => (Value::Null, Value::Null),
                    Id::Number => (json!(number), Value::Null),
                    Id::Text => (Value::Null, json!(format!("id-{number}"))),
                };
                if record["id"] != id_wanted || record["custom_id"] != custom_wanted {
                    return wrong("not its id");
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Every line once, with its own record, in order if that is asked, and the right status.
fn conserved(lines: &[Line], unordered: bool, output: &Output) -> Result<(), String> {
    let records = output.lines();
    let numbers: Vec<usize> =
        records.iter().map(|record| usize::try_from(record["line"].as_u64().unwrap()).unwrap()).collect();
    let expected: Vec<usize> =
        lines.iter().zip(1..).filter(|(line, _)| !line.is_blank()).map(|(_, number)| number).collect();
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    if sorted != expected {
        return Err(format!("lines {expected:?} went in and {sorted:?} came out\n{output}"));
    }
    if !unordered && sorted != numbers {
        return Err(format!("out of order: {numbers:?}"));
    }
    for (number, record) in numbers.iter().zip(&records) {
        lines[number - 1].check(*number, record)?;
    }
    let failed = records.iter().any(|record| !record["error"].is_null());
    if output.status != i32::from(failed) {
        return Err(format!("the status is wrong: {output}"));
    }
    Ok(())
}

fn input_of(lines: &[Line]) -> Vec<u8> {
    let mut input = Vec::new();
    for (line, number) in lines.iter().zip(1..) {
        input.extend(line.bytes(number));
        input.push(b'\n');
    }
    input
}

fn run(case: &Case) -> Result<(), String> {
    let sim = Sim::start(&["--latency", case.latency, "--regime", case.regime]);
    let concurrency = case.concurrency.to_string();
    let mut args = vec!["--format", "completion", "-j", &concurrency];
    let bytes_max = LINE_BYTES_MAX.to_string();
    args.extend(["--max-line-bytes", &bytes_max, "--chunk-timeout", "300ms", "--first-token-timeout", "500ms"]);
    args.extend(["--reply-timeout", "500ms"]);
    args.extend(case.unordered.then_some("--unordered"));
    args.extend(case.whole.then_some(["--upstream", "whole"]).into_iter().flatten());
    let output = Run::on(&sim).args(args).input(input_of(&case.lines)).output();
    conserved(&case.lines, case.unordered, &output)?;
    match sim.count("repeats_after_ok") {
        0 => Ok(()),
        again => Err(format!("{again} lines were asked again although they had been answered")),
    }
}

/// `ANVIL_FILTER_TEST_SEED` repeats a run.
fn seed() -> u64 {
    match std::env::var("ANVIL_FILTER_TEST_SEED") {
        Ok(text) => text.parse().expect("ANVIL_FILTER_TEST_SEED is a number"),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs(),
    }
}

#[test]
fn random_lines_and_random_faults_lose_nothing() {
    let seed = seed();
    let config =
        ProptestConfig { cases: CASES, failure_persistence: None, max_shrink_iters: 40, ..ProptestConfig::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let result = runner.run(&case(), |case| run(&case).map_err(TestCaseError::fail));
    if let Err(error) = result {
        panic!("ANVIL_FILTER_TEST_SEED={seed}: {error}");
    }
}

/// 10,000 lines, of which one in a hundred is bad.
fn ten_thousand() -> Vec<Line> {
    let bad = |number: usize| match number / 100 % 3 {
        0 => Line::Bad(b"not json", "not_json"),
        1 => Line::Bad(b"{\"prompt\":7}", "bad_field"),
        _ => Line::Bad(b"\"\xff\"", "not_utf8"),
    };
    let good =
        |number: usize| Line::Good { fault: None, id: if number.is_multiple_of(2) { Id::Number } else { Id::Text } };
    (1..=10_000).map(|number| if number % 100 == 50 { bad(number) } else { good(number) }).collect()
}

/// One request in twenty meets one of these.
const FAULTS: [&str; 14] = [
    "--fault",
    "status=500@0.01",
    "--fault",
    "eof@0.01",
    "--fault",
    "null@0.01",
    "--fault",
    "status=503@0.01",
    "--fault",
    "bad-json@0.005",
    "--fault",
    "hang-mid@0.002",
    "--fault",
    "cut-chunk@0.003",
];

fn busy_run(sim: &Sim) -> Run {
    Run::on(sim).args(["-j", "16", "--chunk-timeout", "500ms"])
}

#[test]
fn ten_thousand_mixed_lines_keep_conservation_in_order() {
    let (sim, lines) = (Sim::start(&FAULTS), ten_thousand());
    let output = busy_run(&sim).input(input_of(&lines)).output().expect(1);
    conserved(&lines, false, &output).unwrap();
    assert_eq!(sim.count("repeats_after_ok"), 0);
    assert!(sim.count("requests") > 10_200, "the faults did strike");
}

#[test]
fn ten_thousand_mixed_lines_keep_conservation_out_of_order() {
    let (sim, lines) = (Sim::start(&FAULTS), ten_thousand());
    let output = busy_run(&sim).args(["--unordered"]).input(input_of(&lines)).output().expect(1);
    conserved(&lines, true, &output).unwrap();
    assert_eq!(sim.count("repeats_after_ok"), 0);
}

/// A stop in the middle: settled lines are written, in order, with gaps; the others are counted; nothing paid is lost.
#[test]
fn a_drain_in_the_middle_loses_nothing_that_was_paid() {
    let (sim, lines) = (Sim::start(&FAULTS), ten_thousand());
    let mut live = busy_run(&sim).start();
    live.feed_and_close(input_of(&lines));
    live.wait_for_lines(3000);
    live.signal(Signal::TERM);
    let output = live.finish().expect(143);
    let records = output.lines();
    let numbers: Vec<usize> =
        records.iter().map(|record| usize::try_from(record["line"].as_u64().unwrap()).unwrap()).collect();
    assert!(numbers.len() >= 3000 && numbers.len() < 10_000, "{}", numbers.len());
    assert!(numbers.is_sorted_by(|a, b| a < b), "every line once, in order");
    for (number, record) in numbers.iter().zip(&records) {
        lines[number - 1].check(*number, record).unwrap();
    }
    let answered = records.iter().filter(|record| record["error"].is_null()).count() as u64;
    assert_eq!(answered, sim.count("ok"), "what was answered is in the output");
    let last = *numbers.last().unwrap();
    let unsettled: usize = match output.stderr.split(" not settled").next().unwrap().rsplit([' ', ',']).next() {
        Some(count) if output.stderr.contains(" not settled") => count.parse().unwrap(),
        _ => 0,
    };
    assert!(unsettled >= last - numbers.len(), "{last} - {} gaps, {unsettled} counted: {output}", numbers.len());
    assert!(output.stderr.contains("stopped early"), "{}", output.stderr);
}
