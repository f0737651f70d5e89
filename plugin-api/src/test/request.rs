//! How a client asks to be let in: [`Request`], and how it is not, [`Denied`].

use serde_json::{Map, Value, json};

/// A request to connect: [`Server::connect`] takes it, or just the query's params.
#[derive(Clone, Debug)]
pub struct Request {
    info: Map<String, Value>,
    headers: Vec<(String, String)>,
}

impl Request {
    /// A request with these params, over a WebSocket to the mount `/socket`.
    #[must_use]
    pub fn new(params: Value) -> Self {
        let request = Self {
            info: Map::new(),
            headers: Vec::new(),
        };
        request
            .with("mount", "/socket")
            .with("transport", "websocket")
            .with("params", params)
    }

    /// Goes to another mount.
    #[must_use]
    pub fn mount(self, path: &str) -> Self {
        self.with("mount", path)
    }

    /// Comes by long polling.
    #[must_use]
    pub fn longpoll(self) -> Self {
        self.with("transport", "longpoll")
    }

    /// Has this header, its name in lower case, among those that the mount selects.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has this token.
    #[must_use]
    pub fn auth_token(self, token: &str) -> Self {
        self.with("auth_token", token)
    }

    /// Comes from this address and port: `127.0.0.1:5000`.
    #[must_use]
    pub fn peer(self, address: &str) -> Self {
        self.with("peer", address)
    }

    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.info.insert(key.to_owned(), value.into());
        self
    }

    pub(super) fn info(self) -> String {
        let headers = json!(self.headers);
        Value::from(self.with("headers", headers).info).to_string()
    }
}

impl From<Value> for Request {
    fn from(params: Value) -> Self {
        Self::new(params)
    }
}

/// How a client was not let in.
#[derive(Clone, Debug, PartialEq)]
pub struct Denied {
    /// The HTTP status.
    pub status: u16,
    /// The response's body, if it has one.
    pub body: Option<Value>,
}
