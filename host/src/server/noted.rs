//! Where commands find a listener whose address the configuration does not say: in a file of the state folder.

use std::net::SocketAddr;
use std::path::Path;
use std::{fs, io};

use crate::config::trust::{self, Use};
use crate::runtime::plugin::quarantine::private_dir;

/// The address of one listener, in a file of this name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotedAddress(&'static str);

impl NotedAddress {
    /// Of the admin listener.
    pub(crate) const ADMIN: Self = Self("admin-address");
    /// Of the API.
    pub(crate) const API: Self = Self("api-address");

    /// Writes the address down. `None`: it is the configured one, or there is none.
    ///
    /// # Errors
    ///
    /// If the file cannot be written or removed.
    pub(crate) fn write(self, state_dir: &Path, address: Option<SocketAddr>) -> io::Result<()> {
        let file = state_dir.join(self.0);
        let Some(address) = address else {
            let removed = fs::remove_file(file);
            return removed.or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            });
        };
        private_dir(state_dir)?;
        fs::write(file, format!("{address}\n"))
    }

    /// The address that a server has written down, which may not run any more. `None` also if others can write to the folder: they
    /// could have the secrets of commands sent to themselves.
    #[must_use]
    pub(crate) fn read(self, state_dir: &Path) -> Option<SocketAddr> {
        trust::check(state_dir, Use::State).ok()?;
        let text = fs::read_to_string(state_dir.join(self.0)).ok()?;
        text.trim().parse().ok()
    }
}
