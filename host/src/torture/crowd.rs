//! The clients: each connects, joins its topics, puts numbers, and checks all that comes.
//!
//! They share a few threads, none of which is the one that replaces libraries.

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
use super::plan::Plan;
use super::seat::Seat;
use super::tally::Tally;
use super::topic::Topic;
use crate::client::{Client, ClientError, Message, Options, Payload, Transport};

/// Clients of one thread that connect at a time.
const CONNECTING: usize = 16;
/// Numbers that one client puts at once, when it is late.
const MOST_AT_ONCE: usize = 20;
/// How long a client waits for the server to take or send something.
const PATIENCE: Duration = Duration::from_secs(60);

/// What clients are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Connect and join.
    Join,
    /// Put numbers.
    Put,
    /// Wait for what is owed, compare, and go.
    Settle,
    /// Go.
    Over,
}

#[derive(Clone, Copy, Debug)]
struct Orders {
    phase: Phase,
    /// Goes up when some of them are to compare the states.
    audits: usize,
}

/// All clients.
#[derive(Debug)]
pub struct Crowd {
    orders: watch::Sender<Orders>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// Starts them.
    ///
    /// # Errors
    ///
    /// If the system gives no threads.
    pub fn start(plan: &Plan, address: SocketAddr, tally: &Arc<Tally>) -> io::Result<Self> {
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
            let guests: Vec<Guest> = (index..plan.clients)
                .step_by(count)
                .map(|number| Guest::new(number, plan, &topics, tally))
                .collect();
            let (orders, tally) = (orders.subscribe(), Arc::clone(tally));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let body = move || runtime.block_on(run_all(guests, address, orders, tally));
            threads.push(
                std::thread::Builder::new()
                    .name(format!("clients.{index}"))
                    .spawn(body)?,
            );
        }
        Ok(Self { orders, threads })
    }

    /// Says what is to be done from now on.
    pub fn order(&self, phase: Phase) {
        self.orders.send_modify(|orders| orders.phase = phase);
    }

    /// Has one client of each topic compare the state.
    pub fn audit(&self) {
        self.orders.send_modify(|orders| orders.audits += 1);
    }

    /// Whether all have gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }
}

async fn run_all(guests: Vec<Guest>, address: SocketAddr, orders: watch::Receiver<Orders>, tally: Arc<Tally>) {
    let connecting = Arc::new(Semaphore::new(CONNECTING));
    let mut tasks = JoinSet::new();
    for guest in guests {
        let (connecting, orders, tally) = (Arc::clone(&connecting), orders.clone(), Arc::clone(&tally));
        tasks.spawn(async move {
            let name = format!("client {}", guest.number);
            if let Err(error) = guest.run(address, &connecting, orders).await {
                tally.closed.one();
                tally.find(|| format!("{name}: {}", chain(&error)));
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// One client before it connects.
struct Guest {
    number: usize,
    seats: Vec<Seat>,
    by_topic: HashMap<String, usize>,
    rng: Rng,
    plan: Plan,
    /// Of how many audits it takes one.
    turn: usize,
    tally: Arc<Tally>,
}

impl Guest {
    fn new(number: usize, plan: &Plan, topics: &[Arc<Topic>], tally: &Arc<Tally>) -> Self {
        let id = u32::try_from(number + 1).unwrap_or(u32::MAX);
        let seats: Vec<Seat> = plan
            .topics_of(number)
            .map(|topic| Seat::new(Arc::clone(&topics[topic]), id, Arc::clone(tally)))
            .collect();
        let by_topic = seats.iter().enumerate();
        let by_topic = by_topic.map(|(at, seat)| (seat.topic.name.clone(), at)).collect();
        Self {
            number,
            by_topic,
            rng: Rng::with_seed(plan.seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            turn: (plan.clients * seats.len() / plan.topics).max(1),
            seats,
            plan: plan.clone(),
            tally: Arc::clone(tally),
        }
    }

    /// Does as it is ordered, until it is to go.
    async fn run(
        mut self,
        address: SocketAddr,
        connecting: &Semaphore,
        mut orders: watch::Receiver<Orders>,
    ) -> Result<(), ClientError> {
        let transport = [Transport::WebSocket, Transport::LongPoll][self.number % 2];
        let options = Options {
            deadline: PATIENCE,
            ..Options::new(address, transport)
        };
        let permit = connecting.acquire().await;
        let mut client = Client::connect(&options).await?;
        drop(permit);
        let done = self.attend(&mut client, &mut orders).await;
        self.seats.iter_mut().for_each(Seat::give_up);
        done
    }

    async fn attend(&mut self, client: &mut Client, orders: &mut watch::Receiver<Orders>) -> Result<(), ClientError> {
        let interval = self.plan.interval();
        let mut wake = Instant::now();
        let Orders { mut phase, mut audits } = *orders.borrow_and_update();
        let mut has_compared = false;
        loop {
            self.join(client).await?;
            tokio::select! {
                message = client.next() => match message {
                    Ok(message) => self.receive(message),
                    // Nothing came. Whoever waits for something gives up elsewhere.
                    Err(ClientError::Deadline(_)) => {}
                    Err(error) => return Err(error),
                },
                () = tokio::time::sleep_until(wake), if phase == Phase::Put => {
                    let due = 1 + wake.elapsed().as_nanos() / interval.as_nanos().max(1);
                    let due = u32::try_from(due).unwrap_or(u32::MAX);
                    wake += interval * due;
                    self.put(client, due as usize).await?;
                }
                changed = orders.changed() => {
                    let now = *orders.borrow_and_update();
                    if changed.is_err() || now.phase == Phase::Over {
                        return Ok(());
                    }
                    if phase != Phase::Put && now.phase == Phase::Put {
                        // Not all at the same moment.
                        wake = Instant::now() + interval.mul_f64(self.rng.f64());
                    }
                    if audits != now.audits && (self.number / 2 + now.audits).is_multiple_of(self.turn) {
                        self.audit(client).await?;
                    }
                    (phase, audits) = (now.phase, now.audits);
                }
            }
            if phase == Phase::Settle && self.seats.iter().all(|seat| seat.is_inside() && seat.owed() == 0) {
                if has_compared {
                    return Ok(());
                }
                has_compared = true;
                self.audit(client).await?;
            }
        }
    }

    /// Joins what is not joined.
    async fn join(&mut self, client: &mut Client) -> Result<(), ClientError> {
        for seat in self.seats.iter_mut().filter(|seat| seat.is_outside()) {
            let params = json!({ "client": self.number + 1, "last": seat.last() });
            let msg_ref = client.start_join(&seat.topic.name, params).await?;
            seat.joining(number(&msg_ref));
        }
        Ok(())
    }

    /// Puts some numbers into one topic, unless the server cannot keep up.
    async fn put(&mut self, client: &mut Client, count: usize) -> Result<(), ClientError> {
        let at = self.rng.usize(..self.seats.len());
        let seat = &mut self.seats[at];
        if !seat.is_inside() || self.tally.in_flight.get() > self.plan.most_in_flight() {
            return Ok(());
        }
        let puts: Vec<(u32, bool, Value)> = (0..count.min(MOST_AT_ONCE))
            .map(|_| {
                let number = seat.next_number();
                // Two of three, and of all clients at each moment, too.
                let later = !(number as usize + self.number).is_multiple_of(3);
                let later_ms = later.then(|| self.rng.u64(self.plan.later_ms()));
                (number, later, json!({ "n": number, "later_ms": later_ms }))
            })
            .collect();
        let payloads = puts.iter().map(|(_, _, payload)| payload.clone());
        let refs = client.push_all(&seat.topic.name, "put", payloads).await?;
        for ((put, later, _), msg_ref) in puts.into_iter().zip(refs) {
            seat.put(number(&msg_ref), put, later);
        }
        Ok(())
    }

    async fn audit(&mut self, client: &mut Client) -> Result<(), ClientError> {
        for seat in self.seats.iter_mut().filter(|seat| seat.is_inside()) {
            let msg_ref = client.push(&seat.topic.name, "audit", json!({})).await?;
            seat.audit(number(&msg_ref));
        }
        Ok(())
    }

    fn receive(&mut self, message: Message) {
        let Some(seat) = self.by_topic.get(&message.topic).map(|at| &mut self.seats[*at]) else {
            self.tally.find(|| format!("what is this: {message:?}"));
            return self.tally.doubled.one();
        };
        let Payload::Json(payload) = message.payload else {
            return;
        };
        match (message.status, message.msg_ref) {
            (Some(status), Some(msg_ref)) => seat.reply(number(&msg_ref), &status, payload),
            _ => seat.event(&message.event, payload),
        }
    }
}

/// The client counts its `ref`s.
fn number(msg_ref: &str) -> u64 {
    msg_ref.parse().unwrap_or_default()
}
