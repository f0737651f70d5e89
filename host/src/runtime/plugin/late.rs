//! Code that is loaded is tried on state that it could not be tried on before that: in a child, as always.
//!
//! Topics that could not move with the others, as the code that serves them had no moment to write a sample of its state, move when
//! that comes. And what code on probation has written since the swap is tried on the code before, which is to take it back.

use std::sync::Arc;

use super::generation::Generation;
use super::manager::Plugins;
use super::probe::{ProbeError, probe};
use super::sample::{self, Sample};
use super::slot::PluginSlot;
use super::swap::{SwapReport, rejoin_late, swap_late};

impl Plugins {
    /// Goes on with what has been heard of since.
    pub(crate) fn carry_late(&self) {
        for (name, slot) in self.slots() {
            let Some(new) = slot.current() else { continue };
            loop {
                // Not held while a child runs.
                let heard = new.untried().heard();
                let Some((number, sample)) = heard else { break };
                let live = self.live.get(name).map_or(&[][..], Vec::as_slice);
                if let Some(old) = live.iter().find(|old| old.number == number) {
                    self.try_late(slot, &new, old, sample);
                }
            }
        }
    }

    /// Whether `good` may be given the state that `bad` has written: it reads its version, and does not die of it.
    pub(super) fn takes_back(&self, slot: &PluginSlot, good: &Generation, bad: &Arc<Generation>) -> bool {
        let reads = &good.manifest.reads;
        if !reads.contains(&bad.manifest.state_version) {
            return false;
        }
        // What cannot be had at once is not waited for: topics are to leave the bad code soon.
        let samples = sample::of(slot, std::slice::from_ref(bad), reads, &slot.config());
        match self.try_on(good, samples.taken, slot) {
            // That says nothing of the state.
            Ok(()) | Err(ProbeError::Run(_)) => true,
            Err(error) => {
                tracing::error!(
                    plugin = slot.name,
                    from = bad.number,
                    "the present state of its topics is not given back: in a child {error}"
                );
                false
            }
        }
    }

    /// Has loaded code read samples of state, none of which it has to understand.
    fn try_on(&self, code: &Generation, samples: Vec<Sample>, slot: &PluginSlot) -> Result<(), ProbeError> {
        if samples.is_empty() {
            return Ok(());
        }
        let samples = samples.into_iter().map(Sample::optional).collect();
        let limits = slot.config().probe;
        probe(&self.pipeline.exe, code.library(), &code.settings, samples, &limits).map(drop)
    }

    fn try_late(&self, slot: &Arc<PluginSlot>, new: &Arc<Generation>, old: &Arc<Generation>, sample: Option<Sample>) {
        let (plugin, from) = (&slot.name, old.number);
        if let Err(error) = self.try_on(new, sample.into_iter().collect(), slot) {
            let rejoined = rejoin_late(slot, new, old);
            tracing::error!(
                plugin,
                from,
                rejoined,
                "the state of its topics is not given to the code in service: in a child {error}"
            );
            return;
        }
        let SwapReport {
            moved,
            failed,
            first_failure,
            ..
        } = swap_late(slot, new, old);
        tracing::info!(
            plugin,
            from,
            generation = new.number,
            topics = moved,
            "topics carried over after all"
        );
        if let Some(failure) = first_failure {
            tracing::error!(plugin, failed, "topics could not be carried over; the first: {failure}");
        }
    }
}
