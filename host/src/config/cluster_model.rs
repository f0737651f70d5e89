//! `[cluster]` as values: which nodes make one server, and over which broker.

use std::path::PathBuf;
use std::time::Duration;

/// `[cluster]`. Without it, a host is alone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "cluster"),
    allow(dead_code, reason = "a build without clusters refuses it")
)]
pub(crate) struct Cluster {
    /// The NATS servers, as URLs.
    pub(crate) servers: Vec<String>,
    /// How the cluster is called: the prefix of all its subjects and buckets.
    pub(crate) name: String,
    /// How this node is called. `None`: after the host, with a random part.
    pub(crate) node: Option<String>,
    /// How a node shows the broker who it is.
    pub(crate) login: Login,
    /// Certificates of the authorities that sign the broker's. `None`: those of the system.
    pub(crate) ca_file: Option<PathBuf>,
    /// The certificate that a node shows the broker, and its private key.
    pub(crate) client_cert: Option<(PathBuf, PathBuf)>,
    /// How many partitions the topics have. The same for all nodes of a cluster, for as long as its buckets exist. Default 256.
    pub(crate) partitions: u16,
    /// How long a node that says nothing is taken to live. The same for all nodes. Default 5 s.
    pub(crate) lease: Duration,
    /// How many servers of NATS keep the buckets. Default 1.
    pub(crate) replicas: usize,
    /// How many bytes may be on their way to one other node. Default 4 MiB.
    pub(crate) max_link_bytes: usize,
    /// How many bytes may wait for all other nodes together. Beyond that, plugins wait; clients get `overloaded`. Default 64 MiB.
    pub(crate) max_queue_bytes: usize,
    /// How many bytes one message between nodes may have. Default 16 MiB.
    pub(crate) max_item_bytes: usize,
    /// How many questions may wait for other nodes, and how many of theirs this node works at. Default 100,000.
    pub(crate) max_questions: usize,
    /// How many members of other nodes may be in topics here. Default 1,000,000.
    pub(crate) max_guests: usize,
}

/// How a node shows the broker who it is. Each secret comes from its environment variable, or else from the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "cluster"),
    allow(dead_code, reason = "a build without clusters refuses it")
)]
pub(crate) enum Login {
    /// Not at all.
    #[default]
    None,
    /// By a name, and the password from `BENNU_NATS_PASSWORD`.
    User(String, Option<PathBuf>),
    /// By a token, from `BENNU_NATS_TOKEN`.
    Token(Option<PathBuf>),
    /// By the seed of an nkey, from `BENNU_NATS_NKEY`.
    Nkey(Option<PathBuf>),
    /// By a file of credentials as `nsc` writes it: a JWT and a seed.
    Credentials(PathBuf),
}
