//! One client in a simulation: what it sends, and what it tells its limit.

use std::time::Duration;

use super::chance::Chance;
use super::{Answered, Client, Limit, Scenario, ServerTimes, Service, Sight};

/// So many requests are there at once when there are no longer plenty.
pub const AT_ONCE_AFTERWARDS: usize = 2;

/// One request; times in seconds.
#[derive(Clone, Debug)]
pub struct Request {
    pub client: usize,
    pub bytes: usize,
    pub prompt: f64,
    pub generation: f64,
    pub late: [f64; 3],
    pub sent: f64,
    pub arrived: f64,
    pub started: f64,
    pub loading: f64,
    pub first_token: f64,
}

/// A client at work.
pub struct Sender {
    pub plan: Client,
    pub limit: Option<Limit>,
    pub in_flight: usize,
    pub chance: Chance,
    pub speaking: usize,
    pub silent_since: f64,
    pub silence: Option<(Duration, Duration)>,
}

impl Sender {
    pub fn new(plan: &Client, seed: u64) -> Self {
        let limit = match *plan {
            Client::Ours { adaptive: true, ceiling, .. } => Some(Limit::adaptive(ceiling)),
            Client::Ours { adaptive: false, ceiling, .. } => Some(Limit::fixed(ceiling)),
            Client::Interactive => None,
        };
        Self {
            plan: plan.clone(),
            limit,
            in_flight: 0,
            chance: Chance(seed),
            speaking: 0,
            silent_since: 0.0,
            silence: None,
        }
    }

    pub fn may_send(&self, now: f64) -> bool {
        match (&self.plan, &self.limit) {
            (Client::Ours { plenty_until, .. }, Some(limit)) => {
                let at_once_max = if now < *plenty_until { usize::MAX } else { AT_ONCE_AFTERWARDS };
                self.in_flight < limit.current().min(at_once_max)
            }
            _ => self.in_flight == 0,
        }
    }

    pub fn request(&mut self, scenario: &Scenario, who: usize, now: f64) -> Request {
        let chance = &mut self.chance;
        let length = scenario.prompt_spread.powf(chance.uniform() - 0.5);
        let prompt = scenario.service_seconds * scenario.prompt_share * length;
        let mean = scenario.service_seconds * (1.0 - scenario.prompt_share);
        let generation = match scenario.service {
            Service::Deterministic => mean,
            Service::Exponential => -mean * (1.0 - chance.uniform()).ln(),
            // Sigma is 0.6, so that the mean is exp(0.18) of the median.
            Service::Lognormal => mean * (0.6 * chance.normal() - 0.18).exp(),
        };
        let (from, to) = scenario.jitter_seconds;
        let late = [(); 3].map(|()| from + (to - from) * chance.uniform());
        Request {
            client: who,
            bytes: (2000.0 * length) as usize,
            prompt,
            generation,
            late,
            sent: now,
            arrived: 0.0,
            started: 0.0,
            loading: 0.0,
            first_token: 0.0,
        }
    }
}

impl Request {
    pub fn answered(&self, sight: Sight, now: f64, sender: &Sender) -> Answered {
        let served = ServerTimes {
            total: seconds(self.started - self.arrived + self.prompt + self.generation),
            load: seconds(self.loading),
            prompt_evaluation: seconds(self.prompt),
            evaluation: seconds(self.generation),
        };
        Answered {
            sent_at: seconds(self.sent),
            first_token_at: (sight != Sight::Nothing).then(|| seconds(self.first_token)),
            ended_at: seconds(now),
            request_bytes: self.bytes,
            served: (sight == Sight::ServerTimes).then_some(served),
            in_flight: sender.in_flight,
            silence: sender.silence,
        }
    }
}

pub fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.max(0.0))
}
