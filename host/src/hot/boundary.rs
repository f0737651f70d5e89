//! To a plugin and back: an event goes into its topic's mailbox, a shard of the plugin `echo` answers, and the answer lies in
//! the inbox of the I/O thread, which this thread plays.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bennu_wire::message::RefText;
use bytes::Bytes;
use bytestring::ByteString;

use super::Path;
use crate::config::{Config, Mode};
use crate::runtime::channel::{Input, Topic};
use crate::runtime::delivery::Delivery;
use crate::runtime::id::MemberId;
use crate::runtime::plugin::Hub;
use crate::runtime::plugin::PluginSlot;
use crate::runtime::plugin::env::{Code, Env};
use crate::runtime::plugin::generation::Generation;
use crate::runtime::plugin::health::{FaultSignal, Health};
use crate::runtime::plugin::manifest::Manifest;
use crate::runtime::plugin::stage::{StagedFile, read_settled};
use crate::runtime::pubsub::PubSub;
use crate::runtime::timers::Timers;
use crate::runtime::wake::{self, PutOff};
use crate::server::io::{Entry, Inbox};

/// So many events, each on a topic of its own, sent together and awaited together: as when so many clients have one in
/// flight each.
pub(super) fn batch(events: usize) -> Path {
    let mut io = Io::new();
    let slot = serve_echo(&io);
    let members: Vec<_> = (0..events)
        .map(|number| (MemberId::new(0, number as u32, 0), join(&slot, number)))
        .collect();
    io.wait_for(events, |entry| matches!(entry, Entry::Deliver(Delivery::Joined { .. })));
    let run = move || {
        wake::together(PutOff::All, || {
            for (member, topic) in &members {
                topic.push(echo(*member)).expect("there is room");
            }
        });
        io.wait_for(events, |entry| matches!(entry, Entry::Deliver(Delivery::Reply { .. })));
    };
    Path {
        run: Box::new(run),
        before: Box::new(|| ()),
    }
}

/// The I/O thread's side.
struct Io {
    inbox: Arc<Inbox>,
    poll: mio::Poll,
    entries: Vec<Entry>,
}

impl Io {
    fn new() -> Self {
        let poll = mio::Poll::new().expect("a poll");
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).expect("a waker");
        Self {
            inbox: Arc::new(Inbox::new(waker, 65_536)),
            poll,
            entries: Vec::new(),
        }
    }

    /// Sleeps as an I/O thread does until so many have come.
    fn wait_for(&mut self, count: usize, wanted: fn(&Entry) -> bool) {
        let mut events = mio::Events::with_capacity(1);
        let mut come = 0;
        while come < count {
            self.inbox.take(&mut self.entries);
            for entry in self.entries.drain(..) {
                assert!(wanted(&entry), "{entry:?}");
                come += 1;
            }
            if come < count && self.inbox.doze() {
                let polled = self.poll.poll(&mut events, Some(Duration::from_secs(60)));
                polled.expect("woken");
                self.inbox.rise();
            }
        }
    }
}

fn serve_echo(io: &Io) -> Arc<PluginSlot> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let library = root.join("target/release/libecho.so");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--locked", "--package", "echo"])
        .current_dir(&root)
        .status();
    assert!(built.expect("cargo runs").success(), "echo does not compile");

    let file = root.join("config/bench.toml");
    let mut config = Config::read(&file, Mode::Dev).expect("a configuration");
    let lines = config.log.lines;
    let config = config.plugins.remove("echo").expect("the plugin");
    let timers = Timers::start().expect("a thread");
    let pubsub = PubSub::new(vec![Box::new(Arc::clone(&io.inbox))]);
    let hub = Arc::new(Hub::new(pubsub, timers, lines));
    let slot = Arc::new(PluginSlot::new("echo".to_owned(), 0, config.clone()));
    let contents = read_settled(&library, || ()).expect("readable");
    let manifest = Manifest::of_library(&contents.bytes).expect("a plugin");
    let env = Env {
        hub,
        slot: Arc::clone(&slot),
        generation: 1,
        health: Arc::new(Health::new(Arc::<FaultSignal>::default(), false)),
        code: Arc::new(Code::of(&manifest)),
        held: None,
    };
    let folder = std::env::temp_dir();
    // A number that no other process has.
    let staged = StagedFile::write(&folder, "echo", u64::from(std::process::id()), &contents).expect("staged");
    let generation = Generation::start(1, manifest, staged, &config, &env).expect("it starts");
    slot.set_current(Some(Arc::new(generation)));
    slot
}

fn join(slot: &PluginSlot, number: usize) -> Arc<Topic> {
    let join = Input::Join {
        member: MemberId::new(0, number as u32, 0),
        params: super::payload(),
        info: Bytes::new(),
        frame_bytes: 0,
        trace: None,
    };
    let topic = ByteString::from(format!("echo:{number}"));
    slot.enter(&topic, || number as u64 + 1, join).expect("it is taken")
}

fn echo(member: MemberId) -> Input {
    Input::In {
        member,
        join_ref: None,
        msg_ref: RefText::new("\"9\"").ok(),
        event: ByteString::from_static("echo"),
        payload: super::payload(),
        frame_bytes: super::PAYLOAD.len() + 32,
        trace: None,
    }
}
