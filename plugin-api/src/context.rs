//! What a callback can do: [`Context`]. Here stands what it can see; what it can ask for stands below, by what it is about.

mod answers;
mod effects;
mod outgoing;
mod presence;
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
pub use self::timers::Timer;
use crate::glue::{Calls, Generation};
use crate::log;
use crate::payload::read_json;
use crate::plugin::NoSettings;
use crate::remote::Remote;
use crate::reply::{Refusal, Stop};
use crate::wire::MemberInfo;

/// What a callback of a channel can see and do.
///
/// In a callback of a member, "the member" is that one; in a callback of the topic there is none, and what needs one does
/// nothing but write a line to the log. What is asked for takes effect when the callback returns, in this order, and not
/// at all if it panics. Only the functions of [`Remote`] act at once.
///
/// Belongs to its shard's thread and to the callback; what other threads need of it is a [`Remote`]. What the host refuses is
/// logged with the reason, and does not happen: a payload that is no JSON, or no object where clients get one, a member that
/// is gone, more than `max_effects_per_event` (10,000) effects or `max_effect_bytes_per_event` (64 MiB) in one event.
pub struct Context<P = NoSettings> {
    pub(crate) generation: Arc<Generation<P>>,
    /// Only while the host is in `handle`.
    pub(crate) calls: Option<Calls>,
    pub(crate) topic: u64,
    pub(crate) name: Rc<str>,
    /// 0: the callback is the topic's.
    pub(crate) member: u64,
    pub(crate) info: Option<Rc<MemberInfo>>,
    /// Whether [`Context::later`] promises a reply (or, otherwise, an answer to the plugin).
    pub(crate) replies: bool,
    pub(crate) promised: Cell<bool>,
    /// Sent at the end of the event, so that a reply goes out before its channel ends.
    stops: Cell<Vec<(u64, Stop)>>,
    scratch: Cell<Vec<u8>>,
}

/// Names a member of a topic. The same in all generations, never used again; may be kept in state.
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
        self.forget_stops();
    }

    /// The plugin's own value: its settings, unless the author made it something else. Shared with all shards.
    #[must_use]
    pub fn plugin(&self) -> &P {
        &self.generation.plugin
    }

    /// The topic's name.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.name
    }

    /// The member; `None` in a callback of the topic.
    #[must_use]
    pub fn member(&self) -> Option<MemberId> {
        (self.member != 0).then_some(MemberId(self.member))
    }

    /// The socket id that the connect handler gave to the member's connection.
    #[must_use]
    pub fn socket_id(&self) -> Option<&str> {
        self.info.as_ref()?.socket_id.as_deref()
    }

    /// The assigns that the connect handler gave to the member's connection; an empty object if none.
    ///
    /// # Errors
    ///
    /// If they are no such `T`.
    pub fn socket_assigns<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        assigns(self.info.as_ref().and_then(|info| info.socket.as_deref()), "socket")
    }

    /// The assigns of the member's route, from the configuration; an empty object if none.
    ///
    /// # Errors
    ///
    /// If they are no such `T`.
    pub fn route<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        assigns(self.info.as_ref().and_then(|info| info.route.as_deref()), "route")
    }

    /// Reaches the member (in a callback of the topic: the topic), and the host, from any thread.
    #[must_use]
    pub fn remote(&self) -> Remote {
        Remote {
            host: Arc::clone(&self.generation.host),
            topic: self.topic,
            member: self.member,
        }
    }

    /// Runs `work` on a thread of its own: what blocks does not belong in a callback. The generation waits for these
    /// threads before it goes, so they must end by themselves within the host's `retire_ms`.
    pub fn spawn(&self, work: impl FnOnce(Remote) + Send + 'static) {
        self.generation.threads.spawn(self.remote(), work);
    }
}

fn assigns<T: DeserializeOwned>(json: Option<&RawValue>, of: &str) -> Result<T, Refusal> {
    read_json(json.map_or("{}", RawValue::get).as_bytes()).map_err(|error| {
        Refusal::reason(&format!(
            "assigns of the {of} do not fit: {} {}",
            error.path, error.message
        ))
    })
}
