//! Traces: who asked for what, how long that waited and how long it took, as spans for a collector.
//!
//! A host without `[telemetry]` has no [`Tracer`], and each place that could begin a span pays one branch. Where there is one, a
//! [`Span`] exists only if its trace was chosen. Nothing here waits or sends: a span that ends goes into a queue with a bound, and
//! the server's exporter takes it from there.
//!
//! Whether a trace is chosen is decided once, where it begins, and by chance: by a number of our own, so that no client can choose a
//! trace id that is always taken.

mod ids;
mod parent;
mod queue;
mod span;

use std::sync::Arc;

use bennu_wire::message::Payload;
use prometheus_client::metrics::counter::Counter;

use self::ids::Ids;
pub(crate) use self::parent::{TRACEPARENT, TraceParent};
pub(crate) use self::queue::Queue;
#[cfg(feature = "telemetry")]
pub(crate) use self::span::Value;
pub(crate) use self::span::{Finished, Kind, Span, SpanContext, Traced, bytes_of};
use crate::config::{Follow, Telemetry};

/// Begins spans, and keeps those that have ended until they are sent.
#[derive(Debug)]
pub(crate) struct Tracer {
    settings: Telemetry,
    ids: Ids,
    queue: Queue,
    /// What becomes of spans.
    pub(crate) counts: Counts,
}

/// What becomes of spans.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// The collector has taken them.
    pub(crate) exported: Counter,
    /// They were dropped because as many waited as may wait.
    pub(crate) full: Counter,
    /// They were dropped because the collector did not take them.
    pub(crate) refused: Counter,
    /// They were not begun because their event had as many as it may have.
    pub(crate) beyond: Counter,
}

/// The trace of a client's connection, which was chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientTrace {
    connect: SpanContext,
    /// How many of its joins and events may still be in the trace of its connect.
    left: usize,
}

/// Who says what trace it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asking {
    /// A client, which may be anybody.
    Client,
    /// A backend, which has a key.
    Backend,
}

impl Tracer {
    /// One with these settings, for spans that nobody has sent yet.
    #[cfg_attr(
        not(feature = "telemetry"),
        allow(dead_code, reason = "a build without traces has none")
    )]
    #[must_use]
    pub(crate) fn new(settings: Telemetry) -> Self {
        Self {
            ids: Ids::new(),
            queue: Queue::new(settings.max_queue_spans),
            counts: Counts::default(),
            settings,
        }
    }

    /// What it was made with.
    #[must_use]
    pub(crate) fn settings(&self) -> &Telemetry {
        &self.settings
    }

    /// Spans that have ended and wait for the collector.
    #[must_use]
    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Begins a span for what somebody asks, in the trace that it names or in one of its own. `None`: the trace is not chosen.
    #[must_use]
    pub(crate) fn begin(self: &Arc<Self>, name: &'static str, asking: Asking, parent: Option<TraceParent>) -> Traced {
        self.begin_linked(name, asking, parent, None)
    }

    fn begin_linked(
        self: &Arc<Self>,
        name: &'static str,
        asking: Asking,
        parent: Option<TraceParent>,
        link: Option<SpanContext>,
    ) -> Traced {
        let is_followed = match self.settings.follow {
            Follow::Nobody => false,
            Follow::Backends => asking == Asking::Backend,
            Follow::Everybody => true,
        };
        let is_chosen = match parent {
            Some(parent) if is_followed => parent.is_sampled,
            _ => self.ids.chance() < self.settings.ratio,
        };
        is_chosen.then(|| Span::of_trace(self, name, parent, link))
    }

    /// What a client's joins and events belong to from now on.
    #[must_use]
    pub(crate) fn client(&self, connect: &Span) -> ClientTrace {
        ClientTrace {
            connect: connect.context(),
            left: self.settings.max_client_spans,
        }
    }

    /// Begins the span of a join or an event of a client. It belongs to the trace that its payload names; or else to that of the
    /// client's connect; or else, beyond `max_client_spans`, to one of its own. The latter two only if the connect was chosen.
    #[must_use]
    pub(crate) fn of_client(
        self: &Arc<Self>,
        name: &'static str,
        payload: &Payload,
        client: &mut Option<Box<ClientTrace>>,
    ) -> Traced {
        let link = client.as_ref().map(|client| client.connect);
        if let Some(parent) = TraceParent::in_payload(payload) {
            return self.begin_linked(name, Asking::Client, Some(parent), link);
        }
        let client = client.as_mut()?;
        if client.left == 0 {
            return self.begin_linked(name, Asking::Client, None, link);
        }
        client.left -= 1;
        Some(Span::child_of(self, client.connect, name, Kind::Server))
    }

    /// The whole name of a topic, if spans may have it.
    #[must_use]
    pub(crate) fn topic<'a>(&self, topic: &'a str) -> Option<&'a str> {
        self.settings.topics.then_some(topic)
    }

    fn finish(&self, finished: Finished) {
        if !self.queue.push(finished) {
            self.counts.full.inc();
        }
    }
}

#[cfg(test)]
#[path = "trace_tests.rs"]
mod tests;
