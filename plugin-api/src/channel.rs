//! A channel: the state of each member and each topic, and the callbacks that change it.

use std::cell::Cell;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::panics::catch;
use crate::payload::Payload;
use crate::plugin::{NoSettings, Plugin};
use crate::remote::Seen;
use crate::reply::{Handled, Join, JoinExt, Reason, Reply};
use crate::state::{self, Headers};

/// The state of one member (one client's membership of one topic), and the callbacks of the channel.
///
/// All callbacks of a topic run on the same thread, one at a time, in the order of the events. None of them may block: see
/// [`Context::spawn`] and [`Context::later`]. A panic ends the member in whose callback it happened. The effects of that callback
/// are dropped; the topic's state stays as the callback left it.
///
/// Both states survive a reload of the plugin: see [`crate::state`].
///
/// | callback | called when | a panic in it |
/// |---|---|---|
/// | [`join`](Channel::join) | a client joins | refuses the join: `{"reason":"join crashed"}` |
/// | [`join_answer`](Channel::join_answer) | the answer arrives that `join` promised | refuses the join |
/// | [`handle_in`](Channel::handle_in) | the member's client pushed an event; never before the join is answered | ends the member |
/// | [`handle_out`](Channel::handle_out) | an intercepted event was broadcast; once for each receiver | ends that member, not the others |
/// | [`handle_info`](Channel::handle_info) | a message or a timer for the member arrives | ends the member |
/// | [`handle_topic_info`](Channel::handle_topic_info) | a message or a timer for the topic arrives | is logged |
/// | [`handle_call`](Channel::handle_call) | a backend asks the topic, through the server's HTTP API | answers the backend with HTTP status 502 |
/// | [`terminate`](Channel::terminate) | the member ends, for any [`Reason`] | is logged; the member ends |
/// | [`migrate_shared`](Channel::migrate_shared), [`migrate`](Channel::migrate) | the topic moves here from another generation, then each member | keeps the topic there |
/// | [`restored`](Channel::restored) | the topic and all its members have moved here, or the topic has come back from the store | is logged |
/// | [`closing`](Channel::closing) | the topic is about to leave memory | is logged; the topic leaves |
///
/// The host abandons a callback that takes longer than the plugin's `deadline_ms` (default 10 s): its member ends, and its effects
/// reach nobody. With `on_panic = "topic"` in the configuration, a panic ends the topic with all its members. A panic in `join` or
/// `join_answer` always only refuses the join.
pub trait Channel<P: Plugin = NoSettings>: Serialize + DeserializeOwned + Sized + 'static {
    /// The state that the members of a topic share; `()` if there is none. `default()` makes it at the first join. It leaves
    /// memory `linger_ms` (default 10 s) after the last member is gone: with the setting `durability` it is stored then, and comes back
    /// when the topic does; otherwise it is dropped. The probe makes one, too, to see whether it survives a reload.
    type Shared: Default + Serialize + DeserializeOwned + 'static;

    /// The version of both states as this code writes them. Raise it when `migrate` has something to do.
    const STATE_VERSION: u32 = 1;
    /// The oldest version that this code reads.
    const READS_FROM: u32 = Self::STATE_VERSION;
    /// The newest version that this code reads. Above [`Channel::STATE_VERSION`] if it can take over from later code.
    const READS_TO: u32 = Self::STATE_VERSION;
    /// Broadcast events that go through `handle_out` instead of straight to the clients.
    const INTERCEPTS: &'static [&'static str] = &[];

    /// A client joins. The returned value becomes the member.
    ///
    /// [`Context::track`] works here already: `presence_state` follows the reply. A push does not.
    ///
    /// The default lets **everybody** in, whatever the params, and makes the member from nothing: it must be a unit struct, or have
    /// `#[serde(default)]` on each field. For any other type write a `join`, or each join panics and says so.
    fn join(_shared: &mut Self::Shared, _params: Payload<'_>, _cx: &mut Context<P>) -> Join<Self> {
        Join::accept(from_nothing())
    }

    /// The answer arrives that [`join`](Channel::join) promised with [`Join::later`](JoinExt::later). `answer` is the payload passed
    /// to `complete`. Not called if the client has left in the meantime, nor after `join_deadline_ms` (default 10 s), when the host
    /// has refused the join. The default refuses.
    fn join_answer(_shared: &mut Self::Shared, _answer: Payload<'_>, _cx: &mut Context<P>) -> Join<Self> {
        Join::refuse(serde_json::json!({ "reason": "no join_answer" }))
    }

    /// The member's client pushed an event. The default returns [`Reply::unhandled`].
    ///
    /// If payloads pass through unchanged, match on `event`. If they have fields, read event and payload into an enum with
    /// [`Payload::parse_as`]: it needs no struct for each payload and no arm for unknown events, and the compiler reports the events
    /// that are not handled.
    fn handle_in(
        &mut self,
        _shared: &mut Self::Shared,
        _event: &str,
        _payload: Payload<'_>,
        _cx: &mut Context<P>,
    ) -> Handled {
        Ok(Reply::unhandled())
    }

    /// An event of [`Channel::INTERCEPTS`] was broadcast to the topic. Called for each receiver; what it pushes, this member's
    /// client gets. The default pushes the event unchanged.
    fn handle_out(&mut self, _shared: &mut Self::Shared, event: &str, payload: Payload<'_>, cx: &mut Context<P>) {
        cx.push(event, payload);
    }

    /// The client has shown a new token, perhaps on another channel: [`Context::claims`] returns the new claims from now on. Called for
    /// each channel of the client, before the event that brought the token. The default does nothing.
    fn claims_changed(&mut self, _shared: &mut Self::Shared, _cx: &mut Context<P>) {}

    /// A message or a timer for this member arrives: see [`Context::send`]. The default does nothing. After a reload, messages of the
    /// earlier code may arrive: their names are part of the state.
    fn handle_info(&mut self, _shared: &mut Self::Shared, _name: &str, _payload: Payload<'_>, _cx: &mut Context<P>) {}

    /// A message or a timer for the topic arrives: see [`Context::topic_send_after`] and [`Context::send_to`]. There is no member.
    fn handle_topic_info(_shared: &mut Self::Shared, _name: &str, _payload: Payload<'_>, _cx: &mut Context<P>) {}

    /// A backend asks the topic, through the server's HTTP API (`POST /api/call`). There is no member. The answer is that of
    /// [`Channel::handle_in`]: a reply, an error, or a promise of [`Context::later`]. [`Reply::none`] without a promise answers
    /// `ok` and `{}`. The API's keys decide who may ask. The default returns [`Reply::unhandled`].
    ///
    /// If the topic does not exist, the backend decides whether this makes it, as a first join does. Such a topic ends `linger_ms`
    /// after the last call or the last member.
    fn handle_call(_shared: &mut Self::Shared, _event: &str, _payload: Payload<'_>, _cx: &mut Context<P>) -> Handled {
        Ok(Reply::unhandled())
    }

    /// The member ends; it is dropped after this. It can still push, unless its connection is gone. Not called if the topic goes
    /// as a whole, as when the server stops or another generation takes over.
    fn terminate(&mut self, _shared: &mut Self::Shared, _reason: Reason<'_>, _cx: &mut Context<P>) {}

    /// Reads a member that version `from` wrote. The default reads a `Self`: enough after fields were added with `#[serde(default)]`,
    /// renamed with `#[serde(alias = "…")]`, or removed in a new `STATE_VERSION`.
    ///
    /// State of the present version must come back whole. Bennu writes the result again, and counts a value that is missing or
    /// different as an error. State of another version may be changed at will here: see [`crate::state`].
    ///
    /// # Errors
    ///
    /// The topic then stays in its generation.
    fn migrate(_from: u32, old: Old<'_>) -> Result<Self, MigrateError> {
        old.read_by_default()
    }

    /// Reads a topic's state that version `from` wrote. The default reads a [`Channel::Shared`]. Otherwise as [`Channel::migrate`].
    ///
    /// # Errors
    ///
    /// The topic then stays in its generation.
    fn migrate_shared(_from: u32, old: Old<'_>) -> Result<Self::Shared, MigrateError> {
        old.read_by_default()
    }

    /// The topic and its members have moved here from another generation, which served them until now. Or, with the setting
    /// `durability`, the topic was stored and is in memory again; it has no members then, and whatever brought it back follows.
    fn restored(_shared: &mut Self::Shared, _cx: &mut Context<P>) {}

    /// The topic is about to leave memory: it was empty for `linger_ms`, the server stops, its plugin or its route is gone, or a
    /// [`Context::forget`] ends it. It has no members any more, and this is its last callback. With the setting `durability`, the
    /// state is stored after it.
    ///
    /// A server that stops waits for async work that this starts, and for threads of [`Context::spawn`], for as long as its
    /// `shutdown_timeout_ms` allows. Not called if the server is killed, or if a callback of the plugin does not return.
    fn closing(_shared: &mut Self::Shared, _cx: &mut Context<P>) {}
}

/// # Panics
///
/// If a `T` has fields without a default.
fn from_nothing<T: DeserializeOwned>() -> T {
    serde_json::from_str("{}").unwrap_or_else(|error| {
        let unit = serde_json::from_str("null");
        unit.unwrap_or_else(|_| {
            let name = std::any::type_name::<T>();
            panic!("the default `join` cannot make a {name} from nothing ({error}): write a `join`")
        })
    })
}

/// State as another generation wrote it: MessagePack with field names.
#[derive(Clone, Copy, Debug)]
pub struct Old<'a> {
    bytes: &'a [u8],
    /// Set if the default of `migrate` or `migrate_shared` reads it.
    by_default: &'a Cell<bool>,
}

impl<'a> Old<'a> {
    /// Reads it as a `T`. Can be called again with another `T`.
    ///
    /// # Errors
    ///
    /// If it is not a `T`.
    pub fn read<T: DeserializeOwned>(self) -> Result<T, MigrateError> {
        state::read(self.bytes).map_err(|error| MigrateError {
            why: error.to_string(),
            is_shape: true,
        })
    }

    /// Reads it for an author who has not written a migration.
    fn read_by_default<T: DeserializeOwned>(self) -> Result<T, MigrateError> {
        self.by_default.set(true);
        self.read()
    }
}

/// Appends a topic's state to `bytes`.
pub(crate) fn write_shared<C: Channel<P>, P: Plugin>(
    shared: &C::Shared,
    bytes: &mut Vec<u8>,
) -> Result<(), MigrateError> {
    write_noted::<C, P, _>(shared, C::migrate_shared, bytes)
}

/// Appends a member to `bytes`.
pub(crate) fn write_member<C: Channel<P>, P: Plugin>(member: &C, bytes: &mut Vec<u8>) -> Result<(), MigrateError> {
    write_noted::<C, P, _>(member, C::migrate, bytes)
}

/// Appends `state` to `bytes`, with a note if it leaves out a field that this code reads with another value. Only this code can
/// tell that from a field that other code has added.
fn write_noted<C: Channel<P>, P: Plugin, T: Serialize>(
    state: &T,
    read: Read<T>,
    bytes: &mut Vec<u8>,
) -> Result<(), MigrateError> {
    let begin = bytes.len();
    let failed = |error| MigrateError::new(format!("it cannot be written: {error}"));
    if !state::write(state, Headers::Telling, bytes).map_err(failed)? {
        return Ok(());
    }
    let mut written = bytes.split_off(begin);
    let by_default = &Cell::new(false);
    // Promises that are read and written here go nowhere.
    let noted = Seen::nothing_during(|| {
        catch(|| {
            let bytes = &*written;
            let again = read(C::STATE_VERSION, Old { bytes, by_default })?;
            state::note_misread(&mut written, &again).map_err(failed)
        })
    });
    // If this code cannot read it, whoever reads it says so.
    drop(noted);
    bytes.append(&mut written);
    Ok(())
}

/// Has a `C` read a topic's state, and checks that nothing of it is lost.
pub(crate) fn read_shared<C: Channel<P>, P: Plugin>(from: u32, bytes: &[u8]) -> Result<C::Shared, MigrateError> {
    read_checked::<C, P, _>("migrate_shared", C::migrate_shared, from, bytes)
}

/// Has a `C` read a member, and checks that nothing of it is lost.
pub(crate) fn read_member<C: Channel<P>, P: Plugin>(from: u32, bytes: &[u8]) -> Result<C, MigrateError> {
    read_checked::<C, P, _>("migrate", C::migrate, from, bytes)
}

/// Has a `C` read a topic's state, write it and read it again. A migration may drop what it likes; what it makes must last.
pub(crate) fn try_shared<C: Channel<P>, P: Plugin>(from: u32, bytes: &[u8]) -> Result<(), MigrateError> {
    let shared = read_shared::<C, P>(from, bytes)?;
    if from == C::STATE_VERSION {
        return Ok(());
    }
    last(&shared, write_shared::<C, P>, read_shared::<C, P>, C::STATE_VERSION)
}

/// The same for a member.
pub(crate) fn try_member<C: Channel<P>, P: Plugin>(from: u32, bytes: &[u8]) -> Result<(), MigrateError> {
    let member = read_member::<C, P>(from, bytes)?;
    if from == C::STATE_VERSION {
        return Ok(());
    }
    last(&member, write_member::<C, P>, read_member::<C, P>, C::STATE_VERSION)
}

/// Has a `C` write the state that a topic begins with, and read it again.
pub(crate) fn try_first<C: Channel<P>, P: Plugin>() -> Result<(), MigrateError> {
    // It may need what only `init` makes.
    catch(C::Shared::default).map_or(Ok(()), |first| {
        last(&first, write_shared::<C, P>, read_shared::<C, P>, C::STATE_VERSION)
    })
}

type Read<T> = fn(u32, Old<'_>) -> Result<T, MigrateError>;
type WriteNoted<T> = fn(&T, &mut Vec<u8>) -> Result<(), MigrateError>;
type ReadChecked<T> = fn(u32, &[u8]) -> Result<T, MigrateError>;

/// Checks that `state` can be read again.
fn last<T>(state: &T, write: WriteNoted<T>, read: ReadChecked<T>, version: u32) -> Result<(), MigrateError> {
    let mut bytes = Vec::new();
    write(state, &mut bytes)?;
    read(version, &bytes)
        .map(drop)
        .map_err(|error| MigrateError::new(format!("once written, it cannot be read again: {error}")))
}

fn read_checked<C: Channel<P>, P: Plugin, T: Serialize>(
    by: &str,
    read: Read<T>,
    from: u32,
    bytes: &[u8],
) -> Result<T, MigrateError> {
    let by_default = Cell::new(false);
    let old = Old {
        bytes,
        by_default: &by_default,
    };
    let state = read(from, old).map_err(|error| error.advising::<C, P>(by, from))?;
    // A migration by the author decides itself what is kept.
    if from != C::STATE_VERSION && !by_default.get() {
        return Ok(state);
    }
    // Promises that are written here go nowhere.
    let losses = Seen::nothing_during(|| state::losses(bytes, &state, || read(from, old).ok()))
        .map_err(|error| MigrateError::new(format!("it cannot be written again: {error}")))?;
    // Whoever has raised the version without a migration may have removed fields. Earlier code must not drop what later code has added.
    let is_tolerated = from < C::STATE_VERSION && !losses.looks_renamed() && !losses.is_misread();
    let is_lost = !losses.is_empty() && !is_tolerated;
    if !is_lost {
        return Ok(state);
    }
    let advice = if from == C::STATE_VERSION {
        losses.remedy(from, C::READS_FROM.min(from), by)
    } else {
        format!("write a `{by}` that reads state of version {from}")
    };
    Err(MigrateError::new(format!(
        "this code would lose what it does not write again: {}; {advice}",
        losses.shown()
    )))
}

/// Why state cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrateError {
    why: String,
    /// The state has another shape than the type that reads it.
    is_shape: bool,
}

impl MigrateError {
    /// An error with this text.
    #[must_use]
    pub fn new(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            is_shape: false,
        }
    }

    /// Adds how to fix it, for the author of `C`. `by` is the callback that read the state of version `from`.
    fn advising<C: Channel<P>, P: Plugin>(self, by: &str, from: u32) -> Self {
        let version = C::STATE_VERSION;
        let advice = match self.is_shape {
            false => String::new(),
            true if from == version => format!(
                "; give a new field `#[serde(default)]`, and a field that had another name `#[serde(alias = \"…\")]`; for any other \
                 change set `STATE_VERSION` to {}, `READS_FROM` to {from} and write a `{by}` that reads the old state",
                version.saturating_add(1)
            ),
            true => format!("; `{by}` must read state of version {from} as a type with the fields of that version"),
        };
        Self {
            why: self.why + &advice,
            ..self
        }
    }
}

impl fmt::Display for MigrateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for MigrateError {}

/// The channel of a plugin that has only a connect handler: refuses every join.
#[doc(hidden)]
#[derive(Serialize, serde::Deserialize)]
pub struct NoChannel;

impl<P: Plugin> Channel<P> for NoChannel {
    type Shared = ();

    fn join(_: &mut (), _: Payload<'_>, _: &mut Context<P>) -> Join<Self> {
        Join::refuse(serde_json::json!({ "reason": "unmatched topic" }))
    }
}
