//! The configuration as the rest of the host sees it: read, checked, complete.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bennu_wire::dialect::Dialect;
use bennu_wire::pattern::TopicPattern;
use bennu_wire::serializer::Serializers;

use super::diagnostic::{Diagnostic, Source};
use crate::config::ContentHash;
use crate::config::ProbeLimits;

/// Everything that `bennu.toml` says.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file it came from.
    pub(crate) file: PathBuf,
    /// `[server]`
    pub(crate) server: Server,
    /// `[admin]`
    pub(crate) admin: Admin,
    /// `[log]`
    pub(crate) log: Log,
    /// `[limits]`
    pub(crate) limits: Limits,
    /// `[[mounts]]`, in file order.
    pub(crate) mounts: Vec<Arc<Mount>>,
    /// `[plugins.NAME]`
    pub(crate) plugins: BTreeMap<String, Plugin>,
    /// `[[routes]]`, in file order.
    pub(crate) routes: Vec<Arc<Route>>,
    /// Where clients connect in place of [`Server::listen`]: from the command line.
    pub(crate) listen_instead: Option<SocketAddr>,
    /// The program `bennu` that probes libraries, where that is not the process itself: for those who start a host in theirs.
    pub(crate) program: Option<PathBuf>,
    /// What is odd in the file, but works.
    pub(crate) warnings: Vec<Diagnostic>,
    /// The text that was read, for mistakes that come to light later.
    pub(super) source: Arc<Source>,
}

/// `[server]`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Server {
    /// Where clients connect. Default 127.0.0.1:4000.
    pub(crate) listen: SocketAddr,
    /// Whether the file names it. Where it does not, `dev` takes the next port that is free.
    pub(crate) names_listen: bool,
    /// The host that `check_origin = true` compares with. Default `localhost`.
    pub(crate) url_host: String,
    /// How many I/O threads own connections. Default: one per core.
    pub(crate) io_threads: NonZeroUsize,
    /// Whether they write to many connections at once through io_uring, where the system has it. Default true.
    pub(crate) io_uring: bool,
    /// Bytes that the system keeps for one client and has not sent. Beyond, they wait in the host. Default 131,072.
    pub(crate) notsent_lowat_bytes: usize,
    /// A file that holds the secret, where `BENNU_SECRET_KEY_BASE` is not set. Relative to the configuration.
    pub(crate) secret_key_base_file: Option<PathBuf>,
    /// Where libraries are staged. Default: a folder of this process under the system's temporary folder.
    pub(crate) stage_dir: Option<PathBuf>,
    /// Where the quarantine and the last good libraries are kept. Default: `.bennu` beside the configuration.
    pub(crate) state_dir: PathBuf,
    /// Contents that may be in quarantine; then the oldest go. Default 1000.
    pub(crate) max_quarantined: usize,
    /// Good libraries that are kept of each plugin. Default 2.
    pub(crate) max_kept_libraries: usize,
    /// On shutdown: how many connections are closed at once, and how long until the next ones.
    pub(crate) drain_batch_size: usize,
    /// See [`Server::drain_batch_size`].
    pub(crate) drain_batch_interval: Duration,
    /// How long a shutdown may take in all.
    pub(crate) shutdown_timeout: Duration,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Admin {
    /// Where `/health`, `/ready`, `/metrics` and `/plugins` are served. In `serve` absent unless set; in `dev` 127.0.0.1:4001.
    pub(crate) listen: Option<SocketAddr>,
    /// Whether the file names it. Where it does not, `dev` takes the next port that is free.
    pub(crate) names_listen: bool,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Log {
    /// What is logged: `info`, or directives such as `info,bennu::runtime::plugin=debug`. Valid by now. Default `info`.
    pub(crate) level: String,
    /// Params of a connect whose name has one of these in it are not logged; neither are `password` and `token`.
    pub(crate) filter_params: Vec<String>,
}

/// `[limits]`: every queue, size, count and wait that is not a plugin's or a mount's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Limits {
    /// Connections in all, all transports. Beyond: HTTP 503.
    pub(crate) max_connections: usize,
    /// One message from a client, in bytes. Beyond: 1009, or long-poll status 413.
    pub(crate) max_message_bytes: usize,
    /// What waits to be written to one client, in bytes. Beyond: the connection is closed (1013).
    pub(crate) max_outbound_bytes: usize,
    /// And for all clients together.
    pub(crate) max_outbound_total_bytes: usize,
    /// The name of a topic, in bytes. Beyond: the join is refused.
    pub(crate) max_topic_bytes: usize,
    /// What waits for one I/O thread, in bytes. Beyond: plugins that send more wait for it.
    pub(crate) max_inbox_bytes: usize,
    /// The head of an HTTP request, in bytes. Beyond: 431.
    pub(crate) max_header_bytes: usize,
    /// How long a request's head may take, and how long its body.
    pub(crate) header_timeout: Duration,
    /// How long `connect` may take to answer. Beyond: 503.
    pub(crate) connect_timeout: Duration,
    /// How long a client may send nothing. Beyond: 1002.
    pub(crate) idle_timeout: Duration,
    /// How long a closed connection may read nothing of what waits for it, its goodbye included, before it is cut off.
    pub(crate) close_timeout: Duration,
}

/// `[[mounts]]`: where clients connect.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mount {
    /// `/socket`: serves `/socket/websocket` and `/socket/longpoll`; with [`Mount::phoenix_0_11`] also `/socket` and `/socket/poll`.
    pub(crate) path: String,
    /// The plugin whose connect handler decides.
    pub(crate) connect: Option<String>,
    /// Which origins may connect.
    pub(crate) check_origin: CheckOrigin,
    /// Clients may send a token in a header of the handshake, for `connect`.
    pub(crate) auth_token: bool,
    /// The WebSocket subprotocols that are spoken, the best first. Empty: what clients offer is ignored.
    pub(crate) subprotocols: Vec<String>,
    /// What `connect` sees besides the params.
    pub(crate) connect_info: ConnectInfo,
    /// WebSocket is served.
    pub(crate) websocket: bool,
    /// WebSocket messages are compressed for clients that can inflate them, and may come in compressed.
    pub(crate) deflate: bool,
    /// The path itself is a WebSocket that sends back what it gets, for conformance suites.
    pub(crate) echo: bool,
    /// Long polling, where it is served.
    pub(crate) longpoll: Option<LongPoll>,
    /// The Phoenix 0.11 dialect, where it is served besides.
    pub(crate) phoenix_0_11: Option<Phoenix011>,
    /// The protocol versions that clients may ask for. Default: all that come with the host.
    pub(crate) serializers: Serializers,
    /// Topics that one socket may have joined at a time. Default 100, as Phoenix.
    pub(crate) max_channels_per_socket: usize,
}

impl Mount {
    /// What long polling is configured to for clients of this dialect, where it is served.
    #[must_use]
    pub(crate) fn longpoll_of(&self, dialect: Dialect) -> Option<&LongPoll> {
        match dialect {
            Dialect::Modern => self.longpoll.as_ref(),
            Dialect::Phoenix011 => self.phoenix_0_11.as_ref()?.longpoll.as_ref(),
        }
    }
}

/// What a connect handler sees of a request besides its params: `connect_info`, `headers` and `connect_static` of a mount.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ConnectInfo {
    /// The client's address and port.
    pub(crate) peer: bool,
    /// Where the request went.
    pub(crate) uri: bool,
    /// Names of headers, in lower case; `x-*` stands for all with that prefix.
    pub(crate) headers: Vec<String>,
    /// A JSON object as text; `None` where absent or empty.
    pub(crate) static_pairs: Option<Arc<str>>,
}

/// Which origins may connect. A request without `Origin` always may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CheckOrigin {
    /// All.
    Off,
    /// Those whose host is one of these ([`Server::url_host`]; in `dev` also localhost and 127.0.0.1).
    Hosts(Vec<String>),
    /// Those that match an entry.
    List(Vec<OriginPattern>),
    /// Those that equal the request's own scheme, host and port.
    Conn,
    /// Those that this plugin takes.
    Plugin(String),
}

/// An entry of `check_origin`: `https://h`, `https://h:p`, `//h`, `//h:p`, `//*.h`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OriginPattern {
    /// `https`, or any.
    pub(crate) scheme: Option<String>,
    /// `example.com`, in lower case.
    pub(crate) host: String,
    /// Subdomains match too, at any depth.
    pub(crate) subdomains: bool,
    /// The port, the scheme's own where only that is given, or any.
    pub(crate) port: Option<u16>,
}

/// `longpoll = { … }` of a mount.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LongPoll {
    /// How long a poll waits for news. Default 10 s.
    pub(crate) window: Duration,
    /// How long the host waits for a session that another thread owns. Default 2 s.
    pub(crate) pubsub_timeout: Duration,
    /// What waits for one client, in messages. Beyond: the session ends.
    pub(crate) max_buffer_messages: usize,
    /// What waits for one client, in bytes. Beyond: the session ends.
    pub(crate) max_buffer_bytes: usize,
    /// Messages in the body of one POST. Beyond: none of them is taken, status 413.
    pub(crate) max_batch_messages: usize,
    /// How the key that seals tokens is derived.
    pub(crate) crypto: Crypto,
}

/// `dialect = "0.11"` of a mount: the wire of Phoenix 0.11.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Phoenix011 {
    /// `origins`: which pages may connect. Absent: all.
    pub(crate) origins: Option<Vec<OriginPattern>>,
    /// Long polling, where the mount serves it: `longpoller_window_ms` (default 10 s), `longpoller_pubsub_timeout_ms`
    /// (default 1 s), `longpoller_crypto`, and the mount's own bounds for what waits.
    pub(crate) longpoll: Option<LongPoll>,
}

/// `longpoll.crypto`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Crypto {
    /// Rounds of PBKDF2. Default 1000.
    pub(crate) iterations: u32,
    /// 16 or 32: AES-128 or AES-256. Default 32.
    pub(crate) length: usize,
    /// Default sha256.
    pub(crate) digest: Digest,
    /// Keeps the derived key. Default true.
    pub(crate) cache: bool,
}

/// The hash inside PBKDF2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Digest {
    /// SHA-256
    Sha256,
    /// SHA-384
    Sha384,
    /// SHA-512
    Sha512,
}

/// `[plugins.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plugin {
    /// The library. In `dev` built from `plugins/NAME` where absent; in `serve` required. Absolute by now.
    pub(crate) library: Option<PathBuf>,
    /// The contents that may be loaded, by their SHA-256. Absent: any.
    pub(crate) allow: Option<Arc<[ContentHash]>>,
    /// How many threads run it. Default: the number of cores, at least 2.
    pub(crate) shards: NonZeroUsize,
    /// `settings`, as JSON text; `{}` where absent.
    pub(crate) settings: Arc<str>,
    /// What happens to topics when the library is replaced. Default `migrate`.
    pub(crate) reload: Reload,
    /// What happens to a topic whose state the new code cannot take. Default `keep`.
    pub(crate) on_migrate_error: OnMigrateError,
    /// What a panic ends. Default the member.
    pub(crate) on_panic: OnPanic,
    /// How long a topic without members keeps its state. Default 10 s.
    pub(crate) linger: Duration,
    /// A topic broadcasts `presence_diff` once in this time at most; what changes meanwhile goes together. Default 100 ms.
    pub(crate) presence_interval: Duration,
    /// Clients' events that may wait for one topic. Beyond: `overloaded`. Default 1000.
    pub(crate) max_mailbox_events: usize,
    /// Payloads of these, in bytes. Beyond: `overloaded`. Default 8 MiB.
    pub(crate) max_mailbox_bytes: usize,
    /// And those for all topics of the plugin together. Default 256 MiB.
    pub(crate) max_mailbox_total_bytes: usize,
    /// Messages of plugins that may wait for one topic: intercepted broadcasts, messages to itself, kept promises.
    /// Beyond: the topic ends, or the plugin is told. Default 10_000.
    pub(crate) max_mailbox_messages: usize,
    /// Topics that the plugin may serve at a time. Beyond: joins are refused, `overloaded`. Default 100_000.
    pub(crate) max_topics: usize,
    /// Events of one member that may wait for its pending join. Beyond: `overloaded`. Default 100.
    pub(crate) max_pending_events: usize,
    /// How long a join may answer later. Default 10 s.
    pub(crate) join_deadline: Duration,
    /// Timers and delayed messages that one topic may have. Default 10_000.
    pub(crate) max_timers_per_topic: usize,
    /// Promised replies that one topic may owe. Default 10_000.
    pub(crate) max_promises_per_topic: usize,
    /// How long a replaced generation is kept for its own late work. Default 1 s.
    pub(crate) retire: Duration,
    /// Effects that one event may have, its reply not counted. Beyond: the plugin is refused more. Default 10_000.
    pub(crate) max_effects_per_event: usize,
    /// Their bytes, and those of anything else that the plugin hands over at a time. Default 64 MiB.
    pub(crate) max_effect_bytes_per_event: usize,
    /// How long a callback may take before a line of the log says so. Default 50 ms.
    pub(crate) warn: Duration,
    /// How long it may take before its shard is given up. Default 10 s.
    pub(crate) deadline: Duration,
    /// Threads of the plugin that may be stuck at a time. Beyond: a shard that is given up is not replaced. Default 8.
    pub(crate) max_stuck_threads: usize,
    /// Replaced libraries that may stay in memory; beyond, no other is loaded. Default 16.
    pub(crate) max_leaked: usize,
    /// Topics whose live state the probe tries new code on. Default 8; 0: on none.
    pub(crate) probe_topics: usize,
    /// Their states, in bytes. A topic whose own state is more than what is left is left out. Default 1 MiB.
    pub(crate) probe_bytes: usize,
    /// How long a swap waits for a topic whose handler is busy; the topic moves when that returns. Default 5 s.
    pub(crate) swap_patience: Duration,
    /// How long the probe may take, and how much memory. Default 10 s and 2 GiB.
    pub(crate) probe: ProbeLimits,
    /// How often a library is tried again whose probe somebody else has killed, or that could not be run. Default 8.
    pub(crate) probe_retries: u32,
    /// How long new code is on probation. Default 10 s; zero: not at all.
    pub(crate) probation: Duration,
    /// Panics on probation that lead back to the code before. Default 3.
    pub(crate) probation_panics: u64,
    /// Errors on probation that do: answers with the status `error`, and refused effects. Default 0: they are not counted.
    pub(crate) probation_errors: u64,
    /// What state topics go back with where the code before does not read the present one.
    pub(crate) on_rollback: OnRollback,
    /// Snapshots that are kept on probation, in bytes. Default 64 MiB.
    pub(crate) max_rollback_bytes: usize,
    /// What follows repeated panics. Default nothing.
    pub(crate) on_panics: OnPanics,
    /// How many panics within [`Plugin::panics_window`] that takes. Default 100.
    pub(crate) max_panics: usize,
    /// Default 60 s.
    pub(crate) panics_window: Duration,
}

/// What state topics go back with, where the code before does not read the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnRollback {
    /// With that at the swap. What happened since is lost.
    Snapshot,
    /// With none: members get `phx_error` and rejoin.
    Rejoin,
}

/// What follows repeated panics of a plugin that is not on probation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnPanics {
    /// Nothing more than what each of them ends.
    GoOn,
    /// The same code starts anew, without its state.
    Restart,
    /// The last good library before this one is loaded.
    RollBack,
    /// The plugin serves nobody until its library changes.
    OutOfService,
}

/// What happens to a plugin's topics when its library is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    /// State is carried over.
    Migrate,
    /// Topics stay on the old code until they are empty.
    Drain,
    /// Members get `phx_error` and rejoin.
    Rejoin,
}

/// What happens to a topic whose state the new code cannot take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnMigrateError {
    /// It stays on the old code.
    Keep,
    /// Its members get `phx_error` and rejoin on the new.
    Rejoin,
}

/// What a panic in a callback ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnPanic {
    /// The member in whose callback it happened.
    Member,
    /// All members of the topic, and its shared state.
    Topic,
}

/// `[[routes]]`: which plugin serves which topics.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Route {
    /// `room:*`
    pub(crate) topic: TopicPattern,
    /// `room`
    pub(crate) plugin: String,
    /// Absent: all.
    pub(crate) transports: Option<Vec<String>>,
    /// Absent: all. Paths of mounts.
    pub(crate) mounts: Option<Vec<String>>,
    /// A JSON object as text, handed to the plugin; `None` where absent or empty.
    pub(crate) assigns: Option<Arc<str>>,
    /// Events of which a client that has fallen behind gets the newest only.
    pub(crate) replaceable: Vec<String>,
}

impl Route {
    /// Whether a client of this `transport` and `mount` may use the route.
    #[must_use]
    pub(crate) fn is_open_to(&self, transport: &str, mount: &str) -> bool {
        let lists = |names: &Option<Vec<String>>, name: &str| {
            names.as_ref().is_none_or(|names| names.iter().any(|n| n == name))
        };
        lists(&self.transports, transport) && lists(&self.mounts, mount)
    }
}
