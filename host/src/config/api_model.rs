//! The settings of the API for backends.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bennu_wire::pattern::TopicPattern;

/// `[api]`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Api {
    /// Where backends send their requests. Default: off in `serve`, 127.0.0.1:4002 in `dev`.
    pub(crate) listen: Option<SocketAddr>,
    /// Whether the file names it. If not, `dev` takes the next free port.
    pub(crate) names_listen: bool,
    /// More host names under which backends may reach it, in lower case. Default: none.
    pub(crate) hosts: Vec<String>,
    /// `[[api.keys]]`, in file order.
    pub(crate) keys: Arc<[Arc<ApiKey>]>,
    /// Connections at a time. Beyond that, Bennu closes new ones at once. Default 256.
    pub(crate) max_connections: usize,
    /// Requests at a time, besides calls. Beyond that: status 503. Default 64.
    pub(crate) max_concurrent: usize,
    /// Calls at a time. Beyond that: status 503. Default 64.
    pub(crate) max_calls: usize,
    /// The size of a request's head. Beyond that: status 431. Default 16 KiB.
    pub(crate) max_header_bytes: usize,
    /// The size of a request's body. Beyond that: status 413. Default 8 MiB.
    pub(crate) max_body_bytes: usize,
    /// The size of one payload. Beyond that, the message gets `too_large`. Default 1 MiB.
    pub(crate) max_payload_bytes: usize,
    /// Messages of one request. Beyond that: status 413, and none of them is sent. Default 1,000.
    pub(crate) max_list: usize,
    /// Entries of one page. A request for more gets this many. Default 1,000.
    pub(crate) max_page: usize,
    /// How many bytes an answer to a read may have. Default 8 MiB.
    pub(crate) max_answer_bytes: usize,
    /// How long the head of a request may take, the first from the start of its connection. After that, Bennu closes it. Default 10 s.
    pub(crate) header_timeout: Duration,
    /// How long a connection may wait for its next request. After that, Bennu closes it. Default 60 s.
    pub(crate) idle_timeout: Duration,
    /// How long a request's body may take. After that: status 408. Default 10 s.
    pub(crate) body_timeout: Duration,
    /// How long a client may take nothing of a response. After that, Bennu cuts the connection off. Default 10 s.
    pub(crate) response_timeout: Duration,
    /// How long I/O threads have to say who heard a message. After that, `heard` is null. Default 2 s.
    pub(crate) heard_timeout: Duration,
    /// The deadline of a call that names none. Default 5 s.
    pub(crate) call_deadline: Duration,
    /// The longest deadline that a call may name. Default 60 s.
    pub(crate) max_call_deadline: Duration,
    /// The longest time that a socket id may be refused. Default 24 hours.
    pub(crate) max_refuse: Duration,
    /// How many socket ids may be refused at a time. Beyond that: status 503, and nobody is disconnected. Default 10,000.
    pub(crate) max_refused_ids: usize,
    /// How long the answer to an `Idempotency-Key` is remembered. Default 1 hour.
    pub(crate) idempotency: Duration,
    /// How many of these answers are remembered. Beyond that, Bennu forgets the oldest. Default 10,000.
    pub(crate) max_idempotency_keys: usize,
    /// The same in bytes. Default 16 MiB.
    pub(crate) max_idempotency_bytes: usize,
}

/// `[[api.keys]]`: a bearer secret, and what it allows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApiKey {
    /// Its name, in logs and in the environment variable.
    pub(crate) name: String,
    /// The file that holds the secret, if the environment does not. Absolute by now.
    pub(crate) secret_file: Option<PathBuf>,
    /// The verbs that it may use.
    pub(crate) allow: Vec<Scope>,
    /// The topics and socket ids that it may name.
    pub(crate) topics: Vec<TopicPattern>,
}

/// A group of requests that a key may be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    /// To publish messages.
    Broadcast,
    /// To ask a topic's plugin.
    Call,
    /// To close connections.
    Disconnect,
    /// To list topics, presences and connections.
    Read,
}

impl Scope {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Broadcast, Self::Call, Self::Disconnect, Self::Read];

    /// Its word in the configuration.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Broadcast => "broadcast",
            Self::Call => "call",
            Self::Disconnect => "disconnect",
            Self::Read => "read",
        }
    }
}

impl ApiKey {
    /// The environment variable that holds its secret, if one does.
    #[must_use]
    pub(crate) fn variable(&self) -> String {
        format!("BENNU_API_KEY_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// Whether it may use these verbs.
    #[must_use]
    pub(crate) fn allows(&self, scope: Scope) -> bool {
        self.allow.contains(&scope)
    }

    /// Whether it may name this topic or socket id.
    #[must_use]
    pub(crate) fn may_name(&self, topic: &str) -> bool {
        self.topics.iter().any(|pattern| pattern.matches(topic))
    }
}
