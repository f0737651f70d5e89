//! A node: its folder, and the server while it runs.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client as Http;
use hyper_util::rt::TokioExecutor;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::plan::Plan;
use super::world::{RunId, RunState, World};
use crate::torture::libraries::PLUGIN;
use crate::torture::server::{SECRET, START, Server, ServerError, bennu, folder, library_name};

/// How long a node may take to hand over its topics and to stop.
pub(super) const STOPPING: Duration = Duration::from_secs(40);
/// How long its admin pages may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How many partitions there are.
const PARTITIONS: usize = 64;

/// What is the same for all nodes.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) plan: Plan,
    pub(super) library: Vec<u8>,
    pub(super) secret: String,
    pub(super) broker: String,
    pub(super) world: Arc<World>,
}

/// A node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    folder: Arc<TempDir>,
    server: Option<Server>,
    admin: SocketAddr,
    run: RunId,
}

impl Node {
    /// Starts a node for the first time.
    pub(super) async fn start(common: &Common, number: usize) -> Result<Self, ServerError> {
        let name = format!("n{number}");
        let folder = folder(&configuration(common, &name), &common.library)?;
        let (server, admin) = serve(common, &name, &folder).await?;
        let run = common.world.started(server.address);
        Ok(Self {
            name,
            folder,
            server: Some(server),
            admin,
            run,
        })
    }

    /// Starts it again after its end.
    pub(super) async fn start_again(&mut self, common: &Common) -> Result<(), ServerError> {
        let (server, admin) = serve(common, &self.name, &self.folder).await?;
        self.run = common.world.started(server.address);
        (self.server, self.admin) = (Some(server), admin);
        Ok(())
    }

    /// Stops it as an operator does. Says what is wrong with the way in which it ended, if anything is.
    pub(super) async fn stop(&mut self, world: &World) -> Result<Option<String>, ServerError> {
        let Some(server) = self.server.take() else {
            return Ok(None);
        };
        world.set(self.run, RunState::Stops);
        server.signal(Signal::TERM)?;
        Ok(match server.ended(STOPPING).await {
            Ok(status) if status.success() => None,
            Ok(status) => Some(format!("{} ended with {status}", self.name)),
            Err(ServerError::Silent(_)) => Some(format!("{} did not end within {STOPPING:?}", self.name)),
            Err(error) => return Err(error),
        })
    }

    /// Kills it.
    pub(super) fn kill(&mut self, world: &World) {
        world.set(self.run, RunState::Killed);
        if let Some(server) = self.server.take() {
            server.kill();
        }
    }

    /// Has it stand still, or go on.
    pub(super) fn freeze(&self, world: &World, is_frozen: bool) -> io::Result<()> {
        let (state, signal) = match is_frozen {
            true => (RunState::Frozen, Signal::STOP),
            false => (RunState::Serves, Signal::CONT),
        };
        if is_frozen {
            world.set(self.run, state);
        } else {
            world.woken(self.run);
        }
        { self.server.as_ref() }.map_or(Ok(()), |server| server.signal(signal))?;
        world.set(self.run, state);
        Ok(())
    }

    /// Whether it runs.
    pub(super) fn runs(&self) -> bool {
        self.server.is_some()
    }

    /// Fails if it has ended by itself.
    pub(super) async fn still_runs(&mut self) -> Result<(), ServerError> {
        let Some(server) = &mut self.server else { return Ok(()) };
        loop {
            match server.next_event(Duration::ZERO).await {
                Ok(_) => {}
                Err(ServerError::Silent(_)) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// How the cluster looks from here.
    pub(super) async fn report(&self) -> Option<Value> {
        self.get("/cluster").await
    }

    /// The home of a topic as this node sees it.
    pub(super) async fn home(&self, topic: &str) -> Option<String> {
        let found = self.get(&format!("/cluster/{topic}")).await?;
        found["home"].as_str().map(str::to_owned)
    }

    async fn get(&self, path: &str) -> Option<Value> {
        let uri = format!("http://{}{path}", self.admin).parse().ok()?;
        let http: Http<_, Empty<Bytes>> = Http::builder(TokioExecutor::new()).build_http();
        let answer = async {
            let response = http.get(uri).await.ok()?;
            let body = response.into_body().collect().await.ok()?.to_bytes();
            serde_json::from_slice(&body).ok()
        };
        tokio::time::timeout(ANSWER, answer).await.ok()?
    }
}

async fn serve(common: &Common, name: &str, folder: &Arc<TempDir>) -> Result<(Server, SocketAddr), ServerError> {
    let mut command = bennu("serve")?;
    command.env(SECRET, &common.secret).env_remove("BENNU_LOG");
    let log = { common.plan.logs.as_ref() }.map(|logs| {
        fs::create_dir_all(logs)?;
        File::options()
            .create(true)
            .append(true)
            .open(logs.join(format!("{name}.log")))
    });
    let log = log.transpose()?;
    // If it was killed, it waits until its lease has ended.
    let patience = START + common.plan.lease * 2;
    let mut server = Server::spawn(Arc::clone(folder), command, patience, log.as_ref()).await?;
    let admin = server.admin().await?;
    Ok((server, admin))
}

fn configuration(common: &Common, name: &str) -> String {
    let Common { plan, broker, .. } = common;
    let (connections, shards, lease_ms) = (4 * plan.clients + 100, plan.shards, plan.lease.as_millis());
    let library = library_name();
    // Nobody is to be closed because the machine is busy, and no topic is to end because its members are away.
    format!(
        "[server]\n\
         listen = \"127.0.0.1:0\"\n\
         stage_dir = \"stage\"\n\
         state_dir = \"state\"\n\
         drain_batch_interval_ms = 1\n\
         shutdown_timeout_ms = 30_000\n\
         [admin]\n\
         listen = \"127.0.0.1:0\"\n\
         [log]\n\
         level = \"info,bennu::server::endpoint=warn\"\n\
         [limits]\n\
         max_connections = {connections}\n\
         idle_timeout_ms = 300_000\n\
         [cluster]\n\
         servers = [\"{broker}\"]\n\
         name = \"torture\"\n\
         node = \"{name}\"\n\
         partitions = {PARTITIONS}\n\
         lease_ms = {lease_ms}\n\
         [[mounts]]\n\
         path = \"/socket\"\n\
         longpoll = {{ pubsub_timeout_ms = 120_000 }}\n\
         [plugins.{PLUGIN}]\n\
         library = \"{library}\"\n\
         shards = {shards}\n\
         linger_ms = 600_000\n\
         settings = {{ keep = {KEEP} }}\n\
         [[routes]]\n\
         topic = \"{PLUGIN}:*\"\n\
         plugin = \"{PLUGIN}\"\n"
    )
}

/// How many entries of a topic the plugin shows: more than come while nobody hears of them.
const KEEP: usize = 500;
