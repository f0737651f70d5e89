//! Topics that could not move with the others, as the code that serves them had no moment to write a sample of its state: the new
//! code is tried on it when that comes, in a child as always, and they move then.

use std::sync::Arc;

use super::generation::Generation;
use super::manager::Plugins;
use super::probe::probe;
use super::sample::Sample;
use super::slot::PluginSlot;
use super::swap::{SwapReport, rejoin_late, swap_late};

impl Plugins {
    /// Goes on with what has been heard of since.
    pub fn carry_late(&self) {
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

    fn try_late(&self, slot: &Arc<PluginSlot>, new: &Arc<Generation>, old: &Arc<Generation>, sample: Option<Sample>) {
        let (plugin, from, config) = (&slot.name, old.number, slot.config());
        let samples: Vec<_> = sample.into_iter().map(Sample::optional).collect();
        if !samples.is_empty()
            && let Err(error) = probe(
                &self.pipeline.exe,
                new.library(),
                &config.settings,
                samples,
                &config.probe,
            )
        {
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
