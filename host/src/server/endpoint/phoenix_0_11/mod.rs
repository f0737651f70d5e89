//! What only the Phoenix 0.11 dialect has when clients connect: its long polling, and its check of origins.
//!
//! `host/docs/phoenix-0.11.md` leads from the two documents that describe it to the code.

mod longpoll;
mod origin;

use std::sync::Arc;

use http::header;
use http::request::Parts;

pub(super) use longpoll::LongPoller;

use super::Endpoint;
use crate::config::Mount;
use crate::server::io::Client;

/// Whether `origins` of a mount allows the request's `Origin`. Requests without one are allowed, and without `origins` all are. The
/// log says how to allow a refused one.
pub(super) fn check_origin(
    endpoint: &Endpoint,
    client: Client,
    mount: &Arc<Mount>,
    transport: &'static str,
    parts: &Parts,
) -> bool {
    let origins = mount
        .phoenix_0_11
        .as_ref()
        .and_then(|phoenix_0_11| phoenix_0_11.origins.as_ref());
    let (Some(origins), Some(origin)) = (origins, parts.headers.get(header::ORIGIN)) else {
        return true;
    };
    let origin = origin.to_str().unwrap_or("");
    let allowed = origin::is_listed(origins, origin);
    if !allowed {
        endpoint.refuse_origin(client, mount, transport, origin, "add it to `origins` of the mount");
    }
    allowed
}
