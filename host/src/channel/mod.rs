//! A plugin's topics as the host keeps them: who is in, what waits, what is owed.
//!
//! A [`Topic`] is one topic of one plugin. Its mailbox holds what is to be handled, in order; its [`Book`] holds what
//! must outlive the thread that handles it: members, presence, timers, promised answers. Plugin code runs on
//! [shards](crate::plugin::shard), one topic at a time; nothing here calls a plugin.

mod book;
mod input;
mod presence;
mod topic;

pub use book::{Book, Member, PendingJoin, Promise};
pub use input::{Ending, Input, Leave, Notice, Origin};
pub use presence::{Flush, Presence, PresenceError};
pub use topic::{Bounds, Home, Refused, Topic};
