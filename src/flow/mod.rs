//! Flow control: how much is sent, and when. Pure cores; time comes in as the duration since the run began.
//!
//! [`limit`] bounds what is in flight, [`breaker`] pauses an endpoint that fails, [`budget`] bounds retries,
//! [`backoff`] spaces them, [`quota`] keeps to what the service permits in a time. [`endpoint`] keeps them together for
//! one endpoint, with the charges that they void. [`people`] says numbers and times as people do.

pub mod backoff;
pub mod breaker;
pub mod budget;
pub mod endpoint;
pub mod limit;
pub mod people;
pub mod quota;

pub use breaker::{Breaker, Permit};
pub use budget::Budget;
pub use endpoint::Endpoint;
pub use limit::Limit;
pub use quota::Quotas;
