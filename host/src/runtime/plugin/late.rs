//! Tries loaded code on state that could not be sampled before it was loaded: in a child process, as the probe does.
//!
//! A generation that was too busy to be sampled keeps its topics. They move once it has been sampled and the new code has
//! passed on that sample. And before a rollback, the previous code is tried on the state that the new code has written.

use std::sync::Arc;

use super::generation::Generation;
use super::pipeline::Pipeline;
use super::sample::{self, Heard};
use super::slot::PluginSlot;
use super::swap::{NOT_MOVED, SwapReport, rejoin_late, swap_late};

/// Moves the topics of those `live` generations that have been sampled since the last look.
pub(super) fn carry(pipeline: &Pipeline, slot: &Arc<PluginSlot>, live: &[Arc<Generation>]) {
    let Some(new) = slot.current() else { return };
    loop {
        // Not held while a child runs.
        let heard = new.untried().heard();
        let Some(heard) = heard else { return };
        if let Some(old) = live.iter().find(|old| old.number == heard.generation) {
            carry_from(pipeline, slot, &new, old, heard);
        }
    }
}

fn carry_from(pipeline: &Pipeline, slot: &Arc<PluginSlot>, new: &Arc<Generation>, old: &Arc<Generation>, heard: Heard) {
    let (plugin, from, config) = (&slot.name, old.number, slot.config());
    let samples = heard.sample.clone().into_iter().collect();
    let tried = pipeline.try_on(new, samples, &config.probe);
    if let Err(error) = &tried
        && error.may_pass()
        && heard.put_off < config.probe_retries
    {
        tracing::warn!(plugin, from, "topics not moved yet: the probe could not run: {error}");
        return new.untried().put_off(heard);
    }
    if let Err(error) = tried {
        let rejoined = rejoin_late(slot, new, old);
        tracing::error!(
            plugin,
            from,
            rejoined,
            "topics not moved: the new code failed on a sample of their state, in a child process: {error}"
        );
        return;
    }
    let SwapReport { moved, failures, .. } = swap_late(slot, new, old);
    tracing::info!(
        plugin,
        from,
        generation = new.number,
        topics = moved,
        "topics moved later"
    );
    failures.announce(plugin, NOT_MOVED);
}

/// Checks that `good` may be given the state that `bad` has written: it reads that version, and does not crash over it. What it
/// would lose of it shows when it reads each topic.
///
/// # Errors
///
/// Why it may not.
pub(super) fn takes_back(
    pipeline: &Pipeline,
    slot: &PluginSlot,
    good: &Generation,
    bad: &Arc<Generation>,
) -> Result<(), String> {
    let (reads, version) = (&good.manifest.reads, bad.manifest.state_version);
    if !reads.contains(&version) {
        return Err(format!("the previous code cannot read state version {version}"));
    }
    // Does not wait for a busy shard: topics have to leave the bad code soon.
    let samples = sample::of(slot, std::slice::from_ref(bad), reads, &slot.config());
    match pipeline.try_on(good, samples.taken, &slot.config().probe) {
        Ok(()) => Ok(()),
        // That the child could not be run says nothing of the state.
        Err(error) if error.may_pass() => Ok(()),
        Err(error) => {
            tracing::error!(
                plugin = slot.name,
                from = bad.number,
                "the previous code cannot take the current state of the topics: it failed on a sample, in a child process: {error}"
            );
            Err(format!("it failed on a sample, in a child process: {error}"))
        }
    }
}
