//! Tries code in service on state that it has written itself, so that its author hears what a reload would lose before there is one.
//!
//! The probe tries a library only on the state that a topic begins with: other values come into being while the code serves. So
//! some state of each generation is read in a child, as at a reload: soon after the generation has topics, then more and more
//! rarely.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::generation::Generation;
use super::pipeline::Pipeline;
use super::sample;
use super::slot::PluginSlot;
use crate::config::Reload;

/// After how long a generation with topics is looked at; then after ten times as long.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// How long there is at most between two looks.
const LONGEST: Duration = Duration::from_secs(3_600);

/// When the state of one generation is looked at.
#[derive(Debug, Default)]
pub(super) struct Survival {
    generation: u64,
    /// `None`: it has no topics yet.
    next: Option<(Instant, Duration)>,
    /// Its state does not survive. That is said once.
    is_over: bool,
}

impl Survival {
    /// When to look next, if at all. A generation that has no topics may have some at any moment.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.next {
            _ if self.is_over => None,
            Some((at, _)) => Some(at),
            None => Some(Instant::now() + FIRST_LOOK),
        }
    }

    /// Looks at the state of the code in service, if it is time.
    pub(super) fn look(&mut self, pipeline: &Pipeline, slot: &PluginSlot) {
        let Some(current) = slot.current().filter(|current| is_looked_at(slot, current)) else {
            *self = Self {
                is_over: true,
                ..Self::default()
            };
            return;
        };
        if self.generation != current.number {
            *self = Self {
                generation: current.number,
                ..Self::default()
            };
        }
        if self.is_over || slot.topic_count() == 0 {
            return;
        }
        let now = Instant::now();
        match self.next {
            None => self.next = Some((now + FIRST_LOOK, FIRST_LOOK)),
            Some((at, _)) if at > now => {}
            Some((_, after)) => {
                let after = (after * 10).min(LONGEST);
                self.next = Some((now + after, after));
                self.is_over = !survives(pipeline, slot, &current);
            }
        }
    }
}

/// Whether topics of this code are to survive a reload, and its kit checks that.
fn is_looked_at(slot: &PluginSlot, code: &Generation) -> bool {
    let config = slot.config();
    config.reload == Reload::Migrate
        && config.probe_topics > 0
        && config.probe_bytes > 0
        && code.manifest.has_channel
        && code.manifest.checks_state()
}

/// Whether the code reads some of its own state. Says if it does not.
fn survives(pipeline: &Pipeline, slot: &PluginSlot, code: &Arc<Generation>) -> bool {
    let config = slot.config();
    let samples = sample::of(slot, std::slice::from_ref(code), &code.manifest.reads, &config);
    if samples.taken.is_empty() {
        return true;
    }
    match pipeline.try_own(code, samples.taken, &config.probe) {
        Err(error) if !error.may_pass() => {
            tracing::error!(
                plugin = slot.name,
                generation = code.number,
                "a reload would lose state of this plugin: {error}"
            );
            false
        }
        // That the child could not be run says nothing of the state.
        Ok(()) | Err(_) => true,
    }
}
