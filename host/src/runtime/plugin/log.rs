//! Log lines of plugins. They become events of the host's own `tracing`, with the target of the plugin's module; fields that name
//! the plugin come first.
//!
//! `tracing` needs an event's target and field names for as long as the process runs. So each combination gets a [`Source`], which
//! stays. Builds of the same plugin share it.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, OnceLock};

use bennu_plugin::wire::MemberInfo;
use tracing::callsite::{Callsite, Identifier};
use tracing::field::{self, FieldSet};
use tracing::metadata::{Kind, LevelFilter, Metadata};
use tracing::subscriber::Interest;
use tracing::{Event, Level, dispatcher};

use super::env::Env;
use super::loader::{Line, Value, crash};
use crate::runtime::channel::Member;
use crate::runtime::id::MemberId;

/// What `tracing` calls these events.
const NAME: &str = "plugin";
/// How many combinations of level, target and field names are kept, at about 200 bytes each. Beyond that, a line has its fields in
/// the text. Only a plugin that makes up targets gets there.
const MOST_SOURCES: usize = 10_000;
/// Fields of the host and the plugin together: the most that `tracing` takes in a fixed list.
const MOST_FIELDS: usize = 32;

/// Whether a plugin has written a log line itself.
#[must_use]
pub(crate) fn wrote(metadata: &Metadata<'_>) -> bool {
    metadata.name() == NAME
}

/// Whether the log shows lines of this level and target.
pub(super) fn enabled(level: u32, target: &str) -> bool {
    let level = level_of(level);
    if level > LevelFilter::current() {
        return false;
    }
    let fields = FieldSet::new(&[], Identifier(*UNKNOWN));
    let metadata = Metadata::new(NAME, target, level, None, None, None, fields, Kind::EVENT);
    dispatcher::get_default(|log| log.enabled(&metadata))
}

/// Writes a line of the plugin that `env` belongs to.
pub(super) fn write(env: &Env, line: &Line<'_>) {
    let topic = env.slot.find_number(line.topic).map(|topic| topic.name.clone());
    let socket = socket_id(env, line);
    let mut fields: Vec<(&str, Value<'_>)> = Vec::with_capacity(line.fields.len() + 4);
    let (said, own): (Vec<_>, Vec<_>) = line.fields.iter().copied().partition(|(name, _)| *name == "message");
    fields.extend(said);
    fields.push(("plugin", Value::Text(&env.slot.name)));
    fields.push(("generation", Value::U64(env.generation)));
    fields.extend(topic.as_deref().map(|topic| ("topic", Value::Text(topic))));
    fields.extend(socket.as_deref().map(|socket| ("socket", Value::Text(socket))));
    fields.extend(own);
    fields.truncate(MOST_FIELDS);
    let level = level_of(line.level);
    match source(level, line.target, &fields) {
        Some(source) => send(source, &fields),
        None => {
            let text: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
            send(&UNKNOWN, &[("message", Value::Written(&text.join(" ")))]);
        }
    }
}

/// The socket id of the client that a line is about.
fn socket_id(env: &Env, line: &Line<'_>) -> Option<String> {
    if !line.socket.is_empty() {
        return Some(line.socket.to_owned());
    }
    let id = |info: &[u8]| serde_json::from_slice::<MemberInfo>(info).ok()?.socket_id;
    let member = MemberId::from_number(line.member)?;
    let topic = env.slot.find_number(line.topic)?;
    let known = match topic.record().members.get(&member) {
        Some(Member::Joined(info)) => Some(id(info)),
        Some(Member::Pending(pending)) => Some(id(&pending.info)),
        None => None,
    };
    // A member that is joining is not in the record yet, only in the shard's work.
    known.unwrap_or_else(|| id(&crash::info_at_hand(line.member)?))
}

fn level_of(number: u32) -> Level {
    match number {
        0 | 1 => Level::ERROR,
        2 => Level::WARN,
        3 => Level::INFO,
        4 => Level::DEBUG,
        _ => Level::TRACE,
    }
}

/// Where events come from, in the form that `tracing` needs.
struct Source(OnceLock<Metadata<'static>>);

impl Callsite for Source {
    fn set_interest(&self, _: Interest) {}

    fn metadata(&self) -> &Metadata<'_> {
        self.0.get().expect("set where it is made")
    }
}

/// What tells sources apart.
#[derive(PartialEq, Eq, Hash)]
struct Key<'a> {
    level: Level,
    target: &'a str,
    names: Vec<&'a str>,
}

/// The key of lines that have only a text.
static UNKNOWN: LazyLock<&'static Source> =
    LazyLock::new(|| new_source(Level::WARN, "bennu::runtime::plugin", &["message"]));

/// The source for a key. Makes one if there is none.
fn source(level: Level, target: &str, fields: &[(&str, Value<'_>)]) -> Option<&'static Source> {
    static SOURCES: LazyLock<Mutex<HashMap<Key<'static>, &'static Source>>> = LazyLock::new(Mutex::default);
    let names = fields.iter().map(|(name, _)| *name).collect();
    let mut sources = SOURCES.lock().expect("no holder panics");
    if let Some(source) = found(&sources, &Key { level, target, names }) {
        return Some(source);
    }
    if sources.len() >= MOST_SOURCES {
        return None;
    }
    let for_ever = |text: &str| -> &'static str { Box::leak(text.into()) };
    let target = for_ever(target);
    let names: Vec<_> = fields.iter().map(|(name, _)| for_ever(name)).collect();
    let source = new_source(level, target, &names);
    sources.insert(Key { level, target, names }, source);
    Some(source)
}

/// A borrowed key, to look a source up.
fn found<'a>(sources: &HashMap<Key<'a>, &'static Source>, key: &Key<'a>) -> Option<&'static Source> {
    sources.get(key).copied()
}

fn new_source(level: Level, target: &'static str, names: &[&'static str]) -> &'static Source {
    let source: &'static Source = Box::leak(Box::new(Source(OnceLock::new())));
    let fields = FieldSet::new(Box::leak(names.into()), Identifier(source));
    let metadata = Metadata::new(NAME, target, level, None, None, None, fields, Kind::EVENT);
    source.0.get_or_init(|| metadata);
    source
}

/// Hands an event to the host's log. The names of `fields` are those of `source`.
fn send(source: &'static Source, fields: &[(&str, Value<'_>)]) {
    let metadata = source.0.get().expect("set where it is made");
    let names: Vec<_> = metadata.fields().iter().collect();
    let values: Vec<Box<dyn field::Value>> = fields.iter().map(|(_, value)| boxed(*value)).collect();
    let Some(first) = names.first() else { return };
    let mut pairs: [(&field::Field, Option<&dyn field::Value>); MOST_FIELDS] = [(first, None); MOST_FIELDS];
    for (pair, (name, value)) in pairs.iter_mut().zip(names.iter().zip(&values)) {
        *pair = (name, Some(&**value));
    }
    let values = metadata.fields().value_set(&pairs);
    dispatcher::get_default(|log| {
        if log.enabled(metadata) {
            log.event(&Event::new(metadata, &values));
        }
    });
}

fn boxed<'a>(value: Value<'a>) -> Box<dyn field::Value + 'a> {
    match value {
        Value::Text(text) => Box::new(text),
        Value::Written(text) => Box::new(field::display(text)),
        Value::Bool(value) => Box::new(value),
        Value::I64(value) => Box::new(value),
        Value::U64(value) => Box::new(value),
        Value::F64(value) => Box::new(value),
    }
}
