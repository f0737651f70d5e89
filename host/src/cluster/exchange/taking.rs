//! The next home's half of moves: it reads the topics of a partition that comes here, and serves them once it is their home.
//! [`moving`](crate::cluster::moving) has the steps.

use std::collections::HashMap;
use std::time::Instant;

use ::bytes::Bytes;

use super::{Event, Exchange};
use crate::cluster::item::Item;
use crate::cluster::moving::{MoveId, Moving, Verdict};
use crate::cluster::partitions::partition_of;
use crate::runtime::capsule::Capsule;
use crate::runtime::plugin::{Arrived, Arriving, NotTaken};

/// How many topics may be about to be read. A home that keeps to its own bounds never sends so many.
const READING: usize = 256;

/// Moves of other nodes to this one, by partition.
pub(super) type Takes = HashMap<u16, Taking>;

/// A partition on its way here.
#[derive(Debug)]
pub(super) struct Taking {
    id: MoveId,
    session: u32,
    /// Under which the other node is its home.
    revision: u64,
    /// Topics that the plugin is about to read.
    reading: usize,
    /// Topics that it has read.
    read: Vec<Arrived>,
    /// When the link broke. Whether the partition comes is known later.
    broken: Option<Instant>,
}

impl Taking {
    /// How many topics have come.
    pub(super) fn topics(&self) -> usize {
        self.reading + self.read.len()
    }

    /// Under which revision the other node is the home.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether this is the move that an entry names.
    pub(super) fn is(&self, id: Option<&MoveId>) -> bool {
        id == Some(&self.id)
    }
}

impl Exchange {
    /// Handles what another node says of a move.
    pub(super) fn take_moving(&mut self, session: u32, moving: Moving) {
        match moving {
            Moving::Topic {
                number,
                partition,
                revision,
                index,
                capsule,
            } => {
                if let Err(verdict) = self.read_topic(session, (number, partition, revision), index, &capsule) {
                    self.say_read(session, (number, partition), index, verdict);
                }
            }
            Moving::Read {
                number,
                partition,
                index,
                verdict,
            } => self.hear_read(session, number, partition, index, verdict),
            Moving::Stays { number, partition } => {
                let id = { self.sessions.get(&session).cloned() }.map(|by| MoveId { by, number });
                if self.takes.get(&partition).is_some_and(|taking| taking.is(id.as_ref())) {
                    self.takes.remove(&partition);
                }
            }
            Moving::Arrived { number, .. } => self.hear_arrived(session, number),
            Moving::Leaving => {
                let name = self.sessions.get(&session).map(|id| id.name().to_owned());
                if let Some(live) = name.and_then(|name| self.live.get_mut(&name)) {
                    live.is_leaving = true;
                    self.wanted.clear();
                }
            }
        }
    }

    fn say_read(&mut self, session: u32, (number, partition): (u64, u16), index: u32, verdict: Verdict) {
        let read = Moving::Read {
            number,
            partition,
            index,
            verdict,
        };
        self.send_to(session, &Item::Moving(read));
    }

    fn read_topic(
        &mut self,
        session: u32,
        (number, partition, revision): (u64, u16, u64),
        index: u32,
        capsule: &Bytes,
    ) -> Result<(), Verdict> {
        let refused = |why: &str| Err(Verdict::Refused(why.to_owned()));
        let from = self.sessions.get(&session).cloned().ok_or(Verdict::Later)?;
        if !self.shared.table.has(partition, &from, revision) {
            // It is not the home, or this node has not heard of it yet.
            self.shared.counts.fenced.inc();
            return Err(Verdict::Later);
        }
        if self.handing_over.is_some() || self.leaving.is_some() {
            return Err(Verdict::Later);
        }
        let capsule = match Capsule::decode(capsule) {
            Ok(capsule) if partition_of(&capsule.topic, self.config.partitions) == partition => capsule,
            Ok(_) => return refused("it is of another partition"),
            Err(error) => return refused(&error.to_string()),
        };
        let routes = self.hub.routes();
        let Some(slot) = routes.lead_to(&capsule.topic, &capsule.plugin) else {
            self.shared.counts.unrouted.inc();
            return refused(&format!(
                "no route there leads it to the plugin {}. All nodes need the same routes",
                capsule.plugin
            ));
        };
        if self.takes.values().map(|taking| taking.reading).sum::<usize>() >= READING {
            return Err(Verdict::Later);
        }
        let id = MoveId { by: from, number };
        let new = Taking {
            id: id.clone(),
            session,
            revision,
            reading: 0,
            read: Vec::new(),
            broken: None,
        };
        if !self.takes.get(&partition).is_some_and(|taking| taking.is(Some(&id))) {
            // An earlier move is over, and what it brought is dropped, before the same topics come again.
            self.takes.remove(&partition);
            self.takes.insert(partition, new);
        }
        if let Some(taking) = self.takes.get_mut(&partition) {
            taking.reading += 1;
        }
        let say = self.say.clone();
        Arriving::begin(&self.hub, slot, capsule, move |arrived| {
            let _ = say.send(Event::Arrived(partition, id, index, arrived));
        });
        Ok(())
    }

    /// The plugin has read a topic, or could not.
    pub(super) fn hear_topic_read(
        &mut self,
        partition: u16,
        id: &MoveId,
        index: u32,
        arrived: Result<Arrived, NotTaken>,
    ) {
        let taking = self.takes.get_mut(&partition);
        let Some(taking) = taking.filter(|taking| taking.is(Some(id))) else {
            // The move is over: it is dropped.
            return;
        };
        taking.reading -= 1;
        let session = taking.session;
        let verdict = match arrived {
            Ok(arrived) => {
                taking.read.push(arrived);
                Verdict::Read
            }
            Err(NotTaken::Busy) => Verdict::Later,
            Err(NotTaken::Refused(why)) => Verdict::Refused(why),
        };
        self.say_read(session, (id.number, partition), index, verdict);
    }

    /// This node is the home of a partition, by this move: its topics go on.
    pub(super) fn serve_taken(&mut self, partition: u16, taking: Taking) {
        let (topics, from) = (taking.read.len(), &taking.id.by);
        self.shared.counts.moved_in.inc_by(topics as u64);
        tracing::debug!(partition, %from, topics, "a partition has come from another node");
        taking.read.into_iter().for_each(Arrived::go_on);
        let number = taking.id.number;
        let arrived = Moving::Arrived { number, partition };
        // If the link has broken since, nobody waits for it.
        self.send_to(taking.session, &Item::Moving(arrived));
    }

    /// A link has broken: what came across it is kept until it is known whether its partition comes.
    pub(super) fn stop_taking_across(&mut self, session: u32, now: Instant) {
        for taking in self.takes.values_mut().filter(|taking| taking.session == session) {
            taking.broken.get_or_insert(now);
        }
    }

    /// Drops what came by moves of which nobody hears any more. Their home has given up by then: it writes for one lease, and then asks
    /// for two.
    pub(super) fn mind_takes(&mut self, now: Instant) {
        let patience = self.config.lease * 4;
        let is_over = |broken: Instant| now.saturating_duration_since(broken) > patience;
        self.takes.retain(|_, taking| !taking.broken.is_some_and(is_over));
    }
}
