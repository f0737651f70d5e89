//! A callback that does not return costs its shard's channels, and nothing else.

use bennu_tools::client::{self, Options, Transport};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::http::{self, metric};
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server};

const TOPIC: &str = "misbehave:1";
const CRASH: &str = "channel_crash";

/// With one shard, which is abandoned soon.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "shards", "1");
    bench.set("plugins.misbehave", "deadline_ms", "300");
    bench
}

async fn count(server: &Server, metric_name: &str) -> u64 {
    metric(
        server.admin().await,
        &format!("bennu_plugin_{metric_name}{{plugin=\"misbehave\"}}"),
    )
    .await
}

/// The client's channel ends, and it may join again, with the topic's state as it is at the beginning.
async fn starts_anew(client: &mut Client) {
    assert_eq!(client.event(TOPIC, "phx_error").await, json!({ "reason": CRASH }));
    assert_eq!(client.rest().await, [], "that was all");
    client.join(TOPIC, json!({})).await;
    let counted = client.push(TOPIC, "count", json!({})).await;
    assert_eq!(counted["member"], 1, "{counted}");
}

fn failed(reason: &str) -> Value {
    json!({ "status": "error", "response": { "reason": reason } })
}

#[tokio::test]
async fn everybody_on_the_shard_is_answered_and_joins_again() {
    check_everybody(Transport::WebSocket).await;
}

#[tokio::test]
async fn everybody_on_the_shard_is_answered_and_joins_again_by_long_polling() {
    check_everybody(Transport::LongPoll).await;
}

async fn check_everybody(transport: Transport) {
    let bench = bench();
    let server = bench.serve().await;
    let connect = async || Client::connect_by(&server, transport).await;
    let joined = async |topic| {
        let mut client = connect().await;
        client.join(topic, json!({})).await;
        client
    };
    let mut ann = joined(TOPIC).await;
    let mut bob = joined(TOPIC).await;
    let mut eve = joined("misbehave:elsewhere").await;
    let mut joining = connect().await;
    let mut leaving = joined(TOPIC).await;
    bob.push(TOPIC, "count", json!({})).await;
    let pending = joining.start_join(TOPIC, json!({ "do": "never" })).await;
    let owed = bob.start(TOPIC, "never", json!({})).await;
    bob.push(TOPIC, "count", json!({})).await;

    let stuck = ann.start(TOPIC, "unruly", json!({ "at": "hang" })).await;
    server.log.line(&["slow handler"]).await;
    let waits = bob.start(TOPIC, "count", json!({})).await;
    let left = leaving.start(TOPIC, "phx_leave", json!({})).await;
    let mut late = connect().await;
    let joins = late.start_join(TOPIC, json!({})).await;

    assert_eq!(ann.answer(&stuck).await, failed(CRASH), "the event that hangs");
    assert_eq!(bob.answer(&waits).await, failed(CRASH), "the one behind it");
    assert_eq!(bob.answer(&owed).await, failed(CRASH), "the reply that was promised");
    assert_eq!(joining.answer(&pending).await, failed("join crashed"));
    assert_eq!(late.answer(&joins).await, failed("join crashed"));
    assert_eq!(leaving.answer(&left).await["status"], "ok", "a leave is a leave");
    leaving.event(TOPIC, "phx_close").await;
    assert_eq!(eve.event("misbehave:elsewhere", "phx_error").await["reason"], CRASH);
    starts_anew(&mut ann).await;
    starts_anew(&mut bob).await;
    late.join(TOPIC, json!({})).await;
    for client in [&mut leaving, &mut joining, &mut eve, &mut late] {
        assert_eq!(client.rest().await, [], "that was all");
    }
    assert_eq!(
        (
            count(&server, "hangs_total").await,
            count(&server, "stuck_threads").await
        ),
        (1, 1)
    );
}

#[tokio::test]
async fn the_log_says_where_it_hangs_and_what_the_thread_does() {
    let bench = bench();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.start(TOPIC, "unruly", json!({ "at": "hang" })).await;
    let place = [
        "plugin=\"misbehave\"",
        TOPIC,
        "callback=\"handle_in\"",
        "event=\"unruly\"",
    ];
    let waits = ["state=\"sleeping\"", "call=\"futex\"", "ms=", "cpu_ms="];
    let slow = ["slow handler"].iter().chain(&place).chain(&waits).copied();
    server.log.line(&slow.collect::<Vec<_>>()).await;
    let hangs = ["handler did not return", "topics=1", "channels=1", "replaced=true"];
    server
        .log
        .line(&hangs.iter().chain(&place).chain(&waits).copied().collect::<Vec<_>>())
        .await;
}

#[tokio::test]
async fn a_handler_that_only_takes_long_is_reported_once_and_goes_on() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.push(TOPIC, "spin", json!({ "ms": 300 })).await;
    server
        .log
        .line(&["slow handler", "event=\"spin\"", "state=\"running\"", "call=\"none\""])
        .await;
    client.push(TOPIC, "count", json!({})).await;
    assert_eq!(client.rest().await, []);
    assert_eq!(count(&server, "slow_handlers_total").await, 1);
    assert_eq!(count(&server, "hangs_total").await, 0);
}

#[tokio::test]
async fn in_dev_a_handler_that_hangs_is_only_reported() {
    let bench = bench();
    let server = bench.dev().await;
    let mut client = Client::joined(&server, TOPIC).await;
    let slow = client.start(TOPIC, "sleep", json!({ "ms": 2_500 })).await;
    let behind = client.start(TOPIC, "count", json!({})).await;
    server.log.line(&["slow handler", "event=\"sleep\""]).await;
    assert_eq!(client.answer(&slow).await["status"], "ok", "long past its deadline");
    assert_eq!(client.answer(&behind).await["response"]["topic"], 1);
    assert_eq!(client.rest().await, []);
    assert_eq!(server.log.count(&["slow handler"]), 1);
    // After a second it is said again.
    let again = ["misbehave: handler still running", "event=\"sleep\"", TOPIC];
    server.log.line(&again).await;
    assert_eq!(server.log.count(&again), 1, "and then after ten");
    assert_eq!(count(&server, "slow_handlers_total").await, 1);
    assert_eq!(count(&server, "hangs_total").await, 0);
}

/// Until the handler returns, or somebody asks once more.
#[tokio::test]
async fn a_stop_that_waits_for_a_handler_says_so() {
    let bench = bench();
    bench.set("server", "shutdown_timeout_ms", "30_000");
    let mut server = bench.dev().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.start(TOPIC, "unruly", json!({ "at": "hang" })).await;
    server.log.line(&["slow handler"]).await;
    server.signal(Signal::TERM);
    let waits = [
        "misbehave: waiting up to 30 s",
        "a second signal",
        TOPIC,
        "event=\"unruly\"",
    ];
    server.log.line(&waits).await;
    server.signal(Signal::TERM);
    server.log.line(&["stopping at once"]).await;
    server.ended().await;
}

/// Has a client that joined `TOPIC` bring a shard to hang in `callback`, and rejoin.
async fn check(callback: &str, hang: impl AsyncFnOnce(&mut Client)) {
    let bench = bench();
    let server = bench.serve().await;
    let mut bob = Client::joined(&server, TOPIC).await;
    let mut ann = Client::joined(&server, TOPIC).await;
    hang(&mut ann).await;
    server
        .log
        .line(&["handler did not return", &format!("callback=\"{callback}\"")])
        .await;
    starts_anew(&mut bob).await;
}

#[tokio::test]
async fn in_join() {
    check("join", async |ann| {
        let reply = ann
            .try_join("misbehave:2", json!({ "do": "unruly", "at": "hang" }))
            .await;
        assert_eq!(reply, failed("join crashed"));
    })
    .await;
}

#[tokio::test]
async fn in_the_late_answer_to_a_join() {
    check("join_answer", async |ann| {
        let reply = ann.try_join("misbehave:2", json!({ "do": "later_hang" })).await;
        assert_eq!(reply, failed("join crashed"));
    })
    .await;
}

#[tokio::test]
async fn in_handle_out() {
    check("handle_out", async |ann| {
        ann.push(TOPIC, "arm", json!({ "at": "hang:handle_out" })).await;
        ann.start(TOPIC, "secret", json!({})).await;
    })
    .await;
}

#[tokio::test]
async fn in_a_timer() {
    check("handle_info", async |ann| {
        ann.push(TOPIC, "arm", json!({ "at": "hang:handle_info" })).await;
        ann.start(TOPIC, "timer", json!({ "ms": 1 })).await;
    })
    .await;
}

#[tokio::test]
async fn in_a_timer_of_the_topic() {
    check("handle_topic_info", async |ann| {
        ann.start(TOPIC, "topic_hang", json!({ "ms": 1 })).await;
    })
    .await;
}

/// The leave was answered before, and is not answered again.
#[tokio::test]
async fn in_terminate() {
    check("terminate", async |ann| {
        ann.push(TOPIC, "arm", json!({ "at": "hang:terminate" })).await;
        ann.push(TOPIC, "phx_leave", json!({})).await;
        ann.event(TOPIC, "phx_close").await;
    })
    .await;
}

#[tokio::test]
async fn in_drop() {
    check("terminate", async |ann| {
        ann.push(TOPIC, "arm", json!({ "at": "hang:drop" })).await;
        ann.push(TOPIC, "phx_leave", json!({})).await;
    })
    .await;
}

#[tokio::test]
async fn in_connect() {
    let bench = bench();
    bench.set("limits", "connect_timeout_ms", "5_000");
    let server = bench.serve().await;
    let mut bob = Client::joined(&server, TOPIC).await;
    let path = "/gate/websocket?vsn=2.0.0&token=unruly&user=hang";
    let stuck = tokio::spawn(upgrade(server.address, path));
    server.log.line(&["slow handler", "callback=\"connect\""]).await;
    let waits = tokio::spawn(upgrade(server.address, "/gate/websocket?vsn=2.0.0&token=open&user=ann"));
    assert_eq!(stuck.await.expect("answered"), 403, "as where it crashes");
    assert_eq!(waits.await.expect("answered"), 101, "another shard takes it up");
    starts_anew(&mut bob).await;
}

async fn upgrade(address: std::net::SocketAddr, path: &str) -> u16 {
    let headers = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\norigin: https://example.com\r\n";
    let mut connection = http::Connection::open(address).await;
    connection.send("GET", path, headers, "").await;
    connection.answer().await.status
}

#[tokio::test]
async fn while_state_is_written_for_a_reload() {
    for probe_topics in ["0", "8"] {
        check_snapshot(probe_topics).await;
    }
}

/// At the swap, or for the probe already.
async fn check_snapshot(probe_topics: &str) {
    let bench = bench();
    bench.set("plugins.misbehave", "probe_topics", probe_topics);
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.push(TOPIC, "arm", json!({ "at": "hang:snapshot" })).await;
    bench.put("misbehave", Build::MisbehaveV2);
    server
        .log
        .line(&["handler did not return", "callback=\"snapshot\"", TOPIC])
        .await;
    server.in_service("misbehave", 2).await;
    client.event(TOPIC, "phx_error").await;
    client.join(TOPIC, json!({})).await;
    let counted = client.push(TOPIC, "count", json!({})).await;
    assert_eq!(counted["version"], 2, "{counted}");
}

/// The old code has the state still: nobody notices.
#[tokio::test]
async fn while_state_is_read_after_a_reload() {
    let bench = bench();
    bench.set("plugins.misbehave", "probe_topics", "0");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.push(TOPIC, "count", json!({})).await;
    client.push(TOPIC, "arm", json!({ "at": "hang:restore" })).await;
    bench.put("misbehave", Build::MisbehaveV2);
    server
        .log
        .line(&["handler did not return", "callback=\"restore\"", TOPIC])
        .await;
    server.in_service("misbehave", 2).await;
    let expected = json!({ "topic": 2, "member": 2, "version": 1 });
    assert_eq!(client.push(TOPIC, "count", json!({})).await, expected);
    assert_eq!(client.rest().await, []);
    client.join("misbehave:2", json!({})).await;
    let counted = client.push("misbehave:2", "count", json!({})).await;
    assert_eq!(counted["version"], 2, "new topics start on the new code");
}

#[tokio::test]
async fn a_thread_that_comes_back_finds_its_effects_refused_and_ends() {
    let bench = bench();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    let stuck = client.start(TOPIC, "sleep", json!({ "ms": 1_000 })).await;
    assert_eq!(client.answer(&stuck).await, failed(CRASH));
    starts_anew(&mut client).await;
    server.log.line(&["has returned and ended"]).await;
    assert_eq!(client.rest().await, [], "no second answer");
    let counted = client.push(TOPIC, "count", json!({})).await;
    assert_eq!(counted["topic"], 2, "{counted}");
    assert_eq!(count(&server, "stuck_threads").await, 0);
    bench.put("misbehave", Build::MisbehaveV2);
    server.unloaded("misbehave", 1).await;
    let counted = client.push(TOPIC, "count", json!({})).await;
    assert_eq!(counted["topic"], 3, "the state is that of the shard in service");
}

#[tokio::test]
async fn a_library_with_a_stuck_thread_stays_mapped_and_is_counted() {
    let bench = bench();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.start(TOPIC, "unruly", json!({ "at": "hang" })).await;
    starts_anew_after_answer(&mut client).await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    server
        .log
        .line(&["threads of it did not return", "generation=1", "threads=1"])
        .await;
    assert_eq!(count(&server, "leaked_generations").await, 1);
    assert_eq!(client.push(TOPIC, "count", json!({})).await["version"], 2);
    assert!(server.stop().await.success(), "nor does it keep the process");
}

async fn starts_anew_after_answer(client: &mut Client) {
    client.event(TOPIC, "phx_error").await;
    client.join(TOPIC, json!({})).await;
    client.push(TOPIC, "count", json!({})).await;
}

#[tokio::test]
async fn other_shards_other_plugins_and_heartbeats_go_on() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "deadline_ms", "1_500");
    let server = bench.serve().await;
    let options = Options::new(server.address, Transport::WebSocket);
    let mut client = client::Client::connect(&options).await.expect("connected");
    client.join("echo:1", json!({})).await.expect("joined");
    for n in 0..9 {
        client.join(&format!("misbehave:{n}"), json!({})).await.expect("joined");
    }
    client
        .push("misbehave:0", "unruly", json!({ "at": "hang" }))
        .await
        .expect("sent");
    server.log.line(&["slow handler"]).await;
    // Until it is abandoned these are answered at once, and so is every topic on the other shard.
    client.heartbeat().await.expect("answered");
    let echoed = client.push("echo:1", "echo", json!({ "n": 1 })).await.expect("sent");
    client.reply(&echoed).await.expect("answered");
    assert_eq!(server.log.count(&["handler did not return"]), 0, "it still hangs");
    let line = server.log.line(&["handler did not return"]).await;
    let lost: usize = field(&line, "channels=").parse().expect("a number");
    assert!((1..9).contains(&lost), "one of two shards: {lost}");
    let mut living = 0;
    for n in 1..9 {
        let reference = client
            .push(&format!("misbehave:{n}"), "count", json!({}))
            .await
            .expect("sent");
        living += usize::from(client.reply(&reference).await.expect("answered").status == "ok");
    }
    assert_eq!(living, 9 - lost);
}

fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let (_, rest) = line.split_once(name).expect("the field");
    rest.split(' ').next().unwrap_or_default()
}

#[tokio::test]
async fn past_the_bound_of_stuck_threads_the_shard_stays_closed() {
    let bench = bench();
    bench.set("plugins.misbehave", "max_stuck_threads", "0");
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    client.start(TOPIC, "unruly", json!({ "at": "hang" })).await;
    client.event(TOPIC, "phx_error").await;
    server.log.line(&["handler did not return", "replaced=false"]).await;
    assert_eq!(client.try_join(TOPIC, json!({})).await, failed("plugin unavailable"));
    // Other code has shards of its own.
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    client.join(TOPIC, json!({})).await;
}

#[tokio::test]
async fn in_init_the_library_is_refused() {
    let bench = bench();
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    bench.set("plugins.misbehave", "settings", "{ init = \"hang\" }");
    server
        .log
        .line(&["configuration rejected", "did not start within 300 ms"])
        .await;
    assert_eq!(count(&server, "stuck_threads").await, 1);
    client.push(TOPIC, "count", json!({})).await;
    bench.set("plugins.misbehave", "settings", "{}");
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
}
