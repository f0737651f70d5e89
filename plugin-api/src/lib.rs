//! The kit for writing Bennu channel plugins.
//!
//! A plugin is a library that Bennu loads, and replaces while clients stay connected. It has a [`Channel`], a [`Connect`]
//! handler, or both. Here is a complete plugin with its test: the `lib.rs` of a crate of type `cdylib`.
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
//! /// One for each client in it, read from the params of its join.
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
//!         let member: Member = params.parse()?; // refuses bad params, and tells the client why
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
//! `plugin-api/GUIDE.md` builds such a plugin step by step, up to its second version. [`mod@test`] tells how to test a plugin,
//! [`state`] how state survives a reload and changes its shape, and [`phoenix`] maps each term of Phoenix to its place here.
//!
//! # Three levels of state
//!
//! | | one for each | made by | survives a reload |
//! |---|---|---|---|
//! | the [`Plugin`] | generation (one load of the library) | [`Plugin::init`], from the settings | no: `init` makes a new one |
//! | [`Channel::Shared`] | topic | `default()`, at the first join | yes |
//! | the [`Channel`] itself | member: one client in one topic | [`Channel::join`] | yes |
//!
//! [`state`] explains how the last two change their shape from one build to the next.
//!
//! # Threads, time and panics
//!
//! A plugin's code runs on threads of its own, its shards. A topic stays on one shard, which handles its events one at a time:
//! callbacks need no locks. While a callback runs, all topics of its shard wait, so blocking work belongs on a thread
//! ([`Context::spawn`]). Its result comes back as the answer to a promise ([`Context::later`]) or as a message
//! ([`Remote::send`]). Timers are data: a name and a payload, which arrive in [`handle_info`](Channel::handle_info) of whichever
//! generation is in service then.
//!
//! The effects of a callback take place when it returns. If it panics, none of them does, and the channel of one member ends.
//!
//! The host catches panics and nothing else. A callback that does not return blocks its shard until `deadline_ms` is over; then
//! all clients of the shard join again. In `bennu dev` there is no deadline. A segmentation fault, a stack overflow (endless
//! recursion), `abort` and `exit` end **the whole host**. The host names the plugin on standard error. Its next start puts this
//! build into quarantine and loads the last good one, if there is one.
//!
//! A crate that starts threads by other means than [`Context::spawn`] must end them when its [`Plugin`] value is dropped: the
//! host cannot unload a library whose threads still run.
//!
//! With the feature `async`, futures run beside the callbacks: see `cx.reply_async(async move { … })` and the module `tasks`.
//!
//! # Log
//!
//! `info!(name, "joined")` and the other macros of [`tracing`] write to the host's log, from any thread. The host adds the
//! plugin, its generation, the topic and the socket id to each line; the fields of open spans go with it. The filter stands in the
//! host's configuration, and goes by the modules of the plugin: `level = "info,room=debug,room::history=trace"`. Lines that it
//! drops cost nothing.

#![allow(
    clippy::test_attr_in_doctest,
    reason = "the test on this page is called by the doctest that it stands in"
)]

pub mod abi;
mod channel;
mod connect;
mod context;
pub mod expiry;
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
pub mod refused_effect;
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
pub use context::{Context, MemberId, Presence, Presences, Span, Timer};
pub use history::History;
pub use payload::{Binary, IntoPayload, Payload};
pub use plugin::{NoSettings, Plugin};
pub use remote::{Later, Remote};
pub use reply::{Handled, Join, JoinExt, Joined, Reason, Refusal, Reply, Stop};
pub use text::{OutOfBounds, Text};

/// Everything that a plugin needs: `use bennu_plugin::prelude::*;`.
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
