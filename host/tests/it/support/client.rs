//! A client whose test fails when something that it asks for does not come.

use bennu_tools::client::{self, ClientError, Message, Options, Payload, Reply, Transport};
use serde_json::{Value, json};

use super::server::Server;

/// A connected client.
pub(crate) struct Client(client::Client);

impl Client {
    /// Connects at `/socket`, by WebSocket.
    pub(crate) async fn connect(server: &Server) -> Self {
        Self::connect_by(server, Transport::WebSocket).await
    }

    /// Connects at `/socket`.
    pub(crate) async fn connect_by(server: &Server, transport: Transport) -> Self {
        Self::connect_with(&Options::new(server.address, transport)).await
    }

    /// Connects however that is wanted.
    pub(crate) async fn connect_with(options: &Options) -> Self {
        Self(client::Client::connect(options).await.expect("connected"))
    }

    /// Connects, and joins a topic, which must be accepted.
    pub(crate) async fn joined(server: &Server, topic: &str) -> Self {
        let mut client = Self::connect(server).await;
        client.join(topic, json!({})).await;
        client
    }

    /// Joins a topic, which must be accepted. Returns the response.
    pub(crate) async fn join(&mut self, topic: &str, params: Value) -> Value {
        ok(self.try_join(topic, params).await)
    }

    /// Joins a topic. Returns the reply: `{"status":…,"response":…}`.
    pub(crate) async fn try_join(&mut self, topic: &str, params: Value) -> Value {
        shown(self.0.join(topic, params).await.expect("a reply"))
    }

    /// Asks to join a topic. Returns the `ref`, for [`Client::answer`].
    pub(crate) async fn start_join(&mut self, topic: &str, params: Value) -> String {
        self.0.start_join(topic, params).await.expect("sent")
    }

    /// Pushes an event. Returns the `ref`, for [`Client::answer`].
    pub(crate) async fn start(&mut self, topic: &str, event: &str, payload: Value) -> String {
        self.0.push(topic, event, payload).await.expect("sent")
    }

    /// Pushes an event and waits for its reply, which must be `ok`. Returns the response.
    pub(crate) async fn push(&mut self, topic: &str, event: &str, payload: Value) -> Value {
        ok(self.try_push(topic, event, payload).await)
    }

    /// Pushes an event and waits for its reply: `{"status":…,"response":…}`.
    pub(crate) async fn try_push(&mut self, topic: &str, event: &str, payload: Value) -> Value {
        let reference = self.start(topic, event, payload).await;
        self.answer(&reference).await
    }

    /// The reply to a `ref`.
    pub(crate) async fn answer(&mut self, reference: &str) -> Value {
        shown(self.0.reply(reference).await.expect("a reply"))
    }

    /// The payload of the next message with this event.
    pub(crate) async fn event(&mut self, topic: &str, event: &str) -> Value {
        let event = self.0.event(topic, event).await;
        value(event.unwrap_or_else(|error| panic!("waiting for an event of {topic}: {error}")))
    }

    /// What has come and not been asked for, up to the answer to a heartbeat that is sent now.
    pub(crate) async fn rest(&mut self) -> Vec<Message> {
        self.0.heartbeat().await.expect("a sign of life");
        self.0.take_kept()
    }

    /// Waits until the server has ended the connection, by any transport.
    pub(crate) async fn ended(&mut self) {
        while self.0.next().await.is_ok() {}
    }

    /// The code with which the server closes the connection.
    pub(crate) async fn close_code(&mut self) -> u16 {
        loop {
            match self.0.next().await {
                Ok(_) => {}
                Err(ClientError::Closed { code }) => return code,
                Err(error) => panic!("waiting for the end of a connection: {error}"),
            }
        }
    }
}

/// The response of a reply that is `ok`.
#[track_caller]
fn ok(reply: Value) -> Value {
    assert_eq!(reply["status"], "ok", "{reply}");
    reply["response"].clone()
}

fn shown(reply: Reply) -> Value {
    json!({ "status": reply.status, "response": value(reply.response) })
}

fn value(payload: Payload) -> Value {
    match payload {
        Payload::Json(value) => value,
        Payload::Binary(bytes) => json!(bytes.to_vec()),
    }
}
