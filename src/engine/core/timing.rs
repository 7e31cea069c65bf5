//! What time alone changes: gates that open, retries that fall due, outages that last too long, drains that end; and
//! what people are told of it.

use std::task::{Context, Poll};
use std::time::Duration;

use super::backend::{Backend, Cause, Held};
use super::{Core, Ended, Event, Happening, Mode, format_seconds, out_of_time, outage};
use crate::api::transport::{Page, Transport};
use crate::flow::{Permit, backoff};

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
        let backends = self.backends.iter().filter_map(|backend| self.backend_wakes_at(backend, now)).min();
        let stalled = self.stall_ends_at().filter(|_| self.stall_counts());
        [backends, self.retry_at(now), stalled, self.stop_sending_at()].into_iter().flatten().min()
    }

    /// When time alone will change something at one endpoint.
    fn backend_wakes_at(&self, backend: &Backend<'_, T>, now: Duration) -> Option<Duration> {
        if backend.retired.is_some() {
            return backend.revived_at.map(|(at, _)| at);
        }
        let state = backend.endpoint.permit(now);
        let permit = if let Permit::Wait(at) = state { Some(at) } else { None };
        let may_ask = self.wants_dialect(backend) && matches!(state, Permit::Free | Permit::Probe);
        let dialect = may_ask.then_some(backend.dialect_at);
        let model = backend.endpoint.model_probe_at(now);
        [permit, dialect, model, backend.asking.wake_at()].into_iter().flatten().min()
    }

    fn wants_dialect(&self, backend: &Backend<'_, T>) -> bool {
        let is_wanted = || {
            self.settings.asks_at_once
                || self.first.is_some()
                || self.backends.iter().any(|backend| backend.dialect.is_some())
        };
        backend.dialect.is_none() && backend.errand.is_none() && backend.retired.is_none() && is_wanted()
    }

    /// When what is sent could no longer be waited for: as long before the deadline as a drain may take, but never
    /// more than half of the time there is.
    fn stop_sending_at(&self) -> Option<Duration> {
        self.settings.deadline.map(|deadline| deadline.saturating_sub(self.settings.drain.min(deadline / 2)))
    }

    /// Whether a quota lets nothing pass before the deadline, and there is nothing to wait for meanwhile.
    pub(super) fn is_out_of_time(&self) -> bool {
        let Some(stop_at) = self.stop_sending_at().filter(|_| self.sends() && self.in_flight.is_empty()) else {
            return false;
        };
        let now = self.now();
        let is_late = |backend: &Backend<'_, T>| {
            matches!(backend.held(now), Held::Briefly | Held::Long(Cause::Quota))
                && matches!(backend.endpoint.permit(now), Permit::Wait(at) if at >= stop_at)
        };
        !self.is_complete() && self.wanted(now).all(is_late)
    }

    pub(super) fn tick<M: Mode>(&mut self, mode: &mut M) -> Option<Ended> {
        let now = self.now();
        if self.drain_until.is_some_and(|until| now >= until) {
            return Some(self.ended());
        }
        if self.sends() {
            if self.stop_sending_at().is_some_and(|at| now >= at) {
                self.halt_run(out_of_time("the deadline is near: nothing more is sent".to_owned()), mode);
                return None;
            }
            for at in 0..self.backends.len() {
                let backend = &mut self.backends[at];
                if backend.retired.is_some() && backend.revived_at.is_some_and(|(at, _)| now >= at) {
                    backend.revive();
                }
                self.look_after_dialect(at, now);
                self.look_after_token(at, now, mode);
            }
            self.look_after_outage(now, mode);
        }
        self.announce(mode);
        None
    }

    fn look_after_dialect(&mut self, at: usize, now: Duration) {
        let backend = &self.backends[at];
        if self.wants_dialect(backend) && now >= backend.dialect_at && backend.is_permitted(now) {
            let backend = &mut self.backends[at];
            backend.endpoint.asked(now);
            backend.start_errand(Page::Version);
        }
    }

    fn look_after_outage<M: Mode>(&mut self, now: Duration, mode: &mut M) {
        if self.stall_counts() && self.stall_ends_at().is_some_and(|at| now >= at) {
            let max = format_seconds(self.settings.outage_max.unwrap_or_default());
            let live = || self.backends.iter().filter(|backend| backend.retired.is_none());
            let trouble = live().map(|backend| &*backend.last_trouble).find(|trouble| !trouble.is_empty());
            let message = format!("no line was answered for {max} ({})", trouble.unwrap_or_default());
            let halt = live().find_map(|backend| backend.asking.explain_outage(&message));
            self.halt_run(halt.unwrap_or_else(|| outage(message)), mode);
        }
    }

    /// When failures without a success, at every endpoint that may serve what waits, have lasted too long.
    fn stall_ends_at(&self) -> Option<Duration> {
        let outage_max = self.settings.outage_max?;
        if let [only] = &self.backends[..] {
            return Some(only.endpoint.stalled_since()? + outage_max);
        }
        let mut since = Duration::ZERO;
        for backend in self.wanted(self.now()) {
            since = since.max(backend.endpoint.stalled_since()?);
        }
        Some(since + outage_max)
    }

    /// While requests are in flight on a closed breaker, or a token is awaited, no outage is proven.
    fn stall_counts(&self) -> bool {
        self.wanted(self.now()).all(|backend| {
            let is_idle = backend.endpoint.in_flight() == 0;
            (is_idle || backend.endpoint.is_open()) && !backend.asking.awaits_token()
        })
    }

    /// Tells people when sending stops for a while, and when it goes on.
    pub(super) fn announce<M: Mode>(&mut self, mode: &mut M) {
        if !self.sends() {
            return;
        }
        let now = self.now();
        let several = self.backends.len() > 1;
        let mut held_by = None;
        let mut all_held = true;
        for backend in self.backends.iter_mut().filter(|backend| backend.retired.is_none()) {
            let told = backend.told;
            backend.told = match backend.held(now) {
                Held::Long(cause) => Some(cause),
                Held::Briefly => told,
                Held::Free => None,
            };
            all_held &= backend.told.is_some();
            held_by = held_by.or(backend.told);
            if several && backend.told != told {
                let reason = backend.told.map(|_| backend.hold_reason(now));
                mode.event(Event::Endpoint { name: backend.name.clone(), reason });
            }
        }
        let paused = held_by.filter(|_| all_held);
        if paused.is_some() && paused != self.paused {
            let held = self.backends.iter().find(|backend| backend.retired.is_none());
            let reason = held.map(|backend| backend.hold_reason(now)).unwrap_or_default();
            mode.event(Event::Paused { reason });
        } else if self.paused.is_some() && paused.is_none() {
            mode.event(Event::Resumed);
        }
        self.paused = paused;
    }
    /// The endpoint asks for a pause. One that outlasts our patience ends the run now rather than later.
    pub(super) fn gate<M: Mode>(&mut self, at: usize, wait: Duration, mode: &mut M) {
        let until = self.now() + backoff::with_jitter(wait, fastrand::f64());
        self.backends[at].endpoint.gate(until);
        // The others may go on meanwhile; what they were asked to wait for counts as well.
        let now = self.now();
        let others = self.wanted(now).filter(|backend| !std::ptr::eq(*backend, &self.backends[at]));
        let wait = others.map(|backend| backend.endpoint.gate_until().saturating_sub(now)).fold(wait, Duration::min);
        let asks = || {
            let until = humantime::format_rfc3339_seconds(std::time::SystemTime::now() + wait);
            format!("the service asks to wait {}, until {until}, which is", format_seconds(wait))
        };
        if self.stop_sending_at().is_some_and(|at| self.now() + wait >= at) {
            self.halt_run(out_of_time(format!("{} past the deadline", asks())), mode);
        } else if self.settings.outage_max.is_some_and(|max| wait > max) {
            self.halt_run(outage(format!("{} longer than --max-outage", asks())), mode);
        }
    }
}
