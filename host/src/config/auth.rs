//! Reads `[mounts.auth]`.

use std::time::Duration;

use jsonwebtoken::{Algorithm, AlgorithmFamily};
use serde_json::json;
use toml::Spanned;
use toml::de::DeValue;

use super::amount::{DAY_MS, HOUR_MS, MEBIBYTE};
use super::around::Surroundings;
use super::auth_settings::{Auth, Jwks, Jwt, KeySource, OnExpiry, PhoenixToken, TokenPlace};
use super::reader::Section;
use super::template::Template;
use super::words::suggestion;

/// The algorithms that a token may be signed with. `none` is not one of them.
const ALGORITHMS: [(&str, Algorithm); 12] = [
    ("HS256", Algorithm::HS256),
    ("HS384", Algorithm::HS384),
    ("HS512", Algorithm::HS512),
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// Where phoenix.js, its older versions and other clients put a token.
const PLACES: [&str; 3] = ["auth_token", "params.token", "header.authorization"];

const YEAR_S: u64 = 366 * 24 * 60 * 60;

/// `[mounts.auth]`; `None`: the mount has none.
pub(super) fn auth(mount: &Section<'_>, around: &Surroundings<'_>) -> Option<Auth> {
    let mut section = mount.section("auth");
    section.name = "`[mounts.auth]`".to_owned();
    mount.value("auth")?.get_ref().as_table()?;
    let auth = Auth {
        jwt: jwt(&section, around),
        phoenix_token: phoenix_token(&section, around),
        from: places(&section),
        socket_id: socket_id(&section),
        required: section.flag("required", true),
        on_expiry: section.choice(
            "on_expiry",
            &[("close", OnExpiry::Close), ("keep", OnExpiry::Keep)],
            OnExpiry::Close,
        ),
        max_token_bytes: section.count("max_token_bytes", 16_384, 256..=MEBIBYTE),
        refresh_interval: section.millis("refresh_interval_ms", 1_000, 0..=HOUR_MS),
        same_client: section.flag("same_client", true),
    };
    if let (false, Some(value)) = (auth.same_client, section.value("socket_id")) {
        let message =
            "`socket_id` names one client, and with `same_client = false` a connection may become that of another";
        let both = section.mistakes.error(value.span(), message);
        section.mistakes.add(both.help("remove one of the two"));
    }
    if section.value("jwt").is_none() && section.value("phoenix_token").is_none() {
        let none = section.mistakes.error(
            section.at.clone(),
            "`[mounts.auth]` takes no token: it has neither `jwt` nor `phoenix_token`",
        );
        let help = "add a line such as `jwt = { algorithms = [\"HS256\"], secret_file = \"jwt_secret\" }`";
        section.mistakes.add(none.help(help));
    }
    section.finish();
    Some(auth)
}

fn jwt(section: &Section<'_>, around: &Surroundings<'_>) -> Option<Jwt> {
    let mut jwt = section.section("jwt");
    jwt.name = "`jwt`".to_owned();
    section.value("jwt")?.get_ref().as_table()?;
    let algorithms = algorithms(&jwt);
    let keys = keys(&jwt, around);
    check_families(&jwt, &algorithms);
    let read = Jwt {
        algorithms: algorithms.into_iter().map(Spanned::into_inner).collect(),
        keys,
        issuer: names(&jwt, "issuer"),
        audience: names(&jwt, "audience"),
        leeway: Duration::from_secs(jwt.number("leeway_s", 5, 0..=3_600)),
    };
    jwt.finish();
    Some(read)
}

fn algorithms(jwt: &Section<'_>) -> Vec<Spanned<Algorithm>> {
    jwt.fields.require("algorithms");
    let words = ALGORITHMS.map(|(word, _)| word);
    let names = jwt.texts("algorithms");
    jwt.note(
        "algorithms",
        json!({ "type": "array", "minItems": 1, "items": { "enum": words } }),
    );
    let is_empty = names.as_ref().is_some_and(Vec::is_empty);
    if jwt.value("algorithms").is_none() || is_empty {
        let at = jwt.value("algorithms").map_or(jwt.at.clone(), Spanned::span);
        let missing = jwt.mistakes.error(at, "`jwt` names no algorithm");
        jwt.mistakes
            .add(missing.help("write `algorithms = [\"HS256\"]`, or another that your tokens are signed with"));
    }
    let known = |name: Spanned<String>| {
        let found = ALGORITHMS.iter().find(|(word, _)| word == name.get_ref());
        if found.is_none() {
            let unknown = jwt.mistakes.error(
                name.span(),
                format!("a token cannot be signed with `{}`", name.get_ref()),
            );
            jwt.mistakes.add(unknown.help(suggestion(name.get_ref(), &words)));
        }
        found.map(|(_, algorithm)| Spanned::new(name.span(), *algorithm))
    };
    names.unwrap_or_default().into_iter().filter_map(known).collect()
}

/// Where the keys come from: one place at most.
fn keys(jwt: &Section<'_>, around: &Surroundings<'_>) -> KeySource {
    let secrets = jwt.text("secret_file");
    let keys = jwt.text("keys_file");
    let (url, jwks) = jwks(jwt);
    let named: Vec<_> = [("secret_file", &secrets), ("keys_file", &keys), ("jwks_url", &url)]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.as_ref()?.span())))
        .collect();
    if let [(first, first_at), (second, at), ..] = &named[..] {
        let both = jwt
            .mistakes
            .error(at.clone(), format!("`jwt` has both `{first}` and `{second}`"));
        let both = both.also(first_at.clone(), "the first");
        jwt.mistakes
            .add(both.help("a token is checked with the keys of one place: remove one of them"));
    }
    if let Some(file) = around.path(secrets) {
        KeySource::Secrets(file)
    } else if let Some(file) = around.path(keys) {
        KeySource::Keys(file)
    } else if url.is_some() {
        KeySource::Jwks(jwks)
    } else {
        KeySource::Variable
    }
}

fn jwks(jwt: &Section<'_>) -> (Option<Spanned<String>>, Jwks) {
    let url = jwt.text("jwks_url");
    if let Some(url) = &url {
        let wrong = match () {
            () if !cfg!(feature = "jwks") => Some((
                "this `bennu` was built without `jwks_url`",
                "build it with `cargo build --release --features jwks`",
            )),
            () if !is_safe(url.get_ref()) => Some((
                "`jwks_url` must begin with https://, or with http:// and an address of this machine",
                "over plain HTTP, whoever is in between could put in keys of their own",
            )),
            () => None,
        };
        if let Some((message, help)) = wrong {
            jwt.mistakes.add(jwt.mistakes.error(url.span(), message).help(help));
        }
    }
    let seconds = |key, default, least| Duration::from_secs(jwt.number(key, default, least..=DAY_MS / 1_000));
    let jwks = Jwks {
        url: url.clone().map(Spanned::into_inner).unwrap_or_default(),
        refresh: seconds("jwks_refresh_s", 300, 1),
        unknown_kid_interval: seconds("jwks_unknown_kid_s", 10, 1),
        timeout: jwt.millis("jwks_timeout_ms", 5_000, 1..=HOUR_MS),
        max_bytes: jwt.count("jwks_max_bytes", 262_144, 1_024..=16 * MEBIBYTE),
    };
    (url, jwks)
}

/// Whether nobody can change what this address answers on the way.
fn is_safe(url: &str) -> bool {
    let Ok(url) = url.parse::<http::Uri>() else {
        return false;
    };
    let is_here = |host: &str| {
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    };
    match (url.scheme_str(), url.host()) {
        (Some("https"), Some(_)) => true,
        (Some("http"), Some(host)) => is_here(host),
        _ => false,
    }
}

/// Notes algorithms that the named keys are not for: a file of secrets verifies no RSA, and public keys no HMAC.
fn check_families(jwt: &Section<'_>, algorithms: &[Spanned<Algorithm>]) {
    let holds_secrets = jwt.value("keys_file").is_none() && jwt.value("jwks_url").is_none();
    let is_public = jwt.value("jwks_url").is_some();
    for algorithm in algorithms {
        let (is_hmac, name) = (
            algorithm.get_ref().family() == AlgorithmFamily::Hmac,
            algorithm.get_ref(),
        );
        let wrong = match is_hmac {
            false if holds_secrets => format!("`{name:?}` needs public keys, not a secret"),
            true if is_public => format!("`{name:?}` needs a secret, and an address shows its keys to everybody"),
            _ => continue,
        };
        let help = if is_hmac {
            "name a `secret_file` instead of `jwks_url`"
        } else {
            "name a `keys_file` with public keys, or a `jwks_url`"
        };
        jwt.mistakes.add(jwt.mistakes.error(algorithm.span(), wrong).help(help));
    }
}

/// One text, or a list of them.
fn names(jwt: &Section<'_>, key: &'static str) -> Vec<String> {
    let names = match jwt.value(key).map(Spanned::get_ref) {
        Some(DeValue::Array(list)) => jwt.texts_of(key, list),
        _ => jwt.text(key).into_iter().collect(),
    };
    let list = json!({ "type": "array", "minItems": 1, "items": { "type": "string" } });
    jwt.note(key, json!({ "anyOf": [{ "type": "string" }, list] }));
    if let Some(value) = jwt.value(key)
        && value.get_ref().as_array().is_some_and(|list| list.is_empty())
    {
        let empty = jwt.mistakes.error(value.span(), format!("`{key}` is empty"));
        jwt.mistakes.add(empty.help(format!(
            "name one, or remove `{key}`: without it, Bennu does not check this claim"
        )));
    }
    names.into_iter().map(Spanned::into_inner).collect()
}

fn phoenix_token(section: &Section<'_>, around: &Surroundings<'_>) -> Option<PhoenixToken> {
    let mut phoenix = section.section("phoenix_token");
    phoenix.name = "`phoenix_token`".to_owned();
    let is_there = section.value("phoenix_token")?.get_ref().is_table();
    let read = PhoenixToken {
        secret_key_base_file: around.path(phoenix.text("secret_key_base_file")),
        salt: phoenix
            .required_text("salt", "\"user socket\"")
            .map(Spanned::into_inner)
            .unwrap_or_default(),
        // As in Phoenix, a token says itself how old it may become.
        max_age: { phoenix.value("max_age_s").is_some() }
            .then(|| Duration::from_secs(phoenix.number("max_age_s", 86_400, 1..=100 * YEAR_S))),
    };
    phoenix.note(
        "max_age_s",
        json!({ "type": "integer", "minimum": 1, "maximum": 100 * YEAR_S }),
    );
    phoenix.finish();
    is_there.then_some(read)
}

fn places(section: &Section<'_>) -> Vec<TokenPlace> {
    let names = section.texts("from");
    let value = section
        .value("from")
        .filter(|_| names.as_ref().is_some_and(Vec::is_empty));
    if let Some(value) = value {
        let empty = section
            .mistakes
            .error(value.span(), "no client can show its token: `from` is empty");
        section
            .mistakes
            .add(empty.help("leave `from` out for the usual places"));
    }
    section.note(
        "from",
        json!({ "type": "array", "minItems": 1, "items": { "type": "string", "pattern": "^(auth_token|params\\..+|header\\..+|join\\..+)$" } }),
    );
    let names = names.unwrap_or_else(|| PLACES.map(|name| Spanned::new(0..0, name.to_owned())).into());
    names.iter().filter_map(|name| place(section, name)).collect()
}

fn place(section: &Section<'_>, name: &Spanned<String>) -> Option<TokenPlace> {
    let text = name.get_ref();
    let place = match text.split_once('.') {
        None if text == "auth_token" => Some(TokenPlace::AuthToken),
        Some(("params", param)) if !param.is_empty() => Some(TokenPlace::Param(param.to_owned())),
        Some(("header", header)) if http::HeaderName::from_bytes(header.as_bytes()).is_ok() => {
            Some(TokenPlace::Header(header.to_ascii_lowercase()))
        }
        Some(("join", key)) if !key.is_empty() => Some(TokenPlace::Join(key.to_owned())),
        _ => None,
    };
    if place.is_none() {
        let message = format!("`{text}` is no place for a token");
        let help = "write \"auth_token\", \"params.NAME\", \"header.NAME\" or \"join.NAME\"";
        section
            .mistakes
            .add(section.mistakes.error(name.span(), message).help(help));
    }
    place
}

fn socket_id(section: &Section<'_>) -> Option<Template> {
    let text = section.text("socket_id")?;
    let note = |error: &super::template::TemplateError| {
        let message = format!("`socket_id` cannot be `{}`: {error}", text.get_ref());
        let help = "write a text with claims in braces, such as \"user:{sub}\"";
        section
            .mistakes
            .add(section.mistakes.error(text.span(), message).help(help));
    };
    Template::parse(text.get_ref()).inspect_err(note).ok()
}
