//! What time alone changes: gates that open, retries that fall due, outages that last too long, drains that end; and
//! what people are told of it.

use std::task::{Context, Poll};
use std::time::Duration;

use super::{Core, Ended, Event, Happening, MODEL_LOOK, Mode, format_seconds, outage};
use crate::api::transport::{Page, Transport};
use crate::flow::{Permit, backoff};

/// A gate that opens sooner is not worth a message.
const GATE_MENTIONED: Duration = Duration::from_secs(2);
/// More ticks in a row than that are a sign that time alone changes nothing just now.
const TICKS_MAX: u32 = 16;
const TICK_REST: Duration = Duration::from_millis(10);

impl<T: Transport> Core<'_, T> {
    pub(super) fn poll_timer(&mut self, now: Duration, cx: &mut Context<'_>) -> Poll<Happening> {
        let Some(at) = self.wake_at(now) else { return Poll::Pending };
        // Even what is overdue goes through the timer when it comes again and again: sockets must be read meanwhile.
        if at <= now && self.ticks < TICKS_MAX {
            self.ticks += 1;
            return Poll::Ready(Happening::Tick);
        }
        let deadline = self.start + if at <= now { now + TICK_REST } else { at };
        if self.timer.deadline() != deadline {
            self.timer.as_mut().reset(deadline);
        }
        self.timer.as_mut().poll(cx).map(|()| {
            self.ticks = 0;
            Happening::Tick
        })
    }

    /// When time alone will change something.
    fn wake_at(&self, now: Duration) -> Option<Duration> {
        if let Some(until) = self.drain_until {
            return Some(until);
        }
        let state = self.endpoint.permit(now);
        let permit = if let Permit::Wait(at) = state { Some(at) } else { None };
        let slot_free = self.in_flight.occupied() < self.endpoint.limit.current();
        let retry = self.retries.peek().filter(|_| slot_free && !self.asking.holds_sends());
        let retry = retry.and_then(|ticket| match state {
            Permit::Free if ticket.unspent => Some(ticket.due),
            Permit::Free => Some(ticket.due.max(self.budget_at)),
            // Nothing could be sent as a probe: its model is held back.
            Permit::Probe => Some(ticket.due.max(now + MODEL_LOOK)),
            Permit::Wait(_) | Permit::Probing => None,
        });
        let may_ask = self.wants_dialect() && matches!(state, Permit::Free | Permit::Probe);
        let dialect = may_ask.then_some(self.dialect_at);
        let stalled = self.stall_ends_at().filter(|_| self.stall_counts());
        [permit, retry, dialect, stalled, self.asking.wake_at()].into_iter().flatten().min()
    }

    pub(super) fn tick<M: Mode>(&mut self, mode: &mut M) -> Option<Ended> {
        let now = self.now();
        if self.drain_until.is_some_and(|until| now >= until) {
            return Some(self.ended());
        }
        if self.sends() {
            self.look_after_dialect(now);
            self.look_after_token(now, mode);
            self.look_after_outage(now, mode);
        }
        self.announce(mode);
        None
    }

    fn look_after_dialect(&mut self, now: Duration) {
        let permitted = matches!(self.endpoint.permit(now), Permit::Free | Permit::Probe);
        if self.wants_dialect() && now >= self.dialect_at && permitted {
            self.endpoint.sent("", now);
            self.start_errand(Page::Version);
        }
    }

    fn look_after_outage<M: Mode>(&mut self, now: Duration, mode: &mut M) {
        if self.stall_counts() && self.stall_ends_at().is_some_and(|at| now >= at) {
            let max = format_seconds(self.settings.outage_max.unwrap_or_default());
            let message = format!("no line was answered for {max} ({})", self.last_trouble);
            let halt = self.asking.explain_outage(&message).unwrap_or_else(|| outage(message));
            self.halt_run(halt, mode);
        }
    }

    fn stall_ends_at(&self) -> Option<Duration> {
        Some(self.endpoint.stalled_since()? + self.settings.outage_max?)
    }

    /// While requests are in flight on a closed breaker, or a token is awaited, no outage is proven.
    fn stall_counts(&self) -> bool {
        (self.in_flight.is_empty() || self.endpoint.is_open()) && !self.asking.awaits_token()
    }

    /// Tells people when sending stops for a while, and when it goes on.
    pub(super) fn announce<M: Mode>(&mut self, mode: &mut M) {
        if !self.sends() {
            return;
        }
        let now = self.now();
        let gated = match self.endpoint.permit(now) {
            Permit::Wait(at) if !self.endpoint.is_open() => Some(at.saturating_sub(now)),
            _ => None,
        };
        let reason = if let Some(reason) = self.asking.pause_reason() {
            Some(reason)
        } else if self.endpoint.is_open() {
            Some(format!("the service is out ({}); probing until it answers", self.last_trouble))
        } else {
            gated
                .filter(|wait| *wait >= GATE_MENTIONED)
                .map(|wait| format!("the service asks to wait {}", format_seconds(wait)))
        };
        match reason {
            Some(reason) if !self.paused => {
                self.paused = true;
                mode.event(Event::Paused { reason });
            }
            None if self.paused && gated.is_none() => {
                self.paused = false;
                mode.event(Event::Resumed);
            }
            _ => {}
        }
    }

    /// The endpoint asks for a pause. One that outlasts our patience ends the run now rather than later.
    pub(super) fn gate<M: Mode>(&mut self, wait: Duration, mode: &mut M) {
        self.endpoint.gate(self.now() + backoff::with_jitter(wait, fastrand::f64()));
        if self.settings.outage_max.is_some_and(|max| wait > max) {
            let until = humantime::format_rfc3339_seconds(std::time::SystemTime::now() + wait);
            let message = format!(
                "the service asks to wait {}, until {until}, which is longer than --max-outage",
                format_seconds(wait)
            );
            self.halt_run(outage(message), mode);
        }
    }
}
