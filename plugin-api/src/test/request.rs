//! A client's request to connect, [`Request`], and its refusal, [`Denied`].

use serde_json::{Map, Value, json};

/// A request to connect, for [`Server::connect`](super::Server::connect).
#[derive(Clone, Debug)]
pub struct Request {
    info: Map<String, Value>,
    headers: Vec<(String, String)>,
}

impl Request {
    /// A request with these query params, over a WebSocket to the mount `/socket`.
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

    /// Connects to the mount at `path`.
    #[must_use]
    pub fn mount(self, path: &str) -> Self {
        self.with("mount", path)
    }

    /// Connects by long polling.
    #[must_use]
    pub fn longpoll(self) -> Self {
        self.with("transport", "longpoll")
    }

    /// Adds a header, one of those that the mount selects. `name` is in lower case.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds the token of phoenix.js's `authToken`.
    #[must_use]
    pub fn auth_token(self, token: &str) -> Self {
        self.with("auth_token", token)
    }

    /// Adds the claims of a token that the host has checked: a JSON object.
    #[must_use]
    pub fn claims(self, claims: Value) -> Self {
        self.with("claims", claims)
    }

    /// Sets the client's address and port: `127.0.0.1:5000`.
    #[must_use]
    pub fn peer(self, address: &str) -> Self {
        self.with("peer", address)
    }

    pub(super) fn info_of(&self, key: &str) -> Option<&Value> {
        self.info.get(key)
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

/// How a connect was refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Denied {
    /// The HTTP status.
    pub status: u16,
    /// The body of the response, if it has one.
    pub body: Option<Value>,
}
