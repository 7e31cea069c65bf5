//! One attempt: sends a request, reads the reply under its clocks and bounds, and returns what it showed.
//!
//! Invariant: always ends. A clock runs in every wait, and it is events that count as life, not bytes: a reply that
//! drips without ever completing an event runs out of time all the same.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Clocks, Delta, Key};
use crate::api::assemble::{Assembler, More};
use crate::api::chunk::deltas;
use crate::api::headers::{ContentKind, Head};
use crate::api::signal::{Body, Signal, judge};
use crate::api::sse::Decoder;
use crate::api::transport::{Reply, ReplyBody, Transport, TransportError, collect};
use crate::flow::quota::QuotaNews;

/// Bytes that are read of a body that explains a refusal.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// Chunks of a stream; at one token each, more than any model's context.
const CHUNKS_MAX: u64 = 4 << 20;

/// How long the end of a body may take after the end of the stream in it.
const END_MAX: Duration = Duration::from_millis(50);

/// A time without any event, in all replies of a model, from here on is remembered.
const SILENCE_MIN: Duration = Duration::from_secs(1);

/// When replies of one model at one endpoint last showed life: while a model is loaded, all of them are silent.
#[derive(Debug)]
pub struct Pulse {
    last: Cell<Instant>,
    silence: Cell<Option<(Instant, Instant)>>,
}

impl Pulse {
    /// Replies are awaited from now on.
    pub fn new(now: Instant) -> Self {
        Self { last: Cell::new(now), silence: Cell::new(None) }
    }

    /// Nothing was awaited before now.
    pub fn restart(&self, now: Instant) {
        self.last.set(now);
    }

    /// A reply shows life.
    pub fn beat(&self, now: Instant) {
        let last = self.last.replace(now);
        if now.duration_since(last) >= SILENCE_MIN {
            self.silence.set(Some((last, now)));
        }
    }

    /// The latest silence: from when until when.
    pub fn silence(&self) -> Option<(Instant, Instant)> {
        self.silence.get()
    }
}

/// When a body ends whose reply was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// It has ended, or is given up.
    Now,
    /// All that is missing is its end.
    Later,
}

/// What an attempt needs to know.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The request, for its deltas.
    pub key: Key,
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// Whether the reply is asked for as a stream.
    pub streams: bool,
    /// The clocks.
    pub clocks: Clocks,
    /// Largest reply.
    pub reply_bytes_max: usize,
    /// Where deltas go, when somebody wants them.
    pub deltas: Option<mpsc::Sender<Delta>>,
    /// Hears of every event, with those of the other replies of this model.
    pub pulse: Rc<Pulse>,
}

/// What an attempt showed.
#[derive(Debug)]
pub struct Seen {
    /// The verdict.
    pub signal: Signal,
    /// How long the endpoint wants nothing, from now.
    pub wait: Option<Duration>,
    /// What the endpoint says of its quotas.
    pub quota: Option<QuotaNews>,
    /// When the first event of a stream came.
    pub first_token: Option<Instant>,
    /// HTTP status, when there was one.
    pub status: Option<u16>,
}

impl Seen {
    fn without_reply(signal: Signal) -> Self {
        Self { signal, wait: None, quota: None, first_token: None, status: None }
    }
}

/// Sends `body` once. Returns what that showed, and the reply's body when all but its end was read.
pub async fn attempt<T: Transport>(transport: &T, body: Bytes, plan: Plan) -> (Seen, Option<T::Body>) {
    let start = Instant::now();
    let first = if plan.streams { plan.clocks.first_token } else { plan.clocks.whole_reply };
    let sleep = pin!(sleep_until(start + first));
    let mut clock = Clock { deadline: start + first, sleep };
    let reply = match clock.bound(transport.post_chat(body)).await {
        Some(Ok(reply)) => reply,
        Some(Err(error)) => return (Seen::without_reply(from_transport(error)), None),
        None => return (Seen::without_reply(out_of_time(plan.streams, first)), None),
    };
    let Reply { head, mut body } = reply;
    let mut first_token = None;
    let (signal, ends) = read(&head, &mut body, clock, start, &plan, &mut first_token).await;
    let signal = signal.map_text(|text| transport.redact(text));
    let seen = Seen { signal, wait: head.wait, quota: head.quota, first_token, status: Some(head.status) };
    (seen, (ends == Ends::Later).then_some(body))
}

/// Takes the end of a body, for without it the connection could not serve again. A server that does not send it, or
/// sends more, loses the connection.
pub async fn take_end<B: ReplyBody>(ending: Option<B>) {
    let Some(mut body) = ending else { return };
    let ended = tokio::time::timeout(END_MAX, async { while let Ok(Some(_)) = body.chunk().await {} }).await;
    if ended.is_ok() {
        // The pool learns of it in its own turn; a request that came before would open a new connection.
        tokio::task::yield_now().await;
    }
}

async fn read<B: ReplyBody>(
    head: &Head,
    body: &mut B,
    mut clock: Clock<'_>,
    start: Instant,
    plan: &Plan,
    first_token: &mut Option<Instant>,
) -> (Signal, Ends) {
    let success = (200..300).contains(&head.status);
    if success && head.kind == ContentKind::EventStream && !head.encoded {
        return match read_stream(body, clock, plan, first_token).await {
            Ok((body, ends)) => (judge(head, body), ends),
            Err(signal) => (signal, Ends::Now),
        };
    }
    let whole_reply = plan.clocks.whole_reply;
    clock.reset(start + whole_reply.max(plan.clocks.first_token));
    let bytes_max = if success { plan.reply_bytes_max } else { REFUSAL_BYTES_MAX };
    let signal = match clock.bound(collect(body, bytes_max)).await {
        Some(Ok(Some(bytes))) => judge(head, Body::Whole(bytes)),
        Some(Ok(None)) => judge(head, Body::TooLarge),
        // A refusal is judged by its status even when its explanation broke off.
        Some(Err(_)) | None if !success => judge(head, Body::Whole(Bytes::new())),
        Some(Err(error)) => from_transport(error),
        None => Signal::Slow(format!("the reply was not whole after {}", humantime::format_duration(whole_reply))),
    };
    (signal, Ends::Now)
}

async fn read_stream<B: ReplyBody>(
    body: &mut B,
    mut clock: Clock<'_>,
    plan: &Plan,
    first_token: &mut Option<Instant>,
) -> Result<(Body, Ends), Signal> {
    let (mut decoder, mut assembler, mut length) = (Decoder::default(), Assembler::default(), 0usize);
    loop {
        let chunk = match clock.bound(body.chunk()).await {
            Some(Ok(Some(chunk))) => chunk,
            Some(Ok(None)) => break,
            Some(Err(error)) => return Err(from_transport(error)),
            None if assembler.events() == 0 => return Err(out_of_time(true, plan.clocks.first_token)),
            None => {
                return Err(Signal::Slow(format!(
                    "no further chunk for {}",
                    humantime::format_duration(plan.clocks.between_chunks)
                )));
            }
        };
        length += chunk.len();
        let events_before = assembler.events();
        let mut heard = Vec::new();
        let more = decoder.feed(&chunk, &mut |data| {
            if plan.deltas.is_some() {
                heard.extend(deltas(data));
            }
            assembler.event(data) == More::Yes
        });
        pass_on(heard, plan).await;
        if assembler.events() > events_before {
            let now = Instant::now();
            first_token.get_or_insert(now);
            plan.pulse.beat(now);
            clock.reset(now + plan.clocks.between_chunks);
        }
        if !more {
            let ends = if assembler.is_done() { Ends::Later } else { Ends::Now };
            return Ok((Body::Stream(assembler.finish()), ends));
        }
        if length > plan.reply_bytes_max || assembler.events() > CHUNKS_MAX {
            return Ok((Body::TooLarge, Ends::Now));
        }
    }
    decoder.finish(&mut |data| assembler.event(data) == More::Yes);
    Ok((Body::Stream(assembler.finish()), Ends::Now))
}

async fn pass_on(heard: Vec<(u64, Box<str>)>, plan: &Plan) {
    let Some(sender) = &plan.deltas else { return };
    for (index, delta) in heard {
        // The receiver lives as long as the engine, and nobody reads on without it.
        let _ = sender.send(Delta { key: plan.key, attempt: plan.attempt, index, delta }).await;
    }
}

fn out_of_time(streams: bool, limit: Duration) -> Signal {
    let limit = humantime::format_duration(limit);
    if streams {
        Signal::FirstTokenTimeout(format!("no first token within {limit}"))
    } else {
        Signal::Slow(format!("no reply within {limit}"))
    }
}

fn from_transport(error: TransportError) -> Signal {
    match error {
        TransportError::NotSent(text) => Signal::NotSent(text),
        TransportError::Misconfigured(text) => Signal::Misconfigured(text),
        TransportError::Lost(text) => Signal::Lost(text),
        TransportError::NotHttp(text) => Signal::Invalid(text),
    }
}

/// A deadline that can move. The timer is touched only when it would fire too late: moving the deadline on is free.
struct Clock<'s> {
    deadline: Instant,
    sleep: Pin<&'s mut Sleep>,
}

impl Clock<'_> {
    /// `future`'s output, or `None` when the deadline comes first.
    async fn bound<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            while self.sleep.as_mut().poll(cx).is_ready() {
                if Instant::now() >= self.deadline {
                    return Poll::Ready(None);
                }
                self.sleep.as_mut().reset(self.deadline);
            }
            Poll::Pending
        })
        .await
    }

    fn reset(&mut self, deadline: Instant) {
        self.deadline = deadline;
        if deadline < self.sleep.deadline() {
            self.sleep.as_mut().reset(deadline);
        }
    }
}
