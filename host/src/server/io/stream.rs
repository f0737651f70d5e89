//! A connection that is registered with the runtime only if it has to wait.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::http::{Deadline, Phases};

/// How much is read before the stream is registered: usually the head of a request.
const FIRST: usize = 2048;

/// How much a client has to take of a response in its time. With more, the time starts anew.
const PROGRESS: usize = 64 * 1024;

/// How often it reads in one turn what nobody needs.
const LINGERING_READS: usize = 64;

/// A non-blocking stream as hyper reads and writes it. Most clients have sent their request before they are accepted, and the
/// response finds room. So a connection that becomes a WebSocket, and moves to another poll, was usually never registered with the
/// runtime.
///
/// A write that waits too long for the client fails, and the connection is then reset.
#[derive(Debug)]
pub(crate) struct LazyStream {
    state: State,
    /// How long a client may take for the next [`PROGRESS`] bytes of a response, or for the rest.
    write_timeout: Duration,
    /// The client has not taken all of a response.
    blocked: Option<Box<Blocked>>,
    phases: Arc<Phases>,
    /// Bytes that were read too early: what followed a header of the PROXY protocol.
    ahead: Vec<u8>,
}

/// A write that waits, or has waited since the last request came.
#[derive(Debug)]
struct Blocked {
    until: Deadline,
    /// Bytes that the client has taken since it began.
    taken: usize,
}

#[derive(Debug)]
enum State {
    Unknown {
        stream: TcpStream,
        /// All bytes that have come were read just now. The answer to them may end this stream.
        drained: bool,
    },
    Known(tokio::net::TcpStream),
    /// It could not be registered.
    Lost,
}

impl LazyStream {
    /// A stream that ends as `phases` say.
    pub(super) fn new(stream: TcpStream, write_timeout: Duration, phases: Arc<Phases>) -> Self {
        let drained = false;
        Self {
            state: State::Unknown { stream, drained },
            write_timeout,
            blocked: None,
            phases,
            ahead: Vec::new(),
        }
    }

    /// Has these bytes read before all others.
    pub(super) fn put_back(&mut self, bytes: &[u8]) {
        self.ahead = bytes.to_vec();
    }

    /// The stream, no longer registered with the runtime.
    ///
    /// # Errors
    ///
    /// If the runtime cannot forget it, or it was lost.
    pub(crate) fn into_std(self) -> io::Result<TcpStream> {
        debug_assert!(self.ahead.is_empty(), "they were read first");
        match self.state {
            State::Unknown { stream, .. } => Ok(stream),
            State::Known(stream) => stream.into_std(),
            State::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Registers it with the runtime.
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

    /// Tries it at once. `None` if it would block, or the stream is registered.
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

impl LazyStream {
    fn fill(&mut self, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let first = self.ahead.len().min(into.remaining());
            into.put_slice(&self.ahead[..first]);
            self.ahead.drain(..first);
            return Poll::Ready(Ok(()));
        }
        if let State::Unknown { drained, .. } = &mut self.state
            && std::mem::take(drained)
        {
            // hyper asks again if it still needs this once it has done all else that is due.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let most = into.remaining().min(FIRST);
        let Some(read) = self.at_once(|stream| stream.read(into.initialize_unfilled_to(most))) else {
            return self.known()?.poll_read(context, into);
        };
        let read = read?;
        into.advance(read);
        if let State::Unknown { drained, .. } = &mut self.state {
            *drained = read < most;
        }
        Poll::Ready(Ok(()))
    }

    /// Notes how a write went. One that has waited too long fails.
    fn after_write(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = written {
            if let Some(blocked) = &mut self.blocked
                && let Ok(written) = &written
            {
                blocked.taken += written;
                self.blocked.take_if(|blocked| blocked.taken >= PROGRESS);
            }
            return Poll::Ready(written);
        }
        let timeout = self.write_timeout;
        if self.blocked(timeout).until.poll(context).is_pending() {
            return Poll::Pending;
        }
        self.reset_on_close();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Ends the connection for a client that still sends. With bytes that nobody has read the kernel would reset it, and the client
    /// would lose the answer.
    fn linger(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let timeout = self.write_timeout;
        let mut stream = self.known()?;
        ready!(stream.as_mut().poll_shutdown(context))?;
        let mut bytes = [0; 4096];
        for _ in 0..LINGERING_READS {
            let mut into = ReadBuf::new(&mut bytes);
            match stream.as_mut().poll_read(context, &mut into) {
                Poll::Ready(Ok(())) if !into.filled().is_empty() => {}
                Poll::Ready(done) => return Poll::Ready(done),
                Poll::Pending => return self.blocked(timeout).until.poll(context).map(Ok),
            }
        }
        // The next turn comes after those of others.
        context.waker().wake_by_ref();
        self.blocked(timeout).until.poll(context).map(Ok)
    }

    /// Since when the client is waited for.
    fn blocked(&mut self, timeout: Duration) -> &mut Blocked {
        self.blocked.get_or_insert_with(|| {
            let until = Deadline::new(timeout);
            Box::new(Blocked { until, taken: 0 })
        })
    }

    /// Has the kernel drop what it has not sent, which it would keep for minutes otherwise.
    fn reset_on_close(&self) {
        let at_once = Some(Duration::ZERO);
        let _ = match &self.state {
            State::Unknown { stream, .. } => rustix::net::sockopt::set_socket_linger(stream, at_once),
            State::Known(stream) => rustix::net::sockopt::set_socket_linger(stream, at_once),
            State::Lost => Ok(()),
        };
    }
}

impl AsyncRead for LazyStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = self.fill(context, into);
        if into.filled().len() > before {
            // Another request: the client has taken the response to the one before.
            self.blocked = None;
        }
        read
    }
}

impl AsyncWrite for LazyStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match self.at_once(|stream| stream.write(bytes)) {
            Some(written) => Poll::Ready(written),
            None => self.known()?.poll_write(context, bytes),
        };
        self.after_write(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match self.at_once(|stream| stream.write_vectored(bytes)) {
            Some(written) => Poll::Ready(written),
            None => self.known()?.poll_write_vectored(context, bytes),
        };
        self.after_write(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// It keeps no bytes back.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.phases.lingers() {
            return self.linger(context);
        }
        match self.at_once(|stream| stream.shutdown(Shutdown::Write)) {
            Some(done) => Poll::Ready(done),
            None => self.known()?.poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::task::Waker;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn pair() -> (TcpStream, LazyStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("its address")).expect("connected");
        let (server, _) = listener.accept().expect("accepted");
        server.set_nonblocking(true).expect("set");
        (client, LazyStream::new(server, Duration::from_secs(60), Arc::default()))
    }

    fn is_known(stream: &LazyStream) -> bool {
        matches!(stream.state, State::Known(_))
    }

    /// Waits until the bytes are there: the other end is in this process.
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
    async fn a_client_that_takes_nothing_is_cut_off() {
        let (mut client, mut server) = pair();
        server.write_timeout = Duration::from_millis(100);
        let error = server
            .write_all(&vec![b'x'; 8 << 20])
            .await
            .expect_err("nothing is read");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(server);
        let error = client.read_to_end(&mut Vec::new()).expect_err("reset, not ended");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn the_time_of_a_write_starts_anew_with_progress_and_with_the_next_request() {
        let (mut client, mut server) = pair();
        let mut context = Context::from_waker(Waker::noop());
        let mut wrote = |server: &mut LazyStream, written| {
            assert_eq!(
                server.after_write(&mut context, written).is_pending(),
                server.blocked.is_some()
            );
            server.blocked.as_ref().map(|blocked| blocked.taken)
        };
        assert_eq!(wrote(&mut server, Poll::Pending), Some(0));
        let _ = server.after_write(&mut Context::from_waker(Waker::noop()), Poll::Ready(Ok(PROGRESS - 1)));
        assert_eq!(wrote(&mut server, Poll::Pending), Some(PROGRESS - 1));
        assert_eq!(wrote(&mut server, Poll::Ready(Ok(1))), None);
        assert_eq!(wrote(&mut server, Poll::Pending), Some(0));
        arrived(&mut client, &server, b"next").await;
        assert_eq!(server.read(&mut [0; 100]).await.expect("read"), 4);
        assert!(server.blocked.is_none());
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
