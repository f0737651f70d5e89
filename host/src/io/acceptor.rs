//! The socket on which clients arrive.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

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

    /// Waits for the next connection, which does not block either. May be given up; nothing is lost.
    ///
    /// # Errors
    ///
    /// If the system cannot give one, out of descriptors most often.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let accept = |listener: &TcpListener| {
            let (stream, peer) = acceptfrom_with(listener, flags)?;
            let peer = peer.and_then(|peer| peer.try_into().ok());
            Ok((TcpStream::from(stream), peer))
        };
        loop {
            // Who has hung up already may have no address any more.
            if let (stream, Some(peer)) = self.0.async_io(Interest::READABLE, accept).await? {
                return Ok((stream, peer));
            }
        }
    }
}
