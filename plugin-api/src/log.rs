//! Sends a plugin's `tracing` events to the host's log.
//!
//! A library has its own copy of `tracing`, whose events the host does not see. [`attach`] installs [`Forward`] there, which passes
//! each event to the host: level, target, fields, the fields of open spans, and the topic and the member that it is about. It asks
//! the host's filter once for each place in the code; after that, an event that the filter drops costs one comparison.
//!
//! Nothing here outlives the library: after [`detach`] nothing here refers to the host.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tracing::dispatcher::{self, Dispatch};
use tracing::field::{self, Visit};
use tracing::metadata::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Level, Metadata, Subscriber, callsite};

use crate::glue::HostHandle;

/// Spans that may be open at a time. Events in further spans come without the fields of these.
const MOST_SPANS: usize = 10_000;
/// The number of spans around one event whose fields go with it.
const MOST_PARENTS: usize = 16;

/// Events go to the last one. Only tests have more than one.
static HOSTS: RwLock<Vec<Arc<HostHandle>>> = RwLock::new(Vec::new());
static SPANS: Mutex<BTreeMap<u64, Span>> = Mutex::new(BTreeMap::new());
static NEXT_SPAN: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// The topic and the member of the callback that runs on this thread.
    static CALLBACK: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
    /// The spans that this thread has entered, the innermost last.
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// A callback of this topic (or 0) and this member (or 0) starts on this thread.
pub(crate) fn enter(topic: u64, member: u64) {
    CALLBACK.set((topic, member));
}

/// What the running code is about: a topic and a member, or 0 if there is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) topic: u64,
    pub(crate) member: u64,
    /// The socket id, for code outside of callbacks; within callbacks the host knows it.
    pub(crate) socket: Option<Arc<str>>,
}

impl Place {
    fn current() -> Self {
        #[cfg(feature = "async")]
        if let Some(place) = crate::tasks::place() {
            return place;
        }
        let (topic, member) = CALLBACK.get();
        Self {
            topic,
            member,
            socket: None,
        }
    }
}

/// One field of an event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Text(String),
    /// Formatted by `Debug` or `Display`: shown without quotes.
    Written(String),
    Bool(bool),
    I64(i64),
    U64(u64),
    F64(f64),
}

/// Sends this library's events to `host` from now on. A subscriber that the program has already, as in a test, stays.
pub(crate) fn attach(host: &Arc<HostHandle>) {
    let mut hosts = HOSTS.write().unwrap_or_else(PoisonError::into_inner);
    hosts.push(Arc::clone(host));
    drop(hosts);
    if dispatcher::set_global_default(Dispatch::new(Forward)).is_err() {
        // A second host, in a test: its filter may differ.
        callsite::rebuild_interest_cache();
    }
}

/// Stops sending events to `host`.
pub(crate) fn detach(host: &Arc<HostHandle>) {
    let mut attached = HOSTS.write().unwrap_or_else(PoisonError::into_inner);
    attached.retain(|attached| !Arc::ptr_eq(attached, host));
    if attached.is_empty() {
        spans().clear();
    }
}

fn host() -> Option<Arc<HostHandle>> {
    HOSTS.read().unwrap_or_else(PoisonError::into_inner).last().cloned()
}

fn spans() -> MutexGuard<'static, BTreeMap<u64, Span>> {
    SPANS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number of a level in the contract.
pub(crate) fn number_of(level: Level) -> u32 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

/// An open span.
struct Span {
    metadata: &'static Metadata<'static>,
    parent: Option<u64>,
    fields: Vec<Field>,
    /// The number of handles to it and of open spans inside it.
    users: usize,
}

/// The subscriber of a plugin's library.
struct Forward;

impl Subscriber for Forward {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // The host's level may change while the plugin runs.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        host().is_some_and(|host| host.log_enabled(number_of(*metadata.level()), metadata.target()))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        None
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let number = NEXT_SPAN.fetch_add(1, Ordering::Relaxed);
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let parent = match attributes.parent() {
            Some(parent) => Some(parent.into_u64()),
            None if attributes.is_root() => None,
            None => entered(),
        };
        let mut spans = spans();
        if spans.len() < MOST_SPANS {
            let parent = parent.filter(|parent| spans.get_mut(parent).map(|span| span.users += 1).is_some());
            let span = Span {
                metadata: attributes.metadata(),
                parent,
                fields: fields.0,
                users: 1,
            };
            spans.insert(number, span);
        }
        Id::from_u64(number)
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        if let Some(span) = spans().get_mut(&id.into_u64()) {
            span.fields.extend(fields.0);
        }
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let Some(host) = host() else { return };
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut fields = fields.0;
        let span = match event.parent() {
            Some(parent) => Some(parent.into_u64()),
            None if event.is_root() => None,
            None => entered(),
        };
        add_spans(span, &mut fields);
        let metadata = event.metadata();
        host.record(
            number_of(*metadata.level()),
            metadata.target(),
            &Place::current(),
            &fields,
        );
    }

    fn enter(&self, id: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(id.into_u64()));
    }

    fn exit(&self, id: &Id) {
        ENTERED.with_borrow_mut(|entered| {
            if let Some(at) = entered.iter().rposition(|entered| *entered == id.into_u64()) {
                entered.remove(at);
            }
        });
    }

    fn clone_span(&self, id: &Id) -> Id {
        if let Some(span) = spans().get_mut(&id.into_u64()) {
            span.users += 1;
        }
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        let mut spans = spans();
        let (mut leaving, mut closed) = (Some(id.into_u64()), false);
        while let Some(number) = leaving {
            let Some(span) = spans.get_mut(&number) else { break };
            span.users -= 1;
            if span.users > 0 {
                break;
            }
            closed |= number == id.into_u64();
            leaving = spans.remove(&number).and_then(|span| span.parent);
        }
        closed
    }

    fn current_span(&self) -> tracing_core::span::Current {
        use tracing_core::span::Current;
        let found = entered().and_then(|number| Some((number, spans().get(&number)?.metadata)));
        found.map_or_else(Current::none, |(number, metadata)| {
            Current::new(Id::from_u64(number), metadata)
        })
    }
}

/// The innermost span that this thread has entered.
fn entered() -> Option<u64> {
    ENTERED.with_borrow(|entered| entered.last().copied())
}

/// Adds the names of the spans around an event as the field `span`, and then their fields, the outermost span first.
fn add_spans(innermost: Option<u64>, fields: &mut Vec<Field>) {
    let spans = spans();
    let around = std::iter::successors(innermost.and_then(|number| spans.get(&number)), |span| {
        spans.get(&span.parent?)
    });
    let mut around: Vec<&Span> = around.take(MOST_PARENTS).collect();
    if around.is_empty() {
        return;
    }
    around.reverse();
    let names: Vec<_> = around.iter().map(|span| span.metadata.name()).collect();
    fields.push(Field {
        name: "span",
        value: Value::Written(names.join(":")),
    });
    fields.extend(around.into_iter().flat_map(|span| span.fields.iter().cloned()));
}

/// Collects the fields of an event or a span.
#[derive(Default)]
struct Fields(Vec<Field>);

impl Fields {
    fn add(&mut self, field: &field::Field, value: Value) {
        let name = field.name();
        self.0.push(Field { name, value });
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &field::Field, value: &dyn fmt::Debug) {
        self.add(field, Value::Written(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &field::Field, value: &str) {
        self.add(field, Value::Text(value.to_owned()));
    }

    fn record_bool(&mut self, field: &field::Field, value: bool) {
        self.add(field, Value::Bool(value));
    }

    fn record_i64(&mut self, field: &field::Field, value: i64) {
        self.add(field, Value::I64(value));
    }

    fn record_u64(&mut self, field: &field::Field, value: u64) {
        self.add(field, Value::U64(value));
    }

    fn record_f64(&mut self, field: &field::Field, value: f64) {
        self.add(field, Value::F64(value));
    }
}

/// The fields as a line of text, for older hosts.
pub(crate) fn as_text(fields: &[Field]) -> String {
    let mut text = String::new();
    for Field { name, value } in fields {
        if !text.is_empty() {
            text.push(' ');
        }
        if *name != "message" {
            let _ = write!(text, "{name}=");
        }
        let _ = match value {
            Value::Text(value) if *name == "message" => write!(text, "{value}"),
            Value::Text(value) => write!(text, "{value:?}"),
            Value::Written(value) => write!(text, "{value}"),
            Value::Bool(value) => write!(text, "{value}"),
            Value::I64(value) => write!(text, "{value}"),
            Value::U64(value) => write!(text, "{value}"),
            Value::F64(value) => write!(text, "{value}"),
        };
    }
    text
}
