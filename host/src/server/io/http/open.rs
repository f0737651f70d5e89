//! The beginning of a connection: what a proxy says first, and the TLS handshake. Both have to be done in the time for the head of a
//! request.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use tokio::io::{AsyncRead as _, ReadBuf};

use super::{Bounds, Deadline, Phases};
use crate::server::closes::{RefusalReason, Refused};
use crate::server::io::http_stream::NoTls;
use crate::server::io::{Accepted, HttpStream, LazyStream};
use crate::server::limits::{ConnectionPlace, Room, TurnedAway};
use crate::server::proxy::headers::Sender;
use crate::server::proxy::preamble::Preamble;
use crate::server::state::State;

/// How much is read at a time while a proxy says who its client is.
const PIECE: usize = 512;

/// A connection whose requests can be read.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) stream: HttpStream,
    /// Who sends the requests, if none of them says otherwise.
    pub(super) sender: Sender,
    /// Whether requests may say otherwise, whatever the address.
    pub(super) is_trusted: bool,
    /// Its place among the connections of its address, if that is limited.
    pub(super) place: Option<ConnectionPlace>,
    /// The address has more of them than it may have.
    pub(super) is_crowded: bool,
}

/// Why a connection is not opened. `None`: it was closed before anything was said, as health checks do.
type NotOpened = Option<Refused>;

/// Opens a connection.
///
/// # Errors
///
/// If nobody can speak HTTP over it.
pub(super) async fn open(accepted: Accepted, bounds: Bounds, state: &State) -> Result<Opened, NotOpened> {
    let is_plain = accepted.door.tls.is_none() && !accepted.door.proxy_protocol;
    let opening = opened(accepted, bounds, state);
    if is_plain {
        return opening.await;
    }
    let (mut opening, mut deadline) = (pin!(opening), Deadline::new(bounds.head));
    poll_fn(|cx| match opening.as_mut().poll(cx) {
        Poll::Pending => {
            let late = || Err(Some(Refused::new(RefusalReason::RequestTimeout, None, None)));
            deadline.poll(cx).map(|()| late())
        }
        done => done,
    })
    .await
}

async fn opened(accepted: Accepted, bounds: Bounds, state: &State) -> Result<Opened, NotOpened> {
    let Accepted { stream, peer, door } = accepted;
    let phases: Arc<Phases> = Arc::default();
    let mut stream = LazyStream::new(stream, bounds.write, Arc::clone(&phases));
    let mut client = None;
    if door.proxy_protocol {
        if !door.is_local && !state.routing().config.proxies.trusts(peer.ip()) {
            return Err(Some(proxy("its address is not in `[proxies] trusted`")));
        }
        client = preamble(&mut stream).await?;
    }
    let address = client.unwrap_or(peer);
    let (place, is_crowded) = match state.addresses.connection(address.ip(), Instant::now()) {
        Room::Unlimited => (None, false),
        Room::Free(place) => (Some(place), false),
        Room::Crowded(place) => (Some(place), true),
        Room::Flooded => return Err(Some(TurnedAway::crowded().unanswered())),
    };
    let session = door.tls.as_ref().map(|certificates| certificates.session());
    let is_secure = session.is_some();
    let mut stream = HttpStream::new(stream, session, phases);
    poll_fn(|cx| stream.poll_handshake(cx))
        .await
        .map_err(|error| match error {
            NoTls::Silent => None,
            NoTls::Plain => Some(Refused::new(RefusalReason::Tls, 400, Some("HTTP without TLS"))),
            NoTls::Failed(error) => Some(Refused::new(RefusalReason::Tls, None, Some(&error.to_string()))),
        })?;
    Ok(Opened {
        stream,
        sender: Sender { address, is_secure },
        is_trusted: door.is_local && client.is_none(),
        place,
        is_crowded,
    })
}

/// What a proxy says at the start of a connection: where its client is.
async fn preamble(stream: &mut LazyStream) -> Result<Option<SocketAddr>, NotOpened> {
    let mut said = Vec::new();
    loop {
        let mut piece = [0; PIECE];
        let mut read = ReadBuf::new(&mut piece);
        let polled = poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut read)).await;
        if polled.is_err() || read.filled().is_empty() {
            let hung_up = Refused::new(RefusalReason::HungUp, None, None);
            return Err((!said.is_empty()).then_some(hung_up));
        }
        said.extend_from_slice(read.filled());
        match Preamble::read(&said) {
            Preamble::Whole(client, length) => {
                stream.put_back(&said[length..]);
                return Ok(client);
            }
            Preamble::Partial => {}
            Preamble::Bad(why) => return Err(Some(proxy(&why))),
        }
    }
}

fn proxy(why: &str) -> Refused {
    Refused::new(RefusalReason::Proxy, None, Some(why))
}
