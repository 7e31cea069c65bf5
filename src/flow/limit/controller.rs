//! The adaptive law: keeps a fraction of a request of ours waiting at the server. Pure.

use std::time::Duration;

use super::Answered;
use super::waiting::{Evidence, Waiting};

const START: f64 = 4.0;
/// How many requests of ours are to wait at the server, on average.
pub const QUEUED_TARGET: f64 = 0.4;
/// Share of a request's time that waiting may be beside that, whatever the limit: noise.
const NOISE_SHARE: f64 = 0.03;
const WINDOW_ANSWERS_MIN: f64 = 4.0;
const CLEAR_SHARE: f64 = 0.02;
const STEP_MIN: f64 = 0.2;
const STEP_SHARE_MIN: f64 = 0.02;
const CROWDED_SHARE: f64 = 0.25;
const BUSY_SHARE: f64 = 0.75;
const CALM_AFTER: Duration = Duration::from_secs(60);

/// One model's controller.
#[derive(Debug)]
pub struct Controller {
    ceiling: f64,
    limit: f64,
    /// What the limit was when the server was last looked at undisturbed.
    known: f64,
    current: usize,
    dither: f64,
    waiting: Waiting,
    window: Window,
    fresh_from: Duration,
    step: f64,
    refused_at: Option<Duration>,
}

#[derive(Debug, Default)]
struct Window {
    answers: f64,
    queue_seconds: f64,
    wall_seconds: f64,
    in_flight: f64,
}

impl Controller {
    pub fn new(ceiling: usize) -> Self {
        let limit = START.min(ceiling as f64);
        Self {
            ceiling: ceiling as f64,
            limit,
            known: limit,
            current: limit as usize,
            dither: 0.0,
            waiting: Waiting::default(),
            window: Window::default(),
            fresh_from: Duration::ZERO,
            step: START,
            refused_at: None,
        }
    }

    pub fn current(&self) -> usize {
        self.current
    }

    pub fn limit(&self) -> f64 {
        self.limit
    }

    pub fn set_ceiling(&mut self, ceiling: usize) {
        self.ceiling = ceiling as f64;
        self.set(self.limit);
    }

    pub fn answered(&mut self, answered: &Answered) {
        match self.waiting.read(answered) {
            Evidence::Waited { queue_seconds, wall_seconds } if answered.sent_at >= self.fresh_from => {
                self.window.answers += 1.0;
                self.window.queue_seconds += queue_seconds;
                self.window.wall_seconds += wall_seconds;
                self.window.in_flight += answered.in_flight as f64;
                self.look(answered.ended_at);
            }
            Evidence::Blind if self.limit < START => self.set(self.limit + 1.0),
            _ => {}
        }
        self.dither();
    }

    fn look(&mut self, now: Duration) {
        let window = &self.window;
        let share = window.queue_seconds / window.wall_seconds.max(1e-9);
        let size = self.limit.floor().max(WINDOW_ANSWERS_MIN);
        let missing_answers = (size - window.answers).max(0.0) / window.answers;
        let rest_wall = missing_answers * (window.wall_seconds - window.queue_seconds).max(0.0);
        let sure_share = window.queue_seconds / (window.wall_seconds + rest_wall).max(1e-9);
        let is_sure = window.answers >= WINDOW_ANSWERS_MIN && sure_share > CROWDED_SHARE;
        if window.answers < size && !is_sure {
            return;
        }
        let busy = (window.in_flight / window.answers).min(self.limit + 1.0);
        let is_limited = busy < BUSY_SHARE * self.limit;
        let is_calm = self.refused_at.is_none_or(|at| now.saturating_sub(at) > CALM_AFTER);
        self.window = Window::default();
        let queued = busy * (share - NOISE_SHARE).max(0.0);
        let missing = QUEUED_TARGET - queued;
        if is_limited && missing > 0.0 {
            return;
        }
        let is_clear = share < CLEAR_SHARE;
        let limit = if is_clear {
            let step = self.step.max(STEP_MIN).max(STEP_SHARE_MIN * self.limit).min(self.limit);
            self.step = if is_calm { 2.0 * step } else { 1.0 };
            self.limit + step
        } else if share > CROWDED_SHARE {
            self.step = 0.0;
            busy + missing
        } else {
            self.step = 0.0;
            self.limit + 0.5 * missing
        };
        if (limit - self.limit).abs() > 0.25 * self.limit {
            self.fresh_from = now;
        }
        self.set(limit);
        self.known = self.limit;
    }

    pub fn cut(&mut self, factor: f64, now: Duration) {
        self.refused_at = Some(now);
        self.restart_at(self.limit * factor);
        self.fresh_from = now;
        self.current = self.limit as usize;
    }

    pub fn resume(&mut self) {
        self.restart_at(self.known / 2.0);
    }

    pub fn one(&mut self) {
        self.restart_at(1.0);
    }

    fn restart_at(&mut self, limit: f64) {
        self.set(limit);
        self.window = Window::default();
        self.step = 0.0;
        self.dither = 0.0;
        self.current = self.limit as usize;
    }

    fn set(&mut self, limit: f64) {
        self.limit = limit.clamp(1.0, self.ceiling);
        self.current = self.current.clamp(self.limit as usize, self.limit.ceil() as usize);
    }

    fn dither(&mut self) {
        self.dither += self.limit.fract();
        let carried = self.dither >= 1.0;
        if carried {
            self.dither -= 1.0;
        }
        self.current = self.limit as usize + usize::from(carried);
    }
}
