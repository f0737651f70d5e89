//! Finds the secrets of the API's keys, and compares with them.
//!
//! A secret comes from the environment or from a file of its own. Only its SHA-256 is kept, so that the comparison takes as long
//! for every secret, whatever its length.

use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

use super::model::ApiKey;
use super::trust::{Use, open_file};

/// The shortest secret, in bytes.
const LEAST_BYTES: usize = 32;
/// No file of secrets is longer, in bytes.
const MOST_BYTES: u64 = 65_536;

/// The secrets of one key. There may be several while they are exchanged: one on each line of the file.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct ApiSecrets(Vec<[u8; 32]>);

/// Why a key has no secret.
#[derive(Debug, thiserror::Error)]
pub enum ApiSecretError {
    /// None is set.
    #[error(
        "the API key `{key}` has no secret: set {variable}, or name a file with `secret_file`; `bennu secret` prints one"
    )]
    Missing {
        /// The name of the key.
        key: String,
        /// Its environment variable.
        variable: String,
    },
    /// It is short enough to be guessed, or cannot stand in a header.
    #[error(
        "the secret of the API key `{key}` from {from} is not usable: each line needs at least {LEAST_BYTES} visible ASCII characters, without spaces and without `#` at its start; `bennu secret` prints one"
    )]
    Unusable {
        /// The name of the key.
        key: String,
        /// The variable or the file.
        from: String,
    },
    /// Which of two keys a request has would be a matter of their order.
    #[error(
        "the API keys `{key}` and `{other}` have a secret in common: what a request may do would depend on their order; `bennu secret` prints another"
    )]
    Shared {
        /// The name of the key.
        key: String,
        /// The name of a key before it.
        other: String,
    },
    /// The file could not be read.
    #[error("cannot read the secret of the API key `{key}` from {}", file.display())]
    Unreadable {
        /// The name of the key.
        key: String,
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ApiSecretError {
    /// Whether the machine is to blame, not the file: the next try may find the secret.
    #[must_use]
    pub(crate) fn may_pass(&self) -> bool {
        use rustix::io::Errno;
        const SHORT_OF: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::IO];
        let Self::Unreadable { source, .. } = self else {
            return false;
        };
        Errno::from_io_error(source).is_some_and(|errno| SHORT_OF.contains(&errno))
    }
}

impl ApiSecrets {
    /// Takes the secret of a key from its environment variable, or else from its file.
    ///
    /// # Errors
    ///
    /// If there is none, if one is too short, if the file cannot be read, or if other users can change it.
    pub(crate) fn obtain(key: &ApiKey) -> Result<Self, ApiSecretError> {
        let variable = key.variable();
        // Many tools set an empty variable for one that is not set.
        let from_environment = std::env::var(&variable).ok().filter(|secret| !secret.trim().is_empty());
        match (from_environment, &key.secret_file) {
            (Some(secret), _) => Self::of(&secret).ok_or_else(|| ApiSecretError::Unusable {
                key: key.name.clone(),
                from: variable,
            }),
            (None, Some(file)) => {
                let text = read(file).map_err(|source| ApiSecretError::Unreadable {
                    key: key.name.clone(),
                    file: file.clone(),
                    source,
                })?;
                Self::of(&text).ok_or_else(|| ApiSecretError::Unusable {
                    key: key.name.clone(),
                    from: file.display().to_string(),
                })
            }
            (None, None) => Err(ApiSecretError::Missing {
                key: key.name.clone(),
                variable,
            }),
        }
    }

    /// Takes the secrets of all keys. None may be one of a key before.
    pub(crate) fn obtain_all<'k>(keys: impl IntoIterator<Item = &'k ApiKey>) -> Vec<Result<Self, ApiSecretError>> {
        let mut known: Vec<(&str, Self)> = Vec::new();
        let obtain = |key: &'k ApiKey| {
            let secrets = Self::obtain(key)?;
            let shared = known.iter().find(|(_, other)| secrets.shares(other));
            let shared = shared.map(|(other, _)| ApiSecretError::Shared {
                key: key.name.clone(),
                other: (*other).to_owned(),
            });
            known.push((&key.name, secrets.clone()));
            shared.map_or(Ok(secrets), Err)
        };
        keys.into_iter().map(obtain).collect()
    }

    /// Whether they have a secret in common.
    #[must_use]
    pub(crate) fn shares(&self, other: &Self) -> bool {
        self.0.iter().any(|secret| other.holds(secret))
    }

    /// The secrets in a text, one on each line. `None` if there is none, or one is not usable.
    #[must_use]
    pub(crate) fn of(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let is_usable = |line: &&str| {
            line.len() >= LEAST_BYTES && !line.starts_with('#') && line.bytes().all(|byte| byte.is_ascii_graphic())
        };
        (!lines.is_empty() && lines.iter().all(is_usable)).then(|| Self(lines.into_iter().map(digest).collect()))
    }

    /// Whether the secret with this [`digest`] is one of them. How long this takes says nothing about them.
    #[must_use]
    pub(crate) fn holds(&self, given: &[u8; 32]) -> bool {
        let none = Choice::from(0);
        self.0
            .iter()
            .fold(none, |found, known| found | known.ct_eq(given))
            .into()
    }
}

/// What a secret is compared by.
#[must_use]
pub(crate) fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// Reads a file that only the server's own user, or root, can change.
fn read(file: &Path) -> io::Result<String> {
    let open = open_file(file, Use::ApiKey)?;
    let mut text = String::new();
    open.take(MOST_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST_BYTES {
        // Its last lines would be missing, and one of them cut.
        return Err(io::Error::other(format!("it has more than {MOST_BYTES} bytes")));
    }
    Ok(text)
}

impl fmt::Debug for ApiSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiSecrets").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "one-0123456789-0123456789-0123456789";
    const TWO: &str = "two-0123456789-0123456789-0123456789";

    fn key(secret_file: Option<PathBuf>) -> ApiKey {
        ApiKey {
            name: "back-end".to_owned(),
            secret_file,
            allow: Vec::new(),
            topics: Vec::new(),
        }
    }

    #[test]
    fn each_line_of_a_file_is_a_secret() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&file, format!("\n{ONE}\n  {TWO}\n\n")).expect("written");
        let secrets = ApiSecrets::obtain(&key(Some(file.path().to_owned()))).expect("two secrets");
        for (given, expected) in [(ONE, true), (TWO, true), (&ONE[1..], false), ("", false)] {
            assert_eq!(secrets.holds(&digest(given)), expected, "{given}");
        }
    }

    #[test]
    fn the_file_is_not_to_blame_for_what_the_machine_is_short_of() {
        use rustix::io::Errno;
        let unreadable = |errno: Errno| ApiSecretError::Unreadable {
            key: String::new(),
            file: PathBuf::new(),
            source: errno.into(),
        };
        assert!(unreadable(Errno::MFILE).may_pass());
        assert!(!unreadable(Errno::NOENT).may_pass() && !unreadable(Errno::ACCESS).may_pass());
    }

    #[test]
    fn a_secret_that_is_missing_or_short_is_refused_and_not_shown() {
        assert!(matches!(
            ApiSecrets::obtain(&key(None)),
            Err(ApiSecretError::Missing { variable, .. }) if variable == "BENNU_API_KEY_BACK_END"
        ));
        let file = tempfile::NamedTempFile::new().expect("a file");
        for text in [
            "",
            "\n\n",
            "short",
            &format!("{ONE}\nshort"),
            &format!("{ONE} {TWO}"),
            &"é".repeat(40),
            &format!("{ONE}\n#{TWO}"),
        ] {
            std::fs::write(&file, text).expect("written");
            let refused = ApiSecrets::obtain(&key(Some(file.path().to_owned()))).expect_err(text);
            assert!(matches!(refused, ApiSecretError::Unusable { .. }), "{refused}");
            assert!(
                text.trim().is_empty() || !refused.to_string().contains(text),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_file_above_its_limit_is_refused_and_not_cut() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let line = format!("{ONE}\n");
        let count = MOST_BYTES as usize / line.len() + 1;
        std::fs::write(&file, line.repeat(count)).expect("written");
        let refused = ApiSecrets::obtain(&key(Some(file.path().to_owned()))).expect_err("too long");
        assert!(matches!(refused, ApiSecretError::Unreadable { .. }), "{refused}");
        std::fs::write(&file, line.repeat(count - 1)).expect("written");
        ApiSecrets::obtain(&key(Some(file.path().to_owned()))).expect("not longer than it may be");
    }

    #[test]
    fn two_keys_have_no_secret_in_common() {
        let (one, two) = (tempfile::NamedTempFile::new(), tempfile::NamedTempFile::new());
        let (one, two) = (one.expect("a file"), two.expect("a file"));
        let named = |name: &str, file: &tempfile::NamedTempFile| ApiKey {
            name: name.to_owned(),
            ..key(Some(file.path().to_owned()))
        };
        let keys = [named("web", &one), named("admin", &two)];
        std::fs::write(&one, ONE).expect("written");
        std::fs::write(&two, format!("{TWO}\n{ONE}")).expect("written");
        let found = ApiSecrets::obtain_all(&keys);
        assert!(found[0].is_ok());
        assert!(
            matches!(&found[1], Err(ApiSecretError::Shared { key, other }) if key == "admin" && other == "web"),
            "{found:?}"
        );
        std::fs::write(&two, TWO).expect("written");
        assert!(ApiSecrets::obtain_all(&keys).iter().all(Result::is_ok));
    }

    #[test]
    fn a_file_that_others_can_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&file, ONE).expect("written");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).expect("changed");
        let refused = ApiSecrets::obtain(&key(Some(file.path().to_owned()))).expect_err("not trusted");
        let why = std::error::Error::source(&refused)
            .map(ToString::to_string)
            .unwrap_or_default();
        assert!(why.contains("is writable by other users (mode 666)"), "{why}");
        assert!(why.contains("`secret_file` in [[api.keys]]"), "{why}");
    }

    #[test]
    fn debug_does_not_show_it() {
        let secrets = ApiSecrets::of(ONE).expect("a secret");
        assert_eq!(format!("{secrets:?}"), "ApiSecrets { .. }");
    }
}
