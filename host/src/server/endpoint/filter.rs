//! Removes secrets from params before they reach the log.

use serde_json::Value;

use crate::config::sensitive::{is_secret_name, is_secret_value, names_in};
use crate::config::{Log, Mount, TokenPlace};

/// What the log shows instead.
const FILTERED: &str = "[FILTERED]";

/// The params as JSON text, without secrets at any depth: values whose name is a secret's or contains one of `words` in any case,
/// values that are tokens themselves, and texts that name a secret in them, such as JSON or an address. A name that is a token is a secret, too: some clients send a bare `?TOKEN`.
pub(super) fn filtered(params: &str, words: &[String]) -> String {
    let Ok(params) = serde_json::from_str(params) else {
        return FILTERED.to_owned();
    };
    let words: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
    without_secrets(params, &words).to_string()
}

/// The words by which the params of a mount are filtered: those of `[log]`, and the params that hold its tokens.
pub(super) fn words(mount: &Mount, log: &Log) -> Vec<String> {
    let places = mount.auth.iter().flat_map(|auth| &auth.from);
    let own = places.filter_map(|place| match place {
        TokenPlace::Param(name) => name.rsplit('.').next().map(str::to_owned),
        TokenPlace::AuthToken | TokenPlace::Header(_) | TokenPlace::Join(_) => None,
    });
    log.filter_params.iter().cloned().chain(own).collect()
}

fn without_secrets(value: Value, words: &[String]) -> Value {
    match value {
        Value::Object(map) => {
            let entries = map.into_iter().map(|(name, value)| {
                let value = if is_secret(&name, words) {
                    FILTERED.into()
                } else {
                    without_secrets(value, words)
                };
                (
                    if is_secret_value(&name) {
                        FILTERED.to_owned()
                    } else {
                        name
                    },
                    value,
                )
            });
            Value::Object(entries.collect())
        }
        Value::Array(list) => list.into_iter().map(|value| without_secrets(value, words)).collect(),
        Value::String(text) if is_secret_value(&text) || names_in(&text).any(|name| is_secret(name, words)) => {
            FILTERED.into()
        }
        other => other,
    }
}

fn is_secret(name: &str, words: &[String]) -> bool {
    let lower = name.to_lowercase();
    is_secret_name(name) || words.iter().any(|word| lower.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::endpoint::params::Params;

    #[track_caller]
    fn check(query: &str, words: &[&str], expected: &str) {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        assert_eq!(
            filtered(&Params::parse(query).unwrap().json, &words),
            expected,
            "{query}"
        );
    }

    #[test]
    fn secrets_are_filtered_by_a_part_of_their_name() {
        check("", &[], "{}");
        check("user=ada&vsn=2.0.0", &[], r#"{"user":"ada","vsn":"2.0.0"}"#);
        check("password=a", &[], r#"{"password":"[FILTERED]"}"#);
        check(
            "current_password=a&csrf_token=b",
            &[],
            r#"{"csrf_token":"[FILTERED]","current_password":"[FILTERED]"}"#,
        );
        check(
            "Token=a&authTOKEN=b&tokens[]=c",
            &[],
            r#"{"Token":"[FILTERED]","authTOKEN":"[FILTERED]","tokens":"[FILTERED]"}"#,
        );
    }

    #[test]
    fn what_real_clients_send_to_identify_themselves_is_filtered() {
        for name in [
            "apikey",
            "api_key",
            "x-api-key",
            "jwt",
            "auth",
            "key",
            "client_secret",
            "sid",
        ] {
            check(
                &format!("{name}=a&vsn=1.0.0"),
                &[],
                &format!(r#"{{"{name}":"[FILTERED]","vsn":"1.0.0"}}"#).replace(
                    // JSON text has its names in order.
                    r#"{"x-api-key":"[FILTERED]","vsn":"1.0.0"}"#,
                    r#"{"vsn":"1.0.0","x-api-key":"[FILTERED]"}"#,
                ),
            );
        }
        const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl";
        check(&format!("who={JWT}&n=1"), &[], r#"{"n":"1","who":"[FILTERED]"}"#);
        check(JWT, &[], r#"{"[FILTERED]":""}"#);
        check("h[]=Bearer%20abcdefgh", &[], r#"{"h":["[FILTERED]"]}"#);
    }

    #[test]
    fn secrets_are_filtered_at_any_depth() {
        check(
            "user[password]=a&user[name]=b",
            &[],
            r#"{"user":{"name":"b","password":"[FILTERED]"}}"#,
        );
        check("list[][token]=a", &[], r#"{"list":[{"token":"[FILTERED]"}]}"#);
        check("password[deep][er]=a", &[], r#"{"password":"[FILTERED]"}"#);
    }

    #[test]
    fn secrets_inside_a_text_are_filtered_with_it() {
        for value in [
            r#"{"user":"ada","token":"a"}"#,
            r#"{ "user": { "password" : "a" } }"#,
            r#"[{\"apiKey\":\"a\"}]"#,
            "https://example.com/callback?code=a&state=b",
            "user=ada&csrf_token=b",
            "Cookie: a=b",
            r#"{"home_town":"a"}"#,
        ] {
            let query = format!(
                "data={}",
                percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC)
            );
            check(&query, &["town"], r#"{"data":"[FILTERED]"}"#);
        }
        check(
            "data=user%3Dada%2C%20at%2010%3A30",
            &["town"],
            r#"{"data":"user=ada, at 10:30"}"#,
        );
    }

    #[test]
    fn the_configuration_adds_to_what_is_filtered() {
        check(
            "homeTown=a&token=b&n=1",
            &["TOWN"],
            r#"{"homeTown":"[FILTERED]","n":"1","token":"[FILTERED]"}"#,
        );
    }
}
