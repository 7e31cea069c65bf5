//! Daemon mode: a crash at any moment, an error of any call, a power failure leave a folder of which the next daemon
//! makes what an undisturbed one would have made; and nothing is paid for twice but what was in flight.
//!
//! | file | what is shown |
//! |---|---|
//! | `random` | `kill -9` at any instant, with twenty files in flight |
//! | `each_call` | a kill at every durable system call |
//! | `each_error` | every errno at every such call: the daemon recovers by itself, or ends and says why |
//! | `order` | what must be durable before what, from a trace |
//! | `power` | every state that a power failure may leave on a weak file system |
//!
//! Helpers: `spool` (a folder with its files and its service, and what must come of them), `story` (daemons whose every
//! call is known).

mod each_call;
mod each_error;
mod order;
mod power;
mod random;
mod spool;
mod story;
