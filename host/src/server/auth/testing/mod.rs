//! Guards and tokens for tests.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::Value;
use tempfile::TempDir;

use super::{Guard, Guards, KeysError, Pass, Refused};
use crate::config::{Config, Mode};

/// 64 bytes, as HS512 needs.
pub(super) const SECRET: &str = "the secret of the tests, as long as HS512 wants it: 64 bytes, ok";
/// Another one.
pub(super) const OTHER: &str = "another secret of the tests, which is long enough for HS512, too";
/// What time it is.
pub(super) const NOW_MS: u64 = 1_700_000_000_000;

pub(super) const RSA: &str = include_str!("rsa.pem");
pub(super) const RSA_PUB: &str = include_str!("rsa.pub.pem");
pub(super) const WEAK_PUB: &str = include_str!("weak.pub.pem");
pub(super) const EC256: &str = include_str!("ec256.pem");
pub(super) const EC256_PUB: &str = include_str!("ec256.pub.pem");
pub(super) const EC384: &str = include_str!("ec384.pem");
pub(super) const EC384_PUB: &str = include_str!("ec384.pub.pem");
pub(super) const ED: &str = include_str!("ed25519.pem");
pub(super) const ED_PUB: &str = include_str!("ed25519.pub.pem");

/// A mount `/socket` with these settings of `[mounts.auth]`, whose keys are in the file `keys`.
pub(super) struct Bench {
    folder: TempDir,
    guards: Guards,
}

impl Bench {
    /// `auth` is a part of a TOML table, as in `jwt = { algorithms = ["HS256"], secret_file = "keys" }`.
    #[track_caller]
    pub(super) fn new(auth: &str, keys: &str) -> Self {
        match Self::try_new(auth, keys) {
            Ok(bench) => bench,
            Err(error) => panic!("{error}"),
        }
    }

    #[track_caller]
    pub(super) fn try_new(auth: &str, keys: &str) -> Result<Self, KeysError> {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("keys"), keys).expect("written");
        let config = config(folder.path(), auth);
        let guards = Guards::new(&config, &Guards::default()).map_err(|mut bad| bad.remove(0).why)?;
        Ok(Self { folder, guards })
    }

    pub(super) fn guard(&self) -> &Arc<Guard> {
        self.guards.of("/socket").expect("it has one")
    }

    pub(super) fn check(&self, token: &str) -> Result<Pass, Refused> {
        self.guard().check(token, NOW_MS)
    }

    /// Replaces the keys, whole at once, and has them read again.
    pub(super) fn replace(&self, keys: &str) {
        let (new, file) = (self.folder.path().join("new"), self.folder.path().join("keys"));
        fs::write(&new, keys).expect("written");
        fs::rename(new, &file).expect("moved");
        self.guards.reload(&file.canonicalize().expect("a file"));
    }
}

/// A configuration with one mount.
#[track_caller]
pub(super) fn config(folder: &Path, auth: &str) -> Config {
    let text = format!("[[mounts]]\npath = \"/socket\"\n[mounts.auth]\n{auth}\n");
    match Config::parse(&folder.join("bennu.toml"), &text, Mode::Serve) {
        Ok(config) => config,
        Err(errors) => panic!("{}", errors.render(false)),
    }
}

/// A token with this header, signed by the secret or the private key that fits its `alg`.
#[track_caller]
pub(super) fn token_with(header: &Header, claims: &Value, key: &str) -> String {
    let bytes = key.as_bytes();
    let key = match header.alg.family() {
        jsonwebtoken::AlgorithmFamily::Hmac => EncodingKey::from_secret(bytes),
        jsonwebtoken::AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(bytes),
        jsonwebtoken::AlgorithmFamily::Ec => EncodingKey::from_ec_pem(bytes),
        jsonwebtoken::AlgorithmFamily::Ed => EncodingKey::from_ed_pem(bytes),
    };
    jsonwebtoken::encode(header, claims, &key.expect("a key")).expect("a token")
}

/// A token by HS256.
#[track_caller]
pub(super) fn token(claims: &Value, secret: &str) -> String {
    token_with(&Header::default(), claims, secret)
}

/// A token whose header and claims are any texts, signed by HS256 with this secret.
pub(super) fn raw(header: &str, claims: &str, secret: &str) -> String {
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let signed = format!("{}.{}", encode(header), encode(claims));
    let key = EncodingKey::from_secret(secret.as_bytes()).expect("a key");
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, jsonwebtoken::Algorithm::HS256);
    format!("{signed}.{}", signature.expect("a signature"))
}
