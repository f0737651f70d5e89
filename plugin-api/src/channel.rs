//! A channel: what is kept for each member and each topic, and what happens to it.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::payload::Payload;
use crate::plugin::{NoSettings, Plugin};
use crate::reply::{Handled, Join, JoinExt, Reason, Reply};

/// The state of one member (one client's membership of one topic), and the callbacks of the channel.
///
/// All callbacks of a topic run one at a time, on the same thread, in the order in which things happened. None of them
/// may block: see [`Context::spawn`] and [`Context::later`]. A panic ends the member in whose callback it happened;
/// nothing of what that callback asked for goes out, the topic's state stays as the callback left it.
///
/// Both states survive a reload of the plugin; [`state`](crate::state) says how.
///
/// | callback | called when | a panic in it |
/// |---|---|---|
/// | [`join`](Channel::join) | a client wants in | refuses the join: `{"reason":"join crashed"}` |
/// | [`join_answer`](Channel::join_answer) | the answer is there that `join` promised | the same |
/// | [`handle_in`](Channel::handle_in) | the member's client pushed an event; not before the join is answered | ends the member |
/// | [`handle_out`](Channel::handle_out) | an intercepted event was broadcast, for each member that it is for | ends that member, not the others |
/// | [`handle_info`](Channel::handle_info) | a message or a timer for the member is there | ends the member |
/// | [`handle_topic_info`](Channel::handle_topic_info) | a message or a timer for the topic is there | nothing but a line in the log |
/// | [`terminate`](Channel::terminate) | the member is about to go, for any [`Reason`] | the member goes |
/// | [`migrate_shared`](Channel::migrate_shared), [`migrate`](Channel::migrate) | the topic comes over from other code, then each member | the topic stays with that code |
/// | [`restored`](Channel::restored) | all of the topic has come over | nothing but a line in the log |
///
/// A callback that takes longer than the plugin's `deadline_ms` (10 s if nothing is configured) is given up: its member ends, and
/// what it does from then on reaches nobody. `on_panic = "topic"` in the configuration ends the topic with all its members
/// instead of one.
pub trait Channel<P: Plugin = NoSettings>: Serialize + DeserializeOwned + Sized + 'static {
    /// What the members of a topic share. Made by `default()` at the first join, dropped some time (`linger_ms`, 10 s if nothing
    /// is configured) after the last member is gone. `()` if there is nothing to share.
    type Shared: Default + Serialize + DeserializeOwned + 'static;

    /// The version of what is written of both states. Raise it when `migrate` has something to do.
    const STATE_VERSION: u32 = 1;
    /// The oldest version that can be read.
    const READS_FROM: u32 = Self::STATE_VERSION;
    /// The newest version that can be read: above [`Channel::STATE_VERSION`] where going back from it works.
    const READS_TO: u32 = Self::STATE_VERSION;
    /// The broadcast events that go through `handle_out` instead of straight to the clients.
    const INTERCEPTS: &'static [&'static str] = &[];

    /// A client wants to join. The member comes into being with the value that is returned.
    ///
    /// [`Context::track`] may be called here already: `presence_state` follows the reply. A push may not.
    ///
    /// By default **everybody is let in**, whatever the params, with a member that is made from nothing: a unit struct, or
    /// one whose fields all have `#[serde(default)]`. Any other has a `join` of its own, or each join panics and says so.
    fn join(_shared: &mut Self::Shared, _params: Payload<'_>, _cx: &mut Context<P>) -> Join<Self> {
        Join::accept(from_nothing())
    }

    /// The answer to what [`join`](Channel::join) promised with [`Join::later`](JoinExt::later): `answer` is what was
    /// given to `complete`. Not called when the client is gone in the meantime, or `join_deadline_ms` (10 s if nothing is
    /// configured) is over and the client was refused. By default: refuses.
    fn join_answer(_shared: &mut Self::Shared, _answer: Payload<'_>, _cx: &mut Context<P>) -> Join<Self> {
        Join::refuse(serde_json::json!({ "reason": "no join_answer" }))
    }

    /// The client pushed an event. By default: [`Reply::unhandled`].
    ///
    /// Match on `event` where payloads pass through as they are; read both into an enum with [`Payload::parse_as`] where they
    /// have fields. (An enum spares a struct for each payload and the arm for the rest, and the compiler says what is not
    /// handled. A method for each event would need a procedural macro and hide what is called when.)
    fn handle_in(
        &mut self,
        _shared: &mut Self::Shared,
        _event: &str,
        _payload: Payload<'_>,
        _cx: &mut Context<P>,
    ) -> Handled {
        Ok(Reply::unhandled())
    }

    /// An event of [`Channel::INTERCEPTS`] was broadcast to the topic. Called for each member that it is for; what
    /// this member's client is to get, this pushes. By default: the same.
    fn handle_out(&mut self, _shared: &mut Self::Shared, event: &str, payload: Payload<'_>, cx: &mut Context<P>) {
        cx.push(event, payload);
    }

    /// A message or timer for this member: see [`Context::send`]. By default: nothing. What arrives after a reload may be of the
    /// code before: names of messages are part of the state.
    fn handle_info(&mut self, _shared: &mut Self::Shared, _name: &str, _payload: Payload<'_>, _cx: &mut Context<P>) {}

    /// A message or timer for the topic: see [`Context::topic_send_after`]. Comes without a member.
    fn handle_topic_info(_shared: &mut Self::Shared, _name: &str, _payload: Payload<'_>, _cx: &mut Context<P>) {}

    /// The member is about to be dropped. Can still push, except where its connection is gone. Not called where the topic
    /// as a whole is taken away: when the server stops, say, or another generation has taken over.
    fn terminate(&mut self, _shared: &mut Self::Shared, _reason: Reason<'_>, _cx: &mut Context<P>) {}

    /// Reads a member that version `from` wrote. By default: as it stands, which lets fields be added with
    /// `#[serde(default)]`, and be removed.
    ///
    /// # Errors
    ///
    /// The topic then stays with the generation that it is in.
    fn migrate(_from: u32, old: Old<'_>) -> Result<Self, MigrateError> {
        old.read()
    }

    /// Reads a topic's state that version `from` wrote. By default: as it stands.
    ///
    /// # Errors
    ///
    /// The topic then stays with the generation that it is in.
    fn migrate_shared(_from: u32, old: Old<'_>) -> Result<Self::Shared, MigrateError> {
        old.read()
    }

    /// The topic and its members have come over from another generation, and are in service again.
    fn restored(_shared: &mut Self::Shared, _cx: &mut Context<P>) {}
}

/// # Panics
///
/// If a `T` has fields without a default.
fn from_nothing<T: DeserializeOwned>() -> T {
    serde_json::from_str("{}").unwrap_or_else(|error| {
        let unit = serde_json::from_str("null");
        unit.unwrap_or_else(|_| {
            let name = std::any::type_name::<T>();
            panic!("{name} cannot be made from nothing ({error}): it needs a `join` of its own")
        })
    })
}

/// State as another generation wrote it: MessagePack with field names.
#[derive(Clone, Copy, Debug)]
pub struct Old<'a> {
    bytes: &'a [u8],
}

impl<'a> Old<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Reads it as a `T`. May be called again with another `T`.
    ///
    /// # Errors
    ///
    /// If it is no such `T`.
    pub fn read<T: DeserializeOwned>(self) -> Result<T, MigrateError> {
        let mut reader = rmp_serde::Deserializer::from_read_ref(self.bytes);
        serde_path_to_error::deserialize(&mut reader).map_err(|error| MigrateError {
            why: match error.path().to_string().as_str() {
                "." => error.into_inner().to_string(),
                path => format!("{path}: {}", error.inner()),
            },
            is_shape: true,
        })
    }
}

/// Has a `C` read a topic's state.
pub(crate) fn read_shared<C: Channel<P>, P: Plugin>(from: u32, old: Old<'_>) -> Result<C::Shared, MigrateError> {
    C::migrate_shared(from, old).map_err(|error| error.advising::<C, P>("migrate_shared", from))
}

/// Has a `C` read a member.
pub(crate) fn read_member<C: Channel<P>, P: Plugin>(from: u32, old: Old<'_>) -> Result<C, MigrateError> {
    C::migrate(from, old).map_err(|error| error.advising::<C, P>("migrate", from))
}

/// State could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrateError {
    why: String,
    /// What was written is of another shape than the type that it was read as.
    is_shape: bool,
}

impl MigrateError {
    /// Says why.
    #[must_use]
    pub fn new(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            is_shape: false,
        }
    }

    /// With what to do about it, for the author of a `C`. `by` is the callback that has read state of version `from`.
    fn advising<C: Channel<P>, P: Plugin>(self, by: &str, from: u32) -> Self {
        let version = C::STATE_VERSION;
        let advice = match self.is_shape {
            false => String::new(),
            true if from == version => format!(
                "; a field that is new needs `#[serde(default)]`, any other shape `STATE_VERSION` = {}, `READS_FROM` = {from} and a \
                 `{by}` that reads the old one",
                version.saturating_add(1)
            ),
            true => format!("; `{by}` has to read what version {from} wrote as a type that has its fields"),
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

/// Stands for the channel of a plugin that only connects: refuses every join.
#[doc(hidden)]
#[derive(Serialize, serde::Deserialize)]
pub struct NoChannel;

impl<P: Plugin> Channel<P> for NoChannel {
    type Shared = ();

    fn join(_: &mut (), _: Payload<'_>, _: &mut Context<P>) -> Join<Self> {
        Join::refuse(serde_json::json!({ "reason": "unmatched topic" }))
    }
}
