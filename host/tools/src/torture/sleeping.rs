//! Measures topics that are stored and not in memory: what many of them cost, and how one wakes.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;

use super::libraries::{Libraries, PLUGIN, Variant};
use super::server::{PROBATION, Server, Setup};
use super::{OUTCOME, TortureError, memory};
use crate::client::{Client, ClientError, Options, Transport};
use crate::numbers::{Percentiles, ms};

/// The number of clients.
const CLIENTS: usize = 20;
/// Entries of a topic: nine bytes each, so its state takes 4 KiB.
const ENTRIES: usize = 455;
/// How many topics a client fills at a time.
const AT_A_TIME: usize = 25;
/// How many topics wake one after the other.
const WAKES: usize = 2_000;
/// How many topics of each client wake at the same time.
const STORM: usize = 500;
/// Between two events of the client that is awake.
const REST: Duration = Duration::from_millis(2);
/// How long topics have to fall asleep.
const QUIET: Duration = Duration::from_secs(3);
/// The aim for a wake, at p99.
pub(super) const AIM_WAKE_MS: f64 = 2.0;
/// The aim for the first client of a server that starts.
pub(super) const AIM_START_MS: f64 = 1_000.0;

/// Sleeping topics, and how they wake.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sleeping {
    /// How many topics there are.
    pub(super) topics: usize,
    /// Memory of a server with no topic, with all asleep, and after the storm with all asleep again, in MiB.
    pub(super) empty_mib: f64,
    pub(super) asleep_mib: f64,
    pub(super) again_mib: f64,
    /// From the start of the server until it listens, and until the first client is in a topic that was asleep.
    pub(super) listening_ms: f64,
    pub(super) first_join_ms: f64,
    /// From a join of a sleeping topic to the reply.
    pub(super) wake: Percentiles,
    /// The same for a topic that is in memory.
    pub(super) awake: Percentiles,
    /// Many joins of sleeping topics at once.
    pub(super) storm: Storm,
}

/// Many joins of sleeping topics at once.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Storm {
    pub(super) joins: usize,
    /// Until the last reply.
    pub(super) all_ms: f64,
    /// The most memory of the server until then.
    pub(super) peak_mib: f64,
    /// Round trips of events of a topic that was awake, meanwhile.
    pub(super) events: Percentiles,
}

/// Runs the part. Calls `progress` with what comes next.
pub(super) async fn run(
    libraries: &Libraries,
    topics: usize,
    mut progress: impl FnMut(&str),
) -> Result<Sleeping, TortureError> {
    let setup = Setup {
        shards: 2,
        clients: CLIENTS + 2,
        joins: WAKES + 1,
        retire: Duration::from_secs(1),
        probation: PROBATION,
        settings: format!("{{ keep = {ENTRIES}, tick_ms = 0 }}"),
        more: "durability = \"checkpoint\"\ncheckpoint_ms = 60_000\nlinger_ms = 10\n".to_owned(),
    };
    progress("fills topics");
    let server = Server::start(&setup, &libraries.bytes(Variant::V1, 0)).await?;
    let empty_mib = mib(memory::resident_kib(&server)?);
    each(&server, topics / CLIENTS, fill).await?;
    let folder = server.folder();
    server.stop();

    progress("starts with all of them asleep");
    let start = Instant::now();
    let server = Server::again(folder).await?;
    let listening_ms = ms(start.elapsed());
    let mut client = Client::connect(&options(&server)).await?;
    client.join(&name(0, 0), json!({ "client": 1 })).await?;
    let first_join_ms = ms(start.elapsed());
    tokio::time::sleep(QUIET).await;
    let asleep_mib = mib(memory::resident_kib(&server)?);

    progress("wakes one after the other");
    let all = topics / CLIENTS;
    let stormed = STORM.min(all / 2);
    let (mut wake, mut awake) = (Vec::new(), Vec::new());
    for at in 0..WAKES.min(CLIENTS * (all - stormed)) {
        // Those of the storm are others.
        let topic = name(at % CLIENTS, stormed + at / CLIENTS);
        for times in [&mut wake, &mut awake] {
            let sent = Instant::now();
            client.join(&topic, json!({ "client": 1 })).await?;
            times.push(ms(sent.elapsed()));
        }
    }

    progress("wakes many at once");
    let storm = storm(&server, &mut client, stormed).await?;
    drop(client);
    tokio::time::sleep(QUIET).await;
    let again_mib = mib(memory::resident_kib(&server)?);
    server.stop();
    Ok(Sleeping {
        topics,
        empty_mib,
        asleep_mib,
        again_mib,
        listening_ms,
        first_join_ms,
        wake: Percentiles::of(wake),
        awake: Percentiles::of(awake),
        storm,
    })
}

/// Joins many sleeping topics at once, while this client uses one that is awake.
async fn storm(server: &Server, client: &mut Client, joins: usize) -> Result<Storm, TortureError> {
    let topic = name(0, 0);
    client.join(&topic, json!({ "client": 1 })).await?;
    let (start, mut events) = (Instant::now(), Vec::new());
    let beside = async {
        loop {
            let sent = Instant::now();
            if let Err(error) = client.call(&topic, "audit", json!({})).await {
                return error;
            }
            events.push(ms(sent.elapsed()));
            tokio::time::sleep(REST).await;
        }
    };
    tokio::select! {
        woken = each(server, joins, wake) => woken?,
        error = beside => return Err(error.into()),
    }
    Ok(Storm {
        joins: joins * CLIENTS,
        all_ms: ms(start.elapsed()),
        peak_mib: mib(memory::peak_kib(server)?),
        events: Percentiles::of(events),
    })
}

/// Has each client do this with so many topics of its own.
async fn each<F>(server: &Server, topics: usize, work: fn(Client, usize, usize) -> F) -> Result<(), TortureError>
where
    F: Future<Output = Result<(), ClientError>> + Send + 'static,
{
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let options = options(server);
        clients.spawn(async move { work(Client::connect(&options).await?, number, topics).await });
    }
    for done in clients.join_all().await {
        done?;
    }
    Ok(())
}

/// Fills topics, and leaves them.
async fn fill(mut client: Client, number: usize, topics: usize) -> Result<(), ClientError> {
    for first in (0..topics).step_by(AT_A_TIME) {
        let names: Vec<String> = (first..topics.min(first + AT_A_TIME))
            .map(|at| name(number, at))
            .collect();
        let mut refs = Vec::new();
        for topic in &names {
            client.start_join(topic, json!({ "client": 1 })).await?;
            refs.push(client.push(topic, "fill", json!({ "entries": ENTRIES })).await?);
        }
        for msg_ref in refs {
            client.reply(&msg_ref).await?;
        }
        for topic in &names {
            client.leave(topic).await?;
        }
        client.take_kept();
    }
    Ok(())
}

/// Joins topics, all at once.
async fn wake(mut client: Client, number: usize, topics: usize) -> Result<(), ClientError> {
    let mut refs = Vec::new();
    for at in 0..topics {
        refs.push(client.start_join(&name(number, at), json!({ "client": 1 })).await?);
    }
    for msg_ref in refs {
        client.reply(&msg_ref).await?;
    }
    Ok(())
}

fn name(client: usize, topic: usize) -> String {
    format!("{PLUGIN}:{client}:{topic}")
}

fn options(server: &Server) -> Options {
    Options {
        deadline: OUTCOME,
        ..Options::new(server.address, Transport::WebSocket)
    }
}

fn mib(kib: f64) -> f64 {
    kib / 1024.0
}

impl fmt::Display for Sleeping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            topics,
            wake,
            awake,
            storm,
            ..
        } = self;
        writeln!(f, "{topics} sleeping topics of 4 KiB")?;
        writeln!(
            f,
            "  memory       {:.1} MiB without a topic, {:.1} MiB with all asleep, {:.1} MiB with all asleep again",
            self.empty_mib, self.asleep_mib, self.again_mib
        )?;
        writeln!(
            f,
            "  start        {:.0} ms until it listens, {:.0} ms until the first client is in a topic (aim: {AIM_START_MS} ms)",
            self.listening_ms, self.first_join_ms
        )?;
        writeln!(
            f,
            "  a join       wakes in {:.2} ms p50, {:.2} ms p99, {:.2} ms max (aim: p99 {AIM_WAKE_MS} ms); awake {:.2} ms p50, {:.2} ms p99",
            wake.p50_ms, wake.p99_ms, wake.max_ms, awake.p50_ms, awake.p99_ms
        )?;
        let events = storm.events;
        write!(
            f,
            "  a storm      of {} joins in {:.0} ms, {:.1} MiB at most; events beside it {:.2} ms p50, {:.2} ms p99, {:.2} ms max",
            storm.joins, storm.all_ms, storm.peak_mib, events.p50_ms, events.p99_ms, events.max_ms
        )
    }
}
