//! A server's memory, as clients and topics come and go.
//!
//! `cargo test --release --test it -- --ignored --nocapture memory` is the long form, of 100,000 clients and 10,000 topics.

use crate::support::http::{metric, plugin};
use crate::support::server::{Bench, Server};
use crate::support::wire::Wire;
use crate::support::within;

/// Clients at a time, always as many: what is kept for the most that were ever there is no growth.
const AT_ONCE: usize = 50;

/// Lets so many clients come and go, each in a topic that `topic` names by the client's number.
async fn come_and_go(server: &Server, clients: usize, topic: impl Fn(usize) -> String) {
    for first in (0..clients).step_by(AT_ONCE) {
        let mut wires = Vec::new();
        for number in first..first + AT_ONCE {
            let mut wire = Wire::open(server).await;
            let join = format!(r#"["1","1","{}","phx_join",{{}}]"#, topic(number));
            wire.send(0x81, join.as_bytes()).await;
            wires.push(wire);
        }
        for (number, mut wire) in wires.into_iter().enumerate() {
            assert_eq!(wire.next().await.0, 0x81, "the join's reply");
            if number % 2 == 0 {
                wire.vanish();
            } else {
                wire.send(0x88, &1001_u16.to_be_bytes()).await;
                assert_eq!(wire.closed().await, 1001);
            }
        }
        let admin = server.admin().await;
        within("end of all clients and topics", async {
            while metric(admin, "bennu_sockets").await > 0 || plugin(admin, "echo").await["topics"] != 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// Memory may grow by this `part` of what it is once the `first` clients have gone.
async fn check(first: usize, more: usize, topics: usize, part: u64) {
    let bench = Bench::new();
    bench.set("plugins.echo", "linger_ms", "0");
    bench.set("log", "level", "\"warn\"");
    let server = bench.serve().await;
    let start = server.memory();
    come_and_go(&server, first, |_| "echo:t".to_owned()).await;
    let before = server.memory();
    come_and_go(&server, more, |_| "echo:t".to_owned()).await;
    let after_clients = server.memory();
    come_and_go(&server, topics, |number| format!("echo:{number}")).await;
    let after_topics = server.memory();
    let kib = [start, before, after_clients, after_topics].map(|bytes| bytes / 1024);
    let figures = format!(
        "{} KiB at the start, {} after {first} clients, {} after {more} more, {} after {topics} topics",
        kib[0], kib[1], kib[2], kib[3]
    );
    #[allow(clippy::print_stdout, reason = "it is what one runs this for")]
    {
        println!("{figures}");
    }
    let most = before + before / part;
    assert!(after_clients <= most && after_topics <= most, "{figures}");
}

#[tokio::test]
async fn memory_does_not_grow_with_clients_and_topics_that_have_gone() {
    // A thirtieth is 1 MiB: 200 bytes a client.
    check(1_000, 5_000, 1_000, 30).await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn memory_does_not_grow_with_a_hundred_thousand_clients() {
    check(10_000, 100_000, 10_000, 10).await;
}
