//! Judges a token of `Phoenix.Token.sign`, as `Phoenix.Token.verify` does.
//!
//! Such a token looks like a JSON Web Token and is none: its header is the bare text `HS256`, its payload an Erlang term
//! `{data, signed_at_ms, max_age_s}`. Its key is derived from `secret_key_base` and the salt.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value, json};

use super::Refused;
use super::keys::Keys;
use super::term::{self, Odd, Outer};
use crate::config::PhoenixToken;

/// `HS256` in base64url, and what ends it.
const HEAD: &str = "SFMyNTY.";
/// What tokens without an age of their own have, as in Phoenix.
const MAX_AGE_S: f64 = 86_400.0;
const UNREADABLE: Refused = Refused::Malformed("its payload is not what Phoenix.Token signs");

/// Whether a token is of this kind.
pub(super) fn is_one(token: &str) -> bool {
    token.starts_with(HEAD)
}

/// What a good token says, as claims, and until when it is good; `None` if for ever.
///
/// # Errors
///
/// Why it is refused.
pub(super) fn check(
    phoenix: &PhoenixToken,
    keys: &Keys,
    token: &str,
    now_ms: u64,
) -> Result<(Map<String, Value>, Option<u64>), Refused> {
    let (signed, signature) = token.rsplit_once('.').unwrap_or_default();
    let payload = signed
        .strip_prefix(HEAD)
        .ok_or(Refused::Malformed("it has no three parts"))?;
    if keys.verify(Algorithm::HS256, None, signed, signature) != Some(true) {
        return Err(Refused::Signature);
    }
    // Only what is signed is read.
    let payload = URL_SAFE_NO_PAD.decode(payload).unwrap_or_default();
    let outer = term::read(&payload).map_err(|odd| match odd {
        Odd::Broken => UNREADABLE,
        Odd::Deep | Odd::NotJson => Refused::Malformed("its data cannot be JSON"),
        Odd::Ambiguous => Refused::Malformed("two keys of a map in it are the same text"),
    })?;
    let Signed { data, at_ms, max_age_s } = Signed::read(outer).ok_or(UNREADABLE)?;
    let max_age_s = phoenix.max_age.map_or(max_age_s, |max_age| Some(max_age.as_secs_f64()));
    let expires_ms = match max_age_s {
        Some(seconds) if seconds <= 0.0 => return Err(Refused::Expired),
        Some(seconds) => Some(at_ms.saturating_add((seconds * 1_000.0) as u64)),
        None => None,
    };
    if expires_ms.is_some_and(|expires_ms| expires_ms < now_ms) {
        return Err(Refused::Expired);
    }
    Ok((claims(data, at_ms, expires_ms), expires_ms))
}

/// What Phoenix signs.
struct Signed {
    data: Value,
    at_ms: u64,
    /// `None`: `:infinity`.
    max_age_s: Option<f64>,
}

impl Signed {
    /// Reads a term of this version of Phoenix, or of earlier ones: `{data, at}` and `%{data: data, signed: at}`.
    fn read(outer: Outer) -> Option<Self> {
        let (data, at, max_age) = match outer {
            Outer::Tuple(elements) => {
                let mut parts = elements.into_iter();
                let ((data, _), (at, _), max_age) = (parts.next()?, parts.next()?, parts.next());
                if parts.next().is_some() {
                    return None;
                }
                (data, at, max_age)
            }
            Outer::Map(mut map) => (map.remove("data")?, map.remove("signed")?, None),
        };
        let max_age_s = match max_age {
            None => Some(MAX_AGE_S),
            Some((Value::String(atom), true)) if atom == "infinity" => None,
            Some((other, _)) => Some(other.as_f64()?),
        };
        let at_ms = at.as_u64()?;
        Some(Self { data, at_ms, max_age_s })
    }
}

/// The data as claims. A map is the claims; a text, a number or an atom is the claim `sub`; a list or a tuple the claim `data`.
fn claims(data: Value, at_ms: u64, expires_ms: Option<u64>) -> Map<String, Value> {
    let mut claims = match data {
        Value::Object(claims) => claims,
        Value::Null => Map::new(),
        list @ Value::Array(_) => Map::from_iter([("data".to_owned(), list)]),
        subject => Map::from_iter([("sub".to_owned(), subject)]),
    };
    claims.insert("iat".to_owned(), json!(at_ms / 1_000));
    // Whatever the data says: this is when the token expires.
    match expires_ms {
        Some(expires_ms) => claims.insert("exp".to_owned(), json!(expires_ms / 1_000)),
        None => claims.remove("exp"),
    };
    claims
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::auth::testing::Bench;

    // Made with Elixir 1.14 and OTP 25, by the functions `sign` of Plug.Crypto 2.1, Plug.Crypto.MessageVerifier and
    // Plug.Crypto.KeyGenerator, which Phoenix.Token calls: `Plug.Crypto.sign(BASE, "user socket", DATA, signed_at: 1_700_000_000)`.
    const BASE: &str = "phoenix secret key base for test vectors, 64 bytes and more. phoenix secret key base for test vectors, 64 bytes and more.";
    const SIGNED_AT_MS: u64 = 1_700_000_000_000;
    const DAY_MS: u64 = 86_400_000;

    // 42, 9_007_199_254_740_993, "ada", :admin, %{user_id: 7, roles: ["a", :b], ok: true, none: nil, ratio: 1.5},
    // %{"sub" => "x", "exp" => 1}, {:user, 7}, [1, 2, 3]; "x" with `max_age: :infinity`, 60, 0.5 and 0; -5,
    // 123456789012345678901234567890, <<255, 0>>, self(); as Plug.Crypto 1.1 and Phoenix 1.3 signed 7; a compressed term; by
    // SHA-512; with the salt "other".
    const INT: &str = "SFMyNTY.g2gDYSpuBgAAaOXPiwFiAAFRgA.O57uyhBK5VNmWmI15woJdK95RMJm8D9f3JpBtWS2TWE";
    const BIG: &str = "SFMyNTY.g2gDbgcAAQAAAAAAIG4GAABo5c-LAWIAAVGA._tjZFvizEhHtfXuOHbsG9XaxgBL9hFaxz29hFbLzptM";
    const TEXT: &str = "SFMyNTY.g2gDbQAAAANhZGFuBgAAaOXPiwFiAAFRgA.ltpY3u4hMycMNm2QpXyRIzCIf-JyJfmVKi87EHbnRKA";
    const ATOM: &str = "SFMyNTY.g2gDZAAFYWRtaW5uBgAAaOXPiwFiAAFRgA.uuM_AoO55vGjbQUIpmK4RmtmqRqpguvvNcwLwPoFmeA";
    const MAP: &str = "SFMyNTY.g2gDdAAAAAVkAARub25lZAADbmlsZAACb2tkAAR0cnVlZAAFcmF0aW9GP_gAAAAAAABkAAVyb2xlc2wAAAACbQAAAAFhZAABYmpkAAd1c2VyX2lkYQduBgAAaOXPiwFiAAFRgA.NOq48JjTIfltZbMcZsyksdWe5egI4y1yinzYaT0Qkt4";
    const STRMAP: &str = "SFMyNTY.g2gDdAAAAAJtAAAAA2V4cGEBbQAAAANzdWJtAAAAAXhuBgAAaOXPiwFiAAFRgA.UcOwoNQVLS2wpZdclUwI3TcaXHpksvK550AQcwcKY3E";
    const TUPLE: &str = "SFMyNTY.g2gDaAJkAAR1c2VyYQduBgAAaOXPiwFiAAFRgA.bdJyCXFB_sGhCzhoRzoOH7zSzfDZvJOtidhEyKXx6N4";
    const LIST: &str = "SFMyNTY.g2gDawADAQIDbgYAAGjlz4sBYgABUYA.72SxH1smZdovW1PoHHEYc65GDv0lK0ArkeP3xa2KcAM";
    const INFINITY: &str =
        "SFMyNTY.g2gDbQAAAAF4bgYAAGjlz4sBZAAIaW5maW5pdHk.KNDzdf2wGnUZLXSJpTgh8MVWXQs8XJAbpUbgpo1kiIg";
    const SHORT: &str = "SFMyNTY.g2gDbQAAAAF4bgYAAGjlz4sBYTw.7wKE5lBjLzSApDT776XFkpnxwffMFTglYsR5rZyRhYY";
    const FRAC: &str = "SFMyNTY.g2gDbQAAAAF4bgYAAGjlz4sBRj_gAAAAAAAA.VPjef_g4PQ7UAmfN31SAlxYoCMeqVIALgYJUxJ9_apA";
    const ZERO: &str = "SFMyNTY.g2gDbQAAAAF4bgYAAGjlz4sBYQA.qQ_OT603RH_Tc5CIPqNvUAzYW3PUf7KkUr7GIN6fHYQ";
    const NEG: &str = "SFMyNTY.g2gDYv____tuBgAAaOXPiwFiAAFRgA.5X5EMPOol4Mg_0-_KBrY6nNcZQJRx3FgmyqQ164CVOA";
    const HUGEINT: &str =
        "SFMyNTY.g2gDbg0A0go_Tu7gc8P2D-mOAW4GAABo5c-LAWIAAVGA.2P0jO6z23Es1AUfH79uLbrZUKS3UYFRVFndVDnfbA10";
    const BINARY: &str = "SFMyNTY.g2gDbQAAAAL_AG4GAABo5c-LAWIAAVGA.4lenPfuncz_hVAe4h3Ql4WEETXh5GkbVifhCkG4_t7I";
    const PID: &str = "SFMyNTY.g2gDWGQADW5vbm9kZUBub2hvc3QAAABgAAAAAAAAAABuBgAAaOXPiwFiAAFRgA.CNUDpQxnqxhIVbWc8aummYoAO_5HfSO0wAH-CG3aR60";
    const OLD_TUPLE: &str = "SFMyNTY.g2gCYQduBgAAaOXPiwE.dI7Z0szsHne0ea6kYzH_mX4cyWC_eFiKyra5OYiiOTw";
    const OLD_MAP: &str =
        "SFMyNTY.g3QAAAACZAAEZGF0YWEHZAAGc2lnbmVkbgYAAGjlz4sB.0wyVpqHO53-OyN6lZE10fWtRyxyrwNYVAX0RIWD_aJg";
    const COMPRESSED: &str = "SFMyNTY.g1AAACcleJztwTENgDAABMBvSJhxgR4klKkL1dC94lCBj_ogd9e2JzmPCgAAAAAAAAAAAD_Q96R97yx3yjUWczvTQg.SzBxAQfx-mI-I3ibMkoTVV2aTnxPIaEhdDFqVPXyEXs";
    const SHA512: &str = "SFM1MTI.g2gDYQduBgAAaOXPiwFiAAFRgA.g82TceKuEfEy07VTpqOpAMUWAWP3Wn68-zjGCwIVDyA0c4yYn80C5gH-ExuW_RfFyEnd6OwE_HDZSB2ZJkT_Sg";
    const OTHER_SALT: &str = "SFMyNTY.g2gDYSpuBgAAaOXPiwFiAAFRgA.eDSnvIOfh6qtxU-mGVkp1JJ6hJ8ZRYaikh_OKlNvDQw";

    const SETTINGS: &str = r#"phoenix_token = { secret_key_base_file = "keys", salt = "user socket" }"#;

    #[track_caller]
    fn claims_of(token: &str) -> Value {
        let pass = Bench::new(SETTINGS, BASE).guard().check(token, SIGNED_AT_MS);
        let pass = pass.unwrap_or_else(|refused| panic!("{refused}"));
        let mut claims: Value = serde_json::from_slice(&pass.claims).expect("JSON");
        let times = [claims["iat"].take(), claims["exp"].take()];
        assert_eq!(times, [json!(1_700_000_000), json!(1_700_086_400)]);
        let claims = claims.as_object_mut().expect("an object");
        claims.retain(|name, _| name != "iat" && name != "exp");
        claims.clone().into()
    }

    #[test]
    fn what_phoenix_signs_becomes_claims() {
        assert_eq!(claims_of(INT), json!({ "sub": 42 }));
        assert_eq!(claims_of(BIG), json!({ "sub": 9_007_199_254_740_993_u64 }));
        assert_eq!(claims_of(NEG), json!({ "sub": -5 }));
        assert_eq!(claims_of(TEXT), json!({ "sub": "ada" }));
        assert_eq!(claims_of(ATOM), json!({ "sub": "admin" }));
        assert_eq!(claims_of(STRMAP), json!({ "sub": "x" }));
        assert_eq!(claims_of(TUPLE), json!({ "data": ["user", 7] }));
        assert_eq!(claims_of(LIST), json!({ "data": [1, 2, 3] }));
        assert_eq!(
            claims_of(MAP),
            json!({ "user_id": 7, "roles": ["a", "b"], "ok": true, "none": null, "ratio": 1.5 })
        );
        assert_eq!(claims_of(OLD_TUPLE), json!({ "sub": 7 }));
        assert_eq!(claims_of(OLD_MAP), json!({ "sub": 7 }));
    }

    #[test]
    fn a_token_is_as_old_as_it_may_become_or_the_mount_says_how_old() {
        let check = |settings: &str, token: &str, age_ms: u64, expected: bool| {
            let found = Bench::new(settings, BASE).guard().check(token, SIGNED_AT_MS + age_ms);
            assert_eq!(found.is_ok(), expected, "{settings} {age_ms}: {found:?}");
            if let Err(refused) = found {
                assert_eq!(refused, Refused::Expired);
            }
        };
        check(SETTINGS, INT, DAY_MS, true);
        check(SETTINGS, INT, DAY_MS + 1, false);
        check(SETTINGS, SHORT, 60_000, true);
        check(SETTINGS, SHORT, 60_001, false);
        check(SETTINGS, FRAC, 500, true);
        check(SETTINGS, FRAC, 501, false);
        check(SETTINGS, ZERO, 0, false);
        check(SETTINGS, INFINITY, 1_000 * DAY_MS, true);
        let week = SETTINGS.replace("salt", "max_age_s = 604_800, salt");
        for token in [INT, SHORT, ZERO, INFINITY] {
            check(&week, token, 7 * DAY_MS, true);
            check(&week, token, 7 * DAY_MS + 1, false);
        }
    }

    #[test]
    fn a_token_that_is_good_for_ever_ends_no_connection() {
        let pass = Bench::new(SETTINGS, BASE)
            .guard()
            .check(INFINITY, SIGNED_AT_MS)
            .expect("good");
        assert!(!pass.is_over(u64::MAX));
        let pass = Bench::new(SETTINGS, BASE)
            .guard()
            .check(INT, SIGNED_AT_MS)
            .expect("good");
        assert!(pass.is_over(SIGNED_AT_MS + DAY_MS));
    }

    #[test]
    fn other_keys_salts_and_signatures_are_refused() {
        let bench = Bench::new(SETTINGS, BASE);
        let check = |token: &str, expected: Refused| {
            assert_eq!(bench.guard().check(token, SIGNED_AT_MS), Err(expected), "{token}");
        };
        check(OTHER_SALT, Refused::Signature);
        check(&INT.replace("SFMyNTY.g", "SFMyNTY.h"), Refused::Signature);
        check(&INT[..INT.len() - 3], Refused::Signature);
        check("SFMyNTY.", Refused::Malformed("it has no three parts"));
        check("SFMyNTY.x", Refused::Malformed("it has no three parts"));
        check("SFMyNTY..", Refused::Signature);
        // By SHA-512 Phoenix signs only what is not a token.
        check(SHA512, Refused::Kind);
        let other = Bench::new(SETTINGS, &"another secret_key_base, long enough ".repeat(2));
        assert_eq!(other.guard().check(INT, SIGNED_AT_MS), Err(Refused::Signature));
    }

    #[test]
    fn data_that_json_cannot_hold_is_refused_although_it_is_signed() {
        let bench = Bench::new(SETTINGS, BASE);
        for token in [HUGEINT, BINARY, PID] {
            let refused = Refused::Malformed("its data cannot be JSON");
            assert_eq!(bench.guard().check(token, SIGNED_AT_MS), Err(refused), "{token}");
        }
        assert_eq!(bench.guard().check(COMPRESSED, SIGNED_AT_MS), Err(UNREADABLE));
    }

    /// A token of this term, well signed.
    fn signed(term: &[u8]) -> String {
        let mut key = [0; 32];
        pbkdf2::pbkdf2_hmac::<sha2::Sha256>(BASE.as_bytes(), b"user socket", 1_000, &mut key);
        let signed = format!("{HEAD}{}", URL_SAFE_NO_PAD.encode(term));
        let key = jsonwebtoken::EncodingKey::from_secret(&key).expect("a key");
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Algorithm::HS256);
        format!("{signed}.{}", signature.expect("a signature"))
    }

    /// `{data, at, age}` with this data.
    fn signed_data(data: &[u8]) -> String {
        let at = [&[110, 6, 0][..], &SIGNED_AT_MS.to_le_bytes()[..6]].concat();
        signed(&[&[131, 104, 3][..], data, &at, &[98, 0, 1, 81, 128]].concat())
    }

    #[test]
    fn a_signed_token_with_an_odd_term_is_malformed_and_ends_nothing() {
        let bench = Bench::new(SETTINGS, BASE);
        assert!(bench.guard().check(&signed_data(&[97, 42]), SIGNED_AT_MS).is_ok());
        let deep = [[104, 1].repeat(4_000), vec![97, 1]].concat();
        for data in [
            &[108, 255, 255, 255, 255][..],
            &[108, 127, 255, 255, 255],
            &[105, 255, 255, 255, 255],
            &[111, 255, 255, 255, 255, 0],
            &[82, 0],
            &[77, 0, 0, 0, 1, 9, 255],
            &deep,
        ] {
            let found = bench.guard().check(&signed_data(data), SIGNED_AT_MS);
            let label = found.as_ref().map_err(Refused::label);
            assert_eq!(label, Err("malformed"), "{:?}: {found:?}", &data[..2]);
        }
    }

    #[test]
    fn a_signed_map_with_a_key_as_atom_and_as_text_is_refused() {
        let bench = Bench::new(SETTINGS, BASE);
        let (atom, text) = (
            [119, 3, b's', b'u', b'b', 97, 1],
            [109, 0, 0, 0, 3, b's', b'u', b'b', 97, 2],
        );
        let inner = [&[116, 0, 0, 0, 2][..], &atom, &text].concat();
        let outer = [&[116, 0, 0, 0, 1, 97, 1][..], &inner].concat();
        for data in [inner, outer] {
            let refused = Refused::Malformed("two keys of a map in it are the same text");
            assert_eq!(bench.guard().check(&signed_data(&data), SIGNED_AT_MS), Err(refused));
        }
    }

    #[test]
    fn a_mount_takes_only_the_kinds_that_it_names() {
        let jwt = r#"jwt = { algorithms = ["HS256"], secret_file = "keys" }"#;
        let (only_jwt, both) = (Bench::new(jwt, BASE), Bench::new(&format!("{SETTINGS}\n{jwt}"), BASE));
        assert_eq!(only_jwt.guard().check(INT, SIGNED_AT_MS), Err(Refused::Kind));
        assert!(both.guard().check(INT, SIGNED_AT_MS).is_ok());
        let claims = json!({ "sub": "7", "exp": SIGNED_AT_MS / 1_000 + 60 });
        let token = crate::server::auth::testing::token(&claims, BASE);
        assert!(both.guard().check(&token, SIGNED_AT_MS).is_ok());
        let only_phoenix = Bench::new(SETTINGS, BASE);
        assert_eq!(only_phoenix.guard().check(&token, SIGNED_AT_MS), Err(Refused::Kind));
    }

    #[test]
    fn a_secret_may_be_replaced_while_the_old_one_still_counts() {
        let bench = Bench::new(SETTINGS, &format!("{}\n{BASE}\n", "new secret_key_base ".repeat(4)));
        assert!(bench.guard().check(INT, SIGNED_AT_MS).is_ok());
        bench.replace(&"new secret_key_base ".repeat(4));
        assert_eq!(bench.guard().check(INT, SIGNED_AT_MS), Err(Refused::Signature));
    }
}
