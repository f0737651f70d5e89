//! The test kit: that each assertion holds where it should, and fails where it should, with what was received.

mod asserting;
mod calling;
mod claims;
mod closing;
mod connecting;
mod happening;
mod losing;
mod plugin;
mod reloading;
#[cfg(feature = "async")]
mod waiting;
