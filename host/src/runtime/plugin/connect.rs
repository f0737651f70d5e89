//! Running a mount's connect handler: on a shard, as an event, with an answer now or later. Its `check_origin` is one more
//! such event, always answered at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bennu_plugin::abi::{effect, error, event};
use bytes::Bytes;
use bytestring::ByteString;
use tokio::sync::oneshot;

use super::effects;
use super::env::Env;
use super::loader::{Calls, Effect, Event, Go, Outcome, ShardInstance};
use super::shard::{Shard, Work};
use super::slot::PluginSlot;
use crate::runtime::pubsub::Arrival;

/// What a connect handler decided.
#[derive(Debug)]
pub(crate) enum Connected {
    /// The client may connect.
    Accepted {
        /// A broadcast of `disconnect` to this topic closes the connection.
        socket_id: Option<ByteString>,
        /// A JSON object, for all its channels.
        assigns: Option<Bytes>,
        /// Where `disconnect` finds it until then.
        arrival: Option<Arrival>,
    },
    /// It may not.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The response's body; may be empty.
        body: Bytes,
        /// It is binary, otherwise JSON.
        binary: bool,
    },
    /// The handler panicked, or answered nothing that makes sense.
    Crashed,
}

/// One call of a connect handler.
#[derive(Debug)]
pub(crate) struct ConnectCall {
    /// What it is asked.
    pub(crate) asked: Asked,
    /// JSON of `wire::ConnectInfo`, or of `wire::OriginInfo`.
    pub(crate) info: Bytes,
    /// Where the handshake waits.
    pub(crate) reply: oneshot::Sender<Connected>,
}

/// What a connect handler is asked.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    /// Whether a page from this origin may connect.
    Origin,
    /// Whether this client may connect.
    Connect,
    /// The same, with the answer to what it promised: the promise's serial, the status and the bytes.
    Answer(u64, ByteString, Bytes),
}

impl Asked {
    /// The callback, as logs name it.
    pub(super) fn callback(&self) -> &'static str {
        match self {
            Self::Origin => "check_origin",
            Self::Connect => "connect",
            Self::Answer(..) => "connect_answer",
        }
    }
}

/// Connects that answer later, by the serial of their promise.
#[derive(Debug, Default)]
pub(crate) struct Connects(Mutex<HashMap<u64, Awaited>>);

/// A promised answer.
#[derive(Debug)]
enum Awaited {
    /// The call that promised it has not returned yet.
    Promised,
    /// The answer was there before the call returned.
    Early(ByteString, Bytes),
    /// The call waits for it.
    Waiting(Arc<PluginSlot>, ConnectCall),
}

impl Connects {
    fn promise(&self, serial: u64) {
        let mut all = self.lock();
        // Handshakes that gave up leave their promise behind: swept whenever the map has doubled.
        if all.len() == all.capacity() {
            all.retain(|_, awaited| !matches!(awaited, Awaited::Waiting(_, call) if call.reply.is_closed()));
        }
        all.insert(serial, Awaited::Promised);
    }

    fn break_promise(&self, serial: u64) {
        self.lock().remove(&serial);
    }

    fn wait(&self, serial: u64, slot: Arc<PluginSlot>, mut call: ConnectCall) {
        let mut all = self.lock();
        if let Some(Awaited::Early(status, payload)) = all.remove(&serial) {
            drop(all);
            call.asked = Asked::Answer(serial, status, payload);
            slot.connect(call);
        } else {
            all.insert(serial, Awaited::Waiting(slot, call));
        }
    }

    /// Goes on with a connect whose answer has come. `false` if nobody waits for it any more.
    pub(crate) fn complete(&self, serial: u64, status: ByteString, payload: Bytes) -> bool {
        let mut all = self.lock();
        match all.remove(&serial) {
            Some(Awaited::Waiting(slot, mut call)) => {
                drop(all);
                call.asked = Asked::Answer(serial, status, payload);
                !call.reply.is_closed() && slot.connect(call)
            }
            Some(Awaited::Promised) => {
                all.insert(serial, Awaited::Early(status, payload));
                true
            }
            Some(Awaited::Early(..)) | None => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Awaited>> {
        self.0.lock().expect("no holder panics")
    }
}

impl ConnectCall {
    /// Tells the handshake, if it still waits.
    pub(super) fn answer(self, answer: Connected) {
        let _ = self.reply.send(answer);
    }

    /// Runs it on this shard.
    pub(super) fn run(self, queue: &Shard, instance: &mut ShardInstance, env: &Env) {
        // The handshake has given up.
        if self.reply.is_closed() {
            return;
        }
        // What is lent to the plugin stays here, whoever answers the call.
        let (asked, info) = (self.asked.clone(), self.info.clone());
        let (kind, token, name, payload) = match &asked {
            Asked::Origin => (event::ORIGIN, 0, "", &b""[..]),
            Asked::Connect => (event::CONNECT, 0, "", &b""[..]),
            Asked::Answer(serial, status, payload) => (event::ANSWER, *serial, &**status, &payload[..]),
        };
        let event = Event {
            kind,
            binary: false,
            topic: 0,
            member: 0,
            token,
            number: 0,
            name,
            payload,
            info: &info,
        };
        let mut decision = Decision {
            env,
            may_promise: kind != event::ORIGIN,
            answer: None,
            later: None,
            outcome: Outcome::Unknown,
            message: String::new(),
        };
        queue.begin(Work::Connect(self));
        if instance.handle(&[event], &mut decision).is_err() {
            decision.break_promise();
            return;
        }
        if let Some(Work::Connect(call)) = queue.end() {
            call.settle(decision);
        }
    }

    fn settle(self, decision: Decision<'_>) {
        let env = decision.env;
        let Decision {
            answer,
            later,
            outcome,
            mut message,
            ..
        } = decision;
        if outcome != Outcome::Ok {
            later.inspect(|serial| env.hub.connects.break_promise(*serial));
            if outcome == Outcome::Unknown && matches!(self.asked, Asked::Origin) {
                message = "it was built with a bennu-plugin that does not know check_origin".to_owned();
            }
            env.panicked("", self.asked.callback(), &message);
            self.answer(Connected::Crashed);
        } else if let Some(serial) = later {
            env.hub.connects.wait(serial, Arc::clone(&env.slot), self);
        } else {
            self.answer(answer.unwrap_or(Connected::Crashed));
        }
    }
}

struct Decision<'a> {
    env: &'a Env,
    may_promise: bool,
    answer: Option<Connected>,
    later: Option<u64>,
    outcome: Outcome,
    message: String,
}

impl Decision<'_> {
    fn break_promise(&self) {
        self.later
            .inspect(|serial| self.env.hub.connects.break_promise(*serial));
    }
}

impl Calls for Decision<'_> {
    fn done(&mut self, _index: usize, outcome: Outcome, message: &str) -> Go {
        (self.outcome, self.message) = (outcome, message.to_owned());
        Go::On
    }

    fn effect(&mut self, effect: &Effect<'_>) -> i64 {
        match self.take(effect) {
            error @ ..0 => self.refuse(effect.kind, error),
            answer => answer,
        }
    }

    fn refuse(&mut self, kind: u32, error: i64) -> i64 {
        self.env.refused_effect(kind, None, None, error);
        error
    }

    fn most_bytes(&self) -> usize {
        self.env.slot.config().max_effect_bytes_per_event
    }

    fn read(&mut self, _what: u32, _key: &str, _out: &mut Vec<u8>) -> i64 {
        error::MISPLACED
    }
}

impl Decision<'_> {
    fn take(&mut self, effect: &Effect<'_>) -> i64 {
        if self.answer.is_some() || self.later.is_some() {
            return error::MISPLACED;
        }
        match effect.kind {
            effect::CONNECT_ACCEPT => {
                let assigns = match effect.payload {
                    b"" => None,
                    text => match effects::json(text) {
                        Ok(json) if json.trim_ascii_start().starts_with(b"{") => Some(json),
                        _ => return error::INVALID,
                    },
                };
                let socket_id = (!effect.name.is_empty()).then(|| ByteString::from(effect.name));
                let arrivals = &self.env.hub.pubsub.arrivals;
                let arrival = socket_id.clone().map(|id| arrivals.announce(id));
                self.answer = Some(Connected::Accepted {
                    socket_id,
                    assigns,
                    arrival,
                });
                0
            }
            effect::CONNECT_REFUSE => match u16::try_from(effect.number) {
                Ok(status @ 400..=599) => {
                    self.answer = Some(Connected::Refused {
                        status,
                        body: Bytes::copy_from_slice(effect.payload),
                        binary: effect.binary,
                    });
                    0
                }
                _ => error::INVALID,
            },
            effect::LATER if self.may_promise => {
                let serial = self.env.hub.number();
                self.env.hub.connects.promise(serial);
                self.later = Some(serial);
                i64::try_from(serial).unwrap_or(error::LIMIT)
            }
            _ => error::MISPLACED,
        }
    }
}
