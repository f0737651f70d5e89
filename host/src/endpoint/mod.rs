//! Where clients come in over HTTP: one axum router for all I/O threads.
//!
//! Mounts are looked up in the [`Routing`] of the moment, as a changed configuration may have others. In `dev` the page
//! and its news stand beside them.

mod board;
mod connect;
mod entrance;
mod filter;
mod info;
mod longpoll;
pub mod origin;
mod page;
pub mod params;
mod relay;
mod routing;
mod seeds;
mod shared;
mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse as _, Response};
use http::{Request, StatusCode};

pub use board::{Board, DevEvent};
pub use connect::Denied;
pub use entrance::{Entrance, Visit};
pub use routing::Routing;
use routing::Served;
pub use shared::Shared;

/// Whose request it is, and where it is served.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// The I/O thread that the connection belongs to.
    pub thread: u8,
    /// The client's address.
    pub peer: SocketAddr,
}

/// The router for all connections. Each request brings its [`Client`] along as an extension.
pub fn app(shared: Arc<Shared>) -> Router {
    let router = if shared.dev.is_some() {
        page::routes()
    } else {
        Router::new()
    };
    router.fallback(mounts).with_state(shared)
}

/// Anything that is not a page: a transport of a mount, or nothing.
async fn mounts(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Response {
    let served = shared.routing().served(request.uri().path());
    if let Some(Served::SeedsLongPoll(poller)) = served {
        return poller.call(shared, client, request).await;
    }
    match served {
        // A long-poll session that is there is served to its end: only its beginning is turned away.
        Some(Served::WebSocket(..) | Served::Echo(_)) if shared.turns_away() => {
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
        Some(Served::WebSocket(mount, dialect)) => websocket::serve(shared, mount, dialect, client, request).await,
        Some(Served::Echo(mount)) => websocket::echo(&shared, mount, client, request),
        Some(Served::LongPoll(mount)) => longpoll::serve(shared, mount, client, request).await,
        Some(Served::SeedsLongPoll(_)) | None => (StatusCode::NOT_FOUND, "nothing is served here\n").into_response(),
    }
}
