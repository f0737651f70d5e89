//! The link to one other node: two numbered streams of items, one each way, that hold or break as a whole.
//!
//! The broker may lose what it carries: when a connection is cut, when a node is too slow, when the broker starts again. So each
//! envelope with items has a number, and the receiver confirms what it has taken in. A number that is missing, or a confirmation that
//! does not come, *breaks* the link: both sides forget what they had between them, and begin anew under their next epoch. What was
//! underway is never sent again. Whoever owns the link ends all memberships across it; their clients join again.
//!
//! Never here: sockets, threads, the clock. The owner brings the time, and carries the envelopes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::envelope::Envelope;

/// How often a link that is not up says so.
const HELLO: Duration = Duration::from_millis(100);
/// How long a confirmation may wait for something to go along with.
const ACK_DELAY: Duration = Duration::from_millis(25);
/// How many envelopes may be on their way. Small ones cost the broker more than their bytes.
const MOST_ENVELOPES: usize = 4_096;

/// What a link may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes on their way that the other node has not confirmed.
    pub(crate) window: usize,
    /// Bytes of one envelope, head included.
    pub(crate) envelope: usize,
    /// Bytes of items that go on over several envelopes.
    pub(crate) item: usize,
    /// How long the other node may take for a confirmation.
    pub(crate) patience: Duration,
}

/// Our end of the link to one node.
#[derive(Debug)]
pub(crate) struct Link {
    bounds: Bounds,
    /// How often we have begun it.
    mine: u32,
    /// How often the other node has. 0: we do not know yet.
    theirs: u32,
    /// The other node knows our epoch, and we know its.
    is_up: bool,
    /// Items that have not been sent.
    pending: Vec<u8>,
    /// How much of the front of `pending` was sent.
    sent: usize,
    /// The number of the next envelope with items.
    next_out: u64,
    /// The number and size of those that are not confirmed.
    unconfirmed: VecDeque<(u64, usize)>,
    unconfirmed_bytes: usize,
    /// When the other node last confirmed something, or nothing was unconfirmed.
    progress: Instant,
    /// The number that comes next.
    next_in: u64,
    /// The beginning of an item whose end has not come.
    partial: Vec<u8>,
    /// Bytes that we have not confirmed, and since when.
    owed: usize,
    owed_since: Option<Instant>,
    /// The other node has to hear from us, even if there are no items.
    says_hello: bool,
    last_hello: Option<Instant>,
}

/// What an envelope has brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Nothing to act on.
    Nothing,
    /// The link is up from now on. Perhaps items, too.
    Up(Vec<u8>),
    /// Whole items.
    Items(Vec<u8>),
    /// The link has broken, for this reason.
    Broken(&'static str),
}

impl Link {
    /// A link that is not up. `epoch` is higher than that of each link to the same run of the other node before.
    #[must_use]
    pub(crate) fn new(bounds: Bounds, epoch: u32, now: Instant) -> Self {
        Self {
            bounds,
            mine: epoch,
            theirs: 0,
            is_up: false,
            pending: Vec::new(),
            sent: 0,
            next_out: 1,
            unconfirmed: VecDeque::new(),
            unconfirmed_bytes: 0,
            progress: now,
            next_in: 1,
            partial: Vec::new(),
            owed: 0,
            owed_since: None,
            says_hello: false,
            last_hello: None,
        }
    }

    /// How often we have begun it.
    #[must_use]
    pub(crate) fn epoch(&self) -> u32 {
        self.mine
    }

    /// Whether items can be sent.
    #[cfg(test)]
    pub(crate) fn is_up(&self) -> bool {
        self.is_up
    }

    /// Bytes of items that wait until they can be sent.
    #[must_use]
    pub(crate) fn waiting(&self) -> usize {
        self.pending.len() - self.sent
    }

    /// Bytes that are on their way.
    #[must_use]
    pub(crate) fn unconfirmed(&self) -> usize {
        self.unconfirmed_bytes
    }

    /// Adds items to what goes to the other node. Only while the link is up.
    pub(crate) fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        debug_assert!(self.is_up, "nobody would ever read it");
        write(&mut self.pending);
    }

    /// Begins anew. What was underway is lost, in both directions.
    pub(crate) fn restart(&mut self, now: Instant) {
        *self = Self::new(self.bounds, self.mine + 1, now);
    }

    /// Takes in an envelope of the other node.
    pub(crate) fn receive(&mut self, envelope: &Envelope<'_>, now: Instant) -> Received {
        if envelope.mine < self.theirs {
            return Received::Nothing;
        }
        if self.is_up && envelope.mine > self.theirs {
            self.restart(now);
            self.theirs = envelope.mine;
            self.says_hello = true;
            return Received::Broken("the other node has begun anew");
        }
        // Also if the other node does not know ours yet, or knows one from before: two that both waited for the right one would wait for
        // ever.
        self.theirs = envelope.mine;
        if envelope.yours != self.mine {
            self.says_hello = true;
            return Received::Nothing;
        }
        let was_up = std::mem::replace(&mut self.is_up, true);
        if !was_up {
            self.progress = now;
            self.says_hello = true;
        }
        // What told it so may have been lost.
        self.says_hello |= envelope.asks;
        if !self.confirm(envelope.ack, now) {
            return self.broken("it confirmed what was never sent", now);
        }
        let Some(body) = envelope.body else {
            return match was_up {
                true => Received::Nothing,
                false => Received::Up(Vec::new()),
            };
        };
        if envelope.number != self.next_in {
            return self.broken("something was lost on the way", now);
        }
        self.next_in += 1;
        self.owed += Envelope::HEAD + body.len();
        self.owed_since.get_or_insert(now);
        self.partial.extend(body);
        match whole(&self.partial, self.bounds.item) {
            None => self.broken("it sent more at once than may be", now),
            Some(0) if was_up => Received::Nothing,
            Some(end) => {
                let rest = self.partial.split_off(end);
                let items = std::mem::replace(&mut self.partial, rest);
                if was_up {
                    Received::Items(items)
                } else {
                    Received::Up(items)
                }
            }
        }
    }

    fn confirm(&mut self, ack: u64, now: Instant) -> bool {
        while let Some((number, bytes)) = self.unconfirmed.front().copied()
            && number <= ack
        {
            self.unconfirmed.pop_front();
            self.unconfirmed_bytes -= bytes;
            self.progress = now;
        }
        ack < self.next_out
    }

    fn broken(&mut self, why: &'static str, now: Instant) -> Received {
        self.restart(now);
        self.says_hello = true;
        Received::Broken(why)
    }

    /// The next envelope to be sent, if there is one now. To be asked until there is none.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.unconfirmed.is_empty() {
            self.progress = now;
        }
        let has_room = self.unconfirmed_bytes < self.bounds.window && self.unconfirmed.len() < MOST_ENVELOPES;
        if self.is_up && has_room && self.waiting() > 0 {
            return Some(self.next_items());
        }
        let is_due = |since: Instant| now.saturating_duration_since(since) >= ACK_DELAY;
        let owes = self.owed > self.bounds.window / 8 || self.owed_since.is_some_and(is_due);
        let is_silent = |last: Instant| now.saturating_duration_since(last) >= HELLO;
        let is_alone = !self.is_up && self.last_hello.is_none_or(is_silent);
        if !(owes || is_alone || self.says_hello) {
            return None;
        }
        self.last_hello = Some(now);
        Some(self.envelope(0, None))
    }

    fn next_items(&mut self) -> Vec<u8> {
        let most = self.bounds.envelope - Envelope::HEAD;
        let end = self.pending.len().min(self.sent + most);
        let number = self.next_out;
        let body = std::mem::take(&mut self.pending);
        let envelope = self.envelope(number, Some(&body[self.sent..end]));
        self.pending = body;
        self.sent = end;
        if self.sent == self.pending.len() || self.sent > self.bounds.window {
            self.pending.drain(..self.sent);
            self.sent = 0;
        }
        self.next_out += 1;
        self.unconfirmed.push_back((number, envelope.len()));
        self.unconfirmed_bytes += envelope.len();
        envelope
    }

    fn envelope(&mut self, number: u64, body: Option<&[u8]>) -> Vec<u8> {
        (self.owed, self.owed_since, self.says_hello) = (0, None, false);
        let envelope = Envelope {
            mine: self.mine,
            yours: self.theirs,
            number,
            ack: self.next_in - 1,
            asks: !self.is_up,
            body,
        };
        envelope.write()
    }

    /// When there may be something to send though nothing was added or received.
    #[must_use]
    pub(crate) fn due(&self) -> Option<Instant> {
        let hello = (!self.is_up).then(|| self.last_hello.map(|last| last + HELLO));
        match (self.owed_since, hello.flatten()) {
            (Some(owed), _) => Some(owed + ACK_DELAY),
            (None, hello) => hello,
        }
    }

    /// Whether the other node has confirmed nothing for too long.
    #[must_use]
    pub(crate) fn is_stuck(&self, now: Instant) -> bool {
        !self.unconfirmed.is_empty() && now.saturating_duration_since(self.progress) > self.bounds.patience
    }
}

/// Where the last whole item ends, each of which begins with its length. `None`: one is longer than `most`.
fn whole(bytes: &[u8], most: usize) -> Option<usize> {
    let mut end = 0;
    while let Some((length, rest)) = bytes[end..].split_first_chunk() {
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        if length > most {
            return None;
        }
        if rest.len() < length {
            break;
        }
        end += size_of::<u32>() + length;
    }
    Some(end)
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
