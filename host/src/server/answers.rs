//! Answers what other nodes of the cluster ask this one, from what the server knows.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::admin::{Admin, elsewhere as pages, stored, why};
use super::api::nodes;
use super::endpoint::{Endpoint, elsewhere};
use super::question::{self, Question};
use crate::cluster::{Answering, Answers};

/// Answers of one server.
#[derive(Debug)]
pub(super) struct FromHere {
    endpoint: Arc<Endpoint>,
    /// Set once the admin pages are there.
    admin: Arc<OnceLock<Admin>>,
}

impl FromHere {
    /// The answers of the server with this endpoint, and with these admin pages once they are there.
    pub(super) fn new(endpoint: Arc<Endpoint>, admin: Arc<OnceLock<Admin>>) -> Self {
        Self { endpoint, admin }
    }
}

impl Answers for FromHere {
    fn answer(&self, question: Bytes) -> Answering {
        let (endpoint, admin) = (Arc::clone(&self.endpoint), self.admin.get().cloned());
        Box::pin(async move {
            let (question, body) = question::read::<Question>(&question)?;
            match question {
                Question::Session(at, what) => Some(elsewhere::answer(&endpoint, &at, what, body).await),
                Question::Topics(wanted) => nodes::say_topics(&endpoint, wanted),
                Question::Topic(wanted) => Some(nodes::say_topic(&endpoint, &wanted).await),
                Question::Connections(wanted) => Some(nodes::say_connections(&endpoint, wanted).await),
                Question::Client(wanted) => Some(why::say(&endpoint, &wanted).await),
                Question::Page(wanted) => Some(pages::say(admin.as_ref(), &wanted, body).await),
                Question::Stored(change) => Some(stored::say(&endpoint.state, &change, body).await),
            }
        })
    }
}
