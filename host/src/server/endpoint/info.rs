//! What a connect handler is told: mount, transport and params, and the rest as far as the mount selects it.

use bennu_plugin::wire::{ConnectInfo, Uri};
use bytes::Bytes;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::value::RawValue;

use super::connect::Attempt;
use super::origin::RequestOrigin;
use crate::config::Mount;
use crate::server::transport::websocket::subprotocol;

/// What the handler is told about this client, as JSON. `claims` are those of its token.
pub(super) fn of(attempt: &Attempt<'_>, claims: Option<&[u8]>) -> Bytes {
    let Attempt { mount, parts, .. } = attempt;
    let selected = &mount.connect_info;
    let raw = |json: &str| RawValue::from_string(json.to_owned()).ok();
    let info = ConnectInfo {
        mount: mount.path.clone(),
        transport: attempt.transport.to_owned(),
        params: raw(&attempt.params.json).unwrap_or_default(),
        headers: headers(mount, &parts.headers),
        peer: selected.peer.then_some(attempt.client.peer),
        uri: selected.uri.then(|| uri(parts)),
        auth_token: attempt.auth_token.clone(),
        claims: claims.and_then(|claims| raw(str::from_utf8(claims).ok()?)),
        static_pairs: selected.static_pairs.as_deref().and_then(raw),
    };
    serde_json::to_vec(&info).map_or_else(|_| Bytes::new(), Bytes::from)
}

fn uri(parts: &Parts) -> Uri {
    let RequestOrigin { scheme, host, port } = RequestOrigin::of(parts);
    Uri {
        scheme: scheme.to_owned(),
        host,
        port,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().map(str::to_owned),
    }
}

/// The headers that the mount selects, by name or by prefix (`x-*`). If it takes auth tokens, the subprotocols come without the
/// token.
fn headers(mount: &Mount, headers: &HeaderMap) -> Vec<(String, String)> {
    let wanted = |name: &str| {
        mount
            .connect_info
            .headers
            .iter()
            .any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == pattern,
            })
    };
    let shown = |(name, value): (&HeaderName, &HeaderValue)| {
        let text = str::from_utf8(value.as_bytes()).ok()?;
        let text = if mount.auth_token && name == SEC_WEBSOCKET_PROTOCOL {
            subprotocol::without_token(text)
        } else {
            text.to_owned()
        };
        Some((name.as_str().to_owned(), text))
    };
    headers
        .iter()
        .filter(|(name, _)| wanted(name.as_str()))
        .filter_map(shown)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{Config, Mode};

    /// The headers that a mount with these settings hands on.
    fn handed_on(settings: &str, sent: &[(&str, &[u8])]) -> Vec<(String, String)> {
        let text = format!("[[mounts]]\npath = \"/socket\"\n{settings}\n");
        let config = Config::parse(Path::new("bennu.toml"), &text, Mode::Serve).expect("a configuration");
        let headers = sent.iter().filter_map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            Some((name, HeaderValue::from_bytes(value).ok()?))
        });
        super::headers(&config.mounts[0], &headers.collect())
    }

    #[track_caller]
    fn check(settings: &str, expected: &[&str]) {
        const SENT: [(&str, &[u8]); 8] = [
            ("authorization", b"Bearer 1"),
            ("cookie", b"a=b"),
            ("sec-websocket-protocol", b"phoenix, base64url.bearer.phx.aGVsbG8"),
            ("sec-websocket-version", b"13"),
            ("traceparent", b"00-1-2-03"),
            ("user-agent", "d\u{e9}mo".as_bytes()),
            ("x-bytes", b"\xff"),
            ("x-real-ip", b"10.0.0.1"),
        ];
        let mut found: Vec<String> = handed_on(settings, &SENT)
            .iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        found.sort();
        assert_eq!(found, expected, "{settings}");
    }

    #[test]
    fn only_selected_headers_are_handed_on() {
        check("", &[]);
        check("connect_info = [\"peer_data\", \"uri\"]", &[]);
        check("connect_info = [\"user_agent\"]", &["user-agent: d\u{e9}mo"]);
        check("connect_info = [\"x_headers\"]", &["x-real-ip: 10.0.0.1"]);
        check(
            "connect_info = [\"trace_context_headers\"]",
            &["traceparent: 00-1-2-03"],
        );
        check("headers = [\"Authorization\"]", &["authorization: Bearer 1"]);
        check(
            "connect_info = [\"user_agent\"]\nheaders = [\"user-agent\", \"x-*\"]",
            &["user-agent: d\u{e9}mo", "x-real-ip: 10.0.0.1"],
        );
    }

    #[test]
    fn the_subprotocols_come_without_a_token_that_the_mount_takes() {
        let selected = "connect_info = [\"sec_websocket_headers\"]";
        check(
            selected,
            &[
                "sec-websocket-protocol: phoenix, base64url.bearer.phx.aGVsbG8",
                "sec-websocket-version: 13",
            ],
        );
        check(
            &format!("auth_token = true\n{selected}"),
            &["sec-websocket-protocol: phoenix", "sec-websocket-version: 13"],
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn arbitrary_headers_are_handed_on_as_text(value in proptest::collection::vec(prop_oneof![b' '..b'\x7f', b'\x80'..=b'\xff'], 0..12)) {
            thread_local! {
                static MOUNT: std::sync::Arc<Mount> = {
                    let text = "[[mounts]]\npath = \"/a\"\nauth_token = true\nheaders = [\"authorization\", \"sec-*\"]\n";
                    let config = Config::parse(Path::new("bennu.toml"), text, Mode::Serve).expect("a configuration");
                    std::sync::Arc::clone(&config.mounts[0])
                };
            }
            let value = HeaderValue::from_bytes(&value).expect("a header takes these bytes");
            let mut sent = HeaderMap::new();
            for name in ["authorization", "sec-websocket-protocol"] {
                sent.insert(name, value.clone());
            }
            let handed_on = MOUNT.with(|mount| super::headers(mount, &sent));
            let text = str::from_utf8(value.as_bytes()).ok();
            prop_assert_eq!(handed_on.len(), if text.is_some() { 2 } else { 0 });
            prop_assert!(serde_json::to_vec(&handed_on).is_ok());
        }
    }
}
