//! The loop of an I/O thread, and everything that the thread owns.

mod connections;
mod deliver;
mod dispatch;
mod listing;
mod rates;
mod sending;
mod sessions;
mod spans;
mod tokens;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use bennu_wire::serializer::Incoming;
use bytestring::ByteString;
use slab::Slab;
use tokio::io::unix::AsyncFd;

use super::entry::SessionRequest;
use super::http::Http;
use super::writes::{self, Writes, Written};
use super::{Entry, Inbox, Subscriptions, WAKER, name};
use crate::runtime::client_lines::{Source, client_line};
use crate::runtime::clock;
use crate::runtime::plugin::Hub;
use crate::runtime::threads::fault;
use crate::runtime::wake::{self, PutOff};
use crate::server::auth::Expiries;
use crate::server::closes::{CloseReason, Traffic};
use crate::server::held::Held;
use crate::server::limits::ClientRates;
use crate::server::routing::Routing;
use crate::server::socket::Socket;
use crate::server::state::State;
use crate::server::transport::Received;
use crate::server::transport::websocket::frame::close_code;
use sessions::Sessions;

/// The read buffer, which all connections of the thread use in turn.
const SCRATCH: usize = 64 * 1024;
/// How often the thread looks after what has no event of its own.
const TICK: Duration = Duration::from_millis(250);
/// How often a client is read from before it is judged: enough for a message of the usual maximum size.
const READS: usize = 32;
/// The time between two such looks from which the thread counts as busy.
const LATE: Duration = Duration::from_secs(1);
/// How long pending HTTP responses have to be written when the thread ends.
const LAST_WORDS: Duration = Duration::from_millis(50);
/// How many connections are written to in a turn. Then others are read from: what that adds for connections that still wait goes
/// out in the same write.
const WRITES: usize = writes::MOST;
/// How many bytes may gather for connections before all of them are written to. Beyond that, the inbox waits.
const MAX_GATHERED: usize = 16 * 1024 * 1024;
/// After how many turns hyper's connections get theirs.
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
    /// The frames that were read from one connection. Empty between two connections, and kept for its memory.
    frames: Vec<Incoming>,
    serial: u32,
    /// The connections that speak channels.
    pub(crate) sockets: Slab<Socket>,
    /// The subscribers of each topic.
    pub(crate) subscriptions: Subscriptions,
    /// Connections by socket id.
    ids: HashMap<ByteString, Vec<usize>>,
    /// Long-poll sessions.
    pub(crate) sessions: Sessions,
    /// Connections with something to write.
    dirty: VecDeque<usize>,
    /// Those whose turn it is. Empty between two turns, and kept for its memory.
    turn: Vec<usize>,
    /// The results of their writes. Likewise.
    written: Vec<Written>,
    writes: Writes,
    /// Bytes that were queued since `dirty` was last empty.
    gathered: usize,
    /// Connections with more to read than their turn allowed.
    again: Vec<usize>,
    /// Connections whose client does not keep up. They are closed at the end of the turn, because lists are walked until then.
    slow: Vec<(usize, u32)>,
    /// What clients may send.
    client_rates: ClientRates,
    /// What was carried since the last turn, for the metrics: one count for all threads costs more than it tells.
    traffic: Traffic,
    /// What time it is for tokens.
    expiries: Expiries,
    /// Bytes that wait for clients.
    unsent: Held,
    /// Bytes of messages that are not complete.
    unfinished: Held,
    http: Http,
    /// When it last looked after what has no event of its own.
    ticked: Instant,
    stopping: bool,
}

impl Core {
    /// I/O thread `index`, with its inbox.
    ///
    /// # Errors
    ///
    /// If the runtime cannot watch the poll.
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
            client_rates: ClientRates::new(&routing.config.limits, Instant::now()),
            traffic: Traffic::default(),
            expiries: Expiries::default(),
            unsent: Held::default(),
            unfinished: Held::default(),
            ticked: clock::now(),
            stopping: false,
            routing,
        })
    }

    /// Runs until it is told to stop.
    ///
    /// # Errors
    ///
    /// If the poll fails.
    pub(super) async fn run(mut self) -> io::Result<()> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut entries = Vec::new();
        let name = name(self.index);
        while !self.stopping {
            fault::point(&name);
            tokio::select! {
                ready = self.poll.readable_mut() => ready?.clear_ready(),
                _ = tick.tick() => self.tick(clock::now()),
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
        // The last responses still have to be written.
        tokio::time::sleep(LAST_WORDS).await;
        Ok(())
    }

    /// Does what is due now, with a bounded share for each connection. False: nothing was due.
    fn turn(&mut self, entries: &mut Vec<Entry>) -> io::Result<bool> {
        let busy = wake::together(PutOff::All, || self.take_in(entries))?;
        self.finish_turn();
        Ok((busy || !self.dirty.is_empty()) && !self.stopping)
    }

    /// Handles what clients and other threads have sent.
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
        let now = clock::now();
        self.client_rates.turn(now);
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
                    // The end came together with data, and the poll will not report it again.
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
            // Entries are popped from the end, the first one first.
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
            Entry::Accept(accepted) => self.http.serve(accepted),
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
            Entry::List(request) => self.list(request, now),
            Entry::Describe(socket_id, most, reply) => {
                // The request may have ended.
                let _ = reply.send(self.describe(&socket_id, most));
            }
            Entry::Routing(routing, done) => {
                let _ = done.send(self.reroute(routing));
            }
            Entry::Drain(most, left) => {
                let slots: Vec<usize> = self.open_slots().take(most).collect();
                for slot in slots {
                    self.close(slot, CloseReason::ServerRestarts);
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
                if let Some(socket) = self.sockets.get(slot) {
                    let peer = socket.info.peer;
                    client_line!(
                        DEBUG,
                        self.hub().client_lines,
                        "undecodable",
                        Source::of(peer),
                        connection = socket.info.connection,
                        %peer,
                        %error,
                        "a client sent an invalid message"
                    );
                }
                self.close_for(slot, CloseReason::Undecodable, Some(&error.to_string()));
            }
        }
        self.frames = frames;
        match received {
            Received::All => self.mark(slot),
            Received::More => {
                self.mark(slot);
                self.again.push(slot);
            }
            Received::Closed(code) => {
                let code = code.unwrap_or(close_code::NONE);
                self.end_channels(slot, CloseReason::ClientClosed(code), None);
                self.mark(slot);
            }
            Received::Broken(code, why) => self.close_for(slot, CloseReason::of_transport(code), Some(&why)),
            Received::Lost => self.drop_socket(slot, CloseReason::ConnectionLost),
        }
    }

    /// The sockets with this id.
    pub(crate) fn slots_of(&self, socket_id: &str) -> Vec<usize> {
        self.ids.get(socket_id).cloned().unwrap_or_default()
    }

    /// A number that none of the last four billion sockets and members of this thread had.
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
        self.set_rates(&routing.config.limits);
        self.routing = routing;
    }
}
