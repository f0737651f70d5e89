//! What files of keys and JWKS hold: secrets line by line, PEM, JSON.

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Key;
use crate::config::Jwt;

/// Some editors save a text in an encoding in which its bytes are not those of the secret.
pub(super) fn check_encoding(bytes: &[u8]) -> Result<(), String> {
    const UTF_8_MARK: &[u8] = &[0xef, 0xbb, 0xbf];
    const UTF_16_MARKS: [&[u8]; 2] = [&[0xff, 0xfe], &[0xfe, 0xff]];
    if bytes.starts_with(UTF_8_MARK) {
        return Err("it begins with a byte order mark: save it as UTF-8 without one".to_owned());
    }
    if bytes.contains(&0) || UTF_16_MARKS.iter().any(|mark| bytes.starts_with(mark)) {
        return Err("it is in UTF-16, or not a text: save it as UTF-8".to_owned());
    }
    Ok(())
}

/// The secrets of a file, one a line, each of at least so many bytes.
pub(super) fn lines(bytes: &[u8], least: usize) -> Result<Vec<&[u8]>, String> {
    let lines = { bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) }.enumerate();
    let lines: Vec<_> = lines.filter(|(_, line)| !line.is_empty()).collect();
    if lines.is_empty() {
        return Err("there is no secret in it".to_owned());
    }
    let checked = |(number, line): (usize, &'_ [u8])| match line.len() {
        _ if line.starts_with(b"#") => Err(format!(
            "line {} begins with `#`, but each line is a secret: remove it, or take a secret that begins otherwise",
            number + 1
        )),
        short if short < least => Err(format!(
            "the secret in line {} has {short} bytes, but needs at least {least}",
            number + 1
        )),
        _ => Ok(()),
    };
    lines.iter().try_for_each(|line| checked(*line))?;
    Ok(lines.into_iter().map(|(_, line)| line).collect())
}

/// A secret that is shorter than the hash is easier to guess than the signature (RFC 7518, 3.2).
fn least_secret(jwt: &Jwt) -> usize {
    let bytes = |algorithm: &Algorithm| match algorithm {
        Algorithm::HS384 => 48,
        Algorithm::HS512 => 64,
        _ => 32,
    };
    { jwt.algorithms.iter() }.map(bytes).max().unwrap_or(32)
}

pub(super) fn secrets(bytes: &[u8], jwt: &Jwt) -> Result<Vec<Key>, String> {
    let hmac = { jwt.algorithms.iter() }.filter(|algorithm| algorithm.family() == AlgorithmFamily::Hmac);
    let hmac: Vec<Algorithm> = hmac.copied().collect();
    let lines = lines(bytes, least_secret(jwt))?;
    lines.into_iter().map(|line| Key::secret(line, hmac.clone())).collect()
}

/// The keys of a file: a JWKS, or else PEM.
pub(super) fn public(bytes: &[u8], jwt: &Jwt) -> Result<Vec<Key>, String> {
    match bytes.trim_ascii_start() {
        [b'{', ..] => jwks(bytes, jwt, true),
        _ => pem(bytes, jwt),
    }
}

fn pem(bytes: &[u8], jwt: &Jwt) -> Result<Vec<Key>, String> {
    const BEGIN: &str = "-----BEGIN ";
    let text = str::from_utf8(bytes).map_err(|_| "it is neither PEM nor a JWKS".to_owned())?;
    let mut keys = Vec::new();
    for (at, _) in text.match_indices(BEGIN) {
        let place = format!("the key in line {}", text[..at].matches('\n').count() + 1);
        let block = text[at..].split_inclusive(BEGIN).take(2).collect::<String>();
        let block = block
            .strip_suffix(BEGIN)
            .filter(|block| !block.is_empty())
            .unwrap_or(&block);
        if block.lines().next().is_some_and(|line| line.contains("PRIVATE KEY")) {
            return Err(format!(
                "{place} is private: Bennu needs only the public one (`openssl pkey -pubout`)"
            ));
        }
        let block = block.as_bytes();
        let key = DecodingKey::from_rsa_pem(block)
            .or_else(|_| DecodingKey::from_ec_pem(block))
            .or_else(|_| DecodingKey::from_ed_pem(block))
            .map_err(|_| format!("{place} is not a public key of RSA, EC (P-256, P-384) or Ed25519"))?;
        keys.push(Key::public(key, None, &jwt.algorithms).map_err(|why| format!("{place}: {why}"))?);
    }
    if keys.is_empty() {
        return Err("it is neither PEM nor a JWKS".to_owned());
    }
    keys.retain(|key| !key.algorithms.is_empty());
    Ok(keys)
}

#[derive(Deserialize)]
struct JwkSet<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// Whether a key that is for this is one for signatures. A secret does both.
fn verifies(operation: &KeyOperations) -> bool {
    matches!(operation, KeyOperations::Sign | KeyOperations::Verify)
}

/// The keys of a JWKS. Leaves out those that are for something else, and those that Bennu does not know. Secrets count only if
/// nobody else can read them.
pub(super) fn jwks(bytes: &[u8], jwt: &Jwt, takes_secrets: bool) -> Result<Vec<Key>, String> {
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err("it is no JWKS: it is no JSON object".to_owned());
    }
    let set: JwkSet<'_> = serde_json::from_slice(bytes).map_err(|error| format!("it is no JWKS: {error}"))?;
    let mut keys = Vec::new();
    for (index, raw) in set.keys.iter().enumerate() {
        let Ok(jwk) = serde_json::from_str::<Jwk>(raw.get()) else {
            continue;
        };
        if jwk
            .common
            .public_key_use
            .as_ref()
            .is_some_and(|used| *used != PublicKeyUse::Signature)
            || jwk
                .common
                .key_operations
                .as_ref()
                .is_some_and(|ops| !ops.iter().any(verifies))
        {
            continue;
        }
        let place = format!("key {} of the JWKS", index + 1);
        let is_secret = matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_));
        let has_private_part = serde_json::from_str::<serde_json::Map<_, serde_json::Value>>(raw.get())
            .is_ok_and(|members| members.contains_key("d"));
        if has_private_part && takes_secrets {
            return Err(format!(
                "{place} is private: Bennu needs only the public one, without `d`"
            ));
        }
        if is_secret && !takes_secrets {
            continue;
        }
        let Ok(key) = DecodingKey::from_jwk(&jwk) else {
            continue;
        };
        let own = jwk.common.key_algorithm.map(signs_with);
        let algorithms: Vec<Algorithm> = { jwt.algorithms.iter().copied() }
            .filter(|algorithm| own.is_none_or(|own| own == Some(*algorithm)))
            .collect();
        let kid = jwk.common.key_id;
        let key = if is_secret {
            let least = least_secret(jwt);
            let bytes = key.try_get_as_bytes().map_or(0, <[u8]>::len);
            if bytes < least {
                return Err(format!("{place} has {bytes} bytes, but needs at least {least}"));
            }
            let hmac = { algorithms.iter().copied() }.filter(|algorithm| algorithm.family() == AlgorithmFamily::Hmac);
            let algorithms = hmac.collect();
            Key { kid, algorithms, key }
        } else {
            match Key::public(key, kid, &algorithms) {
                Ok(key) => key,
                Err(why) if takes_secrets => return Err(format!("{place}: {why}")),
                Err(_) => continue,
            }
        };
        keys.push(key);
    }
    keys.retain(|key| !key.algorithms.is_empty());
    Ok(keys)
}

/// The algorithm that a JWK is for, if it is one of signatures.
fn signs_with(own: KeyAlgorithm) -> Option<Algorithm> {
    own.to_string().parse().ok()
}
