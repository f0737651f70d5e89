//! The servers that are compared, each started anew for each run.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take until it listens.
const START: Duration = Duration::from_secs(20);

/// One of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Peer {
    /// This checkout's
    Bennu,
    /// From crates.io, on axum
    Socketioxide,
    /// From npm, on ws
    #[value(name = "socket.io")]
    SocketIo,
    /// No server: what the kernel takes for one send a frame
    Floor,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bennu => "Bennu",
            Self::Socketioxide => "socketioxide 0.18",
            Self::SocketIo => "Socket.IO 4.8",
            Self::Floor => "send(2) alone",
        }
    }

    /// What `bennu load` is told about it.
    pub(crate) fn protocol(self, address: SocketAddr) -> [String; 4] {
        let (protocol, path) = match self {
            Self::Bennu => ("phoenix", "/socket/websocket?vsn=2.0.0"),
            Self::Socketioxide | Self::SocketIo | Self::Floor => ("socketio", "/socket.io/?EIO=4&transport=websocket"),
        };
        [
            "--protocol".into(),
            protocol.into(),
            "--url".into(),
            format!("ws://{address}{path}"),
        ]
    }

    /// Builds it, or has it installed.
    pub(crate) fn prepare(self) -> io::Result<()> {
        let mut command = match self {
            // cargo has built the program itself before it runs a bench.
            Self::Bennu => cargo(&[
                "build",
                "--release",
                "--locked",
                "--package",
                "echo",
                "--package",
                "ledger",
            ]),
            Self::Socketioxide => {
                let manifest = folder().join("socketioxide/Cargo.toml");
                let mut command = cargo(&["build", "--release", "--locked", "--manifest-path"]);
                command.arg(manifest).arg("--target-dir").arg(peers_target());
                command
            }
            Self::SocketIo => {
                let mut command = Command::new("npm");
                command.args(["ci", "--silent"]).current_dir(folder().join("socket.io"));
                command
            }
            Self::Floor => return Ok(()),
        };
        if !command.status()?.success() {
            return Err(io::Error::other(format!("{} cannot be built", self.name())));
        }
        Ok(())
    }

    /// Starts it on a free port, on these CPUs only.
    pub(crate) fn start(self, cpus: &str, config: &Path) -> io::Result<Server> {
        let address = free_address()?;
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", cpus]);
        match self {
            Self::Bennu => {
                command
                    .arg(env!("CARGO_BIN_EXE_bennu"))
                    .arg("serve")
                    .arg("--config")
                    .arg(config);
                command.arg("--listen").arg(address.to_string());
                command.env("BENNU_SECRET_KEY_BASE", "bench".repeat(20));
            }
            Self::Socketioxide => {
                command.arg(peers_target().join("release/peer-socketioxide"));
                command.arg(address.port().to_string());
            }
            Self::SocketIo => {
                command.arg("node").arg(folder().join("socket.io/server.js"));
                command.arg(address.port().to_string());
            }
            Self::Floor => return Err(io::Error::other("there is no such server")),
        }
        let child = command.stdout(Stdio::null()).spawn()?;
        let server = Server { child, address };
        server.wait_until_it_listens()?;
        Ok(server)
    }
}

/// A running server. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// `taskset` becomes the server, so it has its number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_it_listens(&self) -> io::Result<()> {
        let begin = Instant::now();
        while let Err(error) = TcpStream::connect(self.address) {
            if begin.elapsed() > START {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The checkout.
pub(crate) fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where the benches' results are kept.
pub(crate) fn benches() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches")
}

fn folder() -> PathBuf {
    benches().join("peers")
}

fn peers_target() -> PathBuf {
    checkout().join("target/peers")
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).current_dir(checkout());
    command
}

/// Nobody has it now; whoever takes it before the server makes the run fail.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}
