//! What a crash may leave, and what must come of it: through the real binary, against the real simulator.
//!
//! ```text
//! cargo test --test crash                                                  a seeded sample
//! ANVIL_CRASH=all cargo test --release --test crash -- --nocapture         everything, with its numbers
//! tests/crash/mutants.sh                                                   whether the suite sees what it is for
//! ```
//!
//! | file | what is shown |
//! |---|---|
//! | `random_kills` | `kill -9` at any instant, again and again: the end is the same, and at most N are sent again |
//! | `each_syscall` | a kill at every durable system call |
//! | `each_errno` | every errno at every such call: never a wrong result, and the next run finishes |
//! | `order` | what must be durable before what, from a trace: a kill keeps the page cache and proves no fsync |
//! | `power` | every state that a power failure may leave on a weak file system |
//! | `torn` | journals cut at every length, filled with NULs, flipped |
//! | `room` | full disks, file size limits, storms of signals |
//! | `daemon` | all of that for the daemon, whose files are a tree, and whose calls come from several threads |
//! | `owners` | many processes on one journal; files that are not ours; inputs that change meanwhile |
//!
//! Helpers: `plan` (how much of it, and what it needs), `task` (what is run), `scene` (where, and what must come of it), `frames` (a journal's bytes,
//! read without the program), `strace` (running under it, and reading what it wrote), `trace` (what that tells), `disk` (a model of a weak one).
//!
//! `ANVIL_FILTER_TEST_SEED` repeats a sample. What needs strace or root says on stderr that it was skipped where there
//! is none; with `ANVIL_REQUIRE_STRACE=1`, or `ANVIL_REQUIRE_ROOT=1`, it fails instead.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod daemon;
mod disk;
mod each_errno;
mod each_syscall;
mod frames;
mod order;
mod owners;
mod plan;
mod power;
mod random_kills;
mod room;
mod scene;
mod strace;
mod task;
mod torn;
mod trace;
