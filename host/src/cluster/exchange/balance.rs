//! Which partitions should be where: this node takes those that are lost and should be here, and gives those away that should be at
//! another node.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::Exchange;
use crate::cluster::moving::Stands;
use crate::cluster::node::NodeId;
use crate::cluster::partitions::{partition_of, winner};
use crate::cluster::table::Entry;

/// How many entries are written at a time.
const WRITES: usize = 64;
/// How many empty partitions are given away at a time.
const EMPTY: usize = 16;
/// How many partitions in use are given away at a time: a node that comes is no reason to hold many topics at once.
const IN_USE: usize = 2;
/// How long until partitions that could not be given away are looked at again.
const PAUSE: Duration = Duration::from_secs(1);

impl Exchange {
    /// The nodes to which partitions may go.
    fn staying(&self) -> impl Iterator<Item = &str> {
        let live = self.live.iter().filter(|(_, live)| !live.is_leaving);
        live.map(|(name, _)| name.as_str())
    }

    /// The node that should have a partition if this one is gone.
    pub(super) fn heir(&self, partition: u16) -> Option<NodeId> {
        let others = self.staying().filter(|name| *name != self.me.name());
        let name = winner(partition, others)?;
        self.live.get(name).map(|live| live.id.clone())
    }

    /// Whether there is anybody to whom partitions could go.
    pub(super) fn has_heirs(&self) -> bool {
        self.staying().any(|name| name != self.me.name())
    }

    /// How many partitions are not yet at the node that should have them.
    pub(super) fn misplaced(&self) -> usize {
        let entries = self.shared.table.read();
        let is_misplaced = |(partition, entry): &(u16, &Entry)| {
            let wanted = winner(*partition, self.staying());
            wanted.is_some_and(|wanted| entry.home.as_ref().is_none_or(|home| home.name() != wanted))
        };
        (0..).zip(entries.iter()).filter(is_misplaced).count()
    }

    /// Takes partitions whose home is lost and that should be here, and gives those away that should be elsewhere.
    pub(super) fn rebalance(&mut self, now: Instant) {
        let knows_all = self.knows_nodes && self.knows_homes && self.is_connected;
        if !knows_all || self.leaving.is_some() || self.handing_over.is_some() {
            return;
        }
        if self.wanted.is_empty() {
            let wanted = |partition| winner(partition, self.staying()).map(str::to_owned);
            // It is empty as long as nobody lives.
            self.wanted = (0..self.config.partitions).map_while(wanted).collect();
            self.next_gives = now;
        }
        let entries = self.shared.table.read().clone();
        let (mut takes, mut gives) = (Vec::new(), Vec::new());
        for ((partition, entry), wanted) in (0..).zip(&entries).zip(&self.wanted) {
            let lives = |id: &NodeId| self.live.get(id.name()).is_some_and(|live| live.id == *id);
            let is_wanted = wanted == self.me.name();
            match &entry.home {
                _ if self.writing.contains(&partition) || self.gives.moves.contains_key(&partition) => {}
                Some(id) if *id == self.me && is_wanted => {}
                Some(id) if *id == self.me => {
                    gives.extend({ self.live.get(wanted) }.map(|to| (partition, to.id.clone())))
                }
                Some(id) if lives(id) => {}
                // An earlier run of this node, which has taken over its lease.
                Some(id) if is_wanted && id.name() == self.me.name() => takes.push((partition, entry.revision)),
                None if self.forgotten.contains(&partition) => takes.push((partition, entry.revision)),
                _ if is_wanted && now >= self.calm_until => takes.push((partition, entry.revision)),
                _ => {}
            }
        }
        for (partition, revision) in takes.into_iter().take(WRITES.saturating_sub(self.writing.len())) {
            let (home, by) = (self.me.clone(), None);
            self.write(partition, Stands { home, by }, revision);
        }
        if now >= self.next_gives && !gives.is_empty() {
            let (chosen, is_more) = self.choose(gives, EMPTY, IN_USE, false);
            self.give(chosen);
            // What is on its way makes room for more as soon as it has arrived.
            self.next_gives = if is_more { now } else { now + PAUSE };
        }
    }

    /// Of these partitions those that can be given away now: so many empty ones, and so many in use together with those that are on
    /// their way. Topics that owe somebody an answer stay, unless `owing`. The second value says whether others can be given later.
    pub(super) fn choose(
        &self,
        gives: Vec<(u16, NodeId)>,
        empty: usize,
        in_use: usize,
        owing: bool,
    ) -> (Vec<(u16, NodeId)>, bool) {
        let wanted: HashSet<u16> = gives.iter().map(|(partition, _)| *partition).collect();
        let mut topics: HashMap<u16, Vec<_>> = HashMap::new();
        for (_, topic) in self.topics() {
            let partition = partition_of(&topic.name, self.config.partitions);
            if wanted.contains(&partition) {
                topics.entry(partition).or_default().push(topic);
            }
        }
        let (mut empty, mut in_use) = (empty, in_use.saturating_sub(self.gives.moves.len()));
        let (mut chosen, mut is_more) = (Vec::new(), false);
        for (partition, to) in gives {
            let is_put_off = { self.gives.put_off.get(&partition) }.is_some_and(|(node, _)| *node == to);
            if is_put_off && self.handing_over.is_none() {
                continue;
            }
            let own = topics.get(&partition).map_or(&[][..], Vec::as_slice);
            let room = if own.is_empty() { &mut empty } else { &mut in_use };
            // A node that has just come is reached soon.
            if *room == 0 || self.session_of(&to).is_none() {
                is_more = true;
                continue;
            }
            if owing || !own.iter().any(|topic| topic.record().owes_anybody()) {
                *room -= 1;
                chosen.push((partition, to));
            }
        }
        (chosen, is_more)
    }
}
