//! The other nodes, and the links to them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Message;
use bennu_wire::message::{Payload, event};

use super::Exchange;
use crate::cluster::envelope::Envelope;
use crate::cluster::item::{Answer, Item};
use crate::cluster::link::{self, Link, Received};
use crate::cluster::moving::Moving;
use crate::cluster::node::NodeId;
use crate::cluster::table::Way;
use crate::runtime::channel::{Caller, RunQueue};
use crate::runtime::clock;
use crate::runtime::delivery::Broadcast;
use crate::runtime::reach::{Heard, Reach};

/// What the broker adds to a message, at most: the subject and its own words.
const OVERHEAD: usize = 1_024;
/// The largest envelope. Larger ones would keep others waiting.
const MOST_ENVELOPE: usize = 256 * 1_024;
/// Sessions are the middle part of member numbers.
const SESSIONS: u32 = 1 << 24;

/// Another node.
#[derive(Debug)]
pub(super) struct Peer {
    /// What other threads know of it.
    pub(super) way: Arc<Way>,
    /// Our end of the link.
    pub(super) link: Link,
    /// The number of the link's present life on this node; 0 while it is not up. Members of other nodes have it in their numbers.
    pub(super) session: u32,
    /// How often the link has broken.
    pub(super) breaks: u64,
    /// Where it hears of us.
    subject: String,
    /// Who waits for an answer of it.
    waits: HashMap<u64, Wait>,
}

/// Who waits for an answer of another node.
#[derive(Debug)]
pub(super) enum Wait {
    /// Somebody who has published there.
    Count(Reach),
    /// Somebody who has published here: the count of that node is a part of it.
    Part(Arc<Broadcast>),
    /// A backend.
    Call(Caller),
}

impl Exchange {
    fn bounds(&self) -> link::Bounds {
        let most = self.client.max_payload().saturating_sub(OVERHEAD);
        link::Bounds {
            window: self.config.max_link_bytes,
            envelope: most.clamp(Envelope::HEAD + OVERHEAD, MOST_ENVELOPE),
            item: self.config.max_item_bytes,
            patience: self.config.lease,
        }
    }

    /// A node has come.
    pub(super) fn meet(&mut self, id: &NodeId) {
        if *id == self.me || self.peers.contains_key(id) {
            return;
        }
        let queue = RunQueue::for_node(Arc::clone(&self.shared.notify));
        let epoch = self.epochs.get(id).map_or(1, |last| last + 1);
        let peer = Peer {
            way: Arc::new(Way::new(id.clone(), queue)),
            link: Link::new(self.bounds(), epoch, clock::now()),
            session: 0,
            breaks: 0,
            subject: crate::cluster::member::subject(&self.config.name, id.as_str(), self.me.as_str()),
            waits: HashMap::new(),
        };
        self.peers.insert(id.clone(), peer);
    }

    /// A node is gone for good. What waits on the way to it is refused, as nobody would ever send it.
    pub(super) fn part(&mut self, id: &NodeId) {
        self.broken(id, "the node is gone");
        let Some(peer) = self.peers.remove(id) else { return };
        self.epochs.insert(id.clone(), peer.link.epoch());
        // From then on no place leads there, and whoever was about to add something has done so.
        self.refresh(id);
        self.refuse_waiting(&peer.way);
    }

    /// Handles an envelope. What no node of this cluster can have sent is counted, and nothing else.
    pub(super) fn take_in(&mut self, message: &Message) {
        let id = { message.subject.rsplit('.').next() }.and_then(NodeId::parse);
        let peer = id.as_ref().and_then(|id| self.peers.get_mut(id));
        let (Some(id), Some(peer), Some(envelope)) = (&id, peer, Envelope::read(&message.payload)) else {
            self.shared.counts.foreign.inc();
            return;
        };
        match peer.link.receive(&envelope, clock::now()) {
            Received::Nothing => {}
            Received::Broken(why) => self.broken(id, why),
            Received::Items(items) => self.take_all(id, &items),
            Received::Up(items) => {
                self.up(id);
                self.take_all(id, &items);
            }
        }
    }

    fn up(&mut self, id: &NodeId) {
        self.last_session = self.last_session % (SESSIONS - 1) + 1;
        let session = self.last_session;
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.session = session;
        peer.way.set_up(true);
        self.sessions.insert(session, id.clone());
        tracing::info!(node = %id, "link is up");
        if self.handing_over.is_some() {
            self.send_to(session, &Item::Moving(Moving::Leaving));
        }
    }

    fn take_all(&mut self, id: &NodeId, items: &[u8]) {
        let Some(session) = self.peers.get(id).map(|peer| peer.session) else {
            return;
        };
        let mut rest = items;
        while !rest.is_empty() && self.sessions.contains_key(&session) {
            let Some(item) = Item::read(&mut rest) else {
                let now = clock::now();
                if let Some(peer) = self.peers.get_mut(id) {
                    peer.link.restart(now);
                }
                return self.broken(id, "it sent what cannot be read");
            };
            self.shared.counts.items_in.inc();
            self.take(session, item);
        }
    }

    /// The link has broken: everything across it ends, and its clients join again.
    pub(super) fn broken(&mut self, id: &NodeId, why: &'static str) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let session = std::mem::take(&mut peer.session);
        if session == 0 {
            return;
        }
        peer.breaks += 1;
        peer.way.set_up(false);
        let waits = std::mem::take(&mut peer.waits);
        self.sessions.remove(&session);
        self.shared.counts.breaks.inc();
        self.stop_giving_across(session);
        self.stop_taking_across(session, clock::now());
        let guests = self.end_guests(session);
        let away = self.end_away_at(session);
        tracing::warn!(node = %id, why, guests, away, "link broken: memberships across it end, and clients join again");
        // Whoever waits learns that no answer comes.
        drop(waits);
    }

    pub(super) fn set_connected(&mut self, is_connected: bool) {
        if is_connected == std::mem::replace(&mut self.is_connected, is_connected) {
            return;
        }
        if is_connected {
            tracing::info!("connected to NATS again");
            self.be_calm();
            self.shared.again.notify_waiters();
            return;
        }
        tracing::warn!("the connection to NATS is lost: topics of other nodes cannot be reached");
        let now = clock::now();
        for id in self.peers.keys().cloned().collect::<Vec<_>>() {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.link.restart(now);
            }
            self.broken(&id, "the connection to NATS is lost");
        }
    }

    pub(super) fn break_stuck_links(&mut self, now: Instant) {
        if !clock::may_judge() {
            return;
        }
        let stuck = self.peers.iter().filter(|(_, peer)| peer.link.is_stuck(now));
        for id in stuck.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.link.restart(now);
            }
            self.broken(&id, "it confirms nothing");
        }
    }

    /// Sends an item to the node of a session. If its link has broken meanwhile, nobody wants it any more.
    pub(super) fn send_to(&mut self, session: u32, item: &Item) {
        let peer = { self.sessions.get(&session) }.and_then(|id| self.peers.get_mut(id));
        if let Some(peer) = peer {
            peer.link.add(|out| item.write(out));
            self.shared.counts.items_out.inc();
        }
    }

    pub(super) fn send_to_all(&mut self, item: &Item) {
        for session in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.send_to(session, item);
        }
    }

    /// Notes who waits for an answer of the node of a session. Returns the number to be answered.
    pub(super) fn wait(&mut self, session: u32, wait: Wait) -> Option<u64> {
        let id = self.sessions.get(&session)?;
        self.last_wait += 1;
        self.peers.get_mut(id)?.waits.insert(self.last_wait, wait);
        Some(self.last_wait)
    }

    /// The link to a node, if it is up: its session.
    pub(super) fn session_of(&self, id: &NodeId) -> Option<u32> {
        let session = self.peers.get(id)?.session;
        (session != 0).then_some(session)
    }

    fn waited(&mut self, session: u32, id: u64) -> Option<Wait> {
        self.peers.get_mut(self.sessions.get(&session)?)?.waits.remove(&id)
    }

    pub(super) fn counted(&mut self, session: u32, id: u64, heard: Heard) {
        match self.waited(session, id) {
            Some(Wait::Count(reach)) => reach.add_heard(heard),
            Some(Wait::Part(broadcast)) => {
                if let Some(reach) = &broadcast.reach {
                    reach.add_heard(heard);
                }
            }
            Some(Wait::Call(_)) | None => {}
        }
    }

    pub(super) fn answered(&mut self, session: u32, id: u64, answer: Answer) {
        if let Some(Wait::Call(caller)) = self.waited(session, id) {
            caller.answer(answer.into());
        }
    }

    /// Has somebody told how many this node has reached.
    pub(super) fn counting(&self, session: u32, count: Option<u64>) -> Option<Reach> {
        let id = count?;
        let (reach, told) = Reach::new(&self.reached);
        let say = self.say.clone();
        tokio::spawn(async move {
            let heard = told.await.unwrap_or_default();
            let _ = say.send(super::Event::Counted(session, id, heard));
        });
        Some(reach)
    }

    pub(super) fn disconnect_here(&self, session: u32, socket_id: String, count: Option<u64>) {
        self.hub.pubsub.broadcast_here(Broadcast {
            topic: socket_id.into(),
            event: event::DISCONNECT.into(),
            payload: Payload::EMPTY,
            except: None,
            intercepted_by: Vec::new(),
            reach: self.counting(session, count),
        });
    }

    pub(super) fn refuse_here(&self, socket_id: String, wait_ms: u64) {
        let most = self.shared.max_refused_ids;
        let refused = &self.hub.pubsub.refused;
        let wait = Duration::from_millis(wait_ms);
        if refused.refuse(socket_id.into(), wait, most, Instant::now()).is_err() {
            tracing::warn!(
                "as many socket ids are refused as may be (`[api] max_refused_ids`): one more of another node is not"
            );
        }
    }

    /// Gives the broker what the links have.
    pub(super) async fn flush(&mut self) {
        let now = clock::now();
        let mut waiting = 0;
        for peer in self.peers.values_mut() {
            while let Some(envelope) = self.is_connected.then(|| peer.link.next(now)).flatten() {
                // It fails only if the connection is closed for good, and the link will notice.
                let _ = self.client.publish(peer.subject.clone(), envelope.into()).await;
            }
            waiting += peer.link.waiting();
        }
        self.shared.outbox.set_in_links(waiting);
    }
}
