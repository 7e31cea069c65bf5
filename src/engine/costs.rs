//! What a request is likely to cost in tokens, before it is sent; learnt from what answers did cost. Pure.

use crate::line::Tokens;

/// Tokens that an answer is thought to have before any was seen.
const ANSWER_AT_FIRST: f64 = 256.0;
/// Tokens that a byte of a request is thought to make before any was seen.
const PER_BYTE_AT_FIRST: f64 = 0.25;
/// One answer moves what the next is thought to cost by at least this share; the first ones by more.
const WEIGHT_MIN: f64 = 0.1;

/// What requests of one endpoint cost.
#[derive(Debug)]
pub struct Costs {
    answer_tokens: f64,
    tokens_per_byte: f64,
    seen: f64,
}

impl Default for Costs {
    fn default() -> Self {
        Self { answer_tokens: ANSWER_AT_FIRST, tokens_per_byte: PER_BYTE_AT_FIRST, seen: 0.0 }
    }
}

impl Costs {
    /// What a request of so many bytes is likely to cost, when its answer may have `tokens_max` tokens.
    pub fn estimate(&self, body_bytes: usize, tokens_max: Option<u64>) -> u64 {
        let answer = tokens_max.map_or(self.answer_tokens, |max| self.answer_tokens.min(max as f64));
        (self.tokens_per_byte * body_bytes as f64 + answer).ceil() as u64
    }

    /// A request of so many bytes did cost so much.
    pub fn learn(&mut self, body_bytes: usize, tokens: Tokens) {
        self.seen += 1.0;
        let weight = WEIGHT_MIN.max(1.0 / self.seen);
        self.answer_tokens += weight * (tokens.completion as f64 - self.answer_tokens);
        if tokens.prompt > 0 && body_bytes > 0 {
            self.tokens_per_byte += weight * (tokens.prompt as f64 / body_bytes as f64 - self.tokens_per_byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_learnt_from_the_first_answer_on() {
        let mut costs = Costs::default();
        assert_eq!((costs.estimate(400, None), costs.estimate(400, Some(10))), (356, 110));
        costs.learn(400, Tokens { prompt: 40, completion: 20 });
        assert_eq!((costs.estimate(400, None), costs.estimate(800, Some(5))), (60, 85));
        (0..100).for_each(|_| costs.learn(400, Tokens { prompt: 0, completion: 100 }));
        assert_eq!(costs.estimate(400, None), 140);
    }
}
