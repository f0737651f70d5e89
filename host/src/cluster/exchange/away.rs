//! Members of this node in topics whose home is another node.
//!
//! Such a topic has a mailbox here, with the bounds of its plugin; its owner is no shard but the way to the home. So I/O threads do
//! with it what they do with a topic that lives here: they push a client's messages into it, and never wait.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bennu_wire::message::{Payload, Ref, reason};
use bytestring::ByteString;

use super::Exchange;
use super::giving::PATIENCE;
use super::guests::is_last_word;
use super::peers::Wait;
use crate::cluster::item::{Item, read_ref, written};
use crate::cluster::partitions::partition_of;
use crate::cluster::table::{Entry, Place, Way};
use crate::runtime::channel::{Called, Caller, Create, Ending, Input, Notice, Topic};
use crate::runtime::clock;
use crate::runtime::delivery::{Broadcast, Delivery};
use crate::runtime::id::MemberId;
use crate::runtime::plugin::PluginSlot;
use crate::runtime::reach::Reach;

/// How many topics are handled, and how many inputs of each, before others have their turn.
const TOPICS: usize = 64;
const INPUTS: usize = 64;
/// How long the old home of a topic has to end its members. It waits for the new one, and no longer than [`PATIENCE`].
const MOVED: Duration = PATIENCE.saturating_mul(2);

/// What the cluster's thread knows of them.
#[derive(Debug, Default)]
pub(super) struct Away {
    /// By the number of the mailbox.
    topics: HashMap<u64, AwayTopic>,
    members: HashMap<MemberId, AwayMember>,
    /// Partitions that have moved away from the home at the end of a link, which has yet to end the members.
    moved: Vec<Moved>,
}

/// A partition that has moved, and whose old home still has a word to say.
#[derive(Debug)]
struct Moved {
    partition: u16,
    /// The link to the old home.
    session: u32,
    /// The revision that made it the home.
    revision: u64,
    until: Instant,
}

/// A topic that lives elsewhere and has members here.
#[derive(Debug)]
struct AwayTopic {
    topic: Arc<Topic>,
    slot: Arc<PluginSlot>,
    /// The link to its home.
    session: u32,
    members: HashSet<MemberId>,
}

/// A member of this node in such a topic.
#[derive(Debug)]
struct AwayMember {
    /// The number of the mailbox.
    topic: u64,
    has_joined: bool,
}

impl Away {
    /// How many members there are by session.
    pub(super) fn by_session(&self) -> HashMap<u32, usize> {
        let mut counts = HashMap::new();
        for topic in self.topics.values() {
            *counts.entry(topic.session).or_default() += topic.members.len();
        }
        counts
    }

    /// A partition has moved away from the home at the end of this session, which was that under this revision.
    pub(super) fn moves(&mut self, partition: u16, session: u32, revision: u64) {
        let until = clock::now() + MOVED;
        self.moved.push(Moved {
            partition,
            session,
            revision,
            until,
        });
    }

    fn remove(&mut self, member: MemberId) -> Option<u64> {
        let topic = self.members.remove(&member)?.topic;
        if let Some(known) = self.topics.get_mut(&topic) {
            known.members.remove(&member);
        }
        Some(topic)
    }
}

impl Exchange {
    /// Sends what clients here have for topics elsewhere, as far as the links have room. Returns whether there was any.
    pub(super) fn send_waiting(&mut self) -> bool {
        let room = self.config.max_link_bytes;
        let open = |way: &Way, waiting: usize| !way.is_up() || waiting < room;
        let peers = self.peers.values().filter(|peer| open(&peer.way, peer.link.waiting()));
        let ways: Vec<(Arc<Way>, u32)> = peers.map(|peer| (Arc::clone(&peer.way), peer.session)).collect();
        let mut is_any = false;
        for (way, session) in ways {
            for topic in way.queue.try_next(TOPICS) {
                is_any = true;
                self.send_inputs(&way, session, &topic);
            }
        }
        is_any
    }

    /// Refuses what waits on a way that leads nowhere any more.
    pub(super) fn refuse_waiting(&mut self, way: &Way) {
        loop {
            let topics = way.queue.try_next(TOPICS);
            if topics.is_empty() {
                return;
            }
            topics.iter().for_each(|topic| self.send_inputs(way, 0, topic));
        }
    }

    fn send_inputs(&mut self, way: &Way, session: u32, topic: &Arc<Topic>) {
        let Some(slot) = self.shared.mailboxes.slot(topic.number) else {
            return;
        };
        self.away.topics.entry(topic.number).or_insert_with(|| AwayTopic {
            topic: Arc::clone(topic),
            slot: Arc::clone(&slot),
            session,
            members: HashSet::new(),
        });
        if session == 0 {
            // The link broke, or its node went, while a join was on its way into the mailbox.
            return self.end_away(topic.number, reason::NODE_UNAVAILABLE);
        }
        let Some(inputs) = topic.start(&way.queue, INPUTS) else {
            return;
        };
        for input in inputs {
            self.send_input(way, session, topic, &slot, input);
        }
        topic.finish(std::iter::empty());
        self.close_if_unused(topic.number);
    }

    fn send_input(&mut self, way: &Way, session: u32, topic: &Arc<Topic>, slot: &PluginSlot, input: Input) {
        if let Some(trace) = input.trace() {
            // It goes on at the home, which does not know of the trace.
            trace.end("sent to its home");
        }
        let item = match input {
            Input::Join {
                member, params, info, ..
            } => {
                let Entry { place, revision, .. } = self.shared.table.of(&topic.name);
                if !matches!(place, Place::There(there) if there.id == way.id) {
                    let reply = Payload::reason(reason::NODE_UNAVAILABLE);
                    return self.hub.pubsub.send(member, Delivery::Refused { member, reply });
                }
                let known = AwayMember {
                    topic: topic.number,
                    has_joined: false,
                };
                self.away.members.insert(member, known);
                if let Some(known) = self.away.topics.get_mut(&topic.number) {
                    known.members.insert(member);
                }
                Item::Join {
                    member: member.number(),
                    plugin: slot.name.clone(),
                    topic: topic.name.to_string(),
                    revision,
                    params: params.into(),
                    info,
                }
            }
            Input::In {
                member,
                join_ref,
                msg_ref,
                event,
                payload,
                ..
            } => {
                if !self.away.members.contains_key(&member) {
                    return self.orphan(topic, member, join_ref, msg_ref, "error");
                }
                Item::In {
                    member: member.number(),
                    join_ref: written(&join_ref),
                    msg_ref: written(&msg_ref),
                    event: event.to_string(),
                    payload: payload.into(),
                }
            }
            Input::Claims { member, info } => Item::Claims {
                member: member.number(),
                info,
            },
            Input::End(ending) => {
                let Ending {
                    member,
                    reason,
                    leave,
                    notice,
                    ..
                } = ending;
                if !self.away.members.contains_key(&member) {
                    if let Some(leave) = leave {
                        self.orphan(topic, member, leave.join_ref, leave.msg_ref, "ok");
                    }
                    return;
                }
                if is_last_word(notice, reason) {
                    self.away.remove(member);
                }
                Item::End {
                    member: member.number(),
                    reason,
                    leave: leave.map(|leave| (written(&leave.join_ref), written(&leave.msg_ref))),
                    notice: notice.into(),
                }
            }
            // No I/O thread sends anything else.
            _ => return,
        };
        self.send_to(session, &item);
    }

    fn orphan(&self, topic: &Topic, member: MemberId, join_ref: Ref, msg_ref: Ref, status: &'static str) {
        let topic = topic.name.clone();
        let orphan = Delivery::Orphan {
            member,
            topic,
            join_ref,
            msg_ref,
            status,
        };
        self.hub.pubsub.send(member, orphan);
    }

    /// A mailbox that nobody needs any more is removed.
    fn close_if_unused(&mut self, number: u64) {
        let Some(known) = self.away.topics.get(&number) else {
            return;
        };
        if !known.members.is_empty() {
            return;
        }
        let close = || known.topic.close().then_some(());
        let closed = self.shared.mailboxes.remove(known.slot.index, &known.topic, close);
        if closed.is_some() {
            self.away.topics.remove(&number);
        }
    }

    /// Ends all memberships across a link. Returns how many there were.
    pub(super) fn end_away_at(&mut self, session: u32) -> usize {
        let before = self.away.members.len();
        let at = self.away.topics.iter().filter(|(_, topic)| topic.session == session);
        for number in at.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.end_away(number, reason::NODE_LOST);
        }
        before - self.away.members.len()
    }

    /// Ends all memberships in a partition whose home has changed.
    pub(super) fn end_away_in(&mut self, partition: u16, at: Option<u32>, why: &'static str) {
        let partitions = self.shared.table.partitions();
        let is_in = |topic: &AwayTopic| {
            let own = partition_of(&topic.topic.name, partitions);
            own == partition && at.is_none_or(|session| session == topic.session)
        };
        let found = self.away.topics.iter().filter(|(_, topic)| is_in(topic));
        for number in found.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.end_away(number, why);
        }
    }

    /// Ends all memberships in partitions that have moved, and whose old home has not done that in time.
    pub(super) fn end_moved_away(&mut self, now: Instant) {
        let late = self.away.moved.extract_if(.., |moved| moved.until <= now);
        for Moved { partition, session, .. } in late.collect::<Vec<_>>() {
            self.end_away_in(partition, Some(session), reason::TOPIC_MOVED);
        }
    }

    /// Ends all memberships in a topic: their clients are told, and join again.
    fn end_away(&mut self, number: u64, why: &'static str) {
        let Some(known) = self.away.topics.remove(&number) else {
            return;
        };
        let close = || known.topic.abandon(&known.topic.owner(), false);
        let waited = self.shared.mailboxes.remove(known.slot.index, &known.topic, close);
        for member in known.members {
            let has_joined = self.away.members.remove(&member).is_some_and(|known| known.has_joined);
            let pubsub = &self.hub.pubsub;
            if has_joined {
                let notice = Notice::Error(why);
                pubsub.send(member, Delivery::Ended { member, notice });
                pubsub.send(member, Delivery::Gone { member });
            } else {
                let reply = Payload::reason(reason::NODE_UNAVAILABLE);
                pubsub.send(member, Delivery::Refused { member, reply });
            }
        }
        for input in waited.into_iter().flatten() {
            match input {
                Input::Join { member, .. } => {
                    let reply = Payload::reason(reason::NODE_UNAVAILABLE);
                    self.hub.pubsub.send(member, Delivery::Refused { member, reply });
                }
                Input::In {
                    member,
                    join_ref,
                    msg_ref,
                    ..
                } => self.orphan(&known.topic, member, join_ref, msg_ref, "error"),
                Input::End(Ending {
                    member,
                    leave: Some(leave),
                    ..
                }) => self.orphan(&known.topic, member, leave.join_ref, leave.msg_ref, "ok"),
                _ => {}
            }
        }
    }

    /// Handles what only the home of a topic says.
    pub(super) fn take_from_home(&mut self, session: u32, item: Item) {
        match item {
            Item::Broadcast {
                revision,
                topic,
                event,
                payload,
                except,
                intercepted_by,
                count,
            } => {
                let topic = ByteString::from(topic);
                if !self.is_home_there(session, &topic, revision) {
                    if let Some(id) = count {
                        self.send_to(
                            session,
                            &Item::Counted {
                                id,
                                reached: 0,
                                intercepted: 0,
                            },
                        );
                    }
                    return;
                }
                let routes = self.hub.routes();
                let slots = intercepted_by.iter().filter_map(|name| routes.plugins.get(name));
                self.hub.pubsub.broadcast_here(Broadcast {
                    topic,
                    event: event.into(),
                    payload: payload.into(),
                    except: except.and_then(MemberId::from_number),
                    intercepted_by: slots.map(|slot| slot.index).collect(),
                    reach: self.counting(session, count),
                });
            }
            Item::Lost { partition } => self.end_away_in(partition, Some(session), reason::NODE_LOST),
            item => self.take_for_member(session, item),
        }
    }

    /// Whether the node of this session is the topic's home, under this revision, or was that when it sent this. Counts if it is not.
    ///
    /// What it sent before the topic moved may come later than the word that it has. Its members here have not ended then, and nobody
    /// else here is in the topic: the old mailbox refuses joins as long as there is one of them.
    fn is_home_there(&self, session: u32, topic: &str, revision: u64) -> bool {
        let entry = self.shared.table.of(topic);
        let is_home = match &entry.place {
            Place::There(way) => self.sessions.get(&session) == Some(&way.id) && entry.revision == revision,
            _ => false,
        };
        let partition = partition_of(topic, self.shared.table.partitions());
        let was_home =
            |moved: &Moved| (moved.partition, moved.session, moved.revision) == (partition, session, revision);
        let is_home = is_home || self.away.moved.iter().any(was_home);
        if !is_home {
            self.shared.counts.fenced.inc();
        }
        is_home
    }

    fn take_for_member(&mut self, session: u32, item: Item) {
        let (Item::Joined { member, .. }
        | Item::Refused { member, .. }
        | Item::Reply { member, .. }
        | Item::Orphan { member, .. }
        | Item::Push { member, .. }
        | Item::Ended { member, .. }
        | Item::Gone { member }) = &item
        else {
            return;
        };
        let Some(member) = MemberId::from_number(*member).filter(|member| self.is_here(*member)) else {
            self.shared.counts.foreign.inc();
            return;
        };
        let at = { self.away.members.get(&member) }.and_then(|known| self.away.topics.get(&known.topic));
        // An orphan is about a channel that has ended.
        if !matches!(item, Item::Orphan { .. }) && at.is_none_or(|topic| topic.session != session) {
            return;
        }
        match &item {
            Item::Joined { .. } => {
                if let Some(known) = self.away.members.get_mut(&member) {
                    known.has_joined = true;
                }
            }
            Item::Refused { .. } | Item::Gone { .. } => {
                if let Some(number) = self.away.remove(member) {
                    self.close_if_unused(number);
                }
            }
            _ => {}
        }
        if let Some(delivery) = for_member(member, item) {
            self.hub.pubsub.send(member, delivery);
        }
    }

    /// Whether a member's client is connected to this node.
    fn is_here(&self, member: MemberId) -> bool {
        member.thread() < usize::from(self.hub.pubsub.nodes())
    }

    /// The home of a topic elsewhere, if its link is up: its session, and the revision.
    fn home_of(&self, topic: &str) -> Option<(u32, u64)> {
        let entry = self.shared.table.of(topic);
        let Place::There(way) = &entry.place else { return None };
        let session = self.peers.get(&way.id)?.session;
        (session != 0).then_some((session, entry.revision))
    }

    /// Has the home of a topic publish.
    pub(super) fn publish_away(
        &mut self,
        topic: ByteString,
        event: ByteString,
        payload: Payload,
        reach: Option<Reach>,
    ) {
        let Some((session, revision)) = self.home_of(&topic) else {
            if self.shared.table.is_here(&topic) {
                // It has come here since.
                return self.hub.broadcast_to(topic, event, payload);
            }
            return self.undelivered(&topic, "broadcast");
        };
        let item = Item::Publish {
            revision,
            topic: topic.to_string(),
            event: event.to_string(),
            payload: payload.into(),
            count: reach.and_then(|reach| self.wait(session, Wait::Count(reach))),
        };
        self.send_to(session, &item);
    }

    pub(super) fn send_info_away(&mut self, topic: ByteString, name: ByteString, payload: Payload) {
        let Some((session, revision)) = self.home_of(&topic) else {
            if self.shared.table.is_here(&topic) {
                return self.info_here(&topic, name, payload);
            }
            return self.undelivered(&topic, "message");
        };
        let item = Item::Info {
            revision,
            topic: topic.to_string(),
            name: name.to_string(),
            payload: payload.into(),
        };
        self.send_to(session, &item);
    }

    pub(super) fn call_away(
        &mut self,
        topic: ByteString,
        event: ByteString,
        payload: Payload,
        create: Create,
        caller: Caller,
    ) {
        let Some((session, revision)) = self.home_of(&topic) else {
            let why = Called::Unstored(reason::NODE_UNAVAILABLE);
            return caller.answer(why);
        };
        let Some(id) = self.wait(session, Wait::Call(caller)) else {
            return;
        };
        let item = Item::Call {
            id,
            revision,
            topic: topic.to_string(),
            event: event.to_string(),
            payload: payload.into(),
            create,
        };
        self.send_to(session, &item);
    }

    fn undelivered(&self, topic: &str, what: &str) {
        self.hub.metrics.undelivered.inc();
        self.shared.counts.undelivered.inc();
        tracing::debug!(topic, what, "not delivered: the home of the topic cannot be reached");
    }
}

fn for_member(member: MemberId, item: Item) -> Option<Delivery> {
    Some(match item {
        Item::Joined { reply, .. } => Delivery::Joined {
            member,
            reply: reply.into(),
        },
        Item::Refused { reply, .. } => Delivery::Refused {
            member,
            reply: reply.into(),
        },
        Item::Reply {
            msg_ref,
            status,
            payload,
            ..
        } => Delivery::Reply {
            member,
            msg_ref: read_ref(msg_ref),
            status: status.into(),
            payload: payload.into(),
        },
        Item::Orphan {
            topic,
            join_ref,
            msg_ref,
            is_leave,
            ..
        } => Delivery::Orphan {
            member,
            topic: topic.into(),
            join_ref: read_ref(join_ref),
            msg_ref: read_ref(msg_ref),
            status: if is_leave { "ok" } else { "error" },
        },
        Item::Push { event, payload, .. } => Delivery::Push {
            member,
            event: event.into(),
            payload: payload.into(),
        },
        Item::Ended { notice, .. } => Delivery::Ended {
            member,
            notice: notice.into(),
        },
        Item::Gone { .. } => Delivery::Gone { member },
        _ => return None,
    })
}
