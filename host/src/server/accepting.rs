//! Accepts the connections of clients, and hands them over to I/O threads.

use std::io;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::closes::{RefusalReason, Refused};
use super::endpoint::Endpoint;
use super::io::{Accepted, Acceptor, Door, Entry};
use super::listen::{Listening, SocketFile};
use super::tls::Certificates;
use crate::config::At;

/// What accepts the connections of these listeners, and the files that go with them.
///
/// # Errors
///
/// If the runtime cannot poll a listener.
pub(super) fn acceptors(
    clients: Vec<Listening>,
    certificates: Option<&Arc<Certificates>>,
) -> io::Result<(Vec<Acceptor>, Vec<SocketFile>)> {
    let (mut acceptors, mut files) = (Vec::new(), Vec::new());
    for listener in clients {
        let door = Door {
            tls: certificates.filter(|_| listener.tls).cloned(),
            proxy_protocol: listener.proxy_protocol,
            is_local: matches!(listener.at, At::Unix { .. }),
        };
        acceptors.push(Acceptor::new(listener.socket, door)?);
        files.extend(listener.file);
    }
    Ok((acceptors, files))
}

/// Accepts connections until the tasks are ended, each of which closes its listener then.
pub(super) fn start(acceptors: impl Iterator<Item = Acceptor>, endpoint: &Arc<Endpoint>) -> JoinSet<()> {
    let mut accepting = JoinSet::new();
    for acceptor in acceptors {
        let endpoint = Arc::clone(endpoint);
        accepting.spawn(async move {
            let mut worked = true;
            loop {
                let works = acceptor.accept(|accepted| hand_over(&endpoint, accepted)).await;
                if works != worked {
                    worked = works;
                    endpoint.state.note_accepting(works);
                }
            }
        });
    }
    accepting
}

/// Hands a connection over to the I/O thread with the fewest.
fn hand_over(endpoint: &Endpoint, accepted: Accepted) {
    // A little above the limit there is still an answer, 503; far above it, none.
    if endpoint.state.is_flooded() {
        endpoint.state.refuse_as_full();
        let refused = Refused::new(RefusalReason::Full, None, None);
        endpoint.state.note_refused(accepted.peer, refused);
        return;
    }
    let thread = endpoint.state.idlest();
    endpoint.state.acquire(thread);
    if let Some(inbox) = endpoint.inboxes.get(usize::from(thread)) {
        inbox.push_now(Entry::Accept(accepted));
    }
}
