//! A home that is none any more, and does not know it, stores nothing and acknowledges nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::super::LEASE_MS;
use super::{
    Broker, Node, count, count_on, counted, join, joined, node, node_by, patiently, stored, storing, together, topic_at,
};
use crate::support::client::Client;
use crate::support::http::get;
use crate::support::server::Bench;

/// A file that tells the store of a node what to do wrong.
struct Fault(std::path::PathBuf);

impl Fault {
    fn new() -> Self {
        let bench = Bench::new();
        Self(bench.path("fault"))
    }

    fn set(&self, what: &str) {
        let new = self.0.with_extension("new");
        std::fs::create_dir_all(new.parent().expect("a folder")).expect("a folder");
        std::fs::write(&new, what).expect("written");
        std::fs::rename(new, &self.0).expect("moved");
    }

    /// Waits until a write is held.
    async fn held(&self) {
        let held = self.0.with_extension("held");
        let is_held = async {
            while !held.exists() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        patiently("held write", is_held).await;
    }
}

/// The write of an event waits. The node stands still for longer than its lease, and another one becomes the home and counts on.
/// Then the first goes on, and writes.
#[tokio::test]
async fn a_home_that_stood_still_overwrites_nothing_and_acknowledges_nothing() {
    // With and without anything that the new home has written by then.
    for (durability, last) in [("commit", 9), ("commit", 5), ("checkpoint", 9)] {
        let (broker, fault) = (Broker::start(), Fault::new());
        let a = node_by(&broker, "a", durability, |command| {
            command.env("BENNU_FAULT_STORE", &fault.0)
        })
        .await;
        let b = node(&broker, "b", durability).await;
        together(&[&a, &b]).await;
        let topic = topic_at(&b, "misbehave:", "a").await;
        let mut ann = counted(&a, &topic).await;
        // Also the last of its checkpoints.
        stored(&a).await;
        fault.set("hold");
        let counting = ann.start(&topic, "count", json!({})).await;
        fault.held().await;
        let mut bob = Client::connect(&b.server).await;
        let meanwhile = async {
            patiently("another home", async {
                while b.home(&topic).await.as_deref() != Some("b") {}
            })
            .await;
            join(&mut bob, &topic).await;
            for number in 6..=last {
                assert_eq!(count(&mut bob, &topic).await, number, "{durability}");
            }
        };
        a.server
            .stand_still(Duration::from_millis(3 * LEASE_MS), meanwhile)
            .await;
        fault.set("");
        let ended = patiently("word of the end", ann.event(&topic, "phx_error")).await;
        let whys = ["node lost", "storage unavailable"];
        assert!(
            ended["reason"].as_str().is_some_and(|why| whys.contains(&why)),
            "{ended}"
        );
        if durability == "commit" {
            let reply = ann.answer(&counting).await;
            assert_eq!(reply["status"], "error", "nobody stores it: {reply}");
        }
        a.server
            .log
            .line(&["topic not stored", "another node is the home"])
            .await;
        join(&mut ann, &topic).await;
        assert_eq!(count_on(&mut ann, &topic).await, last + 1, "{durability}");
        assert_eq!(
            count_on(&mut bob, &topic).await,
            last + 2,
            "the new home has noticed nothing"
        );
    }
}

/// The way of one node to the broker. It can be cut.
struct Way {
    port: u16,
    is_cut: Arc<AtomicBool>,
    cut: Arc<Notify>,
}

impl Way {
    async fn to(broker: &Broker) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (is_cut, cut) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
        let (there, is_cut_now, cut_now) = (broker.port, Arc::clone(&is_cut), Arc::clone(&cut));
        tokio::spawn(async move {
            while let Ok((mut here, _)) = listener.accept().await {
                if is_cut_now.load(Ordering::SeqCst) {
                    continue;
                }
                let cut = Arc::clone(&cut_now);
                tokio::spawn(async move {
                    let Ok(mut there) = TcpStream::connect(("127.0.0.1", there)).await else {
                        return;
                    };
                    tokio::select! {
                        _ = copy_bidirectional(&mut here, &mut there) => {}
                        () = cut.notified() => {}
                    }
                });
            }
        });
        Self { port, is_cut, cut }
    }

    fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        self.cut.notify_waiters();
    }

    fn mend(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_home_that_is_cut_from_nats_stores_nothing_and_its_topic_goes_on_elsewhere() {
    for durability in ["commit", "checkpoint"] {
        let broker = Broker::start();
        let way = Way::to(&broker).await;
        let a = Node::start_with(&broker, "a", |bench| {
            storing(durability)(bench);
            bench.set("cluster", "servers", &format!("[\"nats://127.0.0.1:{}\"]", way.port));
        })
        .await;
        let b = node(&broker, "b", durability).await;
        together(&[&a, &b]).await;
        let topic = topic_at(&b, "misbehave:", "a").await;
        let mut ann = counted(&a, &topic).await;
        stored(&a).await;
        let before = seen(&a, &topic).await["revision"].as_u64();
        way.cut();
        if durability == "commit" {
            // It may be on its way when the connection is cut.
            let reply = ann.try_push(&topic, "count", json!({})).await;
            assert_eq!(reply["response"]["reason"], "storage unavailable");
            assert_eq!(ann.event(&topic, "phx_error").await["reason"], "storage unavailable");
            let reply = ann.try_join(&topic, json!({})).await;
            assert_eq!(reply["response"]["reason"], "storage unavailable");
        } else {
            assert_eq!(count(&mut ann, &topic).await, 6, "it is served on");
        }
        patiently("another home", async {
            while b.home(&topic).await.as_deref() != Some("b") {}
        })
        .await;
        let mut bob = joined(&b, &topic).await;
        for number in 6..=8 {
            assert_eq!(count(&mut bob, &topic).await, number, "{durability}");
        }
        way.mend();
        // It may get the topic back soon: this is where it belongs.
        let is_there = async {
            loop {
                let home = seen(&a, &topic).await;
                if home["revision"].as_u64() > before && home["reached"] != "not now" {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        patiently("word of the new home", is_there).await;
        let mut ann = joined(&a, &topic).await;
        assert_eq!(count_on(&mut ann, &topic).await, 9, "{durability}");
        assert_eq!(count_on(&mut bob, &topic).await, 10, "the new home has lost nothing");
    }
}

/// The home of a topic, as a node sees it.
async fn seen(node: &Node, topic: &str) -> Value {
    get(node.admin, &format!("/cluster/{topic}")).await.json()
}
