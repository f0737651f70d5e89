//! Bennu: a server for Phoenix Channels clients whose channels are native plugins.
//!
//! The parts, in the order in which a message meets them:
//!
//! 1. [`endpoint`]: HTTP; whether a client may connect.
//! 2. [`transport`]: WebSocket and long polling; bytes in, bytes out.
//! 3. [`serializer`]: protocol versions; bytes to [`message`]s and back.
//! 4. [`io`]: the threads that own connections, and their inboxes.
//! 5. [`socket`]: one client's connection; dispatch, joins, replies.
//! 6. [`router`]: the plugin for a topic.
//! 7. [`channel`]: a plugin's topic as the host keeps it; mailbox, members, presence.
//! 8. [`plugin`]: libraries, generations, the shards that run them, reloads.
//! 9. [`pubsub`]: broadcasts, back to every I/O thread.
//!
//! Around them: [`config`], [`server`] (start and stop), [`admin`], [`metrics`], [`timers`], [`wake`], [`cli`]; [`client`], the
//! other end of the wire; [`load`], the same ten thousand times; and [`torture`], which proves that reloads lose nothing.
//! `ARCHITECTURE.md` says what must not break.

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
compile_error!("Bennu runs on Linux with glibc; other platforms are not ported yet");

pub mod admin;
pub mod channel;
pub mod cli;
pub mod client;
pub mod config;
pub mod endpoint;
pub mod hub;
pub mod id;
pub mod io;
pub mod load;
pub mod message;
pub mod metrics;
pub mod plugin;
pub mod pubsub;
pub mod router;
pub mod seldom;
pub mod serializer;
pub mod server;
pub mod socket;
pub mod timers;
pub mod torture;
pub mod transport;
pub mod wake;
