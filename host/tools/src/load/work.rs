//! What clients send once they have joined, and the counters of it.

use std::io;

use hdrhistogram::Histogram;

use super::client::{Client, State};
use super::dialect::{Dialect, Received};
use super::lagging::Lagging;

/// The highest value that the histograms can record, in nanoseconds.
const LONGEST: u64 = 600_000_000_000;
/// How long a closed loop waits for a lost message before it goes on without it, in nanoseconds.
const STALL: u64 = 2_000_000_000;

/// What clients send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: clients only stay connected.
    Idle,
    /// Each client sends events and gets replies.
    Echo,
    /// One client of each topic sends events, which the server broadcasts to all clients of the topic.
    Fanout,
}

/// When clients send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pace {
    /// Closed loop: as soon as a sender has fewer messages in flight than this.
    Window(u32),
    /// Open loop: this many messages per second, of all senders together.
    PerSecond(f64),
}

/// The clients of one topic.
#[derive(Debug, Default)]
pub(super) struct Group {
    clients: Vec<u32>,
    /// How many of them are connected and have joined.
    members: u64,
    sent: u64,
    /// When the last message was sent.
    newest: u64,
    delivered: u64,
    /// Deliveries that were given up on.
    given_up: u64,
    /// When the last message was delivered.
    progressed: u64,
}

impl Group {
    fn in_flight(&self) -> u64 {
        let done = (self.delivered + self.given_up).checked_div(self.members);
        done.map_or(u64::MAX, |done| self.sent.saturating_sub(done))
    }
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) joined: u64,
    pub(super) refused: u64,
    pub(super) failed: u64,
    pub(super) closed: u64,
    /// Events that clients sent.
    pub(super) sent: u64,
    /// Replies or deliveries that arrived.
    pub(super) received: u64,
    /// Deliveries to clients that have been closed before.
    gone: u64,
}

/// What all clients do, and its counters.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) dialect: Dialect,
    pub(super) kind: Kind,
    pub(super) pace: Pace,
    pub(super) counts: Counts,
    pub(super) lagging: Lagging,
    /// Deliveries to slow and stuck clients.
    pub(super) late: u64,
    pub(super) joins: Histogram<u32>,
    pub(super) latency: Histogram<u32>,
    /// The latency histogram takes messages that were sent from this time on.
    pub(super) measured_since: u64,
    /// The latency histogram takes messages that were sent before this time.
    pub(super) measured_until: u64,
    /// How late the generator sent, at worst, in nanoseconds.
    pub(super) behind: u64,
    pub(super) sending: bool,
    groups: Vec<Group>,
    /// Groups whose window may have room.
    due: Vec<u32>,
    next_sender: usize,
    next_send: u64,
    hint: usize,
}

impl Work {
    pub(super) fn new(dialect: Dialect, kind: Kind, pace: Pace, topics: usize, lagging: Lagging) -> Self {
        let histogram = || Histogram::new_with_bounds(1, LONGEST, 3).expect("valid bounds");
        Self {
            dialect,
            kind,
            pace,
            counts: Counts::default(),
            lagging,
            late: 0,
            joins: histogram(),
            latency: histogram(),
            measured_since: u64::MAX,
            measured_until: u64::MAX,
            behind: 0,
            sending: false,
            groups: (0..topics).map(|_| Group::default()).collect(),
            due: Vec::new(),
            next_sender: 0,
            next_send: 0,
            hint: 0,
        }
    }

    /// Handles a text frame, or a binary one: counts it, and answers it where the protocol demands that.
    pub(super) fn receive(&mut self, client: &mut Client, index: usize, text: &[u8], now: u64) -> io::Result<FollowUp> {
        match self.dialect.parse(text, &mut self.hint) {
            Received::Opened => client.send_text(self.dialect.connect(), now)?,
            Received::Ready => return Ok(FollowUp::Join),
            Received::Joined(accepted) => return Ok(self.joined(client, accepted, now)),
            Received::Reply(sent) => self.reply(client, sent, now)?,
            Received::Delivery(sent) if self.dialect.echoes_by_broadcast() && self.kind == Kind::Echo => {
                self.reply(client, sent, now)?;
            }
            Received::Delivery(sent) => self.delivery(client, index, sent, now),
            Received::Ping => client.send_text(self.dialect.heartbeat(), now)?,
            Received::Other => {}
        }
        Ok(FollowUp::Nothing)
    }

    fn joined(&mut self, client: &mut Client, accepted: bool, now: u64) -> FollowUp {
        match client.state {
            State::Joining(_) if !accepted => {
                if !client.reading.lags() {
                    self.counts.refused += 1;
                }
                FollowUp::Fail
            }
            State::Joining(1) => {
                client.state = State::Joined;
                self.joins.saturating_record(now - client.began);
                match self.lagging.of(client.reading) {
                    Some(laggards) => laggards.joined += 1,
                    None => self.counts.joined += 1,
                }
                FollowUp::CountJoined
            }
            State::Joining(left) => {
                client.state = State::Joining(left - 1);
                FollowUp::Nothing
            }
            _ => FollowUp::Nothing,
        }
    }

    fn reply(&mut self, client: &mut Client, sent: u64, now: u64) -> io::Result<()> {
        if self.kind != Kind::Echo {
            return Ok(());
        }
        self.counts.received += 1;
        self.record(sent, now);
        client.answered = now;
        client.in_flight = client.in_flight.saturating_sub(1);
        match self.pace {
            Pace::Window(window) if self.sending => self.echo(client, window, now),
            _ => Ok(()),
        }
    }

    fn delivery(&mut self, client: &mut Client, index: usize, sent: u64, now: u64) {
        if self.kind != Kind::Fanout {
            return;
        }
        client.received += 1;
        client.newest = sent;
        if client.reading.lags() {
            self.late += 1;
            return;
        }
        self.counts.received += 1;
        self.record(sent, now);
        let at = index % self.groups.len();
        let group = &mut self.groups[at];
        group.delivered += 1;
        group.progressed = now;
        if (group.delivered + group.given_up).is_multiple_of(group.members.max(1)) {
            self.due.push(at as u32);
        }
    }

    fn record(&mut self, sent: u64, now: u64) {
        if (self.measured_since..self.measured_until).contains(&sent) {
            self.latency.saturating_record(now.saturating_sub(sent));
        }
    }

    /// Sends until the client's window is full.
    fn echo(&mut self, client: &mut Client, window: u32, now: u64) -> io::Result<()> {
        while client.in_flight < window {
            client.send_prepared(now, now)?;
            client.in_flight += 1;
            self.counts.sent += 1;
        }
        Ok(())
    }

    /// Starts to send. Only clients that have joined by now take part. Returns those that could not send.
    pub(super) fn start(&mut self, clients: &mut [Client], now: u64) -> Vec<usize> {
        self.sending = true;
        self.next_send = now;
        let mut broken = Vec::new();
        let count = self.groups.len();
        for (index, client) in clients.iter_mut().enumerate() {
            if client.state != State::Joined || client.reading.lags() {
                continue;
            }
            let group = &mut self.groups[index % count];
            group.clients.push(index as u32);
            group.members += 1;
            group.progressed = now;
            client.answered = now;
            if let (Kind::Echo, Pace::Window(window)) = (self.kind, self.pace)
                && self.echo(client, window, now).is_err()
            {
                broken.push(index);
            }
        }
        if let (Kind::Fanout, Pace::Window(_)) = (self.kind, self.pace) {
            self.due = (0..count as u32).collect();
        }
        broken
    }

    /// Sends what is due. Returns the clients that could not send.
    pub(super) fn send_due(&mut self, clients: &mut [Client], now: u64) -> Vec<usize> {
        let mut broken = Vec::new();
        if !self.sending {
            return broken;
        }
        match self.pace {
            Pace::Window(window) => {
                let mut due = std::mem::take(&mut self.due);
                for at in due.drain(..) {
                    while self.groups[at as usize].in_flight() < u64::from(window) {
                        broken.extend(self.shout(clients, at as usize, now, now));
                    }
                }
                self.due = due;
            }
            Pace::PerSecond(rate) => {
                let interval = (1e9 / rate) as u64;
                while self.next_send <= now {
                    let sent = self.next_send;
                    self.next_send += interval.max(1);
                    self.behind = self.behind.max(now - sent);
                    broken.extend(self.send_one(clients, sent, now));
                }
            }
        }
        broken
    }

    /// When the next message of an open loop is due.
    pub(super) fn next_due(&self) -> Option<u64> {
        match self.pace {
            Pace::PerSecond(_) if self.sending && self.kind != Kind::Idle => Some(self.next_send),
            _ => None,
        }
    }

    /// Sends one message from the next sender.
    fn send_one(&mut self, clients: &mut [Client], sent: u64, now: u64) -> Option<usize> {
        self.next_sender += 1;
        if self.kind == Kind::Fanout {
            return self.shout(clients, self.next_sender % self.groups.len(), sent, now);
        }
        for _ in 0..clients.len() {
            let index = self.next_sender % clients.len();
            let client = &mut clients[index];
            if client.state == State::Joined {
                self.counts.sent += 1;
                client.in_flight += 1;
                return client.send_prepared(sent, now).err().map(|_| index);
            }
            self.next_sender += 1;
        }
        None
    }

    /// Sends one broadcast from the first client of a group. Returns the client if it could not send.
    fn shout(&mut self, clients: &mut [Client], at: usize, sent: u64, now: u64) -> Option<usize> {
        let group = &mut self.groups[at];
        let index = *group.clients.first()? as usize;
        group.sent += 1;
        group.newest = sent;
        self.counts.sent += 1;
        clients[index].send_prepared(sent, now).err().map(|_| index)
    }

    /// Takes a closed client out of its group. What was in flight to it counts as lost.
    pub(super) fn closed(&mut self, client: &Client, index: usize) {
        let at = index % self.groups.len();
        let group = &mut self.groups[at];
        let Some(place) = group.clients.iter().position(|other| *other as usize == index) else {
            return;
        };
        group.clients.remove(place);
        group.members -= 1;
        group.delivered -= client.received;
        self.counts.gone += group.sent - client.received;
        self.due.push(at as u32);
    }

    /// Gives up on messages that have been missing for long, so that a lost one does not stop a closed loop.
    pub(super) fn give_up_waiting(&mut self, clients: &mut [Client], now: u64) {
        let Pace::Window(window) = self.pace else { return };
        for (at, group) in self.groups.iter_mut().enumerate() {
            let owed = (group.sent * group.members).saturating_sub(group.delivered + group.given_up);
            if self.kind == Kind::Fanout && owed > 0 && now - group.progressed > STALL {
                group.given_up += owed;
                group.progressed = now;
                self.due.push(at as u32);
            }
        }
        for client in clients {
            if client.in_flight > 0 && now - client.answered > STALL && client.state == State::Joined {
                client.in_flight = 0;
                client.answered = now;
                if self.sending {
                    // If this fails, so will the next read, and that closes the client.
                    let _ = self.echo(client, window, now);
                }
            }
        }
    }

    /// Whether nothing is in flight.
    pub(super) fn is_done(&self, clients: &[Client]) -> bool {
        match self.kind {
            Kind::Idle => true,
            Kind::Echo => clients.iter().all(|client| client.in_flight == 0),
            Kind::Fanout => self
                .groups
                .iter()
                .all(|group| group.members == 0 || group.in_flight() == 0),
        }
    }

    /// Notes how far behind slow and stuck clients are.
    pub(super) fn measure_lagging(&mut self, clients: &[Client]) {
        for (index, client) in clients.iter().enumerate() {
            let sent = self.groups[index % self.groups.len()].sent;
            self.lagging.measure(client, sent);
        }
    }

    /// Whether all slow and stuck clients have read the last message of their topic, or are closed.
    pub(super) fn has_caught_up(&self, clients: &[Client]) -> bool {
        clients.iter().enumerate().all(|(index, client)| {
            let group = &self.groups[index % self.groups.len()];
            !client.reading.lags() || client.state != State::Joined || client.newest == group.newest
        })
    }

    /// Counts the messages that slow and stuck clients never got, after they have caught up.
    pub(super) fn count_skipped(&mut self, clients: &[Client]) {
        for (index, client) in clients.iter().enumerate() {
            let sent = self.groups[index % self.groups.len()].sent;
            self.lagging.count_skipped(client, sent);
        }
    }

    /// How many replies or deliveries never arrived.
    pub(super) fn lost(&self) -> u64 {
        match self.kind {
            Kind::Idle => 0,
            Kind::Echo => self.counts.sent.saturating_sub(self.counts.received),
            Kind::Fanout => {
                let owed = |group: &Group| (group.sent * group.members).saturating_sub(group.delivered);
                self.counts.gone + self.groups.iter().map(owed).sum::<u64>()
            }
        }
    }
}

/// What the engine must do after a frame has been handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FollowUp {
    /// Nothing.
    Nothing,
    /// Send the client's joins.
    Join,
    /// Count the client as joined.
    CountJoined,
    /// Close the client: the server rejected a join.
    Fail,
}
