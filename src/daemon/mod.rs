//! Daemon mode: prompt files that are dropped into a folder are run through the engine, and their results are written
//! beside them.
//!
//! | file | job | what it refuses to know |
//! |---|---|---|
//! | [`names`] | what a file's name says of it, and what lies beside it; pure | files |
//! | [`scan`] | finds the files that may be taken, and tells of those that go | what is in them |
//! | [`settle`] | decides when a file may be taken; pure | files, clocks |
//! | [`stamp`] | what a look at a file tells of it | what is in it |
//! | [`status`] | the status files: their schema, their writing and reading | who reads them |
//! | [`watch`] | the doorbell: what the kernel tells of folders | what follows from it |

pub mod names;
pub mod scan;
pub mod settle;
pub mod stamp;
pub mod status;
pub mod watch;
