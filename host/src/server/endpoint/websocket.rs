//! `<mount>/websocket`, and `<mount>` in the Phoenix 0.11 dialect: the handshake, after which the connection leaves hyper.

use std::net::TcpStream;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bennu_wire::dialect::Dialect;
use bennu_wire::serializer::v2::V2;
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::connect::{self, Attempt};
use super::params::Params;
use super::{Endpoint, phoenix_0_11};
use crate::config::Mount;
use crate::server::closes::{RefusalReason, Refused};
use crate::server::io::Client;
use crate::server::io::{Entry, HttpStream};
use crate::server::socket::{NewSocket, Places};
use crate::server::tls::Session;
use crate::server::transport::websocket::handshake::{HandshakeError, Upgrade};
use crate::server::transport::websocket::{Upgraded, extension, subprotocol};

/// The name of the transport.
const NAME: &str = "websocket";

/// Answers a request for a WebSocket. It checks in Phoenix's order: method, origin, form of the auth token, subprotocol,
/// version, the token itself, connect handler, and only then the headers of the upgrade. In the Phoenix 0.11 dialect the origin comes first.
pub(super) async fn serve(
    endpoint: Arc<Endpoint>,
    mount: Arc<Mount>,
    dialect: Dialect,
    client: Client,
    request: Request<Body>,
) -> Response {
    let (mut parts, _) = request.into_parts();
    let places = match places(&endpoint, client, &mount, &mut parts) {
        Ok(places) => places,
        Err(response) => return response,
    };
    let refused = |reason, status, detail: Option<&str>| {
        endpoint.refuse(client, Some(&mount), NAME, Refused::new(reason, status, detail));
    };
    if dialect == Dialect::Phoenix011 && !phoenix_0_11::check_origin(&endpoint, client, &mount, NAME, &parts) {
        return StatusCode::FORBIDDEN.into_response();
    }
    if parts.method != Method::GET {
        refused(RefusalReason::Method, 400, None);
        return HandshakeError::Method.response().map(Body::from);
    }
    if dialect != Dialect::Phoenix011
        && let Err(denied) = connect::check_origin(&endpoint, client, &mount, NAME, &parts).await
    {
        return denied.response();
    }
    let Ok(params) = Params::parse(parts.uri.query().unwrap_or("")) else {
        refused(RefusalReason::Query, 400, None);
        return StatusCode::BAD_REQUEST.into_response();
    };
    let agreed = match subprotocol::negotiate(&parts.headers, mount.auth_token, &mount.subprotocols) {
        Ok(agreed) => agreed,
        Err(error) => {
            refuse(&endpoint, client, &mount, error);
            return error.response().map(Body::from);
        }
    };
    let attempt = Attempt {
        endpoint: &endpoint,
        mount: &mount,
        dialect,
        transport: NAME,
        parts: &parts,
        params: &params,
        client,
        auth_token: agreed.auth_token,
        places,
    };
    let socket = match attempt.decide().await {
        Ok(socket) => socket,
        Err(denied) => return denied.response(),
    };
    let subprotocol = agreed.subprotocol.map(str::to_owned);
    upgrade(&endpoint, client, parts, subprotocol.as_deref(), socket, false)
}

/// Answers a request for a WebSocket that echoes. It is open to everyone, as the configuration asked for it.
pub(super) fn echo(endpoint: &Arc<Endpoint>, mount: Arc<Mount>, client: Client, request: Request<Body>) -> Response {
    let (mut parts, _) = request.into_parts();
    let places = match places(endpoint, client, &mount, &mut parts) {
        Ok(places) => places,
        Err(response) => return response,
    };
    let socket = NewSocket {
        connection: client.connection,
        peer: client.peer.ip(),
        port: client.peer.port(),
        mount,
        serializer: &V2,
        dialect: Dialect::Modern,
        identity: None,
        arrival: None,
        shown: None,
        trace: None,
        places,
    };
    upgrade(endpoint, client, parts, None, socket, true)
}

/// Takes a client that wants to connect, if it may. An error is the answer.
#[expect(clippy::result_large_err, reason = "it goes out at once")]
fn places(endpoint: &Endpoint, client: Client, mount: &Arc<Mount>, parts: &mut Parts) -> Result<Places, Response> {
    match endpoint.state.take_in(client.peer.ip()) {
        Ok(session) => Ok(Places {
            connection: parts.extensions.remove(),
            session,
        }),
        Err(away) => {
            endpoint.refuse(client, Some(mount), NAME, away.refused());
            Err(super::turned_away(&away))
        }
    }
}

/// Upgrades the connection, if the request has the headers for it.
fn upgrade(
    endpoint: &Arc<Endpoint>,
    client: Client,
    mut parts: Parts,
    subprotocol: Option<&str>,
    socket: NewSocket,
    echo: bool,
) -> Response {
    let upgrade = match Upgrade::check(&parts) {
        Ok(upgrade) => upgrade,
        Err(error) => {
            refuse(endpoint, client, &socket.mount, error);
            return error.response().map(Body::from);
        }
    };
    let deflate = socket
        .mount
        .deflate
        .then(|| extension::negotiate(&parts.headers))
        .flatten();
    let Some(on_upgrade) = parts.extensions.remove::<OnUpgrade>() else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let endpoint = Arc::clone(endpoint);
    tokio::task::spawn_local(async move {
        let Some((stream, session, leftover)) = leave_hyper(on_upgrade).await else {
            let refused = Refused::new(RefusalReason::HungUp, None, None);
            return endpoint.refuse(client, Some(&socket.mount), NAME, refused);
        };
        if let Some(inbox) = endpoint.inboxes.get(usize::from(client.thread)) {
            let upgraded = Upgraded {
                stream,
                session,
                leftover,
                echo,
                deflate,
            };
            inbox.push_now(Entry::Adopt(Box::new(upgraded), socket));
        }
    });
    upgrade.response(subprotocol, deflate).map(|()| Body::empty())
}

/// Notes that a request does not become a WebSocket.
fn refuse(endpoint: &Endpoint, client: Client, mount: &Arc<Mount>, error: HandshakeError) {
    let reason = match error {
        HandshakeError::Method => RefusalReason::Method,
        HandshakeError::NotUpgrade(_) => RefusalReason::NotWebSocket,
        HandshakeError::Version => RefusalReason::WebSocketVersion,
        HandshakeError::Subprotocol => RefusalReason::Subprotocol,
        HandshakeError::Token => RefusalReason::AuthToken,
    };
    let status = error.response().status().as_u16();
    let refused = Refused::new(reason, status, Some(&error.to_string()));
    endpoint.refuse(client, Some(mount), NAME, refused);
}

/// Takes the connection out of hyper, with the bytes that hyper has already read.
async fn leave_hyper(on_upgrade: OnUpgrade) -> Option<(TcpStream, Option<Box<Session>>, Bytes)> {
    let upgraded = on_upgrade.await.ok()?;
    let Ok(parts) = upgraded.downcast::<TokioIo<HttpStream>>() else {
        tracing::error!("internal error: an upgraded connection has an unexpected type");
        return None;
    };
    let (stream, session, decrypted) = parts.io.into_inner().into_parts().ok()?;
    // Copied: it is a slice of hyper's buffer, which is large.
    let mut leftover = parts.read_buf.to_vec();
    leftover.extend(decrypted);
    Some((stream, session, leftover.into()))
}
