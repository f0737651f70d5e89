//! Runs a mount's connect handler: on a shard, as an event, with an answer now or later. `check_origin` is another such event,
//! and always answers at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bennu_plugin::abi::{self, effect, error, event};
use bennu_wire::message::reason;
use bytes::Bytes;
use bytestring::ByteString;
use tokio::sync::oneshot;

use super::effects;
use super::env::Env;
use super::handling::{self, Handling};
use super::loader::{Calls, Effect, Event, Go, Outcome, ShardInstance};
use super::shard::{Shard, Work};
use super::slot::PluginSlot;
use crate::runtime::pubsub::Arrival;
use crate::runtime::trace::Traced;

/// What a connect handler decided.
#[derive(Debug)]
pub(crate) enum Connected {
    /// The client may connect.
    Accepted {
        /// A broadcast of `disconnect` to this topic closes the connection.
        socket_id: Option<ByteString>,
        /// A JSON object, for all its channels.
        assigns: Option<Bytes>,
        /// How `disconnect` finds the connection until it is open.
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
    /// The handler panicked, or gave no valid answer.
    Crashed,
    /// No code can answer now, for this reason. The client may try again.
    Unavailable(&'static str),
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
    /// The connect, if it is traced.
    pub(crate) trace: Traced,
}

/// What a connect handler is asked.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    /// Whether a page from this origin may connect.
    Origin,
    /// Whether this client may connect.
    Connect,
    /// The same question, with the late answer that the handler waits for: its promise's serial, the status and the bytes.
    Answer(u64, ByteString, Bytes),
}

impl Asked {
    /// The callback, as logs name it.
    pub(super) fn callback(&self) -> &'static str {
        abi::callback_name(self.kind(), 0, 0)
    }

    /// The kind of the event.
    fn kind(&self) -> u32 {
        match self {
            Self::Origin => event::ORIGIN,
            Self::Connect => event::CONNECT,
            Self::Answer(..) => event::ANSWER,
        }
    }
}

/// Connects that wait for a late answer, by the serial of their promise.
#[derive(Debug, Default)]
pub(crate) struct Connects(Mutex<HashMap<u64, Awaited>>);

/// A promised answer.
#[derive(Debug)]
enum Awaited {
    /// The call that promised it has not returned yet.
    Promised,
    /// The answer was there before the call returned.
    Early(ByteString, Bytes),
    /// A call waits for it.
    Waiting(Waiting),
}

/// A call that waits for an answer.
#[derive(Debug)]
struct Waiting {
    slot: Arc<PluginSlot>,
    /// The generation that owes the answer.
    by: u64,
    call: ConnectCall,
}

impl Connects {
    fn promise(&self, serial: u64) {
        let mut all = self.lock();
        // A handshake that gives up leaves its promise behind. Whenever the map has doubled, those are swept.
        if all.len() == all.capacity() {
            all.retain(|_, awaited| !matches!(awaited, Awaited::Waiting(waiting) if waiting.call.reply.is_closed()));
        }
        all.insert(serial, Awaited::Promised);
    }

    fn break_promise(&self, serial: u64) {
        self.lock().remove(&serial);
    }

    fn wait(&self, serial: u64, waiting: Waiting) {
        let mut all = self.lock();
        if let Some(Awaited::Early(status, payload)) = all.remove(&serial) {
            drop(all);
            waiting.go_on(serial, status, payload);
        } else {
            all.insert(serial, Awaited::Waiting(waiting));
        }
    }

    /// Other code has read the promise, and answers now in the place of the generation that made it.
    pub(super) fn pass_to(&self, serial: u64, by: u64) {
        if let Some(Awaited::Waiting(waiting)) = self.lock().get_mut(&serial) {
            waiting.by = by;
        }
    }

    /// Answers what this generation of the plugin owes: it has ended.
    pub(super) fn retired(&self, slot: &PluginSlot, generation: u64) {
        let owed = |_: &u64, awaited: &mut Awaited| matches!(awaited, Awaited::Waiting(waiting) if waiting.slot.index == slot.index && waiting.by == generation);
        let owed: Vec<_> = self.lock().extract_if(owed).collect();
        for (_, awaited) in owed {
            if let Awaited::Waiting(waiting) = awaited {
                waiting.call.answer(Connected::Unavailable(reason::RELOADED));
            }
        }
    }

    /// Goes on with a connect whose answer has arrived. `false` if no handshake waits for it any more.
    pub(crate) fn complete(&self, serial: u64, status: ByteString, payload: Bytes) -> bool {
        let mut all = self.lock();
        match all.remove(&serial) {
            Some(Awaited::Waiting(waiting)) => {
                drop(all);
                !waiting.call.reply.is_closed() && waiting.go_on(serial, status, payload)
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

impl Waiting {
    /// Has the code in service take the answer. `false` if there is none, or if it has too much to do.
    fn go_on(self, serial: u64, status: ByteString, payload: Bytes) -> bool {
        let Self { slot, mut call, .. } = self;
        call.asked = Asked::Answer(serial, status, payload);
        slot.connect(call)
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
        // The plugin borrows these, so they stay here, even if another thread answers the call.
        let (asked, info) = (self.asked.clone(), self.info.clone());
        let kind = asked.kind();
        let (token, name, payload) = match &asked {
            Asked::Origin | Asked::Connect => (0, "", &b""[..]),
            Asked::Answer(serial, status, payload) => (*serial, &**status, &payload[..]),
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
            handling: self
                .trace
                .as_ref()
                .map(|trace| Handling::begin(trace, asked.callback(), env)),
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
            let plugin = &env.slot.name;
            tracing::debug!(plugin, generation = env.generation, "connect waits for a late answer");
            let waiting = Waiting {
                slot: Arc::clone(&env.slot),
                by: env.generation,
                call: self,
            };
            env.hub.connects.wait(serial, waiting);
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
    /// The callback, if the connect is traced.
    handling: Option<Box<Handling>>,
}

impl Decision<'_> {
    fn break_promise(&self) {
        self.later
            .inspect(|serial| self.env.hub.connects.break_promise(*serial));
    }
}

impl Calls for Decision<'_> {
    fn done(&mut self, _index: usize, outcome: Outcome, message: &str) -> Go {
        if let Some(handling) = self.handling.take() {
            handling.end(outcome);
        }
        (self.outcome, self.message) = (outcome, message.to_owned());
        Go::On
    }

    fn effect(&mut self, effect: &Effect<'_>) -> i64 {
        if let Some(answer) = handling::span(&mut self.handling, effect) {
            return answer;
        }
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
