//! Reads `[api]` and `[[api.keys]]`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use toml::Spanned;

use super::amount::{DAY_MS, GIBIBYTE, HOUR_MS, MANY, MEBIBYTE};
use super::around::Surroundings;
use super::diagnostic::Span;
use super::model::{Api, ApiKey, Mode, Scope};
use super::reader::Section;
use super::sections;
use super::words::suggestion;

/// The port that `dev` starts at.
const DEV_PORT: u16 = 4002;

pub(super) fn api(section: Section<'_>, around: &Surroundings<'_>) -> Api {
    let api = Api {
        listen: sections::listen(&section, around, DEV_PORT),
        names_listen: section.value("listen").is_some(),
        hosts: sections::hosts(&section),
        keys: keys(&section, around),
        max_connections: section.count("max_connections", 256, 1..=MANY),
        max_concurrent: section.count("max_concurrent", 64, 1..=100_000),
        max_calls: section.count("max_calls", 64, 1..=100_000),
        max_header_bytes: section.count("max_header_bytes", 16_384, 8_192..=MEBIBYTE),
        max_body_bytes: section.count("max_body_bytes", 8 * MEBIBYTE, 1_024..=GIBIBYTE),
        max_payload_bytes: section.count("max_payload_bytes", MEBIBYTE, 64..=GIBIBYTE),
        max_list: section.count("max_list", 1_000, 1..=1_000_000),
        max_page: section.count("max_page", 1_000, 1..=100_000),
        max_answer_bytes: section.count("max_answer_bytes", 8 * MEBIBYTE, 16_384..=GIBIBYTE),
        header_timeout: section.millis("header_timeout_ms", 10_000, 1..=HOUR_MS),
        idle_timeout: section.millis("idle_timeout_ms", 75_000, 1..=DAY_MS),
        body_timeout: section.millis("body_timeout_ms", 10_000, 1..=HOUR_MS),
        response_timeout: section.millis("response_timeout_ms", 10_000, 1..=HOUR_MS),
        heard_timeout: section.millis("heard_timeout_ms", 2_000, 1..=HOUR_MS),
        call_deadline: section.millis("call_deadline_ms", 5_000, 1..=HOUR_MS),
        max_call_deadline: section.millis("max_call_deadline_ms", 60_000, 1..=HOUR_MS),
        max_refuse: section.millis("max_refuse_ms", DAY_MS, 1..=365 * DAY_MS),
        max_refused_ids: section.count("max_refused_ids", 10_000, 0..=MANY),
        idempotency: section.millis("idempotency_ms", HOUR_MS, 1..=DAY_MS),
        max_idempotency_keys: section.count("max_idempotency_keys", 10_000, 0..=MANY),
        max_idempotency_bytes: section.count("max_idempotency_bytes", 16 * MEBIBYTE, 0..=GIBIBYTE),
    };
    if api.keys.is_empty() && api.names_listen && api.listen.is_some() && around.mode == Mode::Serve {
        let closed = section
            .mistakes
            .warning(section.at.clone(), "nobody can use the API: there is no `[[api.keys]]`");
        section
            .mistakes
            .add(closed.help("add a key with `name`, `secret_file`, `allow` and `topics`"));
    }
    if !api.keys.is_empty() && !api.names_listen && around.mode == Mode::Serve {
        let message = "nobody can use the keys: the API is off, as it has no `listen`";
        let off = section.mistakes.warning(section.at.clone(), message);
        section
            .mistakes
            .add(off.help("add a line such as `listen = \"127.0.0.1:4002\"`, or `listen = false`"));
    }
    section.finish();
    api
}

fn keys(section: &Section<'_>, around: &Surroundings<'_>) -> Arc<[Arc<ApiKey>]> {
    let mut variables: BTreeMap<String, Span> = BTreeMap::new();
    let (mut keys, mistakes) = (Vec::new(), section.mistakes);
    for mut section in section.sections("keys") {
        section.name = "`[[api.keys]]`".to_owned();
        let at = section.at.clone();
        let Some((name, key)) = key(section, around) else {
            continue;
        };
        let variable = key.variable();
        if let Some(first) = variables.get(&variable) {
            let twice = mistakes.error(name, format!("there are two keys called `{}`", key.name));
            mistakes.add(twice.label("the second").also(first.clone(), "the first"));
        }
        variables.insert(variable, at);
        keys.push(Arc::new(key));
    }
    keys.into()
}

fn key(section: Section<'_>, around: &Surroundings<'_>) -> Option<(Span, ApiKey)> {
    let name = section.required_text("name", "\"web\"");
    let secret_file = around.path(section.text("secret_file"));
    let (allow, topics) = (allow(&section), topics(&section));
    if let Some(name) = &name {
        check_name(&section, name);
    }
    section.finish();
    let name = name?;
    let at = name.span();
    Some((
        at,
        ApiKey {
            name: name.into_inner(),
            secret_file,
            allow,
            topics,
        },
    ))
}

fn check_name(section: &Section<'_>, name: &Spanned<String>) {
    let text = name.get_ref();
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if !text.starts_with(|c: char| c.is_ascii_lowercase()) || !text.chars().all(plain) {
        let wrong = section
            .mistakes
            .error(name.span(), format!("`{text}` cannot be the name of a key"));
        section.mistakes.add(wrong.help(
            "write lower-case letters, digits, `_` and `-`, with a letter first: the name is part of an environment variable",
        ));
    }
}

fn allow(section: &Section<'_>) -> Vec<Scope> {
    let words = Scope::ALL.map(Scope::name);
    let known = |word: Spanned<String>| {
        let scope = Scope::ALL.into_iter().find(|scope| scope.name() == word.get_ref());
        if scope.is_none() {
            let unknown = section
                .mistakes
                .error(word.span(), format!("a key cannot be allowed `{}`", word.get_ref()));
            section.mistakes.add(unknown.help(suggestion(word.get_ref(), &words)));
        }
        scope
    };
    let listed = required_texts(section, "allow", "[\"broadcast\"]");
    section.note(
        "allow",
        json!({ "type": "array", "minItems": 1, "items": { "enum": words } }),
    );
    listed.into_iter().filter_map(known).collect()
}

fn topics(section: &Section<'_>) -> Vec<bennu_wire::pattern::TopicPattern> {
    let listed = required_texts(section, "topics", "[\"room:*\"]");
    section.note(
        "topics",
        json!({ "type": "array", "minItems": 1, "items": { "type": "string" } }),
    );
    let pattern = |text: Spanned<String>| sections::topic(section, &text).map(Spanned::into_inner);
    listed.into_iter().filter_map(pattern).collect()
}

/// A list that must be there: what a key may do is never a matter of a default.
fn required_texts(section: &Section<'_>, key: &'static str, example: &str) -> Vec<Spanned<String>> {
    section.fields.require(key);
    if section.value(key).is_none() {
        let missing = section
            .mistakes
            .error(section.at.clone(), format!("{} has no `{key}`", section.name));
        section
            .mistakes
            .add(missing.help(format!("add a line such as `{key} = {example}`")));
    }
    let texts = section.texts(key).unwrap_or_default();
    if let Some(value) = section.value(key)
        && value.get_ref().as_array().is_some_and(|list| list.is_empty())
    {
        let empty = section
            .mistakes
            .error(value.span(), format!("`{key}` is empty: this key could do nothing"));
        section
            .mistakes
            .add(empty.help(format!("write for example `{key} = {example}`, or remove the key")));
    }
    texts
}
