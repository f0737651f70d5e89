//! Kills a server again and again while clients use topics that outlive it, and certifies what is there after each kill.
//!
//! Clients put numbered entries into topics, and note the numbers that they are told. The server is killed at a random moment, sometimes
//! while it starts. With `durability = "commit"`, the next one must know every entry that a client was told of, once and in its place;
//! with `"checkpoint"`, all but those of the last moment.

mod book;
mod clients;
mod report;

use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde::Deserialize as _;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

pub(super) use self::report::Kills;

use self::clients::{KEEP, Topic};
use self::report::Kept;
use super::libraries::{Libraries, PLUGIN, Variant};
use super::server::{PROBATION, Server, Setup};
use super::topic::TopicState;
use super::{OUTCOME, TortureError};
use crate::client::{Client, ClientError, Options, Transport};
use crate::numbers::{Percentiles, grouped, ms};

/// How many clients put entries.
const CLIENTS: u32 = 16;
/// How many topics there are.
const TOPICS: usize = 20;
/// How far stored state may be behind, with `checkpoint`.
const CHECKPOINT_MS: u64 = 200;
/// The time between two ticks of a topic. Sleeping topics wake for them.
const TICK_MS: u64 = 500;
/// When a server is killed, after its clients have begun.
const KILLED_MS: std::ops::Range<u64> = 0..600;
/// One of so many servers is killed while it starts.
const WHILE_STARTING: u8 = 8;
/// How long clients may take to notice that their server is gone.
const ENDING: Duration = Duration::from_secs(10);

/// Runs the part. Calls `progress` after each kill.
pub(super) async fn run(
    kills: u64,
    seed: u64,
    libraries: &Libraries,
    mut progress: impl FnMut(&Kills),
) -> Result<Kills, TortureError> {
    let start = Instant::now();
    let mut all = Kills {
        seed,
        clients: CLIENTS,
        topics: TOPICS,
        checkpoint_ms: CHECKPOINT_MS,
        ..Kills::default()
    };
    // There is more to say of `commit`.
    let few = kills.div_ceil(4);
    for (commits, until) in [(false, few), (true, kills.max(few + 1))] {
        let library = libraries.bytes(Variant::V1, 0);
        let mut server = Server::start(&setup(commits), &library).await?;
        let mut killing = Killing::new(commits, seed, until, server.folder(), all);
        while killing.kills.kills < until {
            killing.load(server).await;
            progress(&killing.kills);
            server = killing.back().await?;
        }
        server.stop();
        all = killing.done();
    }
    all.seconds = start.elapsed().as_secs_f64();
    Ok(all.judged())
}

/// How far a run is, in one line.
pub(super) fn line(all: u64, kills: &Kills) -> String {
    let acknowledged = grouped(kills.commit.acknowledged + kills.checkpoint.acknowledged);
    let (kill, lost) = (kills.kills, kills.commit.lost);
    format!("kill {kill} of {all}: {acknowledged} acknowledged, {lost} of `commit` lost")
}

/// A server whose topics have one of the two durabilities.
fn setup(commits: bool) -> Setup {
    let durability = if commits { "commit" } else { "checkpoint" };
    Setup {
        shards: 2,
        clients: CLIENTS as usize + 1,
        joins: TOPICS,
        retire: Duration::from_secs(1),
        probation: PROBATION,
        settings: format!("{{ keep = {KEEP}, tick_ms = {TICK_MS} }}"),
        more: format!("durability = \"{durability}\"\ncheckpoint_ms = {CHECKPOINT_MS}\nlinger_ms = 10\n"),
    }
}

/// Kills servers, and collects what that shows.
struct Killing {
    commits: bool,
    /// How many kills there will have been at the end.
    until: u64,
    random: Rng,
    topics: Arc<Vec<Topic>>,
    kills: Kills,
    /// The folder of all servers.
    folder: Arc<TempDir>,
    /// When the last one was killed.
    killed: Instant,
    listening: Vec<Duration>,
    first_join: Vec<Duration>,
    all_joins: Vec<Duration>,
}

impl Killing {
    fn new(commits: bool, seed: u64, until: u64, folder: Arc<TempDir>, kills: Kills) -> Self {
        Self {
            commits,
            until,
            random: Rng::with_seed(seed),
            topics: Arc::new(
                (0..TOPICS)
                    .map(|number| Topic::new(format!("{PLUGIN}:{number}")))
                    .collect(),
            ),
            kills,
            folder,
            killed: Instant::now(),
            listening: Vec::new(),
            first_join: Vec::new(),
            all_joins: Vec::new(),
        }
    }

    /// Has clients put entries, and kills the server meanwhile.
    async fn load(&mut self, server: Server) {
        let mut clients = JoinSet::new();
        for number in 1..=CLIENTS {
            let (topics, random) = (Arc::clone(&self.topics), Rng::with_seed(self.random.u64(..)));
            clients.spawn(clients::run(number, options(&server), topics, random));
        }
        let moment = Duration::from_millis(self.random.u64(KILLED_MS));
        let ended = tokio::time::timeout(moment, clients.join_next()).await;
        if let Ok(Some(ended)) = ended {
            let why = ended.unwrap_or_else(|error| error.to_string());
            self.kills
                .find(format!("a client ended before kill {}: {why}", self.kills.kills + 1));
        }
        self.kill(server);
        // What has arrived by then was told.
        let _ = tokio::time::timeout(ENDING, async { while clients.join_next().await.is_some() {} }).await;
    }

    fn kill(&mut self, server: Server) {
        self.killed = Instant::now();
        server.kill();
        self.kills.kills += 1;
    }

    /// Starts the next server, and compares all topics with what clients know.
    async fn back(&mut self) -> Result<Server, TortureError> {
        if self.kills.kills + 1 < self.until && self.random.u8(..WHILE_STARTING) == 0 {
            let usual = self.listening.last().copied().unwrap_or_default();
            let moment = usual.mul_f64(self.random.f64());
            // A server that is not through by then is killed.
            drop(tokio::time::timeout(moment, Server::again(Arc::clone(&self.folder))).await);
            self.kills.kills += 1;
            self.kills.while_starting += 1;
        }
        let start = Instant::now();
        let server = Server::again(Arc::clone(&self.folder)).await?;
        self.listening.push(start.elapsed());
        self.look(&server, start).await?;
        Ok(server)
    }

    async fn look(&mut self, server: &Server, start: Instant) -> Result<(), ClientError> {
        let mut client = Client::connect(&options(server)).await?;
        let topics = Arc::clone(&self.topics);
        let mut refs = Vec::new();
        for topic in &*topics {
            refs.push(client.start_join(&topic.name, json!({ "client": 0 })).await?);
        }
        let slowest = topics.iter().map(|topic| topic.take_slowest(self.killed)).max();
        let allowed = Duration::from_millis(CHECKPOINT_MS) + slowest.unwrap_or_default();
        for (at, (topic, msg_ref)) in topics.iter().zip(refs).enumerate() {
            let joined = client.reply(&msg_ref).await?;
            if at == 0 {
                self.first_join.push(start.elapsed());
            }
            let found = { joined.json() }.and_then(|found| TopicState::deserialize(found).ok());
            match found {
                Some(found) if joined.status == "ok" => self.compare(topic, found, allowed),
                _ => self
                    .kills
                    .find(format!("{}: no join: {:?}", topic.name, joined.response)),
            }
        }
        self.all_joins.push(start.elapsed());
        Ok(())
    }

    fn compare(&mut self, topic: &Topic, found: TopicState, allowed: Duration) {
        let verdict = topic.with(|book| book.compare(found, self.killed));
        self.kept().add(verdict, allowed);
        if verdict.is_wrong(self.commits, allowed) {
            let (kills, name) = (self.kills.kills, &topic.name);
            let finding = format!("kill {kills}: {name}: {verdict:?}, {allowed:?} allowed");
            self.kills.find(finding);
        }
    }

    fn kept(&mut self) -> &mut Kept {
        match self.commits {
            true => &mut self.kills.commit,
            false => &mut self.kills.checkpoint,
        }
    }

    fn done(mut self) -> Kills {
        let answers = self.topics.iter().flat_map(Topic::answers_ms).collect();
        self.kept().answers = Percentiles::of(answers);
        let percentiles = |times: &[Duration]| Percentiles::of(times.iter().copied().map(ms).collect());
        self.kept().listening = percentiles(&self.listening);
        self.kept().first_join = percentiles(&self.first_join);
        self.kept().all_joins = percentiles(&self.all_joins);
        self.kills
    }
}

fn options(server: &Server) -> Options {
    Options {
        deadline: OUTCOME,
        ..Options::new(server.address, Transport::WebSocket)
    }
}
