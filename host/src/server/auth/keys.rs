//! Keys: read from files, from the environment and from JWKS, and found for a token. [`formats`] knows what is in the files.

mod formats;

use std::io;
use std::path::{Path, PathBuf};

use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, crypto};
use pbkdf2::pbkdf2_hmac;
use sha2::Sha256;

use self::formats::{check_encoding, jwks, lines, public, secrets};
use crate::config::secret::{self, JWT_VARIABLE, PHOENIX_VARIABLE};
use crate::config::{ContentHash, Jwt, KeySource, PhoenixToken};

/// How many keys one place may have. A token without `kid` is tried with all of them.
const MAX_KEYS: usize = 32;
/// The shortest modulus of RSA, in bytes: 2048 bits.
const LEAST_RSA_BYTES: usize = 256;
/// The shortest `secret_key_base`, as in Phoenix.
const LEAST_PHOENIX_BYTES: usize = 64;
/// How Phoenix derives the key of its tokens.
const PHOENIX_ITERATIONS: u32 = 1_000;
const PHOENIX_KEY_BYTES: usize = 32;

/// Some keys, as they were at one time.
#[derive(Debug, Default)]
pub(super) struct Keys {
    keys: Vec<Key>,
    /// Where they were read from, and what was there.
    pub(super) file: Option<(PathBuf, ContentHash)>,
}

struct Key {
    kid: Option<String>,
    /// Those of the mount that it is for.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// Neither a file nor the environment has any.
    #[error("there is no secret for tokens: name a file with `{0}`, or set {1}")]
    Missing(&'static str, &'static str),
    /// The file could not be read.
    #[error("cannot read {}: {why}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// What is there is no key.
    #[error("{from}: {why}")]
    Invalid {
        /// The file, the variable or the address.
        from: String,
        /// What is wrong there.
        why: String,
    },
}

impl Keys {
    /// The keys of `jwt`, unless they come from an address.
    pub(super) fn of_jwt(jwt: &Jwt) -> Result<Self, KeysError> {
        match &jwt.keys {
            KeySource::Secrets(file) => Self::of_file(file, |bytes| secrets(bytes, jwt)),
            KeySource::Keys(file) => Self::of_file(file, |bytes| public(bytes, jwt)),
            KeySource::Variable => {
                let value = variable(JWT_VARIABLE).ok_or(KeysError::Missing("secret_file", JWT_VARIABLE))?;
                Self::named(JWT_VARIABLE, secrets(&value, jwt))
            }
            KeySource::Jwks(_) => Ok(Self::default()),
        }
    }

    /// The keys of `phoenix_token`, derived from the secrets with its salt.
    pub(super) fn of_phoenix(phoenix: &PhoenixToken) -> Result<Self, KeysError> {
        let derive = |bytes: &[u8]| {
            let lines = lines(bytes, LEAST_PHOENIX_BYTES)?;
            let keys = lines.into_iter().map(|secret| {
                let mut key = [0; PHOENIX_KEY_BYTES];
                pbkdf2_hmac::<Sha256>(secret, phoenix.salt.as_bytes(), PHOENIX_ITERATIONS, &mut key);
                Key::secret(&key, vec![Algorithm::HS256])
            });
            keys.collect()
        };
        match &phoenix.secret_key_base_file {
            Some(file) => Self::of_file(file, derive),
            None => {
                let missing = KeysError::Missing("secret_key_base_file", PHOENIX_VARIABLE);
                Self::named(PHOENIX_VARIABLE, derive(&variable(PHOENIX_VARIABLE).ok_or(missing)?))
            }
        }
    }

    /// The keys that an address has served.
    #[cfg_attr(
        not(feature = "jwks"),
        allow(dead_code, reason = "only an address serves keys at runtime")
    )]
    pub(super) fn of_address(url: &str, bytes: &[u8], jwt: &Jwt) -> Result<Self, KeysError> {
        Self::named(url, jwks(bytes, jwt, false))
    }

    fn of_file(file: &Path, read: impl FnOnce(&[u8]) -> Result<Vec<Key>, String>) -> Result<Self, KeysError> {
        let unreadable = |why| KeysError::Unreadable {
            file: file.to_owned(),
            why,
        };
        let bytes = secret::read(file).map_err(unreadable)?;
        let keys = check_encoding(&bytes).and_then(|()| read(&bytes));
        let keys = Self::named(&file.display().to_string(), keys)?;
        Ok(Self {
            file: Some((file.to_owned(), ContentHash::of(&bytes))),
            ..keys
        })
    }

    fn named(from: &str, keys: Result<Vec<Key>, String>) -> Result<Self, KeysError> {
        let keys = keys.and_then(|keys| match keys.len() {
            0 => Err("there is no key for the `algorithms` of `jwt`".to_owned()),
            1..=MAX_KEYS => Ok(keys),
            more => Err(format!("there are {more} keys, and {MAX_KEYS} at most are tried")),
        });
        let invalid = |why| KeysError::Invalid {
            from: from.to_owned(),
            why,
        };
        Ok(Self {
            keys: keys.map_err(invalid)?,
            file: None,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether one of the keys has made this signature. A token with a `kid` is tried with the keys of that name, and with those
    /// that have none. `None`: no key is for it.
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        kid: Option<&str>,
        signed: &str,
        signature: &str,
    ) -> Option<bool> {
        let is_named = |key: &&Key| match (kid, &key.kid) {
            (Some(kid), Some(own)) => kid == own,
            _ => true,
        };
        let fitting: Vec<&Key> = { self.keys.iter() }
            .filter(|key| key.algorithms.contains(&algorithm))
            .filter(is_named)
            .collect();
        let made_it =
            |key: &&Key| crypto::verify(signature, signed.as_bytes(), &key.key, algorithm).is_ok_and(|is_good| is_good);
        (!fitting.is_empty()).then(|| fitting.iter().any(made_it))
    }
}

impl Key {
    fn secret(secret: &[u8], algorithms: Vec<Algorithm>) -> Result<Self, String> {
        let key = DecodingKey::from_secret(secret).map_err(|error| error.to_string())?;
        Ok(Self {
            kid: None,
            algorithms,
            key,
        })
    }

    /// A public key, for those of `algorithms` that it can verify.
    fn public(key: DecodingKey, kid: Option<String>, algorithms: &[Algorithm]) -> Result<Self, String> {
        let bytes = match key.kind() {
            jsonwebtoken::DecodingKeyKind::SecretOrDer(bytes) => bytes.len(),
            jsonwebtoken::DecodingKeyKind::RsaModulusExponent { n, .. } => {
                n.len() - n.iter().take_while(|byte| **byte == 0).count()
            }
        };
        if key.family() == AlgorithmFamily::Rsa && bytes < LEAST_RSA_BYTES {
            return Err("an RSA key of less than 2048 bits is no longer safe".to_owned());
        }
        let fits = |algorithm: &Algorithm| match algorithm {
            // An uncompressed point is a byte and two coordinates.
            Algorithm::ES256 => bytes == 1 + 2 * 32,
            Algorithm::ES384 => bytes == 1 + 2 * 48,
            _ => true,
        };
        let algorithms = { algorithms.iter() }.filter(|algorithm| algorithm.family() == key.family());
        Ok(Self {
            kid,
            algorithms: algorithms.copied().filter(fits).collect(),
            key,
        })
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// An environment variable. Many tools set an empty one for one that is not set.
fn variable(name: &str) -> Option<Vec<u8>> {
    let bytes = std::env::var_os(name)?.into_encoded_bytes();
    (!bytes.trim_ascii().is_empty()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::Header;
    use serde_json::json;

    use crate::server::auth::Refused;
    use crate::server::auth::testing::*;

    const SECRETS: &str = r#"jwt = { algorithms = ["HS256"], secret_file = "keys" }"#;
    const KEYS: &str = r#"jwt = { algorithms = ["HS256", "RS256", "ES256", "ES384", "EdDSA"], keys_file = "keys" }"#;

    fn good() -> serde_json::Value {
        json!({ "sub": "7", "exp": NOW_MS / 1_000 + 60 })
    }

    fn with_kid(kid: Option<&str>, secret: &str) -> String {
        let header = Header {
            kid: kid.map(str::to_owned),
            ..Header::default()
        };
        token_with(&header, &good(), secret)
    }

    fn oct(kid: &str, secret: &str) -> serde_json::Value {
        json!({ "kty": "oct", "kid": kid, "k": URL_SAFE_NO_PAD.encode(secret) })
    }

    #[track_caller]
    fn check_refused(settings: &str, keys: &str, expected: &str) {
        let error = Bench::try_new(settings, keys).err().expect("refused").to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains(SECRET) && !error.contains(&SECRET[..63]), "{error}");
    }

    #[test]
    fn each_secret_of_a_file_is_good() {
        let bench = Bench::new(SECRETS, &format!("{SECRET}\n\n  {OTHER}  \n"));
        for secret in [SECRET, OTHER] {
            assert!(bench.check(&token(&good(), secret)).is_ok());
        }
        assert_eq!(bench.check(&token(&good(), "x")), Err(Refused::Signature));
    }

    #[test]
    fn a_file_may_hold_keys_of_several_kinds() {
        let bench = Bench::new(
            KEYS,
            &format!("{RSA_PUB}{EC256_PUB}\n# the newest\n{ED_PUB}{EC384_PUB}"),
        );
        for (algorithm, key) in [("RS256", RSA), ("ES256", EC256), ("ES384", EC384), ("EdDSA", ED)] {
            let header = Header::new(algorithm.parse().expect("known"));
            assert!(bench.check(&token_with(&header, &good(), key)).is_ok(), "{algorithm}");
        }
    }

    #[test]
    fn the_kid_picks_the_key_and_without_one_all_are_tried() {
        let jwks = json!({ "keys": [oct("a", SECRET), oct("b", OTHER)] });
        let bench = Bench::new(KEYS, &jwks.to_string());
        assert!(bench.check(&with_kid(Some("a"), SECRET)).is_ok());
        assert!(bench.check(&with_kid(None, OTHER)).is_ok());
        assert_eq!(bench.check(&with_kid(Some("b"), SECRET)), Err(Refused::Signature));
        assert_eq!(bench.check(&with_kid(Some("c"), SECRET)), Err(Refused::UnknownKey));
    }

    #[test]
    fn keys_of_a_jwks_that_are_for_something_else_are_left_out() {
        let mut encrypts = oct("e", OTHER);
        encrypts["use"] = json!("enc");
        let mut of_hs512 = oct("h", OTHER);
        of_hs512["alg"] = json!("HS512");
        let mut wraps = oct("w", OTHER);
        wraps["key_ops"] = json!(["wrapKey", "encrypt"]);
        let mut verifies = oct("a", SECRET);
        verifies["key_ops"] = json!(["sign", "verify"]);
        let unknown = json!({ "kty": "lattice", "kid": "q" });
        let jwks = json!({ "keys": [encrypts, of_hs512, wraps, unknown, 7, verifies] });
        let bench = Bench::new(KEYS, &jwks.to_string());
        assert!(bench.check(&with_kid(Some("a"), SECRET)).is_ok());
        for kid in ["e", "h", "w", "q"] {
            assert_eq!(
                bench.check(&with_kid(Some(kid), OTHER)),
                Err(Refused::UnknownKey),
                "{kid}"
            );
        }
    }

    #[test]
    fn what_is_no_key_is_refused_with_its_place() {
        check_refused(SECRETS, "", "there is no secret in it");
        check_refused(SECRETS, " \n\n", "there is no secret in it");
        check_refused(
            SECRETS,
            &format!("{SECRET}\nshort"),
            "the secret in line 2 has 5 bytes, but needs at least 32",
        );
        check_refused(
            SECRETS,
            &format!("{SECRET}\n# the secret of last year, just in case"),
            "line 2 begins with `#`",
        );
        let hs512 = r#"jwt = { algorithms = ["HS256", "HS512"], secret_file = "keys" }"#;
        check_refused(hs512, &SECRET[..63], "has 63 bytes, but needs at least 64");
        check_refused(KEYS, SECRET, "it is neither PEM nor a JWKS");
        check_refused(KEYS, &format!("{RSA_PUB}{ED}"), "the key in line 10 is private");
        check_refused(KEYS, WEAK_PUB, "less than 2048 bits");
        check_refused(KEYS, &RSA_PUB[..200], "the key in line 1 is not a public key");
        check_refused(KEYS, "{}", "it is no JWKS");
        let list = json!([[oct("a", SECRET)]]).to_string();
        let jwt = r#"jwt = { algorithms = ["HS256"], secret_file = "keys" }"#;
        let config = config(std::path::Path::new("/nowhere"), jwt);
        let jwt = config.mounts[0].auth.as_ref().and_then(|auth| auth.jwt.as_ref());
        let no_set = super::jwks(list.as_bytes(), jwt.expect("there"), true);
        assert_eq!(no_set.expect_err("a list"), "it is no JWKS: it is no JSON object");
        check_refused(KEYS, r#"{"keys":[]}"#, "there is no key for the `algorithms` of `jwt`");
        let short = json!({ "keys": [oct("a", "short")] }).to_string();
        check_refused(KEYS, &short, "key 1 of the JWKS has 5 bytes, but needs at least 32");
        let private = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAA","d":"BBBB"}]}"#;
        check_refused(KEYS, private, "key 1 of the JWKS is private");
        let only_ec = r#"jwt = { algorithms = ["RS256"], keys_file = "keys" }"#;
        check_refused(only_ec, EC256_PUB, "there is no key for the `algorithms` of `jwt`");
        let many = (0..33).map(|_| format!("{SECRET}\n")).collect::<String>();
        check_refused(SECRETS, &many, "there are 33 keys, and 32 at most are tried");
    }

    #[test]
    fn a_file_in_another_encoding_is_refused_with_what_to_do() {
        let mark = "it begins with a byte order mark: save it as UTF-8 without one";
        check_refused(SECRETS, &format!("\u{feff}{SECRET}"), mark);
        check_refused(KEYS, &format!("\u{feff}{RSA_PUB}"), mark);
        let of_zeros: String = SECRET.chars().flat_map(|c| [c, '\0']).collect();
        check_refused(SECRETS, &of_zeros, "it is in UTF-16, or not a text: save it as UTF-8");
        for utf_16 in [[0xff, 0xfe], [0xfe, 0xff]] {
            assert!(super::check_encoding(&utf_16).is_err());
        }
    }

    #[test]
    fn a_key_counts_from_when_it_is_in_the_file_until_it_is_not() {
        let bench = Bench::new(SECRETS, SECRET);
        let (old, new) = (token(&good(), SECRET), token(&good(), OTHER));
        assert_eq!(bench.check(&new), Err(Refused::Signature));
        bench.replace(&format!("{OTHER}\n{SECRET}\n"));
        assert!(bench.check(&old).is_ok() && bench.check(&new).is_ok());
        bench.replace(OTHER);
        assert_eq!(bench.check(&old), Err(Refused::Signature));
        assert!(bench.check(&new).is_ok());
    }

    #[test]
    fn a_file_that_cannot_be_read_leaves_the_keys_as_they_were() {
        let bench = Bench::new(SECRETS, SECRET);
        for broken in ["", "half", &format!("{OTHER}\nhalf")] {
            bench.replace(broken);
            assert!(bench.check(&token(&good(), SECRET)).is_ok());
            assert_eq!(bench.check(&token(&good(), OTHER)), Err(Refused::Signature));
        }
    }

    #[test]
    fn while_keys_are_replaced_no_good_token_is_refused_and_no_forged_one_taken() {
        let bench = Bench::new(SECRETS, &format!("{SECRET}\n{OTHER}\n"));
        let tokens = [SECRET, OTHER].map(|secret| token(&good(), secret));
        let forged = token(&good(), "a secret that the file never held, of many bytes");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        assert!(tokens.iter().all(|token| bench.check(token).is_ok()));
                        assert_eq!(bench.check(&forged), Err(Refused::Signature));
                    }
                });
            }
            let end = Instant::now() + Duration::from_millis(500);
            let mut rounds = 0;
            while Instant::now() < end || rounds < 50 {
                bench.replace(&format!("{OTHER}\n{SECRET}\n"));
                bench.replace("half");
                bench.replace(&format!("{SECRET}\n{OTHER}\n"));
                rounds += 1;
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
