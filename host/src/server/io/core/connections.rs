//! How connections arrive at an I/O thread, and how they end.

use std::sync::Arc;
use std::time::Instant;

use bytestring::ByteString;

use super::{Core, LATE, READS};
use crate::runtime::channel::{Ending, Input, Notice};
use crate::runtime::client_lines::{Source, client_line};
use crate::runtime::clock;
use crate::runtime::id::MAX_SOCKETS;
use crate::server::closes::{CloseReason, Closed, Outcome, Record, RefusalReason, Refused};
use crate::server::io::entry::Connection;
use crate::server::io::{Described, Entry};
use crate::server::socket::{NewSocket, Socket, Status};
use crate::server::transport::longpoll::Published;
use crate::server::transport::{PendingConnection, Registration, Transport, Waker};

impl Core {
    /// Registers the connection of a client that may connect.
    pub(super) fn adopt(&mut self, pending: Box<dyn PendingConnection>, info: NewSocket, now: Instant) {
        let wake = |slot| {
            let inbox = Arc::clone(&self.inbox);
            Waker::new(move || inbox.push_now(Entry::Ready(slot)))
        };
        let limits = &self.routing.config.limits;
        let registry = self.poll.get_ref().registry();
        let registration = Registration::new(limits, registry, self.sockets.vacant_key(), &wake);
        match pending.register(&registration) {
            Ok(transport) => {
                let slot = self.open(info, transport, now);
                // It was let in just before the stop, which may have closed all others by now.
                if let Some(slot) = slot.filter(|_| self.state.is_stopping()) {
                    self.close(slot, CloseReason::ServerRestarts);
                }
            }
            Err(error) => {
                client_line!(
                    ERROR,
                    self.hub().client_lines,
                    "not polled",
                    Source::of(info.peer),
                    connection = info.connection,
                    peer = %info.peer,
                    error = &error as &dyn std::error::Error,
                    "cannot poll a connection"
                );
                self.note_refused(&info, RefusalReason::System);
            }
        }
    }

    /// Gives a socket its slot. `None` if the thread has no more slots.
    pub(super) fn open(&mut self, mut info: NewSocket, transport: Box<dyn Transport>, now: Instant) -> Option<usize> {
        if self.sockets.len() >= MAX_SOCKETS {
            self.note_refused(&info, RefusalReason::Full);
            return None;
        }
        let serial = self.next_serial();
        let arrival = info.arrival.take();
        let id = info.identity.as_ref().and_then(|identity| identity.socket_id.clone());
        let labels = info.labels(transport.name());
        let metrics = &self.hub().metrics;
        metrics.clients.get_or_create(&labels).inc();
        metrics.connects.get_or_create(&labels).inc();
        let is_limited = self.client_rates.limits(info.peer);
        let slot = self.sockets.insert(Socket::new(serial, info, transport, now));
        self.sockets[slot].is_limited = is_limited;
        if let Some(id) = id {
            self.name(slot, id);
        }
        self.state.acquire(self.index);
        self.hub().metrics.sockets.inc();
        if arrival.is_some_and(|arrival| arrival.is_disconnected()) {
            self.close(slot, CloseReason::Disconnected);
        }
        Some(slot)
    }

    /// From now on a `disconnect` of this socket id finds the socket.
    pub(super) fn name(&mut self, slot: usize, id: ByteString) {
        self.ids.entry(id).or_default().push(slot);
    }

    /// Describes the connections with a socket id: so many at most, which have so many bytes of topics at most.
    pub(super) fn describe(&self, socket_id: &str, (most, bytes): (usize, usize)) -> Described {
        let slots = self.slots_of(socket_id);
        let sockets = slots.iter().filter_map(|slot| self.sockets.get(*slot));
        let open: Vec<&Socket> = sockets.filter(|socket| !socket.closing).collect();
        let count = open.len();
        let mut room = bytes;
        let has_room = |connection: &Connection| {
            let bytes: usize = connection.topics.iter().map(|topic| topic.len()).sum();
            room.checked_sub(bytes).map(|rest| room = rest).is_some()
        };
        let connections = open
            .into_iter()
            .take(most)
            .map(described)
            .take_while(has_room)
            .collect();
        Described { count, connections }
    }

    /// A client has taken some of what waits for it, so it has more time for the rest; and for its goodbye, which stands behind that.
    pub(super) fn has_taken(&mut self, slot: usize, now: Instant) {
        if let Some(socket) = self.sockets.get_mut(slot) {
            socket.stalled = None;
            if socket.closing {
                socket.heard = now;
            }
        }
    }

    /// Notes that a client is not let in although it might have been.
    fn note_refused(&self, info: &NewSocket, reason: RefusalReason) {
        let refused = Outcome::Refused(Refused::new(reason, None, None));
        self.state.note(Record {
            mount: Some(Arc::clone(&info.mount)),
            socket_id: info.socket_id().cloned(),
            vsn: Some(info.serializer.vsn()),
            ..Record::new(info.connection, info.address(), refused)
        });
    }

    /// Closes a connection: ends its channels, and tells the client why. The client has a moment to read that.
    pub(super) fn close(&mut self, slot: usize, reason: CloseReason) {
        self.close_for(slot, reason, None);
    }

    /// The same, with what the transport or the serializer says of it.
    pub(super) fn close_for(&mut self, slot: usize, reason: CloseReason, detail: Option<&str>) {
        if self.sockets.get(slot).is_none_or(|socket| socket.closing) {
            return;
        }
        self.end_channels(slot, reason, detail);
        if let Some(transport) = &mut self.sockets[slot].transport {
            let text = Some(reason.text()).filter(|text| !text.is_empty());
            transport.close(reason.code(), text.or(detail).unwrap_or_default());
        }
        self.forget_unfinished(slot);
        self.mark(slot);
    }

    /// Ends all channels of a socket that is about to close. Every connection comes by here, so this is where its end is noted.
    pub(super) fn end_channels(&mut self, slot: usize, reason: CloseReason, detail: Option<&str>) {
        let Some(socket) = self.sockets.get(slot) else {
            return;
        };
        if !socket.closing {
            self.state.note(closed(socket, reason, detail));
        }
        let socket = &mut self.sockets[slot];
        socket.closing = true;
        socket.heard = clock::now();
        while let Some(last) = self.sockets[slot].channels.len().checked_sub(1) {
            let mut channel = self.take_channel(slot, last);
            channel.tell(Published::Gone);
            channel
                .topic
                .owe(Input::End(Ending::new(channel.member, reason.ending(), Notice::None)));
        }
    }

    /// Drops a socket whose client does not read what waits for it.
    pub(super) fn cut_off(&mut self, slot: usize, reason: CloseReason) {
        if let Some(transport) = self.sockets.get_mut(slot).and_then(|socket| socket.transport.as_mut())
            && transport.waiting() > 0
        {
            transport.drop_unsent();
        }
        self.drop_socket(slot, reason);
    }

    /// Drops a socket.
    pub(super) fn drop_socket(&mut self, slot: usize, reason: CloseReason) {
        self.end_channels(slot, reason, None);
        let Some(socket) = self.sockets.try_remove(slot) else {
            return;
        };
        self.sessions.forget(slot);
        self.unsent.change(socket.unsent, 0);
        self.unfinished.change(socket.unfinished, 0);
        let id = socket
            .info
            .identity
            .as_ref()
            .and_then(|identity| identity.socket_id.as_ref());
        if let Some(slots) = id.and_then(|id| self.ids.get_mut(id)) {
            slots.retain(|known| *known != slot);
        }
        if let Some(id) = id.filter(|id| self.ids.get(*id).is_some_and(Vec::is_empty)) {
            self.ids.remove(id);
        }
        let transport = socket.transport.as_ref().map_or("", |transport| transport.name());
        let metrics = &self.hub().metrics;
        metrics.clients.get_or_create(&socket.info.labels(transport)).dec();
        metrics.sockets.dec();
        self.state.release(self.index);
    }

    /// Looks after what has no event of its own: silent clients, close frames that nobody reads, long-poll sessions.
    ///
    /// A client is judged only by what the server has read: not right after a standstill of the process, and not before one more
    /// look into its socket.
    pub(super) fn tick(&mut self, now: Instant) {
        let is_late = now.saturating_duration_since(self.ticked) >= LATE;
        self.ticked = now;
        if !clock::may_judge() {
            return;
        }
        let limits = &self.routing.config.limits;
        let (idle, close) = (limits.idle_timeout, limits.close_timeout);
        let mut silent = Vec::new();
        let mut over = Vec::new();
        for (slot, socket) in &self.sockets {
            let quiet = now.saturating_duration_since(socket.heard);
            if socket.closing && quiet > close {
                over.push(slot);
            } else if !socket.closing && quiet > idle && !self.sessions.owns(slot) {
                silent.push(slot);
            }
        }
        self.state.peaks.tell(self.client_rates.take_peaks(), now);
        self.end_unfinished(now);
        self.end_stalled(now);
        self.end_expired(now);
        for slot in silent {
            self.receive_rest(slot, now);
            if self.sockets.get(slot).is_some_and(|socket| socket.heard != now) {
                self.close(slot, CloseReason::Idle);
            }
        }
        for slot in over {
            self.flush(slot);
            // Its end is noted already.
            self.cut_off(slot, CloseReason::ConnectionLost);
        }
        // Polls come by HTTP, which has its turn after this one. A thread that was busy for long has not read them yet.
        if !is_late {
            self.expire_sessions(now);
        }
    }

    /// Reads what a client has sent, before it is judged. Not without end: nobody is safe by sending more and more.
    pub(super) fn receive_rest(&mut self, slot: usize, now: Instant) {
        for _ in 0..READS {
            self.receive(slot, now);
            if self.again.pop_if(|again| *again == slot).is_none() {
                return;
            }
        }
        self.again.push(slot);
    }
}

/// How the connection of a socket ended.
fn closed(socket: &Socket, reason: CloseReason, detail: Option<&str>) -> Record {
    let info = &socket.info;
    let now = clock::now();
    let millis = |since: Instant| u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX);
    let transport = socket.transport.as_ref().map_or("", |transport| transport.name());
    let closed = Closed {
        reason,
        code: (transport != "longpoll").then(|| reason.code()),
        detail: detail.map(Into::into),
        lasted_ms: millis(socket.since),
        silent_ms: millis(socket.heard),
        topics: socket.topics(),
        traffic: socket.traffic,
        unsent_bytes: socket.waiting(),
    };
    Record {
        mount: Some(Arc::clone(&info.mount)),
        socket_id: info.socket_id().cloned(),
        transport,
        vsn: Some(info.serializer.vsn()),
        ..Record::new(info.connection, info.address(), Outcome::Closed(closed))
    }
}

fn described(socket: &Socket) -> Connection {
    let joined = socket
        .channels
        .iter()
        .filter(|channel| channel.status == Status::Joined);
    Connection {
        transport: socket.transport.as_ref().map_or("", |transport| transport.name()),
        mount: socket.info.mount.path.clone(),
        vsn: socket.info.serializer.vsn(),
        topics: joined.map(|channel| channel.topic.name.clone()).collect(),
    }
}
