//! Clients for Bennu, and the commands made of them.
//!
//! - [`client`]: a Phoenix Channels client for Rust programs and tests.
//! - [`call`]: `bennu call`, the client at a terminal.
//! - [`load`]: `bennu load`, the load generator.
//! - [`torture`]: `bennu torture`, which reloads a plugin under load and proves that no message is lost.
//!
//! The `bennu` binary mounts the commands as subcommands if its feature `tools` is on. Nothing here depends on the
//! server: this package sees a server as any other program does, through sockets, `/proc`, the command line and the
//! log.

mod args;
pub mod call;
pub mod client;
pub mod load;
pub mod numbers;
pub mod plot;
mod terminal;
pub mod torture;
