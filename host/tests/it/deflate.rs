//! permessage-deflate: who gets compressed messages, and what becomes of those that inflate too far.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use crate::support::server::{Bench, Server};
use crate::support::wire::Wire;

const OFFER: &str = "sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n";
const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

fn agreed(head: &str) -> Option<&str> {
    let mut lines = head.lines();
    lines.find_map(|line| line.strip_prefix("sec-websocket-extensions: "))
}

fn deflated(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 100);
    let mut deflater = Compress::new(Compression::default(), false);
    deflater
        .compress_vec(message, &mut out, FlushCompress::Sync)
        .expect("deflated");
    out.truncate(out.len() - 4);
    out
}

fn inflated(message: &[u8]) -> String {
    let mut out = Vec::with_capacity(100_000);
    let mut inflater = Decompress::new(false);
    for part in [message, &[0, 0, 0xff, 0xff]] {
        inflater
            .decompress_vec(part, &mut out, FlushDecompress::Sync)
            .expect("inflated");
    }
    String::from_utf8(out).expect("text")
}

async fn joined(server: &Server, headers: &str) -> Wire {
    let (mut wire, _) = Wire::open_with(server, headers).await;
    wire.send(0x81, br#"["1","1","echo:1","phx_join",{}]"#).await;
    let reply = br#"["1","1","echo:1","phx_reply",{"response":{},"status":"ok"}]"#;
    assert_eq!(wire.next().await, (0x81, reply.to_vec()), "too short to be compressed");
    wire
}

#[tokio::test]
async fn nothing_is_compressed_where_the_mount_does_not_say_so() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let (mut wire, head) = Wire::open_with(&server, OFFER).await;
    assert_eq!(agreed(&head), None);
    wire.send(0xc1, &deflated(br#"[null,"1","phoenix","heartbeat",{}]"#))
        .await;
    assert_eq!(wire.closed().await, 1002);
}

#[tokio::test]
async fn a_broadcast_comes_compressed_to_those_who_agreed_and_plain_to_the_others() {
    let bench = Bench::new();
    bench.set("mounts", "deflate", "true");
    let server = bench.serve().await;
    let small = "sec-websocket-extensions: permessage-deflate; server_max_window_bits=9\r\n";
    let (_, head) = Wire::open_with(&server, OFFER).await;
    assert_eq!(agreed(&head), Some(ANSWER));
    let (_, head) = Wire::open_with(&server, small).await;
    assert_eq!(agreed(&head), Some(&*format!("{ANSWER}; server_max_window_bits=9")));
    let (_, head) = Wire::open_with(&server, "").await;
    assert_eq!(agreed(&head), None);

    let mut wires = Vec::new();
    for headers in [OFFER, OFFER, small, ""] {
        wires.push(joined(&server, headers).await);
    }
    // Spaces, which any window will do for, and noise that comes again beyond what a window of 512 bytes sees.
    let mut seed = 1_u32;
    let noise: String = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'a' + (seed >> 24) as u8 % 26)
    })
    .take(800)
    .collect();
    let payload = format!(r#"{{"twice":["{noise}","{noise}","{}"]}}"#, " ".repeat(3_000));
    let shout = format!(r#"["1","2","echo:1","shout",{payload}]"#);
    wires[0].send(0xc1, &deflated(shout.as_bytes())).await;
    let plain = format!(r#"[null,null,"echo:1","shout",{payload}]"#);
    let mut lengths = Vec::new();
    for wire in &mut wires {
        let (first, message) = wire.next().await;
        lengths.push(message.len());
        let compressed = lengths.len() < 4;
        let text = if compressed {
            inflated(&message)
        } else {
            String::from_utf8(message).expect("text")
        };
        assert_eq!((first, text), (if compressed { 0xc1 } else { 0x81 }, plain.clone()));
    }
    // The small window does not see that the noise comes again.
    assert!(
        lengths[0] == lengths[1] && lengths[1] + 500 < lengths[2] && lengths[2] < lengths[3],
        "{lengths:?}"
    );
}

#[tokio::test]
async fn a_bomb_closes_its_connection_with_1009_and_takes_no_memory() {
    let bench = Bench::new();
    bench.set("mounts", "deflate", "true");
    let server = bench.serve().await;
    let limit = 65_536;
    let mut most = br#"[null,"1","phoenix","heartbeat",{}]"#.to_vec();
    most.resize(limit, b' ');
    let (mut wire, _) = Wire::open_with(&server, OFFER).await;
    wire.send(0xc1, &deflated(&most)).await;
    assert_eq!(wire.next().await.0, 0x81, "that was no byte too much");
    wire.send(0xc1, &deflated(&vec![b' '; limit + 1])).await;
    assert_eq!(wire.closed().await, 1009);
    // A thousand times as long, in what is less than the limit; whole, and in two parts.
    let bomb = deflated(&vec![b' '; limit * 900]);
    assert!(bomb.len() < limit);
    let before = server.peak_memory();
    let (mut wire, _) = Wire::open_with(&server, OFFER).await;
    wire.send(0xc2, &bomb).await;
    assert_eq!(wire.closed().await, 1009);
    let (mut wire, _) = Wire::open_with(&server, OFFER).await;
    wire.send(0x42, &bomb[..1_000]).await;
    wire.send(0x80, &bomb[1_000..]).await;
    assert_eq!(wire.closed().await, 1009);
    let grown = server.peak_memory() - before;
    assert!(grown < 8 << 20, "59 MB of spaces took {grown} bytes");
}

#[tokio::test]
async fn what_cannot_be_inflated_closes_its_connection_with_1007() {
    let bench = Bench::new();
    bench.set("mounts", "deflate", "true");
    let server = bench.serve().await;
    let (mut wire, _) = Wire::open_with(&server, OFFER).await;
    wire.send(0xc1, b"\xff\xff\xff").await;
    assert_eq!(wire.closed().await, 1007);
}
