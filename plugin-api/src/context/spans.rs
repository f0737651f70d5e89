//! Spans: what a callback spends its time with, for whoever looks at the traces of the host.

use std::marker::PhantomData;

use super::Context;
use crate::glue::Calls;

/// A span of the current callback. It ends when this is dropped.
#[must_use = "the span ends when this is dropped"]
pub struct Span<'a> {
    /// `None`: the event is not traced.
    open: Option<(Calls, i64)>,
    /// It ends before the callback does, whose context it borrows.
    callback: PhantomData<&'a ()>,
}

impl<P> Context<P> {
    /// Begins a span of the trace that the current event belongs to: a part of the callback that takes time, with a name that is the
    /// same for all events, such as `load history`. It lasts until the value is dropped. Spans inside of others are their children.
    ///
    /// The host sends spans to a collector if it has `[telemetry]` and the client's trace was chosen. Otherwise, and on hosts that
    /// know no spans, this does next to nothing. The host cuts names at 100 bytes, and an event has at most
    /// `[telemetry] max_spans_per_event` spans.
    ///
    /// A span belongs to its callback. Work that goes on elsewhere, on a thread or in a task, has none; the event of the client lasts
    /// until the promised reply in any case.
    ///
    /// ```
    /// # use bennu_plugin::prelude::*;
    /// # fn in_a_callback(cx: &Context) -> Handled {
    /// let history = {
    ///     let _span = cx.span("load history");
    ///     std::fs::read_to_string("history.txt").unwrap_or_default()
    /// };
    /// # Ok(Reply::ok_with(json!({ "history": history })))
    /// # }
    /// ```
    pub fn span(&self, name: &str) -> Span<'_> {
        let calls = self.calls;
        Span {
            open: calls.and_then(|calls| Some((calls, calls.span_begin(name)?))),
            callback: PhantomData,
        }
    }
}

impl Drop for Span<'_> {
    fn drop(&mut self) {
        if let Some((calls, span)) = self.open {
            calls.span_end(span);
        }
    }
}
