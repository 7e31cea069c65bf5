//! How much is tried, by which dice, and what the machine must have for it.

use std::fmt;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// Whether everything is tried rather than a sample.
pub fn is_all() -> bool {
    std::env::var("ANVIL_CRASH").is_ok_and(|value| value == "all")
}

/// `all` of something, or `sample` of it.
pub fn count(all: usize, sample: usize) -> usize {
    if is_all() { all } else { sample }
}

/// Says something on stderr, whether or not the test's own output is caught.
pub fn say(text: impl fmt::Display) {
    // In one piece, for others speak, too.
    let _ = std::io::stderr().write_all(format!("tests: {text}\n").as_bytes());
}

/// The seed of this run: the same for all tests, and another every time, unless one is given.
fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| match std::env::var("ANVIL_FILTER_TEST_SEED") {
        Ok(text) => text.parse().expect("ANVIL_FILTER_TEST_SEED is a number"),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs(),
    })
}

/// Dice that tell their seed when the test that holds them fails.
pub struct Dice(fastrand::Rng);

impl Dice {
    /// Dice of this run's seed.
    pub fn new() -> Dice {
        Dice(fastrand::Rng::with_seed(seed()))
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0.usize(..end.max(1))
    }

    /// Whether the one case of `cases` that is meant has come.
    pub fn one_in(&mut self, cases: usize) -> bool {
        self.below(cases) == 0
    }

    /// All cases, or a sample of them, in their order.
    pub fn pick<T>(&mut self, cases: Vec<T>, sample: usize) -> Vec<T> {
        if is_all() { cases } else { self.sample(cases, sample) }
    }

    /// A sample of cases, in their order.
    pub fn sample<T>(&mut self, cases: Vec<T>, sample: usize) -> Vec<T> {
        let mut places: Vec<usize> = (0..cases.len()).collect();
        self.0.shuffle(&mut places);
        let wanted: std::collections::BTreeSet<usize> = places.into_iter().take(sample).collect();
        cases.into_iter().enumerate().filter(|(place, _)| wanted.contains(place)).map(|(_, case)| case).collect()
    }
}

/// Goes through cases, and counts those of which `try_one` says so. Of a sample the first failure is the test's; when
/// everything is tried, the others are, too, and all failures are told at the end.
pub fn try_each<T: fmt::Display>(cases: &[T], mut try_one: impl FnMut(&T) -> bool) -> usize {
    let (mut count, mut failed) = (0, Vec::new());
    for case in cases {
        match catch_unwind(AssertUnwindSafe(|| try_one(case))) {
            Ok(counts) => count += usize::from(counts),
            Err(panic) if !is_all() => resume_unwind(panic),
            Err(_) => {
                say(format_args!("failed: {case}"));
                failed.push(case.to_string());
            }
        }
    }
    assert!(failed.is_empty(), "{} of {} cases failed: {failed:#?}", failed.len(), cases.len());
    count
}

impl Drop for Dice {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(format_args!("this failed with ANVIL_FILTER_TEST_SEED={}", seed()));
        }
    }
}

/// Whether a test can be made that needs something: if not, it fails when `variable` is 1, and otherwise says that it
/// was skipped.
pub fn has(what: &str, found: Result<(), String>, variable: &str) -> bool {
    let Err(reason) = found else { return true };
    let required = std::env::var(variable).is_ok_and(|value| value == "1");
    assert!(!required, "{variable}=1, but there is no {what}: {reason}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    say(format_args!("SKIPPED {test}: no {what} ({reason}); {variable}=1 makes this a failure"));
    false
}

/// Whether this is root, who alone may mount.
pub fn has_root() -> bool {
    let found = if rustix::process::geteuid().is_root() { Ok(()) } else { Err("the tests run as a user".to_owned()) };
    has("root", found, "ANVIL_REQUIRE_ROOT")
}
