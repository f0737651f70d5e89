//! The clients of the kills: they go from topic to topic, put numbered entries, and note what they are told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde::Deserialize;
use serde_json::{Value, json};

use super::book::Book;
use crate::client::{Client, ClientError, Message, Options, Payload};
use crate::numbers::ms;
use crate::terminal::in_one_line;
use crate::torture::topic::entry;

/// How many entries of a topic the plugin shows. Clients put no more into one topic between two looks.
pub(super) const KEEP: usize = 300;
/// How many events a client has in flight at most.
const AT_ONCE: usize = 4;
/// How many rounds of events a client stays in a topic at most.
const ROUNDS: usize = 5;

/// A topic, with what clients know of it.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: String,
    book: Mutex<Book>,
    times: Mutex<Times>,
}

/// How long answers took.
#[derive(Debug, Default)]
struct Times {
    /// From each event to its answer, in milliseconds.
    answers_ms: Vec<f64>,
    /// The events that have no answer yet.
    waiting: HashMap<(u32, String), Instant>,
    slowest: Duration,
}

impl Topic {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            book: Mutex::default(),
            times: Mutex::default(),
        }
    }

    /// What clients know of it.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Book) -> T) -> T {
        work(&mut self.book.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long each answer took, in milliseconds.
    pub(super) fn answers_ms(&self) -> Vec<f64> {
        self.times().answers_ms.clone()
    }

    /// How long the slowest answer took since the last call, also if the kill came first.
    pub(super) fn take_slowest(&self, killed: Instant) -> Duration {
        let mut times = self.times();
        let waited = times
            .waiting
            .drain()
            .map(|(_, since)| killed.saturating_duration_since(since));
        let waited = waited.max().unwrap_or_default();
        std::mem::take(&mut times.slowest).max(waited)
    }
}

/// The reply to a `put`, and its broadcast: the number of the entry.
#[derive(Deserialize)]
struct Put {
    s: u64,
    n: u32,
    #[serde(default)]
    c: u32,
}

/// Puts entries until the server is gone. Returns what has ended it.
pub(super) async fn run(number: u32, options: Options, topics: Arc<Vec<Topic>>, mut random: Rng) -> String {
    match visits(number, &options, &topics, &mut random).await {
        Ok(refused) => refused,
        Err(error) => in_one_line(&error),
    }
}

/// Goes from topic to topic. Returns why one did not let it in.
async fn visits(number: u32, options: &Options, topics: &[Topic], random: &mut Rng) -> Result<String, ClientError> {
    let mut client = Client::connect(options).await?;
    loop {
        let topic = &topics[random.usize(..topics.len())];
        let last = topic.with(|book| book.last(number));
        let params = json!({ "client": number, "last": last });
        let joined = client.join(&topic.name, params).await?;
        if joined.status != "ok" {
            return Ok(format!("{} refuses a join: {:?}", topic.name, joined.response));
        }
        for _ in 0..random.usize(1..=ROUNDS) {
            if topic.with(|book| book.puts()) + AT_ONCE > KEEP {
                // Enough for this topic.
                tokio::time::sleep(Duration::from_millis(1)).await;
                break;
            }
            put(number, &mut client, topic, random.usize(1..=AT_ONCE)).await?;
        }
        client.leave(&topic.name).await?;
        { client.take_kept().into_iter() }.for_each(|message| note(number, topic, message));
    }
}

/// Puts so many entries at once, and waits for the answers.
async fn put(number: u32, client: &mut Client, topic: &Topic, count: usize) -> Result<(), ClientError> {
    let puts: Vec<Value> = topic.with(|book| {
        let next = |_| {
            let next = book.next(number);
            book.put(entry(number, next));
            json!({ "n": next })
        };
        (0..count).map(next).collect()
    });
    let refs = client.push_all(&topic.name, "put", puts).await?;
    let now = Instant::now();
    let waiting = refs.into_iter().map(|msg_ref| ((number, msg_ref), now));
    topic.times().waiting.extend(waiting);
    for _ in 0..count {
        loop {
            let message = client.next().await?;
            let is_answer = message.status.is_some();
            note(number, topic, message);
            if is_answer {
                break;
            }
        }
    }
    Ok(())
}

/// Notes what a client is told.
fn note(number: u32, topic: &Topic, message: Message) {
    let Payload::Json(payload) = message.payload else {
        return;
    };
    if message.topic != topic.name {
        return;
    }
    if let Some(msg_ref) = message.msg_ref {
        let mut times = topic.times();
        if let Some(since) = times.waiting.remove(&(number, msg_ref)) {
            times.slowest = times.slowest.max(since.elapsed());
            times.answers_ms.push(ms(since.elapsed()));
        }
    }
    let put = |payload| serde_json::from_value::<Put>(payload).ok();
    match (message.status.as_deref(), &*message.event) {
        (Some("ok"), _) => {
            if let Some(Put { s, n, .. }) = put(payload) {
                topic.with(|book| book.told(s, entry(number, n)));
            }
        }
        (None, "put") => {
            if let Some(Put { s, n, c }) = put(payload) {
                topic.with(|book| book.told(s, entry(c, n)));
            }
        }
        (None, "tick") => {
            if let Some(tick) = payload["t"].as_u64() {
                topic.with(|book| book.ticked(tick));
            }
        }
        _ => {}
    }
}
