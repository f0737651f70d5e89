//! A connect handler: decides who may connect to a mount, and what its connection is called.

use std::fmt;
use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::context::Context;
use crate::payload::{Body, IntoPayload, Payload, read_json};
use crate::plugin::{NoSettings, Plugin};
use crate::remote::{Later, Remote};
use crate::wire::{ConnectInfo, OriginInfo, Uri};

/// Decides who may connect to the mounts that name this plugin under `connect`. Exported with
/// `export_plugin!(connect = Gate)`.
///
/// Runs on a shard, as channels do, so it must not block: see [`ConnectContext::later`]. The client waits, up to the host's
/// `connect_timeout_ms`. A panic refuses the client.
pub trait Connect<P: Plugin = NoSettings>: 'static {
    /// A client wants to connect.
    ///
    /// ```
    /// # use bennu_plugin::prelude::*;
    /// # #[derive(Deserialize)]
    /// # struct Params { user: u32, token: String }
    /// struct Gate;
    ///
    /// impl Connect for Gate {
    ///     fn connect(request: &ConnectRequest, _: &mut ConnectContext) -> Connected {
    ///         let Params { user, token } = request.params()?;
    ///         if token != "open sesame" {
    ///             return Err(Denial::status(403).body(json!({ "reason": "wrong token" })));
    ///         }
    ///         Ok(Connection::accept().id(format!("user:{user}")).assigns(json!({ "user": user })))
    ///     }
    /// }
    /// ```
    fn connect(request: &ConnectRequest, cx: &mut ConnectContext<P>) -> Connected;

    /// The answer to what [`connect`](Connect::connect) promised with [`Connection::later`]: `answer` is what was given to
    /// [`Remote::complete`]. Not called when the client is gone in the meantime.
    fn connect_answer(_request: &ConnectRequest, _answer: Payload<'_>, _cx: &mut ConnectContext<P>) -> Connected {
        Err(Denial::status(500))
    }

    /// Whether a page from this origin may connect to a mount with `check_origin = { plugin = "…" }` that names this plugin.
    /// A request without an `Origin` always may.
    ///
    /// Asked before anything else, and by long polling with each request; `plugin` is the plugin's own value, its settings
    /// for example. A panic refuses the page, and so does this function where it is not written.
    fn check_origin(_origin: &Origin, _plugin: &P) -> bool {
        false
    }
}

/// What a connect handler returns. `Err` refuses, so that `request.params()?` does the right thing.
pub type Connected = Result<Connection, Denial>;

/// A connection that is not refused.
#[derive(Debug)]
pub struct Connection(pub(crate) Answer);

#[derive(Debug)]
pub(crate) enum Answer {
    Now { id: String, assigns: Body },
    Later,
}

impl Connection {
    /// Lets the client in, without socket id and assigns.
    #[must_use]
    pub fn accept() -> Self {
        Self(Answer::Now {
            id: String::new(),
            assigns: Body::EMPTY,
        })
    }

    /// The answer comes later: call [`ConnectContext::later`] first.
    #[must_use]
    pub fn later() -> Self {
        Self(Answer::Later)
    }

    /// Gives the connection a name, by which it can be [disconnected](Context::disconnect). Several connections may have the
    /// same.
    #[must_use]
    pub fn id(mut self, socket_id: impl Into<String>) -> Self {
        if let Answer::Now { id, .. } = &mut self.0 {
            *id = socket_id.into();
        }
        self
    }

    /// What its channels see as [`Context::socket_assigns`]: must be a JSON object. Fixed from then on.
    #[must_use]
    pub fn assigns(mut self, payload: impl IntoPayload) -> Self {
        if let Answer::Now { assigns, .. } = &mut self.0 {
            *assigns = payload.into_body();
        }
        self
    }
}

/// A connection that is refused, with an HTTP status and a body.
#[derive(Debug)]
pub struct Denial {
    pub(crate) status: u16,
    /// `None` is a response without a body.
    pub(crate) body: Option<Body>,
}

impl Denial {
    /// Refuses with this HTTP status (400 to 599) and no body. Over long polling the client learns neither status nor body:
    /// it gets `{"status":403}`, as from Phoenix.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, body: None }
    }

    /// Adds a body.
    #[must_use]
    pub fn body(self, payload: impl IntoPayload) -> Self {
        Self {
            body: Some(payload.into_body()),
            ..self
        }
    }
}

/// Who wants to connect.
///
/// Mount, transport and params are always there; the rest is what the mount selects:
///
/// | in the configuration | here |
/// |---|---|
/// | `auth_token = true` | [`auth_token`](Self::auth_token) |
/// | `connect_info = ["peer_data"]` | [`peer`](Self::peer) |
/// | … `"uri"` | [`uri`](Self::uri) |
/// | … `"user_agent"` | [`user_agent`](Self::user_agent) |
/// | … `"x_headers"`, `"sec_websocket_headers"`, `"trace_context_headers"` | [`header`](Self::header), [`headers`](Self::headers) |
/// | `headers = ["accept-language", …]` | the same |
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

    /// The token that phoenix.js sends as `authToken`, in a header and so in no URL. Not checked by the host.
    #[must_use]
    pub fn auth_token(&self) -> Option<&str> {
        self.info.auth_token.as_deref()
    }

    /// The client's address and port; the proxy's where there is one.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.info.peer
    }

    /// Where the request went.
    #[must_use]
    pub fn uri(&self) -> Option<&Uri> {
        self.info.uri.as_ref()
    }

    /// The header `user-agent`.
    #[must_use]
    pub fn user_agent(&self) -> Option<&str> {
        self.header("user-agent")
    }

    /// The first header called `name` (in lower case) that the mount selects.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers().iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// All headers that the mount selects, in the client's order, names in lower case. One whose value is not UTF-8 is
    /// left out.
    #[must_use]
    pub fn headers(&self) -> &[(String, String)] {
        &self.info.headers
    }

    /// What the mount's `connect_static` says of `key`.
    #[must_use]
    pub fn static_pair(&self, key: &str) -> Option<Value> {
        let mut pairs: serde_json::Map<_, _> = serde_json::from_str(self.info.static_pairs.as_deref()?.get()).ok()?;
        pairs.remove(key)
    }

    /// Reads the request: nothing else makes one.
    pub(crate) fn read(json: &[u8]) -> Result<Self, String> {
        let info = read_json(json).map_err(|error| format!("{} {}", error.path, error.message))?;
        Ok(Self { info })
    }
}

/// Without what may be secret: a plugin may write it to the log.
impl fmt::Debug for ConnectRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut request = f.debug_struct("ConnectRequest");
        request
            .field("mount", &self.info.mount)
            .field("transport", &self.info.transport)
            .finish_non_exhaustive()
    }
}

/// Where a page comes from that wants to connect. `null`, `file://` and what is no origin at all have no host.
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

    /// The port, the scheme's own where none is written.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.info.port
    }

    /// The path of the mount that the page wants to connect to.
    #[must_use]
    pub fn mount(&self) -> &str {
        &self.info.mount
    }

    pub(crate) fn read(json: &[u8]) -> Result<Self, String> {
        let info = read_json(json).map_err(|error| format!("{} {}", error.path, error.message))?;
        Ok(Self { info })
    }
}

/// What a connect handler can see and do.
pub struct ConnectContext<P = NoSettings> {
    pub(crate) inner: Context<P>,
}

impl<P> ConnectContext<P> {
    /// The plugin's own value. Shared with all shards.
    #[must_use]
    pub fn plugin(&self) -> &P {
        self.inner.plugin()
    }

    /// Promises to answer later: return [`Connection::later`], and give the promise to [`Remote::complete`].
    pub fn later(&self) -> Later {
        self.inner.later()
    }

    /// Reaches the host from any thread. Messages have nowhere to go from here; promises can be kept.
    #[must_use]
    pub fn remote(&self) -> Remote {
        self.inner.remote()
    }

    /// Runs `work` on a thread of its own, as [`Context::spawn`] does.
    pub fn spawn(&self, work: impl FnOnce(Remote) + Send + 'static) {
        self.inner.spawn(work);
    }
}

/// Stands for the connect handler of a plugin that has none: lets nobody in.
#[doc(hidden)]
pub struct NoConnect;

impl<P: Plugin> Connect<P> for NoConnect {
    fn connect(_: &ConnectRequest, _: &mut ConnectContext<P>) -> Connected {
        Err(Denial::status(500).body(serde_json::json!({ "reason": "no connect handler" })))
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
