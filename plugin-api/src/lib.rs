//! What a Bennu channel plugin is written with.
//!
//! A plugin is a library that Bennu loads, and replaces while its clients stay connected. It has one [`Channel`], and maybe
//! a [`Connect`] handler. This is a whole one with its test: the `lib.rs` of a crate that `bennu new` makes.
//!
//! ```rust,standalone_crate
//! #![forbid(unsafe_code)]
//! use bennu_plugin::prelude::*;
//!
//! /// One for each topic.
//! #[derive(Default, Serialize, Deserialize)]
//! struct Room {
//!     history: History,
//! }
//!
//! /// One for each client in it, read from what its join says.
//! #[derive(Serialize, Deserialize)]
//! struct Member {
//!     name: Text<1, 32>,
//! }
//!
//! /// What a client may push: `new_msg` is `NewMsg`.
//! #[derive(Deserialize)]
//! enum Event {
//!     NewMsg { body: Text<1, 2000> },
//! }
//!
//! impl Channel for Member {
//!     type Shared = Room;
//!
//!     fn join(room: &mut Room, params: Payload, cx: &mut Context) -> Join<Self> {
//!         let member: Member = params.parse()?; // what does not fit is refused, and the client told why
//!         cx.track(&member.name, json!({})); // presence_state and presence_diff follow the join's reply
//!         Join::reply(member, json!({ "history": room.history.all() }))
//!     }
//!
//!     fn handle_in(&mut self, room: &mut Room, event: &str, payload: Payload, cx: &mut Context) -> Handled {
//!         match payload.parse_as(event)? {
//!             Event::NewMsg { body } => {
//!                 let message = json!({ "id": room.history.next_id(), "name": self.name, "body": body });
//!                 cx.broadcast("new_msg", &message);
//!                 room.history.push(message, 50);
//!                 Ok(Reply::ok())
//!             }
//!         }
//!     }
//! }
//!
//! export_plugin!(Member);
//!
//! # macro_rules! as_a_doctest { (#[cfg(test)] mod tests { use super::*; $use:item #[test] fn $name:ident() $body:block }) => {
//! #     fn test() { $use $body }
//! # } }
//! # fn main() { test() }
//! # as_a_doctest! {
//! #[cfg(test)]
//! mod tests {
//!     use super::*;
//!     use bennu_plugin::test::Server;
//!
//!     #[test]
//!     fn what_is_said_reaches_everyone_and_stays() {
//!         let server = Server::start::<Member>();
//!         let ann = server.join("room:1", json!({ "name": "ann" }));
//!         let bob = server.join("room:1", json!({ "name": "bob" }));
//!         ann.push("new_msg", json!({ "body": "hello" })).assert_reply("ok", json!({}));
//!         let message = json!({ "id": 1, "name": "ann", "body": "hello" });
//!         bob.assert_push("new_msg", &message);
//!         bob.assert_presence("ann", json!({}));
//!         server.reload::<Member>();
//!         let eve = server.join("room:1", json!({ "name": "eve" }));
//!         assert_eq!(eve.join_reply()["history"], json!([message]));
//!     }
//! }
//! # }
//! ```
//!
//! `plugin-api/GUIDE.md` walks from nothing to a plugin like this and on to its second version. [`mod@test`] is how plugins are
//! tested, [`state`] how their state comes over a reload and changes its shape, [`phoenix`] where things are for those who
//! know Phoenix.
//!
//! # Three levels of state
//!
//! | | one for each | made by | survives a reload |
//! |---|---|---|---|
//! | the [`Plugin`] | generation (one load of the library) | [`Plugin::init`], from the settings | no: it is made anew |
//! | [`Channel::Shared`] | topic | `default()`, at the first join | yes |
//! | the [`Channel`] itself | member: one client in one topic | [`Channel::join`] | yes |
//!
//! How the last two change their shape from one build to the next is told in [`state`].
//!
//! # Threads, time and panics
//!
//! A plugin's code runs on threads of its own, its shards. A topic stays on one shard, so what happens to it happens one
//! thing at a time, and none of it needs a lock; while a callback runs, all topics of its shard wait. What blocks therefore
//! goes to a thread ([`Context::spawn`]) and its result comes back as the answer to a promise ([`Context::later`]) or as a
//! message ([`Remote::send`]). Timers are data too: a name and a payload that arrive in
//! [`handle_info`](Channel::handle_info), in whichever generation is there by then.
//!
//! What a callback asks for happens when it has returned: all of it or, if it panics, nothing. A panic ends the
//! channel of one member.
//!
//! What is no panic is not caught. A callback that does not return keeps its shard: until its `deadline_ms`, when all the shard's
//! clients join again; in `bennu dev` until it returns. A fault of memory, an overflow of the stack (endless recursion), `abort`
//! and `exit` end **the whole host**. It names the plugin on standard error, and its next start has this build in quarantine
//! and loads the last good one, if there is one.
//!
//! A crate that starts threads of its own, other than by [`Context::spawn`], must end them when its [`Plugin`] value is
//! dropped: a library whose threads still run cannot be unloaded.
//!
//! With the feature `async`, futures run beside the callbacks: `cx.reply_async(async move { … })`, and the module `tasks`.
//!
//! # Log
//!
//! `info!(name, "somebody came")` and the other macros of [`tracing`] write to the host's log, from any thread; beside their own
//! fields stand the plugin, its generation, and the topic and the socket id that the callback is about. What spans around
//! them say goes with them. The host's filter is that of its configuration, where a plugin's lines go by the plugin's own
//! modules: `level = "info,room=debug,room::history=trace"`. What it leaves out costs nothing.

#![allow(
    clippy::test_attr_in_doctest,
    reason = "the test on this page is called by the doctest that it stands in"
)]

pub mod abi;
mod channel;
mod connect;
mod context;
#[doc(hidden)]
pub mod export;
mod glue;
mod history;
mod info;
mod log;
pub mod manifest;
mod panics;
mod payload;
pub mod phoenix;
mod plugin;
#[doc(hidden)]
pub mod refusal;
mod remote;
mod reply;
#[doc(hidden)]
pub mod settings;
mod shard;
pub mod state;
#[cfg(feature = "async")]
pub mod tasks;
#[cfg(not(feature = "async"))]
#[path = "no_tasks.rs"]
mod tasks;
pub mod test;
mod text;
pub mod wire;

pub use serde_json::{Value, json};
pub use tracing;

pub use channel::{Channel, MigrateError, Old};
pub use connect::{Connect, ConnectContext, ConnectRequest, Connected, Connection, Denial, Origin};
pub use context::{Context, MemberId, Presence, Presences, Timer};
pub use history::History;
pub use payload::{Binary, IntoPayload, Payload};
pub use plugin::{NoSettings, Plugin};
pub use remote::{Later, Remote};
pub use reply::{Handled, Join, JoinExt, Joined, Reason, Refusal, Reply, Stop};
pub use text::{OutOfBounds, Text};

/// All that a plugin needs: `use bennu_plugin::prelude::*;`.
pub mod prelude {
    pub use std::time::Duration;

    pub use serde::{Deserialize, Serialize};
    pub use tracing::{debug, error, info, trace, warn};

    pub use crate::{
        Binary, Channel, Connect, ConnectContext, ConnectRequest, Connected, Connection, Context, Denial, Handled,
        History, Join, JoinExt, Later, MemberId, MigrateError, NoSettings, Old, Origin, Payload, Plugin, Presence,
        Reason, Refusal, Remote, Reply, Stop, Text, Timer, Value, export_plugin, json,
    };
}

/// The plugin in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}
