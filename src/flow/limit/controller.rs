//! The adaptive law: keeps a part of one request of ours waiting at the server. Pure.
//!
//! Little's law gives how many of ours wait: the share that waiting has in a request's time, of those in flight. What
//! is missing of the target is added to the limit, half of it at a time: L + (target − L·share)/2, the window update of
//! FAST TCP (Wei, Jin, Low and Hegde, 2006). As clients of one server meet the same waits, all settle at the same limit.
//! The limit is a fraction, and what is granted alternates between the whole numbers beside it.
//!
//! Where a window shows no waiting, steps double, as in TCP's slow start: a wide gap is crossed in few windows, and a
//! narrow one is not overshot by more than it was wide. Where waiting takes much of the time, the limit is what the
//! server was seen to work on.
//!
//! Invariant: 1 ≤ limit ≤ ceiling; answers to what was sent before the last great change do not count.

use std::time::Duration;

use super::Answered;
use super::waiting::{Evidence, Waiting};

/// The limit at the beginning, and for ever where nothing can be seen.
const START: f64 = 4.0;
/// How many requests of ours are to wait at the server, on average.
const QUEUED_TARGET: f64 = 0.32;
/// Share of a request's time that waits may take beside that: noise, of which many in flight have more.
const NOISE_SHARE: f64 = 0.03;
/// With less than this share there is no queue.
const CLEAR_SHARE: f64 = 0.02;
/// With more than this share the limit is far too high.
const CROWDED_SHARE: f64 = 0.28;
/// Part of what is missing that is made up for in one window.
const GAIN: f64 = 0.5;
/// The limit is looked at when as many answers came as it allows in flight, and at least so many: with fewer, chance
/// would make clients of one server unequal.
const WINDOW_ANSWERS_MIN: f64 = 6.0;
/// Part of the limit that must be in flight for the limit to be what holds us back.
const BUSY_PART: f64 = 0.75;
/// The first step of a search: all that is missing, and at least such a part of the limit.
const STEP_MIN: f64 = QUEUED_TARGET;
const STEP_PART_MIN: f64 = 0.02;
/// Steps after a refusal do not double, for so long.
const STEP_AFTER_REFUSAL: f64 = 1.0;
const CALM_AFTER: Duration = Duration::from_secs(60);
/// A step wider than this part of the limit makes a new situation: what was sent before it says nothing of it.
const GREAT_STEP_PART: f64 = 0.25;

/// The adaptive limit of one model at one endpoint.
#[derive(Debug)]
pub struct Controller {
    ceiling: f64,
    limit: f64,
    /// The limit by what was last seen of the server, refusals and outages aside.
    known: f64,
    granted: usize,
    /// What the numbers granted lately fell short of the limit.
    owed: f64,
    step: f64,
    waiting: Waiting,
    window: Window,
    fresh_from: Duration,
    refused_at: Option<Duration>,
}

/// Sums over the answers since the limit was last looked at.
#[derive(Debug, Default)]
struct Window {
    answers: f64,
    queue_seconds: f64,
    in_flight: f64,
}

impl Controller {
    /// A controller that never exceeds `ceiling`, which is at least 1.
    pub fn new(ceiling: usize) -> Self {
        let ceiling = ceiling as f64;
        let limit = START.min(ceiling);
        Self {
            ceiling,
            limit,
            known: limit,
            granted: limit as usize,
            owed: 0.0,
            step: START,
            waiting: Waiting::default(),
            window: Window::default(),
            fresh_from: Duration::ZERO,
            refused_at: None,
        }
    }

    /// How many requests may be in flight now.
    pub fn current(&self) -> usize {
        self.granted
    }

    /// From now on the limit is at most `ceiling`, which is at least 1.
    pub fn set_ceiling(&mut self, ceiling: usize) {
        self.ceiling = ceiling as f64;
        self.set(self.limit);
    }

    /// Hears of an answer.
    pub fn answered(&mut self, answered: &Answered) {
        match self.waiting.read(answered) {
            Evidence::Waited { queue_seconds } if answered.sent_at >= self.fresh_from => {
                self.window.add(queue_seconds, answered.in_flight);
                self.look(answered.ended_at);
            }
            Evidence::Blind if self.limit < START => self.set((self.limit + 1.0).min(START)),
            _ => {}
        }
        self.alternate();
    }

    /// A refusal: `part` of the limit is left.
    pub fn cut(&mut self, part: f64, now: Duration) {
        self.refused_at = Some(now);
        self.fresh_from = now;
        self.begin_at((self.limit * part).floor());
    }

    /// An outage is over: begins at half of what the server was last seen to take.
    pub fn resume(&mut self) {
        self.begin_at((self.known / 2.0).floor());
    }

    /// Begins at one.
    pub fn one(&mut self) {
        self.begin_at(1.0);
    }

    fn begin_at(&mut self, limit: f64) {
        self.window = Window::default();
        self.step = 0.0;
        self.owed = 0.0;
        self.set(limit);
    }

    /// Changes the limit when the window is full.
    fn look(&mut self, now: Duration) {
        if self.window.answers < self.limit.floor().max(WINDOW_ANSWERS_MIN) {
            return;
        }
        let share = self.window.waiting_share(self.waiting.service_seconds());
        let is_crowded = share > CROWDED_SHARE;
        let in_flight = self.window.in_flight / self.window.answers;
        self.window = Window::default();
        let missing = QUEUED_TARGET - in_flight * (share - NOISE_SHARE).max(0.0);
        if missing > 0.0 && in_flight < BUSY_PART * self.limit {
            return;
        }
        let limit = if is_crowded {
            self.step = 0.0;
            self.limit.min(in_flight) + missing
        } else if share < CLEAR_SHARE {
            self.limit + self.next_step(now)
        } else {
            self.step = 0.0;
            self.limit + GAIN * missing
        };
        if is_crowded || limit - self.limit > GREAT_STEP_PART * self.limit {
            self.fresh_from = now;
        }
        self.set(limit);
        self.known = self.limit;
    }

    /// Twice the last step, and at most the limit.
    fn next_step(&mut self, now: Duration) -> f64 {
        let step = self.step.max(STEP_MIN).max(STEP_PART_MIN * self.limit).min(self.limit);
        let is_calm = self.refused_at.is_none_or(|at| now.saturating_sub(at) > CALM_AFTER);
        self.step = if is_calm { 2.0 * step } else { STEP_AFTER_REFUSAL };
        step
    }

    fn set(&mut self, limit: f64) {
        self.limit = limit.min(self.ceiling).max(1.0);
        self.granted = self.granted.clamp(self.limit as usize, self.limit.ceil() as usize);
    }

    /// Grants the whole number below the limit, or the one above when enough is owed.
    fn alternate(&mut self) {
        self.owed += self.limit.fract();
        let is_above = self.owed >= 1.0;
        self.owed -= f64::from(u8::from(is_above));
        self.granted = self.limit as usize + usize::from(is_above);
    }
}

impl Window {
    fn add(&mut self, queue_seconds: f64, in_flight: usize) {
        self.answers += 1.0;
        self.queue_seconds += queue_seconds;
        self.in_flight += in_flight as f64;
    }

    /// The share of waiting in a request's time, as the usual request would have met it: whose answer comes early says
    /// much of how long it was and nothing of how long it waited.
    fn waiting_share(&self, service_seconds: f64) -> f64 {
        let queue_seconds = self.queue_seconds / self.answers;
        if queue_seconds > 0.0 { queue_seconds / (queue_seconds + service_seconds) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::limit::ServerTimes;

    /// Answers of a server that has room for `slots`, to as many as the limit allows, from a time on.
    fn answers(controller: &mut Controller, count: usize, slots: f64, from_seconds: u64) {
        for _ in 0..count {
            let in_flight = controller.current();
            let queue_seconds = (in_flight as f64 / slots - 1.0).max(0.0);
            let evaluation = Duration::from_secs(1);
            let total = evaluation + Duration::from_secs_f64(queue_seconds);
            let served = ServerTimes { total, load: Duration::ZERO, prompt_evaluation: Duration::ZERO, evaluation };
            let sent_at = Duration::from_secs(from_seconds);
            controller.answered(&Answered {
                sent_at,
                first_token_at: None,
                ended_at: sent_at + total,
                request_bytes: 100,
                served: Some(served),
                in_flight,
                silence: None,
            });
        }
    }

    #[test]
    fn an_open_server_is_met_with_doubling_steps_up_to_the_ceiling() {
        let mut controller = Controller::new(50);
        let seen: Vec<usize> = [0, 6, 8, 16, 32]
            .iter()
            .enumerate()
            .map(|(window, count)| {
                answers(&mut controller, *count, 1000.0, 10 * window as u64);
                controller.current()
            })
            .collect();
        assert_eq!(seen, [4, 8, 16, 32, 50]);
        controller.set_ceiling(20);
        assert_eq!(controller.current(), 20);
        controller.set_ceiling(50);
        answers(&mut controller, 20, 1000.0, 100);
        assert_eq!(controller.current(), 40);
    }

    #[test]
    fn a_crowd_is_cut_to_what_the_server_works_on() {
        let mut controller = Controller::new(64);
        (0..5).for_each(|window| answers(&mut controller, 64, 1000.0, 10 * window));
        assert_eq!(controller.current(), 64);
        answers(&mut controller, 64, 16.0, 100);
        // The queue that noise may make of 64 in flight is left to the next windows.
        assert!((16..=18).contains(&controller.current()), "{}", controller.current());
    }

    #[test]
    fn after_a_refusal_it_grows_by_one_a_window() {
        let mut controller = Controller::new(64);
        (0..5).for_each(|window| answers(&mut controller, 64, 1000.0, 10 * window));
        controller.cut(0.5, Duration::from_secs(100));
        assert_eq!(controller.current(), 32);
        answers(&mut controller, 320, 1000.0, 99);
        assert_eq!(controller.current(), 32, "what was sent before says nothing");
        answers(&mut controller, 33 * 6, 1000.0, 101);
        assert!((35..=38).contains(&controller.current()), "{}", controller.current());
        answers(&mut controller, 300, 1000.0, 200);
        assert_eq!(controller.current(), 64, "long afterwards it searches again");
    }

    #[test]
    fn an_outage_ends_at_half_of_what_the_server_took() {
        let mut controller = Controller::new(64);
        (0..9).for_each(|window| answers(&mut controller, 64, 16.0, 10 * window));
        controller.cut(0.7, Duration::from_secs(100));
        controller.one();
        assert_eq!(controller.current(), 1);
        controller.resume();
        assert_eq!(controller.current(), 8);
    }
}
