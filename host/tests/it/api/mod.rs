//! The API for backends, over real sockets.

mod bounds;
mod broadcast;
mod call;
mod command_line;
mod disconnect;
mod idempotency;
mod keys;
mod load;
mod read;

use std::fs;
use std::net::SocketAddr;

use bennu_tools::client::{Options, Transport};
use serde_json::{Value, json};

use crate::support::http::{Answer, Connection, request};
use crate::support::server::{Bench, Server};

/// The secret of the key `web`.
pub(crate) const KEY: &str = "web-key-0123456789-0123456789-0123456789";

/// Beyond the list of `[[api.keys]]` that the bench has.
const SETTINGS: &str = r#"
[api]
listen = "127.0.0.1:0"

[[api.keys]]
name = "web"
secret_file = "api_key"
allow = ["broadcast", "call", "disconnect", "read"]
topics = ["*"]
"#;

/// A bench whose server has the API on, with a key that may do everything.
pub(crate) fn bench() -> Bench {
    let bench = Bench::new();
    put_secret(&bench, KEY);
    bench.append(SETTINGS);
    bench
}

/// Puts the secret of the key `web` there, whole at once.
pub(crate) fn put_secret(bench: &Bench, secret: &str) {
    let new = bench.path("api_key.new");
    fs::write(&new, format!("{secret}\n")).expect("written");
    fs::rename(new, bench.path("api_key")).expect("moved");
}

/// A backend with a key.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    key: &'static str,
}

impl Backend {
    /// With the key `web`.
    pub(crate) async fn of(server: &Server) -> Self {
        let address = server.api().await;
        Self { address, key: KEY }
    }

    /// With another secret.
    pub(crate) fn with(&self, key: &'static str) -> Self {
        Self {
            address: self.address,
            key,
        }
    }

    pub(crate) fn header(&self) -> String {
        format!("authorization: Bearer {}\r\n", self.key)
    }

    pub(crate) async fn post_text(&self, path: &str, headers: &str, body: &str) -> Answer {
        let headers = format!("{}{headers}", self.header());
        request(self.address, "POST", path, &headers, body).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        shown(self.post_text(path, "", &body.to_string()).await)
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        shown(request(self.address, "GET", path, &self.header(), "").await)
    }

    /// Publishes a message that must be sent. Returns how many heard it.
    pub(crate) async fn publish(&self, topic: &str, event: &str, payload: Value) -> u64 {
        let message = json!({ "topic": topic, "event": event, "payload": payload });
        let (status, answer) = self.post("/api/broadcast", message).await;
        assert_eq!(status, 200, "{answer}");
        answer["heard"].as_u64().expect("a number")
    }

    /// A connection for one request after the other.
    pub(crate) async fn connection(&self) -> Connection {
        Connection::open(self.address).await
    }
}

fn shown(answer: Answer) -> (u16, Value) {
    (answer.status, answer.json())
}

/// A refusal without the words for people.
fn reason((status, answer): (u16, Value)) -> (u16, String) {
    assert!(answer["message"].is_string(), "{answer}");
    (status, answer["reason"].as_str().expect("a reason").to_owned())
}

fn refused(status: u16, reason: &str) -> (u16, String) {
    (status, reason.to_owned())
}

/// How to connect as this user: the connect handler at `/gate` gives the socket id `user:NAME`.
pub(crate) fn as_user(server: &Server, transport: Transport, name: &str) -> Options {
    let mut options = Options::new(server.address, transport);
    options.mount = "/gate".into();
    options.params = vec![("token".into(), "open".into()), ("user".into(), name.into())];
    options
}
