//! Accepts connections.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::runtime::wake::{self, PutOff};
use crate::server::accept_trouble::{AcceptTrouble, PAUSE};
use crate::server::tls::Certificates;

/// How many connections are accepted before I/O threads are woken for them.
const BATCH: usize = 64;
/// The address of a client that comes by a Unix socket, if nobody says another: it is on this machine.
const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What the connections of a listener begin with.
#[derive(Debug, Default)]
pub(crate) struct Door {
    /// A handshake, and the certificates for it.
    pub(crate) tls: Option<Arc<Certificates>>,
    /// A header of the PROXY protocol.
    pub(crate) proxy_protocol: bool,
    /// It is a Unix socket: whoever may connect is trusted as a proxy.
    pub(crate) is_local: bool,
}

/// A connection that was accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// Non-blocking. It may be a Unix socket as well: it is only read, written and shut down.
    pub(crate) stream: TcpStream,
    /// The other end.
    pub(crate) peer: SocketAddr,
    /// Where it came in.
    pub(crate) door: Arc<Door>,
}

/// Accepts connections without registering them with a runtime: only their I/O thread does that.
#[derive(Debug)]
pub(crate) struct Acceptor {
    listener: AsyncFd<OwnedFd>,
    door: Arc<Door>,
    trouble: Mutex<AcceptTrouble>,
}

impl Acceptor {
    /// Takes over a non-blocking listener. To be called on the runtime that waits for connections.
    ///
    /// # Errors
    ///
    /// If the runtime cannot poll it.
    pub(crate) fn new(listener: OwnedFd, door: Door) -> io::Result<Self> {
        #[expect(
            deprecated,
            reason = "its successor is unsafe; a listener keeps its descriptor for life"
        )]
        let listener = AsyncFd::with_interest(listener, Interest::READABLE)?;
        Ok(Self {
            listener,
            door: Arc::new(door),
            trouble: Mutex::new(AcceptTrouble::of("clients")),
        })
    }

    /// Waits for connections and hands them on, set to non-blocking. Sleeping I/O threads are woken once all are handed on. If the
    /// system refuses a connection, this logs it (at most once a second), waits 50 ms, and returns false. Dropping the future loses
    /// nothing.
    pub(crate) async fn accept(&self, mut hand_on: impl FnMut(Accepted)) -> bool {
        let mut some = false;
        let accepted = self.try_accept(|accepted| {
            some = true;
            hand_on(accepted);
        });
        let accepted = accepted.await;
        if some {
            self.trouble().went_well();
        }
        let Err(error) = accepted else { return true };
        self.trouble().failed(&error);
        tokio::time::sleep(PAUSE).await;
        false
    }

    async fn try_accept(&self, hand_on: impl FnMut(Accepted)) -> io::Result<()> {
        let mut ready = self.listener.readable().await?;
        let some = || take(ready.get_inner(), &self.door, hand_on);
        if !wake::together(PutOff::IoThreads, some)? {
            ready.clear_ready();
        }
        Ok(())
    }

    fn trouble(&self) -> MutexGuard<'_, AcceptTrouble> {
        self.trouble.lock().expect("no holder panics")
    }
}

/// Accepts the connections that wait. False: there are no more.
fn take(listener: &OwnedFd, door: &Arc<Door>, mut hand_on: impl FnMut(Accepted)) -> io::Result<bool> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    for _ in 0..BATCH {
        match acceptfrom_with(listener, flags) {
            Ok((stream, peer)) => {
                let peer = match door.is_local {
                    true => Some(LOCAL),
                    // A client that has hung up may have no address any more.
                    false => peer.and_then(|peer| peer.try_into().ok()),
                };
                if let Some(peer) = peer {
                    hand_on(Accepted {
                        stream: TcpStream::from(stream),
                        peer,
                        door: Arc::clone(door),
                    });
                }
            }
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}
