//! The state that all connections share, on one thread. Invariant: no borrow lives across an await.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

use crate::args::{Args, Regime};
use crate::ask::Ask;
use crate::auth::Policy;
use crate::draw;
use crate::fault::{self, Kind, Rule};
use crate::gate::Gate;
use crate::head::{Clock, Field, Framing, Head};
use crate::http::Request;
use crate::quota::Quotas;
use crate::refusal::Reply;
use crate::stats::{Record, Stats};

/// The service.
pub struct Sim {
    /// The flags; `tokens` and `faults` are as at the start, `live` has today's
    pub args: Args,
    /// The slots
    pub gate: Gate,
    /// Rung when `down_for` is set
    pub doorbell: Notify,
    /// What changes
    pub live: RefCell<Live>,
    began: Instant,
}

/// What changes while the service runs.
pub struct Live {
    /// Accepted tokens
    pub tokens: Vec<String>,
    /// Faults
    pub faults: Vec<Rule>,
    /// Counters
    pub stats: Stats,
    /// The time of day
    pub clock: Clock,
    /// How long the service is to be down, once it looks
    pub down_for: Option<Duration>,
    /// What a proxy answers in the service's place, and until when
    pub page: Option<(u16, Instant)>,
    quotas: Quotas,
    loaded: Option<(String, Instant)>,
}

/// Where a chat request stands in the count.
#[derive(Debug, Clone, Copy)]
pub struct Visit {
    /// Number among all chat requests, from 1
    pub number: u64,
    /// Number among those of its prompt, from 1
    pub attempt: u64,
}

impl Sim {
    /// A service that nobody has asked anything yet.
    pub fn new(args: Args) -> Sim {
        let live = Live {
            tokens: args.tokens.clone(),
            faults: args.faults.clone(),
            stats: Stats::default(),
            clock: Clock::default(),
            down_for: None,
            page: None,
            quotas: Quotas::new(&args.quotas),
            loaded: None,
        };
        let gate = Gate::new(args.slots.map(std::num::NonZeroUsize::get));
        Sim { args, gate, doorbell: Notify::new(), live: RefCell::new(live), began: Instant::now() }
    }

    /// Whose wire format is spoken.
    pub fn regime(&self) -> Regime {
        self.args.regime
    }

    /// Looks at the token; counts a refusal.
    pub fn authorize(&self, request: &Request) -> Result<Option<usize>, Reply> {
        let mut live = self.live.borrow_mut();
        let policy = Policy { tokens: &live.tokens, open: self.args.open };
        let verdict = policy.admit(self.regime(), request);
        live.stats.counts.auth_refused += u64::from(verdict.is_err());
        verdict
    }

    /// Counts and remembers a chat request.
    pub fn arrive(&self, ask: &Ask<'_>, request: &Request, token: Option<usize>) -> Visit {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let arrived_us = u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX);
        let mut live = self.live.borrow_mut();
        live.stats.record(Record { head: request.head.clone(), body: request.body.clone(), token, arrived_us });
        let (number, attempt) = live.stats.arrive(ask.identity, token);
        Visit { number, attempt }
    }

    /// Holds a chat request against the quotas: the fields that its answer carries, or the refusal, which it counts.
    pub fn admit(&self, token: Option<usize>) -> Result<Vec<Field>, Reply> {
        let now = self.began.elapsed();
        let mut live = self.live.borrow_mut();
        let admitted = live.quotas.admit(now);
        let fields = if self.args.rate_headers { live.quotas.fields(now) } else { Vec::new() };
        let Err(wait) = admitted else { return Ok(fields) };
        live.stats.refuse(token);
        let mut reply = Reply::of_status(self.regime(), 429, b"");
        reply.extra = fields;
        let seconds = format!("{:.3}", wait.as_secs_f64());
        Err(if self.args.quota_retry_after { reply.with("retry-after", seconds) } else { reply })
    }

    /// The page of the proxy before the service, while that is down.
    pub fn page(&self) -> Option<Reply> {
        let mut live = self.live.borrow_mut();
        let (status, _) = live.page.filter(|&(_, until)| Instant::now() < until)?;
        live.stats.counts.pages += 1;
        Some(Reply::proxy_page(status))
    }

    /// The fault that befalls a chat request: the prompt's own, else the first rule that applies.
    pub fn fault(&self, ask: &Ask<'_>, visit: Visit) -> Option<Kind> {
        let live = self.live.borrow();
        fault::of_prompt(&ask.text, visit.attempt).or_else(|| {
            let salt = visit.attempt << 16;
            fault::of_rules(&live.faults, visit.number, |index| draw::unit(self.args.seed, ask.identity, salt + index))
        })
    }

    /// Whether a fault of another place than chat is active; `turn` counts the visits of that place.
    pub fn is_struck(&self, kind: &Kind, number: u64, turn: u64) -> bool {
        let live = self.live.borrow();
        let mut rules = live.faults.iter().enumerate().filter(|(_, rule)| rule.kind == *kind);
        rules.any(|(index, rule)| rule.applies(number, draw::unit(self.args.seed, turn, index as u64)))
    }

    /// How long this model takes to load; it counts as loaded from then on. One is loaded at a time.
    pub fn load(&self, model: &str) -> Duration {
        if self.args.cold_load == 0 {
            return Duration::ZERO;
        }
        let mut live = self.live.borrow_mut();
        let now = Instant::now();
        match &live.loaded {
            Some((name, ready)) if name == model => ready.saturating_duration_since(now),
            before => {
                let begin = before.as_ref().map_or(now, |(_, ready)| now.max(*ready));
                let ready = begin + Duration::from_millis(self.args.cold_load);
                live.loaded = Some((model.to_owned(), ready));
                live.stats.counts.loads += 1;
                ready - now
            }
        }
    }

    /// Unix time in seconds.
    pub fn created(&self) -> u64 {
        self.live.borrow_mut().clock.now().0
    }

    /// Appends a reply's head.
    pub fn head(&self, out: &mut Vec<u8>, head: &Head<'_>) {
        let mut live = self.live.borrow_mut();
        head.write(out, self.regime(), live.clock.now().1);
    }

    /// A reply's bytes.
    pub fn render(&self, reply: &Reply) -> Vec<u8> {
        let mut out = Vec::with_capacity(reply.body.len() + 256);
        let framing = Framing::Length(reply.body.len());
        let head = Head { status: reply.status, content_type: reply.content_type, framing, extra: &reply.extra };
        self.head(&mut out, &head);
        out.extend_from_slice(&reply.body);
        out
    }
}

/// Counts a chat request as in flight until it drops.
pub struct Flight(Rc<Sim>);

impl Flight {
    /// Begins to count.
    pub fn new(sim: &Rc<Sim>) -> Flight {
        let mut live = sim.live.borrow_mut();
        let counts = &mut live.stats.counts;
        counts.in_flight += 1;
        counts.in_flight_max = counts.in_flight_max.max(counts.in_flight);
        Flight(Rc::clone(sim))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.live.borrow_mut().stats.counts.in_flight -= 1;
    }
}
