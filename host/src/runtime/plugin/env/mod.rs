//! What a shard works with: the host, its plugin and its generation. Notes the plugin's faults.

mod clients;

use std::ops::RangeInclusive;
use std::sync::Arc;

use bennu_plugin::abi::{ABI_MAJOR, effect, error};
use bennu_plugin::refused_effect;
use bennu_wire::message::Payload;
use bytestring::ByteString;

use super::durable::{Act, Held};
use super::health::Health;
use super::hub::Hub;
use super::journal::Panic;
use super::loader::{Effect, said};
use super::manifest::Manifest;
use super::routes::Place;
use super::slot::{JoinRefused, PluginSlot};
use crate::runtime::channel::{Input, Refused, Topic};
use crate::runtime::client_lines::{Source, client_line};

/// Why a topic takes no more messages.
const FULL: &str = "max_mailbox_messages or max_mailbox_message_bytes is reached";

/// What a shard works with.
#[derive(Clone, Debug)]
pub(crate) struct Env {
    /// The rest of the host.
    pub(crate) hub: Arc<Hub>,
    /// The plugin it serves.
    pub(crate) slot: Arc<PluginSlot>,
    /// The number of its generation.
    pub(crate) generation: u64,
    /// How its generation fares.
    pub(crate) health: Arc<Health>,
    /// What its generation's code can do.
    pub(crate) code: Arc<Code>,
    /// Holds back what others would see, until the state that it follows from is stored. `None`: nothing is held back.
    pub(crate) held: Option<Arc<Held>>,
}

/// What the code of a generation can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Code {
    /// The version of the state that it writes.
    pub(crate) state_version: u32,
    /// The versions that it reads.
    pub(crate) reads: RangeInclusive<u32>,
    /// It knows that a topic is about to leave memory.
    pub(crate) closes: bool,
}

impl Code {
    /// That of a library with this manifest.
    #[must_use]
    pub(crate) fn of(manifest: &Manifest) -> Self {
        Self {
            state_version: manifest.state_version,
            reads: manifest.reads.clone(),
            closes: manifest.abi >= (ABI_MAJOR, 6),
        }
    }
}

impl Env {
    /// What refuses clients when no code is in service.
    pub(super) fn without_code(slot: &Arc<PluginSlot>, hub: &Arc<Hub>) -> Self {
        Self {
            hub: Arc::clone(hub),
            slot: Arc::clone(slot),
            generation: 0,
            health: Arc::new(Health::default()),
            code: Arc::new(Code {
                state_version: 0,
                reads: 0..=0,
                closes: false,
            }),
            held: None,
        }
    }

    /// Notes that a callback panicked: counts it, keeps it in the journal, and logs it.
    pub(crate) fn panicked(&self, topic: &str, callback: &'static str, message: &str) {
        self.panicked_at(topic, callback, "", message);
    }

    /// The same for a callback that was called for an event or message of this name.
    pub(crate) fn panicked_at(&self, topic: &str, callback: &'static str, event: &str, message: &str) {
        self.note_panic(topic, callback, event, message);
        self.slot.stats.panics.inc();
        let message = &*said(message);
        client_line!(
            ERROR,
            self.hub.client_lines,
            "panic",
            Source::Plugin(self.slot.name.as_str().into()),
            plugin = self.slot.name,
            topic,
            callback,
            message,
            "plugin panicked"
        );
        // Last, because this wakes a thread that reads all of the above.
        self.health.panicked();
    }

    /// Notes that a thread of the plugin's own panicked, which ends no callback. The kit logs it.
    pub(crate) fn thread_panicked(&self, message: &str) {
        self.note_panic("", "on a thread of its own", "", message);
        self.health.noted();
    }

    fn note_panic(&self, topic: &str, callback: &'static str, event: &str, message: &str) {
        self.slot.journal.panicked(Panic {
            generation: self.generation,
            callback,
            event: said(event).into_owned(),
            topic: said(topic).into_owned(),
            message: said(message).into_owned(),
            count: 1,
            at_unix_s: 0,
        });
    }

    /// Sends a message to another topic. What nobody gets is counted, and logged unless that topic has only ended.
    pub(super) fn send_to(&self, name: &ByteString, message: ByteString, payload: Payload) {
        if let Some(held) = &self.held {
            return held.keep(Act::SendTo {
                topic: name.clone(),
                name: message,
                payload,
            });
        }
        let Self { hub, slot, .. } = self;
        if let Some(homes) = hub.homes().filter(|homes| !homes.is_here(name)) {
            return homes.send_to(name.clone(), message, payload);
        }
        let event = message.clone();
        let (topic, error, why) = match hub.routes().place(name) {
            // It may be stored.
            Some(Place::Alive(other, _) | Place::Absent(other)) if other.durable().is_some() => {
                let (number, input) = (|| hub.number(), Input::info(message, payload));
                match other.enter(name, number, input) {
                    Ok(_) => return,
                    Err(JoinRefused::Unavailable | JoinRefused::NoNode) => (None, error::GONE, ""),
                    Err(JoinRefused::Overloaded) => (other.find(name), error::LIMIT, FULL),
                }
            }
            Some(Place::Alive(_, topic)) => match topic.push(Input::info(message, payload)) {
                Ok(()) => return,
                Err(Refused::Overloaded) => (Some(topic), error::LIMIT, FULL),
                Err(Refused::Closed) => (None, error::GONE, ""),
            },
            Some(Place::Absent(_)) => (None, error::GONE, ""),
            None => (None, error::MISPLACED, "no route leads there"),
        };
        hub.metrics.undelivered.inc();
        if refused_effect::is_usual(error) {
            tracing::debug!(
                plugin = slot.name,
                topic = &**name,
                "a message to a topic that does not exist"
            );
        } else {
            let (what, why) = (refused_effect::word(effect::SEND_TO), || {
                format!("topic `{}`: {why}", said(name))
            });
            slot.refused_effects
                .note(&slot.name, what, topic.as_deref(), &event, (error, why));
        }
    }

    /// Notes that the host refuses `what`, which the plugin asked for with this event: counts it, and logs it unless that is
    /// usual.
    pub(super) fn refused(
        &self,
        what: &'static str,
        topic: Option<&Topic>,
        event: &str,
        (error, why): (i64, impl FnOnce() -> String),
    ) {
        self.slot.stats.refused_effects.inc();
        self.health.erred();
        if !refused_effect::is_usual(error) {
            let Self { slot, .. } = self;
            slot.refused_effects.note(&slot.name, what, topic, event, (error, why));
        }
    }

    /// The same for an effect of a callback, as far as the host could read it.
    pub(super) fn refused_effect(&self, kind: u32, topic: Option<&Topic>, effect: Option<&Effect<'_>>, error: i64) {
        let event = effect.map_or("", |effect| effect.name);
        let of = effect.map_or("", |effect| effect.topic);
        let len = match of {
            "" => topic.map_or(0, |topic| topic.name.len()),
            other => other.len(),
        };
        let why = || refused_effect::why(kind, error, event.len(), len);
        self.refused(refused_effect::word(kind), topic, event, (error, why));
    }
}
