//! The real transport: one reqwest client for one endpoint. Turns its errors into ours; decides nothing else.
//!
//! Invariants: no redirects, no decompression, no retries of its own; the key goes only to this endpoint, in a header
//! that is marked sensitive; certificates are loaded only for https.

use std::cell::RefCell;
use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Body, Client, Method, Request, Response, Url};

use super::headers::Head;
use super::token::{Secret, TokenSource};
use super::transport::{Page, Reply, ReplyBody, Transport, TransportError};

/// Idle connections are given up before most servers do (uvicorn keeps them for 5 s, nginx for 75 s); a request that
/// still meets a closed one was not sent, and is sent again by the pool.
const IDLE_MAX: Duration = Duration::from_secs(30);
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What a client needs to know.
#[derive(Debug)]
pub struct Settings {
    /// Base URL without a trailing slash.
    pub base_url: Url,
    /// Where the key comes from.
    pub token: Arc<TokenSource>,
    /// Further certificate authorities, PEM.
    pub ca_certificates_pem: Vec<u8>,
    /// Bound of connecting, TLS included.
    pub connect_timeout: Duration,
    /// Connections that are kept when idle.
    pub connections_max: usize,
}

/// A client of one endpoint.
#[derive(Debug)]
pub struct ApiClient {
    client: Client,
    chat_url: Url,
    version_url: Url,
    models_url: Url,
    authorization: RefCell<Option<HeaderValue>>,
    token: Arc<TokenSource>,
}

impl ApiClient {
    /// Builds the client and reads the key. The error says what is wrong with the key, a certificate or a proxy setting.
    pub fn new(settings: Settings) -> Result<Self, String> {
        let url = |path: &str| Url::parse(&format!("{}{path}", settings.base_url.as_str().trim_end_matches('/')));
        let urls = (url("/chat/completions"), url("/version"), url("/models"));
        let (Ok(chat_url), Ok(version_url), Ok(models_url)) = urls else {
            return Err(format!("{} cannot be a base URL", settings.base_url));
        };
        let secret = settings.token.read().map_err(|error| error.to_string())?;
        let client = build(&settings)?;
        let authorization = RefCell::new(secret.as_ref().map(bearer).transpose()?);
        Ok(Self { client, chat_url, version_url, models_url, authorization, token: settings.token })
    }

    fn request(&self, method: Method, url: &Url, with_token: bool) -> Request {
        let mut request = Request::new(method, url.clone());
        if let Some(value) = self.authorization.borrow().as_ref().filter(|_| with_token) {
            request.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        request
    }

    async fn execute(&self, request: Request) -> Result<Reply<ClientBody>, TransportError> {
        let response = self.client.execute(request).await.map_err(|error| from_send_error(&error))?;
        let head = Head::read(response.status().as_u16(), response.headers(), SystemTime::now());
        Ok(Reply { head, body: ClientBody(response) })
    }
}

impl Transport for ApiClient {
    type Body = ClientBody;

    async fn post_chat(&self, body: Bytes) -> Result<Reply<ClientBody>, TransportError> {
        let mut request = self.request(Method::POST, &self.chat_url, true);
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(Body::from(body));
        self.execute(request).await
    }

    async fn get(&self, page: Page) -> Result<Reply<ClientBody>, TransportError> {
        let (url, with_token) = match page {
            Page::Version => (&self.version_url, false),
            Page::Models => (&self.models_url, true),
        };
        self.execute(self.request(Method::GET, url, with_token)).await
    }

    fn renew_token(&self) -> Result<bool, String> {
        let secret = self.token.renew().map_err(|error| error.to_string())?;
        let value = secret.as_ref().map(bearer).transpose()?;
        let changed = *self.authorization.borrow() != value;
        *self.authorization.borrow_mut() = value;
        Ok(changed)
    }

    fn can_renew_token(&self) -> bool {
        self.token.can_change()
    }

    fn redact(&self, text: String) -> String {
        let value = self.authorization.borrow();
        let key = value.as_ref().and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        key.map_or(text.clone(), |key| redact(&text, key))
    }
}

/// Takes the key out of a text that a server said, a part of it at the end included: texts are cut there.
fn redact(text: &str, key: &str) -> String {
    const PART_MIN: usize = 4;
    if key.len() < PART_MIN {
        // Every word would have it.
        return text.to_owned();
    }
    let mut safe = text.replace(key, "[key]");
    let body_length = safe.trim_end_matches('…').len();
    let part = (PART_MIN..key.len())
        .rev()
        .find(|length| key.get(..*length).is_some_and(|part| safe[..body_length].ends_with(part)));
    if let Some(length) = part {
        safe.replace_range(body_length - length..body_length, "[key]");
    }
    safe
}

/// The rest of a reply.
#[derive(Debug)]
pub struct ClientBody(Response);

impl ReplyBody for ClientBody {
    async fn chunk(&mut self) -> Result<Option<Bytes>, TransportError> {
        self.0.chunk().await.map_err(|error| TransportError::Lost(format!("the reply broke off: {}", causes(&error))))
    }
}

fn bearer(secret: &Secret) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", secret.expose()))
        .map_err(|_| "the key has characters that no header may have".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

fn build(settings: &Settings) -> Result<Client, String> {
    // Compiled in, so it can only be missing when another provider was installed before, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let builder = Client::builder()
        .user_agent(concat!("anvil-filter/", env!("CARGO_PKG_VERSION")))
        .default_headers(headers)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .http1_only()
        .connect_timeout(settings.connect_timeout)
        .pool_idle_timeout(IDLE_MAX)
        .pool_max_idle_per_host(settings.connections_max)
        .tcp_nodelay(true)
        .tcp_keepalive(KEEPALIVE);
    let builder = if settings.base_url.scheme() == "https" {
        let extra = reqwest::Certificate::from_pem_bundle(&settings.ca_certificates_pem)
            .map_err(|error| format!("--ca-cert: {}", causes(&error)))?;
        builder.https_only(true).tls_certs_merge(extra)
    } else {
        // Reading the platform's certificates takes longer than a whole request over plain http.
        builder.tls_certs_only([])
    };
    builder.build().map_err(|error| format!("cannot set up the HTTP client: {}", causes(&error)))
}

fn from_send_error(error: &reqwest::Error) -> TransportError {
    let text = causes(error);
    if certificate_error(error) {
        return TransportError::Misconfigured(format!(
            "{text}; if the service has a private certificate authority, name it by --ca-cert"
        ));
    }
    if error.is_connect() {
        let lower = text.to_ascii_lowercase();
        let proxy_refuses = lower.contains("proxy auth");
        return if proxy_refuses {
            TransportError::Misconfigured(format!("the proxy wants to know who you are (407): {text}"))
        } else {
            TransportError::NotSent(text)
        };
    }
    match hyper_error(error) {
        Some(cause) if cause.is_parse() => {
            TransportError::NotHttp(format!("the reply is not HTTP that can be taken: {text}"))
        }
        Some(cause) if cause.is_canceled() => TransportError::NotSent(text),
        _ if error.is_builder() => TransportError::Misconfigured(text),
        _ => TransportError::Lost(text),
    }
}

/// Whether the server's certificate (rather than the way to it) is what is wrong. An I/O error hides the error that it
/// wraps from the chain of sources, so each one is opened.
fn certificate_error(error: &(dyn std::error::Error + 'static)) -> bool {
    chain(error).any(|cause| {
        let wrapped = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        matches!(cause.downcast_ref::<rustls::Error>(), Some(rustls::Error::InvalidCertificate(_)))
            || wrapped.is_some_and(|inner| certificate_error(inner))
    })
}

fn hyper_error(error: &reqwest::Error) -> Option<&hyper::Error> {
    chain(error).find_map(|cause| cause.downcast_ref::<hyper::Error>())
}

fn chain<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'e (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// The chain of causes without the URL, each said once.
fn causes(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in std::iter::successors(error.source(), |&cause| cause.source()) {
        let text = cause.to_string();
        // hyper's own word for the step says nothing to people.
        if text.starts_with("client error (") || text.starts_with("tcp connect error") && cause.source().is_some() {
            continue;
        }
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
    }
    if parts.is_empty() {
        "the request failed".to_owned()
    } else {
        crate::line::escape::for_people(&parts.join(": "), 300)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_key_is_taken_out_even_where_the_text_was_cut() {
        assert_eq!(super::redact("bad key sk-canary!", "sk-canary"), "bad key [key]!");
        assert_eq!(super::redact("bad key sk-can…", "sk-canary"), "bad key [key]…");
        assert_eq!(super::redact("nothing", "sk-canary"), "nothing");
        assert_eq!(super::redact("unexpected", "x"), "unexpected");
    }
}
