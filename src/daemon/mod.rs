//! Daemon mode: prompt files that are dropped into a folder are run through the engine, and their results are written
//! beside them.
//!
//! | file | job | what it refuses to know |
//! |---|---|---|
//! | [`stamp`] | what a look at a file tells of it | what is in it |
//! | [`status`] | the status files: their schema, their writing and reading | who reads them |
//! | [`supervision`] | what the service manager is told, and the watchdog | what its counters count |

pub mod stamp;
pub mod status;
pub mod supervision;
