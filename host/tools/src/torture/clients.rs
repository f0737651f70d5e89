//! The clients: each connects, joins its topics, pushes numbered events, and checks all that arrives.
//!
//! They share a few threads. The thread that replaces libraries is another one.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::libraries::PLUGIN;
use super::member::Member;
use super::plan::Plan;
use super::tally::Tally;
use super::topic::Topic;
use crate::client::{Client, ClientError, Message, Options, Payload, Transport};
use crate::terminal::in_one_line;

/// How many clients of a thread connect at the same time.
const CONNECTING: usize = 16;
/// How many events a client pushes at once when it is late.
const MOST_AT_ONCE: usize = 20;
/// How long a client waits for the server.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Connect and join.
    Join,
    /// Push events.
    Push,
    /// Wait for the missing replies, compare the states, and end.
    Settle,
    /// End.
    End,
}

#[derive(Clone, Copy, Debug)]
struct Orders {
    phase: Phase,
    /// A counter: when it changes, one client of each topic compares the state.
    audits: usize,
}

/// All clients.
#[derive(Debug)]
pub(super) struct Clients {
    orders: watch::Sender<Orders>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts all clients.
    pub(super) fn start(plan: &Plan, address: SocketAddr, tally: &Arc<Tally>) -> io::Result<Self> {
        let topics: Vec<Arc<Topic>> = (0..plan.topics)
            .map(|number| Arc::new(Topic::new(format!("{PLUGIN}:{number}"))))
            .collect();
        let orders = watch::Sender::new(Orders {
            phase: Phase::Join,
            audits: 0,
        });
        let count = std::thread::available_parallelism().map_or(1, |count| count.get().min(8));
        let mut threads = Vec::new();
        for index in 0..count {
            let clients: Vec<TestClient> = (index..plan.clients)
                .step_by(count)
                .map(|number| TestClient::new(number, plan, &topics, tally))
                .collect();
            let (orders, tally) = (orders.subscribe(), Arc::clone(tally));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let body = move || runtime.block_on(run_all(clients, address, orders, tally));
            threads.push(
                std::thread::Builder::new()
                    .name(format!("clients.{index}"))
                    .spawn(body)?,
            );
        }
        Ok(Self { orders, threads })
    }

    /// Starts a phase.
    pub(super) fn order(&self, phase: Phase) {
        self.orders.send_modify(|orders| orders.phase = phase);
    }

    /// Has one client of each topic compare its state.
    pub(super) fn audit(&self) {
        self.orders.send_modify(|orders| orders.audits += 1);
    }

    /// Whether all clients have ended.
    pub(super) fn have_ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }
}

async fn run_all(clients: Vec<TestClient>, address: SocketAddr, orders: watch::Receiver<Orders>, tally: Arc<Tally>) {
    let connecting = Arc::new(Semaphore::new(CONNECTING));
    let mut tasks = JoinSet::new();
    for client in clients {
        let (connecting, orders, tally) = (Arc::clone(&connecting), orders.clone(), Arc::clone(&tally));
        tasks.spawn(async move {
            let name = format!("client {}", client.number);
            if let Err(error) = client.run(address, &connecting, orders).await {
                tally.closed.increment();
                tally.find(|| format!("{name}: {}", in_one_line(&error)));
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// One client.
struct TestClient {
    number: usize,
    /// One for each topic that it joins.
    members: Vec<Member>,
    /// Indices into `members`.
    by_topic: HashMap<String, usize>,
    rng: Rng,
    plan: Plan,
    /// The client takes part in one of this many audits.
    turn: usize,
    tally: Arc<Tally>,
}

impl TestClient {
    fn new(number: usize, plan: &Plan, topics: &[Arc<Topic>], tally: &Arc<Tally>) -> Self {
        let id = u32::try_from(number + 1).unwrap_or(u32::MAX);
        let members: Vec<Member> = plan
            .topics_of(number)
            .map(|topic| Member::new(Arc::clone(&topics[topic]), id, Arc::clone(tally)))
            .collect();
        let by_topic = members.iter().enumerate();
        let by_topic = by_topic.map(|(at, member)| (member.topic.name.clone(), at)).collect();
        Self {
            number,
            by_topic,
            rng: Rng::with_seed(plan.seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            turn: (plan.clients * members.len() / plan.topics).max(1),
            members,
            plan: plan.clone(),
            tally: Arc::clone(tally),
        }
    }

    /// Connects and follows orders until the last phase.
    async fn run(
        mut self,
        address: SocketAddr,
        connecting: &Semaphore,
        mut orders: watch::Receiver<Orders>,
    ) -> Result<(), ClientError> {
        let transport = [Transport::WebSocket, Transport::LongPoll][self.number % 2];
        let options = Options {
            deadline: TIMEOUT,
            ..Options::new(address, transport)
        };
        let permit = connecting.acquire().await;
        let mut client = Client::connect(&options).await?;
        drop(permit);
        let done = self.follow_orders(&mut client, &mut orders).await;
        self.members.iter_mut().for_each(Member::give_up);
        done
    }

    async fn follow_orders(
        &mut self,
        client: &mut Client,
        orders: &mut watch::Receiver<Orders>,
    ) -> Result<(), ClientError> {
        let interval = self.plan.interval();
        let mut wake = Instant::now();
        let Orders { mut phase, mut audits } = *orders.borrow_and_update();
        let mut has_compared = false;
        loop {
            self.join(client).await?;
            tokio::select! {
                message = client.next() => match message {
                    Ok(message) => self.receive(message),
                    // Nothing has arrived. `give_up` counts what is missing at the end.
                    Err(ClientError::Deadline(_)) => {}
                    Err(error) => return Err(error),
                },
                () = tokio::time::sleep_until(wake), if phase == Phase::Push => {
                    let due = 1 + wake.elapsed().as_nanos() / interval.as_nanos().max(1);
                    let due = u32::try_from(due).unwrap_or(u32::MAX);
                    wake += interval * due;
                    self.push(client, due as usize).await?;
                }
                changed = orders.changed() => {
                    let now = *orders.borrow_and_update();
                    if changed.is_err() || now.phase == Phase::End {
                        return Ok(());
                    }
                    if phase != Phase::Push && now.phase == Phase::Push {
                        // Spreads the clients over the interval.
                        wake = Instant::now() + interval.mul_f64(self.rng.f64());
                    }
                    if audits != now.audits && (self.number / 2 + now.audits).is_multiple_of(self.turn) {
                        self.audit(client).await?;
                    }
                    (phase, audits) = (now.phase, now.audits);
                }
            }
            if phase == Phase::Settle
                && self
                    .members
                    .iter()
                    .all(|member| member.is_joined() && member.unanswered() == 0)
            {
                if has_compared {
                    return Ok(());
                }
                has_compared = true;
                self.audit(client).await?;
            }
        }
    }

    /// Joins all topics that are not joined.
    async fn join(&mut self, client: &mut Client) -> Result<(), ClientError> {
        for member in self.members.iter_mut().filter(|member| member.is_outside()) {
            let params = json!({ "client": self.number + 1, "last": member.last() });
            let msg_ref = client.start_join(&member.topic.name, params).await?;
            member.joining(number(&msg_ref));
        }
        Ok(())
    }

    /// Pushes `put` events to one of its topics, unless the server cannot keep up.
    async fn push(&mut self, client: &mut Client, count: usize) -> Result<(), ClientError> {
        let at = self.rng.usize(..self.members.len());
        let member = &mut self.members[at];
        if !member.is_joined() || self.tally.in_flight.get() > self.plan.most_in_flight() {
            return Ok(());
        }
        let puts: Vec<(u32, bool, Value)> = (0..count.min(MOST_AT_ONCE))
            .map(|_| {
                let number = member.next_number();
                // Two of three events of each client, and also of all clients at any time.
                let later = !(number as usize + self.number).is_multiple_of(3);
                let later_ms = later.then(|| self.rng.u64(self.plan.later_ms()));
                (number, later, json!({ "n": number, "later_ms": later_ms }))
            })
            .collect();
        let payloads = puts.iter().map(|(_, _, payload)| payload.clone());
        let refs = client.push_all(&member.topic.name, "put", payloads).await?;
        for ((put, later, _), msg_ref) in puts.into_iter().zip(refs) {
            member.pushed(number(&msg_ref), put, later);
        }
        Ok(())
    }

    /// Asks for the states of all topics, to compare them.
    async fn audit(&mut self, client: &mut Client) -> Result<(), ClientError> {
        for member in self.members.iter_mut().filter(|member| member.is_joined()) {
            let msg_ref = client.push(&member.topic.name, "audit", json!({})).await?;
            member.audit(number(&msg_ref));
        }
        Ok(())
    }

    fn receive(&mut self, message: Message) {
        let Some(member) = self.by_topic.get(&message.topic).map(|at| &mut self.members[*at]) else {
            self.tally.find(|| format!("message for another client: {message:?}"));
            return self.tally.doubled.increment();
        };
        let Payload::Json(payload) = message.payload else {
            return;
        };
        match (message.status, message.msg_ref) {
            (Some(status), Some(msg_ref)) => member.reply(number(&msg_ref), &status, payload),
            _ => member.event(&message.event, payload),
        }
    }
}

/// The number of a `ref`: the client counts them.
fn number(msg_ref: &str) -> u64 {
    msg_ref.parse().unwrap_or_default()
}
