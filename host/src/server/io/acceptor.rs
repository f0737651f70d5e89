//! Accepts connections.

use std::error::Error;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::runtime::throttle::LogThrottle;
use crate::runtime::wake::{self, PutOff};

/// How many connections are accepted before I/O threads are woken for them.
const BATCH: usize = 64;
/// How long the acceptor waits after a failure. Usually the process is out of descriptors, and some will be free soon.
const PAUSE: Duration = Duration::from_millis(50);
/// How long accepting must work again before the log says so.
const WELL: Duration = Duration::from_secs(1);

/// Accepts connections without registering them with a runtime: only their I/O thread does that.
#[derive(Debug)]
pub(crate) struct Acceptor {
    listener: AsyncFd<TcpListener>,
    trouble: Mutex<Trouble>,
}

/// Failures to accept a connection, and their log lines.
#[derive(Debug, Default)]
struct Trouble {
    /// By error number.
    said: LogThrottle<Option<i32>>,
    last: Option<Instant>,
}

impl Acceptor {
    /// Takes over a non-blocking listener. To be called on the runtime that waits for connections.
    ///
    /// # Errors
    ///
    /// If the runtime cannot poll it.
    pub(crate) fn new(listener: TcpListener) -> io::Result<Self> {
        #[expect(
            deprecated,
            reason = "its successor is unsafe; a listener keeps its descriptor for life"
        )]
        let listener = AsyncFd::with_interest(listener, Interest::READABLE)?;
        Ok(Self {
            listener,
            trouble: Mutex::default(),
        })
    }

    /// Waits for connections and hands them on, set to non-blocking. Sleeping I/O threads are woken once all are handed on. If the
    /// system refuses a connection, this logs it (at most once a second) and waits 50 ms. Dropping the future loses nothing.
    pub(crate) async fn accept(&self, mut hand_on: impl FnMut(TcpStream, SocketAddr)) {
        let mut some = false;
        let accepted = self.try_accept(|stream, peer| {
            some = true;
            hand_on(stream, peer);
        });
        let accepted = accepted.await;
        if some {
            self.trouble().went_well();
        }
        if let Err(error) = accepted {
            self.trouble().failed(&error);
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn try_accept(&self, hand_on: impl FnMut(TcpStream, SocketAddr)) -> io::Result<()> {
        let mut ready = self.listener.readable().await?;
        let some = || take(ready.get_inner(), hand_on);
        if !wake::together(PutOff::IoThreads, some)? {
            ready.clear_ready();
        }
        Ok(())
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().expect("no holder panics")
    }
}

impl Trouble {
    fn failed(&mut self, error: &io::Error) {
        let now = Instant::now();
        self.last = Some(now);
        if let Some((_, more)) = self.said.say(error.raw_os_error(), || (), now) {
            let more = (more > 0).then_some(more);
            tracing::error!(error = error as &dyn Error, more, "cannot accept connections");
        }
    }

    fn went_well(&mut self) {
        if self.last.is_some_and(|last| last.elapsed() >= WELL) {
            *self = Self::default();
            tracing::info!("accepting connections again");
        }
    }
}

/// Accepts the connections that wait. False: there are no more.
fn take(listener: &TcpListener, mut hand_on: impl FnMut(TcpStream, SocketAddr)) -> io::Result<bool> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    for _ in 0..BATCH {
        match acceptfrom_with(listener, flags) {
            Ok((stream, peer)) => {
                // A client that has hung up may have no address any more.
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
