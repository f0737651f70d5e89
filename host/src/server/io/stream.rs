//! A connection that the runtime learns of only if it has to be waited for.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::content_length::ContentLength;
use super::http::Phases;

/// What is read before the runtime is asked: a request's head, most often.
const FIRST: usize = 2048;

/// A stream that does not block, as hyper reads and writes it. Most clients have sent their request by the time that they are
/// accepted, and the response finds room: those that then become WebSockets, which another poll is to watch, were never known
/// to the runtime's.
#[derive(Debug)]
pub(crate) struct LazyStream {
    state: State,
    phases: Arc<Phases>,
    content_length: ContentLength,
}

#[derive(Debug)]
enum State {
    Unknown {
        stream: TcpStream,
        /// All that has come was read just now, and what it brought about may be the end of this.
        drained: bool,
    },
    Known(tokio::net::TcpStream),
    /// It could not be made known.
    Lost,
}

impl LazyStream {
    /// A stream that tells `phases` when something was read.
    pub(super) fn new(stream: TcpStream, phases: Arc<Phases>) -> Self {
        let drained = false;
        Self {
            state: State::Unknown { stream, drained },
            phases,
            content_length: ContentLength::default(),
        }
    }

    /// What is noticed of the requests that it brings.
    pub(super) fn content_length(&self) -> ContentLength {
        self.content_length.clone()
    }

    /// Takes note of bytes that were read.
    fn was_read(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.phases.read();
        }
        self.content_length.read(bytes);
    }

    /// The stream, which the runtime has forgotten.
    ///
    /// # Errors
    ///
    /// If the runtime cannot forget it, or it was lost.
    pub(crate) fn into_std(self) -> io::Result<TcpStream> {
        match self.state {
            State::Unknown { stream, .. } => Ok(stream),
            State::Known(stream) => stream.into_std(),
            State::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Makes it known to the runtime.
    fn known(&mut self) -> io::Result<Pin<&mut tokio::net::TcpStream>> {
        self.state = match std::mem::replace(&mut self.state, State::Lost) {
            State::Unknown { stream, .. } => State::Known(tokio::net::TcpStream::from_std(stream)?),
            other => other,
        };
        match &mut self.state {
            State::Known(stream) => Ok(Pin::new(stream)),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Tries it at once; nothing if it has to be waited for, or is known.
    fn at_once<T>(&mut self, mut attempt: impl FnMut(&mut TcpStream) -> io::Result<T>) -> Option<io::Result<T>> {
        let State::Unknown { stream, .. } = &mut self.state else {
            return None;
        };
        loop {
            match attempt(stream) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                done => return Some(done),
            }
        }
    }
}

impl AsyncRead for LazyStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let State::Unknown { drained, .. } = &mut self.state
            && std::mem::take(drained)
        {
            // Asked again if this is still needed when all else that is due has been done.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let most = into.remaining().min(FIRST);
        let before = into.filled().len();
        let Some(read) = self.at_once(|stream| stream.read(into.initialize_unfilled_to(most))) else {
            let polled = self.known()?.poll_read(context, into);
            self.was_read(&into.filled()[before..]);
            return polled;
        };
        let read = read?;
        into.advance(read);
        self.was_read(&into.filled()[before..]);
        if let State::Unknown { drained, .. } = &mut self.state {
            *drained = read < most;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LazyStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.content_length.wrote();
        match self.at_once(|stream| stream.write(bytes)) {
            Some(written) => Poll::Ready(written),
            None => self.known()?.poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.content_length.wrote();
        match self.at_once(|stream| stream.write_vectored(bytes)) {
            Some(written) => Poll::Ready(written),
            None => self.known()?.poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing is kept back here.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.at_once(|stream| stream.shutdown(Shutdown::Write)) {
            Some(done) => Poll::Ready(done),
            None => self.known()?.poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn pair() -> (TcpStream, LazyStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("its address")).expect("connected");
        let (server, _) = listener.accept().expect("accepted");
        server.set_nonblocking(true).expect("set");
        (client, LazyStream::new(server, Arc::default()))
    }

    fn is_known(stream: &LazyStream) -> bool {
        matches!(stream.state, State::Known(_))
    }

    /// Until it is there: the other end is in this process.
    async fn arrived(client: &mut TcpStream, server: &LazyStream, bytes: &[u8]) {
        client.write_all(bytes).expect("sent");
        let State::Unknown { stream, .. } = &server.state else {
            unreachable!("asked before it is known")
        };
        while stream.peek(&mut [0; 1]).is_err() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn who_has_spoken_already_is_answered_and_let_go_without_the_runtime() {
        let (mut client, mut server) = pair();
        arrived(&mut client, &server, b"hello").await;
        let mut heard = [0; 100];
        assert_eq!(server.read(&mut heard).await.expect("read"), 5);
        server.write_all(b"welcome").await.expect("written");
        assert!(!is_known(&server));
        let mut stream = server.into_std().expect("it is there");
        client.write_all(b"more").expect("sent");
        stream.set_nonblocking(false).expect("set");
        stream.read_exact(&mut heard[..4]).expect("read");
        client.read_exact(&mut heard[..7]).expect("read");
        assert_eq!(&heard[..7], b"welcome");
    }

    #[tokio::test]
    async fn who_has_not_spoken_is_waited_for() {
        let (mut client, mut server) = pair();
        let speaker = std::thread::spawn(move || {
            client.write_all(b"first").expect("sent");
            let mut answer = [0; 2];
            client.read_exact(&mut answer).expect("read");
            client.write_all(b"second").expect("sent");
            client
        });
        let mut heard = [0; 6];
        server.read_exact(&mut heard[..5]).await.expect("read");
        server.write_all(b"ok").await.expect("written");
        server.read_exact(&mut heard).await.expect("read");
        assert_eq!(&heard, b"second");
        assert!(is_known(&server));
        let client = speaker.join().expect("no panic");
        drop(client);
        assert_eq!(server.read(&mut heard).await.expect("read"), 0);
        server.into_std().expect("it is there");
    }

    #[tokio::test]
    async fn what_finds_no_room_is_written_when_there_is() {
        let (mut client, mut server) = pair();
        let much = vec![b'x'; 8 << 20];
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            client.read_to_end(&mut all).map(|_| all.len())
        });
        server.write_all(&much).await.expect("written");
        server.shutdown().await.expect("shut down");
        assert_eq!(reader.join().expect("no panic").expect("read"), much.len());
    }
}
