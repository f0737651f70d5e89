//! What a shard works with: the host, its plugin and its generation. Notes the plugin's faults.

mod clients;

use std::sync::Arc;

use bennu_plugin::abi::{effect, error};
use bennu_plugin::refused_effect;
use bennu_wire::message::Payload;
use bytestring::ByteString;

use super::health::Health;
use super::hub::Hub;
use super::journal::Panic;
use super::loader::{Effect, said};
use super::routes::Place;
use super::slot::PluginSlot;
use crate::runtime::channel::{Input, Refused, Topic};
use crate::runtime::client_lines::{Source, client_line};

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
}

impl Env {
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
        let Self { hub, slot, .. } = self;
        let event = message.clone();
        let (topic, error, why) = match hub.routes().place(name) {
            Some(Place::Alive(_, topic)) => {
                let pushed = topic.push(Input::Info {
                    member: None,
                    name: message,
                    payload,
                    timer: None,
                });
                let full = "max_mailbox_messages or max_mailbox_message_bytes is reached";
                match pushed {
                    Ok(()) => return,
                    Err(Refused::Overloaded) => (Some(topic), error::LIMIT, full),
                    Err(Refused::Closed) => (None, error::GONE, ""),
                }
            }
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
