//! Moving the topics of a plugin to another generation, and back again, a bounded number at a time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bennu_plugin::abi::reason;

use super::generation::Generation;
use super::handover::{Move, Moved, Reserved, Snapshot};
use super::shard::Control;
use super::slot::PluginSlot;
use crate::config::{OnMigrateError, OnRollback, Reload};
use crate::runtime::channel::{Input, Notice, Topic};

/// Topics on the move at a time, for each shard that takes them; the others go on being served meanwhile. A topic is held
/// for as long as others take that are to be read before it, so hardly any are; that all of them together take longer,
/// nobody notices.
const IN_FLIGHT: usize = 1;

/// Why a topic has not moved yet.
const BUSY: &str = "the code that serves it is busy; it moves when that has a moment";

/// How a swap went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SwapReport {
    /// Topics that were carried over.
    pub(crate) moved: usize,
    /// Topics that stayed, or started anew, with the reason of the first.
    pub(crate) failed: usize,
    /// That reason.
    pub(crate) first_failure: Option<String>,
    /// Topics whose members were told to rejoin.
    pub(crate) rejoined: usize,
    /// Topics that went back with their state of an earlier moment, counted in `moved`, too.
    pub(crate) restored: usize,
    /// Events that these, and those told to rejoin on a way back, had handled since.
    pub(crate) lost_events: u64,
    /// The longest time that a topic was held, in microseconds.
    pub(crate) longest_hold_us: u64,
    /// All of it.
    pub(crate) took: Duration,
}

/// What topics were carried over with, by their number, up to a number of bytes.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    by_topic: HashMap<u64, Snapshot>,
    bytes: usize,
    most_bytes: usize,
    /// Events that topics had handled when they were carried over, with a snapshot or without.
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

/// Puts `new` in service and moves what `old` generations serve, as `reload` says. Returns when every topic has moved or
/// is known to stay. What was carried goes to `snapshots`.
pub(crate) fn swap(
    slot: &Arc<PluginSlot>,
    new: &Arc<Generation>,
    old: &[Arc<Generation>],
    reload: Reload,
    snapshots: &mut Snapshots,
) -> SwapReport {
    let start = Instant::now();
    slot.put_in_service(Some(Arc::clone(new)));
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
            if way.busy > 0 {
                report.failed += way.busy;
                report.first_failure.get_or_insert_with(|| BUSY.to_owned());
            }
        }
    }
    report.took = start.elapsed();
    report
}

/// Moves what `old` serves to `new`, which is in service and has been tried on its state only now.
pub(crate) fn swap_late(slot: &Arc<PluginSlot>, new: &Arc<Generation>, old: &Arc<Generation>) -> SwapReport {
    let (start, mut report) = (Instant::now(), SwapReport::default());
    let mut snapshots = Snapshots::up_to(0);
    Forth::new(slot, new, std::slice::from_ref(old), &mut snapshots).carry(&mut report);
    report.took = start.elapsed();
    report
}

/// Has the members of all that `old` serves rejoin on the code in service, if topics may start anew. Returns whether they may.
pub(crate) fn rejoin_late(slot: &PluginSlot, new: &Generation, old: &Generation) -> bool {
    let may = slot.config().on_migrate_error == OnMigrateError::Rejoin;
    let served = elsewhere(slot, new)
        .into_iter()
        .filter(|topic| topic.owner().generation == old.number);
    served.filter(|_| may).for_each(|topic| rejoin(&topic));
    may
}

/// Puts `good` in service again and gives it the topics of `bad` back: with their present state where it `reads_present`, else
/// with what `snapshots` holds, else with none.
pub(crate) fn swap_back(
    slot: &Arc<PluginSlot>,
    good: &Arc<Generation>,
    bad: &Arc<Generation>,
    reads_present: bool,
    snapshots: &mut Snapshots,
) -> SwapReport {
    let start = Instant::now();
    slot.put_in_service(Some(Arc::clone(good)));
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
        reads_present,
        lost_events: 0,
        restored: 0,
        rejoined: 0,
    };
    carry(topics, good, slot.config().swap_patience, &mut way, &mut report);
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
        notice: Notice::Error,
    });
}

/// Which way topics go, and with what.
trait Way {
    /// Sets a topic on its way. `false`: it does not move.
    fn give(&mut self, topic: Arc<Topic>, report: &mpsc::Sender<Moved>) -> bool;
    /// A topic has arrived with this.
    fn arrived(&mut self, topic: &Arc<Topic>, carried: Option<Snapshot>);
    /// A topic did not. `true`: it is on its way once more.
    fn failed(&mut self, topic: Arc<Topic>, report: &mpsc::Sender<Moved>) -> bool;
}

/// Has all of `waiting` go its way, to `taker`. Waits for the next one to have moved with `patience`.
fn carry(
    mut waiting: VecDeque<Arc<Topic>>,
    taker: &Generation,
    patience: Duration,
    way: &mut impl Way,
    report: &mut SwapReport,
) {
    let (reporter, reports) = mpsc::channel();
    let usual = IN_FLIGHT * taker.shard_count();
    let (mut moving, mut most) = (0, usual);
    loop {
        while moving < most
            && let Some(topic) = waiting.pop_front()
        {
            moving += usize::from(way.give(topic, &reporter));
        }
        if moving == 0 {
            return;
        }
        let moved = match reports.recv_timeout(patience) {
            Ok(moved) => moved,
            // A handler of the old code is stuck. All other topics go now, and its own when it comes back, if it does.
            Err(_) if most == usual => {
                most = usize::MAX;
                continue;
            }
            Err(_) => {
                report.failed += moving;
                report.first_failure.get_or_insert_with(|| BUSY.to_owned());
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
                moving -= 1;
                report.moved += 1;
                way.arrived(&moved.topic, moved.carried);
            }
            Some(_) if way.failed(Arc::clone(&moved.topic), &reporter) => {}
            Some(why) => {
                moving -= 1;
                report.failed += 1;
                report.first_failure.get_or_insert(why);
            }
        }
    }
}

/// To new code.
struct Forth<'a> {
    slot: &'a PluginSlot,
    new: &'a Generation,
    old: &'a [Arc<Generation>],
    snapshots: &'a mut Snapshots,
    /// Topics that do not move yet, as the new code has not been tried on anything of their generation.
    busy: usize,
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
            busy: 0,
        }
    }

    /// Has all that is not there yet go this way.
    fn carry(&mut self, report: &mut SwapReport) {
        let (slot, new) = (self.slot, self.new);
        carry(elsewhere(slot, new), new, slot.config().swap_patience, self, report);
    }
}

impl Way for Forth<'_> {
    /// Does not move what none of the old generations owns.
    fn give(&mut self, topic: Arc<Topic>, report: &mpsc::Sender<Moved>) -> bool {
        let owner = topic.owner();
        let old = self.old.iter().find(|old| old.number == owner.generation);
        let Some((old, shard)) = old.and_then(|old| Some((old, old.shard_of(&owner)?))) else {
            return false;
        };
        let version = old.manifest.state_version;
        if self.new.untried().contains(old.number) {
            self.busy += 1;
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

    fn failed(&mut self, _: Arc<Topic>, _: &mpsc::Sender<Moved>) -> bool {
        self.slot.stats.failed_migrations.inc();
        false
    }
}

/// Back to code that was in service before.
struct Back<'a> {
    slot: &'a PluginSlot,
    good: &'a Generation,
    bad: &'a Generation,
    snapshots: &'a mut Snapshots,
    reads_present: bool,
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

    /// Without the present state: with that at the swap, or with none.
    fn with_snapshot(&mut self, topic: Arc<Topic>, report: &mpsc::Sender<Moved>) -> bool {
        // A second failure loses nothing more.
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
        if self.reads_present {
            self.send(topic, None, report)
        } else {
            self.with_snapshot(topic, report)
        }
    }

    fn arrived(&mut self, _: &Arc<Topic>, _: Option<Snapshot>) {
        self.slot.stats.migrated_topics.inc();
    }

    /// The present state cannot be had, or not be read; the snapshot may do.
    fn failed(&mut self, topic: Arc<Topic>, report: &mpsc::Sender<Moved>) -> bool {
        self.slot.stats.failed_migrations.inc();
        self.with_snapshot(topic, report)
    }
}
