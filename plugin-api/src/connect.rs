//! A connect handler: decides who may connect to a mount, and what its connection is called.

mod request;
#[cfg(feature = "async")]
mod tasks;

pub use self::request::{ConnectRequest, Origin};
use crate::context::Context;
use crate::payload::{Body, IntoPayload, Payload};
use crate::plugin::{NoSettings, Plugin};
use crate::remote::{Later, Remote};

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
