//! The other end of the transport in memory.

use std::net::Ipv4Addr;

use bennu::transport::Waker;
use bennu::{Denied, Entrance, Visit};
use bennu_tools::client::{Frame, Incoming as Heard, Options};
use bennu_wire::serializer::Incoming;
use tokio::sync::{mpsc, oneshot};

use super::memory::Arriving;

/// Messages that may wait, each way.
const ROOM: usize = 1_000;

/// A client. Dropped, it hangs up.
#[derive(Debug)]
pub(crate) struct Client {
    said: Option<mpsc::Sender<Incoming>>,
    heard: mpsc::Receiver<Heard>,
    waker: Waker,
}

impl Client {
    /// Asks to come in, with the mount, the params and the dialect of the options.
    pub(crate) async fn connect(entrance: &Entrance, options: &Options) -> Result<Self, Denied> {
        let ((say, said), (tell, heard)) = (mpsc::channel(ROOM), mpsc::channel(ROOM));
        let (let_in, waker) = oneshot::channel();
        let (request, ()) = http::Request::get(options.url())
            .body(())
            .expect("a request")
            .into_parts();
        let visit = Visit {
            mount: options.mount.clone(),
            dialect: options.dialect,
            request,
            peer: (Ipv4Addr::LOCALHOST, 0).into(),
            auth_token: None,
        };
        entrance
            .open(visit, Box::new(Arriving::new(said, tell, let_in)))
            .await?;
        Ok(Self {
            said: Some(say),
            heard,
            waker: waker.await.expect("the thread takes it"),
        })
    }

    pub(crate) async fn send(&self, frame: Frame) {
        let frame = match frame {
            Frame::Text(text) => Incoming::Text(text.into()),
            Frame::Binary(bytes) => Incoming::Binary(bytes),
        };
        // Whoever says something after the end has not heard of it yet.
        let _ = self.said.as_ref().expect("not hung up").send(frame).await;
        self.waker.wake();
    }

    /// The next message; none is left when the server has let go.
    pub(crate) async fn next(&mut self) -> Option<Heard> {
        self.heard.recv().await
    }

    /// Hangs up, and waits until the server has seen it.
    pub(crate) async fn close(mut self) {
        self.hang_up();
        while self.heard.recv().await.is_some() {}
    }

    fn hang_up(&mut self) {
        self.said = None;
        self.waker.wake();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.hang_up();
    }
}
