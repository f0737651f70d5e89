//! The event loop of the load generator: one thread, one epoll, no allocation per message.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::os::fd::{AsRawFd as _, OwnedFd};

use super::client::{Client, State};
use super::dialect::Dialect;
use super::lagging::Reading;
use super::wire::{self, Next, Prepared};
use super::work::{FollowUp, Kind, Work};
use crate::client::Tls;

/// The timer that wakes the loop for the next message of an open loop.
const TIMER: Token = Token(usize::MAX);
/// The size of a read, and of the largest frame that can be received.
const BUFFER_BYTES: usize = 256 * 1024;
/// Between two checks for clients that need a heartbeat or wait for a lost message, in nanoseconds.
const TICK: u64 = 500_000_000;
/// How long a client may be silent before it sends a heartbeat, in nanoseconds.
const HEARTBEAT: u64 = 30_000_000_000;

/// Where to connect, and with how many clients.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) server: SocketAddr,
    pub(super) tls: Option<Tls>,
    pub(super) request: Vec<u8>,
    pub(super) dialect: Dialect,
    /// How many source addresses to use, from 127.0.0.10 on. 0 lets the system choose.
    pub(super) sources: u8,
    /// Clients that keep up.
    pub(super) clients: usize,
    /// Additional clients that read slowly.
    pub(super) slow: usize,
    pub(super) slow_bytes_per_s: u32,
    /// Additional clients that read nothing.
    pub(super) stuck: usize,
    /// The topics of all clients together.
    pub(super) topics: usize,
    pub(super) topics_per_client: usize,
    pub(super) topic_prefix: String,
    pub(super) event: String,
    pub(super) payload: String,
    /// How many clients may connect or join at the same time.
    pub(super) connecting: usize,
}

impl Target {
    fn source(&self, index: usize) -> Option<Ipv4Addr> {
        let sources = usize::from(self.sources);
        (sources > 0).then(|| Ipv4Addr::new(127, 0, 0, 10 + (index % sources) as u8))
    }

    fn all(&self) -> usize {
        self.clients + self.slow + self.stuck
    }

    fn reading(&self, index: usize) -> Reading {
        if index < self.clients {
            Reading::AtOnce
        } else if index < self.clients + self.slow {
            Reading::Slowly(self.slow_bytes_per_s)
        } else {
            Reading::Never
        }
    }

    fn topic(&self, index: usize, number: usize) -> String {
        let topic = (index * self.topics_per_client + number) % self.topics;
        format!("{}{topic}", self.topic_prefix)
    }
}

/// How much of the available data to read.
#[derive(Clone, Copy, Debug)]
enum Share {
    /// At most this many bytes.
    Bytes(usize),
    /// All that an event reported. If the server has closed, another event says so.
    Available,
    /// All, up to the end of the stream.
    ToTheEnd,
}

/// All clients, and the event loop that runs them.
#[derive(Debug)]
pub(super) struct Engine {
    target: Target,
    poll: Poll,
    events: Events,
    timer: OwnedFd,
    start: Instant,
    buffer: Vec<u8>,
    pub(super) clients: Vec<Client>,
    pub(super) work: Work,
    /// How many clients have started and neither joined nor failed.
    connecting: usize,
    next_tick: u64,
    last_tick: u64,
    /// Whether the slow and stuck clients read at full speed by now.
    catching_up: bool,
    /// What the timer is set to.
    armed: u64,
    /// When the last client joined or failed.
    progressed: u64,
    /// Why the first client failed.
    pub(super) first_failure: Option<String>,
}

impl Engine {
    pub(super) fn new(target: Target, work: Work) -> io::Result<Self> {
        let poll = Poll::new()?;
        let timer = rustix::time::timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        let source = timer.as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&source), TIMER, Interest::READABLE)?;
        Ok(Self {
            clients: Vec::with_capacity(target.all()),
            target,
            poll,
            events: Events::with_capacity(1024),
            timer,
            start: Instant::now(),
            buffer: vec![0; BUFFER_BYTES],
            work,
            connecting: 0,
            next_tick: TICK,
            last_tick: 0,
            catching_up: false,
            armed: u64::MAX,
            progressed: 0,
            first_failure: None,
        })
    }

    /// Nanoseconds since the engine was created.
    pub(super) fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Connects all clients and has them join. If no client joins for `timeout`, the rest fails. Calls `progress`
    /// often.
    pub(super) fn connect(&mut self, timeout: Duration, progress: &mut dyn FnMut(&Self)) -> io::Result<()> {
        self.progressed = self.now();
        loop {
            while self.connecting < self.target.connecting && self.clients.len() < self.target.all() {
                self.open()?;
            }
            if self.connecting == 0 {
                return Ok(());
            }
            let now = self.now();
            if now - self.progressed > timeout.as_nanos() as u64 {
                break;
            }
            self.turn(now + 100_000_000)?;
            progress(self);
        }
        for index in 0..self.clients.len() {
            if self.clients[index].state != State::Joined {
                self.fail(index, "no reply to its join in time");
            }
        }
        // Those that never started.
        self.work.counts.failed += (self.target.all() - self.clients.len()) as u64;
        Ok(())
    }

    /// Runs the clients until the time `until`, or until `done`. Calls `progress` often.
    pub(super) fn run(
        &mut self,
        until: u64,
        done: fn(&Self) -> bool,
        progress: &mut dyn FnMut(&Self),
    ) -> io::Result<()> {
        while self.now() < until && !done(self) {
            self.turn(until)?;
            progress(self);
        }
        Ok(())
    }

    /// Starts to send.
    pub(super) fn begin(&mut self) {
        let now = self.now();
        let broken = self.work.start(&mut self.clients, now);
        self.fail_all(broken);
    }

    /// Has slow and stuck clients read all that they were sent, until they have caught up or received nothing for
    /// `timeout`.
    pub(super) fn catch_up(&mut self, timeout: Duration, progress: &mut dyn FnMut(&Self)) -> io::Result<()> {
        self.catching_up = true;
        for index in 0..self.clients.len() {
            // There are no further events for data that has already arrived.
            if self.clients[index].reading.lags() {
                self.read_or_fail(index, Share::ToTheEnd);
            }
        }
        let mut late = self.work.late;
        let mut progressed = self.now();
        while !self.work.has_caught_up(&self.clients) && self.now() - progressed < timeout.as_nanos() as u64 {
            self.turn(self.now() + 100_000_000)?;
            if late != self.work.late {
                (late, progressed) = (self.work.late, self.now());
            }
            progress(self);
        }
        Ok(())
    }

    /// Closes all clients.
    pub(super) fn close(&mut self) {
        for client in &mut self.clients {
            client.close();
        }
    }

    fn open(&mut self) -> io::Result<()> {
        let index = self.clients.len();
        let now = self.now();
        let mut client = Client::open(
            self.target.server,
            self.target.tls.as_ref(),
            self.target.source(index),
            self.target.reading(index),
            now,
        )?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Some(stream) = client.stream() {
            self.poll.registry().register(stream, Token(index), interest)?;
        }
        self.clients.push(client);
        self.connecting += 1;
        Ok(())
    }

    /// Waits for events, at most until `until`, and handles them. Then sends what is due.
    fn turn(&mut self, until: u64) -> io::Result<()> {
        let now = self.now();
        self.arm(now)?;
        let wait = Duration::from_nanos(until.min(self.next_tick).saturating_sub(now));
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            if event.token() == TIMER {
                let mut expired = [0; 8];
                let _ = rustix::io::read(&self.timer, &mut expired);
                self.armed = u64::MAX;
                continue;
            }
            let index = event.token().0;
            let share = if event.is_read_closed() {
                Share::ToTheEnd
            } else {
                Share::Available
            };
            let readable = event.is_readable().then_some(share);
            if let Err(error) = self.handle(index, event.is_writable(), readable) {
                self.fail(index, &error.to_string());
            }
        }
        self.events = events;
        let now = self.now();
        let broken = self.work.send_due(&mut self.clients, now);
        self.fail_all(broken);
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.tick(now);
            self.last_tick = now;
        }
        Ok(())
    }

    /// Sets the timer to the time of the next message.
    fn arm(&mut self, now: u64) -> io::Result<()> {
        let Some(due) = self.work.next_due().filter(|due| *due != self.armed) else {
            return Ok(());
        };
        self.armed = due;
        // Zero would disarm the timer.
        let wait = due.saturating_sub(now).max(1);
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let it_value = Timespec {
            tv_sec: (wait / 1_000_000_000) as i64,
            tv_nsec: (wait % 1_000_000_000) as _,
        };
        let set = Itimerspec {
            it_interval: zero,
            it_value,
        };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &set)?;
        Ok(())
    }

    fn tick(&mut self, now: u64) {
        self.work.give_up_waiting(&mut self.clients, now);
        let mut broken = Vec::new();
        for (index, client) in self.clients.iter_mut().enumerate() {
            let silent = self.target.dialect.sends_heartbeats() && now - client.last_sent > HEARTBEAT;
            if client.state == State::Joined && silent {
                broken.extend(
                    client
                        .send_text(self.target.dialect.heartbeat(), now)
                        .err()
                        .map(|_| index),
                );
            }
        }
        self.fail_all(broken);
        self.read_slowly(now - self.last_tick);
    }

    /// Has the slow clients read as much as they may in this time.
    fn read_slowly(&mut self, time: u64) {
        for index in 0..self.clients.len() {
            let client = &self.clients[index];
            if let (Reading::Slowly(bytes_per_s), State::Joined, false) =
                (client.reading, client.state, self.catching_up)
            {
                let most = u64::from(bytes_per_s) * time / 1_000_000_000;
                self.read_or_fail(index, Share::Bytes(most.max(1) as usize));
            }
        }
    }

    fn handle(&mut self, index: usize, writable: bool, readable: Option<Share>) -> io::Result<()> {
        let now = self.start.elapsed().as_nanos() as u64;
        let client = &mut self.clients[index];
        if writable {
            if client.state == State::Connecting {
                client.connected()?;
                client.state = State::Upgrading;
                client.send(&self.target.request, now)?;
            } else {
                client.flush()?;
            }
        }
        let keeps_up = client.state != State::Joined || !client.reading.lags();
        match readable {
            Some(share) if keeps_up || self.catching_up => self.read(index, share),
            _ => Ok(()),
        }
    }

    fn read_or_fail(&mut self, index: usize, share: Share) {
        if let Err(error) = self.read(index, share) {
            self.fail(index, &error.to_string());
        }
    }

    fn read(&mut self, index: usize, share: Share) -> io::Result<()> {
        let most = if let Share::Bytes(most) = share {
            most
        } else {
            usize::MAX
        };
        loop {
            let (filled, more) = self.clients[index].fill(&mut self.buffer, most)?;
            let now = self.now();
            let mut at = 0;
            while let Some(used) = self.take(index, at, filled, now)? {
                at += used;
            }
            if filled > 0 {
                self.clients[index].keep(&self.buffer[at..filled]);
            }
            let again = match share {
                Share::Bytes(_) => false,
                Share::Available => more,
                Share::ToTheEnd => filled > 0,
            };
            if !again {
                return Ok(());
            }
        }
    }

    /// Handles the handshake response or frame that starts at `at`. Returns its length, or `None` if it is not
    /// complete.
    fn take(&mut self, index: usize, at: usize, filled: usize, now: u64) -> io::Result<Option<usize>> {
        let client = &mut self.clients[index];
        let bytes = &self.buffer[at..filled];
        if client.state == State::Upgrading {
            return match wire::upgraded(bytes) {
                Next::Whole((), used) => {
                    client.state = State::Joining(self.target.topics_per_client as u32);
                    if self.target.dialect.is_ready_at_once() {
                        self.join(index, now)?;
                    }
                    Ok(Some(used))
                }
                Next::Partial => Ok(None),
                Next::Bad => Err(io::Error::other(refusal(bytes))),
            };
        }
        let (frame, used) = match wire::frame(bytes) {
            Next::Whole(frame, used) => (frame, used),
            Next::Partial => return Ok(None),
            Next::Bad => return Err(io::Error::other("received a frame that `bennu load` does not support")),
        };
        match frame {
            (wire::TEXT | wire::BINARY, text) => {
                let next = self.work.receive(client, index, text, now)?;
                self.follow_up(index, next, now)?;
            }
            (wire::PING, payload) => client.send(&wire::masked(wire::PONG, payload).0, now)?,
            (wire::CLOSE, reason) => return Err(io::Error::other(closed(reason))),
            _ => {}
        }
        Ok(Some(used))
    }

    fn follow_up(&mut self, index: usize, next: FollowUp, now: u64) -> io::Result<()> {
        match next {
            FollowUp::Nothing => Ok(()),
            FollowUp::Join => self.join(index, now),
            FollowUp::Fail => Err(io::Error::other("its join was refused")),
            FollowUp::CountJoined => {
                self.connecting -= 1;
                self.progressed = now;
                Ok(())
            }
        }
    }

    /// Sends all joins of a client, and prepares the message that it will send as work.
    fn join(&mut self, index: usize, now: u64) -> io::Result<()> {
        let target = &self.target;
        let dialect = target.dialect;
        let client = &mut self.clients[index];
        let mut joins = Vec::new();
        for number in 0..target.topics_per_client {
            let join = dialect.join(&target.topic(index, number), number + 1);
            joins.extend(wire::masked(wire::TEXT, join.as_bytes()).0);
        }
        client.send(&joins, now)?;
        let write = match self.work.kind {
            Kind::Idle => return Ok(()),
            Kind::Echo => Dialect::echo,
            Kind::Fanout => Dialect::shout,
        };
        let (opcode, payload) = write(dialect, &target.topic(index, 0), 1, &target.event, &target.payload);
        client.prepared = Some(Box::new(Prepared::new(opcode, &payload)));
        Ok(())
    }

    fn fail_all(&mut self, broken: Vec<usize>) {
        for index in broken {
            self.fail(index, "cannot write to the connection");
        }
    }

    fn fail(&mut self, index: usize, why: &str) {
        let now = self.now();
        let client = &mut self.clients[index];
        let had_joined = client.state == State::Joined;
        if client.state == State::Closed {
            return;
        }
        client.close();
        if !had_joined {
            self.connecting -= 1;
            self.progressed = now;
        }
        if let Some(laggards) = self.work.lagging.of(client.reading) {
            laggards.ended(had_joined, why);
            return;
        }
        if had_joined {
            self.work.counts.closed += 1;
        } else {
            self.work.counts.failed += 1;
        }
        self.first_failure.get_or_insert_with(|| why.to_owned());
        self.work.closed(client, index);
    }
}

/// The status line of a response that rejects the handshake.
pub(super) fn refusal(answer: &[u8]) -> String {
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    format!("the server answered {}", String::from_utf8_lossy(line))
}

fn closed(reason: &[u8]) -> String {
    match reason {
        [a, b, text @ ..] => {
            let code = u16::from_be_bytes([*a, *b]);
            format!("closed by the server: {code} {}", String::from_utf8_lossy(text))
        }
        _ => "closed by the server".to_owned(),
    }
}
