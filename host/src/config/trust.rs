//! Whether the server may trust a file or folder: only its own user, or root, may be able to change it.
//!
//! The server loads libraries from its folders and derives keys from its secret. Whoever can change those has the server.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// What a path is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// `[server] state_dir`, or a folder in it.
    State,
    /// `[server] stage_dir`.
    Stage,
    /// A file that holds a secret.
    Secret,
    /// A file that holds the secret of an API key.
    ApiKey,
    /// A file that holds the secret for NATS.
    #[cfg_attr(
        not(feature = "cluster"),
        allow(dead_code, reason = "a build without clusters reads none")
    )]
    Nats,
    /// A file that holds headers for the collector of traces.
    #[cfg_attr(
        not(feature = "telemetry"),
        allow(dead_code, reason = "a build without traces reads none")
    )]
    Headers,
    /// A file that holds the private key of a certificate.
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "a build without TLS reads no key"))]
    TlsKey,
}

/// A path that other users can change.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct Untrusted {
    path: PathBuf,
    used_for: Use,
    why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// Another user owns it.
    Owner { owner: u32, own: u32 },
    /// Other users may write to it.
    Writable { mode: u32 },
}

/// Checks a path before it is used. A path that does not exist yet is fine: the server creates it for itself alone.
///
/// # Errors
///
/// If other users can change it.
pub(crate) fn check(path: &Path, used_for: Use) -> Result<(), Untrusted> {
    match fs::metadata(path) {
        Ok(meta) => judged(path, used_for, &meta),
        // Whoever uses it next says what is wrong.
        Err(_) => Ok(()),
    }
}

/// Opens a file that only the server's own user, or root, can change. Waits for nobody: a pipe is refused.
///
/// # Errors
///
/// If it cannot be opened, is no regular file, or other users can change it.
pub(crate) fn open_file(path: &Path, used_for: Use) -> io::Result<File> {
    let without_waiting = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = File::options().read(true).custom_flags(without_waiting).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    check_file(&file, path, used_for)?;
    Ok(file)
}

/// Checks a file that is open, so that nobody can exchange it afterwards.
///
/// # Errors
///
/// If other users can change it, or the system does not say.
pub(crate) fn check_file(file: &File, path: &Path, used_for: Use) -> io::Result<()> {
    judged(path, used_for, &file.metadata()?).map_err(|error| io::Error::new(io::ErrorKind::PermissionDenied, error))
}

fn judged(path: &Path, used_for: Use, meta: &Metadata) -> Result<(), Untrusted> {
    let own = rustix::process::geteuid().as_raw();
    match why(meta.uid(), own, meta.mode(), used_for) {
        None => Ok(()),
        Some(why) => Err(Untrusted {
            path: path.to_owned(),
            used_for,
            why,
        }),
    }
}

/// Why a path with this owner and mode is not to be trusted by the user `own`.
fn why(owner: u32, own: u32, mode: u32, used_for: Use) -> Option<Why> {
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    // Root can change everything anyway.
    if owner != own && owner != 0 {
        return Some(Why::Owner { owner, own });
    }
    // In the temporary folder nobody can rename or remove what another user put there.
    let is_shared_safely = used_for == Use::Stage && mode & STICKY != 0;
    (mode & WRITABLE_BY_OTHERS != 0 && !is_shared_safely).then_some(Why::Writable { mode: mode & 0o7777 })
}

impl Use {
    fn name(self) -> &'static str {
        match self {
            Self::State => "the state folder",
            Self::Stage => "the stage folder",
            Self::Secret => "the secret file",
            Self::ApiKey => "the file of an API key",
            Self::Nats => "the file of the secret for NATS",
            Self::Headers => "the file of headers for the collector",
            Self::TlsKey => "the file of a private key",
        }
    }

    fn danger(self) -> &'static str {
        match self {
            Self::State | Self::Stage => "they could have the server load any library",
            Self::Secret | Self::ApiKey | Self::Nats | Self::Headers => "they could replace the secret",
            Self::TlsKey => "they could replace the key",
        }
    }

    /// The setting that names another path.
    fn setting(self) -> &'static str {
        match self {
            Self::State => "`[server] state_dir`",
            Self::Stage => "`[server] stage_dir`",
            Self::Secret => "`[server] secret_key_base_file`",
            Self::ApiKey => "`secret_file` in [[api.keys]]",
            Self::Nats => "`login_file` in [cluster]",
            Self::Headers => "`headers_file` in [telemetry]",
            Self::TlsKey => "`key_file` in [[tls.certificates]]",
        }
    }
}

impl Untrusted {
    /// The key of `[server]` that names the path.
    #[must_use]
    pub(crate) fn key(&self) -> &'static str {
        match self.used_for {
            Use::State => "state_dir",
            Use::Stage => "stage_dir",
            Use::Secret | Use::ApiKey | Use::Nats | Use::Headers | Use::TlsKey => "secret_key_base_file",
        }
    }
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, used_for, why } = self;
        let (name, danger, setting) = (used_for.name(), used_for.danger(), used_for.setting());
        let path = path.display();
        match why {
            Why::Owner { owner, own } => write!(
                f,
                "{name} {path} belongs to user {owner}, but the server runs as user {own}. Other users must not own it: \
                 {danger}. If you trust its contents, run `chown -R {own} {path}`; otherwise set {setting} to another path"
            ),
            Why::Writable { mode } => write!(
                f,
                "{name} {path} is writable by other users (mode {mode:o}): {danger}. If you trust its contents, run \
                 `chmod go-w {path}`; otherwise set {setting} to another path"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_the_writer_of_a_pipe() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .expect("it runs");
        assert!(made.success());
        let error = open_file(&pipe, Use::Secret).expect_err("a pipe");
        assert_eq!(error.to_string(), "it is no regular file");
    }

    #[track_caller]
    fn check(owner: u32, own: u32, mode: u32, used_for: Use, trusted: bool) {
        assert_eq!(
            why(owner, own, mode, used_for).is_none(),
            trusted,
            "{owner} {own} {mode:o} {used_for:?}"
        );
    }

    #[test]
    fn a_path_of_another_user_is_not_trusted_unless_that_is_root() {
        for used_for in [Use::State, Use::Stage, Use::Secret] {
            check(1000, 1000, 0o700, used_for, true);
            check(0, 1000, 0o755, used_for, true);
            check(1001, 1000, 0o700, used_for, false);
            check(1001, 0, 0o700, used_for, false);
        }
    }

    #[test]
    fn a_path_that_others_can_write_is_not_trusted() {
        for used_for in [Use::State, Use::Stage, Use::Secret] {
            for mode in [0o777, 0o775, 0o720, 0o702] {
                check(1000, 1000, mode, used_for, false);
            }
            check(1000, 1000, 0o755, used_for, true);
        }
        // As the temporary folder is.
        check(0, 1000, 0o1777, Use::Stage, true);
        check(1000, 1000, 0o1777, Use::State, false);
    }

    #[test]
    fn the_message_says_what_to_run() {
        let untrusted = |why| {
            let (path, used_for) = (PathBuf::from("/var/lib/bennu"), Use::State);
            Untrusted { path, used_for, why }.to_string()
        };
        let owner = untrusted(Why::Owner { owner: 1001, own: 0 });
        assert!(
            owner.contains("belongs to user 1001") && owner.contains("`chown -R 0 /var/lib/bennu`"),
            "{owner}"
        );
        let writable = untrusted(Why::Writable { mode: 0o777 });
        assert!(
            writable.contains("(mode 777)") && writable.contains("`chmod go-w /var/lib/bennu`"),
            "{writable}"
        );
    }
}
