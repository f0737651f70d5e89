//! One connection of the generator.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use mio::net::TcpStream;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::lagging::Reading;
use super::wire::{self, Prepared};

/// What may wait to be written to a server that does not read.
const MAX_PENDING_BYTES: usize = 1 << 20;

/// How far a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The connection is being made.
    Connecting,
    /// The request for WebSocket is sent.
    Upgrading,
    /// WebSocket is spoken, and so many joins are still to be answered.
    Joining(u32),
    /// All topics are joined.
    Joined,
    /// The connection is closed, or never was.
    Closed,
}

/// One connection. Closed ones keep their place.
#[derive(Debug)]
pub(super) struct Client {
    stream: Option<TcpStream>,
    pub(super) state: State,
    pub(super) reading: Reading,
    /// When the connection was asked for.
    pub(super) began: u64,
    /// When it last sent something.
    pub(super) spoke: u64,
    /// What it sends as its work.
    pub(super) prepared: Option<Box<Prepared>>,
    /// Echoes that wait for their answer.
    pub(super) in_flight: u32,
    /// Broadcasts since the work began.
    pub(super) received: u64,
    /// When the last of them was sent.
    pub(super) newest: u64,
    /// When the last answer came.
    pub(super) answered: u64,
    partial: Vec<u8>,
    pending: Vec<u8>,
}

impl Client {
    /// Begins to connect, from `source` if there is one.
    pub(super) fn open(server: SocketAddr, source: Option<Ipv4Addr>, reading: Reading, now: u64) -> io::Result<Self> {
        let stream = connect(server, source)?;
        Ok(Self {
            stream: Some(stream),
            state: State::Connecting,
            reading,
            began: now,
            spoke: now,
            prepared: None,
            in_flight: 0,
            received: 0,
            newest: 0,
            answered: now,
            partial: Vec::new(),
            pending: Vec::new(),
        })
    }

    /// What is watched for events, while it is open.
    pub(super) fn stream(&mut self) -> Option<&mut TcpStream> {
        self.stream.as_mut()
    }

    /// Whether it was connected or refused, asked once it may be written to.
    pub(super) fn connected(&self) -> io::Result<()> {
        let refused = self.stream.as_ref().and_then(|stream| stream.take_error().transpose());
        refused.map_or(Ok(()), |error| Err(error?))
    }

    /// Sends now, or when the system takes it.
    pub(super) fn send(&mut self, bytes: &[u8], now: u64) -> io::Result<()> {
        self.spoke = now;
        send(&mut self.stream, &mut self.pending, bytes)
    }

    /// Sends a text frame that is not sent often.
    pub(super) fn say(&mut self, text: &str, now: u64) -> io::Result<()> {
        self.send(&wire::masked(wire::TEXT, text.as_bytes()).0, now)
    }

    /// Sends what was prepared. `sent` is the time that goes with it.
    pub(super) fn send_prepared(&mut self, sent: u64, now: u64) -> io::Result<()> {
        let Some(prepared) = &mut self.prepared else {
            return Ok(());
        };
        self.spoke = now;
        send(&mut self.stream, &mut self.pending, prepared.stamped(sent))
    }

    /// Writes what could not be written before.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let waiting = std::mem::take(&mut self.pending);
        send(&mut self.stream, &mut self.pending, &waiting)
    }

    /// Reads what is there behind what was kept, at most so many bytes. Returns how much of the buffer is filled, and
    /// whether there may be more.
    pub(super) fn fill(&mut self, buffer: &mut [u8], most: usize) -> io::Result<(usize, bool)> {
        let Some(stream) = &mut self.stream else {
            return Ok((0, false));
        };
        let kept = self.partial.len();
        let end = buffer.len().min(kept.saturating_add(most));
        let buffer = &mut buffer[..end];
        buffer[..kept].copy_from_slice(&self.partial);
        match stream.read(&mut buffer[kept..]) {
            Ok(0) if kept < buffer.len() => Err(ErrorKind::UnexpectedEof.into()),
            Ok(0) => Err(ErrorKind::FileTooLarge.into()),
            Ok(read) => {
                self.partial.clear();
                // A read that leaves room has emptied the socket.
                Ok((kept + read, kept + read == buffer.len()))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok((0, false)),
            Err(error) => Err(error),
        }
    }

    /// Keeps the beginning of what is not whole yet.
    pub(super) fn keep(&mut self, partial: &[u8]) {
        if partial.is_empty() {
            // An idle client has no buffer.
            self.partial = Vec::new();
        } else {
            self.partial.extend_from_slice(partial);
        }
    }

    /// Closes at once. By a reset, so that ten thousand of them do not leave their ports in use for a minute.
    pub(super) fn close(&mut self) {
        if let Some(stream) = self.stream.take() {
            // If this fails it is closed the slow way.
            let _ = sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
        }
        self.state = State::Closed;
        self.partial = Vec::new();
        self.pending = Vec::new();
    }
}

fn send(stream: &mut Option<TcpStream>, pending: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    let Some(stream) = stream else {
        return Ok(());
    };
    let mut written = 0;
    if pending.is_empty() {
        match stream.write(bytes) {
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

/// A socket that is being connected, and does not block.
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
