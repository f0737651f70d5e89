//! Closes the connections of a socket id, and keeps it away for a while.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use bennu_wire::message::{Payload, event};
use serde::Deserialize;
use serde_json::json;

use super::Asked;
use super::answer::{Answer, Reason, Refusal};
use super::body::object;
use super::broadcast::text;
use crate::runtime::plugin::Published;
use crate::runtime::refused_ids::Full;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    #[serde(borrow)]
    socket_id: Option<Cow<'a, str>>,
    refuse_ms: Option<u64>,
}

pub(super) async fn carry_out(asked: &Asked) -> Result<Answer, Refusal> {
    let config = &asked.routing.config;
    let written: Written<'_> = object(&asked.body)?;
    let socket_id = text(written.socket_id, "socket_id", config.limits.max_topic_bytes)?;
    if !asked.key.may_name(&socket_id) {
        return Err(Refusal::forbidden());
    }
    let hub = &asked.api.endpoint.state.hub;
    if let Some(refuse_ms) = written.refuse_ms {
        let (wait, longest) = (Duration::from_millis(refuse_ms), config.api.max_refuse);
        if wait > longest {
            return Err(Refusal::invalid(format!(
                "`refuse_ms` may be {} at most",
                longest.as_millis()
            )));
        }
        // Before anybody is closed: whoever comes back at once is refused already.
        let (refused, most) = (&hub.pubsub.refused, config.api.max_refused_ids);
        refused
            .refuse(socket_id.clone(), wait, most, Instant::now())
            .map_err(|Full| Refusal::new(Reason::Full, format!("{most} socket ids are refused already")))?;
        if let Some(homes) = hub.homes() {
            homes.refuse(socket_id.clone(), wait);
        }
    }
    let Published { reached, .. } = hub.broadcast_counted(
        socket_id.clone(),
        event::DISCONNECT.into(),
        Payload::EMPTY,
        &asked.api.reached,
    );
    let disconnected = asked.counted(reached).await.map(|heard| heard.reached);
    asked.api.metrics.disconnected.inc_by(disconnected.unwrap_or(0) as u64);
    tracing::info!(
        key = asked.key.name,
        socket_id = &*socket_id,
        disconnected,
        refuse_ms = written.refuse_ms,
        "disconnected by a backend"
    );
    Ok(Answer::ok(&json!({ "disconnected": disconnected })))
}
