//! The usage object of each server. Invariant: total_duration is the queueing plus the three other durations.

use std::io::Write as _;
use std::time::Duration;

use crate::args::Regime;

/// What a request cost, as Ollama counts it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Words of the prompt
    pub prompt_tokens: usize,
    /// Words of the reply
    pub completion_tokens: usize,
    /// Time in the queue
    pub queued: Duration,
    /// Time to load the model
    pub load: Duration,
    /// Time until the first token, once loaded
    pub prompt_eval: Duration,
    /// Time of the tokens
    pub eval: Duration,
}

enum Value {
    Count(u128),
    Rate(usize, Duration),
    Raw(String),
}

impl Usage {
    /// Appends the object; `spaced` writes `, ` and `: ` as Python does by default.
    pub fn write(&self, out: &mut Vec<u8>, regime: Regime, spaced: bool) {
        let (comma, colon): (&[u8], &[u8]) = if spaced { (b", ", b": ") } else { (b",", b":") };
        out.push(b'{');
        let mut separator: &[u8] = b"";
        for (key, value) in self.fields(regime, spaced) {
            out.extend_from_slice(separator);
            out.push(b'"');
            out.extend_from_slice(key.as_bytes());
            out.push(b'"');
            out.extend_from_slice(colon);
            value.write(out);
            separator = comma;
        }
        out.push(b'}');
    }

    fn fields(&self, regime: Regime, spaced: bool) -> Vec<(&'static str, Value)> {
        use Value::{Count, Rate, Raw};
        let total = self.queued + self.load + self.prompt_eval + self.eval;
        let count = |n: usize| Count(n as u128);
        let (prompt, completion) = (self.prompt_tokens, self.completion_tokens);
        let counts = [("prompt_tokens", count(prompt)), ("completion_tokens", count(completion))];
        if regime == Regime::Openai {
            return counts.into_iter().chain([("total_tokens", count(prompt + completion))]).collect();
        }
        let rates =
            [("response_token/s", Rate(completion, self.eval)), ("prompt_token/s", Rate(prompt, self.prompt_eval))];
        let times = [("total_duration", Count(total.as_nanos())), ("load_duration", Count(self.load.as_nanos()))];
        let prompt_eval = ("prompt_eval_duration", Count(self.prompt_eval.as_nanos()));
        let eval = ("eval_duration", Count(self.eval.as_nanos()));
        let approximate = ("approximate_total", Raw(clock(total)));
        let sum = ("total_tokens", count(prompt + completion));
        let details = if spaced { DETAILS.to_owned() } else { DETAILS.replace(' ', "") };
        let details = ("completion_tokens_details", Raw(details));
        let [prompt_tokens, completion_tokens] = counts;
        let (prompt_count, eval_count) = (("prompt_eval_count", count(prompt)), ("eval_count", count(completion)));
        let mut all = Vec::with_capacity(15);
        if regime == Regime::Webui06 {
            all.extend(rates);
            all.extend(times);
            all.extend([
                prompt_count,
                prompt_tokens,
                prompt_eval,
                eval_count,
                completion_tokens,
                eval,
                approximate,
                sum,
            ]);
        } else {
            all.extend([("input_tokens", count(prompt)), ("output_tokens", count(completion)), sum]);
            all.extend([prompt_tokens, completion_tokens]);
            all.extend(rates);
            all.extend(times);
            all.extend([prompt_count, prompt_eval, eval_count, eval, approximate]);
        }
        all.push(details);
        all
    }
}

const DETAILS: &str = r#"{"reasoning_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}"#;

impl Value {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::Count(n) => write!(out, "{n}"),
            Value::Rate(_, time) if time.is_zero() => write!(out, "\"N/A\""),
            Value::Rate(n, time) => {
                let rate = *n as f64 / time.as_secs_f64();
                write!(out, "{:?}", (rate * 100.0).round() / 100.0)
            }
            Value::Raw(text) => write!(out, "{text}"),
        }
        .expect("a Vec takes every write");
    }
}

/// `"1h2m3s"`, in whole seconds.
fn clock(total: Duration) -> String {
    let seconds = total.as_secs();
    format!("\"{}h{}m{}s\"", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
