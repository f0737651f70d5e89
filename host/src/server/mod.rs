//! The server: transports, the threads that own connections, HTTP, and what watches files and applies changes.
//!
//! From the bottom to the top:
//!
//! 1. [`tls`] and [`proxy`]: what a connection begins with; [`transport`]: WebSocket and long polling; bytes in, bytes out.
//! 2. [`auth`]: tokens; [`routing`] and [`state`]: what all threads share; [`held`]: bytes that are held for clients.
//! 3. [`closes`]: why clients were closed or refused; [`limits`]: what addresses and clients may do; [`changes`]: what has changed
//!    lately; [`socket`]: one client's connection.
//! 4. [`io`]: the threads that own connections; dispatch, delivery.
//! 5. [`endpoint`]: HTTP; whether a client may connect.
//! 6. [`control`]: what watches files and applies changes.
//! 7. [`telemetry`]: sends traces to a collector; [`api`]: what backends ask for.
//! 8. [`admin`]: what an operator sees.
//! 9. [`answers`]: what other nodes of a cluster ask, as [`question`] writes it.
//! 10. [`Server`]: start and stop.

mod accept_trouble;
mod accepting;
pub(crate) mod admin;
mod admin_listener;
mod ambiguous;
mod answers;
pub(crate) mod api;
pub(crate) mod auth;
mod builder;
mod changes;
pub(crate) mod closes;
pub(crate) mod control;
pub(crate) mod descriptors;
pub(crate) mod endpoint;
mod held;
pub(crate) mod io;
pub(crate) mod limits;
mod listen;
mod metrics;
pub(crate) mod noted;
pub(crate) mod preflight;
mod proxy;
pub(crate) mod pulse;
mod question;
pub(crate) mod routing;
mod running;
pub(crate) mod socket;
mod start_error;
pub(crate) mod state;
pub(crate) mod telemetry;
pub(crate) mod tls;
pub(crate) mod transport;
mod usage;

pub use builder::Builder;
pub(crate) use builder::Built;
pub use running::Server;
pub(crate) use running::pipeline;
pub use start_error::StartError;
