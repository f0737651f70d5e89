//! What backends read of other nodes of the cluster, and what is said to theirs.

use std::sync::Arc;
use std::time::Duration;

use bennu_wire::pattern::TopicPattern;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::answer::{Reason, Refusal};
use super::here;
use crate::cluster::Home;
use crate::server::endpoint::Endpoint;
use crate::server::question::{self, ConnectionsWanted, Question, TopicWanted, TopicsWanted};

/// How much longer than at home an answer may take.
const WAY: Duration = Duration::from_secs(1);

/// What a node says: the answer, or why it refuses.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said<T> {
    Is(T),
    Refused { reason: String, message: String },
}

impl<T> From<Result<T, Refusal>> for Said<T> {
    fn from(result: Result<T, Refusal>) -> Self {
        match result {
            Ok(is) => Self::Is(is),
            Err(Refusal { reason, message }) => Self::Refused {
                reason: reason.word().to_owned(),
                message,
            },
        }
    }
}

/// Asks all other nodes. With the names of those that have not answered; without a list on a host that is alone.
pub(super) async fn ask_all<T: DeserializeOwned>(
    endpoint: &Endpoint,
    question: &Question,
) -> Result<(Vec<T>, Option<Vec<String>>), Refusal> {
    let Some(cluster) = endpoint.state.cluster.get() else {
        return Ok((Vec::new(), None));
    };
    let gathered = cluster.ask_all(question::write(question, []), patience(endpoint)).await;
    let gathered = gathered.ok_or_else(|| unavailable("this node does not know now which others there are"))?;
    let (mut answers, mut missing) = (Vec::new(), gathered.missing);
    for (node, answer) in gathered.answers {
        match question::read(&answer) {
            Some((Said::Is(is), _)) => answers.push(is),
            Some((Said::Refused { .. }, _)) | None => missing.push(node),
        }
    }
    missing.sort();
    Ok((answers, Some(missing)))
}

/// One topic, from its home.
pub(super) async fn topic(endpoint: &Arc<Endpoint>, wanted: TopicWanted) -> Result<Box<RawValue>, Refusal> {
    let Some(cluster) = endpoint.state.cluster.get() else {
        return here::topic(endpoint, &wanted).await;
    };
    let (node, run) = match cluster.home(&wanted.topic) {
        Home::Here => return here::topic(endpoint, &wanted).await,
        Home::There(node, run) => (node, run),
        Home::Nowhere => return Err(unavailable("this topic has no home that this node knows")),
    };
    let question = question::write(&Question::Topic(wanted), []);
    let answer = cluster.ask(run, question, patience(endpoint)).await;
    let answer = answer.map_err(|why| unavailable(format!("the home of this topic is the node `{node}`: {why}")))?;
    match question::read(&answer) {
        Some((Said::Is(is), _)) => Ok(is),
        Some((Said::Refused { reason, message }, _)) => {
            let reason = Reason::ALL.into_iter().find(|known| known.word() == reason);
            Err(Refusal::new(reason.unwrap_or(Reason::Unavailable), message))
        }
        None => Err(unavailable(format!("the node `{node}` has another version"))),
    }
}

fn patience(endpoint: &Endpoint) -> Duration {
    endpoint.state.routing().config.api.heard_timeout + WAY
}

fn unavailable(message: impl Into<String>) -> Refusal {
    Refusal::new(Reason::Unavailable, message)
}

/// Says to another node which topics are here. `None`: it asks for what this version does not know.
pub(crate) fn say_topics(endpoint: &Endpoint, mut wanted: TopicsWanted) -> Option<Bytes> {
    let api = &endpoint.state.routing().config.api;
    wanted.entries = wanted.entries.min(api.max_page);
    wanted.bytes = wanted.bytes.min(api.max_answer_bytes);
    let patterns = wanted.patterns.iter().map(|pattern| TopicPattern::parse(pattern));
    let patterns = patterns.collect::<Result<Vec<_>, _>>().ok()?;
    Some(said(Ok(here::topics(endpoint, &patterns, &wanted))))
}

/// Says to another node what there is to say of one topic.
pub(crate) async fn say_topic(endpoint: &Endpoint, wanted: &TopicWanted) -> Bytes {
    let is_here = { endpoint.state.cluster.get() }.is_some_and(|cluster| cluster.home(&wanted.topic) == Home::Here);
    if !is_here {
        return said::<()>(Err(unavailable("this topic moves to another node")));
    }
    said(here::topic(endpoint, wanted).await)
}

/// Says to another node which connections of a socket id are here.
pub(crate) async fn say_connections(endpoint: &Endpoint, mut wanted: ConnectionsWanted) -> Bytes {
    let api = endpoint.state.routing().config.api.clone();
    wanted.entries = wanted.entries.min(api.max_page);
    wanted.bytes = wanted.bytes.min(api.max_answer_bytes);
    said(here::connections(endpoint, &wanted).await)
}

fn said<T: Serialize>(result: Result<T, Refusal>) -> Bytes {
    question::write(&Said::from(result), [])
}
