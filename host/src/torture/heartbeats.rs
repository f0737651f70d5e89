//! How long a heartbeat waits while very many topics move.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;

use super::certificate::quantile;
use super::libraries::{Libraries, PLUGIN, Variant};
use super::plot::{Axis, Chart};
use super::said::Said;
use super::server::{PROBATION, Server, Setup};
use super::{OUTCOME, TortureError};
use crate::client::{Client, ClientError, Options, Transport};

/// Clients that share the topics between them.
const MEMBERS: usize = 100;
/// Topics of each.
const TOPICS: usize = 100;
/// Clients that have no topic, and send heartbeats one after the other.
const HEARTS: usize = 20;
/// Between two of them.
const REST: Duration = Duration::from_millis(5);
/// Before the reload, and after it.
const QUIET: Duration = Duration::from_secs(2);
/// What the slowest is to stay below.
pub const AIM_MS: f64 = 100.0;

/// Heartbeats before and while topics moved.
#[derive(Clone, Debug, Serialize)]
pub struct Heartbeats {
    /// Topics that moved.
    pub topics: usize,
    /// How long all of that took, in milliseconds.
    pub swap_ms: f64,
    /// Before it.
    pub idle: Latency,
    /// Meanwhile.
    pub moving: Latency,
    /// When each was sent, in milliseconds since topics began to move, and how long it took.
    #[serde(skip)]
    pub beats: Vec<(f64, f64)>,
}

/// How long heartbeats took, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// How many there were.
    pub count: usize,
    /// Half of them took no longer.
    pub p50_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

/// Measures it once.
///
/// # Errors
///
/// If the server or a client does not do what it should.
pub async fn run(libraries: &Libraries) -> Result<Heartbeats, TortureError> {
    let setup = Setup {
        shards: 2,
        clients: MEMBERS + HEARTS,
        joins: TOPICS,
        retire: Duration::from_millis(100),
        probation: PROBATION,
        settings: "{ tick_ms = 0 }".to_owned(),
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
        match server.said(OUTCOME).await? {
            Said::Moved { .. } => topics += 1,
            Said::InService { swap, .. } => break swap,
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
    Ok(told(topics, swap, start, beats))
}

async fn joined(options: Options, number: usize) -> Result<Client, ClientError> {
    let mut client = Client::connect(&options).await?;
    for topic in 0..TOPICS {
        let topic = format!("{PLUGIN}:{number}-{topic}");
        client.join(&topic, json!({ "client": number + 1 })).await?;
    }
    Ok(client)
}

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

fn told(topics: usize, swap: Duration, start: Instant, beats: Vec<(Instant, Duration)>) -> Heartbeats {
    let since = |sent: Instant| match sent.checked_duration_since(start) {
        Some(later) => ms(later),
        None => -ms(start.duration_since(sent)),
    };
    let mut beats: Vec<(f64, f64)> = beats.into_iter().map(|(sent, took)| (since(sent), ms(took))).collect();
    beats.sort_by(|a, b| a.0.total_cmp(&b.0));
    let latency = |wanted: &dyn Fn(f64, f64) -> bool| {
        let wanted = beats.iter().filter(|(sent, took)| wanted(*sent, *took));
        Latency::of(wanted.map(|(_, took)| *took).collect())
    };
    let swap_ms = ms(swap);
    Heartbeats {
        topics,
        swap_ms,
        idle: latency(&|sent, took| sent + took < 0.0),
        moving: latency(&|sent, took| sent + took >= 0.0 && sent <= swap_ms),
        beats,
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

impl Latency {
    fn of(mut took: Vec<f64>) -> Self {
        took.sort_by(f64::total_cmp);
        let at = |part| quantile(&took, part).unwrap_or_default();
        Self {
            count: took.len(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
        }
    }
}

impl Heartbeats {
    /// Each heartbeat, from a second before topics move to a second after.
    #[must_use]
    pub fn chart(&self) -> Chart {
        let near = |sent: f64| sent > -1_000.0 && sent < self.swap_ms + 1_000.0;
        let points = self.beats.iter().copied().filter(|(sent, _)| near(*sent)).collect();
        Chart {
            title: format!(
                "Heartbeats while {} topics move, in {:.0} ms",
                self.topics, self.swap_ms
            ),
            x: Axis {
                label: "sent, ms since topics began to move".to_owned(),
                is_logarithmic: false,
            },
            y: Axis {
                label: "ms".to_owned(),
                is_logarithmic: true,
            },
            lines: vec![("answered after".to_owned(), points)],
            aim: Some((AIM_MS, "the aim".to_owned())),
        }
    }
}
