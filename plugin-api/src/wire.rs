//! The JSON that crosses the boundary inside [`Bytes`](crate::abi::Bytes). Both sides read and write these types.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// What a channel knows about its client: the `info` of a join, and of `CLAIMS`. Empty bytes stand for the default.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct MemberInfo {
    /// The socket id that the connect handler gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_id: Option<String>,
    /// The assigns that the connect handler gave: a JSON object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<Box<RawValue>>,
    /// The claims of the client's token: a JSON object. (since 1.5)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claims: Option<Box<RawValue>>,
    /// The assigns of the route: a JSON object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Box<RawValue>>,
}

/// What a connect handler sees of a request. Parts that the mount does not select are left out.
#[derive(Serialize, Deserialize)]
pub struct ConnectInfo {
    /// The mount's path.
    pub mount: String,
    /// `websocket` or `longpoll`.
    pub transport: String,
    /// The decoded query, nested as Phoenix nests it.
    pub params: Box<RawValue>,
    /// The headers that the mount selects, names in lower case, in the client's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// The client's address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<SocketAddr>,
    /// The URI of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<Uri>,
    /// The token of `Sec-WebSocket-Protocol` or `X-Phoenix-AuthToken`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_token: Option<String>,
    /// The claims of the token, if the mount has `[mounts.auth]`: a JSON object. (since 1.5)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claims: Option<Box<RawValue>>,
    /// The pairs of the mount's `connect_static`: a JSON object.
    #[serde(default, rename = "static", skip_serializing_if = "Option::is_none")]
    pub static_pairs: Option<Box<RawValue>>,
}

/// The URI of a request as the host sees it, which may be behind a proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uri {
    /// `http`.
    pub scheme: String,
    /// Empty if the request names none.
    pub host: String,
    /// The default port of the scheme if the request names none.
    pub port: u16,
    /// Begins with `/`.
    pub path: String,
    /// As the client wrote it, without the question mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
}

/// An `Origin` that a plugin is asked about.
#[derive(Debug, Serialize, Deserialize)]
pub struct OriginInfo {
    /// The mount's path.
    pub mount: String,
    /// The header as the client sent it.
    pub origin: String,
    /// In lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// In lower case. `null` and `file://` have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The default port of the scheme if the header has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// Why settings are invalid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsError {
    /// The place, as keys joined by dots (`limits.history`); empty for the whole value.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}
