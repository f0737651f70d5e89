//! `?node=`: the admin pages of any node of the cluster, from any other. `?node=*` puts together what all of them say.
//!
//! A request goes to the other node as a question, and is answered there by the same pages. Whoever asks has been let in here.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Extension, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode, Uri};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::access::Operator;
use super::clients::{MOST, PAGE, mistaken};
use super::{ALONE, Admin, SILENT, pages};
use crate::cluster::{Cluster, NoAnswer};
use crate::server::question::{self, PageWanted, Question};

/// How long another node may take. The dashboard waits a little longer.
const PATIENCE: Duration = Duration::from_secs(8);
/// The same where nodes are left out that do not answer.
const SHORT: Duration = Duration::from_secs(3);
/// All nodes.
const ALL: &str = "*";

/// The head of an answer; its body follows.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    status: u16,
    content_type: Option<String>,
}

/// Has requests with `?node=` answered where they should be.
pub(super) async fn at_node(
    State(admin): State<Admin>,
    Extension(Operator(operator)): Extension<Operator>,
    mut request: Request,
    next: Next,
) -> Response {
    let (node, query) = split(request.uri().query().unwrap_or(""));
    let Some(node) = node else {
        return next.run(request).await;
    };
    let cluster = admin.state.cluster.get();
    if cluster.is_none() && node != ALL {
        return ALONE.into_response();
    }
    let (path, content_type) = (
        request.uri().path().to_owned(),
        text_of(request.headers().get(CONTENT_TYPE)),
    );
    let path_and_query = with_query(&path, &query);
    // A host that is alone is all there is.
    let Some(cluster) = cluster.filter(|cluster| node != cluster.name()) else {
        return match path_and_query.parse::<Uri>() {
            Ok(uri) => {
                *request.uri_mut() = uri;
                next.run(request).await
            }
            Err(error) => mistaken(&error.to_string()),
        };
    };
    let method = request.method().clone();
    let routing = admin.state.routing();
    let most = { routing.config.cluster.as_ref() }.map_or(0, |cluster| cluster.max_item_bytes);
    let Ok(body) = to_bytes(request.into_body(), most).await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, "the body is too long\n").into_response();
    };
    let wanted = PageWanted {
        method: method.to_string(),
        path: path_and_query,
        content_type,
        operator: format!("{operator}, by node {}", cluster.name()),
    };
    match (&*node, method, &*path) {
        (ALL, Method::GET, "/connections") => connections(&admin, cluster, &wanted, &query).await,
        (ALL, Method::DELETE, "/connections") => disconnect(&admin, cluster, wanted).await,
        (ALL, Method::GET, "/closes") => closes(&admin, cluster, wanted, &query).await,
        (ALL, ..) => mistaken("`node=*` is for `/connections` and `/closes`: name one node"),
        (node, ..) => match cluster.others().await {
            None => SILENT.into_response(),
            Some(others) => match others.iter().find(|(name, _)| name == node) {
                Some((_, run)) => ask(cluster, *run, PATIENCE, &wanted, &body)
                    .await
                    .unwrap_or_else(|why| away(node, why)),
                None => {
                    let names: Vec<_> = others.iter().map(|(name, _)| &**name).chain([cluster.name()]).collect();
                    let text = format!("there is no node `{node}`; there are: {}\n", names.join(", "));
                    (StatusCode::NOT_FOUND, text).into_response()
                }
            },
        },
    }
}

/// Says to another node what a page of this one says. `None`: the server has just started, or has no admin listener.
pub(crate) async fn say(admin: Option<&Admin>, wanted: &PageWanted, body: Bytes) -> Bytes {
    let response = match admin {
        Some(admin) => here(admin, wanted, body).await,
        None => (StatusCode::NOT_FOUND, "this node has no admin listener\n").into_response(),
    };
    let said = Said {
        status: response.status().as_u16(),
        content_type: text_of(response.headers().get(CONTENT_TYPE)),
    };
    match to_bytes(response.into_body(), usize::MAX).await {
        Ok(body) => question::write(&said, [&body[..]]),
        Err(_) => question::write(&Said { status: 500, ..said }, []),
    }
}

/// What a page of this node says.
async fn here(admin: &Admin, wanted: &PageWanted, body: Bytes) -> Response {
    let mut request = Request::builder()
        .method(&*wanted.method)
        .uri(&*wanted.path)
        .extension(Operator((&*wanted.operator).into()));
    if let Some(content_type) = &wanted.content_type {
        request = request.header(CONTENT_TYPE, content_type);
    }
    let Ok(request) = request.body(Body::from(body)) else {
        return mistaken("this is no request");
    };
    match TowerToHyperService::new(pages().with_state(admin.clone()))
        .call(request)
        .await
    {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

async fn ask(
    cluster: &Cluster,
    run: u64,
    patience: Duration,
    wanted: &PageWanted,
    body: &Bytes,
) -> Result<Response, NoAnswer> {
    let question = question::write(&Question::Page(wanted.clone()), [&body[..]]);
    let answer = cluster.ask(run, question, patience).await?;
    let (said, body) = question::read::<Said>(&answer).ok_or(NoAnswer::Unknown)?;
    let status = StatusCode::from_u16(said.status).map_err(|_| NoAnswer::Unknown)?;
    let content_type = said
        .content_type
        .unwrap_or_else(|| "text/plain; charset=utf-8".to_owned());
    Ok((status, [(CONTENT_TYPE, content_type)], body).into_response())
}

/// What each node says, as JSON, by its name; and which do not answer.
///
/// # Errors
///
/// What this node says, if that is a refusal.
async fn ask_all(
    admin: &Admin,
    cluster: &Cluster,
    wanted: PageWanted,
) -> Result<(BTreeMap<String, Value>, Vec<String>), Response> {
    let question = question::write(&Question::Page(wanted.clone()), []);
    if cluster.others().await.is_none() {
        return Err(SILENT.into_response());
    }
    // First here: what this node refuses, it asks of no other.
    let own = json_of(here(admin, &wanted, Bytes::new()).await).await?;
    let Some(gathered) = cluster.ask_all(question, SHORT).await else {
        return Err(SILENT.into_response());
    };
    let (mut all, mut missing) = (BTreeMap::from([(cluster.name().to_owned(), own)]), gathered.missing);
    for (node, answer) in gathered.answers {
        let said = question::read::<Said>(&answer).filter(|(said, _)| said.status == 200);
        match said.and_then(|(_, body)| serde_json::from_slice(&body).ok()) {
            Some(said) => drop(all.insert(node, said)),
            None => missing.push(node),
        }
    }
    missing.sort();
    Ok((all, missing))
}

/// Open connections of all nodes, one node after the other. A cursor names the node, and the one there.
async fn connections(admin: &Admin, cluster: &Cluster, wanted: &PageWanted, query: &str) -> Response {
    let Some(others) = cluster.others().await else {
        return SILENT.into_response();
    };
    let mut nodes: BTreeMap<String, Option<u64>> = others.into_iter().map(|(name, run)| (name, Some(run))).collect();
    nodes.insert(cluster.name().to_owned(), None);
    let (cursor, query) = take(query, "cursor");
    let (limit, query) = take(&query, "limit");
    let limit = match limit.map_or(Ok(PAGE), |limit| limit.parse::<usize>()) {
        Ok(limit) => limit.clamp(1, MOST),
        Err(_) => return mistaken("`limit` is not a number"),
    };
    let (mut from, mut inner) = match cursor.as_deref().map(|cursor| cursor.split_once('.')) {
        None => (String::new(), None),
        Some(Some((node, inner))) => (
            node.to_owned(),
            Some(inner.to_owned()).filter(|inner| !inner.is_empty()),
        ),
        Some(None) => return mistaken("`cursor` is not the `cursor` of a page"),
    };
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    let mut next = None;
    for (node, run) in nodes.range(from.clone()..) {
        if found.len() >= limit {
            next = Some(format!("{node}."));
            break;
        }
        // It counts for the node that it names.
        let inner = inner.take().filter(|_| *node == from);
        from.clone_from(node);
        let cursor = inner.map_or(String::new(), |inner| format!("&cursor={inner}"));
        let wanted = PageWanted {
            path: with_query(
                "/connections",
                &format!("limit={}{cursor}&{query}", limit - found.len()),
            ),
            ..wanted.clone()
        };
        let answer = match run {
            None => Ok(here(admin, &wanted, Bytes::new()).await),
            Some(run) => ask(cluster, *run, SHORT, &wanted, &Bytes::new()).await,
        };
        let answer = match answer {
            Ok(answer) => match json_of(answer).await {
                Ok(answer) => answer,
                // A mistake in the query is one everywhere.
                Err(refused) if refused.status() == StatusCode::BAD_REQUEST => return refused,
                Err(_) => {
                    missing.push(node);
                    continue;
                }
            },
            Err(_) => {
                missing.push(node);
                continue;
            }
        };
        found.extend(with_node(&answer["connections"], node));
        if let Some(inner) = answer["cursor"].as_str() {
            next = Some(format!("{node}.{inner}"));
            break;
        }
    }
    axum::Json(json!({ "connections": found, "cursor": next, "missing": missing })).into_response()
}

/// Closes the chosen connections on all nodes.
async fn disconnect(admin: &Admin, cluster: &Cluster, wanted: PageWanted) -> Response {
    match ask_all(admin, cluster, wanted).await {
        Ok((all, missing)) => {
            let disconnected: u64 = all.values().filter_map(|said| said["disconnected"].as_u64()).sum();
            axum::Json(json!({ "disconnected": disconnected, "missing": missing })).into_response()
        }
        Err(refused) => refused,
    }
}

/// The last closes of all nodes, the newest first.
async fn closes(admin: &Admin, cluster: &Cluster, wanted: PageWanted, query: &str) -> Response {
    let limit = take(query, "limit").0.and_then(|limit| limit.parse().ok());
    let (all, missing) = match ask_all(admin, cluster, wanted).await {
        Ok(all) => all,
        Err(refused) => return refused,
    };
    let mut closes: Vec<Value> = all
        .iter()
        .flat_map(|(node, said)| with_node(&said["closes"], node))
        .collect();
    closes.sort_by_key(|close| Reverse(close["at_unix_ms"].as_u64()));
    closes.truncate(limit.unwrap_or(PAGE).clamp(1, MOST));
    let sum = |key: &str| all.values().filter_map(|said| said[key].as_u64()).sum::<u64>();
    let (kept, most) = (sum("kept"), sum("max_closes"));
    axum::Json(json!({ "closes": closes, "kept": kept, "max_closes": most, "missing": missing })).into_response()
}

/// Entries of a list, each with the name of its node.
fn with_node(list: &Value, node: &str) -> Vec<Value> {
    let with_node = |entry: &Value| {
        let mut entry = entry.clone();
        entry["node"] = node.into();
        entry
    };
    list.as_array().into_iter().flatten().map(with_node).collect()
}

/// The JSON of an answer, or the answer itself if it is a refusal.
async fn json_of(response: Response) -> Result<Value, Response> {
    if response.status() != StatusCode::OK {
        return Err(response);
    }
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap_or_default();
    serde_json::from_slice(&body).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

fn away(node: &str, why: NoAnswer) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("node {node}: {why}\n")).into_response()
}

fn text_of(value: Option<&http::HeaderValue>) -> Option<String> {
    value.and_then(|value| value.to_str().ok()).map(str::to_owned)
}

fn with_query(path: &str, query: &str) -> String {
    match query.trim_end_matches('&') {
        "" => path.to_owned(),
        query => format!("{path}?{query}"),
    }
}

/// The value of `node`, and the query without it.
fn split(query: &str) -> (Option<String>, String) {
    let (node, rest) = take(query, "node");
    (node.filter(|node| !node.is_empty()), rest)
}

/// The value of a parameter, and the query without it.
fn take(query: &str, wanted: &str) -> (Option<String>, String) {
    let (mut value, mut rest) = (None, Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            (name, written) if name == wanted => {
                value = Some(percent_decode_str(written).decode_utf8_lossy().into_owned());
            }
            _ => rest.push(pair),
        }
    }
    (value, rest.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_taken_out_of_a_query() {
        let check = |query: &str, value: Option<&str>, rest: &str| {
            assert_eq!(
                take(query, "node"),
                (value.map(str::to_owned), rest.to_owned()),
                "{query}"
            );
        };
        check("", None, "");
        check("limit=3&peer=%3A%3A1", None, "limit=3&peer=%3A%3A1");
        check("node=b", Some("b"), "");
        check("limit=3&node=%2A&peer=x", Some("*"), "limit=3&peer=x");
        check("node", Some(""), "");
        check("nodes=b", None, "nodes=b");
    }

    #[test]
    fn a_path_without_a_query_has_no_question_mark() {
        assert_eq!(with_query("/closes", ""), "/closes");
        assert_eq!(with_query("/closes", "limit=3&"), "/closes?limit=3");
    }
}
