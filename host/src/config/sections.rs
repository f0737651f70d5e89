//! Reads each section: every key, its default and its range.
//!
//! Never here: whether sections fit together, such as whether a route's plugin exists. `check.rs` does that.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::available_parallelism;

use bennu_wire::dialect::Dialect;
use bennu_wire::message::event;
use bennu_wire::pattern::{PatternError, TopicPattern};
use serde_json::json;
use toml::Spanned;
use toml::de::DeValue;

use super::amount::{DAY_MS, GIBIBYTE, HOUR_MS, MANY, MEBIBYTE};
use super::around::Surroundings;
use super::auth::auth;
use super::auth_settings::TokenPlace;
use super::content_hash::ContentHash;
use super::diagnostic::Span;
use super::handshake;
use super::longpoll::longpoll;
use super::model::{
    Admin, Durability, Limits, LineLimits, Log, LogFormat, Mode, Mount, OnMigrateError, OnPanic, OnPanics, OnRollback,
    OriginPattern, Plugin, Reload, Server, Store,
};
use super::phoenix_0_11::phoenix_0_11;
use super::probe_limits::ProbeLimits;
use super::rates;
use super::rates_model::Paces;
use super::reader::Section;
use super::supabase::supabase;

/// The names of the transports in routes.
pub(super) const TRANSPORTS: [&str; 2] = ["websocket", "longpoll"];
/// The number of a member has one byte for its I/O thread. 0 means none, and 255 is kept for members of other nodes.
const MAX_IO_THREADS: usize = 254;
const MAX_SHARDS: usize = 1_024;

/// A mount, and the places of its parts.
pub(super) struct ReadMount {
    /// Has an empty path if `path` is missing.
    pub(super) mount: Mount,
    pub(super) path: Option<Spanned<String>>,
    pub(super) connect: Option<Spanned<String>>,
    /// The plugin that `check_origin` names.
    pub(super) origin_plugin: Option<Spanned<String>>,
}

/// A plugin and its place.
pub(super) struct ReadPlugin {
    pub(super) name: Spanned<String>,
    pub(super) plugin: Plugin,
    pub(super) at: Span,
}

/// A route, and the places of its parts. After a mistake, `topic` or `plugin` is `None`.
pub(super) struct ReadRoute {
    pub(super) topic: Option<Spanned<TopicPattern>>,
    pub(super) plugin: Option<Spanned<String>>,
    pub(super) transports: Option<Vec<Spanned<String>>>,
    pub(super) mounts: Option<Vec<Spanned<String>>>,
    pub(super) assigns: Option<Arc<str>>,
    pub(super) replaceable: Vec<String>,
    pub(super) limits: Paces,
}

pub(super) fn server(section: Section<'_>, around: &Surroundings<'_>) -> Server {
    let server = Server {
        listen: listen_or(&section, Some(([127, 0, 0, 1], 4000).into())),
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
        static_tls_bytes: section.number("static_tls_bytes", 65_536, 0..=1 << 20),
        drain_batch_size: section.count("drain_batch_size", 10_000, 1..=MANY),
        drain_batch_interval: section.millis("drain_batch_interval_ms", 2_000, 0..=HOUR_MS),
        shutdown_timeout: section.millis("shutdown_timeout_ms", 30_000, 1..=HOUR_MS),
    };
    section.finish();
    server
}

pub(super) fn store(section: Section<'_>) -> Store {
    let store = Store {
        max_bytes: section.number("max_bytes", 10 << 30, 256 << 20..=1 << 50),
        max_queue_bytes: section.count("max_queue_bytes", 64 * MEBIBYTE, MEBIBYTE..=16 * GIBIBYTE),
    };
    section.finish();
    store
}

fn url_host(section: &Section<'_>) -> String {
    let Some(text) = section.text("url_host") else {
        return "localhost".to_owned();
    };
    let host = text.get_ref().to_ascii_lowercase();
    if !OriginPattern::is_host(&host) {
        let message = format!("`{}` is not a host name", text.get_ref());
        section.mistakes.add(
            section
                .mistakes
                .error(text.span(), message)
                .help("write only the name, without scheme and port, such as \"example.com\""),
        );
    }
    host
}

pub(super) fn admin(section: Section<'_>, around: &Surroundings<'_>) -> Admin {
    let admin = Admin {
        listen: listen(&section, around, 4001),
        names_listen: section.value("listen").is_some(),
        hosts: hosts(&section),
        max_connections: section.count("max_connections", 64, 1..=MANY),
        max_closes: section.count("max_closes", 1_000, 0..=1_000_000),
        max_sessions: section.count("max_sessions", 32, 1..=10_000),
        session_timeout: section.millis("session_timeout_ms", DAY_MS / 2, 1_000..=30 * DAY_MS),
        max_wrong_secrets: section.count("max_wrong_secrets", 10, 1..=1_000_000),
    };
    section.finish();
    admin
}

/// Where a listener is that only `dev` has unless somebody names it. `dev` starts at this port.
pub(super) fn listen(section: &Section<'_>, around: &Surroundings<'_>, dev_port: u16) -> Option<SocketAddr> {
    let in_dev = (around.mode == Mode::Dev).then_some(([127, 0, 0, 1], dev_port).into());
    listen_or(section, in_dev)
}

/// An address with a port, or `false` for none.
fn listen_or(section: &Section<'_>, default: Option<SocketAddr>) -> Option<SocketAddr> {
    let listen = match section.value("listen").map(Spanned::get_ref) {
        None => default,
        Some(DeValue::Boolean(false)) => None,
        Some(_) => section.address("listen"),
    };
    section.note("listen", json!({ "anyOf": [{ "const": false }, { "type": "string" }] }));
    listen
}

/// Names by which a browser may ask, as it writes them in `Host`: without a port.
pub(super) fn hosts(section: &Section<'_>) -> Vec<String> {
    let names = section.texts("hosts").unwrap_or_default();
    let name = |name: Spanned<String>| {
        let host = name.get_ref().to_ascii_lowercase();
        if !OriginPattern::is_host(&host) {
            let message = format!("`{}` is not a host name", name.get_ref());
            section.mistakes.add(
                section
                    .mistakes
                    .error(name.span(), message)
                    .help("write only the name, without scheme and port, such as \"bennu.internal\""),
            );
        }
        host
    };
    names.into_iter().map(name).collect()
}

/// Checks what the log is filtered by. A word that is no level would pass for the name of a module, and leave out all others.
///
/// # Errors
///
/// If it cannot be read, or has such a word.
pub(crate) fn check_level(directives: &str) -> Result<(), String> {
    for directive in directives.split(',').map(str::trim) {
        let (module, level) = match directive.rsplit_once('=') {
            Some((module, level)) => (Some(module), level),
            None => (None, directive),
        };
        let is_module = module.is_none() && (level.contains("::") || level.contains('[') || level == "bennu");
        let is_level = level.parse::<tracing::level_filters::LevelFilter>().is_ok();
        if !is_level && !is_module && !level.is_empty() {
            return Err(format!("there is no level `{level}`"));
        }
    }
    let parsed = tracing_subscriber::EnvFilter::builder().parse(directives);
    parsed.map(drop).map_err(|error| error.to_string())
}

pub(super) fn log(section: Section<'_>) -> Log {
    let level = section.text("level").unwrap_or(Spanned::new(0..0, "info".to_owned()));
    if let Err(error) = check_level(level.get_ref()) {
        let help = "write `error`, `warn`, `info`, `debug` or `trace`, or a list such as \"info,bennu::runtime::plugin=debug\"";
        section.mistakes.add(
            section
                .mistakes
                .error(level.span(), format!("`level` cannot be read: {error}"))
                .help(help),
        );
    }
    let filter_params = section.texts("filter_params").unwrap_or_default();
    let log = Log {
        level: level.into_inner(),
        format: section.choice(
            "format",
            &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            LogFormat::Text,
        ),
        filter_params: filter_params.into_iter().map(Spanned::into_inner).collect(),
        max_queue_bytes: section.count("max_queue_bytes", MEBIBYTE, 65_536..=GIBIBYTE),
        lines: LineLimits {
            // The range fits.
            burst: section.count("client_burst", 10, 1..=1_000_000) as u32,
            pause: section.millis("client_pause_ms", 1_000, 1..=HOUR_MS),
            sources: section.count("max_client_sources", 1_024, 1..=1_000_000),
        },
    };
    section.finish();
    log
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
        max_inbound_total_bytes: section.count("max_inbound_total_bytes", 256 * MEBIBYTE, MEBIBYTE..=1_024 * GIBIBYTE),
        max_header_bytes: section.count("max_header_bytes", 16_384, 1_024..=16 * MEBIBYTE),
        header_timeout: section.millis("header_timeout_ms", 10_000, 1..=HOUR_MS),
        max_expired_per_s: section.count("max_expired_per_s", 1_000, 1..=MANY),
        keep_alive_timeout: section.millis("keep_alive_timeout_ms", 75_000, 1..=DAY_MS),
        connect_timeout: section.millis("connect_timeout_ms", 10_000, 1..=HOUR_MS),
        idle_timeout: section.millis("idle_timeout_ms", 90_000, 1..=DAY_MS),
        message_timeout: section.millis("message_timeout_ms", 30_000, 1..=DAY_MS),
        response_timeout: section.millis("response_timeout_ms", 10_000, 1..=DAY_MS),
        close_timeout: section.millis("close_timeout_ms", 2_000, 1..=DAY_MS),
        exempt: rates::exempt(&section),
        address: rates::address(section.section("address")),
        client: rates::client(section.section("client")),
    };
    section.finish();
    limits
}

pub(super) fn mount(section: Section<'_>, server: &Server, around: &Surroundings<'_>) -> ReadMount {
    let path = section.required_text("path", "\"/socket\"");
    let connect = section.text("connect");
    let longpoll = longpoll(&section);
    let dialect = handshake::dialect(&section);
    let (check_origin, origin_plugin) = handshake::check_origin(&section, server, around.mode);
    let auth = auth(&section, around);
    let reads_header = auth
        .as_ref()
        .is_some_and(|auth| auth.from.contains(&TokenPlace::AuthToken));
    let mount = Mount {
        path: path.clone().map(Spanned::into_inner).unwrap_or_default(),
        connect: connect.clone().map(Spanned::into_inner),
        check_origin,
        auth_token: section.flag("auth_token", false) || reads_header,
        auth,
        subprotocols: handshake::subprotocols(&section),
        connect_info: handshake::connect_info(&section),
        websocket: section.flag("websocket", true),
        deflate: section.flag("deflate", false),
        echo: section.flag("echo", false),
        serializers: handshake::serializers(&section, dialect),
        phoenix_0_11: phoenix_0_11(&section, dialect, longpoll.as_ref()),
        supabase: supabase(&section, dialect),
        longpoll: longpoll.filter(|_| dialect != Dialect::Supabase),
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
        durability: section.choice("durability", &Durability::ALL, Durability::None),
        checkpoint: section.millis("checkpoint_ms", 1_000, 10..=HOUR_MS),
        retain: section.millis("retain_ms", 0, 0..=3_650 * DAY_MS),
        max_state_bytes: section.count("max_state_bytes", 16 * MEBIBYTE, 1_024..=GIBIBYTE),
        presence_interval: section.millis("presence_interval_ms", 100, 0..=HOUR_MS),
        max_presence_bytes: section.count("max_presence_bytes", MEBIBYTE, 1_024..=GIBIBYTE),
        max_mailbox_events: section.count("max_mailbox_events", 1_000, 1..=MANY),
        max_mailbox_bytes: section.count("max_mailbox_bytes", 8 * MEBIBYTE, 1_024..=GIBIBYTE),
        max_mailbox_total_bytes: section.count("max_mailbox_total_bytes", 256 * MEBIBYTE, MEBIBYTE..=1_024 * GIBIBYTE),
        max_mailbox_messages: section.count("max_mailbox_messages", 10_000, 1..=MANY),
        max_mailbox_message_bytes: section.count("max_mailbox_message_bytes", 64 * MEBIBYTE, 1_024..=16 * GIBIBYTE),
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
        max_leak_bytes_per_reload: section.number("max_leak_bytes_per_reload", 8 << 20, 1 << 10..=1 << 40),
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

/// The contents that may be loaded. An empty list allows none.
fn allow(section: &Section<'_>) -> Option<Arc<[ContentHash]>> {
    let mut allowed = Vec::new();
    for text in section.texts("allow")? {
        match ContentHash::parse(text.get_ref()) {
            Some(hash) => allowed.push(hash),
            None => section.mistakes.add(
                section
                    .mistakes
                    .error(text.span(), format!("`{}` is not a SHA-256", text.get_ref()))
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
        limits: rates::route(section.section("limits")),
    };
    section.finish();
    route
}

pub(super) fn topic(section: &Section<'_>, text: &Spanned<String>) -> Option<Spanned<TopicPattern>> {
    let note = |error: &PatternError| {
        let help = match error {
            PatternError::Empty => {
                "write a topic such as \"room:lobby\", or \"room:*\" for all that start with `room:`"
            }
            PatternError::InnerSplat { .. } => {
                "only the end of a topic can vary: write the part before the `*`, and one `*` at the end"
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

/// The names in `transports` or `mounts`. Notes an empty list, because no client could use the route.
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

/// Events of which clients may miss some. The server's own events are not allowed: clients need all of them.
fn replaceable(section: &Section<'_>) -> Vec<String> {
    let names = section.texts("replaceable").unwrap_or_default();
    for name in &names {
        let text = name.get_ref();
        if text.starts_with("phx_") || text == event::PRESENCE_STATE || text == event::PRESENCE_DIFF {
            let own = format!("clients need every `{text}`: none can replace another");
            section.mistakes.add(section.mistakes.error(name.span(), own));
        }
    }
    names.into_iter().map(Spanned::into_inner).collect()
}

fn cores() -> NonZeroUsize {
    available_parallelism().unwrap_or(NonZeroUsize::MIN)
}
