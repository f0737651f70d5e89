//! What all tests here share: a server with a folder of its own, and the plugins it is given.

pub(crate) mod authority;
pub(crate) mod client;
pub(crate) mod command;
pub(crate) mod http;
#[cfg(feature = "telemetry")]
pub(crate) mod otlp;
pub(crate) mod plugins;
pub(crate) mod server;
pub(crate) mod wire;

use std::future::Future;
use std::time::Duration;

/// The one deadline: what takes longer has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// What `future` gives. Panics, saying what was waited for, if it takes longer than [`DEADLINE`].
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("no {what} within {DEADLINE:?}"),
    }
}
