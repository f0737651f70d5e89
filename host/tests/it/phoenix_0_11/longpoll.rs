//! Envelopes, tokens and statuses of Phoenix 0.11's long polling.

use serde_json::{Value, json};

use super::{POLL, Session, calm, get, heartbeat, message, post, reply, strict};
use crate::support::http::{Connection, request};
use rustix::process::Signal;

#[tokio::test]
async fn a_client_without_a_session_gets_one_with_status_410() {
    let bench = calm();
    let server = bench.serve().await;
    for query in ["", "?token=null&sig=null", "?token[]=a&sig[b]=c"] {
        let answer = get(&server, &format!("{POLL}{query}")).await;
        assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
        assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
        let opened = answer.json();
        assert_eq!(opened.as_object().map(serde_json::Map::len), Some(3), "{opened}");
        assert_eq!(opened["status"], 410);
        for key in ["token", "sig"] {
            let text = opened[key].as_str().expect("text");
            let url_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            assert!(!text.is_empty() && text.bytes().all(url_safe), "{opened}");
        }
    }
}

#[tokio::test]
async fn a_session_is_found_by_token_and_sig_only() {
    let bench = calm();
    bench.append("[[mounts]]\npath = \"/other\"\ndialect = \"0.11\"");
    let server = bench.serve().await;
    let mut session = Session::open(&server).await;
    session.join("misbehave:t").await;
    let other = Session::open_at(&server, "/other/poll", "").await;
    let again = Session::open(&server).await;
    let modern = get(&server, "/ws/longpoll?vsn=2.0.0").await.json()["token"].clone();
    let modern = modern.as_str().expect("a token");
    let (token, sig) = (session.token.as_str(), session.sig.as_str());
    let altered = format!("{}{}", if token.starts_with('A') { "B" } else { "A" }, &token[1..]);
    let whole = format!("{token}{sig}");
    for (token, sig) in [
        (token, ""),
        ("", sig),
        (sig, token),
        (altered.as_str(), sig),
        (token, again.sig.as_str()),
        (&other.token, &other.sig),
        (modern, ""),
        (&modern[..73], &modern[73..]),
    ] {
        let path = format!("{POLL}?token={token}&sig={sig}");
        let posted = post(&server, &path, "", &heartbeat("1").to_string()).await;
        assert_eq!(
            (posted.status, posted.body.as_str()),
            (200, r#"{"status":410}"#),
            "{path}"
        );
        let polled = get(&server, &path).await.json();
        assert_eq!(
            (&polled["status"], &polled["messages"]),
            (&json!(410), &Value::Null),
            "{path}"
        );
        assert_ne!(polled["token"], token);
    }
    let modern = get(&server, &format!("/ws/longpoll?vsn=2.0.0&token={whole}"))
        .await
        .json();
    assert_eq!(modern["status"], 410, "nor is it one of today's");
    assert_eq!(session.post(&heartbeat("2")).await, 200, "it lives");
    assert_eq!(session.poll().await, json!([heartbeat("2")]));
}

#[tokio::test]
async fn messages_are_objects_and_come_again_until_the_next_token_acks_them() {
    let bench = calm();
    let server = bench.serve().await;
    let mut session = Session::open(&server).await;
    for number in ["a", "b"] {
        assert_eq!(session.post(&heartbeat(number)).await, 200);
        assert_eq!(session.poll().await, json!([heartbeat(number)]));
    }
    let first = session.at();
    for number in ["1", "2"] {
        assert_eq!(session.post(&heartbeat(number)).await, 200);
    }
    let both = json!([heartbeat("1"), heartbeat("2")]);
    assert_eq!(get(&server, &first).await.json()["messages"], both);
    assert_eq!(session.poll().await, both, "the response before may have been lost");
    assert_eq!(session.post(&heartbeat("3")).await, 200);
    assert_eq!(session.poll().await, json!([heartbeat("3")]));
}

#[tokio::test]
async fn a_poll_waits_for_news_and_says_204_if_none_comes() {
    let bench = calm();
    let server = bench.serve().await;
    let mut session = Session::open(&server).await;
    let mut waiting = Connection::open(server.address).await;
    waiting.send("GET", &session.at(), "", "").await;
    assert_eq!(session.post(&heartbeat("1")).await, 200);
    let polled = waiting.answer().await.json();
    assert_eq!(polled["messages"], json!([heartbeat("1")]));
    session.take_up(&polled);
    let empty = get(&server, &session.at()).await.json();
    assert_eq!((&empty["status"], &empty["messages"]), (&json!(204), &Value::Null));
    session.take_up(&empty);
    assert_eq!(session.post(&heartbeat("2")).await, 200);
    assert_eq!(session.poll().await, json!([heartbeat("2")]));
}

#[tokio::test]
async fn the_newest_poll_gets_the_messages() {
    let bench = calm();
    let server = bench.serve().await;
    let session = Session::open(&server).await;
    let mut polls = [
        Connection::open(server.address).await,
        Connection::open(server.address).await,
    ];
    for poll in &mut polls {
        poll.send("GET", &session.at(), "", "").await;
        // Answered behind the poll: by then it waits.
        assert_eq!(post(&server, &session.at(), "", "x").await.body, r#"{"status":400}"#);
    }
    assert_eq!(session.post(&heartbeat("1")).await, 200);
    let [older, newer] = &mut polls;
    assert_eq!(newer.answer().await.json()["messages"], json!([heartbeat("1")]));
    assert_eq!(older.answer().await.json()["status"], 204);
}

#[tokio::test]
async fn a_bad_request_is_said_in_the_body_and_the_session_lives() {
    let bench = calm();
    let server = bench.serve().await;
    let mut session = Session::open(&server).await;
    let join = message("misbehave:t", "phx_join", json!({}), "1").to_string();
    let long = message("misbehave:t", "phx_join", json!("x".repeat(65_536)), "1").to_string();
    let form = "content-type: application/x-www-form-urlencoded\r\n";
    for (method, more, headers, body, status) in [
        ("POST", "", "", "", 400),
        ("POST", "", "", "nonsense", 400),
        ("POST", "", "", "[]", 400),
        ("POST", "", "", r#"{"topic":"t","event":"e","payload":{}}"#, 400),
        ("POST", "", "", long.as_str(), 413),
        ("POST", "", form, join.as_str(), 415),
        ("POST", "", "content-type: application/x-ndjson\r\n", join.as_str(), 415),
        ("POST", "&x=%zz", "", join.as_str(), 400),
        ("GET", "&x=%zz", "", "", 400),
        ("PUT", "", "", join.as_str(), 405),
        ("DELETE", "", "", "", 405),
    ] {
        let answer = request(server.address, method, &(session.at() + more), headers, body).await;
        let expected = format!("{{\"status\":{status}}}");
        assert_eq!((answer.status, answer.body), (200, expected), "{method} {body:.50}");
        assert!(
            answer.head.contains("access-control-allow-origin: *"),
            "{}",
            answer.head
        );
    }
    for headers in ["", "content-type: application/json; charset=utf-8\r\n"] {
        assert_eq!(post(&server, &session.at(), headers, &join).await.json()["status"], 200);
    }
    assert_eq!(session.poll().await.as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_join_that_takes_too_long_is_401_and_goes_on() {
    let bench = calm();
    let config = bench.read_config();
    bench.write_config(&config.replace(
        "longpoller_pubsub_timeout_ms = 1_000",
        "longpoller_pubsub_timeout_ms = 20",
    ));
    let server = bench.serve().await;
    let mut session = Session::open(&server).await;
    let join = message("misbehave:t", "phx_join", json!({ "do": "later", "ms": 200 }), "1");
    assert_eq!(session.post(&join).await, 401);
    let late = reply("misbehave:t", "1", "ok", json!({ "late": true }));
    assert_eq!(session.poll().await, json!([late]));
    assert_eq!(session.post(&message("misbehave:t", "echo", json!({}), "2")).await, 200);
    assert_eq!(
        session.poll().await,
        json!([reply("misbehave:t", "2", "ok", json!({}))])
    );
}

#[tokio::test]
async fn a_join_that_another_one_replaces_is_401() {
    let bench = calm();
    let config = bench.read_config();
    // Longer than the test may take.
    bench.write_config(&config.replace(
        "longpoller_pubsub_timeout_ms = 1_000",
        "longpoller_pubsub_timeout_ms = 60_000",
    ));
    bench.set("plugins.misbehave", "join_deadline_ms", "60_000");
    let server = bench.serve().await;
    let mut session = Session::open(&server).await;
    let mut first = Connection::open(server.address).await;
    let never = message("misbehave:t", "phx_join", json!({ "do": "never" }), "1").to_string();
    first.send("POST", &session.at(), "", &never).await;
    session.join_as("misbehave:t", "2").await;
    assert_eq!(first.answer().await.body, r#"{"status":401}"#);
}

#[tokio::test]
async fn every_response_lets_any_page_read_it() {
    let bench = calm();
    let server = bench.serve().await;
    let session = Session::open(&server).await;
    let headers = "origin: https://any.example\r\naccess-control-request-headers: X-One\r\naccess-control-request-headers: X-Two\r\n";
    let (beat, event) = (heartbeat("1"), message("misbehave:t", "echo", json!({}), "1"));
    for (method, path, body, status) in [
        ("OPTIONS", POLL.to_owned(), String::new(), None),
        ("OPTIONS", format!("{POLL}?x=%zz"), String::new(), Some(400)),
        ("GET", POLL.to_owned(), String::new(), Some(410)),
        ("POST", POLL.to_owned(), beat.to_string(), Some(410)),
        ("POST", session.at(), beat.to_string(), Some(200)),
        ("GET", session.at(), String::new(), Some(200)),
        ("POST", session.at(), event.to_string(), Some(401)),
        ("POST", session.at(), String::new(), Some(400)),
    ] {
        let answer = request(server.address, method, &path, headers, &body).await;
        assert_eq!(answer.status, 200);
        match status {
            Some(status) => assert_eq!(answer.json()["status"], status, "{method} {path}"),
            None => assert_eq!(answer.body, ""),
        }
        for (name, value) in [
            ("access-control-allow-origin", "*"),
            ("access-control-allow-headers", "X-One, X-Two"),
            ("access-control-allow-methods", "get, post, options"),
            ("access-control-max-age", "3600"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_connect_handler_decides_with_the_parameters_of_the_query() {
    let bench = strict();
    let server = bench.serve().await;
    for query in ["token=closed", "token=teapot", "token=null&sig=null", "token=panic"] {
        let refused = get(&server, &format!("/strict/poll?{query}")).await;
        assert_eq!(
            (refused.status, refused.body.as_str()),
            (200, r#"{"status":403}"#),
            "{query}"
        );
    }
    let mut session = Session::open_at(&server, "/strict/poll", "token=seen&user=ann").await;
    session.join("misbehave:t").await;
    let who = message("misbehave:t", "whoami", json!({}), "2");
    assert_eq!(session.post(&who).await, 200);
    let answer = session.poll().await;
    let response = &answer[0]["payload"]["response"];
    assert_eq!(response["socket_id"], "user:ann");
    assert_eq!(
        (&response["socket"]["mount"], &response["socket"]["transport"]),
        (&json!("/strict"), &json!("longpoll"))
    );
}

#[tokio::test]
async fn a_key_that_is_not_kept_opens_what_it_sealed() {
    let bench = calm();
    for (path, crypto) in [
        ("/fresh", "{ cache = false, iterations = 3 }"),
        ("/short", "{ length = 16, digest = \"sha512\" }"),
    ] {
        let mount = format!("[[mounts]]\npath = \"{path}\"\ndialect = \"0.11\"\nlongpoller_crypto = {crypto}");
        bench.append(&mount);
    }
    let server = bench.serve().await;
    for path in ["/fresh/poll", "/short/poll"] {
        let mut session = Session::open_at(&server, path, "").await;
        session.join("misbehave:t").await;
        assert_eq!(session.post(&heartbeat("2")).await, 200);
    }
}

#[tokio::test]
async fn a_session_that_ended_is_410_at_once() {
    let bench = strict();
    let server = bench.serve().await;
    let mut session = Session::open_at(&server, "/strict/poll", "token=open&user=ann").await;
    session.join("misbehave:t").await;
    let mut waiting = Connection::open(server.address).await;
    waiting.send("GET", &(session.at() + "&user=ann"), "", "").await;
    let disconnect = message("misbehave:t", "disconnect", json!({ "topic": "user:ann" }), "2");
    assert_eq!(session.post(&disconnect).await, 200);
    // Its client would get a new session, if the connect handler liked the token that it polls with.
    assert_eq!(waiting.answer().await.body, r#"{"status":403}"#);
    let beat = heartbeat("3").to_string();
    for (headers, body) in [
        ("", &*beat),
        ("", ""),
        ("", "nonsense"),
        ("content-type: text/plain\r\n", "x"),
    ] {
        let answer = post(&server, &session.at(), headers, body).await;
        assert_eq!(answer.body, r#"{"status":410}"#, "{headers}{body}");
    }
}

#[tokio::test]
async fn a_server_that_stops_says_nothing_that_a_client_could_take_for_a_session() {
    let bench = calm();
    let mut server = bench.serve().await;
    let session = Session::open(&server).await;
    let mut waiting = Connection::open(server.address).await;
    waiting.send("GET", &session.at(), "", "").await;
    // Answered behind the poll: by then it waits.
    assert_eq!(post(&server, &session.at(), "", "x").await.body, r#"{"status":400}"#);
    drop(session);
    server.signal(Signal::TERM);
    let answer = waiting.answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (503, ""));
    assert!(server.ended().await.success());
}
