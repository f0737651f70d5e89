//! How state comes over a reload, and how its shape changes. (Nothing to call here: a page of documentation.)
//!
//! When a plugin's library is replaced, each topic moves to the new generation between two events: the old one writes the
//! topic's [`Shared`](crate::Channel::Shared) and each member's [`Channel`](crate::Channel), the new one reads them. Clients
//! do not notice. Nothing else in the library comes over:
//!
//! | what | over a reload |
//! |---|---|
//! | [`Channel`](crate::Channel) and [`Shared`](crate::Channel::Shared), as serde writes them | kept |
//! | timers and messages on their way | kept: they arrive in the new code, so their names are part of its state |
//! | promises ([`Later`](crate::Later)), also those kept in state | kept: who has read the promise answers it; what nobody has read when its generation ends is answered with the error `reloaded` |
//! | presence, socket ids, assigns of the socket | kept, by the host |
//! | the [`Plugin`](crate::Plugin) value, statics, thread-locals | made anew |
//! | fields with `#[serde(skip)]` | `default()` |
//! | threads and a [`Remote`](crate::Remote) | the old generation's threads end; what they still send reaches the topic in its new generation |
//!
//! The format is MessagePack with field names, so a field can be **added** with `#[serde(default)]`, and **removed**, with
//! nothing else to do. Anything that serde can write comes back as it was: infinite floats, maps with any keys, bytes. What
//! serde cannot tell apart without a hint (`#[serde(untagged)]`, `Box<dyn …>`) is the author's to arrange.
//!
//! For any **other change** raise [`STATE_VERSION`](crate::Channel::STATE_VERSION), say in
//! [`READS_FROM`](crate::Channel::READS_FROM) how far back the code reads, and keep the old shape to read it by. Say there were
//! versions with this state:
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
//! Now each message is to have a number, and a member its mood:
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
//!     #[serde(default)] // a field more: nothing to migrate
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
//! // And a test of it, which begins with what version 1 wrote:
//! let server = Server::start::<Member>();
//! let members = server.restore("room:1", 1, json!({ "messages": ["hello"] }), [json!({ "name": "ann" })]);
//! assert_eq!(server.shared::<Room>("room:1").messages[0].text, "hello");
//! assert_eq!(members[0].state::<Member>().mood, "");
//! ```
//!
//! State of a version outside `READS_FROM ..= READS_TO` is not even tried: the library is refused and the old code goes on. The
//! same happens to a topic whose state fails to migrate, by an error or a panic, unless the configuration says otherwise. A member
//! whose `Serialize` panics ends there, and the others move on.
//!
//! # Going back
//!
//! New code is on probation. If it panics too often, the code before it takes its topics back: with their present state if it
//! reads that, otherwise with a snapshot from the moment when they came over, and what happened since is lost.
//! [`READS_TO`](crate::Channel::READS_TO) above `STATE_VERSION` promises that this version reads what a later one writes, so that
//! one can go back to it without loss. Version 1 of the room above could have come with this, once it was known what version 2
//! writes:
//!
//! ```
//! # use bennu_plugin::prelude::*;
//! # #[derive(Default, Serialize, Deserialize)]
//! # struct Room { messages: Vec<String> }
//! # #[derive(Serialize, Deserialize)]
//! # struct Member { name: String }
//! /// The room as version 2 will write it.
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
//! # What goes on meanwhile
//!
//! Each topic is held for a moment, some milliseconds, while its state is written and read; what comes for it waits, and is
//! handled by the new code, in order. The larger the state, the longer that is: keep in it what must survive, and no more. A
//! promise that a thread of the old code has yet to keep is kept if that happens within the host's `retire_ms`; after that its
//! client is answered `{"reason":"reloaded"}`.
