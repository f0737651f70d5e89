//! Answers what other nodes of the cluster ask this one, from what the server knows.

use std::sync::Arc;

use bytes::Bytes;

use super::admin::why;
use super::api::nodes;
use super::endpoint::{Endpoint, elsewhere};
use super::question::{self, Question};
use crate::cluster::{Answering, Answers};

/// Answers of one server.
#[derive(Debug)]
pub(super) struct FromHere(Arc<Endpoint>);

impl FromHere {
    /// The answers of the server with this endpoint.
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        Self(endpoint)
    }
}

impl Answers for FromHere {
    fn answer(&self, question: Bytes) -> Answering {
        let endpoint = Arc::clone(&self.0);
        Box::pin(async move {
            let (question, body) = question::read::<Question>(&question)?;
            match question {
                Question::Session(at, what) => Some(elsewhere::answer(&endpoint, &at, what, body).await),
                Question::Topics(wanted) => nodes::say_topics(&endpoint, wanted),
                Question::Topic(wanted) => Some(nodes::say_topic(&endpoint, &wanted).await),
                Question::Connections(wanted) => Some(nodes::say_connections(&endpoint, wanted).await),
                Question::Client(wanted) => Some(why::say(&endpoint, &wanted).await),
            }
        })
    }
}
