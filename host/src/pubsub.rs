//! Who gets a broadcast: every I/O thread, once; each then walks its own subscribers.
//!
//! A plugin that intercepts the event gets it instead of its members, as one input per topic. Who intercepts is decided
//! here, once, so that nobody gets a message twice or not at all while code is being replaced.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use bytestring::ByteString;

use crate::id::MemberId;
use crate::io::{Entry, Inbox};
use crate::message::Payload;
use crate::plugin::PluginSlot;

/// One message to all subscribers of a topic.
#[derive(Debug)]
pub struct Broadcast {
    /// The topic.
    pub topic: ByteString,
    /// The event.
    pub event: ByteString,
    /// What it says.
    pub payload: Payload,
    /// Who is left out.
    pub except: Option<MemberId>,
    /// Plugins (by [`PluginSlot::index`]) whose members get it through their `handle_out`.
    pub intercepted_by: Vec<u32>,
}

/// The ways to all I/O threads.
#[derive(Debug)]
pub struct PubSub {
    inboxes: Vec<Arc<Inbox>>,
    interceptors: RwLock<Interceptors>,
}

/// Which plugins may intercept an event, in any of their live generations.
type Interceptors = Arc<HashMap<String, Vec<Arc<PluginSlot>>>>;

impl PubSub {
    /// Over these I/O threads.
    #[must_use]
    pub fn new(inboxes: Vec<Arc<Inbox>>) -> Self {
        Self {
            inboxes,
            interceptors: RwLock::default(),
        }
    }

    /// The inboxes of all I/O threads, in their order.
    #[must_use]
    pub fn inboxes(&self) -> &[Arc<Inbox>] {
        &self.inboxes
    }

    /// Replaces who may intercept what.
    pub fn set_interceptors(&self, interceptors: HashMap<String, Vec<Arc<PluginSlot>>>) {
        *self.interceptors.write().expect("no holder panics") = Arc::new(interceptors);
    }

    /// Sends to the I/O thread that owns `member`.
    pub fn send(&self, member: MemberId, entry: Entry) {
        if let Some(inbox) = self.inboxes.get(member.thread()) {
            inbox.push(entry);
        }
    }

    /// Sends to every I/O thread.
    pub fn send_all(&self, mut entry: impl FnMut() -> Entry) {
        for inbox in &self.inboxes {
            inbox.push(entry());
        }
    }

    /// Publishes to all subscribers of `topic` but `except`.
    pub fn broadcast(&self, topic: ByteString, event: ByteString, payload: Payload, except: Option<MemberId>) {
        let intercepted_by = self.intercept(&topic, &event, &payload, except);
        let broadcast = Arc::new(Broadcast {
            topic,
            event,
            payload,
            except,
            intercepted_by,
        });
        self.send_all(|| Entry::Broadcast(Arc::clone(&broadcast)));
    }

    fn intercept(
        &self,
        topic: &ByteString,
        event: &ByteString,
        payload: &Payload,
        except: Option<MemberId>,
    ) -> Vec<u32> {
        let interceptors = Arc::clone(&self.interceptors.read().expect("no holder panics"));
        let Some(slots) = interceptors.get(&**event) else {
            return Vec::new();
        };
        slots
            .iter()
            .filter(|slot| {
                slot.find(topic)
                    .is_some_and(|found| found.intercept(event, payload, except))
            })
            .map(|slot| slot.index)
            .collect()
    }
}
