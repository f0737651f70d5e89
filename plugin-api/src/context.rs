//! What a callback can see and do: [`Context`]. This file has what it can see; the files below have what it can do.

mod answers;
mod effects;
mod outgoing;
mod presence;
mod spans;
#[cfg(feature = "async")]
mod tasks;
mod timers;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use self::presence::{Presence, Presences};
pub use self::spans::Span;
pub use self::timers::Timer;
use crate::abi::effect;
use crate::glue::{Calls, Effect, Generation};
use crate::log;
use crate::payload::read_json;
use crate::plugin::NoSettings;
use crate::remote::Remote;
use crate::reply::{Refusal, Stop};
use crate::wire::MemberInfo;

/// What a callback of a channel can see and do.
///
/// "The member" is the one whose callback runs. A callback of the topic has no member: there, functions that need one only write
/// an error to the log. Effects take place when the callback returns, in the order of the calls; if it panics, none does. Only the
/// functions of [`Remote`] act at once.
///
/// A context belongs to its shard's thread and to one callback; other threads use a [`Remote`]. The host refuses an effect, and
/// logs why, if its payload is not JSON, or not an object although clients get one; if an event has more than
/// `max_effects_per_event` (default 10,000) effects or `max_effect_bytes_per_event` (64 MiB). An effect on a member that is gone
/// does nothing.
pub struct Context<P = NoSettings> {
    pub(crate) generation: Arc<Generation<P>>,
    /// Present while the host is in `handle`.
    pub(crate) calls: Option<Calls>,
    pub(crate) topic: u64,
    pub(crate) name: Rc<str>,
    /// 0 in a callback of the topic.
    pub(crate) member: u64,
    pub(crate) info: Option<Rc<MemberInfo>>,
    /// Whether [`Context::later`] promises a reply (or, otherwise, an answer to the plugin).
    pub(crate) replies: bool,
    pub(crate) promised: Cell<bool>,
    /// The callback is [`Channel::closing`](crate::Channel::closing): a stop waits for the async work that it starts.
    pub(crate) last_word: bool,
    /// Sent at the end of the event, so that the reply goes out before the channel ends.
    stops: Cell<Vec<(u64, Stop)>>,
    scratch: Cell<Vec<u8>>,
}

/// Names a member of a topic. It is the same in all generations and never used again, so it can be kept in state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemberId(pub(crate) u64);

impl<P> Context<P> {
    pub(crate) fn new(generation: Arc<Generation<P>>) -> Self {
        Self {
            generation,
            calls: None,
            topic: 0,
            name: "".into(),
            member: 0,
            info: None,
            replies: false,
            promised: Cell::new(false),
            last_word: false,
            stops: Cell::default(),
            scratch: Cell::default(),
        }
    }

    /// Gets ready for a callback about this topic and this member (0: none).
    pub(crate) fn enter(&mut self, topic: u64, name: &Rc<str>, member: u64, info: Option<Rc<MemberInfo>>) {
        log::enter(topic, member);
        self.topic = topic;
        self.name = Rc::clone(name);
        self.member = member;
        self.info = info;
        self.replies = false;
        self.promised.set(false);
        self.last_word = false;
        self.forget_stops();
    }

    /// The plugin's own value: its settings, or what [`Plugin::init`](crate::Plugin::init) made from them. All shards share it.
    #[must_use]
    pub fn plugin(&self) -> &P {
        &self.generation.plugin
    }

    /// The topic's name.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.name
    }

    /// The member, or `None` in a callback of the topic.
    #[must_use]
    pub fn member(&self) -> Option<MemberId> {
        (self.member != 0).then_some(MemberId(self.member))
    }

    /// The socket id of the member's connection: from the connect handler, or from `socket_id` of `[mounts.auth]`.
    #[must_use]
    pub fn socket_id(&self) -> Option<&str> {
        self.info.as_ref()?.socket_id.as_deref()
    }

    /// The assigns that the connect handler gave to the member's connection; an empty object if it gave none.
    ///
    /// # Errors
    ///
    /// If they are not a `T`.
    pub fn socket_assigns<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        assigns(self.info.as_ref().and_then(|info| info.socket.as_deref()), "socket")
    }

    /// The claims of the token that the member's client has shown, if its mount has `[mounts.auth]`; otherwise an empty object.
    /// After the client has shown a newer token, they are the claims of that one.
    ///
    /// ```
    /// # use bennu_plugin::prelude::*;
    /// #[derive(Deserialize)]
    /// struct Claims { sub: String, #[serde(default)] role: String }
    ///
    /// # fn in_a_callback(cx: &Context) -> Handled {
    /// let Claims { sub, role } = cx.claims()?;
    /// # drop((sub, role)); Ok(Reply::none())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If they are not a `T`.
    pub fn claims<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        let claims = self.info.as_ref().and_then(|info| info.claims.as_deref());
        read_json(claims.map_or("{}", RawValue::get).as_bytes())
            .map_err(|error| Refusal::reason(&format!("invalid claims: {} {}", error.path, error.message)))
    }

    /// The assigns of the member's route, from the configuration; an empty object if it has none.
    ///
    /// # Errors
    ///
    /// If they are not a `T`.
    pub fn route<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        assigns(self.info.as_ref().and_then(|info| info.route.as_deref()), "route")
    }

    /// A handle to the member (in a callback of the topic: to the topic) for any thread.
    #[must_use]
    pub fn remote(&self) -> Remote {
        Remote {
            host: Arc::clone(&self.generation.host),
            topic: self.topic,
            member: self.member,
        }
    }

    /// Ends the topic for good, after this callback: its members end as if they were stopped normally, [`Channel::closing`] runs, and
    /// the topic's state is gone, also where it is stored. A client that joins afterwards finds a new topic.
    ///
    /// [`Channel::closing`]: crate::Channel::closing
    pub fn forget(&self) {
        self.emit(&Effect {
            kind: effect::FORGET,
            ..Effect::default()
        });
    }

    /// Runs `work` on a new thread: blocking work does not belong in a callback. A generation waits for these threads when it
    /// retires, so they must end within the host's `retire_ms`.
    pub fn spawn(&self, work: impl FnOnce(Remote) + Send + 'static) {
        self.generation.threads.spawn(self.remote(), work);
    }
}

fn assigns<T: DeserializeOwned>(json: Option<&RawValue>, of: &str) -> Result<T, Refusal> {
    read_json(json.map_or("{}", RawValue::get).as_bytes()).map_err(|error| {
        Refusal::reason(&format!(
            "invalid assigns of the {of}: {} {}",
            error.path, error.message
        ))
    })
}
