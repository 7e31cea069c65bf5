//! What a pilot's few lines say of all: tokens and time, with a range. Pure.

use std::fmt;
use std::time::Duration;

use super::pace;
use crate::flow::people::{about, for_people, thousands};

/// With fewer samples than these their spread is no estimate; the least and the most are told instead.
const SAMPLES_MIN: usize = 5;

/// What one line of the pilot took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// From its send to its answer, in seconds.
    pub seconds: f64,
    /// Tokens of its prompt, where the service tells.
    pub prompt_tokens: Option<u64>,
    /// Tokens of its answer, where the service tells.
    pub completion_tokens: Option<u64>,
}

/// A mean, and the range in which the mean of all lines likely lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The low end.
    pub low: f64,
    /// The mean.
    pub mean: f64,
    /// The high end.
    pub high: f64,
}

/// Tokens that one line takes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tokens {
    prompt: f64,
    completion: f64,
    both: Spread,
}

/// What all lines will take, if they are as those of the pilot. `Display` says it in two or three lines.
#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    sampled: u64,
    lines: u64,
    seconds: Spread,
    tokens: Option<Tokens>,
    pace: String,
    time: [Duration; 3],
}

/// Projects a pilot's samples onto all `lines`, the pilot's included; None without a sample.
///
/// `time_for` tells how long so many requests take with so many tokens each at so many lines per second, by the quotas.
/// `quota` is the one that decides, for people. The speed is `concurrency` lines per mean line (Little's law).
pub fn project(
    samples: &[Sample],
    lines: u64,
    concurrency: usize,
    quota: Option<&str>,
    time_for: impl Fn(u64, f64, f64) -> Duration,
) -> Option<Projection> {
    let seconds = Spread::of(&samples.iter().map(|sample| sample.seconds).collect::<Vec<_>>())?;
    let tokens = tokens(samples);
    let sampled = samples.len() as u64;
    let left = lines.saturating_sub(sampled);
    let per_second = |seconds: f64| concurrency as f64 / seconds.max(1e-3);
    let each = tokens.map_or([0.0; 3], |tokens| tokens.both.all());
    let all_seconds = seconds.all();
    let time = std::array::from_fn(|at| time_for(left, each[at], per_second(all_seconds[at])));
    let pace = pace(left, time[1], quota, Some(per_second(seconds.mean)))?;
    Some(Projection { sampled, lines, seconds, tokens, pace, time })
}

/// The tokens of those samples that tell both.
fn tokens(samples: &[Sample]) -> Option<Tokens> {
    let told: Vec<(f64, f64)> = samples
        .iter()
        .filter_map(|sample| Some((sample.prompt_tokens? as f64, sample.completion_tokens? as f64)))
        .collect();
    let both = Spread::of(&told.iter().map(|(prompt, completion)| prompt + completion).collect::<Vec<_>>())?;
    let mean = |sum: f64| sum / told.len() as f64;
    let prompt = mean(told.iter().map(|(prompt, _)| prompt).sum());
    let completion = mean(told.iter().map(|(_, completion)| completion).sum());
    Some(Tokens { prompt, completion, both })
}

impl Spread {
    /// The mean, two standard errors to each side; of a few samples the least and the most. None without any.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let count = samples.len() as f64;
        let least = samples.iter().copied().reduce(f64::min)?;
        let most = samples.iter().copied().reduce(f64::max)?;
        let mean = samples.iter().sum::<f64>() / count;
        if samples.len() < SAMPLES_MIN {
            return Some(Self { low: least, mean, high: most });
        }
        let variance = samples.iter().map(|sample| (sample - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let error = (variance / count).sqrt();
        // The mean of all may lie anywhere near, but hardly below the least.
        Some(Self { low: (mean - 2.0 * error).max(least), mean, high: mean + 2.0 * error })
    }

    fn all(self) -> [f64; 3] {
        [self.low, self.mean, self.high]
    }
}

impl Projection {
    /// All lines' tokens; None where the service tells none.
    pub fn tokens(&self) -> Option<Spread> {
        let each = self.tokens?.both;
        let lines = self.lines as f64;
        Some(Spread { low: each.low * lines, mean: each.mean * lines, high: each.high * lines })
    }

    /// Tokens of one line on average; None where the service tells none.
    pub fn tokens_each(&self) -> Option<f64> {
        self.tokens.map(|tokens| tokens.both.mean)
    }

    /// The time that the other lines take: at least, likely, at most.
    pub fn time(&self) -> [Duration; 3] {
        self.time
    }
}

impl fmt::Display for Projection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.seconds.all().map(seconds_told);
        write!(out, "a line takes {}", ranged(&seconds))?;
        if let (Some(tokens), Some(all)) = (self.tokens, self.tokens()) {
            let [prompt, completion] = [tokens.prompt, tokens.completion].map(about);
            write!(out, ", {prompt} tokens of the prompt and {completion} of the answer")?;
            write!(out, "\nall {} lines: {} tokens", thousands(self.lines), ranged(&all.all().map(about)))?;
        }
        let left = self.lines.saturating_sub(self.sampled);
        if left == 0 {
            return Ok(());
        }
        write!(out, "\nthe other {} at {}: {}", thousands(left), self.pace, ranged(&self.time.map(for_people)))
    }
}

/// The middle one, and the range when it says more.
fn ranged([low, middle, high]: &[String; 3]) -> String {
    if low == high { format!("about {middle}") } else { format!("about {middle} ({low} to {high})") }
}

/// Tenths of a second where they matter.
fn seconds_told(seconds: f64) -> String {
    if seconds < 9.95 {
        format!("{seconds:.1} s")
    } else {
        for_people(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample(seconds: f64, prompt_tokens: u64, completion_tokens: u64) -> Sample {
        Sample { seconds, prompt_tokens: Some(prompt_tokens), completion_tokens: Some(completion_tokens) }
    }

    fn by_speed(requests: u64, _: f64, per_second: f64) -> Duration {
        Duration::from_secs_f64(requests as f64 / per_second)
    }

    #[test]
    fn a_pilot_speaks_for_all_lines_with_a_range() {
        let samples: Vec<Sample> =
            (0..20).map(|at| sample(1.5 + (at % 4) as f64 * 0.2, 240, 290 + at % 5 * 10)).collect();
        let projection = project(&samples, 100_000, 16, None, by_speed).unwrap();
        assert_eq!(
            projection.to_string(),
            "a line takes about 1.8 s (1.7 s to 1.9 s), 240 tokens of the prompt and 310 of the answer\n\
             all 100,000 lines: about 55,000,000 (54,400,000 to 55,600,000) tokens\n\
             the other 99,980 at 8.9 per s: about 3 h 7 min (2 h 57 min to 3 h 18 min)"
        );
        assert_eq!(projection.tokens_each(), Some(550.0));
    }

    #[test]
    fn a_quota_that_decides_is_named() {
        let samples = [sample(1.0, 500, 500), sample(3.0, 700, 500)];
        let by_tokens = |requests: u64, tokens_each: f64, _: f64| {
            Duration::from_secs_f64(requests as f64 * tokens_each / 10_000.0 * 60.0)
        };
        let projection = project(&samples, 1_002, 16, Some("10,000 tokens per min"), by_tokens).unwrap();
        assert_eq!(
            projection.to_string(),
            "a line takes about 2.0 s (1.0 s to 3.0 s), 600 tokens of the prompt and 500 of the answer\n\
             all 1,002 lines: about 1,100,000 (1,000,000 to 1,200,000) tokens\n\
             the other 1,000 at 10,000 tokens per min: about 1 h 50 min (1 h 40 min to 2 h)"
        );
    }

    #[test]
    fn without_usage_only_the_time_is_told() {
        let samples = [Sample { seconds: 30.0, prompt_tokens: Some(3), completion_tokens: None }; 5];
        let projection = project(&samples, 35, 2, None, by_speed).unwrap();
        assert_eq!(projection.to_string(), "a line takes about 30 s\nthe other 30 at 4.0 per min: about 7 min 30 s");
        assert_eq!((projection.tokens(), projection.time()[1]), (None, Duration::from_secs(450)));
    }

    #[test]
    fn a_pilot_of_everything_leaves_nothing_and_none_says_nothing() {
        let projection = project(&[sample(2.0, 1, 1)], 1, 4, None, by_speed).unwrap();
        assert!(projection.to_string().ends_with("all 1 lines: about 2 tokens"), "{projection}");
        assert_eq!(project(&[], 10, 4, None, by_speed), None);
    }

    #[test]
    fn the_range_is_two_standard_errors_or_what_was_seen() {
        let spread = Spread::of(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        let error = (2.5_f64 / 5.0).sqrt();
        assert_eq!((spread.mean, spread.high, spread.low), (3.0, 3.0 + 2.0 * error, 3.0 - 2.0 * error));
        assert_eq!(Spread::of(&[1.0, 9.0]).unwrap(), Spread { low: 1.0, mean: 5.0, high: 9.0 });
        let skewed = Spread::of(&[1.0, 1.0, 1.0, 1.0, 100.0]).unwrap();
        assert_eq!(skewed.low, 1.0, "never below what was seen");
    }
}
