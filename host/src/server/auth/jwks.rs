//! Fetches keys from the `jwks_url` of a mount, on a thread of its own.
//!
//! The thread fetches at the start, at an interval, and when a token names a key that nobody knows, but for that only so often. A
//! fetch that fails changes nothing: the keys of the last good one stay.

use std::io::Read as _;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::Guard;
use super::keys::Keys;
use crate::config::{Auth, Jwks, Jwt, KeySource};

/// How soon it tries again while it has no keys at all.
const FIRST_KEYS: Duration = Duration::from_secs(1);

/// The way to the thread. When this is dropped, the thread ends.
#[derive(Debug)]
pub(super) struct Fetcher {
    asks: SyncSender<()>,
    /// For the thread, until it starts.
    asked: Mutex<Option<Receiver<()>>>,
    /// When somebody asked for keys that nobody knew.
    last: Mutex<Option<Instant>>,
    interval: Duration,
}

/// Why there are no new keys.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Http(#[from] ureq::Error),
    #[error("the answer has the status {0}")]
    Status(u16),
    #[error("the answer cannot be read: {0}")]
    Body(#[from] std::io::Error),
    #[error("the answer has more than `jwks_max_bytes`")]
    TooLong,
    #[error(transparent)]
    Keys(#[from] super::KeysError),
}

impl Fetcher {
    /// The fetcher of a mount, if its keys come from an address.
    pub(super) fn new(auth: &Auth) -> Option<Self> {
        let (_, jwks) = of(auth)?;
        let (asks, asked) = mpsc::sync_channel(1);
        Some(Self {
            asks,
            asked: Mutex::new(Some(asked)),
            last: Mutex::default(),
            interval: jwks.unknown_kid_interval,
        })
    }

    /// Asks for a fetch, because of an unknown key. False: somebody did so a moment ago, and the key was not there.
    pub(super) fn ask(&self) -> bool {
        let now = Instant::now();
        let mut last = self.last.lock().expect("no holder panics");
        if last.is_some_and(|last| now.saturating_duration_since(last) < self.interval) {
            return false;
        }
        *last = Some(now);
        // One that waits already will do.
        let _ = self.asks.try_send(());
        true
    }
}

/// Starts the thread of a guard whose keys come from an address.
pub(super) fn start(guard: &Arc<Guard>) {
    let asked = guard
        .fetcher
        .as_ref()
        .and_then(|fetcher| fetcher.asked.lock().expect("no holder panics").take());
    let (Some(asked), Some((jwt, jwks))) = (asked, of(&guard.auth)) else {
        return;
    };
    let (guard, jwt, jwks) = (Arc::downgrade(guard), jwt.clone(), jwks.clone());
    let started = thread::Builder::new()
        .name("bennu-jwks".to_owned())
        .spawn(move || run(&guard, &jwt, &jwks, &asked));
    if let Err(error) = started {
        tracing::error!(%error, "the system gives no thread to fetch keys");
    }
}

fn of(auth: &Auth) -> Option<(&Jwt, &Jwks)> {
    let jwt = auth.jwt.as_ref()?;
    match &jwt.keys {
        KeySource::Jwks(jwks) => Some((jwt, jwks)),
        _ => None,
    }
}

fn run(guard: &Weak<Guard>, jwt: &Jwt, jwks: &Jwks, asked: &Receiver<()>) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(jwks.timeout))
        // An address that leads elsewhere is not the one that the operator trusts.
        .max_redirects(0)
        .http_status_as_error(false)
        .build()
        .into();
    let (mut failed, url) = (false, jwks.shown_url());
    loop {
        let fetched = fetch(&agent, jwt, jwks);
        let Some(guard) = guard.upgrade() else { return };
        match fetched {
            Ok(keys) => {
                if guard.jwt.get().is_empty() || std::mem::take(&mut failed) {
                    tracing::info!(url, keys = keys.len(), "keys fetched");
                }
                guard.jwt.set(keys);
            }
            Err(error) => {
                failed = true;
                let error = error.to_string().replace(&jwks.url, &url);
                tracing::error!(url, error, "keys cannot be fetched, those in force stay");
            }
        }
        let wait = if guard.jwt.get().is_empty() {
            FIRST_KEYS.min(jwks.refresh)
        } else {
            jwks.refresh
        };
        drop(guard);
        if asked.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

fn fetch(agent: &ureq::Agent, jwt: &Jwt, jwks: &Jwks) -> Result<Keys, FetchError> {
    let mut response = agent.get(&jwks.url).header("accept", "application/json").call()?;
    let status = response.status();
    if !status.is_success() {
        return Err(FetchError::Status(status.as_u16()));
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(jwks.max_bytes).unwrap_or(u64::MAX);
    let body = response.body_mut().as_reader();
    body.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() > jwks.max_bytes {
        return Err(FetchError::TooLong);
    }
    Ok(Keys::of_address(&jwks.shown_url(), &bytes, jwt)?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener};
    use std::sync::mpsc::{self, Receiver};
    use std::time::Duration;

    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::{Algorithm, DecodingKey, Header};
    use serde_json::json;

    use crate::config::{Config, Mode};
    use crate::server::auth::testing::*;
    use crate::server::auth::{Guard, Guards, Refused};

    /// An address that gives these answers, one after the other, and then the last one for ever. Says which it has given.
    fn address(answers: Vec<String>) -> (SocketAddr, Receiver<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (told, given) = mpsc::channel();
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = stream.expect("a client");
                let _ = stream.read(&mut [0; 4_096]);
                let answer = answers.get(number).or(answers.last()).expect("one");
                let _ = stream.write_all(answer.as_bytes());
                drop(stream);
                if told.send(number).is_err() {
                    return;
                }
            }
        });
        (address, given)
    }

    fn answer(status: &str, body: &str) -> String {
        format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    }

    fn jwk(public: &str, kid: &str) -> serde_json::Value {
        let key = DecodingKey::from_rsa_pem(public.as_bytes()).or_else(|_| DecodingKey::from_ed_pem(public.as_bytes()));
        let algorithm = if public == RSA_PUB {
            Algorithm::RS256
        } else {
            Algorithm::EdDSA
        };
        let jwk = jsonwebtoken::jwk::Jwk::from_decoding_key(&key.expect("a key"), Some(algorithm)).expect("a JWK");
        let mut jwk = serde_json::to_value(jwk).expect("JSON");
        jwk["kid"] = json!(kid);
        jwk
    }

    fn signed(algorithm: Algorithm, kid: &str, key: &str) -> String {
        let header = Header {
            kid: Some(kid.to_owned()),
            ..Header::new(algorithm)
        };
        token_with(&header, &json!({ "sub": "7", "exp": NOW_MS / 1_000 + 60 }), key)
    }

    fn guards(address: SocketAddr, more: &str) -> Guards {
        let text = format!(
            "[[mounts]]\npath = \"/socket\"\n[mounts.auth.jwt]\nalgorithms = [\"RS256\", \"EdDSA\"]\njwks_url = \"http://{address}/keys\"\n{more}\n"
        );
        let config = Config::parse(std::path::Path::new("bennu.toml"), &text, Mode::Serve).expect("a configuration");
        let guards = Guards::new(&config, &Guards::default()).expect("guards");
        guards.start();
        guards
    }

    /// Waits until the guard says this of a token.
    fn until(guard: &Guard, token: &str, expected: Option<&Refused>) {
        let end = std::time::Instant::now() + Duration::from_secs(5);
        while guard.check(token, NOW_MS).err().as_ref() != expected {
            assert!(
                std::time::Instant::now() < end,
                "{:?}",
                guard.check(token, NOW_MS).err()
            );
            std::thread::yield_now();
        }
    }

    #[test]
    fn keys_are_fetched_and_an_unknown_one_has_them_fetched_again_but_not_at_once() {
        let secret = json!({ "kty": "oct", "kid": "s", "k": URL_SAFE_NO_PAD.encode(SECRET) });
        let first = json!({ "keys": [jwk(RSA_PUB, "a"), secret] }).to_string();
        let both = json!({ "keys": [jwk(RSA_PUB, "a"), jwk(ED_PUB, "b")] }).to_string();
        let (address, given) = address(vec![answer("200 OK", &first), answer("200 OK", &both)]);
        let guards = guards(address, "jwks_unknown_kid_s = 3_600");
        let guard = guards.of("/socket").expect("it has one");
        let (old, new) = (signed(Algorithm::RS256, "a", RSA), signed(Algorithm::EdDSA, "b", ED));
        until(guard, &old, None);
        assert_eq!(given.recv_timeout(Duration::from_secs(5)), Ok(0));
        // The first one may come again at once, and the address is asked.
        assert_eq!(guard.check(&new, NOW_MS), Err(Refused::NoKeys));
        assert_eq!(given.recv_timeout(Duration::from_secs(5)), Ok(1));
        until(guard, &new, None);
        assert!(guard.check(&old, NOW_MS).is_ok());
        // Others are not worth another fetch.
        for kid in ["c", "d"] {
            assert_eq!(
                guard.check(&signed(Algorithm::EdDSA, kid, ED), NOW_MS),
                Err(Refused::UnknownKey)
            );
        }
        assert!(given.try_recv().is_err());
    }

    #[test]
    fn a_fetch_that_fails_leaves_the_keys_as_they_were() {
        let good = json!({ "keys": [jwk(RSA_PUB, "a")] }).to_string();
        let (address, given) = address(vec![
            answer("200 OK", &good),
            answer("500 Oops", &json!({ "keys": [jwk(ED_PUB, "b")] }).to_string()),
            answer("302 Found\r\nlocation: /elsewhere", "{}"),
            answer("200 OK", "no keys"),
            answer("200 OK", &format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(5_000))),
            String::new(),
        ]);
        let guards = guards(
            address,
            "jwks_refresh_s = 1\njwks_max_bytes = 2_000\njwks_timeout_ms = 500",
        );
        let guard = guards.of("/socket").expect("it has one");
        let token = signed(Algorithm::RS256, "a", RSA);
        until(guard, &token, None);
        while given.recv_timeout(Duration::from_secs(5)).expect("fetches go on") < 6 {
            assert!(guard.check(&token, NOW_MS).is_ok());
        }
    }

    #[test]
    fn before_the_first_fetch_nobody_can_be_judged() {
        // Nobody answers there.
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        let guards = guards(silent.local_addr().expect("an address"), "");
        let token = signed(Algorithm::RS256, "a", RSA);
        let refused = guards.of("/socket").expect("it has one").check(&token, NOW_MS);
        assert_eq!(refused, Err(Refused::NoKeys));
    }
}
