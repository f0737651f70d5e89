//! The unsafe half of a plugin. The host's pointers become slices and values here, and nowhere else.
//!
//! Nothing here knows what a channel does: the functions turn pointers into slices, and [`Shard`](crate::shard::Shard) does the
//! rest.

#![allow(
    unsafe_code,
    reason = "the host lends raw pointers, which become slices and values here"
)]

mod calls;
mod functions;
mod host;

use std::sync::Arc;

use crate::remote::Threads;
use crate::tasks::Tasks;

pub(crate) use self::calls::{Calls, Effect, Incoming, flags_of};
pub use self::functions::Entry;
pub(crate) use self::host::HostHandle;

/// What `init` makes: one for each load of the library.
pub(crate) struct Generation<P> {
    pub(crate) plugin: P,
    pub(crate) host: Arc<HostHandle>,
    pub(crate) threads: Threads,
    pub(crate) tasks: Tasks,
}
