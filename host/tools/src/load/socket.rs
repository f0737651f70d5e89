//! The socket of a client of the load generator, plain or with TLS.

use std::io::{self, ErrorKind, Read as _, Write as _};

use mio::net::TcpStream;
use tokio_rustls::rustls::ClientConnection;

use crate::client::Tls;

/// A non-blocking socket.
#[derive(Debug)]
pub(super) struct Socket {
    tcp: TcpStream,
    session: Option<Box<ClientConnection>>,
}

impl Socket {
    /// A socket that may still be connecting.
    pub(super) fn new(tcp: TcpStream, tls: Option<&Tls>) -> io::Result<Self> {
        let session = tls.map(Tls::session).transpose().map_err(io::Error::other)?;
        Ok(Self {
            tcp,
            session: session.map(Box::new),
        })
    }

    /// The socket, for registration with a poll.
    pub(super) fn source(&mut self) -> &mut TcpStream {
        &mut self.tcp
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Reads what has come. If it does not fill the buffer, there is no more; 0 bytes are the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(session) = &mut self.session else {
            return self.tcp.read(buffer);
        };
        let mut filled = 0;
        loop {
            match session.reader().read(&mut buffer[filled..]) {
                Ok(0) => return Ok(filled),
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) if filled > 0 => return Ok(filled),
                Err(error) => return Err(error),
            }
            if filled == buffer.len() {
                return Ok(filled);
            }
            match session.read_tls(&mut self.tcp) {
                Ok(_) => {
                    session.process_new_packets().map_err(io::Error::other)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && filled > 0 => return Ok(filled),
                Err(error) => {
                    push(session, &mut self.tcp)?;
                    return Err(error);
                }
            }
        }
    }

    /// Writes as much as is taken.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(session) = &mut self.session else {
            return self.tcp.write(bytes);
        };
        let written = session.writer().write(bytes)?;
        push(session, &mut self.tcp)?;
        Ok(written)
    }

    /// Writes what TLS has to say.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match &mut self.session {
            Some(session) => push(session, &mut self.tcp),
            None => Ok(()),
        }
    }
}

fn push(session: &mut ClientConnection, tcp: &mut TcpStream) -> io::Result<()> {
    while session.wants_write() {
        match session.write_tls(tcp) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
