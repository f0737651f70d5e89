//! Long polling over plain requests: envelopes, tokens, batches, and what becomes of polls that are given up.

use bennu_tools::client::{Options, Transport};
use serde_json::{Value, json};

use crate::support::http::{Answer, Connection, request};
use crate::support::server::{Bench, Server};

const NDJSON: &str = "content-type: application/x-ndjson\r\n";

/// A server that takes requests in the order in which they were sent.
async fn orderly() -> (Bench, Server) {
    let bench = Bench::new();
    bench.set("server", "io_threads", "1");
    let server = bench.serve().await;
    (bench, server)
}

/// A session, as its client sees it.
struct Session<'a> {
    server: &'a Server,
    token: String,
}

impl<'a> Session<'a> {
    async fn open(server: &'a Server) -> Self {
        let opened = get(server, "vsn=2.0.0").await.json();
        assert_eq!(opened["status"], 410);
        let token = text(&opened["token"]);
        Self { server, token }
    }

    /// Polls with a token.
    async fn poll_with(&self, token: &str) -> Value {
        get(self.server, &format!("vsn=2.0.0&token={token}")).await.json()
    }

    /// Polls with the newest token, and keeps the next one. Gives the messages.
    async fn poll(&mut self) -> Vec<Value> {
        let polled = self.poll_with(&self.token).await;
        assert_eq!(polled["status"], 200, "{polled}");
        self.token = text(&polled["token"]);
        messages(&polled)
    }

    /// Posts with the newest token. Gives the status in the body.
    async fn post(&self, headers: &str, body: &str) -> Value {
        post(self.server, &self.token, headers, body).await.json()["status"].clone()
    }

    /// Asks for an answer: the next poll has it.
    async fn beat(&self, number: usize) {
        assert_eq!(self.post(NDJSON, &heartbeat(number)).await, 200);
    }
}

async fn get(server: &Server, query: &str) -> Answer {
    request(server.address, "GET", &format!("/socket/longpoll?{query}"), "", "").await
}

async fn post(server: &Server, token: &str, headers: &str, body: &str) -> Answer {
    let path = format!("/socket/longpoll?vsn=2.0.0&token={token}");
    request(server.address, "POST", &path, headers, body).await
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

fn messages(polled: &Value) -> Vec<Value> {
    let texts = polled["messages"].as_array().expect("messages");
    texts
        .iter()
        .map(|text| serde_json::from_str(text.as_str().expect("text")).expect("a message"))
        .collect()
}

fn heartbeat(number: usize) -> String {
    format!(r#"[null,"{number}","phoenix","heartbeat",{{}}]"#)
}

fn answered(number: usize) -> Value {
    json!([null, number.to_string(), "phoenix", "phx_reply", { "response": {}, "status": "ok" }])
}

#[tokio::test]
async fn a_session_is_opened_spoken_through_and_polled() {
    let (_bench, server) = orderly().await;
    let opened = get(&server, "vsn=2.0.0").await;
    let token = text(&opened.json()["token"]);
    assert_eq!(
        opened.body,
        format!(r#"{{"messages":[],"status":410,"token":"{token}"}}"#)
    );
    let posted = post(&server, &token, "", r#"["1","1","echo:a","phx_join",{}]"#).await;
    assert_eq!(posted.body, r#"{"status":200}"#);
    let polled = get(&server, &format!("vsn=2.0.0&token={token}")).await;
    let reply = r#"["1","1","echo:a","phx_reply",{"response":{},"status":"ok"}]"#;
    assert_eq!(
        messages(&polled.json()),
        [serde_json::from_str::<Value>(reply).expect("JSON")]
    );
    for answer in [opened, posted, polled] {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
}

#[tokio::test]
async fn a_poll_without_news_ends_with_204_when_its_window_is_over() {
    let bench = Bench::new();
    bench.set("mounts", "longpoll", "{ window_ms = 1_000 }");
    let server = bench.serve().await;
    let session = Session::open(&server).await;
    let first = session.poll_with(&session.token).await;
    assert_eq!((&first["status"], &first["messages"]), (&json!(204), &json!([])));
    let second = session.poll_with(&text(&first["token"])).await;
    assert_eq!(second["status"], 204, "the session goes on");
}

#[tokio::test]
async fn a_preflight_allows_what_it_is_asked_for() {
    let (_bench, server) = orderly().await;
    let asked = "access-control-request-headers";
    let headers = format!("origin: http://localhost\r\n{asked}: x-one, content-type\r\n{asked}: x-two\r\n");
    let answer = request(server.address, "OPTIONS", "/socket/longpoll", &headers, "").await;
    assert_eq!((answer.status, &*answer.body), (200, ""));
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(
        answer.header("access-control-allow-headers"),
        Some("x-one, content-type, x-two")
    );
    assert_eq!(
        answer.header("access-control-allow-methods"),
        Some("get, post, options")
    );
    assert_eq!(answer.header("access-control-max-age"), Some("3600"));
}

#[tokio::test]
async fn other_methods_are_refused() {
    let (_bench, server) = orderly().await;
    for method in ["PUT", "DELETE", "PATCH"] {
        let answer = request(server.address, method, "/socket/longpoll?vsn=2.0.0", "", "").await;
        assert_eq!((answer.status, &*answer.body), (400, ""), "{method}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        // Whose origin is refused is told nothing else.
        let foreign = "origin: https://elsewhere.example\r\n";
        let answer = request(server.address, method, "/gate/longpoll?vsn=2.0.0", foreign, "").await;
        assert_eq!((answer.status, &*answer.body), (200, r#"{"status":403}"#), "{method}");
    }
}

#[tokio::test]
async fn an_origin_that_is_not_allowed_is_told_so_in_the_body() {
    let (_bench, server) = orderly().await;
    let check = async |method, path, origin, refused| {
        let headers = format!("origin: {origin}\r\n");
        let answer = request(server.address, method, path, &headers, "").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body == r#"{"status":403}"#, refused, "{method} {path} {origin}");
    };
    for method in ["GET", "POST", "OPTIONS"] {
        check(method, "/socket/longpoll?vsn=2.0.0", "http://evil.example", true).await;
        check(method, "/socket/longpoll?vsn=2.0.0", "null", true).await;
        check(method, "/gate/longpoll?vsn=2.0.0", "http://example.com", true).await;
        check(method, "/gate/longpoll?vsn=2.0.0", "https://example.com", false).await;
        check(method, "/gate/longpoll?vsn=2.0.0", "http://a.b.example.org:81", false).await;
    }
}

#[tokio::test]
async fn a_version_that_is_not_spoken_is_refused_and_so_is_who_may_not_connect() {
    let (_bench, server) = orderly().await;
    for query in ["vsn=2.1.0", "vsn=3.0.0", "vsn=2.0", "vsn=", "vsn[]=2.0.0"] {
        assert_eq!(get(&server, query).await.body, r#"{"status":403}"#, "{query}");
    }
    for token in ["closed", "teapot", "panic", "list", "hang"] {
        let path = format!("/gate/longpoll?vsn=2.0.0&token={token}");
        let answer = request(server.address, "GET", &path, "", "").await;
        assert_eq!((answer.status, &*answer.body), (200, r#"{"status":403}"#), "{token}");
    }
}

#[tokio::test]
async fn the_token_may_come_in_a_header_which_goes_before_the_query() {
    let (_bench, server) = orderly().await;
    let session = Session::open(&server).await;
    session.beat(1).await;
    let token = &session.token;
    let header = format!("x-phoenix-longpoll-token: {token}\r\n");
    let polled = request(
        server.address,
        "GET",
        "/socket/longpoll?vsn=2.0.0&token=null",
        &header,
        "",
    )
    .await;
    assert_eq!(messages(&polled.json()), [answered(1)]);
    let path = format!("/socket/longpoll?vsn=2.0.0&token={token}");
    let posted = request(
        server.address,
        "POST",
        &path,
        "x-phoenix-longpoll-token: no\r\n",
        &heartbeat(2),
    )
    .await;
    assert_eq!(posted.body, r#"{"status":410}"#);
    let polled = request(server.address, "GET", &path, "x-phoenix-longpoll-token: no\r\n", "").await;
    assert_eq!(polled.json()["status"], 410);
}

#[tokio::test]
async fn a_token_that_does_not_open_is_no_session() {
    let (_bench, server) = orderly().await;
    let session = Session::open(&server).await;
    let mut altered = session.token.clone().into_bytes();
    let middle = altered.len() / 2;
    altered[middle] = if altered[middle] == b'A' { b'B' } else { b'A' };
    let altered = String::from_utf8(altered).expect("text");
    for token in [&*altered, "null", "", &session.token[1..]] {
        assert_eq!(post(&server, token, "", &heartbeat(1)).await.body, r#"{"status":410}"#);
        let polled = session.poll_with(token).await;
        assert_eq!((&polled["status"], &polled["messages"]), (&json!(410), &json!([])));
        assert_ne!(text(&polled["token"]), session.token, "a session of its own");
    }
    // The token of one mount is none at another.
    let path = format!("/gate/longpoll?vsn=2.0.0&token={}", session.token);
    assert_eq!(
        request(server.address, "POST", &path, "", &heartbeat(1)).await.body,
        r#"{"status":410}"#
    );
}

#[tokio::test]
async fn a_batch_holds_text_and_base64_one_a_line() {
    let (_bench, server) = orderly().await;
    let mut session = Session::open(&server).await;
    // 00 01 01 06 04 "1" "2" "echo:a" "echo" 03
    let binary = "AAEBBgQxMmVjaG86YWVjaG8D";
    let batch = format!(
        "[\"1\",\"1\",\"echo:a\",\"phx_join\",{{}}]\r\n{binary}\n{}",
        heartbeat(3)
    );
    assert_eq!(session.post(NDJSON, &batch).await, 200);
    let mut texts = Vec::new();
    while texts.len() < 3 {
        let polled = session.poll_with(&session.token).await;
        session.token = text(&polled["token"]);
        texts.extend(polled["messages"].as_array().expect("messages").iter().map(text));
    }
    texts.sort();
    assert_eq!(
        texts,
        [
            r#"["1","1","echo:a","phx_reply",{"response":{},"status":"ok"}]"#,
            r#"["1","2","echo:a","phx_reply",{"response":{"_binary":"Aw=="},"status":"ok"}]"#,
            r#"[null,"3","phoenix","phx_reply",{"response":{},"status":"ok"}]"#,
        ]
    );
}

#[tokio::test]
async fn a_batch_of_more_than_a_hundred_messages_is_taken_whole() {
    let (_bench, server) = orderly().await;
    let mut session = Session::open(&server).await;
    let lines: Vec<String> = (1..=150).map(heartbeat).collect();
    assert_eq!(session.post(NDJSON, &lines.join("\n")).await, 200);
    let expected: Vec<Value> = (1..=150).map(answered).collect();
    let mut got = session.poll().await;
    while got.last() != expected.last() {
        got.extend(session.poll().await);
    }
    assert_eq!(got, expected);
}

#[tokio::test]
async fn a_batch_of_more_messages_than_the_limit_is_refused_whole() {
    let bench = Bench::new();
    bench.set("server", "io_threads", "1");
    bench.set("mounts", "longpoll", "{ window_ms = 2_000, max_batch_messages = 5 }");
    let server = bench.serve().await;
    let mut session = Session::open(&server).await;
    let batch = |numbers: std::ops::RangeInclusive<usize>| numbers.map(heartbeat).collect::<Vec<_>>().join("\n");
    assert_eq!(session.post(NDJSON, &batch(1..=6)).await, 413);
    assert_eq!(session.post(NDJSON, &batch(7..=11)).await, 200);
    let expected: Vec<Value> = (7..=11).map(answered).collect();
    assert_eq!(session.poll().await, expected, "nothing of what was refused");
}

#[tokio::test]
async fn a_post_to_a_session_that_is_gone_is_410_whatever_it_holds() {
    let bench = Bench::new();
    bench.set("mounts", "longpoll", "{ window_ms = 500 }");
    let server = bench.serve().await;
    let options = Options::new(server.address, Transport::WebSocket);
    let mut watcher = bennu_tools::client::Client::connect(&options).await.expect("connected");
    watcher.join("misbehave:t", json!({})).await.expect("joined");
    let session = Session::open(&server).await;
    let bodies = [
        String::new(),
        "nonsense".to_owned(),
        format!("{}\n", heartbeat(1)),
        "x".repeat(70_000),
    ];
    let join =
        "[\"1\",\"1\",\"misbehave:t\",\"phx_join\",{}]\n[\"1\",\"2\",\"misbehave:t\",\"arm\",{\"at\":\"broadcast\"}]";
    assert_eq!(session.post(NDJSON, join).await, 200);
    watcher.event("misbehave:t", "terminating").await.expect("it ends");
    for token in [&session.token, "nonsense", "null", ""] {
        for body in &bodies {
            let answer = post(&server, token, NDJSON, body).await;
            assert_eq!(
                (answer.status, &*answer.body),
                (200, r#"{"status":410}"#),
                "{token} {body:.20}"
            );
        }
    }
}

#[tokio::test]
async fn a_body_that_is_no_message_is_refused_whole_and_the_session_goes_on() {
    let (_bench, server) = orderly().await;
    let mut session = Session::open(&server).await;
    let good = heartbeat(1);
    let trailing = format!("{good}\n");
    let batch = format!("{good}\nnonsense");
    let cut = format!("{good}\n[null,\"2\",\"phoenix\"]");
    let (json, charset) = (
        "content-type: application/json\r\n",
        "content-type: application/x-ndjson; charset=utf-8\r\n",
    );
    let two = format!("{good}\n{good}");
    for (headers, body) in [
        ("", ""),
        ("", "nonsense"),
        ("", "{}"),
        (json, "[]"),
        (json, &two),
        (charset, &two),
        (NDJSON, ""),
        (NDJSON, &trailing),
        (NDJSON, "\n"),
        (NDJSON, "A==="),
        (NDJSON, &batch),
        (NDJSON, &cut),
    ] {
        assert_eq!(session.post(headers, body).await, 400, "{headers} {body}");
    }
    let large = format!(r#"[null,"1","phoenix","heartbeat","{}"]"#, "x".repeat(65_536));
    assert_eq!(session.post("", &large).await, 413);
    for headers in ["", json, charset] {
        assert_eq!(session.post(headers, &heartbeat(7)).await, 200);
    }
    let mut got = session.poll().await;
    while got.len() < 3 {
        got.extend(session.poll().await);
    }
    assert_eq!(
        got,
        [answered(7), answered(7), answered(7)],
        "nothing of what was refused"
    );
}

#[tokio::test]
async fn a_poll_with_an_older_token_gets_the_same_messages_again() {
    let (_bench, server) = orderly().await;
    let mut session = Session::open(&server).await;
    session.beat(1).await;
    assert_eq!(session.poll().await, [answered(1)]);
    let first = session.token.clone();
    session.beat(2).await;
    // The answer to this poll gets lost.
    assert_eq!(messages(&session.poll_with(&first).await), [answered(2)]);
    session.beat(3).await;
    assert_eq!(session.poll().await, [answered(2), answered(3)]);
    session.beat(4).await;
    assert_eq!(session.poll().await, [answered(4)]);
    session.beat(5).await;
    // What is acked does not come back, however old the token.
    assert_eq!(messages(&session.poll_with(&first).await), [answered(5)]);
}

#[tokio::test]
async fn a_client_that_keeps_its_first_token_gets_one_batch_twice_and_then_each_once() {
    let (_bench, server) = orderly().await;
    let session = Session::open(&server).await;
    session.beat(1).await;
    assert_eq!(messages(&session.poll_with(&session.token).await), [answered(1)]);
    session.beat(2).await;
    assert_eq!(
        messages(&session.poll_with(&session.token).await),
        [answered(1), answered(2)]
    );
    for number in 3..6 {
        session.beat(number).await;
        assert_eq!(messages(&session.poll_with(&session.token).await), [answered(number)]);
    }
}

#[tokio::test]
async fn polls_that_are_given_up_lose_nothing() {
    let (_bench, server) = orderly().await;
    let mut session = Session::open(&server).await;
    // Some of these are given up before the server knows of them, some while they wait, some with their answer on its way.
    for number in 1..=30 {
        let mut given_up = Connection::open(server.address).await;
        let path = format!("/socket/longpoll?vsn=2.0.0&token={}", session.token);
        given_up.send("GET", &path, "", "").await;
        match number % 3 {
            0 => drop(given_up),
            1 => {
                session.beat(1000).await;
                drop(given_up);
                assert_eq!(session.poll().await, [answered(1000)]);
            }
            _ => {
                session.beat(1000).await;
                given_up.answer().await;
                assert_eq!(session.poll().await, [answered(1000)]);
            }
        }
        session.beat(number).await;
        assert_eq!(session.poll().await, [answered(number)]);
    }
}

/// Waits until the server has read what other connections have sent before: to accept a connection, it looks at all of them.
async fn all_read(server: &Server) {
    for _ in 0..2 {
        request(server.address, "GET", "/nothing", "", "").await;
    }
}

#[tokio::test]
async fn of_two_polls_the_newer_gets_the_messages_and_the_older_runs_to_its_end() {
    let (_bench, server) = orderly().await;
    let session = Session::open(&server).await;
    let path = format!("/socket/longpoll?vsn=2.0.0&token={}", session.token);
    let mut connections = [
        Connection::open(server.address).await,
        Connection::open(server.address).await,
        Connection::open(server.address).await,
    ];
    let [older, newer, poster] = &mut connections;
    older.send("GET", &path, "", "").await;
    all_read(&server).await;
    newer.send("GET", &path, "", "").await;
    all_read(&server).await;
    poster.send("POST", &path, "", &heartbeat(1)).await;
    assert_eq!(poster.answer().await.body, r#"{"status":200}"#);
    assert_eq!(messages(&newer.answer().await.json()), [answered(1)]);
    let older = older.answer().await.json();
    assert_eq!((&older["status"], &older["messages"]), (&json!(204), &json!([])));
}

#[tokio::test]
async fn a_server_that_is_full_opens_no_session() {
    let bench = Bench::new();
    bench.set("limits", "max_connections", "2");
    let server = bench.serve().await;
    let mut there = Vec::new();
    for _ in 0..2 {
        let mut connection = Connection::open(server.address).await;
        connection.send("OPTIONS", "/socket/longpoll", "", "").await;
        assert_eq!(connection.answer().await.status, 200);
        there.push(connection);
    }
    let refused = get(&server, "vsn=2.0.0").await;
    assert_eq!((refused.status, &*refused.body), (503, ""));
}

#[tokio::test]
async fn a_session_that_is_not_polled_ends_as_inactive() {
    let bench = Bench::new();
    bench.set("mounts", "longpoll", "{ window_ms = 500 }");
    let server = bench.serve().await;
    let options = Options::new(server.address, Transport::WebSocket);
    let mut watcher = bennu_tools::client::Client::connect(&options).await.expect("connected");
    watcher.join("misbehave:t", json!({})).await.expect("joined");
    let session = Session::open(&server).await;
    let batch =
        "[\"1\",\"1\",\"misbehave:t\",\"phx_join\",{}]\n[\"1\",\"2\",\"misbehave:t\",\"arm\",{\"at\":\"broadcast\"}]";
    assert_eq!(session.post(NDJSON, batch).await, 200);
    let said = watcher.event("misbehave:t", "terminating").await.expect("it ends");
    assert_eq!(said, json!({ "reason": "Inactive" }).into());
    assert_eq!(session.post(NDJSON, &heartbeat(1)).await, 410);
    let polled = session.poll_with(&session.token).await;
    assert_eq!(polled["status"], 410);
    assert_ne!(text(&polled["token"]), session.token);
}

#[tokio::test]
async fn a_session_that_has_too_much_to_read_ends() {
    let (_bench, server) = orderly().await;
    let options = Options::new(server.address, Transport::WebSocket);
    let mut flooder = bennu_tools::client::Client::connect(&options).await.expect("connected");
    flooder.join("misbehave:t", json!({})).await.expect("joined");
    let mut session = Session::open(&server).await;
    assert_eq!(session.post("", r#"["1","1","misbehave:t","phx_join",{}]"#).await, 200);
    assert_eq!(session.poll().await.len(), 1);
    flooder
        .push("misbehave:t", "flood_broadcast", json!({ "count": 201 }))
        .await
        .expect("sent");
    // One thread writes to both: when the last has come here, the session has had it.
    loop {
        let flood = flooder.event("misbehave:t", "flood").await.expect("the flood");
        if flood == json!({ "n": 200, "fill": "" }).into() {
            break;
        }
    }
    assert_eq!(session.poll_with(&session.token).await["status"], 410);
}
