//! Checks the tokens of clients: [`Guard`].
//!
//! A guard belongs to one mount with `[mounts.auth]`, and holds its keys. It judges a token by itself alone: nothing here asks an
//! address that a token names, and no error here holds a part of a token. The rest of the server decides what follows.

mod expiry;
mod guards;
#[cfg(feature = "jwks")]
mod jwks;
mod jwt;
mod keys;
mod phoenix_token;
mod refused;
mod term;
#[cfg(test)]
mod testing;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use bytestring::ByteString;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

pub(crate) use expiry::Expiries;
pub(crate) use guards::BadKeys;
pub(crate) use guards::Guards;
pub(crate) use keys::KeysError;
pub(crate) use refused::{LABELS, Refused};

use crate::config::{Auth, ContentHash, KeySource, OnExpiry};
use keys::Keys;

/// Checks the tokens of one mount.
#[derive(Debug)]
pub(crate) struct Guard {
    auth: Auth,
    /// Of `jwt`.
    jwt: Ring,
    /// Of `phoenix_token`.
    phoenix: Ring,
    #[cfg(feature = "jwks")]
    fetcher: Option<jwks::Fetcher>,
}

/// The keys as they are now. Whoever checks a token has one set of them, old or new, for the whole check.
#[derive(Debug, Default)]
struct Ring(RwLock<Arc<Keys>>);

/// A token that was found good, as the connection keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pass {
    /// What the token says: a JSON object.
    pub(crate) claims: Bytes,
    /// The socket id by the mount's template.
    pub(crate) socket_id: Option<ByteString>,
    /// When the connection ends, in milliseconds since 1970. `None`: it does not.
    expires_ms: Option<u64>,
    /// The claim `sub`.
    subject: Option<Value>,
    /// Recognise the token when it comes again.
    bytes: usize,
    digest: [u8; 32],
}

/// What a client has shown so far.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    /// For its newest good token. `None`: it has shown none.
    pub(crate) pass: Option<Pass>,
    /// When it last showed another token than the one that it connected with, good or not.
    pub(crate) refreshed: Option<Instant>,
}

impl Guard {
    /// A guard with the keys that the files and the environment have now.
    ///
    /// # Errors
    ///
    /// If there are none, or if they cannot be read.
    fn new(auth: &Auth) -> Result<Arc<Self>, KeysError> {
        let guard = Self {
            jwt: Ring::default(),
            phoenix: Ring::default(),
            auth: auth.clone(),
            #[cfg(feature = "jwks")]
            fetcher: jwks::Fetcher::new(auth),
        };
        guard.load()?;
        Ok(Arc::new(guard))
    }

    /// Reads the keys from the files and the environment. What was read before stays if they cannot be read.
    fn load(&self) -> Result<(), KeysError> {
        if let Some(jwt) = &self.auth.jwt
            && !matches!(jwt.keys, KeySource::Jwks(_))
        {
            self.jwt.set(Keys::of_jwt(jwt)?);
        }
        if let Some(phoenix) = &self.auth.phoenix_token {
            self.phoenix.set(Keys::of_phoenix(phoenix)?);
        }
        Ok(())
    }

    /// Whether it takes keys from this file.
    fn reads(&self, file: &Path) -> bool {
        self.auth.files().any(|own| own == file)
    }

    /// The files that it read, with what was in them.
    fn files(&self) -> Vec<(std::path::PathBuf, ContentHash)> {
        let rings = [self.jwt.get(), self.phoenix.get()];
        rings.iter().filter_map(|keys| keys.file.clone()).collect()
    }

    /// Judges a token at this time, in milliseconds since 1970.
    ///
    /// # Errors
    ///
    /// Why it is refused.
    pub(crate) fn check(&self, token: &str, now_ms: u64) -> Result<Pass, Refused> {
        if token.len() > self.auth.max_token_bytes {
            return Err(Refused::TooLong);
        }
        unless_it_panics(|| self.judge(token, now_ms))
    }

    fn judge(&self, token: &str, now_ms: u64) -> Result<Pass, Refused> {
        let (claims, expires_ms) = if phoenix_token::is_one(token) {
            let phoenix = self.auth.phoenix_token.as_ref().ok_or(Refused::Kind)?;
            phoenix_token::check(phoenix, &self.phoenix.get(), token, now_ms)?
        } else {
            let jwt = self.auth.jwt.as_ref().ok_or(Refused::Kind)?;
            let keys = self.jwt.get();
            let (claims, expires_ms) = jwt::check(jwt, &keys, token, now_ms).map_err(|refused| self.asks(refused))?;
            (claims, Some(expires_ms))
        };
        let id = { self.auth.socket_id.as_ref() }.map(|template| template.render(&claims));
        let socket_id = id.transpose().map_err(|claim| Refused::Claim(claim.to_owned()))?;
        Ok(Pass {
            claims: serde_json::to_vec(&claims).unwrap_or_default().into(),
            socket_id: socket_id.map(ByteString::from),
            expires_ms: expires_ms.filter(|_| self.auth.on_expiry == OnExpiry::Close),
            subject: claims.get("sub").cloned(),
            bytes: token.len(),
            digest: digest(token),
        })
    }

    /// How soon after one new token a client may present the next.
    pub(crate) fn refresh_interval(&self) -> Duration {
        self.auth.refresh_interval
    }

    /// A token with an unknown key may be signed with one that the address has by now.
    fn asks(&self, refused: Refused) -> Refused {
        #[cfg(feature = "jwks")]
        if refused == Refused::UnknownKey && self.fetcher.as_ref().is_some_and(jwks::Fetcher::ask) {
            return Refused::NoKeys;
        }
        refused
    }
}

impl Ring {
    fn get(&self) -> Arc<Keys> {
        Arc::clone(&self.0.read().expect("no holder panics"))
    }

    fn set(&self, keys: Keys) {
        *self.0.write().expect("no holder panics") = Arc::new(keys);
    }
}

impl Pass {
    /// Whether this is the token that the pass was given for.
    pub(crate) fn is_for(&self, token: &str) -> bool {
        self.bytes == token.len() && self.digest == digest(token)
    }

    /// Whether its connection has to end at this time.
    pub(crate) fn is_over(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)
    }

    /// Whether a connection with this pass may go on with that one: both name the same client. A token without `sub` names nobody,
    /// so anybody's may follow it.
    pub(crate) fn may_become(&self, other: &Self) -> bool {
        let same_subject = self.subject.is_none() || self.subject == other.subject;
        let same_id = self.socket_id.is_none() || self.socket_id == other.socket_id;
        same_subject && same_id
    }
}

/// A client's token must not end the thread that checks it, even if a library that reads it has a fault.
fn unless_it_panics(judge: impl FnOnce() -> Result<Pass, Refused>) -> Result<Pass, Refused> {
    let judged = catch_unwind(AssertUnwindSafe(judge));
    judged.unwrap_or(Err(Refused::Malformed("the server panicked when it read the token")))
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// The wall clock in milliseconds since 1970, by which tokens expire.
pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A claim that is a time, in milliseconds. `None`: it is no number, or out of any range.
fn time_ms(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, Refused> {
    // 1e11 s is the year 5138.
    const MOST_S: f64 = 1e11;
    let Some(value) = claims.get(name) else { return Ok(None) };
    match value.as_f64() {
        Some(seconds) if (0.0..=MOST_S).contains(&seconds) => Ok(Some((seconds * 1_000.0) as u64)),
        _ => Err(Refused::Malformed("a time in it is no number of seconds since 1970")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_over_a_token_refuses_it() {
        let refused = unless_it_panics(|| panic!("on purpose"));
        assert_eq!(refused.map_err(|refused| refused.label()), Err("malformed"));
    }
}
