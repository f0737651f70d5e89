//! A server as a child process, with its configuration, library and state in a temporary folder.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::libraries::PLUGIN;
use super::log::{LogEvent, LogReader};

/// The name of the configuration in the server's folder.
pub(super) const CONFIG: &str = "bennu.toml";
/// What a server seals tokens with. It must be the same for all nodes.
pub(super) const SECRET: &str = "BENNU_SECRET_KEY_BASE";
/// How long a server may take to start.
pub(super) const START: Duration = Duration::from_secs(30);
/// How long a long-poll request may wait for its I/O thread. Long, as no session should end because the machine is
/// busy.
const LONGPOLL_TIMEOUT_MS: u32 = 60_000;
/// How long new code is on probation, unless a part needs a shorter time.
pub(super) const PROBATION: Duration = Duration::from_secs(2);
/// How many lines of output to show if the server ends.
const LAST_LINES: usize = 20;

/// What is wrong with the server.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServerError {
    /// Its files cannot be written, or it cannot be run.
    #[error("cannot start the server")]
    Start(#[from] io::Error),
    /// It has ended. The text is the end of its output.
    #[error("the server has ended; its last lines:\n{0}")]
    Ended(String),
    /// It has not logged what the test waits for.
    #[error("the server did not log the expected event within {0:?}")]
    Silent(Duration),
}

/// What differs from the server's defaults.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    /// The number of the plugin's shards.
    pub(super) shards: usize,
    /// The number of clients that will connect.
    pub(super) clients: usize,
    /// How many topics a client joins at most.
    pub(super) joins: usize,
    /// How long the server keeps replaced code.
    pub(super) retire: Duration,
    /// How long new code is on probation.
    pub(super) probation: Duration,
    /// The settings of the plugin, as a TOML inline table.
    pub(super) settings: String,
    /// More lines of the plugin's section.
    pub(super) more: String,
}

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    folder: Arc<TempDir>,
    /// The address that clients connect to.
    pub(super) address: SocketAddr,
    /// That of its admin pages, if it has said so.
    admin: Option<SocketAddr>,
    lines: mpsc::UnboundedReceiver<Line>,
    last_lines: Vec<String>,
}

#[derive(Debug)]
struct Line {
    text: String,
    event: Option<LogEvent>,
}

impl Server {
    /// Starts `bennu serve` with this library.
    pub(super) async fn start(setup: &Setup, library: &[u8]) -> Result<Self, ServerError> {
        Self::again(folder(&configuration(setup), library)?).await
    }

    /// Starts `bennu serve` with what another server has left in its folder.
    pub(super) async fn again(folder: Arc<TempDir>) -> Result<Self, ServerError> {
        let mut command = bennu("serve")?;
        command.env_remove("BENNU_LOG");
        Self::spawn(folder, command, START, None).await
    }

    /// Runs a command in the folder, and waits until it listens. Its output also goes into the file, if there is one.
    pub(super) async fn spawn(
        folder: Arc<TempDir>,
        mut command: Command,
        timeout: Duration,
        log: Option<&File>,
    ) -> Result<Self, ServerError> {
        let mut child = command
            .current_dir(folder.path())
            .env_remove("BENNU_ADMIN_SECRET")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (sender, lines) = mpsc::unbounded_channel();
        let pipes: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|pipe| Box::new(pipe) as _),
            child.stderr.take().map(|pipe| Box::new(pipe) as _),
        ];
        for pipe in pipes.into_iter().flatten() {
            let (sender, log) = (sender.clone(), log.map(File::try_clone).transpose()?);
            thread::Builder::new().spawn(move || read_lines(pipe, &sender, log))?;
        }
        // Then the channel closes when both threads have ended, which is when the server has.
        drop(sender);
        let mut server = Self {
            child,
            folder,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin: None,
            lines,
            last_lines: Vec::new(),
        };
        while server.address.port() == 0 {
            if let LogEvent::Listening(address) = server.next_event(timeout).await? {
                server.address = address;
            }
        }
        Ok(server)
    }

    /// The address of its admin pages. Only a server that is configured to have some says so.
    pub(super) async fn admin(&mut self) -> Result<SocketAddr, ServerError> {
        loop {
            match self.admin {
                Some(admin) => return Ok(admin),
                None => drop(self.next_event(START).await?),
            }
        }
    }

    /// Waits for the next event in the log.
    pub(super) async fn next_event(&mut self, timeout: Duration) -> Result<LogEvent, ServerError> {
        let next = async {
            loop {
                let Some(Line { text, event }) = self.lines.recv().await else {
                    return Err(ServerError::Ended(self.last_lines.join("\n")));
                };
                if let Some(LogEvent::Admin(address)) = event {
                    self.admin = Some(address);
                }
                if let Some(event) = event {
                    return Ok(event);
                }
                if self.last_lines.len() == LAST_LINES {
                    self.last_lines.remove(0);
                }
                self.last_lines.push(text);
            }
        };
        match tokio::time::timeout(timeout, next).await {
            Ok(event) => event,
            Err(_) => Err(ServerError::Silent(timeout)),
        }
    }

    /// Replaces the plugin's library, atomically.
    pub(super) fn replace(&self, library: &[u8]) -> io::Result<()> {
        let new = self.folder.path().join("new");
        fs::write(&new, library)?;
        fs::rename(new, self.folder.path().join(library_name()))
    }

    /// Reads a file of the server's folder in `/proc`.
    pub(super) fn proc(&self, file: &str) -> io::Result<String> {
        let process = PathBuf::from("/proc").join(self.child.id().to_string());
        fs::read_to_string(process.join(file))
    }

    /// Its folder, which stays while somebody has it.
    pub(super) fn folder(&self) -> Arc<TempDir> {
        Arc::clone(&self.folder)
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Waits until it has ended by itself.
    pub(super) async fn ended(mut self, timeout: Duration) -> Result<ExitStatus, ServerError> {
        let deadline = Instant::now() + timeout;
        loop {
            match self
                .next_event(deadline.saturating_duration_since(Instant::now()))
                .await
            {
                Ok(_) => {}
                // Both pipes end when the process does.
                Err(ServerError::Ended(_)) => return Ok(self.child.wait()?),
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends the server at once, by `SIGKILL`.
    pub(super) fn kill(self) {
        drop(self);
    }

    /// Stops the server as an operator would, and waits for its end.
    pub(super) fn stop(mut self) {
        let _ = (self.signal(Signal::TERM), self.child.wait());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This program with a subcommand, and a secret. Its binary is `bennu`, whose subcommands include `serve` and `dev`.
pub(super) fn bennu(subcommand: &str) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([subcommand, "--config", CONFIG]).env(SECRET, secret()?);
    Ok(command)
}

/// A folder for a server, with its configuration and its library.
pub(super) fn folder(configuration: &str, library: &[u8]) -> io::Result<Arc<TempDir>> {
    let folder = tempfile::Builder::new().prefix("bennu-torture-").tempdir()?;
    fs::write(folder.path().join(CONFIG), configuration)?;
    fs::write(folder.path().join(library_name()), library)?;
    Ok(Arc::new(folder))
}

fn read_lines(pipe: impl Read, lines: &mpsc::UnboundedSender<Line>, mut log: Option<File>) {
    let mut reader = LogReader::default();
    for text in BufReader::new(pipe).lines().map_while(Result::ok) {
        if let Some(log) = &mut log {
            // What cannot be kept is no reason to stop reading.
            let _ = writeln!(log, "{text}");
        }
        let event = reader.read(&text);
        if lines.send(Line { text, event }).is_err() {
            return;
        }
    }
}

pub(super) fn library_name() -> String {
    format!("lib{PLUGIN}.so")
}

pub(super) fn secret() -> io::Result<String> {
    let mut bytes = [0; 48];
    getrandom::fill(&mut bytes)?;
    Ok(STANDARD_NO_PAD.encode(bytes))
}

/// The log level is what [`LogEvent`] needs, without a line for each connection.
fn configuration(setup: &Setup) -> String {
    let Setup {
        shards,
        clients,
        joins,
        retire,
        probation,
        settings,
        more,
    } = setup;
    // A long-poll client has two connections, and an old one may overlap with a new one.
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
         level = \"info,bennu::runtime::plugin=debug,bennu::server::endpoint=warn\"\n\
         [limits]\n\
         max_connections = {connections}\n\
         [[mounts]]\n\
         path = \"/socket\"\n\
         longpoll = {{ pubsub_timeout_ms = {LONGPOLL_TIMEOUT_MS} }}\n\
         max_channels_per_socket = {joins}\n\
         [plugins.{PLUGIN}]\n\
         library = \"{library}\"\n\
         shards = {shards}\n\
         retire_ms = {retire_ms}\n\
         probation_ms = {probation_ms}\n\
         settings = {settings}\n\
         {more}\
         [[routes]]\n\
         topic = \"{PLUGIN}:*\"\n\
         plugin = \"{PLUGIN}\"\n"
    )
}
