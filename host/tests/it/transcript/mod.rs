//! Runs whole conversations: the files in `host/tests/it/transcripts`, each over every transport and in every version that
//! it applies to, against a server of its own. They are written in version 2, those in the folder `v1` in version 1, and
//! those in the folder `phoenix_0_11` in the dialect of Phoenix 0.11, which the mount `/ws` speaks.
//!
//! Those of version 2 also run against `bennu_plugin::test`, the test kit of plugins, so that it and the server cannot drift
//! apart. What the folders `v1` and `phoenix_0_11` add is how the wire says it, which the kit does not have.
//!
//! A transcript is read from top to bottom. Each line says what one client does; clients have names of letters.
//!
//! ```text
//! # What the conversation shows.
//! a: connect /gate?token=open          where to, for the first line of `a`; otherwise /socket
//! a> ["1","1","echo:a","phx_join",{}]  `a` sends text
//! a>hex 00 01 …                        `a` sends bytes
//! a>400 nonsense                       long polling answers the message with status 400, not 200
//! a< ["1","1","echo:a","phx_reply",*]  the next message that `a` gets
//! a<hex 02 …                           the same for bytes
//! a< close 1001                        the server closes: a close code, or the status of a poll
//! a: quiet                             nothing has come for `a` yet: a heartbeat is answered, and nothing comes before
//! a: close                             `a` says goodbye
//! ws: … lp: …                          lines for one transport only
//! bytes: …                             lines for versions in which clients have binary messages to send
//! server: …                            lines about what only the server has: limits, deadlines, a second plugin
//! ```
//!
//! In expected JSON `*` stands for any value; `$name` for any value at first, and the same one from then on, also in what
//! is sent. Nothing waits for a time: that nothing comes is shown by what comes instead.

mod caller;
mod kit;
mod line;
mod messagepack;
pub(crate) mod pattern;
mod version;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use bennu_tools::client::{Frame, Incoming, Options, Transport};
use serde_json::Value;

use crate::seams::Host;
use crate::seams::messagepack::MessagePack;
use crate::support::server::Bench;
use caller::{Caller, Place};
use kit::Kit;
use line::{Expected, Line, Sent, What};

pub(crate) use caller::Over;
pub(crate) use pattern::Captures;
pub(crate) use version::Version;

/// Makes tests of each file: one for each transport and version, and one for the test kit. What a file does not apply to stands
/// behind its name, with the reason.
macro_rules! transcripts {
    ($($name:ident $((not $way:ident: $why:literal))*)*) => {
        $(mod $name {
            ways!($name $(not $way)*);
        })*

        const LISTED: &[&str] = &[$(stringify!($name)),*];

        #[test]
        fn every_transcript_is_listed() {
            assert_eq!(super::found(WRITTEN), LISTED, "in the folder, and in the list, in their order");
        }
    };
}

/// The tests of one file in one version.
macro_rules! way {
    ($module:ident $version:ident $name:ident) => {
        mod $module {
            use super::super::WRITTEN;
            use $crate::transcript::{Over, Version, run};

            #[tokio::test]
            async fn websocket() {
                run(WRITTEN, stringify!($name), Version::$version, Over::WebSocket).await;
            }

            #[tokio::test]
            async fn longpoll() {
                run(WRITTEN, stringify!($name), Version::$version, Over::LongPoll).await;
            }

            #[tokio::test]
            async fn memory() {
                run(WRITTEN, stringify!($name), Version::$version, Over::Memory).await;
            }
        }
    };
}

/// The same for Supabase's clients, who have only WebSocket.
macro_rules! supabases_way {
    ($module:ident $version:ident $name:ident) => {
        #[tokio::test]
        async fn $module() {
            use $crate::transcript::{Over, Version, run};
            run(WRITTEN, stringify!($name), Version::$version, Over::WebSocket).await;
        }
    };
}

/// Written in version 2, and spoken in all of today's.
mod modern {
    macro_rules! ways {
        ($name:ident) => {
            ways!($name not v1);
            ways!(v1 $name);
        };
        ($name:ident not kit) => {
            ways!($name not v1 not kit);
            ways!(v1 $name);
        };
        ($name:ident not v1) => {
            ways!($name not v1 not kit);

            #[tokio::test]
            async fn kit() {
                use super::super::{Over, Version, run};
                run(super::WRITTEN, stringify!($name), Version::V2, Over::Kit).await;
            }
        };
        // What says nothing of bytes.
        (v1 $name:ident) => {
            use super::WRITTEN;
            way!(v1 V1 $name);
            supabases_way!(supabase_v1 SupabaseV1 $name);
            supabases_way!(supabase_v2 SupabaseV2 $name);
        };
        ($name:ident not v1 not kit) => {
            way!(v2 V2 $name);
            way!(messagepack MessagePack $name);
        };
    }

    const WRITTEN: super::Version = super::Version::V2;
    include!("list.rs");
}

/// What only version 1 says so.
mod v1 {
    macro_rules! ways {
        ($name:ident) => {
            way!(v1 V1 $name);
        };
    }

    const WRITTEN: super::Version = super::Version::V1;
    include!("list_v1.rs");
}

/// The dialect of Phoenix 0.11.
mod phoenix_0_11 {
    macro_rules! ways {
        ($name:ident) => {
            way!(phoenix_0_11 Phoenix011 $name);
        };
    }

    const WRITTEN: super::Version = super::Version::Phoenix011;
    include!("list_phoenix_0_11.rs");
}

/// For clients that need no address.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The transcripts that are written in a version, sorted.
pub(crate) fn found(written: Version) -> Vec<String> {
    let files = std::fs::read_dir(folder(written)).expect("the folder of transcripts");
    let mut names: Vec<String> = files
        .map(|file| file.expect("a file").path())
        .filter(|path| path.is_file())
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn folder(written: Version) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/transcripts")
        .join(written.folder())
}

/// Runs one transcript in one version over one transport: against the program, unless either of them is the tests' own.
async fn run(written: Version, name: &str, version: Version, over: Over) {
    let file = format!("{name}.txt");
    let text = std::fs::read_to_string(folder(written).join(&file)).expect("the transcript");
    if over == Over::Kit {
        let mut conversation = Conversation::new(version.options(NOWHERE, over), written, version);
        conversation.place = Place::Kit(Kit::default());
        return conversation.play(&file, &text).await;
    }
    let bench = Bench::new();
    // A client of a long conversation is silent for a while.
    bench.set("limits", "idle_timeout_ms", "30_000");
    if version.is_supabases() {
        bench.append("[[mounts]]\npath = \"/supabase\"\ndialect = \"supabase\"\nmax_channels_per_socket = 10\n");
    }
    if over != Over::Memory && version != Version::MessagePack {
        let server = bench.serve().await;
        let options = version.options(server.address, over);
        return Conversation::new(options, written, version).play(&file, &text).await;
    }
    let host = match version {
        Version::MessagePack => Host::start(&bench, &[("/socket", &MessagePack), ("/gate", &MessagePack)]).await,
        _ => Host::start(&bench, &[]).await,
    };
    let mut conversation = Conversation::new(version.options(host.address, over), written, version);
    if over == Over::Memory {
        conversation.place = Place::Memory(host.entrance.clone());
    }
    conversation.play(&file, &text).await;
    drop(conversation);
    host.stop().await;
}

/// Runs one transcript as it is written against servers that run already at an address.
pub(crate) async fn run_at(address: SocketAddr, written: Version, name: &str, over: Over) {
    let file = format!("{name}.txt");
    let text = std::fs::read_to_string(folder(written).join(&file)).expect("the transcript");
    Conversation::new(written.options(address, over), written, written)
        .play(&file, &text)
        .await;
}

/// The clients of a transcript, as far as it is played.
pub(crate) struct Conversation {
    options: Options,
    written: Version,
    version: Version,
    /// Where its clients connect.
    place: Place,
    clients: HashMap<String, Caller>,
    captures: Captures,
    beats: u32,
}

impl Conversation {
    /// Of clients that speak `version`, after a transcript that is written in `written`.
    pub(crate) fn new(options: Options, written: Version, version: Version) -> Self {
        Self {
            options,
            written,
            version,
            place: Place::Address,
            clients: HashMap::new(),
            captures: Captures::default(),
            beats: 0,
        }
    }

    /// Plays the text of `file`, or says what is different.
    pub(crate) async fn play(&mut self, file: &str, text: &str) {
        let lines: Vec<Line> = line::read(text).unwrap_or_else(|error| panic!("{file}:{error}"));
        let (transport, sends_bytes) = (self.options.transport, self.version.sends_bytes());
        let has_server = !matches!(self.place, Place::Kit(_));
        let applies = |line: &&Line| {
            line.only.is_none_or(|only| only == transport)
                && (sends_bytes || !line.bytes)
                && (has_server || !line.server)
        };
        for line in lines.iter().filter(applies) {
            if let Err(difference) = self.play_line(line).await {
                let (number, text, version) = (line.number, &line.text, self.version);
                let over = match self.place {
                    Place::Address => transport.name(),
                    Place::Memory(_) => "memory",
                    Place::Kit(_) => "the test kit",
                };
                panic!("{file}:{number} in {version:?} over {over}\n  line      {text}\n{difference}");
            }
        }
    }

    async fn play_line(&mut self, line: &Line) -> Result<(), String> {
        match &line.what {
            What::Connect(to) => self.connect(&line.client, to).await,
            What::Send(sent, status) => self.send(&line.client, sent, *status).await,
            What::Expect(expected) => {
                let pattern = self.version.expect(self.written, expected);
                self.expect(&line.client, expected, pattern).await
            }
            What::Quiet => self.quiet(&line.client).await,
            What::Close => match self.clients.remove(&line.client) {
                Some(client) => client.close().await,
                None => Err("  there is no such client".into()),
            },
        }
    }

    async fn connect(&mut self, name: &str, to: &str) -> Result<(), String> {
        let (mount, query) = to.split_once('?').unwrap_or((to, ""));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let options = Options {
            mount: mount.to_owned(),
            params: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            ..self.options.clone()
        };
        let client = Caller::connect(&options, &self.place).await?;
        self.clients.insert(name.to_owned(), client);
        Ok(())
    }

    /// The client of this name, which connects to the dialect's own mount where nothing else was said.
    async fn client(&mut self, name: &str) -> Result<&mut Caller, String> {
        if !self.clients.contains_key(name) {
            let mount = self.options.mount.clone();
            self.connect(name, &mount).await?;
        }
        Ok(self.clients.get_mut(name).expect("it is there now"))
    }

    async fn send(&mut self, name: &str, sent: &Sent, status: u16) -> Result<(), String> {
        let frame = match sent {
            Sent::Text(text) => Frame::Text(self.captures.fill_in(text)?),
            Sent::Binary(bytes) => Frame::Binary(bytes.clone()),
        };
        let frame = self.version.say(self.written, frame);
        let polls = self.options.transport == Transport::LongPoll;
        let taken = self.client(name).await?.send(frame).await?.unwrap_or(200);
        if taken == status || !polls {
            Ok(())
        } else {
            Err(format!("  expected  status {status}\n  got       status {taken}"))
        }
    }

    async fn expect(&mut self, name: &str, expected: &Expected, pattern: Option<Value>) -> Result<(), String> {
        let incoming = self.client(name).await?.next().await?;
        let as_expected = match (expected, &incoming) {
            (Expected::Close(code), Incoming::Closed { code: got }) => code == got,
            (_, Incoming::Frame(frame)) => match (pattern, self.version.hear(frame)) {
                (Some(pattern), Some(value)) => self.captures.matches(&pattern, &value),
                _ => false,
            },
            _ => false,
        };
        if as_expected {
            Ok(())
        } else {
            Err(format!("  got       {}", shown(&incoming)))
        }
    }

    async fn quiet(&mut self, name: &str) -> Result<(), String> {
        self.beats += 1;
        let (beat, answer) = self.written.heartbeat(&format!("quiet {}", self.beats));
        self.send(name, &Sent::Text(beat), 200).await?;
        let answer = Expected::Text(answer);
        let pattern = self.version.expect(self.written, &answer);
        self.expect(name, &answer, pattern).await
    }
}

fn shown(incoming: &Incoming) -> String {
    match incoming {
        Incoming::Frame(Frame::Text(text)) => text.clone(),
        Incoming::Frame(Frame::Binary(bytes)) => {
            let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("hex {}", hex.join(" "))
        }
        Incoming::Closed { code } => format!("close {code}"),
    }
}
