//! A connection as hyper reads and writes it: plain or with TLS.

use std::io::{self, IoSlice, Write};
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::LazyStream;
use super::content_length::ContentLength;
use super::http::{Bounds, Phases};
use crate::server::tls::Session;

/// How much is read and decrypted at a time.
const ENCRYPTED: usize = 8 * 1024;

/// The answer to a request without TLS.
const PLAIN_HTTP: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: 57\r\n\r\n\
    this port speaks TLS: use https:// or wss:// to reach it\n";

/// A connection as hyper reads and writes it. Takes note of what its requests say.
#[derive(Debug)]
pub(crate) struct HttpStream {
    stream: LazyStream,
    tls: Option<Tls>,
    phases: Arc<Phases>,
    content_length: ContentLength,
}

#[derive(Debug)]
struct Tls {
    session: Box<Session>,
    /// What the client has said, from [`Self::taken`] on, until hyper takes it.
    said: Vec<u8>,
    taken: usize,
    /// Something has come.
    has_begun: bool,
}

/// Why a connection does not become one that speaks HTTP.
#[derive(Debug)]
pub(super) enum NoTls {
    /// The client has hung up and said nothing.
    Silent,
    /// The client speaks HTTP without TLS.
    Plain,
    /// The client speaks something else, does not like the certificate, or has hung up.
    Failed(io::Error),
}

impl HttpStream {
    /// The connection of a client whose TLS handshake is still to come, if it speaks TLS.
    pub(super) fn new(stream: LazyStream, session: Option<Session>, phases: Arc<Phases>) -> Self {
        let tls = session.map(|session| Tls {
            session: Box::new(session),
            said: Vec::new(),
            taken: 0,
            has_begun: false,
        });
        Self {
            stream,
            tls,
            phases,
            content_length: ContentLength::default(),
        }
    }

    /// A connection without TLS.
    pub(crate) fn plain(stream: TcpStream, bounds: &Bounds) -> Self {
        let phases = Arc::default();
        let stream = LazyStream::new(stream, bounds.write, Arc::clone(&phases));
        Self::new(stream, None, phases)
    }

    /// What it is at.
    pub(super) fn phases(&self) -> Arc<Phases> {
        Arc::clone(&self.phases)
    }

    /// What is noticed of the requests that it brings.
    pub(crate) fn content_length(&self) -> ContentLength {
        self.content_length.clone()
    }

    /// Waits until the TLS handshake is over, if there is one.
    ///
    /// # Errors
    ///
    /// If the client does not speak TLS, or hangs up.
    pub(super) fn poll_handshake(&mut self, context: &mut Context<'_>) -> Poll<Result<(), NoTls>> {
        let Self { stream, tls, .. } = self;
        let Some(tls) = tls else { return Poll::Ready(Ok(())) };
        while tls.session.is_handshaking() {
            let heard = ready!(tls.poll_hear(stream, context));
            match heard {
                Ok(true) => {}
                Ok(false) if !tls.has_begun => return Poll::Ready(Err(NoTls::Silent)),
                Err(error) if !tls.has_begun && error.kind() == io::ErrorKind::ConnectionReset => {
                    return Poll::Ready(Err(NoTls::Silent));
                }
                Ok(false) => return Poll::Ready(Err(NoTls::Failed(io::ErrorKind::UnexpectedEof.into()))),
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    // It fits into the empty buffer of the socket.
                    let _ = Pin::new(&mut *stream).poll_write(context, PLAIN_HTTP);
                    let _ = Pin::new(&mut *stream).poll_shutdown(context);
                    return Poll::Ready(Err(NoTls::Plain));
                }
                Err(error) => return Poll::Ready(Err(NoTls::Failed(error))),
            }
        }
        // What does not go out now goes out with the first answer.
        match tls.poll_push(stream, context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(NoTls::Failed(error))),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// The socket, no longer registered with the runtime, its TLS, and what was read of it that hyper has not taken.
    ///
    /// # Errors
    ///
    /// If the runtime cannot forget it, or it was lost.
    pub(crate) fn into_parts(self) -> io::Result<(TcpStream, Option<Box<Session>>, Vec<u8>)> {
        let stream = self.stream.into_std()?;
        Ok(match self.tls {
            None => (stream, None, Vec::new()),
            Some(mut tls) => {
                let rest = tls.said.split_off(tls.taken);
                (stream, Some(tls.session), rest)
            }
        })
    }

    /// Takes note of bytes that were read.
    fn was_read(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.phases.read();
        }
        self.content_length.read(bytes);
    }
}

impl Tls {
    /// Reads and decrypts what has come, once something has. False: nothing follows.
    fn poll_hear(&mut self, stream: &mut LazyStream, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        // A client that takes nothing of its answers may still speak.
        if let Poll::Ready(Err(error)) = self.poll_push(stream, context) {
            return Poll::Ready(Err(error));
        }
        if self.session.has_ended() {
            return Poll::Ready(Ok(false));
        }
        let mut encrypted = [0; ENCRYPTED];
        let mut read = ReadBuf::new(&mut encrypted);
        ready!(Pin::new(&mut *stream).poll_read(context, &mut read))?;
        let read = read.filled_mut();
        if read.is_empty() {
            return Poll::Ready(Ok(false));
        }
        // A record of TLS begins with a small number, and a request with a capital.
        if !std::mem::replace(&mut self.has_begun, true) && read[0].is_ascii_uppercase() {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        }
        let said = &mut self.said;
        let fed = self.session.feed(read, &mut |bytes| said.extend_from_slice(bytes));
        if let Err(error) = fed {
            // The alert that says so; the client may be gone.
            let _ = self.poll_push(stream, context);
            return Poll::Ready(Err(error.into()));
        }
        Poll::Ready(Ok(true))
    }

    /// Writes what was encrypted.
    fn poll_push(&mut self, stream: &mut LazyStream, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.session.push(&mut Polled { stream, context }) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            done => Poll::Ready(done),
        }
    }

    /// Gives hyper what the client has said. False: there is nothing.
    fn tell(&mut self, into: &mut ReadBuf<'_>) -> bool {
        let left = &self.said[self.taken..];
        let now = left.len().min(into.remaining());
        if now == 0 {
            return false;
        }
        into.put_slice(&left[..now]);
        self.taken += now;
        if self.taken == self.said.len() {
            self.taken = 0;
            self.said = Vec::new();
        }
        true
    }
}

/// A stream that is written to while a task is polled.
struct Polled<'a, 'c> {
    stream: &'a mut LazyStream,
    context: &'a mut Context<'c>,
}

impl Write for Polled<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match Pin::new(&mut *self.stream).poll_write(self.context, bytes) {
            Poll::Ready(done) => done,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for HttpStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let this = &mut *self;
        match &mut this.tls {
            None => ready!(Pin::new(&mut this.stream).poll_read(context, into))?,
            Some(tls) => {
                while !tls.tell(into) && into.remaining() > 0 {
                    if !ready!(tls.poll_hear(&mut this.stream, context))? {
                        break;
                    }
                }
            }
        }
        this.was_read(&into.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.content_length.wrote();
        let this = &mut *self;
        let Some(tls) = &mut this.tls else {
            return Pin::new(&mut this.stream).poll_write(context, bytes);
        };
        ready!(tls.poll_push(&mut this.stream, context))?;
        let taken = tls.session.encrypt(bytes)?;
        match tls.poll_push(&mut this.stream, context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.content_length.wrote();
        if self.tls.is_none() {
            return Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        }
        let first = bytes.iter().find(|bytes| !bytes.is_empty());
        self.poll_write(context, first.map_or(&[], |bytes| &**bytes))
    }

    /// With TLS, hyper joins head and body, which become one record.
    fn is_write_vectored(&self) -> bool {
        self.tls.is_none()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        match &mut this.tls {
            Some(tls) => tls.poll_push(&mut this.stream, context),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(tls) = &mut this.tls {
            tls.session.say_goodbye();
            ready!(tls.poll_push(&mut this.stream, context))?;
        }
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}
