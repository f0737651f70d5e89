//! Follows the two buckets, and tells the cluster's thread what stands in them: everything at first, then each change.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::kv::{Entry, Operation, Store};
use futures_util::StreamExt as _;
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use super::broker::{self, Broker, ClusterError};
use super::exchange::Event;
use super::moving::Stands;
use super::node::Lease;

/// How long after a failure the next try is.
const PAUSE: Duration = Duration::from_millis(250);

/// A node, by its name, and its lease. `None`: it has none.
pub(super) type Node = (String, Option<Lease>);
/// A partition, what its entry says, and the revision.
pub(super) type Home = (u16, Option<Stands>, u64);

/// Which bucket is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The leases.
    Nodes,
    /// The homes of so many partitions.
    Homes(u16),
}

/// Follows a bucket for ever. `again` has it read everything once more.
pub(super) async fn follow(
    what: What,
    broker: Arc<Broker>,
    client: Client,
    again: Arc<Notify>,
    say: mpsc::UnboundedSender<Event>,
) {
    loop {
        let followed = async {
            let store = open(what, &broker, &client).await.map_err(|error| error.to_string())?;
            if let What::Homes(_) = what {
                let _ = say.send(Event::Store(Box::new(store.clone())));
            }
            changes(what, &store, &say).await
        };
        let ended = tokio::select! {
            ended = followed => ended,
            () = again.notified() => continue,
        };
        if say.is_closed() {
            return;
        }
        if let Err(why) = ended {
            tracing::debug!(
                ?what,
                why,
                "a bucket of the broker cannot be followed; Bennu tries again"
            );
        }
        sleep(PAUSE).await;
    }
}

async fn open(what: What, broker: &Broker, client: &Client) -> Result<Store, ClusterError> {
    match what {
        What::Nodes => broker.nodes(client).await,
        What::Homes(_) => broker.homes(client).await,
    }
}

/// Everything, then each change. Neither bucket is ever empty: one has this node's lease, the other `meta`.
async fn changes(what: What, store: &Store, say: &mpsc::UnboundedSender<Event>) -> Result<(), String> {
    let mut entries = store.watch_with_history(">").await.map_err(|error| error.to_string())?;
    let (mut nodes, mut homes) = (Vec::new(), Vec::new());
    let mut is_current = false;
    while let Some(entry) = entries.next().await {
        let entry = entry.map_err(|error| error.to_string())?;
        let becomes_current = !is_current && entry.seen_current;
        match what {
            What::Nodes => nodes.push(node(&entry)),
            What::Homes(partitions) => homes.extend(home(&entry, partitions)),
        }
        is_current |= becomes_current;
        if !is_current {
            continue;
        }
        let (nodes, homes) = (std::mem::take(&mut nodes), std::mem::take(&mut homes));
        let event = match what {
            What::Nodes => Event::Nodes(nodes, becomes_current),
            What::Homes(_) => Event::Homes(homes, becomes_current),
        };
        if say.send(event).is_err() {
            return Ok(());
        }
    }
    Err("the broker has ended the watch".to_owned())
}

fn node(entry: &Entry) -> Node {
    let lease = matches!(entry.operation, Operation::Put).then(|| serde_json::from_slice(&entry.value).ok());
    (entry.key.clone(), lease.flatten())
}

fn home(entry: &Entry, partitions: u16) -> Option<Home> {
    let partition = broker::partition(&entry.key, partitions)?;
    let text = std::str::from_utf8(&entry.value).ok();
    let stands = text
        .filter(|_| matches!(entry.operation, Operation::Put))
        .and_then(Stands::read);
    Some((partition, stands, entry.revision))
}

/// Asks the broker whether a node still has a lease, and tells the cluster's thread.
pub(super) async fn ask(store: Store, name: String, say: mpsc::UnboundedSender<Event>) {
    // If the broker does not answer, nobody is lost.
    if let Ok(found) = store.entry(&*name).await {
        let node = found.map_or((name, None), |entry| node(&entry));
        let _ = say.send(Event::Nodes(vec![node], false));
    }
}
