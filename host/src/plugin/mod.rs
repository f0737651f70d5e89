//! Plugins: from a file to code in service, and its replacement while everyone stays connected.
//!
//! 1. **Notice**: [`watch`] tells that a library's contents changed; in `dev`, [`cargo`] builds it.
//! 2. **Read**: [`stage::read_settled`] reads it once it has stopped changing.
//! 3. **Check**: [`elf`] finds the file complete and made for this machine.
//! 4. **Manifest**: [`manifest`] reads what the library says of itself.
//! 5. **Quarantine**: contents that did harm before are not loaded again ([`quarantine`]), nor what is not allowed.
//! 6. **Stage**: [`stage::StagedFile`] keeps a private copy of exactly these bytes.
//! 7. **Probe**: [`probe`] loads it in a child process, compares layouts and has the settings checked, and a
//!    [`sample`] of the live state read.
//! 7. **Load**: [`loader`] maps it and makes its calls safe; [`generation`] starts its shards.
//! 8. **Swap**: [`swap`] moves topic after topic, each by a [`handover`] between two shards.
//! 9. **Probation**: [`probation`] has the code before take over again if the new code does not do.
//! 10. **Retire**: `retire` ends a generation that no topic needs; [`mapping`] tells whether it is really gone, and [`left`] why not.
//!
//! A failure before the swap changes nothing: what was in service stays. Each error has a `code()` for metrics, and the
//! [`journal`] keeps what happened last.
//! [`service`] is the thread that does these steps; [`shard`] is where plugin code runs, [`batch`] by batch. [`watchdog`]
//! notices code that does not return.

mod backtrace;
mod batch;
mod bridge;
pub mod cargo;
mod commit;
mod connect;
pub mod crash;
mod effects;
pub mod elf;
pub mod generation;
mod giveup;
pub mod handover;
pub mod health;
pub mod journal;
pub mod kept;
mod late;
pub mod left;
pub mod loader;
mod log;
pub mod manager;
pub mod manifest;
pub mod mapping;
pub mod pipeline;
pub mod plan;
pub mod probation;
pub mod probe;
pub mod quarantine;
mod refusals;
mod restart;
mod retire;
mod retries;
pub mod sample;
pub mod service;
pub mod shard;
mod slot;
pub mod stage;
pub mod swap;
#[cfg(test)]
mod testing;
pub mod watch;
pub mod watchdog;

pub use connect::{Asked, ConnectCall, Connected, Connects};
pub use log::wrote;
pub use slot::{JoinRefused, PluginSlot};
