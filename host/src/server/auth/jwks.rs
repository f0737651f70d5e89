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
    let asked = guard.fetcher.as_ref().and_then(|fetcher| fetcher.asked.lock().expect("no holder panics").take());
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
    let mut failed = false;
    loop {
        let fetched = fetch(&agent, jwt, jwks);
        let Some(guard) = guard.upgrade() else { return };
        match fetched {
            Ok(keys) => {
                if guard.jwt.get().is_empty() || std::mem::take(&mut failed) {
                    tracing::info!(url = jwks.url, keys = keys.len(), "keys fetched");
                }
                guard.jwt.set(keys);
            }
            Err(error) => {
                failed = true;
                tracing::error!(url = jwks.url, %error, "keys cannot be fetched, those in force stay");
            }
        }
        let wait = if guard.jwt.get().is_empty() { FIRST_KEYS.min(jwks.refresh) } else { jwks.refresh };
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
    Ok(Keys::of_address(&jwks.url, &bytes, jwt)?)
}
