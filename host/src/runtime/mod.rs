//! What runs channels: topics and their mailboxes, plugins and their shards, broadcasts, timers.
//!
//! Nothing here knows a transport or a connection: what is for clients goes through the outlets of [`delivery`].

pub(crate) mod capsule;
pub(crate) mod channel;
pub(crate) mod client_lines;
pub(crate) mod clock;
pub(crate) mod delivery;
pub(crate) mod id;
pub(crate) mod metrics;
pub(crate) mod plugin;
pub(crate) mod pubsub;
pub(crate) mod rate;
pub(crate) mod reach;
pub(crate) mod refused_ids;
pub(crate) mod router;
pub(crate) mod store;
pub(crate) mod threads;
pub(crate) mod throttle;
pub(crate) mod timers;
pub(crate) mod trace;
pub(crate) mod wake;
