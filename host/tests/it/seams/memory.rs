//! A transport that the host does not have: two queues in memory, and a waker.

use std::io;

use bennu::transport::{
    Flushed, Frame, Overflow, PendingConnection, Received, Registration, Replaceable, Transport, Waker,
};
use bennu_tools::client::{Frame as Said, Incoming as Heard};
use bennu_wire::serializer::{Incoming, Kind};
use tokio::sync::{mpsc, oneshot};

/// Messages that are received in one turn.
const SHARE: usize = 10;

/// The server's end, on its way to its thread.
#[derive(Debug)]
pub(crate) struct Arriving(Memory, oneshot::Sender<Waker>);

#[derive(Debug)]
struct Memory {
    said: mpsc::Receiver<Incoming>,
    heard: mpsc::Sender<Heard>,
    ended: bool,
}

impl Arriving {
    /// What is said comes from one queue, what is to be heard goes into the other; the waker goes to the client.
    pub(crate) fn new(
        said: mpsc::Receiver<Incoming>,
        heard: mpsc::Sender<Heard>,
        let_in: oneshot::Sender<Waker>,
    ) -> Self {
        let ended = false;
        Self(Memory { said, heard, ended }, let_in)
    }
}

impl PendingConnection for Arriving {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn register(self: Box<Self>, registration: &Registration<'_>) -> io::Result<Box<dyn Transport>> {
        let Self(memory, let_in) = *self;
        let_in
            .send(registration.waker())
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(Box::new(memory))
    }
}

impl Transport for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn takes_binary(&self) -> bool {
        true
    }

    fn receive(&mut self, _scratch: &mut [u8], take: &mut dyn FnMut(Incoming)) -> Received {
        for _ in 0..SHARE {
            match self.said.try_recv() {
                Ok(frame) => take(frame),
                Err(mpsc::error::TryRecvError::Empty) => return Received::All,
                Err(mpsc::error::TryRecvError::Disconnected) => return Received::Lost,
            }
        }
        Received::More
    }

    fn send(&mut self, frame: &Frame, _: Option<Replaceable>) -> Result<usize, Overflow> {
        let said = match frame.kind() {
            Kind::Text => Said::Text(String::from_utf8(frame.payload().to_vec()).expect("text is UTF-8")),
            Kind::Binary => Said::Binary(frame.payload()),
        };
        if self.ended {
            return Ok(0);
        }
        self.heard
            .try_send(Heard::Frame(said))
            .map(|()| 0)
            .map_err(|_| Overflow)
    }

    fn flush(&mut self) -> Flushed {
        if self.ended { Flushed::Ended } else { Flushed::All }
    }

    fn close(&mut self, code: u16, _reason: &str) {
        self.ended = true;
        let _ = self.heard.try_send(Heard::Closed { code });
    }
}
