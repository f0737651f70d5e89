//! What stands in each section: every key, its default and its range.
//!
//! Whether sections fit together (a route's plugin exists, …) is for `check.rs`.

use std::num::NonZeroUsize;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;

use bennu_wire::message::event;
use bennu_wire::pattern::{PatternError, TopicPattern};
use serde_json::json;
use toml::Spanned;
use toml::de::DeValue;

use super::check::TRANSPORTS;
use super::diagnostic::Span;
use super::handshake;
use super::phoenix_0_11::phoenix_0_11;
use super::reader::Section;
use super::schema::Shape;
use super::{
    Admin, Crypto, Digest, Limits, Log, LongPoll, Mode, Mount, OnMigrateError, OnPanic, OnPanics, OnRollback,
    OriginPattern, Plugin, Reload, Server,
};
use crate::config::ContentHash;
use crate::config::ProbeLimits;

pub(super) const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const MEBIBYTE: usize = 1 << 20;
const GIBIBYTE: usize = 1 << 30;
const MANY: usize = 100_000_000;
/// The number of a member has one byte for its I/O thread, and 0 is none.
const MAX_IO_THREADS: usize = 255;
const MAX_SHARDS: usize = 1_024;

/// What a section needs to know beyond its own text.
pub(super) struct Surroundings<'a> {
    pub(super) mode: Mode,
    /// Of the configuration: relative paths start here. Absolute.
    pub(super) folder: &'a Path,
}

impl Surroundings<'_> {
    fn path(&self, text: Option<Spanned<String>>) -> Option<PathBuf> {
        text.map(|text| resolve(self.folder, Path::new(text.get_ref())))
    }
}

/// A mount, and where its parts stand.
pub(super) struct ReadMount {
    /// With an empty path where `path` is missing.
    pub(super) mount: Mount,
    pub(super) path: Option<Spanned<String>>,
    pub(super) connect: Option<Spanned<String>>,
    /// The plugin that `check_origin` names.
    pub(super) origin_plugin: Option<Spanned<String>>,
}

/// A plugin, and where it stands.
pub(super) struct ReadPlugin {
    pub(super) name: Spanned<String>,
    pub(super) plugin: Plugin,
    pub(super) at: Span,
}

/// A route, and where its parts stand. `topic` and `plugin` are missing where there was a mistake.
pub(super) struct ReadRoute {
    pub(super) topic: Option<Spanned<TopicPattern>>,
    pub(super) plugin: Option<Spanned<String>>,
    pub(super) transports: Option<Vec<Spanned<String>>>,
    pub(super) mounts: Option<Vec<Spanned<String>>>,
    pub(super) assigns: Option<Arc<str>>,
    pub(super) replaceable: Vec<String>,
}

pub(super) fn server(section: Section<'_>, around: &Surroundings<'_>) -> Server {
    let server = Server {
        listen: section.address("listen").unwrap_or(([127, 0, 0, 1], 4000).into()),
        names_listen: section.value("listen").is_some(),
        url_host: url_host(&section),
        io_threads: section.threads("io_threads", cores(), MAX_IO_THREADS),
        io_uring: section.flag("io_uring", true),
        notsent_lowat_bytes: section.count("notsent_lowat_bytes", 131_072, 4_096..=GIBIBYTE),
        secret_key_base_file: around.path(section.text("secret_key_base_file")),
        stage_dir: around.path(section.text("stage_dir")),
        state_dir: around
            .path(section.text("state_dir"))
            .unwrap_or_else(|| around.folder.join(".bennu")),
        max_quarantined: section.count("max_quarantined", 1_000, 1..=100_000),
        max_kept_libraries: section.count("max_kept_libraries", 2, 0..=100),
        drain_batch_size: section.count("drain_batch_size", 10_000, 1..=MANY),
        drain_batch_interval: section.millis("drain_batch_interval_ms", 2_000, 0..=HOUR_MS),
        shutdown_timeout: section.millis("shutdown_timeout_ms", 30_000, 1..=HOUR_MS),
    };
    section.finish();
    server
}

fn url_host(section: &Section<'_>) -> String {
    let Some(text) = section.text("url_host") else {
        return "localhost".to_owned();
    };
    let host = text.get_ref().to_ascii_lowercase();
    if !OriginPattern::is_host(&host) {
        let message = format!("`{}` is no host name", text.get_ref());
        section.mistakes.add(
            section
                .mistakes
                .error(text.span(), message)
                .help("write the name alone, without scheme and port, such as \"example.com\""),
        );
    }
    host
}

pub(super) fn admin(section: Section<'_>, around: &Surroundings<'_>) -> Admin {
    let default = (around.mode == Mode::Dev).then_some(([127, 0, 0, 1], 4001).into());
    let listen = match section.value("listen").map(Spanned::get_ref) {
        None => default,
        Some(DeValue::Boolean(false)) => None,
        Some(_) => section.address("listen"),
    };
    section.note("listen", json!({ "anyOf": [{ "const": false }, { "type": "string" }] }));
    let names_listen = section.value("listen").is_some();
    section.finish();
    Admin { listen, names_listen }
}

pub(super) fn log(section: Section<'_>) -> Log {
    let level = section.text("level").unwrap_or(Spanned::new(0..0, "info".to_owned()));
    if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(level.get_ref()) {
        let help = "write `error`, `warn`, `info`, `debug` or `trace`, or a list such as \"info,bennu::runtime::plugin=debug\"";
        section.mistakes.add(
            section
                .mistakes
                .error(level.span(), format!("`level` cannot be read: {error}"))
                .help(help),
        );
    }
    let filter_params = section.texts("filter_params").unwrap_or_default();
    section.finish();
    Log {
        level: level.into_inner(),
        filter_params: filter_params.into_iter().map(Spanned::into_inner).collect(),
    }
}

pub(super) fn limits(section: Section<'_>) -> Limits {
    let limits = Limits {
        max_connections: section.count("max_connections", 10_000, 1..=MANY),
        max_message_bytes: section.count("max_message_bytes", MEBIBYTE, 64..=GIBIBYTE),
        max_topic_bytes: section.count("max_topic_bytes", 1_024, 1..=MEBIBYTE),
        max_inbox_bytes: section.count("max_inbox_bytes", 16 * MEBIBYTE, 65_536..=GIBIBYTE),
        max_outbound_bytes: section.count("max_outbound_bytes", 4 * MEBIBYTE, 1_024..=GIBIBYTE),
        max_outbound_total_bytes: section.count(
            "max_outbound_total_bytes",
            256 * MEBIBYTE,
            MEBIBYTE..=1_024 * GIBIBYTE,
        ),
        max_header_bytes: section.count("max_header_bytes", 16_384, 1_024..=16 * MEBIBYTE),
        header_timeout: section.millis("header_timeout_ms", 10_000, 1..=HOUR_MS),
        connect_timeout: section.millis("connect_timeout_ms", 10_000, 1..=HOUR_MS),
        idle_timeout: section.millis("idle_timeout_ms", 90_000, 1..=DAY_MS),
        close_timeout: section.millis("close_timeout_ms", 2_000, 1..=DAY_MS),
    };
    section.finish();
    limits
}

pub(super) fn mount(section: Section<'_>, server: &Server, mode: Mode) -> ReadMount {
    let path = section.required_text("path", "\"/socket\"");
    let connect = section.text("connect");
    let longpoll = longpoll(&section);
    let (check_origin, origin_plugin) = handshake::check_origin(&section, server, mode);
    let mount = Mount {
        path: path.clone().map(Spanned::into_inner).unwrap_or_default(),
        connect: connect.clone().map(Spanned::into_inner),
        check_origin,
        auth_token: section.flag("auth_token", false),
        subprotocols: handshake::subprotocols(&section),
        connect_info: handshake::connect_info(&section),
        websocket: section.flag("websocket", true),
        deflate: section.flag("deflate", false),
        echo: section.flag("echo", false),
        serializers: handshake::serializers(&section),
        phoenix_0_11: phoenix_0_11(&section, longpoll.as_ref()),
        longpoll,
        max_channels_per_socket: section.count("max_channels_per_socket", 100, 1..=MANY),
    };
    if mount.echo && mount.phoenix_0_11.is_some() {
        let taken = section.mistakes.error(
            section.at.clone(),
            "`echo` and `dialect` cannot both be served at the path of a mount",
        );
        section.mistakes.add(taken.help("leave one of them out"));
    }
    if !mount.websocket && mount.longpoll.is_none() && !mount.echo {
        let closed = section.mistakes.error(
            section.at.clone(),
            "no client can connect here: `websocket` and `longpoll` are both off",
        );
        section
            .mistakes
            .add(closed.help("leave one of them out, or remove the mount"));
    }
    section.finish();
    ReadMount {
        mount,
        path,
        connect,
        origin_plugin,
    }
}

fn longpoll(mount: &Section<'_>) -> Option<LongPoll> {
    let section = match mount.value("longpoll").map(|value| (value.get_ref(), value.span())) {
        Some((DeValue::Boolean(false), _)) => return None,
        None | Some((DeValue::Boolean(true), _)) => Section::new("`longpoll`", mount.at.clone(), None, mount.mistakes),
        Some((DeValue::Table(table), at)) => Section::new("`longpoll`", at, Some(table), mount.mistakes),
        Some((_, at)) => {
            let wrong = mount
                .mistakes
                .error(at, "`longpoll` must be `true`, `false` or a table");
            mount
                .mistakes
                .add(wrong.help("write `longpoll = { window_ms = 10_000 }`, or leave it out for the defaults"));
            return None;
        }
    };
    let table = Shape::Either(vec![json!({ "type": "boolean" })], section.fields.clone());
    mount.fields.note("longpoll", table);
    let longpoll = LongPoll {
        window: section.millis("window_ms", 10_000, 1..=HOUR_MS),
        pubsub_timeout: section.millis("pubsub_timeout_ms", 2_000, 1..=HOUR_MS),
        max_buffer_messages: section.count("max_buffer_messages", 10_000, 1..=MANY),
        max_buffer_bytes: section.count("max_buffer_bytes", 4 * MEBIBYTE, 1_024..=GIBIBYTE),
        max_batch_messages: section.count("max_batch_messages", 10_000, 1..=MANY),
        crypto: crypto(section.section("crypto"), "crypto"),
    };
    section.finish();
    Some(longpoll)
}

/// How a key is derived, as a table that is called `key` says it.
pub(super) fn crypto(mut section: Section<'_>, key: &str) -> Crypto {
    section.name = format!("`{key}`");
    let digests = [
        ("sha256", Digest::Sha256),
        ("sha384", Digest::Sha384),
        ("sha512", Digest::Sha512),
    ];
    let crypto = Crypto {
        iterations: u32::try_from(section.number("iterations", 1_000, 1..=10_000_000)).unwrap_or(1_000),
        length: key_length(&section),
        digest: section.choice("digest", &digests, Digest::Sha256),
        cache: section.flag("cache", true),
    };
    section.finish();
    crypto
}

fn key_length(section: &Section<'_>) -> usize {
    let length = section.count("length", 32, 0..=MANY);
    section.note("length", json!({ "enum": [16, 32], "default": 32 }));
    if ![16, 32].contains(&length)
        && let Some(value) = section.value("length")
    {
        let wrong = section
            .mistakes
            .error(value.span(), format!("a key of {length} bytes fits no cipher"));
        section
            .mistakes
            .add(wrong.help("write 16 for AES-128 or 32 for AES-256"));
    }
    length
}

pub(super) fn plugin(name: Spanned<String>, section: Section<'_>, around: &Surroundings<'_>) -> ReadPlugin {
    let reloads = [
        ("migrate", Reload::Migrate),
        ("drain", Reload::Drain),
        ("rejoin", Reload::Rejoin),
    ];
    let on_migrate_errors = [("keep", OnMigrateError::Keep), ("rejoin", OnMigrateError::Rejoin)];
    let on_rollbacks = [("snapshot", OnRollback::Snapshot), ("rejoin", OnRollback::Rejoin)];
    let after_panics = [
        ("go_on", OnPanics::GoOn),
        ("restart", OnPanics::Restart),
        ("roll_back", OnPanics::RollBack),
        ("out_of_service", OnPanics::OutOfService),
    ];
    let on_panics = [("member", OnPanic::Member), ("topic", OnPanic::Topic)];
    let plugin = Plugin {
        library: around.path(section.text("library")),
        allow: allow(&section),
        shards: section.threads("shards", cores().max(NonZeroUsize::MIN.saturating_add(1)), MAX_SHARDS),
        settings: section.json("settings").unwrap_or("{}".into()),
        reload: section.choice("reload", &reloads, Reload::Migrate),
        on_migrate_error: section.choice("on_migrate_error", &on_migrate_errors, OnMigrateError::Keep),
        on_panic: section.choice("on_panic", &on_panics, OnPanic::Member),
        linger: section.millis("linger_ms", 10_000, 0..=DAY_MS),
        presence_interval: section.millis("presence_interval_ms", 100, 0..=HOUR_MS),
        max_mailbox_events: section.count("max_mailbox_events", 1_000, 1..=MANY),
        max_mailbox_bytes: section.count("max_mailbox_bytes", 8 * MEBIBYTE, 1_024..=GIBIBYTE),
        max_mailbox_total_bytes: section.count("max_mailbox_total_bytes", 256 * MEBIBYTE, MEBIBYTE..=1_024 * GIBIBYTE),
        max_mailbox_messages: section.count("max_mailbox_messages", 10_000, 1..=MANY),
        max_topics: section.count("max_topics", 100_000, 1..=MANY),
        max_pending_events: section.count("max_pending_events", 100, 1..=MANY),
        join_deadline: section.millis("join_deadline_ms", 10_000, 1..=HOUR_MS),
        max_timers_per_topic: section.count("max_timers_per_topic", 10_000, 1..=MANY),
        max_promises_per_topic: section.count("max_promises_per_topic", 10_000, 1..=MANY),
        retire: section.millis("retire_ms", 1_000, 0..=HOUR_MS),
        max_effects_per_event: section.count("max_effects_per_event", 10_000, 1..=MANY),
        max_effect_bytes_per_event: section.count("max_effect_bytes_per_event", 64 * MEBIBYTE, 1_024..=GIBIBYTE),
        warn: section.millis("warn_ms", 50, 1..=HOUR_MS),
        deadline: section.millis("deadline_ms", 10_000, 10..=HOUR_MS),
        max_stuck_threads: section.count("max_stuck_threads", 8, 0..=1_000),
        max_leaked: section.count("max_leaked", 16, 1..=100_000),
        probe_topics: section.count("probe_topics", 8, 0..=1_000),
        probe_bytes: section.count("probe_bytes", MEBIBYTE, 0..=64 * MEBIBYTE),
        swap_patience: section.millis("swap_patience_ms", 5_000, 1..=HOUR_MS),
        probe: ProbeLimits::new(
            section.millis("probe_ms", 10_000, 10..=HOUR_MS),
            section.number("probe_memory_bytes", 2 << 30, 64 << 20..=1 << 40),
        ),
        // At most a hundred, so it fits.
        probe_retries: section.number("probe_retries", 8, 0..=100) as u32,
        probation: section.millis("probation_ms", 10_000, 0..=HOUR_MS),
        probation_panics: section.number("probation_panics", 3, 1..=1_000_000),
        probation_errors: section.number("probation_errors", 0, 0..=1_000_000),
        on_rollback: section.choice("on_rollback", &on_rollbacks, OnRollback::Snapshot),
        max_rollback_bytes: section.count("max_rollback_bytes", 64 * MEBIBYTE, 0..=16 * GIBIBYTE),
        on_panics: section.choice("on_panics", &after_panics, OnPanics::GoOn),
        max_panics: section.count("max_panics", 100, 1..=100_000),
        panics_window: section.millis("panics_window_ms", 60_000, 1..=DAY_MS),
    };
    let at = section.at.clone();
    section.finish();
    ReadPlugin { name, plugin, at }
}

/// The list of contents that may be loaded. An empty list would keep every library out.
fn allow(section: &Section<'_>) -> Option<Arc<[ContentHash]>> {
    let mut allowed = Vec::new();
    for text in section.texts("allow")? {
        match ContentHash::parse(text.get_ref()) {
            Some(hash) => allowed.push(hash),
            None => section.mistakes.add(
                section
                    .mistakes
                    .error(text.span(), format!("`{}` is no SHA-256", text.get_ref()))
                    .help("write the 64 digits that `sha256sum` prints for the library"),
            ),
        }
    }
    Some(allowed.into())
}

pub(super) fn route(section: Section<'_>) -> ReadRoute {
    let route = ReadRoute {
        topic: section
            .required_text("topic", "\"room:*\"")
            .and_then(|text| topic(&section, &text)),
        plugin: section.required_text("plugin", "\"room\""),
        transports: transports(&section),
        mounts: open_to(&section, "mounts"),
        assigns: section.json("assigns").filter(|assigns| &**assigns != "{}"),
        replaceable: replaceable(&section),
    };
    section.finish();
    route
}

fn topic(section: &Section<'_>, text: &Spanned<String>) -> Option<Spanned<TopicPattern>> {
    let note = |error: &PatternError| {
        let help = match error {
            PatternError::Empty => {
                "write a topic such as \"room:lobby\", or \"room:*\" for all that start with `room:`"
            }
            PatternError::InnerSplat { .. } => {
                "what stands in the middle of a topic cannot be left open: write the part before it and one `*`"
            }
        };
        section
            .mistakes
            .add(section.mistakes.error(text.span(), error.to_string()).help(help));
    };
    let pattern = TopicPattern::parse(text.get_ref()).inspect_err(note).ok()?;
    Some(Spanned::new(text.span(), pattern))
}

fn transports(section: &Section<'_>) -> Option<Vec<Spanned<String>>> {
    let names = open_to(section, "transports");
    section.note(
        "transports",
        json!({ "type": "array", "minItems": 1, "items": { "enum": TRANSPORTS } }),
    );
    names
}

/// The names in `transports` or `mounts`. An empty list would close the route to everyone.
fn open_to(section: &Section<'_>, key: &'static str) -> Option<Vec<Spanned<String>>> {
    let names = section.texts(key)?;
    let written = section
        .value(key)
        .and_then(|value| Some((value.span(), value.get_ref().as_array()?)));
    if let Some((at, _)) = written.filter(|(_, list)| list.is_empty()) {
        let empty = section
            .mistakes
            .error(at, format!("no client can use this route: `{key}` is empty"));
        section
            .mistakes
            .add(empty.help(format!("leave `{key}` out to open the route to all")));
    }
    Some(names)
}

/// Events of which clients may miss some. Of the host's own they may not.
fn replaceable(section: &Section<'_>) -> Vec<String> {
    let names = section.texts("replaceable").unwrap_or_default();
    for name in &names {
        let text = name.get_ref();
        if text.starts_with("phx_") || text == event::PRESENCE_STATE || text == event::PRESENCE_DIFF {
            let own = format!("clients need every `{text}`: none can take the place of another");
            section.mistakes.add(section.mistakes.error(name.span(), own));
        }
    }
    names.into_iter().map(Spanned::into_inner).collect()
}

fn cores() -> NonZeroUsize {
    available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// The path behind `path` as seen from `folder`, which holds no symbolic link, so that `..` can be taken away by name.
pub(super) fn resolve(folder: &Path, path: &Path) -> PathBuf {
    let mut resolved = folder.to_owned();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(resolved.pop()),
            other => resolved.push(other),
        }
    }
    resolved
}
