//! Long polling at another node than the session's: the request becomes a question to that node, which answers as its session does.
//!
//! Where the client is, its origin and address are checked, its body is read within limits, and tokens are opened and sealed: all
//! nodes have one secret. Where the session is, a body is read as messages, within the limits there.

use std::sync::Arc;
use std::time::Duration;

use bennu_wire::dialect::Dialect;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Endpoint;
use super::relay::{Failed, Polled, Posted, Session};
use crate::cluster::{Cluster, NoAnswer};
use crate::server::question::{self, OfSession, Question, SessionAt};
use crate::server::transport::longpoll::Published;
use crate::server::transport::longpoll::token::Position;

/// How much longer than at home an answer may take.
const WAY: Duration = Duration::from_secs(1);

/// The way to sessions at other nodes.
pub(super) struct Elsewhere<'a>(pub(super) &'a Cluster);

/// What is said of a poll. Its messages are the body, one behind the other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Told {
    Messages {
        /// The bytes of each.
        sizes: Vec<usize>,
        position: u64,
    },
    Nothing,
    Gone,
}

impl Elsewhere<'_> {
    pub(super) async fn poll(&self, session: &Session<'_>) -> Polled {
        let patience = session.config.window + WAY;
        match self.ask(session, OfSession::Poll, &[], patience).await {
            Ok((Told::Messages { sizes, position }, body)) => match pieces(&sizes, &body) {
                Some(messages) => Polled::Messages(messages, position),
                None => Polled::Unavailable,
            },
            Ok((Told::Gone, _)) | Err(Failed::Gone) => Polled::Gone,
            // What was on its way is kept until a poll acks it, so the client misses nothing if it polls again.
            Ok((Told::Nothing, _)) | Err(Failed::Late) => Polled::Nothing,
            Err(Failed::Unavailable | Failed::Body(_)) => Polled::Unavailable,
        }
    }

    pub(super) async fn find(&self, session: &Session<'_>) -> Result<(), Failed> {
        let patience = session.config.pubsub_timeout + WAY;
        let (found, _): (Result<(), Failed>, _) = self.ask(session, OfSession::Find, &[], patience).await?;
        found
    }

    pub(super) async fn publish(&self, session: &Session<'_>, has_lines: bool, body: &Bytes) -> Posted {
        let patience = session.config.pubsub_timeout + WAY;
        let publish = OfSession::Publish { has_lines };
        let (posted, _): (Result<Published, Failed>, _) = self.ask(session, publish, body, patience).await?;
        posted
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        session: &Session<'_>,
        what: OfSession,
        body: &[u8],
        patience: Duration,
    ) -> Result<(T, Bytes), Failed> {
        let question = question::write(&Question::Session(at(session), what), [body]);
        let answer = self.0.ask(session.position.node, question, patience).await;
        let answer = answer.map_err(|why| match why {
            NoAnswer::NoNode => Failed::Gone,
            // A client that polls again does so at a node that goes on.
            NoAnswer::Late | NoAnswer::Leaving => Failed::Late,
            NoAnswer::NoBroker | NoAnswer::TooMany | NoAnswer::Unknown | NoAnswer::TooLarge => Failed::Unavailable,
        })?;
        question::read(&answer).ok_or(Failed::Unavailable)
    }
}

/// Answers another node that has a request for a session of this one.
pub(crate) async fn answer(endpoint: &Arc<Endpoint>, at: &SessionAt, what: OfSession, body: Bytes) -> Bytes {
    let dialect = match at.is_phoenix_0_11 {
        true => Dialect::Phoenix011,
        false => Dialect::Modern,
    };
    let routing = endpoint.state.routing();
    let mount = routing.config.mounts.iter().find(|mount| mount.path == at.mount);
    let position = Position {
        node: endpoint.node,
        io_thread: at.io_thread,
        session: at.session,
        last: at.last,
    };
    let session = mount.and_then(|mount| {
        Some(Session {
            endpoint,
            mount: &mount.path,
            dialect,
            config: mount.longpoll_of(dialect)?,
            position: &position,
        })
    });
    match what {
        OfSession::Poll => match session {
            Some(session) => told(session.poll().await),
            None => told(Polled::Gone),
        },
        OfSession::Find => {
            let found = match session {
                Some(session) => session.find().await,
                None => Err(Failed::Gone),
            };
            question::write(&found, [])
        }
        OfSession::Publish { has_lines } => {
            let posted: Posted = match session {
                Some(session) => session.publish(has_lines, body).await,
                None => Err(Failed::Gone),
            };
            question::write(&posted, [])
        }
    }
}

fn told(polled: Polled) -> Bytes {
    match polled {
        Polled::Messages(messages, position) => {
            let sizes = messages.iter().map(Bytes::len).collect();
            question::write(
                &Told::Messages { sizes, position },
                messages.iter().map(|message| &message[..]),
            )
        }
        Polled::Nothing => question::write(&Told::Nothing, []),
        Polled::Gone | Polled::Unavailable => question::write(&Told::Gone, []),
    }
}

fn at(session: &Session<'_>) -> SessionAt {
    SessionAt {
        mount: session.mount.to_owned(),
        is_phoenix_0_11: session.dialect == Dialect::Phoenix011,
        io_thread: session.position.io_thread,
        session: session.position.session,
        last: session.position.last,
    }
}

/// Cuts a body into pieces of these sizes. `None` if they are not its sizes.
fn pieces(sizes: &[usize], body: &Bytes) -> Option<Vec<Bytes>> {
    let mut rest = body.clone();
    let pieces = sizes
        .iter()
        .map(|size| (*size <= rest.len()).then(|| rest.split_to(*size)));
    let pieces = pieces.collect::<Option<Vec<_>>>()?;
    rest.is_empty().then_some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_an_answer_are_told_apart_by_their_sizes() {
        let messages: Vec<Bytes> = [&b"[1]"[..], b"", b"[2,3]"].map(Bytes::from_static).into();
        let answer = told(Polled::Messages(messages.clone(), 7));
        let Some((Told::Messages { sizes, position: 7 }, body)) = question::read(&answer) else {
            panic!("{answer:?}")
        };
        assert_eq!(pieces(&sizes, &body), Some(messages));
        for wrong in [&[3, 0, 4][..], &[3, 0, 6], &[usize::MAX], &[]] {
            assert_eq!(pieces(wrong, &body), None, "{wrong:?}");
        }
    }
}
