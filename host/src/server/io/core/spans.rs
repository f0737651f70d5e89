//! Begins the spans of what clients send, if anything is traced.

use bennu_wire::message::Payload;

use super::Core;
use crate::config::Route;
use crate::runtime::trace::{Span, Traced};

impl Core {
    /// Begins the span of a join or an event that the host is about to give to a topic.
    pub(super) fn begin_span(&mut self, slot: usize, name: &'static str, payload: &Payload) -> Traced {
        let tracer = self.state.hub.tracer.as_ref()?;
        let socket = &mut self.sockets[slot];
        let trace = tracer.of_client(name, payload, &mut socket.info.trace)?;
        trace.text("bennu.mount", &socket.info.mount.path);
        if let Some(transport) = &socket.transport {
            trace.text("bennu.transport", transport.name());
        }
        Some(trace)
    }
}

/// Says where a join or an event goes: by its route, and by the topic itself only if the configuration wants that.
pub(super) fn describe(trace: &Span, route: &Route, topic: &str) {
    trace.text("bennu.route", &route.topic.to_string());
    trace.text("bennu.plugin", &route.plugin);
    if let Some(topic) = trace.tracer().topic(topic) {
        trace.text("bennu.topic", topic);
    }
}
