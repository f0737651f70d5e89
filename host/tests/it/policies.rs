//! Libraries are replaced under members that never pause, over both transports and by each policy; clients of another plugin,
//! and those of another topic where the policy says so, miss nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bennu_tools::client::{self, Options, Payload, Transport};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::client::Client;
use crate::support::http::{plugin, request};
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server, of};

/// What each pushes at least.
const AT_LEAST: usize = 20;
const TRANSPORTS: [(&str, Transport); 2] = [("ws", Transport::WebSocket), ("lp", Transport::LongPoll)];

/// What a member was answered, one push after the other: a count, an error, or nothing, as its channel ended.
#[derive(Clone, Debug, PartialEq)]
enum Heard {
    Counted(u64, u64),
    Refused(Value),
    Ended,
}

/// Members and bystanders that push without a pause.
struct Players {
    stop: Arc<AtomicBool>,
    members: Vec<JoinHandle<Vec<Heard>>>,
    bystanders: Vec<JoinHandle<()>>,
}

impl Players {
    /// One of each over each transport; each member has a topic of its own.
    async fn start(server: &Server) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let mut players = Self {
            stop: Arc::clone(&stop),
            members: Vec::new(),
            bystanders: Vec::new(),
        };
        for (name, transport) in TRANSPORTS {
            let options = Options::new(server.address, transport);
            let mut member = client::Client::connect(&options).await.expect("connected");
            let topic = format!("misbehave:{name}");
            member.join(&topic, json!({})).await.expect("a reply");
            let stopped = Arc::clone(&stop);
            players.members.push(tokio::spawn(async move {
                let mut heard = Vec::new();
                while !stopped.load(Ordering::Relaxed) || heard.len() < AT_LEAST {
                    heard.push(count(&mut member, &topic).await);
                }
                heard
            }));
            let mut bystander = Client::connect_by(server, transport).await;
            let topic = format!("echo:{name}");
            bystander.join(&topic, json!({})).await;
            let stopped = Arc::clone(&stop);
            players.bystanders.push(tokio::spawn(async move {
                let mut n = 0;
                while !stopped.load(Ordering::Relaxed) || n < AT_LEAST {
                    n += 1;
                    assert_eq!(bystander.push(&topic, "echo", json!({ "n": n })).await["n"], n);
                }
                assert_eq!(bystander.rest().await, []);
            }));
        }
        players
    }

    /// What each member was answered. The bystanders have missed nothing.
    async fn stop(self) -> Vec<Vec<Heard>> {
        self.stop.store(true, Ordering::Relaxed);
        for bystander in self.bystanders {
            bystander.await.expect("a bystander missed something");
        }
        let mut heard = Vec::new();
        for member in self.members {
            heard.push(member.await.expect("a member was not answered"));
        }
        heard
    }
}

/// Pushes `count`; a channel that ends is joined again.
async fn count(member: &mut client::Client, topic: &str) -> Heard {
    let reference = member.push(topic, "count", json!({})).await.expect("sent");
    loop {
        let message = member.next().await.unwrap_or_else(|error| panic!("{topic}: {error}"));
        let Payload::Json(payload) = message.payload else {
            continue;
        };
        if message.event == "phx_error" && message.topic == topic {
            loop {
                let joined = member.join(topic, json!({})).await.expect("a reply");
                if joined.status == "ok" {
                    return Heard::Ended;
                }
            }
        }
        if message.msg_ref.as_ref() == Some(&reference) {
            let number = |name: &str| payload[name].as_u64();
            return match (number("topic"), number("version")) {
                (Some(count), Some(version)) => Heard::Counted(count, version),
                _ => Heard::Refused(payload),
            };
        }
    }
}

/// The counts of a member whose channel never ended: none is missing and none comes twice.
#[track_caller]
fn unbroken(heard: &[Heard]) -> Vec<u64> {
    let numbers = heard.iter().map(|answer| match answer {
        Heard::Counted(number, version) => (*number, *version),
        other => panic!("{other:?} in {heard:?}"),
    });
    let (counts, versions): (Vec<_>, Vec<_>) = numbers.unzip();
    let expected: Vec<u64> = (1..).take(counts.len()).collect();
    assert_eq!(counts, expected);
    versions
}

/// The runs of counts between the ends of a channel; each begins anew. What is pushed just as the topic closes may be answered
/// before the client is told that its channel has ended.
#[track_caller]
fn lives(heard: &[Heard]) -> Vec<Vec<u64>> {
    heard
        .split(|heard| *heard == Heard::Ended)
        .map(|life| {
            let crossed = Heard::Refused(json!({ "reason": "unmatched topic" }));
            let versions = unbroken(life.strip_suffix(&[crossed]).unwrap_or(life));
            if let [first, .., last] = &versions[..] {
                assert_eq!(first, last, "each life is of one version");
            }
            versions
        })
        .collect()
}

/// The panics that end a probation here, in a topic of their own.
async fn panic_twice(server: &Server) {
    for _ in 0..2 {
        let mut bad = Client::joined(server, "misbehave:bad").await;
        bad.start("misbehave:bad", "panic", json!({})).await;
        bad.event("misbehave:bad", "phx_error").await;
    }
}

#[tokio::test]
async fn topics_that_drain_stay_on_their_code_through_many_changes() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "reload", "\"drain\"");
    let server = bench.serve().await;
    let players = Players::start(&server).await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    for number in 1..=3 {
        bench.put_numbered("misbehave", Build::MisbehaveV2, number);
        server.in_service("misbehave", number + 2).await;
        let mut new = Client::joined(&server, &format!("misbehave:new{number}")).await;
        let counted = new.push(&format!("misbehave:new{number}"), "count", json!({})).await;
        assert_eq!(counted["version"], 2);
    }
    for heard in players.stop().await {
        assert!(unbroken(&heard).iter().all(|version| *version == 1));
    }
    // The members are gone, and so is the first code when its topics have lingered.
    server.unloaded("misbehave", 1).await;
}

#[tokio::test]
async fn members_that_rejoin_are_all_told_and_served_by_the_new_code() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "reload", "\"rejoin\"");
    let server = bench.serve().await;
    let players = Players::start(&server).await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    server.unloaded("misbehave", 1).await;
    bench.put("misbehave", Build::Misbehave);
    server.in_service("misbehave", 3).await;
    server.unloaded("misbehave", 2).await;
    for heard in players.stop().await {
        let lives = lives(&heard);
        assert_eq!(lives.len(), 3, "two ends");
        for (life, version) in lives.iter().zip([1, 2, 1]) {
            assert!(life.iter().all(|served| *served == version), "{life:?}");
        }
    }
}

#[tokio::test]
async fn members_are_carried_to_and_fro_without_a_gap() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "probation_ms", "60_000");
    bench.set("plugins.misbehave", "probation_panics", "2");
    let server = bench.serve().await;
    let players = Players::start(&server).await;
    for number in 0..2 {
        bench.put_numbered("misbehave", Build::Misbehave, 1 + number as u64);
        server
            .log
            .nth_line(number + 1, &["plugin in service", &of("misbehave")])
            .await;
        panic_twice(&server).await;
        let said = server.log.nth_line(number, &["rolled back to generation"]).await;
        assert!(said.contains("no state is lost"), "{said}");
    }
    for heard in players.stop().await {
        unbroken(&heard);
    }
}

#[tokio::test]
async fn what_goes_back_to_a_snapshot_loses_what_the_line_says() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "probation_ms", "60_000");
    bench.set("plugins.misbehave", "probation_panics", "2");
    let server = bench.serve().await;
    let players = Players::start(&server).await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    panic_twice(&server).await;
    let said = server.log.line(&["rolled back to generation"]).await;
    assert!(said.contains("restored=2"), "{said}");
    for heard in players.stop().await {
        let numbers: Vec<(u64, u64)> = heard
            .iter()
            .map(|heard| match heard {
                Heard::Counted(number, version) => (*number, *version),
                other => panic!("{other:?}"),
            })
            .collect();
        // Without a gap but for one step back, with the version.
        let back: Vec<_> = numbers.windows(2).filter(|pair| pair[1].0 != pair[0].0 + 1).collect();
        assert!(back.len() <= 1, "{back:?}");
        for pair in back {
            assert_eq!((pair[0].1, pair[1].1), (2, 1), "{pair:?}");
            assert!(pair[1].0 <= pair[0].0, "{pair:?}");
        }
    }
}

#[tokio::test]
async fn a_library_built_to_abort_is_refused_in_dev_as_in_serve() {
    for dev in [false, true] {
        let bench = Bench::new();
        let server = if dev { bench.dev().await } else { bench.serve().await };
        let players = Players::start(&server).await;
        bench.put("misbehave", Build::MisbehaveAborts);
        if dev {
            let asked = request(server.admin().await, "PUT", "/plugins/misbehave/reload", "", "").await;
            assert_eq!(asked.status, 202, "{}", asked.body);
        }
        server.log.line(&["library rejected", "panic = "]).await;
        let refusal = plugin(server.admin().await, "misbehave").await["last_refusal"].clone();
        assert_eq!(refusal["code"], "panic_abort", "{refusal}");
        for heard in players.stop().await {
            unbroken(&heard);
        }
    }
}

#[tokio::test]
async fn members_are_carried_over_in_dev_by_each_policy() {
    for policy in ["migrate", "drain", "rejoin"] {
        let bench = Bench::new();
        bench.set("plugins.misbehave", "reload", &format!("{policy:?}"));
        let server = bench.dev().await;
        let players = Players::start(&server).await;
        bench.put("misbehave", Build::MisbehaveV2);
        let admin = server.admin().await;
        assert_eq!(
            request(admin, "PUT", "/plugins/misbehave/reload", "", "").await.status,
            202
        );
        server.log.line(&["misbehave", "generation 2"]).await;
        let mut client = Client::joined(&server, "misbehave:new").await;
        assert_eq!(client.push("misbehave:new", "count", json!({})).await["version"], 2);
        for heard in players.stop().await {
            match policy {
                "rejoin" => assert_eq!(lives(&heard).len(), 2),
                "drain" => assert!(unbroken(&heard).iter().all(|version| *version == 1)),
                _ => assert_eq!(unbroken(&heard).last(), Some(&2)),
            }
        }
    }
}

#[tokio::test]
async fn repeated_panics_of_one_topic_cost_others_what_the_policy_says() {
    for (policy, ends) in [("go_on", 0), ("restart", 1), ("roll_back", 0)] {
        let bench = Bench::new();
        bench.set("plugins.misbehave", "on_panics", &format!("{policy:?}"));
        bench.set("plugins.misbehave", "max_panics", "2");
        let server = bench.serve().await;
        bench.put_numbered("misbehave", Build::Misbehave, 1);
        server.in_service("misbehave", 2).await;
        let players = Players::start(&server).await;
        panic_twice(&server).await;
        if policy != "go_on" {
            server.in_service("misbehave", 3).await;
            server.unloaded("misbehave", 2).await;
        }
        for heard in players.stop().await {
            assert_eq!(lives(&heard).len(), ends + 1, "{policy}");
        }
    }
}

#[tokio::test]
async fn new_topics_of_code_that_fails_while_others_drain_go_back_too() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "reload", "\"drain\"");
    bench.set("plugins.misbehave", "probation_ms", "60_000");
    bench.set("plugins.misbehave", "probation_panics", "2");
    let server = bench.serve().await;
    let players = Players::start(&server).await;
    bench.put_numbered("misbehave", Build::Misbehave, 1);
    server.in_service("misbehave", 2).await;
    let mut new = Client::connect_by(&server, Transport::LongPoll).await;
    new.join("misbehave:new", json!({})).await;
    assert_eq!(new.push("misbehave:new", "count", json!({})).await["topic"], 1);
    panic_twice(&server).await;
    server
        .log
        .line(&["rolled back to generation", "no state is lost"])
        .await;
    assert_eq!(new.push("misbehave:new", "count", json!({})).await["topic"], 2);
    server.unloaded("misbehave", 2).await;
    assert_eq!(new.rest().await, []);
    for heard in players.stop().await {
        unbroken(&heard);
    }
}

#[tokio::test]
async fn where_members_rejoin_on_a_rollback_all_are_told() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "on_rollback", "\"rejoin\"");
    bench.set("plugins.misbehave", "probation_ms", "60_000");
    bench.set("plugins.misbehave", "probation_panics", "2");
    let server = bench.serve().await;
    let players = Players::start(&server).await;
    bench.put("misbehave", Build::MisbehaveV2);
    server.in_service("misbehave", 2).await;
    panic_twice(&server).await;
    let said = server.log.line(&["rolled back to generation", "restored=0"]).await;
    assert!(said.contains("rejoined="), "{said}");
    server.unloaded("misbehave", 2).await;
    for heard in players.stop().await {
        let ends = heard.iter().filter(|heard| **heard == Heard::Ended).count();
        assert_eq!(ends, 1, "{heard:?}");
        assert!(matches!(heard.last(), Some(Heard::Counted(_, 1))));
    }
}

/// In `dev` nothing is abandoned: who mends what hangs must see it mended.
#[tokio::test]
async fn in_dev_code_is_replaced_though_a_handler_of_it_hangs() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "shards", "1");
    let server = bench.dev().await;
    let mut stuck = Client::joined(&server, "misbehave:stuck").await;
    stuck.start("misbehave:stuck", "unruly", json!({ "at": "hang" })).await;
    server.log.line(&["slow handler"]).await;
    bench.put("misbehave", Build::MisbehaveV2);
    let admin = server.admin().await;
    let asked = request(admin, "PUT", "/plugins/misbehave/reload", "", "").await;
    assert_eq!(asked.status, 202);
    server
        .log
        .line(&["could not be moved", "handler is still running"])
        .await;
    let mut client = Client::joined(&server, "misbehave:new").await;
    assert_eq!(client.push("misbehave:new", "count", json!({})).await["version"], 2);
    bench.put_numbered("misbehave", Build::MisbehaveV2, 1);
    request(admin, "PUT", "/plugins/misbehave/reload", "", "").await;
    server.log.line(&["misbehave", "generation 3"]).await;
    assert_eq!(client.push("misbehave:new", "count", json!({})).await["topic"], 2);
    assert_eq!(client.rest().await, []);
}
