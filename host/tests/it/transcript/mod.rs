//! Runs whole conversations: the files in `host/tests/it/transcripts`, each over every transport, against a server of its own.
//! Those in its folder `seeds` are spoken in the seeds' dialect, at `/ws`.
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
//! ```
//!
//! In expected JSON `*` stands for any value; `$name` for any value at first, and the same one from then on, also in what
//! is sent. Nothing waits for a time: that nothing comes is shown by what comes instead.

mod line;
mod pattern;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bennu::client::{ClientError, Dialect, Frame, Incoming, Options, RawClient, Transport};

use crate::support::server::Bench;
use line::{Expected, Line, Sent, What};
use pattern::Captures;

/// Makes a test of each file for each transport.
macro_rules! transcripts {
    ($($name:ident)*) => {
        $(mod $name {
            #[tokio::test]
            async fn websocket() {
                super::run(super::DIALECT, stringify!($name), bennu::client::Transport::WebSocket).await;
            }

            #[tokio::test]
            async fn longpoll() {
                super::run(super::DIALECT, stringify!($name), bennu::client::Transport::LongPoll).await;
            }
        })*

        const LISTED: &[&str] = &[$(stringify!($name)),*];

        #[test]
        fn every_transcript_is_listed() {
            assert_eq!(found(DIALECT), LISTED, "in the folder, and in the list, in their order");
        }
    };
}

const DIALECT: Dialect = Dialect::Modern;
include!("list.rs");

mod seeds {
    use super::{Dialect, found, run};

    const DIALECT: Dialect = Dialect::Seeds;
    include!("list_seeds.rs");
}

/// The transcripts in a dialect's folder, sorted.
fn found(dialect: Dialect) -> Vec<String> {
    let files = std::fs::read_dir(folder(dialect)).expect("the folder of transcripts");
    let mut names: Vec<String> = files
        .map(|file| file.expect("a file").path())
        .filter(|path| path.is_file())
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn folder(dialect: Dialect) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/transcripts");
    match dialect {
        Dialect::Modern => folder,
        Dialect::Seeds => folder.join("seeds"),
    }
}

/// Runs one transcript over one transport.
async fn run(dialect: Dialect, name: &str, transport: Transport) {
    let file = format!("{name}.txt");
    let text = std::fs::read_to_string(folder(dialect).join(&file)).expect("the transcript");
    let lines: Vec<Line> = line::read(&text).unwrap_or_else(|error| panic!("{file}:{error}"));
    let bench = Bench::new();
    // A client of a long conversation is silent for a while.
    bench.set("limits", "idle_timeout_ms", "30_000");
    let server = bench.serve().await;
    let mut conversation = Conversation {
        options: match dialect {
            Dialect::Modern => Options::new(server.address, transport),
            Dialect::Seeds => Options::seeds(server.address, transport),
        },
        clients: HashMap::new(),
        captures: Captures::default(),
        beats: 0,
    };
    for line in lines
        .iter()
        .filter(|line| line.only.is_none_or(|only| only == transport))
    {
        if let Err(difference) = conversation.play(line).await {
            let (number, text) = (line.number, &line.text);
            panic!(
                "{file}:{number} over {}\n  line      {text}\n{difference}",
                transport.name()
            );
        }
    }
}

/// The clients of a transcript, as far as it is played.
struct Conversation {
    options: Options,
    clients: HashMap<String, RawClient>,
    captures: Captures,
    beats: u32,
}

impl Conversation {
    async fn play(&mut self, line: &Line) -> Result<(), String> {
        match &line.what {
            What::Connect(to) => self.connect(&line.client, to).await,
            What::Send(sent, status) => self.send(&line.client, sent, *status).await,
            What::Expect(expected) => self.expect(&line.client, expected).await,
            What::Quiet => self.quiet(&line.client).await,
            What::Close => match self.clients.remove(&line.client) {
                Some(client) => client.close().await.map_err(said),
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
        let client = RawClient::connect(&options).await.map_err(said)?;
        self.clients.insert(name.to_owned(), client);
        Ok(())
    }

    /// The client of this name, which connects to the dialect's own mount where nothing else was said.
    async fn client(&mut self, name: &str) -> Result<&mut RawClient, String> {
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
        let over_websocket = self.options.transport == Transport::WebSocket;
        match self.client(name).await?.send(frame).await {
            Ok(()) if over_websocket || status == 200 => Ok(()),
            Ok(()) => Err(format!("  expected  status {status}\n  got       status 200")),
            Err(ClientError::NotTaken { status: got }) if got == status => Ok(()),
            Err(error) => Err(said(error)),
        }
    }

    async fn expect(&mut self, name: &str, expected: &Expected) -> Result<(), String> {
        let incoming = self.client(name).await?.next().await.map_err(said)?;
        let as_expected = match (expected, &incoming) {
            (Expected::Text(pattern), Incoming::Frame(Frame::Text(text))) => {
                serde_json::from_str(text).is_ok_and(|value| self.captures.matches(pattern, &value))
            }
            (Expected::Binary(bytes), Incoming::Frame(Frame::Binary(got))) => bytes == got,
            (Expected::Close(code), Incoming::Closed { code: got }) => code == got,
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
        let beat = format!("quiet {}", self.beats);
        let same = format!(r#"{{"topic":"phoenix","event":"heartbeat","payload":{{}},"ref":"{beat}"}}"#);
        let (heartbeat, answer) = match self.options.dialect {
            Dialect::Modern => (
                format!(r#"[null,"{beat}","phoenix","heartbeat",{{}}]"#),
                format!(r#"[null,"{beat}","phoenix","phx_reply",{{"response":{{}},"status":"ok"}}]"#),
            ),
            Dialect::Seeds => (same.clone(), same),
        };
        self.send(name, &Sent::Text(heartbeat), 200).await?;
        let pattern = pattern::read(&answer).expect("JSON");
        self.expect(name, &Expected::Text(pattern)).await
    }
}

fn said(error: ClientError) -> String {
    format!("  error     {error}")
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
