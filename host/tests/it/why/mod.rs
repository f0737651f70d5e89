//! "Why was this client closed, or not let in?" has an answer: in the log, in `/closes`, in the metrics, and from `bennu why`.

pub(crate) mod asked;
mod closed;
mod open;
mod refused;

use std::net::SocketAddr;

use serde_json::Value;

use crate::support::http::get;
use crate::support::within;

/// Lines are not limited here: each client of a test has this address.
const MANY: &str = "1_000";

/// The first entry of `/closes` for this query, once there is one.
pub(crate) async fn entry(admin: SocketAddr, query: &str) -> Value {
    let found = async {
        loop {
            let page = get(admin, &format!("/closes?{query}")).await.json();
            if let Some(entry) = page["closes"].as_array().and_then(|closes| closes.first()) {
                return entry.clone();
            }
            tokio::task::yield_now().await;
        }
    };
    within(query, found).await
}

/// The entry about the client at this address.
async fn entry_of(admin: SocketAddr, peer: SocketAddr) -> Value {
    entry(admin, &format!("peer={peer}")).await
}
