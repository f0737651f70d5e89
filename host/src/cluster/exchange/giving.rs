//! The home's half of moves: it gives partitions to other nodes, with the state of their topics. [`moving`](crate::cluster::moving)
//! has the steps.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::bytes::Bytes;
use bennu_wire::message::reason;
use bytestring::ByteString;

use super::{Event, Exchange};
use crate::cluster::item::Item;
use crate::cluster::moving::{MoveId, Moving, Stands, Verdict};
use crate::cluster::node::NodeId;
use crate::cluster::partitions::partition_of;
use crate::runtime::channel::{Input, Topic};
use crate::runtime::client_lines::{Source, client_line};
use crate::runtime::clock;
use crate::runtime::plugin::{Departed, Departing, PluginSlot, Stays, Terms};

/// How many topics are asked to leave at a time, by all moves together: nobody knows yet how large they are.
const ASKED: usize = 8;
/// How many may be on their way to be read, in all moves together. Their bytes are bounded by `max_link_bytes`.
const SENT: usize = 64;
/// What goes along with a capsule in its item, in bytes.
const AROUND: usize = 256;
/// How long a move may stand still. Topics are held for that long at most if another one, or the next home, does not answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// How long until a partition is tried again that could not move, and one that has a topic which the next home refuses.
const AGAIN: Duration = Duration::from_secs(2);
const REFUSED: Duration = Duration::from_secs(60);

/// Moves from here to other nodes.
#[derive(Debug, Default)]
pub(super) struct Gives {
    /// By partition.
    pub(super) moves: HashMap<u16, Giving>,
    /// The number of the last.
    last: u64,
    /// Moves whose entry is written: the next home has not said yet that it serves the topics. By number.
    parted: HashMap<u64, Parted>,
    /// Partitions that could not go to a node, and until when that is not tried again.
    pub(super) put_off: HashMap<u16, (NodeId, Instant)>,
    /// The longest time that a topic was held which has moved.
    pub(super) longest_hold: Duration,
    /// There is room for more.
    has_room: bool,
}

/// A topic that is asked to leave.
#[derive(Debug)]
pub(in crate::cluster) struct Asked {
    partition: u16,
    /// The number of the move, and that of the topic in it.
    number: u64,
    index: u32,
    plugin: String,
    topic: ByteString,
}

/// A partition on its way to another node.
#[derive(Debug)]
pub(super) struct Giving {
    number: u64,
    to: NodeId,
    session: u32,
    /// Under which this node is its home.
    revision: u64,
    /// Topics that are served until it is their turn.
    waiting: Vec<(Arc<PluginSlot>, Arc<Topic>)>,
    last_index: u32,
    /// Topics that are asked to leave.
    asked: HashSet<u32>,
    /// Topics on their way, with the bytes of their capsules.
    sent: HashMap<u32, (Departed, usize)>,
    /// Topics that the next home has read.
    read: Vec<Departed>,
    step: Step,
    /// When it last went on.
    progress: Instant,
}

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The next home reads the topics.
    Reading,
    /// The entry is being written.
    Writing,
    /// Nobody knows whether it was, since then. If `is_refused`, another write was made, of which the watch will tell.
    Unsure { since: Instant, is_refused: bool },
}

/// Topics that have another home, until that serves them.
#[derive(Debug)]
struct Parted {
    to: NodeId,
    session: u32,
    topics: Vec<Departed>,
    since: Instant,
}

impl Gives {
    /// How many topics are on their way.
    pub(super) fn topics(&self) -> usize {
        let moves = self.moves.values();
        moves
            .map(|giving| giving.asked.len() + giving.sent.len() + giving.read.len())
            .sum()
    }

    /// Whether there is room for more moves than there was when this was asked last.
    pub(super) fn take_room(&mut self) -> bool {
        std::mem::take(&mut self.has_room)
    }

    /// Whether all that has left is served where it went.
    pub(super) fn is_settled(&self) -> bool {
        self.parted.is_empty()
    }

    /// Takes the move of a partition out, if its entry has another revision by now.
    pub(super) fn take_decided(&mut self, partition: u16, revision: u64) -> Option<Giving> {
        let giving = self.moves.get(&partition)?;
        (giving.revision != revision).then(|| self.moves.remove(&partition))?
    }
}

impl Giving {
    /// As it stands in the entry if the move is made.
    fn stands(&self, me: &NodeId) -> Stands {
        let (by, number) = (me.clone(), self.number);
        Stands {
            home: self.to.clone(),
            by: Some(MoveId { by, number }),
        }
    }

    /// The numbers of the topics that have left with it.
    pub(super) fn topics(&self) -> HashSet<u64> {
        self.read.iter().map(Departed::number).collect()
    }
}

impl Exchange {
    /// Begins to give these partitions to these nodes. Each must be here, and not on its way.
    pub(super) fn give(&mut self, gives: Vec<(u16, NodeId)>) {
        let now = clock::now();
        let mut topics: HashMap<u16, Vec<_>> = HashMap::new();
        for (partition, to) in gives {
            let Some(session) = self.session_of(&to) else { continue };
            self.gives.last += 1;
            let giving = Giving {
                number: self.gives.last,
                to,
                session,
                revision: self.shared.table.read()[usize::from(partition)].revision,
                waiting: Vec::new(),
                last_index: 0,
                asked: HashSet::new(),
                sent: HashMap::new(),
                read: Vec::new(),
                step: Step::Reading,
                progress: now,
            };
            self.gives.moves.insert(partition, giving);
            self.place_again(partition);
            topics.insert(partition, Vec::new());
        }
        // Nobody enters any more, so these are all that will ever be in them.
        for (slot, topic) in self.topics() {
            if let Some(own) = topics.get_mut(&partition_of(&topic.name, self.config.partitions)) {
                own.push((slot, topic));
            }
        }
        for (partition, own) in topics {
            if let Some(giving) = self.gives.moves.get_mut(&partition) {
                giving.waiting = own;
            }
        }
    }

    /// Goes on with all moves, as far as there is room.
    pub(super) fn go_on_giving(&mut self) {
        let moves = self.gives.moves.iter();
        let reading = moves.filter(|(_, giving)| giving.step == Step::Reading);
        let mut reading: Vec<_> = reading.map(|(partition, giving)| (giving.number, *partition)).collect();
        // What has begun first has room first, so that its topics are held no longer than they have to be.
        reading.sort_unstable();
        for (_, partition) in reading {
            self.ask_more(partition);
            let Some(giving) = self.gives.moves.get_mut(&partition) else {
                continue;
            };
            if giving.waiting.is_empty() && giving.asked.is_empty() && giving.sent.is_empty() {
                giving.step = Step::Writing;
                giving.progress = clock::now();
                let (stands, revision) = (giving.stands(&self.me), giving.revision);
                self.write(partition, stands, revision);
            }
        }
    }

    fn ask_more(&mut self, partition: u16) {
        let terms = Terms {
            most_bytes: self.config.max_item_bytes - AROUND,
            owing: self.may_owe(),
        };
        let (mut asked, mut sent, mut bytes) = (0, 0, 0);
        for giving in self.gives.moves.values() {
            asked += giving.asked.len();
            sent += giving.sent.len();
            bytes += giving.sent.values().map(|(_, bytes)| bytes).sum::<usize>();
        }
        let Some(giving) = self.gives.moves.get_mut(&partition) else {
            return;
        };
        while asked < ASKED
            && asked + sent < SENT
            && bytes < self.config.max_link_bytes
            && let Some((slot, topic)) = giving.waiting.pop()
        {
            asked += 1;
            giving.last_index += 1;
            let (number, index, say) = (giving.number, giving.last_index, self.say.clone());
            giving.asked.insert(index);
            let asked = Asked {
                partition,
                number,
                index,
                plugin: slot.name.clone(),
                topic: topic.name.clone(),
            };
            Departing::ask(&slot, topic, terms, move |departed| {
                // If the node has left meanwhile, the topic goes on, and ends with it.
                let _ = say.send(Event::Departed(asked, departed));
            });
        }
    }

    /// A topic is held and written, or is not.
    pub(super) fn hear_departed(&mut self, asked: Asked, departed: Result<(Departed, Bytes), Stays>) {
        let Asked {
            partition,
            number,
            index,
            plugin,
            topic,
        } = asked;
        let giving = self.gives.moves.get_mut(&partition);
        let Some(giving) = giving.filter(|giving| giving.number == number && giving.asked.contains(&index)) else {
            // The move is over. What is held goes on here.
            return;
        };
        giving.asked.remove(&index);
        giving.progress = clock::now();
        match departed {
            Ok((departed, capsule)) => {
                giving.sent.insert(index, (departed, capsule.len()));
                let (session, revision) = (giving.session, giving.revision);
                let topic = Moving::Topic {
                    number,
                    partition,
                    revision,
                    index,
                    capsule,
                };
                self.send_to(session, &Item::Moving(topic));
            }
            Err(Stays::Gone) => {}
            Err(Stays::Busy) => self.call_off(partition, "a topic is busy"),
            Err(Stays::Failed(why)) => self.refuse_topic(partition, plugin, &topic, &why),
        }
    }

    /// The next home has read a topic, or has not.
    pub(super) fn hear_read(&mut self, session: u32, number: u64, partition: u16, index: u32, verdict: Verdict) {
        let giving = self.gives.moves.get_mut(&partition);
        let Some(giving) = giving.filter(|giving| giving.number == number && giving.session == session) else {
            return;
        };
        let Some((departed, _)) = giving.sent.remove(&index) else {
            return;
        };
        giving.progress = clock::now();
        match verdict {
            Verdict::Read => giving.read.push(departed),
            Verdict::Later => self.call_off(partition, "the other node cannot take a topic yet"),
            Verdict::Refused(why) => {
                let (plugin, topic) = (departed.plugin().to_owned(), departed.name().clone());
                drop(departed);
                self.refuse_topic(partition, plugin, &topic, &why);
            }
        }
    }

    /// A topic cannot move. So its partition stays. If this node stops, the others go without it.
    fn refuse_topic(&mut self, partition: u16, plugin: String, topic: &str, why: &str) {
        let Some(to) = self.gives.moves.get(&partition).map(|giving| giving.to.clone()) else {
            return;
        };
        self.shared.counts.refused.inc();
        let then = match self.handing_over.is_some() {
            true => "it ends with this node, and its clients join it again elsewhere, without its state",
            false => "its partition stays here",
        };
        client_line!(
            WARN,
            self.hub.client_lines,
            "refused move",
            Source::Plugin(plugin.as_str().into()),
            plugin,
            topic = &*topic.escape_debug().to_string(),
            to = %to,
            "topic does not move to another node: {why}. So {then}"
        );
        if self.handing_over.is_none() {
            self.call_off(partition, "a topic is refused");
            self.gives.put_off.insert(partition, (to, clock::now() + REFUSED));
        }
    }

    /// The partition stays here: what is held goes on. Only before the entry is written.
    fn call_off(&mut self, partition: u16, why: &str) {
        let Some(giving) = self.gives.moves.remove(&partition) else {
            return;
        };
        tracing::debug!(partition, to = %giving.to, why, "a partition does not move now");
        let number = giving.number;
        self.send_to(giving.session, &Item::Moving(Moving::Stays { number, partition }));
        self.place_again(partition);
        let until = clock::now() + AGAIN;
        self.gives.put_off.insert(partition, (giving.to.clone(), until));
        drop(giving);
    }

    /// A link has broken: what was on its way there stays, unless its entry is being written.
    pub(super) fn stop_giving_across(&mut self, session: u32) {
        let moves = self.gives.moves.iter();
        let broken = moves.filter(|(_, giving)| giving.session == session && giving.step == Step::Reading);
        for partition in broken.map(|(partition, _)| *partition).collect::<Vec<_>>() {
            self.call_off(partition, "the link has broken");
        }
        let parted = self.gives.parted.extract_if(|_, parted| parted.session == session);
        for (_, parted) in parted.collect::<Vec<_>>() {
            self.end_parted(parted, false);
        }
    }

    /// Looks after moves that do not go on.
    pub(super) fn mind_gives(&mut self, now: Instant) {
        self.gives.put_off.retain(|_, (_, until)| *until > now);
        let stuck = |since: Instant| clock::may_judge() && now.saturating_duration_since(since) > PATIENCE;
        let parted = self.gives.parted.extract_if(|_, parted| stuck(parted.since));
        for (_, parted) in parted.collect::<Vec<_>>() {
            self.end_parted(parted, false);
        }
        for partition in self.gives.moves.keys().copied().collect::<Vec<_>>() {
            let Some(giving) = self.gives.moves.get_mut(&partition) else {
                continue;
            };
            match giving.step {
                Step::Reading if stuck(giving.progress) && self.handing_over.is_none() => {
                    self.call_off(partition, "it stands still");
                }
                Step::Reading if stuck(giving.progress) => {
                    // The others go without those that do not answer.
                    giving.progress = now;
                    let topics = giving.asked.drain().count() + giving.sent.drain().count();
                    self.shared.counts.refused.inc_by(topics as u64);
                    tracing::warn!(
                        partition,
                        topics,
                        "topics do not move to another node, because a handler or the node does not answer: they end with this node"
                    );
                }
                Step::Unsure { since, .. } if now.saturating_duration_since(since) > self.config.lease * 2 => {
                    tracing::warn!(
                        partition,
                        "the broker does not say whether a partition has moved: its topics go on here"
                    );
                    self.gives.moves.remove(&partition);
                    self.place_again(partition);
                }
                Step::Unsure { is_refused: false, .. } if self.is_connected => {
                    // Of this write and the one before only one can be made.
                    let (home, revision) = (self.me.clone(), giving.revision);
                    tracing::debug!(
                        partition,
                        "nobody knows whether a partition has moved: its home writes itself"
                    );
                    self.write(partition, Stands { home, by: None }, revision);
                }
                Step::Reading | Step::Writing | Step::Unsure { .. } => {}
            }
        }
    }

    /// An entry was not written, or nobody knows.
    pub(super) fn hear_not_written(&mut self, partition: u16, refused: bool) {
        if let Some(giving) = self.gives.moves.get_mut(&partition) {
            let since = match giving.step {
                Step::Unsure { since, .. } => since,
                Step::Reading | Step::Writing => clock::now(),
            };
            let is_refused = refused;
            giving.step = Step::Unsure { since, is_refused };
        }
    }

    /// The entry of a partition that was on its way has changed. Returns whether that was the move.
    pub(super) fn hear_decided(&mut self, partition: u16, giving: Giving, stands: Option<&Stands>) -> bool {
        self.gives.has_room = true;
        if stands == Some(&giving.stands(&self.me)) {
            let topics = giving.read.len();
            self.shared.counts.moved_out.inc_by(topics as u64);
            tracing::debug!(partition, to = %giving.to, topics, "a partition has moved to another node");
            if topics > 0 {
                let parted = Parted {
                    to: giving.to,
                    session: giving.session,
                    topics: giving.read,
                    since: clock::now(),
                };
                self.gives.parted.insert(giving.number, parted);
            }
            return true;
        }
        // If another node is the home by now, they are dropped with its other topics.
        drop(giving);
        false
    }

    /// The next home serves the topics of a move.
    pub(super) fn hear_arrived(&mut self, session: u32, number: u64) {
        let parted = self.gives.parted.get(&number);
        if parted.is_some_and(|parted| parted.session == session)
            && let Some(parted) = self.gives.parted.remove(&number)
        {
            self.end_parted(parted, true);
        }
    }

    /// Tells the members of topics that live elsewhere now. What plugins and backends had for them goes there.
    fn end_parted(&mut self, parted: Parted, is_served: bool) {
        if !is_served {
            let topics = parted.topics.len();
            tracing::warn!(
                to = %parted.to,
                topics,
                "topics have moved to a node that does not say that it serves them: if it has died, their state is lost with it"
            );
        }
        for departed in parted.topics {
            self.gives.longest_hold = self.gives.longest_hold.max(departed.held());
            let topic = departed.name().clone();
            for input in departed.leave(reason::TOPIC_MOVED) {
                match input {
                    Input::Call {
                        event,
                        payload,
                        create,
                        caller,
                        // Its span ends here: the other node begins one of its own if it is asked to.
                        trace: _,
                    } => self.call_away(topic.clone(), event, payload, create, caller),
                    Input::Info { name, payload, .. } => self.send_info_away(topic.clone(), name, payload),
                    _ => {}
                }
            }
        }
        self.gives.has_room = true;
    }
}
