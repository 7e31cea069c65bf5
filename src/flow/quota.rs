//! The quotas of one endpoint: what was sent in which window, and when the next request may go. Pure.
//!
//! Invariant: in any stretch of time as long as a quota's window no more attempts are sent than it permits, and the
//! service, which counts when they arrive, sees no more either, as long as arrival jitters by less than the margin.
//! Bursts are allowed as far as the windows allow them: that is what the service permits.

mod learned;
mod pace;
mod rate;
mod window;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use learned::{Left, QuotaNews};
pub use rate::{Rate, RateError};

use super::people::thousands;
use learned::Allowance;
use window::{Moment, Window, before_begin, moment, since_begin};

/// The window of a quota of tokens.
const TOKENS_WINDOW: Duration = Duration::from_secs(60);
/// An attempt is counted at least this much longer than its window: so much may arrival jitter.
const MARGIN_MIN: Duration = Duration::from_millis(20);
/// The same for a window that the stack's slowest quota keeps from binding for long: there it costs next to nothing.
const MARGIN_OF_BURSTS_MIN: Duration = Duration::from_millis(50);
/// From here on the margin is no larger than it must be: 1 % of the window.
const MARGIN_AMPLE: Duration = Duration::from_millis(250);
/// No jitter is longer than this.
const MARGIN_MAX: Duration = Duration::from_secs(2);

/// All quotas of one endpoint: request windows, tokens per minute, and what the service tells.
#[derive(Clone, Debug, Default)]
pub struct Quotas {
    requests: Vec<(Rate, Window)>,
    tokens: Option<Window>,
    learned_requests: Option<Allowance>,
    learned_tokens: Option<Allowance>,
    in_flight: u64,
    in_flight_tokens: u64,
    estimate_last: u64,
    latest: Moment,
}

/// One attempt that was counted. Give it back with [`Quotas::settle`] when the attempt ended, however it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "an attempt that is never settled counts as in flight for ever"]
pub struct Booking {
    at: Moment,
    tokens: u64,
}

impl Quotas {
    /// Quotas that all hold; nothing is used yet. `tokens_per_minute` slides over 60 s.
    pub fn new(rates: &[Rate], tokens_per_minute: Option<u64>) -> Self {
        let slowest = rates.iter().map(per_second).fold(f64::INFINITY, f64::min);
        let requests = rates.iter().map(|rate| {
            let binds = per_second(rate) <= slowest;
            (*rate, Window::of_requests(rate.count, rate.window + margin(rate.window, binds)))
        });
        let tokens =
            tokens_per_minute.map(|amount| Window::of_amounts(amount, TOKENS_WINDOW + margin(TOKENS_WINDOW, true)));
        Self { requests: requests.collect(), tokens, ..Self::default() }
    }

    /// Whether nothing is limited, and the service told of no limit either.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
            && self.tokens.is_none()
            && self.learned_requests.is_none()
            && self.learned_tokens.is_none()
    }

    /// When a request of about so many tokens may be sent: `now` or earlier when it may go at once.
    ///
    /// Exact for what is sent so far; a lower bound when more is sent before. A request that is larger than a quota of
    /// tokens may go when nothing else was used.
    pub fn ready_at(&self, now: Duration, tokens_estimate: u64) -> Duration {
        if self.is_empty() {
            return now;
        }
        let requests = self.requests.iter().map(|(_, window)| window.ready_at(1));
        let tokens = self.tokens.iter().map(|window| window.ready_at(tokens_estimate));
        let learned = self.learned(tokens_estimate).into_iter().map(|(_, _, at)| at);
        requests.chain(tokens).chain(learned).max().map_or(now, since_begin)
    }

    /// Counts an attempt that is sent now, whether or not it was time for it.
    pub fn take(&mut self, now: Duration, tokens_estimate: u64) -> Booking {
        let at = moment(now);
        self.requests.iter_mut().for_each(|(_, window)| window.add(at, 1));
        if let Some(window) = &mut self.tokens {
            window.add(at, tokens_estimate);
        }
        if let Some(allowance) = &mut self.learned_requests {
            allowance.take(at, 1, self.in_flight);
        }
        if let Some(allowance) = &mut self.learned_tokens {
            allowance.take(at, tokens_estimate, self.in_flight_tokens);
        }
        self.in_flight += 1;
        self.in_flight_tokens = self.in_flight_tokens.saturating_add(tokens_estimate);
        self.estimate_last = tokens_estimate;
        self.latest = self.latest.max(at);
        Booking { at, tokens: tokens_estimate }
    }

    /// The attempt ended, and cost so many tokens: 0 when nothing was computed. Each booking is settled once.
    pub fn settle(&mut self, booking: Booking, tokens: u64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.in_flight_tokens = self.in_flight_tokens.saturating_sub(booking.tokens);
        let Some(window) = &mut self.tokens else { return };
        if tokens < booking.tokens {
            window.give_back(booking.at, booking.tokens - tokens);
        } else if tokens > booking.tokens {
            // The service may count the excess when it was computed, which is later than the send.
            window.add(self.latest.max(booking.at), tokens - booking.tokens);
        }
    }

    /// Takes in what a reply says is left. `sent_since` are the attempts that the service may not have counted when it
    /// said so: those sent after that request, or in flight together with it.
    pub fn learn(&mut self, now: Duration, news: &QuotaNews, sent_since: usize) {
        self.latest = self.latest.max(moment(now));
        let sent_since = sent_since as u64;
        if let Some(left) = news.requests {
            self.learned_requests = Some(Allowance::new(now, left, sent_since));
        }
        if let Some(left) = news.tokens {
            let each = self.in_flight_tokens.checked_div(self.in_flight).unwrap_or(self.estimate_last);
            self.learned_tokens = Some(Allowance::new(now, left, each.saturating_mul(sent_since)));
        }
    }

    /// Counts sends of an earlier run, `age` before this run began.
    pub fn remember(&mut self, age: Duration, requests: u64, tokens: u64) {
        let at = before_begin(age);
        self.requests.iter_mut().for_each(|(_, window)| window.add_past(at, requests));
        if let Some(window) = &mut self.tokens {
            window.add_past(at, tokens);
        }
    }

    /// Which quota holds the next request back now, for people: `2,000 per 3 h`. None when none does.
    pub fn binding(&self, now: Duration) -> Option<String> {
        let tokens = self.estimate_last.max(1);
        let requests = self.requests.iter().map(|(rate, window)| (window.ready_at(1), rate.to_string()));
        let budget = self.tokens.iter().map(|window| (window.ready_at(tokens), tokens_told(window)));
        let learned = self.learned(tokens).into_iter().map(|(allowance, unit, at)| (at, allowance.told(unit)));
        let last = requests.chain(budget).chain(learned).max_by_key(|(at, _)| *at)?;
        (last.0 > moment(now)).then_some(last.1)
    }

    /// The allowances of the service, what they count, and from when on the next request fits.
    fn learned(&self, tokens: u64) -> impl IntoIterator<Item = (&Allowance, &'static str, Moment)> {
        let requests = self.learned_requests.iter().map(move |allowance| (allowance, "requests", 1));
        let tokens = self.learned_tokens.iter().map(move |allowance| (allowance, "tokens", tokens));
        requests
            .chain(tokens)
            .map(|(allowance, unit, amount)| (allowance, unit, allowance.ready_at(amount, self.in_flight)))
    }
}

fn tokens_told(window: &Window) -> String {
    format!("{} tokens per min", thousands(window.amount_max()))
}

fn per_second(rate: &Rate) -> f64 {
    rate.count as f64 / rate.window.as_secs_f64()
}

/// How much longer than its window an attempt counts. Costs at most 2.5 % of the quota where that leaves 20 ms, and 1 %
/// of long windows.
fn margin(window: Duration, binds: bool) -> Duration {
    let enough = MARGIN_AMPLE.max(window / 100).min(MARGIN_MAX);
    let margin = (window / 40).min(enough).max(MARGIN_MIN);
    if binds { margin } else { margin.max(MARGIN_OF_BURSTS_MIN.min(window / 10)) }
}
