//! Nodes that are killed under load, by a plan that a number decides: nothing that was acknowledged is lost, and nothing counts twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::sync::RwLock;

use super::{agree, kill, two};
use crate::support::server::Server;
use bennu_tools::client::{Client, Options, Payload, Transport};

const KILLS: usize = 10;
const TOPICS: u64 = 6;
const SEED: u64 = 7;

/// What one client knows of its topic's count.
#[derive(Debug, Default)]
struct Known {
    /// As it was acknowledged last.
    acknowledged: u64,
    /// Events since, of which nobody has said whether they count.
    open: u64,
    total: u64,
}

impl Known {
    fn hear(&mut self, topic: &str, count: u64) {
        let (least, most) = (self.acknowledged + 1, self.acknowledged + self.open + 1);
        assert!(
            (least..=most).contains(&count),
            "{topic}: {count}, and {least} to {most} was to come"
        );
        (self.acknowledged, self.open) = (count, 0);
        self.total += 1;
    }
}

/// Counts until told to stop, at whichever node there is.
async fn count(
    topic: String,
    addresses: Arc<RwLock<Vec<std::net::SocketAddr>>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
) -> Known {
    let mut known = Known::default();
    let mut turn = 0;
    'connect: loop {
        let address = {
            let addresses = addresses.read().await;
            addresses[turn % addresses.len()]
        };
        turn += 1;
        let options = Options::new(address, Transport::WebSocket);
        let Ok(mut client) = Client::connect(&options).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        loop {
            if stop.load(Ordering::Relaxed) && known.open == 0 {
                return known;
            }
            match client.join(&topic, json!({})).await {
                Ok(reply) if reply.status == "ok" => {}
                Ok(_) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
                Err(_) => continue 'connect,
            }
            loop {
                if stop.load(Ordering::Relaxed) && known.open == 0 {
                    return known;
                }
                known.open += 1;
                let Ok(reference) = client.push(&topic, "count", json!({})).await else {
                    continue 'connect;
                };
                let reply = tokio::time::timeout(Duration::from_secs(20), client.reply(&reference)).await;
                let Ok(Ok(reply)) = reply else { continue 'connect };
                let found = match &reply.response {
                    Payload::Json(response) => response["topic"].as_u64(),
                    Payload::Binary(_) => None,
                };
                let Some(found) = found.filter(|_| reply.status == "ok") else {
                    break;
                };
                known.open -= 1;
                known.hear(&topic, found);
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn address(server: &Server) -> std::net::SocketAddr {
    server.address
}

#[tokio::test]
async fn kills_of_homes_lose_and_double_nothing_that_was_acknowledged() {
    let (_broker, a, b) = two("commit").await;
    let mut nodes = [a, b];
    let addresses = Arc::new(RwLock::new(
        nodes.iter().map(|node| address(&node.server)).collect::<Vec<_>>(),
    ));
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let counting: Vec<_> = (0..TOPICS)
        .map(|number| {
            let topic = format!("misbehave:{number}");
            tokio::spawn(count(
                topic,
                Arc::clone(&addresses),
                Arc::clone(&stop),
                Arc::clone(&acknowledged),
            ))
        })
        .collect();
    let mut random = SEED;
    for _ in 0..KILLS {
        // Some are counted before each kill, and how many is not always the same.
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let (victim, more) = ((random >> 33) as usize % 2, 20 + (random >> 40) % 60);
        let until = acknowledged.load(Ordering::Relaxed) + more;
        let counted = async {
            while acknowledged.load(Ordering::Relaxed) < until {
                tokio::time::sleep(Duration::from_millis(1)).await;
                assert!(
                    !counting.iter().any(tokio::task::JoinHandle::is_finished),
                    "a client has given up"
                );
            }
        };
        super::patiently("counting", counted).await;
        kill(&mut nodes[victim]).await;
        nodes[victim].start_again().await;
        addresses.write().await[victim] = address(&nodes[victim].server);
        let [a, b] = &nodes;
        agree(&[a, b]).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut total = 0;
    for counting in counting {
        total += super::patiently("the last count", counting)
            .await
            .expect("it counts")
            .total;
    }
    assert!(total >= 200, "{total} were acknowledged");
}
