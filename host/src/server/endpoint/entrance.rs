//! The way in for clients that come by a transport of one's own.

use std::net::SocketAddr;
use std::sync::Arc;

use bennu_wire::dialect::Dialect;
use http::StatusCode;
use http::request::Parts;

use super::Endpoint;
use super::connect::{self, Attempt, Denied};
use super::params::Params;
use crate::server::io::Client;
use crate::server::io::Entry;
use crate::server::transport::PendingConnection;

/// Lets clients in whose messages the embedding program carries. They are asked what those of the host's own transports are
/// asked: is there room, does the mount take the origin, does it speak the version, what does its connect handler say.
#[derive(Clone, Debug)]
pub struct Entrance(Arc<Endpoint>);

/// Who wants to come in.
#[derive(Debug)]
pub struct Visit {
    /// The path of the mount, such as `/socket`.
    pub mount: String,
    /// Which rules its channels are to follow.
    pub dialect: Dialect,
    /// What it asked with, as if it came by HTTP: of the address the query counts, which holds the params, `vsn` among them;
    /// of the headers `origin`, and what the mount selects for its connect handler.
    pub request: Parts,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Its token, for the connect handler.
    pub auth_token: Option<String>,
}

impl Entrance {
    /// Of a host.
    #[must_use]
    pub(crate) fn new(endpoint: Arc<Endpoint>) -> Self {
        Self(endpoint)
    }

    /// Decides whether a client may connect, and if so brings its transport to the I/O thread with the fewest connections,
    /// which opens the socket as soon as it gets there.
    ///
    /// # Errors
    ///
    /// If the client may not connect. `pending` is dropped then.
    pub async fn open(&self, visit: Visit, pending: Box<dyn PendingConnection>) -> Result<(), Denied> {
        let endpoint = &self.0;
        let refused = |status| Err(Denied::new(status));
        if endpoint.state.turns_away() {
            return refused(StatusCode::SERVICE_UNAVAILABLE);
        }
        let routing = endpoint.state.routing();
        let mount = routing.config.mounts.iter().find(|mount| mount.path == visit.mount);
        let Some(mount) = mount.filter(|mount| visit.dialect == Dialect::Modern || mount.phoenix_0_11.is_some()) else {
            return refused(StatusCode::NOT_FOUND);
        };
        if !connect::origin_taken(endpoint, mount, visit.dialect, &visit.request).await {
            return refused(StatusCode::FORBIDDEN);
        }
        let Ok(params) = Params::parse(visit.request.uri.query().unwrap_or("")) else {
            return refused(StatusCode::BAD_REQUEST);
        };
        let thread = endpoint.state.idlest();
        let attempt = Attempt {
            endpoint,
            mount,
            dialect: visit.dialect,
            transport: pending.name(),
            parts: &visit.request,
            params: &params,
            client: Client {
                thread,
                peer: visit.peer,
            },
            auth_token: visit.auth_token,
        };
        let socket = attempt.decide().await.inspect_err(|_| {
            endpoint.refused();
        })?;
        if let Some(inbox) = endpoint.inboxes.get(usize::from(thread)) {
            inbox.push_now(Entry::Adopt(pending, socket));
        }
        Ok(())
    }
}
