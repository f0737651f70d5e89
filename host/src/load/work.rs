//! What the clients do once they have joined, and what is counted of it.

use std::io;

use hdrhistogram::Histogram;

use super::client::{Client, State};
use super::dialect::{Dialect, Heard};
use super::lagging::Lagging;

/// Nothing takes longer than this, in nanoseconds, as far as the histograms know.
const LONGEST: u64 = 600_000_000_000;
/// How long an answer may take before its sender goes on without it.
const STALL: u64 = 2_000_000_000;

/// What is sent as work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: the clients are there.
    Idle,
    /// Each client sends, and gets its own back.
    Echo,
    /// One client of each topic sends, and all clients of the topic get it.
    Fanout,
}

/// When it is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pace {
    /// As soon as fewer than this many of a sender are on their way.
    Window(u32),
    /// So many a second, of all senders together.
    PerSecond(f64),
}

/// The clients of one topic.
#[derive(Debug, Default)]
pub(super) struct Group {
    clients: Vec<u32>,
    /// Open clients that have joined.
    members: u64,
    sent: u64,
    /// When the last one was sent.
    newest: u64,
    delivered: u64,
    /// What nobody waits for any more.
    forgiven: u64,
    progressed: u64,
}

impl Group {
    fn in_flight(&self) -> u64 {
        let done = (self.delivered + self.forgiven).checked_div(self.members);
        done.map_or(u64::MAX, |done| self.sent.saturating_sub(done))
    }
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) joined: u64,
    pub(super) refused: u64,
    pub(super) failed: u64,
    pub(super) closed: u64,
    pub(super) not_understood: u64,
    /// Echoes or broadcasts that were sent.
    pub(super) sent: u64,
    /// Answers or deliveries that came.
    pub(super) received: u64,
    /// Deliveries that will never come, as their client is closed.
    gone: u64,
}

/// The clients' task.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) dialect: Dialect,
    pub(super) kind: Kind,
    pub(super) pace: Pace,
    pub(super) counts: Counts,
    pub(super) lagging: Lagging,
    /// Deliveries to those that lag.
    pub(super) late: u64,
    pub(super) joins: Histogram<u32>,
    pub(super) latency: Histogram<u32>,
    /// What was sent since is measured.
    pub(super) measured_since: u64,
    pub(super) measured_until: u64,
    /// How far behind its time the generator sent, at worst.
    pub(super) behind: u64,
    pub(super) sending: bool,
    groups: Vec<Group>,
    /// Groups whose sender may have room to send.
    due: Vec<u32>,
    next_sender: usize,
    next_send: u64,
    hint: usize,
}

impl Work {
    pub(super) fn new(dialect: Dialect, kind: Kind, pace: Pace, topics: usize, lagging: Lagging) -> Self {
        let histogram = || Histogram::new_with_bounds(1, LONGEST, 3).expect("bounds that hdrhistogram takes");
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

    /// Takes note of what a server said to a client, and has the client answer where it must.
    pub(super) fn heard(&mut self, client: &mut Client, index: usize, text: &[u8], now: u64) -> io::Result<Said> {
        match self.dialect.hear(text, &mut self.hint) {
            Heard::Opened => client.say(self.dialect.connect(), now)?,
            Heard::Ready => return Ok(Said::Ready),
            Heard::Joined(yes) => return Ok(self.joined(client, yes, now)),
            Heard::Answer(sent) => self.answer(client, sent, now)?,
            Heard::Delivery(sent) => self.delivery(client, index, sent, now),
            Heard::Ping => client.say(self.dialect.heartbeat(), now)?,
            Heard::Other => {}
        }
        Ok(Said::Nothing)
    }

    fn joined(&mut self, client: &mut Client, yes: bool, now: u64) -> Said {
        match client.state {
            State::Joining(_) if !yes => {
                if !client.reading.lags() {
                    self.counts.refused += 1;
                }
                Said::Refused
            }
            State::Joining(1) => {
                client.state = State::Joined;
                self.joins.saturating_record(now - client.began);
                match self.lagging.of(client.reading) {
                    Some(laggards) => laggards.joined += 1,
                    None => self.counts.joined += 1,
                }
                Said::Joined
            }
            State::Joining(left) => {
                client.state = State::Joining(left - 1);
                Said::Nothing
            }
            _ => Said::Nothing,
        }
    }

    fn answer(&mut self, client: &mut Client, sent: u64, now: u64) -> io::Result<()> {
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
        if (group.delivered + group.forgiven).is_multiple_of(group.members.max(1)) {
            self.due.push(at as u32);
        }
    }

    fn record(&mut self, sent: u64, now: u64) {
        if (self.measured_since..self.measured_until).contains(&sent) {
            self.latency.saturating_record(now.saturating_sub(sent));
        }
    }

    /// Fills a client's window.
    fn echo(&mut self, client: &mut Client, window: u32, now: u64) -> io::Result<()> {
        while client.in_flight < window {
            client.send_prepared(now, now)?;
            client.in_flight += 1;
            self.counts.sent += 1;
        }
        Ok(())
    }

    /// Begins. Only those that have joined by now take part.
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

    /// Sends what is due by now. Returns the clients that could not.
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

    /// When [`Self::send_due`] has something to send next.
    pub(super) fn next_due(&self) -> Option<u64> {
        match self.pace {
            Pace::PerSecond(_) if self.sending && self.kind != Kind::Idle => Some(self.next_send),
            _ => None,
        }
    }

    /// Has the next sender send one, in turn.
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

    /// Has a group's first open client broadcast. Returns it if it could not.
    fn shout(&mut self, clients: &mut [Client], at: usize, sent: u64, now: u64) -> Option<usize> {
        let group = &mut self.groups[at];
        let index = *group.clients.first()? as usize;
        group.sent += 1;
        group.newest = sent;
        self.counts.sent += 1;
        clients[index].send_prepared(sent, now).err().map(|_| index)
    }

    /// A client is closed: what was on its way to it is lost, and its topic goes on without it.
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

    /// Gives up waiting where nothing has come for long, so that one lost message does not end the work.
    pub(super) fn forgive(&mut self, clients: &mut [Client], now: u64) {
        let Pace::Window(window) = self.pace else { return };
        for (at, group) in self.groups.iter_mut().enumerate() {
            let owed = (group.sent * group.members).saturating_sub(group.delivered + group.forgiven);
            if self.kind == Kind::Fanout && owed > 0 && now - group.progressed > STALL {
                group.forgiven += owed;
                group.progressed = now;
                self.due.push(at as u32);
            }
        }
        for client in clients {
            if client.in_flight > 0 && now - client.answered > STALL && client.state == State::Joined {
                client.in_flight = 0;
                client.answered = now;
                if self.sending {
                    // A client that cannot send is noticed when it is read.
                    let _ = self.echo(client, window, now);
                }
            }
        }
    }

    /// Whether nothing is on its way any more.
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

    /// Takes note of how far those are behind that lag.
    pub(super) fn measure_lagging(&mut self, clients: &[Client]) {
        for (index, client) in clients.iter().enumerate() {
            let sent = self.groups[index % self.groups.len()].sent;
            self.lagging.measure(client, sent);
        }
    }

    /// Whether those that lag have read the last of what was sent, or are closed.
    pub(super) fn has_caught_up(&self, clients: &[Client]) -> bool {
        clients.iter().enumerate().all(|(index, client)| {
            let group = &self.groups[index % self.groups.len()];
            !client.reading.lags() || client.state != State::Joined || client.newest == group.newest
        })
    }

    /// Takes note of what those never got that lag, once they have caught up.
    pub(super) fn count_skipped(&mut self, clients: &[Client]) {
        for (index, client) in clients.iter().enumerate() {
            let sent = self.groups[index % self.groups.len()].sent;
            self.lagging.count_skipped(client, sent);
        }
    }

    /// What was sent and never came.
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

/// What a client has to do about what it heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Nothing.
    Nothing,
    /// Send its joins.
    Ready,
    /// It has joined all its topics.
    Joined,
    /// It may not join.
    Refused,
}
