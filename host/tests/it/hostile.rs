//! Clients that mean harm, byte by byte, while one that means none is served on another topic: it must notice nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::client::Client;
use crate::support::http::metric;
use crate::support::server::{Bench, Server};
use crate::support::wire::{Wire, frame, header};
use crate::support::within;

/// A message of the largest size may have so many bytes.
const LIMIT: usize = 65_536;

/// Clients on topics of their own, one for each I/O thread and one more. Each sends and is sent to without a pause.
struct Bystanders {
    enough: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<u64>>,
}

impl Bystanders {
    async fn watch(server: &Server) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for number in 0..3 {
            let topic = format!("echo:bystander.{number}");
            let client = Client::joined(server, &topic).await;
            tasks.push(tokio::spawn(live(client, topic, Arc::clone(&enough))));
        }
        Self { enough, tasks }
    }

    /// All of them have been served all the time: every call answered, every broadcast there, in order.
    async fn noticed_nothing(self) {
        self.enough.store(true, Ordering::Relaxed);
        for task in self.tasks {
            let rounds = within("bystander", task).await.expect("a client that noticed nothing");
            assert!(rounds > 1, "{rounds} rounds");
        }
    }
}

async fn live(mut client: Client, topic: String, enough: Arc<AtomicBool>) -> u64 {
    let mut rounds = 0;
    while rounds < 2 || !enough.load(Ordering::Relaxed) {
        assert_eq!(client.push(&topic, "shout", json!({ "n": rounds })).await, json!({}));
        assert_eq!(client.event(&topic, "shout").await["n"], Value::from(rounds));
        assert_eq!(client.push(&topic, "echo", json!({ "n": rounds })).await["n"], rounds);
        let rest = client.rest().await;
        assert!(rest.is_empty(), "nothing else is for it: {rest:?}");
        rounds += 1;
    }
    rounds
}

/// Waits until the server has no sockets but those of the bystanders.
async fn rid_of_the_others(server: &Server) {
    let admin = server.admin().await;
    within("end of all others", async {
        while metric(admin, "bennu_sockets").await != 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Sends this in one piece and byte by byte, on a connection each; the server closes both with the code.
async fn check(server: &Server, bytes: &[u8], code: u16) {
    let shown = &bytes[..bytes.len().min(20)];
    let mut whole = Wire::open(server).await;
    whole.write(bytes).await;
    assert_eq!(whole.closed().await, code, "{shown:x?}");
    whole.ended().await;
    if bytes.len() > 1_000 {
        return;
    }
    let mut slow = Wire::open(server).await;
    for byte in bytes {
        // It may be found out, and cut off, before the last.
        if slow.try_write(&[*byte]).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(slow.closed().await, code, "byte by byte: {shown:x?}");
}

#[tokio::test]
async fn headers_that_lie() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let bystanders = Bystanders::watch(&server).await;
    // More than may be, told by the header alone: not one byte of it has come.
    for length in [LIMIT as u64 + 1, 1 << 20, 1 << 40, (1 << 63) - 1] {
        check(&server, &header(0x82, length), 1009).await;
        check(&server, &[frame(0x01, b"a"), header(0x80, length)].concat(), 1009).await;
    }
    check(&server, &header(0x82, 1 << 63), 1002).await;
    check(&server, &header(0x82, u64::MAX), 1002).await;
    // As much as may be, by many, who send nothing of it.
    let before = server.memory();
    let mut promising = Vec::new();
    for _ in 0..100 {
        let mut wire = Wire::open(&server).await;
        wire.write(&header(0x82, LIMIT as u64)).await;
        wire.write(b"x").await;
        promising.push(wire);
    }
    let grown = server.memory().saturating_sub(before);
    assert!(grown < 100 * LIMIT as u64, "a hundred promises took {grown} bytes");
    for wire in promising {
        wire.vanish();
    }
    rid_of_the_others(&server).await;
    bystanders.noticed_nothing().await;
}

#[tokio::test]
async fn frames_that_break_the_rules() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let bystanders = Bystanders::watch(&server).await;
    for bits in [0x10, 0x20, 0x40, 0x70] {
        check(&server, &frame(0x81 | bits, b"[]"), 1002).await;
        check(&server, &frame(0x89 | bits, b""), 1002).await;
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        check(&server, &frame(0x80 | opcode, b""), 1002).await;
    }
    // Without a mask; with one, as it should be, before that.
    check(&server, b"\x81\x02[]", 1002).await;
    check(&server, &[frame(0x89, b"").as_slice(), b"\x89\x00"].concat()[6..], 1002).await;
    // Control frames in parts, or too long.
    for opcode in [8, 9, 10] {
        check(&server, &frame(opcode, b""), 1002).await;
        check(&server, &frame(0x80 | opcode, &[b'x'; 126]), 1002).await;
    }
    // More of nothing; a message inside another.
    check(&server, &frame(0x80, b"more"), 1002).await;
    check(&server, &frame(0x00, b"more"), 1002).await;
    check(&server, &[frame(0x01, b"["), frame(0x81, b"[]")].concat(), 1002).await;
    check(&server, &[frame(0x01, b"["), frame(0x02, b"")].concat(), 1002).await;
    // Parts that are each small enough, and together not.
    let parts: Vec<_> = std::iter::repeat_n(frame(0x00, &[b'x'; 1_000]), LIMIT / 1_000).collect();
    let large = [frame(0x01, &[b'x'; 1_000]), parts.concat()].concat();
    check(&server, &large, 1009).await;
    rid_of_the_others(&server).await;
    bystanders.noticed_nothing().await;
}

#[tokio::test]
async fn text_that_is_none_in_any_number_of_parts() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let bystanders = Bystanders::watch(&server).await;
    check(&server, &frame(0x81, b"[\"\xc0\xaf\"]"), 1007).await;
    // Told at the first byte that cannot be, though the message is not at its end.
    check(&server, &[frame(0x01, b"\xf0\x9f"), frame(0x00, b"x")].concat(), 1007).await;
    check(&server, &frame(0x01, b"\xed\xa0\x80"), 1007).await;
    check(&server, &[header(0x81, 100), b"\xff".to_vec()].concat(), 1007).await;
    check(
        &server,
        &[frame(0x01, b"\xf0\x9f\x98"), frame(0x80, b"")].concat(),
        1007,
    )
    .await;
    // A character over four frames, pings between them, is one.
    let mut wire = Wire::open(&server).await;
    wire.send(0x01, br#"[null,""#).await;
    for byte in "😀".bytes() {
        wire.send(0x00, &[byte]).await;
        wire.send(0x89, b"p").await;
        assert_eq!(wire.next().await, (0x8a, b"p".to_vec()));
    }
    wire.send(0x80, br#"","phoenix","heartbeat",{}]"#).await;
    let reply = r#"[null,"😀","phoenix","phx_reply",{"response":{},"status":"ok"}]"#;
    assert_eq!(wire.next().await, (0x81, reply.as_bytes().to_vec()));
    wire.vanish();
    rid_of_the_others(&server).await;
    bystanders.noticed_nothing().await;
}

#[tokio::test]
async fn more_than_anyone_needs() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let bystanders = Bystanders::watch(&server).await;
    let mut wire = Wire::open(&server).await;
    // A message in as many parts as it has bytes is a message after all.
    let (first, rest) = br#"[null,"1","phoenix","heartbeat",{}]"#.split_first().expect("a byte");
    wire.send(0x01, &[*first]).await;
    wire.write(&rest.iter().flat_map(|byte| frame(0x00, &[*byte])).collect::<Vec<_>>())
        .await;
    wire.send(0x80, b"").await;
    assert_eq!(wire.next().await.0, 0x81);
    // Pings, whose answers nobody reads: what waits for the client is bounded, and a pong may be left out.
    let before = server.memory();
    for _ in 0..200 {
        if wire.try_write(&frame(0x89, &[b'p'; 125]).repeat(1_000)).await.is_err() {
            break;
        }
    }
    let grown = server.memory().saturating_sub(before);
    assert!(grown < 16 << 20, "26 MB of pings took {grown} bytes");
    wire.vanish();
    rid_of_the_others(&server).await;
    bystanders.noticed_nothing().await;
}

#[tokio::test]
async fn peers_that_stop_half_way() {
    let bench = Bench::new();
    bench.set("limits", "header_timeout_ms", "300");
    let server = bench.serve().await;
    let bystanders = Bystanders::watch(&server).await;
    // In the handshake: nothing, or half of it, until its time is over.
    let mut handshakes = Vec::new();
    for head in ["", "GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nhost: a\r\nupgr"] {
        let mut wire = Wire::connect(&server).await;
        wire.write(head.as_bytes()).await;
        handshakes.push(wire);
    }
    for wire in &mut handshakes {
        wire.ended().await;
    }
    // In a header, in a payload, between two parts; then they send no more, or are gone.
    let stops = [
        vec![],
        vec![0x81],
        header(0x81, 100),
        [header(0x81, 100), b"[".to_vec()].concat(),
        frame(0x01, b"["),
        frame(0x81, br#"["1","1","echo:other","phx_join",{}]"#),
    ];
    for bytes in &stops {
        let mut half = Wire::open(&server).await;
        half.write(bytes).await;
        half.shut().await;
        half.ended().await;
        let mut gone = Wire::open(&server).await;
        gone.write(bytes).await;
        gone.vanish();
    }
    rid_of_the_others(&server).await;
    bystanders.noticed_nothing().await;
}

#[tokio::test]
async fn peers_that_are_silent_in_the_middle_of_a_frame() {
    let bench = Bench::new();
    bench.set("limits", "idle_timeout_ms", "1_000");
    let server = bench.serve().await;
    let bystanders = Bystanders::watch(&server).await;
    for bytes in [vec![0x81], header(0x81, 100), frame(0x01, b"[")] {
        let mut wire = Wire::open(&server).await;
        wire.write(&bytes).await;
        assert_eq!(wire.closed().await, 1002);
    }
    rid_of_the_others(&server).await;
    bystanders.noticed_nothing().await;
}

#[tokio::test]
async fn noise() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let bystanders = Bystanders::watch(&server).await;
    let mut seed = 1_u64;
    let mut noise = || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 56) as u8
    };
    for round in 0..60 {
        let mut bytes: Vec<u8> = (0..2_000).map(|_| noise()).collect();
        // Some of it begins like a frame that is none yet.
        match round % 3 {
            0 => {}
            1 => bytes.splice(..0, frame(0x01, b"[")).for_each(drop),
            _ => bytes.splice(..0, header(0x82, 3_000)).for_each(drop),
        }
        let mut wire = Wire::open(&server).await;
        // Whatever it meant: it may be found out before its end.
        if wire.try_write(&bytes).await.is_ok() {
            let _ = wire.shut().await;
        }
        wire.ended().await;
    }
    rid_of_the_others(&server).await;
    bystanders.noticed_nothing().await;
}
