//! The seam between the engine and the network: one POST, two GETs, and a body that arrives in pieces.
//!
//! Implemented by [`super::client`] over reqwest and, for tests of the engine, by a script.

use std::future::Future;

use bytes::Bytes;

use super::headers::Head;

/// What can be asked of an endpoint by GET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// `{base}/version`
    Version,
    /// `{base}/models`
    Models,
}

/// Why there is no (further) reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The request was never sent.
    #[error("{0}")]
    NotSent(String),
    /// No request will ever be sent this way.
    #[error("{0}")]
    Misconfigured(String),
    /// The connection ended after the request had gone out.
    #[error("{0}")]
    Lost(String),
    /// What came is no HTTP, or its head is beyond all bounds.
    #[error("{0}")]
    NotHttp(String),
}

/// A reply whose head has arrived.
#[derive(Debug)]
pub struct Reply<B> {
    /// Status and headers.
    pub head: Head,
    /// The rest, as it comes.
    pub body: B,
}

/// A body that arrives in pieces. Dropping it gives the connection up.
pub trait ReplyBody {
    /// The next piece; `None` after the last.
    fn chunk(&mut self) -> impl Future<Output = Result<Option<Bytes>, TransportError>>;
}

/// One endpoint.
pub trait Transport {
    /// Its replies' bodies.
    type Body: ReplyBody;

    /// Sends one chat request.
    fn post_chat(&self, body: Bytes) -> impl Future<Output = Result<Reply<Self::Body>, TransportError>>;

    /// Asks for one page; `Version` is asked without the token.
    fn get(&self, page: Page) -> impl Future<Output = Result<Reply<Self::Body>, TransportError>>;

    /// Reads the token again; whether it is another one now.
    fn renew_token(&self) -> Result<bool, String>;

    /// Whether reading the token again can ever bring another one.
    fn can_renew_token(&self) -> bool;

    /// Takes the token out of a text that the endpoint sent: some quote it.
    fn redact(&self, text: String) -> String;
}

/// Reads a body to its end, at most `bytes_max` of it; `None` when it is longer.
pub async fn collect<B: ReplyBody>(body: &mut B, bytes_max: usize) -> Result<Option<Bytes>, TransportError> {
    let Some(first) = body.chunk().await? else { return Ok(Some(Bytes::new())) };
    let mut whole: Option<Vec<u8>> = None;
    let mut length = first.len();
    while let Some(chunk) = body.chunk().await? {
        length += chunk.len();
        if length > bytes_max {
            return Ok(None);
        }
        whole.get_or_insert_with(|| first.to_vec()).extend_from_slice(&chunk);
    }
    match whole {
        _ if length > bytes_max => Ok(None),
        Some(whole) => Ok(Some(whole.into())),
        None => Ok(Some(first)),
    }
}
