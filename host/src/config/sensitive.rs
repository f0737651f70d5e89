//! Which names and values are secrets: the log and error messages show `[FILTERED]` or stars in their place.
//!
//! A name that is filtered without need costs a line of the log; a secret that is shown costs an incident. So the rules
//! are broad.

/// A name is a secret's if its letters contain one of these: `current_password`, `csrfToken`, `x-api-key`.
const PARTS: [&str; 15] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "secret",
    "token",
    "credential",
    "apikey",
    "accesskey",
    "privatekey",
    "jwt",
    "bearer",
    "cookie",
    "signature",
    "sessionid",
];

/// Or if one of its words is one of these: `auth`, `api key`, `userPin`.
const WORDS: [&str; 15] = [
    "auth",
    "key",
    "keys",
    "pass",
    "pw",
    "pwd",
    "pin",
    "otp",
    "totp",
    "sig",
    "sid",
    "session",
    "hmac",
    "assertion",
    "nonce",
];

/// Or if it is one of these: what OAuth and single sign-on hand out for a token.
const NAMES: [&str; 2] = ["code", "ticket"];

/// Or if its letters end in one of these: `anonkey`, `dbpass`.
const ENDINGS: [&str; 4] = ["key", "keys", "pass", "pwd"];

/// What a `Phoenix.Token` begins with: `HS256` in base64url.
const PHOENIX_TOKEN: &str = "SFMyNTY.";

/// Whether a name says that its value is a secret. Case and separators do not matter: `apikey`, `api_key`, `X-Api-Key`.
#[must_use]
pub(crate) fn is_secret_name(name: &str) -> bool {
    let letters = letters(name);
    PARTS.iter().any(|part| letters.contains(part))
        || ENDINGS.iter().any(|ending| letters.ends_with(ending))
        || NAMES.contains(&&*letters)
        || says_auth(&letters)
        || words(name).any(|word| WORDS.contains(&&*word))
}

/// Whether a value is a secret, whatever its name: a JSON Web Token, a `Phoenix.Token`, the value of an `Authorization` header,
/// or an address with a password.
#[must_use]
pub(crate) fn is_secret_value(value: &str) -> bool {
    value
        .split(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';'))
        .any(|word| is_jwt(word) || word.contains(PHOENIX_TOKEN))
        || value.trim().split_once(' ').is_some_and(|(scheme, rest)| {
            let is_known = ["bearer", "basic"]
                .iter()
                .any(|known| scheme.eq_ignore_ascii_case(known));
            is_known && rest.len() >= 8 && !rest.contains(char::is_whitespace)
        })
        || has_password(value)
}

/// The names that a text gives to its parts: the members of a JSON text, the params of an address, the headers in a list.
pub(crate) fn names_in(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split(['{', '}', '[', ']', ',', ';', '&', '?', '#', '\n']);
    let names = parts.filter_map(|part| part.split_once([':', '=']));
    names.map(|(name, _)| name.trim_matches(|c: char| !c.is_alphanumeric()))
}

/// `scheme://user:password@host`
fn has_password(value: &str) -> bool {
    let authorities = value.split("://").skip(1);
    authorities
        .filter_map(|rest| rest.split(['/', '?', '#']).next()?.rsplit_once('@'))
        .any(|(user, _)| user.contains(':'))
}

/// `auth`, `oauth`, `authorization`, but not `author`.
fn says_auth(letters: &str) -> bool {
    letters.match_indices("auth").any(|(at, auth)| {
        let rest = &letters[at + auth.len()..];
        !rest.starts_with("or") || rest.starts_with("oriz") || rest.starts_with("oris")
    })
}

/// Three parts of base64url, the first of which is a JSON object: all begin with `eyJ`, which is `{"`.
fn is_jwt(text: &str) -> bool {
    const LEAST: usize = 20;
    let is_base64url = |part: &str| {
        part.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let Some(at) = text.find("eyJ") else { return false };
    let parts: Vec<&str> = text[at..].splitn(3, '.').collect();
    text.len() >= LEAST && parts.len() == 3 && parts[..2].iter().all(|part| !part.is_empty() && is_base64url(part))
}

/// A name without punctuation, in lower case.
pub(super) fn letters(name: &str) -> String {
    let letters = name.chars().filter(|c| c.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

/// The words of `snake_case`, `kebab-case`, `camelCase` and `nested[name]`, in lower case.
fn words(name: &str) -> impl Iterator<Item = String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for letter in name.chars() {
        if !letter.is_alphabetic() || (letter.is_uppercase() && was_lower) {
            words.push(String::new());
        }
        if letter.is_alphabetic()
            && let Some(word) = words.last_mut()
        {
            word.extend(letter.to_lowercase());
        }
        was_lower = letter.is_lowercase();
    }
    words.into_iter().filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_real_clients_use_for_secrets_are_known() {
        for name in [
            "apikey",
            "api_key",
            "apiKey",
            "API-KEY",
            "x-api-key",
            "X-Api-Key",
            "key",
            "key2",
            "anonkey",
            "anon_key",
            "service_role_key",
            "publishable_key",
            "secret",
            "client_secret",
            "clientSecret",
            "secretKeyBase",
            "auth",
            "Authorization",
            "proxy-authorization",
            "oauth_code",
            "userAuth",
            "userauth",
            "auth_token",
            "authToken",
            "access_token",
            "refreshToken",
            "tokens",
            "jwt",
            "id_jwt",
            "userJWT",
            "password",
            "passwd",
            "user_pwd",
            "pass",
            "dbpass",
            "passphrase",
            "pin",
            "user_pin",
            "otp",
            "credentials",
            "sid",
            "session",
            "session_id",
            "connect.sid",
            "Cookie",
            "set-cookie",
            "sig",
            "signature",
            "X-Amz-Signature",
            "bearer",
            "code",
            "ticket",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn names_that_only_resemble_them_are_not() {
        for name in [
            "",
            "vsn",
            "user",
            "name",
            "author",
            "authors",
            "authority",
            "keyboard",
            "passenger",
            "spinner",
            "opinion",
            "locale",
            "room",
            "page",
            "version",
            "signal",
            "side",
            "description",
            "country_code",
            "encode",
        ] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn a_token_is_a_secret_under_any_name() {
        let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl";
        for value in [
            jwt,
            &format!("Bearer {jwt}"),
            &format!("x={jwt}"),
            "SFMyNTY.g2gDYQduBgA.c2lnbmF0dXJl",
            "bearer abcdefgh",
            "Basic dXNlcjpwYXNz",
            "https://ada:lovelace@example.com/",
            "from redis://:hunter2@cache:6379 on",
        ] {
            assert!(is_secret_value(value), "{value}");
        }
        for value in [
            "",
            "ada",
            "1.2.3",
            "eyJ",
            "a.b.c",
            "basic",
            "Basic Bob",
            "eyJ is how it begins",
            "https://example.com/@ada:room",
            "ada@example.com",
        ] {
            assert!(!is_secret_value(value), "{value}");
        }
    }
}
