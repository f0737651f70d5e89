//! The broker of the nodes: a `nats-server` of our own.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// How long it may take to start.
const START: Duration = Duration::from_secs(30);
/// Between two attempts to reach it.
const POLL: Duration = Duration::from_millis(10);

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub(in crate::torture) enum BrokerError {
    /// The program cannot be run.
    #[error("cannot run {}: install nats-server 2.10 or newer, or name it with --nats-server", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ends, or does not listen.
    #[error("{} does not listen on port {port}", program.display())]
    Silent {
        /// The program.
        program: PathBuf,
        /// The port.
        port: u16,
    },
    /// The system refuses something.
    #[error("the operating system refused a resource that the broker needs")]
    System(#[from] io::Error),
}

/// A `nats-server` with JetStream.
#[derive(Debug)]
pub(super) struct Broker {
    program: PathBuf,
    folder: TempDir,
    port: u16,
    child: Child,
}

impl Broker {
    /// Starts it with nothing stored, and waits until it listens.
    pub(super) async fn start(program: &Path) -> Result<Self, BrokerError> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = free.local_addr()?.port();
        drop(free);
        let folder = tempfile::Builder::new().prefix("bennu-torture-nats-").tempdir()?;
        let child = run(program, folder.path(), port)?;
        let program = program.to_owned();
        let mut broker = Self {
            program,
            folder,
            port,
            child,
        };
        broker.listens().await?;
        Ok(broker)
    }

    /// What nodes connect to.
    pub(super) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Kills it. What it has stored stays.
    pub(super) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Starts it again after [`Broker::kill`], and waits until it listens.
    pub(super) async fn start_again(&mut self) -> Result<(), BrokerError> {
        self.child = run(&self.program, self.folder.path(), self.port)?;
        self.listens().await
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    async fn listens(&mut self) -> Result<(), BrokerError> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let deadline = Instant::now() + START;
        while TcpStream::connect(address).await.is_err() {
            if self.child.try_wait()?.is_some() || Instant::now() > deadline {
                let (program, port) = (self.program.clone(), self.port);
                return Err(BrokerError::Silent { program, port });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.kill();
    }
}

fn run(program: &Path, folder: &Path, port: u16) -> Result<Child, BrokerError> {
    let mut command = Command::new(program);
    command
        .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"])
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().map_err(|source| BrokerError::Start {
        program: program.to_owned(),
        source,
    })
}
