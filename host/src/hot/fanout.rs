//! One frame for many WebSockets: queued for each, written to each.

use std::cell::RefCell;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;

use bennu_wire::serializer::Kind;
use bytes::Bytes;
use bytestring::ByteString;

use super::{PAYLOAD, Path};
use crate::runtime::id::MemberId;
use crate::server::io::Subscriptions;
use crate::server::transport::websocket::{Upgraded, WebSocket};
use crate::server::transport::{Flushed, Frame, Transport as _};

pub(super) fn to(subscribers: usize) -> Path {
    let (clients, mut sockets): (Vec<_>, Vec<_>) = (0..subscribers).map(|_| connection()).unzip();
    let topic = ByteString::from_static("echo:17");
    let mut subscriptions = Subscriptions::default();
    for slot in 0..subscribers {
        subscriptions.add(&topic, MemberId::new(0, slot as u32, 0));
    }
    let sent = Rc::new(RefCell::new(false));
    let also_sent = Rc::clone(&sent);
    let run = move || {
        let frame = Frame::of(Kind::Text, PAYLOAD.as_bytes());
        let list = subscriptions.lend(&topic);
        for member in &list {
            sockets[member.slot()].send(&frame, None).expect("there is room");
        }
        subscriptions.take_back(&topic, list);
        for socket in &mut sockets {
            assert_eq!(socket.flush(), Flushed::All);
        }
        *also_sent.borrow_mut() = true;
    };
    // What was sent the last time is read, so that there is always room.
    let before = move || {
        if std::mem::take(&mut *sent.borrow_mut()) {
            let mut scratch = [0; 1024];
            for client in &clients {
                let mut client: &TcpStream = client;
                assert!(client.read(&mut scratch).is_ok_and(|read| read > PAYLOAD.len()));
            }
        }
    };
    Path {
        run: Box::new(run),
        before: Box::new(before),
    }
}

/// A client and the host's side of it.
fn connection() -> (TcpStream, WebSocket) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
    let (stream, _) = listener.accept().expect("accepted");
    stream.set_nonblocking(true).expect("non-blocking");
    let upgraded = Upgraded {
        stream,
        session: None,
        leftover: Bytes::new(),
        echo: false,
        deflate: None,
    };
    (client, WebSocket::new(upgraded, 1 << 20, 1 << 20))
}
