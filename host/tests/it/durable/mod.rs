//! Topics that outlive the process: what is there after a stop, a kill, a failure of the disk, and new code.

mod closing;
mod commit;
mod effects;
mod files;
mod sleeping;
mod tools;
mod versions;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::http::{get, metric, reaches};
use crate::support::server::{Bench, Server};
use crate::support::within;

const TOPIC: &str = "misbehave:1";

/// A bench whose plugin stores its topics.
fn bench(durability: &str) -> Bench {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "durability", &format!("{durability:?}"));
    bench.set("plugins.misbehave", "checkpoint_ms", "20");
    bench
}

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

/// Ends a server at once.
async fn killed(mut server: Server) {
    server.signal(Signal::KILL);
    server.ended().await;
}

const HIBERNATED: &str = "bennu_plugin_hibernated_topics_total{plugin=\"misbehave\"}";
const WOKEN: &str = "bennu_plugin_woken_topics_total{plugin=\"misbehave\"}";
const WRITES: &str = "bennu_store_writes_total";

/// A file that tells the store of a server what to do wrong.
struct Fault(PathBuf);

impl Fault {
    fn of(bench: &Bench) -> Self {
        Self(bench.path("fault"))
    }

    async fn serve(&self, bench: &Bench) -> Server {
        bench
            .serve_with(|command| command.env("BENNU_FAULT_STORE", &self.0))
            .await
    }

    /// Waits until a write is held.
    async fn held(&self) {
        let held = self.0.with_extension("held");
        let is_held = async {
            while !held.exists() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        within("held write", is_held).await;
    }

    fn set(&self, what: &str) {
        let new = self.0.with_extension("new");
        fs::write(&new, what).expect("written");
        fs::rename(new, &self.0).expect("moved");
    }
}

#[tokio::test]
async fn a_stop_stores_every_topic() {
    for durability in ["checkpoint", "commit"] {
        let bench = bench(durability);
        // Only the stop stores it.
        bench.set("plugins.misbehave", "checkpoint_ms", "3_600_000");
        let server = bench.serve().await;
        counted(&server).await;
        assert!(server.stop().await.success());
        let server = bench.serve().await;
        let mut client = Client::joined(&server, TOPIC).await;
        assert_eq!(count(&mut client).await, 6, "{durability}");
    }
}

#[tokio::test]
async fn a_checkpoint_is_there_after_a_kill() {
    let bench = bench("checkpoint");
    let server = bench.serve().await;
    let mut client = counted(&server).await;
    let admin = server.admin().await;
    let before = metric(admin, WRITES).await;
    count(&mut client).await;
    // The first may have been on its way already.
    reaches(admin, WRITES, before + 1).await;
    count(&mut client).await;
    reaches(admin, WRITES, before + 2).await;
    killed(server).await;
    let server = bench.serve().await;
    let mut client = Client::joined(&server, TOPIC).await;
    let found = count(&mut client).await.as_u64().expect("a number");
    assert!((7..=8).contains(&found), "{found}");
}

#[tokio::test]
async fn a_plugin_that_stores_nothing_has_no_file_and_no_thread_for_it() {
    let bench = Bench::new();
    let server = bench.serve().await;
    counted(&server).await;
    let admin = server.admin().await;
    assert!(!bench.path("state/topics").exists());
    assert!(!server.thread_names().iter().any(|name| name.starts_with("store")));
    assert!(!get(admin, "/metrics").await.body.contains("bennu_store"));
}

#[tokio::test]
async fn what_has_not_changed_is_not_stored_again() {
    let bench = bench("commit");
    let server = bench.serve().await;
    let mut client = counted(&server).await;
    let admin = server.admin().await;
    let before = metric(admin, WRITES).await;
    for _ in 0..5 {
        client.push(TOPIC, "echo", json!({ "n": 1 })).await;
    }
    assert_eq!(metric(admin, WRITES).await, before);
    count(&mut client).await;
    assert_eq!(metric(admin, WRITES).await, before + 1);
}

/// As the README says it.
#[tokio::test]
async fn a_room_keeps_its_history_over_a_restart_and_a_kill_by_one_line_of_configuration() {
    let bench = Bench::new();
    bench.set("plugins.room", "durability", "\"checkpoint\"");
    let room = "room:lobby";
    let ann = || json!({ "name": "ann" });
    let mut server = bench.serve().await;
    for (said, kill) in [("one", false), ("two", true)] {
        let mut client = Client::connect(&server).await;
        client.join(room, ann()).await;
        let admin = server.admin().await;
        let before = metric(admin, WRITES).await;
        client.push(room, "new_msg", json!({ "body": said })).await;
        if kill {
            reaches(admin, WRITES, before + 1).await;
            killed(server).await;
        } else {
            assert!(server.stop().await.success());
        }
        server = bench.serve().await;
    }
    let mut client = Client::connect(&server).await;
    let history = client.join(room, ann()).await["history"].clone();
    let said: Vec<&Value> = history
        .as_array()
        .expect("a list")
        .iter()
        .map(|message| &message["body"])
        .collect();
    assert_eq!(said, ["one", "two"]);
}
