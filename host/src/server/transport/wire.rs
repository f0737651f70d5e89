//! The socket of a client, plain or with TLS.

use std::cell::RefCell;
use std::io::{self, Read as _, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::Unfinished;
use crate::runtime::clock;
use crate::server::tls::Session;

/// Room that the rest of an incomplete record may need, when it is decrypted together with what comes next.
const REST: usize = 18 * 1024;

/// The socket of a client.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    session: Option<Box<Session>>,
    /// When the first byte of a record came that is not complete.
    since: Option<Instant>,
}

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// So many bytes, perhaps none.
    Bytes {
        /// How many.
        count: usize,
        /// There may be more.
        more: bool,
    },
    /// The client sends no more.
    End,
}

thread_local! {
    /// Encrypted bytes of the connection that is being read. Kept for its memory.
    static ENCRYPTED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Wire {
    /// A non-blocking socket, and its TLS.
    pub(crate) fn new(stream: std::net::TcpStream, session: Option<Box<Session>>) -> Self {
        Self {
            stream: TcpStream::from_std(stream),
            session,
            since: None,
        }
    }

    /// The socket, to be polled.
    pub(crate) fn source(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// The socket, if what is written to it needs no TLS.
    pub(crate) fn plain(&self) -> Option<BorrowedFd<'_>> {
        self.session.is_none().then(|| self.stream.as_fd())
    }

    /// Reads what has come, as much as there is room for.
    ///
    /// # Errors
    ///
    /// If the socket fails, nothing has come (`WouldBlock`), or it is not TLS.
    pub(crate) fn read(&mut self, into: &mut [u8]) -> io::Result<Read> {
        let Some(session) = &mut self.session else {
            return Ok(match self.stream.read(into)? {
                0 => Read::End,
                count => Read::Bytes {
                    count,
                    // A full buffer: there may be more, after the others have had their turn.
                    more: count == into.len(),
                },
            });
        };
        if session.has_ended() {
            return Ok(Read::End);
        }
        ENCRYPTED.with_borrow_mut(|encrypted| {
            // What a record says is never longer than the record.
            encrypted.resize(into.len().saturating_sub(REST).max(1), 0);
            let read = self.stream.read(encrypted)?;
            if read == 0 {
                return Ok(Read::End);
            }
            let mut count = 0;
            let fed = session.feed(&mut encrypted[..read], &mut |bytes| {
                let room = &mut into[count..];
                let bytes = &bytes[..bytes.len().min(room.len())];
                room[..bytes.len()].copy_from_slice(bytes);
                count += bytes.len();
            });
            if let Err(error) = fed {
                // The alert that says so; the client may be gone.
                let _ = session.push(&mut self.stream);
                return Err(error.into());
            }
            self.since = match session.unfinished() {
                0 => None,
                _ => Some(self.since.unwrap_or_else(clock::now)),
            };
            let more = read == encrypted.len() || session.has_ended();
            Ok(Read::Bytes { count, more })
        })
    }

    /// The record that has begun and is not complete.
    pub(crate) fn unfinished(&self) -> Option<Unfinished> {
        let bytes = self.session.as_ref()?.unfinished();
        self.since.map(|since| Unfinished { bytes, since })
    }

    /// Bytes that wait here to be written.
    pub(crate) fn waiting(&self) -> usize {
        self.session.as_ref().map_or(0, |session| session.waiting())
    }

    /// Says that nothing follows.
    pub(crate) fn close_write(&mut self) {
        if let Some(session) = &mut self.session {
            session.say_goodbye();
            let _ = session.push(&mut self.stream);
        }
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Has the kernel drop what it has not sent when the socket is closed. Otherwise it would keep its queue for minutes: megabytes for a
    /// client that does not read.
    pub(crate) fn reset_on_close(&self) {
        let _ = rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
    }
}

impl Write for Wire {
    /// With TLS, nothing is taken before all that was taken earlier is written.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(session) = &mut self.session else {
            return self.stream.write(bytes);
        };
        session.push(&mut self.stream)?;
        let taken = session.encrypt(bytes)?;
        match session.push(&mut self.stream) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    /// Writes what was taken.
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.session {
            Some(session) => session.push(&mut self.stream),
            None => Ok(()),
        }
    }
}
