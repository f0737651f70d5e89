//! The clients: each connects to any node, joins its topic, pushes numbered events, and comes back when something ends.
//!
//! They share a few threads. The thread that torments the nodes is another one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::member::Member;
use super::world::{RunId, RunState, World};
use crate::client::{Client, ClientError, Message, Options, Payload, Transport};
use crate::terminal::in_one_line;

/// How long a client waits for a node, also for one that stands still.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Before a client connects or joins again, in milliseconds.
const AGAIN_MS: std::ops::Range<u64> = 20..120;
/// Between two looks at a join that has no answer.
const LOOK: Duration = Duration::from_secs(1);
/// How many events a client pushes at once, at most.
const AT_ONCE: usize = 3;
/// A client with more events in flight pushes no others.
const MOST_IN_FLIGHT: usize = 30;
/// How many clients move to any other node when they are told to roam: one of this many.
const ROAMING: usize = 4;
/// The close code of a node that stops.
const RESTARTS: u16 = 1012;

/// What clients are to do.
#[derive(Clone, Copy, Debug, Default)]
struct Orders {
    /// They push nothing any more.
    is_quiet: bool,
    is_over: bool,
    /// A counter: when it changes, each client compares the state of its topic.
    audits: usize,
    /// A counter: when it changes, some clients connect to another node.
    roams: usize,
}

/// All clients.
#[derive(Debug)]
pub(super) struct Clients {
    orders: watch::Sender<Orders>,
    threads: Vec<JoinHandle<()>>,
    /// How many clients have had the last audit.
    audited: Arc<AtomicUsize>,
    count: usize,
}

impl Clients {
    /// Starts all clients.
    pub(super) fn start(world: &Arc<World>) -> io::Result<Self> {
        let orders = watch::Sender::new(Orders::default());
        let audited = Arc::new(AtomicUsize::new(0));
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(8));
        let threads = (0..threads).map(|index| {
            let clients = (index..world.plan.clients).step_by(threads);
            let clients: Vec<TestClient> = clients.map(|number| TestClient::new(number, world, &audited)).collect();
            let orders = orders.subscribe();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let body = move || runtime.block_on(run_all(clients, orders));
            let thread = std::thread::Builder::new().name(format!("clients.{index}"));
            thread.spawn(body)
        });
        Ok(Self {
            threads: threads.collect::<io::Result<_>>()?,
            orders,
            audited,
            count: world.plan.clients,
        })
    }

    /// Has each client compare the state of its topic, once it is there.
    pub(super) fn audit(&self) {
        self.audited.store(0, Ordering::Relaxed);
        self.orders.send_modify(|orders| orders.audits += 1);
    }

    /// How many clients have not had the last audit.
    pub(super) fn without_audit(&self) -> usize {
        self.count.saturating_sub(self.audited.load(Ordering::Relaxed))
    }

    /// Has some clients connect to another node.
    pub(super) fn roam(&self) {
        self.orders.send_modify(|orders| orders.roams += 1);
    }

    /// Has all clients push nothing any more.
    pub(super) fn be_quiet(&self) {
        self.orders.send_modify(|orders| orders.is_quiet = true);
    }

    /// Ends all clients.
    pub(super) fn end(self) {
        self.orders.send_modify(|orders| orders.is_over = true);
        for thread in self.threads {
            // It has nothing to say that the counters do not.
            let _ = thread.join();
        }
    }
}

async fn run_all(clients: Vec<TestClient>, orders: watch::Receiver<Orders>) {
    let mut tasks = JoinSet::new();
    for client in clients {
        let mut over = orders.clone();
        let running = client.run(orders.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = running => {}
                // Whatever it waits for.
                _ = over.wait_for(|orders| orders.is_over) => {}
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// One client.
struct TestClient {
    number: usize,
    transport: Transport,
    member: Member,
    random: Rng,
    world: Arc<World>,
    audited: Arc<AtomicUsize>,
}

/// Why a client leaves its node by itself.
struct Roams;

impl TestClient {
    fn new(number: usize, world: &Arc<World>, audited: &Arc<AtomicUsize>) -> Self {
        let topic = &world.topics[number % world.topics.len()];
        let id = u32::try_from(number + 1).unwrap_or(u32::MAX);
        // So that each topic has clients of both.
        let transport = [Transport::WebSocket, Transport::LongPoll][(number + number / world.topics.len()) % 2];
        Self {
            number,
            transport,
            member: Member::new(Arc::clone(topic), id, Arc::clone(world)),
            random: Rng::with_seed(world.plan.seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            world: Arc::clone(world),
            audited: Arc::clone(audited),
        }
    }

    /// Connects again and again.
    async fn run(mut self, mut orders: watch::Receiver<Orders>) {
        let mut roams = orders.borrow().roams;
        loop {
            if let Some((run, address)) = self.world.any_node(&mut self.random)
                && let Ok(mut client) = Client::connect(&self.options(address)).await
            {
                let ended = self.stay(run, &mut client, &mut orders, &mut roams).await;
                match ended {
                    Ok(Roams) => self.member.disconnected(run, "the client leaves its node"),
                    Err(error) => self.lost(run, &mut client, error).await,
                }
            }
            self.pause().await;
        }
    }

    fn options(&self, address: SocketAddr) -> Options {
        Options {
            deadline: TIMEOUT,
            ..Options::new(address, self.transport)
        }
    }

    async fn pause(&mut self) {
        tokio::time::sleep(Duration::from_millis(self.random.u64(AGAIN_MS))).await;
    }

    /// Stays connected until the connection ends, or the client is told to roam.
    async fn stay(
        &mut self,
        run: RunId,
        client: &mut Client,
        orders: &mut watch::Receiver<Orders>,
        roams: &mut usize,
    ) -> Result<Roams, ClientError> {
        let interval = self.world.plan.interval();
        let (mut join_at, mut push_at) = (Instant::now(), Instant::now());
        loop {
            let Orders {
                is_quiet,
                audits,
                roams: wanted,
                ..
            } = *orders.borrow_and_update();
            if std::mem::replace(roams, wanted) != wanted && (self.number + wanted).is_multiple_of(ROAMING) {
                return Ok(Roams);
            }
            let was_joined = self.member.is_joined();
            if self.member.is_outside() && Instant::now() >= join_at {
                // When to try again, should it be refused.
                join_at = Instant::now() + Duration::from_millis(self.random.u64(AGAIN_MS));
                self.join(client).await?;
            }
            if self.member.lacks_audit(audits) {
                self.audit(client, audits).await?;
            }
            let may_push = was_joined && !is_quiet;
            tokio::select! {
                message = client.next() => match message {
                    Ok(message) => self.receive(run, message, audits),
                    // Nothing has arrived.
                    Err(ClientError::Deadline(_)) => {}
                    Err(error) => return Err(error),
                },
                () = tokio::time::sleep_until(push_at), if may_push => {
                    let count = self.random.usize(1..=AT_ONCE);
                    push_at = Instant::now() + interval * u32::try_from(count).unwrap_or(1);
                    self.push(client, count).await?;
                }
                () = tokio::time::sleep_until(join_at), if self.member.is_outside() => {}
                // So that a join that nobody answers is noticed.
                () = tokio::time::sleep(LOOK), if !self.member.is_joined() => {}
                changed = orders.changed() => if changed.is_err() {
                    return Ok(Roams);
                },
            }
            self.member.mind_join();
            if !was_joined && self.member.is_joined() {
                // At once, so that it shows how soon the topic answers.
                push_at = Instant::now();
            }
        }
    }

    async fn join(&mut self, client: &mut Client) -> Result<(), ClientError> {
        let params = json!({ "client": self.number + 1, "last": self.member.last() });
        let mark = self.member.mark();
        let msg_ref = client.start_join(&self.member.topic.name, params).await?;
        self.member.joining(number(&msg_ref), mark);
        Ok(())
    }

    async fn audit(&mut self, client: &mut Client, audits: usize) -> Result<(), ClientError> {
        let mark = self.member.mark();
        let msg_ref = client.push(&self.member.topic.name, "audit", json!({})).await?;
        self.member.audit(number(&msg_ref), audits, mark);
        Ok(())
    }

    async fn push(&mut self, client: &mut Client, count: usize) -> Result<(), ClientError> {
        if self.member.in_flight() > MOST_IN_FLIGHT {
            return Ok(());
        }
        let numbers: Vec<u32> = (0..count).map(|_| self.member.next_number()).collect();
        let puts: Vec<Value> = numbers.iter().map(|number| json!({ "n": number })).collect();
        // A home that answers after this moment may know of them only from then on.
        let at = std::time::Instant::now();
        let refs = client.push_all(&self.member.topic.name, "put", puts).await?;
        for (put, msg_ref) in numbers.into_iter().zip(refs) {
            self.member.pushed(number(&msg_ref), put, at);
        }
        Ok(())
    }

    fn receive(&mut self, run: RunId, message: Message, audits: usize) {
        let Payload::Json(payload) = message.payload else {
            return;
        };
        if message.topic != self.member.topic.name {
            self.world.tally.differences.increment();
            return self
                .world
                .find(|| format!("client {} hears of {}", self.number + 1, message.topic));
        }
        let had_audit = self.member.has_audit(audits);
        match (message.status, message.msg_ref) {
            (Some(status), Some(msg_ref)) => self.member.reply(number(&msg_ref), &status, &payload),
            _ => {
                let join_ref = message.join_ref.as_deref().map(number);
                self.member.event(run, &message.event, join_ref, &payload);
            }
        }
        if !had_audit && self.member.has_audit(audits) {
            self.audited.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The connection has ended, which only a node that stops or dies may do.
    async fn lost(&mut self, run: RunId, client: &mut Client, mut error: ClientError) {
        let is_websocket = self.transport == Transport::WebSocket;
        // If sending failed first, what the server said before is still there to be read.
        while is_websocket && !matches!(error, ClientError::Closed { .. }) {
            match client.next().await {
                Ok(message) => self.receive(run, message, 0),
                Err(closed @ ClientError::Closed { .. }) => error = closed,
                Err(_) => break,
            }
        }
        let is_drained = matches!(error, ClientError::Closed { code: RESTARTS }) || !is_websocket;
        let (state, why) = (self.world.state(run), in_one_line(&error));
        match state {
            RunState::Stops if is_drained => self.world.counts.drained.increment(),
            RunState::Killed => {}
            _ => {
                self.world.tally.closed.increment();
                self.world.find(|| {
                    format!(
                        "client {}, {:?}, at a node that {state:?}: {why}",
                        self.number + 1,
                        self.transport
                    )
                });
            }
        }
        let reason = if state == RunState::Killed {
            "its node is killed"
        } else {
            "its node stops"
        };
        self.member.disconnected(run, reason);
    }
}

/// The number of a `ref`: the client counts them.
fn number(msg_ref: &str) -> u64 {
    msg_ref.parse().unwrap_or_default()
}
