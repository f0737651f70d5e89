//! Tests a plugin without a server, in plain `#[test]` functions.
//!
//! A [`Server`] runs the plugin and a [`Client`] connects to it. The client's [`Membership`] of a topic pushes events, and asserts
//! what follows:
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
//! The plugin is real. The kit calls it through the C functions that the host calls; payloads and effects cross the boundary as
//! bytes; panics and reloads take the same way as in the host. [`Server::built`] runs the same test against the library that cargo
//! builds. The host is not real: the kit has members, presence, timers, promises and broadcasts, but no sockets, no limits and no
//! other plugins.
//!
//! # When things happen
//!
//! Everything happens on the thread of the test. When [`Membership::push`] returns, the plugin has handled the event, and its
//! effects have taken place. Timers fire when the test advances the clock ([`Server::advance`]). Only threads of the plugin run by
//! themselves: an assertion waits for them, for at most [`Server::patience`]. A `refute_…` looks once and does not wait, so first
//! assert something that comes later.
//!
//! An assertion removes the message that it finds; the next one looks at the rest. A failure prints the messages that came instead,
//! and the plugin's log.
//!
//! # How to use it
//!
//! The kit needs no feature, and a library that does not call it does not contain it. `Server::start::<Member>()` runs the plugin
//! whose first type in [`export_plugin!`](crate::export_plugin) is `Member`. For a plugin that the crate does not export, for
//! example an old version, call [`test_plugin!`](crate::test_plugin).

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
#[doc(hidden)]
pub use self::inbox::{Kind, Sent};
pub use self::membership::Membership;
pub use self::pushed::Pushed;
pub use self::request::{Denied, Request};
pub use self::server::Server;
