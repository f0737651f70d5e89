//! The socket on which clients arrive.

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

/// Connections that are taken at once, before anybody is told of them.
const BATCH: usize = 64;
/// How long nothing is accepted after that has failed: out of descriptors, most often, and some will be free in a moment.
const PAUSE: Duration = Duration::from_millis(50);
/// How long it must have gone well before that is said.
const WELL: Duration = Duration::from_secs(1);

/// Takes connections, and leaves them as they are: to no runtime but their I/O thread's are they made known.
#[derive(Debug)]
pub(crate) struct Acceptor {
    listener: AsyncFd<TcpListener>,
    trouble: Mutex<Trouble>,
}

/// That connections cannot be accepted, and what was said of it.
#[derive(Debug, Default)]
struct Trouble {
    /// By the system's number.
    said: LogThrottle<Option<i32>>,
    last: Option<Instant>,
}

impl Acceptor {
    /// Takes over a listener that does not block. On the runtime that is to wait for connections.
    ///
    /// # Errors
    ///
    /// If it cannot be polled.
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

    /// Waits for connections, and hands on those that are there: none of them blocks. I/O threads that sleep are woken when
    /// all have been handed on. Where the system cannot give one, that is logged, once a second at most, and it takes 50 ms. May
    /// be given up; nothing is lost.
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
            tracing::error!(error = error as &dyn Error, more, "cannot accept a connection");
        }
    }

    fn went_well(&mut self) {
        if self.last.is_some_and(|last| last.elapsed() >= WELL) {
            *self = Self::default();
            tracing::info!("accepting connections again");
        }
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
