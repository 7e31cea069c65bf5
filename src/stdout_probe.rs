//! Finds out whether stdout was open when the program was started.
//!
//! Before `main`, Rust's runtime opens `/dev/null` in place of a standard descriptor that is closed, and so every write
//! to a closed stdout would succeed and be lost. Only a look before the runtime's own start can tell, and that takes
//! unsafe code.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};

static WAS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Called by the loader before the runtime starts (ELF gABI, "Initialization and Termination Functions").
extern "C" fn look() {
    // SAFETY: fcntl(F_GETFD) takes no pointer, changes nothing and may be called at any time.
    let flags = unsafe { libc::fcntl(1, libc::F_GETFD) };
    WAS_CLOSED.store(flags == -1, Ordering::Relaxed);
}

// SAFETY: the section holds pointers to functions without arguments that the loader calls once; `look` is one and
// touches only an atomic of this file.
#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

/// Whether file descriptor 1 was open at the start.
pub fn was_open() -> bool {
    !WAS_CLOSED.load(Ordering::Relaxed)
}
