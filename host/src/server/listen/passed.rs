//! Listeners that systemd has opened and passed on (socket activation).

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::OnceLock;

use listenfd::ListenFd;
use socket2::SockRef;

use crate::config::At;

/// The names that systemd has given to the sockets, in their order.
const NAMES: &str = "LISTEN_FDNAMES";

/// A socket that was passed on.
#[derive(Debug)]
struct Passed {
    name: String,
    socket: OwnedFd,
    at: At,
}

/// The sockets of this name, which is that of the socket unit unless it has a `FileDescriptorName=`.
///
/// # Errors
///
/// If there is none. The error says which there are.
pub(super) fn named(name: &str) -> io::Result<Vec<(OwnedFd, At)>> {
    let passed = all().as_ref().map_err(|error| io::Error::other(error.clone()))?;
    let mut named = Vec::new();
    for passed in passed.iter().filter(|passed| passed.name == name) {
        named.push((passed.socket.as_fd().try_clone_to_owned()?, passed.at.clone()));
    }
    if !named.is_empty() {
        return Ok(named);
    }
    let names: Vec<_> = passed.iter().map(|passed| format!("`{}`", passed.name)).collect();
    let error = match names[..] {
        [] => "systemd has passed no socket to this process".to_owned(),
        _ => format!("systemd has passed no socket of this name, but {}", names.join(" and ")),
    };
    Err(io::Error::new(io::ErrorKind::NotFound, error))
}

/// Whether this process got any.
pub(crate) fn is_any() -> bool {
    all().as_ref().is_ok_and(|passed| !passed.is_empty())
}

/// What was passed on. A process gets that once.
fn all() -> &'static Result<Vec<Passed>, String> {
    static ALL: OnceLock<Result<Vec<Passed>, String>> = OnceLock::new();
    ALL.get_or_init(|| take().map_err(|error| error.to_string()))
}

fn take() -> io::Result<Vec<Passed>> {
    let names = std::env::var(NAMES).unwrap_or_default();
    let mut names = names.split(':');
    let mut sockets = ListenFd::from_env();
    let mut passed = Vec::new();
    for index in 0..sockets.len() {
        let name = names
            .next()
            .filter(|name| !name.is_empty())
            .unwrap_or("unknown")
            .to_owned();
        // Each of these checks what kind of socket it is, and leaves another one.
        let unix: Option<UnixListener> = sockets.take_unix_listener(index).ok().flatten();
        let (socket, at): (OwnedFd, At) = match unix {
            Some(listener) => {
                let address = listener.local_addr()?;
                let path = address.as_pathname().unwrap_or("".as_ref()).to_owned();
                (listener.into(), At::Unix { path, mode: 0 })
            }
            None => {
                let listener = sockets.take_tcp_listener(index)?;
                let listener = listener.ok_or_else(|| io::Error::other("systemd has passed a socket twice"))?;
                let address = listener.local_addr()?;
                (listener.into(), At::Tcp(address))
            }
        };
        SockRef::from(&socket).set_nonblocking(true)?;
        passed.push(Passed { name, socket, at });
    }
    Ok(passed)
}
