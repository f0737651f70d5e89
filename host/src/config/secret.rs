//! Finds `secret_key_base`, from which Bennu derives the keys that seal long-poll tokens.
//!
//! It comes from the environment or from a file of its own. Never here: `bennu.toml` as a source, or a print of the secret.

use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::model::{Config, Mode};
use super::trust::{Use, open_file};

/// The environment variable that holds the secret.
pub(crate) const SECRET_VARIABLE: &str = "BENNU_SECRET_KEY_BASE";

/// The environment variable that holds the secrets of tokens, one a line, for mounts whose `jwt` names no place for its keys.
pub(crate) const JWT_VARIABLE: &str = "BENNU_JWT_SECRET";

/// The environment variable that holds the `secret_key_base` of a Phoenix app, for mounts whose `phoenix_token` names no file.
pub(crate) const PHOENIX_VARIABLE: &str = "BENNU_PHOENIX_SECRET_KEY_BASE";

/// The shortest secret, in bytes.
const LEAST_BYTES: usize = 64;

/// The secret of this installation.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SecretKeyBase {
    bytes: Vec<u8>,
    /// Whether it was generated for this run. Tokens then do not survive a restart.
    pub generated: bool,
}

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// None is set.
    #[error(
        "there is no secret_key_base: set {SECRET_VARIABLE} to at least {LEAST_BYTES} random bytes, or name a file that holds them with `secret_key_base_file` in [server]; `bennu secret` prints one"
    )]
    Missing,
    /// It is short enough to be guessed.
    #[error(
        "the secret_key_base from {from} has {found} bytes, but needs at least {LEAST_BYTES}; `bennu secret` prints one"
    )]
    Short {
        /// The variable or the file.
        from: String,
        /// How many it has.
        found: usize,
    },
    /// The file could not be read.
    #[error("cannot read the secret_key_base from {}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The system has no random bytes.
    #[error("cannot generate a secret_key_base")]
    Random(#[source] getrandom::Error),
}

impl SecretKeyBase {
    /// Takes the secret from [`SECRET_VARIABLE`], or else from the file that the configuration names. `dev` generates one if there
    /// is neither.
    ///
    /// # Errors
    ///
    /// If there is no secret, if it is too short, if its file cannot be read, or if other users can change that.
    pub(crate) fn obtain(config: &Config, mode: Mode) -> Result<Self, SecretError> {
        let variable = std::env::var_os(SECRET_VARIABLE).map(std::ffi::OsString::into_encoded_bytes);
        Self::choose(variable, config.server.secret_key_base_file.as_deref(), mode)
    }

    fn choose(variable: Option<Vec<u8>>, file: Option<&Path>, mode: Mode) -> Result<Self, SecretError> {
        // Many tools set an empty variable for one that is not set.
        match (variable.filter(|bytes| !bytes.trim_ascii().is_empty()), file, mode) {
            (Some(bytes), _, _) => Self::given(&bytes, || SECRET_VARIABLE.to_owned()),
            (None, Some(file), _) => {
                let unreadable = |source| SecretError::Unreadable {
                    file: file.to_owned(),
                    source,
                };
                Self::given(&read(file).map_err(unreadable)?, || file.display().to_string())
            }
            (None, None, Mode::Dev) => Self::generate(),
            (None, None, Mode::Serve) => Err(SecretError::Missing),
        }
    }

    fn given(bytes: &[u8], from: impl Fn() -> String) -> Result<Self, SecretError> {
        let bytes = bytes.trim_ascii();
        if bytes.len() < LEAST_BYTES {
            return Err(SecretError::Short {
                from: from(),
                found: bytes.len(),
            });
        }
        Ok(Self {
            bytes: bytes.to_vec(),
            generated: false,
        })
    }

    fn generate() -> Result<Self, SecretError> {
        let mut bytes = vec![0; LEAST_BYTES];
        getrandom::fill(&mut bytes).map_err(SecretError::Random)?;
        Ok(Self { bytes, generated: true })
    }

    /// The secret itself.
    #[must_use]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a file of secrets or keys that only the server's own user, or root, can change.
///
/// # Errors
///
/// If it cannot be read, or others can change it.
pub(crate) fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut open = open_file(file, Use::Secret)?;
    let mut bytes = Vec::new();
    open.read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl fmt::Debug for SecretKeyBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretKeyBase")
            .field("generated", &self.generated)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_variable(text: &str, mode: Mode) -> Result<SecretKeyBase, SecretError> {
        SecretKeyBase::choose(Some(text.into()), None, mode)
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let secret =
            SecretKeyBase::choose(Some(vec![b'x'; 64]), Some(Path::new("/nowhere")), Mode::Serve).expect("a secret");
        assert_eq!((secret.bytes(), secret.generated), ([b'x'; 64].as_slice(), false));
    }

    #[test]
    fn a_file_is_trimmed() {
        let file = std::env::temp_dir().join(format!("bennu-secret-{}", std::process::id()));
        std::fs::write(&file, format!("\n{}\n", "y".repeat(80))).expect("written");
        let secret = SecretKeyBase::choose(None, Some(&file), Mode::Serve);
        std::fs::remove_file(&file).expect("removed");
        assert_eq!(secret.expect("a secret").bytes(), [b'y'; 80]);
    }

    #[test]
    fn a_file_that_others_can_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&file, "y".repeat(80)).expect("written");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).expect("changed");
        let refused = SecretKeyBase::choose(None, Some(file.path()), Mode::Serve).expect_err("not trusted");
        let why = std::error::Error::source(&refused)
            .map(ToString::to_string)
            .unwrap_or_default();
        assert!(why.contains("is writable by other users (mode 666)"), "{why}");
    }

    #[test]
    fn a_secret_that_is_missing_or_short_is_refused_and_not_shown() {
        let short = from_variable(&format!(" {}\n", "z".repeat(63)), Mode::Dev).expect_err("short");
        assert_eq!(
            short.to_string(),
            "the secret_key_base from BENNU_SECRET_KEY_BASE has 63 bytes, but needs at least 64; `bennu secret` prints one"
        );
        assert!(matches!(
            SecretKeyBase::choose(None, None, Mode::Serve),
            Err(SecretError::Missing)
        ));
        assert!(matches!(from_variable("", Mode::Serve), Err(SecretError::Missing)));
        let unreadable = SecretKeyBase::choose(None, Some(Path::new("/nowhere")), Mode::Dev);
        assert!(matches!(unreadable, Err(SecretError::Unreadable { .. })));
    }

    #[test]
    fn dev_generates_another_one_each_time() {
        let (one, other) = (
            SecretKeyBase::choose(None, None, Mode::Dev).expect("one"),
            SecretKeyBase::choose(None, None, Mode::Dev).expect("other"),
        );
        assert!(one.generated && one.bytes().len() >= 64 && one != other);
    }

    #[test]
    fn debug_does_not_show_it() {
        let secret = from_variable(&"q".repeat(64), Mode::Serve).expect("a secret");
        assert_eq!(format!("{secret:?}"), "SecretKeyBase { generated: false, .. }");
    }
}
