//! One connection of the load generator.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use mio::net::TcpStream;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::lagging::Reading;
use super::socket::Socket;
use super::wire::{self, Prepared};
use crate::client::Tls;

/// How much a client may have to write before it gives up on a server that does not read.
const MAX_PENDING_BYTES: usize = 1 << 20;

/// The state of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The TCP connection is not established yet.
    Connecting,
    /// The client has sent the WebSocket handshake.
    Upgrading,
    /// The WebSocket is open, and this many joins have no reply yet.
    Joining(u32),
    /// The client has joined all its topics.
    Joined,
    /// The connection has ended or failed.
    Closed,
}

/// One connection. A closed one keeps its index.
#[derive(Debug)]
pub(super) struct Client {
    socket: Option<Socket>,
    pub(super) state: State,
    pub(super) reading: Reading,
    /// When it started to connect.
    pub(super) began: u64,
    /// When it last sent something.
    pub(super) last_sent: u64,
    /// The message that it sends as work.
    pub(super) prepared: Option<Box<Prepared>>,
    /// Echoes without a reply so far.
    pub(super) in_flight: u32,
    /// Broadcasts received since the work began.
    pub(super) received: u64,
    /// When the last of those was sent.
    pub(super) newest: u64,
    /// When the last reply arrived.
    pub(super) answered: u64,
    /// The start of a frame that is not complete yet.
    partial: Vec<u8>,
    /// What the system has not taken yet.
    pending: Vec<u8>,
}

impl Client {
    /// Starts to connect, from `source` if given, by TLS if given.
    pub(super) fn open(
        server: SocketAddr,
        tls: Option<&Tls>,
        source: Option<Ipv4Addr>,
        reading: Reading,
        now: u64,
    ) -> io::Result<Self> {
        let socket = Socket::new(connect(server, source)?, tls)?;
        Ok(Self {
            socket: Some(socket),
            state: State::Connecting,
            reading,
            began: now,
            last_sent: now,
            prepared: None,
            in_flight: 0,
            received: 0,
            newest: 0,
            answered: now,
            partial: Vec::new(),
            pending: Vec::new(),
        })
    }

    /// The socket, for registration with the poll. `None` if closed.
    pub(super) fn stream(&mut self) -> Option<&mut TcpStream> {
        self.socket.as_mut().map(Socket::source)
    }

    /// The result of connecting. Valid once the socket is writable.
    pub(super) fn connected(&self) -> io::Result<()> {
        let refused = { self.socket.as_ref() }.and_then(|socket| socket.tcp().take_error().transpose());
        refused.map_or(Ok(()), |error| Err(error?))
    }

    /// Sends now, or later if the socket is full.
    pub(super) fn send(&mut self, bytes: &[u8], now: u64) -> io::Result<()> {
        self.last_sent = now;
        send(&mut self.socket, &mut self.pending, bytes)
    }

    /// Sends a text frame. Allocates, so this is not for frames that are sent often.
    pub(super) fn send_text(&mut self, text: &str, now: u64) -> io::Result<()> {
        self.send(&wire::masked(wire::TEXT, text.as_bytes()).0, now)
    }

    /// Sends the prepared message, with `sent` as its time stamp.
    pub(super) fn send_prepared(&mut self, sent: u64, now: u64) -> io::Result<()> {
        let Some(prepared) = &mut self.prepared else {
            return Ok(());
        };
        self.last_sent = now;
        send(&mut self.socket, &mut self.pending, prepared.stamped(sent))
    }

    /// Writes what is pending.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if let Some(socket) = &mut self.socket {
            socket.flush()?;
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        let waiting = std::mem::take(&mut self.pending);
        send(&mut self.socket, &mut self.pending, &waiting)
    }

    /// Fills the buffer with the partial frame and up to `most` further bytes. Returns how much of the buffer is
    /// filled, and whether there may be more to read.
    pub(super) fn fill(&mut self, buffer: &mut [u8], most: usize) -> io::Result<(usize, bool)> {
        let Some(socket) = &mut self.socket else {
            return Ok((0, false));
        };
        let kept = self.partial.len();
        let end = buffer.len().min(kept.saturating_add(most));
        let buffer = &mut buffer[..end];
        buffer[..kept].copy_from_slice(&self.partial);
        match socket.read(&mut buffer[kept..]) {
            Ok(0) if kept < buffer.len() => Err(ErrorKind::UnexpectedEof.into()),
            Ok(0) => Err(ErrorKind::FileTooLarge.into()),
            Ok(read) => {
                self.partial.clear();
                // If there is room left, the socket is empty.
                Ok((kept + read, kept + read == buffer.len()))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok((0, false)),
            Err(error) => Err(error),
        }
    }

    /// Keeps the start of a frame that is not complete yet.
    pub(super) fn keep(&mut self, partial: &[u8]) {
        if partial.is_empty() {
            // Frees the buffer: an idle client should not have one.
            self.partial = Vec::new();
        } else {
            self.partial.extend_from_slice(partial);
        }
    }

    /// Closes at once, by a reset: otherwise ten thousand ports would stay in use for a minute.
    pub(super) fn close(&mut self) {
        if let Some(socket) = self.socket.take() {
            // If this fails, it closes the slow way.
            let _ = sockopt::set_socket_linger(socket.tcp(), Some(Duration::ZERO));
        }
        self.state = State::Closed;
        self.partial = Vec::new();
        self.pending = Vec::new();
    }
}

fn send(socket: &mut Option<Socket>, pending: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    let Some(socket) = socket else {
        return Ok(());
    };
    let mut written = 0;
    if pending.is_empty() {
        match socket.write(bytes) {
            Ok(count) => written = count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    if pending.len() + bytes.len() - written > MAX_PENDING_BYTES {
        return Err(io::Error::other("the server does not read"));
    }
    pending.extend_from_slice(&bytes[written..]);
    Ok(())
}

/// A non-blocking socket that is connecting.
fn connect(server: SocketAddr, source: Option<Ipv4Addr>) -> io::Result<TcpStream> {
    let family = if server.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    if let Some(source) = source {
        rustix::net::bind(&socket, &SocketAddr::from((source, 0)))?;
    }
    match rustix::net::connect(&socket, &server) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(TcpStream::from_std(std::net::TcpStream::from(socket)))
}
