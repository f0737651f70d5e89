//! Why a client is not let in: the whole list.

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusalReason {
    /// There are `max_connections`.
    Full,
    /// The client's address has as many connections, or connected clients, as it may have.
    AddressFull,
    /// Too many clients of its address have connected lately.
    TooManyConnects,
    /// Its address has sent too many requests lately.
    TooManyRequests,
    /// The server stops.
    Stopping,
    /// No mount is at the path that the client asked for.
    NoMount,
    /// The client does not speak TLS as the listener wants it.
    Tls,
    /// The connection does not begin as one of a trusted proxy.
    Proxy,
    /// What came is not HTTP.
    BadHttp,
    /// The head of a request took longer than `header_timeout_ms`.
    RequestTimeout,
    /// A proxy and the server could read the request in two ways.
    Ambiguous,
    /// The mount does not allow the page's `Origin`.
    Origin,
    /// Not a GET.
    Method,
    /// The query of the address cannot be read.
    Query,
    /// The mount has none of the client's subprotocols.
    Subprotocol,
    /// The auth token is not text.
    AuthToken,
    /// The mount does not speak the client's `vsn`.
    Vsn,
    /// The client has no token that the mount's `auth` accepts.
    Token,
    /// The connect handler refused the client.
    Plugin,
    /// A backend has disconnected the socket id for a while, or the socket id is longer than `max_topic_bytes`.
    SocketId,
    /// The connect handler panicked.
    PluginCrashed,
    /// The plugin of the connect handler is not in service.
    PluginUnavailable,
    /// Too many clients wait for the connect handler.
    PluginOverloaded,
    /// The connect handler took longer than `connect_timeout_ms`.
    PluginTimeout,
    /// A GET without the headers of a WebSocket.
    NotWebSocket,
    /// Another version of WebSocket than 13.
    WebSocketVersion,
    /// The client was gone before its connection was open.
    HungUp,
    /// The operating system did not give what the connection needs.
    System,
}

impl RefusalReason {
    /// All of them.
    pub(crate) const ALL: [Self; 28] = [
        Self::Full,
        Self::AddressFull,
        Self::TooManyConnects,
        Self::TooManyRequests,
        Self::Stopping,
        Self::NoMount,
        Self::Tls,
        Self::Proxy,
        Self::BadHttp,
        Self::RequestTimeout,
        Self::Ambiguous,
        Self::Origin,
        Self::Method,
        Self::Query,
        Self::Subprotocol,
        Self::AuthToken,
        Self::Vsn,
        Self::Token,
        Self::Plugin,
        Self::SocketId,
        Self::PluginCrashed,
        Self::PluginUnavailable,
        Self::PluginOverloaded,
        Self::PluginTimeout,
        Self::NotWebSocket,
        Self::WebSocketVersion,
        Self::HungUp,
        Self::System,
    ];

    /// The word for it in logs, metrics and `/closes`. Stable.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::AddressFull => "address_full",
            Self::TooManyConnects => "too_many_connects",
            Self::TooManyRequests => "too_many_requests",
            Self::Stopping => "stopping",
            Self::NoMount => "no_mount",
            Self::Tls => "tls",
            Self::Proxy => "proxy",
            Self::BadHttp => "bad_http",
            Self::RequestTimeout => "request_timeout",
            Self::Ambiguous => "ambiguous_request",
            Self::Origin => "origin",
            Self::Method => "method",
            Self::Query => "query",
            Self::Subprotocol => "subprotocol",
            Self::AuthToken => "auth_token",
            Self::Vsn => "vsn",
            Self::Token => "token",
            Self::Plugin => "plugin",
            Self::SocketId => "socket_id",
            Self::PluginCrashed => "plugin_crashed",
            Self::PluginUnavailable => "plugin_unavailable",
            Self::PluginOverloaded => "plugin_overloaded",
            Self::PluginTimeout => "plugin_timeout",
            Self::NotWebSocket => "not_websocket",
            Self::WebSocketVersion => "websocket_version",
            Self::HungUp => "hung_up",
            Self::System => "system",
        }
    }
}
