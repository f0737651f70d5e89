//! The settings of a plugin.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::content_hash::ContentHash;
use super::probe_limits::ProbeLimits;

/// `[plugins.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plugin {
    /// The library. Required in `serve`; `dev` builds `plugins/NAME` instead. Absolute by now.
    pub(crate) library: Option<PathBuf>,
    /// SHA-256 hashes of the contents that may be loaded. `None`: any.
    pub(crate) allow: Option<Arc<[ContentHash]>>,
    /// How many threads run it. Default: one per core, at least two.
    pub(crate) shards: NonZeroUsize,
    /// `settings` as JSON text; `{}` if they are missing.
    pub(crate) settings: Arc<str>,
    /// What happens to topics when the library is replaced. Default `migrate`.
    pub(crate) reload: Reload,
    /// What happens to a topic whose state the new code cannot read. Default `keep`.
    pub(crate) on_migrate_error: OnMigrateError,
    /// What a panic ends. Default: the member.
    pub(crate) on_panic: OnPanic,
    /// How long a topic keeps its state after its last member has left. Default 10 s.
    pub(crate) linger: Duration,
    /// What of a topic outlives the process. Default: nothing.
    pub(crate) durability: Durability,
    /// How far the stored state may be behind, with [`Durability::Checkpoint`]. Default 1 s.
    pub(crate) checkpoint: Duration,
    /// How long a topic that nobody is in stays stored. Default 0: for ever.
    pub(crate) retain: Duration,
    /// How many bytes a capsule may have. Beyond that, Bennu does not store the topic. Default 16 MiB.
    pub(crate) max_state_bytes: usize,
    /// A topic broadcasts at most one `presence_diff` in this time. Default 100 ms.
    pub(crate) presence_interval: Duration,
    /// How many bytes the presence list of a topic may take. Default 1 MiB.
    pub(crate) max_presence_bytes: usize,
    /// How many client events and joins may wait for one topic. Beyond that: `overloaded`. Default 1000.
    pub(crate) max_mailbox_events: usize,
    /// The same as memory in bytes, frames and promised replies included. Default 8 MiB.
    pub(crate) max_mailbox_bytes: usize,
    /// The same for all topics of the plugin together, and once more for plugin messages. Default 256 MiB.
    pub(crate) max_mailbox_total_bytes: usize,
    /// How many plugin messages may wait for one topic: intercepted broadcasts, messages to itself, late answers. Beyond that, a
    /// broadcast ends the topic; for anything else the sending plugin gets an error. Default 10,000.
    pub(crate) max_mailbox_messages: usize,
    /// The same as memory in bytes. Default 64 MiB.
    pub(crate) max_mailbox_message_bytes: usize,
    /// How many topics there may be at a time. Beyond that, joins get `overloaded`. Default 100,000.
    pub(crate) max_topics: usize,
    /// How many events may wait for a pending join. Beyond that: `overloaded`. Default 100.
    pub(crate) max_pending_events: usize,
    /// How long a plugin may take to answer a join later. After that, Bennu refuses the join. Default 10 s.
    pub(crate) join_deadline: Duration,
    /// How many timers and delayed messages one topic may have. Beyond that, the plugin gets an error. Default 10,000.
    pub(crate) max_timers_per_topic: usize,
    /// How many replies one topic may owe. Beyond that, the plugin gets an error. Default 10,000.
    pub(crate) max_promises_per_topic: usize,
    /// How long replaced code stays loaded to finish its work. Default 1 s.
    pub(crate) retire: Duration,
    /// How many effects one event may have, its reply not counted. Beyond that, the plugin gets an error. Default 10,000.
    pub(crate) max_effects_per_event: usize,
    /// The same in bytes, also for anything else that the plugin hands over at a time. Default 64 MiB.
    pub(crate) max_effect_bytes_per_event: usize,
    /// How long a callback may run before Bennu logs it. Default 50 ms.
    pub(crate) warn: Duration,
    /// How long a callback may run at most. After that, Bennu abandons its thread. Default 10 s.
    pub(crate) deadline: Duration,
    /// How many abandoned threads may be stuck at a time. Beyond that, Bennu starts no other thread in their place. Default 8.
    pub(crate) max_stuck_threads: usize,
    /// How many replaced libraries may stay in memory. Beyond that, Bennu rejects new libraries. Default 16.
    pub(crate) max_leaked: usize,
    /// How many bytes of memory a reload may leave behind. Beyond that, Bennu logs a warning. Default 8 MiB.
    pub(crate) max_leak_bytes_per_reload: u64,
    /// On the live state of how many topics the probe tries new code. Default 8; 0: none.
    pub(crate) probe_topics: usize,
    /// The same in bytes. Leaves out a topic whose own state does not fit. Default 1 MiB.
    pub(crate) probe_bytes: usize,
    /// How long a reload waits for a topic whose handler is slow. Default 5 s.
    pub(crate) swap_patience: Duration,
    /// Limits of the probe process. Default 10 s and 2 GiB.
    pub(crate) probe: ProbeLimits,
    /// How often Bennu retries a library if its probe was killed from outside, or could not be run. Default 8.
    pub(crate) probe_retries: u32,
    /// How long new code is on probation. Default 10 s; zero: no probation.
    pub(crate) probation: Duration,
    /// How many panics on probation bring the previous code back. Default 3.
    pub(crate) probation_panics: u64,
    /// How many errors on probation do: replies with the status `error`, and refused effects. Default 0: Bennu does not count them.
    pub(crate) probation_errors: u64,
    /// Which state topics go back with if the previous code cannot read their present state. Default `snapshot`.
    pub(crate) on_rollback: OnRollback,
    /// How many bytes of snapshots Bennu keeps on probation. Default 64 MiB.
    pub(crate) max_rollback_bytes: usize,
    /// What Bennu does after repeated panics. Default: nothing more.
    pub(crate) on_panics: OnPanics,
    /// How many panics within [`Plugin::panics_window`] count as repeated. Default 100.
    pub(crate) max_panics: usize,
    /// See [`Plugin::max_panics`]. Default 60 s.
    pub(crate) panics_window: Duration,
}

/// Which state topics go back with if the previous code cannot read their present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnRollback {
    /// The snapshot from the moment they moved. Later changes are lost.
    Snapshot,
    /// None: their members get `phx_error` and join again.
    Rejoin,
}

/// What Bennu does after repeated panics of a plugin, on probation or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnPanics {
    /// Nothing more: each panic has ended its member.
    GoOn,
    /// Starts the same library anew, without its state.
    Restart,
    /// Loads the last good library and quarantines this one.
    RollBack,
    /// Refuses joins until the library changes.
    OutOfService,
}

/// What happens to topics when the library is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    /// Bennu carries their state over.
    Migrate,
    /// They stay on the old code until they are empty.
    Drain,
    /// Their members get `phx_error` and join again.
    Rejoin,
}

/// What happens to a topic whose state the new code cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnMigrateError {
    /// It stays on the old code.
    Keep,
    /// Its members get `phx_error` and join again, on the new code.
    Rejoin,
}

/// What of a topic outlives the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Nothing.
    None,
    /// Its state, as it was a moment before.
    Checkpoint,
    /// Its state: nobody is told of anything before the state behind it is stored.
    Commit,
}

impl Durability {
    /// All, by their names in the configuration.
    pub(crate) const ALL: [(&'static str, Self); 3] = [
        ("none", Self::None),
        ("checkpoint", Self::Checkpoint),
        ("commit", Self::Commit),
    ];

    /// Its name in the configuration.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        let known = Self::ALL.into_iter().find(|(_, known)| *known == self);
        known.map_or("none", |(name, _)| name)
    }
}

/// What a panic in a callback ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnPanic {
    /// The member in whose callback it happened.
    Member,
    /// The topic: all its members and its shared state.
    Topic,
}
