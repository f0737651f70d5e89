//! `/why`: what became of a client, as `bennu why` asks. In a cluster, all nodes say what they know.

use std::cmp::Reverse;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::Uri;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::clients::{Asked, Cursor, MOST, PAGE, Silent, closed, look, mistaken, shown};
use super::{Admin, SILENT};
use crate::cluster::Cluster;
use crate::server::closes::Wanted;
use crate::server::endpoint::Endpoint;
use crate::server::io::Inboxes;
use crate::server::question::{self, ClientWanted, Question};
use crate::server::state::State as Server;

/// How long another node may take to say what it knows of a client.
const PATIENCE: Duration = Duration::from_secs(3);

/// What one node knows of a client.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Known {
    connections: Vec<Value>,
    /// There are more connections than these.
    more: bool,
    closes: Vec<Value>,
    /// How many closes are remembered in all.
    kept: usize,
}

/// What became of a client: by whatever its name may be.
pub(super) async fn why(State(admin): State<Admin>, uri: Uri) -> Response {
    let asked = Asked::read(uri.query(), &["client"]);
    let asked = asked.and_then(|asked| match &asked.client {
        Some(_) => Ok(asked),
        None => Err("`client` is missing: a socket id, the number of a connection, or an IP address".to_owned()),
    });
    let asked = match asked {
        Ok(asked) => asked,
        Err(mistake) => return mistaken(&mistake),
    };
    let wanted = ClientWanted {
        client: asked.client.unwrap_or_default(),
        limit: asked.limit.unwrap_or(PAGE),
    };
    let here = known(&admin.state, &admin.inboxes, &wanted);
    let Some(cluster) = admin.state.cluster.get() else {
        return match here.await {
            Ok(known) => Json(known).into_response(),
            Err(silent) => silent.into_response(),
        };
    };
    let (here, there) = tokio::join!(here, known_elsewhere(cluster, &wanted));
    match (here, there) {
        (Ok(here), Some((mut all, missing))) => {
            all.insert(0, (cluster.name().to_owned(), here));
            let mut whole = together(all, &missing, wanted.limit);
            whole["node"] = cluster.name().into();
            Json(whole).into_response()
        }
        (Err(silent), _) => silent.into_response(),
        (_, None) => SILENT.into_response(),
    }
}

/// What this node knows of a client.
async fn known(server: &Server, inboxes: &Inboxes, wanted: &ClientWanted) -> Result<Known, Silent> {
    let mut known = Known::default();
    for by_name in Wanted::by_name(&wanted.client) {
        let mut from = Some(Cursor::default());
        while let Some(cursor) = from.filter(|_| known.connections.len() < wanted.limit) {
            let most = wanted.limit - known.connections.len();
            let page = look(inboxes, &by_name, cursor, most, None).await?;
            known.connections.extend(page.connections.iter().map(shown));
            from = page.next;
        }
        known.more = from.is_some();
        (known.closes, known.kept) = closed(server, &by_name, None, wanted.limit);
        if !known.connections.is_empty() || !known.closes.is_empty() {
            break;
        }
    }
    Ok(known)
}

/// What other nodes know of a client, and the nodes that do not say it. `None`: it is not known which there are.
async fn known_elsewhere(cluster: &Cluster, wanted: &ClientWanted) -> Option<(Vec<(String, Known)>, Vec<String>)> {
    let question = question::write(&Question::Client(wanted.clone()), []);
    let gathered = cluster.ask_all(question, PATIENCE).await?;
    let (mut all, mut missing) = (Vec::new(), gathered.missing);
    for (node, answer) in gathered.answers {
        match question::read(&answer) {
            Some((Some(known), _)) => all.push((node, known)),
            // One of its I/O threads is silent, or it has another version.
            Some((None, _)) | None => missing.push(node),
        }
    }
    missing.sort();
    Some((all, missing))
}

/// Says to another node what this one knows of a client.
pub(crate) async fn say(endpoint: &Endpoint, wanted: &ClientWanted) -> Bytes {
    let wanted = ClientWanted {
        limit: wanted.limit.min(MOST),
        ..wanted.clone()
    };
    let known = known(&endpoint.state, &endpoint.inboxes, &wanted).await;
    question::write(&known.ok(), [])
}

/// What several nodes know of a client: each entry with its node, the newest closes first.
fn together(all: Vec<(String, Known)>, missing: &[String], limit: usize) -> Value {
    let mut whole = Known::default();
    for (node, known) in all {
        let with_node = |mut entry: Value| {
            entry["node"] = node.clone().into();
            entry
        };
        whole.connections.extend(known.connections.into_iter().map(with_node));
        whole.closes.extend(known.closes.into_iter().map(with_node));
        whole.more |= known.more;
        whole.kept += known.kept;
    }
    whole.more |= whole.connections.len() > limit;
    whole.connections.truncate(limit);
    whole.closes.sort_by_key(|close| Reverse(close["at_unix_ms"].as_u64()));
    whole.closes.truncate(limit);
    let mut whole = json!(whole);
    whole["missing"] = json!(missing);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nodes_know_is_put_together_with_their_names_the_newest_closes_first() {
        let known = |connection: u64, at: [u64; 2]| Known {
            connections: vec![json!({ "connection": connection })],
            closes: at.iter().map(|at| json!({ "at_unix_ms": at })).collect(),
            more: false,
            kept: 7,
        };
        let all = vec![("a".to_owned(), known(1, [9, 3])), ("b".to_owned(), known(1, [8, 2]))];
        let whole = together(all, &["c".to_owned()], 3);
        let connections = json!([{ "connection": 1, "node": "a" }, { "connection": 1, "node": "b" }]);
        assert_eq!((&whole["connections"], &whole["more"]), (&connections, &json!(false)));
        let closes = json!([
            { "at_unix_ms": 9, "node": "a" }, { "at_unix_ms": 8, "node": "b" }, { "at_unix_ms": 3, "node": "a" },
        ]);
        assert_eq!((&whole["closes"], &whole["kept"]), (&closes, &json!(14)));
        assert_eq!(whole["missing"], json!(["c"]));
    }
}
