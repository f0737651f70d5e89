//! The cluster's thread: everything that goes between this node and others passes through here.
//!
//! It owns the links, the members of other nodes that are in topics here ([`guests`]), and those of this node that are in topics
//! elsewhere ([`away`]). It follows who lives and who is home ([`homes`]), decides who should be ([`balance`]), and moves partitions
//! ([`giving`], [`taking`], [`leaving`]). Other threads reach it through the
//! [`Outbox`](super::outbox::Outbox), through the run queues of the ways, and by [`Event`]s. It waits for nobody but the broker and,
//! when one is full, the inbox of an I/O thread, which waits for nobody.

mod away;
mod balance;
mod giving;
mod guest_list;
mod guests;
mod homes;
mod leaving;
mod peers;
mod report;
mod taking;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::bytes::Bytes;
use async_nats::jetstream::kv::Store;
use async_nats::{Client, Message, Subscriber};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;

use super::fault;
use super::item::{Answer, Item};
use super::lease::Keeper;
use super::member::Shared;
use super::moving::{MoveId, Stands};
use super::node::NodeId;
use super::outbox::Out;
use super::watch::{Home, Node};
use crate::config::Cluster;
use crate::runtime::clock;
use crate::runtime::plugin::{Arrived, Departed, Hub, NotTaken, Stays};
use crate::runtime::reach::{Heard, Reached};
use crate::runtime::wake::{self, PutOff};
use away::Away;
use giving::{Asked, Gives};
use guest_list::Guests;
use homes::{Live, NotWritten};
use leaving::{HandingOver, Leaving};
use peers::Peer;
use taking::Takes;

/// How often the thread looks after what has no event of its own.
const TICK: Duration = Duration::from_millis(100);
/// How many messages of the broker are handled in a turn.
const MESSAGES: usize = 256;

/// What the cluster's thread is told.
#[derive(Debug)]
pub(super) enum Event {
    /// The connection to the broker is there, or is lost.
    Connected(bool),
    /// Leases: all there are, or some that have changed.
    Nodes(Vec<Node>, bool),
    /// Homes: all that stand in the bucket, or some that have changed.
    Homes(Vec<Home>, bool),
    /// The bucket of homes, as it was opened last.
    Store(Box<Store>),
    /// What became of an attempt to write the entry of a partition.
    Written(u16, Stands, Result<u64, NotWritten>),
    /// A topic that was asked to leave is held and written, or is not.
    Departed(Asked, Result<(Departed, Bytes), Stays>),
    /// A topic that comes here was read, or could not be: the partition, the move, its number in that.
    Arrived(u16, MoveId, u32, Result<Arrived, NotTaken>),
    /// The process has stood still for so long, and the gate is shut.
    Late(Duration),
    /// Another node has this node's name.
    NameTaken,
    /// A broadcast for this node has been counted: the session of its link, its number.
    Counted(u32, u64, Heard),
    /// A call of this node has been answered: the same.
    Answered(u32, u64, Answer),
    /// Somebody wants to know which other nodes have a lease.
    Others(oneshot::Sender<Vec<NodeId>>),
    /// Somebody wants to know how things stand.
    Report(oneshot::Sender<serde_json::Value>),
    /// The node is about to stop: it hands its topics over, in so much time.
    HandOver(Duration, oneshot::Sender<()>),
    /// The node leaves the cluster. Answered once others have what it had.
    Leave(oneshot::Sender<()>),
}

/// What the thread owns.
pub(super) struct Exchange {
    me: NodeId,
    config: Cluster,
    hub: Arc<Hub>,
    shared: Arc<Shared>,
    keeper: Arc<Keeper>,
    client: Client,
    is_connected: bool,
    /// The bucket of leases.
    nodes: Store,
    /// The bucket of homes.
    homes: Store,
    say: mpsc::UnboundedSender<Event>,
    /// The nodes that have a lease, by name, this one among them.
    live: BTreeMap<String, Live>,
    /// Everything in the buckets was read once.
    knows_nodes: bool,
    knows_homes: bool,
    /// The node that should be the home of each partition.
    wanted: Vec<String>,
    /// Until then no partition is taken from a node that is not heard of: it may have lost its broker, as this one has.
    calm_until: Instant,
    /// When empty partitions are looked for next.
    next_gives: Instant,
    /// Partitions that this node was the home of when the broker forgot everything.
    forgotten: HashSet<u16>,
    /// Partitions whose entry is being written.
    writing: HashSet<u16>,
    /// What is on its way to other nodes.
    gives: Gives,
    /// What is on its way here.
    takes: Takes,
    /// The other nodes.
    peers: BTreeMap<NodeId, Peer>,
    /// The last epoch of links to nodes that are gone. A run that comes back must not take a new link for the old one.
    epochs: HashMap<NodeId, u32>,
    /// Which peer has the link with this session.
    sessions: HashMap<u32, NodeId>,
    last_session: u32,
    /// The last number under which an answer is awaited.
    last_wait: u64,
    guests: Guests,
    away: Away,
    /// Counts that are complete.
    reached: Arc<Reached>,
    ticked: Instant,
    /// Since when the broker is asked after a standstill.
    late_since: Option<Instant>,
    handing_over: Option<HandingOver>,
    leaving: Option<Leaving>,
}

impl Exchange {
    pub(super) fn new(
        (me, config, hub, shared, keeper): (NodeId, Cluster, Arc<Hub>, Arc<Shared>, Arc<Keeper>),
        client: Client,
        (nodes, homes): (Store, Store),
        say: mpsc::UnboundedSender<Event>,
    ) -> Self {
        Self {
            me,
            config,
            hub,
            shared,
            keeper,
            client,
            is_connected: true,
            nodes,
            homes,
            say,
            live: BTreeMap::new(),
            knows_nodes: false,
            knows_homes: false,
            wanted: Vec::new(),
            calm_until: clock::now(),
            next_gives: clock::now(),
            forgotten: HashSet::new(),
            writing: HashSet::new(),
            gives: Gives::default(),
            takes: Takes::new(),
            peers: BTreeMap::new(),
            epochs: HashMap::new(),
            sessions: HashMap::new(),
            last_session: 0,
            last_wait: 0,
            guests: Guests::default(),
            away: Away::default(),
            reached: Arc::default(),
            ticked: clock::now(),
            late_since: None,
            handing_over: None,
            leaving: None,
        }
    }

    /// Runs until the node has left.
    pub(super) async fn run(mut self, mut messages: Subscriber, mut events: mpsc::UnboundedReceiver<Event>) {
        self.shared.outbox.belongs_here();
        let reached = Arc::clone(&self.reached);
        tokio::spawn(async move { reached.tell_all().await });
        let notify = Arc::clone(&self.shared.notify);
        loop {
            let mut first = None;
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(event) => self.hear(event),
                    None => break,
                },
                message = messages.next() => match message {
                    Some(message) => first = Some(message),
                    // The connection was closed for good, which only a stop does.
                    None => break,
                },
                () = notify.notified() => {}
                () = sleep_until(self.due().into()) => {}
            }
            fault::be_slow().await;
            while let Ok(event) = events.try_recv() {
                self.hear(event);
            }
            wake::together(PutOff::All, || self.turn(first, &mut messages));
            self.flush().await;
            if self.has_left() {
                break;
            }
        }
        self.shared.outbox.close();
    }

    /// Does what is due now.
    fn turn(&mut self, first: Option<Message>, messages: &mut Subscriber) {
        let more = std::iter::from_fn(|| messages.next().now_or_never().flatten());
        for message in first.into_iter().chain(more).take(MESSAGES) {
            self.take_in(&message);
        }
        let now = clock::now();
        if now.saturating_duration_since(self.ticked) >= TICK {
            self.ticked = now;
            self.tick(now);
        }
        self.go_on_moving(now);
        // What is handed on here may make more of both.
        loop {
            let out = self.shared.outbox.take();
            let is_none = out.is_empty();
            out.into_iter().for_each(|out| self.send_out(out));
            if !self.send_waiting() && is_none {
                return;
            }
        }
    }

    /// When the thread has to look again, whatever happens.
    fn due(&self) -> Instant {
        let links = self.peers.values().filter_map(|peer| peer.link.due());
        links.fold(self.ticked + TICK, Instant::min)
    }

    fn tick(&mut self, now: Instant) {
        self.break_stuck_links(now);
        self.mind_own_lease();
        self.ask_for_silent_nodes(now);
        self.mind_gives(now);
        self.mind_takes(now);
        self.end_moved_away(now);
        self.rebalance(now);
        self.go_on_handing_over(now);
        self.go_on_leaving(now);
        self.forget_late_gate(now);
    }

    /// Goes on with what moves to other nodes, and lets more do so once there is room.
    fn go_on_moving(&mut self, now: Instant) {
        if self.gives.take_room() {
            self.rebalance(now);
            self.go_on_handing_over(now);
        }
        self.go_on_giving();
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Connected(is_connected) => self.set_connected(is_connected),
            Event::Nodes(nodes, is_all) => self.hear_nodes(nodes, is_all),
            Event::Homes(homes, is_all) => self.hear_homes(homes, is_all),
            Event::Store(store) => self.homes = *store,
            Event::Written(partition, stands, written) => self.hear_written(partition, stands, written),
            Event::Departed(asked, departed) => self.hear_departed(asked, departed),
            Event::Arrived(partition, id, index, arrived) => self.hear_topic_read(partition, &id, index, arrived),
            Event::Late(late) => self.hear_late(late),
            Event::NameTaken => {
                let node = self.me.name();
                tracing::error!(
                    node,
                    "another node of the cluster has this node's name, and has taken its lease"
                );
            }
            Event::Counted(session, id, heard) => {
                let (reached, intercepted) = (heard.reached as u64, heard.intercepted as u64);
                self.send_to(
                    session,
                    &Item::Counted {
                        id,
                        reached,
                        intercepted,
                    },
                );
            }
            Event::Answered(session, id, answer) => self.send_to(session, &Item::Answer { id, answer }),
            Event::Others(reply) => {
                let others = self.live.values().map(|live| &live.id).filter(|id| **id != self.me);
                let _ = reply.send(others.cloned().collect());
            }
            Event::Report(reply) => drop(reply.send(self.report())),
            Event::HandOver(time, done) => self.hand_over(time, done),
            Event::Leave(left) => self.leave(left),
        }
    }

    /// What other threads have for other nodes.
    fn send_out(&mut self, out: Out) {
        match out {
            Out::Deliver(delivery) => self.deliver_to_guests(delivery),
            Out::Publish {
                topic,
                event,
                payload,
                reach,
            } => self.publish_away(topic, event, payload, reach),
            Out::Info { topic, name, payload } => self.send_info_away(topic, name, payload),
            Out::Call {
                topic,
                event,
                payload,
                create,
                caller,
            } => self.call_away(topic, event, payload, create, caller),
            Out::Refuse { socket_id, wait } => {
                let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                let socket_id = socket_id.to_string();
                self.send_to_all(&Item::Refuse { socket_id, wait_ms });
            }
        }
    }

    /// Handles what another node has sent.
    fn take(&mut self, session: u32, item: Item) {
        match item {
            Item::Join { .. }
            | Item::In { .. }
            | Item::Claims { .. }
            | Item::End { .. }
            | Item::Publish { .. }
            | Item::Info { .. }
            | Item::Call { .. } => self.take_as_home(session, item),
            Item::Joined { .. }
            | Item::Refused { .. }
            | Item::Reply { .. }
            | Item::Orphan { .. }
            | Item::Push { .. }
            | Item::Broadcast { .. }
            | Item::Ended { .. }
            | Item::Gone { .. }
            | Item::Lost { .. } => self.take_from_home(session, item),
            Item::Answer { id, answer } => self.answered(session, id, answer),
            Item::Counted {
                id,
                reached,
                intercepted,
            } => {
                let number = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
                let heard = Heard {
                    reached: number(reached),
                    intercepted: number(intercepted),
                };
                self.counted(session, id, heard);
            }
            Item::Disconnect { socket_id, count } => self.disconnect_here(session, socket_id, count),
            Item::Refuse { socket_id, wait_ms } => self.refuse_here(socket_id, wait_ms),
            Item::Moving(moving) => self.take_moving(session, moving),
        }
    }
}
