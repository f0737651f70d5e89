//! What a connect handler decides by: [`ConnectRequest`] and [`Origin`].

use std::fmt;
use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Denial;
use crate::payload::{Payload, read_json};
use crate::wire::{ConnectInfo, OriginInfo, Uri};

/// A client's request to connect.
///
/// Mount, transport and params are always present; the mount selects the rest:
///
/// | in the configuration | here |
/// |---|---|
/// | `auth_token = true` | [`auth_token`](Self::auth_token) |
/// | `connect_info = ["peer_data"]` | [`peer`](Self::peer) |
/// | … `"uri"` | [`uri`](Self::uri) |
/// | … `"user_agent"` | [`user_agent`](Self::user_agent) |
/// | … `"x_headers"`, `"sec_websocket_headers"`, `"trace_context_headers"` | [`header`](Self::header), [`headers`](Self::headers) |
/// | `headers = ["accept-language", …]` | the same |
/// | `[mounts.auth]` | [`claims`](Self::claims) |
/// | `connect_static = { … }` | [`static_pair`](Self::static_pair) |
pub struct ConnectRequest {
    pub(crate) info: ConnectInfo,
}

impl ConnectRequest {
    /// Reads the query's parameters. Their values are text.
    ///
    /// # Errors
    ///
    /// If they are no such `T`. Given back with `?`, the error refuses the client with status 400.
    pub fn params<T: DeserializeOwned>(&self) -> Result<T, Denial> {
        let params = Payload::json_text(self.info.params.get());
        params.parse().map_err(|refusal| Denial {
            status: 400,
            body: Some(refusal.into_body()),
        })
    }

    /// The claims of the token that the host has checked, if the mount has `[mounts.auth]`; otherwise an empty object.
    ///
    /// # Errors
    ///
    /// If they are no such `T`. Given back with `?`, the error refuses the client with status 403.
    pub fn claims<T: DeserializeOwned>(&self) -> Result<T, Denial> {
        let claims = self.info.claims.as_deref().map_or("{}", RawValue::get);
        Payload::json_text(claims).parse().map_err(|refusal| Denial {
            status: 403,
            body: Some(refusal.into_body()),
        })
    }

    /// The mount's path.
    #[must_use]
    pub fn mount(&self) -> &str {
        &self.info.mount
    }

    /// `websocket` or `longpoll`.
    #[must_use]
    pub fn transport(&self) -> &str {
        &self.info.transport
    }

    /// The token that phoenix.js sends as `authToken`: in a header, so it appears in no URL. The host checks it only if the
    /// mount has `[mounts.auth]`.
    #[must_use]
    pub fn auth_token(&self) -> Option<&str> {
        self.info.auth_token.as_deref()
    }

    /// The address and port of the client, or of the proxy in front of the host.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.info.peer
    }

    /// The URI of the request.
    #[must_use]
    pub fn uri(&self) -> Option<&Uri> {
        self.info.uri.as_ref()
    }

    /// The header `user-agent`.
    #[must_use]
    pub fn user_agent(&self) -> Option<&str> {
        self.header("user-agent")
    }

    /// The first header named `name` (in lower case) that the mount selects.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers().iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// All headers that the mount selects, in the client's order, with names in lower case. Headers whose value is not UTF-8 are
    /// left out.
    #[must_use]
    pub fn headers(&self) -> &[(String, String)] {
        &self.info.headers
    }

    /// The value of `key` in the mount's `connect_static`.
    #[must_use]
    pub fn static_pair(&self, key: &str) -> Option<Value> {
        let mut pairs: serde_json::Map<_, _> = serde_json::from_str(self.info.static_pairs.as_deref()?.get()).ok()?;
        pairs.remove(key)
    }

    pub(crate) fn read(json: &[u8]) -> Result<Self, String> {
        let info = read_json(json).map_err(|error| format!("{} {}", error.path, error.message))?;
        Ok(Self { info })
    }
}

/// Shows nothing that may be secret: a plugin may log it.
impl fmt::Debug for ConnectRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut request = f.debug_struct("ConnectRequest");
        request
            .field("mount", &self.info.mount)
            .field("transport", &self.info.transport)
            .finish_non_exhaustive()
    }
}

/// The origin of a page that connects. `null`, `file://` and malformed origins have no host.
#[derive(Debug)]
pub struct Origin {
    info: OriginInfo,
}

impl Origin {
    /// The header as the client sent it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.info.origin
    }

    /// `https`, in lower case.
    #[must_use]
    pub fn scheme(&self) -> Option<&str> {
        self.info.scheme.as_deref()
    }

    /// `example.com`, in lower case.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.info.host.as_deref()
    }

    /// The port; the default port of the scheme if the header has none.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.info.port
    }

    /// The path of the mount that the page connects to.
    #[must_use]
    pub fn mount(&self) -> &str {
        &self.info.mount
    }

    pub(crate) fn read(json: &[u8]) -> Result<Self, String> {
        let info = read_json(json).map_err(|error| format!("{} {}", error.path, error.message))?;
        Ok(Self { info })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = r#"{
        "mount": "/socket", "transport": "websocket", "params": {"token": "top secret"},
        "headers": [["user-agent", "me"], ["x-a", "1"], ["x-a", "2"]], "peer": "[::1]:5000",
        "uri": {"scheme": "http", "host": "a.example", "port": 80, "path": "/socket/websocket", "query": "vsn=2.0.0"},
        "auth_token": "top secret", "static": {"region": "eu", "shards": 4}, "later": "versions add"
    }"#;

    #[test]
    fn what_the_mount_selects_can_be_read() {
        let request = ConnectRequest::read(ALL.as_bytes()).unwrap();
        assert_eq!((request.mount(), request.transport()), ("/socket", "websocket"));
        assert_eq!(request.user_agent(), Some("me"));
        assert_eq!((request.header("x-a"), request.header("x-b")), (Some("1"), None));
        assert_eq!(request.headers().len(), 3);
        assert_eq!(request.peer(), "[::1]:5000".parse().ok());
        assert_eq!(
            request.uri().map(|uri| (uri.port, uri.query.as_deref())),
            Some((80, Some("vsn=2.0.0")))
        );
        assert_eq!(request.auth_token(), Some("top secret"));
        assert_eq!(request.static_pair("region"), Some("eu".into()));
        assert_eq!(request.static_pair("shards"), Some(4.into()));
        assert_eq!(request.static_pair("none"), None);
    }

    #[test]
    fn what_the_mount_does_not_select_is_not_there() {
        let bare = r#"{"mount":"/socket","transport":"longpoll","params":{}}"#;
        let request = ConnectRequest::read(bare.as_bytes()).unwrap();
        assert_eq!(
            (request.peer(), request.uri(), request.auth_token()),
            (None, None, None)
        );
        assert_eq!((request.user_agent(), request.static_pair("region")), (None, None));
        assert!(request.headers().is_empty());
    }

    #[test]
    fn a_request_in_a_log_shows_no_secret() {
        let request = ConnectRequest::read(ALL.as_bytes()).unwrap();
        assert!(!format!("{request:?}").contains("secret"));
    }
}
