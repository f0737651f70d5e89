//! The codes that a WebSocket is closed with for what the client does on the wire, byte by byte. 1000 is the client's own.

use crate::support::server::Bench;
use crate::support::wire::Wire;

#[tokio::test]
async fn what_breaks_the_rules_is_told_which() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let check = async |first: u8, payload: &[u8], code: u16| {
        let mut wire = Wire::open(&server).await;
        wire.send(first, payload).await;
        assert_eq!(wire.closed().await, code, "{first:x} {payload:?}");
    };
    // No UTF-8, no message, a reserved bit, an opcode that there is not, the rest of nothing, a ping in parts.
    check(0x81, b"\xff", 1007).await;
    check(0x81, b"{", 1011).await;
    check(0x82, b"\x09", 1011).await;
    check(0xc1, b"[]", 1002).await;
    check(0x83, b"", 1002).await;
    check(0x80, b"", 1002).await;
    check(0x09, b"", 1002).await;
    // Close codes that nobody may send.
    check(0x88, &1005_u16.to_be_bytes(), 1002).await;
    check(0x88, b"\x03", 1002).await;
    let mut unmasked = Wire::open(&server).await;
    unmasked.write(&[0x81, 0]).await;
    assert_eq!(unmasked.closed().await, 1002);
}

#[tokio::test]
async fn a_clients_own_code_comes_back_to_it() {
    let bench = Bench::new();
    let server = bench.serve().await;
    for code in [1000_u16, 1001, 3000, 4999] {
        let mut wire = Wire::open(&server).await;
        wire.send(0x88, &code.to_be_bytes()).await;
        assert_eq!(wire.closed().await, code);
    }
    let mut wire = Wire::open(&server).await;
    wire.send(0x88, b"").await;
    assert_eq!(wire.closed().await, 0);
}

#[tokio::test]
async fn pings_are_answered_and_keep_a_connection() {
    let bench = Bench::new();
    bench.set("limits", "idle_timeout_ms", "300");
    let server = bench.serve().await;
    let (mut pinging, mut silent) = (Wire::open(&server).await, Wire::open(&server).await);
    let given_up = tokio::spawn(async move { silent.closed().await });
    // Both were there at the same time: what does not count as a sign of life ends both in the same moment.
    while !given_up.is_finished() {
        pinging.send(0x89, b"ping").await;
        assert_eq!(pinging.next().await, (0x8a, b"ping".to_vec()));
    }
    assert_eq!(given_up.await.expect("closed"), 1002);
    pinging.send(0x89, b"still here").await;
    assert_eq!(pinging.next().await, (0x8a, b"still here".to_vec()));
}
