//! The settings as values: read, checked, complete. `config/bennu.toml` describes each of them for operators.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bennu_wire::dialect::Dialect;
use bennu_wire::pattern::TopicPattern;
use bennu_wire::serializer::Serializers;

pub(crate) use super::api_model::{Api, ApiKey, Scope};
use super::auth_settings::Auth;
pub(crate) use super::cluster_model::Cluster;
use super::diagnostic::{Diagnostic, Source};
use super::listening::{Listener, Proxies, Tls};
pub(crate) use super::plugin_model::{Durability, OnMigrateError, OnPanic, OnPanics, OnRollback, Plugin, Reload};
use super::rates_model::{AddressLimits, ClientLimits, Exempt, Paces};
use super::telemetry_model::Telemetry;

/// What the configuration is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `bennu dev`: the admin listener is on, pages from this machine may connect, and no plugin needs a library.
    Dev,
    /// `bennu serve`.
    Serve,
}

/// A whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Its file, as it was named.
    pub(crate) file: PathBuf,
    /// `[server]`
    pub(crate) server: Server,
    /// `[[listeners]]`, in file order.
    pub(crate) listeners: Vec<Listener>,
    /// `[tls]`
    pub(crate) tls: Tls,
    /// `[proxies]`
    pub(crate) proxies: Proxies,
    /// `[admin]`
    pub(crate) admin: Admin,
    /// `[api]`
    pub(crate) api: Api,
    /// `[log]`
    pub(crate) log: Log,
    /// `[limits]`
    pub(crate) limits: Limits,
    /// `[cluster]`
    pub(crate) cluster: Option<Cluster>,
    /// `[telemetry]`
    pub(crate) telemetry: Option<Telemetry>,
    /// `[store]`
    pub(crate) store: Store,
    /// `[[mounts]]`, in file order.
    pub(crate) mounts: Vec<Arc<Mount>>,
    /// `[plugins.NAME]`
    pub(crate) plugins: BTreeMap<String, Plugin>,
    /// `[[routes]]`, in file order.
    pub(crate) routes: Vec<Arc<Route>>,
    /// Where clients connect instead of at [`Server::listen`]: from the command line.
    pub(crate) listen_instead: Option<SocketAddr>,
    /// The program `bennu` that probes libraries. `None`: this program itself. For programs that embed the server.
    pub(crate) program: Option<PathBuf>,
    /// Warnings about the file.
    pub(crate) warnings: Vec<Diagnostic>,
    /// The file that it was read from, from the root on. `None`: a program passed the text in.
    pub(crate) path: Option<PathBuf>,
    /// The text that was read, to show the place of mistakes that are found later.
    pub(super) source: Arc<Source>,
}

/// `[server]`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Server {
    /// Where clients connect. Default 127.0.0.1:4000. `None`: only at [`Config::listeners`].
    pub(crate) listen: Option<SocketAddr>,
    /// Whether the file names it. If not, `dev` takes the next free port.
    pub(crate) names_listen: bool,
    /// The host that `check_origin = true` compares with. Default `localhost`.
    pub(crate) url_host: String,
    /// How many I/O threads own connections. Default: one per core.
    pub(crate) io_threads: NonZeroUsize,
    /// Whether I/O threads write to many connections with one system call through io_uring, if the system has it. Default true.
    pub(crate) io_uring: bool,
    /// How many unsent bytes the kernel may hold for one client. More wait in the host. Default 131,072.
    pub(crate) notsent_lowat_bytes: usize,
    /// The file that holds the secret, if `BENNU_SECRET_KEY_BASE` is not set. Absolute by now.
    pub(crate) secret_key_base_file: Option<PathBuf>,
    /// Where Bennu makes the folder that it copies libraries into. Default: the temporary folder.
    pub(crate) stage_dir: Option<PathBuf>,
    /// The folder of files that outlive the process. Default: `.bennu` next to the configuration.
    pub(crate) state_dir: PathBuf,
    /// How many contents stay in quarantine. Beyond that, Bennu forgets the oldest. Default 1000.
    pub(crate) max_quarantined: usize,
    /// How many good libraries Bennu keeps per plugin. Default 2.
    pub(crate) max_kept_libraries: usize,
    /// How many bytes each thread reserves for static thread-locals of libraries. Beyond that, Bennu rejects such a library. Default
    /// 64 KiB.
    pub(crate) static_tls_bytes: u64,
    /// How many connections a shutdown closes at a time. Default 10,000.
    pub(crate) drain_batch_size: usize,
    /// How long until it closes the next batch. Default 2 s.
    pub(crate) drain_batch_interval: Duration,
    /// How long a shutdown may take. After that, Bennu cuts off the connections that are left. Default 30 s.
    pub(crate) shutdown_timeout: Duration,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Admin {
    /// Where Bennu serves `/health`, `/ready`, `/metrics` and `/plugins`. Default: off in `serve`, 127.0.0.1:4001 in `dev`.
    pub(crate) listen: Option<SocketAddr>,
    /// Whether the file names it. If not, `dev` takes the next free port.
    pub(crate) names_listen: bool,
    /// More host names under which the admin listener and the page of `dev` may be reached, in lower case. Default: none.
    pub(crate) hosts: Vec<String>,
    /// Connections at a time. Beyond that, Bennu closes new ones at once. Default 64.
    pub(crate) max_connections: usize,
    /// How many closed and refused clients `/closes` remembers. Beyond: it forgets the oldest. Default 1,000.
    pub(crate) max_closes: usize,
    /// How many browsers may be logged in to the dashboard. Beyond: the session ends that was not used for longest. Default 32.
    pub(crate) max_sessions: usize,
    /// How long a session of a browser lasts. Default 12 h.
    pub(crate) session_timeout: Duration,
    /// How many wrong secrets an address may send in a minute. Beyond: 429, whatever it sends. Default 10.
    pub(crate) max_wrong_secrets: usize,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Log {
    /// A level or directives such as `info,bennu::runtime::plugin=debug`. Valid by now. Default `info`.
    pub(crate) level: String,
    /// How `serve` writes the log. Default: text.
    pub(crate) format: LogFormat,
    /// The log shows `[FILTERED]` for params whose name contains one of these, besides those of
    /// [`is_secret_name`](super::sensitive::is_secret_name).
    pub(crate) filter_params: Vec<String>,
    /// Bytes of the log that may wait to be written. Beyond: lines are dropped and counted. Default 1 MiB.
    pub(crate) max_queue_bytes: usize,
    /// How much of the log clients can cause.
    pub(crate) lines: LineLimits,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// A line of text for each event.
    #[default]
    Text,
    /// A JSON object on a line of its own for each event.
    Json,
}

/// The limits of lines that clients cause, for each kind of line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LineLimits {
    /// Lines that one client may cause at once. Beyond: counted, and said by the next line. Default 10.
    pub(crate) burst: u32,
    /// How long it then takes until there may be another one. Default 1 s.
    pub(crate) pause: Duration,
    /// Addresses that are told apart, over all kinds. Beyond: they share one. Default 1024.
    pub(crate) sources: usize,
}

/// `[limits]`: limits of the server, as opposed to those of a plugin or a mount.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Limits {
    /// Connections in total, over all transports. Beyond that: HTTP 503. Default 10,000.
    pub(crate) max_connections: usize,
    /// The size of one message from a client. Beyond that: close code 1009, or status 413 over long polling. Default 1 MiB.
    pub(crate) max_message_bytes: usize,
    /// How much may wait to be written to one client. Beyond that, Bennu closes the connection with 1013. Default 4 MiB.
    pub(crate) max_outbound_bytes: usize,
    /// The same for all clients together. Beyond that, Bennu drops the clients for whom most is waiting. Default 256 MiB.
    pub(crate) max_outbound_total_bytes: usize,
    /// How much all clients together may have sent of messages and request bodies that are not complete. Beyond that, Bennu closes
    /// the connections that sent most of them with 1013, or answers 503. Default: see `bennu.toml`.
    pub(crate) max_inbound_total_bytes: usize,
    /// The length of a topic's name. Beyond that, its join gets an error. Default 1,024.
    pub(crate) max_topic_bytes: usize,
    /// How much may wait for one I/O thread. Beyond that, plugins that send more wait. Default 16 MiB.
    pub(crate) max_inbox_bytes: usize,
    /// The size of the head of an HTTP request. Beyond that: HTTP 431. Default 16 KiB.
    pub(crate) max_header_bytes: usize,
    /// How long the head of a request may take, and how long its body. Default 10 s.
    pub(crate) header_timeout: Duration,
    /// How many connections whose token has expired Bennu closes in a second. The others wait their turn. Default 1,000.
    pub(crate) max_expired_per_s: usize,
    /// How long an HTTP connection may wait for its next request. Beyond: closed. Default 75 s.
    pub(crate) keep_alive_timeout: Duration,
    /// How long a connect handler may take. After that: HTTP 503, or status 403 over long polling. Default 10 s.
    pub(crate) connect_timeout: Duration,
    /// How long a client may send nothing (after that: close code 1002), or take nothing of what waits for it (after that, Bennu
    /// cuts it off). Default 90 s.
    pub(crate) idle_timeout: Duration,
    /// How long a WebSocket message may take from its first byte to its last. After that: close code 1002.
    pub(crate) message_timeout: Duration,
    /// How long a client may take nothing of an HTTP response. After that, Bennu cuts the connection off.
    pub(crate) response_timeout: Duration,
    /// How long the client of a closed connection may read nothing of what still waits for it. After that, Bennu cuts it off.
    /// Default 2 s.
    pub(crate) close_timeout: Duration,
    /// Whom the limits by address and by client do not concern. Default: this machine.
    pub(crate) exempt: Exempt,
    /// Limits by address.
    pub(crate) address: AddressLimits,
    /// Limits by client.
    pub(crate) client: ClientLimits,
}

/// `[store]`: where topics are kept that outlive the process, if a plugin has any.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Store {
    /// How many bytes they may take on the disk. Beyond that, Bennu stores no more. Default 10 GiB.
    pub(crate) max_bytes: u64,
    /// How many bytes may wait to be written. Beyond that, plugins with stored topics wait. Default 64 MiB.
    pub(crate) max_queue_bytes: usize,
}

/// `[[mounts]]`: where clients connect.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mount {
    /// `/socket` serves `/socket/websocket` and `/socket/longpoll`; with [`Mount::phoenix_0_11`] also `/socket` and `/socket/poll`.
    pub(crate) path: String,
    /// The plugin whose connect handler decides who may connect. `None`: everyone may.
    pub(crate) connect: Option<String>,
    /// Which pages may connect.
    pub(crate) check_origin: CheckOrigin,
    /// Whether Bennu takes a token from a header, for [`Mount::auth`] or for the connect handler. Default false.
    pub(crate) auth_token: bool,
    /// Who may connect, by the token that a client shows. `None`: Bennu checks no token.
    pub(crate) auth: Option<Auth>,
    /// The WebSocket subprotocols that the mount speaks, the best first. Empty: Bennu ignores what clients offer.
    pub(crate) subprotocols: Vec<String>,
    /// What the connect handler sees besides the params.
    pub(crate) connect_info: ConnectInfo,
    /// Whether the mount serves WebSocket. Default true.
    pub(crate) websocket: bool,
    /// Whether WebSocket messages may be compressed, for clients that offer it. Default false.
    pub(crate) deflate: bool,
    /// Whether the path itself is a WebSocket that echoes every message, for conformance suites. Default false.
    pub(crate) echo: bool,
    /// Long polling; `None`: off.
    pub(crate) longpoll: Option<LongPoll>,
    /// The dialect of Phoenix 0.11; `None`: off.
    pub(crate) phoenix_0_11: Option<Phoenix011>,
    /// What the mount has for clients of Supabase; `None`: it speaks another dialect.
    pub(crate) supabase: Option<Supabase>,
    /// The protocol versions that clients may ask for, as the dialect writes them. Default: all.
    pub(crate) serializers: Serializers,
    /// How many topics one client may have joined at a time. Beyond that, Bennu refuses joins. Default 100, as in Phoenix.
    pub(crate) max_channels_per_socket: usize,
}

impl Mount {
    /// Long polling for clients of this dialect, if the mount serves it.
    #[must_use]
    pub(crate) fn longpoll_of(&self, dialect: Dialect) -> Option<&LongPoll> {
        match dialect {
            Dialect::Modern => self.longpoll.as_ref(),
            Dialect::Phoenix011 => self.phoenix_0_11.as_ref()?.longpoll.as_ref(),
            Dialect::Supabase => None,
        }
    }

    /// Whether clients of this dialect may connect here.
    #[must_use]
    pub(crate) fn speaks(&self, dialect: Dialect) -> bool {
        match dialect {
            Dialect::Modern => self.supabase.is_none(),
            Dialect::Phoenix011 => self.phoenix_0_11.is_some(),
            Dialect::Supabase => self.supabase.is_some(),
        }
    }
}

/// What a connect handler sees of a request besides its params: `connect_info`, `headers` and `connect_static` of a mount.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ConnectInfo {
    /// The client's address and port.
    pub(crate) peer: bool,
    /// Scheme, host, port, path and query of the request.
    pub(crate) uri: bool,
    /// Names of headers, in lower case; `x-*` means all with that prefix.
    pub(crate) headers: Vec<String>,
    /// `connect_static`: a JSON object as text; `None` if it is missing or empty.
    pub(crate) static_pairs: Option<Arc<str>>,
}

/// Which pages may connect, by their `Origin`. A request without one always may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CheckOrigin {
    /// All.
    Off,
    /// Pages whose host is one of these: [`Server::url_host`], and in `dev` localhost and 127.0.0.1.
    Hosts(Vec<String>),
    /// Pages that match an entry.
    List(Vec<OriginPattern>),
    /// Pages with the scheme, host and port of the request itself.
    Conn,
    /// Pages that this plugin accepts.
    Plugin(String),
}

/// An entry of `check_origin`: `https://h`, `https://h:p`, `//h`, `//h:p`, `//*.h`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OriginPattern {
    /// `https`, or any.
    pub(crate) scheme: Option<String>,
    /// `example.com`, in lower case.
    pub(crate) host: String,
    /// Whether subdomains match, too, at any depth.
    pub(crate) subdomains: bool,
    /// The port. If only a scheme is given, its default port. `None`: any.
    pub(crate) port: Option<u16>,
}

/// `longpoll = { … }` of a mount.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LongPoll {
    /// How long a poll waits for messages before it returns empty. Default 10 s.
    pub(crate) window: Duration,
    /// How long a POST waits for the thread that owns its session. After that: status 408. Default 2 s.
    pub(crate) pubsub_timeout: Duration,
    /// How many messages may wait for a client between two polls. Beyond that, the session ends. Default 10,000.
    pub(crate) max_buffer_messages: usize,
    /// The same in bytes. Default 4 MiB.
    pub(crate) max_buffer_bytes: usize,
    /// How many messages one POST may bring. Beyond that, Bennu takes none: status 413. Default 10,000.
    pub(crate) max_batch_messages: usize,
    /// How Bennu derives the key that seals tokens.
    pub(crate) crypto: Crypto,
}

/// `dialect = "0.11"` of a mount.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Phoenix011 {
    /// `origins`: which pages may connect. `None`: all.
    pub(crate) origins: Option<Vec<OriginPattern>>,
    /// Long polling, if the mount serves it: `longpoller_window_ms` (default 10 s), `longpoller_pubsub_timeout_ms` (default 1 s),
    /// `longpoller_crypto`, and the buffer limits of the mount's `longpoll`.
    pub(crate) longpoll: Option<LongPoll>,
}

/// `dialect = "supabase"` of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Supabase {
    /// How many messages one request to `/api/broadcast` may bring. Beyond that, Bennu sends none: status 413. Default 100.
    pub(crate) max_broadcast_messages: usize,
}

/// `longpoll.crypto`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Crypto {
    /// Iterations of PBKDF2. Default 1,000, at most 1,000,000; at most 10,000 if `cache` is off.
    pub(crate) iterations: u32,
    /// 16 or 32: AES-128 or AES-256. Default 32.
    pub(crate) length: usize,
    /// Default sha256.
    pub(crate) digest: Digest,
    /// Whether Bennu keeps the derived key in memory. Default true.
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

/// `[[routes]]`: which plugin serves which topics.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Route {
    /// Such as `room:*`.
    pub(crate) topic: TopicPattern,
    /// Such as `room`.
    pub(crate) plugin: String,
    /// The transports that may use the route. `None`: all.
    pub(crate) transports: Option<Vec<String>>,
    /// The paths of the mounts that may. `None`: all.
    pub(crate) mounts: Option<Vec<String>>,
    /// A JSON object as text, passed to the plugin at each join; `None` if it is missing or empty.
    pub(crate) assigns: Option<Arc<str>>,
    /// Events of which a client that reads too slowly gets only the newest.
    pub(crate) replaceable: Vec<String>,
    /// What all clients together may send to it. Beyond: `rate limited`. Default: any.
    pub(crate) limits: Paces,
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
