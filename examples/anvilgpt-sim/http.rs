//! One HTTP/1.1 connection: whole requests in, bytes out, and the news that the peer has left.
//! Invariant: memory per request is bounded by `HEAD_BYTES_MAX` and `BODY_BYTES_MAX`. Knows nothing of chats.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const HEAD_BYTES_MAX: usize = 64 << 10;
const BODY_BYTES_MAX: usize = 2 << 30;
const HEADERS_MAX: usize = 100;
/// What a peer may send ahead of its turn before we stop reading.
const AHEAD_BYTES_MAX: usize = 1 << 20;
const READ_BYTES: usize = 16 << 10;

/// A connection.
pub struct Conn {
    stream: TcpStream,
    buffer: BytesMut,
}

/// The methods that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `POST`
    Post,
    /// `HEAD`
    Head,
    /// `OPTIONS`
    Options,
    /// Any other
    Other,
}

/// A request that was read whole.
#[derive(Debug)]
pub struct Request {
    /// The head as received
    pub head: Bytes,
    /// The body, without chunk framing
    pub body: Bytes,
    /// Its method
    pub method: Method,
    /// Its path without the query
    pub path: String,
    /// The `authorization` value, with the blanks at its end
    pub authorization: Option<String>,
    /// The `x-api-key` value
    pub api_key: Option<String>,
    /// Whether the content type says JSON
    pub is_json: bool,
    /// Whether the connection goes on after the reply
    pub keep_alive: bool,
}

/// How the request's body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
}

/// Why no request could be read.
#[derive(Debug)]
pub enum ReadError {
    /// The peer closed or the socket failed
    Gone,
    /// The bytes are not HTTP or too many: answer with this status
    Bad(u16),
}

impl From<io::Error> for ReadError {
    fn from(_: io::Error) -> Self {
        ReadError::Gone
    }
}

impl Conn {
    /// Takes over an accepted socket.
    pub fn new(stream: TcpStream) -> Conn {
        // Without it each small chunk would wait for the peer's acknowledgement; a failure costs only time.
        let _ = stream.set_nodelay(true);
        Conn { stream, buffer: BytesMut::new() }
    }

    /// Reads the next request.
    pub async fn request(&mut self) -> Result<Request, ReadError> {
        let (mut request, framing, expects) = loop {
            if let Some((length, parsed)) = parse(&self.buffer)? {
                let (mut request, framing, expects) = parsed;
                request.head = self.buffer.split_to(length).freeze();
                break (request, framing, expects);
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err(ReadError::Bad(431));
            }
            self.fill(READ_BYTES).await?;
        };
        if expects && self.buffer.is_empty() {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        request.body = match framing {
            Framing::Length(length) => self.take(length).await?,
            Framing::Chunked => self.chunked().await?,
        };
        Ok(request)
    }

    /// Writes all the bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Makes the close a reset.
    pub fn reset_on_close(&self) {
        // Only a dead socket refuses it, and that one needs no reset.
        let _ = self.stream.set_zero_linger();
    }

    /// Completes when the peer has closed; what it sends meanwhile is kept for its turn.
    pub async fn left(&mut self) {
        loop {
            if self.buffer.len() > AHEAD_BYTES_MAX {
                std::future::pending::<()>().await;
            }
            if self.fill(READ_BYTES).await.is_err() {
                return;
            }
        }
    }

    async fn fill(&mut self, room: usize) -> Result<(), ReadError> {
        self.buffer.reserve(room);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(ReadError::Gone),
            _ => Ok(()),
        }
    }

    /// Takes so many bytes off the stream.
    async fn take(&mut self, length: usize) -> Result<Bytes, ReadError> {
        if length > BODY_BYTES_MAX {
            return Err(ReadError::Bad(413));
        }
        while self.buffer.len() < length {
            // The room grows with what came, so a false length costs no memory.
            let missing = length - self.buffer.len();
            self.fill(missing.min(self.buffer.len().max(READ_BYTES))).await?;
        }
        Ok(self.buffer.split_to(length).freeze())
    }

    async fn chunked(&mut self) -> Result<Bytes, ReadError> {
        let mut body = BytesMut::new();
        loop {
            let (line, size) = loop {
                match httparse::parse_chunk_size(&self.buffer).map_err(|_| ReadError::Bad(400))? {
                    httparse::Status::Complete((line, size)) => break (line, size as usize),
                    httparse::Status::Partial => self.fill(READ_BYTES).await?,
                }
            };
            self.take(line).await?;
            if size == 0 {
                self.trailers().await?;
                return Ok(body.freeze());
            }
            if size > BODY_BYTES_MAX - body.len() {
                return Err(ReadError::Bad(413));
            }
            body.extend_from_slice(&self.take(size).await?);
            self.take(2).await?;
        }
    }

    /// Skips the lines after the last chunk.
    async fn trailers(&mut self) -> Result<(), ReadError> {
        loop {
            match memchr::memmem::find(&self.buffer, b"\r\n") {
                Some(0) => return self.take(2).await.map(drop),
                Some(length) => drop(self.take(length + 2).await?),
                None if self.buffer.len() > HEAD_BYTES_MAX => return Err(ReadError::Bad(431)),
                None => self.fill(READ_BYTES).await?,
            }
        }
    }
}

type Parsed = (Request, Framing, bool);

/// Reads a head, if it is there: its length, the request without its bytes, the framing, and `expect`.
fn parse(buffer: &[u8]) -> Result<Option<(usize, Parsed)>, ReadError> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut fields);
    let length = match head.parse(buffer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(ReadError::Bad(400)),
    };
    let mut request = Request {
        head: Bytes::new(),
        body: Bytes::new(),
        method: method(head.method.unwrap_or("")),
        path: head.path.unwrap_or("/").split(['?', '#']).next().unwrap_or("/").to_owned(),
        authorization: None,
        api_key: None,
        is_json: false,
        keep_alive: head.version == Some(1),
    };
    let (mut framing, mut expects) = (Framing::Length(0), false);
    for field in head.headers.iter() {
        let value = String::from_utf8_lossy(field.value);
        let name = field.name;
        if name.eq_ignore_ascii_case("content-length") {
            framing = Framing::Length(value.trim().parse().map_err(|_| ReadError::Bad(400))?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            framing = Framing::Chunked;
        } else if name.eq_ignore_ascii_case("content-type") {
            request.is_json = is_json(&value);
        } else if name.eq_ignore_ascii_case("authorization") {
            request.authorization = Some(format!("{value}{}", blanks_behind(buffer, field.value)));
        } else if name.eq_ignore_ascii_case("x-api-key") {
            request.api_key = Some(value.into_owned());
        } else if name.eq_ignore_ascii_case("connection") {
            request.keep_alive = !value.eq_ignore_ascii_case("close");
        } else if name.eq_ignore_ascii_case("expect") {
            expects = value.eq_ignore_ascii_case("100-continue");
        }
    }
    Ok(Some((length, (request, framing, expects))))
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "POST" => Method::Post,
        "HEAD" => Method::Head,
        "OPTIONS" => Method::Options,
        _ => Method::Other,
    }
}

fn is_json(content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    media == "application/json" || (media.starts_with("application/") && media.ends_with("+json"))
}

/// The blanks between a value and its line's end: the parser trims them, the real server did not.
fn blanks_behind(buffer: &[u8], value: &[u8]) -> String {
    let Some(end) = (value.as_ptr() as usize + value.len()).checked_sub(buffer.as_ptr() as usize) else {
        return String::new();
    };
    let rest = buffer.get(end..).unwrap_or_default();
    rest.iter().take_while(|b| matches!(b, b' ' | b'\t')).map(|&b| char::from(b)).collect()
}
