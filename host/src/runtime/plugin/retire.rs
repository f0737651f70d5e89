//! The end of code that nobody needs any more: its late work, its promises, its library, and what is left of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bennu_plugin::abi::ABI_MAJOR;

use super::generation::{Generation, Retired};
use super::manager::Plugins;
use super::slot::PluginSlot;
use crate::runtime::channel::Input;

impl Plugins {
    /// Whether [`Plugins::retire`] has something to wait for.
    #[must_use]
    pub(crate) fn is_retiring(&self) -> bool {
        !self.retiring.is_empty() || self.has_old()
    }

    /// Whether topics may still be at home in code that is out of service.
    fn has_old(&self) -> bool {
        self.live.values().any(|live| live.len() > 1)
    }

    /// Ends generations that no topic needs any more, once they have had their time for late work.
    pub(crate) fn retire(&mut self) {
        for (name, live) in &mut self.live {
            let Some(slot) = self.slots.get(name) else { continue };
            let last = live.len().saturating_sub(1);
            let mut index = 0;
            live.retain(|generation| {
                index += 1;
                let proving = self.proving.get(name).and_then(|proving| proving.before.as_ref());
                let fallback = proving.is_some_and(|before| before.number == generation.number);
                let keep = index > last || fallback || generation.residents() > 0;
                if !keep {
                    self.retiring
                        .push((Arc::clone(slot), Arc::clone(generation), Instant::now()));
                }
                keep
            });
        }
        let due = |(slot, generation, since): &mut (Arc<PluginSlot>, Arc<Generation>, Instant)| {
            generation.residents() == 0 && since.elapsed() >= slot.config().retire
        };
        let due: Vec<_> = self.retiring.extract_if(.., due).collect();
        if !due.is_empty() {
            self.tell_interceptors();
        }
        self.retirements.retain(|thread| !thread.is_finished());
        for (slot, generation, _) in due {
            // On a thread of its own: a stuck handler must not keep other plugins from being replaced.
            let body = move || bury(&slot, &generation);
            match std::thread::Builder::new().name("retire".into()).spawn(body) {
                Ok(thread) => self.retirements.push(thread),
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "no thread to retire a generation on"
                ),
            }
        }
    }

    /// Ends everything: the host stops.
    pub(crate) fn stop(mut self, deadline: Instant) {
        for slot in self.slots.values() {
            slot.put_in_service(None);
        }
        let all = std::mem::take(&mut self.live);
        for (name, generations) in all {
            let Some(slot) = self.slots.get(&name) else { continue };
            for generation in generations {
                let slot = Arc::clone(slot);
                self.retirements
                    .push(std::thread::spawn(move || bury(&slot, &generation)));
            }
        }
        while Instant::now() < deadline && self.retirements.iter().any(|thread| !thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Has what a generation has promised be answered, now that it cannot any more: but for what has become data, which other
/// code has read or will.
fn break_promises(slot: &PluginSlot, generation: u64) {
    // Code of an older kit does not say what it has read.
    if slot
        .current()
        .is_some_and(|current| current.manifest.abi < (ABI_MAJOR, 2))
    {
        return;
    }
    for topic in slot.topics() {
        let owes = topic
            .record()
            .promises
            .values()
            .any(|promise| promise.by() == generation);
        if owes {
            topic.owe(Input::Retired { generation });
        }
    }
}

/// Ends a generation and says what is left of it.
fn bury(slot: &PluginSlot, generation: &Generation) {
    let start = Instant::now();
    let retired = generation.retire();
    break_promises(slot, generation.number);
    if let Some(left) = generation.left() {
        tracing::warn!(
            plugin = slot.name,
            generation = generation.number,
            cause = left.cause,
            "what is left of it"
        );
        slot.journal.left_behind(generation.number, left);
    }
    match retired {
        Retired::Unmapped => {
            let took_ms = start.elapsed().as_millis();
            slot.journal.passed(&slot.name, "retire");
            tracing::info!(
                plugin = slot.name,
                generation = generation.number,
                took_ms,
                "generation unloaded"
            );
        }
        Retired::Mapped => {
            slot.stats.leaked_generations.inc();
            tracing::warn!(
                plugin = slot.name,
                generation = generation.number,
                "generation ended, but its library is still mapped"
            );
        }
        Retired::Stuck(threads) => {
            slot.stats.leaked_generations.inc();
            tracing::error!(
                plugin = slot.name,
                generation = generation.number,
                threads,
                "generation ended, but its library stays mapped: threads of it do not return"
            );
        }
    }
    for generation in slot.journal.gone_since() {
        slot.stats.leaked_generations.dec();
        tracing::info!(plugin = slot.name, generation, "generation unloaded after all");
    }
}
