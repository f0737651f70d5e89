//! Says whose code a shard's thread runs: the plugin's or the host's.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::thread::Pid;

/// One number that the shard's thread writes and the watchdog reads. Its lowest two bits say whose code runs, the others count the
/// events.
///
/// The watchdog gives the shard up by a compare-exchange while the plugin's code runs. From then on, every call of the plugin fails.
/// So the host commits nothing of an event that it has already answered in the plugin's place.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    beat: AtomicU64,
    thread: OnceLock<Pid>,
}

/// The shard was abandoned while the plugin's code ran: nothing that it did counts, and its thread has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Abandoned;

const TURN: u64 = 3;
/// The host's code runs.
const IDLE: u64 = 0;
/// The plugin's code runs.
const PLUGIN: u64 = 1;
/// The plugin's code has called the host.
const HOST: u64 = 2;
/// The shard was abandoned.
const OVER: u64 = 3;
const NEXT: u64 = 4;

impl Pulse {
    /// Notes the calling thread as the shard's.
    pub(crate) fn attach(&self) {
        self.thread.get_or_init(rustix::thread::gettid);
    }

    /// The thread, once it has started.
    #[must_use]
    pub(crate) fn thread(&self) -> Option<Pid> {
        self.thread.get().copied()
    }

    /// Notes that the plugin is called next.
    pub(crate) fn enter(&self) {
        let beat = self.beat.load(Ordering::Relaxed);
        if beat & TURN != OVER {
            self.beat
                .store((beat & !TURN).wrapping_add(NEXT) | PLUGIN, Ordering::Release);
        }
    }

    /// Notes that the plugin has returned.
    ///
    /// # Errors
    ///
    /// If the shard was abandoned meanwhile.
    pub(crate) fn leave(&self) -> Result<(), Abandoned> {
        self.turn(PLUGIN, IDLE)
    }

    /// Notes that the plugin calls the host.
    ///
    /// # Errors
    ///
    /// If the shard was abandoned meanwhile.
    pub(crate) fn call(&self) -> Result<(), Abandoned> {
        self.turn(PLUGIN, HOST)
    }

    /// Notes that the host returns to the plugin. `next`: one event is done, and another begins.
    pub(crate) fn give_back(&self, next: bool) {
        let beat = self.beat.load(Ordering::Relaxed) & !TURN;
        let beat = if next { beat.wrapping_add(NEXT) } else { beat };
        self.beat.store(beat | PLUGIN, Ordering::Release);
    }

    fn turn(&self, from: u64, to: u64) -> Result<(), Abandoned> {
        let beat = self.beat.load(Ordering::Relaxed);
        if beat & TURN != from {
            return Err(Abandoned);
        }
        let new = (beat & !TURN) | to;
        match self
            .beat
            .compare_exchange(beat, new, Ordering::AcqRel, Ordering::Relaxed)
        {
            Ok(_) => Ok(()),
            Err(_) => Err(Abandoned),
        }
    }

    /// The number of the current event, if there is one.
    #[must_use]
    pub(crate) fn event(&self) -> Option<u64> {
        let beat = self.beat.load(Ordering::Acquire);
        matches!(beat & TURN, PLUGIN | HOST).then_some(beat & !TURN)
    }

    /// Gives the shard up, if the plugin's code still runs for this event. `false` if it does not, or calls the host just now.
    #[must_use]
    pub(crate) fn abandon(&self, event: u64) -> bool {
        let over = event | OVER;
        let done = self
            .beat
            .compare_exchange(event | PLUGIN, over, Ordering::AcqRel, Ordering::Relaxed);
        done.is_ok()
    }

    /// Whether the shard was abandoned.
    #[must_use]
    pub(crate) fn is_over(&self) -> bool {
        self.beat.load(Ordering::Acquire) & TURN == OVER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_has_its_number_until_it_is_done() {
        let pulse = Pulse::default();
        assert_eq!(pulse.event(), None);
        pulse.enter();
        let first = pulse.event();
        pulse.call().unwrap();
        assert_eq!(pulse.event(), first, "an effect is part of the event");
        pulse.give_back(false);
        assert_eq!(pulse.event(), first);
        pulse.call().unwrap();
        pulse.give_back(true);
        assert!(pulse.event().is_some_and(|event| Some(event) != first));
        pulse.leave().unwrap();
        assert_eq!(pulse.event(), None);
    }

    #[test]
    fn a_plugin_that_was_given_up_finds_every_way_closed() {
        let pulse = Pulse::default();
        pulse.enter();
        let event = pulse.event().unwrap();
        assert!(pulse.abandon(event));
        assert_eq!((pulse.call(), pulse.leave()), (Err(Abandoned), Err(Abandoned)));
        pulse.enter();
        assert!(pulse.is_over(), "for ever");
    }

    #[test]
    fn nobody_is_given_up_for_an_event_that_is_done_or_in_the_hands_of_the_host() {
        let pulse = Pulse::default();
        assert!(!pulse.abandon(0), "nothing runs");
        pulse.enter();
        let event = pulse.event().unwrap();
        pulse.call().unwrap();
        assert!(!pulse.abandon(event), "the host is at work for it");
        pulse.give_back(true);
        assert!(!pulse.abandon(event), "the next has begun");
        pulse.leave().unwrap();
    }
}
