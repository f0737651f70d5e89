//! Measures how long a reload holds a topic, by the size of its state and the number of its members.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;

use super::certificate::Pauses;
use super::libraries::{Libraries, PLUGIN, Variant};
use super::log::LogEvent;
use super::server::{PROBATION, Server, Setup};
use super::{OUTCOME, TortureError};
use crate::client::{Client, ClientError, Options, Transport};
use crate::plot::{Axis, Chart};

/// Numbers of members per topic.
const MEMBERS: [usize; 3] = [1, 10, 100];
/// Approximate sizes of a topic's state.
const KIB: [usize; 6] = [1, 4, 16, 64, 256, 1024];
/// The size of an entry in state version 2. In version 1, to and from which topics move as often, it is half of that.
const ENTRY_BYTES: usize = 20;
/// The number of topics, which all move in each reload.
const TOPICS: usize = 20;
/// The number of reloads. They alternate between the state versions.
const RELOADS: u64 = 10;
/// The aim for the p99 of states up to [`AIMED_KIB`], with any number of members.
pub(super) const AIM_MS: f64 = 5.0;
/// The largest state that [`AIM_MS`] applies to.
pub(super) const AIMED_KIB: usize = 64;

/// The pauses of topics of one size.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Size {
    /// The number of members per topic.
    pub(super) members: usize,
    /// The size of the state.
    pub(super) kib: usize,
    /// How long reloads held the topics.
    pub(super) pauses: Pauses,
}

/// Runs the part. Measures each size on a server of its own, and calls `progress` before.
pub(super) async fn run(
    libraries: &Libraries,
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<Size>, TortureError> {
    let mut sizes = Vec::new();
    for members in MEMBERS {
        for kib in KIB {
            progress(members, kib);
            let held = measure(libraries, members, kib).await?;
            let pauses = Pauses::of(&held);
            sizes.push(Size { members, kib, pauses });
        }
    }
    Ok(sizes)
}

/// How long each move held its topic.
async fn measure(libraries: &Libraries, members: usize, kib: usize) -> Result<Vec<Duration>, TortureError> {
    let entries = kib * 1024 / ENTRY_BYTES;
    let setup = Setup {
        shards: 2,
        clients: members,
        joins: TOPICS,
        retire: Duration::from_millis(1),
        probation: PROBATION,
        settings: format!("{{ keep = {entries}, tick_ms = 0 }}"),
        more: String::new(),
    };
    let mut server = Server::start(&setup, &libraries.bytes(Variant::V1, 0)).await?;
    let options = Options {
        deadline: OUTCOME,
        ..Options::new(server.address, Transport::WebSocket)
    };
    let mut joining = JoinSet::new();
    for number in 0..members {
        joining.spawn(joined(options.clone(), number, entries));
    }
    let clients: Vec<Client> = joining.join_all().await.into_iter().collect::<Result<_, _>>()?;
    let mut held = Vec::new();
    for reload in 1..=RELOADS {
        let variant = [Variant::V1, Variant::V2][(reload % 2) as usize];
        server.replace(&libraries.bytes(variant, reload))?;
        loop {
            match server.next_event(OUTCOME).await? {
                LogEvent::Moved { held: pause, .. } => held.push(pause),
                LogEvent::InService { .. } => break,
                _ => {}
            }
        }
    }
    drop(clients);
    server.stop();
    Ok(held)
}

/// A client that has joined all topics. The first client fills them.
async fn joined(options: Options, number: usize, entries: usize) -> Result<Client, ClientError> {
    let mut client = Client::connect(&options).await?;
    for topic in (0..TOPICS).map(|topic| format!("{PLUGIN}:{topic}")) {
        client.join(&topic, json!({ "client": number + 1 })).await?;
        if number == 0 {
            client.call(&topic, "fill", json!({ "entries": entries })).await?;
        }
    }
    Ok(client)
}

/// The p99 by the size of the state, with a line for each number of members.
pub(super) fn chart(sizes: &[Size]) -> Chart {
    let line = |members: usize| {
        let points = sizes.iter().filter(move |size| size.members == members);
        let points = points.map(|size| (size.kib as f64, size.pauses.held.p99_ms)).collect();
        (format!("{members} members"), points)
    };
    Chart {
        title: format!(
            "How long a reload holds a topic, p99 of {} moves",
            TOPICS * RELOADS as usize
        ),
        x: Axis::logarithmic("state of the topic, KiB"),
        y: Axis::logarithmic("ms"),
        lines: MEMBERS.map(line).into(),
        aim: Some((AIM_MS, format!("aim, up to {AIMED_KIB} KiB"))),
    }
}
