//! Who lives, and who is home.
//!
//! The entry of a partition in the broker's bucket decides, not anybody's view of who is alive. A node takes a partition whose home
//! has lost its lease by compare-and-set on the revision it has seen, and is the home once the broker has confirmed that. A home that
//! lives gives a partition away in the same way, with the state of its topics: [`moving`](crate::cluster::moving).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::kv::UpdateErrorKind;
use bennu_wire::message::{Payload, reason};
use tokio::time::timeout;

use super::{Event, Exchange};
use crate::cluster::broker;
use crate::cluster::fault;
use crate::cluster::item::Item;
use crate::cluster::moving::Stands;
use crate::cluster::node::{Lease, NodeId};
use crate::cluster::partitions::partition_of;
use crate::cluster::table::{Entry, Place};
use crate::cluster::watch::{self, Home, Node};
use crate::runtime::channel::{Input, Notice, Topic};
use crate::runtime::clock;
use crate::runtime::delivery::Delivery;
use crate::runtime::plugin::PluginSlot;

/// A node that has a lease.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) id: NodeId,
    pub(super) lease: Lease,
    /// When it was last seen to renew it.
    pub(super) seen: Instant,
    /// It is about to stop: it is given nothing any more.
    pub(super) is_leaving: bool,
}

/// Why the entry of a partition was not written.
#[derive(Debug)]
pub(in crate::cluster) struct NotWritten {
    /// Somebody has written it since. Otherwise nobody knows whether it was written.
    is_refused: bool,
    why: String,
}

impl Exchange {
    /// Takes in what stands in the bucket of leases.
    pub(super) fn hear_nodes(&mut self, nodes: Vec<Node>, is_all: bool) {
        if is_all {
            let names: HashSet<&str> = nodes.iter().map(|(name, _)| &**name).collect();
            let gone = self.live.keys().filter(|name| !names.contains(&***name));
            for name in gone.cloned().collect::<Vec<_>>() {
                self.lose_node(&name);
            }
            if std::mem::replace(&mut self.knows_nodes, true) {
                self.be_calm();
            }
        }
        for (name, lease) in nodes {
            let id = lease.as_ref().and_then(|lease| NodeId::parse(&lease.id));
            let (Some(lease), Some(id)) = (lease, id.filter(|id| id.name() == name)) else {
                self.lose_node(&name);
                continue;
            };
            if self.live.get(&name).is_some_and(|live| live.id != id) {
                self.lose_node(&name);
            }
            let before = self.live.get(&name);
            let is_new = before.is_none();
            let new = Live {
                id: id.clone(),
                lease,
                seen: clock::now(),
                is_leaving: before.is_some_and(|live| live.is_leaving),
            };
            self.live.insert(name, new);
            if is_new {
                self.wanted.clear();
            }
            if is_new && id != self.me {
                tracing::info!(node = %id, "node has joined the cluster");
                self.meet(&id);
                self.refresh(&id);
            }
        }
    }

    /// Takes no partition from nodes that are not heard of for as long as they need to be heard again.
    pub(super) fn be_calm(&mut self) {
        self.calm_until = clock::now() + self.config.lease;
    }

    /// If this node cannot renew its own lease, others cannot renew theirs either: it is the broker that does not answer. Once it does,
    /// they need a moment to say that they live.
    pub(super) fn mind_own_lease(&mut self) {
        if self.keeper.age() > self.config.lease / 2 {
            self.be_calm();
        }
    }

    fn lose_node(&mut self, name: &str) {
        let Some(Live { id, .. }) = self.live.remove(name) else {
            return;
        };
        self.wanted.clear();
        if id != self.me {
            tracing::warn!(node = %id, "node has left the cluster, or its lease has ended");
            self.part(&id);
        }
    }

    /// A node that has not renewed its lease in time may have lost it: the broker knows.
    pub(super) fn ask_for_silent_nodes(&mut self, now: Instant) {
        let patience = self.config.lease + self.config.lease / 8;
        if !self.is_connected {
            return;
        }
        for (name, live) in &mut self.live {
            if live.id == self.me || now.saturating_duration_since(live.seen) < patience {
                continue;
            }
            // The next question, if this one is not answered, comes later.
            live.seen = now - self.config.lease;
            tokio::spawn(watch::ask(self.nodes.clone(), name.clone(), self.say.clone()));
        }
    }

    /// Takes in what stands in the bucket of homes.
    pub(super) fn hear_homes(&mut self, homes: Vec<Home>, is_all: bool) {
        if is_all {
            let known: HashSet<u16> = homes.iter().map(|(partition, ..)| *partition).collect();
            for partition in (0..self.config.partitions).filter(|partition| !known.contains(partition)) {
                self.set_home(partition, None, 0);
            }
            if !std::mem::replace(&mut self.knows_homes, true) && !known.is_empty() {
                // Those that stand there may be about to say that they live.
                self.be_calm();
            }
        }
        for (partition, stands, revision) in homes {
            let before = self.shared.table.read()[usize::from(partition)].revision;
            if is_all || revision > before {
                self.set_home(partition, stands, revision);
            }
        }
        if is_all && self.shared.gate.is_shut() {
            tracing::info!("the broker was asked after a standstill: topics go on");
            self.shared.gate.open();
        }
    }

    fn place(&self, partition: u16, id: Option<&NodeId>) -> Place {
        match id {
            Some(id) if *id == self.me && self.leaving.is_some() => Place::Nowhere,
            Some(id) if *id == self.me && self.gives.moves.contains_key(&partition) => Place::Parting,
            Some(id) if *id == self.me => Place::Here,
            Some(id) => { self.peers.get(id) }.map_or(Place::Nowhere, |peer| Place::There(Arc::clone(&peer.way))),
            None => Place::Nowhere,
        }
    }

    /// The entry of a partition, as the broker has confirmed it.
    fn set_home(&mut self, partition: u16, stands: Option<Stands>, revision: u64) {
        let home = stands.as_ref().map(|stands| stands.home.clone());
        let is_mine = home.as_ref() == Some(&self.me);
        // It decides the moves that were underway.
        let giving = self.gives.take_decided(partition, revision);
        let taking = self.takes.remove(&partition);
        let (undecided, taking): (Option<_>, Option<_>) = match taking {
            Some(taking) if taking.revision() == revision => (Some(taking), None),
            taking => (None, taking),
        };
        self.takes.extend(undecided.map(|taking| (partition, taking)));
        let place = self.place(partition, home.as_ref());
        let entry = Entry { home, revision, place };
        let before = self.shared.table.set(partition, entry.clone());
        let was_mine = before.home.as_ref() == Some(&self.me) || self.forgotten.remove(&partition);
        let moved = giving.and_then(|giving| {
            let topics = giving.topics();
            self.hear_decided(partition, giving, stands.as_ref()).then_some(topics)
        });
        let by = stands.as_ref().and_then(|stands| stands.by.as_ref());
        match entry.home {
            None if was_mine => {
                // The broker has forgotten it. Its topics wait for whoever writes it first, which may be this node.
                self.forgotten.insert(partition);
            }
            Some(_) if was_mine && !is_mine => self.superseded(partition, moved),
            Some(home) if before.home.as_ref() != Some(&home) => {
                let old = before
                    .home
                    .and_then(|old| self.session_of(&old))
                    .filter(|_| by.is_some());
                match old {
                    // The old home answers what is on its way there, and ends each member.
                    Some(session) => self.away.moves(partition, session, before.revision),
                    None => self.end_away_in(partition, None, reason::NODE_LOST),
                }
            }
            _ => {}
        }
        if let Some(taking) = taking.filter(|taking| is_mine && taking.is(by)) {
            self.serve_taken(partition, taking);
        }
    }

    /// A node has come or gone: the places of what it is the home of change.
    pub(super) fn refresh(&self, id: &NodeId) {
        for partition in 0..self.config.partitions {
            let home = self.shared.table.read()[usize::from(partition)].home.clone();
            if home.as_ref() == Some(id) {
                self.place_again(partition);
            }
        }
    }

    /// The place of a partition changes.
    pub(super) fn place_again(&self, partition: u16) {
        let entry = self.shared.table.read()[usize::from(partition)].clone();
        let place = self.place(partition, entry.home.as_ref());
        self.shared.table.set(partition, Entry { place, ..entry });
    }

    /// Another node is the home now. The members of topics that have not moved there end before their topics handle anything else, and
    /// the state is dropped.
    fn superseded(&mut self, partition: u16, moved: Option<HashSet<u64>>) {
        let has_moved = |topic: &Topic| moved.as_ref().is_some_and(|moved| moved.contains(&topic.number));
        let topics = self.topics().map(|(_, topic)| topic);
        let topics: Vec<_> = topics
            .filter(|topic| partition_of(&topic.name, self.config.partitions) == partition && !has_moved(topic))
            .collect();
        if !topics.is_empty() {
            let topics = topics.len();
            self.shared.counts.superseded.inc_by(topics as u64);
            tracing::warn!(
                partition,
                topics,
                "another node is the home of topics of this one, and does not have their state: their members end and join again there"
            );
        }
        self.end_topics(&topics);
        if moved.is_none() {
            self.send_to_all(&Item::Lost { partition });
        }
    }

    /// All topics of this node, with their plugins.
    pub(super) fn topics(&self) -> impl Iterator<Item = (Arc<PluginSlot>, Arc<Topic>)> + use<> {
        let slots: Vec<_> = self.hub.routes().plugins.values().cloned().collect();
        slots.into_iter().flat_map(|slot| {
            let topics = slot.topics();
            topics.into_iter().map(move |topic| (Arc::clone(&slot), topic))
        })
    }

    pub(super) fn end_topics(&self, topics: &[Arc<Topic>]) {
        let pubsub = &self.hub.pubsub;
        for topic in topics {
            for input in topic.supersede(Notice::Error(reason::NODE_LOST)) {
                match input {
                    Input::Join { member, .. } => {
                        let reply = Payload::reason(reason::NODE_UNAVAILABLE);
                        pubsub.send(member, Delivery::Refused { member, reply });
                    }
                    Input::In {
                        member,
                        join_ref,
                        msg_ref,
                        ..
                    } => pubsub.send(
                        member,
                        Delivery::Orphan {
                            member,
                            topic: topic.name.clone(),
                            join_ref,
                            msg_ref,
                            status: "error",
                        },
                    ),
                    // A backend that asks learns of it as this is dropped.
                    _ => {}
                }
            }
        }
    }

    /// Writes the entry of a partition, unless somebody has written it since `revision`.
    pub(super) fn write(&mut self, partition: u16, stands: Stands, revision: u64) {
        if !self.writing.insert(partition) {
            return;
        }
        let (store, say, patience) = (self.homes.clone(), self.say.clone(), self.config.lease);
        if stands.by.is_some() && fault::loses_move() {
            let (is_refused, why) = (false, "lost on purpose".to_owned());
            let lost = Event::Written(partition, stands, Err(NotWritten { is_refused, why }));
            return drop(say.send(lost));
        }
        tokio::spawn(async move {
            let value = stands.write().into();
            let written = timeout(patience, store.update(broker::key(partition), value, revision)).await;
            let written = match written {
                Ok(written) => written.map_err(|error| NotWritten {
                    is_refused: error.kind() == UpdateErrorKind::WrongLastRevision,
                    why: error.to_string(),
                }),
                Err(_) => Err(NotWritten {
                    is_refused: false,
                    why: "the broker does not answer".to_owned(),
                }),
            };
            let _ = say.send(Event::Written(partition, stands, written));
        });
    }

    /// A write that is confirmed counts from now on. After one that is not, the watch tells what stands there.
    pub(super) fn hear_written(&mut self, partition: u16, stands: Stands, written: Result<u64, NotWritten>) {
        self.writing.remove(&partition);
        match written {
            Ok(revision) => {
                self.shared.counts.moves.inc();
                if revision > self.shared.table.read()[usize::from(partition)].revision {
                    self.set_home(partition, Some(stands), revision);
                }
            }
            Err(NotWritten { is_refused, why }) => {
                tracing::debug!(partition, to = %stands.home, why, "the home of a partition was not written");
                self.hear_not_written(partition, is_refused);
            }
        }
    }

    /// The process has stood still for longer than it may: nothing here goes on before the broker was asked.
    pub(super) fn hear_late(&mut self, late: Duration) {
        let late_ms = late.as_millis() as u64;
        self.shared.counts.standstills.inc();
        tracing::warn!(
            late_ms,
            "this node has stood still: its topics wait until the broker has said whether they are still its own"
        );
        self.shared.again.notify_waiters();
        self.late_since = Some(clock::now());
    }

    /// Topics do not wait for ever for a broker that is away: nobody else can become their home as long as it is.
    pub(super) fn forget_late_gate(&mut self, now: Instant) {
        let is_over = self
            .late_since
            .is_some_and(|since| now.saturating_duration_since(since) > self.config.lease * 2);
        if is_over && self.shared.gate.is_shut() {
            tracing::warn!("the broker does not answer after a standstill: topics go on without it");
            self.shared.gate.open();
        }
        if is_over || !self.shared.gate.is_shut() {
            self.late_since = None;
        }
    }
}
