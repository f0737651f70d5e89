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
use serde::Deserialize;
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
        guard.load(None).into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(Arc::new(guard))
    }

    /// Reads the keys of this file, or for `None` those of all files and of the environment. Says for each kind of tokens how many
    /// keys there are. Where they cannot be read, those that were read before stay; that concerns no other kind.
    fn load(&self, file: Option<&Path>) -> Vec<Result<usize, KeysError>> {
        let is_meant = |own: Option<&Path>| file.is_none() || own == file;
        let mut loaded = Vec::new();
        if let Some(jwt) = &self.auth.jwt
            && !matches!(jwt.keys, KeySource::Jwks(_))
            && is_meant(jwt.keys.file())
        {
            loaded.push(self.jwt.take(Keys::of_jwt(jwt)));
        }
        if let Some(phoenix) = &self.auth.phoenix_token
            && is_meant(phoenix.secret_key_base_file.as_deref())
        {
            loaded.push(self.phoenix.take(Keys::of_phoenix(phoenix)));
        }
        loaded
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

    /// Whether a new token must be for the client of the one before.
    pub(crate) fn wants_same_client(&self) -> bool {
        self.auth.same_client
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

    /// Keeps these keys, if there are any. Says how many.
    fn take(&self, keys: Result<Keys, KeysError>) -> Result<usize, KeysError> {
        let keys = keys?;
        let count = keys.len();
        self.set(keys);
        Ok(count)
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

    /// The same pass, unless its socket id is longer than a `disconnect` can name.
    ///
    /// # Errors
    ///
    /// That it is.
    pub(crate) fn with_id_of(self, most_bytes: usize) -> Result<Self, Refused> {
        match &self.socket_id {
            Some(id) if id.len() > most_bytes => Err(Refused::LongId),
            _ => Ok(self),
        }
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

/// Reads a JSON object into a type with named fields. An array is none: in one, the place of a value would decide what it means.
pub(crate) fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
    if !json.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    serde_json::from_slice(json).ok()
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
    // The year 10,000. The present time in milliseconds would be far behind it.
    const MOST_S: f64 = 253_402_300_800.0;
    let Some(value) = claims.get(name) else { return Ok(None) };
    match value.as_f64() {
        Some(seconds) if (0.0..=MOST_S).contains(&seconds) => Ok(Some((seconds * 1_000.0) as u64)),
        _ => Err(Refused::Malformed(
            "a time in it is no number of seconds since 1970, or after the year 10,000: is it in milliseconds?",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{NOW_MS, OTHER, SECRET};
    use super::*;

    #[test]
    fn each_file_of_keys_is_read_for_itself() {
        let folder = tempfile::tempdir().expect("a folder");
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
        let settings = r#"
            jwt = { algorithms = ["HS256"], secret_file = "jwt" }
            phoenix_token = { secret_key_base_file = "phoenix", salt = "user socket" }
        "#;
        put("jwt", SECRET);
        put("phoenix", SECRET);
        let config = testing::config(folder.path(), settings);
        let guards = Guards::new(&config, &Guards::default()).expect("good keys");
        let guard = guards.of("/socket").expect("it has one");
        let jwt = testing::token(&serde_json::json!({ "exp": NOW_MS / 1_000 + 60 }), OTHER);
        let keys = || (guard.check(&jwt, NOW_MS).is_ok(), guard.phoenix.get().len());
        // What is wrong with one of them keeps the other from nothing, in either direction.
        put("jwt", "short");
        put("phoenix", &format!("{SECRET}\n{OTHER}"));
        guards.reload(&folder.path().join("jwt"));
        guards.reload(&folder.path().join("phoenix"));
        assert_eq!(keys(), (false, 2));
        put("jwt", OTHER);
        put("phoenix", "short");
        guards.reload(&folder.path().join("phoenix"));
        assert_eq!(keys(), (false, 2));
        guards.reload(&folder.path().join("jwt"));
        assert_eq!(keys(), (true, 2));
    }

    #[test]
    fn a_panic_over_a_token_refuses_it() {
        let refused = unless_it_panics(|| panic!("on purpose"));
        assert_eq!(refused.map_err(|refused| refused.label()), Err("malformed"));
    }
}
