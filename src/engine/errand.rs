//! Errands: the two questions that the engine asks besides sending lines. Which dialect is this, and what models are
//! there (which also tells whether the token is good, and repairs the list of Open WebUI 0.6 after an outage)?

use std::time::Duration;

use bytes::Bytes;

use crate::api::transport::{Page, Transport, TransportError, collect};

/// An errand that takes longer has failed.
const ERRAND_MAX: Duration = Duration::from_secs(30);
const PAGE_BYTES_MAX: usize = 8 << 20;

/// What came back.
#[derive(Debug)]
pub struct Report {
    /// What was asked.
    pub page: Page,
    /// Status and body, or why there are none.
    pub reply: Result<(u16, Bytes), TransportError>,
}

/// Asks for one page.
pub async fn run<T: Transport>(transport: &T, page: Page) -> Report {
    let late = || Err(TransportError::NotSent(format!("no answer within {}", humantime::format_duration(ERRAND_MAX))));
    let reply = tokio::time::timeout(ERRAND_MAX, fetch(transport, page)).await.unwrap_or_else(|_| late());
    Report { page, reply }
}

async fn fetch<T: Transport>(transport: &T, page: Page) -> Result<(u16, Bytes), TransportError> {
    let mut reply = transport.get(page).await?;
    let body = collect(&mut reply.body, PAGE_BYTES_MAX).await?;
    Ok((reply.head.status, body.unwrap_or_default()))
}
