//! A `bennu serve` of its own: started as a child, with its configuration, library and stage in a temporary folder.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::libraries::PLUGIN;
use super::said::{Reader, Said};

/// How long a server may take to start.
const START: Duration = Duration::from_secs(30);
/// How long a request of a long-poll client may wait for its I/O thread: however busy the machine is with other things, no
/// session is to end for it.
const PATIENCE_MS: u32 = 60_000;
/// How long new code is on probation, where that is not to be shorter.
pub const PROBATION: Duration = Duration::from_secs(2);
/// Lines that are shown when it ends before its time.
const LAST_LINES: usize = 20;

/// Why the server is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Its folder, its configuration or its library cannot be written, or it cannot be run.
    #[error("the server cannot be started")]
    Start(#[from] io::Error),
    /// It ended by itself.
    #[error("the server has ended; its last lines:\n{0}")]
    Ended(String),
    /// It has not said what it should.
    #[error("the server has not said within {0:?} what it should")]
    Silent(Duration),
}

/// What the server is told besides its defaults.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The shards of the plugin.
    pub shards: usize,
    /// Clients that will connect.
    pub clients: usize,
    /// Topics that a client joins at most.
    pub joins: usize,
    /// How long replaced code is kept.
    pub retire: Duration,
    /// How long new code is on probation, and the code before it stays.
    pub probation: Duration,
    /// JSON without quotes or not: the plugin's settings, in TOML.
    pub settings: String,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    folder: TempDir,
    /// Where clients connect.
    pub address: SocketAddr,
    said: mpsc::UnboundedReceiver<Line>,
    last_lines: Vec<String>,
}

#[derive(Debug)]
struct Line {
    text: String,
    said: Option<Said>,
}

impl Server {
    /// Starts one with this library.
    ///
    /// # Errors
    ///
    /// If it does not come to listen.
    pub async fn start(setup: &Setup, library: &[u8]) -> Result<Self, ServerError> {
        let folder = tempfile::Builder::new().prefix("bennu-torture-").tempdir()?;
        fs::write(folder.path().join("bennu.toml"), configuration(setup))?;
        fs::write(folder.path().join(library_name()), library)?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["serve", "--config", "bennu.toml"])
            .env_remove("BENNU_LOG");
        Self::spawn(folder, command, START).await
    }

    /// Runs a command in its folder, and waits until it listens.
    ///
    /// # Errors
    ///
    /// If it does not, within so long.
    pub async fn spawn(folder: TempDir, mut command: Command, patience: Duration) -> Result<Self, ServerError> {
        let mut child = command
            .current_dir(folder.path())
            .env("BENNU_SECRET_KEY_BASE", secret()?)
            .env_remove(crate::admin::SECRET_VARIABLE)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (lines, said) = mpsc::unbounded_channel();
        let pipes: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|pipe| Box::new(pipe) as _),
            child.stderr.take().map(|pipe| Box::new(pipe) as _),
        ];
        for pipe in pipes.into_iter().flatten() {
            let lines = lines.clone();
            thread::Builder::new().spawn(move || listen(pipe, &lines))?;
        }
        // The threads have the rest: when both have ended, so has the server.
        drop(lines);
        let mut server = Self {
            child,
            folder,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            said,
            last_lines: Vec::new(),
        };
        while server.address.port() == 0 {
            if let Said::Listening(address) = server.said(patience).await? {
                server.address = address;
            }
        }
        Ok(server)
    }

    /// The next thing that it says and that matters.
    ///
    /// # Errors
    ///
    /// If it says nothing of that kind for so long, or ends.
    pub async fn said(&mut self, patience: Duration) -> Result<Said, ServerError> {
        let next = async {
            loop {
                let Some(Line { text, said }) = self.said.recv().await else {
                    return Err(ServerError::Ended(self.last_lines.join("\n")));
                };
                if let Some(said) = said {
                    return Ok(said);
                }
                if self.last_lines.len() == LAST_LINES {
                    self.last_lines.remove(0);
                }
                self.last_lines.push(text);
            }
        };
        match tokio::time::timeout(patience, next).await {
            Ok(said) => said,
            Err(_) => Err(ServerError::Silent(patience)),
        }
    }

    /// Puts a library in the plugin's place, whole at once.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn replace(&self, library: &[u8]) -> io::Result<()> {
        let new = self.folder.path().join("new");
        fs::write(&new, library)?;
        fs::rename(new, self.folder.path().join(library_name()))
    }

    /// What `/proc` says of it.
    ///
    /// # Errors
    ///
    /// If it is gone.
    pub fn proc(&self, file: &str) -> io::Result<String> {
        let process = PathBuf::from("/proc").join(self.child.id().to_string());
        fs::read_to_string(process.join(file))
    }

    /// Ends it as an operator would, and waits for its end.
    pub fn stop(mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listen(pipe: impl Read, lines: &mpsc::UnboundedSender<Line>) {
    let mut reader = Reader::default();
    for text in BufReader::new(pipe).lines().map_while(Result::ok) {
        let said = reader.read(&text);
        if lines.send(Line { text, said }).is_err() {
            return;
        }
    }
}

fn library_name() -> String {
    format!("lib{PLUGIN}.so")
}

fn secret() -> io::Result<String> {
    let mut bytes = [0; 64];
    getrandom::fill(&mut bytes)?;
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}").expect("text grows");
    }
    Ok(text)
}

fn configuration(setup: &Setup) -> String {
    let Setup {
        shards,
        clients,
        joins,
        retire,
        probation,
        settings,
    } = setup;
    // A long-poll client has two connections, and one that ends may overlap with the next.
    let connections = 3 * clients + 100;
    let (joins, library) = (joins.max(&1), library_name());
    let (retire_ms, probation_ms) = (retire.as_millis(), probation.as_millis());
    format!(
        "[server]\n\
         listen = \"127.0.0.1:0\"\n\
         stage_dir = \"stage\"\n\
         state_dir = \"state\"\n\
         drain_batch_interval_ms = 1\n\
         shutdown_timeout_ms = 5_000\n\
         [log]\n\
         level = \"info,bennu::plugin::swap=debug,bennu::endpoint::connect=warn\"\n\
         [limits]\n\
         max_connections = {connections}\n\
         [[mounts]]\n\
         path = \"/socket\"\n\
         longpoll = {{ pubsub_timeout_ms = {PATIENCE_MS} }}\n\
         max_channels_per_socket = {joins}\n\
         [plugins.{PLUGIN}]\n\
         library = \"{library}\"\n\
         shards = {shards}\n\
         retire_ms = {retire_ms}\n\
         probation_ms = {probation_ms}\n\
         settings = {settings}\n\
         [[routes]]\n\
         topic = \"{PLUGIN}:*\"\n\
         plugin = \"{PLUGIN}\"\n"
    )
}
