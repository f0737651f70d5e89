//! The tokens of long-poll sessions: where a session lives and how far its client has read, sealed with AES-GCM.
//!
//! A token contains all that is needed to find its session, and only this server can read it. A token that does not open means that
//! there is no session. A nonce is never used twice with one key: it is a random prefix and a counter, which are new at each start
//! of the process and shared by all keys.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::array::Array;
use aes_gcm::{Aes128Gcm, Aes256Gcm, KeyInit};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bennu_wire::dialect::Dialect;
use pbkdf2::pbkdf2_hmac;
use sha2::{Sha256, Sha384, Sha512};

use crate::config::{Crypto, Digest};

/// How long a token opens. Each answer brings a new one, so a session that is polled does not end by its age.
const MAX_AGE: Duration = Duration::from_secs(14 * 24 * 60 * 60);

const VERSION: u8 = 1;
const PLAIN: usize = 1 + 8 + 2 + 16 + 8 + 8;
const NONCE: usize = 12;
const TAG: usize = 16;
/// The two forms of a token are sealed with it. One does not open as the other, because a mount may have one key for both dialects.
const ONE: &[u8] = b"one string";
const TWO: &[u8] = b"token and sig";

/// The content of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// The node.
    pub(crate) node: u64,
    /// The I/O thread of the session.
    pub(crate) io_thread: u16,
    /// The session. Random.
    pub(crate) session: [u8; 16],
    /// The sequence number of the last message in the response that brought the token.
    pub(crate) last: u64,
}

/// The key of a mount's tokens, and keys that the mount had before other settings: sessions of that time go on.
pub(crate) struct TokenKey {
    cipher: Arc<Cipher>,
    /// The latest first, [`MAX_BEFORE`] at most.
    before: Vec<Arc<Cipher>>,
}

/// How many keys of before a mount keeps.
const MAX_BEFORE: usize = 3;

enum Cipher {
    Aes128(Box<Aes128Gcm>),
    Aes256(Box<Aes256Gcm>),
}

/// The parts of a sealed token.
type Sealed = ([u8; NONCE], [u8; PLAIN], [u8; TAG]);

impl TokenKey {
    /// Derives the key from the server's secret by PBKDF2, with the path of the mount as salt. Slow on purpose.
    ///
    /// # Panics
    ///
    /// If `crypto.length` is neither 16 nor 32, which a checked configuration rules out.
    #[must_use]
    pub(crate) fn derive(secret: &[u8], mount_path: &str, crypto: &Crypto) -> Self {
        let mut key = [0; 32];
        let key = &mut key[..crypto.length];
        let (salt, rounds) = (mount_path.as_bytes(), crypto.iterations);
        match crypto.digest {
            Digest::Sha256 => pbkdf2_hmac::<Sha256>(secret, salt, rounds, key),
            Digest::Sha384 => pbkdf2_hmac::<Sha384>(secret, salt, rounds, key),
            Digest::Sha512 => pbkdf2_hmac::<Sha512>(secret, salt, rounds, key),
        }
        let cipher = if key.len() == 16 {
            Aes128Gcm::new_from_slice(key).map(|cipher| Cipher::Aes128(Box::new(cipher)))
        } else {
            Aes256Gcm::new_from_slice(key).map(|cipher| Cipher::Aes256(Box::new(cipher)))
        };
        Self {
            cipher: Arc::new(cipher.expect("a key has 16 or 32 bytes")),
            before: Vec::new(),
        }
    }

    /// The same key, which also opens what `other` opens.
    fn after(self, other: &Self) -> Self {
        let before = std::iter::once(&other.cipher).chain(&other.before);
        Self {
            before: before.take(MAX_BEFORE).cloned().collect(),
            ..self
        }
    }

    /// A token in one string of URL-safe characters, made at `now_ms` (milliseconds since 1970).
    #[must_use]
    pub(crate) fn seal(&self, position: &Position, now_ms: u64) -> String {
        let (nonce, ciphertext, tag) = self.encrypt(position, ONE, now_ms);
        URL_SAFE_NO_PAD.encode([&nonce[..], &ciphertext, &tag].concat())
    }

    /// Reads a token. `None` if another server made it or it is too old.
    #[must_use]
    pub(crate) fn open(&self, token: &str, now_ms: u64) -> Option<Position> {
        let mut bytes = [0; NONCE + PLAIN + TAG];
        decode(token, &mut bytes)?;
        let (nonce, rest) = bytes.split_first_chunk()?;
        let (ciphertext, tag) = rest.split_first_chunk()?;
        self.decrypt((*nonce, *ciphertext, *tag.first_chunk()?), ONE, now_ms)
    }

    /// Whether a text looks like a token that [`seal`](Self::seal) made, with whichever key.
    #[must_use]
    pub(crate) fn looks_sealed(text: &str) -> bool {
        decode(text, &mut [0; NONCE + PLAIN + TAG]).is_some()
    }

    /// A token in two strings, `token` and `sig`, for the Phoenix 0.11 dialect.
    #[must_use]
    pub(crate) fn seal_parts(&self, position: &Position, now_ms: u64) -> (String, String) {
        let (nonce, ciphertext, tag) = self.encrypt(position, TWO, now_ms);
        (
            URL_SAFE_NO_PAD.encode([&nonce[..], &ciphertext].concat()),
            URL_SAFE_NO_PAD.encode(tag),
        )
    }

    /// Reads a token in two strings. `None` if another server made it or it is too old.
    #[must_use]
    pub(crate) fn open_parts(&self, token: &str, sig: &str, now_ms: u64) -> Option<Position> {
        let mut bytes = [0; NONCE + PLAIN];
        let mut tag = [0; TAG];
        decode(token, &mut bytes)?;
        decode(sig, &mut tag)?;
        let (nonce, ciphertext) = bytes.split_first_chunk()?;
        self.decrypt((*nonce, *ciphertext.first_chunk()?, tag), TWO, now_ms)
    }

    fn encrypt(&self, position: &Position, form: &[u8], now_ms: u64) -> Sealed {
        let nonce = next_nonce();
        let mut text = position.to_bytes(now_ms);
        let buffer = text.as_mut_slice().into();
        let tag = match &*self.cipher {
            Cipher::Aes128(cipher) => cipher.encrypt_inout_detached(&Array(nonce), form, buffer),
            Cipher::Aes256(cipher) => cipher.encrypt_inout_detached(&Array(nonce), form, buffer),
        };
        (nonce, text, tag.expect("a token is shorter than 64 GiB").into())
    }

    fn decrypt(&self, sealed: Sealed, form: &[u8], now_ms: u64) -> Option<Position> {
        let mut ciphers = std::iter::once(&self.cipher).chain(&self.before);
        let text = ciphers.find_map(|cipher| cipher.decrypt(sealed, form))?;
        let (position, created_ms) = Position::from_bytes(&text)?;
        let age_ms = now_ms.saturating_sub(created_ms);
        (u128::from(age_ms) <= MAX_AGE.as_millis()).then_some(position)
    }
}

impl Cipher {
    fn decrypt(&self, (nonce, mut text, tag): Sealed, form: &[u8]) -> Option<[u8; PLAIN]> {
        let buffer = text.as_mut_slice().into();
        let opened = match self {
            Self::Aes128(cipher) => cipher.decrypt_inout_detached(&Array(nonce), form, buffer, &Array(tag)),
            Self::Aes256(cipher) => cipher.decrypt_inout_detached(&Array(nonce), form, buffer, &Array(tag)),
        };
        opened.ok().map(|()| text)
    }
}

/// Keys by mount and dialect, and the settings that they were derived with.
type Kept = HashMap<(String, Dialect), (Crypto, Arc<TokenKey>)>;

/// The keys that have been derived.
#[derive(Debug, Default)]
pub(crate) struct TokenKeys(Mutex<Kept>);

impl TokenKeys {
    /// The key of a mount in a dialect, see [`TokenKey::derive`]. Derived anew each time if `cache` is off. With other settings than
    /// before, it also opens the tokens of before.
    #[must_use]
    pub(crate) fn get(&self, secret: &[u8], mount_path: &str, dialect: Dialect, crypto: &Crypto) -> Arc<TokenKey> {
        let name = (mount_path.to_owned(), dialect);
        let before = self.kept().get(&name).cloned();
        if let Some((same, key)) = &before
            && same == crypto
        {
            return Arc::clone(key);
        }
        // Nobody else waits for this.
        let key = TokenKey::derive(secret, mount_path, crypto);
        let key = Arc::new(match before {
            Some((_, before)) => key.after(&before),
            None => key,
        });
        if crypto.cache {
            self.kept().insert(name, (crypto.clone(), Arc::clone(&key)));
        }
        key
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().expect("no holder panics")
    }
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey").finish_non_exhaustive()
    }
}

impl Position {
    fn to_bytes(self, created_ms: u64) -> [u8; PLAIN] {
        let mut bytes = [0; PLAIN];
        bytes[0] = VERSION;
        bytes[1..9].copy_from_slice(&self.node.to_be_bytes());
        bytes[9..11].copy_from_slice(&self.io_thread.to_be_bytes());
        bytes[11..27].copy_from_slice(&self.session);
        bytes[27..35].copy_from_slice(&created_ms.to_be_bytes());
        bytes[35..].copy_from_slice(&self.last.to_be_bytes());
        bytes
    }

    /// Also returns when the token was made.
    fn from_bytes(bytes: &[u8; PLAIN]) -> Option<(Self, u64)> {
        let (&[VERSION], rest) = bytes.split_first_chunk()? else {
            return None;
        };
        let (node, rest) = rest.split_first_chunk()?;
        let (io_thread, rest) = rest.split_first_chunk()?;
        let (session, rest) = rest.split_first_chunk()?;
        let (created_ms, last) = rest.split_first_chunk()?;
        let position = Self {
            node: u64::from_be_bytes(*node),
            io_thread: u16::from_be_bytes(*io_thread),
            session: *session,
            last: u64::from_be_bytes(*last.first_chunk()?),
        };
        Some((position, u64::from_be_bytes(*created_ms)))
    }
}

/// Decodes base64 of exactly as many bytes as `bytes` has.
fn decode(text: &str, bytes: &mut [u8]) -> Option<()> {
    // Checked first, so that no client makes the server decode megabytes.
    if text.len() != base64::encoded_len(bytes.len(), false)? {
        return None;
    }
    URL_SAFE_NO_PAD
        .decode_slice(text, bytes)
        .ok()
        .filter(|len| *len == bytes.len())
        .map(drop)
}

/// A nonce that this process has not used before.
///
/// The counter also begins at a random number, so nodes and restarts with the same secret collide only with a chance of 1 in 2^96.
fn next_nonce() -> [u8; NONCE] {
    static START: OnceLock<([u8; 4], AtomicU64)> = OnceLock::new();
    let (prefix, counter) = START.get_or_init(|| {
        let mut random = [0; NONCE];
        getrandom::fill(&mut random).expect("the system has random numbers");
        let [a, b, c, d, counter @ ..] = random;
        ([a, b, c, d], AtomicU64::new(u64::from_be_bytes(counter)))
    });
    let mut nonce = [0; NONCE];
    nonce[..4].copy_from_slice(prefix);
    nonce[4..].copy_from_slice(&counter.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    nonce
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_700_000_000_000;
    const CRYPTO: Crypto = Crypto {
        iterations: 1,
        length: 32,
        digest: Digest::Sha256,
        cache: true,
    };
    const POSITION: Position = Position {
        node: 1,
        io_thread: 2,
        session: [3; 16],
        last: 4,
    };

    static KEY: LazyLock<TokenKey> = LazyLock::new(|| TokenKey::derive(b"secret", "/socket", &CRYPTO));

    fn position() -> impl Strategy<Value = Position> {
        (any::<u64>(), any::<u16>(), any::<[u8; 16]>(), any::<u64>()).prop_map(|(node, io_thread, session, last)| {
            Position {
                node,
                io_thread,
                session,
                last,
            }
        })
    }

    #[test]
    fn every_digest_and_length_makes_a_key_of_its_own() {
        let mut keys = Vec::new();
        for digest in [Digest::Sha256, Digest::Sha384, Digest::Sha512] {
            for length in [16, 32] {
                keys.push(TokenKey::derive(
                    b"secret",
                    "/socket",
                    &Crypto {
                        digest,
                        length,
                        ..CRYPTO
                    },
                ));
            }
        }
        keys.push(TokenKey::derive(b"other", "/socket", &CRYPTO));
        keys.push(TokenKey::derive(b"secret", "/other", &CRYPTO));
        keys.push(TokenKey::derive(
            b"secret",
            "/socket",
            &Crypto {
                iterations: 2,
                ..CRYPTO
            },
        ));
        for (index, key) in keys.iter().enumerate() {
            let token = key.seal(&POSITION, NOW);
            let opened: Vec<_> = keys.iter().map(|key| key.open(&token, NOW).is_some()).collect();
            assert_eq!(opened, (0..keys.len()).map(|other| other == index).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_same_settings_make_the_same_key() {
        let token = TokenKey::derive(b"secret", "/socket", &CRYPTO).seal(&POSITION, NOW);
        assert_eq!(KEY.open(&token, NOW), Some(POSITION));
    }

    #[test]
    fn a_key_is_kept_unless_cache_is_off() {
        let keys = TokenKeys::default();
        let fresh = Crypto { cache: false, ..CRYPTO };
        let get = |path, crypto| keys.get(b"secret", path, Dialect::Modern, crypto);
        assert!(Arc::ptr_eq(&get("/a", &CRYPTO), &get("/a", &CRYPTO)));
        assert!(!Arc::ptr_eq(&get("/a", &CRYPTO), &get("/b", &CRYPTO)));
        assert!(!Arc::ptr_eq(&get("/a", &fresh), &get("/a", &fresh)));
        let token = get("/a", &fresh).seal(&POSITION, NOW);
        assert_eq!(get("/a", &fresh).open(&token, NOW), Some(POSITION));
    }

    #[test]
    fn a_session_goes_on_with_other_settings() {
        let keys = TokenKeys::default();
        let of = |iterations, cache| Crypto {
            iterations,
            cache,
            ..CRYPTO
        };
        let get = |dialect, crypto: &Crypto| keys.get(b"secret", "/a", dialect, crypto);
        let other = get(Dialect::Phoenix011, &of(1, true));
        let first = get(Dialect::Modern, &of(1, true)).seal(&POSITION, NOW);
        for crypto in [of(2, true), of(3, true), of(4, false), of(5, true)] {
            let key = get(Dialect::Modern, &crypto);
            assert_eq!(key.open(&first, NOW), Some(POSITION), "{crypto:?}");
            let own = key.seal(&POSITION, NOW);
            assert_eq!(key.open(&own, NOW), Some(POSITION), "{crypto:?}");
        }
        assert!(Arc::ptr_eq(&other, &get(Dialect::Phoenix011, &of(1, true))));
        assert_eq!(get(Dialect::Modern, &of(6, true)).before.len(), MAX_BEFORE);
    }

    #[test]
    fn a_token_is_new_each_time_and_fits_a_url() {
        let tokens = [KEY.seal(&POSITION, NOW), KEY.seal(&POSITION, NOW)];
        assert_ne!(tokens[0], tokens[1]);
        assert_eq!(tokens[0].len(), 95);
        assert!(
            tokens[0]
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        );
    }

    #[test]
    fn a_token_opens_for_14_days() {
        let token = KEY.seal(&POSITION, NOW);
        let last = NOW + 14 * 24 * 60 * 60 * 1000;
        assert_eq!(KEY.open(&token, last), Some(POSITION));
        assert_eq!(KEY.open(&token, last + 1), None);
        assert_eq!(KEY.open(&token, NOW - 1000), Some(POSITION), "clocks differ");
    }

    #[test]
    fn a_session_that_is_polled_outlives_its_first_token() {
        const DAY: u64 = 24 * 60 * 60 * 1000;
        let (mut one, mut two) = (KEY.seal(&POSITION, NOW), KEY.seal_parts(&POSITION, NOW));
        for day in (10..100).step_by(10).map(|days| NOW + days * DAY) {
            let position = KEY.open(&one, day).expect("the token of ten days ago");
            one = KEY.seal(&position, day);
            let position = KEY.open_parts(&two.0, &two.1, day).expect("the token of ten days ago");
            two = KEY.seal_parts(&position, day);
        }
    }

    #[test]
    fn a_token_in_two_parts_opens_with_both_of_them_and_not_as_one() {
        let (token, sig) = KEY.seal_parts(&POSITION, NOW);
        assert_eq!(KEY.open_parts(&token, &sig, NOW), Some(POSITION));
        assert_eq!(KEY.open_parts(&token, &KEY.seal_parts(&POSITION, NOW).1, NOW), None);
        assert_eq!(KEY.open_parts(&sig, &token, NOW), None);
        let bytes = [
            URL_SAFE_NO_PAD.decode(token).unwrap(),
            URL_SAFE_NO_PAD.decode(sig).unwrap(),
        ]
        .concat();
        assert_eq!(KEY.open(&URL_SAFE_NO_PAD.encode(bytes), NOW), None);
    }

    #[test]
    fn nonces_differ_across_threads() {
        let mut nonces: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1000).map(|_| next_nonce()).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        nonces.sort_unstable();
        nonces.dedup();
        assert_eq!(nonces.len(), 4000);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn what_is_sealed_opens(position in position()) {
            prop_assert_eq!(KEY.open(&KEY.seal(&position, NOW), NOW), Some(position));
        }

        #[test]
        fn a_token_with_any_character_altered_does_not_open(position in position(), at in 0..95_usize, other in "[ -~]") {
            let mut token = KEY.seal(&position, NOW);
            prop_assume!(token[at..=at] != other);
            token.replace_range(at..=at, &other);
            prop_assert_eq!(KEY.open(&token, NOW), None);
        }

        #[test]
        fn arbitrary_strings_do_not_open(text in "\\PC{0,20}|[A-Za-z0-9_-]{95}|[A-Za-z0-9_-]{0,200}", sig in "[A-Za-z0-9_-]{22}") {
            prop_assert_eq!(KEY.open(&text, NOW), None);
            prop_assert_eq!(KEY.open_parts(&text, &sig, NOW), None);
        }
    }
}
