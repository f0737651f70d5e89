//! How state survives a reload, and how its shape changes. (A page of documentation, with nothing to call.)
//!
//! When a plugin's library is replaced, each topic moves to the new generation between two events: the old generation writes the
//! topic's [`Shared`](crate::Channel::Shared) and each member's [`Channel`](crate::Channel), and the new one reads them. Clients
//! do not notice. Of the rest:
//!
//! | what | after a reload |
//! |---|---|
//! | [`Channel`](crate::Channel) and [`Shared`](crate::Channel::Shared), as serde writes them | kept |
//! | timers and messages on their way | kept: they arrive in the new code, so their names are part of the state |
//! | promises ([`Later`](crate::Later)) | kept in state, in messages and in timers: the generation that reads one answers it. The host answers all others with the error `reloaded` when their generation ends |
//! | presence, socket ids, assigns of the socket | kept by the host |
//! | the [`Plugin`](crate::Plugin) value, statics, thread-locals | new |
//! | fields with `#[serde(skip)]` | `default()` |
//! | threads and a [`Remote`](crate::Remote) | the old generation's threads end; what they send until then reaches the topic in its new generation |
//!
//! The format is MessagePack with field names. To **add** a field, give it `#[serde(default)]`; to **remove** one, delete it. Values
//! that JSON cannot carry survive as well: infinite floats, maps with any keys, bytes. `#[serde(untagged)]` and `Box<dyn …>` need
//! the same care as in any other format.
//!
//! For any **other change** raise [`STATE_VERSION`](crate::Channel::STATE_VERSION), set
//! [`READS_FROM`](crate::Channel::READS_FROM) to the oldest version that the code reads, and keep a type with the old shape. For
//! example, version 1 has this state:
//!
//! ```
//! # use bennu_plugin::prelude::*;
//! #[derive(Default, Serialize, Deserialize)]
//! struct Room {
//!     messages: Vec<String>,
//! }
//!
//! #[derive(Serialize, Deserialize)]
//! struct Member {
//!     name: String,
//! }
//! # impl Channel for Member {
//! #     type Shared = Room;
//! #     fn join(_: &mut Room, _: Payload, _: &mut Context) -> Join<Self> {
//! #         Join::accept(Self { name: String::new() })
//! #     }
//! # }
//! ```
//!
//! Version 2 gives each message a number, and each member a mood:
//!
//! ```
//! # use bennu_plugin::prelude::*;
//! #[derive(Default, Serialize, Deserialize)]
//! struct Room {
//!     messages: Vec<Message>,
//! }
//!
//! #[derive(Serialize, Deserialize)]
//! struct Message {
//!     id: usize,
//!     text: String,
//! }
//!
//! #[derive(Serialize, Deserialize)]
//! struct Member {
//!     name: String,
//!     #[serde(default)] // a new field: nothing to migrate
//!     mood: String,
//! }
//!
//! /// The room as version 1 wrote it.
//! #[derive(Deserialize)]
//! struct RoomV1 {
//!     messages: Vec<String>,
//! }
//!
//! impl From<RoomV1> for Room {
//!     fn from(old: RoomV1) -> Self {
//!         let messages = old.messages.into_iter().enumerate();
//!         Self { messages: messages.map(|(id, text)| Message { id, text }).collect() }
//!     }
//! }
//!
//! impl Channel for Member {
//!     type Shared = Room;
//!
//!     const STATE_VERSION: u32 = 2;
//!     const READS_FROM: u32 = 1;
//!
//!     fn migrate_shared(from: u32, old: Old) -> Result<Room, MigrateError> {
//!         match from {
//!             1 => Ok(old.read::<RoomV1>()?.into()),
//!             _ => old.read(),
//!         }
//!     }
//!     // …
//! #     fn join(_: &mut Room, _: Payload, _: &mut Context) -> Join<Self> {
//! #         Join::accept(Self { name: String::new(), mood: String::new() })
//! #     }
//! }
//!
//! # bennu_plugin::test_plugin!(Member);
//! # use bennu_plugin::test::Server;
//! // A test of it, which starts from state of version 1:
//! let server = Server::start::<Member>();
//! let members = server.restore("room:1", 1, json!({ "messages": ["hello"] }), [json!({ "name": "ann" })]);
//! assert_eq!(server.shared::<Room>("room:1").messages[0].text, "hello");
//! assert_eq!(members[0].state::<Member>().mood, "");
//! ```
//!
//! If the state in service has a version outside `READS_FROM ..= READS_TO`, the host refuses the library, and the old code goes on.
//! A topic whose state fails to migrate, by an error or a panic, stays with the old code, unless the configuration says otherwise.
//! A member whose `Serialize` panics ends; the other members move.
//!
//! # Going back
//!
//! New code is on probation. If it panics too often, the host returns its topics to the previous code: with their current state if
//! that code can read it, otherwise with a snapshot from the reload, and later changes are lost. A
//! [`READS_TO`](crate::Channel::READS_TO) above `STATE_VERSION` declares that this version reads the state of later ones, so that
//! going back to it loses nothing. Version 1 of the room above does that like this, once the shape of version 2 is known:
//!
//! ```
//! # use bennu_plugin::prelude::*;
//! # #[derive(Default, Serialize, Deserialize)]
//! # struct Room { messages: Vec<String> }
//! # #[derive(Serialize, Deserialize)]
//! # struct Member { name: String }
//! /// The room as version 2 writes it.
//! #[derive(Deserialize)]
//! struct RoomV2 {
//!     messages: Vec<MessageV2>,
//! }
//!
//! #[derive(Deserialize)]
//! struct MessageV2 {
//!     text: String,
//! }
//!
//! impl Channel for Member {
//!     type Shared = Room;
//!
//!     const STATE_VERSION: u32 = 1;
//!     const READS_TO: u32 = 2;
//!
//!     fn migrate_shared(from: u32, old: Old) -> Result<Room, MigrateError> {
//!         if from == 1 {
//!             return old.read();
//!         }
//!         let RoomV2 { messages } = old.read()?;
//!         Ok(Room { messages: messages.into_iter().map(|message| message.text).collect() })
//!     }
//!     // …
//! #     fn join(_: &mut Room, _: Payload, _: &mut Context) -> Join<Self> {
//! #         Join::accept(Self { name: String::new() })
//! #     }
//! }
//! ```
//!
//! # During a reload
//!
//! The host holds each topic for a few milliseconds while its state is written and read. Events that arrive meanwhile wait; the new
//! code handles them in order. Larger state takes longer, so keep only what must survive. A thread of the old code can keep its
//! promises within the host's `retire_ms`; after that the host answers them with `{"reason":"reloaded"}`.
