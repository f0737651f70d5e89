//! The callback of a traced event while it runs, and the spans that its plugin opens in it.

use std::sync::Arc;

use bennu_plugin::abi::effect;

use super::env::Env;
use super::loader::{Effect, Outcome};
use crate::runtime::trace::Span;

/// The callback of a traced event while it runs.
#[derive(Debug)]
pub(super) struct Handling {
    span: Arc<Span>,
    /// The spans of the plugin that are open, the innermost last, with their numbers.
    open: Vec<(u64, Arc<Span>)>,
    /// How many there were.
    begun: u64,
}

impl Handling {
    /// A callback begins, for what `event` is the span of. What that span has lasted so far, it has waited.
    pub(super) fn begin(event: &Arc<Span>, callback: &'static str, env: &Env) -> Box<Self> {
        // If this is the answer that it waited for, it goes on now.
        event.postpone(false);
        event.elapsed("bennu.wait_us");
        let span = event.child("handler");
        span.text("bennu.callback", callback);
        span.text("bennu.plugin", &env.slot.name);
        span.number("bennu.generation", env.generation);
        Box::new(Self {
            span,
            open: Vec::new(),
            begun: 0,
        })
    }

    /// The plugin begins a span. Returns its number, or 0: there are too many.
    fn span_begin(&mut self, name: &str) -> i64 {
        let outer = self.open.last().map_or(&self.span, |(_, span)| span);
        let tracer = outer.tracer();
        if self.begun >= tracer.settings().max_spans_per_event as u64 {
            tracer.counts.beyond.inc();
            return 0;
        }
        let inner = outer.named_child(name);
        self.begun += 1;
        self.open.push((self.begun, inner));
        i64::try_from(self.begun).unwrap_or(0)
    }

    /// The plugin ends a span, and with it those inside.
    fn span_end(&mut self, number: u64) {
        let Some(at) = self.open.iter().position(|(open, _)| *open == number) else {
            return;
        };
        for (_, span) in self.open.drain(at..).rev() {
            span.end("ok");
        }
    }

    /// The callback has returned.
    pub(super) fn end(self, outcome: Outcome) {
        let (word, has_failed) = said(outcome);
        for (_, span) in self.open.into_iter().rev() {
            span.settle(word, has_failed);
        }
        self.span.settle(word, has_failed);
    }
}

/// Begins or ends a span, if that is what the effect asks for. Where nothing is traced, there is nothing to do.
pub(super) fn span(handling: &mut Option<Box<Handling>>, effect: &Effect<'_>) -> Option<i64> {
    match (effect.kind, handling) {
        (effect::SPAN_BEGIN, Some(handling)) => Some(handling.span_begin(effect.name)),
        (effect::SPAN_END, Some(handling)) => {
            handling.span_end(effect.number);
            Some(0)
        }
        (effect::SPAN_BEGIN | effect::SPAN_END, None) => Some(0),
        _ => None,
    }
}

/// How an event has ended, in one word, and whether that is a fault.
pub(super) fn said(outcome: Outcome) -> (&'static str, bool) {
    match outcome {
        Outcome::Ok => ("ok", false),
        Outcome::Panicked => ("crashed", true),
        Outcome::Failed => ("failed", true),
        Outcome::Unknown => ("unhandled", false),
    }
}
