//! Faults that strike before the model is asked: closes, hangs, wrong replies, and bodies without end.
//! Invariant: whatever is sent, memory stays bounded; floods are made as they go out.

use crate::ask::Ask;
use crate::chat::{self, Next};
use crate::deliver;
use crate::draw;
use crate::fault::Kind;
use crate::head::{Field, Framing, Head};
use crate::http::{Conn, Request};
use crate::job::HOSTILE;
use crate::refusal::Reply;
use crate::sim::Sim;

const HUGE_BODY_BYTES: usize = 1 << 30;
const BIG_HEAD_FIELDS: usize = 1024;
const BIG_HEAD_FIELD_BYTES: usize = 1024;
/// Matches of 258 bytes each in the bomb: about 1 GiB.
const BOMB_MATCHES: usize = (1 << 30) / 258;

/// Lets the fault strike; `None` if it is one that shapes the answer instead.
pub async fn strike(sim: &Sim, conn: &mut Conn, ask: &Ask<'_>, request: &Request, kind: &Kind) -> Option<Next> {
    if let Some(reply) = reply(sim, ask, request, kind) {
        return Some(chat::send(sim, conn, &reply).await);
    }
    let end = match kind {
        Kind::Eof => return Some(Next::Close),
        Kind::Reset => {
            conn.reset_on_close();
            return Some(Next::Close);
        }
        Kind::HangHead => {
            conn.left().await;
            return Some(chat::cancelled(sim));
        }
        Kind::EmptyStream => {
            let mut out = stream_head(sim, Framing::Chunked, "text/event-stream");
            out.extend_from_slice(b"0\r\n\r\n");
            return Some(conn.write(&out).await.map_or(Next::Close, |()| Next::Keep));
        }
        Kind::Endless => endless(sim, conn, ask).await,
        Kind::HugeBody => huge_body(sim, conn, ask).await,
        _ => return None,
    };
    Some(if end.is_err() { chat::cancelled(sim) } else { Next::Close })
}

/// The faults that are one whole reply.
fn reply(sim: &Sim, ask: &Ask<'_>, request: &Request, kind: &Kind) -> Option<Reply> {
    let regime = sim.regime();
    Some(match kind {
        Kind::Null => Reply::json(200, "null"),
        Kind::Html => Reply::maintenance_page(),
        Kind::ErrorJson => Reply { status: 200, ..Reply::openai(500, "the model runner has stopped", None) },
        Kind::Task => task(),
        Kind::BadJson => Reply::json(200, r#"{"id":"x","choices":[{"index":0,"message":{"content":"cut"#),
        Kind::Wrapped(status) => Reply::wrapped(*status),
        Kind::Status(status) => Reply::of_status(regime, *status, &request.body),
        Kind::EscapeError(status) => Reply::error(regime, *status, HOSTILE),
        Kind::RetryAfter { status, value } => {
            Reply::of_status(regime, *status, &request.body).with("retry-after", retry_after(sim, value))
        }
        Kind::RateHeaders { status, remaining, reset } if *status != 200 => {
            Reply { extra: rate_fields(remaining, reset), ..Reply::of_status(regime, *status, &request.body) }
        }
        Kind::Redirect { status, url } => Reply::html(*status, "").with("location", url.clone()),
        Kind::GzipBomb => Reply::json(200, bomb()).with("content-encoding", "gzip"),
        Kind::ModelNotFound => Reply::model_not_found(regime, &ask.model),
        Kind::Unauthorized => {
            sim.live.borrow_mut().stats.counts.auth_refused += 1;
            Reply::expired(regime)
        }
        Kind::Forbidden => Reply::forbidden(regime),
        _ => return None,
    })
}

/// The reply of a background task.
pub fn task() -> Reply {
    Reply::json(200, [&br#"{"status":true,"task_id":""#[..], &draw::uuid(), br#""}"#].concat())
}

/// The fields that tell how many requests are left.
pub fn rate_fields(remaining: &str, reset: &str) -> Vec<Field> {
    vec![("x-ratelimit-remaining-requests", remaining.to_owned()), ("x-ratelimit-reset-requests", reset.to_owned())]
}

/// A mebibyte of fields.
pub fn big_fields() -> Vec<Field> {
    (0..BIG_HEAD_FIELDS).map(|_| ("x-pad", "p".repeat(BIG_HEAD_FIELD_BYTES - "x-pad: \r\n".len()))).collect()
}

/// The literal value, or an HTTP date so many seconds from now for `date+S` and `date-S`.
fn retry_after(sim: &Sim, value: &str) -> String {
    let Some(offset) = value.strip_prefix("date").and_then(|seconds| seconds.parse::<i64>().ok()) else {
        return value.to_owned();
    };
    let seconds = sim.created().saturating_add_signed(offset);
    httpdate::fmt_http_date(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds))
}

fn stream_head(sim: &Sim, framing: Framing, content_type: &str) -> Vec<u8> {
    let mut out = Vec::new();
    sim.head(&mut out, &Head { status: 200, content_type, framing, extra: &[] });
    out
}

/// The beginning of a body whose content is filled without end, and its type.
fn opening(ask: &Ask<'_>) -> (&'static str, &'static [u8]) {
    if ask.stream {
        return ("text/event-stream", br#"data: {"choices":[{"index":0,"finish_reason":null,"delta":{"content":""#);
    }
    ("application/json", br#"{"choices":[{"index":0,"finish_reason":"stop","message":{"content":""#)
}

async fn huge_body(sim: &Sim, conn: &mut Conn, ask: &Ask<'_>) -> std::io::Result<()> {
    let (content_type, opening) = opening(ask);
    conn.write(&stream_head(sim, Framing::Length(HUGE_BODY_BYTES), content_type)).await?;
    conn.write(opening).await?;
    let block = vec![b'a'; 64 << 10];
    let mut left = HUGE_BODY_BYTES - opening.len();
    while left > 0 {
        let now = left.min(block.len());
        conn.write(&block[..now]).await?;
        left -= now;
        // A socket that takes everything would keep the only thread from the other connections.
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn endless(sim: &Sim, conn: &mut Conn, ask: &Ask<'_>) -> std::io::Result<()> {
    let (content_type, opening) = opening(ask);
    conn.write(&stream_head(sim, Framing::Chunked, content_type)).await?;
    let repeated = if ask.stream {
        [opening, b"on and \"}}]}\n\n"].concat()
    } else {
        conn.write(&chunk(opening)).await?;
        b"on and ".to_vec()
    };
    let repeated = chunk(&repeated);
    let pause = sim.args.chunk_delay.map(std::time::Duration::from_millis);
    loop {
        conn.write(&repeated).await?;
        match pause {
            Some(pause) => tokio::time::sleep(pause).await,
            None => tokio::task::yield_now().await,
        }
    }
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 16);
    deliver::frame(&mut out, bytes);
    out
}

/// A gzip member of some 7 MB that unpacks to 1 GiB of `a` (RFC 1951, section 3.2.6; RFC 1952).
fn bomb() -> Vec<u8> {
    let mut bits = Bits { out: vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff], held: 0, count: 0 };
    bits.put(0b011, 3); // The last block, with the fixed codes.
    bits.put(u64::from((0x30 + b'a').reverse_bits()), 8);
    for _ in 0..BOMB_MATCHES {
        // Length 258 is code 285, eight bits; distance 1 is code 0, five bits.
        bits.put(u64::from(0b1100_0101u8.reverse_bits()), 13);
    }
    bits.put(0, 7 + 7);
    // The checksum is false: nobody should get as far as to compare it.
    bits.out.extend_from_slice(&[0; 8]);
    bits.out
}

/// Bits packed as deflate wants them, the low ones first.
struct Bits {
    out: Vec<u8>,
    held: u64,
    count: u32,
}

impl Bits {
    fn put(&mut self, value: u64, count: u32) {
        self.held |= value << self.count;
        self.count += count;
        while self.count >= 8 {
            self.out.push((self.held & 0xff) as u8);
            self.held >>= 8;
            self.count -= 8;
        }
    }
}
