//! A rendered reply on its way: paced, or broken in the way that was asked for.
//! Knows framing and time, nothing of what the bytes mean.

use std::io::Write as _;
use std::time::{Duration, Instant};

use crate::head::{Field, Framing, Head};
use crate::http::Conn;
use crate::sim::Sim;
use crate::stream::Script;

/// A reply that is ready to go.
pub struct Wire<'a> {
    /// Its bytes, and where its events end
    pub script: Script,
    /// Whether it is an event stream
    pub stream: bool,
    /// Time between events
    pub gap: Duration,
    /// More header fields
    pub extra: &'a [Field],
}

/// How it is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As it should be
    Proper,
    /// So, but the connection is closed after it without a word
    IdleClose,
    /// The head alone
    HangFirst,
    /// Half of it
    HangMid,
    /// A byte at a time
    Drip,
    /// Half of the length that was announced
    CutLength,
    /// Half of it, then half a chunk
    CutChunk,
    /// Half of it, and the close as its end
    CutClose,
}

/// How the delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All was sent
    Whole,
    /// The connection is to be closed
    Close,
    /// The client left
    Gone,
}

/// Time between the bytes of a drip.
const DRIP: Duration = Duration::from_millis(200);

/// Sends the reply.
pub async fn deliver(sim: &Sim, conn: &mut Conn, wire: &Wire<'_>, manner: Manner) -> End {
    let head = wire.head(sim, manner);
    let end = match manner {
        Manner::Proper => paced(conn, head, wire).await.map(|()| End::Whole),
        Manner::IdleClose => paced(conn, head, wire).await.map(|()| End::Close),
        Manner::HangFirst => hang(conn, &head).await,
        Manner::HangMid => hang(conn, &wire.half(head)).await,
        Manner::Drip => drip(conn, head, wire).await.map(|()| End::Whole),
        Manner::CutLength | Manner::CutClose => cut(conn, &wire.half(head)).await,
        Manner::CutChunk => cut(conn, &wire.half_chunk(head)).await,
    };
    end.unwrap_or(End::Gone)
}

impl Wire<'_> {
    fn head(&self, sim: &Sim, manner: Manner) -> Vec<u8> {
        let framing = match manner {
            Manner::CutLength => Framing::Length(self.script.bytes.len()),
            Manner::CutChunk => Framing::Chunked,
            Manner::CutClose => Framing::Close,
            _ if self.stream => Framing::Chunked,
            _ => Framing::Length(self.script.bytes.len()),
        };
        let content_type = if self.stream { "text/event-stream" } else { "application/json" };
        let mut out = Vec::with_capacity(self.script.bytes.len() + 8 * self.script.ends.len() + 512);
        sim.head(&mut out, &Head { status: 200, content_type, framing, extra: self.extra });
        out
    }

    /// The middle: between two events if there are enough of them.
    fn middle(&self) -> usize {
        match self.script.paced {
            0 | 1 => self.script.ends[0] / 2,
            paced => self.script.ends[paced / 2 - 1],
        }
    }

    /// The head and half of the body, framed as the head says.
    fn half(&self, mut out: Vec<u8>) -> Vec<u8> {
        let half = &self.script.bytes[..self.middle()];
        let chunked = memchr::memmem::find(&out, b"transfer-encoding: chunked").is_some();
        if chunked {
            frame(&mut out, half)
        } else {
            out.extend_from_slice(half)
        }
        out
    }

    /// The head, half of the body, and a part of a chunk.
    fn half_chunk(&self, mut out: Vec<u8>) -> Vec<u8> {
        let middle = self.middle();
        frame(&mut out, &self.script.bytes[..middle]);
        // Half of the next event only: the end of the answer must not slip through.
        let next = self.script.ends.iter().copied().find(|&end| end > middle);
        let part = (next.unwrap_or(middle) - middle) / 2;
        write!(out, "{:x}\r\n", 2 * part + 1).expect("a Vec takes every write");
        out.extend_from_slice(&self.script.bytes[middle..middle + part]);
        out
    }
}

/// Appends one chunk.
pub fn frame(out: &mut Vec<u8>, bytes: &[u8]) {
    write!(out, "{:x}\r\n", bytes.len()).expect("a Vec takes every write");
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Writes the events at their times; those that are due together go in one write.
async fn paced(conn: &mut Conn, mut out: Vec<u8>, wire: &Wire<'_>) -> std::io::Result<()> {
    if !wire.stream {
        out.extend_from_slice(&wire.script.bytes);
        return conn.write(&out).await;
    }
    let started = Instant::now();
    let mut from = 0;
    for (index, &end) in wire.script.ends.iter().enumerate() {
        if !wire.gap.is_zero() {
            let due = wire.gap * u32::try_from(index.min(wire.script.paced)).unwrap_or(u32::MAX);
            let wait = due.saturating_sub(started.elapsed());
            if !wait.is_zero() {
                conn.write(&std::mem::take(&mut out)).await?;
                unless_left(conn, wait).await?;
            }
        }
        frame(&mut out, &wire.script.bytes[from..end]);
        from = end;
    }
    out.extend_from_slice(b"0\r\n\r\n");
    conn.write(&out).await
}

/// Sleeps, or fails at once when the client leaves.
async fn unless_left(conn: &mut Conn, time: Duration) -> std::io::Result<()> {
    tokio::select! {
        biased;
        () = conn.left() => Err(std::io::ErrorKind::BrokenPipe.into()),
        () = tokio::time::sleep(time) => Ok(()),
    }
}

async fn hang(conn: &mut Conn, bytes: &[u8]) -> std::io::Result<End> {
    conn.write(bytes).await?;
    conn.left().await;
    Ok(End::Gone)
}

async fn cut(conn: &mut Conn, bytes: &[u8]) -> std::io::Result<End> {
    conn.write(bytes).await?;
    Ok(End::Close)
}

async fn drip(conn: &mut Conn, head: Vec<u8>, wire: &Wire<'_>) -> std::io::Result<()> {
    conn.write(&head).await?;
    for byte in wire.script.bytes.chunks(1) {
        unless_left(conn, DRIP).await?;
        let mut out = Vec::new();
        if wire.stream {
            frame(&mut out, byte)
        } else {
            out.extend_from_slice(byte)
        }
        conn.write(&out).await?;
    }
    if wire.stream { conn.write(b"0\r\n\r\n").await } else { Ok(()) }
}
