//! Daemon mode: prompt files that are dropped into a folder are run through the engine, and their results are written
//! beside them.
//!
//! | file | job | what it refuses to know |
//! |---|---|---|
//! | [`stamp`] | what a look at a file tells of it | what is in it |
//! | [`status`] | the status files: their schema, their writing and reading | who reads them |

mod answers;
mod history;
mod log;
pub mod names;
mod plan;
mod rota;
pub mod stamp;
pub mod status;
mod store;
