//! Connects clients that use a transport of the embedding program.

use std::net::SocketAddr;
use std::sync::Arc;

use bennu_wire::dialect::Dialect;
use http::StatusCode;
use http::request::Parts;

use super::Endpoint;
use super::connect::{self, Attempt, Denied};
use super::params::Params;
use crate::server::ambiguous::Ambiguous;
use crate::server::closes::{RefusalReason, Refused};
use crate::server::io::Client;
use crate::server::io::Entry;
use crate::server::socket::Places;
use crate::server::transport::PendingConnection;

/// Connects clients whose messages the embedding program carries. They pass the same checks as all others: whether the server has
/// room, the origin, the version, and the mount's connect handler.
#[derive(Clone, Debug)]
pub struct Entrance(Arc<Endpoint>);

/// A client that wants to connect.
#[derive(Debug)]
pub struct Visit {
    /// The path of the mount, such as `/socket`.
    pub mount: String,
    /// The dialect that it speaks.
    pub dialect: Dialect,
    /// Its request, as if it came over HTTP. The server reads the query of the address, which holds the params and `vsn`, the
    /// header `origin`, and the headers that the mount selects for its connect handler.
    pub request: Parts,
    /// Its address.
    pub peer: SocketAddr,
    /// Its auth token, for the connect handler.
    pub auth_token: Option<String>,
}

impl Entrance {
    /// The entrance of a server.
    #[must_use]
    pub(crate) fn new(endpoint: Arc<Endpoint>) -> Self {
        Self(endpoint)
    }

    /// Decides whether a client may connect. If so, the I/O thread with the fewest connections takes over its transport and opens
    /// the socket.
    ///
    /// # Errors
    ///
    /// If the client may not connect. `pending` is dropped then.
    pub async fn open(&self, visit: Visit, pending: Box<dyn PendingConnection>) -> Result<(), Denied> {
        let endpoint = &self.0;
        let client = Client {
            thread: endpoint.state.idlest(),
            peer: visit.peer,
            is_secure: false,
            connection: endpoint.state.next_connection(),
            is_crowded: false,
        };
        let transport = pending.name();
        let refused = |mount, status: StatusCode, reason, detail: Option<&str>| {
            endpoint.refuse(client, mount, transport, Refused::new(reason, status.as_u16(), detail));
            Err(Denied::new(status, reason))
        };
        let session = match endpoint.state.take_in(visit.peer.ip()) {
            Ok(session) => session,
            Err(away) => {
                endpoint.refuse(client, None, transport, away.refused());
                return Err(Denied::turned_away(&away));
            }
        };
        let routing = endpoint.state.routing();
        let mount = routing.config.mounts.iter().find(|mount| mount.path == visit.mount);
        let Some(mount) = mount.filter(|mount| mount.speaks(visit.dialect)) else {
            return refused(None, StatusCode::NOT_FOUND, RefusalReason::NoMount, Some(&visit.mount));
        };
        if let Some(ambiguous) = Ambiguous::repeated(&visit.request.headers) {
            let what = ambiguous.to_string();
            return refused(
                Some(mount),
                StatusCode::BAD_REQUEST,
                RefusalReason::Ambiguous,
                Some(&what),
            );
        }
        connect::check_origin_of(endpoint, client, mount, transport, visit.dialect, &visit.request).await?;
        let Ok(params) = Params::parse(visit.request.uri.query().unwrap_or("")) else {
            return refused(Some(mount), StatusCode::BAD_REQUEST, RefusalReason::Query, None);
        };
        let attempt = Attempt {
            endpoint,
            mount,
            dialect: visit.dialect,
            transport,
            parts: &visit.request,
            params: &params,
            client,
            auth_token: visit.auth_token,
            places: Places {
                session,
                ..Places::default()
            },
        };
        let socket = attempt.decide().await?;
        if let Some(inbox) = endpoint.inboxes.get(usize::from(client.thread)) {
            inbox.push_now(Entry::Adopt(pending, socket));
        }
        Ok(())
    }
}
