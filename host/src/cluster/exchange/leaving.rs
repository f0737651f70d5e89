//! This node stops: it hands its topics over, with their state; and when its clients are gone, it leaves the cluster.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Exchange;
use crate::cluster::item::Item;
use crate::cluster::moving::{Moving, Stands};
use crate::runtime::clock;

/// How many partitions are handed over at a time, if they are empty, and if they are in use.
const EMPTY: usize = 64;
const IN_USE: usize = 4;
/// How long topics have to end when the node leaves.
const ENDING: Duration = Duration::from_secs(1);
/// How long it takes at most to hand all partitions on.
const LEAVING: Duration = Duration::from_secs(5);

/// This node hands its topics over.
#[derive(Debug)]
pub(super) struct HandingOver {
    since: Instant,
    until: Instant,
    /// From then on topics leave though they owe somebody an answer.
    owing_from: Instant,
    done: Option<oneshot::Sender<()>>,
}

/// This node leaves.
#[derive(Debug)]
pub(super) struct Leaving {
    since: Instant,
    left: Option<oneshot::Sender<()>>,
    hands_on: bool,
}

impl Exchange {
    /// Hands all topics over to other nodes, as far as that can be done in so much time. Topics that owe somebody an answer have half
    /// of it to give that.
    pub(super) fn hand_over(&mut self, time: Duration, done: oneshot::Sender<()>) {
        let now = clock::now();
        self.handing_over = Some(HandingOver {
            since: now,
            until: now + time,
            owing_from: now + time / 2,
            done: Some(done),
        });
        // Nobody gives it anything from now on.
        self.send_to_all(&Item::Moving(Moving::Leaving));
        self.go_on_handing_over(now);
    }

    /// Whether topics leave though they owe somebody an answer.
    pub(super) fn may_owe(&self) -> bool {
        { self.handing_over.as_ref() }.is_some_and(|handing| clock::now() >= handing.owing_from)
    }

    pub(super) fn go_on_handing_over(&mut self, now: Instant) {
        let Some(handing) = &self.handing_over else { return };
        if handing.done.is_none() || self.leaving.is_some() {
            return;
        }
        let entries = self.shared.table.read().clone();
        let own = (0..)
            .zip(&entries)
            .filter(|(_, entry)| entry.home.as_ref() == Some(&self.me));
        let own: Vec<u16> = own.map(|(partition, _)| partition).collect();
        let is_done = own.is_empty() && self.gives.is_settled();
        if is_done || now >= handing.until || !self.has_heirs() {
            self.say_handed_over(now);
            let done = self.handing_over.as_mut().and_then(|handing| handing.done.take());
            // Who asked may not wait any more.
            let _ = done.map(|done| done.send(()));
            return;
        }
        let still = own
            .into_iter()
            .filter(|partition| !self.writing.contains(partition) && !self.gives.moves.contains_key(partition));
        let gives = still.filter_map(|partition| Some((partition, self.heir(partition)?)));
        let (chosen, _) = self.choose(gives.collect(), EMPTY, IN_USE, self.may_owe());
        self.give(chosen);
    }

    fn say_handed_over(&self, now: Instant) {
        let since = self.handing_over.as_ref().map_or(now, |handing| handing.since);
        let took_ms = now.saturating_duration_since(since).as_millis() as u64;
        let longest_hold_ms = self.gives.longest_hold.as_millis() as u64;
        match self.topics().count() {
            0 => tracing::info!(took_ms, longest_hold_ms, "all topics are handed over"),
            topics => tracing::warn!(
                topics,
                took_ms,
                "no other node has taken these topics: they end with this one, and their state is lost"
            ),
        }
    }

    /// Ends all topics here, and hands the partitions on.
    pub(super) fn leave(&mut self, left: oneshot::Sender<()>) {
        self.leaving = Some(Leaving {
            since: clock::now(),
            left: Some(left),
            hands_on: false,
        });
        let me = self.me.clone();
        self.refresh(&me);
        // What is held goes on, so that it can end.
        self.gives.moves.clear();
        let topics: Vec<_> = self.topics().map(|(_, topic)| topic).collect();
        tracing::info!(topics = topics.len(), "leaving the cluster");
        self.end_topics(&topics);
    }

    pub(super) fn go_on_leaving(&mut self, now: Instant) {
        let Some(leaving) = &self.leaving else { return };
        let (time, hands_on) = (now.saturating_duration_since(leaving.since), leaving.hands_on);
        if !hands_on && (time > ENDING || self.topics().next().is_none()) {
            self.hand_on();
        }
        let is_done = hands_on && self.writing.is_empty();
        if let Some(leaving) = &mut self.leaving
            && (is_done || time > LEAVING)
            && let Some(left) = leaving.left.take()
        {
            self.keeper.end();
            // Who asked may not wait any more.
            let _ = left.send(());
        }
    }

    fn hand_on(&mut self) {
        let entries = self.shared.table.read().clone();
        for (partition, entry) in (0..).zip(entries) {
            let home = self.heir(partition);
            if let Some(home) = home.filter(|_| entry.home.as_ref() == Some(&self.me) && self.is_connected) {
                self.write(partition, Stands { home, by: None }, entry.revision);
            }
        }
        if let Some(leaving) = &mut self.leaving {
            leaving.hands_on = true;
        }
    }

    pub(super) fn has_left(&self) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| leaving.left.is_none())
    }
}
