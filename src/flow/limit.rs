//! How many requests may be in flight. Pure: it hears how requests ended and answers with a number.
//!
//! A fixed limit is `-j N` and falls below it only when the service asks for that: after a 429, an outage, or a first
//! token that never came. An adaptive one also looks at how long requests waited at the server, and keeps that queue
//! short: services that queue without bound never refuse, so their overload shows as waiting and as nothing else.

use std::time::Duration;

mod controller;
mod floors;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod simulation;
mod waiting;

use controller::Controller;

const CUT_FACTOR: f64 = 0.7;
const CUT_INTERVAL: Duration = Duration::from_secs(2);

/// How one request was answered, on the clock that began with the run.
#[derive(Clone, Debug)]
pub struct Answered {
    /// When the request was sent.
    pub sent_at: Duration,
    /// When the first token came; none when the reply was not streamed.
    pub first_token_at: Option<Duration>,
    /// When the answer was whole.
    pub ended_at: Duration,
    /// Length of the request's body.
    pub request_bytes: usize,
    /// What the server says of its own time, where it does.
    pub served: Option<ServerTimes>,
    /// Requests of this model at this endpoint that were in flight when this one ended, this one included.
    pub in_flight: usize,
    /// The latest interval of more than a second, from and until, in which no reply of this model brought a chunk.
    pub silence: Option<(Duration, Duration)>,
}

/// Ollama's usage: where the time of one request went at the server.
///
/// The fields are those of its API documentation (`total_duration`, `load_duration`, `prompt_eval_duration`,
/// `eval_duration`). What the parts leave of the total was spent waiting.
#[derive(Clone, Copy, Debug)]
pub struct ServerTimes {
    /// From the request's arrival to the end of its answer.
    pub total: Duration,
    /// Loading the model.
    pub load: Duration,
    /// Reading the prompt.
    pub prompt_evaluation: Duration,
    /// Writing the answer.
    pub evaluation: Duration,
}

/// The limit of one model at one endpoint.
#[derive(Debug)]
pub struct Limit {
    ceiling: usize,
    cut_at: Option<Duration>,
    law: Law,
}

#[derive(Debug)]
enum Law {
    Fixed { current: usize },
    Adaptive(Box<Controller>),
}

impl Limit {
    /// A limit that is `ceiling` unless the service asked for less, and grows back by one an answer.
    pub fn fixed(ceiling: usize) -> Self {
        let ceiling = ceiling.max(1);
        Self { ceiling, cut_at: None, law: Law::Fixed { current: ceiling } }
    }

    /// A limit that follows the server's queue and never exceeds `ceiling`; it begins at 4, and stays there while
    /// answers show neither a first token nor the server's own times.
    pub fn adaptive(ceiling: usize) -> Self {
        let ceiling = ceiling.max(1);
        Self { ceiling, cut_at: None, law: Law::Adaptive(Box::new(Controller::new(ceiling))) }
    }

    /// How many requests may be in flight now; at least 1.
    pub fn current(&self) -> usize {
        match &self.law {
            Law::Fixed { current } => *current,
            Law::Adaptive(controller) => controller.current(),
        }
    }

    /// From now on the limit never exceeds `ceiling`; a fixed one that was not lowered is the ceiling.
    pub fn set_ceiling(&mut self, ceiling: usize) {
        let ceiling = ceiling.max(1);
        match &mut self.law {
            Law::Fixed { current } => {
                let was_lowered = *current < self.ceiling;
                *current = if was_lowered { ceiling.min(*current) } else { ceiling };
            }
            Law::Adaptive(controller) => controller.set_ceiling(ceiling),
        }
        self.ceiling = ceiling;
    }

    /// A request was answered.
    pub fn answered(&mut self, answered: &Answered) {
        match &mut self.law {
            Law::Fixed { current } => *current = (*current + 1).min(self.ceiling),
            Law::Adaptive(controller) => controller.answered(answered),
        }
    }

    /// The service asked for less (429, 503) or could not be reached: 0.7 of the limit, at most once in two seconds.
    pub fn cut(&mut self, now: Duration) {
        if self.cut_at.is_some_and(|cut_at| now.saturating_sub(cut_at) < CUT_INTERVAL) {
            return;
        }
        self.cut_at = Some(now);
        match &mut self.law {
            Law::Fixed { current } => *current = ((*current as f64 * CUT_FACTOR) as usize).max(1),
            Law::Adaptive(controller) => controller.cut(CUT_FACTOR, now),
        }
    }

    /// An outage is over: begin at half, of the ceiling or of what the server was last known to take.
    pub fn resume(&mut self) {
        match &mut self.law {
            Law::Fixed { current } => *current = (self.ceiling / 2).max(1),
            Law::Adaptive(controller) => controller.resume(),
        }
    }

    /// The service is overloaded: one at a time.
    pub fn one(&mut self) {
        match &mut self.law {
            Law::Fixed { current } => *current = 1,
            Law::Adaptive(controller) => controller.one(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING_SEEN: Answered = Answered {
        sent_at: Duration::ZERO,
        first_token_at: None,
        ended_at: Duration::from_secs(1),
        request_bytes: 100,
        served: None,
        in_flight: 4,
        silence: None,
    };

    #[test]
    fn a_burst_is_one_cut_and_answers_grow_it_back() {
        let mut limit = Limit::fixed(10);
        (0..5).for_each(|_| limit.cut(Duration::from_secs(9)));
        assert_eq!(limit.current(), 7);
        limit.cut(Duration::from_secs(11));
        assert_eq!(limit.current(), 4);
        (0..99).for_each(|_| limit.answered(&NOTHING_SEEN));
        assert_eq!(limit.current(), 10);
        limit.set_ceiling(20);
        assert_eq!(limit.current(), 20);
        limit.one();
        limit.cut(Duration::from_secs(99));
        assert_eq!(limit.current(), 1);
        limit.set_ceiling(30);
        assert_eq!(limit.current(), 1, "a lowered limit grows with successes");
        limit.resume();
        assert_eq!(limit.current(), 15);
    }

    #[test]
    fn an_adaptive_limit_that_sees_nothing_stays_at_four() {
        let mut limit = Limit::adaptive(64);
        (0..99).for_each(|_| limit.answered(&NOTHING_SEEN));
        assert_eq!(limit.current(), 4);
        (0..5).for_each(|_| limit.cut(Duration::from_secs(9)));
        assert_eq!(limit.current(), 2, "a burst is one cut");
        (0..99).for_each(|_| limit.answered(&NOTHING_SEEN));
        assert_eq!(limit.current(), 4);
        limit.set_ceiling(2);
        assert_eq!(limit.current(), 2);
        limit.one();
        assert_eq!(limit.current(), 1);
        assert_eq!(Limit::adaptive(3).current(), 3);
    }
}
