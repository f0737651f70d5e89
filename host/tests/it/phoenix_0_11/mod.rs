//! The dialect of Phoenix 0.11 over plain requests: envelopes, tokens, statuses, origins; and beside today's on one topic.
//!
//! Its whole conversations are in `transcripts/phoenix_0_11`.

mod longpoll;
mod origins;
mod together;

use bennu_tools::client::{Frame, Incoming, Options, RawClient, Transport};
use serde_json::{Value, json};

use crate::support::http::{Answer, request};
use crate::support::server::{Bench, Server};

const POLL: &str = "/ws/poll";

/// A bench whose polls wait longer than any test on a busy machine. One thread takes requests in the order of sending.
fn calm() -> Bench {
    let bench = Bench::new();
    bench.write_config(&bench.read_config().replace("window_ms = 200", "window_ms = 2_000"));
    bench.set("server", "io_threads", "1");
    bench
}

/// The same with two mounts that look at origins. At `/strict` a plugin is asked, too.
fn strict() -> Bench {
    let bench = calm();
    let listed = "dialect = \"0.11\"\norigins = [\"//example.com\", \"http://only.example:81\"]";
    bench.append(&format!(
        "[[mounts]]\npath = \"/listed\"\n{listed}\n[[mounts]]\npath = \"/strict\"\nconnect = \"misbehave\"\n{listed}"
    ));
    bench
}

/// A session, as its client sees it.
struct Session<'a> {
    server: &'a Server,
    path: String,
    token: String,
    sig: String,
}

impl<'a> Session<'a> {
    async fn open(server: &'a Server) -> Self {
        Self::open_at(server, POLL, "token=null&sig=null").await
    }

    async fn open_at(server: &'a Server, path: &str, query: &str) -> Self {
        let mut session = Self {
            server,
            path: path.to_owned(),
            token: String::new(),
            sig: String::new(),
        };
        let opened = get(server, &format!("{path}?{query}")).await.json();
        assert_eq!(opened["status"], 410, "{opened}");
        session.take_up(&opened);
        session
    }

    fn take_up(&mut self, envelope: &Value) {
        let text = |key| envelope[key].as_str().expect("text").to_owned();
        (self.token, self.sig) = (text("token"), text("sig"));
    }

    fn at(&self) -> String {
        format!("{}?token={}&sig={}", self.path, self.token, self.sig)
    }

    /// Polls, and takes up the new token. Gives the messages.
    async fn poll(&mut self) -> Value {
        let polled = get(self.server, &self.at()).await.json();
        assert_eq!(polled["status"], 200, "{polled}");
        self.take_up(&polled);
        polled["messages"].clone()
    }

    /// Posts a message. Gives the status in the body.
    async fn post(&self, message: &Value) -> Value {
        let posted = post(self.server, &self.at(), "", &message.to_string()).await.json();
        assert_eq!(posted.as_object().map(serde_json::Map::len), Some(1), "{posted}");
        posted["status"].clone()
    }

    async fn join(&mut self, topic: &str) {
        self.join_as(topic, "1").await;
    }

    async fn join_as(&mut self, topic: &str, msg_ref: &str) {
        assert_eq!(self.post(&message(topic, "phx_join", json!({}), msg_ref)).await, 200);
        assert_eq!(self.poll().await, json!([reply(topic, msg_ref, "ok", json!({}))]));
    }
}

async fn get(server: &Server, path: &str) -> Answer {
    request(server.address, "GET", path, "", "").await
}

async fn post(server: &Server, path: &str, headers: &str, body: &str) -> Answer {
    request(server.address, "POST", path, headers, body).await
}

fn message(topic: &str, event: &str, payload: Value, msg_ref: &str) -> Value {
    json!({ "topic": topic, "event": event, "payload": payload, "ref": msg_ref })
}

fn pushed(topic: &str, event: &str, payload: Value) -> Value {
    json!({ "topic": topic, "event": event, "payload": payload, "ref": null })
}

fn reply(topic: &str, msg_ref: &str, status: &str, response: Value) -> Value {
    pushed(
        topic,
        "phx_reply",
        json!({ "ref": msg_ref, "status": status, "response": response }),
    )
}

fn heartbeat(msg_ref: &str) -> Value {
    message("phoenix", "heartbeat", json!({}), msg_ref)
}

/// A client of Phoenix 0.11 that sends and receives JSON.
struct OldClient(RawClient);

impl OldClient {
    async fn connect(server: &Server, transport: Transport) -> Self {
        Self::connect_by(&Options::phoenix_0_11(server.address, transport)).await
    }

    async fn connect_by(options: &Options) -> Self {
        Self(RawClient::connect(options).await.expect("connected"))
    }

    async fn say(&mut self, message: &Value) {
        self.0.send(Frame::Text(message.to_string())).await.expect("sent");
    }

    async fn hear(&mut self) -> Value {
        match self.0.next().await.expect("a message") {
            Incoming::Frame(Frame::Text(text)) => serde_json::from_str(&text).expect("JSON"),
            other => panic!("no text: {other:?}"),
        }
    }

    async fn join(&mut self, topic: &str, params: Value) -> Value {
        self.say(&message(topic, "phx_join", params, "1")).await;
        let answer = self.hear().await;
        assert_eq!(answer["payload"]["status"], "ok", "{answer}");
        answer["payload"]["response"].clone()
    }
}
