//! The API: what is sent for a request, what comes back, and what a reply means.
//!
//! Two halves. Pure: [`body`] (dialects), [`sse`], [`chunk`], [`pattern`] and [`assemble`] (streams), [`headers`],
//! [`signal`] (verdicts). Thin: [`transport`] and [`client`] move bytes, [`token`] reads keys. Nothing here retries, waits or counts.

pub mod assemble;
pub mod body;
pub mod chunk;
pub mod client;
pub mod headers;
pub mod models;
pub mod pattern;
#[cfg(test)]
pub mod scripted;
pub mod signal;
pub mod sse;
pub mod token;
pub mod transport;

pub use body::{Dialect, Upstream};
pub use signal::Signal;
pub use transport::{Reply, ReplyBody, Transport, TransportError};
