//! The circuit breaker: an outage pauses an endpoint, probes it with one real request at a time, and costs no line
//! anything. Pure. Counts cohorts as Postfix's queue manager does (qmgr(8), "destination concurrency feedback"): each
//! failure weighs 1/L, a success clears the count, more than one whole cohort opens it.

use std::time::Duration;

const PROBE_WAIT_FIRST_SECONDS: f64 = 5.0;
const PROBE_WAIT_MAX_SECONDS: f64 = 300.0;

/// What may be sent now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Permit {
    /// Anything.
    Free,
    /// One request, as a probe.
    Probe,
    /// Nothing before this time.
    Wait(Duration),
    /// Nothing before the probe that is under way has ended.
    Probing,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Closed { cohorts: f64 },
    Open { since: Duration, probes_failed: u32, probe_at: Duration },
    Probing { since: Duration, probes_failed: u32 },
}

/// A breaker of one endpoint.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    /// Scales the waits between probes; 1 in production.
    wait_scale: f64,
}

impl Breaker {
    /// A closed breaker whose probes wait at most `wait_max` between them.
    pub fn new(wait_max: Duration) -> Self {
        let wait_scale = (wait_max.as_secs_f64() / 60.0).min(1.0);
        Self { state: State::Closed { cohorts: 0.0 }, wait_scale }
    }

    /// What may be sent at `now`.
    pub fn permit(&self, now: Duration) -> Permit {
        match self.state {
            State::Closed { .. } => Permit::Free,
            State::Open { probe_at, .. } if now >= probe_at => Permit::Probe,
            State::Open { probe_at, .. } => Permit::Wait(probe_at),
            State::Probing { .. } => Permit::Probing,
        }
    }

    /// A probe was sent.
    pub fn probe_sent(&mut self) {
        if let State::Open { since, probes_failed, .. } = self.state {
            self.state = State::Probing { since, probes_failed };
        }
    }

    /// The probe ended without saying anything about the endpoint: another may go.
    pub fn probe_void(&mut self, now: Duration) {
        if let State::Probing { since, probes_failed } = self.state {
            self.state = State::Open { since, probes_failed, probe_at: now };
        }
    }

    /// The endpoint answered a request. Returns whether that ended an outage.
    pub fn success(&mut self) -> bool {
        let was_open = !matches!(self.state, State::Closed { .. });
        self.state = State::Closed { cohorts: 0.0 };
        was_open
    }

    /// The endpoint failed one of up to `in_flight_max` requests; `unit` is uniform in 0..1. Returns whether the breaker
    /// opened by this.
    pub fn failure(&mut self, now: Duration, in_flight_max: usize, was_probe: bool, unit: f64) -> bool {
        match self.state {
            State::Closed { cohorts } => {
                let cohorts = cohorts + 1.0 / in_flight_max.max(1) as f64;
                // A hair of slack, so that L failures of weight 1/L are one cohort and not a little more.
                if cohorts <= 1.0 + 1e-9 {
                    self.state = State::Closed { cohorts };
                    return false;
                }
                self.state = State::Open { since: now, probes_failed: 0, probe_at: now + self.probe_wait(0, unit) };
                true
            }
            State::Probing { since, probes_failed } if was_probe => {
                let probes_failed = probes_failed + 1;
                self.state = State::Open { since, probes_failed, probe_at: now + self.probe_wait(probes_failed, unit) };
                false
            }
            // Stragglers that were sent before it opened say nothing new.
            State::Probing { .. } | State::Open { .. } => false,
        }
    }

    /// Since when nothing but probes is sent.
    pub fn open_since(&self) -> Option<Duration> {
        match self.state {
            State::Closed { .. } => None,
            State::Open { since, .. } | State::Probing { since, .. } => Some(since),
        }
    }

    /// U(½, 1) · min(300, 5·2^k) seconds.
    fn probe_wait(&self, probes_failed: u32, unit: f64) -> Duration {
        let ceiling = (PROBE_WAIT_FIRST_SECONDS * 2f64.powi(probes_failed.min(20) as i32)).min(PROBE_WAIT_MAX_SECONDS);
        Duration::from_secs_f64(ceiling * (0.5 + 0.5 * unit) * self.wait_scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn more_than_one_cohort_of_failures_opens_it() {
        let mut breaker = Breaker::new(60 * SECOND);
        assert!((0..8).all(|_| !breaker.failure(SECOND, 8, false, 1.0)));
        assert!(breaker.failure(SECOND, 8, false, 1.0));
        assert_eq!(breaker.permit(2 * SECOND), Permit::Wait(6 * SECOND));
        assert_eq!(breaker.permit(6 * SECOND), Permit::Probe);
    }

    #[test]
    fn a_success_clears_the_count() {
        let mut breaker = Breaker::new(60 * SECOND);
        for _ in 0..100 {
            assert!(!breaker.failure(SECOND, 1, false, 0.0));
            assert!(!breaker.success());
        }
    }

    #[test]
    fn probes_go_one_at_a_time_and_ever_more_rarely() {
        let mut breaker = Breaker::new(60 * SECOND);
        (0..2).for_each(|_| {
            breaker.failure(Duration::ZERO, 1, false, 1.0);
        });
        let mut waits = Vec::new();
        let mut now = Duration::ZERO;
        for _ in 0..8 {
            let Permit::Wait(at) = breaker.permit(now) else { panic!("open") };
            waits.push((at - now).as_secs());
            now = at;
            assert_eq!(breaker.permit(now), Permit::Probe);
            breaker.probe_sent();
            assert_eq!(breaker.permit(now), Permit::Probing);
            breaker.failure(now, 1, false, 1.0);
            assert_eq!(breaker.permit(now), Permit::Probing, "a straggler is no probe");
            breaker.failure(now, 1, true, 1.0);
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300]);
        breaker.probe_void(now);
        assert!(breaker.success() && breaker.permit(now) == Permit::Free);
    }
}
