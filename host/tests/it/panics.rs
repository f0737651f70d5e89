//! A panic ends the member in whose callback it happened, and nothing else.

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::http::metric;
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server};

const TOPIC: &str = "misbehave:1";
const PANICS: &str = "bennu_plugin_panics_total{plugin=\"misbehave\"}";

/// Ann, who will panic, and Bob, who is to notice nothing, on one topic.
struct Two {
    server: Server,
    ann: Client,
    bob: Client,
    bench: Bench,
}

impl Two {
    async fn new() -> Self {
        Self::on(Bench::new()).await
    }

    async fn on(bench: Bench) -> Self {
        let server = bench.serve().await;
        let ann = Client::joined(&server, TOPIC).await;
        let mut bob = Client::joined(&server, TOPIC).await;
        bob.push(TOPIC, "count", json!({})).await;
        Self {
            server,
            ann,
            bob,
            bench,
        }
    }

    /// Replaces the plugin.
    async fn put(&self, build: Build) {
        self.bench.put("misbehave", build);
        self.server.in_service("misbehave", 2).await;
    }

    /// One panic, in `callback`: Bob's channel and the topic's state are as before, and Ann's socket takes a new join.
    async fn check(mut self, callback: &str) {
        self.server
            .log
            .line(&["plugin panicked", TOPIC, &format!("callback=\"{callback}\"")])
            .await;
        let expected = json!({ "topic": 2, "member": 2, "version": 1 });
        assert_eq!(self.bob.push(TOPIC, "count", json!({})).await, expected);
        assert_eq!(self.bob.rest().await, [], "bob was told nothing");
        assert_eq!(metric(self.server.admin().await, PANICS).await, 1);
        self.ann.join(TOPIC, json!({})).await;
        assert_eq!(
            self.ann.push(TOPIC, "count", json!({})).await["member"],
            1,
            "a new member"
        );
        assert_eq!(self.ann.rest().await, []);
    }
}

/// New code is not tried on live state before it is loaded.
fn unprobed() -> Bench {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "probe_topics", "0");
    bench
}

async fn crashed(client: &mut Client) {
    assert_eq!(
        client.event(TOPIC, "phx_error").await,
        json!({ "reason": "channel_crash" })
    );
}

#[tokio::test]
async fn in_join() {
    let mut two = Two::new().await;
    two.ann.push(TOPIC, "phx_leave", json!({})).await;
    two.ann.event(TOPIC, "phx_close").await;
    let reply = two.ann.try_join(TOPIC, json!({ "do": "panic" })).await;
    assert_eq!(
        reply,
        json!({ "status": "error", "response": { "reason": "join crashed" } })
    );
    two.check("join").await;
}

#[tokio::test]
async fn in_the_late_answer_to_a_join() {
    let mut two = Two::new().await;
    two.ann.push(TOPIC, "phx_leave", json!({})).await;
    two.ann.event(TOPIC, "phx_close").await;
    let reply = two.ann.try_join(TOPIC, json!({ "do": "later_panic" })).await;
    assert_eq!(
        reply,
        json!({ "status": "error", "response": { "reason": "join crashed" } })
    );
    two.check("join_answer").await;
}

#[tokio::test]
async fn in_handle_in() {
    let mut two = Two::new().await;
    two.ann.start(TOPIC, "panic", json!({})).await;
    crashed(&mut two.ann).await;
    two.check("handle_in").await;
}

#[tokio::test]
async fn in_handle_out() {
    let mut two = Two::new().await;
    two.ann.push(TOPIC, "arm", json!({ "at": "handle_out" })).await;
    two.bob
        .start(TOPIC, "secret", json!({ "payload": { "of": "bob" } }))
        .await;
    crashed(&mut two.ann).await;
    let told = two.bob.event(TOPIC, "secret").await;
    assert_eq!(told["secret"], json!({ "of": "bob" }));
    // That was one more event for Bob's own count.
    two.server
        .log
        .line(&["plugin panicked", "callback=\"handle_out\""])
        .await;
    assert_eq!(two.bob.push(TOPIC, "count", json!({})).await["topic"], 2);
    assert_eq!(two.bob.rest().await, []);
    two.ann.join(TOPIC, json!({})).await;
}

#[tokio::test]
async fn in_handle_info() {
    let mut two = Two::new().await;
    two.ann.push(TOPIC, "arm", json!({ "at": "handle_info" })).await;
    two.ann.start(TOPIC, "timer", json!({})).await;
    crashed(&mut two.ann).await;
    two.check("handle_info").await;
}

#[tokio::test]
async fn in_terminate() {
    let mut two = Two::new().await;
    two.ann.push(TOPIC, "arm", json!({ "at": "terminate" })).await;
    two.ann.push(TOPIC, "phx_leave", json!({})).await;
    two.ann.event(TOPIC, "phx_close").await;
    two.check("terminate").await;
}

#[tokio::test]
async fn in_drop() {
    let mut two = Two::new().await;
    two.ann.push(TOPIC, "arm", json!({ "at": "drop" })).await;
    two.ann.push(TOPIC, "phx_leave", json!({})).await;
    two.ann.event(TOPIC, "phx_close").await;
    two.server.log.line(&["panicked"]).await;
    assert_eq!(two.bob.push(TOPIC, "count", json!({})).await["topic"], 2);
    two.ann.join(TOPIC, json!({})).await;
}

#[tokio::test]
async fn in_a_message_to_the_topic() {
    let mut two = Two::new().await;
    two.ann.start(TOPIC, "topic_panic", json!({})).await;
    two.server
        .log
        .line(&["plugin panicked", "callback=\"handle_topic_info\""])
        .await;
    assert_eq!(
        two.ann.push(TOPIC, "count", json!({})).await["topic"],
        2,
        "nobody's callback"
    );
    assert_eq!([two.ann.rest().await, two.bob.rest().await], [[], []]);
}

#[tokio::test]
async fn in_a_thread_of_the_plugin() {
    let mut two = Two::new().await;
    two.ann.push(TOPIC, "thread_panic", json!({})).await;
    two.server.log.line(&["panicked", "a thread panics"]).await;
    assert_eq!(two.ann.push(TOPIC, "count", json!({})).await["topic"], 2);
    assert_eq!([two.ann.rest().await, two.bob.rest().await], [[], []]);
}

/// The new code has the state by then: nobody notices.
#[tokio::test]
async fn in_drop_behind_a_reload() {
    let bench = unprobed();
    let server = bench.serve().await;
    let mut ann = Client::joined(&server, TOPIC).await;
    let mut bob = Client::joined(&server, TOPIC).await;
    ann.push(TOPIC, "arm", json!({ "at": "drop" })).await;
    bench.put("misbehave", Build::MisbehaveV2);
    server
        .log
        .line(&["plugin panicked", TOPIC, "callback=\"drop\"", "trap in drop"])
        .await;
    server.unloaded("misbehave", 1).await;
    assert_eq!(ann.push(TOPIC, "count", json!({})).await["version"], 2);
    assert_eq!(bob.push(TOPIC, "count", json!({})).await["topic"], 2);
    assert_eq!([ann.rest().await, bob.rest().await], [[], []]);
}

/// Her state cannot come along, so her channel ends; the others move on.
#[tokio::test]
async fn in_snapshot() {
    let mut two = Two::new().await;
    two.ann.push(TOPIC, "arm", json!({ "at": "snapshot" })).await;
    two.put(Build::MisbehaveV2).await;
    crashed(&mut two.ann).await;
    two.ann.join(TOPIC, json!({})).await;
    let expected = json!({ "topic": 2, "member": 2, "version": 2, "mood": "fresh" });
    assert_eq!(two.bob.push(TOPIC, "count", json!({})).await, expected);
    let expected = json!({ "topic": 3, "member": 1, "version": 2, "mood": "" });
    assert_eq!(two.ann.push(TOPIC, "count", json!({})).await, expected, "a new member");
    assert_eq!([two.ann.rest().await, two.bob.rest().await], [[], []]);
    let callback = ["plugin panicked", TOPIC, "callback=\"snapshot\"", "trap in snapshot"];
    two.server.log.line(&callback).await;
    let admin = two.server.admin().await;
    assert_eq!(metric(admin, PANICS).await, 1);
    let failed = "bennu_plugin_failed_migrations_total{plugin=\"misbehave\"}";
    assert_eq!(metric(admin, failed).await, 0);
    two.server.unloaded("misbehave", 1).await;
}

/// More than a shard handles at a time, each of whom says farewell.
#[tokio::test]
async fn in_the_snapshot_of_many() {
    let mut two = Two::new().await;
    let mut many = Vec::new();
    for _ in 0..100 {
        let mut client = Client::joined(&two.server, TOPIC).await;
        client.push(TOPIC, "arm", json!({ "at": "broadcast" })).await;
        client.push(TOPIC, "arm", json!({ "at": "snapshot" })).await;
        many.push(client);
    }
    two.put(Build::MisbehaveV2).await;
    for client in &mut many {
        crashed(client).await;
    }
    for _ in 0..100 {
        let told = two.bob.event(TOPIC, "terminating").await;
        let reason = told["reason"].as_str().expect("a text");
        assert!(reason.starts_with("Panicked(\"trap in snapshot"), "{reason}");
    }
    assert_eq!(two.bob.push(TOPIC, "count", json!({})).await["version"], 2);
    assert_eq!(two.bob.rest().await, [], "that was all");
    assert_eq!(metric(two.server.admin().await, PANICS).await, 100);
}

#[tokio::test]
async fn in_snapshot_where_a_panic_is_the_whole_topics() {
    for trap in ["arm", "topic_arm"] {
        let bench = Bench::new();
        bench.set("plugins.misbehave", "on_panic", "\"topic\"");
        let mut two = Two::on(bench).await;
        two.ann.push(TOPIC, trap, json!({ "at": "snapshot" })).await;
        two.put(Build::MisbehaveV2).await;
        crashed(&mut two.ann).await;
        crashed(&mut two.bob).await;
        two.bob.join(TOPIC, json!({})).await;
        let counted = two.bob.push(TOPIC, "count", json!({})).await;
        assert_eq!(
            (&counted["topic"], &counted["version"]),
            (&json!(1), &json!(2)),
            "{trap}"
        );
        assert_eq!(metric(two.server.admin().await, PANICS).await, 1);
    }
}

/// What is nobody's, and what is read: the topic stays on the old code, and nobody notices.
#[tokio::test]
async fn in_the_snapshot_of_the_topic_and_in_restore() {
    for (event, trap) in [("topic_arm", "snapshot"), ("arm", "restore")] {
        let mut two = Two::on(unprobed()).await;
        two.ann.push(TOPIC, event, json!({ "at": trap })).await;
        two.put(Build::MisbehaveV2).await;
        two.server
            .log
            .line(&["could not be moved", "failed=1", "trap in"])
            .await;
        let expected = json!({ "topic": 2, "member": 2, "version": 1 });
        assert_eq!(two.bob.push(TOPIC, "count", json!({})).await, expected, "{trap}");
        assert_eq!(two.ann.push(TOPIC, "count", json!({})).await["topic"], 3);
        assert_eq!([two.ann.rest().await, two.bob.rest().await], [[], []]);
        let panics = metric(two.server.admin().await, PANICS).await;
        assert_eq!(panics, u64::from(trap == "snapshot"), "{trap}");
    }
}

/// Nobody is there any more when a topic ends.
#[tokio::test]
async fn in_drop_of_the_topics_state() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "linger_ms", "1");
    let mut two = Two::on(bench).await;
    two.ann.push(TOPIC, "topic_arm", json!({ "at": "drop" })).await;
    for client in [&mut two.ann, &mut two.bob] {
        client.push(TOPIC, "phx_leave", json!({})).await;
    }
    two.server
        .log
        .line(&["plugin panicked", TOPIC, "callback=\"drop\"", "trap in drop"])
        .await;
    two.ann.join(TOPIC, json!({})).await;
    let expected = json!({ "topic": 1, "member": 1, "version": 1 });
    assert_eq!(two.ann.push(TOPIC, "count", json!({})).await, expected);
}

/// When the code has been replaced, and when the host ends. What it has not come to end may still run: the library stays.
#[tokio::test]
async fn in_drop_of_the_plugins_own_value() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "settings", "{ drop = \"panic\" }");
    let mut two = Two::on(bench).await;
    let words = ["panicked while dropping the plugin", "panics on request"];
    two.put(Build::MisbehaveV2).await;
    two.server.log.line(&words).await;
    two.server
        .log
        .line(&[
            "parts of this generation stay in memory",
            "generation=1",
            "did not shut down cleanly",
        ])
        .await;
    for client in [&mut two.ann, &mut two.bob] {
        assert_eq!(client.push(TOPIC, "count", json!({})).await["version"], 2);
        assert_eq!(client.rest().await, []);
    }
    let Two {
        server, bench: _bench, ..
    } = two;
    let log = server.log.clone();
    assert!(server.stop().await.success());
    assert_eq!(log.count(&words), 2, "{}", log.text());
}

#[tokio::test]
async fn in_connect() {
    let mut two = Two::new().await;
    let path = "/gate/longpoll?vsn=2.0.0&token=panic";
    let origin = "origin: https://example.com\r\n";
    let refused = crate::support::http::get_with(two.server.address, path, origin).await;
    assert_eq!(refused.json()["status"], 403);
    two.server
        .log
        .line(&["plugin panicked", "callback=\"connect\"", "gate panics"])
        .await;
    assert_eq!(two.bob.push(TOPIC, "count", json!({})).await["topic"], 2);
    assert_eq!([two.ann.rest().await, two.bob.rest().await], [[], []]);
}

#[tokio::test]
async fn in_init_the_code_in_service_stays() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    bench.set("plugins.misbehave", "settings", "{ init = \"panic\" }");
    server
        .log
        .line(&["configuration rejected", "init panicked", "panics on request"])
        .await;
    assert_eq!(client.push(TOPIC, "count", json!({})).await["topic"], 1);
    assert_eq!(client.rest().await, []);
}

#[tokio::test]
async fn nothing_of_an_event_that_panics_goes_out() {
    let mut two = Two::new().await;
    two.ann.start(TOPIC, "broadcast_panic", json!({})).await;
    crashed(&mut two.ann).await;
    assert_eq!(two.ann.rest().await, [], "no push");
    assert_eq!(
        two.bob.push(TOPIC, "presences", json!({})).await,
        json!({}),
        "nobody is tracked"
    );
    two.check("handle_in").await;
}

/// Ann brings a callback to panic, and all of the topic end.
async fn check_whole(panic: impl AsyncFnOnce(&mut Client)) {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "on_panic", "\"topic\"");
    let mut two = Two::on(bench).await;
    panic(&mut two.ann).await;
    crashed(&mut two.bob).await;
    two.ann.join(TOPIC, json!({})).await;
    two.bob.join(TOPIC, json!({})).await;
    let counted = two.ann.push(TOPIC, "count", json!({})).await;
    assert_eq!(counted["topic"], 1, "the topic begins anew");
    assert_eq!(two.bob.push(TOPIC, "count", json!({})).await["topic"], 2);
    let mut rest = two.ann.rest().await;
    rest.extend(two.bob.rest().await);
    assert!(
        rest.iter().all(|message| !message.event.starts_with("phx_")),
        "{rest:?}"
    );
}

#[tokio::test]
async fn the_whole_topic_where_the_configuration_says_so() {
    check_whole(async |ann| {
        ann.start(TOPIC, "panic", json!({})).await;
        crashed(ann).await;
    })
    .await;
    check_whole(async |ann| {
        ann.start(TOPIC, "topic_panic", json!({})).await;
        crashed(ann).await;
    })
    .await;
    check_whole(async |ann| {
        ann.push(TOPIC, "arm", json!({ "at": "handle_out" })).await;
        ann.start(TOPIC, "secret", json!({})).await;
        crashed(ann).await;
    })
    .await;
    check_whole(async |ann| {
        ann.push(TOPIC, "arm", json!({ "at": "terminate" })).await;
        ann.push(TOPIC, "phx_leave", json!({})).await;
        ann.event(TOPIC, "phx_close").await;
    })
    .await;
}

#[tokio::test]
async fn a_panic_in_join_only_refuses_the_join_whatever_the_configuration_says() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "on_panic", "\"topic\"");
    let mut two = Two::on(bench).await;
    two.ann.push(TOPIC, "phx_leave", json!({})).await;
    two.ann.event(TOPIC, "phx_close").await;
    let reply = two.ann.try_join(TOPIC, json!({ "do": "panic" })).await;
    assert_eq!(reply["response"]["reason"], "join crashed");
    two.check("join").await;
}

#[tokio::test]
async fn code_that_always_panics_can_be_replaced() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.push(TOPIC, "count", json!({})).await;
    bench.put("misbehave", Build::MisbehavePanics);
    server.in_service("misbehave", 2).await;
    client.start(TOPIC, "count", json!({})).await;
    crashed(&mut client).await;
    client.join(TOPIC, json!({})).await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 3).await;
    let counted: Value = client.push(TOPIC, "count", json!({})).await;
    assert_eq!(counted["topic"], 2, "the topic's state has outlived it: {counted}");
}
