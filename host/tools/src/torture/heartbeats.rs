//! Measures the latency of heartbeats while many topics move.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;

use super::libraries::{Libraries, PLUGIN, Variant};
use super::log::LogEvent;
use super::server::{PROBATION, Server, Setup};
use super::{OUTCOME, TortureError};
use crate::client::{Client, ClientError, Options, Transport};
use crate::numbers::{Percentiles, ms};
use crate::plot::{Axis, Chart};

/// The number of clients with topics.
const MEMBERS: usize = 100;
/// The number of topics that each of them joins.
const TOPICS: usize = 100;
/// The number of clients without topics, which send heartbeats one after the other.
const HEARTS: usize = 20;
/// Between two heartbeats of a client.
const REST: Duration = Duration::from_millis(5);
/// How long to measure before and after the reload.
const QUIET: Duration = Duration::from_secs(2);
/// The aim for the slowest heartbeat.
pub(super) const AIM_MS: f64 = 100.0;

/// Heartbeats before and during a reload.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Heartbeats {
    /// How many topics moved.
    pub(super) topics: usize,
    /// How long it took to move all of them, in milliseconds.
    pub(super) swap_ms: f64,
    /// Before the reload.
    pub(super) idle: Latency,
    /// While topics moved.
    pub(super) moving: Latency,
    /// When each was sent, in milliseconds since the first topic moved, and its latency in milliseconds.
    #[serde(skip)]
    pub(super) beats: Vec<(f64, f64)>,
}

/// The latency of some heartbeats.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Latency {
    /// How many there were.
    pub(super) count: usize,
    #[serde(flatten)]
    pub(super) latency: Percentiles,
}

/// Runs the part.
pub(super) async fn run(libraries: &Libraries) -> Result<Heartbeats, TortureError> {
    let setup = Setup {
        shards: 2,
        clients: MEMBERS + HEARTS,
        joins: TOPICS,
        retire: Duration::from_millis(100),
        probation: PROBATION,
        settings: "{ tick_ms = 0 }".to_owned(),
        more: String::new(),
    };
    let mut server = Server::start(&setup, &libraries.bytes(Variant::V1, 0)).await?;
    let options = Options {
        deadline: OUTCOME,
        ..Options::new(server.address, Transport::WebSocket)
    };
    let mut joining = JoinSet::new();
    for number in 0..MEMBERS {
        joining.spawn(joined(options.clone(), number));
    }
    let clients: Vec<Client> = joining.join_all().await.into_iter().collect::<Result<_, _>>()?;

    let over = Arc::new(AtomicBool::new(false));
    let mut hearts = JoinSet::new();
    for _ in 0..HEARTS {
        hearts.spawn(beat(options.clone(), Arc::clone(&over)));
    }
    tokio::time::sleep(QUIET).await;
    server.replace(&libraries.bytes(Variant::V2, 1))?;
    let mut topics = 0;
    let swap = loop {
        match server.next_event(OUTCOME).await? {
            LogEvent::Moved { .. } => topics += 1,
            LogEvent::InService { swap, .. } => break swap,
            _ => {}
        }
    };
    let end = Instant::now();
    tokio::time::sleep(QUIET).await;
    over.store(true, Ordering::Relaxed);
    let mut beats = Vec::new();
    for heart in hearts.join_all().await {
        beats.extend(heart?);
    }
    drop(clients);
    server.stop();
    let start = end.checked_sub(swap).unwrap_or(end);
    Ok(Heartbeats::new(topics, swap, start, beats))
}

/// A client that has joined its topics.
async fn joined(options: Options, number: usize) -> Result<Client, ClientError> {
    let mut client = Client::connect(&options).await?;
    for topic in 0..TOPICS {
        let topic = format!("{PLUGIN}:{number}-{topic}");
        client.join(&topic, json!({ "client": number + 1 })).await?;
    }
    Ok(client)
}

/// Sends heartbeats until the end. Returns when each was sent, and its latency.
async fn beat(options: Options, over: Arc<AtomicBool>) -> Result<Vec<(Instant, Duration)>, ClientError> {
    let mut client = Client::connect(&options).await?;
    let mut beats = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let sent = Instant::now();
        client.heartbeat().await?;
        beats.push((sent, sent.elapsed()));
        tokio::time::sleep(REST).await;
    }
    Ok(beats)
}

impl Heartbeats {
    /// `start` is when the first topic moved, and `swap` how long the moves took.
    fn new(topics: usize, swap: Duration, start: Instant, beats: Vec<(Instant, Duration)>) -> Self {
        let since = |sent: Instant| match sent.checked_duration_since(start) {
            Some(later) => ms(later),
            None => -ms(start.duration_since(sent)),
        };
        let mut beats: Vec<(f64, f64)> = beats.into_iter().map(|(sent, took)| (since(sent), ms(took))).collect();
        beats.sort_by(|a, b| a.0.total_cmp(&b.0));
        let latency = |wanted: &dyn Fn(f64, f64) -> bool| {
            let wanted = beats.iter().filter(|(sent, took)| wanted(*sent, *took));
            let took: Vec<f64> = wanted.map(|(_, took)| *took).collect();
            Latency {
                count: took.len(),
                latency: Percentiles::of(took),
            }
        };
        let swap_ms = ms(swap);
        Self {
            topics,
            swap_ms,
            idle: latency(&|sent, took| sent + took < 0.0),
            moving: latency(&|sent, took| sent + took >= 0.0 && sent <= swap_ms),
            beats,
        }
    }

    /// All heartbeats from a second before the moves to a second after.
    pub(super) fn chart(&self) -> Chart {
        let near = |sent: f64| sent > -1_000.0 && sent < self.swap_ms + 1_000.0;
        let points = self.beats.iter().copied().filter(|(sent, _)| near(*sent)).collect();
        Chart {
            title: format!(
                "Heartbeats while {} topics move within {:.0} ms",
                self.topics, self.swap_ms
            ),
            x: Axis::linear("sent, ms since the first topic moved"),
            y: Axis::logarithmic("ms"),
            lines: vec![("latency".to_owned(), points)],
            aim: Some((AIM_MS, "aim".to_owned())),
        }
    }
}
