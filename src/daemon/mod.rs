//! Daemon mode: prompt files that are dropped into a folder are run through the engine, and their results are written
//! beside them.
//!
//! | file | job | what it refuses to know |
//! |---|---|---|
//! | [`names`] | what the names in a spool mean; pure | what lies under them |
//! | [`stamp`] | what a look at a file tells of it | what is in it |
//! | [`status`] | the status files: their schema, their writing and reading | who reads them |

pub mod names;
pub mod stamp;
pub mod status;
