//! The journal: an append-only file of outcomes, keyed by the requests that they answer. What was committed is never
//! asked for again. Knows neither stdin nor a spool: both modes stand on it.
//!
//! | file | job |
//! |---|---|
//! | `frame`, `record`, `note`, `key` | the format: frames, records of lines, notes, keys; pure |
//! | `index`, `places`, `known` | what a journal says when it is read: by key, by line, in sum; pure |
//! | `scan`, `records`, `outcomes` | reading: from the beginning, single records, all lines in order |
//! | `keeper` | the open file, its lock, its durable writes: everything that runs on the journal's thread |
//! | [`Journal`] (`handle`) | the engine's side of that thread: batches out, commits back |
//! | `lock`, `publish` | one owner; files that appear whole |
//!
//! ## Invariants
//!
//! - *Committed* means: the whole record was written and `fdatasync` returned. Nobody hears of a record before.
//! - All durable work of a run happens on one thread, in the order in which it was asked for.
//! - After a failed write or sync nothing more is written, and the run stops: what a failed sync has lost cannot be known.
//! - A torn tail is cut, with nothing whole behind it; anything else that is no record is damage, and refused.

mod error;
pub mod frame;
mod handle;
pub mod index;
mod keeper;
pub mod key;
pub mod known;
pub mod lock;
pub mod note;
mod outcomes;
pub mod places;
pub mod publish;
pub mod record;
mod records;
pub mod scan;
mod spent;

pub use error::Error;
pub use handle::{Committed, Journal, Opened, Options};
pub use keeper::{Keeper, lock_path, look, open_to_read};
pub use key::{Hash, Key};
pub use known::Known;
pub use note::{Closed, Copy, Note, Settings, Shard};
pub use outcomes::{LineOutcome, Outcomes};
pub use record::{Head, Kind, Line, Settled};
pub use records::Records;
pub use scan::Tail;
pub use spent::{Past, Spending, Spent};
