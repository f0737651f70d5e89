//! The socket on which clients arrive.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::wake::{self, PutOff};

/// Connections that are taken at once, before anybody is told of them.
const BATCH: usize = 64;

/// Takes connections, and leaves them as they are: to no runtime but their I/O thread's are they made known.
#[derive(Debug)]
pub struct Acceptor(AsyncFd<TcpListener>);

impl Acceptor {
    /// Takes over a listener that does not block. On the runtime that is to wait for connections.
    ///
    /// # Errors
    ///
    /// If it cannot be polled.
    pub fn new(listener: TcpListener) -> io::Result<Self> {
        #[expect(
            deprecated,
            reason = "its successor is unsafe; a listener keeps its descriptor for life"
        )]
        AsyncFd::with_interest(listener, Interest::READABLE).map(Self)
    }

    /// Waits for connections, and hands on those that are there: none of them blocks. I/O threads that sleep are woken when
    /// all have been handed on. May be given up; nothing is lost.
    ///
    /// # Errors
    ///
    /// If the system cannot give one, out of descriptors most often.
    pub async fn accept(&self, hand_on: impl FnMut(TcpStream, SocketAddr)) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        let some = || take(ready.get_inner(), hand_on);
        if !wake::together(PutOff::IoThreads, some)? {
            ready.clear_ready();
        }
        Ok(())
    }
}

/// Takes connections that are there. False: there are no more.
fn take(listener: &TcpListener, mut hand_on: impl FnMut(TcpStream, SocketAddr)) -> io::Result<bool> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    for _ in 0..BATCH {
        match acceptfrom_with(listener, flags) {
            Ok((stream, peer)) => {
                // Who has hung up already may have no address any more.
                if let Some(peer) = peer.and_then(|peer| peer.try_into().ok()) {
                    hand_on(TcpStream::from(stream), peer);
                }
            }
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}
