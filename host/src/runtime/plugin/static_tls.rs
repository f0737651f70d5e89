//! Room for thread-locals of the "static" kind: code built for the executable's TLS model, as many allocators in C are.
//!
//! Every thread has them at a fixed place, in room that is laid out when the process starts, and that a library does not give back
//! when it is unloaded. The C library keeps some 1.6 KB, enough for a few loads. So a server whose configuration names such a library
//! starts itself once more, with as much room as `static_tls_bytes` says.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Mutex;

use super::elf::Facts;
use crate::config::Config;

/// Where the C library reads how much room to lay out.
const VARIABLE: &str = "GLIBC_TUNABLES";
const TUNABLE: &str = "glibc.rtld.optional_static_tls";

/// The process has no room left for a library's thread-locals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it uses static thread-local storage ({bytes} bytes at each load, which only a restart gives back), and the process has no room \
     left: restart the server, raise [server] static_tls_bytes for more reloads, or build the library's C code with \
     -ftls-model=global-dynamic (the crate mimalloc: feature `local_dynamic_tls`)"
)]
pub(crate) struct NoRoom {
    pub(crate) bytes: u64,
}

/// Starts this program anew with room for static thread-locals, if a library of the configuration needs some and there is none.
/// Call it before anything else is started: nothing of this process goes over but its number, arguments, files and variables.
///
/// # Errors
///
/// If the system does not start it.
pub(crate) fn reserve(config: &Config) -> io::Result<()> {
    let given = std::env::var_os(VARIABLE).unwrap_or_default();
    if reserved(&given.to_string_lossy()).is_some() {
        return Ok(());
    }
    let mut libraries = config.plugins.values().filter_map(|plugin| plugin.library.as_ref());
    if !libraries.any(|library| Facts::of_file(library).static_tls.is_some()) {
        return Ok(());
    }
    let mut tunables = OsString::from(format!("{TUNABLE}={}", config.server.static_tls_bytes));
    if !given.is_empty() {
        tunables.push(":");
        tunables.push(&given);
    }
    let mut arguments = std::env::args_os();
    // By its own name, so that tools which list processes show it.
    let mut again = Command::new(std::fs::read_link("/proc/self/exe")?);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    // It returns only where it fails.
    Err(again.args(arguments).env(VARIABLE, tunables).exec())
}

/// Says what is to be known of a library's static thread-locals when it is loaded for the first time.
pub(super) fn warn(plugin: &str, facts: &Facts) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let Some(bytes) = facts.static_tls else { return };
    if !SAID.lock().expect("no holder panics").insert(plugin.to_owned()) {
        return;
    }
    let given = std::env::var(VARIABLE).unwrap_or_default();
    let room_bytes = reserved(&given);
    let reloads = room_bytes.and_then(|room| room.checked_div(bytes));
    tracing::warn!(
        plugin,
        bytes,
        room_bytes,
        reloads,
        "the library uses static thread-local storage: each reload uses some of `static_tls_bytes`, until the server restarts. Build \
         its C code with -ftls-model=global-dynamic"
    );
}

/// The room that the variable asks for, in bytes, if it does.
fn reserved(tunables: &str) -> Option<u64> {
    let value = |tunable: &str| tunable.strip_prefix(TUNABLE)?.strip_prefix('=')?.parse().ok();
    tunables.split(':').find_map(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_is_read_from_the_variable() {
        assert_eq!(reserved(""), None);
        assert_eq!(reserved("glibc.malloc.check=3"), None);
        assert_eq!(
            reserved("glibc.malloc.check=3:glibc.rtld.optional_static_tls=4096"),
            Some(4096)
        );
    }
}
