//! A plugin's topics as the host keeps them: who is in, what waits, what is owed.
//!
//! A [`Topic`] is one topic of one plugin. Its mailbox holds what is to be handled, in order; its [`Record`] holds what
//! must outlive the thread that handles it: members, presence, timers, promised answers. Plugin code runs on shards, one topic
//! at a time, as their [`RunQueue`]s have it; nothing here calls a plugin.

mod input;
mod presence;
mod record;
mod run_queue;
mod topic;

pub(crate) use input::{Ending, Input, Leave, Notice, Origin};
pub(crate) use presence::{Flush, PresenceError};
pub(crate) use record::{Member, PendingJoin, Promise, Record};
pub(crate) use run_queue::{Next, RunQueue};
pub(crate) use topic::{Bounds, Owner, Refused, Topic};
