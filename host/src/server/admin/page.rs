//! The dashboard: files for a browser. They are the same for everybody and hold no data, so nobody needs a secret for them; what
//! they show, they ask for like any other client.

use axum::Router;
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;
use http::HeaderName;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_FRAME_OPTIONS};

use super::Admin;

/// What the page may do: run its own scripts, and ask its own server. Nothing of what it shows can become code.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The files by path, with their type.
const FILES: [(&str, &str, &str); 11] = [
    (
        "/dashboard/",
        HTML,
        include_str!("../../../assets/dashboard/index.html"),
    ),
    (
        "/dashboard/style.css",
        CSS,
        include_str!("../../../assets/dashboard/style.css"),
    ),
    ("/dashboard/dom.js", JAVASCRIPT, include_str!("../../../assets/dom.js")),
    (
        "/dashboard/dashboard.js",
        JAVASCRIPT,
        include_str!("../../../assets/dashboard/dashboard.js"),
    ),
    (
        "/dashboard/server.js",
        JAVASCRIPT,
        include_str!("../../../assets/dashboard/server.js"),
    ),
    (
        "/dashboard/tables.js",
        JAVASCRIPT,
        include_str!("../../../assets/dashboard/tables.js"),
    ),
    (
        "/dashboard/words.js",
        JAVASCRIPT,
        include_str!("../../../assets/dashboard/words.js"),
    ),
    (
        "/dashboard/overview.js",
        JAVASCRIPT,
        include_str!("../../../assets/dashboard/overview.js"),
    ),
    (
        "/dashboard/history.js",
        JAVASCRIPT,
        include_str!("../../../assets/dashboard/history.js"),
    ),
    (
        "/dashboard/clients.js",
        JAVASCRIPT,
        include_str!("../../../assets/dashboard/clients.js"),
    ),
    (
        "/dashboard/actions.js",
        JAVASCRIPT,
        include_str!("../../../assets/dashboard/actions.js"),
    ),
];

/// The paths of the files.
pub(super) fn routes() -> Router<Admin> {
    let router = Router::new().route("/dashboard", get(async || Redirect::to("dashboard/")));
    FILES.iter().fold(router, |router, (path, kind, text)| {
        router.route(path, get(async move || file(kind, text)))
    })
}

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers: [(HeaderName, &str); 5] = [
        (CONTENT_TYPE, kind),
        // A new version of the server brings new files.
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "same-origin"),
    ];
    (headers, text)
}
