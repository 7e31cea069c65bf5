//! The daemon through its front door: real files in a real folder, real signals, and the simulator for a service.
//!
//! ```text
//! cargo test --test daemon                                                   what takes a minute
//! ANVIL_CRASH=all cargo test --release --test daemon -- --nocapture          300 kills, and a lease that runs out by itself
//! ```
//!
//! | file | what is shown |
//! |---|---|
//! | `forms` | what each kind of file becomes, and what a folder's recipe changes |
//! | `refused` | files that cannot be taken, and the way out that each is told |
//! | `names` | names that are odd |
//! | `arrivals` | files that come slowly, in pieces, by every tool: one result, of the whole file |
//! | `unheard` | files of which the kernel tells nothing |
//! | `changes` | files that change, grow, go away and come back |
//! | `controls` | `.cancel` and `.retry` |
//! | `planted` | results, links and folders that others have put in the way |
//! | `restart` | what a restart finds, after a drain and after a kill |
//! | `kills` | `kill -9` at any instant |
//! | `leases` | two daemons on one folder |
//! | `manager` | what a service manager hears, and what it may ask for |
//! | `keys` | keys that are refused, replaced, another's |
//! | `outages` | a service that is away, wrong, or knows no such model |
//! | `disks` | a folder that goes away, a disk that is full or read-only |
//! | `turns` | whose turn it is |
//! | `ways` | `--once`, `--archive`, `--recursive`, `submit`, `status` |
//! | `patient` | nothing of its own: runs what waits most of its time side by side |
//!
//! Helpers: `spool` (a folder with its service, and what must come of it), `tools` (how files get there), `needs` (what a
//! test must have, and how much of it is done). `ANVIL_FILTER_TEST_SEED` repeats a sample. What needs root says on stderr
//! that it was skipped where there is none; with `ANVIL_REQUIRE_ROOT=1` it fails instead.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
// The crash tests draw more from it.
#[allow(dead_code)]
#[path = "../crash/plan.rs"]
mod needs;

mod arrivals;
mod changes;
mod controls;
mod disks;
mod forms;
mod keys;
mod kills;
mod leases;
mod manager;
mod names;
mod outages;
mod patient;
mod planted;
mod refused;
mod restart;
mod spool;
mod tools;
mod turns;
mod unheard;
mod ways;
