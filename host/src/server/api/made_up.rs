//! The key for the API that `bennu dev` makes up, and where commands find it.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::config::api_secret::ApiSecrets;
use crate::config::trust::{self, Use};
use crate::runtime::plugin::quarantine::private_dir;

/// The file in the state folder with the key of `bennu dev`. It stays, so that commands which name it work tomorrow.
const KEY_FILE: &str = "api-key";

/// The key of `bennu dev`: the one of the last time, or a new one.
///
/// # Errors
///
/// If it cannot be written, other users could change it, or the system has no random bytes.
pub(crate) fn made_up_key(state_dir: &Path) -> io::Result<String> {
    let file = state_dir.join(KEY_FILE);
    private_dir(state_dir)?;
    if let Some(known) = noted_key(state_dir) {
        return Ok(known);
    }
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let key = URL_SAFE_NO_PAD.encode(bytes);
    let new = file.with_extension("new");
    let mut open = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    open.write_all(format!("{key}\n").as_bytes())?;
    std::fs::rename(new, file)?;
    Ok(key)
}

/// The key that `bennu dev` has made up for this state folder.
#[must_use]
pub(crate) fn noted_key(state_dir: &Path) -> Option<String> {
    let file: PathBuf = state_dir.join(KEY_FILE);
    // Whoever could write it would have a key to the API, or have requests sent with one of his own.
    trust::check(state_dir, Use::State).ok()?;
    trust::check(&file, Use::ApiKey).ok()?;
    let text = std::fs::read_to_string(file).ok()?;
    ApiSecrets::of(&text)?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_up_once_and_nobody_else_can_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        let key = made_up_key(&state).expect("a key");
        assert_eq!(made_up_key(&state).expect("the same"), key);
        assert_eq!(noted_key(&state).as_ref(), Some(&key));
        assert!(ApiSecrets::of(&key).is_some());
        let mode = std::fs::metadata(state.join(KEY_FILE))
            .expect("a file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
