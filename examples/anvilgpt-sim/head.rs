//! Status lines and header fields in each server's order. Pure; knows nothing of bodies.

use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::args::Regime;

/// How the end of the body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// By `content-length`
    Length(usize),
    /// By chunks
    Chunked,
    /// By the close of the connection
    Close,
}

/// A header field to be added.
pub type Field = (&'static str, String);

/// The head of a reply.
#[derive(Debug)]
pub struct Head<'a> {
    /// Status code
    pub status: u16,
    /// Media type
    pub content_type: &'a str,
    /// End of the body
    pub framing: Framing,
    /// More fields
    pub extra: &'a [Field],
}

/// Bodies of this size or more are compressed for clients that ask, and their replies vary.
const VARY_BYTES_MIN: usize = 500;

impl Head<'_> {
    /// Appends the head with its empty line.
    pub fn write(&self, out: &mut Vec<u8>, regime: Regime, date: &str) {
        let (status, reason) = (self.status, reason(self.status));
        write!(out, "HTTP/1.1 {status} {reason}\r\ndate: {date}\r\n").expect("a Vec takes every write");
        if regime.is_webui() {
            out.extend_from_slice(b"server: uvicorn\r\n");
        }
        for (name, value) in self.extra {
            write!(out, "{name}: {value}\r\n").expect("a Vec takes every write");
        }
        let (kind, framing) = (self.content_type, self.framing_field());
        match (self.framing, regime) {
            (_, Regime::Openai) => write!(out, "content-type: {kind}\r\n{framing}"),
            (Framing::Length(bytes), _) => {
                let vary = vary(bytes, regime);
                write!(out, "{framing}content-type: {kind}\r\n{vary}")
            }
            (_, Regime::Webui06) => write!(
                out,
                "content-type: {kind}\r\n{framing}date: {date}\r\nserver: Python/3.11 aiohttp/3.11.11\r\nx-process-time: 0\r\n"
            ),
            (_, Regime::Webui12) => {
                write!(out, "content-type: {kind}\r\nx-process-time: 0.011052\r\nvary: Origin\r\n{framing}")
            }
        }
        .expect("a Vec takes every write");
        out.extend_from_slice(b"\r\n");
    }

    fn framing_field(&self) -> String {
        match self.framing {
            Framing::Length(bytes) => format!("content-length: {bytes}\r\n"),
            Framing::Chunked => "transfer-encoding: chunked\r\n".to_owned(),
            Framing::Close => "connection: close\r\n".to_owned(),
        }
    }
}

/// The last fields of a reply whose length is known.
fn vary(bytes: usize, regime: Regime) -> &'static str {
    match (regime, bytes >= VARY_BYTES_MIN) {
        (Regime::Webui06, true) => "vary: Accept-Encoding\r\nx-process-time: 0\r\n",
        (Regime::Webui06, false) => "x-process-time: 0\r\n",
        (_, true) => "vary: Accept-Encoding, Origin\r\nx-process-time: 0.011052\r\n",
        (_, false) => "x-process-time: 0.011052\r\nvary: Origin\r\n",
    }
}

/// The phrase of a status code (IANA's registry, and two of a well-known proxy).
pub fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        413 => "Request Entity Too Large",
        415 => "Unsupported Media Type",
        418 => "I'm a Teapot",
        422 => "Unprocessable Entity",
        425 => "Too Early",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        520 => "Web Server Returned an Unknown Error",
        524 => "A Timeout Occurred",
        _ => "Unknown",
    }
}

/// The time of day, formatted once a second.
#[derive(Debug, Default)]
pub struct Clock {
    seconds: u64,
    date: String,
}

impl Clock {
    /// Unix time in seconds, and the `date` header's value.
    pub fn now(&mut self) -> (u64, &str) {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        if seconds != self.seconds {
            self.seconds = seconds;
            self.date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
        }
        (seconds, &self.date)
    }
}
