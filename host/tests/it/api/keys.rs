//! Who may ask for what: keys, what they allow, their secrets in files, and the host of a request.

use std::fs;

use serde_json::json;

use super::{Backend, KEY, bench, put_secret, reason, refused, shown};
use crate::support::command::{check_refused, run};
use crate::support::http::{get, metric, request, request_for};

const OTHER: &str = "other-key-0123456789-0123456789-0123456789";

/// What stands in `Authorization`, and is no key.
const NO_KEYS: [&str; 7] = ["", "Bearer", "Bearer ", "Bearer no", "Basic d2ViOg==", "bearer", KEY];

#[tokio::test]
async fn without_a_key_nothing_is_answered_but_the_document() {
    let bench = bench();
    let server = bench.serve().await;
    let backend = Backend::of(&server).await;
    for (method, path) in [
        ("POST", "/api/broadcast"),
        ("POST", "/api/disconnect"),
        ("GET", "/api/topics"),
        ("GET", "/api/topics/room:1"),
        ("GET", "/api/connections?socket_id=a"),
    ] {
        for authorization in NO_KEYS {
            let header = match authorization {
                "" => String::new(),
                text => format!("authorization: {text}\r\n"),
            };
            let answer = request(backend.address, method, path, &header, "").await;
            assert_eq!(
                answer.header("www-authenticate"),
                Some("Bearer"),
                "{path} {authorization}"
            );
            assert_eq!(reason(shown(answer)), refused(401, "unauthorized"));
        }
    }
    let document = get(backend.address, "/api/openapi.json").await;
    assert_eq!((document.status, &document.json()["openapi"]), (200, &json!("3.1.0")));
    let twice = format!("{0}{0}", backend.header());
    assert_eq!(
        request(backend.address, "GET", "/api/topics", &twice, "").await.status,
        400
    );
    let admin = server.admin().await;
    let refusals = u64::try_from(5 * NO_KEYS.len()).expect("a few");
    assert_eq!(
        metric(admin, "bennu_api_refused_total{reason=\"unauthorized\"}").await,
        refusals
    );
    let line = server
        .log
        .line(&["API request refused", "reason=\"unauthorized\""])
        .await;
    assert!(line.contains("WARN"), "{line}");
    assert!(!server.log.text().contains(KEY) && !server.log.text().contains("Basic"));
}

#[tokio::test]
async fn a_key_allows_its_verbs_and_its_topics_and_no_others() {
    let bench = bench();
    fs::write(bench.path("other"), OTHER).expect("written");
    bench.append(
        "[[api.keys]]\nname = \"other\"\nsecret_file = \"other\"\nallow = [\"broadcast\", \"read\"]\ntopics = [\"room:*\", \"echo:1\"]",
    );
    let server = bench.serve().await;
    let other = Backend::of(&server).await.with(OTHER);
    let message = |topic: &str| json!({ "topic": topic, "event": "news" });
    for topic in ["room:1", "echo:1"] {
        assert_eq!(other.post("/api/broadcast", message(topic)).await.0, 200, "{topic}");
    }
    let forbidden = || refused(403, "forbidden");
    for topic in ["echo:2", "echo:12", "misbehave:1", "no:route"] {
        assert_eq!(
            reason(other.post("/api/broadcast", message(topic)).await),
            forbidden(),
            "{topic}"
        );
        assert_eq!(
            reason(other.get(&format!("/api/topics/{topic}")).await),
            forbidden(),
            "{topic}"
        );
        assert_eq!(
            reason(other.get(&format!("/api/connections?socket_id={topic}")).await),
            forbidden()
        );
    }
    let (_, list) = other
        .post("/api/broadcast", json!([message("echo:2"), message("echo:1")]))
        .await;
    assert_eq!(list["results"][0]["reason"], "forbidden");
    assert_eq!(list["results"][1]["heard"], 0);
    let disconnect = json!({ "socket_id": "room:1" });
    assert_eq!(reason(other.post("/api/disconnect", disconnect).await), forbidden());
    let admin = server.admin().await;
    assert_eq!(metric(admin, "bennu_api_refused_total{reason=\"forbidden\"}").await, 14);
    server
        .log
        .line(&["API request refused", "key=\"other\"", "reason=\"forbidden\""])
        .await;
}

#[tokio::test]
async fn a_new_secret_in_the_file_holds_soon_and_the_old_one_no_longer() {
    let bench = bench();
    let server = bench.serve().await;
    let web = Backend::of(&server).await;
    let other = web.with(OTHER);
    assert_eq!(
        (web.get("/api/topics").await.0, other.get("/api/topics").await.0),
        (200, 401)
    );
    // Both, while backends change over.
    put_secret(&bench, &format!("{KEY}\n{OTHER}"));
    while other.get("/api/topics").await.0 != 200 {}
    assert_eq!(web.get("/api/topics").await.0, 200);
    put_secret(&bench, OTHER);
    while web.get("/api/topics").await.0 != 401 {}
    assert_eq!(other.get("/api/topics").await.0, 200);
    // Nobody has a key whose file is gone.
    fs::remove_file(bench.path("api_key")).expect("removed");
    while other.get("/api/topics").await.0 != 401 {}
    server
        .log
        .line(&["API key refused", "key=\"web\"", "cannot read the secret"])
        .await;
    put_secret(&bench, KEY);
    while web.get("/api/topics").await.0 != 200 {}
    server.log.line(&["API key read", "key=\"web\""]).await;
    assert!(!server.log.text().contains(KEY) && !server.log.text().contains(OTHER));
}

#[tokio::test]
async fn what_a_key_allows_changes_with_the_configuration() {
    let bench = bench();
    let server = bench.serve().await;
    let web = Backend::of(&server).await;
    assert_eq!(web.get("/api/topics").await.0, 200);
    bench.set("api.keys", "allow", "[\"broadcast\"]");
    server.log.line(&["configuration replaced"]).await;
    while web.get("/api/topics").await.0 != 403 {}
    bench.set("api.keys", "topics", "[\"room:*\"]");
    server.log.nth_line(1, &["configuration replaced"]).await;
    while web
        .post("/api/broadcast", json!({ "topic": "echo:1", "event": "a" }))
        .await
        .0
        != 403
    {}
}

#[tokio::test]
async fn the_environment_may_hold_the_secret() {
    let bench = bench();
    bench.set("api.keys", "secret_file", "\"nowhere\"");
    let server = bench
        .serve_with(|command| command.env("BENNU_API_KEY_WEB", OTHER))
        .await;
    let web = Backend::of(&server).await;
    assert_eq!(web.with(OTHER).get("/api/topics").await.0, 200);
    assert_eq!(web.get("/api/topics").await.0, 401);
}

#[test]
fn a_server_with_a_key_without_a_secret_does_not_start_and_check_says_why() {
    for (secret, words) in [
        (None, "cannot read the secret of the API key `web`"),
        (Some("short"), "needs at least 32 visible ASCII characters"),
    ] {
        let bench = bench();
        match secret {
            Some(secret) => put_secret(&bench, secret),
            None => fs::remove_file(bench.path("api_key")).expect("removed"),
        }
        check_refused(|command| command.args(["serve", "--config"]).arg(bench.config()), words);
        let (_, said, complained) = run(|command| command.arg("check").arg(bench.config()));
        assert!(said.contains(words) || complained.contains(words), "{said}{complained}");
    }
}

#[tokio::test]
async fn the_api_answers_only_for_its_own_hosts() {
    let bench = bench();
    bench.set("api", "hosts", "[\"bennu.internal\"]");
    let server = bench.serve().await;
    let address = server.api().await;
    for (host, status) in [
        ("localhost", 200),
        ("127.0.0.1:4002", 200),
        ("bennu.internal", 200),
        ("evil.example", 403),
        ("bennu.internal.evil.example", 403),
    ] {
        let answer = request_for(host, address, "GET", "/api/openapi.json").await;
        assert_eq!(answer.status, status, "{host}");
        if status == 403 {
            assert_eq!(answer.json()["reason"], "misdirected");
            assert!(answer.body.contains("[api]"), "{}", answer.body);
        }
    }
}

#[test]
fn two_keys_with_the_same_secret_keep_the_server_from_starting() {
    let bench = bench();
    fs::write(bench.path("other"), KEY).expect("written");
    bench.append("[[api.keys]]\nname = \"other\"\nsecret_file = \"other\"\nallow = [\"broadcast\"]\ntopics = [\"*\"]");
    let words = "the API keys `other` and `web` have a secret in common";
    check_refused(|command| command.args(["serve", "--config"]).arg(bench.config()), words);
    let (output, said, complained) = run(|command| command.args(["check", "--serve"]).arg(bench.config()));
    assert!(!output.status.success(), "{said}");
    assert!(said.contains(words) || complained.contains(words), "{said}{complained}");
}
