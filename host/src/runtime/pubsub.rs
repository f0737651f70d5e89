//! Broadcasts go to every outlet once; each outlet then walks its own subscribers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bennu_wire::message;
use bytestring::ByteString;

use crate::runtime::delivery::{Broadcast, Delivery, Outlet};
use crate::runtime::id::MemberId;
use crate::runtime::refused_ids::RefusedIds;

/// The ways to all clients.
#[derive(Debug)]
pub(crate) struct PubSub {
    outlets: Vec<Box<dyn Outlet>>,
    /// How many of them are I/O threads of this host. One more may lead to all other nodes.
    #[cfg_attr(
        not(feature = "cluster"),
        allow(dead_code, reason = "a build without clusters has no other node")
    )]
    threads: usize,
    /// Clients that are about to connect.
    pub(crate) arrivals: Arrivals,
    /// Socket ids that may not connect for a while.
    pub(crate) refused: RefusedIds,
}

/// Clients that may connect and are not on their I/O thread yet, by socket id. A `disconnect` finds them here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrivals(Arc<Mutex<HashMap<ByteString, Vec<Arc<AtomicBool>>>>>);

/// One of them, from the answer of the connect handler until its I/O thread knows its socket id.
#[derive(Debug)]
pub(crate) struct Arrival {
    socket_id: ByteString,
    disconnected: Arc<AtomicBool>,
    arrivals: Arrivals,
}

impl PubSub {
    /// Broadcasts to these outlets, which are in the order of I/O threads in member numbers.
    #[must_use]
    pub(crate) fn new(outlets: Vec<Box<dyn Outlet>>) -> Self {
        Self {
            threads: outlets.len(),
            outlets,
            arrivals: Arrivals::default(),
            refused: RefusedIds::default(),
        }
    }

    /// Sends what is for members of other nodes there.
    #[cfg(feature = "cluster")]
    #[must_use]
    pub(crate) fn with_nodes(mut self, nodes: Box<dyn Outlet>) -> Self {
        self.outlets.push(nodes);
        self
    }

    /// The outlet of other nodes, as in member numbers.
    #[cfg(feature = "cluster")]
    #[must_use]
    pub(crate) fn nodes(&self) -> u8 {
        // The configuration allows 254 threads at most.
        self.threads as u8
    }

    /// Publishes to the subscribers on this host, as the topic's home does to all.
    #[cfg(feature = "cluster")]
    pub(crate) fn broadcast_here(&self, broadcast: Broadcast) {
        self.broadcast_to(broadcast, self.threads);
    }

    /// Sends to the client of `member`.
    pub(crate) fn send(&self, member: MemberId, delivery: Delivery) {
        if let Some(outlet) = self.outlets.get(member.thread()) {
            outlet.deliver(delivery);
        }
    }

    /// Publishes to all subscribers of its topic, except those that it names.
    pub(crate) fn broadcast(&self, broadcast: Broadcast) {
        self.broadcast_to(broadcast, self.outlets.len());
    }

    fn broadcast_to(&self, broadcast: Broadcast, outlets: usize) {
        if &*broadcast.event == message::event::DISCONNECT {
            // Before it is sent: the delivery in the inbox of its thread finds each client that arrives later than this.
            let arriving = self.arrivals.disconnect(&broadcast.topic);
            if let Some(reach) = &broadcast.reach {
                reach.add(arriving);
            }
        }
        let broadcast = Arc::new(broadcast);
        for outlet in &self.outlets[..outlets] {
            outlet.deliver(Delivery::Broadcast(Arc::clone(&broadcast)));
        }
    }

    /// Wakes all outlets at once, if a sender has put that off.
    pub(crate) fn hurry(&self) {
        self.outlets.iter().for_each(|outlet| outlet.hurry());
    }
}

impl Arrivals {
    /// A client with this socket id may connect.
    #[must_use]
    pub(crate) fn announce(&self, socket_id: ByteString) -> Arrival {
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

    /// How many there were that nobody has disconnected before.
    fn disconnect(&self, socket_id: &str) -> usize {
        let all = self.lock();
        let arriving = all.get(socket_id).into_iter().flatten();
        { arriving }
            .filter(|disconnected| !disconnected.swap(true, Ordering::AcqRel))
            .count()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ByteString, Vec<Arc<AtomicBool>>>> {
        self.0.lock().expect("no holder of the arrivals panics")
    }
}

impl Arrival {
    /// Whether its socket id has been disconnected since.
    #[must_use]
    pub(crate) fn is_disconnected(&self) -> bool {
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
        assert_eq!(arrivals.disconnect("ann"), 2);
        assert_eq!(arrivals.disconnect("ann"), 0, "they are on their way out");
        assert!(one.is_disconnected() && two.is_disconnected() && !other.is_disconnected());
        let late = arrivals.announce("ann".into());
        assert!(!late.is_disconnected());
        drop((one, two, other, late));
        assert!(arrivals.lock().is_empty());
    }
}
