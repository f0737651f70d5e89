//! Tests a plugin without a server, in plain `#[test]` functions.
//!
//! A [`Server`] runs the plugin, a [`Client`] connects to it, and its [`Membership`] of a topic pushes, and asserts what
//! comes of it:
//!
//! ```
//! # use bennu_plugin::prelude::*;
//! # #[derive(Serialize, Deserialize)]
//! # struct Echo {}
//! # impl Channel for Echo {
//! #     type Shared = ();
//! #     fn handle_in(&mut self, _: &mut (), event: &str, payload: Payload, cx: &mut Context) -> Handled {
//! #         cx.broadcast_from("shout", payload);
//! #         Ok(Reply::ok_with(payload))
//! #     }
//! # }
//! # bennu_plugin::test_plugin!(Echo);
//! use bennu_plugin::test::{Server, any};
//!
//! let server = Server::start::<Echo>();
//! let ann = server.join("echo:1", json!({}));
//! let bob = server.join("echo:1", json!({}));
//!
//! ann.push("shout", json!({ "say": "hello" })).assert_reply("ok", json!({ "say": "hello" }));
//! bob.assert_push("shout", json!({ "say": "hello" }));
//! ann.refute_push("shout", any());
//! ```
//!
//! # What is real
//!
//! The plugin is: it is called through the C functions that the host calls, its payloads and effects cross the boundary as
//! bytes, its panics are caught where they always are, its state is written and read as for a reload. [`Server::built`] runs
//! the same test against the library that cargo builds. The host is not: what stands between the plugin and a client
//! here knows members, presence, timers, promises and broadcasts, and neither sockets nor limits nor other plugins.
//!
//! # When things happen
//!
//! All of it happens on the thread of the test: when [`Membership::push`] returns, the event is handled, and what it asked
//! for has happened. Nothing happens by itself, and timers fire when the test turns the clock ([`Server::advance`]). Only what
//! the plugin does on threads of its own has to be waited for: an assertion that is not fulfilled waits for it, for as long as
//! [`Server::patience`] says. A `refute_…` looks once and does not wait; assert first on something that comes after.
//!
//! An assertion takes what it has found: the next one is about the rest. Where it fails, it prints what was received instead
//! and what the plugin has logged.
//!
//! # Where it is
//!
//! In the crate itself, without a feature that would have to be turned on: a library that does not call it does not hold
//! it. [`export_plugin!`](crate::export_plugin) says what is tested by its first type: `Server::start::<Member>()`.
//! [`test_plugin!`](crate::test_plugin) says it of types that are not exported, an old version for example.

mod body;
#[doc(hidden)]
pub mod boundary;
mod client;
mod code;
mod core;
mod expect;
mod inbox;
mod membership;
mod outside;
mod presence;
mod pushed;
mod request;
mod server;

pub use self::client::{Client, Joining};
pub use self::code::{Code, Exported};
pub use self::expect::{Any, Expect, Like, That, any, like, that};
pub use self::inbox::Sent;
pub use self::membership::Membership;
pub use self::pushed::Pushed;
pub use self::request::{Denied, Request};
pub use self::server::Server;
