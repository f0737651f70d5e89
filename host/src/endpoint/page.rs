//! What `bennu dev` serves besides: a page to try channels on, its client, and the news of builds and reloads.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use tokio::sync::broadcast::error::RecvError;

use super::Shared;

/// The page's paths.
pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/", get(async || Html(include_str!("../../assets/index.html"))))
        .route("/page.js", get(async || script(include_str!("../../assets/page.js"))))
        .route("/bennu.js", get(async || script(include_str!("../../assets/bennu.js"))))
        .route("/dev/events", get(news))
}

fn script(text: &'static str) -> impl IntoResponse {
    (
        [
            (header::CONTENT_TYPE, "text/javascript; charset=utf-8"),
            (header::CACHE_CONTROL, "no-cache"),
        ],
        text,
    )
}

/// News as server-sent events, from now on. A page that falls behind misses the oldest.
async fn news(State(shared): State<Arc<Shared>>) -> Response {
    let Some(news) = shared.dev.as_ref().map(tokio::sync::broadcast::Sender::subscribe) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let events = futures_util::stream::unfold(news, async |mut news| {
        loop {
            match news.recv().await {
                Ok((name, json)) => return Some((Ok::<_, Infallible>(Event::default().event(name).data(json)), news)),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}
