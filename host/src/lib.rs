//! Bennu: a server for Phoenix Channels clients whose channels are native plugins.
//!
//! Most people run the program `bennu`. As a library it is a server inside of another program:
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let config = bennu::Config::read("config/bennu.toml".as_ref(), bennu::Mode::Serve)?;
//! let server = bennu::Server::builder(config).start().await?;
//! println!("listening on http://{}", server.address());
//! server.run_until(std::future::pending()).await?;
//! # Ok(()) }
//! ```
//!
//! `host/examples/embed.rs` is a whole program. Two seams are open: a [`transport`] of your own, whose clients come in by an
//! [`Entrance`], and a serializer of your own ([`wire::serializer::Serializer`]).
//!
//! # Inside
//!
//! Five layers, each of which uses those before it and never those behind it (`host/tests/layers.rs` reads the imports):
//!
//! 1. [`wire`], a package of its own: messages, serializers, topic patterns.
//! 2. `config`: `bennu.toml`, checked.
//! 3. `runtime`: topics, plugins and their shards, broadcasts, timers.
//! 4. `cluster`, behind a feature: this host as a node of several.
//! 5. `server`: transports, I/O threads, HTTP; what watches files and applies changes; start and stop.
//!
//! Above them stands the command line, `cli`. Beside them, `cargo` builds plugins and knows nothing of the server.
//! `host/ARCHITECTURE.md` says what must not break.

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
compile_error!("Bennu runs on Linux with glibc; other platforms are not ported yet");

mod cargo;
mod cli;
mod cluster;
mod config;
#[cfg(feature = "hot")]
#[doc(hidden)]
pub mod hot;
mod runtime;
mod server;

use std::process::ExitCode;

pub use bennu_wire as wire;
pub use cli::main;
pub use config::{Config, ConfigErrors, Mode};
pub use runtime::threads::ThreadEnded;
pub use server::endpoint::{Denied, Entrance, Visit};
pub use server::{Builder, Server, StartError};

/// What carries messages, for transports of your own.
pub mod transport {
    pub use crate::server::transport::{
        Flushed, Frame, Overflow, PendingConnection, Received, Registration, Replaceable, Transport, Waker,
    };
}

/// Tries a library, if the server has started this program for that; call it first of all in a program of your own that
/// starts a [`Server`]. With an exit code, the program is to end.
#[must_use]
pub fn run_as_probe() -> Option<ExitCode> {
    let asked = std::env::args_os().nth(1).is_some_and(|command| command == "probe");
    asked.then(runtime::plugin::probe::run_child)
}
