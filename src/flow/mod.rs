//! Flow control: how much is sent, and when. Pure cores; time comes in as the duration since the run began.
//!
//! [`limit`] bounds what is in flight, [`quota`] what is sent in a time, [`breaker`] pauses an endpoint that fails,
//! [`budget`] bounds retries, [`backoff`] spaces them. [`endpoint`] keeps them together for one endpoint, with the charges
//! that they void; [`models`] numbers the models. [`forecast`] tells how long it will take; [`people`] says numbers and
//! times as people do.

pub mod backoff;
pub mod breaker;
pub mod budget;
pub mod endpoint;
pub mod forecast;
pub mod limit;
pub mod models;
pub mod people;
pub mod quota;

pub use breaker::{Breaker, Permit};
pub use budget::Budget;
pub use endpoint::Endpoint;
pub use limit::Limit;
pub use models::{Model, Models};
pub use quota::Quotas;
