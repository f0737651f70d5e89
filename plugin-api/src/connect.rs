//! Connect handlers: who may connect to a mount, with which socket id and assigns.

mod request;
#[cfg(feature = "async")]
mod tasks;

pub use self::request::{ConnectRequest, Origin};
use crate::context::{Context, Span};
use crate::payload::{Body, IntoPayload, Payload};
use crate::plugin::{NoSettings, Plugin};
use crate::remote::{Later, Remote};

/// Decides who may connect to the mounts that name this plugin under `connect`. Export it with
/// `export_plugin!(connect = Gate)`.
///
/// Runs on a shard, as channels do, so it must not block: see [`ConnectContext::later`]. The client waits for at most the host's
/// `connect_timeout_ms`. A panic refuses the client.
pub trait Connect<P: Plugin = NoSettings>: 'static {
    /// A client connects.
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

    /// The answer arrives that [`connect`](Connect::connect) promised with [`Connection::later`]. `answer` is the payload passed to
    /// [`Remote::complete`]. Not called if the client has left in the meantime. The default refuses with status 500.
    fn connect_answer(_request: &ConnectRequest, _answer: Payload<'_>, _cx: &mut ConnectContext<P>) -> Connected {
        Err(Denial::status(500))
    }

    /// Whether a page from this origin may connect to a mount whose `check_origin = { plugin = "…" }` names this plugin. A request
    /// without an `Origin` always may.
    ///
    /// The host asks before anything else, with long polling at each request. `plugin` is the plugin's own value, for example its
    /// settings. A panic refuses the page; so does the default.
    fn check_origin(_origin: &Origin, _plugin: &P) -> bool {
        false
    }
}

/// What a connect handler returns. `Err` refuses the client, so `request.params()?` refuses bad params.
pub type Connected = Result<Connection, Denial>;

/// An accepted connection, or the promise to decide later.
#[derive(Debug)]
pub struct Connection(pub(crate) Answer);

#[derive(Debug)]
pub(crate) enum Answer {
    Now { id: String, assigns: Body },
    Later,
}

impl Connection {
    /// Lets the client in without a socket id and without assigns.
    #[must_use]
    pub fn accept() -> Self {
        Self(Answer::Now {
            id: String::new(),
            assigns: Body::EMPTY,
        })
    }

    /// Answers later. Call [`ConnectContext::later`] first.
    #[must_use]
    pub fn later() -> Self {
        Self(Answer::Later)
    }

    /// Gives the connection a socket id, by which [`Context::disconnect`] closes it. Several connections may have the same.
    #[must_use]
    pub fn id(mut self, socket_id: impl Into<String>) -> Self {
        if let Answer::Now { id, .. } = &mut self.0 {
            *id = socket_id.into();
        }
        self
    }

    /// Gives the connection assigns, a JSON object. Its channels read them with [`Context::socket_assigns`]; they never change.
    #[must_use]
    pub fn assigns(mut self, payload: impl IntoPayload) -> Self {
        if let Answer::Now { assigns, .. } = &mut self.0 {
            *assigns = payload.into_body();
        }
        self
    }
}

/// A refusal with an HTTP status and a body.
#[derive(Debug)]
pub struct Denial {
    pub(crate) status: u16,
    /// `None`: a response without a body.
    pub(crate) body: Option<Body>,
}

impl Denial {
    /// Refuses with this HTTP status (400 to 599) and no body. A long-polling client sees neither status nor body: it gets
    /// `{"status":403}`, as from Phoenix.
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

/// What a connect handler can see and do.
pub struct ConnectContext<P = NoSettings> {
    pub(crate) inner: Context<P>,
}

impl<P> ConnectContext<P> {
    /// The plugin's own value. All shards share it.
    #[must_use]
    pub fn plugin(&self) -> &P {
        self.inner.plugin()
    }

    /// Promises to answer later. Return [`Connection::later`], and pass the promise to [`Remote::complete`].
    pub fn later(&self) -> Later {
        self.inner.later()
    }

    /// A handle to the host for any thread. It keeps promises; it has no topic to send messages to.
    #[must_use]
    pub fn remote(&self) -> Remote {
        self.inner.remote()
    }

    /// Begins a span of the client's trace, as [`Context::span`] does.
    pub fn span(&self, name: &str) -> Span<'_> {
        self.inner.span(name)
    }

    /// Runs `work` on a new thread, as [`Context::spawn`] does.
    pub fn spawn(&self, work: impl FnOnce(Remote) + Send + 'static) {
        self.inner.spawn(work);
    }
}

/// The connect handler of a plugin that has none: refuses everybody.
#[doc(hidden)]
pub struct NoConnect;

impl<P: Plugin> Connect<P> for NoConnect {
    fn connect(_: &ConnectRequest, _: &mut ConnectContext<P>) -> Connected {
        Err(Denial::status(500).body(serde_json::json!({ "reason": "no connect handler" })))
    }
}
