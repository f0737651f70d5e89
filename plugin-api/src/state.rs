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
//! | fields with `#[serde(skip)]` | `default()`: nothing notices that they are lost |
//! | threads and a [`Remote`](crate::Remote) | the old generation's threads end; what they send until then reaches the topic in its new generation |
//!
//! # Changing it
//!
//! | to … a field | do this |
//! |---|---|
//! | add | give it `#[serde(default)]` |
//! | rename | give it `#[serde(alias = "the old name")]` |
//! | remove | delete it, raise [`STATE_VERSION`](crate::Channel::STATE_VERSION), and set [`READS_FROM`](crate::Channel::READS_FROM) to the version before |
//! | change otherwise | the same, and write a `migrate_shared` or a `migrate` that reads the old shape |
//!
//! **Nothing is lost without a word.** When code reads state of its own version, the kit writes that state again and compares. Both
//! must have the same keys and values. If one is missing or different, the state counts as not read, and the error names the field
//! and what to write. So a renamed field without its alias does not start again from its default: the probe rejects the library, and
//! the old code goes on. The same holds for each topic as it moves, and for the [test kit](crate::test). A migration from another
//! version may drop and change what it likes, but what it makes must come back whole from then on.
//!
//! | what | is it a loss? |
//! |---|---|
//! | a new field | no |
//! | a field that `skip_serializing_if` leaves out, if its own code reads another value for it | yes: give it that value as its default |
//! | a field that is gone, if it was null, an empty list or an empty map | no |
//! | an entry of a map that is gone, whatever its value; also in a struct with `#[serde(flatten)]` | yes: the key is data |
//! | a list in another order: `Vec`, `VecDeque`, arrays, tuples | yes |
//! | a `HashSet`, `BTreeSet` or `BinaryHeap` in another order | no |
//! | a map in another order | no |
//! | the same number in another type: `u64` as `u128`, `7` as `7.0` | no |
//! | a `Vec<u8>` that `serde_bytes` reads | no |
//!
//! The kit knows a set by the name of its type. It also sees the set in a `Box`, `Rc`, `Arc` and the like, in an `Option` and in a
//! newtype, but not in a type with `#[serde(transparent)]` or `#[serde(into = "…")]`. Such a list may change its order only if that is
//! another one each time the state is read, as for a `HashSet`. State that an earlier kit wrote, or that has no text in it, does not
//! say which of its lists are sets: there the type that reads it decides.
//!
//! # What it carries
//!
//! The format is MessagePack with field names. It carries what serde can express, also where JSON cannot: infinite floats, maps with
//! any keys, bytes, 128-bit integers, `Some(None)`, `Some(())`, addresses and times, `RawValue`. These it cannot carry:
//!
//! * `#[serde(skip)]` fields. They get `default()`, and nobody can notice: serde does not show them.
//! * Keys that a `Serialize` written by hand leaves out. Nobody can notice those either, unless it calls `skip_field` as the derived
//!   one does.
//! * 128-bit integers and `RawValue` inside an internally tagged, untagged or flattened type. serde itself has no place for them there.
//!   Put them into a struct or an externally tagged enum.
//! * Untagged enums whose variants look alike: the first one that fits is read.
//! * Values nested more than 1,024 levels deep, or so deep that they take more than 1.5 MiB of the stack. Writing them is an error,
//!   and the topic stays with its code.
//!
//! Bennu says so as early as it can. The state that a topic begins with is tried before a library is loaded. Then some live state of
//! the code in service is tried in another process: two seconds after the first join, and ten times as long after that, up to an
//! hour. If it does not come back whole, the log says "a reload would lose state of this plugin".
//!
//! # What ends with the process
//!
//! State lives in memory, unless the configuration gives the plugin a `durability`: then Bennu stores it, and it is there after a
//! stop, a kill and a quiet time (`host/docs/durability.md`). [`Channel::closing`](crate::Channel::closing) runs before a topic leaves
//! memory, also when the server stops, and not if it is killed. So what a plugin writes to a database of its own some time after a
//! change, as by a timer, may be lost. Write what must not be lost at once, in the callback that changes it, and answer the client when
//! it is written.
//!
//! # An example
//!
//! Version 1 has this state:
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
//! that code can read all of it, otherwise with a snapshot from the reload, and later changes are lost. The log says which, and which
//! field was the reason. A field that the new code has added is one: the previous code would drop it. A
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

mod format;
mod loss;
mod read;
#[cfg(test)]
mod tests;
mod tree;
mod write;

use std::collections::HashSet;

use serde::Serialize;
use serde::de::DeserializeOwned;

use self::format::{Form, FormatError};
use self::loss::Losses;

pub(crate) use self::write::Headers;

/// How often state is read again to see whether a list has an order.
const MOST_READINGS: usize = 16;

/// Appends `state` to `bytes`. Returns whether a field may have been left out.
pub(crate) fn write<T: Serialize + ?Sized>(
    state: &T,
    headers: Headers,
    bytes: &mut Vec<u8>,
) -> Result<bool, FormatError> {
    write::write(state, Form::Readable, headers, bytes)
}

/// Reads state in either form.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FormatError> {
    let (_, bytes) = read::parts(bytes)?;
    read::read(bytes, Form::Readable).or_else(|error| read::read(bytes, Form::Compact).map_err(|_| error))
}

/// Notes in `bytes` what they leave out, if `again`, which their own code has read from them, has other values there.
pub(crate) fn note_misread<T: Serialize + ?Sized>(bytes: &mut Vec<u8>, again: &T) -> Result<(), FormatError> {
    let mut misread = Vec::with_capacity(bytes.len());
    write(again, Headers::Telling, &mut misread)?;
    if Losses::has_new(bytes, &misread)? {
        let state = std::mem::take(bytes);
        write::write_misread(&misread, bytes)?;
        bytes.extend_from_slice(&state);
    }
    Ok(())
}

/// What of `bytes` is lost in `state`, which was read from them. `again` reads them once more: the order of a list does not count if
/// it is another one each time.
pub(crate) fn losses<T: Serialize>(
    bytes: &[u8],
    state: &T,
    again: impl Fn() -> Option<T>,
) -> Result<Losses, FormatError> {
    let (misread, bytes) = read::parts(bytes)?;
    let in_form = |form| {
        let rewritten = |state: &T| {
            let mut rewritten = Vec::with_capacity(bytes.len());
            write::write(state, form, Headers::Telling, &mut rewritten).map(|_| rewritten)
        };
        let after = rewritten(state)?;
        let mut arbitrary = HashSet::new();
        let losses = Losses::between(bytes, misread, &after, &arbitrary)?;
        for _ in 0..MOST_READINGS {
            if losses.reordered().is_subset(&arbitrary) {
                break;
            }
            let Some(again) = again() else { break };
            let other = Losses::between(&after, None, &rewritten(&again)?, &HashSet::new())?;
            arbitrary.extend(other.reordered().iter().cloned());
        }
        match arbitrary.is_empty() {
            true => Ok(losses),
            false => Losses::between(bytes, misread, &after, &arbitrary),
        }
    };
    let losses = in_form(Form::Readable)?;
    // They may have been written in the other form.
    match losses.is_empty() {
        true => Ok(losses),
        false => Ok(in_form(Form::Compact).ok().filter(Losses::is_empty).unwrap_or(losses)),
    }
}
