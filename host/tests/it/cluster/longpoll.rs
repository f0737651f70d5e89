//! Long polling at any node: a request is carried to the node of its session.

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::{Broker, Node, agree, named, patiently, settled, topic_at, two};
use crate::support::http::{Answer, Connection, metric, reaches, request};
use crate::support::server::Bench;

const NDJSON: &str = "content-type: application/x-ndjson\r\n";

/// A session, as its client sees it: each request goes to whichever node is named.
struct Session {
    token: String,
}

impl Session {
    async fn open(node: &Node) -> Self {
        let opened = get(node, "vsn=2.0.0").await.json();
        assert_eq!(opened["status"], 410);
        Self {
            token: text(&opened["token"]),
        }
    }

    fn query(&self) -> String {
        format!("vsn=2.0.0&token={}", self.token)
    }

    /// Polls with the newest token, and keeps the next one. Gives the messages.
    async fn poll(&mut self, node: &Node) -> Vec<Value> {
        let polled = get(node, &self.query()).await.json();
        assert_eq!(polled["status"], 200, "{polled}");
        self.token = text(&polled["token"]);
        messages(&polled)
    }

    /// Posts with the newest token. Gives the status in the body.
    async fn post(&self, node: &Node, body: &str) -> Value {
        let path = format!("/socket/longpoll?{}", self.query());
        let answer = request(node.server.address, "POST", &path, NDJSON, body).await;
        answer.json()["status"].clone()
    }

    /// Joins a topic. All else that has come before is dropped.
    async fn join(&mut self, node: &Node, topic: &str, params: Value) {
        let joined = async {
            loop {
                let join = json!(["1", "1", topic, "phx_join", params]);
                assert_eq!(self.post(node, &join.to_string()).await, 200);
                let replies = self.poll(node).await;
                let reply = replies
                    .iter()
                    .find(|message| message[3] == "phx_reply")
                    .expect("a reply");
                if reply[4]["status"] == "ok" {
                    break;
                }
                assert_eq!(reply[4]["response"]["reason"], "node unavailable", "{reply}");
            }
        };
        patiently("join", joined).await;
    }
}

async fn get(node: &Node, query: &str) -> Answer {
    let path = format!("/socket/longpoll?{query}");
    request(node.server.address, "GET", &path, "", "").await
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

fn messages(polled: &Value) -> Vec<Value> {
    let texts = polled["messages"].as_array().expect("messages").iter();
    texts
        .map(|text| serde_json::from_str(text.as_str().expect("text")).expect("a message"))
        .collect()
}

fn heartbeat(msg_ref: &str) -> String {
    json!([null, msg_ref, "phoenix", "heartbeat", {}]).to_string()
}

/// The references of the replies that have come.
fn refs(messages: &[Value]) -> Vec<&str> {
    messages.iter().filter_map(|message| message[1].as_str()).collect()
}

/// Waits until a node works at so many questions of others.
async fn works_at(node: &Node, count: u64) {
    let works = async {
        while node.report().await["questions"]["at_work"] != count {
            tokio::task::yield_now().await;
        }
    };
    patiently("work", works).await;
}

/// Another setting for long polling.
pub(super) fn set(bench: &Bench, before: &str, after: &str) {
    let config = bench.read_config();
    assert!(config.contains(before), "{before} is not in\n{config}");
    bench.write_config(&config.replace(before, after));
}

/// Two nodes with a change to their configuration.
async fn two_with(change: impl Fn(&Bench)) -> (Broker, Node, Node) {
    let broker = Broker::start();
    let a = Node::start_with(&broker, "a", &change).await;
    let b = Node::start_with(&broker, "b", &change).await;
    agree(&[&a, &b]).await;
    settled(&[&a, &b]).await;
    (broker, a, b)
}

#[tokio::test]
async fn a_session_is_the_same_at_every_node() {
    let (_broker, a, b) = two().await;
    let mut session = Session::open(&a).await;
    for (number, (posts, polls)) in [(&b, &b), (&a, &b), (&b, &a), (&a, &a)].into_iter().enumerate() {
        let number = number.to_string();
        assert_eq!(session.post(posts, &heartbeat(&number)).await, 200);
        assert_eq!(refs(&session.poll(polls).await), [number]);
    }
    for (body, status) in [("nonsense", 400), ("[1]", 400), ("", 400), ("[null,\n", 400)] {
        assert_eq!(session.post(&a, body).await, status, "{body:?}");
        assert_eq!(session.post(&b, body).await, status, "{body:?}");
    }
    let (asked, answered) = ("bennu_cluster_questions_out_total", "bennu_cluster_answers_in_total");
    let asked = metric(b.admin, asked).await;
    assert_eq!(metric(b.admin, answered).await, asked);
    assert_eq!(metric(a.admin, "bennu_cluster_questions_in_total").await, asked);
    // Two polls; two heartbeats and four bad bodies, each after the question whether the session is there.
    assert_eq!(asked, 14);
}

#[tokio::test]
async fn what_comes_while_a_poll_waits_at_another_node_answers_it() {
    let (_broker, a, b) = two().await;
    let topic = topic_at(&b, "room:", "b").await;
    let mut session = Session::open(&a).await;
    session.join(&b, &topic, named("ann")).await;
    let mut bob = b.join(&topic, named("bob")).await;
    // What the others' arrival has brought.
    while !{ session.poll(&b).await }
        .iter()
        .any(|message| message[4]["joins"]["bob"].is_object())
    {}
    let mut waiting = Connection::open(b.server.address).await;
    let path = format!("/socket/longpoll?{}", session.query());
    waiting.send("GET", &path, "", "").await;
    works_at(&a, 1).await;
    bob.push(&topic, "new_msg", json!({ "body": "at last" })).await;
    let polled = waiting.answer().await.json();
    assert_eq!(messages(&polled)[0][4]["body"], "at last");
}

#[tokio::test]
async fn a_poll_that_is_given_up_at_another_node_loses_nothing_and_waits_no_longer() {
    let (_broker, a, b) = two_with(|bench| set(bench, "window_ms = 2_000", "window_ms = 60_000")).await;
    let mut session = Session::open(&a).await;
    let mut waiting = Connection::open(b.server.address).await;
    let path = format!("/socket/longpoll?{}", session.query());
    waiting.send("GET", &path, "", "").await;
    works_at(&a, 1).await;
    drop(waiting);
    works_at(&a, 0).await;
    assert_eq!(session.post(&a, &heartbeat("kept")).await, 200);
    assert_eq!(refs(&session.poll(&b).await), ["kept"]);
    assert_eq!(b.report().await["questions"]["waiting"], 0);
}

#[tokio::test]
async fn what_is_larger_than_a_message_of_the_broker_crosses_whole() {
    let (_broker, a, b) = two_with(|bench| {
        set(bench, "max_buffer_bytes = 262_144", "max_buffer_bytes = 8_388_608");
        bench.set("limits", "max_message_bytes", "1_048_576");
        bench.set("limits", "max_outbound_bytes", "8_388_608");
    })
    .await;
    let topic = topic_at(&a, "echo:", "a").await;
    let mut session = Session::open(&a).await;
    session.join(&b, &topic, json!({})).await;
    // nats-server carries one megabyte at once.
    let large = "x".repeat(900_000);
    let lines: Vec<String> = (0..3)
        .map(|number| json!(["1", number.to_string(), topic, "echo", { "text": large }]).to_string())
        .collect();
    assert_eq!(session.post(&b, &lines.join("\n")).await, 200);
    let mut replies = Vec::new();
    while replies.len() < 3 {
        replies.extend(session.poll(&b).await);
    }
    assert_eq!(refs(&replies), ["0", "1", "2"]);
    for reply in &replies {
        assert_eq!(reply[4]["response"]["text"].as_str().map(str::len), Some(large.len()));
    }
}

#[tokio::test]
async fn a_body_is_measured_by_the_node_of_the_session() {
    let broker = Broker::start();
    let a = Node::start_with(&broker, "a", |bench| {
        bench.set("limits", "max_message_bytes", "1_000");
        set(
            bench,
            "max_buffer_messages = 200",
            "max_buffer_messages = 200, max_batch_messages = 2",
        );
    })
    .await;
    let b = Node::start(&broker, "b").await;
    agree(&[&a, &b]).await;
    settled(&[&a, &b]).await;
    let mut session = Session::open(&a).await;
    let (beat, long) = (
        heartbeat("1"),
        json!([null, "2", "phoenix", "heartbeat", { "a": "x".repeat(1_000) }]),
    );
    assert_eq!(session.post(&b, &long.to_string()).await, 413);
    assert_eq!(session.post(&b, &[&*beat, &beat, &beat].join("\n")).await, 413);
    assert_eq!(session.post(&b, &[&*beat, &beat].join("\n")).await, 200);
    assert_eq!(refs(&session.poll(&b).await), ["1", "1"]);
}

#[tokio::test]
async fn a_node_that_has_died_leaves_its_sessions_gone() {
    let (_broker, mut a, b) = two().await;
    let session = Session::open(&a).await;
    a.server.signal(Signal::KILL);
    a.server.ended().await;
    assert_eq!(session.post(&b, &heartbeat("1")).await, 410);
    let opened = get(&b, &session.query()).await.json();
    assert_eq!((&opened["status"], &opened["messages"]), (&json!(410), &json!([])));
    let mut session = Session {
        token: text(&opened["token"]),
    };
    assert_eq!(session.post(&b, &heartbeat("2")).await, 200);
    assert_eq!(refs(&session.poll(&b).await), ["2"]);
    assert_eq!(metric(b.admin, "bennu_cluster_questions_lost_total").await, 2);
}

#[tokio::test]
async fn a_node_that_stands_still_answers_late_and_holds_up_no_other() {
    let (_broker, a, b) = two_with(|bench| set(bench, "pubsub_timeout_ms = 1_000", "pubsub_timeout_ms = 100")).await;
    let session = Session::open(&a).await;
    let mut own = Session::open(&b).await;
    a.server.signal(Signal::STOP);
    let mut waiting = Connection::open(b.server.address).await;
    let path = format!("/socket/longpoll?{}", session.query());
    waiting.send("POST", &path, NDJSON, &heartbeat("1")).await;
    for number in ["1", "2", "3"] {
        assert_eq!(own.post(&b, &heartbeat(number)).await, 200);
        assert_eq!(refs(&own.poll(&b).await), [number]);
    }
    assert_eq!(waiting.answer().await.json()["status"], 408);
    a.server.signal(Signal::CONT);
    assert_eq!(metric(b.admin, "bennu_cluster_questions_late_total").await, 1);
}

#[tokio::test]
async fn as_many_polls_wait_for_other_nodes_as_may() {
    let (_broker, a, b) = two_with(|bench| bench.set("cluster", "max_questions", "1")).await;
    let (session, mut other) = (Session::open(&a).await, Session::open(&a).await);
    let mut waiting = Connection::open(b.server.address).await;
    let path = format!("/socket/longpoll?{}", session.query());
    waiting.send("GET", &path, "", "").await;
    works_at(&a, 1).await;
    let refused = get(&b, &other.query()).await;
    assert_eq!((refused.status, &*refused.body), (503, ""));
    assert_eq!(refused.header("access-control-allow-origin"), Some("*"));
    assert_eq!(other.post(&b, &heartbeat("1")).await, 503);
    assert_eq!(metric(b.admin, "bennu_cluster_questions_refused_total").await, 2);
    assert_eq!(metric(b.admin, "bennu_cluster_questions_out_total").await, 1);
    drop(waiting);
    works_at(&a, 0).await;
    assert_eq!(other.post(&b, &heartbeat("2")).await, 200);
    assert_eq!(refs(&other.poll(&b).await), ["2"]);
}

#[tokio::test]
async fn a_node_works_at_as_many_questions_of_others_as_it_may() {
    let broker = Broker::start();
    let a = Node::start_with(&broker, "a", |bench| bench.set("cluster", "max_questions", "1")).await;
    let b = Node::start(&broker, "b").await;
    agree(&[&a, &b]).await;
    let (session, other) = (Session::open(&a).await, Session::open(&a).await);
    let mut waiting = Connection::open(b.server.address).await;
    let path = format!("/socket/longpoll?{}", session.query());
    waiting.send("GET", &path, "", "").await;
    works_at(&a, 1).await;
    assert_eq!(get(&b, &other.query()).await.status, 503);
    assert_eq!(
        other.post(&a, &heartbeat("1")).await,
        200,
        "its own clients do not wait"
    );
    assert_eq!(metric(b.admin, "bennu_cluster_questions_out_total").await, 2);
}

#[tokio::test]
async fn without_the_broker_a_session_is_served_at_its_node_and_others_say_that_they_cannot() {
    let (mut broker, a, b) = two().await;
    let mut session = Session::open(&a).await;
    broker.kill(false);
    let refused = async {
        loop {
            let answer = get(&b, &session.query()).await;
            if answer.status == 503 {
                break answer;
            }
            // It takes b a moment to hear of it.
            assert_eq!(answer.json()["status"], 204);
        }
    };
    assert_eq!(patiently("refusal", refused).await.body, "");
    assert_eq!(session.post(&a, &heartbeat("1")).await, 200);
    assert_eq!(refs(&session.poll(&a).await), ["1"]);
    broker.start_again();
    agree(&[&a, &b]).await;
    assert_eq!(session.post(&b, &heartbeat("2")).await, 200);
    assert_eq!(refs(&session.poll(&b).await), ["2"]);
}

#[tokio::test]
async fn sessions_of_phoenix_0_11_are_the_same_at_every_node() {
    let (_broker, a, b) = two().await;
    let opened = request(a.server.address, "GET", "/ws/poll", "", "").await.json();
    assert_eq!(opened["status"], 410);
    let path = |of: &Value| format!("/ws/poll?token={}&sig={}", text(&of["token"]), text(&of["sig"]));
    let beat = json!({ "topic": "phoenix", "event": "heartbeat", "payload": {}, "ref": "1" });
    let posted = request(b.server.address, "POST", &path(&opened), "", &beat.to_string()).await;
    assert_eq!(posted.json()["status"], 200);
    let polled = request(b.server.address, "GET", &path(&opened), "", "").await.json();
    assert_eq!((&polled["status"], &polled["messages"]), (&json!(200), &json!([beat])));
    let nowhere = json!({ "topic": "nowhere:1", "event": "phx_join", "payload": {}, "ref": "2" });
    let posted = request(b.server.address, "POST", &path(&polled), "", &nowhere.to_string()).await;
    assert_eq!(posted.json()["status"], 401, "the channel refuses it");
    let posted = request(b.server.address, "POST", &path(&polled), "", "{").await;
    assert_eq!(posted.json()["status"], 400);
    assert_eq!(metric(b.admin, "bennu_cluster_answers_in_total").await, 7);
}

#[tokio::test]
async fn what_no_node_has_sent_is_counted_and_nothing_else() {
    let (broker, a, b) = two().await;
    let session = Session::open(&a).await;
    let id = text(&a.report().await["id"]);
    let run = id.rsplit('-').next().expect("the number of the run");
    let (ask, told) = (format!("bennu.bennu.ask.{run}"), format!("bennu.bennu.told.{run}"));
    let part = "BNQ\u{1}\0\0\0\0\u{1}\0\0\0\0x";
    let mut stranger = String::from("CONNECT {\"verbose\":false}\r\n");
    for (subject, reply, payload) in [
        (&*ask, "", part),
        (&ask, "_INBOX.a.b", part),
        (&ask, "bennu.bennu.told.x.1", part),
        (&ask, &format!("{told}.1"), "nonsense"),
        (&ask, &format!("{told}.1"), "BNQ\u{2}\0\0\0\0\u{1}\0\0\0\0x"),
        (&ask, &format!("{told}.7"), part),
        (&format!("{told}.1"), "", "nonsense"),
        (&format!("{told}.999"), "", "BNQ\u{1}\u{1}"),
        (&format!("{told}.x"), "", "BNQ\u{1}\u{1}"),
    ] {
        stranger += &format!("PUB {subject} {reply} {}\r\n{payload}\r\n", payload.len());
    }
    let mut stream = TcpStream::connect(("127.0.0.1", broker.port)).await.expect("a broker");
    stream.write_all(stranger.as_bytes()).await.expect("sent");
    // A question that nobody knows is counted, and its answer goes to somebody who has not asked.
    reaches(a.admin, "bennu_cluster_foreign_total", 10).await;
    assert_eq!(session.post(&b, &heartbeat("1")).await, 200);
    assert_eq!(metric(a.admin, "bennu_cluster_foreign_total").await, 10);
}
