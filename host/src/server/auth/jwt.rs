//! Judges a JSON Web Token (RFC 7519, with the advice of RFC 8725).
//!
//! The crate `jsonwebtoken` checks the signature. The claims are judged here: the crate would take its own clock, and one key.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::keys::Keys;
use super::{Refused, object, time_ms};
use crate::config::Jwt;

/// What decides which key a token is checked with. Addresses and keys that a token brings along (`jku`, `x5u`, `jwk`) are not
/// even read.
#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    /// Whether it has extensions that one has to know, or else refuse the token. `null` is none that Bennu knows, either.
    #[serde(default, rename = "crit", deserialize_with = "is_there")]
    has_crit: bool,
}

fn is_there<'de, D: serde::Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

/// The claims of a token that is good at this time, and until when it is.
///
/// # Errors
///
/// Why it is refused.
pub(super) fn check(jwt: &Jwt, keys: &Keys, token: &str, now_ms: u64) -> Result<(Map<String, Value>, u64), Refused> {
    let malformed = |what| move || Refused::Malformed(what);
    let (signed, signature) = token.rsplit_once('.').ok_or_else(malformed("it has no three parts"))?;
    let (header, payload) = { signed.split_once('.') }
        .filter(|(_, payload)| !payload.contains('.'))
        .ok_or_else(malformed("it has no three parts"))?;
    let header: Header = { decoded(header) }
        .and_then(|header| object(&header))
        .ok_or_else(malformed("its header cannot be read"))?;
    if header.has_crit {
        return Err(Refused::Malformed("its header has `crit`"));
    }
    let algorithm: Algorithm = header.alg.parse().map_err(|_| Refused::Algorithm)?;
    if !jwt.algorithms.contains(&algorithm) {
        return Err(Refused::Algorithm);
    }
    if keys.is_empty() {
        return Err(Refused::NoKeys);
    }
    match keys.verify(algorithm, header.kid.as_deref(), signed, signature) {
        None => return Err(Refused::UnknownKey),
        Some(false) => return Err(Refused::Signature),
        Some(true) => {}
    }
    // Only what is signed is read.
    let claims: Map<String, Value> = { decoded(payload) }
        .and_then(|payload| serde_json::from_slice(&payload).ok())
        .ok_or_else(malformed("its claims are no JSON object"))?;
    let expires_ms = judge(jwt, &claims, now_ms)?;
    Ok((claims, expires_ms))
}

fn decoded(part: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}

/// Judges the claims. Returns until when they are good, the leeway included.
fn judge(jwt: &Jwt, claims: &Map<String, Value>, now_ms: u64) -> Result<u64, Refused> {
    let leeway_ms = u64::try_from(jwt.leeway.as_millis()).unwrap_or(u64::MAX);
    let expires_ms = time_ms(claims, "exp")?
        .ok_or(Refused::NoExpiry)?
        .saturating_add(leeway_ms);
    if expires_ms <= now_ms {
        return Err(Refused::Expired);
    }
    if time_ms(claims, "nbf")?.is_some_and(|from| from > now_ms.saturating_add(leeway_ms)) {
        return Err(Refused::NotYet);
    }
    let is_in = |names: &[String], name: &Value| name.as_str().is_some_and(|name| names.iter().any(|own| own == name));
    if !jwt.issuer.is_empty() && !claims.get("iss").is_some_and(|issuer| is_in(&jwt.issuer, issuer)) {
        return Err(Refused::Issuer);
    }
    let is_for_us = |audience: &Value| match audience {
        Value::Array(all) => all.iter().any(|one| is_in(&jwt.audience, one)),
        one => is_in(&jwt.audience, one),
    };
    if !jwt.audience.is_empty() && !claims.get("aud").is_some_and(is_for_us) {
        return Err(Refused::Audience);
    }
    Ok(expires_ms)
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::Header;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::server::auth::testing::*;

    const HS256: &str = r#"jwt = { algorithms = ["HS256"], secret_file = "keys" }"#;
    const NOW_S: u64 = NOW_MS / 1_000;

    fn good() -> Value {
        json!({ "sub": "7", "exp": NOW_S + 60 })
    }

    #[track_caller]
    fn refuses(bench: &Bench, token: &str, expected: &Refused) {
        assert_eq!(bench.check(token).as_ref(), Err(expected), "{token}");
    }

    #[test]
    fn a_token_of_each_algorithm_is_taken_with_its_key() {
        for (names, keys, private) in [
            (&["HS256", "HS384", "HS512"][..], SECRET, SECRET),
            (&["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"], RSA_PUB, RSA),
            (&["ES256"], EC256_PUB, EC256),
            (&["ES384"], EC384_PUB, EC384),
            (&["EdDSA"], ED_PUB, ED),
        ] {
            let file = if keys == SECRET { "secret_file" } else { "keys_file" };
            let bench = Bench::new(&format!("jwt = {{ algorithms = {names:?}, {file} = \"keys\" }}"), keys);
            for name in names {
                let header = Header::new(name.parse().expect("an algorithm"));
                let token = token_with(&header, &good(), private);
                let pass = bench
                    .check(&token)
                    .unwrap_or_else(|refused| panic!("{name}: {refused}"));
                assert_eq!(serde_json::from_slice::<Value>(&pass.claims).ok(), Some(good()));
                let (head, signature) = token.rsplit_once('.').expect("three parts");
                let changed = signature.replacen(|letter| letter != 'A', "A", 1);
                refuses(&bench, &format!("{head}.{changed}"), &Refused::Signature);
            }
        }
    }

    #[test]
    fn a_token_without_a_signature_is_refused_whatever_its_algorithm_is_called() {
        let bench = Bench::new(HS256, SECRET);
        let payload = URL_SAFE_NO_PAD.encode(good().to_string());
        for alg in ["none", "None", "NONE", "nOnE", "", "HS1", "hs256"] {
            let header = URL_SAFE_NO_PAD.encode(json!({ "alg": alg }).to_string());
            for signature in ["", "AAAA"] {
                refuses(&bench, &format!("{header}.{payload}.{signature}"), &Refused::Algorithm);
            }
        }
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
        refuses(&bench, &format!("{header}.{payload}."), &Refused::Signature);
    }

    #[test]
    fn a_public_key_is_no_secret() {
        let attacks = |keys: &str| {
            // As the attacker finds it: the PEM, or its DER.
            let der: String = keys.lines().filter(|line| !line.starts_with("---")).collect();
            [keys.to_owned(), keys.trim().to_owned(), der].map(|secret| token(&good(), &secret))
        };
        let only_rsa = Bench::new(r#"jwt = { algorithms = ["RS256"], keys_file = "keys" }"#, RSA_PUB);
        for token in attacks(RSA_PUB) {
            refuses(&only_rsa, &token, &Refused::Algorithm);
        }
        // Even if the mount takes both, the kind of the key decides.
        let jwks = json!({ "keys": [jwk_of(RSA_PUB), { "kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET) }] });
        let both = Bench::new(
            r#"jwt = { algorithms = ["RS256", "HS256"], keys_file = "keys" }"#,
            &jwks.to_string(),
        );
        for token in attacks(RSA_PUB) {
            refuses(&both, &token, &Refused::Signature);
        }
        assert!(both.check(&token(&good(), SECRET)).is_ok());
        assert!(
            both.check(&token_with(&Header::new(Algorithm::RS256), &good(), RSA))
                .is_ok()
        );
    }

    fn jwk_of(public: &str) -> Value {
        let key = jsonwebtoken::DecodingKey::from_rsa_pem(public.as_bytes()).expect("a key");
        let jwk = jsonwebtoken::jwk::Jwk::from_decoding_key(&key, Some(Algorithm::RS256)).expect("a JWK");
        serde_json::to_value(jwk).expect("JSON")
    }

    #[test]
    fn a_key_of_another_algorithm_is_not_tried() {
        let bench = Bench::new(
            r#"jwt = { algorithms = ["ES256", "RS256"], keys_file = "keys" }"#,
            EC256_PUB,
        );
        refuses(
            &bench,
            &token_with(&Header::new(Algorithm::RS256), &good(), RSA),
            &Refused::UnknownKey,
        );
        refuses(
            &bench,
            &token_with(&Header::new(Algorithm::ES384), &good(), EC384),
            &Refused::Algorithm,
        );
    }

    #[test]
    fn an_odd_kid_opens_nothing() {
        let bench = Bench::new(HS256, SECRET);
        for kid in [
            "../../dev/null",
            "/dev/null",
            "' OR 1=1 --",
            "\u{0}",
            "",
            "http://evil.example/key",
        ] {
            // The secret has no `kid`, so it decides alone.
            let header = |kid: &str| json!({ "alg": "HS256", "kid": kid }).to_string();
            refuses(
                &bench,
                &raw(&header(kid), &good().to_string(), OTHER),
                &Refused::Signature,
            );
            refuses(
                &bench,
                &raw(&header(kid), &good().to_string(), "x"),
                &Refused::Signature,
            );
            assert!(bench.check(&raw(&header(kid), &good().to_string(), SECRET)).is_ok());
        }
        for kid in ["1", "{}", "[\"a\"]", "true"] {
            let header = format!(r#"{{"alg":"HS256","kid":{kid}}}"#);
            let token = raw(&header, &good().to_string(), SECRET);
            refuses(&bench, &token, &Refused::Malformed("its header cannot be read"));
        }
    }

    #[test]
    fn keys_and_addresses_that_a_token_brings_along_are_ignored() {
        let bench = Bench::new(HS256, SECRET);
        for extra in ["jku", "x5u", "jwk", "x5c"] {
            let mut header = json!({ "alg": "HS256", "kid": "mine" });
            header[extra] = match extra {
                "jwk" => json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(OTHER), "kid": "mine" }),
                _ => json!("http://127.0.0.1:9/evil"),
            };
            let header = header.to_string();
            refuses(&bench, &raw(&header, &good().to_string(), OTHER), &Refused::Signature);
            assert!(bench.check(&raw(&header, &good().to_string(), SECRET)).is_ok());
        }
        for critical in [
            r#"{"alg":"HS256","crit":["exp"],"exp":1}"#,
            r#"{"alg":"HS256","crit":null}"#,
        ] {
            let token = raw(critical, &good().to_string(), SECRET);
            refuses(&bench, &token, &Refused::Malformed("its header has `crit`"));
        }
    }

    #[test]
    fn a_header_is_an_object_and_no_list_of_values() {
        let bench = Bench::new(HS256, SECRET);
        for header in [
            r#"["HS256",null,null]"#,
            r#"["HS256"]"#,
            " [\"HS256\",null,false]",
            "\"HS256\"",
        ] {
            let token = raw(header, &good().to_string(), SECRET);
            refuses(&bench, &token, &Refused::Malformed("its header cannot be read"));
        }
    }

    #[test]
    fn a_token_is_good_from_nbf_until_exp_and_a_little_more_on_both_sides() {
        let bench = Bench::new(
            r#"jwt = { algorithms = ["HS256"], secret_file = "keys", leeway_s = 5 }"#,
            SECRET,
        );
        let check = |claims: Value, expected: Option<Refused>| {
            let found = bench.check(&token(&claims, SECRET)).err();
            assert_eq!(found, expected, "{claims}");
        };
        check(json!({ "exp": NOW_S - 4 }), None);
        check(json!({ "exp": NOW_S - 5 }), Some(Refused::Expired));
        check(json!({ "exp": NOW_S as f64 - 4.5 }), None);
        check(json!({ "exp": 0 }), Some(Refused::Expired));
        check(json!({ "exp": NOW_S + 9, "nbf": NOW_S + 5 }), None);
        check(json!({ "exp": NOW_S + 9, "nbf": NOW_S + 6 }), Some(Refused::NotYet));
        check(json!({ "sub": "7" }), Some(Refused::NoExpiry));
        let odd = Refused::Malformed(
            "a time in it is no number of seconds since 1970, or after the year 10,000: is it in milliseconds?",
        );
        for time in [
            json!("1800000000"),
            json!(-1),
            json!(1e300),
            json!(null),
            json!(u64::MAX),
            json!([1]),
        ] {
            check(json!({ "exp": time }), Some(odd.clone()));
            check(json!({ "exp": NOW_S + 9, "nbf": time }), Some(odd.clone()));
        }
    }

    #[test]
    fn only_the_issuers_and_audiences_that_are_named_are_taken() {
        let jwt = r#"algorithms = ["HS256"], secret_file = "keys""#;
        let bench = Bench::new(
            &format!(r#"jwt = {{ {jwt}, issuer = "me", audience = ["a", "b"] }}"#),
            SECRET,
        );
        let check = |iss: Value, aud: Value, expected: Option<Refused>| {
            let claims = json!({ "exp": NOW_S + 60, "iss": iss, "aud": aud });
            assert_eq!(bench.check(&token(&claims, SECRET)).err(), expected, "{claims}");
        };
        check(json!("me"), json!("a"), None);
        check(json!("me"), json!(["x", "b"]), None);
        check(json!("me "), json!("a"), Some(Refused::Issuer));
        check(json!(["me"]), json!("a"), Some(Refused::Issuer));
        check(json!(null), json!("a"), Some(Refused::Issuer));
        check(json!("me"), json!("c"), Some(Refused::Audience));
        check(json!("me"), json!([]), Some(Refused::Audience));
        check(json!("me"), json!([["a"]]), Some(Refused::Audience));
        check(json!("me"), json!(null), Some(Refused::Audience));
        let any = Bench::new(&format!("jwt = {{ {jwt} }}"), SECRET);
        assert!(
            any.check(&token(&json!({ "exp": NOW_S + 60, "aud": "x", "iss": 1 }), SECRET))
                .is_ok()
        );
    }

    #[test]
    fn a_token_that_is_too_long_is_not_read() {
        let bench = Bench::new(&format!("{HS256}\nmax_token_bytes = 1_000"), SECRET);
        let long = |bytes: usize| token(&json!({ "exp": NOW_S + 60, "x": "x".repeat(bytes) }), SECRET);
        assert!(bench.check(&long(500)).is_ok());
        refuses(&bench, &long(1_000), &Refused::TooLong);
        refuses(&bench, &long(65_536), &Refused::TooLong);
        refuses(&bench, &".".repeat(65_536), &Refused::TooLong);
    }

    #[test]
    fn claims_that_are_no_object_are_refused_although_they_are_signed() {
        let bench = Bench::new(HS256, SECRET);
        for claims in ["[]", "7", "\"exp\"", "{", "", "null", "{\"exp\":1}{}"] {
            let token = raw(r#"{"alg":"HS256"}"#, claims, SECRET);
            refuses(&bench, &token, &Refused::Malformed("its claims are no JSON object"));
        }
        let deep = format!(
            "{{\"exp\":{},\"x\":{}1{}}}",
            NOW_S + 60,
            "[".repeat(1_000),
            "]".repeat(1_000)
        );
        refuses(
            &bench,
            &raw(r#"{"alg":"HS256"}"#, &deep, SECRET),
            &Refused::Malformed("its claims are no JSON object"),
        );
    }

    #[test]
    fn of_two_claims_of_one_name_the_one_that_was_judged_is_handed_on() {
        let bench = Bench::new(HS256, SECRET);
        let claims = format!(r#"{{"exp":{},"sub":"a","sub":"b"}}"#, NOW_S + 60);
        let pass = bench.check(&raw(r#"{"alg":"HS256"}"#, &claims, SECRET)).expect("good");
        let text = str::from_utf8(&pass.claims).expect("text");
        assert_eq!(
            (text.matches("sub").count(), text.contains(r#""b""#)),
            (1, true),
            "{text}"
        );
    }

    #[test]
    fn the_socket_id_comes_from_the_claims_or_the_token_is_refused() {
        let bench = Bench::new(&format!("{HS256}\nsocket_id = \"user:{{sub}}\""), SECRET);
        let pass = bench.check(&token(&good(), SECRET)).expect("good");
        assert_eq!(pass.socket_id.as_deref(), Some("user:7"));
        let without = token(&json!({ "exp": NOW_S + 60 }), SECRET);
        refuses(&bench, &without, &Refused::Claim("sub".to_owned()));
    }

    #[test]
    fn only_a_token_of_the_same_client_may_follow() {
        let bench = Bench::new(&format!("{HS256}\nsocket_id = \"org:{{org}}\""), SECRET);
        let pass = |sub: Value, org: &str| {
            let claims = json!({ "sub": sub, "org": org, "exp": NOW_S + 60 });
            bench.check(&token(&claims, SECRET)).expect("good")
        };
        let ann = pass(json!("ann"), "a");
        assert!(ann.may_become(&pass(json!("ann"), "a")));
        assert!(!ann.may_become(&pass(json!("bob"), "a")));
        assert!(!ann.may_become(&pass(json!("ann"), "b")));
        assert!(!ann.may_become(&pass(json!(null), "a")));
    }

    #[test]
    fn a_connection_ends_with_its_token_unless_the_mount_keeps_it() {
        let claims = json!({ "exp": NOW_S + 60 });
        let check = |settings: &str, at_ms: u64, expected: bool| {
            let bench = Bench::new(&format!("{HS256}\n{settings}"), SECRET);
            let pass = bench.check(&token(&claims, SECRET)).expect("good");
            assert_eq!(pass.is_over(at_ms), expected, "{settings} {at_ms}");
        };
        check("", NOW_MS + 64_999, false);
        check("", NOW_MS + 65_000, true);
        check("on_expiry = \"keep\"", NOW_MS + 65_000, false);
    }

    #[test]
    fn no_error_holds_a_part_of_the_token() {
        let bench = Bench::new(HS256, SECRET);
        for token in ["hunter2", "hunter2.hunter2.hunter2", &raw("hunter2", "{}", SECRET)] {
            let refused = bench.check(token).expect_err("no token");
            assert!(!format!("{refused} {refused:?}").contains("hunter2"));
        }
        assert!(!format!("{:?}", bench.guard()).contains(&SECRET[..20]));
    }

    proptest! {
        #[test]
        fn no_text_is_a_good_token(text in "[A-Za-z0-9_.=-]{0,200}|\\PC{0,40}") {
            thread_local!(static BENCH: Bench = Bench::new(HS256, SECRET));
            prop_assert!(BENCH.with(|bench| bench.check(&text)).is_err());
        }

        #[test]
        fn a_token_with_any_changed_letter_is_refused(at in 0_usize..200, letter in "[A-Za-z0-9_-]") {
            thread_local!(static BENCH: Bench = Bench::new(HS256, SECRET));
            let mut changed = token(&good(), SECRET);
            let at = at % changed.len();
            prop_assume!(changed[at..=at] != letter && &changed[at..=at] != ".");
            changed.replace_range(at..=at, &letter);
            // The last letter has two bits that say nothing.
            prop_assume!(at + 1 < changed.len());
            prop_assert!(BENCH.with(|bench| bench.check(&changed)).is_err());
        }
    }
}
