//! The loop of an I/O thread, and all that it owns.

mod connections;
mod deliver;
mod dispatch;
mod sending;
mod sessions;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use bennu_plugin::abi::reason as end;
use bennu_wire::serializer::Incoming;
use bytestring::ByteString;
use slab::Slab;
use tokio::io::unix::AsyncFd;

use super::entry::SessionRequest;
use super::http::Http;
use super::writes::{self, Writes, Written};
use super::{Entry, Inbox, Subscriptions, WAKER};
use crate::runtime::plugin::Hub;
use crate::runtime::wake::{self, PutOff};
use crate::server::held::Held;
use crate::server::routing::Routing;
use crate::server::socket::Socket;
use crate::server::state::State;
use crate::server::transport::Received;
use crate::server::transport::websocket::frame::close_code;
use sessions::Sessions;

/// What is read at once, by all connections of the thread in turn.
const SCRATCH: usize = 64 * 1024;
/// How often what has no event of its own is looked at.
const TICK: Duration = Duration::from_millis(250);
/// How long HTTP responses have to go out when the thread ends.
const LAST_WORDS: Duration = Duration::from_millis(50);
/// Connections that are written to in a turn. After them others are read from: what that brings for those that still wait
/// goes out in the same write.
const WRITES: usize = writes::MOST;
/// Bytes that may gather for connections before all are written to. Beyond, the inbox waits.
const MAX_GATHERED: usize = 16 * 1024 * 1024;
/// Turns without giving hyper's connections theirs.
const TURNS: usize = 8;

/// One I/O thread.
#[derive(Debug)]
pub(super) struct Core {
    index: u8,
    state: Arc<State>,
    routing: Arc<Routing>,
    inbox: Arc<Inbox>,
    poll: AsyncFd<mio::Poll>,
    events: mio::Events,
    scratch: Vec<u8>,
    /// What was read of one connection. Empty between two of them, and kept for its memory.
    frames: Vec<Incoming>,
    serial: u32,
    /// The connections that speak channels.
    pub(crate) sockets: Slab<Socket>,
    /// Who gets what is broadcast.
    pub(crate) subscriptions: Subscriptions,
    /// Connections by socket id.
    ids: HashMap<ByteString, Vec<usize>>,
    /// Long-poll sessions.
    pub(crate) sessions: Sessions,
    /// Connections with something to write.
    dirty: VecDeque<usize>,
    /// Those of them whose turn it is. Empty between two turns, and kept for its memory.
    turn: Vec<usize>,
    /// What came of what they offered, likewise.
    written: Vec<Written>,
    writes: Writes,
    /// Bytes queued since there were none of those.
    gathered: usize,
    /// Connections that may have more to read than their turn allowed.
    again: Vec<usize>,
    /// Connections whose client does not keep up; closed at the end of the turn, as lists are being walked until then.
    slow: Vec<(usize, u32)>,
    /// Bytes that wait for clients.
    unsent: Held,
    /// Bytes of messages that are not complete.
    unfinished: Held,
    http: Http,
    stopping: bool,
}

impl Core {
    /// The thread `index` with this way in.
    ///
    /// # Errors
    ///
    /// If the poll cannot be polled.
    pub(super) fn new(
        index: u8,
        inbox: Arc<Inbox>,
        poll: mio::Poll,
        state: Arc<State>,
        app: Router,
    ) -> io::Result<Self> {
        #[expect(
            deprecated,
            reason = "its successor is unsafe; mio's poll keeps its descriptor for life"
        )]
        let poll = AsyncFd::new(poll)?;
        let routing = state.routing();
        Ok(Self {
            index,
            writes: Writes::new(routing.config.server.io_uring),
            routing,
            http: Http::new(index, Arc::clone(&state), app),
            state,
            inbox,
            poll,
            events: mio::Events::with_capacity(1024),
            scratch: vec![0; SCRATCH],
            frames: Vec::new(),
            serial: 0,
            sockets: Slab::new(),
            subscriptions: Subscriptions::default(),
            ids: HashMap::new(),
            sessions: Sessions::default(),
            dirty: VecDeque::new(),
            turn: Vec::new(),
            written: Vec::new(),
            gathered: 0,
            again: Vec::new(),
            slow: Vec::new(),
            unsent: Held::default(),
            unfinished: Held::default(),
            stopping: false,
        })
    }

    /// Runs until told to stop.
    ///
    /// # Errors
    ///
    /// If the poll fails.
    pub(super) async fn run(mut self) -> io::Result<()> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut entries = Vec::new();
        while !self.stopping {
            tokio::select! {
                ready = self.poll.readable_mut() => ready?.clear_ready(),
                _ = tick.tick() => self.tick(Instant::now()),
            }
            self.inbox.rise();
            let mut turns = 0;
            while self.turn(&mut entries)? || !(self.stopping || self.inbox.doze()) {
                turns += 1;
                if turns % TURNS == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
        while !self.dirty.is_empty() {
            self.finish_turn();
        }
        // Responses that were decided just now are still to be written.
        tokio::time::sleep(LAST_WORDS).await;
        Ok(())
    }

    /// Does all that is due now, each connection its share. False: nothing was.
    fn turn(&mut self, entries: &mut Vec<Entry>) -> io::Result<bool> {
        let busy = wake::together(PutOff::All, || self.take_in(entries))?;
        self.finish_turn();
        Ok((busy || !self.dirty.is_empty()) && !self.stopping)
    }

    /// Takes in what clients and other threads have sent.
    fn take_in(&mut self, entries: &mut Vec<Entry>) -> io::Result<bool> {
        let mut events = std::mem::replace(&mut self.events, mio::Events::with_capacity(0));
        let polled = self.poll.get_mut().poll(&mut events, Some(Duration::ZERO));
        if let Err(error) = polled
            && error.kind() != io::ErrorKind::Interrupted
        {
            return Err(error);
        }
        let again = std::mem::take(&mut self.again);
        let mut busy = !again.is_empty();
        let now = Instant::now();
        for event in &events {
            busy = true;
            if event.token() == WAKER {
                continue;
            }
            let slot = event.token().0;
            if event.is_writable() {
                self.has_taken(slot, now);
                self.flush(slot);
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.receive(slot, now);
                if event.is_read_closed() || event.is_error() {
                    // The end came together with data, and will not be told again.
                    self.again.push(slot);
                }
            }
        }
        self.events = events;
        for slot in again {
            self.receive(slot, now);
        }
        if entries.is_empty() {
            self.inbox.take(entries);
            // The first is taken from the end.
            entries.reverse();
        }
        busy |= !entries.is_empty();
        while self.gathered < MAX_GATHERED
            && let Some(entry) = entries.pop()
        {
            self.handle(entry, now);
        }
        Ok(busy)
    }

    fn handle(&mut self, entry: Entry, now: Instant) {
        match entry {
            Entry::Deliver(delivery) => self.deliver(delivery),
            Entry::Accept(stream, peer) => self.http.serve(stream, peer),
            Entry::Adopt(pending, info) => self.adopt(pending, info, now),
            Entry::Ready(slot) => {
                self.flush(slot);
                self.receive(slot, now);
            }
            Entry::Session(SessionRequest::Open(info, reply)) => self.open_session(info, reply, now),
            Entry::Session(SessionRequest::Find(session, reply)) => {
                let _ = reply.send(self.sessions.has(&session));
            }
            Entry::Session(SessionRequest::Poll(request)) => self.poll_session(request, now),
            Entry::Session(SessionRequest::Publish(request)) => self.publish(request),
            Entry::Describe(socket_id, most, reply) => {
                // The request may have ended.
                let _ = reply.send(self.describe(&socket_id, most));
            }
            Entry::Routing(routing, done) => {
                self.reroute(routing);
                let _ = done.send(());
            }
            Entry::Drain(most, left) => {
                let slots: Vec<usize> = self.open_slots().take(most).collect();
                for slot in slots {
                    self.close(slot, close_code::RESTART, "server restarts", end::DRAINING);
                }
                let _ = left.send(self.open_slots().count());
            }
            Entry::Stop => self.stopping = true,
        }
    }

    fn open_slots(&self) -> impl Iterator<Item = usize> {
        self.sockets
            .iter()
            .filter(|(_, socket)| !socket.closing)
            .map(|(slot, _)| slot)
    }

    fn receive(&mut self, slot: usize, now: Instant) {
        let Some(socket) = self.sockets.get_mut(slot) else {
            return;
        };
        let Some(mut transport) = socket.transport.take() else {
            return;
        };
        let mut frames = std::mem::take(&mut self.frames);
        let received = transport.receive(&mut self.scratch, &mut |frame| frames.push(frame));
        let heard = transport.pinged() || !frames.is_empty();
        let unfinished = transport.unfinished().map_or(0, |unfinished| unfinished.bytes);
        socket.transport = Some(transport);
        if !socket.closing && heard {
            socket.heard = now;
        }
        if unfinished != socket.unfinished {
            self.account_unfinished(slot, unfinished);
        }
        for frame in frames.drain(..) {
            if self.sockets.get(slot).is_none_or(|socket| socket.closing) {
                break;
            }
            if let Err(error) = self.incoming(slot, frame) {
                tracing::debug!(%error, "a client sent what is no message");
                self.close(slot, close_code::INTERNAL_ERROR, "undecodable message", end::CLOSED);
            }
        }
        self.frames = frames;
        match received {
            Received::All => self.mark(slot),
            Received::More => {
                self.mark(slot);
                self.again.push(slot);
            }
            Received::Closed => {
                self.end_channels(slot, end::CLOSED);
                self.mark(slot);
            }
            Received::Broken(code, reason) => self.close(slot, code, &reason, end::CLOSED),
            Received::Lost => self.drop_socket(slot, end::CLOSED),
        }
    }

    /// The sockets with this id.
    pub(crate) fn slots_of(&self, socket_id: &str) -> Vec<usize> {
        self.ids.get(socket_id).cloned().unwrap_or_default()
    }

    /// A number that no socket or member of this thread had in its last four billion.
    pub(crate) fn next_serial(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }

    pub(crate) fn thread(&self) -> u8 {
        self.index
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.state.hub
    }

    pub(crate) fn routing(&self) -> &Arc<Routing> {
        &self.routing
    }

    pub(crate) fn set_routing(&mut self, routing: Arc<Routing>) {
        self.routing = routing;
    }
}
