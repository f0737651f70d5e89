//! Who gets a broadcast: every I/O thread, once; each then walks its own subscribers.
//!
//! A plugin that intercepts the event gets it instead of its members, as one input per topic. Who intercepts is decided
//! here, once, so that nobody gets a message twice or not at all while code is being replaced.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use bytestring::ByteString;

use crate::id::MemberId;
use crate::io::{Entry, Inbox};
use crate::message::{self, Payload};
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
    /// Clients on their way in.
    pub arrivals: Arrivals,
}

/// Clients that may connect and are not on their I/O thread yet, by socket id: a `disconnect` reaches them here.
#[derive(Clone, Debug, Default)]
pub struct Arrivals(Arc<Mutex<HashMap<ByteString, Vec<Arc<AtomicBool>>>>>);

/// One of them, from the word of the connect handler until its I/O thread knows its socket id.
#[derive(Debug)]
pub struct Arrival {
    socket_id: ByteString,
    disconnected: Arc<AtomicBool>,
    arrivals: Arrivals,
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
            arrivals: Arrivals::default(),
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
        if &*event == message::event::DISCONNECT {
            // Before it is sent: whoever arrives later than this is found by the entry in its thread's inbox.
            self.arrivals.disconnect(&topic);
        }
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

impl Arrivals {
    /// A client with this socket id may connect.
    #[must_use]
    pub fn announce(&self, socket_id: ByteString) -> Arrival {
        let disconnected = Arc::new(AtomicBool::new(false));
        self.lock()
            .entry(socket_id.clone())
            .or_default()
            .push(Arc::clone(&disconnected));
        Arrival {
            socket_id,
            disconnected,
            arrivals: self.clone(),
        }
    }

    fn disconnect(&self, socket_id: &str) {
        for disconnected in self.lock().get(socket_id).into_iter().flatten() {
            disconnected.store(true, Ordering::Release);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ByteString, Vec<Arc<AtomicBool>>>> {
        self.0.lock().expect("no holder of the arrivals panics")
    }
}

impl Arrival {
    /// Whether its socket id was told to disconnect since.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        self.disconnected.load(Ordering::Acquire)
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let mut all = self.arrivals.lock();
        if let Some(known) = all.get_mut(&self.socket_id) {
            known.retain(|known| !Arc::ptr_eq(known, &self.disconnected));
            if known.is_empty() {
                all.remove(&self.socket_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_on_the_way_in_hears_of_a_disconnect_of_its_own_id() {
        let arrivals = Arrivals::default();
        let (one, two) = (arrivals.announce("ann".into()), arrivals.announce("ann".into()));
        let other = arrivals.announce("bob".into());
        arrivals.disconnect("ann");
        assert!(one.is_disconnected() && two.is_disconnected() && !other.is_disconnected());
        let late = arrivals.announce("ann".into());
        assert!(!late.is_disconnected());
        drop((one, two, other, late));
        assert!(arrivals.lock().is_empty());
    }
}
