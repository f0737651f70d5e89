//! What happens to every message, each piece by itself, ready to be run again and again.

mod boundary;
mod fanout;

use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::Path as File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bennu_wire::message::{Outgoing, Payload, TopicName};
use bennu_wire::pattern::TopicPattern;
use bennu_wire::serializer::v2::V2;
use bennu_wire::serializer::{Incoming, Serializer as _};

use crate::config::{Config, Crypto, Digest, Mode, Paces, Route};
use crate::runtime::router::Router;
use crate::server::limits::{ClientRates, ClientSpent};
use crate::server::transport::longpoll::token::{Position, TokenKey};
use crate::server::transport::websocket::frame::{Decoder, Frame, Input, Rules};

/// The payload of all messages here, 128 bytes.
const PAYLOAD: &str = r#"{"t":"0000000000000000","p":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}"#;

/// One of them.
pub struct Path {
    /// Does it once. What is to be prepared or tidied each time lies in [`Path::before`].
    pub run: Box<dyn FnMut()>,
    /// What has to be done before each run, and is not measured where that is possible.
    pub before: Box<dyn FnMut()>,
}

/// Makes the path of this name ready. Some take a while.
pub fn path(name: &str) -> Path {
    match name {
        "frame_in" => once(frame_in()),
        "decode" => once(decode()),
        "encode_reply" => once(encode_reply()),
        "encode_broadcast" => once(encode_broadcast()),
        "route_of_10" => once(route(10)),
        "route_of_10000" => once(route(10_000)),
        "client_limits" => once(client_limits()),
        "seal_token" => once(seal_token()),
        "open_token" => once(open_token()),
        "fanout_1000" => fanout::to(messages(name)),
        "boundary_1" | "boundary_16" | "boundary_64" => boundary::batch(messages(name)),
        other => panic!("there is no path {other}"),
    }
}

/// How many messages one run of this path is for.
pub fn messages(name: &str) -> usize {
    match name.split_once('_') {
        Some(("fanout" | "boundary", number)) => number.parse().expect("a number"),
        _ => 1,
    }
}

/// All names that [`path`] knows.
pub const NAMES: [&str; 13] = [
    "frame_in",
    "decode",
    "encode_reply",
    "encode_broadcast",
    "route_of_10",
    "route_of_10000",
    "client_limits",
    "seal_token",
    "open_token",
    "fanout_1000",
    "boundary_1",
    "boundary_16",
    "boundary_64",
];

fn once(run: impl FnMut() + 'static) -> Path {
    Path {
        run: Box::new(run),
        before: Box::new(|| ()),
    }
}

fn message() -> String {
    format!(r#"["1","9","echo:17","echo",{PAYLOAD}]"#)
}

/// A client's frame: unmasked, checked, made a message.
fn frame_in() -> impl FnMut() {
    let message = message();
    let mask = [1, 2, 3, 4];
    let mut masked = vec![0x81, 0x80 | 126];
    masked.extend((message.len() as u16).to_be_bytes());
    masked.extend(mask);
    masked.extend(message.bytes().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    let (mut decoder, mut bytes) = (Decoder::default(), masked.clone());
    let rules = Rules {
        max_message: 1 << 20,
        deflate: false,
    };
    move || {
        // It is unmasked in place.
        bytes.copy_from_slice(&masked);
        let fed = decoder.feed(&mut bytes, rules, |input| {
            assert!(matches!(black_box(input), Input::Message(_)));
            ControlFlow::Continue(())
        });
        assert_eq!(fed, Ok(masked.len()));
    }
}

fn decode() -> impl FnMut() {
    let text = Incoming::Text(message().into());
    move || {
        let message = V2.decode(text.clone());
        assert!(black_box(message).is_ok());
    }
}

fn payload() -> Payload {
    Payload::Json(PAYLOAD.into())
}

fn encode_reply() -> impl FnMut() {
    let (topic, payload) = (TopicName::Text("echo:17".into()), payload());
    move || {
        encode(&Outgoing::Reply {
            join_ref: Some("\"1\""),
            msg_ref: Some("\"9\""),
            topic: &topic,
            status: "ok",
            payload: &payload,
        });
    }
}

fn encode_broadcast() -> impl FnMut() {
    let payload = payload();
    move || {
        encode(&Outgoing::Broadcast {
            topic: "echo:17",
            event: "shout",
            payload: &payload,
        });
    }
}

fn encode(message: &Outgoing<'_>) {
    let frame = Frame::build(|out| V2.encode(message, out));
    assert!(black_box(frame).is_ok());
}

/// The last of so many routes.
fn route(count: usize) -> impl FnMut() {
    let mut config = empty_config();
    config.routes = (0..count).map(a_route).collect();
    let router = Router::new(&config);
    let topic = format!("area{}:lobby", count - 1);
    move || assert!(black_box(router.find(black_box(&topic), "websocket", "/socket")).is_some())
}

fn a_route(number: usize) -> Arc<Route> {
    Arc::new(Route {
        topic: TopicPattern::parse(&format!("area{number}:*")).expect("a pattern"),
        plugin: "echo".to_owned(),
        transports: None,
        mounts: None,
        assigns: None,
        replaceable: Vec::new(),
        limits: Paces::default(),
    })
}

/// A message of a client that is far from its limits, with the limits that there are by default.
fn client_limits() -> impl FnMut() {
    let (mut rates, spent) = (
        ClientRates::new(&empty_config().limits, Instant::now()),
        ClientSpent::default(),
    );
    let mut now = Instant::now();
    move || {
        now += Duration::from_millis(2);
        rates.turn(now);
        assert!(black_box(rates.take(black_box(&spent), false, black_box(160))).is_ok());
    }
}

fn empty_config() -> Config {
    Config::parse(File::new("bennu.toml"), "", Mode::Dev).expect("an empty file is a configuration")
}

const NOW_MS: u64 = 1_000_000;
const POSITION: Position = Position {
    node: 1,
    io_thread: 2,
    session: [3; 16],
    last: 4,
};

fn token_key() -> TokenKey {
    let crypto = Crypto {
        iterations: 1,
        length: 32,
        digest: Digest::Sha256,
        cache: true,
    };
    TokenKey::derive(b"a secret", "/socket", &crypto)
}

fn seal_token() -> impl FnMut() {
    let key = token_key();
    move || drop(black_box(key.seal(black_box(&POSITION), NOW_MS)))
}

fn open_token() -> impl FnMut() {
    let key = token_key();
    let token = key.seal(&POSITION, NOW_MS);
    move || assert!(black_box(key.open(black_box(&token), NOW_MS)).is_some())
}
