//! The end of code that nobody needs any more: its late work, its promises, its library, and what is left of it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bennu_plugin::abi::ABI_MAJOR;

use super::generation::{Generation, Retired};
use super::hub::Hub;
use super::leaks;
use super::slot::PluginSlot;
use super::step::Step;
use crate::runtime::channel::Input;
use crate::runtime::{clock, threads};

/// Generations that are on their way out.
#[derive(Debug)]
pub(super) struct Retirement {
    hub: Arc<Hub>,
    /// They have no topics, and time for late work.
    waiting: Vec<Waiting>,
    /// The threads that end those whose time is over.
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Waiting {
    slot: Arc<PluginSlot>,
    generation: Arc<Generation>,
    since: Instant,
}

impl Retirement {
    /// None yet.
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self {
            hub,
            waiting: Vec::new(),
            threads: Vec::new(),
        }
    }

    /// Gives a generation its time for late work, after which it ends.
    pub(super) fn add(&mut self, slot: &Arc<PluginSlot>, generation: Arc<Generation>) {
        self.waiting.push(Waiting {
            slot: Arc::clone(slot),
            generation,
            since: clock::now(),
        });
    }

    /// Whether generations wait.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The generations whose time is over.
    pub(super) fn take_due(&mut self) -> Vec<(Arc<PluginSlot>, Arc<Generation>)> {
        let is_due = |waiting: &mut Waiting| {
            waiting.generation.residents() == 0 && clock::since(waiting.since) >= waiting.slot.config().retire
        };
        let due = self.waiting.extract_if(.., is_due);
        due.map(|waiting| (waiting.slot, waiting.generation)).collect()
    }

    /// Ends a generation, on a thread of its own: a stuck handler must not keep other plugins from being replaced.
    pub(super) fn end(&mut self, slot: Arc<PluginSlot>, generation: Arc<Generation>) {
        let hub = Arc::clone(&self.hub);
        self.on_a_thread(move || bury(&hub, &slot, &generation));
    }

    /// The same when the host stops: the library stays mapped, as code of it may still run and the process ends anyway.
    pub(super) fn stop(&mut self, slot: Arc<PluginSlot>, generation: Arc<Generation>) {
        let hub = Arc::clone(&self.hub);
        self.on_a_thread(move || {
            generation.end();
            break_promises(&hub, &slot, generation.number);
        });
    }

    fn on_a_thread(&mut self, body: impl FnOnce() + Send + 'static) {
        self.threads.retain(|thread| !thread.is_finished());
        match threads::spawn("retire", body) {
            Ok(thread) => self.threads.push(thread),
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot start a thread to unload a generation"
            ),
        }
    }

    /// Waits for the generations that are ending, at most until `deadline`.
    pub(super) fn wait(&self, deadline: Instant) {
        while Instant::now() < deadline && self.threads.iter().any(|thread| !thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Has what a generation has promised be answered, now that it cannot any more: but for what has become data, which other
/// code has read or will.
fn break_promises(hub: &Hub, slot: &PluginSlot, generation: u64) {
    hub.connects.retired(slot, generation);
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
fn bury(hub: &Hub, slot: &PluginSlot, generation: &Generation) {
    let start = Instant::now();
    let retired = generation.retire();
    break_promises(hub, slot, generation.number);
    if let Some(left) = generation.left() {
        tracing::warn!(
            plugin = slot.name,
            generation = generation.number,
            cause = left.cause,
            "parts of this generation stay in memory"
        );
        slot.journal.left_behind(generation.number, left);
    }
    match retired {
        Retired::Unmapped => {
            let took_ms = start.elapsed().as_millis();
            slot.journal.passed(&slot.name, Step::Retire);
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
                "generation ended; its library stays in memory"
            );
        }
        Retired::Stuck(threads) => {
            slot.stats.leaked_generations.inc();
            tracing::error!(
                plugin = slot.name,
                generation = generation.number,
                threads,
                "generation ended, but threads of it did not return: its library stays in memory"
            );
        }
    }
    let leaks = leaks::after_reload(&slot.name);
    if let Some(bytes) = leaks.bytes {
        say_memory(slot, bytes);
    }
    if let Some(files @ 1..) = leaks.files {
        tracing::warn!(
            plugin = slot.name,
            files,
            "each reload leaves open files behind: when the plugin's value is dropped, close what its statics hold"
        );
    }
    for generation in slot.journal.gone_since() {
        slot.stats.leaked_generations.dec();
        tracing::info!(plugin = slot.name, generation, "generation unloaded later");
    }
}

/// Notes how much memory stays at each reload, and says so past the bound.
fn say_memory(slot: &PluginSlot, bytes: u64) {
    let shown = i64::try_from(bytes).unwrap_or(i64::MAX);
    slot.stats.leaked_bytes_per_reload.set(shown);
    let most = slot.config().max_leak_bytes_per_reload;
    if bytes > most {
        tracing::warn!(
            plugin = slot.name,
            bytes,
            max_leak_bytes_per_reload = most,
            "each reload leaks memory: when the plugin's value is dropped, free what its statics hold, and those of the libraries \
             that it uses"
        );
    }
}
