//! Lists the open connections of an I/O thread. Each request takes one bounded step, so clients do not wait for an operator.

use std::time::Instant;

use super::Core;
use crate::server::io::listing::{ListRequest, Listed, OpenConnection};
use crate::server::socket::Socket;

/// How many places a step looks at: some tens of microseconds.
const LOOK: usize = 1_000;

impl Core {
    /// Answers a request with what is at the next places. Closes these connections if it asks for that.
    pub(super) fn list(&mut self, request: ListRequest, now: Instant) {
        let ListRequest {
            from,
            most,
            wanted,
            close,
            reply,
        } = request;
        let end = self.sockets.capacity();
        let (mut connections, mut slots) = (Vec::new(), Vec::new());
        let mut at = from;
        let stop = from.saturating_add(LOOK).min(end);
        while at < stop && connections.len() < most {
            if let Some(socket) = self.sockets.get(at).filter(|socket| !socket.closing)
                && wanted.includes(
                    socket.info.connection,
                    socket.info.socket_id().map(|id| &**id),
                    socket.info.address(),
                )
            {
                connections.push(described(socket, now));
                slots.push(at);
            }
            at += 1;
        }
        if let Some(reason) = close {
            slots.into_iter().for_each(|slot| self.close(slot, reason));
        }
        let next = (at < end).then_some(at);
        // Whoever asked may have gone.
        let _ = reply.send(Listed { connections, next });
    }
}

fn described(socket: &Socket, now: Instant) -> OpenConnection {
    let info = &socket.info;
    let millis = |since: Instant| u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX);
    OpenConnection {
        number: info.connection,
        peer: info.address(),
        mount: info.mount.path.clone(),
        socket_id: info.socket_id().cloned(),
        transport: socket.transport.as_ref().map_or("", |transport| transport.name()),
        vsn: info.serializer.vsn(),
        open_ms: millis(socket.since),
        silent_ms: millis(socket.heard),
        topics: socket.topics(),
        unsent_bytes: socket.waiting(),
        traffic: socket.traffic,
    }
}
