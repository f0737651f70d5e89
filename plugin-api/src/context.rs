//! What a callback can do: [`Context`].

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::abi::{effect, error, flag, read, reason};
use crate::glue::{Calls, Effect, Generation, flags_of};
use crate::payload::{IntoPayload, read_json};
use crate::plugin::NoSettings;
use crate::remote::{Later, Level, Remote};
use crate::reply::{Refusal, Stop};
use crate::wire::MemberInfo;

/// What a callback of a channel can see and do.
///
/// In a callback of a member, "the member" is that one; in a callback of the topic there is none, and what needs one does
/// nothing but write a line to the log. What is asked for takes effect when the callback returns, in this order, and not
/// at all if it panics. Only the functions of [`Remote`] act at once.
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

/// Names a timer, for [`Context::cancel`]. May be kept in state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Timer(u64);

/// Who is present: what is tracked, by key.
pub type Presences = BTreeMap<String, Presence>;

/// All that is tracked under one key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Presence {
    /// One for each member that tracks the key, the oldest first, with its `phx_ref` in it.
    pub metas: Vec<serde_json::Value>,
    /// What stands beside them: see [`Context::describe`].
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

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

    /// Pushes `event` to the member's client.
    pub fn push(&self, event: &str, payload: impl IntoPayload) {
        self.push_to(MemberId(self.member), event, payload);
    }

    /// Pushes `event` to the client of another member of the topic. Nothing happens if it is gone.
    pub fn push_to(&self, member: MemberId, event: &str, payload: impl IntoPayload) {
        self.ask(
            Effect {
                kind: effect::PUSH,
                member: member.0,
                name: event.as_bytes(),
                ..Effect::default()
            },
            payload,
        );
    }

    /// Sends `event` to every client on the topic.
    pub fn broadcast(&self, event: &str, payload: impl IntoPayload) {
        self.ask(
            Effect {
                kind: effect::BROADCAST,
                name: event.as_bytes(),
                ..Effect::default()
            },
            payload,
        );
    }

    /// Sends `event` to every client on the topic but the member's.
    pub fn broadcast_from(&self, event: &str, payload: impl IntoPayload) {
        let member = self.member;
        self.ask(
            Effect {
                kind: effect::BROADCAST,
                member,
                name: event.as_bytes(),
                ..Effect::default()
            },
            payload,
        );
    }

    /// Sends `event` to every client on another topic, whichever plugin serves it.
    pub fn broadcast_to(&self, topic: &str, event: &str, payload: impl IntoPayload) {
        self.ask(
            Effect {
                kind: effect::BROADCAST,
                topic,
                name: event.as_bytes(),
                ..Effect::default()
            },
            payload,
        );
    }

    /// Closes every connection with this socket id.
    pub fn disconnect(&self, socket_id: &str) {
        self.broadcast_to(socket_id, "disconnect", serde_json::Map::new());
    }

    /// Tracks the member under `key` on its own topic, with `meta`, a JSON object, until it untracks or its channel ends.
    /// In a join, `presence_state` follows the reply; everyone on the topic gets `presence_diff`. Returns whether it was
    /// not tracked under this key already. A callback of the topic has nobody to track: that is an error in the log.
    pub fn track(&self, key: &str, meta: impl IntoPayload) -> bool {
        self.presence_effect(effect::TRACK, key, meta)
    }

    /// Replaces what is tracked for the member under `key`. Returns whether it was tracked.
    pub fn update(&self, key: &str, meta: impl IntoPayload) -> bool {
        self.presence_effect(effect::UPDATE, key, meta)
    }

    /// Ends the member's tracking under `key`. Returns whether it was tracked.
    pub fn untrack(&self, key: &str) -> bool {
        let effect = Effect {
            kind: effect::UNTRACK,
            member: self.member,
            name: key.as_bytes(),
            ..Effect::default()
        };
        self.emit(&effect) >= 0
    }

    /// Sends the keys of `extra`, a JSON object, beside the `metas` of `key` in states and diffs from now on, until nobody
    /// is tracked under it: what all devices of one user have in common, say. Announces nothing by itself. Returns
    /// whether anybody is tracked under `key`. `metas` is no key of it.
    #[doc(alias = "fetch")]
    pub fn describe(&self, key: &str, extra: impl IntoPayload) -> bool {
        let effect = Effect {
            kind: effect::DESCRIBE,
            name: key.as_bytes(),
            ..Effect::default()
        };
        self.ask(effect, extra) >= 0
    }

    /// Who is present on the topic, with what this event has changed. Read anew at each call.
    #[must_use]
    #[doc(alias = "list")]
    pub fn presences(&self) -> Presences {
        self.read_presence(read::PRESENCE, "").unwrap_or_default()
    }

    /// What is tracked on the topic under `key`, by whichever members, with what this event has changed.
    #[must_use]
    #[doc(alias = "get_by_key")]
    pub fn presence(&self, key: &str) -> Option<Presence> {
        self.read_presence(read::PRESENCE_KEY, key)
    }

    /// Reads presence; `None` where nobody is tracked. What else fails is logged.
    fn read_presence<T: DeserializeOwned>(&self, what: u32, key: &str) -> Option<T> {
        let read = self.calls.map_or(Err(error::GONE), |calls| calls.read(what, key));
        let found = match read {
            Ok(json) => read_json(&json).map_err(|error| error.message),
            Err(error::UNTRACKED) => return None,
            Err(error) => Err(refusal_text(error)),
        };
        found
            .inspect_err(|error| self.log(Level::Error, &format!("presence could not be read: {error}")))
            .ok()
    }

    /// Pushes `presence_state` to the member's client. [`Context::track`] does so by itself; this is for members that
    /// watch without being tracked.
    pub fn push_presence(&self) {
        self.emit(&Effect {
            kind: effect::PRESENCE,
            member: self.member,
            ..Effect::default()
        });
    }

    /// Sends the message `name` to the member (in a callback of the topic: to the topic), after this event and what
    /// already waits. Arrives in `handle_info` or `handle_topic_info`.
    pub fn send(&self, name: &str, payload: impl IntoPayload) {
        self.send_after(Duration::ZERO, name, payload);
    }

    /// Does [`Context::send`] after `delay`, to the millisecond. Survives a reload.
    pub fn send_after(&self, delay: Duration, name: &str, payload: impl IntoPayload) -> Timer {
        self.timer(self.member, delay, name, payload)
    }

    /// Sends the message `name` to the topic after `delay`. Arrives in `handle_topic_info`, whether or not the member
    /// is still there. Survives a reload.
    pub fn topic_send_after(&self, delay: Duration, name: &str, payload: impl IntoPayload) -> Timer {
        self.timer(0, delay, name, payload)
    }

    /// Stops a timer. Nothing happens if it has fired.
    pub fn cancel(&self, timer: Timer) {
        self.emit(&Effect {
            kind: effect::CANCEL,
            number: timer.0,
            ..Effect::default()
        });
    }

    /// Promises to answer the join or the event at hand later: return [`Join::later`](crate::JoinExt::later) or
    /// [`Reply::none`](crate::Reply::none), and give the promise to [`Context::complete`] or [`Remote::complete`].
    pub fn later(&self) -> Later {
        let serial = self.emit(&Effect {
            kind: effect::LATER,
            member: self.member,
            ..Effect::default()
        });
        self.promised.set(true);
        Later {
            topic: self.topic,
            serial: serial.try_into().unwrap_or(0),
            reply: self.replies,
        }
    }

    /// Keeps a promise, as [`Remote::complete`] does; a reply within the same topic takes effect with the callback.
    pub fn complete(&self, later: Later, status: &str, payload: impl IntoPayload) {
        if !later.reply || later.topic != self.topic {
            self.remote().complete(later, status, payload);
            return;
        }
        let name = status.as_bytes();
        self.ask(
            Effect {
                kind: effect::REPLY,
                token: later.serial,
                name,
                ..Effect::default()
            },
            payload,
        );
    }

    /// Ends the member's channel when the callback has returned, its reply included.
    pub fn stop(&self, why: Stop) {
        self.stop_member(MemberId(self.member), why);
    }

    /// Ends the channel of another member of the topic when the callback has returned.
    pub fn stop_member(&self, member: MemberId, why: Stop) {
        let mut stops = self.stops.take();
        stops.push((member.0, why));
        self.stops.set(stops);
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

    /// Writes a line to the host's log, which adds the plugin's name.
    pub fn log(&self, level: Level, message: &str) {
        self.generation.host.log(level as u32, message);
    }

    /// Asks for an effect byte by byte, for plugins that test the host.
    #[doc(hidden)]
    pub fn raw_effect(&self, kind: u32, binary: bool, name: &[u8], payload: &[u8]) -> i64 {
        let flags = if binary { flag::BINARY } else { 0 };
        self.emit(&Effect {
            kind,
            flags,
            member: self.member,
            name,
            payload,
            ..Effect::default()
        })
    }

    /// The same, about another topic.
    #[doc(hidden)]
    pub fn raw_effect_on(&self, topic: &str, kind: u32, name: &[u8], payload: &[u8]) -> i64 {
        self.emit(&Effect {
            kind,
            topic,
            member: self.member,
            name,
            payload,
            ..Effect::default()
        })
    }

    fn timer(&self, member: u64, delay: Duration, name: &str, payload: impl IntoPayload) -> Timer {
        let number = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let effect = Effect {
            kind: effect::SEND,
            member,
            number,
            name: name.as_bytes(),
            ..Effect::default()
        };
        Timer(self.ask(effect, payload).try_into().unwrap_or(0))
    }

    fn presence_effect(&self, kind: u32, key: &str, meta: impl IntoPayload) -> bool {
        if self.member == 0 {
            self.log(
                Level::Error,
                &format!(
                    "topic {}: `{key}` is not tracked: only a member can be, on its own topic",
                    self.topic()
                ),
            );
            return false;
        }
        self.ask(
            Effect {
                kind,
                member: self.member,
                name: key.as_bytes(),
                ..Effect::default()
            },
            meta,
        ) >= 0
    }

    /// Asks for `effect` with `payload`.
    pub(crate) fn ask(&self, effect: Effect<'_>, payload: impl IntoPayload) -> i64 {
        let mut scratch = self.scratch.take();
        let payload = payload.lend(&mut scratch);
        let answer = self.emit(&Effect {
            flags: flags_of(payload),
            payload: payload.bytes(),
            ..effect
        });
        // One large payload must not be kept for ever.
        scratch.clear();
        scratch.shrink_to(16 * 1024);
        self.scratch.set(scratch);
        answer
    }

    /// Asks for `effect`. What the plugin cannot have meant is logged.
    pub(crate) fn emit(&self, effect: &Effect<'_>) -> i64 {
        let answer = self.calls.map_or(error::GONE, |calls| calls.effect(effect));
        if !matches!(answer, 0..|error::TRACKED| error::UNTRACKED | error::GONE) {
            let (kind, name) = (effect.kind, String::from_utf8_lossy(effect.name));
            let presence = matches!(
                effect.kind,
                effect::TRACK | effect::UPDATE | effect::UNTRACK | effect::DESCRIBE
            );
            let why = match answer {
                error::FIELD => self.long_field(effect),
                error::MISPLACED if presence => "presence of another topic cannot be changed".to_owned(),
                _ => refusal_text(answer),
            };
            self.log(
                Level::Warn,
                &format!("topic {}: effect {kind} `{name}` refused: {why}", self.topic()),
            );
        }
        answer
    }

    /// Which field of a binary message is too long for its header.
    fn long_field(&self, effect: &Effect<'_>) -> String {
        let topic = if effect.topic.is_empty() {
            self.topic()
        } else {
            effect.topic
        };
        let (field, len) = match effect.kind {
            _ if topic.len() > 255 => ("topic", topic.len()),
            effect::REPLY => ("status", effect.name.len()),
            _ => ("event", effect.name.len()),
        };
        format!("its {field} has {len} bytes, a binary message has room for 255")
    }

    /// Tells the host who stops. Comes last in an event.
    pub(crate) fn emit_stops(&self) {
        for (member, why) in self.stops.take() {
            let (number, text) = match &why {
                Stop::Normal => (reason::NORMAL, ""),
                Stop::Shutdown => (reason::SHUTDOWN, ""),
                Stop::Other(text) => (reason::OTHER, text.as_str()),
            };
            self.emit_stop(member, number, text);
        }
    }

    pub(crate) fn emit_stop(&self, member: u64, why: u32, text: &str) {
        let (number, name) = (why.into(), text.as_bytes());
        self.emit(&Effect {
            kind: effect::STOP,
            member,
            number,
            name,
            ..Effect::default()
        });
    }

    /// Forgets what a callback that panicked had asked for at the end.
    pub(crate) fn forget_stops(&self) {
        self.stops.take();
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

fn refusal_text(error: i64) -> String {
    match error {
        error::UNKNOWN => "this host does not know it".to_owned(),
        error::INVALID => "not UTF-8, not JSON, no object where one is needed, or too long".to_owned(),
        error::LIMIT => "a bound of the host is reached".to_owned(),
        error::MISPLACED => "not at this point".to_owned(),
        other => format!("error {other}"),
    }
}
