//! This node's membership of the cluster: it joins before any client is let in, and leaves once all are gone.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_nats::Event as Heard;
use bennu_wire::message::Payload;
use bytes::Bytes;
use bytestring::ByteString;
use futures_util::future::join_all;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use super::answers::{Answers, Gathered, Home, NoAnswer};
use super::asks::Asks;
use super::broker::{Broker, ClusterError};
use super::counts::Counts;
use super::exchange::{Event, Exchange};
use super::gate::Gate;
use super::lease::Keeper;
use super::mailboxes::Mailboxes;
use super::node::NodeId;
use super::outbox::{Out, Outbox};
use super::partitions::partition_of;
use super::stored::SharedStore;
use super::table::{Place, Table};
use super::watch::{self, What};
use crate::config;
use crate::runtime::channel::{Caller, Create, Input, Topic};
use crate::runtime::plugin::{Homes, Hub, JoinRefused, NotCalled, PluginSlot};
use crate::runtime::pubsub::PubSub;
use crate::runtime::reach::Reach;
use crate::runtime::store::Engine;
use crate::runtime::threads;

/// The name of the thread.
const THREAD: &str = "cluster";
/// How long somebody waits for a report.
const PATIENCE: Duration = Duration::from_secs(2);

/// The node, for the rest of the server.
#[derive(Debug)]
pub(crate) struct Cluster {
    me: NodeId,
    config: config::Cluster,
    broker: Broker,
    shared: Arc<Shared>,
    running: Mutex<Option<mpsc::UnboundedSender<Event>>>,
    /// Questions between nodes, while the node is a member.
    asks: Mutex<Option<Arc<Asks>>>,
    /// The thread of the lease, while the node is a member.
    lease: Mutex<Option<JoinHandle<()>>>,
}

/// What all threads share of it.
#[derive(Debug)]
pub(super) struct Shared {
    /// Which node is the home of each partition.
    pub(super) table: Table,
    /// The mailboxes of topics that live elsewhere.
    pub(super) mailboxes: Mailboxes,
    /// What is to be sent to other nodes.
    pub(super) outbox: Arc<Outbox>,
    /// Before all shards.
    pub(super) gate: Arc<Gate>,
    /// Wakes the cluster's thread.
    pub(super) notify: Arc<Notify>,
    /// Has the buckets read once more.
    pub(super) again: Arc<Notify>,
    /// How many socket ids may be refused.
    pub(super) max_refused_ids: usize,
    /// What happened so far.
    pub(super) counts: Counts,
}

/// Where a node hears of another one.
#[must_use]
pub(super) fn subject(cluster: &str, to: &str, from: &str) -> String {
    format!("bennu.{cluster}.to.{to}.{from}")
}

impl Cluster {
    /// A node that has not joined yet. It may refuse so many socket ids for others.
    ///
    /// # Errors
    ///
    /// If the login at the broker has no secret.
    pub(crate) fn prepare(config: &config::Cluster, max_refused_ids: usize) -> Result<Self, ClusterError> {
        let broker = Broker::new(config)?;
        let run = u64::from_ne_bytes(random()?);
        let me = match &config.node {
            Some(name) => NodeId::new(name, run),
            None => NodeId::new(&made_up_name(u32::from_ne_bytes(random()?)), run),
        };
        let notify = Arc::new(Notify::new());
        let shared = Shared {
            table: Table::new(config.partitions),
            mailboxes: Mailboxes::default(),
            outbox: Arc::new(Outbox::new(config.max_queue_bytes, Arc::clone(&notify))),
            gate: Arc::new(Gate::new(config.lease * 3 / 5)),
            notify,
            again: Arc::default(),
            max_refused_ids,
            counts: Counts::default(),
        };
        Ok(Self {
            me,
            config: config.clone(),
            broker,
            shared: Arc::new(shared),
            running: Mutex::new(None),
            asks: Mutex::new(None),
            lease: Mutex::new(None),
        })
    }

    /// The ways to all clients, those of other nodes' clients among them.
    #[must_use]
    pub(crate) fn widen(&self, pubsub: PubSub) -> PubSub {
        pubsub.with_nodes(Box::new(Arc::clone(&self.shared.outbox)))
    }

    /// Joins: takes the lease, then starts the cluster's thread. From then on the topics of `hub` live where the cluster says, and
    /// `answers` hears what other nodes ask.
    ///
    /// # Errors
    ///
    /// If the broker cannot be reached, or the other nodes have another configuration.
    pub(crate) async fn join(&self, hub: &Arc<Hub>, answers: Arc<dyn Answers>) -> Result<(), ClusterError> {
        let (say, events) = mpsc::unbounded_channel();
        hub.join_cluster(Arc::clone(&self.shared) as Arc<dyn Homes>);
        let (gate, lease) = (Arc::clone(&self.shared.gate), self.config.lease);
        let kept = Keeper::start(self.broker.clone(), self.me.clone(), lease, gate, say.clone());
        let (keeper, thread) = kept.await?;
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        let (broker, me, config) = (self.broker.clone(), self.me.clone(), self.config.clone());
        let asks = Asks::start(broker, me, config, Arc::clone(&self.shared), answers).await?;
        *self.asks() = Some(asks);
        let start = Start {
            me: self.me.clone(),
            config: self.config.clone(),
            broker: Arc::new(self.broker.clone()),
            shared: Arc::clone(&self.shared),
            hub: Arc::clone(hub),
            keeper,
            say: say.clone(),
        };
        let (done, joined) = oneshot::channel();
        threads::try_spawn(THREAD, move || start.run(events, done))?;
        let ended = || ClusterError::System(std::io::Error::other("the thread of the cluster has ended"));
        joined.await.map_err(|_| ended())??;
        tracing::info!(cluster = self.config.name, node = %self.me, "joined the cluster");
        *self.running() = Some(say);
        Ok(())
    }

    /// Where the topics are kept that outlive this node, up to so many bytes. It keeps them from before the node joins until after it
    /// has left.
    ///
    /// # Errors
    ///
    /// If the broker cannot be reached, or has no room for them.
    pub(crate) async fn store(&self, max_bytes: u64) -> Result<Box<dyn Engine>, ClusterError> {
        let (broker, shared) = (self.broker.clone(), Arc::clone(&self.shared));
        let store = SharedStore::open(broker, self.me.clone(), shared, max_bytes).await?;
        Ok(Box::new(store))
    }

    /// Hands all topics over to other nodes, with their state, as far as that can be done in so much time.
    pub(crate) async fn hand_over(&self, time: Duration) {
        let (done, over) = oneshot::channel();
        let hand_over = Event::HandOver(time, done);
        let said = self.running().as_ref().is_some_and(|say| say.send(hand_over).is_ok());
        if said {
            // It bounds itself.
            let _ = timeout(time + PATIENCE, over).await;
        }
    }

    /// Hands on what this node is the home of, and leaves. Topics that have not moved until then end.
    pub(crate) async fn leave(&self) {
        let (done, left) = oneshot::channel();
        let said = self
            .running()
            .take()
            .is_some_and(|say| say.send(Event::Leave(done)).is_ok());
        if said {
            // It bounds itself.
            let _ = left.await;
        }
        let lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(lease) = lease.filter(|_| said) {
            // It gives the lease back, so that nobody has to wait for its end.
            let ended = tokio::task::spawn_blocking(|| drop(lease.join()));
            let _ = timeout(PATIENCE, ended).await;
        }
        if let Some(asks) = self.asks().take() {
            asks.end();
        }
        self.shared.gate.remove();
        self.shared.outbox.close();
    }

    /// The number of this run of the node, which no other one has.
    #[must_use]
    pub(crate) fn run(&self) -> u64 {
        self.me.run()
    }

    /// The name of this node.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        self.me.name()
    }

    /// Asks the run of a node with this number, and waits for so long.
    ///
    /// # Errors
    ///
    /// If there is no answer.
    pub(crate) async fn ask(&self, run: u64, question: Bytes, patience: Duration) -> Result<Bytes, NoAnswer> {
        let asks = self.asks().clone();
        asks.ok_or(NoAnswer::Leaving)?.ask(run, question, patience).await
    }

    /// The names of all other nodes that have a lease, and the numbers by which they are asked. `None`: they are not known now.
    pub(crate) async fn others(&self) -> Option<Vec<(String, u64)>> {
        let (reply, others) = oneshot::channel();
        self.running().as_ref()?.send(Event::Others(reply)).ok()?;
        let others = timeout(PATIENCE, others).await.ok()?.ok()?;
        Some(others.iter().map(|node| (node.name().to_owned(), node.run())).collect())
    }

    /// Asks all other nodes that have a lease, and waits for so long. `None`: which they are is not known now.
    pub(crate) async fn ask_all(&self, question: Bytes, patience: Duration) -> Option<Gathered> {
        let others = self.others().await?;
        let ask = async |(node, run): (String, u64)| {
            let answer = self.ask(run, question.clone(), patience).await;
            (node, answer)
        };
        let mut gathered = Gathered::default();
        for (node, answer) in join_all(others.into_iter().map(ask)).await {
            match answer {
                Ok(answer) => gathered.answers.push((node, answer)),
                Err(why) => {
                    tracing::debug!(node, %why, "a node has not answered");
                    gathered.missing.push(node);
                }
            }
        }
        Some(gathered)
    }

    /// Where a topic lives, for whoever asks its home.
    #[must_use]
    pub(crate) fn home(&self, topic: &str) -> Home {
        let entry = self.shared.table.of(topic);
        match (&entry.place, &entry.home) {
            (Place::Here | Place::Parting, _) => Home::Here,
            (Place::There(_), Some(home)) => Home::There(home.name().to_owned(), home.run()),
            _ => Home::Nowhere,
        }
    }

    /// How things stand. `None` if the thread does not say so in time.
    pub(crate) async fn report(&self) -> Option<Value> {
        let (reply, report) = oneshot::channel();
        self.running().as_ref()?.send(Event::Report(reply)).ok()?;
        let mut report = timeout(PATIENCE, report).await.ok()?.ok()?;
        let (waiting, at_work) = self.asks().as_ref()?.counts();
        report["questions"] = json!({ "waiting": waiting, "at_work": at_work });
        Some(report)
    }

    /// Which node is the home of a topic.
    #[must_use]
    pub(crate) fn home_of(&self, topic: &str) -> Value {
        let entry = self.shared.table.of(topic);
        let reached = match &entry.place {
            Place::Here | Place::Parting => "here",
            Place::There(way) if way.is_up() => "there",
            Place::There(_) | Place::Nowhere => "not now",
        };
        json!({
            "topic": topic,
            "partition": partition_of(topic, self.config.partitions),
            "home": entry.home.as_ref().map(NodeId::name),
            "revision": entry.revision,
            "reached": reached,
        })
    }

    /// Shows what it counts.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.shared.counts.register(registry);
    }

    fn asks(&self) -> std::sync::MutexGuard<'_, Option<Arc<Asks>>> {
        self.asks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<mpsc::UnboundedSender<Event>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the cluster's thread is started with.
struct Start {
    me: NodeId,
    config: config::Cluster,
    broker: Arc<Broker>,
    shared: Arc<Shared>,
    hub: Arc<Hub>,
    keeper: Arc<Keeper>,
    say: mpsc::UnboundedSender<Event>,
}

impl Start {
    fn run(
        self,
        events: mpsc::UnboundedReceiver<Event>,
        done: oneshot::Sender<Result<(), ClusterError>>,
    ) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let Self {
                me,
                config,
                broker,
                shared,
                hub,
                keeper,
                say,
            } = self;
            let heard = {
                let say = say.clone();
                move |heard| match heard {
                    Heard::Connected => drop(say.send(Event::Connected(true))),
                    Heard::Disconnected => drop(say.send(Event::Connected(false))),
                    heard => tracing::debug!(%heard, "heard of the broker"),
                }
            };
            let open = async {
                let client = broker.connect(format!("bennu {me}"), heard).await?;
                let stores = (broker.nodes(&client).await?, broker.homes(&client).await?);
                let own = subject(&config.name, me.as_str(), "*");
                let messages = client.subscribe(own).await.map_err(std::io::Error::other)?;
                Ok::<_, ClusterError>((client, stores, messages))
            };
            let (client, stores, messages) = match open.await {
                Ok(opened) => opened,
                Err(error) => return drop(done.send(Err(error))),
            };
            let _ = done.send(Ok(()));
            for what in [What::Nodes, What::Homes(config.partitions)] {
                let (broker, client, again) = (Arc::clone(&broker), client.clone(), Arc::clone(&shared.again));
                tokio::spawn(watch::follow(what, broker, client, again, say.clone()));
            }
            let exchange = Exchange::new((me, config, hub, shared, keeper), client, stores, say);
            exchange.run(messages, events).await;
        });
        Ok(())
    }
}

impl Homes for Shared {
    fn is_here(&self, topic: &str) -> bool {
        self.table.is_here(topic)
    }

    fn enter(
        &self,
        hub: &Hub,
        slot: &Arc<PluginSlot>,
        topic: &ByteString,
        join: Input,
    ) -> Result<Arc<Topic>, JoinRefused> {
        // As long as this is held, nobody else becomes the home: whoever takes the topic away later finds it.
        let entries = self.table.read();
        match &entries[Table::index(&entries, topic)].place {
            Place::Here => slot.enter(topic, || hub.number(), join),
            Place::There(way) if way.is_up() => self.mailboxes.enter(hub, slot, topic, way, join),
            Place::There(_) | Place::Parting | Place::Nowhere => Err(JoinRefused::NoNode),
        }
    }

    fn enter_here(
        &self,
        hub: &Hub,
        slot: &Arc<PluginSlot>,
        topic: &ByteString,
        input: Input,
    ) -> Result<Arc<Topic>, JoinRefused> {
        // As above: whoever gives the topic away later finds it.
        let entries = self.table.read();
        match &entries[Table::index(&entries, topic)].place {
            Place::Here => slot.enter(topic, || hub.number(), input),
            _ => Err(JoinRefused::NoNode),
        }
    }

    fn fenced(&self, topic: &str) {
        self.counts.fenced.inc();
        tracing::debug!(
            topic,
            "a topic broadcasts after another node has become its home: nobody hears it"
        );
    }

    fn publish(&self, topic: ByteString, event: ByteString, payload: Payload, reach: Option<Reach>) {
        self.outbox.push(Out::Publish {
            topic,
            event,
            payload,
            reach,
        });
    }

    fn send_to(&self, topic: ByteString, name: ByteString, payload: Payload) {
        self.outbox.push(Out::Info { topic, name, payload });
    }

    fn call(
        &self,
        topic: ByteString,
        event: ByteString,
        payload: Payload,
        create: Create,
        caller: Caller,
    ) -> Result<(), NotCalled> {
        match &self.table.of(&topic).place {
            Place::There(way) if way.is_up() => {}
            _ => return Err(NotCalled::NoNode),
        }
        self.outbox.push(Out::Call {
            topic,
            event,
            payload,
            create,
            caller,
        });
        Ok(())
    }

    fn refuse(&self, socket_id: ByteString, wait: Duration) {
        self.outbox.push(Out::Refuse { socket_id, wait });
    }

    fn settle(&self) {
        self.gate.pass();
    }
}

/// A name for a node that the configuration does not name: that of the host, with a random part.
fn made_up_name(random: u32) -> String {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    let plain = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    let host: String = host.chars().filter(plain).take(32).collect();
    format!("{}-{random:08x}", if host.is_empty() { "node" } else { &host })
}

/// Random bytes of the system.
pub(super) fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(bytes)
}
