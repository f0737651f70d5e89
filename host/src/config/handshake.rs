//! Reads the settings of the handshake: origins, subprotocols, and what a connect handler sees.

use bennu_wire::dialect::Dialect;
use bennu_wire::serializer::{BUILT_IN, SUPABASE, Serializer, Serializers};
use serde_json::json;
use toml::Spanned;
use toml::de::DeValue;

use super::model::{CheckOrigin, ConnectInfo, Mode, OriginPattern, Server};
use super::origin::OriginError;
use super::reader::Section;
use super::shape::Shape;
use super::words::suggestion;

/// The items of `connect_info`, and the headers that each means.
const KINDS: [(&str, &[&str]); 6] = [
    ("peer_data", &[]),
    ("uri", &[]),
    ("user_agent", &["user-agent"]),
    ("x_headers", &["x-*"]),
    ("sec_websocket_headers", &["sec-websocket-*"]),
    ("trace_context_headers", &["traceparent", "tracestate"]),
];

/// `check_origin`, and the plugin that it names, if any.
pub(super) fn check_origin(
    section: &Section<'_>,
    server: &Server,
    mode: Mode,
) -> (CheckOrigin, Option<Spanned<String>>) {
    let value = section.value("check_origin");
    let policy = match value.map(|value| (value.get_ref(), value.span())) {
        Some((DeValue::Boolean(false), _)) => CheckOrigin::Off,
        None | Some((DeValue::Boolean(true), _)) => CheckOrigin::Hosts(own_hosts(server, mode)),
        Some((DeValue::String(text), _)) if text == "conn" => CheckOrigin::Conn,
        Some((DeValue::Array(list), _)) => CheckOrigin::List(
            section
                .texts_of("check_origin", list)
                .into_iter()
                .filter_map(|entry| origin(section, &entry))
                .collect(),
        ),
        Some((DeValue::Table(table), at)) => {
            let asked = Section::new("`check_origin`", at, Some(table), section.mistakes);
            let plugin = asked.required_text("plugin", "\"auth\"");
            let others = [
                json!({ "type": "boolean" }),
                json!({ "const": "conn" }),
                json!({ "type": "array", "items": { "type": "string" } }),
            ];
            section
                .fields
                .note("check_origin", Shape::Either(others.into(), asked.fields.clone()));
            asked.finish();
            let name = plugin.clone().map(Spanned::into_inner).unwrap_or_default();
            return (CheckOrigin::Plugin(name), plugin);
        }
        Some((_, at)) => {
            let wrong = section.mistakes.error(
                at,
                "`check_origin` must be `true`, `false`, \"conn\", a list of origins or `{ plugin = \"NAME\" }`",
            );
            section
                .mistakes
                .add(wrong.help("a list looks like [\"https://example.com\", \"//*.example.com\"]"));
            CheckOrigin::Conn
        }
    };
    (policy, None)
}

/// `connect_info`, `headers` and `connect_static`.
pub(super) fn connect_info(section: &Section<'_>) -> ConnectInfo {
    let kinds = kinds(section);
    let listed = |kind| kinds.contains(&kind);
    let stood_for = KINDS
        .iter()
        .filter(|(kind, _)| listed(kind))
        .flat_map(|(_, names)| *names);
    let mut names: Vec<String> = stood_for.map(|name| (*name).to_owned()).collect();
    names.extend(headers(section));
    ConnectInfo {
        peer: listed("peer_data"),
        uri: listed("uri"),
        headers: names,
        static_pairs: section.json("connect_static").filter(|pairs| &**pairs != "{}"),
    }
}

fn kinds(section: &Section<'_>) -> Vec<&'static str> {
    let all = KINDS.map(|(kind, _)| kind);
    let known = |item: Spanned<String>| {
        let kind = all.into_iter().find(|kind| kind == item.get_ref());
        if kind.is_none() {
            let unknown = section
                .mistakes
                .error(item.span(), format!("`connect_info` cannot hold `{}`", item.get_ref()));
            section.mistakes.add(unknown.help(suggestion(item.get_ref(), &all)));
        }
        kind
    };
    let items = section.texts("connect_info").unwrap_or_default();
    section.note("connect_info", json!({ "type": "array", "items": { "enum": all } }));
    items.into_iter().filter_map(known).collect()
}

/// The subprotocols. Each is a token of HTTP.
pub(super) fn subprotocols(section: &Section<'_>) -> Vec<String> {
    let names = section.texts("subprotocols").unwrap_or_default();
    let name = |name: Spanned<String>| {
        // The same characters as in the name of a header.
        if http::HeaderName::from_bytes(name.get_ref().as_bytes()).is_err() {
            let message = format!("`{}` is not the name of a subprotocol", name.get_ref());
            section.mistakes.add(
                section
                    .mistakes
                    .error(name.span(), message)
                    .help("write a word without spaces, commas and slashes, such as \"phoenix\""),
            );
        }
        name.into_inner()
    };
    names.into_iter().map(name).collect()
}

/// The dialect that the mount speaks, or speaks besides today's.
pub(super) fn dialect(section: &Section<'_>) -> Dialect {
    let dialects = [("0.11", Dialect::Phoenix011), ("supabase", Dialect::Supabase)];
    section.choice("dialect", &dialects, Dialect::Modern)
}

/// The protocol versions.
pub(super) fn serializers(section: &Section<'_>, dialect: Dialect) -> Serializers {
    let all = match dialect {
        Dialect::Modern | Dialect::Phoenix011 => BUILT_IN,
        Dialect::Supabase => SUPABASE,
    };
    let Some(names) = section.texts("serializers") else {
        return Serializers::new(all);
    };
    let versions = all.map(Serializer::vsn);
    let known = |name: &Spanned<String>| {
        let found = all.into_iter().find(|serializer| serializer.vsn() == name.get_ref());
        if found.is_none() {
            let message = format!("there is no serializer for version `{}`", name.get_ref());
            let unknown = section.mistakes.error(name.span(), message);
            section
                .mistakes
                .add(unknown.help(suggestion(name.get_ref(), &versions)));
        }
        found
    };
    let found: Vec<_> = names.iter().filter_map(known).collect();
    let value = section.value("serializers").filter(|_| names.is_empty());
    if let Some(value) = value.filter(|value| value.get_ref().is_array()) {
        let empty = section
            .mistakes
            .error(value.span(), "no client can connect here: `serializers` is empty");
        section
            .mistakes
            .add(empty.help("leave `serializers` out to speak all versions"));
    }
    Serializers::new(found)
}

fn own_hosts(server: &Server, mode: Mode) -> Vec<String> {
    let mut hosts = vec![server.url_host.clone()];
    if mode == Mode::Dev {
        hosts.extend(
            ["localhost", "127.0.0.1"]
                .map(str::to_owned)
                .into_iter()
                .filter(|host| *host != server.url_host),
        );
    }
    hosts
}

pub(super) fn origin(section: &Section<'_>, entry: &Spanned<String>) -> Option<OriginPattern> {
    let note = |error: &OriginError| {
        let message = format!("`{}` is not an origin: {error}", entry.get_ref());
        let help = "an entry is https://HOST, https://HOST:PORT, //HOST, //HOST:PORT or //*.HOST";
        section
            .mistakes
            .add(section.mistakes.error(entry.span(), message).help(help));
    };
    OriginPattern::parse(entry.get_ref()).inspect_err(note).ok()
}

fn headers(section: &Section<'_>) -> Vec<String> {
    let names = section.texts("headers").unwrap_or_default();
    let name = |name: Spanned<String>| {
        let lower = name.get_ref().to_ascii_lowercase();
        let literal = lower.strip_suffix('*').unwrap_or(&lower);
        // `*` alone is a mistake, too: it would show cookies to every plugin.
        if http::HeaderName::from_bytes(literal.as_bytes()).is_err() || literal.contains('*') {
            let message = format!("`{}` is not the name of a header", name.get_ref());
            section.mistakes.add(
                section
                    .mistakes
                    .error(name.span(), message)
                    .help("write a name such as \"user-agent\", or \"x-*\" for all with that prefix"),
            );
        }
        lower
    };
    names.into_iter().map(name).collect()
}
