//! What waits counts with the memory that it takes, and what waits for a client has a deadline.

use std::net::SocketAddr;

use bennu_tools::client::{Frame, Incoming, Message, Options, RawClient, Transport};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};

use crate::handshake::UPGRADE;
use crate::support::http::{Connection, get_with, metric};
use crate::support::server::{Bench, Server};
use crate::support::wire::{Wire, frame, header};
use crate::support::within;

const MEBIBYTE: u64 = 1 << 20;

async fn raw(server: &Server) -> RawClient {
    let options = Options::new(server.address, Transport::WebSocket);
    RawClient::connect(&options).await.expect("connected")
}

/// A client that has joined `misbehave:t` with the ref 1.
async fn joined(server: &Server) -> RawClient {
    let mut client = raw(server).await;
    client.send(push(1, "phx_join", "{}", 0)).await.expect("sent");
    assert_eq!(next(&mut client).await.status.as_deref(), Some("ok"));
    client
}

/// A message with a payload that is small, in a frame with as much white space.
fn push(number: usize, event: &str, payload: &str, padding: usize) -> Frame {
    let padding = " ".repeat(padding);
    Frame::Text(format!(
        r#"["1","{number}","misbehave:t","{event}",{payload}{padding}]"#
    ))
}

async fn next(client: &mut RawClient) -> Message {
    match client.next().await.expect("a message") {
        Incoming::Frame(frame) => Message::decode(&frame).expect("a message"),
        Incoming::Closed { code } => panic!("closed with {code}"),
    }
}

/// Opens a long-poll session at this mount. Returns its path, token included.
async fn session(server: &Server, mount: &str) -> String {
    let path = format!("{mount}/longpoll?vsn=2.0.0");
    let mut connection = Connection::open(server.address).await;
    connection.send("GET", &path, "", "").await;
    let token = connection.answer().await.json()["token"].as_str().map(str::to_owned);
    format!("{path}&token={}", token.expect("a token"))
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_message_with_a_ref_of_more_than_255_bytes_is_undecodable() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let heartbeat = |len: usize| format!(r#"[null,"{}","phoenix","heartbeat",{{}}]"#, "7".repeat(len));
    let mut client = raw(&server).await;
    client.send(Frame::Text(heartbeat(255))).await.expect("sent");
    assert_eq!(next(&mut client).await.status.as_deref(), Some("ok"));
    client.send(Frame::Text(heartbeat(256))).await.expect("sent");
    assert!(matches!(client.next().await, Ok(Incoming::Closed { code: 1011 })));
    let path = session(&server, "/socket").await;
    let mut connection = Connection::open(server.address).await;
    for (len, status) in [(255, 200), (256, 400)] {
        connection.send("POST", &path, "", &heartbeat(len)).await;
        assert_eq!(connection.answer().await.json()["status"], status);
    }
}

#[tokio::test]
async fn a_mailbox_counts_whole_frames() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "max_mailbox_bytes", "500_000");
    let server = bench.serve().await;
    let mut client = joined(&server).await;
    client.send(push(2, "sleep", r#"{"ms":1500}"#, 0)).await.expect("sent");
    for number in 3..43 {
        client.send(push(number, "echo", "{}", 60_000)).await.expect("sent");
    }
    let mut overloaded = 0;
    for _ in 2..43 {
        overloaded += usize::from(next(&mut client).await.status.as_deref() != Some("ok"));
    }
    // Eight of them have 480,000 bytes, and some may be in the plugin's hands.
    assert!(overloaded >= 30, "{overloaded} were refused");
}

#[tokio::test]
async fn a_reply_that_is_owed_keeps_no_frame() {
    const COUNT: usize = 1_000;
    let bench = Bench::new();
    bench.set("plugins.misbehave", "max_promises_per_topic", "10_000");
    let server = bench.serve().await;
    let mut client = joined(&server).await;
    let before = server.memory();
    for number in 0..COUNT {
        client.send(push(number, "never", "{}", 60_000)).await.expect("sent");
        if number % 10 == 0 {
            // All before it are promised.
            client.send(push(number, "echo", "{}", 0)).await.expect("sent");
            next(&mut client).await;
        }
    }
    let grown = server.memory().saturating_sub(before);
    assert!(grown < 20 * MEBIBYTE, "{COUNT} owed replies keep {grown} bytes");
}

#[tokio::test]
async fn a_channel_is_left_once_however_often_its_client_asks() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut client = joined(&server).await;
    client.send(push(2, "sleep", r#"{"ms":1000}"#, 0)).await.expect("sent");
    let leaves = (3..2_000).map(|number| push(number, "phx_leave", "{}", 0));
    client.send_all(leaves.collect()).await.expect("sent");
    let mut events = Vec::new();
    while events.last().is_none_or(|event| event != "phx_close") {
        events.push(next(&mut client).await.event);
    }
    assert_eq!(
        events,
        ["phx_reply", "phx_reply", "phx_close"],
        "of the sleep, of one leave, of the channel"
    );
    client
        .send(Frame::from(r#"[null,"h","phoenix","heartbeat",{}]"#))
        .await
        .expect("sent");
    assert_eq!(next(&mut client).await.topic, "phoenix", "nothing else is said");
}

#[tokio::test]
async fn joins_that_replace_each_other_while_a_handler_is_busy_are_bounded() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "max_mailbox_events", "1_000");
    let server = bench.serve().await;
    let mut client = joined(&server).await;
    client.send(push(2, "sleep", r#"{"ms":1500}"#, 0)).await.expect("sent");
    let join = |number: usize| Frame::Text(format!(r#"["{number}","{number}","misbehave:t","phx_join",{{}}]"#));
    client.send_all((3..203).map(join).collect()).await.expect("sent");
    let (mut ok, mut overloaded) = (0, 0);
    while ok + overloaded < 200 {
        let message = next(&mut client).await;
        match (&*message.event, message.status.as_deref()) {
            ("phx_reply", Some("error")) => overloaded += 1,
            ("phx_reply", _) if message.msg_ref.as_deref() != Some("2") => ok += 1,
            _ => {}
        }
    }
    assert!((1..=17).contains(&ok), "{ok} joins were taken, {overloaded} refused");
}

#[tokio::test]
async fn pending_joins_that_replace_each_other_are_bounded() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "join_deadline_ms", "600_000");
    let server = bench.serve().await;
    let mut client = raw(&server).await;
    let join = |n: usize| Frame::Text(format!(r#"["{n}","{n}","misbehave:t","phx_join",{{"do":"never"}}]"#));
    let mut overloaded = 0;
    for number in 0..200 {
        client.send(join(number)).await.expect("sent");
        client
            .send(Frame::from(r#"[null,"h","phoenix","heartbeat",{}]"#))
            .await
            .expect("sent");
        loop {
            let message = next(&mut client).await;
            if message.topic == "phoenix" {
                break;
            }
            assert_eq!(message.status.as_deref(), Some("error"));
            overloaded += 1;
        }
    }
    assert!((180..200).contains(&overloaded), "{overloaded} were refused");
}

#[tokio::test]
async fn a_join_that_is_left_leaves_no_timer() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "join_deadline_ms", "600_000");
    let server = bench.serve().await;
    let mut client = raw(&server).await;
    for number in 0..50 {
        client
            .send(push(number, "phx_join", r#"{"do":"never"}"#, 0))
            .await
            .expect("sent");
        client.send(push(number, "phx_leave", "{}", 0)).await.expect("sent");
        while next(&mut client).await.event != "phx_close" {}
    }
    // One that looks whether the topic is still empty, at most.
    assert!(metric(server.admin().await, "bennu_timers").await <= 1);
}

#[tokio::test]
async fn pongs_that_nobody_reads_are_bounded_by_what_they_take() {
    let bench = Bench::new();
    bench.set("limits", "idle_timeout_ms", "60_000");
    let server = bench.serve().await;
    let mut wire = Wire::open(&server).await;
    let before = server.memory();
    for _ in 0..100 {
        wire.write(&frame(0x89, b"").repeat(10_000)).await;
    }
    let grown = server.memory().saturating_sub(before);
    // A million pongs of two bytes are two megabytes to the client, and were eighty to the server.
    assert!(grown < 12 * MEBIBYTE, "{grown} bytes wait");
}

#[tokio::test]
async fn a_client_that_sends_and_takes_nothing_is_cut_off() {
    let bench = Bench::new();
    bench.set("server", "notsent_lowat_bytes", "16_384");
    bench.set("limits", "max_outbound_bytes", "100_000_000");
    bench.set("limits", "idle_timeout_ms", "500");
    let server = bench.serve().await;
    let mut wire = Wire::open(&server).await;
    wire.send(0x81, br#"["1","1","misbehave:t","phx_join",{}]"#).await;
    wire.send(0x81, br#"["1","2","misbehave:t","flood",{"count":1000,"bytes":8000}]"#)
        .await;
    // It is alive all the time.
    let cut_off = async { while wire.try_write(&frame(0x89, b"p")).await.is_ok() {} };
    within("end", cut_off).await;
    assert_eq!(metric(server.admin().await, "bennu_slow_consumers_total").await, 1);
}

/// Waits for the first bytes of a response.
async fn answered(stream: &TcpStream) {
    within("answer", stream.readable()).await.expect("an answer");
}

#[tokio::test]
async fn a_session_is_looked_up_before_its_body_is_read() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let path = session(&server, "/ws").await;
    let admin = server.admin().await;
    until("end of the session", async || metric(admin, "bennu_sockets").await == 0).await;
    let mut stream = TcpStream::connect(server.address).await.expect("connected");
    // Its body never comes.
    let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    answered(&stream).await;
    let mut answer = [0; 1_000];
    let read = stream.try_read(&mut answer).expect("read");
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(answer.ends_with(r#"{"status":410}"#), "{answer}");
}

#[tokio::test]
async fn request_bodies_of_all_clients_together_are_bounded() {
    let bench = Bench::new();
    bench.set("limits", "max_inbound_total_bytes", "1_048_576");
    let server = bench.serve().await;
    let path = session(&server, "/socket").await;
    let mut connections = Vec::new();
    for _ in 0..10 {
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 200001\r\n\r\n");
        let part = head + &"x".repeat(200_000);
        within("part of a body", stream.write_all(part.as_bytes()))
            .await
            .expect("sent");
        connections.push(stream);
    }
    // Those that are too much are answered, though none has ended.
    let refused = async {
        loop {
            for stream in &connections {
                let mut answer = [0; 1_000];
                if let Ok(read) = stream.try_read(&mut answer) {
                    return String::from_utf8_lossy(&answer[..read]).into_owned();
                }
            }
            tokio::task::yield_now().await;
        }
    };
    let answer = within("refusal", refused).await;
    assert!(answer.ends_with(r#"{"status":503}"#), "{answer}");
    // A client with a small body is no cause.
    let mut small = Connection::open(server.address).await;
    small
        .send("POST", &path, "", r#"[null,"1","phoenix","heartbeat",{}]"#)
        .await;
    assert_eq!(small.answer().await.json()["status"], 200);
}

#[tokio::test]
async fn a_message_that_does_not_end_has_a_deadline_whatever_comes_in_between() {
    let bench = Bench::new();
    bench.set("limits", "message_timeout_ms", "300");
    let server = bench.serve().await;
    for begun in [frame(0x01, b"["), header(0x81, 100), vec![0x81]] {
        let mut wire = Wire::open(&server).await;
        // A message that ended counts for nothing.
        wire.send(0x81, br#"[null,"1","phoenix","heartbeat",{}]"#).await;
        assert_eq!(wire.next().await.0, 0x81);
        wire.write(&begun).await;
        if begun == frame(0x01, b"[") {
            // It is alive all the time, and its text grows.
            loop {
                let sent = wire.try_write(&[frame(0x89, b"p"), frame(0x00, b" ")].concat()).await;
                let (first, payload) = wire.next().await;
                if first == 0x88 {
                    assert_eq!(payload[..2], 1002_u16.to_be_bytes());
                    break;
                }
                sent.expect("sent");
            }
        } else {
            assert_eq!(wire.closed().await, 1002);
        }
    }
}

#[tokio::test]
async fn unfinished_messages_of_all_clients_together_are_bounded_and_small_ones_go_on() {
    let bench = Bench::new();
    bench.set("server", "io_threads", "1");
    bench.set("limits", "max_inbound_total_bytes", "1_048_576");
    bench.set("limits", "idle_timeout_ms", "60_000");
    let server = bench.serve().await;
    let admin = server.admin().await;
    let mut small = Wire::open(&server).await;
    small.send(0x01, br#"[null,"1","phoenix","#).await;
    let mut large = Vec::new();
    let part = [header(0x82, 65_000), vec![0; 60_000]].concat();
    for _ in 0..40 {
        let mut wire = Wire::open(&server).await;
        wire.write(&part).await;
        large.push(wire);
    }
    let closed = async || metric(admin, "bennu_sockets").await < 20;
    until("end of those that are too much", closed).await;
    let left = metric(admin, "bennu_sockets").await;
    assert!(left > 10, "sixteen times 60,000 bytes are a mebibyte: {left}");
    let mut last = large.pop().expect("one of forty");
    assert_eq!(last.closed().await, 1013);
    small.send(0x80, br#""heartbeat",{}]"#).await;
    assert_eq!(small.next().await.0, 0x81);
}

#[tokio::test]
async fn endless_empty_fragments_are_refused() {
    let bench = Bench::new();
    let server = bench.serve().await;
    let mut wire = Wire::open(&server).await;
    wire.send(0x01, br#"[null,"1","phoenix","heartbeat",{}]"#).await;
    wire.write(&frame(0x00, b"").repeat(10)).await;
    wire.send(0x80, b"").await;
    assert_eq!(wire.next().await.0, 0x81, "a few do no harm");
    wire.send(0x01, b"[").await;
    wire.write(&frame(0x00, b"").repeat(100)).await;
    assert_eq!(wire.closed().await, 1002);
}

/// A connection that has sent this request, and reads nothing.
async fn deaf(address: SocketAddr, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("set");
    let mut stream = within("connection", socket.connect(address)).await.expect("connected");
    let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream
}

#[tokio::test]
async fn responses_that_nobody_reads_give_their_places_back() {
    let bench = Bench::new();
    bench.set("server", "notsent_lowat_bytes", "16_384");
    bench.set("limits", "max_connections", "8");
    bench.set("limits", "response_timeout_ms", "1_000");
    let longpoll = "{ window_ms = 60_000, max_buffer_bytes = 4_000_000 }";
    bench.set("mounts", "longpoll", longpoll);
    let server = bench.serve().await;
    let opened = session(&server, "/socket").await;
    let mut connection = Connection::open(server.address).await;
    let join = r#"["1","1","misbehave:t","phx_join",{}]"#;
    connection.send("POST", &opened, "", join).await;
    assert_eq!(connection.answer().await.json()["status"], 200);
    connection.send("GET", &opened, "", "").await;
    let token = connection.answer().await.json()["token"].as_str().map(str::to_owned);
    // Polls with this token get all of the flood, again and again.
    let path = format!("/socket/longpoll?vsn=2.0.0&token={}", token.expect("a token"));
    let flood = r#"["1","2","misbehave:t","flood",{"count":100,"bytes":3000}]"#;
    connection.send("POST", &path, "", flood).await;
    assert_eq!(connection.answer().await.json()["status"], 200);
    let admin = server.admin().await;
    until("flood", async || metric(admin, "bennu_messages_out_total").await > 100).await;
    let mut deaf_ones = Vec::new();
    for _ in 0..13 {
        deaf_ones.push(deaf(server.address, &path).await);
    }
    let upgrade = async || {
        get_with(server.address, "/socket/websocket?vsn=2.0.0", UPGRADE)
            .await
            .status
    };
    until("no place is free", async || upgrade().await == 503).await;
    until("their places are free", async || upgrade().await == 101).await;
    for stream in &deaf_ones {
        within(
            "end",
            stream.ready(tokio::io::Interest::ERROR | tokio::io::Interest::READABLE),
        )
        .await
        .expect("polled");
    }
}
