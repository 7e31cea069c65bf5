//! What a journal costs, and how fast it gives back what it holds.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use anvil_filter::journal::{Key, Line, Note, Settings, frame, key};
use anvil_filter::line::completion::Flags;
use anvil_filter::line::{Answer, Defaults, InputForm, Outcome, Request};

use super::Bench;
use super::process::{Run, Simulator, median, run, say};
use super::rows::{input, program};

const ROUNDS: usize = 3;
const IN_FLIGHT: usize = 64;
const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1790000000,"model":"llama3.1:latest","choices":[{"index":0,"message":{"role":"assistant","content":"Rayleigh scattering: the air scatters short waves of light far more than long ones, and so the sky is blue, and red where the sun is low."},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":21,"completion_tokens":34,"total_tokens":55}}"#;

/// The median time of one fdatasync of 64 KB in this folder, in milliseconds.
pub fn fdatasync(folder: &Path) -> f64 {
    let file = File::create(folder.join("sync")).expect("a file can be made");
    let times = (0..101).map(|number| {
        file.write_all_at(&[b'x'; 64 << 10], number * (64 << 10)).expect("it can be written");
        let began = Instant::now();
        file.sync_data().expect("it can be synced");
        began.elapsed().as_secs_f64() * 1e3
    });
    median(times.collect())
}

/// `--output` beside the plain pipe, at a latency as of a service and at none.
pub fn output(bench: &Bench) {
    for (latency, lines, bar) in [("fixed:50", 10_000, 1.15), ("zero", 20_000, 5.0)] {
        let simulator = Simulator::start(&bench.simulator, &["--latency", latency]);
        let input = input(bench, lines, 1024);
        let mut ratios = Vec::new();
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            let plain = [&["--upstream", "whole"][..]].concat();
            let pipe = run(
                &mut program(bench, &simulator.base_url(), IN_FLIGHT, &plain),
                Some(&input),
                Some(Path::new("/dev/null")),
            );
            let kept = to_file(bench, &simulator, &input);
            ratios.push(kept.wall / pipe.wall);
            rates.push(lines as f64 / kept.wall);
        }
        let (ratio, rate) = (median(ratios), median(rates));
        say(&format!(
            "--output, latency {latency}, {IN_FLIGHT} in flight: {rate:.0} lines/s, {ratio:.2} x the time of a plain pipe \
             (bar {bar}); fdatasync {:.2} ms",
            fdatasync(bench.folder.path())
        ));
    }
}

fn to_file(bench: &Bench, simulator: &Simulator, input: &Path) -> Run {
    let target = bench.folder.path().join("result");
    for name in ["result", "result.journal"] {
        let _ = std::fs::remove_file(bench.folder.path().join(name));
    }
    let path = target.to_string_lossy();
    let further = ["--upstream", "whole", "--output", &path];
    let taken = run(&mut program(bench, &simulator.base_url(), IN_FLIGHT, &further), Some(input), None);
    assert!(target.exists(), "the result is not there");
    taken
}

/// A run whose every line the journal answers; no service is needed, and none is there.
pub fn replay(bench: &Bench, lines: usize) {
    let (input, journal) = (bench.folder.path().join("replayed.jsonl"), bench.folder.path().join("replayed.journal"));
    write_answered(&input, &journal, lines).expect("input and journal can be written");
    let path = journal.to_string_lossy().into_owned();
    let nobody = "http://127.0.0.1:9/api";
    let mut runs: Vec<Run> = Vec::new();
    for _ in 0..ROUNDS {
        let further = ["--model", "llama3.1:latest", "--journal", &path];
        let out = bench.folder.path().join("replayed.out");
        runs.push(run(&mut program(bench, nobody, IN_FLIGHT, &further), Some(&input), Some(&out)));
        let written = std::fs::read(&out).expect("the output can be read");
        assert_eq!(memchr::memchr_iter(b'\n', &written).count(), lines, "a line is missing or double");
    }
    let rate = median(runs.iter().map(|run| lines as f64 / run.wall).collect());
    let rss = median(runs.iter().map(|run| run.rss).collect());
    say(&format!("replay of {lines} answered lines: {rate:.0} lines/s (bar 200000), peak RSS {rss:.0} MiB (bar 112)"));
}

/// Writes an input and the journal that answers all of it, in the program's own format.
fn write_answered(input: &Path, journal: &Path, lines: usize) -> std::io::Result<()> {
    let (mut input, mut journal) = (BufWriter::new(File::create(input)?), BufWriter::new(File::create(journal)?));
    let defaults = Defaults { model: Some("llama3.1:latest".to_owned()), ..Defaults::default() };
    let settings = Settings {
        model: defaults.model.clone(),
        input: "json".to_owned(),
        base_url: "http://127.0.0.1:9/api".to_owned(),
        ..Settings::default()
    };
    let mut frames = Vec::new();
    for note in [Note::header(), Note::Settings(settings)] {
        frame::push(&mut frames, |record| note.push(record));
    }
    let answer = Answer::parse(bytes::Bytes::from_static(ANSWER.as_bytes())).expect("it is an answer");
    let outcome = Outcome { result: Ok(answer), attempts: 1, seconds: 2.41 };
    for number in 1..=lines as u64 {
        let text = format!("{{\"prompt\":\"question {number}: why is the sky blue?\",\"custom_id\":\"c{number}\"}}");
        writeln!(input, "{text}")?;
        let request = Request::parse(text.as_bytes(), InputForm::Json, &defaults).expect("it is a request");
        let key = Key { hash: key::of_request(request.chat.json()), nth: 0 };
        let (form, correlation) = (Some(request.form), request.correlation.as_ref());
        let line = Line { line: number, key, form, correlation };
        frame::push(&mut frames, |record| line.push_outcome(record, Some(&request.model), Flags::default(), &outcome));
        journal.write_all(&frames)?;
        frames.clear();
    }
    input.flush()?;
    journal.flush()
}
