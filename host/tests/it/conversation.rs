//! Several clients talk without a pause while the library is replaced ten times: nothing is lost, doubled or reordered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bennu_tools::client::{Payload, Transport};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::client::Client;
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server};

const TOPIC: &str = "misbehave:talk";
const CLIENTS: u64 = 4;
const RELOADS: u64 = 10;
/// What a client says before it waits for answers, so that something is always on its way.
const AT_ONCE: u64 = 4;

#[tokio::test]
async fn nothing_is_lost_doubled_or_reordered_by_ten_reloads() {
    let bench = Bench::new();
    // A long-poll client hears much between two polls.
    bench.set(
        "mounts",
        "longpoll",
        "{ window_ms = 200, max_buffer_messages = 100_000, max_buffer_bytes = 100_000_000 }",
    );
    let server = bench.serve().await;
    let enough = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let transport = if number % 2 == 0 {
            Transport::WebSocket
        } else {
            Transport::LongPoll
        };
        let mut client = Client::connect_by(&server, transport).await;
        client.join(TOPIC, json!({})).await;
        clients.push(client);
    }
    let mut talking = JoinSet::new();
    for (number, client) in (0..).zip(clients) {
        talking.spawn(talk(client, number, Arc::clone(&enough)));
    }
    replace_often(&bench, &server).await;
    enough.store(true, Ordering::Release);

    let mut clients = BTreeMap::new();
    while let Some(talked) = talking.join_next().await {
        let talked = talked.expect("no client panics");
        clients.insert(talked.number, talked);
    }
    let said: BTreeMap<u64, u64> = clients.iter().map(|(number, talked)| (*number, talked.said)).collect();
    let mut counts: Vec<u64> = Vec::new();
    for talked in clients.into_values() {
        counts.extend(&talked.counts);
        talked.check(&said).await;
    }
    counts.sort_unstable();
    let all: u64 = said.values().sum();
    assert_eq!(
        counts,
        (1..=all).collect::<Vec<_>>(),
        "the topic has counted each of them, once"
    );
}

/// Two builds in turn, then the next version.
async fn replace_often(bench: &Bench, server: &Server) {
    for reload in 1..=RELOADS {
        match reload {
            RELOADS => bench.put("misbehave", Build::MisbehaveV2),
            _ => bench.put_numbered("misbehave", Build::Misbehave, reload % 2),
        }
        server.in_service("misbehave", reload + 1).await;
    }
}

/// What a client has said and been told.
struct Talked {
    client: Client,
    number: u64,
    said: u64,
    /// How far the topic had counted at each answer.
    counts: Vec<u64>,
    last: Value,
}

async fn talk(mut client: Client, number: u64, enough: Arc<AtomicBool>) -> Talked {
    let (mut said, mut counts, mut answer) = (0, Vec::new(), Value::Null);
    let mut is_last = false;
    while !is_last {
        // Looked up before it begins: so the last round is all on the last library.
        is_last = enough.load(Ordering::Acquire);
        let mut waiting = Vec::new();
        for _ in 0..AT_ONCE {
            said += 1;
            let payload = json!({ "event": "said", "payload": { "by": number, "n": said } });
            client.start(TOPIC, "broadcast", payload).await;
            client.start(TOPIC, "numbered", json!({ "n": said })).await;
            waiting.push(client.start(TOPIC, "count", json!({})).await);
        }
        for reference in waiting {
            answer = client.answer(&reference).await["response"].clone();
            assert_eq!(
                answer["member"],
                counts.len() + 1,
                "answered in order, with the member's state"
            );
            counts.push(answer["topic"].as_u64().expect("a count"));
        }
    }
    Talked {
        client,
        number,
        said,
        counts,
        last: answer,
    }
}

impl Talked {
    /// Everything that came was what was to come, and in order.
    async fn check(mut self, said: &BTreeMap<u64, u64>) {
        assert_eq!(self.last["version"], 2, "the last answer is the new version's");
        assert!(self.counts.is_sorted(), "no answer overtakes another");
        let mut heard: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let (mut pushed, mut replied) = (Vec::new(), Vec::new());
        for message in self.client.rest().await {
            let n = |value: &Value| value["n"].as_u64().expect("a number");
            let Payload::Json(payload) = message.payload else {
                panic!("nobody has sent bytes");
            };
            match &*message.event {
                "said" => heard
                    .entry(payload["by"].as_u64().expect("who"))
                    .or_default()
                    .push(n(&payload)),
                "numbered" => pushed.push(n(&payload)),
                "phx_reply" => replied.push(n(&payload)),
                other => panic!("nobody has asked for {other}"),
            }
        }
        assert_whole("pushes", pushed, self.said);
        assert_whole("replies", replied, self.said);
        for (by, said) in said {
            assert_whole("broadcasts", heard.remove(by).unwrap_or_default(), *said);
        }
    }
}

/// Each number from 1 to `last` once, in order.
#[track_caller]
fn assert_whole(what: &str, numbers: Vec<u64>, last: u64) {
    let wrong = (1..).zip(&numbers).find(|(expected, found)| expected != *found);
    assert_eq!(wrong, None, "{what}: expected and found");
    assert_eq!(numbers.len() as u64, last, "{what}: how many");
}
