//! Daemon mode: prompt files that are dropped into a folder are run through the engine, and their results are written
//! beside them.
//!
//! | file | job | what it refuses to know |
//! |---|---|---|
//! | [`controls`] | the files by which people cancel and repeat | what that means |
//! | [`names`] | what the names of files mean | what is in them |
//! | [`recipe`] | the settings of a folder | which files lie there |
//! | [`snapshot`] | a private copy of an input, whatever others do to it | what its contents mean |
//! | [`stamp`] | what a look at a file tells of it | what is in it |
//! | [`status`] | the status files: their schema, their writing and reading | who reads them |

mod answers;
mod claim;
pub mod controls;
mod history;
mod job;
mod large;
mod log;
pub mod names;
mod plan;
pub mod recipe;
mod render;
mod rota;
pub mod scan;
pub mod snapshot;
mod spool;
pub mod stamp;
pub mod status;
mod store;
