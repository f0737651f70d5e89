//! How long a reload holds a topic, by the size of its state and the number of its members.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;

use super::certificate::Pauses;
use super::libraries::{Libraries, PLUGIN, Variant};
use super::plot::{Axis, Chart};
use super::said::Said;
use super::server::{PROBATION, Server, Setup};
use super::{OUTCOME, TortureError};
use crate::client::{Client, ClientError, Options, Transport};

/// Members of a topic.
const MEMBERS: [usize; 3] = [1, 10, 100];
/// Sizes of a topic's state, about.
const KIB: [usize; 6] = [1, 4, 16, 64, 256, 1024];
/// What an entry takes in version 2. In version 1, which is written and read as often, it is half of that.
const ENTRY_BYTES: usize = 20;
/// Topics that move in each reload.
const TOPICS: usize = 20;
/// Reloads, between the two versions of the state.
const RELOADS: u64 = 10;
/// What the p99 is to stay below, up to [`AIMED_KIB`] and with any number of members here.
pub const AIM_MS: f64 = 5.0;
/// How large a state may be for [`AIM_MS`] to be aimed at.
pub const AIMED_KIB: usize = 64;

/// The pauses of topics of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct Size {
    /// Members of each topic.
    pub members: usize,
    /// The size of its state.
    pub kib: usize,
    /// How long it was held.
    pub pauses: Pauses,
}

/// Measures all sizes, one after the other, each on a server of its own.
///
/// # Errors
///
/// If a server or a client does not do what it should.
pub async fn run(libraries: &Libraries, mut progress: impl FnMut(usize, usize)) -> Result<Vec<Size>, TortureError> {
    let mut sizes = Vec::new();
    for members in MEMBERS {
        for kib in KIB {
            progress(members, kib);
            let pauses = Pauses::of(held(libraries, members, kib).await?);
            sizes.push(Size { members, kib, pauses });
        }
    }
    Ok(sizes)
}

async fn held(libraries: &Libraries, members: usize, kib: usize) -> Result<Vec<Duration>, TortureError> {
    let entries = kib * 1024 / ENTRY_BYTES;
    let setup = Setup {
        shards: 2,
        clients: members,
        joins: TOPICS,
        retire: Duration::from_millis(1),
        probation: PROBATION,
        settings: format!("{{ keep = {entries}, tick_ms = 0 }}"),
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
            match server.said(OUTCOME).await? {
                Said::Moved { held: pause, .. } => held.push(pause),
                Said::InService { .. } => break,
                _ => {}
            }
        }
    }
    drop(clients);
    server.stop();
    Ok(held)
}

/// A client on all topics; the first one fills them.
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

/// The p99 over the size of the state, a line for each number of members.
#[must_use]
pub fn chart(sizes: &[Size]) -> Chart {
    let line = |members: usize| {
        let points = sizes.iter().filter(move |size| size.members == members);
        let points = points.map(|size| (size.kib as f64, size.pauses.p99_ms)).collect();
        (format!("{members} members"), points)
    };
    Chart {
        title: format!(
            "How long a reload holds a topic, p99 of {} moves",
            TOPICS * RELOADS as usize
        ),
        x: Axis {
            label: "state of the topic, KiB".to_owned(),
            is_logarithmic: true,
        },
        y: Axis {
            label: "ms".to_owned(),
            is_logarithmic: true,
        },
        lines: MEMBERS.map(line).into(),
        aim: Some((AIM_MS, format!("the aim, up to {AIMED_KIB} KiB"))),
    }
}
