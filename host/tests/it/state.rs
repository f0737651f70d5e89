//! State that a reload would lose: it is refused, said, or read as the snapshot of the swap, and never lost without a word.

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server, of};

const TOPIC: &str = "misbehave:1";

async fn count(client: &mut Client) -> Value {
    client.push(TOPIC, "count", json!({})).await["topic"].clone()
}

/// A client in a topic whose count is 5.
async fn counted(server: &Server) -> Client {
    let mut client = Client::joined(server, TOPIC).await;
    for _ in 0..5 {
        count(&mut client).await;
    }
    client
}

#[tokio::test]
async fn a_field_that_has_another_name_is_refused_with_the_remedies() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = counted(&server).await;
    bench.put("misbehave", Build::MisbehaveRenamed);
    let said = server
        .log
        .line(&["library rejected", &of("misbehave"), "code=\"restore\""])
        .await;
    for part in [
        "`count`: dropped, while `total` has its default",
        "if `total` is another name for `count`, write `#[serde(alias = \\\"count\\\")]`",
        "set `STATE_VERSION` to 2",
        "`migrate_shared`",
    ] {
        assert!(
            said.contains(part) || said.contains(&part.replace('\\', "")),
            "{part} is missing in {said}"
        );
    }
    assert_eq!(count(&mut client).await, 6, "the previous code goes on");
    assert_eq!(client.rest().await, []);
}

#[tokio::test]
async fn a_field_that_has_its_old_name_as_an_alias_keeps_its_value() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = counted(&server).await;
    bench.put("misbehave", Build::MisbehaveAliased);
    server.in_service("misbehave", 2).await;
    assert_eq!(count(&mut client).await, 6);
}

/// Where the probe has seen nothing of it, each topic is checked when it moves.
#[tokio::test]
async fn a_topic_whose_state_the_new_code_would_lose_stays_on_the_old() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "probe_topics", "0");
    let server = bench.serve().await;
    let mut client = counted(&server).await;
    bench.put("misbehave", Build::MisbehaveRenamed);
    server.in_service("misbehave", 2).await;
    server
        .log
        .line(&["could not be moved", "failed=1", "`count`: dropped"])
        .await;
    assert_eq!(count(&mut client).await, 6);
}

#[tokio::test]
async fn a_rollback_counts_state_that_the_code_before_would_lose_as_not_read() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "probation_ms", "60_000");
    bench.set("plugins.misbehave", "probation_panics", "2");
    let server = bench.serve().await;
    let mut client = counted(&server).await;
    bench.put("misbehave", Build::MisbehaveAliased);
    server.in_service("misbehave", 2).await;
    assert_eq!(count(&mut client).await, 6);
    for _ in 0..2 {
        let mut other = Client::joined(&server, "misbehave:bad").await;
        other.start("misbehave:bad", "panic", json!({})).await;
        other.event("misbehave:bad", "phx_error").await;
    }
    let said = server.log.line(&["rolled back to generation", &of("misbehave")]).await;
    for part in [
        "restored=1",
        "events are lost",
        "`total`: dropped, while `count` has its default",
    ] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
    assert!(!said.contains("no state is lost"), "{said}");
    assert_eq!(count(&mut client).await, 6, "the count at the swap was 5");
}

#[tokio::test]
async fn state_that_cannot_be_read_from_the_beginning_is_refused_at_the_first_load() {
    let bench = Bench::new();
    let server = bench.serve().await;
    bench.put("misbehave", Build::MisbehaveUnreadable);
    let said = server
        .log
        .line(&["library rejected", &of("misbehave"), "code=\"state\""])
        .await;
    assert!(
        said.contains("a reload would lose its state") && said.contains("odd"),
        "{said}"
    );
    // Without a reload that carries state there is nothing to lose.
    bench.set("plugins.misbehave", "reload", "\"rejoin\"");
    server.in_service("misbehave", 2).await;
}

#[tokio::test]
async fn state_that_cannot_be_read_later_is_said_before_there_is_a_reload() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = counted(&server).await;
    client.push(TOPIC, "topic_odd", json!({})).await;
    let said = server
        .log
        .line(&["a reload would lose state of this plugin", &of("misbehave")])
        .await;
    assert!(said.contains(TOPIC) && said.contains("128"), "{said}");
    assert_eq!(count(&mut client).await, 6);
}

/// The manifest says with which kit a library was built. What that cannot do is not asked of it.
#[tokio::test]
async fn a_library_of_an_earlier_kit_is_loaded_without_this_check() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut bytes = Build::MisbehaveUnreadable.bytes();
    let magic = bytes.windows(8).rposition(|bytes| bytes == b"bennu\0pl");
    // Behind the magic, the size and the major number.
    let minor = magic
        .map(|at| at + 16)
        .filter(|at| u32::from(bytes[*at]) == bennu_plugin::abi::ABI_MINOR)
        .expect("a manifest");
    bytes[minor] = 3;
    bench.put_bytes("misbehave", &bytes);
    server.in_service("misbehave", 2).await;
}
