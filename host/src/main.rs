//! The `bennu` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    bennu::main()
}
