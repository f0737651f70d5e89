//! A host inside of the test, with a transport and a serializer that it does not bring along: neither needs a word in it.
//!
//! Whole conversations over them stand in `transcripts`, and are the same as over the host's own.

pub(crate) mod client;
pub(crate) mod memory;
pub(crate) mod messagepack;

use std::net::SocketAddr;

use bennu::Entrance;
use bennu::Server;
use bennu::{Config, Mode, ThreadEnded};
use bennu_tools::client::{Frame, Incoming, Options, RawClient, Transport};
use bennu_wire::serializer::{Serializer, Serializers};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::support::server::{Bench, SECRET};
use crate::support::within;
use client::Client;
use messagepack::MessagePack;

/// A host that runs in this process.
pub(crate) struct Host {
    /// Where clients connect that come over a socket.
    pub(crate) address: SocketAddr,
    /// Where all others do.
    pub(crate) entrance: Entrance,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), ThreadEnded>>,
}

impl Host {
    /// Starts it as a bench says, with these serializers at the mounts that are named here.
    pub(crate) async fn start(bench: &Bench, serializers: &[(&str, &'static dyn Serializer)]) -> Self {
        let secret = bench.path("secret");
        std::fs::write(&secret, SECRET).expect("written");
        bench.set("server", "secret_key_base_file", &format!("{secret:?}"));
        let config = Config::read(&bench.config(), Mode::Serve).expect("a configuration");
        let mut builder = Server::builder(config).probe_program(env!("CARGO_BIN_EXE_bennu"));
        for (mount, serializer) in serializers {
            builder = builder.serializers(mount, &Serializers::new([*serializer]));
        }
        let server = builder.start().await.expect("the host starts");
        let (stop, stopped) = oneshot::channel();
        Self {
            address: server.address(),
            entrance: server.entrance(),
            stop,
            running: tokio::spawn(server.run_until(async move { drop(stopped.await) })),
        }
    }

    /// Stops it, and waits for its end.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        let ended = within("end of the host", self.running).await.expect("it ends");
        ended.expect("all its threads lived until then");
    }
}

#[tokio::test]
async fn one_topic_has_clients_of_every_transport_and_serializer() {
    const JOIN: &str = r#"["1","1","echo:all","phx_join",{}]"#;
    let bench = Bench::new();
    bench.append("[[mounts]]\npath = \"/packed\"");
    let host = Host::start(&bench, &[("/packed", &MessagePack)]).await;
    let plain = Options::new(host.address, Transport::WebSocket);
    let packed = Options {
        mount: "/packed".into(),
        ..plain.clone()
    };
    let mut socket = RawClient::connect(&plain).await.expect("it connects");
    let polling = Options::new(host.address, Transport::LongPoll);
    let mut polling = RawClient::connect(&polling).await.expect("it connects");
    let mut memory = Client::connect(&host.entrance, &packed).await.expect("it connects");
    socket.send(JOIN.into()).await.expect("sent");
    polling.send(JOIN.into()).await.expect("sent");
    let pack = |text: &str| {
        let mut bytes = Vec::new();
        let value: rmpv::Value = serde_json::from_str(text).expect("JSON");
        rmpv::encode::write_value(&mut bytes, &value).expect("memory grows");
        Frame::Binary(bytes.into())
    };
    memory.send(pack(JOIN)).await;
    let replies = (
        socket.next().await,
        polling.next().await,
        within("reply", memory.next()).await,
    );
    assert!(matches!(replies, (Ok(_), Ok(_), Some(_))), "{replies:?}");

    let shout = r#"["1","2","echo:all","shout",{"n":[1,"é"]}]"#;
    memory.send(pack(shout)).await;
    let heard = r#"[null,null,"echo:all","shout",{"n":[1,"é"]}]"#;
    for client in [&mut socket, &mut polling] {
        assert_eq!(client.next().await.expect("a broadcast"), Incoming::Frame(heard.into()));
    }
    let broadcast = within("broadcast", memory.next()).await;
    assert_eq!(broadcast, Some(Incoming::Frame(pack(heard))));
    drop(memory);
    host.stop().await;
}

#[tokio::test]
async fn a_transport_of_ones_own_asks_what_the_others_ask() {
    let bench = Bench::new();
    bench.set("mounts", "serializers", "[\"1.0.0\"]");
    let host = Host::start(&bench, &[]).await;
    let check = async |mount: &str, vsn: &str, params: &[(&str, &str)], expected: Option<u16>| {
        let pairs = params
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let options = Options {
            mount: mount.to_owned(),
            vsn: Some(vsn.to_owned()),
            params: pairs.collect(),
            ..Options::new(host.address, Transport::WebSocket)
        };
        let denied = Client::connect(&host.entrance, &options).await.err();
        let status = denied.map(|denied| denied.status.as_u16());
        assert_eq!(status, expected, "{mount} {vsn} {params:?}");
        let refused = match RawClient::connect(&options).await {
            Ok(_) => None,
            Err(bennu_tools::client::ClientError::Refused { status, .. }) => Some(status),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(refused, expected, "over a WebSocket: {mount} {vsn} {params:?}");
    };
    check("/socket", "1.0.0", &[], None).await;
    check("/socket", "2.0.0", &[], Some(403)).await;
    check("/nowhere", "1.0.0", &[], Some(404)).await;
    check("/gate", "2.0.0", &[("token", "open")], None).await;
    check("/gate", "2.0.0", &[("token", "teapot")], Some(418)).await;
    host.stop().await;
}
