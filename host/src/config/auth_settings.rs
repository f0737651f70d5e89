//! `[mounts.auth]` as values: which tokens let a client in, and what they say of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jsonwebtoken::Algorithm;

use super::template::Template;

/// `[mounts.auth]`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Auth {
    /// JSON Web Tokens; `None`: the mount takes none.
    pub(crate) jwt: Option<Jwt>,
    /// Tokens of `Phoenix.Token.sign`; `None`: the mount takes none.
    pub(crate) phoenix_token: Option<PhoenixToken>,
    /// Where a client may put its token. The first place that has one counts.
    pub(crate) from: Vec<TokenPlace>,
    /// Makes the socket id from the claims. `None`: the connect handler gives it, or nobody.
    pub(crate) socket_id: Option<Template>,
    /// Whether a client without a token is refused. Default true.
    pub(crate) required: bool,
    /// What happens to a connection whose token has expired. Default `close`.
    pub(crate) on_expiry: OnExpiry,
    /// The length of a token. Bennu refuses longer ones unread. Default 16,384.
    pub(crate) max_token_bytes: usize,
    /// How soon after one new token a client may present the next. Default 1 s.
    pub(crate) refresh_interval: Duration,
    /// Whether a new token must be for the client of the one before. Default true.
    pub(crate) same_client: bool,
}

/// `jwt` of `[mounts.auth]`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Jwt {
    /// The algorithms that a token may name.
    pub(crate) algorithms: Vec<Algorithm>,
    /// Where the keys come from.
    pub(crate) keys: KeySource,
    /// The issuers that a token may name. Empty: any.
    pub(crate) issuer: Vec<String>,
    /// A token names one of these audiences. Empty: any.
    pub(crate) audience: Vec<String>,
    /// By how much clocks may differ. Default 5 s.
    pub(crate) leeway: Duration,
}

/// Where keys come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum KeySource {
    /// The environment: see [`JWT_VARIABLE`](super::secret::JWT_VARIABLE).
    Variable,
    /// A file of secrets, one a line. Absolute by now.
    Secrets(PathBuf),
    /// A file of public keys: PEM or JWKS. Absolute by now.
    Keys(PathBuf),
    /// An address that serves a JWKS.
    Jwks(Jwks),
}

/// The settings `jwks_…` of `jwt`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Jwks {
    /// The address: https, or http on this machine.
    pub(crate) url: String,
    /// How often Bennu fetches the keys. Default 300 s.
    pub(crate) refresh: Duration,
    /// How soon it fetches again for a token with an unknown `kid`. Default 10 s.
    pub(crate) unknown_kid_interval: Duration,
    /// How long a fetch may take. Default 5 s.
    pub(crate) timeout: Duration,
    /// The size of the answer. Default 256 KiB.
    pub(crate) max_bytes: usize,
}

/// `phoenix_token` of `[mounts.auth]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PhoenixToken {
    /// The file with the `secret_key_base` of the Phoenix app. `None`: the environment has it, see
    /// [`PHOENIX_VARIABLE`](super::secret::PHOENIX_VARIABLE). Absolute by now.
    pub(crate) secret_key_base_file: Option<PathBuf>,
    /// The salt that the app signs with.
    pub(crate) salt: String,
    /// How old a token may be. `None`: as old as the token itself says.
    pub(crate) max_age: Option<Duration>,
}

/// An entry of `from`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TokenPlace {
    /// What phoenix.js sends as `authToken`.
    AuthToken,
    /// A parameter of the query.
    Param(String),
    /// A header, in lower case. `Bearer ` in front of the token does not count.
    Header(String),
    /// A key of the params of a join, not of the request to connect.
    Join(String),
}

/// What happens to a connection whose token has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnExpiry {
    /// Bennu closes it.
    Close,
    /// It stays.
    Keep,
}

impl KeySource {
    /// The file that holds the keys, if one does.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Self::Secrets(file) | Self::Keys(file) => Some(file),
            Self::Variable | Self::Jwks(_) => None,
        }
    }
}

impl Jwks {
    /// The address as logs may show it: without a user, a password and a query.
    #[cfg_attr(
        not(feature = "jwks"),
        allow(dead_code, reason = "only a fetch says which address it asks")
    )]
    pub(crate) fn shown_url(&self) -> String {
        let url = self.url.split(['?', '#']).next().unwrap_or_default();
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let host = authority.rsplit('@').next().unwrap_or_default();
        format!("{scheme}://{host}{path}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_keys_is_shown_without_what_may_be_secret() {
        for (url, expected) in [
            ("https://me:hunter2@host:8/keys?a=s3cr3t", "https://host:8/keys"),
            ("https://me@host?a=s3cr3t#x", "https://host"),
            ("https://host/a@b", "https://host/a@b"),
        ] {
            let jwks = Jwks {
                url: url.to_owned(),
                refresh: Duration::ZERO,
                unknown_kid_interval: Duration::ZERO,
                timeout: Duration::ZERO,
                max_bytes: 0,
            };
            assert_eq!(jwks.shown_url(), expected);
        }
    }
}
