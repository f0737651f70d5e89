//! A plugin's topics as the host keeps them: members, waiting inputs, owed answers.
//!
//! A [`Topic`] is one topic of one plugin. Its mailbox holds the inputs to be handled, in order. Its [`Record`] holds what must
//! outlive the thread that handles it: members, presence, timers, promised answers. Shards run the plugin's code for one topic at
//! a time, in the order of their [`RunQueue`]s. Nothing here calls a plugin.
//!
//! All that a client makes the host keep here is counted with the memory that it takes: its frame, and its place in the queue.

mod call;
mod charge;
mod input;
mod presence;
mod record;
mod run_queue;
mod small;
mod topic;

pub(crate) use call::{Called, Caller};
pub(crate) use charge::{Bounds, Charge, Totals};
pub(crate) use input::{Create, Ending, HEAD, Input, Leave, Notice, Origin};
pub(crate) use presence::{Flush, PresenceError};
pub(crate) use record::{Member, PendingJoin, Promise, Record, StoredState, Timer};
pub(crate) use run_queue::{Next, RunQueue};
pub(crate) use topic::{Owner, Refused, Topic};
