//! Plugins: from a file to code in service, and its replacement while everyone stays connected.
//!
//! [`manager`] has all plugins of the host. A library takes these steps, each a [`Step`](step::Step):
//!
//! 1. **Notice**: the server's control hears that a library's contents have changed; in `dev`, [`cargo`](crate::cargo) builds it.
//! 2. **Read**: [`stage::read_settled`] reads it once it has stopped changing.
//! 3. **Check**: [`elf`] finds the file complete and made for this machine.
//! 4. **Manifest**: [`manifest`] reads what the library says of itself.
//! 5. **Quarantine**: contents that did harm before are not loaded again ([`quarantine`]), nor what is not allowed.
//! 6. **Stage**: [`stage::StagedFile`] keeps a private copy of exactly these bytes.
//! 7. **Probe**: [`probe`] loads it in a child process, compares layouts, and has the plugin check its settings and read a
//!    [`sample`] of the live state.
//! 8. **Load**: [`loader`] maps it and makes its calls safe; [`generation`] starts its shards.
//! 9. **Swap**: [`swap`] moves topic after topic, each by a [`handover`] between two shards.
//! 10. **Probation**: the previous code takes over again if the new code causes too many faults (`probation`).
//! 11. **Retire**: `retire` ends a generation that no topic needs; [`mapping`] tells whether it is really gone, and [`left`] why not.
//!
//! [`pipeline`] does steps 2 to 7, which run none of the library in this process. A failure before the swap changes nothing:
//! what was in service stays. Each error has a `code()` for metrics, and the [`journal`] keeps what happened last.
//! The control thread takes steps 1 to 10; builds of `dev` and the end of each generation have threads of their own. [`shard`] is
//! where plugin code runs, [`batch`] by batch. [`watchdog`] notices code that does not return.

mod abandon;
mod backtrace;
mod batch;
mod bridge;
mod commit;
mod companions;
mod connect;
pub(crate) mod crash;
mod durable;
mod effects;
pub(crate) mod elf;
pub(crate) mod env;
pub(crate) mod generation;
pub(crate) mod handling;
mod handover;
pub(crate) mod health;
mod homes;
mod hub;
pub(crate) mod journal;
pub(crate) mod kept;
mod late;
mod leaks;
pub(crate) mod left;
pub(crate) mod loader;
mod log;
pub(crate) mod manager;
pub(crate) mod manifest;
pub(crate) mod mapping;
pub(crate) mod pipeline;
pub(crate) mod plan;
mod probation;
pub(crate) mod probe;
pub(crate) mod quarantine;
mod references;
mod refused_effects;
mod retire;
mod routes;
pub(crate) mod sample;
pub(crate) mod shard;
mod slot;
pub(crate) mod stage;
pub(crate) mod static_tls;
pub(crate) mod step;
mod survival;
pub(crate) mod swap;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod watchdog;

pub(crate) use connect::{Asked, ConnectCall, Connected};
#[cfg(feature = "cluster")]
pub(crate) use handover::{Arrived, Arriving, Departed, Departing, NotTaken, Stays, Terms};
#[cfg(feature = "cluster")]
pub(crate) use homes::Homes;
pub(crate) use hub::{Hub, NotCalled, Published};
pub(crate) use log::wrote;
pub(crate) use routes::{Place, Routes};
pub(crate) use slot::{JoinRefused, PluginSlot};

/// Makes a process ready to load plugins. Call it before anything else is started: the program may start anew, and threads that
/// there are already may run a plugin's handler for SIGTERM.
///
/// # Errors
///
/// If the system refuses it.
pub(crate) fn prepare_process(config: &crate::config::Config) -> std::io::Result<()> {
    static_tls::reserve(config)?;
    loader::signals::guard()
}
