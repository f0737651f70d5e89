//! Questions between nodes: each is asked of one node, and answered or not. Nothing depends on their order.
//!
//! A question goes to the subject of a node, `bennu.CLUSTER.ask.RUN`, where `RUN` is the number of that run of the node in 16
//! digits; its answer comes to `bennu.CLUSTER.told.RUN.NUMBER` of the one who asked. Both are cut into parts that the broker carries
//! ([`part`]). If nobody listens there, the broker says so at once. What a question means, the layers above know ([`Answers`]).
//!
//! They have a connection of their own, so that a large answer keeps no link waiting, and a thread of their own, on which each
//! question is a task ([`asking`], [`answering`]): a slow one holds up no other.

mod answering;
mod asking;
mod part;

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{interval, timeout};

use super::answers::{Answers, NoAnswer};
use super::broker::{Broker, ClusterError};
use super::member::Shared;
use super::node::NodeId;
use crate::config::Cluster;
use crate::runtime::threads;
use answering::Partial;
use part::{Part, cut};

/// The name of the thread.
const THREAD: &str = "cluster.asks";
/// The most bytes in one message of the broker. Larger ones would keep others waiting.
const MOST_PART: usize = 256 * 1_024;
/// What the broker adds to a message, at most: the subjects and its own words.
const OVERHEAD: usize = 1_024;
/// How often questions are looked for of which no more parts come.
const TICK: Duration = Duration::from_secs(1);
/// How long the last answers may take to leave.
const GRACE: Duration = Duration::from_secs(1);

/// The questions of this node, and those of others.
#[derive(Debug)]
pub(super) struct Asks {
    me: NodeId,
    config: Cluster,
    client: Client,
    shared: Arc<Shared>,
    answers: Arc<dyn Answers>,
    /// Where its tasks run.
    handle: Handle,
    /// Who waits for parts of an answer, by the number of the question.
    waiting: Mutex<HashMap<u64, mpsc::UnboundedSender<Part>>>,
    /// The number of the last question.
    last: AtomicU64,
    /// How many bytes of questions and answers are held.
    bytes: AtomicUsize,
    /// Questions of others that are being answered, by who has asked.
    at_work: Mutex<HashMap<Asker, AbortHandle>>,
    ending: Notify,
}

/// Who has asked: the run of a node, and the number of its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Asker {
    run: u64,
    number: u64,
}

impl Asker {
    /// Reads the subject where an answer is wanted. `None`: no node of the cluster listens there.
    fn read(cluster: &str, told: &str) -> Option<Self> {
        let (node, number) = told.rsplit_once('.')?;
        let (_, run) = node.rsplit_once('.')?;
        let run = u64::from_str_radix(run, 16).ok()?;
        let number = number.parse().ok()?;
        (node == subject(cluster, "told", run)).then_some(Self { run, number })
    }
}

/// Bytes that count as held, until it is dropped.
#[derive(Debug)]
struct Held {
    asks: Arc<Asks>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.asks.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Asks {
    /// Connects, and listens from then on.
    ///
    /// # Errors
    ///
    /// If the broker cannot be reached.
    pub(super) async fn start(
        broker: Broker,
        me: NodeId,
        config: Cluster,
        shared: Arc<Shared>,
        answers: Arc<dyn Answers>,
    ) -> Result<Arc<Self>, ClusterError> {
        let (done, started) = oneshot::channel();
        let body = move || -> io::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let open = async {
                    let client = broker.connect(format!("bennu asks {me}"), |_| {}).await?;
                    let own = |what: &str| subject(&config.name, what, me.run());
                    let questions = client.subscribe(own("ask")).await.map_err(io::Error::other)?;
                    let told = client.subscribe(own("told") + ".*").await.map_err(io::Error::other)?;
                    // Nobody finds this node silent who sees it.
                    client.flush().await.map_err(io::Error::other)?;
                    Ok::<_, ClusterError>((client, questions, told))
                };
                let (client, questions, told) = match open.await {
                    Ok(opened) => opened,
                    Err(error) => return drop(done.send(Err(error))),
                };
                let asks = Arc::new(Self {
                    me,
                    config,
                    client,
                    shared,
                    answers,
                    handle: Handle::current(),
                    waiting: Mutex::default(),
                    last: AtomicU64::new(0),
                    bytes: AtomicUsize::new(0),
                    at_work: Mutex::default(),
                    ending: Notify::new(),
                });
                let _ = done.send(Ok(Arc::clone(&asks)));
                asks.run(questions, told).await;
            });
            Ok(())
        };
        threads::try_spawn(THREAD, body)?;
        let ended = || ClusterError::System(io::Error::other("the thread of questions has ended"));
        started.await.map_err(|_| ended())?
    }

    /// How many questions of this node wait, and how many of others are being answered.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.waiting().len(), self.at_work().len())
    }

    /// Ends the thread. Whoever waits learns that there is no answer.
    pub(super) fn end(&self) {
        self.ending.notify_one();
    }

    async fn run(self: Arc<Self>, mut questions: Subscriber, mut told: Subscriber) {
        let mut partial: HashMap<Asker, Partial> = HashMap::new();
        let mut tick = interval(TICK);
        loop {
            // A subscription ends only with the connection, and that only with the thread.
            tokio::select! {
                Some(message) = questions.next() => self.take_question(message, &mut partial),
                Some(message) = told.next() => self.take_told(&message),
                _ = tick.tick() => self.forget_old(&mut partial),
                () = self.ending.notified() => break,
                else => break,
            }
        }
        let _ = timeout(GRACE, self.client.flush()).await;
    }

    /// Sends bytes, part by part.
    ///
    /// # Errors
    ///
    /// If they are too many, or the broker cannot be reached.
    async fn send(&self, to: &Subject, reply: Option<&Subject>, whole: &Bytes) -> Result<(), NoAnswer> {
        if whole.len() > self.config.max_item_bytes {
            return Err(NoAnswer::TooLarge);
        }
        let most = self.client.max_payload().saturating_sub(OVERHEAD + Part::HEAD);
        for part in cut(whole, most.clamp(OVERHEAD, MOST_PART)) {
            self.publish(to, reply, &part).await?;
        }
        Ok(())
    }

    async fn publish(&self, to: &Subject, reply: Option<&Subject>, part: &Part) -> Result<(), NoAnswer> {
        // What waited until the broker is there again would surprise whoever gets it.
        if self.client.connection_state() != State::Connected {
            return Err(NoAnswer::NoBroker);
        }
        let published = match reply {
            Some(reply) => {
                self.client
                    .publish_with_reply(to.clone(), reply.clone(), part.write())
                    .await
            }
            None => self.client.publish(to.clone(), part.write()).await,
        };
        published.map_err(|_| NoAnswer::NoBroker)
    }

    /// Holds so many bytes more. `None`: too many are held.
    fn hold(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let held = Held {
            asks: Arc::clone(self),
            bytes,
        };
        (before + bytes <= self.config.max_queue_bytes).then_some(held)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, mpsc::UnboundedSender<Part>>> {
        self.waiting.lock().expect("no holder panics")
    }

    fn at_work(&self) -> MutexGuard<'_, HashMap<Asker, AbortHandle>> {
        self.at_work.lock().expect("no holder panics")
    }

    /// Where somebody is told the answer.
    fn told(&self, asker: Asker) -> Subject {
        let Asker { run, number } = asker;
        format!("{}.{number}", subject(&self.config.name, "told", run)).into()
    }

    /// Counts a message on the subjects of this node that no node of this cluster can have sent.
    fn foreign(&self) {
        self.shared.counts.foreign.inc();
    }
}

/// Where a run of a node is asked, or told.
fn subject(cluster: &str, what: &str, run: u64) -> String {
    format!("bennu.{cluster}.{what}.{run:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_go_to_nodes_of_the_cluster_and_nowhere_else() {
        let told = format!("{}.12", subject("chat", "told", 7));
        assert_eq!(told, "bennu.chat.told.0000000000000007.12");
        assert_eq!(Asker::read("chat", &told), Some(Asker { run: 7, number: 12 }));
        for other in [
            "_INBOX.abc.1",
            "bennu.chat.told.0000000000000007",
            "bennu.chat.told.0000000000000007.",
            "bennu.chat.told.0000000000000007.x",
            "bennu.chat.told.7.12",
            "bennu.chat.ask.0000000000000007.12",
            "bennu.other.told.0000000000000007.12",
        ] {
            assert_eq!(Asker::read("chat", other), None, "{other}");
        }
    }
}
