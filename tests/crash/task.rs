//! What is run: lines of every kind, where their answers go, and what an undisturbed run makes of them.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use serde_json::{Value, json};

use crate::common::{Output, Run, Sim};
use crate::plan::Dice;

/// One line of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    Blank,
    /// No request can be made of it.
    Bad,
    /// Answered.
    Good,
    /// Answered; others ask the very same.
    Same(usize),
    /// The service refuses it for good, at the first attempt.
    Refused,
    /// Refused at the first attempt, answered when it is asked again.
    Late,
}

impl Line {
    pub fn prompt(self, number: usize) -> String {
        match self {
            Line::Same(which) => format!("the same words {which}"),
            Line::Refused => format!("{number} sim:status=413 words"),
            Line::Late => format!("{number} sim:status=413*1 words"),
            _ => format!("{number} plain words"),
        }
    }

    fn text(self, number: usize) -> String {
        match self {
            Line::Blank => "  ".to_owned(),
            Line::Bad => "{\"prompt\":7}".to_owned(),
            _ if number.is_multiple_of(3) => {
                json!({ "prompt": self.prompt(number), "custom_id": format!("id-{number}") }).to_string()
            }
            _ => json!({ "prompt": self.prompt(number) }).to_string(),
        }
    }

    pub fn is_asked(self) -> bool {
        !matches!(self, Line::Blank | Line::Bad)
    }
}

/// Where completions go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// `-o F`
    File,
    /// `--journal J`, to stdout.
    Stdout,
}

/// What is run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub lines: Vec<Line>,
    pub concurrency: usize,
    /// Whether the input is a pipe rather than a file.
    pub piped: bool,
    pub goal: Goal,
    /// More arguments.
    pub args: Vec<&'static str>,
    /// The number in the first line's prompt: plans with others ask other things.
    pub first: usize,
}

impl Plan {
    /// Six lines, one of which cannot be asked.
    pub fn small() -> Plan {
        let lines = vec![Line::Good, Line::Bad, Line::Same(0), Line::Good, Line::Same(0), Line::Good];
        Plan { lines, concurrency: 2, piped: false, goal: Goal::File, args: Vec::new(), first: 1 }
    }

    /// So many lines of every kind.
    pub fn random(dice: &mut Dice, count: usize, goal: Goal) -> Plan {
        let mut line = || match dice.below(40) {
            0 => Line::Blank,
            1 | 2 => Line::Bad,
            3 => Line::Refused,
            4..=8 => Line::Same(dice.below(3)),
            _ => Line::Good,
        };
        let lines = (0..count).map(|_| line()).collect();
        let (concurrency, piped) = (dice.below(16) + 1, dice.one_in(3));
        Plan { lines, concurrency, piped, goal, args: Vec::new(), first: 1 }
    }

    pub fn input(&self) -> String {
        self.numbered().map(|(line, number)| line.text(number) + "\n").collect()
    }

    /// The lines with the numbers in their prompts.
    pub fn numbered(&self) -> impl Iterator<Item = (Line, usize)> {
        self.lines.iter().copied().zip(self.first..)
    }

    /// Requests of an undisturbed run.
    pub fn asked(&self) -> u64 {
        self.lines.iter().filter(|line| line.is_asked()).count() as u64
    }

    /// Whether lines that fail at first are asked again.
    fn retries(&self) -> bool {
        self.args.contains(&"--retry-failed")
    }

    /// Whether a line has an answer in the end.
    fn answers(&self, line: Line) -> bool {
        matches!(line, Line::Good | Line::Same(_)) || line == Line::Late && self.retries()
    }

    /// The status of an undisturbed run.
    pub fn status(&self) -> i32 {
        i32::from(self.lines.iter().any(|line| *line != Line::Blank && !self.answers(*line)))
    }

    /// What an undisturbed run gives, [`same`] for all such runs.
    pub fn wanted(&self) -> Arc<String> {
        type Known = HashMap<(String, bool), Arc<String>>;
        static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
        let key = (self.input(), self.retries());
        if let Some(wanted) = KNOWN.lock().unwrap().get(&key) {
            return Arc::clone(wanted);
        }
        let sim = simulator("zero");
        let run = || Run::on(&sim).args(["-j", "8"]).input(&*key.0).output();
        // What is asked again is asked for the second time.
        if self.retries() {
            run();
        }
        let output = run().expect(self.status());
        self.check_plain(&output);
        let wanted = Arc::new(same(&output.text()));
        KNOWN.lock().unwrap().insert(key, Arc::clone(&wanted));
        wanted
    }

    /// An undisturbed run without a journal gives each line its own answer or error.
    fn check_plain(&self, output: &Output) {
        let mut records = output.lines().into_iter();
        for (line, number) in self.numbered().filter(|(line, _)| *line != Line::Blank) {
            let record = records.next().unwrap();
            assert_eq!(record["line"], number + 1 - self.first, "{record}");
            let answer = self.answers(line).then(|| format!("Echo: {}", line.prompt(number)));
            let content = answer.map_or(Value::Null, Value::String);
            assert_eq!((&record["content"], record["error"].is_null()), (&content, !content.is_null()), "{record}");
        }
        assert!(records.next().is_none());
    }
}

/// Completion lines without what may differ between two runs.
pub fn same(lines: &str) -> String {
    let without = |text: &str, name: &str| -> String {
        let mut pieces = text.split(name);
        let first = pieces.next().unwrap_or_default().to_owned();
        pieces.fold(first, |whole, piece| {
            whole + name + piece.trim_start_matches(|byte: char| byte.is_ascii_digit() || byte == '.')
        })
    };
    without(&without(lines, "\"seconds\":"), "\"attempts\":")
}

/// A service that takes so long.
pub fn simulator(latency: &str) -> Sim {
    Sim::start(&["--regime", "openai", "--latency", latency])
}
