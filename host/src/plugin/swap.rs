//! Moving the topics of a plugin to another generation, a bounded number at a time.

use std::collections::VecDeque;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bennu_plugin::abi::reason;

use super::generation::Generation;
use super::handover::{Move, Moved, Reserved};
use super::shard::Control;
use super::slot::PluginSlot;
use crate::channel::{Input, Notice, Topic};
use crate::config::Reload;

/// Topics on the move at a time: the others go on being served meanwhile.
const IN_FLIGHT: usize = 32;

/// How long a swap waits for the next topic to have moved.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a swap went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SwapReport {
    /// Topics that were carried over.
    pub moved: usize,
    /// Topics that stayed, or started anew, with the reason of the first.
    pub failed: usize,
    /// That reason.
    pub first_failure: Option<String>,
    /// Topics whose members were told to rejoin.
    pub rejoined: usize,
    /// The longest time that a topic was held, in microseconds.
    pub longest_hold_us: u64,
    /// All of it.
    pub took: Duration,
}

/// Puts `new` in service and moves what `old` generations serve, as the plugin's `reload` says. Returns when every topic
/// has moved or is known to stay.
pub fn swap(slot: &Arc<PluginSlot>, new: &Arc<Generation>, old: &[Arc<Generation>]) -> SwapReport {
    let start = Instant::now();
    slot.put_in_service(Some(Arc::clone(new)));
    let mut report = SwapReport::default();
    match slot.config().reload {
        Reload::Drain => {}
        Reload::Rejoin => {
            for topic in elsewhere(slot, new) {
                topic.owe(Input::EndAll {
                    reason: reason::REROUTED,
                    notice: Notice::Error,
                });
                report.rejoined += 1;
            }
        }
        Reload::Migrate => migrate(slot, new, old, &mut report),
    }
    report.took = start.elapsed();
    report
}

fn elsewhere(slot: &PluginSlot, new: &Generation) -> VecDeque<Arc<Topic>> {
    slot.topics()
        .into_iter()
        .filter(|topic| topic.home().generation != new.number)
        .collect()
}

fn migrate(slot: &PluginSlot, new: &Generation, old: &[Arc<Generation>], report: &mut SwapReport) {
    let (reporter, reports) = mpsc::channel();
    let mut waiting = elsewhere(slot, new);
    let (mut moving, mut most) = (0, IN_FLIGHT);
    loop {
        while moving < most
            && let Some(topic) = waiting.pop_front()
        {
            moving += usize::from(give(slot, new, old, topic, &reporter));
        }
        if moving == 0 {
            return;
        }
        let moved = match reports.recv_timeout(PATIENCE) {
            Ok(moved) => moved,
            // A handler of the old code is stuck. All other topics go now, and its own when it comes back, if it does.
            Err(_) if most == IN_FLIGHT => {
                most = usize::MAX;
                continue;
            }
            Err(_) => {
                report.failed += moving;
                report
                    .first_failure
                    .get_or_insert_with(|| "the code that serves it is busy".to_owned());
                return;
            }
        };
        moving -= 1;
        report.longest_hold_us = report.longest_hold_us.max(moved.held_us);
        match moved.failed {
            None => {
                report.moved += 1;
                slot.stats.migrated_topics.inc();
            }
            Some(why) => {
                report.failed += 1;
                slot.stats.failed_migrations.inc();
                report.first_failure.get_or_insert(why);
            }
        }
    }
}

/// Asks a topic's home to give it to `new`. `false` if its home is in none of the `old` generations.
fn give(
    slot: &PluginSlot,
    new: &Generation,
    old: &[Arc<Generation>],
    topic: Arc<Topic>,
    report: &mpsc::Sender<Moved>,
) -> bool {
    let home = topic.home();
    let Some(old) = old.iter().find(|old| old.number == home.generation) else {
        return false;
    };
    let to = Reserved::new(slot.shard_of(&topic, new));
    let version = old.manifest.state_version;
    home.control(Control::Give(Box::new(Move {
        topic,
        to,
        version,
        report: report.clone(),
    })));
    true
}
