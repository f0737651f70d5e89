//! Drives plugins through the functions that the host calls.

#![allow(unsafe_code, reason = "plays the host, which lends pointers")]
#![allow(
    clippy::print_stderr,
    reason = "a log that nobody reads is for whoever looks into a failed test"
)]

mod callbacks;
mod connect;
mod fake;
mod life;
mod logging;
