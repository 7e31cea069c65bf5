//! The program: only picks the exit status.

use std::process::ExitCode;

fn main() -> ExitCode {
    anvil_filter::run().into()
}
