//! The connection to NATS, and the two buckets that a cluster has there.
//!
//! `NAME-nodes` holds the lease of each node under its name; entries end by themselves after `lease_ms`. `NAME-homes` holds the home
//! of each partition, and under `meta` what all nodes have to agree on.

use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::jetstream::kv::{Config as Bucket, Store};
use async_nats::jetstream::stream::StorageType;
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, Event};
use serde::{Deserialize, Serialize};

use crate::config::trust::{Use, open_file};
use crate::config::{Cluster, Login};

/// The format of the buckets and of what nodes tell each other.
const FORMAT: u32 = 2;
/// Under which key a cluster says what it is.
const META: &str = "meta";
/// How long an answer of the broker may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);
/// No file of a secret is longer, in bytes.
const MOST_BYTES: u64 = 65_536;

/// Why a node cannot join its cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The configuration names a way to log in without its secret.
    #[error("the login at NATS has no secret: set {variable}, or name a file with `login_file` in [cluster]")]
    NoSecret {
        /// The environment variable.
        variable: &'static str,
    },
    /// The file of a secret cannot be used.
    #[error("cannot read the secret for NATS from {}", file.display())]
    Secret {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// NATS does not answer, or refuses.
    #[error("cannot reach NATS at {servers}: {why}")]
    Unreachable {
        /// Where.
        servers: String,
        /// What was heard.
        why: String,
    },
    /// NATS answers what this program does not read.
    #[error("the NATS server has version {version}: a cluster needs 2.10 or newer")]
    TooOld {
        /// Its version.
        version: String,
    },
    /// NATS answers, and has no JetStream, or no right to it.
    #[error("cannot use the bucket {bucket} of NATS: {why}. A cluster needs JetStream: start nats-server with `-js`")]
    Bucket {
        /// Which.
        bucket: String,
        /// What was heard.
        why: String,
    },
    /// The other nodes have another configuration.
    #[error("the cluster `{name}` has {key} = {theirs}, this node has {ours}: all nodes must have the same")]
    Differs {
        /// The cluster.
        name: String,
        /// The setting.
        key: &'static str,
        /// As the bucket has it.
        theirs: u64,
        /// As the configuration has it.
        ours: u64,
    },
    /// Another node is called so.
    #[error(
        "another node of the cluster is called `{node}`: choose another name with `node` in [cluster], or leave it out"
    )]
    NameTaken {
        /// The name.
        node: String,
    },
    /// A later version keeps stored topics in another way.
    #[error("the bucket {bucket} of NATS has format {found}, and this server knows format {known}: use a newer server")]
    NewerStore {
        /// Which.
        bucket: String,
        /// Its format.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// The system gives no thread.
    #[error("cannot start the threads of the cluster")]
    System(#[from] io::Error),
}

/// What all nodes of a cluster agree on.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Meta {
    format: u32,
    partitions: u16,
    lease_ms: u64,
}

/// Where the broker is, and how to log in.
#[derive(Clone)]
pub(super) struct Broker {
    config: Cluster,
    secret: String,
}

impl Broker {
    /// Reads the secret of the login.
    ///
    /// # Errors
    ///
    /// If there is none, or its file cannot be used.
    pub(super) fn new(config: &Cluster) -> Result<Self, ClusterError> {
        let secret = match &config.login {
            Login::None => String::new(),
            Login::User(_, file) => secret("BENNU_NATS_PASSWORD", file.as_deref())?,
            Login::Token(file) => secret("BENNU_NATS_TOKEN", file.as_deref())?,
            Login::Nkey(file) => secret("BENNU_NATS_NKEY", file.as_deref())?,
            Login::Credentials(file) => read(file)?,
        };
        Ok(Self {
            config: config.clone(),
            secret,
        })
    }

    /// Connects. `heard` is told what becomes of the connection, which comes back by itself from then on.
    ///
    /// # Errors
    ///
    /// If no server answers, or it refuses.
    pub(super) async fn connect(
        &self,
        name: String,
        heard: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<Client, ClusterError> {
        let unreachable = |why: String| ClusterError::Unreachable {
            servers: self.config.servers.join(", "),
            why,
        };
        let options = self.options().map_err(|error| unreachable(error.to_string()))?;
        let options = options
            .name(name)
            .request_timeout(Some(TIMEOUT))
            .connection_timeout(TIMEOUT)
            .ping_interval(self.config.lease.max(Duration::from_secs(1)))
            .reconnect_delay_callback(|attempts| Duration::from_millis((attempts as u64 * 50).min(500)))
            .event_callback(move |event| {
                heard(event);
                std::future::ready(())
            });
        let client = options.connect(&self.config.servers).await;
        let client = client.map_err(|error| unreachable(error.to_string()))?;
        if !client.is_server_compatible(2, 10, 0) {
            let version = client.server_info().version;
            return Err(ClusterError::TooOld { version });
        }
        Ok(client)
    }

    fn options(&self) -> io::Result<ConnectOptions> {
        let options = ConnectOptions::new();
        let secret = self.secret.clone();
        let mut options = match &self.config.login {
            Login::None => options,
            Login::User(user, _) => options.user_and_password(user.clone(), secret),
            Login::Token(_) => options.token(secret),
            Login::Nkey(_) => options.nkey(secret),
            Login::Credentials(_) => options.credentials(&secret)?,
        };
        if let Some(file) = &self.config.ca_file {
            options = options.add_root_certificates(file.clone());
        }
        if let Some((cert, key)) = &self.config.client_cert {
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        Ok(options)
    }

    /// How many servers of NATS keep the buckets.
    #[must_use]
    pub(super) fn replicas(&self) -> usize {
        self.config.replicas
    }

    /// The name of a bucket.
    #[must_use]
    pub(super) fn bucket(&self, what: &str) -> String {
        format!("{}-{what}", self.config.name)
    }

    /// The bucket of leases, which is made if there is none.
    ///
    /// # Errors
    ///
    /// If the broker has no room for it, or other nodes have another lease.
    pub(super) async fn nodes(&self, client: &Client) -> Result<Store, ClusterError> {
        let bucket = Bucket {
            bucket: self.bucket("nodes"),
            description: "Leases of the nodes of a Bennu cluster".to_owned(),
            history: 1,
            max_age: self.config.lease,
            storage: StorageType::Memory,
            num_replicas: self.config.replicas,
            ..Bucket::default()
        };
        let store = made(client, bucket).await?;
        let theirs = store.stream.cached_info().config.max_age;
        if theirs == self.config.lease {
            return Ok(store);
        }
        Err(self.differs("lease_ms", millis(theirs), millis(self.config.lease)))
    }

    /// The bucket of homes, which is made if there is none.
    ///
    /// # Errors
    ///
    /// As [`nodes`](Self::nodes).
    pub(super) async fn homes(&self, client: &Client) -> Result<Store, ClusterError> {
        let bucket = Bucket {
            bucket: self.bucket("homes"),
            description: "Homes of the partitions of a Bennu cluster".to_owned(),
            history: 1,
            storage: StorageType::File,
            num_replicas: self.config.replicas,
            ..Bucket::default()
        };
        let store = made(client, bucket).await?;
        let ours = Meta {
            format: FORMAT,
            partitions: self.config.partitions,
            lease_ms: millis(self.config.lease),
        };
        let text = serde_json::to_vec(&ours).expect("a struct of numbers is JSON");
        // Whoever comes first decides.
        let _ = store.create(META, text.into()).await;
        let unusable = |why: String| ClusterError::Bucket {
            bucket: self.bucket("homes"),
            why,
        };
        let found = store.get(META).await.map_err(|error| unusable(error.to_string()))?;
        let theirs: Option<Meta> = found.and_then(|found| serde_json::from_slice(&found).ok());
        let theirs = theirs.ok_or_else(|| unusable("its `meta` cannot be read".to_owned()))?;
        for (key, theirs, ours) in [
            ("format", u64::from(theirs.format), u64::from(ours.format)),
            ("partitions", u64::from(theirs.partitions), u64::from(ours.partitions)),
            ("lease_ms", theirs.lease_ms, ours.lease_ms),
        ] {
            if theirs != ours {
                return Err(self.differs(key, theirs, ours));
            }
        }
        Ok(store)
    }

    fn differs(&self, key: &'static str, theirs: u64, ours: u64) -> ClusterError {
        let name = self.config.name.clone();
        ClusterError::Differs {
            name,
            key,
            theirs,
            ours,
        }
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The key of a partition.
#[must_use]
pub(super) fn key(partition: u16) -> String {
    format!("p.{partition}")
}

/// The partition of a key, of so many.
#[must_use]
pub(super) fn partition(key: &str, partitions: u16) -> Option<u16> {
    let number = key.strip_prefix("p.")?.parse().ok()?;
    (number < partitions).then_some(number)
}

/// The bucket as it is, or as it is made now.
async fn made(client: &Client, bucket: Bucket) -> Result<Store, ClusterError> {
    let mut context: Context = jetstream::new(client.clone());
    context.set_timeout(TIMEOUT);
    let name = bucket.bucket.clone();
    if let Ok(store) = context.get_key_value(&name).await {
        return Ok(store);
    }
    let made = match context.create_key_value(bucket).await {
        Ok(store) => Ok(store),
        // Another node may have been faster.
        Err(error) => context.get_key_value(&name).await.map_err(|_| error.to_string()),
    };
    made.map_err(|why| ClusterError::Bucket { bucket: name, why })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn secret(variable: &'static str, file: Option<&Path>) -> Result<String, ClusterError> {
    // Many tools set an empty variable for one that is not set.
    let from_environment = std::env::var(variable).ok().filter(|secret| !secret.trim().is_empty());
    match (from_environment, file) {
        (Some(secret), _) => Ok(secret.trim().to_owned()),
        (None, Some(file)) => Ok(read(file)?.trim().to_owned()),
        (None, None) => Err(ClusterError::NoSecret { variable }),
    }
}

fn read(file: &Path) -> Result<String, ClusterError> {
    let read = || {
        let mut text = String::new();
        open_file(file, Use::Nats)?.take(MOST_BYTES).read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(|source| ClusterError::Secret {
        file: file.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_has_a_key_and_no_other_key_has_one() {
        assert_eq!(partition(&key(17), 256), Some(17));
        for other in ["meta", "p.", "p.256", "p.-1", "q.1"] {
            assert_eq!(partition(other, 256), None, "{other}");
        }
    }
}
