//! One span: something that began, and ends.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytestring::ByteString;

use super::{TraceParent, Tracer};

/// The longest name or text in a span, in bytes. Clients and plugins choose some of them.
pub(crate) const MOST_TEXT: usize = 100;
/// The outcome of what nobody has ended.
const DROPPED: &str = "dropped";

/// A span, if its trace was chosen.
pub(crate) type Traced = Option<Arc<Span>>;

/// A span that has not ended. It ends when somebody says so, or when nobody holds it any more.
#[derive(Debug)]
pub(crate) struct Span {
    tracer: Arc<Tracer>,
    context: SpanContext,
    /// `None`: it has ended.
    running: Mutex<Option<Box<Running>>>,
}

/// Where others find a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpanContext {
    /// The trace.
    pub(crate) trace: u128,
    /// The span in it.
    pub(crate) span: u64,
}

#[derive(Debug)]
struct Running {
    finished: Finished,
    /// A late answer ends it.
    is_postponed: bool,
}

/// A span that has ended.
#[derive(Debug, PartialEq)]
#[cfg_attr(
    not(feature = "telemetry"),
    allow(dead_code, reason = "a build without traces sends none")
)]
pub(crate) struct Finished {
    /// Where others find it.
    pub(crate) context: SpanContext,
    /// The span that it is a part of.
    pub(crate) parent: Option<u64>,
    /// That span is somebody else's.
    pub(crate) has_remote_parent: bool,
    /// A span of another trace that it has to do with.
    pub(crate) link: Option<SpanContext>,
    /// What it is.
    pub(crate) name: Cow<'static, str>,
    /// What kind of thing.
    pub(crate) kind: Kind,
    /// When it began, in nanoseconds since 1970.
    pub(crate) begun: u64,
    /// When it ended. Never before it began, whatever the system's clock did meanwhile.
    pub(crate) ended: u64,
    /// What is known of it.
    pub(crate) attributes: Vec<(&'static str, Value)>,
    /// How it ended.
    pub(crate) outcome: Option<ByteString>,
    /// Something is wrong: for the eyes of an operator.
    pub(crate) has_failed: bool,
}

/// What kind of thing a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Somebody outside has asked for it.
    Server,
    /// A part of something.
    Internal,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// At most [`MOST_TEXT`] bytes.
    Text(ByteString),
    /// A number.
    Number(i64),
}

/// The memory that a span takes while it runs, roughly: with its attributes.
#[must_use]
pub(crate) fn bytes_of(trace: &Traced) -> usize {
    if trace.is_some() { 1_024 } else { 0 }
}

impl Span {
    /// A span in the trace of `parent`, or in a new one.
    pub(super) fn of_trace(
        tracer: &Arc<Tracer>,
        name: &'static str,
        parent: Option<TraceParent>,
        link: Option<SpanContext>,
    ) -> Arc<Self> {
        let ids = &tracer.ids;
        let trace = parent.map_or_else(
            || u128::from(ids.next()) << 64 | u128::from(ids.next()),
            |parent| parent.trace,
        );
        let finished = Finished {
            parent: parent.map(|parent| parent.span),
            has_remote_parent: parent.is_some(),
            link,
            ..Finished::begin(trace, ids.next(), name.into(), Kind::Server)
        };
        Self::run(tracer, finished)
    }

    /// A part of `parent`, which may have ended long ago.
    pub(super) fn child_of(tracer: &Arc<Tracer>, parent: SpanContext, name: &'static str, kind: Kind) -> Arc<Self> {
        let finished = Finished {
            parent: Some(parent.span),
            ..Finished::begin(parent.trace, tracer.ids.next(), name.into(), kind)
        };
        Self::run(tracer, finished)
    }

    /// A part of this one.
    #[must_use]
    pub(crate) fn child(&self, name: &'static str) -> Arc<Self> {
        Self::child_of(&self.tracer, self.context, name, Kind::Internal)
    }

    /// A part of this one that a plugin has named.
    #[must_use]
    pub(crate) fn named_child(&self, name: &str) -> Arc<Self> {
        let child = self.child("");
        child.with(|running| running.finished.name = Cow::Owned(bounded(name).to_owned()));
        child
    }

    fn run(tracer: &Arc<Tracer>, finished: Finished) -> Arc<Self> {
        Arc::new(Self {
            tracer: Arc::clone(tracer),
            context: finished.context,
            running: Mutex::new(Some(Box::new(Running {
                finished,
                is_postponed: false,
            }))),
        })
    }

    /// Where others find it.
    #[must_use]
    pub(crate) fn context(&self) -> SpanContext {
        self.context
    }

    /// What begins and bounds it.
    #[must_use]
    pub(crate) fn tracer(&self) -> &Arc<Tracer> {
        &self.tracer
    }

    /// Adds a text, cut at [`MOST_TEXT`] bytes.
    pub(crate) fn text(&self, key: &'static str, text: &str) {
        let text = Value::Text(ByteString::from(bounded(text)));
        self.with(|running| running.finished.attributes.push((key, text)));
    }

    /// Adds a number.
    pub(crate) fn number(&self, key: &'static str, number: u64) {
        let number = Value::Number(i64::try_from(number).unwrap_or(i64::MAX));
        self.with(|running| running.finished.attributes.push((key, number)));
    }

    /// Notes how long it has lasted until now, in microseconds, unless that was noted before.
    pub(crate) fn elapsed(&self, key: &'static str) {
        let now = now();
        self.with(|running| {
            let Finished { begun, attributes, .. } = &mut running.finished;
            if attributes.iter().all(|(known, _)| *known != key) {
                let micros = now.saturating_sub(*begun) / 1_000;
                attributes.push((key, Value::Number(i64::try_from(micros).unwrap_or(i64::MAX))));
            }
        });
    }

    /// Notes how it will have ended.
    pub(crate) fn decide(&self, outcome: &str) {
        self.with(|running| running.finished.outcome = Some(bounded(outcome).into()));
    }

    /// A late answer will end it; or with `false`, it goes on now.
    pub(crate) fn postpone(&self, is_postponed: bool) {
        self.with(|running| running.is_postponed = is_postponed);
    }

    /// Ends it, unless it is postponed. What was decided before counts; otherwise `outcome`.
    pub(crate) fn settle(&self, outcome: &str, has_failed: bool) {
        self.finish(|running| !running.is_postponed, outcome, has_failed);
    }

    /// Ends it.
    pub(crate) fn end(&self, outcome: &str) {
        self.decide(outcome);
        self.finish(|_| true, outcome, false);
    }

    /// Ends it as something that is wrong.
    pub(crate) fn fail(&self, outcome: &str) {
        self.decide(outcome);
        self.finish(|_| true, outcome, true);
    }

    fn finish(&self, is_over: impl FnOnce(&Running) -> bool, outcome: &str, has_failed: bool) {
        let mut running = self.lock();
        if !running.as_deref().is_some_and(is_over) {
            return;
        }
        let Some(ended) = running.take() else { return };
        drop(running);
        let mut finished = ended.finished;
        finished.ended = now().max(finished.begun);
        finished.outcome.get_or_insert_with(|| bounded(outcome).into());
        finished.has_failed |= has_failed;
        self.tracer.finish(finished);
    }

    fn with(&self, change: impl FnOnce(&mut Running)) {
        if let Some(running) = self.lock().as_deref_mut() {
            change(running);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Box<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        self.finish(|_| true, DROPPED, false);
    }
}

impl Finished {
    fn begin(trace: u128, span: u64, name: Cow<'static, str>, kind: Kind) -> Self {
        let begun = now();
        Self {
            context: SpanContext { trace, span },
            parent: None,
            has_remote_parent: false,
            link: None,
            name,
            kind,
            begun,
            ended: begun,
            attributes: Vec::new(),
            outcome: None,
            has_failed: false,
        }
    }
}

/// The beginning of a text, as far as it may be long.
fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(MOST_TEXT)]
}

/// The time by the system's clock, in nanoseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
