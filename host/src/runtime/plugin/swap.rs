//! Moves the topics of a plugin to another generation, or back again, a bounded number at a time.

mod failures;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bennu_plugin::abi::reason;

pub(crate) use self::failures::Failures;
use bennu_wire::message;

use super::generation::Generation;
use super::handover::{Move, Moved, Reserved};
use super::loader::said;
use super::shard::Control;
use super::slot::PluginSlot;
use crate::config::{OnMigrateError, OnRollback, Reload};
use crate::runtime::capsule::Snapshot;
use crate::runtime::channel::{Input, Notice, Topic};
use crate::runtime::clock;

/// Topics on the move at a time, for each shard that takes them. The other topics are served meanwhile. A topic is held while the
/// ones before it are read, so few are on the move. The swap takes longer that way, but no client notices.
const IN_FLIGHT: usize = 1;

/// Why a topic has not moved yet.
const BUSY: &str = "its handler is still running; the topic moves when the handler returns";

/// What is said of topics that stayed, or started anew.
pub(super) const NOT_MOVED: &str = "topics could not be moved";

/// How a swap went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SwapReport {
    /// Topics that have moved.
    pub(crate) moved: usize,
    /// Topics that stayed, or started anew.
    pub(crate) failures: Failures,
    /// Topics whose members were told to rejoin.
    pub(crate) rejoined: usize,
    /// Topics that went back with the snapshot from the swap. `moved` counts them, too.
    pub(crate) restored: usize,
    /// Why these went back so, and why others rejoined.
    pub(crate) unread: Failures,
    /// Events that these topics, and those that were told to rejoin on the way back, had handled since the swap.
    pub(crate) lost_events: u64,
    /// The longest time that a topic was held, in microseconds.
    pub(crate) longest_hold_us: u64,
    /// How long the swap took.
    pub(crate) took: Duration,
}

/// The state that topics moved with, by topic number, up to a number of bytes.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    by_topic: HashMap<u64, Snapshot>,
    bytes: usize,
    most_bytes: usize,
    /// Events that topics had handled when they moved, with a snapshot or without.
    handled: HashMap<u64, u64>,
}

impl Snapshots {
    /// None yet, and up to `most_bytes`.
    #[must_use]
    pub(crate) fn up_to(most_bytes: usize) -> Self {
        Self {
            most_bytes,
            ..Self::default()
        }
    }

    fn keep(&mut self, topic: u64, snapshot: Snapshot) {
        self.handled.insert(topic, snapshot.handled);
        let bytes = self.bytes + snapshot.bytes();
        if bytes <= self.most_bytes {
            self.bytes = bytes;
            self.by_topic.insert(topic, snapshot);
        }
    }
}

/// Puts `new` in service and moves the topics of the `old` generations, as `reload` says. Returns when every topic has moved, or is
/// known to stay. Keeps the state that was moved in `snapshots`.
pub(crate) fn swap(
    slot: &Arc<PluginSlot>,
    new: &Arc<Generation>,
    old: &[Arc<Generation>],
    reload: Reload,
    snapshots: &mut Snapshots,
) -> SwapReport {
    let start = Instant::now();
    slot.set_current(Some(Arc::clone(new)));
    let mut report = SwapReport::default();
    match reload {
        Reload::Drain => {}
        Reload::Rejoin => {
            for topic in elsewhere(slot, new) {
                rejoin(&topic);
                report.rejoined += 1;
            }
        }
        Reload::Migrate => {
            let mut way = Forth::new(slot, new, old, snapshots);
            way.carry(&mut report);
            for topic in &way.busy {
                report.failures.add(&said(&topic.name), BUSY.to_owned());
            }
        }
    }
    report.took = start.elapsed();
    report
}

/// Moves the topics of `old` to `new`, which is in service already, and has passed on a sample of their state by now.
pub(crate) fn swap_late(slot: &Arc<PluginSlot>, new: &Arc<Generation>, old: &Arc<Generation>) -> SwapReport {
    let (start, mut report) = (Instant::now(), SwapReport::default());
    let mut snapshots = Snapshots::up_to(0);
    Forth::new(slot, new, std::slice::from_ref(old), &mut snapshots).carry(&mut report);
    report.took = start.elapsed();
    report
}

/// Tells the members of `old`'s topics to rejoin on the code in service, if topics may start anew. Returns whether they may.
pub(crate) fn rejoin_late(slot: &PluginSlot, new: &Generation, old: &Generation) -> bool {
    let may = slot.config().on_migrate_error == OnMigrateError::Rejoin;
    let served = elsewhere(slot, new)
        .into_iter()
        .filter(|topic| topic.owner().generation == old.number);
    served.filter(|_| may).for_each(|topic| rejoin(&topic));
    may
}

/// Puts `good` in service again and gives it the topics of `bad` back: with their present state if it is `readable`, else with the
/// snapshot from the swap, else without state. The error says why it is not.
pub(crate) fn swap_back(
    slot: &Arc<PluginSlot>,
    good: &Arc<Generation>,
    bad: &Arc<Generation>,
    readable: Result<(), String>,
    snapshots: &mut Snapshots,
) -> SwapReport {
    let start = Instant::now();
    slot.set_current(Some(Arc::clone(good)));
    let mut report = SwapReport::default();
    let topics = elsewhere(slot, good);
    let topics = topics
        .into_iter()
        .filter(|topic| topic.owner().generation == bad.number)
        .collect();
    let mut way = Back {
        slot,
        good,
        bad,
        snapshots,
        readable,
        unread: Failures::default(),
        lost_events: 0,
        restored: 0,
        rejoined: 0,
    };
    carry(topics, good, slot.config().swap_patience, &mut way, &mut report);
    report.unread = way.unread;
    report.lost_events = way.lost_events;
    report.restored = way.restored;
    report.rejoined = way.rejoined;
    report.took = start.elapsed();
    report
}

fn elsewhere(slot: &PluginSlot, new: &Generation) -> VecDeque<Arc<Topic>> {
    slot.topics()
        .into_iter()
        .filter(|topic| topic.owner().generation != new.number)
        .collect()
}

fn rejoin(topic: &Arc<Topic>) {
    topic.owe(Input::EndAll {
        reason: reason::REROUTED,
        notice: Notice::Error(message::reason::RELOADED),
    });
}

/// A direction in which topics move, and the state that they take along.
trait Way {
    /// Sends a topic off. `false`: it does not move.
    fn give(&mut self, topic: Arc<Topic>, report: &mpsc::Sender<Moved>) -> bool;
    /// A topic has arrived, with this state.
    fn arrived(&mut self, topic: &Arc<Topic>, carried: Option<Snapshot>);
    /// A topic could not be moved. `true`: it was sent off once more.
    fn failed(&mut self, topic: Arc<Topic>, why: &str, report: &mpsc::Sender<Moved>) -> bool;
}

/// Sends all of `waiting` to `taker`. Waits at most `patience` for the next topic to arrive.
fn carry(
    mut waiting: VecDeque<Arc<Topic>>,
    taker: &Generation,
    patience: Duration,
    way: &mut impl Way,
    report: &mut SwapReport,
) {
    let (reporter, reports) = mpsc::channel();
    let usual = IN_FLIGHT * taker.shard_count();
    let (mut moving, mut most) = (HashMap::new(), usual);
    loop {
        while moving.len() < most
            && let Some(topic) = waiting.pop_front()
        {
            if way.give(Arc::clone(&topic), &reporter) {
                moving.insert(topic.number, topic);
            }
        }
        if moving.is_empty() {
            return;
        }
        let moved = match clock::recv_timeout(&reports, patience) {
            Ok(moved) => moved,
            // A handler of the old code is stuck. Send all other topics now. Its own topics follow when it returns.
            Err(_) if most == usual => {
                most = usize::MAX;
                continue;
            }
            Err(_) => {
                for topic in moving.values() {
                    report.failures.add(&said(&topic.name), BUSY.to_owned());
                }
                return;
            }
        };
        let Moved {
            topic, held_us, waited, ..
        } = &moved;
        tracing::debug!(topic = &*topic.name, held_us, waited, "topic moved");
        report.longest_hold_us = report.longest_hold_us.max(moved.held_us);
        match moved.failed {
            None => {
                moving.remove(&moved.topic.number);
                report.moved += 1;
                way.arrived(&moved.topic, moved.carried);
            }
            Some(why) if way.failed(Arc::clone(&moved.topic), &why, &reporter) => {}
            Some(why) => {
                moving.remove(&moved.topic.number);
                report.failures.add(&said(&moved.topic.name), why);
            }
        }
    }
}

/// Topics move to new code.
struct Forth<'a> {
    slot: &'a PluginSlot,
    new: &'a Generation,
    old: &'a [Arc<Generation>],
    snapshots: &'a mut Snapshots,
    /// Topics that do not move yet, because the new code has not been tried on a sample of their generation.
    busy: Vec<Arc<Topic>>,
}

impl<'a> Forth<'a> {
    fn new(
        slot: &'a PluginSlot,
        new: &'a Generation,
        old: &'a [Arc<Generation>],
        snapshots: &'a mut Snapshots,
    ) -> Self {
        Self {
            slot,
            new,
            old,
            snapshots,
            busy: Vec::new(),
        }
    }

    /// Moves all topics that are not there yet.
    fn carry(&mut self, report: &mut SwapReport) {
        let (slot, new) = (self.slot, self.new);
        carry(elsewhere(slot, new), new, slot.config().swap_patience, self, report);
    }
}

impl Way for Forth<'_> {
    /// Topics that belong to none of the old generations do not move.
    fn give(&mut self, topic: Arc<Topic>, report: &mpsc::Sender<Moved>) -> bool {
        let owner = topic.owner();
        let old = self.old.iter().find(|old| old.number == owner.generation);
        let Some((old, shard)) = old.and_then(|old| Some((old, old.shard_of(&owner)?))) else {
            return false;
        };
        let version = old.manifest.state_version;
        if self.new.untried().contains(old.number) {
            self.busy.push(topic);
            return false;
        }
        let moving = Move {
            to: Reserved::new(self.slot.shard_of(&topic, self.new)),
            topic,
            version,
            from: None,
            else_rejoin: self.slot.config().on_migrate_error == OnMigrateError::Rejoin,
            report: report.clone(),
        };
        if !self.new.manifest.reads.contains(&version) {
            let why = format!("it has state of version {version}, which the new code does not read");
            moving.stay(Instant::now(), 0, &why);
            return true;
        }
        // A shard that is closed has no topics any more.
        shard.control(Control::Give(Box::new(moving))).is_ok()
    }

    fn arrived(&mut self, topic: &Arc<Topic>, carried: Option<Snapshot>) {
        self.slot.stats.migrated_topics.inc();
        if let Some(snapshot) = carried {
            self.snapshots.keep(topic.number, snapshot);
        }
    }

    fn failed(&mut self, _: Arc<Topic>, _: &str, _: &mpsc::Sender<Moved>) -> bool {
        self.slot.stats.failed_migrations.inc();
        false
    }
}

/// Topics move back to the code that was in service before.
struct Back<'a> {
    slot: &'a PluginSlot,
    good: &'a Generation,
    bad: &'a Generation,
    snapshots: &'a mut Snapshots,
    readable: Result<(), String>,
    unread: Failures,
    lost_events: u64,
    restored: usize,
    rejoined: usize,
}

impl Back<'_> {
    fn send(&self, topic: Arc<Topic>, from: Option<Snapshot>, report: &mpsc::Sender<Moved>) -> bool {
        let moving = Move {
            to: Reserved::new(self.slot.shard_of(&topic, self.good)),
            topic: Arc::clone(&topic),
            version: self.bad.manifest.state_version,
            from,
            else_rejoin: false,
            report: report.clone(),
        };
        { self.bad.shard_of(&topic.owner()) }
            .is_some_and(|shard| shard.control(Control::Give(Box::new(moving))).is_ok())
    }

    /// Sends a topic back with the snapshot from the swap, or tells its members to rejoin.
    fn with_snapshot(&mut self, topic: Arc<Topic>, why: &str, report: &mpsc::Sender<Moved>) -> bool {
        self.unread.add(&said(&topic.name), why.to_owned());
        // Counted from the swap on; if this fails again, nothing more is lost.
        let before = self.snapshots.handled.insert(topic.number, topic.handled());
        self.lost_events += topic.handled().saturating_sub(before.unwrap_or(0));
        let snapshot = self.snapshots.by_topic.remove(&topic.number);
        match snapshot.filter(|_| self.slot.config().on_rollback == OnRollback::Snapshot) {
            Some(snapshot) => {
                self.restored += 1;
                self.send(topic, Some(snapshot), report)
            }
            None => {
                self.rejoined += 1;
                rejoin(&topic);
                false
            }
        }
    }
}

impl Way for Back<'_> {
    fn give(&mut self, topic: Arc<Topic>, report: &mpsc::Sender<Moved>) -> bool {
        match self.readable.clone() {
            Ok(()) => self.send(topic, None, report),
            Err(why) => self.with_snapshot(topic, &why, report),
        }
    }

    fn arrived(&mut self, _: &Arc<Topic>, _: Option<Snapshot>) {
        self.slot.stats.migrated_topics.inc();
    }

    /// The present state cannot be written or read. Perhaps the snapshot can.
    fn failed(&mut self, topic: Arc<Topic>, why: &str, report: &mpsc::Sender<Moved>) -> bool {
        self.slot.stats.failed_migrations.inc();
        self.with_snapshot(topic, why, report)
    }
}
